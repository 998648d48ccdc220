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
# # How sharp must a picture be?
# *55 min reading · 75 min exercises · needs [MSDNet](../instance/msdnet.ipynb) · CPU, under 60 s; GPU optional*
#
# Some pictures can be named from a few coarse pixels, others cannot. This chapter builds a network that looks coarsely
# first and sharply only if it must, trains it beside the network of the chapter before, and asks both ledgers which of
# the two is better. Terms in *italics* stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *explain* how lanes that run from coarse to fine make depth and resolution one axis;
# - *count* what stem and exits of such a network really cost;
# - *write* inference in which the stored features leave together with their pictures;
# - *separate* two causes of difficulty that usually come together, and say which of them sends pictures on;
# - *judge* two networks by multiply-adds and by the clock when the two ledgers disagree.

# %%
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display
from scipy.stats import spearmanr

import course_lib
from course_lib import bench, data, decision, measure, plots, train
from course_lib.instance.msdnet import MSDNet
from course_lib.spatial.drnet import DRNet, drnet_loss
from course_lib.spatial.ranet import RANet

plots.use_style()
course_lib.seed_everything(1)
device = course_lib.device()
# on a GPU: no answer may depend on the batch it was computed in
torch.backends.cudnn.allow_tf32 = False

# %% [markdown]
# ## The question
#
# RANet {cite}`yang2020ranet` is a network for photographs of 224x224 pixels that names easy ones early, from coarse
# features. By the authors' figure, 63.1 % of the ImageNet pictures would be named correctly at its first exit
# (*published*, read off to a tenth of a point). The cell builds the network without its weights, on torch's `meta`
# device, and counts as the authors do.

# %%
with torch.device("meta"):
    published = RANet.imagenet(channels=64, factors=(4, 2, 2, 1))
ruler = published.exit_costs(224, convention="published")
parts = published.cost_parts(224)
print(f"exit 1: {ruler[0] / 1e9:.3f} G of {ruler[-1] / 1e9:.2f} G at the last exit")
print(f"multiply-adds of the stem: {sum(parts.stem) / 1e9:.3f} G")

# %% [markdown]
# An answer at exit 1 costs 0.435 G, about an eighth of the whole. But half of that, 0.219 G, went into the *stem*: the
# first few convolutions, which start from every pixel at full resolution. Have the easy pictures been spared the fine
# pixels?
#
# **Before you read on, say what you would do** if you had to spend less on the stem, and what you would lose.
#
# ## Lanes, coarse to fine
#
# MSDNet carries all *scales* along from the first layer to the last and classifies from the coarsest. RANet runs them
# one after the other. The coarsest *lane* (the paper says sub-network) runs first, from its first block to its last. If
# none of its exits is sure enough, the next lane starts, at twice the resolution, and so on. The picture shows the
# default network for 32x32 pixels, drawn from the model itself.

# %% mystnb={"image": {"alt": "Three rows of boxes, coarsest on top. The first lane has two flat white boxes with exits 1 and 2. The second lane has two striped boxes under them, the second of which narrows to the right, and two flat white boxes with exits 3 and 4; the third lane four striped and two white ones. Curved arrows lead from each box to the striped box below it. A tall dark bar at the left, the stem, feeds all lanes. What lies behind exit 3 is pale and hatched."}}
cifar = RANet.cifar(10)
_ = plots.lanes(cifar, 32, exit_index=2, costs=False)
plt.show()

# %% [markdown]
# Read it like a page: left to right, then the next line. A box is a *block* of dense layers, its height the resolution,
# its number the channels it gives. White blocks are as in MSDNet, and each carries an exit, a numbered diamond. Striped
# blocks are *fusion blocks*: each follows, layer by layer, the block above it, and takes a quarter of its new channels
# from there (rounded down: in the finest lane one of six). So a lane does not start anew; it begins with what the lane
# before has found out. Where the right edge slants, the last layer halves the resolution. Every lane ends on coarse
# maps, as a classifier wants them, and the stem, at the left, computes the first map of every lane before any of them
# runs.

# %% [markdown]
# ## One fusion layer
#
# Where maps of two resolutions meet, one must be resized. RANet does that bilinearly, corner pixel on corner pixel
# (`align_corners=True`). On a row of pixels the rule fits in three lines: pixel $i$ of $m$ sits at position
# $i\,(n-1)/(m-1)$ of the old row of $n$ and mixes its two neighbours there. The cell enlarges four pixels to seven by
# hand and compares with torch.

# %%
row, m = [0.0, 3.0, 3.0, 9.0], 7
by_hand = []
for i in range(m):
    at = i * (len(row) - 1) / (m - 1)
    left = min(int(at), len(row) - 2)
    by_hand.append(row[left] + (at - left) * (row[left + 1] - row[left]))
grid = torch.tensor(row)[None, None, None]
resized = F.interpolate(grid, (1, m), mode="bilinear", align_corners=True).flatten()
assert torch.allclose(resized, torch.tensor(by_hand))
print("four pixels as seven:", by_hand)

# %% [markdown]
# The corners stay where they are, and here every second new pixel is an old one. A fusion layer then is: new channels
# of its own, new channels from the coarse state, both at one size, appended to what was there. In symbols, with $x_i$
# the lane's own state before layer $i$ and $\ell_i$ the state of the lane before, *before its layer $i$*,
#
# $$
# x_{i+1} = \bigl[\; r(x_i),\; r(h_\ell(\ell_i)),\; h(x_i) \;\bigr] ,
# $$ (eq-ranet-fusion)
#
# where $h$ and $h_\ell$ are a 1x1 and a 3x3 convolution each, and $r$ resizes to the size of $h(x_i)$. The function
# below is this line; the assertion compares it with the library's layer on random maps.


# %%
def fuse(x, low, layer):
    """x (N, C, H, W), low (N, C', h, w) -> (N, C + growth, H', W')."""
    own = layer.own(x)
    resize = partial(F.interpolate, size=own.shape[2:], mode="bilinear", align_corners=True)
    return torch.cat([resize(x), resize(layer.low(low)), own], 1)


cifar.eval()
shrinking = cifar.lanes[1][1].layers[3]  # lane 2, block 2: the layer that halves
x, low = torch.randn(2, 136, 16, 16), torch.randn(2, 232, 8, 8)
with torch.no_grad():
    assert torch.equal(fuse(x, low, shrinking), shrinking(x, low))
print("in:", tuple(x.shape[1:]), "and", tuple(low.shape[1:]))
print("out:", tuple(fuse(x, low, shrinking).shape[1:]))

# %% [markdown]
# Twelve channels came in, three of them from the coarse lane, and the map went from 16x16 to 8x8: the own path has
# stride 2 there, and what was there before is shrunk by the same interpolation. Whatever a block has taken over layer
# by layer, at its end it takes once more: the final state of the block above, in a quarter of the channels it has by
# now (the *closing copy*). For the first fusion block the number in the picture can be checked on paper.

# %%
own, growth, layers = 32, 12, 4
after = own + layers * growth
print(
    f"{own} + {layers} x {growth} = {after}; a quarter of that more: {after + after // 4}"
)
assert after + after // 4 == cifar.lanes[1][0].channels == 100

# %% [markdown]
# ## Depth and resolution, one axis
#
# All exits stand in one line now: deeper in the coarse lane, then sharper, then deeper again. A threshold at each exit
# decides as in the [chapter before](../instance/msdnet.ipynb), and nothing about shares, budgets or held-out data needs
# to be said again. What is new is where the cost goes. The lanes get narrower as they get finer (their growth rates are
# as 4 to 2 to 1), because a fine map is expensive.
#
# **Predict (a).** Exit 2 of 6 is still in the coarsest lane, on maps of 8x8 pixels. Which share of the last exit's cost
# has been spent there? (i) about a tenth, (ii) under a third, (iii) nearly half.

# %% tags=["hide-output"] mystnb={"image": {"alt": "The lanes of the default network up to exit 2, and below them for each exit a bar made of stem, blocks and heads. The bar of exit 2 is nearly half as long as that of exit 6, and the heads' part grows to about a third."}}
_ = plots.lanes(cifar, 32, exit_index=1)
plt.show()
costs = cifar.exit_costs(32)
spent = cifar.cost_parts(32)
finest = sum(spent.blocks[2]) + sum(spent.heads[4:])
print(f"exit 2: {costs[1] / costs[-1]:.0%} of exit 6")
print(f"the third lane with its two heads: {finest / costs[-1]:.0%}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (ii) tempts, because the maps are the smallest there are, and two exits of six are a third. It is 47 %: (iii). The
# coarse lane is the widest, with four times the growth of the finest, and by exit 2 it has paid for two heads. The
# whole third lane, the one that looks at 32x32 pixels, is only 22 %. Being coarse made the work cheap, and the
# network's designers spent what they saved on channels.
# ```

# %% [markdown]
# ## What exits and stem cost
#
# The bars show two costs that a drawing of blocks hides. The first are the *heads*. Each is two convolutions of 128
# channels and a classifier, and it is run for every picture that asks there. The second is the stem. The cell takes
# both apart, for the small network and for the one of the opening question.

# %%
total = sum(p.numel() for p in cifar.parameters())
in_heads = sum(p.numel() for p in cifar.heads.parameters())
print(f"CIFAR network: heads hold {in_heads / total:.0%} of {total:,} parameters")
print(f"  and do {sum(spent.heads) / costs[-1]:.0%} of the multiply-adds")
stem, lane, head = parts.spent(0)
whole = stem + lane + head
print(f"ImageNet network, exit 1: stem {stem / whole:.0%}, head {head / whole:.0%}")

# %% [markdown]
# Four parameters in five sit in the exits, and they do about a third of the work. At the first exit of the ImageNet
# network stem and head together do three quarters; a quarter is left for the lane that gives the answer. So to the
# opening question: no. "Easy pictures never see fine pixels" is true only *after* the stem. Every picture pays for
# all of it, because the coarse map is computed from the fine one. On CIFAR the stem is a fifth of exit 1, on ImageNet
# half. That is also the limit of what an early exit can save.

# %% [markdown]
# ## Who depends on whom
#
# "Features are fused" sounds as if all were mixed with all. Before we rely on lanes being left out, let us see what an
# exit depends on.
#
# **Predict (b).** Put random numbers into all weights of lanes 2 and 3. Which exits change their answers? (i) all six,
# (ii) exits 3 to 6, (iii) exits 5 and 6 only.

# %% tags=["hide-output"]
x = torch.rand(4, 3, 32, 32)
with torch.no_grad():
    before = cifar(x)
    for lane in cifar.lanes[1:]:
        for parameter in lane.parameters():
            parameter.normal_()
    changed = [not torch.equal(a, b) for a, b in zip(before, cifar(x), strict=True)]
for k, differs in enumerate(changed, start=1):
    print(f"exit {k}: {'changed' if differs else 'the same, to the last bit'}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because fused sounds mutual. But information flows one way, from coarse to fine: (ii). Exits 1 and 2 do not
# know whether a lane 2 exists. That is what makes it safe not to run it, and a test of the library proves it for every
# lane. It is also the difference from MSDNet, where features flow from fine to coarse.
# ```

# %% [markdown]
# ## Two networks, one set of pictures
#
# Now train it, beside MSDNet, on the same pictures, for the same epochs. `RANet.tiny` has two lanes, at 8x8 and 16x16
# pixels, and its total cost was chosen to equal that of `MSDNet.tiny`, so that neither network is ahead because it may
# spend more in the end.

# %%
networks = {"MSDNet": MSDNet.tiny(), "RANet": RANet.tiny()}
budgets = {name: net.exit_costs(16, convention="lazy") for name, net in networks.items()}
for name, ladder in budgets.items():
    print(f"{name:>6}:", "  ".join(f"{cost / 1e6:.2f}" for cost in ladder), "M")
gap = budgets["RANet"][-1] / budgets["MSDNet"][-1] - 1
assert abs(gap) < 0.05
print(f"at the last exit RANet costs {gap:.1%} more")

# %% [markdown]
# In the pictures of the chapter before, whatever was small was also noisy and off centre, since one number, the
# difficulty, set them all. For the question "who needs high resolution?" that will not do: a small and noisy picture
# that stays long proves nothing about size. So this time radius and noise are drawn *independently*, each over the
# same range as before.


# %%
def draw(number, seed):
    """Shapes whose radius and noise know nothing of each other."""
    generator = torch.Generator().manual_seed(seed)
    radius = 16 * (0.14 + 0.26 * torch.rand(number, generator=generator))
    noise = 0.05 + 0.15 * torch.rand(number, generator=generator)
    return data.shapes(number, seed=seed, radius=radius, noise=noise)


sets = {"train": draw(4000, 1), "validation": draw(2000, 2), "test": draw(3000, 3)}
pairs = {name: ((s.images - 0.5) * 2, s.labels) for name, s in sets.items()}
test = sets["test"]
unrelated = abs(spearmanr(test.radius, test.noise).statistic) < 0.05
assert unrelated
print("radius and noise unrelated:", unrelated)

# %% [markdown]
# Five epochs each, at a lower learning rate than in the chapter before, because RANet learns more steadily with it. The
# two trainings have nothing to do with each other, so they run side by side, one on each core. It takes half a minute.

# %%
recipe = {"epochs": 5, "batch_size": 64, "lr": 0.03, "seed": 1, "progress": False}
with ThreadPoolExecutor(2) as pool:
    started = [
        pool.submit(train.fit, net.to(device), pairs["train"], **recipe)
        for net in networks.values()
    ]
    print("steps of each:", [run.result().steps for run in started])

# %% [markdown]
# As before, a *study* keeps the logits of all exits on validation and test pictures, and answers all later questions
# without the network.

# %%
studies = {}
for name, net in networks.items():
    study = train.study(net, pairs["validation"], pairs["test"])
    better = study.accuracies[-1] - study.accuracies[0] > 0.03
    assert better
    studies[name] = study
    print(f"{name:>6}: last exit at least 3 points above the first:", better)

# %% [markdown]
# ## One plot of cost, one plot of time
#
# For both networks the same dial $\rho$ is turned through its range, with thresholds from the validation pictures. The
# left panel will show what the test pictures cost on average in multiply-adds. For the right panel four settings are
# run and timed: `infer` on batches of 256, with BatchNorm folded in, the calls of both networks taking turns.


# %%
def in_batches(net, bars, parts):
    return [net.infer(part, bars) for part in parts]


folded = {name: measure.fold_batchnorm(net) for name, net in networks.items()}
x = pairs["test"][0][:512].to(device)
dials = (0.3, 0.6, 1.0, 1.5)
runs = {
    (name, rho): partial(in_batches, folded[name], study.thresholds(rho), x.split(256))
    for name, study in studies.items()
    for rho in dials
}
timings = measure.compare(runs, rounds=3, warmup=2)

# %% [markdown]
# Every point of the right panel is one of these settings: its accuracy on all test pictures against the median time a
# picture took in this run. In the left panel diamonds are the exits taken by everybody.

# %% mystnb={"image": {"alt": "Two panels with test accuracy upwards. Left, against multiply-adds: the curves of MSDNet and RANet rise steeply and flatten from about 2 M on; they need not lie in the same order everywhere. Right, against measured milliseconds a picture: RANet's curve has moved to the left, relative to MSDNet's."}}
work, clock, exits = {}, {}, {}
for name, study in studies.items():
    points = study.sweep()
    reached = [p.accuracy for p in points]
    work[name] = measure.CostCurve([p.cost / 1e6 for p in points], reached)
    exits[name] = measure.CostCurve([c / 1e6 for c in study.costs], study.accuracies)
    each = [1000 * timings[name, rho].median_s / len(x) for rho in dials]
    clock[name] = measure.CostCurve(each, [study.at_rho(rho).accuracy for rho in dials])
panels = {
    "mean cost a picture, M multiply-adds": work,
    "measured, ms a picture (batch 256)": clock,
}
_ = plots.accuracy_curves(panels, exits={next(iter(panels)): exits})
plt.show()

# %% [markdown]
# First the left panel. The paper reports RANet ahead, by 2 to 5 points on CIFAR-100 at low budgets (*published*, for
# anytime prediction). Here one run decides nothing: a training so short has no clear winner. That the paper's lead need
# not show at small budgets has a likely reason, not tested here. The paper compares with an MSDNet that computes all
# scales up to an exit, while ours is *lazy*: its first exit is computed from the 8x8 maps alone, behind a stem of two
# convolutions. It already is a network that looks coarsely first.

# %%
first = {name: round(ladder[0] / 1e6, 2) for name, ladder in budgets.items()}
print("cost of the first exits, M:", first)
scales = {scale for _, scale in networks["MSDNet"].nodes(0)}
assert scales == {1}
print("scales MSDNet computes for exit 1, 0 being the finest:", scales)

# %% [markdown]
# Now the right panel. The two curves have moved against each other, in favour of RANet: a multiply-add of the one takes
# less time than a multiply-add of the other. The next cell looks for a reason. It counts, for each exit, the
# convolutions that are run, the work each of them does, and how many numbers all of them read and write.


# %%
def convolutions(net, k):
    """For each convolution run for an answer at exit k, the numbers it reads and writes."""
    moved = []
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks = [
        m.register_forward_hook(
            lambda _, args, out: moved.append(args[0].numel() + out.numel())
        )
        for m in convs
    ]
    net.infer(x[:1], [torch.inf] * k + [0.0] * (net.exits - k))
    for hook in hooks:
        hook.remove()
    return moved


for name, net in folded.items():
    moved, cost = convolutions(net, 3), budgets[name][-1]
    print(
        f"{name:>6}, exit 4: {len(moved)} convolutions of {cost / len(moved) / 1e3:.0f} k"
    )
    print(f"        {cost / sum(moved):.0f} multiply-adds for each number read or written")

# %% [markdown]
# At the last exit RANet runs 32 convolutions where MSDNet runs 49, and each does 1.6 times as much work. A call has a
# fixed price (the [chapter on measuring](../start/measuring.ipynb) called it the price per call), and small calls pay
# it more often for their work. That matters for single pictures; over a batch of 256 it is spread thin. But larger
# convolutions also move less memory for each multiply-add, at every batch size. Which of the two counts for how much is
# not separated here. Three batch sizes, with the best setting of each network within a mean of 1.5 M:

# %% tags=["nbval-ignore-output"]
settings = {name: study.within(1.5e6) for name, study in studies.items()}
for name, setting in settings.items():
    print(f"{name:>6}: {setting.accuracy:.1%} at {setting.cost / 1e6:.2f} M")
for size, number in ((1, 64), (32, 512), (256, 512)):
    parts = x[:number].split(size)
    contenders = {
        name: partial(in_batches, folded[name], setting.thresholds, parts)
        for name, setting in settings.items()
    }
    timed = measure.compare(contenders, rounds=3)
    faster = measure.ratio(timed["MSDNet"], timed["RANet"])
    print(f"batch {size:3}: RANet {faster:.2f} times as fast as MSDNet")

# %% [markdown]
# Mind the accuracies printed above it: a network that is faster and names fewer pictures has not won. Which of the two
# is better depends on the ledger, on the batch, and, for networks this small, on the seed. A busy laptop is no
# benchmark either, so the next two figures draw *recorded* runs of `course bench budgeted --record`, if there are any:
# trainings of 375 steps on 24,000 pictures, three seeds. First how many times as fast as MSDNet RANet was: at equal
# accuracy, as planned on validation pictures (on test pictures they differ by up to one point), and within equal
# budgets. Squares stand for a queue before each block, `infer_stream` of the [chapter
# before](../instance/msdnet.ipynb).

# %% mystnb={"image": {"alt": "Recorded runs: how many times as fast as MSDNet RANet was, at equal accuracy and at equal multiply-adds, for batches of 1, 32 and 256, with a small mark for each training seed; a line at 1 divides faster from slower. Where no run is recorded, the panel says so."}}
recorded = {
    "shapes": bench.latest("budgeted", "cpu"),
    "fashion_mnist": bench.latest("budgeted", "cpu", data="fashion_mnist"),
}
_ = plots.recorded_networks(recorded)
plt.show()

# %% tags=["nbval-ignore-output"]
for name, record in recorded.items():
    print(f"{name}: {bench.caption(record) if record else 'no recorded run yet'}")

# %% [markdown]
# In the runs recorded for this edition, on the shapes, RANet was 1.3 to 1.7 times as fast within equal budgets (medians
# of the seeds), at every batch size, and a point or two less accurate there. At *equal accuracy* it was from 0.7 to 1.3
# times as fast, seed by seed, and the seed with the largest ratio is the one in which RANet was nearly a point behind
# on test pictures. Neither has won.
#
# And the two panels of this section once more, as recorded on shapes: at the left the median of the seeds with their
# range as a band, at the right the clock, for one seed, the one in which RANet did worst. The bands do not overlap: by
# multiply-adds MSDNet leads, by one to two points. By the clock RANet leads where time is short. Mind what differs from
# our own run: the pictures are those of the chapter before, and the learning rate is 0.1 for both, which suits RANet
# less than the 0.03 above. Which of the two is the better network when each has its own rate, this record does not say.

# %% mystnb={"image": {"alt": "Recorded accuracy of MSDNet and RANet, left against multiply-adds with a band for the range over three seeds, right against measured time at batch 256. Where no run is recorded, the panels say so."}}
_ = plots.recorded_curves(recorded["shapes"])
plt.show()

# %% [markdown]
# ## Which pictures needed the fine lane?
#
# Back to what the network decides. We take the cheapest setting that loses at most a quarter of a point on the
# validation pictures, and look at who got past exit 1. Everything behind it is lane 2, the one at full resolution.
#
# **Predict (c).** Radius and noise were drawn apart. Who is sent on to the sharp lane: (i) the noisy pictures, (ii) the
# small ones, (iii) both alike?

# %% tags=["hide-output"] mystnb={"image": {"alt": "Three panels. Radius by exit: boxes fall from about 5 pixels at exit 1 to under 3 at exit 4. Noise by exit: boxes stay nearly level. Mean exit over radius and noise: the colour changes from left to right, with the radius, and hardly upwards, with the noise."}}
study = studies["RANet"]
setting = study.cheapest()
taken = study.exit_index(setting.thresholds)
_ = plots.size_and_noise(test.radius, test.noise, taken, 4)
plt.show()
by_size = spearmanr(test.radius, taken).statistic
by_noise = spearmanr(test.noise, taken).statistic
assert by_size < -0.3 < by_noise < 0.3
print("rank correlation of radius and exit below -0.3:", by_size < -0.3)
print("that of noise and exit between -0.3 and 0.3:", abs(by_noise) < 0.3)

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because noise is what the eye complains of first, and in most data sets hard pictures are everything at
# once. Here it is size: (ii). The smaller the shape, the later it leaves, and noise shifts the exit only a little, most
# visibly among the small shapes. A likely reason, not tested here: a large shape covers many pixels, over which the
# grain averages out.
# ```

# %% [markdown]
# Three cautions. Noise up to 0.2 is mild for these contrasts; with more of it the answer could be another. Small shapes
# also lie farther off centre here, because they have more room. And lane 2 is deeper as well as sharper: that small
# shapes go there does not prove that pixels, rather than layers, were what they lacked. The same figure drawn for
# MSDNet would look alike, as the numbers below say. What RANet adds is not the discovery of who is hard, but where it
# spends on them.

# %%
other = studies["MSDNet"].exit_index(studies["MSDNet"].cheapest().thresholds)
same = spearmanr(test.radius, other).statistic < -0.3
assert same
print("MSDNet, rank correlation of radius and exit below -0.3:", same)
radii = [float(test.radius[taken == k].mean()) for k in range(4)]
assert radii == sorted(radii, reverse=True)
print("RANet, mean radius falls from exit to exit:", radii == sorted(radii, reverse=True))

# %% mystnb={"image": {"alt": "Four rows of small pictures, one an exit, each with the share that left and its mean radius. In the upper row large shapes, some of them under strong noise; in the lower rows smaller and smaller ones, some of them quite clean."}}
_ = plots.who_left_where(test.images, taken, 4, test.radius, what="mean radius")
plt.show()

# %% [markdown]
# The upper row holds large shapes, some of them in thick grain. The lower rows hold small ones, some of them clean. A
# picture of the network has, for comparison, the picture beside each lane, shrunk to its size. (The lane itself sees
# maps that the stem has computed from all the pixels.) Compare what is left of the outline at 8x8.

# %% mystnb={"image": {"alt": "The two lanes of the small network, all of it needed for exit 4, with a picture of a small shape at the left: a blurred spot of a few pixels beside the lane at 8x8, a recognisable shape beside the lane at 16x16. Below, bars of cost for the four exits; the stem is nearly half of the first."}}
late = (taken == 3).nonzero().flatten()
smallest_clean = late[test.noise[late].argmin()]
_ = plots.lanes(
    networks["RANet"], 16, exit_index=3, picture=test.images[smallest_clean], width=8
)
plt.show()

# %% [markdown]
# ## Really leaving
#
# A picture that leaves must take everything of its own along: its features, its maps from the stem for the lanes to
# come, and all that the lane before has stored for fusion. `infer` gathers every one of them for those who stay. Hooks
# on the blocks count the rows, and the answers are compared with the simulation from stored logits.


# %%
def rows_seen(net, run):
    """Run `run()` and return for each block, lane after lane, the rows it worked on."""
    seen = [0] * len(net.blocks)

    def note(_, args, i):
        seen[i] += len(args[0])

    hooks = [
        block.register_forward_pre_hook(partial(note, i=i))
        for i, block in enumerate(net.blocks)
    ]
    result = run()
    for hook in hooks:
        hook.remove()
    return result, seen


model, thresholds = networks["RANet"].eval(), torch.tensor(setting.thresholds)
x, labels = pairs["test"][0][:256].to(device), test.labels[:256]
result, rows = rows_seen(model, lambda: model.infer(x, thresholds))

# %% [markdown]
# What should they have seen? Block 1 everybody, and the blocks up to exit $k$ whoever has not left before it. The
# simulation from the stored logits knows who that is.

# %%
there = [int((taken[:256] >= k).sum()) for k in range(4)]
assert torch.equal(result.exit_index.cpu(), taken[:256])
assert rows == [there[0], there[1], there[1], there[2], there[3]]
print(
    "each block saw exactly those still there:", rows == [there[0], *there[1:2], *there[1:]]
)

# %% mystnb={"image": {"alt": "Rows each of five blocks worked on, for 256 pictures. Everybody at once: 256 five times. With infer: 256 in block 1, the coarse lane, then about three quarters in the two blocks that lead to exit 2, and few in the last two; the remainder is pale and hatched."}}
_, all_rows = rows_seen(model, lambda: model.infer(x, [2.0] * 4))
_ = plots.rows_per_block({"everybody to the end": all_rows, "infer": rows}, 256)
plt.show()
static = study.costs[-1] - sum(networks["RANet"].cost_parts(16).heads[:3])
assert static > 1.5 * setting.cost
print("under two thirds of the work of the last exit alone:", static > 1.5 * setting.cost)

# %% [markdown]
# Block 1 is the whole coarse lane, blocks 2 to 5 are lane 2: its fusion block and its three plain ones. The fusion
# block carries no exit, so the second and the third bar are equal. When all pictures of a batch are sure at exit 1,
# lane 2 does not run at all.

# %%
_, easy = rows_seen(model, lambda: model.infer(x, [0.0, 0.0, 0.0, 0.0]))
assert easy == [256, 0, 0, 0, 0]
print("rows when everybody leaves at exit 1:", easy)

# %% [markdown]
# ## Deciding before looking
#
# RANet finds out that it needs more pixels by looking at too few, and keeps what it saw. Its small relative DRNet
# {cite}`zhu2021drnet` decides *beforehand*: a tiny predictor glances at a coarse copy and picks the resolution at which
# one ordinary network will look, once. The network is shared by all resolutions, except that each has its own
# BatchNorm, since the statistics differ. The choice is a hard one, learned with *Gumbel-softmax* noise (the [chapter on
# gradients](../training/gradients.ipynb) explains it), and the loss charges what is spent above a target. First the
# network learns at both resolutions, then both parts together.

# %%
course_lib.seed_everything(1)
glancing = DRNet.tiny().to(device)
price = glancing.costs()
loss = partial(drnet_loss, costs=price, target=sum(price) / 2, eta=0.3)
recipe = {"batch_size": 64, "lr": 0.05, "seed": 1, "progress": False}
train.fit(glancing.network, pairs["train"], epochs=5, **recipe)
train.fit(glancing, pairs["train"], epochs=2, loss=loss, **recipe)
print("a look at 8x8 costs", round(price[1] / price[0], 2), "of one at 16x16")

# %% [markdown]
# A picture of half the side costs a quarter. Did the predictor send the right ones there?

# %%
glance = glancing.eval().infer(pairs["test"][0].to(device))
coarse = glance.resolution.cpu() == 1
share = float(coarse.double().mean())
apart = float(test.radius[coarse].mean() - test.radius[~coarse].mean())
assert 0.1 < share < 0.9
assert apart > 0.3
print("both resolutions are used:", 0.1 < share < 0.9)
print("looked at coarsely: larger by more than 0.3 pixels on average:", apart > 0.3)
print(f"the predictor's glance costs {glancing.predictor.cost() / 1e6:.2f} M")

# %% [markdown]
# Larger shapes are looked at coarsely, after a glance of 0.02 M multiply-adds, and nobody told it about size. But are
# those it sent the ones that can afford it? The network run at both resolutions on everybody tells what each picture
# loses by being shrunk.

# %%
with torch.inference_mode():
    both = [out.cpu().argmax(1) for out in glancing.network(pairs["test"][0].to(device))]
right = [(answer == test.labels).double() for answer in both]
lost = [float((right[0] - right[1])[who].mean()) for who in (coarse, ~coarse)]
assert lost[1] > lost[0]
print("those kept sharp would have lost more than those sent:", lost[1] > lost[0])
print("those sent lose something, too:", lost[0] > 0)

# %% [markdown]
# Better than chance, and far from perfect. Deciding beforehand is simple, fast and easy to batch. Its weakness is the same: the decision cannot look at
# how sure the answer turned out to be, and a picture sent to the coarse side by mistake has no second lane. `infer`
# sorts the batch by resolution, so each picture runs once, and the resolution nobody wanted does not run.

# %% [markdown]
# ## Where it breaks
#
# Three mistakes, of which the first is the one to remember. *Stale rows*: the survivors move on to the next lane, and
# the stored maps of the lane before stay as they were, one row for every picture of the batch. A program that then
# takes the first rows gets no error. It fuses a picture with the coarse features of another one.

# %%
stay = (taken[:256] > 0).nonzero().flatten().to(device)
with torch.inference_mode():
    state = model.start(x)
    model.advance(state, 0)
    right = [m[stay] for m in state if m is not None]
    stale = [
        *right[:2],
        state[2][: len(stay)],
    ]  # own features moved on, stored ones did not
    answers = [model.advance(s, 1).argmax(1).cpu() for s in (right, stale)]
correct = [float((a == labels[stay.cpu()]).double().mean()) for a in answers]
assert correct[0] - correct[1] > 0.1
print("stale rows lose more than 10 points of accuracy:", correct[0] - correct[1] > 0.1)

# %% [markdown]
# The shapes fit, the program runs, and on a batch of one, or when nobody leaves, it is even right. So a test must let
# some of several pictures leave, and compare with each picture run alone.
#
# The second mistake hides in a word: what does a block hand to the lane after it? Its state after the last layer,
# *before* the closing copy and the transition. Whoever sizes the convolutions by the block's *output* gets a network
# that is built and trains all the same. Only the parameter count tells. The cell recounts the third lane of the CIFAR
# network as if its closing copies read the outputs.

# %%
count = sum(p.numel() for p in cifar.lanes[2].parameters())
mistaken = count
for block, above in zip(cifar.lanes[2], cifar.lanes[1], strict=False):
    mistaken += (above.channels - above.widths[-1]) * block.closing[0].out_channels
assert (count, mistaken) == (44644, 43836)
print(f"third lane, closing copies read the state: {count:,} parameters")
print(f"third lane, closing copies read the output: {mistaken:,}")

# %% [markdown]
# The third mistake is one of reasoning, and needs no bug. Here are the same thresholds on pictures as the chapter
# before drew them, where one number sets radius and noise together.

# %%
tied = data.shapes(1500, seed=5)
found = model.infer(((tied.images - 0.5) * 2).to(device), thresholds).exit_index.cpu()
size_of, noise_of = (spearmanr(v, found).statistic for v in (tied.radius, tied.noise))
assert abs(size_of + noise_of) < 0.01
print(
    "radius and exit below -0.3:",
    size_of < -0.3,
    "| noise and exit above 0.3:",
    noise_of > 0.3,
)
print("equally strong, with opposite signs:", abs(size_of + noise_of) < 0.01)

# %% [markdown]
# "Noisy pictures need high resolution" would be a fine sentence with a strong correlation behind it, and it would be
# false. In these pictures nothing can tell size from noise, because they were never apart. Whoever wants to claim a
# cause must be able to move it alone.
#
# ## Turn it yourself
#
# Three controls: radius and noise of one shape, and which shape it is. Its centre moves a little with the radius, since
# a small shape has more room; all else stays. Watch the picture at three resolutions, the confidence at each exit
# against the bar it must reach, the lanes that ran, and the cost.


# %%
@torch.inference_mode()
def glimpse(settings):
    """One row for each (radius, noise, shape)."""
    drawn = [
        data.shapes(10, seed=shape, radius=radius, noise=noise).images[:1]
        for radius, noise, shape in settings
    ]
    images = torch.cat(drawn)
    out = [o.cpu() for o in model(((images - 0.5) * 2).to(device))]
    titles = [f"radius {radius:.1f}, noise {noise:.2f}" for radius, noise, _ in settings]
    return plots.lanes_dashboard(model, images, out, thresholds, titles=titles)


# %% [markdown]
# The function draws a row for each setting; the sliders call it with one. They start with a shape that the first exit
# is sure of when it is large and clean, the surest of forty.

# %%
large = [
    data.shapes(10, seed=shape, radius=5.0, noise=0.05).images[:1] for shape in range(40)
]
with torch.inference_mode():
    at_once = model.at_exit(((torch.cat(large) - 0.5) * 2).to(device), 0)
surest = int(decision.confidence(at_once).argmax())
positions = [
    (5.0, 0.05, surest),
    (5.0, 0.2, surest),
    (3.2, 0.05, surest),
    (2.3, 0.05, surest),
]

# %% [markdown]
# The cell below works in a running notebook. The figure after it shows four positions of the hands.


# %% tags=["nbval-ignore-output"]
def show(radius, noise, shape):
    glimpse([(radius, noise, shape)])
    plt.show()


slide = partial(ipywidgets.FloatSlider, continuous_update=False)
hands = {
    "radius": slide(value=5, min=2.3, max=6.4, step=0.1, description="radius"),
    "noise": slide(value=0.05, min=0, max=0.3, step=0.01, description="noise"),
    "shape": ipywidgets.IntSlider(value=surest, min=0, max=39, description="shape"),
}
start = {name: hand.value for name, hand in hands.items()}
reset = ipywidgets.Button(description="back")
reset.on_click(lambda _: [setattr(hands[name], "value", v) for name, v in start.items()])
view = ipywidgets.interactive_output(show, hands)
display(ipywidgets.VBox([ipywidgets.HBox([*hands.values(), reset]), view]))

# %% mystnb={"image": {"alt": "Four rows of the same views. In the first a large clean shape passes the bar of exit 1 and only the coarse lane runs. Below, the same shape under strong noise and at two smaller radii, with a shorter first bar; where it misses the threshold, lane 2 lights up and the cost grows."}}
_ = glimpse(positions)
plt.show()

# %% [markdown]
# The four rows are four positions of the hands: large and clean, large and noisy, then clean and smaller. Follow the
# first bar downwards, and see which lanes light up. One shape proves nothing about all, as the next one will show
# you; what holds for all stands in the figure of radius and noise further up. Below 0.05 and beyond 0.2 the network has
# never seen such noise.
#
# ## At full size
#
# *Published, not run here.* Accuracies of the authors' networks {cite}`yang2020ranet`, read off their figures to about
# a tenth of a point; costs are our count with their counter.
#
# | exit | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
# |---|---|---|---|---|---|---|---|---|
# | CIFAR-100, M | 15.8 | 31.3 | 44.7 | 50.4 | 60.7 | 63.7 | 90.3 | 95.0 |
# | CIFAR-100, % | 66.3 | 69.4 | 71.7 | 71.7 | 72.3 | 72.5 | 73.8 | 74.4 |
# | ImageNet, G | 0.435 | 0.889 | 1.153 | 1.352 | 2.280 | 2.588 | 3.236 | 3.333 |
# | ImageNet, % | 63.1 | 67.4 | 69.5 | 70.4 | 74.0 | 74.6 | 74.6 | 74.8 |
#
# At 31 M RANet has 69.4 % on CIFAR-100, where MSDNet has 67.6 % for 38 M. In the recorded runs on our 16 pixels the
# order was another.

# %%
four_lanes = RANet.cifar(100, scales=(1, 2, 3, 3))
ladder = [
    round(cost / 1e6, 1) for cost in four_lanes.exit_costs(32, convention="published")
]
print("CIFAR-100, M:", ladder)
print("ImageNet, G:", [round(cost / 1e9, 3) for cost in ruler])

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/spatial/ranet](../../exercises/spatial/ranet.ipynb), and answer at once.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `exits_per_lane` | how many exits each lane has | 1 | 8 |
# | `exit_costs` | what an answer has cost, from the parts | 2 | 15 |
# | `fusion_widths` | the channels of a fusion block | 3 | 22 |
# | `infer` | inference over lanes that takes stored features along | 4 | 30 |
#
# ## Recap
#
# - In our pictures large shapes leave early and small ones late; noise matters little.
# - Lanes run coarse to fine, each fusing the one before.
# - The same rule as in MSDNet decides.
# - Count the stem and the heads: on CIFAR they are half of the first exit, and two fifths of the whole.
# - When images leave, the stored features must leave with them.
#
# ## Where next
#
# The [start page](../start/paths.ipynb) has the reading orders. Both networks were trained as if every exit had to know
# every picture; [the next chapter](../instance/l2w.ipynb) asks whether it should. How the hard choice of DRNet gets a
# gradient is the subject of [another one](../training/gradients.ipynb).
#
# ## References
#
# The network, its fusion blocks and its figures: {cite}`yang2020ranet`, sections 3 and 4. The baseline and the
# thresholds: {cite}`huang2018msdnet`. The predictor of resolutions: {cite}`zhu2021drnet`. Where spatial adaptation
# stands among dynamic networks: {cite}`han2021dynamic`, section 3.3.
