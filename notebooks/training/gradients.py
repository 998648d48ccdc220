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
# # How does a yes or a no learn?
# *60 min reading · 60 min exercises · needs back-propagation, expectation · CPU, under 60 s; no GPU needed*
#
# A network that skips work says yes or no, and a yes or a no has no slope. This chapter measures every usual way
# around that against the one gradient that is right, on a problem so small that it can be written down, and then
# teaches a real gate. Its terms, set in *italics* where they first appear, stand in the
# [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *compute* the exact gradient of a decision where its outcomes can be counted;
# - *write* straight-through, Gumbel-softmax and REINFORCE in a few lines each;
# - *measure* the bias and the spread of an estimator, and say which of the two hurts;
# - *train* a gate that opens only where it is needed, and *recognise* one that has collapsed;
# - *choose* the estimator for a decision, and name its trap.

# %%
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch.autograd import grad
from torch.nn.functional import cross_entropy

import course_lib
from course_lib import data, decision, plots
from course_lib.training import gradients
from course_lib.training.gradients import ESTIMATORS, GateProblem

plots.use_style()
generator = course_lib.seed_everything(1)

# %% [markdown]
# ## The question
#
# Choose $b$, 0 or 1, so that $(b - 0.45)^2$ is as small as it can be.

# %%
problem = GateProblem()
for b in (0.0, 1.0):
    print(f"b = {b:.0f}: loss {problem.loss(torch.tensor([b])):.4f}")

# %% [markdown]
# A child says 0. A network says it by training: its *logit* $a$ makes the *gate* $b$ open, $b = 1$, with
# probability $p = \sigma(a)$, and training moves $a$. This chapter measures ten ways to do so, variants counted, and
# asks of each whether it arrives at 0.
#
# **Before you read on, say what you would do.** The network computes $b$ from $a$, the loss from $b$, and you need
# the derivative of the loss with respect to $a$.

# %% [markdown]
# ## A step has no slope
#
# The obvious thing is to let PyTorch do it: threshold the logit, $b = [a > 0]$, and call `backward`.

# %%
a = torch.tensor([0.3], requires_grad=True)
b = (a > 0).float()
print("gate:", b.item(), "- does it carry a gradient?", b.requires_grad)

# %% [markdown]
# It does not. A step is flat on both sides of its jump, and at the jump it has no derivative, so PyTorch does not
# even try. Nothing of the loss reaches $a$, and whatever computed $a$ never learns. The figure shows the step, the
# smooth chance $\sigma(a)$ behind it, and at the right the slopes that one might send back in place of the true one.

# %% mystnb={"image": {"alt": "Two panels over the logit from -5 to 5. Left: a step from 0 to 1 at logit 0, and the smooth sigmoid through one half. Right: the true slope of the step, which is 0 everywhere, the slope of the sigmoid, a low hill with its top of 0.25 at logit 0, and the constant 1."}}
_ = plots.forward_and_backward()
plt.show()

# %% [markdown]
# ## The gradient that is right
#
# If $b$ is *drawn*, the loss is random, but its expectation is a smooth function of $a$. With $f(b)$ for the loss,
# it is the sum over both outcomes, each weighted by its chance, and its derivative needs nothing but the slope of
# $\sigma$:
#
# $$
# \mathbb E f(b) = p\, f(1) + (1 - p)\, f(0), \qquad
# \frac{\mathrm d}{\mathrm d a}\, \mathbb E f(b) = p (1 - p)\, \bigl(f(1) - f(0)\bigr).
# $$ (eq-gradients-exact)
#
# Here $f(1) - f(0) = 0.1$: positive for every $p$, so descent always closes the gate. Three ways to get the
# same number: the formula, a small step, and autograd through the sum.


# %%
def expected_loss(logit):
    p = torch.sigmoid(logit)
    return p * 0.55**2 + (1 - p) * 0.45**2


a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
p = a.detach().sigmoid()
by_formula = p * (1 - p) * 0.1
by_a_small_step = (expected_loss(a + 1e-5) - expected_loss(a - 1e-5)) / 2e-5
(by_autograd,) = grad(expected_loss(a), a)
assert torch.allclose(by_formula, by_a_small_step)
assert torch.allclose(by_formula, by_autograd)
print(f"at a = 0.3: {by_formula:.5f}")

# %% [markdown]
# With $n$ gates there are $2^n$ outcomes, and the sum over them all is still exact. `expected_value` does it for
# any function of the gates, up to 65,536 outcomes. Four gates, sixteen outcomes, as a plain loop first:

# %%
logits = torch.tensor([0.3, -1.0, 2.0, 0.0], requires_grad=True)
four = GateProblem(4)
by_hand = 0.0
for outcome in range(16):
    gates = torch.tensor([outcome >> i & 1 for i in range(4)]).float()
    chance = torch.where(gates > 0, logits.sigmoid(), 1 - logits.sigmoid()).prod()
    by_hand = by_hand + chance * four.loss(gates)
value = decision.expected_value(logits, four.loss)
assert torch.allclose(value, by_hand)
assert torch.allclose(grad(value, logits)[0], grad(by_hand, logits)[0])
print("16 outcomes, loop and library agree; expected loss", round(value.item(), 3))

# %% [markdown]
# So why not always? Thirty gates have a billion outcomes, each a run of the network. What remains is to
# draw a few outcomes and to *estimate*. An estimate can be wrong in two ways: wrong on average, its *bias*, or right
# on average and scattered, its *spread*. Bias stays, however many samples are averaged; spread falls with the
# square root of their number. We measure both, for each estimator in turn.
#
# ## Straight-through: pretend
#
# The oldest trick {cite}`bengio2013estimating` pretends. Forward, the network sees the hard gate; backward, the
# gradient goes *straight through* it, as if the gate had been the smooth $\sigma(a)$. In PyTorch that is one line:
# add and subtract the soft value, and hold one of the two constant.

# %%
a = torch.tensor([0.3, -1.2], requires_grad=True)
hard, soft = (a > 0).float(), a.sigmoid()
gate = hard + (soft - soft.detach())
print("forward:", gate.tolist())
assert torch.equal(gate, decision.straight_through(hard, soft))
slope = soft.detach() * (1 - soft.detach())
assert torch.allclose(grad(gate.sum(), a)[0], slope)

# %% [markdown]
# The forward value is exactly 0 or 1, so training sees what will run. The library's `straight_through` is this line,
# for any hard value and any soft one. With $a$ itself as the soft value it sends back the third slope of the figure,
# the constant 1, which does not fade where a logit is large; we stay with that of $\sigma$. On our problem we feed it
# with *samples* of $b$: draw, pay $(b - 0.45)^2$, go back through the pretended slope, average 64 such estimates,
# take a step, 400 times, beginning at $p = 0.8$.

# %% [markdown]
# **Predict (a).** Where does $p$ settle? (i) near 0, where the loss is smallest; (ii) near 0.45; (iii) it stays
# near 0.8, since the gradient is a pretence.

# %% tags=["hide-output"]
fed_with_samples = gradients.settle(ESTIMATORS["straight-through, sampled"], start=0.8)
print("estimates used:", 64 * (len(fed_with_samples) - 1))
for place in (0.0, 0.45, 0.8):
    close = bool((fed_with_samples[-100:].mean() - place).abs() < 0.03)
    print(f"settled within 0.03 of {place}: {close}")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because the loss is shown the true outcomes, 0 or 1, and 0 is the better one. But the loss is also asked
# for its *slope*, $2(b - 0.45)$, and the slope at an outcome says nothing about the other outcome. On average it is
# $2(p - 0.45)$, which changes sign at $p = 0.45$: (ii). The gate learns to be open in 45 of 100 cases, as if the
# *average* of the gate had to come close to 0.45, and pays 0.2475 for it, where 0.2025 could be had.
# ```

# %% [markdown]
# The estimator follows $2(p - 0.45)\,p(1-p)$ where the truth is $0.1\,p(1-p)$. For a loss that is a straight line
# between the outcomes both would be the same. The more it bends, the further they part.
#
# The name of the estimator is not enough, one must also know *what is fed*. Instead of a sample, many
# implementations feed the thresholded gate. Then nothing is random, and the estimate has no spread at all.

# %%
for p in (0.3, 0.49, 0.51, 0.7):
    estimates = gradients.gradient_samples(
        ESTIMATORS["straight-through, threshold"], p, problem, samples=100
    )
    exact = problem.exact_gradient(torch.tensor([p]).logit())
    print(f"p = {p}: always {estimates.mean():+.3f}, exact {exact.item():+.3f}")
assert estimates.std() < 1e-9

# %% [markdown]
# About ten times too large, and below one half with the wrong sign: every gate is driven towards $p = 1/2$ from
# either side, where it flips to and fro. This is the first thing to take along: *low spread in the wrong direction*
# is no virtue.

# %% [markdown]
# ## Gumbel: let the randomness stand outside
#
# Could a sample itself be differentiable? Take K logits, add to each an independent random number, and choose the
# largest. If the numbers follow the law of Gumbel, $g = -\log(-\log u)$ with uniform $u$, choice $k$ comes up
# with exactly the probability $\mathrm{softmax}(a)_k$. The next cell counts.

# %%
logits = torch.tensor([0.0, 1.0, -1.0])
u = torch.rand(100_000, 3, generator=generator)
choice = (logits - torch.log(-torch.log(u))).argmax(1)
shares = torch.bincount(choice, minlength=3) / len(choice)
assert torch.allclose(shares, logits.softmax(0), atol=0.01)
print("softmax of the logits:", [round(q, 2) for q in logits.softmax(0).tolist()])
print("shares of 100,000 draws within 0.01 of it: True")

# %% [markdown]
# Now all the randomness stands in $g$, beside the path from $a$ to the choice. What is left on that path is an
# arg-max, and an arg-max can be softened: $y = \mathrm{softmax}\bigl((a + g)/\tau\bigr)$, with a *temperature*
# $\tau$. This is the Gumbel-softmax {cite}`jang2017gumbel,maddison2017concrete`. For a single gate the two Gumbel
# numbers merge into their difference, and the softmax becomes a sigmoid. By hand, and by the library with the same
# random numbers:

# %%
a = torch.tensor([-2.0, 0.0, 0.7])
source = torch.Generator().manual_seed(3)
g1, g2 = (decision.gumbel_noise(a, generator=source) for _ in range(2))
by_hand = torch.sigmoid((a + g1 - g2) / 0.5)

source = torch.Generator().manual_seed(3)
assert torch.allclose(decision.gumbel_sigmoid(a, tau=0.5, generator=source), by_hand)
print("a soft gate lies between 0 and 1:", bool(((by_hand > 0) & (by_hand < 1)).all()))

# %% [markdown]
# A soft gate is neither yes nor no: $y = 0.6$ runs the layer and mixes 60 % of it in. So there is a *hard*
# variant, straight-through once more: forward the arg-max, backward the soft sample. And there is the dial $\tau$.
# At a high temperature all gates are lukewarm, at a low one nearly 0 or 1, which is closer to what will run.

# %% [markdown]
# **Predict (b).** Turn the temperature of the soft gate down from 1 to 0.2. What becomes of the gradient's errors on
# our problem? (i) Bias and spread both shrink, since the gate is closer to the truth; (ii) the bias shrinks, the
# spread stays; (iii) the bias shrinks, the spread grows.

# %% tags=["hide-output"]
grid = torch.linspace(0.05, 0.95, 19)
warm, cold = (
    gradients.measure_estimator(ESTIMATORS[f"Gumbel, tau {tau}"], grid, samples=20_000)
    for tau in ("1", "0.2")
)
for what in ("bias", "spread"):
    before, after = (getattr(e, what).square().mean().sqrt() for e in (warm, cold))
    print(f"{what:6} at tau 0.2 against tau 1: {after / before:.1f} times")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because being closer to the truth sounds like being better in every way. But a gate that is nearly a step
# has the slopes of a step: nearly 0 where it has decided, and huge, of the order of $1/\tau$, where it is just
# deciding. Most estimates say nothing, a few shout. The bias falls to under a half, the spread is about three times
# as large: (iii). Between these two temperatures there is no better one, there is a bargain, which is why $\tau$ is
# often *annealed*: high at first, low in the end. What happens far above 1 is another story, told by the large figure
# below.
# ```

# %% [markdown]
# Annealing multiplies the temperature by the same factor in every step. LASNet's recipe {cite}`han2022lasnet` goes
# from 5 to 0.1:

# %%
taus = [decision.anneal_tau(i, 100, start=5.0, end=0.1) for i in (0, 25, 50, 75, 100)]
print("tau at 0, 25, ..., 100 of 100 steps:", [round(tau, 2) for tau in taus])
assert (cold.spread > 2 * warm.spread).all()  # why one does not start at 0.1

# %% [markdown]
# ## Turn the dial yourself
#
# Two views of one gate. Left, the values it takes over 3000 draws; right, the gradients these draws give on our
# problem, with their mean and the exact one. Move the chance $p$ and the temperature, and switch between the soft and
# the hard variant.


# %% tags=["nbval-ignore-output"]
def show(p, tau, hard):
    _ = plots.gate_dashboard([(p, tau, hard)])
    plt.show()


live = {"continuous_update": False}
controls = {
    "p": ipywidgets.FloatSlider(0.3, min=0.05, max=0.95, step=0.05, **live),
    "tau": ipywidgets.FloatLogSlider(1.0, min=-1, max=1, step=0.1, **live),
    "hard": ipywidgets.Checkbox(False),
}
for name, control in controls.items():
    control.description = name
reset = ipywidgets.Button(description="reset")
start = {name: control.value for name, control in controls.items()}
reset.on_click(lambda _: [setattr(c, "value", start[name]) for name, c in controls.items()])
view = ipywidgets.interactive_output(show, controls)
display(ipywidgets.VBox([ipywidgets.HBox([*controls.values(), reset]), view]))

# %% mystnb={"image": {"alt": "Four rows of two histograms for a gate open with chance 0.3. Soft at tau 0.2: values pile up at 0 and 1, most gradients are near 0 and a few reach far to both sides. Soft at tau 1: values spread over the whole interval, gradients stay within 0.15. Soft at tau 5: values crowd around one half, gradients hardly vary. Hard at tau 1: values are 0 or 1 only, gradients are wide."}}
positions = [(0.3, 0.2, False), (0.3, 1, False), (0.3, 5, False), (0.3, 1, True)]
_ = plots.gate_dashboard(positions)
plt.show()

# %% [markdown]
# The figure shows four positions of the dial. From row one to row three the gate gets lukewarm and the gradients draw
# together, around a mean that has little to do with the exact value. In row four the gate is hard, and with it the
# gradients are as wide as those of straight-through.
#
# ## Semantic hashing: noise, and a coin
#
# *Improved semantic hashing* {cite}`kaiser2018discrete` adds normal noise to the logit and squeezes it through a
# sigmoid that saturates a little outside 0 and 1, so that it can reach both ends. A coin then decides, element by
# element, whether the network sees that soft value or the bit. The gradient always takes the soft path. After
# training there is neither noise nor coin.

# %%
a = torch.zeros(10_000)
training = decision.semantic_hash(a, training=True, generator=generator)
whole = ((training == 0) | (training == 1)).float().mean()
print("while training, about half are whole bits:", bool((whole - 0.5).abs() < 0.05))
testing = decision.semantic_hash(torch.tensor([-0.3, 0.3]), training=False)
assert testing.tolist() == [0.0, 1.0]
print("after training, all:", testing.tolist())

# %% [markdown]
# ## REINFORCE: blame what you did
#
# All estimators so far ask the loss for its slope. There is one family that does not. It needs only the loss's
# *value*, and follows from one identity, $\nabla p = p\,\nabla \log p$:
#
# $$
# \nabla_a\, \mathbb E f(b) = \mathbb E\bigl[\,f(b)\;\nabla_a \log P(b)\,\bigr],
# \qquad \nabla_a \log P(b) = b - p .
# $$ (eq-gradients-reinforce)
#
# Draw $b$, look what it cost, and make what you did less likely in proportion: REINFORCE {cite}`williams1992reinforce`.
# On paper, for both outcomes at $p = 0.3$:

# %%
p, total = 0.3, 0.0
for b, chance in ((0.0, 1 - p), (1.0, p)):
    estimate = (b - 0.45) ** 2 * (b - p)
    total += chance * estimate
    print(f"b = {b:.0f}: chance {chance:.1f}, estimate {estimate:+.4f}")
exact = problem.exact_gradient(torch.tensor([p], dtype=torch.float64).logit()).item()
assert abs(total - exact) < 1e-9
print(f"weighted sum {total:+.4f} = exact gradient {exact:+.4f}")

# %% [markdown]
# No pretence and no temperature: the mean is the exact gradient. But look at the two estimates. The truth is 0.021,
# and a single draw says $-0.06$ or $+0.21$. Both outcomes cost about a quarter; the estimator blames
# whatever was done for costs that could not be avoided. Suppose we judge an outcome by how it compares: we take the
# mean cost, 0.2325 at $p = 0.3$, off every cost, and follow $(f(b) - 0.2325)\,\nabla_a \log P(b)$.

# %% [markdown]
# **Predict (c).** What becomes of the mean and the spread of the estimates? (i) Both shrink: the costs are now a few
# hundredths instead of a quarter, and the gradient is proportional to them; (ii) the mean stays, the spread shrinks;
# (iii) both stay.

# %% tags=["hide-output"]
plain, centred = (
    gradients.measure_estimator(ESTIMATORS[name], torch.tensor([0.3]), samples=100_000)
    for name in ("REINFORCE", "REINFORCE, mean baseline")
)
print("estimates used, each:", plain.samples)
for name, error in (("as it is", plain), ("mean cost off", centred)):
    right = bool(error.bias.abs() < 4 * error.standard_error)
    print(f"{name:13}: mean is the exact one, up to noise: {right}")
ratio = (plain.spread / centred.spread).item()
print(f"spread without against with: {ratio:.0f} to 1")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because smaller numbers go in. But taking a constant $c$ off the cost takes $c\,(b - p)$ off the estimate,
# and that is zero on average: $0.3 \cdot 0.7 c - 0.7 \cdot 0.3 c$. The mean stays, only the scatter goes: (ii).
# ```

# %% [markdown]
# What is taken off is called the *baseline*. Any number will do for the mean, since $\nabla\log P(b)$ is zero on
# average: $\mathbb E[(f(b) - c)\,\nabla_a \log P(b)]$ is the same gradient for every $c$. Only a $c$ that *depends on
# the very outcome* it is used for would not cancel; that is the one rule a baseline must obey.
#
# In a real network the mean cost is not known. A *moving average* of past costs tends to it; a small network can
# predict it from the input; or one runs the most likely decision as well and takes *its* cost, the *self-critical*
# baseline {cite}`rennie2017selfcritical`. In the library:

# %%
logit = torch.tensor([0.3]).logit().requires_grad_()
gates = gradients.bernoulli(logit.expand(64, 1), generator)
log_prob = decision.bernoulli_log_prob(logit.expand(64, 1), gates).sum(1)
reward = -problem.loss(gates)
average = decision.MovingAverage()
average(-problem.loss(gradients.bernoulli(logit.expand(64, 1), generator)))  # seen before
greedy = decision.self_critical(logit.expand(64, 1), lambda b: -problem.loss(b))
for name, c in {"none": None, "moving average": average(reward), "greedy": greedy}.items():
    (estimate,) = grad(
        decision.reinforce_loss(log_prob, reward, c), logit, retain_graph=True
    )
    print(f"{name:14}: {estimate.item():+.3f}")

# %% [markdown]
# Three estimates from the same 64 draws; the exact value is $+0.021$. `reinforce_loss` is a *loss* only in name. Its
# value means nothing, its gradient is the estimate. A reward is a loss with the sign turned.

# %% [markdown]
# ## All of them, measured
#
# Here is the picture the chapter is about. For each estimator, at nineteen values of $p$, 4000 independent
# estimates: their mean in blue, a band of one standard deviation for a *single* estimate, and the exact gradient
# dashed. The same axes everywhere.

# %% mystnb={"image": {"alt": "Nine panels of gradient against the chance to be open, with the exact gradient as a low dashed arch. Straight-through with a threshold jumps from clearly negative to clearly positive at one half and has no band. Straight-through with samples, hard Gumbel and semantic hashing cross zero near 0.45 within wide bands. Soft Gumbel crosses zero near 0.2 within a wide band at tau 0.2, near 0.35 within a narrow band at tau 1, and is nearly a flat line at tau 5. REINFORCE lies on the arch, within a wide band without a baseline and a narrow one with the mean baseline."}}
errors = {
    name: gradients.measure_estimator(estimator, grid)
    for name, estimator in ESTIMATORS.items()
    if name != "exact"
}
drawn = [name for name in errors if name != "REINFORCE, self-critical"]
_ = plots.estimator_curves({name: errors[name] for name in drawn})
plt.show()

# %% [markdown]
# Look where the blue curves cross zero, for there training stops. The dashed arch never does; its gate closes. All
# curves that ask the loss for a slope cross it, somewhere between 0.2 and 0.5. Only REINFORCE follows the arch. The
# next figure gives one number for each panel, and at the left a dotted line for the size of the exact gradient itself.
# The assertion below it says who is free of bias, up to the noise of 4000 samples.

# %% mystnb={"image": {"alt": "Two bar charts with ten estimators. Left, the bias: largest for straight-through with a threshold, then semantic hashing, straight-through with samples and hard Gumbel, all beyond a dotted line at 0.019, the gradient's own size; Gumbel at tau 1 is beyond it, too, Gumbel at tau 0.2 and tau 5 stay somewhat below, and the three REINFORCE variants are not above the tick of pure noise. Right, the spread of one estimate: none for the threshold, large for straight-through with samples, Gumbel at tau 0.2, hard Gumbel, semantic hashing and plain REINFORCE, and small for Gumbel at tau 5 and for REINFORCE with a baseline."}}
_ = plots.bias_and_spread(errors)
plt.show()
for name, error in errors.items():
    unbiased = bool((error.bias.abs() < 4.5 * error.standard_error + 1e-9).all())
    assert unbiased == name.startswith("REINFORCE")
silent = errors["Gumbel, tau 5"]
half = silent.mean.square().mean() < 0.25 * silent.exact.square().mean()
print("at tau 5 the mean estimate is less than half as large as the gradient:", bool(half))
assert half

# %% [markdown]
# One bar deceives. Gumbel at tau 5 has hardly more bias than at tau 0.2, and next to no spread, so it looks like the
# best of the three. But an estimate that says nothing, always 0, would be wrong by the dotted line and no more, and
# tau 5 comes close to that: its slopes carry a factor $1/\tau$ and shrink with it. A small bias counts only beside the
# size of what is estimated. And what little tau 5 says changes its sign near 0.27, as the next figure shows: every
# estimator trains the lone gate from $p = 0.8$, as in (a).

# %% mystnb={"image": {"alt": "The chance to be open over 400 steps, from 0.8. The exact gradient and REINFORCE with a baseline fall together to almost 0. Soft Gumbel settles near a quarter at tau 0.2, near 0.37 at tau 1 and, after the slowest descent of all, below 0.3 at tau 5; hard Gumbel settles just below 0.45, and straight-through with samples at the dotted line at 0.45."}}
ends = {name: gradients.settle(one, start=0.8) for name, one in ESTIMATORS.items()}
for name, path in ends.items():
    unbiased = name == "exact" or name.startswith("REINFORCE")
    assert (path[-100:].mean() < 0.06) == unbiased
left_out = (
    "straight-through, threshold",
    "semantic hashing",
    "REINFORCE",
    "REINFORCE, self-critical",
)
drawn = {name: path for name, path in ends.items() if name not in left_out}
_ = plots.settling(drawn, levels={"0.45": 0.45})
plt.show()
assert 0.2 < ends["Gumbel, tau 5"][-100:].mean() < 0.33

# %% [markdown]
# So the child is right, and only the three variants of REINFORCE agree. (Four of the ten are left out of the picture;
# the assertion covers all of them.) With the mean baseline REINFORCE also has one of the smallest spreads. If this
# were the whole story, nobody would use anything else. But it is a story about *one* gate, and we shall see what
# happens with sixteen. Nor is 0.45 as bad as it looks: at test time a gate is thresholded, and $p = 0.45$ then means
# closed.

# %% [markdown]
# ## The box: how a yes or a no gets a gradient
#
# ```{admonition} How a yes or a no gets a gradient
# :class: note
# A gate $b \in \{0, 1\}$ opens with probability $p = \sigma(a)$. The step from $a$ to $b$ has no slope, so the
# gradient of the expected loss, $p(1-p)\,(f(1) - f(0))$, is estimated.
#
# 1. **Straight-through.** Forward the hard gate, backward the slope of a soft one: `hard + (soft - soft.detach())`.
#    Biased; one line; spread does not grow with the number of gates. Say what is fed: a sample or a threshold.
# 2. **Gumbel-softmax.** Noise beside the logits turns arg-max into sampling; a temperature $\tau$ softens it. Low
#    $\tau$: wild and less biased. Around 1: calmer and more biased. Far above 1: nearly silent, since all slopes shrink
#    by $1/\tau$. *Hard* is straight-through on the sample. Feed logits, anneal $\tau$, and draw no noise at test time.
# 3. **REINFORCE.** Draw, observe a reward $R$, follow $(R - c)\,\nabla\log P(b)$. Unbiased, needs no slope of $R$, so
#    $R$ may be anything, a latency or a vote. Its spread grows with the number of decisions that share one reward; a
#    baseline $c$ that does not depend on the decision lowers it and leaves the mean. PPO reuses samples, with a clip.
#
# All three need a term that prices open gates and a start with gates open, or they collapse. The biased two misjudge a
# fixed price; a target rate is safer. What will run at test time is the thresholded gate: measure that one.
# ```
#
# The box is what later chapters assume. If it reads easily, you may skip from here to the exercises.

# %% [markdown]
# ## A gate in a network
#
# Now a gate that depends on its input. Points of a square belong to four classes. Left of 0.2 a straight line tells
# two of them apart, which is *easy*; right of it a disc has to be told from its surroundings, which no line can do,
# and that is *hard*: 40 % of all points. The network has a cheap path, one linear layer, a costly path with 32 hidden
# units, and a gate, linear too. Nobody tells it where hard begins.

# %%
torch.manual_seed(0)
model = gradients.GatedNetwork()
test = data.two_regions(2000, seed=2)
x = test.points[:5]
mixed = model(x, gate=torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5]))  # while training
assert torch.equal(mixed[0], model.cheap(x)[0])
assert torch.allclose(mixed[4], (model.cheap(x) + model.costly(x))[4] / 2, atol=1e-6)
print("hard points:", round(test.hard.double().mean().item(), 1))
print(f"chance to be open at the start: {model.gate_logits(x).sigmoid().mean():.2f}")

# %% [markdown]
# While training, both paths run and the gate mixes them; that is what gradients need. After training, `infer`
# thresholds the gate and runs *one* path for each point. A hook counts rows to prove it.

# %%
rows = {}
for name in ("cheap", "costly"):
    path = getattr(model, name)
    path.register_forward_pre_hook(
        lambda _, args, name=name: rows.update({name: len(args[0])})
    )
with torch.no_grad():  # a gate set by hand: open where the first coordinate > -0.1
    model.gate.weight.copy_(torch.tensor([[20.0, 0.0]]))
_, is_open = model.infer(test.points)
assert rows == {"cheap": int((~is_open).sum()), "costly": int(is_open.sum())}
print("each point ran one path:", rows["cheap"] + rows["costly"] == len(test.points))

# %% [markdown]
# What should the gate be told? If only the classification counts, an open gate never hurts. So an open gate must
# cost something. The usual choice is a *target rate* {cite}`veit2018aig`: add $2\,(\bar b - 0.4)^2$ to the loss,
# with $\bar b$ the mean gate of the batch. The network may then open any 40 %, and has to find out which. And for the
# first third of the training all gates stand open, so that the costly path is worth something before it can be
# refused. We train with four estimators that sample, and with the thresholded straight-through gate twice, from two
# seeds.

# %% mystnb={"image": {"alt": "Six squares with points of four classes. A dotted vertical line at 0.2 divides easy from hard. For samples, hard Gumbel, semantic hashing and REINFORCE the right part, with the disc, is in the open region and most of the left part is pale and hatched, closed. In the two panels of the thresholded straight-through gate the border is tilted or lies elsewhere."}}
sampled = ["straight-through, sampled", "Gumbel, hard", "semantic hashing",
           "REINFORCE, mean baseline"]  # fmt: skip
runs = {name: gradients.train_gated(name) for name in sampled}
threshold = {
    f"straight-through, threshold, seed {seed}": gradients.train_gated(
        "straight-through, threshold", seed=seed
    )
    for seed in (0, 2)
}
_ = plots.gate_maps(threshold | runs)
plt.show()

# %% [markdown]
# Each panel is the square, pale and hatched where the gate is closed and the costly path is skipped. The four
# estimators that sample put the border close to the dotted line, all a little to its left, so that about half of the
# points run the costly path where 40 % were asked for: the target is a term of the loss, not a command, and the other
# term pulls against it. The thresholded straight-through gate finds its way less reliably. Compare its two seeds: what
# is never tried is never learnt. For the four, the cell holds the claim to account, with two more seeds each.

# %%
for name, run in runs.items():
    again = [gradients.train_gated(name, seed=seed) for seed in (1, 2)]
    for one in (run, *again):
        assert one.open_easy < 0.35 < 0.9 < one.open_hard
        assert one.accuracy > 0.95
        half = one.model.infer(test.points)[1].double().mean()
        assert abs(half - 0.5) < 0.08
    print(f"{name:26}: 3 seeds, open for half, most hard ones, 95 % right")

# %% [markdown]
# Estimators that missed the lone gate's optimum by far do well here. The reason is worth a moment. There the loss had
# its minimum *between* the outcomes, at 0.45, and the outcomes themselves differed by no more than 0.1. How much do
# they differ here? We hold all gates at 0, then at 1, and take the slope at both ends as well, for it is the slope
# that a hard gate hands back.


# %%
def held_at(model, value, points=test):
    """Mean cross-entropy, easy and hard, with every gate at `value`; and its slope."""
    gate = torch.full((len(points.points),), value, requires_grad=True)
    each = cross_entropy(model(points.points, gate), points.labels, reduction="none")
    slope = grad(each.sum(), gate)[0]
    return [
        (each[rows].mean().item(), slope[rows].mean().item())
        for rows in (~points.hard, points.hard)
    ]


closed, opened = (held_at(runs["Gumbel, hard"].model, value) for value in (0.0, 1.0))
gain = [before[0] - after[0] for before, after in zip(closed, opened, strict=True)]
print("opening gains over 0.5 on the hard side:", gain[1] > 0.5)
print("and under 0.2 on the easy side:", gain[0] < 0.2)
assert gain[0] < 0.2 < 0.5 < gain[1]

# %% [markdown]
# More than five times the 0.1 of the lone gate, on the side where it matters: a slope must be very wrong to miss
# that. Bias is a matter of how the loss bends between its outcomes, and of how far apart they lie.

# %% [markdown]
# ## Where it breaks
#
# You have met the first trap, straight-through fed with samples, which aims at the wrong place. There are more.
#
# **No price, no decision.** The same training without any cost of an open gate:

# %%
free = gradients.train_gated("Gumbel, hard", price=0)
assert min(free.open_easy, free.open_hard) > 0.98
print("open for practically all points, easy or hard:", free.open_easy > 0.98)
gain = free.accuracy - runs["Gumbel, hard"].accuracy
print("more accurate by half a point:", gain > 0.005)
assert gain < 0.005

# %% [markdown]
# All gates stay open, and not half a point is gained by it. So a price it must be. Let an open gate cost a fixed 0.4.
# Is opening worth that much on the hard side? A straight line can do little more there than say how common the disc is:

# %%
share = (test.labels[test.hard] == 3).double().mean()
blind = -(share * share.log() + (1 - share) * (1 - share).log())
print(f"cross-entropy of knowing only that {share:.0%} are disc: {blind:.2f}")
assert blind > 0.5

# %% [markdown]
# So a costly path that has learnt its task is worth more than 0.4 on the hard side, and on the easy side it is not.
# This time the gates start closed, at logit $-4$, and nothing warms them up.

# %% [markdown]
# **Predict (d).** Where will the gate be open in the end? (i) On the hard side, where opening pays; (ii) nowhere;
# (iii) that depends on the estimator.

# %% tags=["hide-output"] mystnb={"image": {"alt": "Three squares. With the thresholded straight-through gate and with REINFORCE the whole square is pale and hatched: the gate is closed everywhere. With hard Gumbel it is open everywhere."}}
cold_start = {
    name: gradients.train_gated(name, price=0.4, warmup=0, start=-4.0)
    for name in ("straight-through, threshold", "REINFORCE, mean baseline", "Gumbel, hard")
}
print("trained with", ", ".join(cold_start))
for name, run in cold_start.items():
    print(f"{name:28}: easy {run.open_easy:.0%}, hard {run.open_hard:.0%}")
_ = plots.gate_maps(cold_start)
plt.show()

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because that is where the loss has its minimum. But a closed gate sends no gradient into the path behind
# it; a path that has learnt nothing is not worth its price; so the gate closes further. The thresholded gate never
# tries the costly path at all, and REINFORCE, at $p = 0.02$, too rarely: both *collapse*. The hard Gumbel gate errs
# the other way and opens for everybody. It depends on the estimator, (iii), and none opens where it should.
# ```

# %% [markdown]
# Collapse has a cure. The same price once more, but now as at first: the gates start open, at logit $2$, and are held
# open for a third of the steps. Is that enough for all three?

# %% mystnb={"image": {"alt": "Three squares, gates started open. With REINFORCE the right part is open and most of the left is pale and hatched, closed. With the thresholded straight-through gate nearly all of the right part is open, and more of the left than with REINFORCE. With hard Gumbel everything is still open."}}
warm_start = {name: gradients.train_gated(name, price=0.4) for name in cold_start}
_ = plots.gate_maps(warm_start)
plt.show()
for name, run in warm_start.items():
    assert run.open_hard > 0.6
    print(f"{name:28}: open for most hard points: {run.open_hard > 0.6}")
everybody = warm_start["Gumbel, hard"]
assert warm_start["REINFORCE, mean baseline"].open_easy < 0.4 < 0.95 < everybody.open_easy
print("REINFORCE closes for most easy points, hard Gumbel for hardly any: True")

# %% [markdown]
# All three now open on the hard side: no collapse. On the easy side REINFORCE, which has no bias, keeps most points
# away. The thresholded gate goes where its seed leads it, as in the maps above, and hard Gumbel still opens for
# everybody. What does the slope tell a gate that was drawn closed, and what would opening really bring?

# %%
closed, opened = (held_at(everybody.model, value)[0] for value in (0.0, 1.0))
promised, gained = -closed[1], closed[0] - opened[0]
print(
    f"easy points, price 0.4: promised over 1: {promised > 1}, gained under 0.4:",
    gained < 0.4,
)
assert gained < 0.4 < 1 < promised

# %% [markdown]
# The slope at a closed gate promises more than twice the price, and opening gains less than the price. The
# cross-entropy falls steeply at first and then flattens, and the estimator takes the first step for the whole way.
# That is its bias, and no warm-up removes it. The *target rate* of the maps above copes with it: there the same
# estimator kept most easy points away. The term $2\,(\bar b - 0.4)^2$ is a price of $4\,(\bar b - 0.4)$ for every
# gate, which grows with the share of open ones, up to 2.4, until the slopes of the easy points no longer outbid it.
#
# Hence two habits you will find in many recipes of this book, against two different faults. Gates start open, or are
# held open, until what is behind them is worth something: that is against collapse. And a rate is set rather than a
# price: that is against bias.
#
# **A soft gate trains a network that never runs.** The sigmoid and the lukewarm Gumbel gate mix both paths. A gate
# at 0.2 pays a fifth of the price, and the costly path may speak five times as loud. At test time the gate is
# thresholded, and a gate at 0.2 is closed.

# %% mystnb={"image": {"alt": "Test accuracy of six runs, each with two markers joined by a line. For hard Gumbel, semantic hashing, straight-through with samples and REINFORCE the markers lie together near 0.98. For the sigmoid and for soft Gumbel at tau 5 the diamond of the mixed network lies near 0.97, and the dot of the one that will run several points to its left."}}
soft = {name: gradients.train_gated(name) for name in ("sigmoid", "Gumbel, tau 5")}
_ = plots.soft_and_hard(runs | soft)
plt.show()
lost = {name: run.soft_accuracy - run.accuracy for name, run in (runs | soft).items()}
print("lost by the sigmoid, more than a point:", lost["sigmoid"] > 0.01)
print("lost at tau = 5, more than 3 points:", lost["Gumbel, tau 5"] > 0.03)
assert max(lost[name] for name in sampled) < 0.02 < lost["Gumbel, tau 5"]

# %% [markdown]
# The training curve shows the diamonds. Whoever reports them reports a network that runs both paths for every point.
# SkipNet's authors report the same at full size: trained with soft gates and thresholded afterwards, its accuracy
# collapses {cite}`wang2018skipnet`. Train hard, or anneal until the gates are hard, and measure thresholded.
#
# **Many gates, one loss.** The opening problem again, now with several gates. Each pays its own $(b_i - 0.45)^2$,
# only their sum is reported. Nothing couples them, so each gate has the same exact gradient as before.

# %% [markdown]
# **Predict (e).** With sixteen gates instead of one, how much larger is the spread of REINFORCE's estimate, without
# a baseline, *for one gate*? (i) Equal: its own loss has not changed; (ii) about 4 times; (iii) about 16 times.

# %% tags=["hide-output"] mystnb={"image": {"alt": "Spread of one gate's estimate against the number of gates from 1 to 64, both axes logarithmic. REINFORCE without baseline rises from 0.13 to 8 in a straight line; with the self-critical baseline it runs parallel and lower; with the mean baseline it has no mark at one gate, where its spread is exactly 0, then rises half as steeply and meets the level lines of hard Gumbel and straight-through, near 0.2, at about 64 gates. A dotted line at the bottom marks the gradient itself, 0.025."}}
numbers = [1, 2, 4, 8, 16, 32, 64]
racers = ["REINFORCE", "REINFORCE, mean baseline", "REINFORCE, self-critical",
          "Gumbel, hard", "straight-through, sampled"]  # fmt: skip
draw = partial(gradients.gradient_samples, p=0.5, samples=4000)
spreads = {
    name: [
        draw(ESTIMATORS[name], problem=GateProblem(n))[:, 0].std().item() for n in numbers
    ]
    for name in racers
}
print("gates:", numbers)
growth = spreads["REINFORCE"][4] / spreads["REINFORCE"][0]
print(f"16 gates against 1: {growth:.0f} times")
_ = plots.noise_by_gates(spreads, numbers, signal=0.025)
plt.show()

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because the gates do not influence each other. But REINFORCE never sees a gate's own loss. It multiplies
# every gate's $b_i - p$ by the *whole* loss, fifteen sixteenths of which are the others' doing. The sum is sixteen
# times as large, and so is the spread: (iii). And halving a spread takes four times the samples.
# ```

# %% [markdown]
# The line with the mean baseline rises half as steeply: with the mean taken off, only the fluctuation of the other
# gates is left, and that grows with the square root of their number. It has no mark at one gate, for there both
# outcomes at $p = 0.5$ give the same estimate, and the spread is 0. The self-critical line runs parallel to the one
# without a baseline. At $p = 0.5$ the most likely decision is to close them all, which costs 0.05 a gate less than
# the mean, so the baseline misses by an amount that grows with $n$, as the loss itself does.

#
# Straight-through and Gumbel have level lines: back-propagation tells each gate which part of the loss is its own.
# That is what they buy with their bias. Layers with thousands of gates, as in masks over positions, are trained this
# way; REINFORCE is for few decisions and for rewards that have no slope. When decisions come one after another,
# each can at least be freed from what happened *before* it, by crediting it only with the returns that follow:

# %%
by_step = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])  # 3 steps of 2 runs
returns = decision.discounted_returns(by_step, gamma=0.7)
print([[round(r, 2) for r in row] for row in returns.tolist()])
assert torch.allclose(returns[0], torch.tensor([0.49, 1.0]))

# %% [markdown]
# **Old samples.** Running a network to get a reward is expensive, and it is tempting to take many steps on the same
# batch. But the batch was drawn by the *policy* of then, the rule that decides, here with the chance $p$ it had. PPO
# {cite}`schulman2017ppo` weighs each sample by the ratio of its probabilities now and then, and stops pushing where the
# ratio leaves $1 \pm 0.2$. Its reward comes with the baseline already taken off, which is called the *advantage*. At
# ratio 1, so with one step a batch, it is REINFORCE exactly:

# %%
advantage = reward - greedy
plain = decision.reinforce_loss(log_prob, advantage)
ppo = decision.ppo_loss(log_prob, log_prob, advantage, clip=0.2)
estimates = [grad(loss, logit, retain_graph=True)[0] for loss in (plain, ppo)]
assert torch.allclose(*estimates)
print("at ratio 1, PPO and REINFORCE agree:", torch.allclose(*estimates))

# %% [markdown]
# To see the difference, make the reward noisy, as measured times are, and look at an unlucky batch of sixteen: by
# chance, the open gates in it look *better*. Sixty steps on that one batch, with three losses.


# %%
def reuse_one_batch(loss_of, steps=60, lr=2.0):
    luck = torch.Generator().manual_seed(0)
    gates = (torch.rand(16, generator=luck) < 0.5).float()
    reward = -((gates - 0.45) ** 2) + 0.3 * torch.randn(16, generator=luck)
    advantage = reward - reward.mean()
    logit = torch.zeros(1, requires_grad=True)
    old = decision.bernoulli_log_prob(logit.detach().expand(16), gates)
    path = [0.5]
    for _ in range(steps):
        now = decision.bernoulli_log_prob(logit.expand(16), gates)
        (gradient,) = grad(loss_of(now, old, advantage), logit)
        logit = (logit - lr * gradient).detach().requires_grad_()
        path.append(logit.sigmoid().item())
    return torch.tensor(path)


# %% mystnb={"image": {"alt": "The chance to be open over sixty steps on one unlucky batch, from one half. With stale REINFORCE and with unclipped ratios it climbs to above 0.9. With PPO it climbs to about 0.6, the upper dotted line, and stays there."}}
stale = {
    "REINFORCE, stale": reuse_one_batch(
        lambda now, old, adv: decision.reinforce_loss(now, adv)
    ),
    "ratio, no clip": reuse_one_batch(partial(decision.ppo_loss, clip=99.0)),
    "PPO, clip 0.2": reuse_one_batch(decision.ppo_loss),
}
_ = plots.settling(
    stale, levels={"ratio 1.2": 0.6, "ratio 0.8": 0.4}, xlabel="steps on one batch"
)
plt.show()
assert stale["REINFORCE, stale"][-1] > 0.9 > 0.7 > stale["PPO, clip 0.2"][-1]

# %% [markdown]
# Sixteen noisy rewards drove the plain estimator to near certainty of the wrong answer, and the exact ratios did not
# save it: they correct for *which* samples are drawn, not for how few they are. The clip does the plain thing and
# stops after a fifth. With a single step per batch, as the AdaFocus code takes, the clip never acts.

# %% [markdown]
# ## Which estimator for which chapter
#
# | decision | how many | estimator | why |
# |---|---|---|---|
# | LASNet: a mask over patches {cite}`han2022lasnet` | hundreds an image | hard Gumbel, $\tau$ from 5 to 0.1 | its spread does not grow; a target rate, and at first every block is held near it |
# | skimming, Skip RNN: read this word? {cite}`campos2018skiprnn` | one a word | straight-through on rounding | one line; the slope also reaches the chance that added up over the words before |
# | skimming, jumps: how many words to leave out? | a few a text | REINFORCE with a learned baseline | a jump has no soft version |
# | skimming, Skim-RNN: a large or a small cell? | one a word | soft Gumbel, annealed to 0.5 | both cells run while training and are mixed |
# | AdaFocus: where to look? {cite}`wang2021adafocus` | one place a frame | REINFORCE with PPO's loss | a place on a grid has no slope; the reward compares with a random place |
# | ConvNet-AIG: run this block? {cite}`veit2018aig` | one a block | hard Gumbel, $\tau = 1$ | gates start open for 87 in 100, a target rate for each block |
# | SkipNet: run this block? {cite}`wang2018skipnet` | one a block | straight-through, then REINFORCE | deterministic at first, explored afterwards |
# | BlockDrop: which blocks? {cite}`wu2018blockdrop` | all blocks at once | REINFORCE, self-critical | the reward asks whether the answer was right and how few blocks ran |
#
# All of them are functions of `course_lib.decision`, the ones you have just measured.

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/training/gradients](../../exercises/training/gradients.ipynb), and answer at once.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `exact_gradient` | the gradient all others estimate | 1 | 8 |
# | `straight_through` | a hard value with a soft gradient, by `detach` | 2 | 12 |
# | `reinforce_loss` | a loss whose gradient is exact on average | 3 | 20 |
# | `gumbel_choice` | a sample by arg-max, softened by a temperature | 3 | 20 |
#
# ## Recap
#
# - A step has no slope; the expected loss has one, exact wherever outcomes can be counted.
# - Straight-through and Gumbel follow the slope of the loss at what they feed: no more spread with more gates, but a
#   wrong aim where it bends.
# - REINFORCE needs only the loss's value: right on average, with a spread that grows with every decision sharing it.
# - A baseline changes the spread and never the mean, as long as it does not know the decision.
# - Price open gates, start them open, and measure the thresholded network, for that one will run.
#
# ## Where next
#
# The [start page](../start/paths.ipynb) has the reading orders. Next on the path come masks over positions: first the
# convolution that really skips them, then LASNet, which learns them with the hard Gumbel gate of this chapter.
# Skimming and AdaFocus take up the other two families.
#
# ## References
#
# Where these estimators stand among dynamic networks: {cite}`han2021dynamic`, section 5.2. Straight-through:
# {cite}`bengio2013estimating`. Gumbel-softmax, found twice: {cite}`jang2017gumbel,maddison2017concrete`. Improved
# semantic hashing: {cite}`kaiser2018discrete`. REINFORCE: {cite}`williams1992reinforce`; its self-critical baseline:
# {cite}`rennie2017selfcritical`. PPO: {cite}`schulman2017ppo`.
