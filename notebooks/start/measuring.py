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
# # When is less work really faster?
# *40 min reading · 30 min exercises · needs [Why adapt](../start/why_adapt.ipynb) · CPU, under 60 s; GPU optional*
#
# This chapter teaches the two instruments that every later chapter reads: the count of multiply-adds and the clock. You
# will see when they agree, when they do not, and how to tell which of them to believe. Terms set in *italics*
# where they first appear stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
#
# - count the multiply-adds of a layer by hand, and name what a counter does not see;
# - time a piece of code so that somebody else can believe the number;
# - place a layer on a roofline, and say whether arithmetic or memory limits it;
# - predict how the time of a batch grows with its size, and what a shrinking batch saves;
# - decide whether a confidence of 0.9 may be read as "right nine times in ten", and mend it if not.

# %% [markdown]
# ## The question
#
# Two convolutions, both 3x3, both with as many channels out as in. The first has 64 channels on a map of 56x56 pixels,
# a usual layer in the middle of a ResNet. The second has only 4 channels, on a map of 896x896. Each needs **115,605,504
# multiply-adds** for one image, not one more or less. A paper that prints "115.6 M" calls them equally expensive.
#
# Before you read on, say what you would do: you may replace one by the other in a network that has to be fast. Would
# you mind? The first cell prepares the tools; then we make sure that the two counts are what we think they are.

# %%
from dataclasses import replace
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_lib import data, decision, device, measure, plots, seed_everything, train

plots.use_style()
generator = seed_everything(0)
where = device()

# %% [markdown]
# ## The first ledger: multiply-adds
#
# A *MAC* is one multiplication and the addition of its result to a sum. Every number that a convolution puts out
# is such a sum, over a window of `kernel x kernel` pixels and all channels that come in. The next cell is a convolution
# without any library: it visits each output number, adds up its products one by one, and counts. Two channels go in,
# three come out, and a 3x3 kernel fits into a 5x5 map at nine places.

# %%
layer = nn.Conv2d(2, 3, 3, bias=False).requires_grad_(False)
x = torch.randn(1, 2, 5, 5, generator=generator)
y, counted = torch.zeros(3, 3, 3), 0
for channel, row, column in product(range(3), repeat=3):
    window = x[0, :, row : row + 3, column : column + 3]
    for term in (window * layer.weight[channel]).flatten():
        y[channel, row, column] += term
        counted += 1
assert torch.allclose(y, layer(x)[0], atol=1e-5)
print(f"{counted} multiply-adds")

# %% [markdown]
# The loop did 486 of them, and the result is torch's. Nothing about the count needed the loop: there are
# `rows x columns x channels out` results, each made of `channels in x kernel x kernel` products. That is the formula, and the
# library's counter reads the same off the operations that torch really executes. All three must agree. Bias,
# normalisation, activation and pooling are counted as zero throughout this book, as in most papers: they are few
# operations, though not always little time.

# %%
by_formula = (3 * 3 * 3) * (2 * 3 * 3)
assert counted == by_formula == measure.count_macs(layer, x)


# %%
def same_macs(channels: int) -> tuple[nn.Module, torch.Tensor]:
    side = 3584 // channels
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return conv.to(where).eval(), torch.randn(1, channels, side, side, device=where)


for channels in (64, 4):
    conv, x = same_macs(channels)
    macs, moved = measure.count_macs(conv, x), measure.moved_bytes(conv, x)
    print(f"{channels:2d} channels: {macs:,} MACs, {moved:,} bytes")

# %% [markdown]
# The counts are equal because the number of MACs here is 9 (channels x side)², and channels times side is 3584 for
# both. The bytes are not equal: the second column adds up the input, the weights and the output, each moved once. They
# will matter soon.

# %% [markdown]
# **Predict (a).** One image goes through each layer, on the machine you are using. The layer with 4 channels takes, in
# comparison with the one with 64:
#
# 1. the same time, give or take a tenth;
# 2. less, because its 144 weights fit into the smallest cache;
# 3. up to three times as long;
# 4. more than five times as long.

# %% tags=["hide-output", "nbval-ignore-output"]
calls = {f"{c} channels": partial(*same_macs(c)) for c in (64, 4)}
with torch.inference_mode():
    times = measure.compare(calls, rounds=15, warmup=3)
for name, timing in times.items():
    print(f"{name}: {1e3 * timing.median_s:.2f} ms")
slower = measure.ratio(times["4 channels"], times["64 channels"])
print(f"4 channels take {slower:.1f} times as long")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# "The same" tempts because the MAC is the only cost most tables print. On the processor that made this page the answer
# is the fourth; the line above is your own machine's. The first suspect is memory: the layer with 4 channels moves 14.7
# times as many bytes. The roofline, later in this chapter, will acquit it on that processor: even with 4 channels the
# bytes arrive sooner than the multiplications can be done. The culprit there is another. A vector unit works on 8 or 16
# channels at once, so with 4 channels at least half of its places stay empty. That loss lies *below* the roofline,
# where no formula reaches, and has to be measured.
# ```

# %% [markdown]
# ## What a counter does not see
#
# A counter knows formulas for operations by name. An operation without a formula counts zero, silently, and a network
# made of it looks free. PyTorch's own counter has this gap for recurrent layers, which are one fused operation. Here is
# an LSTM that reads 20 steps of 32 numbers with a state of 64. In each step four gates multiply the input and the state
# by a matrix each, so by hand it costs 20 x 4 x 64 x (32 + 64) MACs.

# %%
lstm = nn.LSTM(32, 64, batch_first=True).to(where).eval()
steps = torch.randn(1, 20, 32, device=where)
with torch.inference_mode(), FlopCounterMode(display=False) as counter:
    lstm(steps)
by_hand = 20 * 4 * 64 * (32 + 64)
assert measure.count_macs(lstm, steps) == by_hand
print(f"torch's counter: {counter.get_total_flops() // 2:,}   by hand: {by_hand:,}")

# %% [markdown]
# Zero against 491,520. The library's `count_macs` adds the missing formulas, and it raises an error where an operation
# with weights contributes nothing, because a wrong zero is worse than no answer. Keep two more questions ready for
# every table you read: does "FLOPs" there mean multiply-adds, or twice as many? And is the cost of the gates and exits
# in it?

# %% [markdown]
# ## The second ledger: the clock
#
# A count is exact and a time is a sample. To see what a sample can be spoilt by, here is a small network of seven
# layers that we shall keep for the rest of the chapter. It has ordinary convolutions, a *depthwise convolution*,
# a 1x1 convolution and two linear layers. We call it eight times with four images, then eight times with three, then
# with two, and write down every single call, without throwing any away.

# %%
net = nn.Sequential(
    *(nn.Conv2d(3, 32, 5, padding=2), nn.ReLU()),
    *(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 1), nn.ReLU()),
    *(nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU()),
    *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
    *(nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 10)),
)
net = net.to(where).eval()

# %% mystnb={"image": {"alt": "Time of 24 calls in a row on a logarithmic axis: the first call, and the first call after each change of batch size, take longer than the calls after them."}}
milliseconds, sizes = [], [4] * 8 + [3] * 8 + [2] * 8
with torch.inference_mode():
    for n in sizes:
        x = torch.randn(n, 3, 32, 32, device=where)
        call = measure.latency(partial(net, x), warmup=0, repeats=1)
        milliseconds.append(1e3 * call.median_s)
plots.warmup_trace(milliseconds, sizes)
plt.show()

# %% [markdown]
# The first call pays for things that happen once: memory is fetched, code is prepared for the shape of the input. That
# is why `measure.latency` makes a few calls before it starts the clock (*warm-up*). The marks further right are
# less known: a new batch size is a new shape, and libraries prepare for each shape anew. A static network meets one
# shape for ever. A network with exits meets a new one whenever another number of images is left, so keep this figure in
# mind.
#
# Single calls also stand out upwards for no reason of their own, when another program gets the processor. What should
# one number report, then? Take two programs and ten calls of each, in milliseconds; the second was disturbed once.

# %%
steady = torch.tensor([2.0, 2.1, 2.0, 1.9, 2.0, 2.1, 2.0, 2.0, 1.9, 2.0])
disturbed = torch.tensor([1.5, 1.6, 1.5, 14.0, 1.5, 1.4, 1.5, 1.5, 1.6, 1.5])
for name, samples in {"steady": steady, "disturbed": disturbed}.items():
    print(f"{name:>9}: mean {samples.mean():.2f} ms, median {samples.median():.2f} ms")
assert disturbed.mean() > steady.mean()
assert disturbed.median() < steady.median()

# %% [markdown]
# The mean names the wrong winner, because one interruption outweighs nine calls. The median does not move. This book
# reports medians (recorded runs with their quartiles), and it times two contenders in turns (`measure.compare`), so
# that a slow minute hits both; then it takes the ratio within each turn.
#
# On a GPU there is one more way to be wrong. A call from Python only puts work into a queue and returns at once. Stop
# the clock there, and you have timed the queueing. The drawing shows four calls: when Python has handed over the last
# of them, the GPU is still busy with the first.

# %% mystnb={"image": {"alt": "A timeline with two rows. Python submits four short calls and would then wait, hatched; the GPU works on them one after the other for far longer. A clock stopped after submitting shows a small part of the true time."}}
plots.queued_work(calls=4)
plt.show()

# %% [markdown]
# A fair clock waits for the queue to run empty (`torch.cuda.synchronize()`) before it starts and before it stops. All
# of `measure` does so whenever a GPU is in use. When a speed-up on a GPU is a surprise, look for this mistake first.

# %% [markdown]
# ## The roofline: two limits in one picture
#
# A layer has two jobs: to multiply, and to move its numbers. A machine does both at once, so the slower of the two
# decides: time >= max(MACs / arithmetic rate, bytes / bandwidth). Divide the MACs by that, and you get the speed that
# can be reached, as a function of one property of the layer, its *operational intensity* in MACs per byte: a
# slope while memory decides, a flat roof where arithmetic does, and the *ridge point* between them
# {cite}`williams2009roofline`. The helper below counts and times one layer; the next cell does it for the layers of our
# network, with one image and with 64, and for five members of the family with 115.6 M MACs.

# %%
NAMES = ("5x5, 3 to 32", "3x3 depthwise, 32", "1x1, 32 to 64", "3x3 stride 2, 64",
         "3x3, 64 to 128", "linear, 2048 to 256", "linear, 256 to 10")  # fmt: skip


def run(name: str, layer: nn.Module, x: torch.Tensor, repeats: int = 9) -> plots.Measured:
    with torch.inference_mode():
        seconds = measure.latency(partial(layer, x), warmup=2, repeats=repeats).median_s
    macs, moved = measure.count_macs(layer, x), measure.moved_bytes(layer, x)
    return plots.Measured(name, macs, moved, seconds)


def run_layers(x: torch.Tensor) -> list[plots.Measured]:
    names, measured = iter(NAMES), []
    for layer in net:
        if list(layer.parameters()):
            measured.append(run(next(names), layer, x))
        x = layer(x).detach()
    return measured


# %% [markdown]
# The two rates of the machine are measured, too: `Roofline.probe` copies a large block of memory, and times a large
# matrix product and a large convolution. A probe is only code, and another piece of code may be faster. If one of our
# layers beats both, it is the layer that shows how high the roof is, so the cell lifts the roof to the fastest that
# was seen.

# %% tags=["nbval-ignore-output"]
single, many = (run_layers(torch.randn(n, 3, 32, 32, device=where)) for n in (1, 64))
family = [run(f"{c} channels, {3584 // c}²", *same_macs(c)) for c in (64, 32, 16, 8, 4)]
probed = measure.Roofline.probe(seconds=1)
fastest = max(layer.rate for layer in [*single, *many, *family])
roof = replace(probed, macs_per_s=max(probed.macs_per_s, fastest))
gigabytes, gigamacs = roof.bandwidth_bytes_per_s / 1e9, roof.macs_per_s / 1e9
print(f"{roof.device}: {gigabytes:.0f} GB/s, {gigamacs:.0f} GMAC/s")

# %% mystnb={"image": {"alt": "Roofline of this machine on logarithmic axes, a slope, a ridge and a flat roof, in one panel for a batch of 1 and in one for 64, each with seven numbered layers. The linear layers, 6 and 7, move far to the right with the larger batch; the depthwise layer 2 stays at about one MAC per byte."}}
plots.roofline(roof, {"batch 1": single, "batch 64": many})
plt.show()

# %% [markdown]
# Look at three things. The depthwise layer (2) does about one MAC for each byte, at any batch size, so it stands to the
# left and cannot be fast: this is why a network of few MACs can be slow. The linear layer (6) is moved by the batch:
# one image must fetch half a million weights to use each of them once, 64 images use each weight 64 times, and the
# point wanders to the right. And most points hang well below the roof. The roof is a bound, not a promise; what lies
# between is the price of calls, of unfilled vector units, of fresh memory. A point *above* the slope read its data from
# a cache, where a repeated call finds it, and not from the main memory that was probed.

# %% mystnb={"image": {"alt": "Left the roofline with five layers of equal MACs, moving left as channels become fewer; right their bounds and measured times as bars: the bound by MACs is the same for all, the bound by bytes nearly doubles from row to row; the measured time stays nearly flat, then jumps at 8 and at 4 channels."}}
plots.roofline_and_bars(roof, family)
plt.show()
assert len({layer.macs for layer in family}) == 1
assert family[-1].bytes / family[0].bytes > 14
assert round(family[-1].macs / family[-1].bytes, 1) == 4.5

# %% [markdown]
# This is the answer to the question of the chapter. Five layers, one count, and the bound by MACs is one and the same.
# The bound by bytes nearly doubles from row to row, since the maps grow as the channels shrink; yet the last layer
# still does 4.5 MACs for each byte. Wherever the ridge lies below that, as it does here, both bounds together allow all
# five layers the same time, and the measured times do not agree. (On a machine with a ridge above 4.5 the bytes bind
# the last layer as well.) On this page's processor the time moves little down to 16 channels, then it doubles at 8 and
# grows several-fold at 4, because the vector units run partly empty. The roofline excludes some hopes (no code can make
# a layer faster than its longer bound), and the distance to it says how much may still be gained.
#
# Now the two ledgers of a whole network, side by side: what share of the MACs, and what share of the time, belongs to
# each layer?

# %% mystnb={"image": {"alt": "Two bars of full length, cut into the shares of the seven layers. In MACs the layers 4 and 5 take most of the bar; in time the depthwise layer 2 is several times wider than in MACs."}}
plots.ledger_shares(many)
plt.show()
macs = torch.tensor([layer.macs for layer in many])
print(f"layers 4 and 5 hold {macs[3:5].sum() / macs.sum():.0%} of the multiply-adds")
print(f"the depthwise layer holds {macs[1] / macs.sum():.1%}")

# %% [markdown]
# Layers 4 and 5 hold 84 % of the multiply-adds, the depthwise layer 0.9 %. In the lower bar the depthwise layer is
# several times wider. The 1x1 layer (3), too, has a larger share of the time than of the MACs: it writes 64 maps and
# does only 32 multiplications for each number in them. Whoever saves MACs where they are, saves less time than hoped;
# whoever wants time must know where the time is.
#
# In the next cell the hand sets three sliders: channels, side of the map, batch size. The point moves on the roofline
# and the bars show both bounds and the stored measurement. Try to find a setting where memory decides, then one where
# the measured time is furthest from both bounds.

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets
from IPython.display import display

hands = {"channels": (1, 8, 64), "side": (14, 28, 56), "batch": (1, 16)}
stored = {}
for c, side, n in product(*hands.values()):
    conv = nn.Conv2d(c, c, 3, padding=1, bias=False).to(where).eval()
    x = torch.randn(n, c, side, side, device=where)
    stored[c, side, n] = run(f"{c} ch, {side}², batch {n}", conv, x, repeats=5)


def show(channels: int, side: int, batch: int) -> None:
    plots.roofline_and_bars(roof, [stored[channels, side, batch]])
    plt.show()


def start_again(_: widgets.Button) -> None:
    for hand in sliders.values():
        hand.index = 0


sliders = {k: widgets.SelectionSlider(options=v, description=k) for k, v in hands.items()}
reset = widgets.Button(description="reset")
reset.on_click(start_again)
display(widgets.VBox([*sliders.values(), reset, widgets.interactive_output(show, sliders)]))

# %% mystnb={"image": {"alt": "The same drawing for four positions of the sliders: large and small maps with 64 channels and with 1. With 1 channel the points stand left of the ridge, where bytes decide, and far below the roof."}}
settings = [(64, 56, 1), (64, 14, 1), (1, 56, 1), (1, 14, 1)]
plots.roofline_and_bars(roof, [stored[setting] for setting in settings])
plt.show()

# %% [markdown]
# Moving the map from 56 to 14 pixels divides the MACs by 16 and their bound with them, and the time by less: the
# smaller the layer, the more of its time is the call itself. Moving the channels from 64 to 1 divides the MACs by 4,096
# and the time by far less, and it makes the bound by bytes the longer of the two. Which brings us to the cost of a
# call.

# %% [markdown]
# ## One image or many
#
# Each call of a layer costs something before the first multiplication: Python, the dispatcher, the choice of a kernel,
# on a GPU the launch. Call that a, and let b be what one more image costs. Then a batch of N should take
#
# $$t(N) = a + b\,N.$$

# %% [markdown]
# **Predict (b).** A classifier of 8x8 digits with three linear layers (64 to 128, to 128, to 10) answers one image. How
# much longer does a batch of 32 take?
#
# 1. 32 times;
# 2. about half of that;
# 3. longer, but no more than six times;
# 4. no longer at all.

# %% tags=["hide-output", "nbval-ignore-output"]
seed_everything(1)
mlp = nn.Sequential(
    *(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()),
    *(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)),
)
mlp = mlp.to(where).eval()
calls = {str(n): partial(mlp, torch.rand(n, 1, 8, 8, device=where)) for n in (1, 32)}
with torch.inference_mode():
    times = measure.compare(calls, rounds=50, warmup=5)
print(f"32 images take {measure.ratio(times['32'], times['1']):.1f} times as long as one")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# 32 times tempts because the first ledger says so: 32 times the MACs. The third answer is right where this page was
# made (about twice), and on a GPU the fourth comes close. A single image leaves the machine mostly idle, and the
# further images use what was paid for already: the call, and the weights that have been fetched.
# ```
#
# Two timings are enough to know a and b. The next cell takes them at N = 1 and N = 128, and draws the line they promise
# through timings that were not used: for the classifier, and for one small convolution.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Left the time of a call, right the time an image, against batch size on logarithmic axes, for the classifier and for a convolution. The dashed lines a + b N: flat at first, then rising, on the left; falling towards b on the right. The classifier's points lie on its line, the convolution's lie above it for batches of 2 to 16."}}
block = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()).to(where).eval()
contenders = {"digits classifier": (mlp, (1, 8, 8)), "convolution": (block, (32, 8, 8))}
batches, seconds, fits = [1, 2, 4, 8, 16, 32, 64, 128], {}, {}
for name, (model, shape) in contenders.items():
    calls = [partial(model, torch.rand(n, *shape, device=where)) for n in batches]
    with torch.inference_mode():
        seconds[name] = [measure.latency(call, repeats=25).median_s for call in calls]
    b = (seconds[name][-1] - seconds[name][0]) / (batches[-1] - batches[0])
    a = seconds[name][0] - b
    fits[name] = a, b
    print(f"{name}: a = {1e6 * a:.0f} µs a call, b = {1e6 * b:.2f} µs an image")
plots.latency_by_batch(batches, seconds, fits)
plt.show()

# %% [markdown]
# The classifier keeps to its line. On the left the curve is flat as long as a is larger than b N, then it rises; on the
# right the same numbers per image fall towards b and stay there. So **batch 1 pays per call, a large batch pays per MAC
# or per byte**, and an optimisation may help the one and do nothing for the other. Always state the batch size of a
# timing. *Latency* is the left picture, and *throughput* the right one upside down.
#
# Every formula ends somewhere. Where points leave their line, as the convolution's do for small batches here, the
# library runs other code for another shape. And once a batch outgrows the caches, b rises again, because bytes now
# travel further.

# %% [markdown]
# ## Letting finished images go
#
# Now put both ledgers to work on what the next chapter does. Four blocks stand one behind the other, and an image may
# leave after any of them. Suppose half of those present leave each time. The obvious code computes all rows in all
# blocks and keeps the right ones: a mask. *Batch compaction* takes the finished rows out, so that each block gets
# a smaller batch. Both must give the same answers; hooks count the rows that each block really saw.

# %%
blocks = [
    nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()).to(where).eval()
    for _ in range(4)
]


def with_mask(x: torch.Tensor, exit_index: torch.Tensor) -> torch.Tensor:
    answer = torch.zeros_like(x)
    for k, block in enumerate(blocks):
        x = block(x)
        answer[exit_index == k] = x[exit_index == k]
    return answer


def compacted(x: torch.Tensor, exit_index: torch.Tensor) -> torch.Tensor:
    answer, here = torch.zeros_like(x), torch.arange(len(x), device=x.device)
    for k, block in enumerate(blocks):
        x = block(x)
        done = exit_index[here] == k
        answer[here[done]] = x[done]
        x, here = x[~done], here[~done]
    return answer


# %% [markdown]
# The second function carries `here`, the place of each surviving row in the original batch, because after the first
# exit row 3 is no longer image 3. Forgetting that is the most common mistake of this kind: nothing fails, and answers
# go to the wrong images. The assertion below would notice. Watch the two lines of the figure: the pale hatched part is
# work that was never done.


# %% mystnb={"image": {"alt": "Rows computed by each of four blocks. With a mask every block computes 256 rows; compacted they are 256, 128, 64 and 32, the rest is hatched."}}
def rows_seen(function, *args) -> tuple[torch.Tensor, list[int]]:
    rows = []
    handles = [
        block.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
        for block in blocks
    ]
    with torch.inference_mode():
        answer = function(*args)
    for handle in handles:
        handle.remove()
    return answer, rows


halving = torch.tensor([0] * 128 + [1] * 64 + [2] * 32 + [3] * 32)[
    torch.randperm(256, generator=generator)
].to(where)
features = torch.randn(256, 32, 8, 8, device=where)
masked, all_rows = rows_seen(with_mask, features, halving)
answer, fewer_rows = rows_seen(compacted, features, halving)
assert torch.allclose(masked, answer, atol=5e-3)  # some GPUs round products to ten bits
assert fewer_rows == [256, 128, 64, 32]
plots.rows_per_block({"mask": all_rows, "compacted": fewer_rows}, 256)
plt.show()

# %% [markdown]
# The answers agree, and 480 rows were computed instead of 1,024: by the first ledger 2.13 times less work. The ratio of
# rows is the same for a batch of 8 whose rows shrink to 8, 4, 2, 1 (15 instead of 32).

# %% [markdown]
# **Predict (c).** By the clock, how many times faster is the compacted run with a batch of *8*? Use t = a + b N and the
# figure above it.
#
# 1. 2.13 times;
# 2. more, because small batches fit into the cache;
# 3. less than 2.13 times.

# %% tags=["hide-output", "nbval-ignore-output"]
few = torch.tensor([0, 2, 1, 0, 0, 1, 3, 0], device=where)
with torch.inference_mode():
    for x, exits in ((features[:8], few), (features, halving)):
        calls = {f.__name__: partial(f, x, exits) for f in (with_mask, compacted)}
        times = measure.compare(calls, rounds=25, warmup=3)
        gain = measure.ratio(times["with_mask"], times["compacted"])
        print(f"batch {len(x):3d}: compacted is {gain:.2f} times faster")
    calls = {"take": lambda: features[halving > 0], "run": lambda: blocks[0](features)}
    times = measure.compare(calls, rounds=25, warmup=3)
share = measure.ratio(times["take"], times["run"])
print(f"taking 128 of 256 rows out costs {share:.0%} of one block on 256 rows")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# 2.13 tempts because the rows say so. The third answer is right: four calls are made in both runs, so the four a's are
# not saved, only b N shrinks; and deciding who stays takes small operations which at batch 8 cost about as much as the
# rows they save. At batch 256 the second ledger comes nearer to the first, and may even pass it where the large batch
# had outgrown the cache. The gathering itself is a copy, and cheap beside a convolution.
# ```
#
# There is a remedy for small late batches: a **queue** before each block, in which the survivors of several batches
# wait until a full batch has gathered. All shapes stay the same (recall the first figure), all calls are full, and the
# price is that an image may wait. The [next chapter](../instance/msdnet.ipynb) builds it.

# %% [markdown]
# ## How sure is sure?
#
# An image may leave when the network is sure enough. So the decision hangs on one number, the *confidence*, and like a
# clock it has to be checked before it is believed. We train the digits classifier on *noisy* digits, 1,197 of them,
# until it knows nearly all of them by heart. The test digits are shown five times, each time with fresh noise, so that
# there are 1,500 answers to judge. The same holds for validation.


# %%
def noisy(split: str, copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = data.digits(split=split)
    images = images.repeat(copies, 1, 1, 1)
    images = images + 0.5 * torch.randn(images.shape, generator=generator)
    return images.to(where), labels.repeat(copies).to(where)


training, validation, test = noisy("train", 1), noisy("validation", 5), noisy("test", 5)
train.fit(mlp, training, epochs=40, weight_decay=0.0, progress=False)
with torch.inference_mode():
    train_logits, validation_logits, test_logits = (
        mlp(images) for images, _ in (training, validation, test)
    )
assert (train_logits.argmax(1) == training[1]).double().mean() > 0.99

# %% [markdown]
# On the test digits the network is of course not perfect; the noise is strong. What interests us is what it *says*.

# %% [markdown]
# **Predict (d).** Take only the answers that the network gives with a confidence above 0.9; there are many hundreds.
# Which share of them is right?
#
# 1. at least 95 %, since most of them are far above 0.9;
# 2. between 90 and 95 %, as announced;
# 3. between 75 and 85 %.

# %% tags=["hide-output"]
score = decision.confidence(test_logits)
correct = test_logits.argmax(1) == test[1]
sure = score > 0.9
share = correct[sure].double().mean().item()
options = {
    "at least 95 %": share >= 0.95,
    "between 90 and 95 %": 0.9 <= share < 0.95,
    "between 75 and 85 %": 0.75 < share < 0.85,
}
print(f"more than 800 answers are above 0.9: {sure.sum().item() > 800}")
found = next((name for name, holds in options.items() if holds), "none of the three")
print(f"share of these that is right: {found}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# "As announced" tempts because softmax gives numbers between 0 and 1 that add up to 1, and we read such numbers as
# probabilities. Nothing in training made them so for *new* images: on the training images the network is nearly always
# right, and it learned that it may be sure. Of the images that an exit with the threshold 0.9 lets go, about one in
# five would be wrong.
# ```
#
# The mending is a single number. *Temperature scaling* divides all logits by T before the softmax, with T chosen
# on *held-out* answers so that the probabilities fit them best {cite}`guo2017calibration`.

# %% [markdown]
# **Predict (e).** We divide the test logits by a T of more than 2. What becomes of the accuracy?
#
# 1. it rises, the network is better now;
# 2. it falls, the network has become unsure;
# 3. it stays exactly the same.

# %% tags=["hide-output"]
temperature = decision.fit_temperature(validation_logits, validation[1])
mended = test_logits / temperature
right_now = mended.argmax(1) == test[1]
change = right_now.double().mean().item() - correct.double().mean().item()
print(f"T is above 2: {temperature > 2}")
print(f"change in accuracy: {100 * change:+.1f} percentage points")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# "It rises" tempts because something was repaired. But dividing all logits of an image by the same positive number
# keeps their order, so the largest stays the largest, and every answer is the same (the next cell asserts it). What was
# repaired is the claim. That is all a threshold needs: it never asks which class, only how sure.
# ```
#
# The *reliability diagram* shows it. Answers are sorted into ten bins by confidence; each bar is the share that
# is right, and on the diagonal a network is as good as it claims. The title gives the
# *expected calibration error*: the distance to the diagonal, averaged over all answers.

# %% mystnb={"image": {"alt": "Two reliability diagrams. Before scaling the bars stay well below the diagonal and most answers stand in the last bin; after scaling the bars follow the diagonal and the answers spread over the bins."}}
assert torch.equal(mended.argmax(1), test_logits.argmax(1))
error = partial(decision.expected_calibration_error, correct=correct, bins=10)
before, after = error(score), error(decision.confidence(mended))
print(f"error above 0.15 before: {before > 0.15}; below 0.05 after: {after < 0.05}")
diagrams = {"before": decision.reliability(score, correct, bins=10)}
diagrams["after"] = decision.reliability(decision.confidence(mended), correct, bins=10)
plots.reliability_diagram(diagrams)
plt.show()

# %% [markdown]
# Before, the hatched gaps lie between the bars and the diagonal nearly everywhere, and the lower panel shows most
# answers crowded into the last bin. Afterwards the bars follow the diagonal and the answers spread out. For an exit
# this changes how a threshold is read. The next chapter sets its thresholds by *counting* who passes, without
# calibrating at all. It may, as long as nobody reads 0.9 as nine in ten, and as long as the thresholds come from
# held-out data.

# %% [markdown]
# ## Where it breaks
#
# That last condition is where people fail. Training images are at hand, so why not fit T on them? Here is the mistake,
# run:

# %%
wrong_temperature = decision.fit_temperature(train_logits, training[1])
overdone = test_logits / wrong_temperature
assert wrong_temperature < 1 < temperature
worse = error(decision.confidence(overdone))
assert worse > before > after
print(f"fitted on training images T is below 0.2: {wrong_temperature < 0.2}")
print(f"the error is then larger than without any scaling: {worse > before}")

# %% [markdown]
# On its training images the network is almost never wrong, so the best fit is to be surer still: T falls towards zero,
# the confidences crowd towards 1, and the calibration error grows beyond what it was. The symptom to remember is a T
# below 1 for a network that is overconfident. Everything tuned on training answers inherits their near-perfection. The
# same mistake with thresholds instead of T has its own price; the next chapter shows it.

# %% [markdown]
# ## Exercises
#
# The tasks are in [Exercises: measuring](../../exercises/start/measuring.ipynb); in JupyterLab open
# `exercises/start/measuring.ipynb`.
#
# | # | task | level | minutes |
# |---|---|---|---|
# | 1 | `operational_intensity`: MACs for every byte of a convolution | 1 | 5 |
# | 2 | `roofline_bound`: the least time, and what limits it | 2 | 7 |
# | 3 | `expected_calibration_error`: how far confidence is from accuracy | 3 | 10 |
# | 4 | `rows_per_block`: how a batch shrinks, and what it saves | 3 | 8 |
#
# ## Recap
#
# - MACs are exact and blind: equal counts can differ many times in seconds, because of bytes, vector width and calls.
# - A time is a median after warm-up, with the device synchronised, beside its batch size and its contender.
# - The roofline bounds a layer by arithmetic or by memory; operational intensity says which.
# - t = a + b N: batch 1 pays the call, large batches pay MACs or bytes, and shrinking batches save rows before seconds.
# - Confidence is not probability until it has been calibrated on held-out data; that changes no answer.
#
# ## Where next
#
# [When is a network sure enough to stop?](../instance/msdnet.ipynb) puts all of it together: a network with exits,
# thresholds from held-out confidences, compaction, the queue, and both ledgers at three batch sizes.
#
# ## References
#
# The roofline is due to Williams, Waterman and Patterson {cite}`williams2009roofline`. Calibration of modern networks
# and temperature scaling: {cite}`guo2017calibration`, section 4.2; the binned error: {cite}`naeini2015obtaining`.
# Confidence as a rule for stopping: section 5.1 of the survey {cite}`han2021dynamic`.
