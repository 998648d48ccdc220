"""The measured estimators against the exact gradient, and the small network whose gate must find the hard samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from course_lib import data, decision
from course_lib.training import gradients
from course_lib.training.gradients import ESTIMATORS, GateProblem

P = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
UNBIASED = ("REINFORCE", "REINFORCE, mean baseline", "REINFORCE, self-critical")


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_exact_gradient_is_the_enumerated_one_and_the_formula(number: int):
    problem = GateProblem(number)
    logits = torch.linspace(-2, 3, number, dtype=torch.float64).requires_grad_()
    p = logits.detach().sigmoid()
    assert torch.allclose(problem.exact_gradient(logits), p * (1 - p) * (1 - 2 * 0.45))
    assert torch.allclose(decision.expected_value(logits, problem.loss), problem.expected_loss(logits))
    (gradient,) = torch.autograd.grad(problem.expected_loss(logits), logits)
    assert torch.allclose(gradient, problem.exact_gradient(logits))


def test_the_child_is_right():
    losses = GateProblem().loss(torch.tensor([[0.0], [1.0]]))
    assert losses.tolist() == pytest.approx([0.2025, 0.3025])


@pytest.mark.parametrize("name", UNBIASED)
def test_reinforce_is_unbiased(name: str):
    error = gradients.measure_estimator(ESTIMATORS[name], P, samples=8000)
    assert bool((error.bias.abs() <= 4 * error.standard_error + 1e-12).all())


def test_straight_through_fed_with_samples_follows_another_formula():
    error = gradients.measure_estimator(ESTIMATORS["straight-through, sampled"], P, samples=8000)
    follows = 2 * (P - 0.45) * P * (1 - P)
    assert bool(((error.mean - follows).abs() <= 4 * error.standard_error).all())
    assert bool((error.bias[[0, 1, 4]].abs() > 4 * error.standard_error[[0, 1, 4]]).all())


def test_the_thresholded_gate_never_varies():
    error = gradients.measure_estimator(ESTIMATORS["straight-through, threshold"], P, samples=50)
    assert bool((error.spread < 1e-12).all())
    assert torch.allclose(error.mean, 2 * ((P > 0.5).double() - 0.45) * P * (1 - P))


def test_a_baseline_lowers_the_spread_at_every_probability():
    spread = {name: gradients.measure_estimator(ESTIMATORS[name], P, samples=4000).spread for name in UNBIASED}
    assert bool((spread["REINFORCE, mean baseline"] < spread["REINFORCE, self-critical"]).all())
    assert bool((spread["REINFORCE, self-critical"] < spread["REINFORCE"]).all())


def test_a_lower_temperature_has_less_bias_and_more_spread():
    errors = [gradients.measure_estimator(ESTIMATORS[f"Gumbel, tau {tau}"], P, samples=20_000) for tau in ("0.2", "1")]
    bias = [float(error.bias.square().mean().sqrt()) for error in errors]
    assert bias[0] < bias[1]
    assert bool((errors[0].spread > errors[1].spread).all())


def spread_of(name: str, number: int) -> float:
    return float(gradients.gradient_samples(ESTIMATORS[name], 0.5, GateProblem(number), samples=4000)[:, 0].std())


def test_a_shared_reward_makes_noise_grow_with_the_number_of_gates():
    assert spread_of("REINFORCE", 16) / spread_of("REINFORCE", 4) == pytest.approx(4, rel=0.1)
    name = "REINFORCE, mean baseline"  # at 1/2 exactly 0.025 sqrt(n - 1)
    assert spread_of(name, 1) < 1e-12
    assert spread_of(name, 10) == pytest.approx(0.075, rel=0.1)
    assert spread_of("Gumbel, hard", 16) == pytest.approx(spread_of("Gumbel, hard", 1), rel=0.1)


@pytest.mark.parametrize("name", ["exact", "REINFORCE, mean baseline"])
@pytest.mark.parametrize("start", [0.2, 0.8])
def test_unbiased_estimators_close_the_gate(name: str, start: float):
    path = gradients.settle(ESTIMATORS[name], start=start)
    assert len(path) == 401
    assert float(path[0]) == start
    assert float(path[-1]) < 0.05


@pytest.mark.parametrize("start", [0.2, 0.8])
def test_straight_through_fed_with_samples_settles_at_the_target(start: float):
    path = gradients.settle(ESTIMATORS["straight-through, sampled"], start=start)
    assert float(path[-100:].mean()) == pytest.approx(0.45, abs=0.02)


def test_samples_are_repeatable_and_may_be_none():
    estimator = ESTIMATORS["semantic hashing"]
    first, second = (gradients.gradient_samples(estimator, 0.3, GateProblem(2), samples=9, seed=4) for _ in range(2))
    assert torch.equal(first, second)
    for one in ESTIMATORS.values():
        assert gradients.gradient_samples(one, 0.3, GateProblem(2), samples=0).shape == (0, 2)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, float("nan")])
def test_a_certain_gate_has_no_estimate(p: float):
    with pytest.raises(ValueError, match="p: got"):
        gradients.gradient_samples(ESTIMATORS["exact"], p, GateProblem(), samples=3)


def test_bad_input_of_the_measurements_is_named():
    with pytest.raises(ValueError, match="p: got no probability"):
        gradients.measure_estimator(ESTIMATORS["exact"], torch.empty(0))
    with pytest.raises(ValueError, match="samples: got 1, expected at least 2"):
        gradients.measure_estimator(ESTIMATORS["exact"], P, samples=1)
    for start in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="start: got"):
            gradients.settle(ESTIMATORS["exact"], start=start)
    with pytest.raises(ValueError, match="steps: got -1"):
        gradients.settle(ESTIMATORS["exact"], steps=-1)
    with pytest.raises(ValueError, match="batch: got 0"):
        gradients.settle(ESTIMATORS["exact"], batch=0)
    assert gradients.settle(ESTIMATORS["exact"], steps=0).tolist() == [0.8]


def test_at_a_high_temperature_the_estimate_shrinks_with_it():
    errors = {tau: gradients.measure_estimator(ESTIMATORS[f"Gumbel, tau {tau}"], P, samples=20_000) for tau in (1, 5)}
    size = {tau: float(error.mean.square().mean().sqrt()) for tau, error in errors.items()}
    exact = float(errors[5].exact.square().mean().sqrt())
    assert size[5] < exact / 2
    assert size[5] < size[1] / 3
    # so its bias is below the gradient's own size, which is the error of an estimate that is always 0
    assert float(errors[5].bias.square().mean().sqrt()) < exact


# The network ---------------------------------------------------------------------------------------------------------


def rows_of(module: torch.nn.Module, rows: list[int]) -> None:
    module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))


def network() -> gradients.GatedNetwork:
    torch.manual_seed(0)
    model = gradients.GatedNetwork(start=0.0)
    with torch.no_grad():
        model.gate.weight.copy_(torch.tensor([[5.0, 0.0]]))
    return model


def test_inference_runs_each_sample_on_one_path_and_answers_as_the_masked_network():
    model, x = network(), data.two_regions(200).points
    with torch.inference_mode():
        masked = model(x, (model.gate_logits(x) > 0).float())
    cheap: list[int] = []
    costly: list[int] = []
    rows_of(model.cheap, cheap)
    rows_of(model.costly, costly)
    logits, is_open = model.infer(x)
    assert torch.allclose(logits, masked, atol=1e-6)
    assert torch.equal(is_open, x[:, 0] > 0)
    assert (cheap, costly) == ([int((~is_open).sum())], [int(is_open.sum())])


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_path_nobody_takes_is_not_called(side: float):
    model = network()
    calls: list[int] = []
    rows_of(model.costly if side < 0 else model.cheap, calls)
    logits, is_open = model.infer(torch.tensor([[side, 0.0]]))
    assert logits.shape == (1, 4)
    assert is_open.tolist() == [side > 0]
    assert calls == []
    assert model.infer(torch.empty(0, 2))[0].shape == (0, 4)


def test_a_gate_starts_as_open_as_it_is_told():
    gate = gradients.GatedNetwork().gate_logits(torch.randn(50, 2)).sigmoid()
    assert torch.allclose(gate, torch.full((50,), 0.8808), atol=1e-4)


@pytest.mark.parametrize(
    "name", ["straight-through, sampled", "Gumbel, hard", "semantic hashing", "REINFORCE, mean baseline"]
)
def test_with_warm_up_and_a_target_rate_the_gate_opens_where_it_is_needed(name: str):
    run = gradients.train_gated(name)
    assert run.open_hard > 0.9
    assert run.open_easy < 0.45
    assert run.accuracy > 0.94
    assert bool((run.open_rate[:300] == 1).all())


def test_without_a_cost_the_gate_stays_open():
    run = gradients.train_gated("Gumbel, hard", price=0)
    assert min(run.open_easy, run.open_hard) > 0.98


@pytest.mark.parametrize("name", ["straight-through, threshold", "REINFORCE, mean baseline"])
def test_a_priced_gate_that_starts_closed_stays_closed(name: str):
    run = gradients.train_gated(name, price=0.4, warmup=0, start=-4)
    assert max(run.open_easy, run.open_hard) < 0.02
    assert run.accuracy < 0.9


def test_with_warm_up_only_the_unbiased_estimator_weighs_a_fixed_price_rightly():
    reinforce, gumbel = (
        gradients.train_gated(name, price=0.4) for name in ("REINFORCE, mean baseline", "Gumbel, hard")
    )
    assert reinforce.open_easy < 0.4
    assert reinforce.open_hard > 0.9
    assert min(gumbel.open_easy, gumbel.open_hard) > 0.95


def test_a_mixture_is_trained_that_never_runs():
    run = gradients.train_gated("Gumbel, tau 5")
    assert run.soft_accuracy - run.accuracy > 0.03


def test_training_is_repeatable():
    first, second = (gradients.train_gated("semantic hashing", steps=30) for _ in range(2))
    parameters: list[list[Tensor]] = [list(run.model.parameters()) for run in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*parameters, strict=True))


def test_an_unknown_estimator_is_named():
    with pytest.raises(ValueError, match="name: got 'gumbel', expected one of sigmoid, straight-through, threshold"):
        gradients.train_gated("gumbel")


@pytest.mark.parametrize("key", ["steps", "batch"])
def test_there_must_be_something_to_train_on(key: str):
    with pytest.raises(ValueError, match=f"{key}: got 0, expected at least 1"):
        gradients.train_gated("sigmoid", **{key: 0})


def test_training_leaves_the_global_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    gradients.train_gated("Gumbel, hard", steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_everything_but_the_exact_and_the_self_critical_can_train_a_gate():
    assert set(ESTIMATORS) - set(gradients.GATE_TRAINING) == {"exact", "REINFORCE, self-critical"}
