"""Estimators of a decision's gradient, measured against the exact one, and one small network that learns to decide.

Two problems. `GateProblem` has n gates and pays (b_i - 0.45)^2 for each: so small that the exact gradient is known, and
bias and variance of every estimator can be measured. `GatedNetwork` has one gate a sample, which must learn to open a
costly path where a cheap one does not do. The estimators themselves stand in `course_lib.decision`.

Source: survey (arXiv 2102.04906) section 5.2; the target rate is ConvNet-AIG's (arXiv 1711.11503).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib import decision
from course_lib.data import two_regions

#: Logits of any shape -> gates of the same shape that carry a gradient.
Sampler = Callable[[Tensor, torch.Generator], Tensor]


def _straight_through(logits: Tensor, generator: torch.Generator, *, sample: bool) -> Tensor:
    return decision.straight_through_gate(logits, sample=sample, generator=generator)


def gumbel(logits: Tensor, generator: torch.Generator, *, tau: float, hard: bool) -> Tensor:
    """`decision.gumbel_sigmoid` with its arguments in a `Sampler`'s order."""
    return decision.gumbel_sigmoid(logits, tau=tau, hard=hard, generator=generator)


def _semantic_hash(logits: Tensor, generator: torch.Generator) -> Tensor:
    return decision.semantic_hash(logits, training=True, generator=generator)


def bernoulli(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Plain samples, 0 or 1 with probability sigma(logits), without a gradient."""
    return decision.straight_through_gate(logits.detach(), sample=True, generator=generator)


#: Gates through which the loss's own gradient is sent back.
SAMPLERS: Mapping[str, Sampler] = {
    "straight-through, threshold": partial(_straight_through, sample=False),
    "straight-through, sampled": partial(_straight_through, sample=True),
    "Gumbel, tau 0.2": partial(gumbel, tau=0.2, hard=False),
    "Gumbel, tau 1": partial(gumbel, tau=1.0, hard=False),
    "Gumbel, tau 5": partial(gumbel, tau=5.0, hard=False),
    "Gumbel, hard": partial(gumbel, tau=1.0, hard=True),
    "semantic hashing": _semantic_hash,
}

# Gates with a known gradient -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GateProblem:
    """n independent gates; each pays (b - target)^2, and one number, the sum, is all that comes back.

    With a target below 1/2 every gate should learn to close: target^2 is less than (1 - target)^2.
    """

    number: int = 1
    target: float = 0.45

    def loss(self, gates: Tensor) -> Tensor:
        """(..., number) gates -> (...) losses; also for gates between 0 and 1, where soft estimators look."""
        return ((gates - self.target) ** 2).sum(-1)

    def expected_loss(self, logits: Tensor) -> Tensor:
        """(..., number) logits -> (...) expected losses: the sum over both outcomes of each gate, weighted."""
        p = logits.sigmoid()
        return (p * (1 - self.target) ** 2 + (1 - p) * self.target**2).sum(-1)

    def exact_gradient(self, logits: Tensor) -> Tensor:
        """(number,) logits -> (number,) gradient of the expected loss, by enumeration of all 2^number outcomes."""
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(decision.expected_value(leaf, self.loss), leaf)[0]


#: (problem, logits (S, n), generator) -> (S,) surrogate losses; the gradient of row s is one estimate.
Estimator = Callable[[GateProblem, Tensor, torch.Generator], Tensor]


def _exact(problem: GateProblem, logits: Tensor, generator: torch.Generator) -> Tensor:
    return problem.expected_loss(logits)


def through(sampler: Sampler) -> Estimator:
    """The estimator that sends the loss's own gradient back through a sampler's gates."""
    return lambda problem, logits, generator: problem.loss(sampler(logits, generator))


def _no_baseline(problem: GateProblem, logits: Tensor) -> float:
    return 0.0


def _mean_reward(problem: GateProblem, logits: Tensor) -> Tensor:
    """What a moving average of past rewards tends to."""
    return -problem.expected_loss(logits)


def _greedy_reward(problem: GateProblem, logits: Tensor) -> Tensor:
    return decision.self_critical(logits, lambda gates: -problem.loss(gates))


def _reinforce(
    baseline: Callable[[GateProblem, Tensor], Tensor | float],
    problem: GateProblem,
    logits: Tensor,
    generator: torch.Generator,
) -> Tensor:
    gates = bernoulli(logits, generator)
    log_prob = decision.bernoulli_log_prob(logits, gates).sum(-1)
    loss = decision.reinforce_loss(log_prob, -problem.loss(gates), baseline(problem, logits))
    return loss.expand(len(logits)) if len(logits) else log_prob  # the mean of S: every row holds its S-th part


ESTIMATORS: Mapping[str, Estimator] = {
    "exact": _exact,
    **{name: through(sampler) for name, sampler in SAMPLERS.items()},
    "REINFORCE": partial(_reinforce, _no_baseline),
    "REINFORCE, mean baseline": partial(_reinforce, _mean_reward),
    "REINFORCE, self-critical": partial(_reinforce, _greedy_reward),
}


def gradient_samples(estimator: Estimator, p: float, problem: GateProblem, *, samples: int, seed: int = 0) -> Tensor:
    """Independent estimates of the gradient with respect to the logits, every gate open with probability p.

    Args:
        estimator: one of `ESTIMATORS`, or your own.
        p: in (0, 1).
        samples: S, how many.

    Returns:
        (S, n) float64.

    Raises:
        ValueError: p is not inside (0, 1).
    """
    if not 0 < p < 1:
        raise ValueError(f"p: got {p}, expected a probability inside (0, 1)")
    logit = torch.tensor(p, dtype=torch.float64).logit()
    logits = logit.expand(samples, problem.number).clone().requires_grad_()
    surrogate = estimator(problem, logits, torch.Generator().manual_seed(seed))
    return torch.autograd.grad(surrogate.sum(), logits)[0]


@dataclass(frozen=True)
class EstimatorError:
    """How well an estimator hits the exact gradient, for the first gate, at each of G probabilities.

    Args:
        p: (G,) probabilities that a gate is open.
        exact: (G,) the gradient that is estimated.
        mean: (G,) mean of the estimates.
        spread: (G,) standard deviation of *one* estimate.
        samples: how many estimates `mean` and `spread` rest on.
    """

    p: Tensor
    exact: Tensor
    mean: Tensor
    spread: Tensor
    samples: int

    @property
    def bias(self) -> Tensor:
        """(G,) how far the mean estimate is off."""
        return self.mean - self.exact

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, and so of the bias: a bias within three of these may be none."""
        return self.spread / self.samples**0.5


def measure_estimator(
    estimator: Estimator, p: Tensor, problem: GateProblem | None = None, *, samples: int = 4000, seed: int = 0
) -> EstimatorError:
    """Bias and spread of an estimator at each probability in p (G,), against the exact gradient of `problem`.

    Raises:
        ValueError: p is empty or leaves (0, 1), or there are fewer than 2 samples, which have no spread.
    """
    problem = problem or GateProblem()
    if not p.numel():
        raise ValueError("p: got no probability, expected (G,) of them, at least one")
    if samples < 2:
        raise ValueError(f"samples: got {samples}, expected at least 2")
    draws = torch.stack(
        [
            gradient_samples(estimator, q, problem, samples=samples, seed=seed + i)[:, 0]
            for i, q in enumerate(p.tolist())
        ]
    )
    # gates are independent and the loss is a sum, so one gate alone has the gradient of each
    alone = GateProblem(1, problem.target)
    exact = torch.cat([alone.exact_gradient(q.double().logit()[None]) for q in p])
    return EstimatorError(p.double(), exact, draws.mean(1), draws.std(1), samples)


def settle(
    estimator: Estimator,
    problem: GateProblem | None = None,
    *,
    start: float = 0.8,
    steps: int = 400,
    lr: float = 2.0,
    batch: int = 64,
    seed: int = 0,
) -> Tensor:
    """Gradient descent on the logits with an estimator's gradients: where does the gate settle?

    Args:
        start: probability to be open before the first step.
        batch: estimates averaged in a step.

    Returns:
        (steps + 1,) the first gate's probability before and after each step.

    Raises:
        ValueError: `start` is not inside (0, 1), `steps` is negative or `batch` is not positive.
    """
    problem = problem or GateProblem()
    if not 0 < start < 1:
        raise ValueError(f"start: got {start}, expected a probability inside (0, 1)")
    if steps < 0:
        raise ValueError(f"steps: got {steps}, expected 0 or more")
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected at least 1")
    logits = torch.full((problem.number,), start, dtype=torch.float64).logit().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    path = [start]
    for _ in range(steps):
        surrogate = estimator(problem, logits.expand(batch, -1), generator).mean()
        (gradient,) = torch.autograd.grad(surrogate, logits)
        with torch.no_grad():
            logits -= lr * gradient
        path.append(logits[0].detach().sigmoid().item())
    return torch.tensor(path, dtype=torch.float64)


# A network with one gate ---------------------------------------------------------------------------------------------


class GatedNetwork(nn.Module):
    """A cheap path, a costly path, and a gate that chooses: (1 - g) * cheap(x) + g * costly(x).

    Args:
        width: hidden units of the costly path.
        start: the gate's logit before training, for every sample; 2 is open for 88 in 100.
    """

    def __init__(self, width: int = 32, *, start: float = 2.0) -> None:
        super().__init__()
        self.cheap = nn.Linear(2, 4)
        self.costly = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 4))
        self.gate = nn.Linear(2, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, start)

    def gate_logits(self, x: Tensor) -> Tensor:
        """(N, 2) -> (N,)."""
        return self.gate(x)[:, 0]

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """(N, 2), gates (N,) in [0, 1] -> logits (N, 4). Both paths run: this is for training."""
        return torch.lerp(self.cheap(x), self.costly(x), gate[:, None])

    @torch.inference_mode()
    def infer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2) -> logits (N, 4), open (N,) bool. Each sample runs one path only, and no noise is drawn."""
        is_open = self.gate_logits(x) > 0
        logits = x.new_empty(len(x), 4)
        for path, rows in ((self.cheap, ~is_open), (self.costly, is_open)):
            if rows.any():
                logits[rows] = path(x[rows])
        return logits, is_open


@dataclass(frozen=True)
class GatedRun:
    """A trained gate and how it does on points it has not seen.

    Args:
        open_rate: (steps,) mean gate of each training batch.
        open_easy: share of easy test points for which the gate, thresholded, is open.
        open_hard: share of hard ones.
        accuracy: with the thresholded gate, as the network will run.
        soft_accuracy: with sigma(logit) as the gate: both paths run and are mixed.
    """

    model: GatedNetwork
    open_rate: Tensor
    open_easy: float
    open_hard: float
    accuracy: float
    soft_accuracy: float


def _soft(logits: Tensor, generator: torch.Generator) -> Tensor:
    return logits.sigmoid()


#: What `train_gated` can train a gate with: the estimators that need neither all outcomes (the exact one) nor a second
#: run of the network (self-critical), and a gate that never decides.
GATE_TRAINING = ("sigmoid", *SAMPLERS, "REINFORCE", "REINFORCE, mean baseline")


def train_gated(
    name: str,
    *,
    price: float | None = None,
    warmup: float = 1 / 3,
    start: float = 2.0,
    steps: int = 900,
    batch: int = 128,
    lr: float = 0.01,
    seed: int = 0,
) -> GatedRun:
    """Train a `GatedNetwork` on `two_regions`, its gate with the estimator called `name`.

    The loss is the cross-entropy plus a term for open gates: 2 * (mean gate - 0.4)^2, or `price * gate` if given.
    Seeded throughout, and torch's own random numbers stay where they were.

    Args:
        name: one of `GATE_TRAINING`. "sigmoid" mixes both paths, which is no decision at all.
        price: what an open gate costs, instead of the target rate; 0 for nothing.
        warmup: share of the steps during which all gates are open and none learns.
        start: the gate's logit before training.

    Raises:
        ValueError: an unknown name, or no step or sample to train on.
    """
    if name not in GATE_TRAINING:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(GATE_TRAINING)}")
    for key, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{key}: got {value}, expected at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = GatedNetwork(start=start)
    generator = torch.Generator().manual_seed(seed)
    data = two_regions(4000, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    by_reward = name.startswith("REINFORCE")
    sampler = bernoulli if by_reward else {"sigmoid": _soft, **SAMPLERS}[name]
    baseline = decision.MovingAverage() if name.endswith("baseline") else None
    rates = []
    for step in range(steps):
        rows = torch.randint(len(data.points), (batch,), generator=generator)
        x, labels = data.points[rows], data.labels[rows]
        logits = model.gate_logits(x)
        learns = step >= warmup * steps
        gate = sampler(logits, generator) if learns else torch.ones_like(logits)
        rate = gate.detach().mean()
        each = functional.cross_entropy(model(x, gate), labels, reduction="none")
        # 4 (rate - 0.4) is the slope of 2 (rate - 0.4)^2, so that a price serves rewards and gradients alike
        each = each + (4 * (rate - 0.4) if price is None else price) * gate
        loss = each.mean()
        if by_reward and learns:
            reward = -each.detach()
            log_prob = decision.bernoulli_log_prob(logits, gate)
            loss = loss + decision.reinforce_loss(log_prob, reward, baseline(reward) if baseline else None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.append(rate)
    return _test_gated(model, torch.stack(rates))


def _test_gated(model: GatedNetwork, open_rate: Tensor) -> GatedRun:
    test = two_regions(2000, seed=2)
    logits, is_open = model.infer(test.points)
    with torch.inference_mode():
        soft = model(test.points, model.gate_logits(test.points).sigmoid())
    right, right_soft = ((out.argmax(1) == test.labels).double().mean() for out in (logits, soft))
    shares = [float(is_open[rows].double().mean()) for rows in (~test.hard, test.hard)]
    return GatedRun(model, open_rate, shares[0], shares[1], float(right), float(right_soft))
