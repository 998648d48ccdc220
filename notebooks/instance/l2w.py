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
# # Should every exit learn from every image?
# *55 min reading · 90 min exercises · needs [MSDNet](msdnet.ipynb), the chain rule · CPU, under 60 s; GPU optional*
#
# A network with exits sends its easy inputs home early, but trains every exit on all of them. This chapter lets a
# second, tiny network decide how much each sample should count at each exit, and teaches that network by looking one
# step ahead. Its terms, set in *italics* where they first appear, stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *measure* how far the samples an exit is trained on are from those it answers;
# - *compute* centred sample weights, and say when they can become negative;
# - *derive* how a weight changes a loss that is taken one training step later, and check it by finite differences;
# - *write* a look-ahead step that leaves the real network untouched;
# - *judge* an accuracy gain beside its spread over seeds, against a baseline that was treated alike.

# %%
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

import course_lib
from course_lib import bench, data, decision, measure, plots, train
from course_lib.instance import l2w
from course_lib.instance.msdnet import MSDNet
from course_lib.plots.weights import paired_gains

plots.use_style()
course_lib.seed_everything(0)
device = course_lib.device()

# %% [markdown]
# ## The question
#
# Take a network with five exits and the shares of the [chapter before](msdnet.ipynb), $q_k \propto \rho^k$ with
# $\rho = 0.75$. The cell prints how many of a hundred samples each exit will answer.

# %%
rho = 0.75
shares = decision.exit_shares(rho, 5)
print("of 100 samples, answered by each exit:", [round(100 * s) for s in shares.tolist()])

# %% [markdown]
# Exit 1 will answer 33 in a hundred, and exit 5 ten. In training, all five see all hundred, and with the
# same weight. Is exit 1 practising for an examination it will not sit?
#
# **Before you read on, say what you would do.** Show each exit its own third, fifth, tenth of the training set? Then
# exit 5 would learn from a tenth of the data. And who knows, during training, which sample will leave where?
#
# ## A task on which depth matters
#
# To see what an exit meets we need samples whose difficulty is known, and a network that trains in seconds. The
# samples are vectors of 64 numbers in ten classes. Six in ten are *easy*: the prototype of their class in noise. Four
# in ten are *hard*: they show one of eight further prototypes, with a misleading trace of another class. The network
# has five blocks, *densely connected* like MSDNet's, and its first block is only 5 units wide: enough for ten easy
# prototypes, too narrow for eighty hard ones.

# %%
fit, held_out, test = (
    data.two_difficulties(n, seed=seed) for n, seed in ((3000, 1), (1000, 2), (2000, 3))
)
widths = (5, 8, 16, 32, 64)
network = l2w.DenseMLP(widths=widths)
for k, cost in enumerate(network.exit_costs(64)):
    print(f"exit {k + 1}: block of {widths[k]:2} units, {cost:6,.0f} multiply-adds in all")
print("hard, of 100 training samples:", round(100 * fit.hard.double().mean().item()))

# %% [markdown]
# Since every claim of this chapter will be about small differences, we train three times, from three
# random seeds, and keep the *spread*. `l2w.fit_l2w` trains on half-batches of 128 samples. With `epsilon=0` all weights
# are 1: that is the plain sum of the exits' losses, and our baseline. `train.study` keeps the logits of all exits on
# held-out and on test samples.


# %%
def fresh(seed):
    torch.manual_seed(seed)
    return l2w.DenseMLP(widths=widths).to(device)


def learn(seed, epsilon, epochs=25):
    model = fresh(seed)
    seen = fit.inputs, fit.labels
    run = l2w.fit_l2w(
        model, seen, epochs=epochs, epsilon=epsilon, hidden=64, wpn_lr=1e-3, seed=seed
    )
    return model, run


def study_of(model):
    return train.study(
        model, (held_out.inputs, held_out.labels), (test.inputs, test.labels)
    )


equal = [study_of(learn(seed, epsilon=0)[0]) for seed in range(3)]

# %% [markdown]
# Is that really the training of the chapter before? One epoch of either, from the same first weights and in the same
# order, must end in the same numbers, bit for bit. The batch of 256 that is cut in halves equals a batch of 128.

# %%
first = fit.inputs[:2560], fit.labels[:2560]
ours, plain = fresh(0), fresh(0)
l2w.fit_l2w(ours, first, epochs=1, batch_size=256, epsilon=0)
train.fit(plain, first, epochs=1, batch_size=128, lr=0.1, nesterov=False, progress=False)
same = zip(ours.parameters(), plain.parameters(), strict=True)
print("equal weights are plain training:", all(torch.equal(a, b) for a, b in same))

# %% [markdown]
# Now let the test samples leave, with thresholds for $\rho = 0.75$ set on held-out samples, and ask who
# arrives at each exit. The network has never been told which samples are hard.

# %% mystnb={"image": {"alt": "Two panels of five bars. Left, what each exit is trained on: every bar is full, four tenths of it hard. Right, what each exit answers: exit 1 a third of all samples and nearly all of them easy, exit 5 a tenth and nearly all of them hard. The rest of each bar, never asked, is pale and hatched; the share of hard samples stands beside the bar."}}
leaves_at = [run.exit_index(run.thresholds(rho)) for run in equal]
_ = plots.practice_and_exam(fit.hard, test.hard, leaves_at[0], 5)
plt.show()

# %%
for k, (least, most) in ((0, (0.0, 0.2)), (4, (0.8, 1.0))):
    hard = [float(test.hard[left == k].double().mean()) for left in leaves_at]
    assert all(least < share < most for share in hard)
    print(
        f"exit {k + 1}: between {least:.0%} and {most:.0%} hard in each of the three runs"
    )
answered = [float((left == 0).double().mean()) for left in leaves_at]
print("exit 1 answers a third, give or take 8 points:",
      all(abs(share - shares[0]) < 0.08 for share in answered))  # fmt: skip

# %% [markdown]
# That is the mismatch, exit by exit. Everybody trains on four hard samples in ten. At the examination,
# exit 1 gets few of them, and exit 5 little else. No exit is trained on the mixture it will answer, and the
# pale part of each bar is practice for questions that never come. Exit 1 answers a few points more or less than its
# planned third, for the thresholds come from only 1000 held-out samples.
#
# ## The idea, in one picture
#
# The method of this chapter, L2W-DEN {cite}`han2022l2w`, leaves the network, its exits and its inference as they are.
# It changes the training loss alone: the loss $l_i^{(k)}$ of sample $i$ at exit $k$ gets a weight,
#
# $$
# L_\text{train} = \sum_{k=1}^{K} \frac{1}{B} \sum_{i=1}^{B} w_i^{(k)} \, l_i^{(k)} .
# $$ (eq-l2w-train)
#
# The weights come from a *weight prediction network*, an MLP with one hidden layer that reads the sample's $K$ losses.
# It is trained along with the big one and thrown away at the end. The next cell trains with it, three times; the figure
# then shows all its parts, and the rest of the chapter takes them one by one.

# %%
trained = [learn(seed, epsilon=0.8) for seed in range(3)]
learned = [study_of(model) for model, _ in trained]
counts = {(run.history.steps, len(run.meta_losses)) for _, run in trained}
print("steps of the network, and judgements, in each run:", *counts)

# %% mystnb={"image": {"alt": "Three panels. Left: a map of weights, sixty samples from small to large loss against five exits; for samples of large loss the weights are far below 1 at exits 1 and 2 and far above 1 at exits 4 and 5. Five rows carry their numbers. Middle: a loop of three numbered arrows. 1 leads from the network to a dashed copy one step ahead, 2 from the copy, judged by 512 samples in bins of 167, 125, 94, 70 and 56, to the weight network, 3 is the real step of the network. Right, one below the other, two pairs of arrows: the gradient of the judges' loss to the right, and above it that of sample a at 41 degrees, whose weight rises; below that of sample b at 167 degrees, whose weight falls."}}
model, run = trained[0]
logits, labels = train.evaluate(model, (fit.inputs[:60], fit.labels[:60]))
losses = l2w.exit_losses(logits, labels)
bins = l2w.allocate(equal[0].validation_confidence[:512], rho).bincount()
cosines = {"a": 0.759, "b": -0.976}  # of a toy that is worked out below
_ = plots.weight_loop(run.weigh(losses), losses.mean(1), bins.tolist(), cosines)
plt.show()

# %% [markdown]
# Left, what was learnt: one weight for every sample and exit, around 1. Middle, how: (1) take a step with
# the present weights, but on a *copy*; (2) judge the copy by other samples, each only at the exit where it would leave,
# and let that judgement move the weight network; (3) only then take the real step. Right, the rule that comes out of
# it: a weight rises if the sample's own gradient points the same way as the gradient of those who judge.
#
# ## Weights around one
#
# The MLP ends in a tanh, so it gives a raw weight $t_i^{(k)}$ between $-1$ and $1$. Raw weights must not change how
# large the loss is as a whole, or the weights would play with the learning rate. So they are *centred*: the mean is
# taken off, a strength $\epsilon$ scales them, and 1 is added,
#
# $$
# w_i^{(k)} = 1 + \epsilon \, \bigl( t_i^{(k)} - \bar t \,\bigr) .
# $$ (eq-l2w-weights)
#
# Here is the smallest case by hand: two samples, three exits, each sample centred over its own exits.

# %%
raw = [[0.9, 0.0, -0.6], [-0.2, 0.1, 0.4]]
by_hand = []
for row in raw:
    mean = sum(row) / len(row)
    by_hand.append([1 + 0.8 * (t - mean) for t in row])
    print([round(w, 2) for w in by_hand[-1]], "sum", round(sum(by_hand[-1]), 6))

# %% [markdown]
# Each sample keeps a total weight of 3, one for each exit; it can only *move* weight from exit to exit.
# The mean may also be taken over the samples at each exit, or over the whole matrix. The released code calls these
# three `col`, `row` and `mat`, and the first two are the other way round than one would read them. The vectorised form
# is one line, and the library's adds only the choice.

# %%
t = torch.tensor(raw)
vectorised = 1 + 0.8 * (t - t.mean(1, keepdim=True))
assert torch.allclose(vectorised, torch.tensor(by_hand))
assert torch.equal(vectorised, l2w.center_weights(t, 0.8, "col"))
for mode in ("col", "row", "mat"):
    w = l2w.center_weights(t, 0.8, mode)
    print(f"{mode}: mean {w.mean():.3f}, sums of rows {w.sum(1).numpy().round(3)}")

# %% [markdown]
# **Predict (a).** Raw weights lie between $-1$ and $1$, the strength is $\epsilon = 0.8$, and we centre over the
# $K = 5$ exits of each sample. In which range do the weights lie? (i) 0.2 to 1.8, (ii) $-0.28$ to 2.28, (iii) $-0.6$ to
# 2.6.

# %% tags=["hide-output"]
extreme = torch.tensor([[1.0, -1.0, -1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, 1.0, 1.0]])
for row in l2w.center_weights(extreme, 0.8, "col").tolist():
    print([round(w, 2) for w in row])
for epsilon in (0.8, 0.625, 0.5, 0.3):
    low, high = l2w.weight_range(epsilon, averaged=5)
    print(f"epsilon {epsilon}: from {low:.2f} to {high:.2f}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because $1 \pm 0.8$ would be right without the centring. But the mean moves with the entries: one raw
# weight at 1 and four at $-1$ have the mean $-0.6$, and the first lies 1.6 above it, not 1. So it is (ii). Weights can
# be *negative*: such a sample is pushed away from its label at that exit. They are non-negative for sure only if
# $\epsilon \le K / (2 (K - 1))$, which is 0.625 here and falls to 0.5 as $K$ grows. The authors use 0.8 on CIFAR all
# the same, and so do we: nothing is clipped.
# ```

# %% [markdown]
# ## Who judges, and where
#
# The weights shall be good for the samples that really leave at each exit. Who leaves where is decided at test time,
# by confidence and shares. So the method plays the test on half of each mini-batch: the shares $q_k$ are filled exit by
# exit with the most confident of those not yet taken. By hand, for six samples, two exits early and one late:

# %%
sure = {"a": (0.9, 0.5), "b": (0.2, 0.9), "c": (0.8, 0.8),
        "d": (0.4, 0.7), "e": (0.7, 0.3), "f": (0.3, 0.6)}  # fmt: skip

here, taken = list(sure), {}
for k, wanted in enumerate((2, 2)):
    ranked = sorted(here, key=lambda name: sure[name][k], reverse=True)
    taken |= dict.fromkeys(ranked[:wanted], k)
    here = ranked[wanted:]
print(taken, "and at the last exit:", here)

# %% [markdown]
# This is the ranking that also gives thresholds, with one difference: sizes are exact, so samples that tie
# do not leave together. `l2w.allocate` takes $\lfloor q_k n \rfloor$ samples for every exit but the last, which gets
# whoever is left. The table needs equal shares, $\rho = 1$, and a third column, which is never looked at.

# %%
table = torch.tensor([[*row, 0.0] for row in sure.values()])
exits = l2w.allocate(table, rho=1.0)
assert exits.tolist() == [taken.get(name, 2) for name in sure]
sizes = torch.bincount(l2w.allocate(torch.rand(512, 5), rho)).tolist()
print("512 samples, five exits, rho 0.75:", sizes)

# %% [markdown]
# The *meta objective* is the mean loss of each bin *at its own exit*, summed over the exits:
#
# $$
# L_\text{meta} = \sum_{k=1}^{K} \frac{1}{|D_k|} \sum_{j \in D_k} l_j^{(k)} .
# $$ (eq-l2w-meta)
#
# No weights stand in it. And every exit counts the same, although exit 1 serves three times as many as exit 5.
#
# ## One step ahead
#
# How does a weight, which touches the *training* loss of one half, change $L_\text{meta}$ on the other half? Only by
# way of the parameters: the weight bends the next step, and the step moves the network to a place $\hat\Theta$ where
# the other half judges it. To see it with the naked eye, take a network with two parameters, a point $\theta$ in the
# plane, at first in the origin. Two training samples pull it to places $a_1$ and $a_2$, $l_i = |\theta - a_i|^2 / 2$,
# and one judge would like it to be at $m$.


# %%
places = torch.tensor([[2.0, 1.0], [-2.0, 1.0]])
wish, alpha = torch.tensor([2.0, 0.0]), 0.5


def judged_after_step(w):
    theta = torch.zeros(2)
    gradient = (w[:, None] * (theta - places)).mean(0)
    ahead = theta - alpha * gradient
    return ((ahead - wish) ** 2).sum() / 2


# %% [markdown]
# Now nudge one weight at a time, by a hundredth up and down, and see what the judge says.

# %%
for i, nudge in enumerate(0.01 * torch.eye(2)):
    slope = (judged_after_step(1 + nudge) - judged_after_step(1 - nudge)) / 0.02
    print(
        f"weight {i + 1}: the judge's loss changes by {slope:+.3f} for one unit of weight"
    )

# %% [markdown]
# More weight on the first sample would help the judge, more weight on the second would hurt. Finite
# differences cost two trials for each weight, and a network with 128 samples and five exits has 640 of them. The chain
# rule gives all of them at once. Since the step is linear in the weights,
#
# $$
# \frac{\partial L_\text{meta}}{\partial w_i^{(k)}} =
# - \frac{\alpha}{B} \, \bigl\langle \nabla L_\text{meta}(\hat\Theta) , \; \nabla l_i^{(k)}(\Theta) \bigr\rangle .
# $$ (eq-l2w-agree)
#
# The cell compares it with automatic differentiation through the step, and draws the gradients.

# %% mystnb={"image": {"alt": "Two pairs of arrows, each from one point: the gradient of the judges' loss to the right and, left, that of sample 1 at 41 degrees to it, marked weight rises; right, that of sample 2 at 167 degrees, marked weight falls."}}
w = torch.ones(2, requires_grad=True)
(automatic,) = torch.autograd.grad(judged_after_step(w), w)

theta_hat = alpha * places.mean(0)
gradients, meta_gradient = -places, theta_hat - wish
by_formula = -alpha / 2 * gradients @ meta_gradient
assert torch.allclose(automatic, by_formula)
print("the formula:", [round(slope, 3) for slope in by_formula.tolist()])

cosine = torch.cosine_similarity(gradients, meta_gradient[None])
assert torch.allclose(cosine, torch.tensor([0.759, -0.976]), atol=1e-3)
_ = plots.gradient_agreement({f"sample {i + 1}": float(c) for i, c in enumerate(cosine)})
plt.show()

# %% [markdown]
# There is the rule of the picture, with its numbers: a gradient at 41 degrees to the judge's, and one at
# 167. Mind where each gradient is taken: the sample's own at $\Theta$, before the step, the judges' at $\hat\Theta$,
# after it.
#
# ## The same on a real network
#
# The readable way is to let PyTorch do it all: take the gradient of the weighted loss *with its graph*, build
# $\hat\Theta$ from it as new tensors, and run the network on them by `functional_call`. Then differentiate once more.
# Batch statistics go into copies, so that the real network notices nothing. `l2w.look_ahead` repeats SGD's step with
# momentum and weight decay.


# %%
def copied(net):
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def meta_loss_after_step(net, optimizer, weights, train_half, meta_half):
    parameters = dict(net.named_parameters())
    outputs = functional_call(net, copied(net), (train_half[0],))
    losses = l2w.exit_losses(outputs, train_half[1])
    loss = (weights * losses).sum() / len(losses)
    found = torch.autograd.grad(loss, parameters.values(), create_graph=True)
    ahead = l2w.look_ahead(net, optimizer, dict(zip(parameters, found, strict=True)))
    judged = functional_call(net, ahead | copied(net), (meta_half[0],))
    return l2w.meta_objective(judged, meta_half[1], rho)


# %% [markdown]
# To compare exactly, we take a fresh network in double precision, in training mode, and two halves of a mini-batch.

# %%
net = fresh(0).double().train()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
halves = [
    (fit.inputs[rows].double().to(device), fit.labels[rows].to(device))
    for rows in (slice(128), slice(128, 256))
]

# %% [markdown]
# The library does not differentiate twice. Equation {eq}`eq-l2w-agree` says that the gradients by all the weights are
# the changes of all the losses $l_i^{(k)}$ when $\Theta$ moves in *one* direction,
# $-\alpha \nabla L_\text{meta}(\hat\Theta)$. That is what *forward-mode* differentiation gives in one pass. Three ways
# to the same 640 numbers, in double precision:

# %%
ones = torch.ones(128, 5, dtype=torch.float64, device=device, requires_grad=True)
(twice,) = torch.autograd.grad(meta_loss_after_step(net, optimizer, ones, *halves), ones)
forward = l2w.weight_gradient(net, optimizer, *halves, ones)

nudge = torch.zeros_like(ones)
nudge[7, 2] = 1e-4
up, down = (
    meta_loss_after_step(net, optimizer, ones + by, *halves) for by in (nudge, -nudge)
)
numeric = (up - down).item() / 2e-4
print("forward mode equals two backward passes:", torch.allclose(forward, twice, rtol=1e-9))
agrees = abs(forward[7, 2].item() / numeric - 1) < 1e-4
print("and finite differences, for one of the weights:", agrees)

# %% [markdown]
# So we may look at what the judges say, entry by entry. After a single epoch of plain training, do they
# already ask for the pattern that was learnt in the end? One half of the training set learns, the other half judges.
# Since weight can only move from exit to exit, what counts is how an exit compares with the mean of the five.

# %%
young, _ = learn(0, epsilon=0, epochs=1)
settled = torch.optim.SGD(young.train().parameters(), lr=0.1)
inputs, targets = (part.to(device).split(1500) for part in (fit.inputs, fit.labels))
ones = torch.ones(1500, 5, device=device)
both = list(zip(inputs, targets, strict=True))
slopes = l2w.weight_gradient(young, settled, *both, ones).cpu()
gain = 1500 * (slopes.mean(1, keepdim=True) - slopes)

# %% [markdown]
# The next cell averages this over the easy and over the hard samples. A bar above zero says: more weight here, taken
# from the other exits, would help the judges.

# %% mystnb={"image": {"alt": "Two groups of five bars, easy and hard samples at exits 1 to 5: how much the judges would gain from more weight. For easy samples the bars are positive at exits 1 and 2 and negative at exits 4 and 5, for hard samples the other way round."}}
is_hard = fit.hard[:1500]
wanted = {"easy": gain[~is_hard].mean(0), "hard": gain[is_hard].mean(0)}
_ = plots.bars_by_exit(wanted, "gain from more weight")
plt.show()

# %%
easy, hard = wanted["easy"], wanted["hard"]
assert easy[0] > 0 > easy[4]
assert hard[4] > 0 > hard[0]
print("at exit 1 easy samples should weigh more, hard less:", bool(easy[0] > 0 > hard[0]))
print("at exit 5 hard samples should weigh more, easy less:", bool(hard[4] > 0 > easy[4]))
scatter = gain[~is_hard, 0].std()
print("single easy samples scatter by more than twice that:", bool(scatter > 2 * easy[0]))

# %% [markdown]
# Half of it. The *contrast* is there: nobody gave the judges the difficulty, yet they would rather have easy samples at
# the early exits and hard ones at the late, and that is how the lower rows of the map differ from the upper ones. The
# *level* is not: in the map even samples of small loss end below 1 at exit 1 and above 1 at exit 5, while the judges
# ask the opposite for easy ones. We shall meet that shift again.
#
# The values are tiny, and single samples scatter widely around them. The weight network has to average over many
# samples and steps to read this, which is why it is a small MLP on five losses and not a table with an entry for each
# sample.
#
# ## A step of both networks
#
# One call does it all. The losses at $\Theta$ serve the look-ahead and the real step alike, so their graph is kept; the
# weight network gets its gradient through its own graph and moves by Adam; then the real step uses the *updated*
# weights, without gradient. With $\epsilon = 0$ nothing but plain SGD may be left, which the cell proves.

# %%
model, twin = fresh(1), fresh(1)
sgd, plain_sgd = (
    torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9) for n in (model, twin)
)
wpn = l2w.WeightPredictionNetwork(5, hidden=64).to(device)
adam = torch.optim.Adam(wpn.parameters(), lr=1e-3)
single = [(x.float(), y) for x, y in halves]
step = l2w.meta_step(model, wpn, sgd, adam, *single, epsilon=0.0, rho=rho)
print("weights:", tuple(step.weights.shape), "all one:", bool((step.weights == 1).all()))

# %%
train.multi_exit_loss(twin(single[0][0]), single[0][1]).backward()
plain_sgd.step()
pairs = zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
print("a plain step, batch statistics included:", all(torch.equal(a, b) for a, b in pairs))

# %% [markdown]
# `fit_l2w` repeats this: each mini-batch of 256 is cut in two halves, the first learns while the second
# judges, then they change places. So a mini-batch is *two* steps of the network on 128 samples each. Remember this
# when the baseline is discussed.
#
# ## What was learnt
#
# Now to the three runs of the beginning. For every training sample we take its five losses, ask the run's weight
# network for its weights, and compare easy and hard samples exit by exit. A mark is a group's mean in one run; the
# pale line behind it spans eight in ten of its samples.

# %% mystnb={"image": {"alt": "Weights of easy and hard training samples at five exits, three runs each. At exits 1 and 2 hard samples, orange squares, have mean weights near 0.7, easy ones, blue dots, between 0.8 and 0.95; at exit 3 both lie a little below 1; at exit 5 hard samples stand near 1.45, easy ones near 1.2."}}
learnt, order = [], []
for model, run in trained:
    logits, labels = train.evaluate(model, (fit.inputs, fit.labels))
    losses = l2w.exit_losses(logits, labels)
    learnt.append(run.weigh(losses))
    order.append(losses.mean(1).argsort().argsort())  # rank of each sample, easiest first
groups = {"easy": [~fit.hard] * 3, "hard": [fit.hard] * 3}
_ = plots.weights_by_group(learnt, groups)
plt.show()

# %% [markdown]
# At the first two exits hard samples weigh less than easy ones, at the last two more. That holds in each
# of the three runs, and it is what the mismatch asked for. The network sees losses and not difficulty, so the pattern
# is sharper still if we sort by loss: the tenth of the samples with the largest loss, against the three tenths with the
# smallest. The assertions hold a margin that other machines should not cross.

# %%
hardest = [w[rank >= 2700].mean(0) for w, rank in zip(learnt, order, strict=True)]
easiest = [w[rank < 900].mean(0) for w, rank in zip(learnt, order, strict=True)]
for high, low in zip(hardest, easiest, strict=True):
    assert high[0] < low[0] - 0.2  # at exit 1 the hardest count less than the easiest
    assert high[4] > high[0] + 0.5  # and far less there than at exit 5
    assert high[4] > low[4] + 0.2
    assert low[0] < 1 < low[4]  # the shift that the judges did not ask for
print("hardest tenth at exit 1, below 0.7 in every run:", all(h[0] < 0.7 for h in hardest))
print("hardest tenth at exit 5, above 1.4 in every run:", all(h[4] > 1.4 for h in hardest))
negative = [float((w < 0).double().mean()) for w in learnt]
print("negative weights, under 2 % in every run:", all(share < 0.02 for share in negative))

# %% [markdown]
# The last assertion is the shift: samples of small loss, too, end below 1 at the first exit and above 1 at the last.
# The judges after one epoch did not ask for it, and this chapter has no measurement that explains it.
#
# **Predict (b).** After this training we judge exit 1 alone, on *all* test samples. Compared with equal weights, is it
# (i) better, (ii) about equal, (iii) worse?

# %% tags=["hide-output", "nbval-ignore-output"]
changes = torch.tensor([
    [100 * (b - a) for a, b in zip(base.accuracies, other.accuracies, strict=True)]
    for base, other in zip(equal, learned, strict=True)
])  # fmt: skip
at_first = [round(100 * base.accuracies[0], 1) for base in equal]
print("exit 1 with equal weights, seed by seed:", at_first, "%; learned less equal:")
for k, change in enumerate(changes.T):
    seeds = ", ".join(f"{one:+.1f}" for one in change.tolist())
    print(f"exit {k + 1}: by {change.mean():+.1f} points, seed by seed {seeds}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts: more sophisticated training ought to make every exit better. Exit 1 gets *worse*, (iii), by about half a
# point, and no seed improves it. The seeds alone differ by more than two points, which would drown it; but both
# trainings of a seed start alike, so we may compare pair by pair. Three pairs are still few, so we tried seven more
# seeds, not run here: all ten lose at exit 1, 0.9 points in the mean. In the authors' released network for ImageNet
# exit 1 reaches 59.2 % (published) against 62.4 % for MSDNet in the [chapter before](msdnet.ipynb), and the last exit
# is two points better, though recipes differ, so this is a hint and no proof. It need not trouble anybody. Exit 1 will
# not answer all samples. It was tuned for the third that it serves, and if you want *anytime prediction*, where exit 1
# may have to answer anything, this is the wrong training.
# ```

# %% [markdown]
# ## Is it worth it?
#
# What counts is the accuracy of the whole, at a budget. Both ways of training, three seeds each, thresholds from
# held-out samples as always. Left the mean over the seeds with a band of one *standard deviation*, right the
# difference, learned less equal, seed by seed: both trainings of a seed start from the same weights.

# %% mystnb={"image": {"alt": "Left: accuracy against mean cost for equal and learned weights, two curves with bands that overlap almost everywhere. Right: the difference in points against rho; the dots of the three seeds scatter on both sides of zero, more than a point apart at the smallest rho; two of the four leftmost means are negative, and the means from rho 0.6 on lie between zero and half a point."}}
settings = [0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0, 1.15, 1.3, 1.6]
_ = plots.accuracy_spread({"equal weights": equal, "learned weights": learned}, settings)
plt.show()

# %% [markdown]
# The bands overlap. To say it in numbers, the cell prints for all ten settings the mean gain, the differences seed by
# seed, and the mean divided by its standard error, which is the standard deviation over the seeds divided by
# $\sqrt{3}$. How large must that ratio be? With many seeds 2 would do; with three the same certainty (5 %, Student's
# $t$ with two degrees of freedom) asks for 4.3.


# %% tags=["nbval-ignore-output"]
gains = paired_gains(equal, learned, settings)  # (seeds, settings)
errors = gains.std(0, ddof=1) / len(gains) ** 0.5
for i, value in enumerate(settings):
    mean, seeds = gains[:, i].mean(), ", ".join(f"{one:+.2f}" for one in gains[:, i])
    print(f"rho {value:4}: {mean:+.2f} points ({seeds}), ratio {mean / errors[i]:+.1f}")
assert changes[:, 0].mean() < 0  # exit 1 alone, the answer above

# %% [markdown]
# So the *mechanism* is robust and the *gain* is not: every run learnt the same pattern of weights, and
# the accuracy moved by about as much as it moves when only the seed changes. Three seeds of a small network cannot show
# an effect of half a point: they have neither found a gain nor refuted one. With seven more seeds (measured once, not
# run here) a small effect comes out of the noise: at $\rho = 1.3$ a gain of 0.3 points in the mean of ten, 3.3 standard
# errors; at $\rho = 0.3$, where most leave at the worse exit 1, a *loss* of 0.7 points, 2.9 standard errors. For ten
# seeds the limit is 2.3. The table above has the same signs at both ends.
#
# The authors report gains of about one point on CIFAR and ImageNet (published), with much larger networks. In between
# stands a *recorded* run of ours, made by `course bench budgeted --record`: MSDNet on shapes and on Fashion-MNIST, both
# trainings, three seeds each. A dot is the difference of one seed.

# %% mystnb={"image": {"alt": "Two panels, shapes and Fashion-MNIST: accuracy of learned less equal weights, in points, against rho, with a line at zero. Where a run is recorded, a small dot stands for each seed and a large mark for their median; where none is, the panel is empty and its title says so."}}
recorded = {
    "shapes": bench.latest("budgeted", "cpu"),
    "fashion_mnist": bench.latest("budgeted", "cpu", data="fashion_mnist"),
}
_ = plots.recorded_training(recorded)
plt.show()

# %% tags=["nbval-ignore-output"]
for name, record in recorded.items():
    print(f"{name}: {bench.caption(record) if record else 'no recorded run yet'}")

# %% [markdown]
# In the runs recorded for this edition there is no gain: most medians lie a little below zero, and no setting stands
# clear of its spread on the good side. That is the honest state of this question at our size, not a verdict on the
# method: the authors train for 300 epochs on CIFAR, these networks took a few hundred steps, and a weight network has
# to learn before it can help.
#
# ## Two ledgers
#
# At test time there is nothing to count: same network, same exits, same thresholds, and the weight network is gone.
# The bill comes during training. To read it on a network of convolutions we prepare a mini-batch of 256 random pictures
# for `MSDNet.tiny`, and one function that steps on its two halves, with look-ahead or without.

# %%
generator = torch.Generator().manual_seed(0)
images = torch.rand(256, 3, 16, 16, generator=generator).to(device) * 2 - 1
labels = torch.randint(10, (256,), generator=generator).to(device)
parts = list(zip(images.split(128), labels.split(128), strict=True))
big, small = MSDNet.tiny().to(device).train(), l2w.WeightPredictionNetwork(4).to(device)
sgd = torch.optim.SGD(big.parameters(), lr=0.05, momentum=0.9)
adam = torch.optim.Adam(small.parameters(), lr=1e-4)


def steps(judged):
    for half, other in (parts, parts[::-1]):
        l2w.meta_step(big, small, sgd, adam, half, other if judged else None)


# %% [markdown]
# **Predict (c).** How many times the work of a plain step is a step with look-ahead? (i) hardly more than once, the
# weight network is tiny, (ii) about twice, (iii) three to four times.


# %% tags=["hide-output"]
def counted(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


ratio = counted(partial(steps, True)) / counted(partial(steps, False))
print(f"multiply-adds of a step with look-ahead / without: {ratio:.2f}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because all that is new seems to be an MLP with a few thousand weights, and a look at inference confirms
# it: nothing was added. But to move that MLP the *big* network has to look ahead. Let a forward pass be one unit and a
# backward pass two. A plain step is 3. The step with look-ahead is a forward and a backward pass to find the copy, a
# forward and a backward pass on it, a forward-mode pass of 3, and one more backward pass for the real step: 11, that
# is 3.67 times as much: (iii). With random numbers for images the count is the same, for it is a count.
# ```

# %% [markdown]
# The second ledger, the clock of this machine: a mini-batch of 256 in two halves, with and without look-ahead, the
# contenders in turn. The second line compares the two ways to the gradients by the weights: forward mode, and
# differentiating twice, as in the readable version above.


# %% tags=["nbval-ignore-output"]
def compared(slow, fast):
    timings = measure.compare({"slow": slow, "fast": fast}, rounds=2)
    return round(measure.ratio(timings["slow"], timings["fast"]), 1)


print("look-ahead / plain:", compared(partial(steps, True), partial(steps, False)))
weights = torch.ones(128, 4, device=device, requires_grad=True)


def twice():
    loss = meta_loss_after_step(big, sgd, weights, *parts)
    return torch.autograd.grad(loss, weights)


once = partial(l2w.weight_gradient, big, sgd, *parts, weights)
print("twice / forward mode:", compared(twice, once))

# %% [markdown]
# Both ways give the same numbers; the second one has to hold a graph of its first backward pass as well, and was slower
# when this page was made. The authors save in another way. On ImageNet they look ahead at every hundredth mini-batch
# only (`meta_interval=100`), and use the weight network as it is in between; the extra cost then vanishes.

# %% [markdown]
# ## Where it breaks
#
# Three mistakes, from loud to silent. The first forgets that $\hat\Theta$ must remain a *function* of the weights.
# Without `create_graph` the gradient is a mere number, and the weights have no way to hear of the judgement. The second
# runs the copy with the network's own buffers: only the parameters are exchanged, and the batch statistics of a step
# that was never taken end up in the real network.

# %%
parameters = dict(net.named_parameters())
w = torch.ones(128, 5, dtype=torch.float64, device=device, requires_grad=True)
(x, y), (x_meta, y_meta) = halves
losses = l2w.exit_losses(functional_call(net, copied(net), (x,)), y)
cut = torch.autograd.grad((w * losses).mean(), parameters.values())  # no create_graph
ahead = l2w.look_ahead(net, optimizer, dict(zip(parameters, cut, strict=True)))
judged = functional_call(net, ahead | copied(net), (x_meta,))
aware = l2w.meta_objective(judged, y_meta, rho).requires_grad
print("the judgement knows the weights:", aware)

# %% [markdown]
# That one stops with an error as soon as somebody asks for the gradient. Now the buffers are forgotten:

# %%
before = copied(net)
functional_call(net, ahead, (x_meta,))
same = all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
print("running statistics untouched:", same)

# %% [markdown]
# This one only shows in evaluation mode, much later. The third mistake is in the comparison. A mini-batch of 256 makes
# *two* steps with this method and one in ordinary training. Who compares after equal epochs with the ordinary baseline
# compares 600 steps with 300:

# %%
whole = []
for seed in range(3):
    model = fresh(seed)
    train.fit(
        model, (fit.inputs, fit.labels), epochs=25, batch_size=256,
        lr=0.1, nesterov=False, seed=seed, progress=False,
    )  # fmt: skip
    whole.append(study_of(model))

# %% [markdown]
# Now both "gains" at $\rho = 1$: against the baseline of equal epochs, and against the one of equal steps.


# %% tags=["nbval-ignore-output"]
def mean_accuracy(runs):
    return 100 * sum(run.at_rho(1.0).accuracy for run in runs) / len(runs)


unfair = mean_accuracy(learned) - mean_accuracy(whole)
fair = mean_accuracy(learned) - mean_accuracy(equal)
assert unfair > fair + 0.5
print(f"against equal epochs: {unfair:+.2f} points, against equal steps: {fair:+.2f}")

# %% [markdown]
# Against equal epochs a gain appears that is larger than the one we were looking for, by half a point at
# least (asserted), and that difference has nothing to do with weights.
# Whoever reads a paper about training should ask how many steps the baseline made. The authors' own scripts have
# another trap of this kind (published code): they set the thresholds of the final evaluation on *training* data, whose
# confidences are too good, as the [chapter before](msdnet.ipynb) showed. And the released code draws the first weights
# of the weight network at random, so that it starts with a preference for some exits; in a training as short as ours
# that preference may live to the end. We start its output layer at zero, that is, from equal weights.

# %% [markdown]
# ## Turn the dials yourself
#
# Three controls: $\rho$ fills the bins, $\epsilon$ stretches the weights, the centring decides what averages to one.
# Watch the dashed limits. As soon as the left one passes zero, weights *may* be negative; the title says how many are.
# Colours and axes stay as they are at every setting, so a smaller $\epsilon$ pales the map and narrows the histogram.

# %%
some = fit.inputs[::30], fit.labels[::30]
logits, labels = train.evaluate(trained[0][0], some)
losses = l2w.exit_losses(logits, labels)
with torch.no_grad():
    raw = trained[0][1].wpn(losses.to(device)).cpu()


def setting(rho, epsilon, mode):
    weights = l2w.center_weights(raw, epsilon, mode)
    judges = l2w.allocate(equal[0].validation_confidence[:512], rho).bincount(minlength=5)
    limits = l2w.weight_range(epsilon, {"col": 5, "row": 100, "mat": 500}[mode])
    title = f"ρ = {rho:g}, ε = {epsilon:g}, {mode}"
    return title, weights, losses.mean(1), judges.tolist(), limits


def show(rho, epsilon, mode):
    plots.weight_dashboard([setting(rho, epsilon, mode)])
    plt.show()


# %% [markdown]
# The hundred samples and their raw weights are stored, so that only the cheap part is done anew: centring them, and
# filling the bins from 512 held-out confidences.

# %% tags=["nbval-ignore-output"]
slider = partial(ipywidgets.FloatSlider, continuous_update=False)
controls = {
    "rho": slider(value=0.75, min=0.1, max=2, step=0.05),
    "epsilon": slider(value=0.8, min=0, max=2, step=0.1),
    "mode": ipywidgets.ToggleButtons(options=["col", "row", "mat"]),
}
start = {name: control.value for name, control in controls.items()}
reset = ipywidgets.Button(description="back to the start")


def go_back(_):
    for name, control in controls.items():
        control.value = start[name]


reset.on_click(go_back)
out = ipywidgets.interactive_output(show, controls)
display(ipywidgets.VBox([*controls.values(), reset, out]))

# %% mystnb={"image": {"alt": "Three rows of the same three views, for rho 0.75, epsilon 0.8, col; rho 0.75, epsilon 0.5, col; and rho 1.5, epsilon 2, row; all with the same colours and axes. With epsilon 0.5 the map is paler, the histogram narrower, and no weight can be negative. In the last row the bins tip from early to late, the limits lie far below zero and some cells of the map are hatched."}}
_ = plots.weight_dashboard(
    [setting(0.75, 0.8, "col"), setting(0.75, 0.5, "col"), setting(1.5, 2.0, "row")]
)
plt.show()

# %% [markdown]
# The figure shows three positions. With $\epsilon = 0.5$ the left limit is above zero for any number of exits: safe,
# and weaker, which shows as paler colours. In the last row the bins tip towards the late exits, the centring runs over
# the samples, and the large strength makes weights negative, hatched in the map.
#
# ## At full size
#
# *Published, not run here.* The authors train MSDNet on ImageNet {cite}`han2022l2w` with $\epsilon = 0.3$, `mat`,
# $\rho = 0.75$ and a look-ahead at every hundredth mini-batch. Their released networks, 100 epochs, top-1 in per cent:
#
# | layers a block | exit 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|
# | 4 | 59.5 | 67.2 | 71.0 | 72.3 | 73.9 |
# | 6 | 60.1 | 69.1 | 73.3 | 75.2 | 76.3 |
# | 7 | 59.2 | 69.7 | 73.9 | 75.7 | 76.7 |
#
# Compare the last row with the table in the [chapter before](msdnet.ipynb): exit 1 lower, the late exits higher. Read
# off a figure to about a tenth of a point, the plateau of the adaptive network rises from 75.4 to 76.8 %.

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/instance/l2w](../../exercises/instance/l2w.ipynb), and answer at once. The fourth is hard, and
# optional.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `centre` | weights around one, in three modes | 1 | 10 |
# | `allocate` | the bins of the judges | 2 | 15 |
# | `meta_gradient` | how a weight changes the loss one step later | 3 | 25 |
# | `look_ahead` | a differentiable step that touches nothing | 5 | 40 |
#
# ## Recap
#
# - Each exit meets at test time only those who stay until it and leave there.
# - Weights depend on the K losses of the image and average to 1.
# - Look ahead one step, judge on the bins, then step.
# - Negative weights are possible: know the limit.
# - Report the spread over seeds beside the gain.
#
# ## Where next
#
# The [start page](../start/paths.ipynb) has the reading orders. Here a network learnt *weights*, which are real
# numbers, so a gradient could reach them through a step. Next on the path of training comes the harder case: [how a yes
# or a no learns](../training/gradients.ipynb).
#
# ## References
#
# The method: {cite}`han2022l2w`. The network with exits, its shares and thresholds: {cite}`huang2018msdnet`, section 4.
# Training objectives for exits among dynamic networks: {cite}`han2021dynamic`, section 5.2.
