# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How large must a patch be to be worth skipping?
# *65 min reading · 75 min exercises · needs [Sparse convolution](sparse_conv.ipynb) (first sitting), [Gradients](../training/gradients.ipynb) · CPU, under 60 s; GPU optional*
#
# A network may skip single pixels, or squares of pixels, or whole layers. This chapter builds one knob for all three,
# lets a network learn what to skip, and asks the machine how to set the knob. Its terms, set in *italics* where they
# first appear, stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *build* a block that decides, cell by cell, what to compute, and *prove* that skipping leaves its answer alone;
# - *train* such decisions to a budget, and *explain* why some end up as whole layers unless something forbids it;
# - *predict* the time of a block from the description of a device, and say where the saved work went;
# - *choose* the size of the cells for a device, stage by stage;
# - *judge* a predictor by a measurement of your own.

# %%
from functools import partial
from itertools import product
from math import ceil, inf

import ipywidgets
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import nn

import course_lib
from course_lib import bench, data, measure, plots
from course_lib.spatial import lasnet
from course_lib.spatial.lasnet import DEVICES, HardwareSpec, LASNet

plots.use_style()
course_lib.seed_everything(0)
device = course_lib.device()

# %% [markdown]
# ## The question
#
# Take a residual block of ResNet-50, 256 channels wide, on maps of 56x56, and an older data-centre GPU, the V100. The
# authors of LASNet {cite}`han2022lasnet` published formulas that predict how long the block takes there for a batch of
# 128. The cell asks them three times: everything computed; three quarters of the *pixels* skipped; three quarters
# skipped in squares of 8x8 pixels.

# %%
v100, tx2 = DEVICES["V100"], DEVICES["Jetson TX2"]
block = {"channels": 256, "width": 64, "size": 56}
static = lasnet.predict_block(v100, **block)
print(f"everything: {1e3 * static:.2f} ms")
for cell in (1, 8):
    sparse = lasnet.predict_block(v100, granularity=cell, rate=0.25, **block)
    print(f"a quarter of the cells of {cell}x{cell}: {sparse / static:.3f} of that")

# %% [markdown]
# A quarter of the positions takes 1.045 times *as long* as all of them, if they come as pixels. The same share in
# squares of 8 takes 0.603. These are predictions, not measurements, and we shall hold such predictions against a clock
# further down. But suppose they are right: three quarters of the positions are gone, more than half of the
# multiply-adds with them, and the time is still there. **Before you read on, say where it went**, and how large you
# would make the squares.
#
# ## A block that asks first
#
# The idea of *spatially adaptive* computation is old enough to have several names (the survey {cite}`han2021dynamic`
# sorts them), and the chapter on [sparse convolution](sparse_conv.ipynb) gave you the operator. What is new here is the
# *granularity* $S$: the decision is made for cells of $S \times S$ output positions, all or none. With $S = 1$ pixels
# are skipped, with $S$ as large as the map whole layers, and everything between is one turn of the knob.
#
# The *masker* that decides is as small as can be. It averages its block's input over each cell, and a 1x1 convolution
# turns the average into two logits, "compute" and "skip". To have something to look at, we need a trained network and a
# task. The task: grey noise, 32x32 pixels, with one of four bright *glyphs* at a random place. The training is
# explained later; it takes a few seconds.

# %%
task = {name: data.glyphs(4000, seed=s) for name, s in (("train", 1), ("test", 2))}
inputs = {name: (t.images - 0.5) * 2 for name, t in task.items()}
seeing = LASNet.tiny(blocks=2, granularity=4, target_rate=0.35).to(device)
log = lasnet.fit(
    seeing, inputs["train"], task["train"].labels, budget="block", lr=1e-2, seed=0
)
print("loss fell by more than half:", log.losses[-1] < 0.5 * log.losses[0])

# %% [markdown]
# Its two blocks work on maps of 16x16 positions with 16 channels, in cells of 4x4, so a mask has 16 entries. Here is
# what the first masker does, written out: pool, convolve, compare, repeat each entry, and mark whatever a 3x3
# convolution would look at from there.

# %%
test, x = task["test"], inputs["test"].to(device)
first = seeing.blocks[0]
with torch.inference_mode():
    features = seeing.stem(x)
    logits = first.masker.conv(F.avg_pool2d(features, 4))
    active = logits[:, :1] >= logits[:, 1:]  # (N, 1, 4, 4); a tie is computed
    whole = active.repeat_interleave(4, 2).repeat_interleave(4, 3)
    halo = F.max_pool2d(whole.float(), 3, stride=1, padding=1) > 0
    answer = seeing(x)
agreement = (active.float() == answer.masks[0]).double().mean()
assert agreement > 0.9999  # a logit within a rounding of 0 may fall either way
print("logits:", tuple(logits.shape), "positions:", tuple(whole.shape))

# %% [markdown]
# The assertion says that the library's masker decides the same on the 4000 test pictures. The figure follows one of
# them from left to right.

# %% mystnb={"image": {"alt": "Four panels. A noisy picture with a bright glyph under a grid of 4x4 cells, each with a signed number, positive at three cells of the glyph and negative elsewhere. The mask of the cells, three of them 1, the rest pale and hatched. The same at 16x16 positions. The same with a dotted ring of one position around the active ones."}}
covered = test.overlap(4).to(device) > 0  # cells that the glyph touches
only_there = ~(active[:, 0] & ~covered).flatten(1).any(1)
shown = int((only_there & (active.sum((1, 2, 3)) == 3)).nonzero()[0])
difference = (logits[shown, 0] - logits[shown, 1]).cpu()
_ = plots.patch_decision(test.images[shown], difference, halo[shown, 0].cpu(), 4)
plt.show()

# %% [markdown]
# Only the *difference* of the two logits matters, and it is what the first panel shows. Where it is not negative, the
# cell is active. The third panel is the mask at full resolution: each entry repeated, never interpolated, because half
# a decision is no decision. The fourth shows the *halo*, which the chapter on sparse convolution made a point of: the
# 3x3 convolution of an active position looks one step beyond the cell, so the 1x1 convolution *before* it has more to
# do than the mask says. Large cells have little rim for their area. That is a first reason for them.
#
# ## Dense to train, sparse to run
#
# While training, everything is computed and the branch is multiplied by the mask,
#
# $$
# y = \mathrm{ReLU}\bigl(x + M \odot F(x)\bigr) ,
# $$ (eq-lasnet-block)
#
# where $F$ stands for the three convolutions with their normalisations. Afterwards only what is needed is computed:
# the first convolution on the halo, the second and third at the active positions, and the result is added into the
# shortcut, which is dense and stays in place. The same output, position by position.

# %%
with torch.inference_mode():
    branch = first.c(first.b(first.a(features).relu()).relu())
    by_hand = (features + whole * branch).relu()
    library = first.dense(features, active.float())
    cells, ring = first.active(active, features)
    rows = features.clone(memory_format=torch.channels_last)
    skipped = first.sparse(rows, cells, ring, backend="gather")
assert torch.equal(by_hand, library)
assert torch.allclose(skipped, library, atol=1e-5)
print("computed by conv 2 and 3, below 40 % of the positions:", cells.density() < 0.4)

# %% [markdown]
# Three ways, one answer. Where the mask is 0 the block leaves $x$ as it is (it came out of a ReLU, so another ReLU does
# nothing), and the sparse version does not even touch it. The same holds for the whole network: `model(x)` computes
# everything and multiplies, `model.infer(x)` skips, and they agree for every picture.

# %%
with torch.inference_mode():
    sparse_answer = seeing.infer(x, masks=answer.masks)
assert torch.allclose(sparse_answer.logits, answer.logits, atol=1e-4)
right = (sparse_answer.logits.argmax(1).cpu() == test.labels).double().mean()
assert right > 0.9
print("above 90 % right:", bool(right > 0.9))

# %% [markdown]
# ## The first ledger: multiply-adds
#
# Write $a$ for the share of active positions and $a_D$ for the share with the halo. The bill of a block has four
# parts: the masker always, the first convolution at $a_D$, the second and third at $a$, the shortcut always. The figure
# draws it for the picture above. A box is as wide as its convolution is expensive, and filled as far as it is computed.

# %% mystnb={"image": {"alt": "A block from left to right: x, then three boxes, conv 1, conv 2 and conv 3, each mostly pale and hatched and filled from below to the share that is computed, more in conv 1 than in the others. A multiplication sign, into which the mask comes from above, a plus sign, into which the shortcut comes from below as a solid line, and ReLU."}}
bill = seeing.block_macs(32)[0]
second = first.b[0].weight.numel() / (first.b[0].weight.numel() + first.c[0].weight.numel())
a, a_dilated = (float(m[shown].float().mean()) for m in (active, halo))
_ = plots.masked_block(bill, second, a, a_dilated)
plt.show()

# %% [markdown]
# The mask's multiplication sign stands *after* the third convolution, and nowhere else: what is masked earlier changes
# the function (we shall run that mistake). Is the bill right? The library keeps it in `block_macs`. The cell sets its
# sum against a counter that watches the operators while `infer` runs on this one picture, with its masks given, so that
# the maskers stand apart.


# %%
class Skipping(nn.Module):
    """`infer` as a module, for the counter."""

    def __init__(self, model, masks):
        super().__init__()
        self.model, self.masks = model, masks

    def forward(self, image):
        return self.model.infer(image, backend="gather", masks=self.masks).logits


one, masks = x[shown : shown + 1], [m[shown : shown + 1] for m in answer.masks]
counted = measure.count_macs(Skipping(seeing, masks), one)
maskers = sum(bill.masker for bill in seeing.block_macs(32))
assert abs(counted + maskers - float(seeing.infer(one).macs)) < 1
print(
    "counted as billed; less than half of the static network:",
    counted < seeing.macs(32) / 2,
)

# %% [markdown]
# For networks of full size the bill needs no data at all, if one assumes cells drawn at random. The next cell asks
# ResNet-101 with its published granularity of 4-4-2-1, one number a stage, for its multiply-adds at several rates. At
# rate 1 it matches the static count plus the maskers.

# %%
with torch.device("meta"):  # shapes without numbers: nothing is allocated
    published = LASNet.resnet101(granularity=(4, 4, 2, 1))
print(f"static {published.macs(224) / 1e9:.2f} G")
for rate in (1.0, 0.5, 0.25):
    print(f"rate {rate}: {published.macs(224, rate=rate) / 1e9:.2f} G")
maskers = sum(bill.masker for bill in published.block_macs(224))
assert published.macs(224, rate=1.0) == published.macs(224) + maskers
parameters = sum(p.numel() for p in published.parameters())
print("parameters:", f"{parameters:,}")
assert parameters == 44_610_282

# %% [markdown]
# Half of the cells still cost six tenths of the multiply-adds. The rest is halo, stem, shortcuts and maskers, and all
# of that is before any clock has been asked.

# %% [markdown]
# ## Learning what to skip
#
# A yes or a no has no slope. The chapter on [gradients](../training/gradients.ipynb) has the way around it that is used
# here: add *Gumbel noise* to the two logits, take the larger one, and let the gradient flow through a softmax at a
# *temperature* $\tau$ as if the choice had been soft. The temperature falls from 5 to 0.1 during training. Because
# everything is computed, every skipped cell still learns what it would have been good for.
#
# Nothing in the cross-entropy wants to skip. The budget has to be in the loss. With $p_\ell$ for the share of its
# multiply-adds that block $\ell$ spends, and $P$ for that of the whole network, both averaged over the batch, the paper
# adds
#
# $$
# (P - t)^2 + \frac{1}{L}\sum_{\ell}\Bigl[\max(0, p_\ell - u_e)^2 + \max(0, b_e - p_\ell)^2\Bigr]
# $$ (eq-lasnet-loss)
#
# times ten. The target is $t$; $u_e$ and $b_e$ are *bounds* that start at $t$ and open.

# %%
for epoch in (0, 10, 20, 33, 100):
    upper, lower = lasnet.bounds(epoch, 100, 0.5)
    print(f"{epoch:3} % of training: every block between {lower:.2f} and {upper:.2f}")
assert lasnet.bounds(0, 100, 0.5) == (0.5, 0.5)

# %% [markdown]
# At first every block must spend half, so no masker can collapse to all or nothing while the features are still
# noise. After a third everything is allowed, as long as the *network* keeps to its budget. Now we train a second
# network with this loss: three blocks, target 0.5, everything else as before.

# %%
torch.manual_seed(0)
free = LASNet.tiny(blocks=3, granularity=4, target_rate=0.5).to(device)
free_log = lasnet.fit(free, inputs["train"], task["train"].labels, budget="network", seed=0)
with torch.inference_mode():
    spent = free.infer(x)
print("the network is within 0.2 of its target:", abs(float(spent.rate) - 0.5) < 0.2)
print("a block above 90 %:", bool(spent.block_rates.max() > 0.9))
print("a block below 10 %:", bool(spent.block_rates.min() < 0.1))
assert spent.block_rates.max() > 0.9 > 0.1 > spent.block_rates.min()

# %% [markdown]
# One block computes practically everything, another nothing, and only the third still chooses cells. Two of three
# blocks have become *layer skipping*, although nobody asked for it. The left half of the next figure shows how: as soon
# as the hatched bounds open, the blocks part. (The curves are those of training, with its noise, which blurs the
# extremes.)

# %% mystnb={"image": {"alt": "Two panels of lines over 400 training steps. Left, a budget for the network: three blocks start at 1, drop to the opening bounds, then part: one stays high, one falls towards 0. Right, a budget for each block: two blocks fall to about 0.35 and stay together."}}
limits = [lasnet.bounds(step, 400, 0.5) for step in range(400)]
runs = {
    "a budget for the network": (free_log.block_rates, 0.5),
    "a budget for each block": (log.block_rates, 0.35),
}
_ = plots.block_rates(runs, limits)
plt.show()

# %% [markdown]
# That is no failure of the training. The loss asks only for the sum, and dropping a block saves its halo as well.
# Nothing in the formula asks every block to select in space.
#
# If masks are to follow the object, something must forbid the other way out. The network of the first half was trained
# with the stricter loss of the right panel, $\frac{1}{L}\sum_\ell (p_\ell - t)^2$: every block gets the same budget and
# has to spend it *somewhere*.

# %% mystnb={"image": {"alt": "Eight noisy pictures, each twice, with the cells that block 1 and block 2 skip pale and hatched. The cells of the glyph are open in both rows; block 2 opens several cells of noise, too."}}
gallery = {f"block {k + 1}": m[:8, 0].cpu() for k, m in enumerate(answer.masks)}
_ = plots.mask_gallery(test.images[:8], gallery)
plt.show()

# %% [markdown]
# The glyph is nearly always open; most of the rest is closed. To say it for all 4000 pictures, compare the cells that
# are mostly glyph with those that the glyph does not touch.

# %%
on_glyph = test.overlap(4) > 0.5  # cells that are mostly glyph
off_glyph = test.overlap(4) == 0
mask = answer.masks[0][:, 0].cpu()
assert mask[on_glyph].mean() > 2 * mask[off_glyph].mean()
print("block 1 on the glyph, above 90 % of cells:", bool(mask[on_glyph].mean() > 0.9))
print("block 1 off the glyph, below 30 %:", bool(mask[off_glyph].mean() < 0.3))

# %% [markdown]
# Nobody told the masker where the glyph is. The labels and a budget were enough: a cell over the glyph changes the
# answer, a cell of noise does not, and each costs the same.
#
# **Predict (a).** Look at the right panel of the training figure once more: with its noise, both blocks met the target
# of 0.35 and stayed there. Now the noise is switched off, and the larger logit decides. The mean share that the blocks
# spend on test pictures is then (i) 0.35, noise favours neither side, (ii) clearly smaller, (iii) clearly larger?


# %% tags=["hide-output"]
def with_noise(model, images, seed):
    """A forward pass in eval mode but for the maskers, which draw as in training."""
    for part in model.blocks:
        part.masker.train()
    with torch.inference_mode():
        drawn = model(images, 0.1, generator=torch.Generator().manual_seed(seed))
    model.eval()
    return drawn


noisy = with_noise(seeing, x, seed=0)
drawn, decided = (float(out.block_rates.mean()) for out in (noisy, answer))
for name, share in (("with noise", drawn), ("without", decided)):
    words = {"below 0.31": share < 0.31, "above 0.39": share > 0.39}
    print(f"{name}:", next((w for w, true in words.items() if true), "0.35 within 0.04"))
assert decided < drawn - 0.04

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because the noise is symmetric. But the cells are not: most of them lie over noise, with logits clearly
# below 0, and the draw switches some of those *on*. There are few cells above 0 that it could switch off. So the
# network spends less than it did in training: (ii). Nor does the low temperature at the end help. A cell is on with
# probability $\sigma(l_0 - l_1)$ at *every* temperature, because the larger of two noisy logits stays the larger
# when both are divided by $\tau$. Only the gradient gets sharper. If a budget must be kept exactly, measure it without
# noise, and move the target.
# ```

# %% [markdown]
# ## The second ledger: time
#
# Now to the clock, and to the opening question. A GPU runs a block as a row of *kernels*, one after the other, and each
# has to be launched. The figure shows three rows for our block on the V100 at a rate of one half, in cells of 4x4: the
# static block, then the dynamic one step by step, then with steps *fused*. Every bar is a kernel.

# %% mystnb={"image": {"alt": "Three rows of bars on an axis in milliseconds. Static: four kernels, 7.9 ms. Unfused: eight kernels, among them two gathers, a scatter and an addition, 10.1 ms. Fused: four kernels, 6.65 ms. A thin red tick at the start of each bar is its launch."}}
kernels = partial(lasnet.block_kernels, v100, rate=0.5, **block)
timeline = {
    "static": kernels(granularity=None),
    "S = 4, unfused": kernels(granularity=4, schedule="unfused"),
    "S = 4, fused": kernels(granularity=4, schedule="fused"),
}
_ = plots.kernel_timelines(timeline, v100.launch_s)
plt.show()

# %% [markdown]
# Unfused, half of the cells take longer than all of them. The convolutions did shrink, but gathers, a scatter and a
# masker came on top. The paper fuses three pairs. The masker becomes one more output channel of the first convolution,
# which is then dense and needs no gather. The other gather disappears into the second one, which reads its input by
# index. The third works on compact patches, and the scatter adds right into the shortcut. At 8 microseconds each, the
# launches hardly count here; what fusing saves is reading and writing maps.
#
# ## A clock made of formulas
#
# How does one predict such a bar? A device, here, is six numbers: *processing engines*, arithmetic *lanes* in each, a
# clock, the *bandwidth* of memory and of the cache that all engines share, and the price of a launch. A kernel cuts its
# output into *tiles*, and an engine works on one tile at a time. Then three kinds of waste can be counted.

# %%
print("lanes filled by 100 results:", f"{lasnet.efficiency(100, 4 * v100.lanes):.2f}")
for tiles in (40, 80, 81):
    busy = lasnet.efficiency(tiles, v100.engines)
    print(f"{tiles} tiles on 80 engines: {ceil(tiles / 80)} wave(s), {busy:.2f} busy")
for run in (1, 4, 16):
    print(f"run length {run:2}: {lasnet.sector_efficiency(run, 40):.2f} of a read used")

# %% [markdown]
# *Lanes*: an engine keeps four instructions in flight in each of its 64 lanes, so fewer than 256 results at once leave
# lanes idle. *Waves*: 81 tiles take two rounds of 80 engines, as long as 160 would. *Sectors*: memory hands out 8
# numbers at a time, whether they are wanted or not. The predictor prices every way to cut the output, bytes plus
# arithmetic plus launch, and takes the cheapest. Here it is in full for a static 1x1 convolution.


# %%
def time_of_1x1(spec, cin, cout, side):
    """Predicted seconds: the best over all tiles of c channels, h rows and w columns."""
    best, sides = inf, lasnet.tile_sizes(side)
    for c, h, w in product(lasnet.tile_sizes(cout), sides, sides):
        tiles = ceil(cout / c) * ceil(side / h) * ceil(side / w)
        near = (c * cin + spec.batch * (cin + c) * h * w) * tiles  # cache to engines
        far = cin * cout + spec.batch * (cin + cout) * side**2  # memory, once
        read = lasnet.sector_efficiency(w, side - w)
        memory = far / spec.values_per_s + near / (spec.near_values_per_s * read)
        lanes = lasnet.efficiency(c * h * w, 4 * spec.lanes) * spec.lane_rate
        arithmetic = spec.batch * c * h * w * cin / lanes * ceil(tiles / spec.engines)
        best = min(best, memory + arithmetic)
    return float(best) + spec.launch_s


by_loop = time_of_1x1(v100, 256, 64, 56)
assert abs(by_loop / timeline["static"]["conv1"] - 1) < 1e-9
print(f"{1e3 * by_loop:.2f} ms, and the library says the same")

# %% [markdown]
# The library does the same with arrays instead of loops, and has the other kernels as well. A *dynamic* kernel differs
# in two ways. Its tile may not be larger than a cell, because the neighbours may be missing. And it is compiled before
# anybody knows the input, so its tile is chosen for the average number of cells. With that, look into the bar that
# spoils the skipping of pixels: the 3x3 convolution at a quarter of the positions.

# %%
full = timeline["static"]["conv2"]
for cell in (1, 2, 4, 8):
    parts = lasnet.block_kernels(v100, granularity=cell, rate=0.25, **block)
    print(f"S = {cell}: conv 2 takes {parts['conv2'] / full:.2f} of the static one")

# %% [markdown]
# A quarter of the positions in 1.55 of the time, for one convolution. With single pixels a tile must be cut along the
# channels, or the 80 engines would find too few tiles to share, and every slice of channels reads the nine neighbours
# again. A cell of 8x8 can be cut in space
# instead, where neighbours share what they read. That is where the rest went: not into arithmetic, but into reading the
# same numbers over and over, and into lanes without work.

# %% [markdown]
# **Predict (b).** The Jetson TX2 is a board for robots, with 2 engines instead of 80. The same block, single pixels, a
# quarter of them computed: 1.045 of the static time on the V100. On the TX2 it is about (i) 1.05, the work is the
# same, (ii) 1.5, a weaker device suffers more, (iii) 0.5? (The V100 gets 128 pictures at once, the TX2 one.)

# %% tags=["hide-output"] mystnb={"image": {"alt": "Two panels of predicted time over static time against the share of cells computed, for S of 1, 2, 4 and 8. On one device the curves fan out and cross 1 at shares from 0.23 to 0.78, on the other they lie on top of each other and cross near 0.9."}}
own = lasnet.predict_block(tx2, **block)
ratio = lasnet.predict_block(tx2, granularity=1, rate=0.25, **block) / own
print(f"{ratio:.3f}")
pair = ("V100", "Jetson TX2")
stars = {name: plots.ratios_by_rate(DEVICES[name], 0, (1, 2, 4, 8)) for name in pair}
_ = plots.ratio_curves(stars)
plt.show()

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because multiply-adds are all one has looked at so far. But two engines are kept busy by two tiles, so each
# can take all channels of many pixels at once and read little twice. The small device is busy computing; less to
# compute is less time: (iii), 0.504. The large one waits, for memory and for lanes to fill, and skipping does not
# shorten a wait. In the figure the curves of the TX2 lie on top of each other, and those of the V100 fan out.
# ```

# %% [markdown]
# The stars in that figure mark the *break-even*: the largest share of cells at which skipping still wins. For pixels on
# the V100 it is less than a quarter; for cells of 8x8 it is more than three quarters. In these formulas, which leave
# the halo out, granularity does not save a single multiply-add; still it moves the break-even by half of the map.

# %%
for name, spec in DEVICES.items():
    even = [lasnet.break_even(spec, granularity=s, **block) for s in (1, 2, 4, 8)]
    print(
        f"{name:12}",
        "  ".join(f"S={s}: {e:.2f}" for s, e in zip((1, 2, 4, 8), even, strict=True)),
    )

# %% [markdown]
# If larger is better on a large GPU, why stop at 8? Take the knob to its end: a cell as large as the map, which is
# layer skipping. Each picture computes the block or does not.
#
# **Predict (c).** V100, $S = 56$ on a map of 56x56, and half of the pictures compute the block. The published formula
# says that the block takes, compared with the static one, (i) about 0.5, (ii) about 0.6, (iii) about 1.07?

# %% tags=["hide-output"]
layer = lasnet.predict_block(v100, granularity=56, rate=0.5, **block) / static
mixture = lasnet.predict_skipping(v100, rate=0.5, **block) / static
print(f"the formula: {layer:.2f}; masker plus half of the static block: {mixture:.2f}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because half of the blocks vanish entirely. But the formula counts cells *per picture* and rounds up:
# $\lceil 0.5 \cdot 1 \rceil = 1$ cell, so every picture computes everything, at every rate above 0: (iii). The formula
# is right for a picture and wrong for a batch in which each picture has its own fate. The honest price is a mixture,
# masker + 0.5 times the static block, which gives 0.61. So the best cell is not read off the formula at its end, and we
# shall not offer it the whole map.
# ```

# %% [markdown]
# ## Choosing the cells
#
# Between the ends we can now choose. For each stage of a ResNet we ask for the ratio of every $S$ of 1, 2, 4, 7 and 8
# that divides the stage's map, at a rate of one half, and take the fastest. The list matters: nothing in the formulas
# prefers small cells, and with 14 and 28 in it they would choose those for the large maps of a V100. What small cells
# are good for, following an object, is not in the predictor, and so the list stops at 8.

# %%
depth, sides = (3, 4, 23, 3), lasnet.STAGE_MAPS  # ResNet-101: blocks and map of each stage
for name in ("V100", "Jetson TX2"):
    picked = []
    for stage, side in enumerate(sides):
        inner = lasnet.stage_blocks(stage, 2)[-1]
        usable = [s for s in (1, 2, 4, 7, 8) if s < side and side % s == 0]
        price = {
            s: lasnet.predict_block(DEVICES[name], granularity=s, rate=0.5, **inner)
            for s in usable
        }
        picked.append(min(price, key=price.get))
    chosen, seconds, _ = lasnet.choose_granularity(DEVICES[name], depth=depth, rate=0.5)
    assert tuple(picked) == chosen
    whole_net = lasnet.predict_network(DEVICES[name], depth=depth)
    print(f"{name}: {chosen}, {seconds / whole_net:.3f} of the static network")

# %% [markdown]
# For the V100 the procedure gives 8-4-7-1, which is what its authors published for such GPUs. For the TX2 it gives
# 4-2-2-1, where they used 4-4-2-1; the two differ by less than a hundredth there. The stages differ because the maps
# do: late maps are small, and few large cells fit in.

# %%
theirs = lasnet.predict_network(tx2, depth=depth, granularity=(4, 4, 2, 1), rate=0.5)
ours = lasnet.choose_granularity(tx2, depth=depth, rate=0.5)[1]
print("4-4-2-1 within 1 % of the predictor's own choice:", abs(theirs / ours - 1) < 0.01)
assert abs(theirs / ours - 1) < 0.01

# %% [markdown]
# ## Turn the knob yourself
#
# Pick a device, a stage and a rate. Left: the ratio for every $S$ at this stage, with the break-even starred and your
# rate as a line. Middle: the kernels of a block, static and at the best $S$. Right: all four stages of ResNet-101 with
# the cells that the procedure chooses. Two devices are not among the published five: an H200 by its vendor's figures,
# and your own machine, which the cell measures first.

# %% tags=["nbval-ignore-output"]
mine = HardwareSpec.probe(device=device)
print(f"engines {mine.engines}, lanes {mine.lanes}, clock {mine.clock_hz / 1e9:.2f} GHz")
print(f"memory {mine.bandwidth / 1e9:.0f} GB/s, cache {mine.l2_ratio:.1f} times as fast")
print(f"launch {1e6 * mine.launch_s:.1f} microseconds")
offered = {**DEVICES, "H200": HardwareSpec.h200(), "this machine": mine}


def show(name, stage, rate):
    plots.granularity_dashboard([(name, offered[name], stage - 1, rate)])
    plt.show()


hand = {
    "name": ipywidgets.Dropdown(options=list(offered), description="device"),
    "stage": ipywidgets.IntSlider(value=1, min=1, max=4, description="stage"),
    "rate": ipywidgets.FloatSlider(
        value=0.5, min=0.05, max=1, step=0.05, description="rate"
    ),
}
controls = ipywidgets.HBox(list(hand.values()))
display(ipywidgets.VBox([controls, ipywidgets.interactive_output(show, hand)]))

# %% mystnb={"image": {"alt": "Three rows of the same three views. V100 at rate 0.25: curves far apart, cells of 8, four stages all shorter. Jetson TX2 at 0.25: curves together, cells 4-2-1-1. V100 at 0.75: hardly anything saved, most of each stage's bar is full."}}
_ = plots.granularity_dashboard(
    [("V100", v100, 0, 0.25), ("Jetson TX2", tx2, 0, 0.25), ("V100", v100, 0, 0.75)]
)
plt.show()

# %% [markdown]
# Three positions of the hand. At a quarter of the cells both devices gain, in different cells. Moving the rate to 0.75
# takes most of the V100's gain away, though a quarter of the cells is still skipped: there the first convolution is
# dense again, and masker and scatter take most of the little that the others save.
#
# ## A predictor is a hypothesis
#
# Formulas with a handful of numbers in them can be right about everything and wrong about you. So we measure. The cell
# below builds two blocks of ResNet-50, folds their BatchNorm, and times them on this machine for cells of 1 and of 4
# and random masks, masker and lists included. The static block is timed in the same rounds, and of fifteen rounds the
# fastest counts. Beside the points stand the predictions for the device that the probe described.


# %% tags=["nbval-ignore-output"]
backend = "triton" if device.type == "cuda" else "gather"  # those that always skip


@torch.inference_mode()
def measured_ratios(channels, width, side, cell, rates):
    """Time of the sparse block over that of the dense one, for random masks of `cell`s."""
    made = lasnet.MaskedBlock(channels, width, channels, granularity=cell).to(device)
    nn.init.zeros_(made.c[1].weight)  # applied to its own output again and again
    fast = measure.fold_batchnorm(made).to(memory_format=torch.channels_last)
    rows = torch.rand(1, channels, side, side, device=device)
    rows = rows.to(memory_format=torch.channels_last)
    order = torch.randperm((side // cell) ** 2).view(1, 1, side // cell, side // cell)

    def sparse(mask):
        fast.masker(rows, 1.0)  # paid for, though the mask is given
        return fast.sparse(rows, *fast.active(mask, rows), backend=backend)

    def dense():
        return (rows + fast.c(fast.b(fast.a(rows).relu_()).relu_())).relu_()

    calls = {r: partial(sparse, (order < r * order.numel()).to(device)) for r in rates}
    timing = measure.compare({"dense": dense, **calls}, rounds=15)
    least = {name: min(timing[name].samples_s) for name in timing}  # least disturbed
    return [least[r] / least["dense"] for r in rates]


# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Two panels, a 256-64-256 block at 56x56 and a 512-128-512 block at 28x28: time over static time against the share of cells, predicted as lines and measured as points, for S of 1 and 4."}}
rates, panels = (0.1, 0.25, 0.5, 0.75, 1.0), {}
for channels, width, side in ((256, 64, 56), (512, 128, 28)):
    shape = {"channels": channels, "width": width, "size": side}
    dense = lasnet.predict_block(mine, **shape)
    panels[f"{channels}-{width}-{channels}, {side}x{side}"] = {
        f"S = {cell}": (
            (
                rates,
                [
                    lasnet.predict_block(mine, granularity=cell, rate=r, **shape) / dense
                    for r in rates
                ],
            ),
            (rates, measured_ratios(channels, width, side, cell, rates)),
        )
        for cell in (1, 4)
    }
_ = plots.predicted_and_measured(panels)
plt.show()

# %% [markdown]
# Read the points against the lines, and do not expect them to meet. The predictor knows nothing of what our CPU path
# really does: it copies the active rows together, multiplies matrices, and copies them back, and the halo of the first
# convolution, which the published formulas leave out, costs real time. What it can be held to is the *order*: does time
# fall with the rate, roughly in a line, with a foot that no skipping removes? Do larger cells help, and by how much?
# Where do the points cross 1? A laptop's CPU has few engines, so the lines for $S = 1$ and $S = 4$ nearly coincide, as
# they did for the TX2. If your points for $S = 1$ lie above those for $S = 4$, you are looking at the halo.
#
# Single blocks on a busy laptop are no benchmark of a network. `course bench lasnet --record` times whole networks,
# maskers and lists included, on cells that follow no object, and puts the predictor beside them. The lines are its
# predictions, the marks what was measured.

# %% mystnb={"image": {"alt": "Recorded runs of whole networks: times as fast as the static network over the rate, with predictions as thin lines and measurements as marks, one panel for a CPU and one for a GPU; where no run is recorded, the panel says so."}}
recorded = {"CPU": bench.latest("lasnet", "cpu"), "GPU": bench.latest("lasnet", "cuda")}
_ = plots.recorded_granularity(recorded)
plt.show()

# %% tags=["nbval-ignore-output"]
for name, record in recorded.items():
    print(f"{name}: {bench.caption(record) if record else 'no recorded run yet'}")

# %% [markdown]
# The distance between line and mark is the price of what the formulas leave out. Where no GPU is recorded, the paper's
# gain stays what it is here: published.

# %% [markdown]
# ## Where it breaks
#
# Three mistakes, run on the trained network. The first masks every map instead of the last result, which is the same as
# forgetting the halo: the 3x3 then reads zeros where its neighbours should be.

# %%
with torch.inference_mode():
    inner = first.a(features).relu() * whole  # computed at active positions only
    wrong = (features + whole * first.c(first.b(inner).relu())).relu()
off = ((wrong - library).abs().amax(1) > 1e-4) & whole[:, 0]
inside = F.max_pool2d(1.0 - whole.float(), 3, stride=1, padding=1)[:, 0] == 0
print("active positions that are wrong, above a third:", bool(off.sum() > whole.sum() / 3))
print("wrong ones with all neighbours active:", int((off & inside).sum()))
assert off.sum() > whole.sum() / 3
assert not (off & inside).any()

# %% [markdown]
# More than a third of the active positions are wrong, and every one of them sits at a rim. In a lone cell of 4x4 only
# the middle four positions are safe. The network still gives an answer; comparing with dense-and-multiplied tells. The
# second mistake forgets to switch off the noise.

# %%
draws = [with_noise(seeing, x[:500], seed).masks[0] for seed in (1, 2)]
with torch.inference_mode():
    calm = [seeing(x[:500]).masks[0] for _ in range(2)]
changed = (draws[0] != draws[1]).flatten(1).any(1).double().mean()
print("asked twice with noise, above half get another mask:", bool(changed > 0.5))
print("without noise:", int((calm[0] != calm[1]).sum()), "entries differ")

# %% [markdown]
# The third is a slip of the pencil: charging all three convolutions for the mask and none for its halo. For cells of 4
# the bill comes out 16 % too small where a quarter is active, for pixels 39 %.

# %%
for cell in (1, 2, 4, 8):
    ring = lasnet.expected_halo(0.25, cell)
    print(f"S = {cell}: conv 1 must run at {ring:.0%} of the map for a quarter active")

# %% [markdown]
# ## At full size
#
# *Published, not run here.* With granularity chosen by the predictor and the fused schedule, the authors report for
# ResNet-101 on ImageNet, at equal accuracy, 36 % less latency on a V100 and 46 % less on a TX2 {cite}`han2022lasnet`.
# Their repository multiplies dense results by the mask; the fast kernels behind these numbers are not public, which is
# why this course has its own.
#
# What can one hope for on a newer GPU? The predictor counts ordinary float32 arithmetic. Half-precision tensor cores
# have pushed arithmetic ahead of memory, so the bytes decide. The *roofline* of an H200, calculated from 4.3 TB/s and
# 395 T multiply-adds a second, bounds the gain of a block at rate one half in the published cells 4-4-2-1, batch 128.


# %%
roof = measure.Roofline(4.3e12, 395e12, "H200")


def floor(stage, share=1.0, halo=1.0):
    """Least microseconds of a block's three convolutions, batch 128, two bytes a number."""
    c, w, side = 256 << stage, 64 << stage, sides[stage]
    n = 128 * side**2
    conv1 = halo * roof.bound_s(n * c * w, 2 * n * (c + w))
    return 1e6 * (
        conv1
        + share * roof.bound_s(n * 9 * w * w, 2 * n * 2 * w)
        + share * roof.bound_s(n * w * c, 2 * n * (w + 2 * c))
    )


for stage, cell in enumerate((4, 4, 2, 1)):
    everything = floor(stage)
    least = floor(stage, 0.5, lasnet.expected_halo(0.5, cell))
    reading = 1e6 * 2 * 128 * sides[stage] ** 2 * (256 << stage) / 4.3e12
    gains = [everything / t for t in (least, least + reading, floor(stage, 0.5, 1.0))]
    print(
        f"stage {stage + 1}: {gains[0]:.2f}, with a masker {gains[1]:.2f}, fused {gains[2]:.2f}"
    )

# %% [markdown]
# These are upper limits, with perfect kernels. Half of the cells is at most 1.6 to 1.8 times as fast. A masker of its
# own has to read the whole map and takes a large bite out of that; fused into a dense first convolution it costs
# less. The published 36 % would be a factor of 1.56, and here it lies right at the limit of the fused schedule. So on
# this GPU the margin is thin, and whoever claims more at this rate should show the clock.

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/spatial/lasnet](../../exercises/spatial/lasnet.ipynb), and answer at once.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `block_macs` | the bill of a block | 1 | 10 |
# | `bounds` | bounds that open | 2 | 7 |
# | `budget_loss` | the loss that keeps a budget | 2 | 8 |
# | `hard_mask` | a mask of 0 and 1 with a gradient | 3 | 20 |
# | `choose_granularity` | the cells for a device | 4 | 30 |
#
# ## Recap
#
# - A masker per block decides in cells of S x S; the mask is applied after the last convolution.
# - Train dense and multiply; infer by computing a halo, then active cells.
# - Bounds that open slowly keep maskers from collapsing.
# - Time = bytes + waves + launches; choose S for the device, not for the multiply-adds.
# - A predictor is a hypothesis: put your own measurement beside it.
#
# ## Where next
#
# The [start page](../start/paths.ipynb) has the reading orders. The kernel that runs such masks on a GPU is the second
# sitting of the chapter on [sparse convolution](sparse_conv.ipynb). Coarser ways to look at part of a picture:
# [a coarse picture first](ranet.ipynb). Skipping whole layers, the far end of the knob, gets a chapter of its own
# later.
#
# ## References
#
# The method, its training and its results: {cite}`han2022lasnet`. The hard decision and its gradient:
# {cite}`jang2017gumbel`. Layer skipping, the limit of one cell a map: {cite}`wang2018skipnet,veit2018aig`. The residual
# networks: {cite}`he2016resnet`. The roofline: {cite}`williams2009roofline`. Where spatially adaptive networks stand:
# {cite}`han2021dynamic`, section 3.
