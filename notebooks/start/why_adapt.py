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
# # Why should every input cost the same?
# *30 min reading · 45 min exercises · needs nothing but a CNN, softmax and PyTorch tensors · CPU, under 60 s; GPU optional*
#
# You will train a small network, find out how much of its work each picture really needed, and learn to doubt, in the
# right places, the sentence "it does less, so it is faster". Terms set in *italics*
# where they first appear stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
#
# - *name* the three axes along which a network can adapt to its input, with an example of each;
# - *decide* with a short test whether a network is dynamic;
# - *count* the multiply-adds of a convolution and the mean cost of a network with exits;
# - *predict* what a gate and a cheaper layer do to the clock, and *measure* whether you were right.

# %%
import itertools
import math

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import nn

from course_lib import data, decision, device, measure, plots, seed_everything, train
from course_lib.instance.msdnet import MSDNet

plots.use_style()
# full precision on a GPU, too: results are compared below
torch.backends.cudnn.allow_tf32 = False
generator = seed_everything(0)
device = device()

# %% [markdown]
# ## The question
#
# A network with four exits spends 5.95 million multiply-adds on a 16 x 16 picture when it runs to its end. Its first
# exit could have answered after 0.42 million, a fourteenth of that. And for more than half of the pictures that the
# network names rightly at its end, the first exit is right already.
#
# **Whose are the other thirteen fourteenths of the work?** Before you read on, say what you would do: keep the whole
# network, keep the first exit only, or something else? And if something else, who would decide, picture by picture?
#
# Do not take these numbers on trust; the next cells make them. The pictures are drawn by a program: one of ten shapes
# each, together with a number between 0 and 1 that says how hard the picture is (small, off-centre and noisy is hard).
# The network never sees that number. It is `MSDNet.tiny`, the laptop-size version of a design that has [a chapter of
# its own](../instance/msdnet.ipynb); here it is enough to know that it can answer at four places. Its training takes
# some ten seconds. First the one thing every picture needs, pixels centred at zero:


# %%
def normalise(images):
    """Pixels from [0, 1] to [-1, 1], on the device of the network."""
    return ((images - 0.5) * 2).to(device)


# %% [markdown]
# It learns from one pass through 8000 pictures, all four exits at once.

# %%
lesson = data.shapes(8000, size=16)
model = MSDNet.tiny().to(device)
history = train.fit(
    model,
    (normalise(lesson.images), lesson.labels),
    epochs=1,
    batch_size=64,
    lr=0.1,
    progress=False,
)
_ = torch.set_grad_enabled(False)  # nothing below learns
print(f"{history.steps} steps of 64 pictures, {model.exits} exits")

# %% [markdown]
# What does an answer cost? The unit is the *multiply-add*, one multiplication with its addition, and the
# cost of an exit is *cumulative*: everything that has to run until that exit has answered (and, called *lazy*, nothing
# that can wait; the [chapter on msdnet](../instance/msdnet.ipynb) compares the ways to count).

# %%
costs = model.exit_costs(16, convention="lazy")
for k, cost in enumerate(costs, start=1):
    print(f"exit {k}: {cost / 1e6:.2f} M multiply-adds, {cost / costs[-1]:.0%} of the last")
print(f"the last exit costs {costs[-1] / costs[0]:.1f} times as much as the first")

# %% [markdown]
# And what is an answer worth? We ask all four exits about 2000 pictures the network has not seen. A short training
# ends a little differently on every machine, so the cell does not print percentages; it asserts, with a margin, what
# the rest of the chapter relies on. (Print `accuracy` if you want to see yours.)

# %%
test = data.shapes(2000, size=16, seed=1)
logits, labels = train.evaluate(model, (normalise(test.images), test.labels))
right = torch.stack([answer.argmax(1) == labels for answer in logits])  # right: (K, N) bool
accuracy = right.float().mean(1)
assert accuracy[0] > 0.45
assert accuracy[-1] > 0.65
assert accuracy[-1] > accuracy[0] + 0.05
print(
    "of 100: exit 1 names more than 45, the last exit more than 65, and at least 5 more than exit 1"
)

# %% [markdown]
# ## What an input needs
#
# To speak of waste we need a definition of *needed*. An exit that is right by luck, and overruled by a later one that
# is wrong, has not settled the matter. So let the exit a picture needs be the first one **from which on the answer
# stays right**. If the last exit is wrong, no exit was enough, and we give the number of exits, one past the last
# index. Here is that sentence as a loop, for one picture, on four cases you can check by eye.


# %%
def exit_needed(right_at_exit):
    """Index of the first exit from which on the answer stays right; the number of exits if
    there is none.
    """
    needed = len(right_at_exit)
    for k in reversed(range(len(right_at_exit))):
        if not right_at_exit[k]:
            break
        needed = k
    return needed


# %%
for case in ([1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 0]):
    print(case, "->", exit_needed(case))

# %% [markdown]
# For all pictures at once: going backward from the last exit, a running product stays 1 as long as every answer was
# right; the sum of the ones says how many exits at the end agree. The assertion proves that this is the loop,
# rewritten.

# %%
stays_right = right.flip(0).int().cumprod(0).flip(0)
needed = model.exits - stays_right.sum(0)  # needed: (N,) int64 in 0..K
assert needed.tolist() == [exit_needed(column) for column in right.T.tolist()]

# %% [markdown]
# Now the claim of the opening question can be checked. Among the pictures that the last exit names rightly, how many
# need the first exit only? And if each of them had been charged what it needs, what part of the bill would remain?

# %%
named = needed < model.exits
at_first = (needed[named] == 0).float().mean()
share_needed = torch.tensor(costs)[needed[named]].mean() / costs[-1]
assert at_first > 0.5
assert share_needed < 0.35
print("Of the pictures named rightly, more than half need exit 1 only;")
print("together they need less than 35 % of the work that a static network spends on them.")

# %% [markdown]
# That was waste **per sample**. A picture can also be wasted *inside*. The disc in the easiest of our pictures covers
# half of it, in the hardest a sixteenth; the rest is background that every layer convolves all the same. The two areas
# follow from the generator's formula for the radius.

# %%
for difficulty in (0, 1):
    radius = 0.40 - 0.26 * difficulty  # in image widths
    print(
        f"difficulty {difficulty}: a disc covers {math.pi * radius**2:.0%} of its picture"
    )

# %% [markdown]
# The outline of an object is not what a network needs, however. So we ask the network itself, on a grid of 4 x 4
# tiles: cover one tile after another with the background colour, for good, as long as the last exit's answer stays
# what it was.


# %%
def needed_tiles(image, side=4):
    """Which tiles (H / side, W / side) the answer needs, and the image with all others
    covered.
    """
    background = image.flatten(1).median(1).values[:, None, None]
    answer = model.at_exit(normalise(image[None])).argmax()
    tiles, covered = torch.ones(4, 4, dtype=torch.bool), image
    for row, column in itertools.product(range(4), range(4)):
        trial = covered.clone()
        y, x = side * row, side * column
        trial[:, y : y + side, x : x + side] = background
        if model.at_exit(normalise(trial[None])).argmax() == answer:
            tiles[row, column], covered = False, trial
    return tiles, covered


# %% [markdown]
# The third kind of waste is in **time**. The adding task is the classic example: a sequence of fifty numbers, two of
# them marked, and the answer is the sum of those two. A recurrent network is run on every step nevertheless. Counted
# for a small one, the fifty steps cost exactly 25 times what the two would.

# %%
values = torch.randint(100, (50,), generator=generator) / 100
marked = torch.zeros(50, dtype=torch.bool)
marked[[8, 36]] = True
reader = nn.GRU(input_size=2, hidden_size=32)  # reads (number, mark) step by step
fifty, two = (measure.count_macs(reader, torch.zeros(steps, 1, 2)) for steps in (50, 2))
print(f"{fifty:,} multiply-adds for 50 steps, {two:,} for 2: {fifty // two} times as many")

# %% [markdown]
# Now all three in one picture. Six test pictures that the network names rightly, from the easiest to the hardest,
# stand over bars whose length is cost: solid as far as it was needed, **pale and hatched what was spent beyond**. This
# book draws skipped or skippable work like that everywhere. Below them one picture of middling difficulty with its
# tiles, and the fifty steps. The percentage at the right edge is what was needed of what was spent.

# %%
ranked = named.nonzero().flatten()
ranked = ranked[test.difficulty[ranked].argsort()]
six = ranked[torch.linspace(0, len(ranked) - 1, 6).long()]
samples = test.images[six], needed[six].tolist(), costs
picture = test.images[ranked[len(ranked) // 2]]
tiles, covered = needed_tiles(picture)

# %% mystnb={"image": {"alt": "Three rows. Six pictures over bars of four exits, most of each bar pale and hatched for the easy ones; one picture in sixteen tiles of which few are solid; fifty steps of which two are solid. At the right edge the share that was needed: per sample, per position, and 4 percent per step."}}
_ = plots.needed_and_spent(samples, (picture, covered, tiles), (values, marked))
plt.show()

# %% [markdown]
# Two cautions, since this picture is easy to misread. First, "needed" was found with hindsight: we knew the label. A
# network that adapts has to *decide* before it knows, and that decision is what most of this course is about. Second,
# covering tiles one after another finds *a* small set that suffices, not the only one.
#
# With that said, we can answer the opening question. Whose are the other thirteen fourteenths? The difficulty that the
# generator noted, and that the network never saw, tells.

# %% mystnb={"image": {"alt": "Stacked bars for five classes of difficulty. From easy to hard the share of images for which exit 1 is enough falls, and the share that needs later exits or is never named rightly grows."}}
_ = plots.needed_by_difficulty(test.difficulty, needed, model.exits)
plt.show()
first, later = test.difficulty[needed == 0].mean(), test.difficulty[needed > 0].mean()
assert first + 0.08 < later
print(
    "Pictures for which exit 1 is enough are easier on average: by more than 0.08 of difficulty"
)

# %% [markdown]
# The late exits work for the hard pictures, and the easy ones pay with them. A *static network* charges
# everybody the price of its hardest input.
#
# ## What "dynamic" means
#
# The survey this course is ordered by {cite}`han2021dynamic` writes a static network as $y = F(x; \Theta)$: the same
# operations with the same weights $\Theta$ for every $x$. A *dynamic network* is
#
# $$
# y = F_{a(x)}\bigl(x;\, W(x, \Theta)\bigr),
# $$
#
# where the architecture $a(x)$, or the weights $W(x, \Theta)$, or both, are functions of the input. It sorts the field
# by *what* the input decides about, and you have just met the three axes:
#
# | axis | what is decided | in our picture | in this course, for example |
# |---|---|---|---|
# | **instance-wise** | how much network a sample gets, or which weights | row 1: exits | `msdnet` |
# | **spatial-wise** | which pixels, regions or resolutions are computed | row 2: tiles | `sparse_conv`, `adafocus` |
# | **temporal-wise** | which steps, words or frames are read | row 3: steps | `skimming` |
#
# Across them lie two questions that every method must answer: who decides at inference, and how the decider learns.
#
# Many networks vary in some way, and not all of them are dynamic. Here are four that do. Each has a method
# `applied(x)` that returns what it applies to the input `x`: kept channels, kernels, channel factors, the exit taken.


# %%
class Variant(nn.Module):
    """A convolution to 16 channels; the variants below change what is applied with it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)


class Dropout(Variant):
    def applied(self, x):
        return F.dropout2d(
            torch.ones(len(x), 16, 1, 1, device=x.device), 0.5, self.training
        )

    def forward(self, x):
        return self.conv(x) * self.applied(x)


class Slimmable(Variant):
    width = 8  # set it to 4, 8 or 16

    def applied(self, x):
        return self.conv.weight[: self.width]

    def forward(self, x):
        return F.conv2d(x, self.applied(x), padding=1)


# %%
class SqueezeExcite(Variant):
    def __init__(self):
        super().__init__()
        self.excite = nn.Linear(3, 16)

    def applied(self, x):
        return torch.sigmoid(self.excite(x.mean((2, 3))))[:, :, None, None]

    def forward(self, x):
        return self.conv(x) * self.applied(x)


class EarlyExit(nn.Module):
    bar = (0.8, 0.8, 0.8, 0.8)  # leave at the first exit that is at least so confident

    def __init__(self):
        super().__init__()
        self.model = model

    def applied(self, x):
        return self.model.infer(x, self.bar).exit_index

    def forward(self, x):
        return self.model.infer(x, self.bar).logits


# %% [markdown]
# Two inputs are needed to tell: a picture the first exit is sure of, and one it is unsure of.

# %%
sure = decision.confidence(logits[0])
easy, hard = (normalise(test.images[i][None]) for i in (sure.argmax(), sure.argmin()))


def differ(a, b):
    return "yes" if not torch.equal(a, b) else "no"


# %% [markdown]
# **Predict (a).** Which of these four are dynamic, and which of *those* save work: (1) dropout while training, (2) a
# slimmable network at half width, (3) squeeze-and-excitation, (4) early exit? Write down two lists before you go on.
#
# The cell asks three things of each. Does the same input, in training mode, meet different operations when asked
# twice? Do two inputs meet different operations in evaluation mode? Do they cost different numbers of multiply-adds?

# %% tags=["hide-output"]
print(f"{'':24}{'same input twice':>18}{'two inputs':>12}{'cost':>6}")
for variant in (Dropout(), Slimmable(), SqueezeExcite(), EarlyExit()):
    variant = variant.to(device)
    # The early exit refuses training mode, where BatchNorm would tie the samples together.
    variant.train(not isinstance(variant, EarlyExit))
    twice = differ(variant.applied(easy), variant.applied(easy))
    variant.eval()
    inputs = differ(variant.applied(easy), variant.applied(hard))
    macs = [torch.tensor(measure.count_macs(variant, x)) for x in (easy, hard)]
    print(f"{type(variant).__name__:24}{twice:>18}{inputs:>12}{differ(*macs):>6}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# Dropout and the slimmable network tempt because something about them visibly changes. But dropout
# {cite}`srivastava2014dropout` changes by *chance*, and not at all in evaluation mode; the slimmable network
# {cite}`yu2019slimmable` changes with the *budget* somebody sets, and is the same for every input at that setting.
# With the weights fixed and in evaluation mode only squeeze-and-excitation {cite}`hu2018squeeze` and the early exit
# change with the *input*: these two are dynamic. And only the early exit does less work for the easy picture. Scaling
# channels by what the picture shows makes a network better at equal cost, not cheaper.
# ```
#
# **The test to keep.** For fixed weights in evaluation mode: is the executed graph, or an operator in it, different
# for two inputs? If no, the network is static, however it was trained (BatchNorm, dropout, stochastic depth) and
# however it can be configured (slimmable and once-for-all networks; put a controller on top that looks at the input,
# and they become dynamic). If yes, ask the second question: does it *do less*? Attention passes the first and not the
# second.
#
# ## A gate that multiplies by zero
#
# Now to the doing less. Suppose a *gate* $G(x)$ decides, for each image, whether a residual layer matters:
#
# $$
# x^{l+1} = x^l + G(x^l) \cdot F(x^l), \qquad G(x^l) \in \{0, 1\}.
# $$
#
# Most training code writes exactly this product, because a product has a gradient. We take 64 feature maps and close
# the gate for every second one.


# %%
def gated(layer, x, gate):
    """The residual layer with its gate, as the equation says.  x: (N, C, H, W), gate: (N,)
    bool.
    """
    return x + gate[:, None, None, None] * layer(x)


layer = nn.Conv2d(64, 64, 3, padding=1).to(device)
features = torch.randn(64, 64, 16, 16, generator=generator).to(device)
gate = (torch.arange(64) % 2 == 0).to(device)  # open for 32 of the 64
after = gated(layer, features, gate)
print("unchanged where the gate is closed:", torch.equal(after[~gate], features[~gate]))

# %% [markdown]
# **Predict (b).** Half of the images are multiplied by 0. How much faster is `gated` than running the layer on all of
# them: twice as fast, a little faster, just as fast? Say why.
#
# The cell does not take the time yet. It hangs a counter, a *hook*, on the layer, and reports how many rows went in.


# %% tags=["hide-output"]
def rows_seen(module, call):
    """How many samples entered `module` during `call()`."""
    rows = []

    def count(_, args, output):
        # a block gets a list of maps
        entering = args[0] if torch.is_tensor(args[0]) else args[0][-1]
        rows.append(len(entering))

    hook = module.register_forward_hook(count)
    call()
    hook.remove()
    return sum(rows)


seen = rows_seen(layer, lambda: gated(layer, features, gate))
print(f"the layer saw {seen} of {len(features)} rows")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# *Twice* tempts because half of the results are thrown away. But the product comes after the layer has run: all 64
# rows went in, were multiplied, and then half of the work was multiplied by zero. The time is the same, and a little
# more for the product itself.
# ```
#
# *Skipping* means *not executing*. In its smallest form that is an `if`, row by row. Computers prefer few large
# calls to many small ones, so the second version gathers the open rows into a smaller batch and runs the layer once.
# The assertions prove that both compute what the product computes, and the hook that the closed rows never went in.


# %%
def skipped_by_loop(layer, x, gate):
    return torch.stack(
        [
            row + layer(row[None])[0] if is_open else row
            for row, is_open in zip(x, gate, strict=True)
        ]
    )


def open_rows(layer, x, gate):
    return x[gate] + layer(x[gate])


assert torch.allclose(skipped_by_loop(layer, features, gate), after, atol=1e-5)
assert torch.allclose(open_rows(layer, features, gate), after[gate], atol=1e-5)
for skip in (skipped_by_loop, open_rows):
    seen = rows_seen(layer, lambda f=skip: f(layer, features, gate))
    print(f"{skip.__name__}: the layer saw {seen} rows")

# %% [markdown]
# `open_rows` returns the open rows only. Putting them back among the others, in their places and without writing into
# `x`, is exercise 3.
#
# Now to the clock. This book keeps **two ledgers**: multiply-adds, which are the same on every machine, and time,
# which is what you pay. Times are medians over interleaved rounds, taken where this page was made; yours will differ.

# %%
calls = {
    "run every row": lambda: features + layer(features),
    "multiply by the gate": lambda: gated(layer, features, gate),
    "run open rows only": lambda: open_rows(layer, features, gate),
}
per_row = measure.count_macs(layer, features[:1])
spent = {name: per_row * rows_seen(layer, call) for name, call in calls.items()}
print({name: f"{macs / 1e6:.0f} M" for name, macs in spent.items()})

# %% mystnb={"image": {"alt": "Two bar charts over three ways to run the layer. Multiply-adds: all rows and multiplying by the gate are equal, running open rows only takes half. Measured time: multiplying by the gate is no faster than all rows, open rows only is clearly faster."}}
times = measure.compare(calls, rounds=9)
_ = plots.two_ledgers({name: (spent[name], times[name].median_s) for name in calls})
plt.show()

# %% [markdown]
# Both ledgers tell the same story here, since half as many rows of the same kind are half as much work. The library
# does the same for a whole network: `model.infer` lets a picture leave as soon as an exit is confident, and the next
# block runs on those that are left. Hooks on the four blocks show that rows only ever get fewer.

# %%
bar = [0.8] * model.exits
images = normalise(test.images)
rows = [rows_seen(block, lambda: model.infer(images, bar)) for block in model.blocks]
print("rows entering the first block:", rows[0])
print("every later block sees fewer:", all(b < a for a, b in itertools.pairwise(rows)))

# %% [markdown]
# And the answers are those we would have picked, after the fact, from the logits of all exits; the bill is smaller.

# %%
picked, picked_exit = decision.simulate(logits, bar)
result = model.infer(images, bar)
same_exit = result.exit_index.cpu() == picked_exit
# a confidence of 0.8 to the last digit may fall on either side
assert same_exit.float().mean() > 0.999
assert torch.allclose(result.logits.cpu()[same_exit], picked[same_exit], atol=1e-3)
assert rows == [(result.exit_index >= k).sum().item() for k in range(model.exits)]
print("mean cost below that of the last exit:", result.macs.mean().item() < costs[-1])

# %% [markdown]
# **Where it breaks.** Skipping and masking are interchangeable only if samples do not influence each other. BatchNorm
# in training mode {cite}`ioffe2015batchnorm` makes them: it normalises with the mean over the batch, so rows that were
# taken out are missing from that mean. Compare the two in evaluation mode, and train with the mask.

# %%
block = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)).to(device)
for mode in (True, False):
    block.train(mode)
    masked, skipped = gated(block, features, gate)[gate], open_rows(block, features, gate)
    print(f"training mode {mode!s:5}: equal {torch.allclose(masked, skipped, atol=1e-4)}")

# %% [markdown]
# ## Fewer multiply-adds, faster?
#
# Rows of one layer were all alike. Now compare two layers of different kinds. A dense 3x3 convolution lets every
# output channel read every input channel. A *depthwise convolution* gives each channel its own kernel and
# nothing else; mobile networks {cite}`howard2017mobilenets` are built on it. At 256 channels and 28 x 28 positions both
# put out 28 * 28 * 256 numbers. In the dense layer each is a sum of 3 * 3 * 256 products, in the depthwise one of 3 * 3.

# %%
START = (256, 28, "dense")


def make(channels, side, kind):
    """A 3x3 convolution that keeps channels and size, and an input for it."""
    groups = channels if kind == "depthwise" else 1
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
    maps = torch.randn(1, channels, side, side, generator=generator)
    return conv.to(device), maps.to(device)


# %%
dense, maps = make(*START)
depthwise, _ = make(256, 28, "depthwise")
macs = {
    "dense": measure.count_macs(dense, maps),
    "depthwise": measure.count_macs(depthwise, maps),
}
times = macs["dense"] // macs["depthwise"]
print(f"dense {macs['dense']:,}, depthwise {macs['depthwise']:,}: {times} times fewer")

# %% [markdown]
# **Predict (c).** 256 times fewer multiply-adds. How many times faster is one call of the depthwise layer on this
# machine: about 256 times, about 150, fewer than 100? Write down a number.

# %% tags=["hide-output", "nbval-ignore-output"]
pair = measure.compare(
    {"dense": lambda: dense(maps), "depthwise": lambda: depthwise(maps)},
    rounds=15,
    warmup=3,
)
for kind, timing in pair.items():
    print(f"{kind:10} {1e3 * timing.median_s:.3f} ms")
print(
    f"the depthwise layer is {measure.ratio(pair['dense'], pair['depthwise']):.0f} times faster"
)

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# 256 tempts because it *is* the ratio of the arithmetic. But arithmetic is not all that a call does. The feature map
# has to be read and the result written, in both cases all of it, and the call itself costs something before the first
# multiplication. The depthwise layer has almost nothing left to compute, so what it still has to move, and to set up,
# decides. You saw how far from 256 that leaves you on the machine that ran this page.
# ```
#
# What remains when the arithmetic is gone can be counted, too: the bytes of input, weights and output, each moved
# once.

# %%
for name, conv in {"dense": dense, "depthwise": depthwise}.items():
    moved = measure.moved_bytes(conv, maps)
    print(
        f"{name:10} {macs[name] / 1e6:7.2f} M multiply-adds, {moved / 1e6:.2f} MB,",
        f"{macs[name] / moved:6.1f} per byte",
    )
ratio = measure.moved_bytes(dense, maps) / measure.moved_bytes(depthwise, maps)
print(f"{ratio:.1f} times fewer bytes")

# %% [markdown]
# So the depthwise layer does 256 times less arithmetic and moves 2.5 times less data, and its time lies somewhere
# between. Where, and how to tell beforehand, is the subject of the next chapter. Here you can get a feeling for it.
# The next cell measures both kinds for four numbers of channels and four sizes of the map, and stores the results.

# %%
CHANNELS, SIDES, KINDS = (32, 64, 128, 256), (7, 14, 28, 56), ("dense", "depthwise")
stored = {}
for setting in itertools.product(CHANNELS, SIDES, KINDS):
    conv, maps = make(*setting)
    timing = measure.latency(lambda c=conv, m=maps: c(m), warmup=1, repeats=5)
    stored[setting] = measure.count_macs(conv, maps), timing.median_s

# %% [markdown]
# Drawing is then a matter of looking up: the figure holds any settings against the starting point, the dense layer.


# %%
def ledger(*settings):
    """The two ledgers of some (channels, side, kind), held against the starting point."""
    words = [
        f"{kind}, {channels} channels, {side}x{side}" for channels, side, kind in settings
    ]
    entries = zip(words, settings, strict=True)
    return plots.two_ledgers(
        {"start: dense, 256, 28x28": stored[START]} | {w: stored[s] for w, s in entries}
    )


# %% [markdown]
# **The widget "two ledgers".** Move channels, map side and kind, and watch the two bars. Look for a setting where one
# ledger changes a great deal and the other hardly. The button takes you back to the start. First the controls:

# %%
hand = {
    "channels": widgets.SelectionSlider(
        options=CHANNELS, value=256, description="channels"
    ),
    "side": widgets.SelectionSlider(options=SIDES, value=28, description="map side"),
    "kind": widgets.ToggleButtons(options=KINDS, description="kind"),
}
reset = widgets.Button(description="back to the start")
reset.on_click(
    lambda _: [
        setattr(hand[name], "value", value) for name, value in zip(hand, START, strict=True)
    ]
)

# %% [markdown]
# Then the figure that follows them.


# %% tags=["nbval-ignore-output"]
def react(channels, side, kind):
    _ = ledger((channels, side, kind))
    plt.show()


display(widgets.VBox([*hand.values(), reset, widgets.interactive_output(react, hand)]))

# %% mystnb={"image": {"alt": "The two ledgers at four positions of the hand. Fewer channels save multiply-adds and time; the depthwise layer of 256 channels saves 256 times the multiply-adds but far less time; the depthwise layer takes about half the time on a map of a quarter of the size."}}
_ = ledger(
    (128, 28, "dense"),
    (256, 28, "depthwise"),
    (256, 14, "depthwise"),
    (32, 14, "depthwise"),
)
plt.show()

# %% [markdown]
# Four positions of the hand. Halving the channels of the dense layer divides the multiply-adds by four. Changing the
# kind divides them by 256, and the time by much less. From there on, shrinking the map and the channels goes on
# dividing the multiply-adds by four and by eight, while the time approaches a floor: what it costs to call anything at
# all.
#
# Keep the doubt, and do not overdo it. Multiply-adds are exact, the same everywhere, and the right first estimate
# between layers of the same kind. They stop being a time when the kinds differ, when the work per call gets small, or
# when nothing was skipped in the first place.
#
# ## What adapting is good for
#
# Saving work is the reason most of this course follows, and not the only one. An adaptive network can serve several
# budgets with one set of weights; input-dependent weights make it *better* at equal cost; the mechanisms combine with
# pruning, quantisation and distillation, and carry over from images to language and video; and its decisions can be
# looked at: who left early, which tiles were read {cite}`han2021dynamic`.
#
# ## Exercises
#
# The four tasks are in [exercises](../../exercises/start/why_adapt.ipynb) (in JupyterLab the link opens them; the file
# is `exercises/start/why_adapt.ipynb`). Each check tells you what your answer did, and offers hints.
#
# | # | task | level | minutes |
# |---|---|---|---|
# | 1 | `conv_macs`: the cost of a convolution, groups included | 1 | 5 |
# | 2 | `expected_cost`: the mean cost of a network with exits | 2 | 10 |
# | 3 | `skip_samples`: run a layer on kept rows only, put them back in their places | 3 | 15 |
# | 4 | `fair_time`: a stopwatch that neither warm-up nor a queue nor a spike can fool | 4 | 15 |
#
# ## Recap
#
# - Static networks pay the price of the hardest input for every input.
# - Adaptive ones choose per sample, per position, per step.
# - A network is dynamic if, with weights fixed, its graph or operators change with the input.
# - Skipping means not executing; a mask alone saves nothing.
# - Every claim in this book has two ledgers: multiply-adds and time.
#
# ## Where next
#
# [When is less work really faster?](measuring.ipynb) answers the doubt this chapter raised. Then [When is a network
# sure enough to stop?](../instance/msdnet.ipynb) lets the network decide without hindsight. All reading orders stand
# on the page [Ways through the course](paths.ipynb).
#
# ## References
#
# Definition, axes and boundary cases: {cite}`han2021dynamic`, sections 1 to 4. The network with exits:
# {cite}`huang2018msdnet`. Gates on residual layers: {cite}`wang2018skipnet,veit2018aig`. Depthwise convolutions:
# {cite}`howard2017mobilenets`.
