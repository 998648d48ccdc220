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
# # Can a machine skip pixels and finish earlier?
# *75 min reading · 85 min exercises · needs [Measuring](../start/measuring.ipynb), convolution as matrix product · CPU, under 60 s; GPU optional*
#
# Many papers let a network compute only the pixels that matter, and multiply the rest by zero. This chapter does the
# skipping for real: first on a processor, in two lines of copying around a product of matrices, then in a kernel for a
# GPU. The two sittings (45 and 30 minutes of reading) are separated by a mark; the next chapters need only the first.
# Terms in *italics* stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *tell apart* three convolutions that all carry the name masked or sparse, and say which of them is exact;
# - *derive* from a mask what each layer of a residual block must compute;
# - *write* a convolution that computes active positions only, and prove that it does no more;
# - *predict* from two timings at which density skipping pays, and check the prediction;
# - *read* a sparse kernel: its list, its addresses, its masks, and the staircase in its time.

# %%
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from IPython.display import display

import course_lib
from course_lib import bench, kernels, measure, plots
from course_lib.bench import blocks as trial
from course_lib.kernels import ActiveSet
from course_lib.spatial.sparse_conv import MaskedBottleneck, random_mask

plots.use_style()
generator = course_lib.seed_everything(0)
device = course_lib.device()
torch.backends.cudnn.allow_tf32 = False  # on a GPU: compare exact with exact
_ = torch.set_grad_enabled(False)

# %% [markdown]
# ## The question
#
# A residual block of ResNet has three convolutions: 1x1 from 512 channels down to 128, 3x3 among these, and 1x1 back to
# 512. On a map of 28x28 positions somebody tells us which quarter of the positions matters. The others keep their old
# values; the block's own part of them need not be computed. The cell times the dense block, and the same block skipping
# three quarters of its positions, once chosen one by one at random, once in cells of 4x4. Times in this chapter are the
# shortest of many turns, since other programs only ever add to a time; on a CPU they are the time of this thread on the
# processor. (`trial` is the bench behind this chapter: its blocks, its clock.)

# %% tags=["nbval-ignore-output"]
setting = trial.Setting(batch=1, channels=512, width=128, size=(28, 28), cell=4)
block = trial.make_block(setting).to(device)
x = trial.make_input(setting).to(device).contiguous(memory_format=torch.channels_last)
dense = trial.folded_dense(block).to(memory_format=torch.channels_last)
masked = MaskedBottleneck.from_dense(block).fold_bn_()
masks = {
    "scattered": random_mask(1, (28, 28), 0.25, generator=generator).to(device),
    "in cells": random_mask(1, (28, 28), 0.25, cell=4, generator=generator).to(device),
}
calls = {"dense": partial(dense, x), "scattered": partial(masked, x, masks["scattered"])}
calls["in cells"] = partial(masked, x, masks["in cells"], granularity=4)
seconds = trial.least_seconds(calls)
for name in masks:
    print(f"{name}: {seconds['dense'] / seconds[name]:.1f} times as fast as dense")

# %% [markdown]
# Neither is four times as fast, and the cells beat the scattered positions. A quarter of the positions, so why not four
# times? And the two masks have nearly as many active positions (196 and 192): why should the *shape* of a mask matter
# at all?
#
# **Before you read on, say what you would do** to find out where the time goes.
#
# ## The mechanism in one picture
#
# An *active* output of a 3x3 convolution needs the nine inputs around it. The picture shows four active outputs on a
# map of 64, once side by side, once apart. The inputs under each active output are *gathered*: copied side by side into
# one row of a matrix. One product with the weights gives all active outputs, and these are *scattered* back to where
# they belong.

# %% mystnb={"image": {"alt": "Two rows. Upper: an 8x8 map with four solid active positions in a square and a dotted ring of twelve around them, the rest pale and hatched; an arrow labelled gather leads to a matrix of 4 rows and 9C columns, times a block of 9C x C', equals 4 rows of C'; an arrow scatter leads to a map with the four positions. Lower: the same with four positions apart, each with a ring of its own, 36 touched."}}
together = torch.zeros(8, 8, dtype=torch.bool)
together[3:5, 3:5] = True
apart = torch.zeros(8, 8, dtype=torch.bool)
apart[1:6:4, 1:6:4] = True
_ = plots.gather_product_scatter({"side by side": together, "apart": apart})
plt.show()

# %% [markdown]
# L is the number of positions, A that of active ones. The matrices are the same in both rows: four rows, whatever the
# mask looks like. What differs is on the left. Side by side the four outputs touch 16 inputs, apart they touch 36, and
# every touched input must have been computed by the layer before. The touched positions that are not active themselves
# are called the *halo* of the mask.
#
# ## Position by position
#
# The smallest program that skips is a loop over the active positions. It serves as our definition: whatever we write
# later must give the same numbers.


# %%
def by_loop(x, weight, mask):
    """x (N, C, H, W), weight (K, C, k, k), mask (N, 1, H, W) bool -> (N, K, H, W)."""
    k = weight.shape[-1]
    padded = F.pad(x, [k // 2] * 4)
    y = x.new_zeros(len(x), len(weight), *x.shape[2:])
    for n, h, w in mask[:, 0].nonzero().tolist():
        y[n, :, h, w] = (weight * padded[n, :, h : h + k, w : w + k]).sum((1, 2, 3))
    return y


# %%
small, weight = torch.randn(2, 4, 6, 7), torch.randn(5, 4, 3, 3)
mask = torch.rand(2, 1, 6, 7) < 0.3
exact = by_loop(small, weight, mask)
whole = F.conv2d(small, weight, padding=1)
assert torch.allclose(exact, whole * mask, atol=1e-5)
print(f"{int(mask.sum())} of {mask.numel()} positions computed")

# %% [markdown]
# The loop agrees with the dense convolution wherever the mask is set, and is exactly zero elsewhere. It is also the
# slowest program in this chapter, because a processor is fast only when it is given many multiplications at once.
#
# ## Gather, product, scatter
#
# So we collect the rows first. For a 1x1 convolution a row is simply the channels of one position, and the three steps
# are three calls. The next cell is all that a laptop needs in order to skip.

# %%
pointwise = torch.randn(5, 4, 1, 1)
rows = small.permute(0, 2, 3, 1).reshape(-1, 4)  # one row a position: channels last
active = mask.flatten().nonzero().flatten()
gathered = rows.index_select(0, active)
product = gathered @ pointwise.flatten(1).T
y = torch.zeros(len(rows), 5).index_copy_(0, active, product)
y = y.view(2, 6, 7, 5).permute(0, 3, 1, 2)
assert torch.allclose(y, by_loop(small, pointwise, mask), atol=1e-5)
print(f"the product saw {len(gathered)} rows of {len(rows)}")

# %% [markdown]
# For a 3x3 convolution the rows are nine times as long; putting them together is your third task. The library's
# `masked_conv2d` does it for any kernel size, stride and padding. It takes the mask, or an `ActiveSet`, the list made
# from it, which several layers can share. Its result must be the loop's.

# %%
listed = ActiveSet.from_mask(mask)
found = kernels.masked_conv2d(small, weight, mask=listed, padding=1, backend="gather")
assert torch.allclose(found, exact, atol=1e-5)
print("number of active positions:", int(listed.cnt))
print("the first of them:", listed.idx[:5].tolist())

# %% [markdown]
# How long do the steps take? The cell times each of them for a 3x3 convolution with 128 channels on 28x28 positions, a
# quarter of them active in cells, with PyTorch's plainest operations on the CPU, and draws the bar under the picture.
# `reads` holds, for each active position, the nine positions to copy.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "The picture of gather, product and scatter for four active positions, and below it a bar of measured time in four parts: a short one for the index, a longer one for the gather, the longest for the product, a short one for the scatter."}}
cells = masks["in cells"].repeat_interleave(4, 2).repeat_interleave(4, 3).flatten().cpu()
number = torch.arange(1.0, 785).view(1, 1, 28, 28)  # 0 is outside
reads = F.unfold(number, 3, padding=1)[0, :, cells].T.flatten().long()
table, weights = torch.randn(785, 128), torch.randn(9 * 128, 128)
at, target = cells.nonzero().flatten(), torch.zeros(784, 128)
columns = table.index_select(0, reads).view(len(at), -1)
steps = {
    "index": lambda: cells.nonzero(),
    "gather": lambda: table.index_select(0, reads).view(len(at), -1),
    "product": lambda: columns @ weights,
    "scatter": lambda: target.index_copy_(0, at, columns[:, :128]),
}
seconds = trial.least_seconds(steps, device="cpu")
_ = plots.gather_product_scatter({"side by side": together}, seconds)
plt.show()

# %% [markdown]
# The product takes most of it, the copies a small part, the list almost nothing. That is so because there are many
# channels. With half as many the product has a quarter of the multiplications, and the copies are still half as long:
# the fewer the channels, the larger the share that the copies take.
#
# ## Three functions, one name
#
# Before we go on, a warning about words. People who say "masked" or "sparse" convolution mean one of three functions.
# Masking the *input* sets inactive inputs to zero and convolves as usual. *Submanifold convolution*, made for point
# clouds, does the same and also drops the outputs that are not active. The third is ours. The cell computes all of them
# on one small map.

# %% mystnb={"image": {"alt": "Four small maps of numbers with the same active positions outlined. Dense: values everywhere. Masked input: values in and around the outlines, differing from dense. Submanifold: values inside the outlines only, differing from dense. Masked exact: inside the outlines the dense values, zeros elsewhere."}}
one = torch.randn(1, 1, 7, 7, generator=generator)
conv = partial(F.conv2d, weight=torch.randn(1, 1, 3, 3, generator=generator), padding=1)
outline = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
outline[0, 0, 2:4, 1:3] = outline[0, 0, 5, 5] = True
exact = kernels.masked_conv2d(one, conv.keywords["weight"], mask=outline, padding=1)
results = {
    "dense": conv(one),
    "masked input": conv(one * outline),
    "submanifold": conv(one * outline) * outline,
    "masked exact": exact,
}
maps = {name: result[0, 0] for name, result in results.items()}
inside = {name: values[outline[0, 0]] for name, values in maps.items()}
agrees = {n: bool(torch.allclose(v, inside["dense"], atol=1e-5)) for n, v in inside.items()}
words = {True: "dense where active", False: "not dense where active"}
notes = {name: words[same] for name, same in agrees.items()}
_ = plots.cell_maps(maps, outline[0, 0], note=notes)
plt.show()
assert list(agrees.values()) == [True, False, False, True]

# %% [markdown]
# Only the last equals the dense convolution where it is active. An inactive position is not empty. It is a position
# whose *new* value nobody asked for, and its old value is still there for its neighbours to read. Submanifold
# convolution is right for point clouds, where what is not there is nothing, and a network trained densely computes
# something else with it.
#
# ## What must the first layer compute?
#
# In a residual block the mask belongs to the block's output. The last 1x1 convolution runs on the active positions, and
# so does the 3x3 before it. But the 3x3 *reads* beyond them, so the first 1x1 convolution must run on every touched
# position: on active positions and their halo.
#
# **Predict (a).** Every position is active with probability 0.25, independently of the others. On which share of the
# positions must the first 1x1 convolution run? (i) 25 %, (ii) about half, (iii) more than 90 %.

# %% tags=["hide-output"]
pixels = random_mask(8, (56, 56), 0.25, generator=generator)
touched = ActiveSet.from_mask(pixels).dilate(3, stride=1, padding=1).density()
print(f"touched: {touched:.0%}")
print(f"1 - 0.75 ** 9 = {1 - 0.75**9:.3f}")
assert abs(touched - (1 - 0.75**9)) < 0.02

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because a quarter is active, and layers of one block seem to belong together. But a position is spared only
# if all nine outputs around it are inactive, which has probability 0.75 to the ninth power, about 7 %. So it is (iii):
# 92 % in the middle of a map, slightly less with its borders.
# ```
#
# For scattered pixels the first layer saves next to nothing. What helps is to decide for *cells* of S x S positions
# together; S is called the *granularity* of the mask. Inside a cell all positions share their fate, so a halo is needed
# only around it. With $d$ the share of active cells, drawn independently, and S of 2 or more, the touched share is
#
# $$
# d_D = \frac{(S-2)^2\, d + 4 (S-2) \bigl(1-(1-d)^2\bigr) + 4 \bigl(1-(1-d)^4\bigr)}{S^2} :
# $$ (eq-halo)
#
# a position inside a cell is seen by that cell alone, one at an edge by two cells, one at a corner by four. The figure
# counts it on real masks.

# %% mystnb={"image": {"alt": "Share of inputs touched over share of outputs active, for single pixels, cells of 2, 4 and 8, and a disc. At a quarter active, marked by a dotted line, pixels touch over 90 percent, cells of 2 about two thirds, cells of 4 just under half, cells of 8 and a disc around a third. The diagonal would be no halo."}}
densities = (0.02, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
kinds = {"pixels": 1, "cells of 2x2": 2, "cells of 4x4": 4, "cells of 8x8": 8}


def halo_share(density, cell, shape="scattered"):
    """(share active, share touched) on eight maps of 56x56."""
    drawn = random_mask(8, (56, 56), density, cell=cell, shape=shape, generator=generator)
    chosen = ActiveSet.from_mask(drawn, granularity=cell, size=(56, 56))
    return chosen.density(), chosen.dilate(3, 1, 1).density()


curves = {name: [halo_share(d, cell) for d in densities] for name, cell in kinds.items()}
curves["one disc"] = [halo_share(d, 1, "disc") for d in densities]
_ = plots.halo_shares(curves)
plt.show()

# %% [markdown]
# At a quarter active (the dotted line) the touched share falls from over 0.9 for pixels to under a half for 4x4 cells,
# and a single disc is better still. This is the first part of the answer to our question: the *shape* of a mask decides
# what the layer before has to do. The formula, for 4x4 cells at a quarter, and the counted share side by side:

# %%
S, d = 4, 0.25
edge, corner = 1 - (1 - d) ** 2, 1 - (1 - d) ** 4
formula = ((S - 2) ** 2 * d + 4 * (S - 2) * edge + 4 * corner) / S**2
counted = dict(curves["cells of 4x4"])[0.25]
print(
    f"by formula {formula:.2f}, counted within 0.03 of it: {abs(counted - formula) < 0.03}"
)

# %% [markdown]
# ## A whole block
#
# `MaskedBottleneck.from_dense(block)` takes over the weights of a trained block. It makes the list of active positions
# once, dilates it once, and runs the three convolutions on these two lists. The first writes into a map of full size
# that is *not initialised*: nothing outside the halo is ever read, so nobody has to fill it. The residual sum and the
# ReLU happen in the last step. Is it exact, and what does it execute? `count_macs` counts what really ran.

# %%
way = "gather" if device.type == "cpu" else "auto"  # skip, whatever the density
sparse = MaskedBottleneck.from_dense(block, backend=way).fold_bn_()
c1, c2, c3 = setting.macs
for name, cell in (("scattered", 1), ("in cells", 4)):
    chosen = ActiveSet.from_mask(masks[name], granularity=cell, size=(28, 28))
    y = sparse(x, chosen)
    assert torch.allclose(y, torch.where(chosen.to_mask(), block(x), x), atol=1e-3)
    d, halo = setting.shares(masks[name], cell)
    promised = (halo * c1 + d * (c2 + c3)) / (c1 + c2 + c3)
    executed = measure.count_macs(sparse, x, chosen) / (784 * (c1 + c2 + c3))
    assert abs(executed - promised) < 1e-6
    print(f"{name:>9}: active {d:.2f}, touched {halo:.2f}, {executed:.2f} of the MACs")

# %% [markdown]
# By multiply-adds the scattered mask promises a factor of 2.5 and the cells one of 3.5, not 4. That is the halo. On the
# processor that made this page the clock said less than either promise, so something else is lost as well.
#
# ## Two timings predict the rest
#
# A skipping block has a *fixed* price, which it pays even if nothing is active: lists, calls, a pass over the map. Then
# it has a price for each active position, a little higher than that of the dense code, which multiplies long, regular
# rows without any copying. So its time is roughly a straight line over the density $d$:
#
# $$
# T_\text{skip}(d) = T_0 + d\,(T_1 - T_0), \qquad d^* = \frac{T_\text{dense} - T_0}{T_1 - T_0} ,
# $$ (eq-break-even)
#
# with $T_0$ and $T_1$ its times with nothing and with everything active. Below the *break-even density* $d^*$ skipping
# wins. Try it on the figures of a data-centre GPU first.
#
# **Predict (b).** A 3x3 convolution takes 53.5 microseconds with dense code, which reaches 70 % of the machine's peak.
# A skipping kernel reaches 60 %, so with everything active it would need 5 microseconds for its lists and 62.4 for the
# product. Below which density does it win? (i) below 1: less work is less time; (ii) 0.91; (iii) 0.78.

# %% tags=["hide-output"]
t_dense, t_fixed = 53.5, 5.0
t_full = t_fixed + t_dense * 0.70 / 0.60
print(f"everything active: {t_full:.1f} microseconds")
print(f"break-even density {(t_dense - t_fixed) / (t_full - t_fixed):.2f}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because skipping *is* less work. (ii) charges the 5 microseconds and forgets that the kernel multiplies
# more slowly. With both it is 0.78, (iii). A network whose masks keep 85 % of the positions would be slowed down by
# this kernel, although it does less.
# ```
#
# Now our own block. Two timings, with nothing and with everything active, fix the line. Then the timings between, which
# the prediction has not seen.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Time of the block over the share of active positions. A level line for dense; a rising dashed line through two square marks at 0 and 1; round marks of other densities close to it. Where the dashed line crosses dense, a dotted line falls to the predicted break-even."}}
tried = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
drawn = {
    d: random_mask(1, (28, 28), d, cell=4, generator=generator).to(device) for d in tried
}
calls = {d: partial(sparse, x, m, granularity=4) for d, m in drawn.items()}
least = trial.least_seconds({"dense": partial(dense, x)} | calls)
points = [(d, least[d]) for d in tried[1:-1]]
_ = plots.break_even_lines(
    points, dense_s=least["dense"], fixed_s=least[0.0], full_s=least[1.0]
)
plt.show()

# %% [markdown]
# The points lie above the line, most of all at small densities. An empty list costs less than a list with one cell, so
# the timing at 0 flatters the fixed price, and the halo, which grows faster than the density there, adds to it. A
# predicted break-even at the right end says that this block would gain at any density, which is
# possible where the dense code is not at its best, either. On another machine, with another number of threads, the two
# end points are others, and so is the crossing: that is why one measures two timings and not one constant.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Times as fast as dense over the share of active positions, for pixels, cells of 4x4 and a disc. All three curves rise to the left, below the curve 1/d at small densities and close to it near 1. The pixels' curve is the lowest at small densities, the disc's the highest. A level line at 1."}}
kinds = {"pixels": (1, "scattered"), "cells": (4, "scattered"), "disc": (1, "disc")}
speedups = {}
for kind, (cell, shape) in kinds.items():
    calls = {"dense": partial(dense, x)}
    for d in (0.05, 0.1, 0.25, 0.5, 0.75, 1.0):
        drawn = random_mask(1, (28, 28), d, cell=cell, shape=shape, generator=generator)
        calls[d] = partial(sparse, x, drawn.to(device), granularity=cell)
    least = trial.least_seconds(calls)
    speedups[kind] = [(d, least["dense"] / t) for d, t in least.items() if d != "dense"]
_ = plots.speedup_over_density(speedups)
plt.show()

# %% [markdown]
# This is the figure to ask for whenever somebody reports a speed-up: over the density, with the kind of mask named, and
# with the line $1/d$ beside it. Three things keep the curves from that promise. The halo holds down the pixels' curve.
# The fixed price bends all of them at the left end. And the price for each position sets the height at the right end,
# above or below 1.
#
# A busy laptop is no benchmark. The recorded run of `course bench sparse-conv --record` uses the time of one thread on
# the processor, so that other programs do not count, and draws the floor as well: what multiply-adds and bytes alone
# would allow.

# %% mystnb={"image": {"alt": "Recorded runs for two blocks: times as fast as dense over the share of active positions for pixels, cells and a disc, with thin floor lines above them and open marks at break-even; where no run is recorded, the panels say so."}}
record = bench.latest("sparse-conv", "cpu")
_ = plots.recorded_skipping(record, ["block 256-64 at 56, N=1", "block 512-128 at 28, N=1"])
plt.show()

# %% tags=["nbval-ignore-output"]
print(bench.caption(record) if record else "course bench sparse-conv --record makes one.")

# %% [markdown]
# ## Why scattered pixels do not pay
#
# Suppose the skipping itself were free. Then the best that a mask can give is the ratio of multiply-adds. For scattered
# pixels at a quarter active, the first layer is still computed nearly everywhere. It is a quarter of this block's work,
# so it alone limits the gain, whatever the other two layers save. The next cell prints the limit at each density.

# %%
share = [c / sum(setting.macs) for c in setting.macs]
for d in (0.5, 0.25, 0.1, 0.05):
    pixel, cell4 = 1 - (1 - d) ** 9, halo_share(d, 4)[1]
    limits = [1 / (h * share[0] + d * (share[1] + share[2])) for h in (pixel, cell4)]
    print(f"d = {d:4}: pixels at most {limits[0]:.1f} times, 1/d = {1 / d:.0f}")
    assert limits[0] < limits[1] < 1 / d

# %% [markdown]
# At d = 0.05 the promise of 20 has shrunk to 8, and the layer that reads the wide map of 512 channels is the one that
# gains least. Masks that are learned pixel by pixel (as DynConv's are {cite}`verelst2020dynconv`) are not random: they
# follow objects, and look more like the disc. Nothing in the loss asks them to, though, unless it charges the halo.
#
# ## Turn it yourself
#
# Three hands: the density, the side of a cell, and whether active cells are scattered or form a disc. Watch the mask
# with its halo, the two shares, the multiply-adds, and the measured time of this block, taken anew when you let go.


# %%
def look(density, cell, shape):
    """One row of the dashboard, measured now."""
    fixed = torch.Generator().manual_seed(2)
    chosen = random_mask(1, (28, 28), density, cell=cell, shape=shape, generator=fixed)
    active = ActiveSet.from_mask(chosen.to(device), granularity=cell, size=(28, 28))
    calls = {"dense": partial(dense, x), "skip": partial(sparse, x, active)}
    return {
        "title": f"{shape}, cells of {cell}, d = {density:.2f}",
        "mask": active.to_mask()[0, 0].cpu(),
        "shares": (d_and_halo := setting.shares(chosen, cell)),
        "macs": 784 * (d_and_halo[1] * c1 + d_and_halo[0] * (c2 + c3)),
        "dense_macs": 784 * (c1 + c2 + c3),
        "seconds": trial.least_seconds(calls, rounds=5),
    }


# %% [markdown]
# The sliders call it with one setting; the figure after them shows four.


# %% tags=["nbval-ignore-output"]
def show(density, cell, shape):
    plots.mask_dashboard([look(density, cell, shape)])
    plt.show()


hands = {
    "density": ipywidgets.FloatSlider(
        value=0.25, min=0, max=1, step=0.05, description="density", continuous_update=False
    ),
    "cell": ipywidgets.Dropdown(value=4, options=[1, 2, 4, 7, 14, 28], description="cell"),
    "shape": ipywidgets.Dropdown(
        value="scattered", options=["scattered", "disc"], description="shape"
    ),
}
start = {name: hand.value for name, hand in hands.items()}
reset = ipywidgets.Button(description="back")
reset.on_click(lambda _: [setattr(hands[name], "value", v) for name, v in start.items()])
view = ipywidgets.interactive_output(show, hands)
display(ipywidgets.VBox([ipywidgets.HBox([*hands.values(), reset]), view]))

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Four rows, each a mask with its halo, bars of active and touched share, the multiply-adds and measured times. Scattered pixels: the map is nearly all halo. Cells of 4: half of it. A disc: a thin ring. Cells of 14: the halo is small, and one of four cells is active."}}
shown = [
    (0.25, 1, "scattered"),
    (0.25, 4, "scattered"),
    (0.25, 1, "disc"),
    (0.25, 14, "scattered"),
]
_ = plots.mask_dashboard([look(*hands_at) for hands_at in shown])
plt.show()

# %% [markdown]
# All four rows have practically the same density. From row to row the dotted halo shrinks, and with it the touched
# share and the multiply-adds. Set the cell to 28, the whole map, and you skip whole blocks: pixel skipping and layer
# skipping are the two ends of one slider. The next chapter, on LASNet, asks which position on it suits which machine.
#
# ## The masker's tax
#
# Somebody has to decide. A *masker* reads the block's input, all of it, and gives one yes or no for each cell:
# `SpatialMasker` averages over a cell and compares two weighted sums of the channels. On a processor that is cheap. On
# a machine that waits for memory, reading the input once more is not. The cell works out the floors of a block of
# ResNet's first stage, for 128 images in 16-bit numbers, on a GPU with 4.3 TB/s and 395 T multiply-adds a second (an
# H200; *calculated*, not measured).

# %%
stage1 = trial.Setting(batch=128, channels=256, width=64, size=(56, 56), cell=4)
gpu = measure.Roofline(bandwidth_bytes_per_s=4.3e12, macs_per_s=395e12, device="H200")
read_input = 2 * 128 * 256 * 56 * 56 / gpu.bandwidth_bytes_per_s
full = stage1.floor_s(1, 1, gpu, itemsize=2)
half = stage1.floor_s(0.5, 0.73, gpu, itemsize=2)
print(f"dense {1e6 * full:.0f} microseconds, half active {1e6 * half:.0f}")
print(
    f"the masker's reading {1e6 * read_input:.0f}, a copy of the input {2e6 * read_input:.0f}"
)
for name, more in (("free", 0), ("masker", 1), ("masker and copy", 3)):
    print(f"at most {full / (half + more * read_input):.2f} times as fast: {name}")

# %% [markdown]
# With a masker of its own the best possible gain falls from 1.76 to 1.25. If the program also copies the map in order
# to keep the skipped positions, it is gone, with perfect kernels. So fast implementations read the input once for
# masker and first layer together, and update the map in place. `MaskedBottleneck` has `inplace=True` for that; skipped
# positions then cost nothing, since after a ReLU they already hold what they should.
#
# ## Learning needs dense features
#
# One thing a skipping block cannot do is learn *where* to skip. With $y = m \cdot F(x)$ the gradient of the mask at a
# position is the product of the incoming gradient with $F(x)$ there, at skipped positions, too. Whoever skipped has no
# $F(x)$, and such a position would never learn that it should be switched on. Hence the library's rule: a mask that
# wants a gradient makes the block compute everything.

# %%
m = masks["in cells"].float().requires_grad_()
with torch.enable_grad():
    sparse(x, m, granularity=4).square().mean().backward()
print("gradient at every skipped cell:", bool((m.grad[m == 0] != 0).all()))
try:
    kernels.masked_conv2d(x, block.conv1.weight, mask=m, granularity=4)
except ValueError as error:
    print(str(error).partition(",")[0])

# %% [markdown]
# Train on dense features, multiplied by the mask; skip at inference. The functional operator refuses rather than giving
# half a gradient. How a yes or a no passes a gradient at all is the subject of the
# [chapter on gradients](../training/gradients.ipynb).
#
# ## Where it breaks
#
# The mistake that everybody makes once: running the first layer on the *output* mask. It is the mask at hand, the
# program runs, the shapes fit. The cell does it twice, with a scratch map of zeros, and with one full of NaN.

# %%
conv1, conv2 = sparse.conv1, sparse.conv2
on_mask = ActiveSet.from_mask(masks["in cells"], granularity=4, size=(28, 28))
kept = on_mask.to_mask().expand(-1, 128, -1, -1)
right = F.conv2d(
    F.conv2d(x, conv1.weight, conv1.bias).relu(), conv2.weight, conv2.bias, padding=1
)
for fill in (0.0, float("nan")):
    h = torch.full((1, 128, 28, 28), fill, device=device).contiguous(
        memory_format=torch.channels_last
    )
    kernels.masked_conv2d(x, conv1.weight, conv1.bias, on_mask, activation="relu", out=h)
    y = kernels.masked_conv2d(h, conv2.weight, conv2.bias, on_mask, padding=1)
    wrong = ((y - right).abs() > 1e-3) | y.isnan()
    positions = wrong[kept].view(-1).float().mean()
    print(
        f"scratch of {fill}: over half of the active numbers wrong: {bool(positions > 0.5)},"
        f" NaN: {bool(y.isnan().any())}"
    )

# %% [markdown]
# With zeros nothing fails: most active outputs are simply wrong, since in 4x4 cells twelve of sixteen positions lie at
# a border. Nothing but a comparison with the dense block tells. NaN makes the mistake loud, because a single
# uninitialised value that is read spoils every number it meets. All tests of the library fill what is not initialised
# with NaN for this reason, and so does the check of your fourth task.
#
# ```{admonition} You may stop here
# :class: tip
# What follows is needed by task 4, and by whoever wants to know what a GPU makes of all this. The first three tasks and
# the chapter on LASNet need only what you have read. Half an hour is left.
# ```
#
# ## From three passes to one kernel
#
# On a processor the gathered matrix stays in a cache. On a GPU, with large batches, it would travel to memory and back,
# and it is nine times as large as what was read. The cell counts the bytes of a 3x3 convolution with 256 channels on
# 14x14 maps, 128 images, 16-bit numbers, a quarter active in cells of 2x2.

# %%
positions, C, d, halo = 128 * 14 * 14, 256, 0.25, 0.68
A = d * positions
weights = 2 * 9 * C * C
three_passes = 2 * (halo * positions * C + 2 * A * 9 * C + 2 * A * C + A * C) + weights
one_kernel = 2 * (halo * positions * C + A * C) + weights
print(f"gather, product, scatter: {three_passes / 1e6:.0f} MB")
print(f"one kernel that reads in place: {one_kernel / 1e6:.0f} MB")

# %% [markdown]
# Six times the bytes, for the same arithmetic. The remedy is to gather *inside* the kernel: each program reads its rows
# from where they lie, straight into the fast memory beside the arithmetic units, and no gathered matrix ever exists.
# This is called an *implicit* matrix product.
#
# Kernels of this book are written in *Triton*: Python functions that work on small blocks of numbers. The same function
# is started many times as a *program*, each with its own number, and each takes its share of the rows. Without a GPU it
# runs in Triton's interpreter, one program after the other, which `kernels.interpreted` arranges. First we need a list
# of what each row reads, for each of the nine taps. For now it is a *table*, made beforehand.

# %%
mask = torch.zeros(1, 1, 6, 8, dtype=torch.bool)
mask[0, 0, 1:3, 2:4] = mask[0, 0, 0, 6:] = mask[0, 0, 4, 0] = mask[0, 0, 5, 7] = True
number = torch.arange(48.0).view(1, 1, 6, 8) + 1  # 0 will mean outside
taps = F.unfold(number, 3, padding=1)[0, :, mask.flatten()].long() - 1
listed = ActiveSet.from_mask(mask)
print("taps x rows:", tuple(taps.shape))
print("row 0 reads", taps[:, 0].tolist())
print("row 7 reads", taps[:, 7].tolist())

# %% mystnb={"image": {"alt": "Left a 6x8 map with eight numbered active positions and their halo. Right, for nine taps, the positions in memory that two programs of four rows read: short runs side by side that move as the tap changes, and hollow marks in a grey strip at the left for taps that lie outside the map."}}
_ = plots.kernel_accesses(mask[0, 0], taps, tile=4)
plt.show()

# %% [markdown]
# Two programs of four rows each. Go through the right panel line by line: for one tap, a program reads four positions,
# and neighbours in the map are neighbours in memory, so that active positions side by side give short runs. Each mark
# is not one number but all channels of a position, one after the other: that is why *channels last* is the layout to
# have. Hollow marks lie outside the map. They must not be read; they count as zero.
#
# Here is the kernel. Every load that depends on the list has a mask: rows beyond the end of the list, and taps outside
# the map, are not read.


# %%
@triton.jit
def with_table(
    x, w, table, idx, cnt, y, A,
    C: tl.constexpr, K: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """x (positions, C), w (9 C, K), table (9, A), idx (A,) -> y (positions, K)."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    listed = rows < tl.load(cnt)
    c, k = tl.arange(0, C), tl.arange(0, K)
    acc = tl.zeros((BM, K), tl.float32)
    for tap in range(9):
        read = tl.load(table + tap * A + rows, mask=listed, other=-1)
        a = tl.load(x + read[:, None] * C + c[None, :], mask=(read >= 0)[:, None], other=0)
        b = tl.load(w + (tap * C + c)[:, None] * K + k[None, :])
        acc = tl.dot(a, b, acc)
    write = tl.load(idx + rows, mask=listed, other=0)
    tl.store(y + write[:, None] * K + k[None, :], acc, mask=listed[:, None])


# %% [markdown]
# It is the three steps again, without the copies: the gather is the load of `a`, the product is `tl.dot`, which adds to
# a block of sums, and the scatter is the last line. Three programs are started although two would do. A GPU starts as
# many as there *might* be work for, since the number of active positions lies in its own memory and asking for it would
# make the host wait; the third program finds that none of its rows is listed.

# %%
x8, w8 = torch.randn(1, 8, 6, 8), torch.randn(16, 8, 3, 3)
rows8 = x8.permute(0, 2, 3, 1).reshape(48, 8).contiguous()
w_rows = w8.permute(2, 3, 1, 0).reshape(72, 16).contiguous()
y = torch.full((48, 16), -7.0)
kernels.interpreted(with_table)[(3,)](
    rows8, w_rows, taps.contiguous(), listed.idx, listed.cnt, y, 8, C=8, K=16, BM=4
)
y = y.view(1, 6, 8, 16).permute(0, 3, 1, 2)
want = kernels.masked_conv2d(x8, w8, mask=mask, padding=1)
assert torch.allclose(torch.where(mask, y, 0), want, atol=1e-5)
print("active rows right, others untouched:", bool((y[~mask.expand_as(y)] == -7).all()))

# %% [markdown]
# The rows that are not active still hold the -7 they were filled with: the kernel wrote eight rows and no more.
#
# The table is what the first sparse libraries built (spconv's index pairs are one {cite}`spconv2022`). It costs nine
# numbers a row and a pass to make it. For a map on a regular grid it is not needed: position and tap say where to read,
# by arithmetic, and whether that is inside. Replacing the table by arithmetic is your fourth task. The library's kernel
# does exactly that, with more channels than fit into one block, strides, cells, and the residual sum at the end.
#
# ## The staircase
#
# One more effect has nothing to do with bytes. The result of a convolution is cut into *tiles*, say 128 rows by 128
# channels, and each tile is worked off by one processor of the GPU. An H200 has 132 of them. If there are 133 tiles,
# one processor takes a second tile while the others wait.
#
# **Predict (c).** 256 channels, 14x14 positions, 128 images. We lower the density from 0.33 to 0.25. How much faster
# does the convolution get? (i) by a quarter, (ii) by less, since the fixed price stays, (iii) not at all.

# %% tags=["hide-output"] mystnb={"image": {"alt": "Computed rounds of tiles over density: a staircase of steps one high and about a third wide, beside the straight line of the work. Marks at densities 0.25 and 0.33, both on the first step with 98 and 130 tiles, and at 0.34 on the second with 134."}}
for d in (0.25, 0.33, 0.34):
    tiles, rounds = plots.waves(d, 128 * 14 * 14, 256)
    print(f"d = {d}: {tiles} tiles, {rounds} round{'s' if rounds > 1 else ''}")
_ = plots.wave_staircase(128 * 14 * 14, 256, marks=(0.25, 0.33, 0.34))
plt.show()

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because the line of the work falls by a quarter. But 130 tiles and 98 tiles both fit on 132 processors at
# once, and the time is that of one tile: (iii), *by calculation*. At a density of 0.34 there are 134 tiles, two rounds,
# and twice the time. Smaller tiles make the steps smaller and every tile less efficient.
# ```
#
# This is a prediction. It is drawn from the sizes alone, and a machine softens the steps, since tiles do not all end
# together. Whether it can be seen is a matter of measuring it. If the bench has been run on a GPU, the next figure
# shows what was found there; the number of images is 64.

# %% mystnb={"image": {"alt": "Recorded runs on a GPU for two blocks, times as fast as dense over the share of active positions, with floors; where no run is recorded, the panels say so."}}
record = bench.latest("sparse-conv", "cuda")
_ = plots.recorded_skipping(
    record, ["block 512-128 at 28, N=64", "block 1024-256 at 14, N=64"]
)
plt.show()

# %% tags=["nbval-ignore-output"]
print(bench.caption(record) if record else "On a GPU: course bench sparse-conv --record")

# %% [markdown]
# Where the figure says that nothing is recorded, take the floors and the staircase for what they are: the best that
# could be. No claim about a GPU in this book rests on a calculation alone without saying so.
#
# ## Exercises
#
# They wait in [exercises/spatial/sparse_conv](../../exercises/spatial/sparse_conv.ipynb), and answer at once. The first
# three need the first sitting only.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `halo` | the positions that active outputs look at | 1 | 8 |
# | `break_even` | the density below which skipping wins | 2 | 12 |
# | `masked_conv` | gather, product, scatter for a 3x3 convolution | 4 | 25 |
# | `masked_conv_kernel` | addresses and masks of a Triton kernel | 5 | 40 |
#
# ## Recap
#
# - Gather, multiply, scatter: work follows the active rows.
# - The convolution before a 3x3 pays for the halo; cells make it small.
# - Exact means equal to dense at active positions, not "inactive inputs are zero".
# - Break-even is (dense - fixed) divided by (sparse at full density - fixed).
# - Learned masks need dense features to get a gradient; sparse execution is for inference.
#
# ## Where next
#
# [LASNet](lasnet.ipynb) learns where to skip, in cells, and chooses their size for a machine. The library's module
# `spatial/pixel_masks` has two relatives that decide pixel by pixel, SACT {cite}`figurnov2017sact` and DynConv
# {cite}`verelst2020dynconv`; both run on the operator of this chapter.
#
# ## References
#
# Masks on residual blocks and the dilation of the mask for the first layer: {cite}`verelst2020dynconv`, section 3, and
# {cite}`han2022lasnet`, section 3. Gathering blocks with their halo: {cite}`ren2018sbnet`. Submanifold convolution:
# {cite}`graham2018submanifold`. Triton: {cite}`tillet2019triton`. Spatially adaptive inference: section 3 of the survey
# {cite}`han2021dynamic`.
