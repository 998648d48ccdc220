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
# # Where in a video does it happen?
# *65 min reading · 90 min exercises · needs [Gradients](../training/gradients.ipynb) (policy gradient) · CPU, under 60 s; GPU optional*
#
# In most frames of a video one small region tells what is going on. This chapter builds a network that looks cheaply
# at every whole frame, chooses one window of it, and looks dearly only there; it teaches the choice by a reward and
# then without one, and asks both ledgers what it saves. Technical terms in *italics* stand in the
# [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *say* which parts of such a network must run frame after frame, and which need not;
# - *write* the crop, the reward and the offline pass, and *prove* that it answers as the loop over frames does;
# - *train* a policy by comparing its window with a random one after the same history;
# - *say* what a gradient through a crop knows, and what it cannot know;
# - *name* the baseline of a speed-up, and *find* the clips on which such a network fails.

# %%
import copy
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch.nn.functional import cross_entropy

import course_lib
from course_lib import bench, data, decision, measure, plots
from course_lib.measure import CostCurve
from course_lib.temporal import adafocus
from course_lib.temporal.adafocus import AdaFocus, AdaFocusV2

plots.use_style()
course_lib.seed_everything(0)
device = course_lib.device()

# %% [markdown]
# ## The question
#
# Sixteen frames of a video, ResNet-50 on each of them at 224x224 pixels. What does that cost, and what would a window
# of 128x128 pixels in each frame cost, a third of the area? AdaFocus {cite}`wang2021adafocus` finds the windows with a
# MobileNetV2 on the whole frames, a small recurrent *policy*, and a recurrent classifier that collects everything. The
# cell builds the published network without numbers in it and counts.

# %%
with torch.device("meta"):  # shapes only: nothing is allocated
    published = AdaFocus.published(patch=128, frames=16)
    whole_frame = torch.zeros(1, 3, 224, 224)
G = {name: 16 * macs / 1e9 for name, macs in vars(published.frame_macs).items()}
G["whole"] = 16 * measure.count_macs(published.focuser, whole_frame) / 1e9
finding = G["glance"] + G["policy"] + G["classifier"]
print(f"16 whole frames {G['whole']:.1f} G, 16 windows {G['focus']:.1f} G")
print(f"finding the windows {finding:.1f} G, of that the policy {G['policy']:.2f} G")
saved, times = G["whole"] - G["focus"], G["whole"] / (finding + G["focus"])
print(f"reading windows only saves {saved:.1f} G; all in all {times:.1f} times cheaper")

# %% mystnb={"image": {"alt": "Two rows of boxes as wide as their multiply-adds. Upper: ResNet-50 on 16 whole frames, 65.4 G. Lower: glances 4.8, a thin dashed policy of 0.16, windows 21.4, a thin dashed classifier of 0.22, together 26.5 G."}}
names = {"glance": "glances", "policy": "policy", "focus": "16 windows"}
names["classifier"] = "classifier"
steps = [(what, G[part], part in ("policy", "classifier")) for part, what in names.items()]
static = [("ResNet-50 on 16 whole frames", G["whole"], False)]
_ = plots.cost_boxes({"static": static, "AdaFocus": steps}, unit="G multiply-adds")
plt.show()

# %% [markdown]
# Looking before looking costs 5.2 G and saves 44.0 G: in multiply-adds the video is 2.5 times cheaper. Whether it is
# also faster, and whether the answer survives, is another matter. (Why the two thin boxes have dashed lines will be told
# when there is more than one frame.)
#
# **Before you read on, say what you would do**: how would you choose a window without having read the frame with the
# good network? And how would you tell the chooser whether its choice was any good?
#
# ## One frame first
#
# A video of one frame is a picture, and nearly everything can be said about it. Our pictures have 48x48 pixels: noise,
# three bright strokes, and one real handwritten digit of 10x10 pixels, which is to be named.


# %%
def normalised(clips):
    """Frames in [-1, 1]; the three channels are equal, so one of them is kept."""
    one = (clips.frames[:, :, :1] - 0.5) * 2
    return one.expand(-1, -1, 3, -1, -1)


# %%
still, still_test = (
    data.clips(n, frames=1, split=split, seed=1)
    for n, split in ((3000, "train"), (1000, "test"))
)
x, x_test = normalised(still), normalised(still_test)
torch.manual_seed(0)
model = AdaFocus.tiny(frames=1).to(device)
print("clips, frames, channels, height, width:", tuple(x.shape))

# %% [markdown]
# The *glancer* is three small convolutions on the frame shrunk to 12x12, where the digit is two and a half pixels
# high: it can be found there, not read. The *focuser* is three larger ones on a window of 20x20 pixels at its own
# resolution. In the paper both begin with weights from ImageNet, so our focuser, too, gets something to begin with: we
# teach it to read digits in windows that contain one.

# %%
windows, digits = adafocus.object_windows(
    x, still.labels, still.box, still.informative, side=10, patch=20, n=10_240
)
reading = adafocus.pretrain_focus(model, windows, digits, seed=0)
assert reading.scores[-1] > 0.7
print("windows read correctly in the last epoch, above 70 %:", reading.scores[-1] > 0.7)

# %% [markdown]
# **Cutting windows.** A *location* is two numbers from 0 to 1: how far down and how far to the right the window
# stands, between the first place where it fits and the last. In a frame of height $H$, a window of side $P$ starts at
# row $\lfloor a_0 (H - P) \rfloor$. A loop over pictures says it plainly; indices say it for a whole batch, on any
# device; the library's `cut` takes any number of clips and frames.

# %%
location = torch.rand(6, 1, 2)
corner = (location[:, 0] * (48 - 20)).floor().long()
by_loop = torch.stack(
    [x[i, 0, :, r : r + 20, c : c + 20] for i, (r, c) in enumerate(corner)]
)
print("windows:", tuple(by_loop.shape))

# %%
i, side = torch.arange(6)[:, None, None], torch.arange(20)
rows, columns = corner[:, :1] + side, corner[:, 1:] + side
by_index = x[i, 0, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
assert torch.equal(by_index, by_loop)
assert torch.equal(adafocus.cut(x[:6], location, 20), by_loop)

# %% [markdown]
# **The reward.** The policy chooses one of 49 windows, on a grid of 7x7 places. There is no right answer to compare
# the choice with, and a choice has no slope; what can be had is a *reward*. AdaFocus asks: how much more probable did
# the chosen window make the true class than a window at a *random* place would have done?
#
# $$
# r = p\,(y \mid \text{chosen window}) - p\,(y \mid \text{random window})
# $$ (eq-adafocus-reward)
#
# Both answers see the same glance. So the reward is what the *choice* was worth, and not what the picture was worth.

# %%
six, truth = x[:6].to(device), still.labels[:6].to(device)
chosen, other = torch.rand(2, 6, 1, 2, device=device)
p = []
with torch.no_grad():
    _, glance = model.glance(six)
    for place in (chosen, other):
        logits, _, _ = model.classify(glance, model.look(six, place))
        p.append(logits[:, 0].softmax(-1)[torch.arange(6), truth])

# %% [markdown]
# The library's `window_rewards` does it for any number of frames; what it needs beside the pictures are the features of
# their glances, which do not depend on the windows.

# %%
library = adafocus.window_rewards(model, six, truth, glance, chosen, other)
assert torch.allclose(p[0] - p[1], library[:, 0], atol=1e-6)
print("rewards of six pictures, by hand and by the library: equal")

# %% [markdown]
# **Predict (a).** Make the window as large as the frame, $P = 48$. What reward does the policy get on average? (i) The
# highest of all, since the focuser now sees everything; (ii) about 0, sometimes more, sometimes less; (iii) exactly 0,
# always.

# %% tags=["hide-output"]
everything = AdaFocus.tiny(frames=1, patch=48).to(device).eval()
many, truth = x[:500].to(device), still.labels[:500].to(device)
_, glance = everything.glance(many)
places = torch.rand(2, 500, 1, 2, device=device)
rewards = adafocus.window_rewards(everything, many, truth, glance, *places)
told = [round(float(v), 4) + 0.0 for v in (rewards.min(), rewards.mean(), rewards.max())]
print("lowest, mean and highest of 500 rewards:", told)
assert rewards.abs().max() < 1e-6

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because seeing everything is good for the *answer*. But the reward pays for the choice, and there is only
# one window of that size: chosen and random are the same, and the difference is 0, (iii). A policy that is paid like
# this has nothing to learn. It is much the same when the glance alone already answers: then windows hardly
# change the probability, rewards fade, and the policy stops improving though it could.
# ```

# %% [markdown]
# **Four stages.** Stage 0 we have done. Stage 1 warms up the glancer and the classifier on random windows. (Our focuser
# rests, since on windows without digits it might forget; in the paper it is the glancer that rests, since it has been
# taught before.) Stage 2 trains the policy alone, by PPO with one step a batch, which is REINFORCE, as the chapter on
# [gradients](../training/gradients.ipynb) showed. Stage 3 lets the classifier get used to the windows the policy takes.
# (The paper trains the focuser along, and so does `fine_tune` unless its rate is 0, as it is here.) A twin, copied
# after stage 1, goes through stage 3 with random windows: a baseline that trained less would be no baseline.


# %%
def train_stages(model, x, labels, warm_up, policy):
    """Stages 1 to 3, and a twin that never had a policy."""
    adafocus.warm_up(model, x, labels, epochs=warm_up, focus_lr=0, seed=0)
    twin = copy.deepcopy(model)
    log = adafocus.train_policy(model, x, labels, epochs=policy, seed=0)
    adafocus.fine_tune(model, x, labels, focus_lr=0, seed=0)
    adafocus.fine_tune(twin, x, labels, focus_lr=0, windows="random", seed=0)
    return twin, log


# %%
twin, log = train_stages(model, x, still.labels, warm_up=8, policy=8)
print("the reward rose, and is above 0.1 in the end:", log.scores[-1] > 0.1 > log.scores[0])
assert log.scores[-1] > 0.1 > log.scores[0]

# %% [markdown]
# Now look at eight test pictures. Above, the picture and the window that was chosen. In the second row what the glancer
# sees, brightened, with a dot for the middle of each of the 49 windows, as large as the policy thinks it likely; the
# likeliest is ringed. Then the window, the only thing that the focuser reads, and the answer: the bar is the probability
# of the true class, and a wrong answer says so.

# %% mystnb={"image": {"alt": "Eight still pictures in columns, four rows. The noisy frame with a yellow window around the digit in most of them; the frame shrunk to 12x12 with a grid of dots, the largest on a bright spot and ringed; the window cut out at its own size, a digit in most of them; a bar for the answer's probability."}}
some = slice(40, 48)
eight = model.infer(x_test[some].to(device))
_ = plots.stills_strip(
    still_test.frames[some, 0], eight, still_test.labels[some], glance=12
)
plt.show()

# %% [markdown]
# That is the whole method for a still picture. How often does the window hold the whole digit, and what is that worth?
# Three little functions will ask that again and again.


# %%
def right(result, clips):
    """Share of right answers after each frame, (T,)."""
    return (result.logits.cpu().argmax(-1) == clips.labels[:, None]).double().mean(0)


def coverage(result, clips):
    """Share of windows that hold the whole digit, frame by frame, (T,)."""
    corner = adafocus.corners(result.location.cpu(), 48, 48, 20)
    return clips.covered(corner, 20).double().mean(0)


# %%
def compare(model, twin, x):
    """Learned windows, and random and middle ones by the twin."""
    drawn = torch.Generator().manual_seed(1)
    return {
        "learned": model.infer(x),
        "random": twin.infer(x, policy="random", generator=drawn),
        "middle": twin.infer(x, policy="center"),
    }


# %% [markdown]
# Random and middle windows are read by the twin, which knows nothing else.


# %% mystnb={"image": {"alt": "Bars in three groups for windows that hold the digit and for right answers. Learned windows hold it in more than half of the pictures, random and middle ones in about one of twelve; of the answers with learned windows about two thirds are right, of the others less than 40 percent."}}
found = compare(model, twin, x_test.to(device))
bars = {
    f"{name} windows": {
        "window holds the digit": float(coverage(r, still_test)[0]),
        "answer is right": float(right(r, still_test)[0]),
    }
    for name, r in found.items()
}
_ = plots.grouped_shares(bars, ylabel="test pictures, %")
plt.show()
assert coverage(found["learned"], still_test) > 3 * coverage(found["random"], still_test)
assert right(found["learned"], still_test) > right(found["random"], still_test) + 0.1

# %% [markdown]
# Learned windows hold the digit more than three times as often as random ones, and the answer is right in many more
# pictures, with the same focuser and, but for the policy's small share, the same number of multiply-adds. Nobody ever
# told the policy where the digit is. (The focuser was told, in its reading lesson; weights from ImageNet need no such
# hint.)
#
# ## Many frames, and a memory
#
# Now let it move. In a *clip* of eight frames digit and strokes drift, and every frame has noise of its own, so that
# several looks are worth more than one. Two parts of the network get a memory, a *GRU* {cite}`cho2014gru` each: the
# policy remembers what it has glanced at, and the classifier what it has seen, and answers after every frame.
#
# Two networks are trained side by side, on one core each. The first goes through the stages above. The second, with
# the softer crop of AdaFocusV2 {cite}`wang2022adafocusv2`, belongs to the second half of the chapter. Both start from
# the focuser that can read.

# %%
clips, test = (
    data.clips(n, frames=8, split=split, seed=2)
    for n, split in ((1500, "train"), (600, "test"))
)
short = data.clips(1000, frames=4, seed=3)
moving, soft = AdaFocus.tiny(frames=8).to(device), AdaFocusV2.tiny(frames=4).to(device)
for net in (moving, soft):
    net.focuser.load_state_dict(model.focuser.state_dict())

# %%
with ThreadPoolExecutor(2) as pool:
    stages = pool.submit(train_stages, moving, normalised(clips), clips.labels, 4, 6)
    end_to_end = pool.submit(adafocus.train_v2, soft, normalised(short), short.labels)
moving_twin, moving_log = stages.result()
print("epochs:", len(moving_log.scores), len(end_to_end.result().scores))

# %% [markdown]
# Here is what the first of them makes of a test clip.

# %% mystnb={"image": {"alt": "A clip of eight frames as a film strip in four rows: noisy frames with a yellow window that follows the digit, the shrunken frames with the policy's dots, the windows cut out, most with the same digit at different places, and bars for the probability of the true class, almost empty under the first three frames, where the answer is wrong, and high from the fourth on."}}
x_test = normalised(test).to(device)
shown = 4
results = compare(moving, moving_twin, x_test)
one = moving.infer(x_test[shown : shown + 1])
_ = plots.focus_strip(test.frames[shown], one, label=int(test.labels[shown]), glance=12)
plt.show()

# %% [markdown]
# The same picture, eight times, from left to right. The bars in the last row are the probability of the true class
# after each frame, and where an answer is wrong it says so. The policy runs along the second row: what it thinks of
# frame 5 may depend on frames 1 to 4. Dashed arrows are memories.

# %% [markdown]
# **Predict (b).** The windows are chosen one after another, each with the memory of those before. Must the focuser
# therefore run once for each of the eight frames, in turn? (i) Yes, each window has to wait for the one before; (ii)
# no, twice is enough; (iii) no, once.

# %% tags=["hide-output"]
calls = []
hook = moving.focuser.register_forward_hook(lambda m, given, out: calls.append(len(out)))
offline = moving.infer(x_test[:10])
print("the clip is there as a whole, windows per call:", calls)
calls.clear()
online = moving.infer_online(x_test[:10])
hook.remove()
print("frame by frame, windows per call:", calls)
assert torch.equal(offline.location, online.location)
assert torch.allclose(offline.logits, online.logits, atol=1e-4)

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because the policy *is* a loop over frames. But it runs along the second row of the strip and never looks
# at the third: its memory is made of glances, not of what the focuser saw. So all eight windows of all ten clips are
# known before the focuser starts, and it reads them as one batch of 80: (iii). The loops that remain, policy and
# classifier, are the dashed boxes of the first figure: 0.16 and 0.22 of 26.5 G, or 1.4 %. Had the policy listened to the focuser, the
# heavy part would be a loop as well.
# ```

# %% [markdown]
# The figure has both orders for our network: the same boxes, and the wide ones pushed together.

# %% mystnb={"image": {"alt": "Two rows of boxes of the same total length. Online: eight times glance, policy, window, classifier. Offline: one box of glances, eight thin dashed boxes of the policy, one long box with the words 8 windows, one batch, eight thin dashed boxes of the classifier."}}
_ = plots.work_order(moving.frame_macs, frames=8)
plt.show()

# %% [markdown]
# **Offline and online.** A clip that lies on a disk can be answered *offline*, as a whole. A camera wants it *online*,
# frame by frame. The cell writes down which part of the network is called, and in which order, for a clip of three
# frames.

# %%
called = []
hooks = [
    getattr(moving, part).register_forward_hook(lambda *_, part=part: called.append(part))
    for part in ("glancer", "policy", "focuser", "classifier")
]
for way in (moving.infer, moving.infer_online):
    called.clear()
    way(x_test[:1, :3])
    print(f"{way.__name__}:", *called)
for hook in hooks:
    hook.remove()

# %% [markdown]
# Four calls for any number of frames, or four for each of them. Within its one call the policy still goes from frame to
# frame, and so does the classifier; but these loops are short and cheap, and the assertions of the cell before say that
# the answers stay the same. To write the offline pass yourself, batches, loops and all, is your third task.
#
# There is one more thing to assert, in every project of this kind: change the future, and the past stays.

# %%
later = x_test[:50].clone()
later[:, 5:] = 0  # the last three frames go dark
dark = moving.infer(later).location[:, :5]
assert torch.equal(dark, results["learned"].location[:50, :5])
print("three frames go dark, the windows of the five before stay where they were")

# %% [markdown]
# A policy that peeks at later frames would look splendid offline and be worthless in front of a camera. Which of the
# two is faster here? The glances and windows are the same; online there are more and smaller operations, which on a
# quiet machine weigh most where a batch is small.

# %% tags=["nbval-ignore-output"]
for batch in (1, 64):
    some = x_test[:batch]
    ways = {"online": moving.infer_online, "offline": moving.infer}
    timing = measure.compare({name: partial(way, some) for name, way in ways.items()})
    gain = measure.ratio(timing["online"], timing["offline"])
    print(f"batch {batch}: online takes {gain:.1f} times as long as offline")

# %% [markdown]
# ## The same history
#
# With frames in a row, a reward has to say what exactly it compares. The answer after frame $t$ depends on the windows
# of all frames up to $t$. AdaFocus changes *one* thing: the window at $t$. The frames before are those that the policy
# really looked at, for both answers. With $h_{t-1}$ for the classifier's memory of them,
#
# $$
# r_t = p\,(y \mid h_{t-1}, \text{chosen}_t) - p\,(y \mid h_{t-1}, \text{random}_t), \qquad
# G_t = r_t + 0.7\, G_{t+1} .
# $$ (eq-adafocus-return)
#
# The *return* $G_t$ is what the choice at $t$ is credited with. In a loop: both answers from the same memory, and only
# the chosen window's memory lives on.

# %%
few, truth = x_test[:60], test.labels[:60].to(device)
chosen = results["learned"].location[:60]
other = torch.rand(60, 8, 2, device=device)


@torch.inference_mode()
def rewards_in_a_loop(other, write_back=False):
    memory, rewards = None, []
    _, glance = moving.glance(few)
    for t in range(8):
        now = slice(t, t + 1)
        seen = [moving.look(few[:, now], place[:, now]) for place in (other, chosen)]
        base, _, spoilt = moving.classify(glance[:, now], seen[0], memory)
        real, _, after = moving.classify(
            glance[:, now], seen[1], spoilt if write_back else memory
        )
        p = [z[:, 0].softmax(-1).gather(1, truth[:, None])[:, 0] for z in (real, base)]
        rewards.append(p[0] - p[1])
        memory = after
    return torch.stack(rewards, 1)


# %%
by_loop = rewards_in_a_loop(other)
with torch.inference_mode():
    glance = moving.glance(few)[1]
    at_once = adafocus.window_rewards(moving, few, truth, glance, chosen, other)
assert torch.allclose(by_loop, at_once, atol=1e-5)
returns = decision.discounted_returns(at_once.T, gamma=0.7).T
assert torch.allclose(returns[:, -1], at_once[:, -1])
print("rewards (clips, frames):", tuple(at_once.shape), "- loop and library agree")

# %% [markdown]
# The library has no loop here. It runs the classifier once over the chosen windows, shifts its memories by one frame,
# and answers every frame twice from there, all frames of all clips as one batch. Since both answers are dead ends, the
# *counterfactual* cannot leave a trace in the memory. The loop above has a switch that lets it, `write_back`; we shall
# throw it where things break. First, what the policy has learnt.

# %% mystnb={"image": {"alt": "Share of windows that hold the whole digit over the eight frames. The learned policy stays a little above one half in all frames, random and middle windows near one in ten."}}
curves = {name: coverage(result, test) for name, result in results.items()}
_ = plots.coverage_over_time({f"{name} windows": curve for name, curve in curves.items()})
plt.show()
assert curves["learned"].mean() > 3 * curves["random"].mean()
last = {name: float(right(r, test)[-1]) for name, r in results.items()}
assert last["learned"] > last["random"] + 0.1
print("at least 10 points more clips answered:", last["learned"] > last["random"] + 0.1)

# %% [markdown]
# The *coverage* of learned windows is several times that of random ones, in the first frame as in the last. The memory
# of the policy seems to help little here: a digit can be found in each frame anew. One clip, with the digit's path and
# that of the windows:

# %% mystnb={"image": {"alt": "Left, the mean of the frames with two paths, the digit's middle and the window's middle, close together. Middle and right, row and column over the eight frames: the digit's line lies inside the shaded band in which a window still holds it, in most frames."}}
hits = test.covered(moving.corners(results["learned"].location).cpu(), 20).sum(1)
travel = (test.box[:, -1] - test.box[:, 0]).abs().sum(1)
i = int(torch.where(hits >= 7, travel, 0).argmax())  # followed well, over a long way
path = moving.infer(x_test[i : i + 1])
_ = plots.trajectory(test.frames[i], path, test.box[i], side=10)
plt.show()

# %% [markdown]
# Inside the shaded band the window holds the digit. The windows jump, since there are only 49 places for them, and they
# need not be centred: the focuser has been taught on windows in which the digit stood anywhere.
#
# ## Two ledgers
#
# The first ledger counts. For the published network we have done so; the window's side is the knob. A convolution costs
# in proportion to the area it covers.

# %% [markdown]
# **Predict (c).** ResNet-50 costs 4.087 G on 224x224 pixels. By area a window of 144x144 would cost 1.689 G. What does
# the counter say? (i) 1.689 G, of course; (ii) less, since the window has less border; (iii) more.

# %% tags=["hide-output"]
for side in (128, 144, 160):
    with torch.device("meta"):
        counted = measure.count_macs(published.focuser, torch.zeros(1, 3, side, side)) / 1e9
    by_area = G["whole"] / 16 * (side / 224) ** 2
    print(f"{side}: by area {by_area:.3f} G, counted {counted:.3f} G")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts, and holds for 128 and 160. But ResNet-50 halves its maps five times, and 144 is four and a half times 32:
# from 9x9 positions the last stage goes to 5x5, since a half position is rounded up. That stage is computed as if the
# window had 160 pixels, and the bill is 1.758 G, 4 % above the area: (iii). Choose sides that the network can halve.
# ```

# %% [markdown]
# Our small network has a bill, too, and a clock. The figure puts the accuracy after 1, 2, 4 and 8 frames against
# multiply-adds on the left, and against measured clips per second on the right, where fewer frames stand further right.
# The middle windows and the random ones save the policy's share, the learned ones pay it.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Test accuracy against multiply-adds of a clip, and against measured clips per second at batch 64, after 1, 2, 4 and 8 frames. The curve of the learned windows lies far above those of random and middle windows in both panels."}}
numbers, work, clock = (1, 2, 4, 8), {}, {}
costs = {name: r.macs[0].item() / 8e6 for name, r in results.items()}
for name, r in results.items():
    accuracy = right(r, test)[[k - 1 for k in numbers]].tolist()
    policy = "center" if name == "middle" else name
    seconds = [
        measure.latency(partial(moving.infer, x_test[:64, :k], policy=policy)).median_s
        for k in numbers
    ]
    work[f"{name} windows"] = CostCurve([costs[name] * k for k in numbers], accuracy)
    clock[f"{name} windows"] = CostCurve([64 / s for s in seconds], accuracy)
figure = plots.accuracy_curves(
    {"M multiply-adds a clip": work, "clips a second, batch 64, measured": clock}
)
figure.axes[1].legend(loc="upper right")
plt.show()

# %% [markdown]
# So a learned window is worth many random ones. But that is not the question of the first figure, which was about
# *whole frames*. Reading all of each frame with the focuser takes longer to train than this chapter has, so it is
# recorded: `course bench temporal --record` trains both on three seeds and times them in turn, with a focuser twice as
# wide as the one above. Look for two things: is the curve of AdaFocus above that of the full frames, and **how many
# full frames are as good as eight windows?**

# %% mystnb={"image": {"alt": "Recorded run: left, accuracy against multiply-adds for learned, random and oracle windows and for full frames, with the range over seeds; right, accuracy against clips per second for AdaFocus, full frames and the online version. Where no run is recorded, both panels say so."}}
record = bench.latest("temporal", "cpu")
_ = plots.recorded_focus(record)
plt.show()

# %% tags=["nbval-ignore-output"]
print(bench.caption(record) if record else "no recorded run yet")
rows = {row["name"]: row for row in record["rows"]} if record else {}
for batch in (64, 1):
    for against in ("full frames, 8", "full frames of equal accuracy"):
        row = rows.get(f"batch {batch}: {against} / AdaFocus")
        if row:
            print(f"batch {batch}: {against} take {row['median']:.2f} times as long")
for name, row in rows.items():
    if name.startswith("reader"):
        model_too = row["details"]["adafocus_frames_per_s"]
        print(f"{name}: {row['median']:.0f} frames a second, the model {model_too}")

# %% [markdown]
# The baseline decides the headline. In this record eight full frames take four times as long as eight windows. But three
# or four full frames, depending on the seed, are as good within a point, and they take twice as long in two seeds and
# 1.4 times in the third. With one clip at a time that second advantage is gone, since the many small operations and the
# two loops cost what the windows save. It was no different at full size. *Published*, for AdaFocus on
# Something-Something, short clips of hands that do things, with windows of 144: against the network of two encoders,
# 1.49 times fewer multiply-adds made 1.31 times less latency and 1.37 times the videos per second; against the plain
# one, 1.39 times fewer made 1.00 and 1.12, at 0.6 to 0.9 points more accuracy.
#
# ## Frames that need no window
#
# A frame in which nothing is to be seen needs a glance and no window. AdaFocus+ adds that decision to a trained
# network: one more output of the policy, read or skip. How its authors reward it is not in their released code; ours
# pays what reading the window did to the true class's probability, after the same history, less a *price*, and 0 for a
# frame that is skipped. The clips here show their digit in four of eight frames only.

# %%
sparse, sparse_test = (
    data.clips(n, visible=4, split=split, seed=4)
    for n, split in ((800, "train"), (600, "test"))
)
skipping = copy.deepcopy(moving)
taught = adafocus.train_skipping(
    skipping, normalised(sparse), sparse.labels, price=0.05, epochs=12, seed=0
)
fell = taught.scores[0] > taught.scores[-1]
print("share of the windows that it reads, lower at the end than at the beginning:", fell)

# %% [markdown]
# At test a window is read where the chance to be worth it reaches a *threshold*. Does the network know which frames show
# a digit?

# %%
x_sparse = normalised(sparse_test).to(device)
skips = {
    t: skipping.infer(x_sparse, threshold=t) for t in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
}
kept = skips[0.5].kept.cpu()
informative = kept[sparse_test.informative].double().mean()
empty = kept[~sparse_test.informative].double().mean()
print("read more often where there is something to read:", bool(informative > empty + 0.2))
assert informative > empty + 0.2

# %% mystnb={"image": {"alt": "A film strip of eight frames. In some frames the digit is missing; windows that were not read are drawn with a dotted outline, and their place in the second row is pale and hatched with the words not read."}}
agree = (kept == sparse_test.informative).sum(1)  # of eight decisions, the right ones
i = int(agree.argmax())
lazy = skipping.infer(x_sparse[i : i + 1], threshold=0.5)
_ = plots.focus_strip(sparse_test.frames[i], lazy, label=int(sparse_test.labels[i]))
plt.show()

# %% [markdown]
# Skipped windows are pale and hatched, and they are really skipped: the focuser's batch holds the others and nothing
# else. The *threshold* is a knob for after the training. The next figure turns it, and beside it skips as many windows
# by lot.

# %%
by_lot, learned = [], []
with torch.inference_mode():
    _, glance = skipping.glance(x_sparse)
    for r in skips.values():
        share = r.kept.double().mean().item()
        learned.append((share, right(r, sparse_test)[-1].item()))
        lot = torch.rand(r.kept.shape, generator=torch.Generator().manual_seed(5)) < share
        focus = skipping.look(x_sparse, r.location, lot.to(device))
        answer = skipping.classify(glance, focus)[0][:, -1].argmax(-1).cpu()
        by_lot.append((share, (answer == sparse_test.labels).double().mean().item()))
gain = sum(a for _, a in learned[2:]) - sum(a for _, a in by_lot[2:])
print("the learned choice of frames is worth more than a lot:", gain > 0)
assert gain > 0

# %% mystnb={"image": {"alt": "Accuracy against the share of windows that were read, from about a half to all. The curve of the learned skipping lies above that of windows skipped by lot."}}
panel = {
    name: CostCurve(*torch.tensor(points).T.tolist())
    for name, points in (("learned", learned), ("by lot", by_lot))
}
_ = plots.accuracy_curves({"share of the windows that are read": panel})
plt.show()

# %% [markdown]
# ## Move through a clip
#
# Choose a policy and a frame. From left to right: the frame with its window, the window, the frames so far in which it
# held the digit (what is still to come is hatched), and the probability of the true class, with the other two policies
# in grey.

# %%
inside = {
    name: test.covered(adafocus.corners(r.location.cpu(), 48, 48, 20), 20)
    for name, r in results.items()
}
stored = {"results": results, "covered": inside, "index": shown}
stored |= {"clip": test.frames[shown], "label": int(test.labels[shown])}
draw = partial(plots.focus_dashboard, **stored)

# %% [markdown]
# Everything is stored, so the hand may move freely.

# %% tags=["nbval-ignore-output"]
controls = {
    "policy": ipywidgets.Dropdown(options=list(results), description="windows"),
    "t": ipywidgets.IntSlider(1, min=1, max=8, description="frame"),
}
reset = ipywidgets.Button(description="reset")
reset.on_click(lambda _: controls["t"].set_trait("value", 1))


def show(policy, t):
    draw([(policy, t - 1)])
    plt.show()


view = ipywidgets.interactive_output(show, controls)
display(ipywidgets.VBox([ipywidgets.HBox([*controls.values(), reset]), view]))

# %% mystnb={"image": {"alt": "Four rows of four views: learned windows at frames 1, 4 and 8 and random windows at frame 8. The learned window holds the digit in most frames and the probability of the true class rises; the random one holds it once or never."}}
_ = draw([("learned", 0), ("learned", 3), ("learned", 7), ("random", 7)])
plt.show()

# %% [markdown]
# Three frames of the learned windows and one of the random ones. Follow the curve past the windows that hold the digit:
# one look may not be enough, and a later one can put it right or, in the noise, wrong again.
#
# ## Where it breaks
#
# **The classic mistake** is the switch in our loop. If the counterfactual's memory is written back, the real answer
# starts from a history in which the classifier has already seen a random window of the same frame.

# %%
spoilt = rewards_in_a_loop(other, write_back=True)
wrong_sign = ((spoilt > 0) != (by_loop > 0)).double().mean()
print("rewards with the wrong sign, above 5 %:", bool(wrong_sign > 0.05))
assert wrong_sign > 0.05

redrawn = other.clone()
redrawn[:, 0] = 0.5  # another random window, in the first frame only
for write_back, before in ((False, by_loop), (True, spoilt)):
    after = rewards_in_a_loop(redrawn, write_back)
    changed = ((after - before).abs() > 1e-6).any(0).sum()
    print(f"written back: {write_back}, frames whose reward changes: {int(changed)}")

# %% [markdown]
# Nothing crashes, shapes are right, rewards look like rewards. Yet more than one in twenty has the wrong sign, since the
# real answer has seen each frame twice, once by luck. The last lines are the test that finds it: what *might* have been
# looked at in the first frame must not matter in any other.
#
# **Clips it was not made for.** The next cell draws test clips in which one thing is changed: everything moves up to 16
# pixels a frame, more than half of a window; the same, but the window of each frame is where the policy wanted it in
# the frame *before*; a second digit; strokes brighter than the digit.

# %%
kinds = {
    "as trained": {},
    "16 pixels\na frame": {"speed": 16.0},
    "... and one\nframe late": {"speed": 16.0},
    "two digits": {"rival": True},
    "bright\nstrokes": {"brightness": 1.3},
}

# %% [markdown]
# Every kind is drawn with the same seed, so that clip by clip only the one thing differs.

# %% mystnb={"image": {"alt": "Bars in five groups, windows that hold the digit and right answers; a dotted line marks guessing, at 10 percent. As trained: more than half, and nearly nine tenths. Up to 16 pixels a frame: almost the same. One frame late: less than a quarter of the windows hold the digit, and still four fifths of the answers are right. Two digits, and bright strokes: about a third, and less than half."}}
broken, answers = {}, {}
for name, change in kinds.items():
    drawn = data.clips(400, split="test", seed=6, **change)
    frames = normalised(drawn).to(device)
    result = moving.infer(frames)
    if "late" in name:
        late = torch.cat((result.location[:, :1], result.location[:, :-1]), 1)
        result = moving.infer(frames, policy=late)
    broken[name] = {
        "window holds the digit": float(coverage(result, drawn).mean()),
        "answer is right": float(right(result, drawn)[-1]),
    }
    answers[name] = (result.logits[:, -1].argmax(-1).cpu(), drawn.rival)
_ = plots.grouped_shares(broken, ylabel="test clips, %", chance=0.1)
plt.show()

# %%
hold, say = "window holds the digit", "answer is right"
usual, fast, late, two, bright = broken.values()
answer, rival = answers["two digits"]
print("fast motion alone costs less than 10 points:", fast[say] > usual[say] - 0.1)
print("a frame late, a third of the coverage is lost:", late[hold] < fast[hold] * 2 / 3)
print("and yet most of those clips are named rightly:", late[say] > 0.6)
print("two digits, the other one is named in over a fifth:",
      bool((answer == rival).double().mean() > 0.2))  # fmt: skip
print("bright strokes cost more than 20 points:", bright[say] < usual[say] - 0.2)
assert fast[say] > usual[say] - 0.1
assert late[hold] < fast[hold] * 2 / 3
assert late[say] > 0.6
assert min(usual[say] - two[say], usual[say] - bright[say]) > 0.2

# %% [markdown]
# Two of these are surprises. Speed alone does hardly any harm, though the digit may leave the last window within a frame:
# the policy glances at *this* frame before it cuts. It is the pipeline that cuts where the frame before said, say
# because it cannot wait for the glance, that loses what moves faster than the margin of its window. And even then most
# answers stay right: of eight looks one or two still hold the digit, others hold part of it, and the classifier needs
# no more. Coverage is not accuracy. The last two cost both, and are the price of deciding from 12x12 pixels. A second
# digit looks as good to the policy as the first, and a bright stroke looks better than a digit. No focuser can repair
# what the glance has thrown away.

# %% [markdown]
# ## V2: a window that slides
#
# Four stages, a reward, a baseline: all that, because a choice among 49 places has no slope. AdaFocusV2 gives it one.
# The policy says a location with fractions, $a = (a_0, a_1)$, and the window is *interpolated* between pixels. Then the
# loss has a derivative with respect to $a$, and everything is trained at once, end to end. Where the corner falls on
# whole pixels, this crop is the old one. On a ramp that grows by $s$ a pixel, the mean of the window must grow by
# $s\,(H - P)$ as $a_0$ goes from 0 to 1.

# %%
place = adafocus.random_locations(50, 8, room=28).to(device)
sliced = adafocus.cut(x_test[:50], place, 20)
assert torch.allclose(adafocus.soft_cut(x_test[:50], place, 20), sliced, atol=1e-4)
ramp = 0.3 * torch.arange(48.0).view(1, 1, 1, 48, 1).expand(1, 1, 3, 48, 48)
a = torch.tensor([[[0.37, 0.61]]], requires_grad=True)
(slope,) = torch.autograd.grad(adafocus.soft_cut(ramp, a, 20).mean(), a)
assert torch.allclose(slope[0, 0], torch.tensor([0.3 * 28, 0.0]), atol=1e-3)
print("slope on the ramp:", [round(v, 2) + 0.0 for v in slope.flatten().tolist()])

# %% [markdown]
# It does: 8.4 downwards, 0 sideways. (How to write such a crop is your fourth task.) But what does such a gradient
# know? We take pictures with little noise and put the window at 13x13 places in each. The focuser of our V2 network has a
# small head of its own, which names what that one window shows; we ask in each place in which direction the loss of this
# answer falls.

# %% [markdown]
# **Predict (d).** A window stands so far from the digit that the two do not touch. Where does the gradient pull it? (i)
# Towards the digit, weakly; (ii) away from it; (iii) anywhere, it has no idea.

# %% tags=["hide-output"]
calm = data.clips(24, frames=1, noise=0.03, strokes=0, split="test", seed=9)
x_calm = normalised(calm).to(device)
grid = torch.cartesian_prod(*[torch.linspace(0.02, 0.98, 13)] * 2)[:, None].to(device)
rows = []
for picture, label in zip(x_calm, calm.labels.to(device), strict=True):
    place = grid.clone().requires_grad_()
    window = soft.look(picture.expand(169, -1, -1, -1, -1), place)
    loss = cross_entropy(soft.focus_head(window)[:, 0], label.expand(169), reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), place)
    rows.append((-gradient[:, 0].cpu() / 28, loss.detach().cpu()))
pull, loss = map(torch.stack, zip(*rows, strict=True))  # (24, 169, 2), (24, 169)
to_digit = calm.box - 5 - grid[:, 0].cpu() * 28  # from each window's middle to the digit's
far = to_digit.abs().amax(-1)
towards = (pull * to_digit).sum(-1) / to_digit.norm(dim=-1)
bands = {"touching": (far > 5) & (far < 12), "apart": far > 16}
for name, band in bands.items():
    print(f"{name}: pull towards the digit above 0.05: {bool(towards[band].mean() > 0.05)}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because gradients are said to lead downhill. But this one is made of differences between *neighbouring
# pixels* in the window. Far from the digit these are noise or nothing, and so is the gradient: (iii). Only where window
# and digit overlap does moving by a pixel bring more of the digit in.
# ```

# %% mystnb={"image": {"alt": "Three panels. A picture with a boxed digit and arrows from 169 window places, long ones near the digit, tiny ones elsewhere. The loss by place of the window: a dark hole where the window holds the digit, flat elsewhere. The mean pull towards the digit against distance: near 0 while the digit is well inside, a hump from about 6 to 15 pixels, where it is at the rim or partly outside, and 0 beyond 15, where window and digit no longer touch."}}
assert towards[bands["touching"]].mean() > 3 * towards[bands["apart"]].mean().abs()
holds = far <= 5  # the whole digit is in the window
inside = torch.where(holds, loss, 0).sum(1) / holds.sum(1).clamp(min=1)
i = int((inside + 9 * (holds.sum(1) < 9)).argmin())  # the picture that is read best
box = torch.cat((calm.box[i, 0], torch.tensor([10.0])))
corner = grid[:, 0].cpu() * 28
_ = plots.pull_field(
    calm.frames[i, 0],
    corner,
    pull[i],
    loss[i],
    box,
    far.flatten(),
    towards.flatten(),
    patch=20,
)
plt.show()

# %% [markdown]
# The loss over all places is a hole in a plain. Single arrows are rough even near the hole; on average they point into
# it from its rim, and from nowhere else. A gradient finds the way down the hole and not the way to it.

# %% [markdown]
# How can it learn at all, then? By four precautions. Every batch is answered twice, with the policy's windows and with
# windows at *random* places, so that the focuser keeps seeing everything and the classifier keeps knowing what a hit is
# worth. Both encoders have a head and a loss of their own. The policy reads the glance maps but sends *no gradient* back
# into them. And it learns slowly. The policy does not follow arrows across one picture; it is the same function
# for all pictures, and those in which the window happened to touch something teach it for the rest.

# %%
few, labels = normalised(short)[:4].to(device), short.labels[:4].to(device)
first, _ = soft(few, torch.rand(4, 4, 2, device=device))
answer = cross_entropy(first.logits[:, -1], labels)
weight, glancer = next(soft.policy.parameters()), list(soft.glancer.parameters())
into_policy = torch.autograd.grad(answer, weight, retain_graph=True)[0]
through = torch.autograd.grad(first.location.sum(), glancer, allow_unused=True)
print("the answer's loss reaches the policy:", bool(into_policy.abs().sum() > 0))
print("the policy reaches the glancer:", any(g is not None for g in through))

# %% [markdown]
# Our V2 network was trained while the first one was. It had 1000 clips of four frames, and learned everything but the
# first reading lesson in one stage.

# %% mystnb={"image": {"alt": "Left, V2's accuracy on its training clips over eight epochs, rising steeply from near 0.2 and flattening. Right, the first network's mean reward over six epochs, from 0 upwards."}}
epochs = {
    "V2, end to end": ("accuracy, training clips", {"V2": end_to_end.result().scores}),
    "V1, stage 2": ("mean reward", {"policy": moving_log.scores}),
}
_ = plots.stage_curves(epochs)
plt.show()

# %% [markdown]
# On test clips of four frames, with its own windows and with random ones:

# %%
four = data.clips(600, frames=4, split="test", seed=3)
x_four = normalised(four).to(device)
slid = {p: soft.infer(x_four, policy=p, generator=torch.Generator().manual_seed(1))
        for p in ("learned", "random")}  # fmt: skip
held = {p: float(coverage(r, four).mean()) for p, r in slid.items()}
good = {p: float(right(r, four)[-1]) for p, r in slid.items()}
print(
    "coverage above three times that of random windows:",
    held["learned"] > 3 * held["random"],
)
print("at least 10 points more right answers:", good["learned"] > good["random"] + 0.1)
assert held["learned"] > 3 * held["random"]
assert good["learned"] > good["random"] + 0.1

# %% [markdown]
# It finds the digit without any reward. Its classifier differs, too: it keeps the *maximum* over frames of what it has
# seen and has one head for each number of frames. And it reads frames from coarse to fine in time, so that a few frames
# already span the clip:

# %%
print("order of 8 frames:", adafocus.coarse_to_fine(8))
sure = {
    t: soft.infer(x_four, thresholds=torch.full((4,), t))
    for t in (0.3, 0.4, 0.55, 0.75, 0.95)
}
read = {t: r.kept.sum(1).double() for t, r in sure.items()}
for t, r in sure.items():  # frames that are not read cost nothing
    assert torch.equal(r.macs, read[t] * soft.frame_macs.video(1))
frames_read = [float(n.mean()) for n in read.values()]
assert frames_read == sorted(frames_read)
print("a higher threshold reads more frames:", frames_read == sorted(frames_read))

# %% mystnb={"image": {"alt": "Test accuracy against the mean number of frames read, from 1 to 4. The curve of clips that leave when sure lies above that of the same number of frames for all."}}
for_all = CostCurve([1, 2, 3, 4], right(slid["learned"], four).tolist())
leaving = CostCurve(frames_read, [float(right(r, four)[-1]) for r in sure.values()])
panel = {"leave when sure": leaving, "the same number for all": for_all}
_ = plots.accuracy_curves({"frames read, mean over the clips": panel})
plt.show()
gain = leaving.accuracies[2] - for_all.at_cost(leaving.costs[2])
print("threshold 0.55, better than as many frames for all:", gain > 0.02)
assert gain > 0.02

# %% [markdown]
# This is the *conditional exit* of V2: after each frame the answer's largest probability is held against a threshold,
# as in the chapter on [MSDNet](../instance/msdnet.ipynb), and the frames that are left are neither glanced at nor read.
#
# ## A real file
#
# All of this works on files. The cell writes a clip as an H.264 video, larger and longer than the network wants it,
# reads eight frames of it back at 48x48 pixels, lets the network look, and writes a second video that shows where. Give
# `read_clip` a video of your own and the pipeline is the same; a network that was taught to find digits will then look
# for digits.

# %%
source = data.clips(1, frames=24, noise=0.1, speed=1.0, split="test", seed=12)
large = torch.nn.functional.interpolate(source.frames[0], scale_factor=4.0)
with tempfile.TemporaryDirectory() as folder:
    video, overlay = Path(folder) / "digit.mp4", Path(folder) / "looked.mp4"
    data.write_clip(video, large, fps=12)
    clip = data.read_clip(video, frames=8, size=48)
    seen = moving.infer(((clip - 0.5) * 2)[None].to(device))
    data.write_overlay(overlay, clip, seen, patch=20)
    again = data.read_clip(overlay, frames=8, size=None)
print("the file:", tuple(large.shape), "- as the network reads it:", tuple(clip.shape))
print("the overlay video:", tuple(again.shape))

# %% mystnb={"image": {"alt": "The eight frames read back from the video file as a film strip with windows, policy, cut-outs and answers."}}
_ = plots.focus_strip(clip, seen, label=int(source.labels[0]), glance=12)
plt.show()

# %% [markdown]
# Compression and resizing have softened the frames, and the network was never told. Decoding has a price as well; the
# recorded run above has the reader's frames per second beside the model's.
#
# ## At full size
#
# *Published, not run here.* ActivityNet, mean average precision, multiply-adds for a video of 16 frames; V1 and V2
# with MobileNetV2 and ResNet-50, and how long four GPUs trained.
#
# | window | V1, G | V1, mAP | V1, hours | V2, G | V2, mAP | V2, hours |
# |---|---|---|---|---|---|---|
# | 96 | 17.2 | 71.9 | 6.4 | 17.6 | 77.4 | 3.4 |
# | 128 | 26.6 | 75.0 | 7.2 | 27.0 | 79.0 | 3.7 |
# | 160 | 38.5 | 76.0 | 8.6 | 39.0 | 79.9 | 4.3 |
#
# At full size the window that slides was both better and quicker to train. (The 26.6 is what our count at the beginning
# has as 26.5. Mean average precision is not accuracy; and
# the numbers of V1 are those of its paper, with the training of its time.) In our toy the two networks had different
# clips, so we do not rank them.

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/temporal/adafocus](../../exercises/temporal/adafocus.ipynb); each has a check that answers at
# once.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `video_macs` | what a video costs | 1 | 8 |
# | `returns` | rewards and returns after the same history | 2 | 15 |
# | `offline` | all windows in one batch | 4 | 27 |
# | `soft_crop` | a crop with a gradient | 5 | 40 |
#
# ## Recap
#
# - Glance cheaply everywhere, look dearly in one place.
# - Keep the heavy network out of the decision and it stays one batch.
# - Reward against a random window with the *same* history; do not write the baseline's state back.
# - V2 makes the window differentiable; gradients are local, so random windows stay in training.
# - Name the baseline and time it in the same run.
#
# ## Where next
#
# The [start page](../start/paths.ipynb) has the reading orders. [MSDNet](../instance/msdnet.ipynb) sets thresholds to a
# budget, which works for frames as it does for layers. [LASNet](../spatial/lasnet.ipynb) chooses many small places
# instead of one large one. Whole frames that are dropped, and clips read at several resolutions, get a chapter of their
# own later.
#
# ## References
#
# The method: {cite}`wang2021adafocus`; V2: {cite}`wang2022adafocusv2`; its forerunner on still images:
# {cite}`wang2020glance`. The crop with a gradient is that of spatial transformers {cite}`jaderberg2015stn`. The policy
# gradient: {cite}`williams1992reinforce,schulman2017ppo`. The encoders: {cite}`sandler2018mobilenetv2,he2016resnet`, on
# Something-Something with {cite}`lin2019tsm`. Exits over frames: {cite}`ghodrati2021frameexit`. Where temporally
# adaptive networks stand: {cite}`han2021dynamic`, section 4.
