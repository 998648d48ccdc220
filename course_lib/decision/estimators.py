"""How a yes or a no gets a gradient: straight-through, Gumbel, semantic hashing, REINFORCE, PPO, and the exact one.

A gate b in {0, 1} opens with probability p = sigma(a), a its *logit*. The step from a to b has derivative zero wherever
it has one, so what teaches a is an *estimator* of the gradient of E[f(b)]. All of them stand here, for Bernoulli gates
(logits of any shape) and, where it makes sense, for one choice out of K.

- `straight_through`: a hard value forward, the gradient of a soft one backward; `straight_through_gate`: a whole gate.
- `gumbel_softmax`, `gumbel_sigmoid`: samples made differentiable at a temperature tau, soft or hard.
- `semantic_hash`: improved semantic hashing, noise and a saturating sigmoid while training.
- `reinforce_loss`, `ppo_loss`: for a reward that is only observed; baselines: `MovingAverage`, `self_critical`.
- `expected_value`: all outcomes summed, so that autograd gives the exact gradient, where they can be enumerated.

A policy may be certain: logits of +-inf give its one outcome, finite values and a gradient of 0. Randomness comes from
`generator`, on the generator's device (so a CPU generator gives the same numbers on any device), else from torch's own.
Values and gradients have the dtype and device of the logits; half precision computes in float32.

Sources: straight-through arXiv 1308.3432; Gumbel-softmax arXiv 1611.01144, 1611.00712; improved semantic hashing
arXiv 1801.09797; REINFORCE (Williams 1992); self-critical baseline arXiv 1612.00563; PPO arXiv 1707.06347; overview:
survey (arXiv 2102.04906) section 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

#: Above this number of outcomes `expected_value` refuses.
MAX_OUTCOMES = 2**16
_LARGEST_LOG_RATIO = 80.0


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Forward exactly `hard`, backward as if it were `soft` (and nothing into `hard`).

    Args:
        hard: any shape; what the network is to see. Booleans and integers become `soft`'s dtype.
        soft: same shape, float; what receives the gradient. Where it is infinite it receives none.

    Raises:
        ValueError: shapes differ.

    >>> p = torch.tensor([0.2, 0.7], requires_grad=True)
    >>> gate = straight_through(p > 0.5, p)
    >>> gate.tolist(), torch.autograd.grad(gate.sum(), p)[0].tolist()
    ([0.0, 1.0], [1.0, 1.0])
    """
    if hard.shape != soft.shape:
        raise ValueError(f"hard: got shape {tuple(hard.shape)}, expected that of soft, {tuple(soft.shape)}")
    finite = soft.masked_fill(soft.isinf(), 0)  # inf - inf would be NaN
    return hard.detach().to(soft.dtype) + (finite - finite.detach())


def straight_through_gate(logits: Tensor, *, sample: bool, generator: torch.Generator | None = None) -> Tensor:
    """A gate that is exactly 0 or 1 forward and has the gradient of sigma(logits) backward.

    Args:
        logits: any shape, float.
        sample: True draws b ~ Bernoulli(sigma(logits)); False thresholds, b = 1 where logits > 0.
        generator: for the sample.

    Returns:
        The gates, 0.0 or 1.0, in the shape and dtype of `logits`.

    >>> straight_through_gate(torch.tensor([-1.0, 2.0]), sample=False).tolist()
    [0.0, 1.0]
    """
    wide = _wide(logits)
    p = wide.sigmoid()
    hard = _uniform(wide, generator) < p if sample else wide > 0
    return straight_through(hard, p).to(logits.dtype)


# Gumbel --------------------------------------------------------------------------------------------------------------


def gumbel_noise(like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Independent standard Gumbel numbers -log(-log U) in the shape, dtype and device of `like`.

    Added to logits they turn arg-max into sampling: arg-max(logits + noise) is k with probability softmax(logits)_k.

    >>> float(gumbel_noise(torch.zeros(10_000), generator=torch.Generator().manual_seed(0)).mean()) > 0.55  # 0.577...
    True
    """
    wide = _wide(like.detach())
    uniform = _uniform(wide, generator).clamp_min(torch.finfo(wide.dtype).tiny)  # a uniform number may be 0
    return -(-uniform.log()).log().to(like.dtype)


def gumbel_softmax(
    logits: Tensor, *, tau: float, hard: bool = False, dim: int = -1, generator: torch.Generator | None = None
) -> Tensor:
    """A differentiable sample of one choice out of K: softmax((logits + Gumbel noise) / tau).

    Args:
        logits: unnormalised log-probabilities, K of them along `dim`. Not probabilities.
        tau: temperature above 0. Small: nearly one-hot, and large gradients seldom; large: smooth, far from one-hot.
            Below the smallest normal number of the computing dtype (1e-38 in float32) it counts as that number.
        hard: forward the one-hot of the largest entry, backward the soft sample (straight-through).

    Returns:
        The shape and dtype of `logits`; sums to 1 along `dim`. The largest entry is k with probability
        softmax(logits)_k at every temperature.

    Raises:
        ValueError: tau is not a finite number above 0.

    >>> logits = torch.tensor([[0.0, 1.0, 2.0]])
    >>> one = gumbel_softmax(logits, tau=1.0, hard=True, generator=torch.Generator().manual_seed(0))
    >>> sorted(one.flatten().tolist())
    [0.0, 0.0, 1.0]
    """
    wide = _bounded(_wide(logits))
    tau = _temperature(tau, wide.dtype)
    score = wide + gumbel_noise(wide, generator=generator)
    if hard:  # before the division, in which far apart and equal may become the same
        choice = torch.zeros_like(score).scatter_(dim, score.argmax(dim, keepdim=True), 1.0)
    # the largest score becomes 0, so that dividing by a tiny tau gives -inf at worst
    soft = ((score - score.detach().amax(dim, keepdim=True)) / tau).softmax(dim)
    return (straight_through(choice, soft) if hard else soft).to(logits.dtype)


def gumbel_sigmoid(
    logits: Tensor, *, tau: float, hard: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """A differentiable sample of a gate: sigma((logits + logistic noise) / tau).

    Logistic noise is the difference of two Gumbels, so this is the first entry of a `gumbel_softmax` over (logits, 0).

    Args:
        logits: any shape, float.
        tau: temperature above 0, as in `gumbel_softmax`.
        hard: forward exactly 0 or 1, and 1 with probability sigma(logits); backward the soft sample.

    Raises:
        ValueError: tau is not a finite number above 0.

    >>> gumbel_sigmoid(torch.tensor([-torch.inf, torch.inf]), tau=1.0).tolist()
    [0.0, 1.0]
    """
    wide = _wide(logits)
    tau = _temperature(tau, wide.dtype)
    score = wide + gumbel_noise(wide, generator=generator) - gumbel_noise(wide, generator=generator)
    soft = (score / tau).sigmoid()
    return (straight_through(score > 0, soft) if hard else soft).to(logits.dtype)


def anneal_tau(step: int, steps: int, *, start: float, end: float) -> float:
    """The temperature at a step: start * (end / start)^(step / steps), and `end` from then on.

    Raises:
        ValueError: a temperature is not above 0, `steps` is not positive or `step` is negative.

    >>> [round(anneal_tau(step, 100, start=5.0, end=0.1), 3) for step in (0, 50, 100, 200)]
    [5.0, 0.707, 0.1, 0.1]
    """
    _check_tau(start, "start")
    _check_tau(end, "end")
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected at least 1")
    if step < 0:
        raise ValueError(f"step: got {step}, expected 0 or more")
    return start * (end / start) ** min(step / steps, 1.0)


def semantic_hash(logits: Tensor, *, training: bool, generator: torch.Generator | None = None) -> Tensor:
    """Improved semantic hashing: a noisy saturating sigmoid while training, a plain threshold afterwards.

    Training: a' = logits + N(0, 1), s = clip(1.2 sigma(a') - 0.1, 0, 1). Forward, each element is s or the bit
    [a' > 0], with equal chance; backward it is s in either case. Testing: the bit [logits > 0], with no gradient.

    Args:
        logits: any shape, float.
        training: whether to draw noise; pass the module's `self.training`.

    Returns:
        The shape and dtype of `logits`; in [0, 1] while training, 0 or 1 afterwards.

    >>> semantic_hash(torch.tensor([-0.3, 0.3]), training=False).tolist()
    [0.0, 1.0]
    """
    if not training:
        return (logits > 0).to(logits.dtype)
    wide = _wide(logits)
    home = _home(wide, generator)
    noisy = wide + torch.randn(wide.shape, dtype=wide.dtype, device=home, generator=generator).to(wide.device)
    soft = (1.2 * noisy.sigmoid() - 0.1).clamp(0, 1)
    hard = torch.where(_uniform(wide, generator) < 0.5, (noisy > 0).to(soft.dtype), soft)
    return straight_through(hard, soft).to(logits.dtype)


# Score function ------------------------------------------------------------------------------------------------------


def bernoulli_log_prob(logits: Tensor, gates: Tensor) -> Tensor:
    """log P(gates) of each gate alone, also where a logit is +-inf; sum over what was decided together.

    Args:
        logits: any shape, float.
        gates: same shape, 0 or 1.

    >>> bernoulli_log_prob(torch.tensor([0.0, torch.inf]), torch.tensor([1.0, 1.0])).exp().tolist()
    [0.5, 1.0]
    """
    if gates.shape != logits.shape:
        raise ValueError(f"gates: got shape {tuple(gates.shape)}, expected that of logits, {tuple(logits.shape)}")
    wide = _wide(logits)
    return functional.logsigmoid(torch.where(gates > 0.5, wide, -wide)).to(logits.dtype)


def reinforce_loss(log_prob: Tensor, reward: Tensor, baseline: Tensor | float | None = None) -> Tensor:
    """A loss whose gradient is REINFORCE's estimate of minus the gradient of the mean reward.

    It is the mean of -(reward - baseline) * log_prob, with the bracket held constant. The value itself means nothing.

    Args:
        log_prob: log-probability of what was decided, summed over everything the reward is for; any shape, say (N,).
        reward: same shape, larger is better.
        baseline: what is taken off the reward: a number, or a tensor that broadcasts to the reward's shape. It must not
            depend on the decision it is used for; then it changes the variance and not the mean.

    Returns:
        A scalar; 0 where there is no sample.

    Raises:
        ValueError: shapes differ, or `baseline` would widen that of `reward`, as (N, 1) against (N,) does.

    >>> logits = torch.zeros(2, requires_grad=True)
    >>> log_prob = bernoulli_log_prob(logits, torch.tensor([1.0, 0.0]))
    >>> torch.autograd.grad(reinforce_loss(log_prob, torch.tensor([1.0, 3.0])), logits)[0].tolist()
    [-0.25, 0.75]
    """
    _same_shape("reward", reward, log_prob)
    wide = _wide(log_prob, "log_prob")
    advantage = reward.detach().to(wide.dtype)
    if baseline is not None:
        held = torch.as_tensor(baseline).detach().to(wide)
        pairs = zip(reversed(held.shape), reversed(reward.shape), strict=False)
        if held.ndim > reward.ndim or any(size not in (1, full) for size, full in pairs):
            raise ValueError(
                f"baseline: got shape {tuple(held.shape)}, expected one that broadcasts to {tuple(reward.shape)}"
            )
        advantage = advantage - held
    return -_mean(advantage * wide).to(log_prob.dtype)


def ppo_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip: float = 0.2) -> Tensor:
    """PPO's clipped objective as a loss: the mean of -min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A).

    ratio = P_now / P_then of what was decided. At ratio 1 (one step a batch) this has the plain policy gradient; where
    a step would push the ratio further out than `clip`, the gradient is 0. Ratios are numbers: above e^80 they count as
    e^80, without a gradient, and what both policies exclude (-inf twice) counts as unchanged, without one, too.

    Args:
        log_prob: under the policy being trained, any shape.
        old_log_prob: under the policy that acted, same shape; held constant.
        advantage: reward minus baseline, same shape; held constant.

    Returns:
        A scalar; 0 where there is no sample.

    Raises:
        ValueError: shapes differ, or clip is negative.

    >>> far = torch.tensor([0.5], requires_grad=True)
    >>> torch.autograd.grad(ppo_loss(far, torch.tensor([0.0]), torch.tensor([1.0])), far)[0].tolist()
    [0.0]
    """
    _same_shape("old_log_prob", old_log_prob, log_prob)
    _same_shape("advantage", advantage, log_prob)
    if not clip >= 0:
        raise ValueError(f"clip: got {clip}, expected 0 or more")
    now, then = _wide(log_prob, "log_prob"), _wide(old_log_prob.detach(), "old_log_prob")
    advantage = advantage.detach().to(now.dtype)
    excluded = now.isneginf() & then.isneginf()  # inf - inf would be NaN, and so would a slope of 0 times e^inf
    ratio = (now - then).masked_fill(excluded, 0).clamp(max=_LARGEST_LOG_RATIO).exp()
    worse = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -_mean(worse).to(log_prob.dtype)


def discounted_returns(reward: Tensor, gamma: float) -> Tensor:
    """What is still to come at every step: G_t = r_t + gamma * G_(t+1).

    Args:
        reward: (T, ...) one row a step, such as (T, B).
        gamma: in [0, 1].

    Returns:
        The shape of `reward`.

    >>> discounted_returns(torch.tensor([[0.0], [0.0], [1.0]]), 0.5).flatten().tolist()
    [0.25, 0.5, 1.0]
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: got {gamma}, expected a number in [0, 1]")
    if reward.ndim < 1:
        raise ValueError("reward: got a single number, expected (T, ...), one row a step")
    returns = list(reward)
    for t in range(len(returns) - 2, -1, -1):
        returns[t] = returns[t] + gamma * returns[t + 1]
    return torch.stack(returns) if returns else reward.clone()


class MovingAverage:
    """The mean of past rewards as a baseline: called with a batch of rewards, it answers with what it knew *before*.

    The batch itself must not count, or the baseline would depend on the decisions it is used for.

    >>> baseline = MovingAverage(decay=0.5)
    >>> [float(baseline(torch.tensor([1.0, 3.0]))) for _ in range(2)]
    [0.0, 2.0]
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: got {decay}, expected a number in [0, 1)")
        self.decay = decay
        self.value: Tensor | None = None

    def __call__(self, reward: Tensor) -> Tensor:
        """The baseline for `reward` (any shape and dtype, larger is better), a float scalar; then takes `reward` in."""
        before = self.value
        wide = reward.detach().to(torch.promote_types(reward.dtype, torch.float32))
        if reward.numel():
            now = wide.mean()
            self.value = now if before is None else self.decay * before + (1 - self.decay) * now
        return wide.new_zeros(()) if before is None else before


def self_critical(logits: Tensor, reward: Callable[[Tensor], Tensor]) -> Tensor:
    """The reward of the policy's most likely gates as a baseline: a sample is good if it beats them.

    Args:
        logits: (N, n) of n gates, or any shape `reward` understands.
        reward: gates, 0 or 1, in the shape of `logits` -> rewards (N,).

    Returns:
        (N,), without a gradient.
    """
    with torch.no_grad():
        return reward((logits > 0).to(logits.dtype))


# Exactly -------------------------------------------------------------------------------------------------------------


def expected_value(logits: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """E[objective] summed over every outcome, differentiable: its gradient is what all estimators estimate.

    Args:
        logits: (n,) of n independent gates, or (n, K) of n independent choices out of K.
        objective: all outcomes at once -> their values (outcomes,). Outcomes are (2^n, n) gates of 0.0 and 1.0, or
            (K^n, n) int64 indices. Its own parameters receive their exact gradient, too. What it says of an outcome
            without probability does not count, and may be infinite.

    Returns:
        A scalar in the dtype of `logits`.

    Raises:
        ValueError: another rank, more than 65,536 outcomes, or values in another shape.

    >>> a = torch.zeros(1, requires_grad=True)
    >>> value = expected_value(a, lambda gates: (gates[:, 0] - 0.45) ** 2)
    >>> round(value.item(), 4), round(torch.autograd.grad(value, a)[0].item(), 4)
    (0.2525, 0.025)
    """
    if logits.ndim not in (1, 2) or logits.shape[-1] < logits.ndim - 1:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected (n,) gates or (n, K) choices out of K")
    number, choices = len(logits), (2 if logits.ndim == 1 else logits.shape[1])
    if number * math.log2(choices) > math.log2(MAX_OUTCOMES):
        raise ValueError(f"logits: got {choices}^{number} outcomes, expected at most {MAX_OUTCOMES} to enumerate")
    digits = [torch.arange(choices, device=logits.device)] * number
    outcomes = torch.cartesian_prod(*digits).reshape(-1, number) if number else logits.new_zeros(1, 0).long()
    wide = _wide(logits)
    if logits.ndim == 1:
        # sigma(-a), not 1 - sigma(a): no digits are lost where a gate is nearly certain
        table = torch.stack([(-wide).sigmoid(), wide.sigmoid()], 1)
        values = objective(outcomes.to(logits.dtype))
    else:
        table, values = _bounded(wide).softmax(1), objective(outcomes)
    if values.shape != (len(outcomes),):
        raise ValueError(f"objective: got values of shape {tuple(values.shape)}, expected ({len(outcomes)},)")
    probability = table[torch.arange(number, device=logits.device), outcomes].prod(1)
    return (probability * values.masked_fill(probability == 0, 0)).sum().to(logits.dtype)


# Shared --------------------------------------------------------------------------------------------------------------


def _check_tau(tau: float, name: str = "tau") -> None:
    """Raise `ValueError` unless `tau` is a finite temperature above 0."""
    if not 0 < tau < math.inf:
        raise ValueError(f"{name}: got {tau}, expected a finite temperature above 0")


def _temperature(tau: float, dtype: torch.dtype) -> float:
    """`tau`, checked, and large enough that 1 / tau is a number: infinite slopes times 0 would be NaN."""
    _check_tau(tau)
    return max(tau, torch.finfo(dtype).tiny)


def _wide(x: Tensor, name: str = "logits") -> Tensor:
    """float32 at least: noise, exponentials and sums of half precision are not worth having."""
    if not x.is_floating_point():
        raise TypeError(f"{name}: got dtype {x.dtype}, expected a floating-point tensor")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _bounded(logits: Tensor) -> Tensor:
    """Infinite logits become the largest numbers whose differences are finite; they receive no gradient."""
    limit = torch.finfo(logits.dtype).max / 4
    return logits.clamp(-limit, limit)


def _home(x: Tensor, generator: torch.Generator | None) -> torch.device:
    return x.device if generator is None else generator.device


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    numbers = torch.rand(like.shape, dtype=like.dtype, device=_home(like, generator), generator=generator)
    return numbers.to(like.device)


def _same_shape(name: str, got: Tensor, log_prob: Tensor) -> None:
    if got.shape != log_prob.shape:
        raise ValueError(f"{name}: got shape {tuple(got.shape)}, expected that of log_prob, {tuple(log_prob.shape)}")


def _mean(x: Tensor) -> Tensor:
    """The mean, and 0 instead of NaN where there is nothing."""
    return x.mean() if x.numel() else x.sum()
