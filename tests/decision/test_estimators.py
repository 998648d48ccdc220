"""Estimators of a decision's gradient: facts that enumeration or large samples decide, certainty, bad input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad

from course_lib import decision

LOGITS = torch.tensor([-2.0, -0.3, 0.0, 0.7, 2.5])
CERTAIN = torch.tensor([-torch.inf, torch.inf])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaf(values: Tensor | list[float]) -> Tensor:
    return torch.as_tensor(values).clone().requires_grad_()


def sampled_gates(logits: Tensor) -> dict[str, Tensor]:
    """Every gate that is drawn, soft or hard."""
    return {
        "straight-through": decision.straight_through_gate(logits, sample=True, generator=generator()),
        "Gumbel": decision.gumbel_sigmoid(logits, tau=0.7, generator=generator()),
        "Gumbel hard": decision.gumbel_sigmoid(logits, tau=0.7, hard=True, generator=generator()),
        "semantic hashing": decision.semantic_hash(logits, training=True, generator=generator()),
    }


# Straight-through ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=8), st.data())
def test_straight_through_shows_hard_and_differentiates_soft(values: list[float], data: st.DataObject):
    soft = leaf(torch.tensor(values))
    hard = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    out = decision.straight_through(hard, 3 * soft)
    assert torch.equal(out, hard.float())
    assert torch.equal(grad(out.sum(), soft)[0], torch.full_like(soft, 3.0))


def test_straight_through_has_the_jacobian_of_soft_and_none_into_hard():
    hard, soft = leaf([1.0, 0.0]), leaf([0.3, 0.4])
    jacobian = torch.autograd.functional.jacobian(decision.straight_through, (hard, soft))
    assert torch.equal(jacobian[0], torch.zeros(2, 2))
    assert torch.equal(jacobian[1], torch.eye(2))


def test_straight_through_of_an_infinite_value_has_no_gradient():
    soft = leaf([torch.inf, 1.0])
    out = decision.straight_through(torch.tensor([1, 0]), soft)
    assert out.tolist() == [1.0, 0.0]
    assert grad(out.sum(), soft)[0].tolist() == [0.0, 1.0]


def test_a_thresholded_gate_has_the_slope_of_the_sigmoid():
    logits = leaf(LOGITS)
    gate = decision.straight_through_gate(logits, sample=False)
    p = LOGITS.sigmoid()
    assert gate.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert torch.allclose(grad(gate.sum(), logits)[0], p * (1 - p))


# All sampled gates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [True, False])
def test_gates_open_with_probability_sigma(hard: bool):
    logits = LOGITS.expand(40_000, -1)
    drawn = decision.gumbel_sigmoid(logits, tau=0.5, hard=hard, generator=generator())
    again = decision.straight_through_gate(logits, sample=True, generator=generator())
    for gates in (drawn, again):
        assert torch.allclose((gates > 0.5).float().mean(0), LOGITS.sigmoid(), atol=0.01)


@pytest.mark.parametrize("name", ["straight-through", "Gumbel hard"])
def test_hard_gates_are_exactly_zero_or_one(name: str):
    gates = sampled_gates(torch.randn(5000, generator=generator()) * 5)[name]
    assert set(gates.unique().tolist()) == {0.0, 1.0}


def test_a_generator_decides_the_numbers():
    logits = LOGITS.expand(10, -1)
    first, second = sampled_gates(logits), sampled_gates(logits)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = decision.straight_through_gate(logits, sample=True, generator=generator(1))
    assert not torch.equal(first["straight-through"], other)


@pytest.mark.parametrize("name", sampled_gates(LOGITS))
def test_a_certain_gate_is_its_value_and_has_no_gradient(name: str):
    logits = leaf(CERTAIN)
    gate = sampled_gates(logits)[name]
    assert gate.tolist() == [0.0, 1.0]
    assert grad(gate.sum(), logits)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gates_keep_dtype_and_shape_and_may_be_none(dtype: torch.dtype):
    for shape in ((4, 3), (0, 3), ()):
        logits = leaf(torch.zeros(shape, dtype=dtype))
        softmax = {"softmax": decision.gumbel_softmax(logits, tau=1.0, hard=True)} if shape else {}
        for gate in {**sampled_gates(logits), **softmax}.values():
            assert gate.dtype == dtype
            assert gate.shape == torch.Size(shape)
            assert grad(gate.sum(), logits)[0].dtype == dtype


def test_a_half_precision_gate_rarely_opens_as_its_logit_says():
    logits = torch.full((200_000,), -7.0, dtype=torch.float16)  # 9 in 10,000
    gates = decision.gumbel_sigmoid(logits, tau=1.0, hard=True, generator=generator())
    assert 0.0006 < float(gates.float().mean()) < 0.0012


def test_logits_must_be_real_numbers():
    with pytest.raises(TypeError, match="logits: got dtype torch.int64"):
        decision.gumbel_softmax(torch.tensor([0, 1]), tau=1.0)


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_no_gate_is_drawn_and_no_gradient_lost(shape: tuple[int, ...]):
    logits = leaf(torch.empty(shape))
    drawn = {**sampled_gates(logits), "threshold": decision.straight_through_gate(logits, sample=False)}
    drawn["bit"] = decision.semantic_hash(logits, training=False)
    for name, gates in drawn.items():
        assert gates.shape == shape, name
        if name != "bit":
            assert grad(gates.sum(), logits)[0].shape == shape
    assert decision.gumbel_softmax(torch.empty(0, 3), tau=1.0, hard=True).shape == (0, 3)
    assert decision.gumbel_noise(logits).shape == shape


def test_a_certain_gate_thresholded_or_hashed_is_its_value():
    logits = leaf(CERTAIN)
    gate = decision.straight_through_gate(logits, sample=False)
    assert gate.tolist() == decision.semantic_hash(logits, training=False).tolist() == [0.0, 1.0]
    assert grad(gate.sum(), logits)[0].tolist() == [0.0, 0.0]


# Gumbel --------------------------------------------------------------------------------------------------------------


def test_gumbel_noise_has_the_mean_and_variance_of_the_law():
    noise = decision.gumbel_noise(torch.zeros(200_000, dtype=torch.float64), generator=generator())
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)
    assert bool(noise.isfinite().all())


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("tau", [0.1, 1.0, 5.0])
def test_the_largest_entry_follows_the_softmax_at_every_temperature(tau: float, hard: bool):
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    drawn = decision.gumbel_softmax(logits.expand(40_000, -1), tau=tau, hard=hard, generator=generator())
    shares = torch.bincount(drawn.argmax(1), minlength=4) / len(drawn)
    assert torch.allclose(shares, logits.softmax(0), atol=0.01)
    assert torch.allclose(drawn.sum(1), torch.ones(len(drawn)), atol=1e-5)


def test_hard_forward_is_one_hot_and_backward_is_soft():
    hard_logits, soft_logits = leaf(LOGITS), leaf(LOGITS)
    weights = torch.arange(5.0)
    hard = decision.gumbel_softmax(hard_logits, tau=0.7, hard=True, generator=generator(3))
    soft = decision.gumbel_softmax(soft_logits, tau=0.7, generator=generator(3))
    assert sorted(hard.tolist()) == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert int(hard.argmax()) == int(soft.argmax())
    gradients = [grad((weights * out).sum(), x)[0] for out, x in ((hard, hard_logits), (soft, soft_logits))]
    assert torch.allclose(*gradients)


@settings(max_examples=30)
@given(st.floats(1e-30, 1e-6), st.integers(0, 1000))
def test_near_temperature_zero_a_soft_sample_is_the_arg_max(tau: float, seed: int):
    soft = decision.gumbel_softmax(LOGITS, tau=tau, generator=generator(seed))
    hard = decision.gumbel_softmax(LOGITS, tau=tau, hard=True, generator=generator(seed))
    assert torch.equal(soft, hard)
    gate = decision.gumbel_sigmoid(LOGITS, tau=tau, generator=generator(seed))
    assert set(gate.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("tau", [1e-38, 1e-50, 5e-324])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_smallest_temperatures_have_finite_gradients(tau: float, dtype: torch.dtype):
    weights = torch.arange(5).to(dtype)
    for sample in (decision.gumbel_softmax, decision.gumbel_sigmoid):
        logits = leaf(LOGITS.to(dtype))
        out = sample(logits, tau=tau, generator=generator())
        assert set(out.tolist()) <= {0.0, 1.0}
        assert bool(grad((weights * out).sum(), logits)[0].isfinite().all())


def test_a_high_temperature_forgets_the_sample():
    soft = decision.gumbel_softmax(LOGITS, tau=1e6, generator=generator())
    assert torch.allclose(soft, torch.full((5,), 0.2), atol=1e-4)


def test_two_choices_are_one_gate():
    """softmax over (a, 0) with noises g1, g2 is sigma((a + g1 - g2) / tau); both draw g1 first."""
    a = leaf(LOGITS)
    gate = decision.gumbel_sigmoid(a, tau=0.8, generator=generator(4))
    source = generator(4)
    noise = torch.stack([decision.gumbel_noise(a, generator=source) for _ in range(2)], 1)
    pair = ((torch.stack([a, torch.zeros(5)], 1) + noise) / 0.8).softmax(1)[:, 0]
    assert torch.allclose(gate, pair, atol=1e-6)
    assert torch.allclose(grad(gate.sum(), a)[0], grad(pair.sum(), a)[0], atol=1e-6)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("certain", [[-math.inf, 0.0, 1.0], [math.inf, 0.0, 1.0], [-math.inf, -math.inf, 3.0]])
def test_impossible_and_certain_choices(certain: list[float], hard: bool):
    logits = leaf(certain)
    out = decision.gumbel_softmax(logits, tau=1e-3, hard=hard, generator=generator())
    gradient = grad((out * torch.arange(3.0)).sum(), logits)[0]
    assert bool(gradient.isfinite().all())
    assert bool((gradient[torch.isinf(torch.tensor(certain))] == 0).all())
    assert bool((out[torch.tensor(certain) == -math.inf] == 0).all())
    if math.inf in certain:
        assert out.tolist() == [1.0, 0.0, 0.0]


def test_the_choice_may_run_along_any_dimension():
    out = decision.gumbel_softmax(torch.zeros(2, 3, 4), tau=1.0, hard=True, dim=1)
    assert torch.equal(out.sum(1), torch.ones(2, 4))


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_must_be_above_zero(tau: float):
    with pytest.raises(ValueError, match="tau: got .* expected a finite temperature above 0"):
        decision.gumbel_softmax(LOGITS, tau=tau)
    with pytest.raises(ValueError, match="tau: got"):
        decision.gumbel_sigmoid(LOGITS, tau=tau)
    with pytest.raises(ValueError, match="end: got"):
        decision.anneal_tau(0, 10, start=1.0, end=tau)


def test_the_temperature_falls_by_the_same_factor_every_step():
    taus = [decision.anneal_tau(step, 4, start=5.0, end=0.1) for step in range(6)]
    ratios = [b / a for a, b in itertools.pairwise(taus)][:4]
    assert taus[0] == 5.0
    assert taus[4] == taus[5] == pytest.approx(0.1)
    assert ratios == pytest.approx([0.02**0.25] * 4)


@pytest.mark.parametrize(("step", "steps", "name"), [(0, 0, "steps"), (-1, 5, "step")])
def test_steps_must_make_sense(step: int, steps: int, name: str):
    with pytest.raises(ValueError, match=f"^{name}: got"):
        decision.anneal_tau(step, steps, start=1.0, end=0.5)


# Semantic hashing ----------------------------------------------------------------------------------------------------


def test_semantic_hashing_is_a_plain_threshold_when_not_training():
    logits = leaf(LOGITS)
    bits = decision.semantic_hash(logits, training=False)
    assert bits.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert not bits.requires_grad


def test_semantic_hashing_shows_a_bit_half_of_the_time_and_always_a_number_in_the_unit_interval():
    gates = decision.semantic_hash(torch.zeros(40_000), training=True, generator=generator())
    assert bool(((gates >= 0) & (gates <= 1)).all())
    # at logit 0 the sigmoid saturates for |noise| > 2.4, that is in 1.6 of 100 cases
    whole = ((gates == 0) | (gates == 1)).float().mean()
    assert 0.49 < float(whole) < 0.53


def test_semantic_hashing_differentiates_the_saturating_sigmoid():
    logits = leaf(torch.zeros(1000))
    gates = decision.semantic_hash(logits, training=True, generator=generator(2))
    noisy = torch.randn(1000, generator=generator(2))
    soft = 1.2 * noisy.sigmoid() - 0.1
    slope = torch.where((soft > 0) & (soft < 1), 1.2 * noisy.sigmoid() * (1 - noisy.sigmoid()), 0.0)
    assert torch.allclose(grad(gates.sum(), logits)[0], slope, atol=1e-6)


# Score function ------------------------------------------------------------------------------------------------------


def all_outcomes(n: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * n).reshape(-1, n)


def score_objective(gates: Tensor) -> Tensor:
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return (gates @ weights - 0.3) ** 2 + gates.prod(-1)


@settings(max_examples=25)
@given(st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.floats(-3, 3))
def test_reinforce_summed_over_all_outcomes_is_exact_whatever_the_baseline(values: list[float], baseline: float):
    logits = leaf(torch.tensor(values, dtype=torch.float64))
    (exact,) = grad(decision.expected_value(logits, score_objective), logits)
    outcomes = all_outcomes(3)
    log_prob = decision.bernoulli_log_prob(logits.expand(8, 3), outcomes).sum(1)
    weighted = 8 * log_prob.detach().exp() * (score_objective(outcomes) - baseline)  # the loss divides by 8
    (summed,) = grad(decision.reinforce_loss(log_prob, -weighted), logits)
    assert torch.allclose(summed, exact, atol=1e-9)


def estimates(baseline: str, n: int = 4, samples: int = 20_000) -> Tensor:
    """(samples, n) REINFORCE estimates on the sum of (b - 0.45)^2 over n gates, every gate at 0.3."""
    logits = torch.full((samples, n), 0.3, dtype=torch.float64).logit().requires_grad_()
    gates = (torch.rand(samples, n, generator=generator()) < 0.3).double()

    def reward(b: Tensor) -> Tensor:
        return -((b - 0.45) ** 2).sum(-1)

    mean = -n * (0.3 * 0.55**2 + 0.7 * 0.45**2)
    baselines = {"none": None, "mean": mean, "greedy": decision.self_critical(logits, reward)}
    log_prob = decision.bernoulli_log_prob(logits, gates).sum(-1)
    loss = decision.reinforce_loss(log_prob, reward(gates), baselines[baseline])
    return grad(loss, logits)[0] * samples


def test_a_baseline_leaves_the_mean_and_lowers_the_variance():
    found = {name: estimates(name) for name in ("none", "mean", "greedy")}
    for draws in found.values():
        standard_error = draws.std(0) / len(draws) ** 0.5
        assert bool(((draws.mean(0) - 0.1 * 0.3 * 0.7).abs() < 4 * standard_error).all())
    spreads = {name: float(draws.std(0).mean()) for name, draws in found.items()}
    assert spreads["mean"] < spreads["greedy"] < spreads["none"] / 2


@pytest.mark.parametrize("shape", [(3, 1), (2, 3), (1, 3), (2,)])
def test_a_baseline_must_not_widen_the_reward(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"baseline: got shape .* expected one that broadcasts to \(3,\)"):
        decision.reinforce_loss(leaf(torch.zeros(3)), torch.ones(3), torch.zeros(shape))


@pytest.mark.parametrize("baseline", [2, 2.0, torch.tensor(2.0), torch.tensor([2.0]), torch.full((3,), 2.0)])
def test_baselines_that_mean_the_same_give_the_same(baseline: float | Tensor):
    log_prob = leaf([-1.0, -2.0, -3.0])
    loss = decision.reinforce_loss(log_prob, torch.tensor([3, 1, 2]), baseline)
    assert grad(loss, log_prob)[0].tolist() == pytest.approx([-1 / 3, 1 / 3, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype):
    logits = leaf(torch.full((4096,), -3.0, dtype=dtype))
    log_prob = decision.bernoulli_log_prob(logits, torch.ones(4096, dtype=dtype))
    assert log_prob.dtype == dtype
    rounded = torch.nn.functional.logsigmoid(torch.tensor(-3.0)).to(dtype)
    assert bool((log_prob == rounded).all())
    # 4096 values summed in half precision would stall or overflow, their mean is a small number
    reward = torch.full((4096,), 100.0, dtype=dtype)
    for loss in (
        decision.reinforce_loss(log_prob, reward),
        decision.ppo_loss(log_prob, torch.zeros(4096, dtype=dtype) + rounded, -reward),
    ):
        assert loss.dtype == dtype
        assert abs(float(loss.detach())) == pytest.approx(100 * abs(float(rounded)) if loss > 101 else 100, rel=0.01)
        assert grad(loss, logits, retain_graph=True)[0].dtype == dtype


def test_losses_want_real_log_probabilities():
    with pytest.raises(TypeError, match="log_prob: got dtype torch.int64"):
        decision.reinforce_loss(torch.tensor([0]), torch.tensor([1.0]))


def test_reward_and_baseline_are_held_constant():
    logits, reward, baseline = leaf([0.3]), leaf([2.0]), leaf([0.5])
    loss = decision.reinforce_loss(decision.bernoulli_log_prob(logits, torch.ones(1)), reward, baseline)
    assert grad(loss, (reward, baseline), allow_unused=True) == (None, None)


def test_a_certain_decision_teaches_nothing():
    logits = leaf(CERTAIN)
    log_prob = decision.bernoulli_log_prob(logits, torch.tensor([0.0, 1.0]))
    assert log_prob.tolist() == [0.0, 0.0]
    old = log_prob.detach()
    for loss in (
        decision.reinforce_loss(log_prob, torch.tensor([5.0, -3.0])),
        decision.ppo_loss(log_prob, old, torch.tensor([5.0, -3.0])),
    ):
        assert bool(loss.isfinite())
        assert grad(loss, logits, retain_graph=True)[0].tolist() == [0.0, 0.0]


def test_moving_average_answers_before_it_listens():
    baseline = decision.MovingAverage(decay=0.8)
    assert float(baseline(torch.tensor([4.0, 6.0]))) == 0.0
    assert float(baseline(torch.tensor([0.0]))) == 5.0
    assert float(baseline(torch.empty(0))) == pytest.approx(4.0)
    assert float(baseline(torch.tensor([1.0]))) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="decay: got 1"):
        decision.MovingAverage(1.0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16])
def test_moving_average_takes_rewards_of_any_dtype(dtype: torch.dtype):
    baseline = decision.MovingAverage(decay=0.5)
    reward = torch.tensor([1, 0, 1, 0]).to(dtype)
    log_prob = leaf(torch.full((4,), -1.0))
    for expected in (0.0, 0.5):
        before = baseline(reward)
        assert before.dtype == torch.float32
        assert float(before) == expected
    (gradient,) = grad(decision.reinforce_loss(log_prob, reward, before), log_prob)
    assert gradient.tolist() == [-0.125, 0.125, -0.125, 0.125]


def test_self_critical_runs_the_most_likely_gates_without_a_gradient():
    logits = leaf([[-1.0, 2.0], [3.0, -0.1]])
    scale = leaf([10.0, 1.0])
    reward = decision.self_critical(logits, lambda gates: (gates * scale).sum(1))
    assert reward.tolist() == [1.0, 10.0]
    assert not reward.requires_grad


# PPO -----------------------------------------------------------------------------------------------------------------


def test_ppo_at_ratio_one_is_the_policy_gradient():
    logits = leaf(LOGITS)
    gates = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    advantage = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.1])
    log_prob = decision.bernoulli_log_prob(logits, gates)
    (ppo,) = grad(decision.ppo_loss(log_prob, log_prob, advantage), logits, retain_graph=True)
    (plain,) = grad(decision.reinforce_loss(log_prob, advantage), logits)
    assert torch.allclose(ppo, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "passes"),
    [(1.3, 1.0, False), (0.7, 1.0, True), (1.3, -1.0, True), (0.7, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_ppo_stops_pushing_outside_the_clip_and_always_lets_back_in(ratio: float, advantage: float, passes: bool):
    log_prob = leaf(torch.tensor([math.log(ratio)]))
    loss = decision.ppo_loss(log_prob, torch.zeros(1), torch.tensor([advantage]))
    expected = -advantage * ratio if passes else 0.0
    assert float(grad(loss, log_prob)[0]) == pytest.approx(expected)


def test_ppo_value_is_the_worse_of_both():
    loss = decision.ppo_loss(torch.tensor([1.5, 0.5]).log(), torch.zeros(2), torch.tensor([1.0, -1.0]))
    assert float(loss) == pytest.approx(-(1.2 - 0.8) / 2)


@pytest.mark.parametrize(
    ("dtype", "log_ratio"), [(torch.float32, 100.0), (torch.float16, 12.0), (torch.float64, 800.0)]
)
def test_ppo_beyond_the_clip_has_no_gradient_however_far(dtype: torch.dtype, log_ratio: float):
    log_prob = leaf(torch.tensor([0.0, -log_ratio], dtype=dtype))
    old = torch.tensor([-log_ratio, 0.0], dtype=dtype)
    loss = decision.ppo_loss(log_prob, old, torch.tensor([1.0, -1.0], dtype=dtype))
    assert float(loss.detach()) == pytest.approx(-(1.2 - 0.8) / 2, rel=1e-3)
    assert grad(loss, log_prob)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(("now", "then"), [(-math.inf, -math.inf), (0.0, -math.inf), (-math.inf, 0.0), (0.0, -1e4)])
def test_ppo_of_impossible_decisions_is_a_number(now: float, then: float, advantage: float):
    log_prob = leaf([now])
    loss = decision.ppo_loss(log_prob, torch.tensor([then]), torch.tensor([advantage]))
    assert bool(loss.isfinite())
    assert grad(loss, log_prob)[0].tolist() == [0.0]


# Returns, no samples, wrong shapes -----------------------------------------------------------------------------------


@given(st.integers(0, 5), st.floats(0, 1))
def test_returns_are_the_discounted_sum_of_what_follows(steps: int, gamma: float):
    reward = torch.randn(steps, 2, 3, generator=generator(), dtype=torch.float64)
    returns = decision.discounted_returns(reward, gamma)
    assert returns.shape == reward.shape
    for t in range(steps):
        expected = sum((gamma**i * reward[t + i] for i in range(steps - t)), torch.zeros(2, 3, dtype=torch.float64))
        assert torch.allclose(returns[t], expected)


def test_no_sample_is_no_loss():
    nothing = leaf(torch.empty(0))
    assert float(decision.reinforce_loss(nothing, torch.empty(0)).detach()) == 0.0
    assert float(decision.ppo_loss(nothing, torch.empty(0), torch.empty(0)).detach()) == 0.0
    assert float(decision.reinforce_loss(nothing, torch.empty(0), torch.tensor(3.0)).detach()) == 0.0
    assert grad(decision.reinforce_loss(nothing, torch.empty(0)), nothing)[0].shape == (0,)
    assert decision.bernoulli_log_prob(nothing, torch.empty(0)).shape == (0,)
    assert decision.self_critical(torch.empty(0, 2), lambda gates: gates.sum(1)).shape == (0,)
    assert float(decision.MovingAverage()(torch.empty(0))) == 0.0


def test_shapes_and_ranges_are_named():
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"hard: got shape \(2,\), expected that of soft, \(3,\)"):
        decision.straight_through(two, three)
    with pytest.raises(ValueError, match="gates: got shape"):
        decision.bernoulli_log_prob(two, three)
    with pytest.raises(ValueError, match="reward: got shape"):
        decision.reinforce_loss(two, three)
    with pytest.raises(ValueError, match="advantage: got shape"):
        decision.ppo_loss(two, two, three)
    with pytest.raises(ValueError, match="clip: got -1"):
        decision.ppo_loss(two, two, two, clip=-1)
    with pytest.raises(ValueError, match=r"gamma: got 1\.5"):
        decision.discounted_returns(two, 1.5)
    with pytest.raises(ValueError, match="reward: got a single number"):
        decision.discounted_returns(torch.tensor(1.0), 0.5)


# Exactly -------------------------------------------------------------------------------------------------------------


def test_expected_value_of_gates_and_of_choices():
    gates = torch.tensor([0.2, 0.9], dtype=torch.float64)
    mean = decision.expected_value(gates.logit(), lambda b: b[:, 0] * 10 + b[:, 1])
    assert float(mean) == pytest.approx(2.9)
    choices = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=torch.float64)
    mean = decision.expected_value(choices.log(), lambda k: (k[:, 0] * k[:, 1]).double())
    assert float(mean) == pytest.approx(0.75 * 1.7)


def test_expected_value_differentiates_exactly():
    logits = leaf(LOGITS.double())
    (gradient,) = grad(decision.expected_value(logits, lambda b: ((b - 0.45) ** 2).sum(1)), logits)
    p = LOGITS.double().sigmoid()
    assert torch.allclose(gradient, 0.1 * p * (1 - p))
    choices = torch.randn(2, 3, generator=generator(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: decision.expected_value(x, lambda k: (k[:, 0] - 2.0 * k[:, 1]) ** 2), choices
    )


def test_expected_value_reaches_the_parameters_of_the_objective():
    scale = leaf([2.0])
    (gradient,) = grad(decision.expected_value(torch.zeros(2), lambda b: b.sum(1) * scale), scale)
    assert float(gradient) == 1.0


def test_expected_value_of_a_certain_policy():
    logits = leaf([-math.inf, math.inf, 0.0])
    value = decision.expected_value(logits, lambda b: b @ torch.tensor([1.0, 2.0, 4.0]))
    assert float(value.detach()) == 4.0
    assert grad(value, logits)[0].tolist() == [0.0, 0.0, 1.0]
    choice = leaf([[math.inf, 0.0, -math.inf]])
    value = decision.expected_value(choice, lambda k: k[:, 0].float())
    assert float(value.detach()) == 0.0
    assert grad(value, choice)[0].tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("impossible", [math.inf, -math.inf, math.nan])
def test_expected_value_asks_nothing_of_an_impossible_outcome(impossible: float):
    logits = leaf([math.inf, 0.0])
    value = decision.expected_value(logits, lambda b: torch.where(b[:, 0] > 0, b[:, 1], impossible))
    assert float(value.detach()) == 0.5
    assert grad(value, logits)[0].tolist() == [0.0, 0.25]


def test_expected_value_keeps_the_dtype():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits = leaf(torch.zeros(12, dtype=dtype))  # 4096 outcomes: summed in half precision, chances are lost
        value = decision.expected_value(logits, lambda b: b.sum(1))
        assert value.dtype == dtype
        assert float(value.detach()) == 6.0
        assert torch.allclose(grad(value, logits)[0], torch.full((12,), 0.25, dtype=dtype), rtol=1e-2)
        choices = torch.zeros(1, 3, dtype=dtype)
        assert decision.expected_value(choices, lambda k: k[:, 0]).dtype == dtype


def test_expected_value_of_no_gate_is_the_value_of_the_only_outcome():
    assert float(decision.expected_value(torch.empty(0), lambda b: b.sum(1) + 7)) == 7.0


@pytest.mark.parametrize("shape", [(17,), (11, 3), ()])
def test_expected_value_refuses(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="^logits: got"):
        decision.expected_value(torch.zeros(shape), lambda b: b.sum(1))


def test_expected_value_wants_one_value_an_outcome():
    with pytest.raises(ValueError, match=r"objective: got values of shape \(\), expected \(4,\)"):
        decision.expected_value(torch.zeros(2), lambda b: b.sum())
