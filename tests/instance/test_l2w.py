"""L2W-DEN: sizes and ranges of the card, the meta gradient against differences and against a double backward pass."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from course_lib import data, decision, measure, train
from course_lib.instance import l2w
from course_lib.instance.msdnet import MSDNet
from course_lib.spatial.ranet import RANet

MODES = ("mat", "col", "row")
matrices = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(0, 10**6)).map(
    lambda a: torch.rand(a[0], a[1], dtype=torch.float64, generator=torch.Generator().manual_seed(a[2])) * 2 - 1
)


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exits", "hidden", "count"), [(5, 500, 5505), (7, 500, 7507), (5, 100, 1105)])
def test_weight_network_has_the_published_size_and_range(exits, hidden, count):
    wpn = l2w.WeightPredictionNetwork(exits, hidden)
    assert sum(p.numel() for p in wpn.parameters()) == count
    raw = wpn(torch.rand(33, exits) * 50)
    assert raw.shape == (33, exits)
    assert torch.equal(raw, torch.zeros(33, exits))  # every weight is 1 to begin with
    nn.init.normal_(wpn.layers[2].weight)
    assert 0 < wpn(torch.rand(33, exits) * 50).abs().max() <= 1


def test_weight_network_lets_no_gradient_into_the_losses():
    losses = torch.rand(4, 3, requires_grad=True)
    l2w.WeightPredictionNetwork(3)(losses).sum().backward()
    assert losses.grad is None


@given(matrices, st.sampled_from(MODES), st.floats(0, 2))
def test_weights_average_one_and_stay_in_their_range(raw, mode, epsilon):
    weights = l2w.center_weights(raw, epsilon, mode)
    assert float(weights.mean()) == pytest.approx(1)
    if mode == "col":
        assert torch.allclose(weights.sum(1), torch.full((len(raw),), float(raw.shape[1]), dtype=raw.dtype))
    if mode == "row":
        assert torch.allclose(weights.mean(0), torch.ones(raw.shape[1], dtype=raw.dtype))
    averaged = {"mat": raw.numel(), "col": raw.shape[1], "row": raw.shape[0]}[mode]
    low, high = l2w.weight_range(epsilon, averaged)
    assert low - 1e-9 <= float(weights.min()) <= float(weights.max()) <= high + 1e-9


@pytest.mark.parametrize("count", [2, 4, 5, 7])
def test_the_range_is_reached_and_the_safe_epsilon_is_safe(count):
    raw = -torch.ones(1, count, dtype=torch.float64)
    raw[0, 0] = 1
    safe = count / (2 * (count - 1))
    assert float(l2w.center_weights(-raw, safe, "col").min()) == pytest.approx(0)
    assert l2w.weight_range(safe, count)[0] == pytest.approx(0)
    assert float(l2w.center_weights(-raw, safe + 0.01, "col").min()) < 0
    assert l2w.weight_range(0.5, 10**6)[0] > 0


def test_published_ranges():
    assert l2w.weight_range(0.8, 5) == pytest.approx((-0.28, 2.28))
    assert l2w.weight_range(0.3, 5) == pytest.approx((0.52, 1.48))
    raw = torch.tensor([[-1.0, 1.0, 1.0, 1.0, 1.0]])
    assert l2w.center_weights(raw, 0.8, "col")[0, 0].item() == pytest.approx(-0.28)  # stays negative


@pytest.mark.parametrize("mode", MODES)
def test_no_strength_no_difference(mode):
    assert torch.equal(l2w.center_weights(torch.rand(7, 3), 0.0, mode), torch.ones(7, 3))
    assert l2w.center_weights(torch.rand(0, 3), 0.8, mode).shape == (0, 3)


def test_a_constant_weight_network():
    wpn = l2w.WeightPredictionNetwork(3)
    with torch.no_grad():
        wpn.layers[2].weight.zero_()
        wpn.layers[2].bias.copy_(torch.tensor([0.5, 0.0, -0.2]))
    raw = wpn(torch.rand(6, 3))
    assert torch.allclose(l2w.center_weights(raw, 0.8, "row"), torch.ones(6, 3))
    per_exit = 1 + 0.8 * (raw[0] - raw[0].mean())
    assert torch.allclose(l2w.center_weights(raw, 0.8, "col"), per_exit.expand(6, 3))
    assert torch.allclose(l2w.center_weights(torch.full((6, 3), 0.3), 0.8, "mat"), torch.ones(6, 3))


# Bins ----------------------------------------------------------------------------------------------------------------


def test_published_bins():
    confidence = torch.rand(512, 5, generator=torch.Generator().manual_seed(0))
    assert l2w.allocate(confidence, 0.75).bincount().tolist() == [167, 125, 94, 70, 56]
    assert l2w.allocate(confidence[:500], 1.0).bincount().tolist() == [100] * 5
    assert l2w.allocate(confidence[:37, :3], 0.75).bincount().tolist() == [16, 12, 9]  # exact shares: 16, 12, 9 in 37
    shares = decision.exit_shares(0.75, 7).tolist()
    assert shares == pytest.approx([0.2885, 0.2164, 0.1623, 0.1217, 0.0913, 0.0685, 0.0513], abs=5e-5)


@given(st.integers(0, 70), st.integers(1, 5), st.floats(0, 5), st.integers(0, 1000), st.booleans())
def test_bins_have_their_sizes_and_the_surest_come_first(number, exits, rho, seed, ties):
    confidence = torch.rand(number, exits, generator=torch.Generator().manual_seed(seed))
    if ties:
        confidence = confidence.mul(4).round() / 4
    taken = l2w.allocate(confidence, rho)
    shares = decision.exit_shares(rho, exits).double()
    sizes = [math.floor(share * number * (1 + 1e-6)) for share in shares.tolist()[:-1]]
    assert taken.bincount(minlength=exits).tolist() == [*sizes, number - sum(sizes)]
    for k in range(exits - 1):  # whoever left at k was at least as sure there as anybody who stayed
        left, stayed = confidence[taken == k, k], confidence[taken > k, k]
        assert not len(left) or not len(stayed) or left.min() >= stayed.max()


def test_of_those_that_tie_the_first_leave_first():
    confidence = torch.randint(0, 3, (5000, 1), generator=torch.Generator().manual_seed(0)).expand(5000, 2).float()
    taken = l2w.allocate(confidence, 0.5)
    ranked = sorted(range(5000), key=lambda i: (-float(confidence[i, 0]), i))
    assert (taken == 0).nonzero().view(-1).tolist() == sorted(ranked[: int((taken == 0).sum())])


def test_order_of_the_samples_does_not_matter_and_ends_of_rho():
    confidence = torch.rand(60, 4, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    assert torch.equal(l2w.allocate(confidence[order], 0.8), l2w.allocate(confidence, 0.8)[order])
    assert l2w.allocate(confidence, 0.0).max() == 0
    assert l2w.allocate(confidence, math.inf).min() == 3


def test_meta_objective_by_hand_with_an_empty_bin():
    outputs = [torch.randn(3, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    labels = torch.tensor([0, 1, 2])
    losses = l2w.exit_losses(outputs, labels)
    assert torch.allclose(losses.sum(1).mean(), train.multi_exit_loss(outputs, labels))
    sure = torch.stack([decision.confidence(one) for one in outputs], 1)
    first = int(sure[:, 0].argmax())  # of three samples: one at exit 1, none wanted at exit 2, two at exit 3
    rest = [i for i in range(3) if i != first]
    by_hand = losses[first, 0] + losses[rest, 2].mean()
    assert decision.exit_shares(0.9, 3)[0] * 3 > 1
    assert decision.exit_shares(0.9, 3)[1] * 3 < 1
    assert torch.allclose(l2w.meta_objective(outputs, labels, 0.9), by_hand)


# The look-ahead and the meta gradient --------------------------------------------------------------------------------


class TwoExits(nn.Module):
    """Two exits with BatchNorm (and dropout) between, in double precision: small enough for finite differences."""

    def __init__(self, drop=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(drop))
        self.second = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
        self.double()

    def forward(self, x):
        early = self.first(x)
        return [self.heads[0](early), self.heads[1](self.second(early))]


def halves(count=24, classes=3):
    generator = torch.Generator().manual_seed(5)
    make = lambda: (  # noqa: E731
        torch.randn(count, 4, generator=generator, dtype=torch.float64),
        torch.randint(0, classes, (count,), generator=generator),
    )
    return make(), make()


def sgd(model, **changed):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, **changed})


def warmed(model, optimizer, steps=2):
    """A few real steps, so that there are momentum buffers and running statistics to respect."""
    samples, _ = halves()
    for _ in range(steps):
        l2w.meta_step(model, None, optimizer, None, samples, None)
    return optimizer


OPTIMISERS = {
    "momentum and decay": {},
    "nesterov": {"nesterov": True},
    "plain": {"momentum": 0.0, "weight_decay": 0.0},
}


@pytest.mark.parametrize("settings", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("steps", [0, 2])
def test_look_ahead_with_equal_weights_is_a_step_of_the_optimiser(settings, steps):
    model = TwoExits()
    optimizer = warmed(model, sgd(model, **settings), steps)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    (x, y), _ = halves()
    names = [name for name, _ in model.named_parameters()]
    loss = train.multi_exit_loss(functional_call(model, {k: b.clone() for k, b in model.named_buffers()}, (x,)), y)
    gradients = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    ahead = l2w.look_ahead(model, optimizer, gradients)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before[0].items())
    assert str(optimizer.state_dict()) == str(before[1])
    l2w.meta_step(model, None, optimizer, None, (x, y), None)
    for name, parameter in model.named_parameters():
        assert torch.allclose(ahead[name], parameter, rtol=0, atol=1e-15)


def l_meta_after(model, optimizer, train_half, meta_half, weights, kind="optimizer", rho=0.75):
    """L_meta as a function of the weights, written out with functional_call; differentiable twice."""
    buffers = lambda: {name: buffer.clone() for name, buffer in model.named_buffers()}  # noqa: E731
    parameters = dict(model.named_parameters())
    losses = l2w.exit_losses(functional_call(model, buffers(), (train_half[0],)), train_half[1])
    loss = (weights * losses).sum() / len(losses)
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    ahead = l2w.look_ahead(model, optimizer, dict(zip(parameters, gradients, strict=True)), kind=kind)
    return l2w.meta_objective(functional_call(model, ahead | buffers(), (meta_half[0],)), meta_half[1], rho)


def differences(function, at, entries, step=1e-5):
    """Central differences of a scalar function for some entries of its argument."""
    found = []
    for i in entries:
        ends = []
        for sign in (1, -1):
            moved = at.clone().flatten()
            moved[i] += sign * step
            ends.append(float(function(moved.reshape(at.shape)).detach()))
        found.append((ends[0] - ends[1]) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("settings", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("kind", ["optimizer", "plain"])
def test_weight_gradient_three_ways(training, settings, kind):
    model = TwoExits()
    optimizer = warmed(model, sgd(model, **settings))
    model.train(training)
    first, second = halves()
    weights = torch.rand(24, 2, dtype=torch.float64) * 2 - 0.3  # some are negative
    forward = l2w.weight_gradient(model, optimizer, first, second, weights, lookahead=kind)
    variable = weights.clone().requires_grad_()
    (double,) = torch.autograd.grad(l_meta_after(model, optimizer, first, second, variable, kind), variable)
    assert torch.allclose(forward, double, rtol=1e-10, atol=1e-14)
    entries = range(0, 48, 5)
    numeric = differences(lambda w: l_meta_after(model, optimizer, first, second, w, kind), weights, entries)
    assert torch.allclose(forward.flatten()[list(entries)], numeric, rtol=1e-5, atol=1e-9)


def test_weight_gradient_is_the_agreement_of_two_gradients():
    """The identity itself, gradient by gradient: -(alpha / B) <grad L_meta(Theta_hat), grad l_ik(Theta)>."""
    model = TwoExits()
    optimizer = warmed(model, sgd(model))
    first, second = halves(6)
    weights = torch.ones(6, 2, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    buffers = lambda: {name: buffer.clone() for name, buffer in model.named_buffers()}  # noqa: E731
    losses = l2w.exit_losses(functional_call(model, buffers(), (first[0],)), first[1])
    found = torch.autograd.grad(losses.sum() / 6, list(parameters.values()), retain_graph=True)
    ahead = l2w.look_ahead(model, optimizer, dict(zip(parameters, found, strict=True)))
    ahead = {name: moved.requires_grad_() for name, moved in ahead.items()}
    loss = l2w.meta_objective(functional_call(model, ahead | buffers(), (second[0],)), second[1], 0.75)
    helps = torch.autograd.grad(loss, list(ahead.values()))
    wanted = torch.zeros(6, 2, dtype=torch.float64)
    for i in range(6):
        for k in range(2):
            own = torch.autograd.grad(
                losses[i, k], list(parameters.values()), retain_graph=True, materialize_grads=True, allow_unused=True
            )
            wanted[i, k] = -0.1 / 6 * sum((a * b).sum() for a, b in zip(helps, own, strict=True))
    assert torch.allclose(l2w.weight_gradient(model, optimizer, first, second, weights), wanted, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("training", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_the_weight_network_against_central_differences(training, mode):
    model = TwoExits()
    optimizer = warmed(model, sgd(model))
    model.train(training)
    first, second = halves()
    wpn = l2w.WeightPredictionNetwork(2, 7).double()
    with torch.no_grad():
        losses = l2w.exit_losses(
            functional_call(model, {k: b.clone() for k, b in model.named_buffers()}, (first[0],)), first[1]
        )
    given_names = dict(wpn.named_parameters())
    with torch.no_grad():
        wpn.layers[2].weight.normal_(generator=torch.Generator().manual_seed(1))

    def l_meta(value, name):
        raw = functional_call(wpn, {name: value}, (losses,))
        return l_meta_after(model, optimizer, first, second, l2w.center_weights(raw, 0.8, mode))

    numeric = {
        name: differences(lambda v, name=name: l_meta(v, name), p.detach(), range(min(4, p.numel())))
        for name, p in given_names.items()
    }
    before = copy.deepcopy(wpn)
    frozen = torch.optim.SGD(wpn.parameters(), 0.0)
    l2w.meta_step(model, wpn, optimizer, frozen, first, second, mode=mode)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), wpn.parameters(), strict=True))
    for name, p in wpn.named_parameters():
        assert torch.allclose(p.grad.flatten()[: len(numeric[name])], numeric[name], rtol=1e-5, atol=1e-9)


def test_the_repeated_pass_drops_the_same_units():
    model = TwoExits(drop=0.5)
    optimizer = sgd(model)
    first, second = halves()
    weights = torch.ones(24, 2, dtype=torch.float64).requires_grad_()
    torch.manual_seed(3)
    forward = l2w.weight_gradient(model, optimizer, first, second, weights)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    (double,) = torch.autograd.grad(l_meta_after(model, optimizer, first, second, weights), weights)
    assert torch.allclose(forward, double, rtol=1e-10, atol=1e-14)
    assert torch.equal(after, torch.get_rng_state())  # the repetition draws nothing of its own


@pytest.mark.parametrize("build", [MSDNet.tiny, RANet.tiny])
def test_works_on_published_networks(build):
    torch.manual_seed(0)
    model = build()
    optimizer = sgd(model)
    generator = torch.Generator().manual_seed(0)
    first, second = (
        (torch.rand(16, 3, 8, 8, generator=generator), torch.randint(0, 10, (16,), generator=generator))
        for _ in range(2)
    )
    weights = torch.ones(16, model.exits, requires_grad=True)
    forward = l2w.weight_gradient(model, optimizer, first, second, weights)
    (double,) = torch.autograd.grad(l_meta_after(model, optimizer, first, second, weights), weights)
    assert torch.allclose(forward, double, rtol=1e-3, atol=1e-6)


# One step ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scene():
    model = TwoExits()
    wpn = l2w.WeightPredictionNetwork(2, 7).double()
    with torch.no_grad():
        wpn.layers[2].weight.normal_(generator=torch.Generator().manual_seed(1))
    return model, wpn, warmed(model, sgd(model)), torch.optim.Adam(wpn.parameters(), 0.05), *halves()


def test_the_real_step_uses_the_updated_weights_and_the_model_of_before(scene):
    model, wpn, optimizer, wpn_optimizer, first, second = scene
    twin = copy.deepcopy(model)
    twin_optimizer = sgd(twin)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    old = copy.deepcopy(wpn)
    seen = l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, second)
    losses = l2w.exit_losses(twin(first[0]), first[1])
    weights = l2w.center_weights(wpn(losses), 0.8, "col").detach()
    assert torch.equal(seen.weights, weights)
    assert not torch.allclose(weights, l2w.center_weights(old(losses), 0.8, "col"))
    loss = (weights * losses).sum(1).mean()
    assert seen.loss == pytest.approx(loss.item())
    assert math.isfinite(seen.meta_loss)
    twin_optimizer.zero_grad()
    loss.backward()
    twin_optimizer.step()
    for name, value in twin.state_dict().items():  # the buffers, too: batch statistics were gathered once
        assert torch.allclose(value, model.state_dict()[name], rtol=1e-12, atol=1e-14), name


def test_gradients_left_behind_by_others_do_not_count(scene):
    seen = []
    for left in (None, 1e3):
        model, wpn, optimizer, wpn_optimizer, first, second = copy.deepcopy(scene)
        for parameter in [*model.parameters(), *wpn.parameters()]:
            parameter.grad = None if left is None else torch.full_like(parameter, left)
        l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, second)
        seen.append([*model.state_dict().values(), *wpn.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_without_strength_a_step_is_a_plain_step(scene):
    model, wpn, optimizer, wpn_optimizer, first, second = scene
    twin = copy.deepcopy(model)
    twin_optimizer = sgd(twin)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, second, epsilon=0.0)
    twin_optimizer.zero_grad()
    train.multi_exit_loss(twin(first[0]), first[1]).backward()
    twin_optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def test_weight_gradient_changes_nothing(scene):
    model, _, optimizer, _, first, second = scene
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model.zero_grad(set_to_none=True)
    l2w.weight_gradient(model, optimizer, first, second, torch.ones(24, 2, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), model.state_dict().values(), strict=True))
    assert str(before[1]) == str(optimizer.state_dict())
    assert all(p.grad is None for p in model.parameters())


def test_without_judges_the_weight_network_stays(scene):
    model, wpn, optimizer, _, first, _ = scene
    before = copy.deepcopy(wpn)
    seen = l2w.meta_step(model, wpn, optimizer, None, first, None)
    assert math.isnan(seen.meta_loss)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), wpn.parameters(), strict=True))
    assert not torch.equal(seen.weights, torch.ones(24, 2))


def test_negative_weights_are_used_as_they_are(scene):
    model, wpn, optimizer, wpn_optimizer, first, second = scene
    with torch.no_grad():
        wpn.layers[2].bias.copy_(torch.tensor([9.0, -9.0]))
    seen = l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, second, epsilon=1.5)
    assert seen.weights[:, 1].max() < 0
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_class_missing_among_the_judges(scene):
    model, wpn, optimizer, wpn_optimizer, first, second = scene
    seen = l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, (second[0], second[1].clamp(max=1)))
    assert math.isfinite(seen.meta_loss)
    seen = l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, (second[0][:2], second[1][:2]))
    assert math.isfinite(seen.meta_loss)  # two judges, and nobody at exit 1


def test_frozen_parameters_stay(scene):
    model, wpn, _, wpn_optimizer, first, second = scene
    model.first[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    before = model.first[0].weight.clone()
    l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, second)
    assert torch.equal(before, model.first[0].weight)


# The whole run -------------------------------------------------------------------------------------------------------


def dense(seed=0):
    torch.manual_seed(seed)
    return l2w.DenseMLP(widths=(5, 8))


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_equal_weights_are_plain_training_on_half_batches_bit_for_bit():
    drawn = data.two_difficulties(128, seed=1)
    ours, plain = dense(), dense()
    run = l2w.fit_l2w(ours, (drawn.inputs, drawn.labels), epochs=2, batch_size=32, epsilon=0, seed=4)
    history = train.fit(
        plain, (drawn.inputs, drawn.labels), epochs=2, batch_size=16, lr=0.1, nesterov=False, seed=4, progress=False
    )
    assert same_weights(ours, plain)
    assert run.history.losses == pytest.approx(history.losses, abs=1e-6)
    assert (run.history.steps, run.history.epochs, run.wpn, run.meta_losses) == (16, 2, None, ())
    assert torch.equal(run.weigh(torch.rand(3, 2)), torch.ones(3, 2))


def test_a_run_repeats_itself_and_leaves_the_global_generator_alone():
    drawn = data.two_difficulties(100, seed=1)
    one, two, other = dense(), dense(), dense()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    runs = [
        l2w.fit_l2w(model, (drawn.inputs, drawn.labels), epochs=2, batch_size=64, hidden=8, seed=seed)
        for model, seed in ((one, 0), (two, 0), (other, 1))
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert same_weights(one, two)
    assert not same_weights(one, other)
    assert runs[0].meta_losses == runs[1].meta_losses
    assert len(runs[0].meta_losses) == runs[0].history.steps == 8
    assert not one.training


def test_halves_judge_each_other_and_both_rates_fall_by_a_cosine(monkeypatch):
    seen, roles = [], []

    def recorded(model, wpn, optimizer, wpn_optimizer, trained, judge, **options):
        seen.append([dict(one.param_groups[0]) for one in (optimizer, wpn_optimizer)])
        roles.append((trained[0], judge[0]))
        return l2w.meta_step(model, wpn, optimizer, wpn_optimizer, trained, judge, **options)

    monkeypatch.setattr("course_lib.instance.l2w.training.meta_step", recorded)
    drawn = data.two_difficulties(64, seed=1)
    l2w.fit_l2w(dense(), (drawn.inputs, drawn.labels), epochs=2, batch_size=32, hidden=8, lr=0.2, wpn_lr=1e-3)
    falling = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert [plain["lr"] for plain, _ in seen] == pytest.approx([0.2 * share for share in falling])
    assert [meta["lr"] for _, meta in seen] == pytest.approx([1e-3 * share for share in falling])
    assert {(plain["weight_decay"], meta["weight_decay"]) for plain, meta in seen} == {(1e-4, 1e-4)}
    for first, second in zip(roles[::2], roles[1::2], strict=True):
        assert first[0] is second[1] and first[1] is second[0] and not torch.equal(*first)


def test_judging_every_other_batch():
    drawn = data.two_difficulties(128, seed=1)
    run = l2w.fit_l2w(dense(), (drawn.inputs, drawn.labels), epochs=1, batch_size=32, hidden=8, meta_interval=3)
    assert run.history.steps == 8
    assert len(run.meta_losses) == 4  # batches 0 and 3 of 0..3


@pytest.mark.parametrize(
    ("count", "halves"), [(67, [16, 16, 18, 17]), (68, [16, 16, 16, 16, 2, 2]), (65, [16, 16, 17, 16])]
)
@pytest.mark.parametrize("epsilon", [0.0, 0.8])
def test_a_tail_too_small_for_batch_statistics_joins_the_batch_before(count, halves, epsilon):
    drawn, seen = data.two_difficulties(count, seed=1), []

    def augment(inputs, generator):
        seen.append(len(inputs))
        return inputs

    model, samples = dense(), (drawn.inputs, drawn.labels)
    run = l2w.fit_l2w(model, samples, epochs=1, batch_size=32, epsilon=epsilon, hidden=8, augment=augment)
    assert seen == halves
    assert run.history.steps == len(halves)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_single_sample_has_nobody_to_judge_it():
    drawn, model = data.two_difficulties(1, seed=1), dense()
    for block in model.blocks:
        block[1] = nn.Identity()  # training mode has no statistics of one sample
    run = l2w.fit_l2w(model, (drawn.inputs, drawn.labels), epochs=2, batch_size=32, hidden=8)
    assert (run.history.steps, run.meta_losses) == (2, ())


def test_augment_and_datasets():
    drawn = data.two_difficulties(64, seed=1)
    seen = []

    def augment(images, generator):
        seen.append(len(images))
        return images + 0.01 * torch.randn(images.shape, generator=generator)

    dataset = torch.utils.data.TensorDataset(drawn.inputs, drawn.labels)
    l2w.fit_l2w(dense(), dataset, epochs=1, batch_size=32, hidden=8, augment=augment)
    assert seen == [16] * 4


def test_training_learns_and_weights_follow_the_difficulty_a_little():
    drawn, held_out = data.two_difficulties(1000, seed=1), data.two_difficulties(500, seed=2)
    torch.manual_seed(0)
    model = l2w.DenseMLP()
    run = l2w.fit_l2w(model, (drawn.inputs, drawn.labels), epochs=15, hidden=64, wpn_lr=1e-3)
    logits, labels = train.evaluate(model, (held_out.inputs, held_out.labels))
    assert float((logits[-1].argmax(1) == labels).double().mean()) > 0.6
    logits, labels = train.evaluate(model, (drawn.inputs, drawn.labels))
    losses = l2w.exit_losses(logits, labels)
    weights = run.weigh(losses)
    assert torch.equal(weights, l2w.center_weights(run.wpn(losses), 0.8, "col").detach())
    assert weights[drawn.hard, 0].mean() < weights[~drawn.hard, 0].mean()


# The chapter's network -----------------------------------------------------------------------------------------------


def test_dense_mlp_is_an_adaptive_network_with_honest_costs():
    torch.manual_seed(0)
    model = l2w.DenseMLP().eval()
    x = data.two_difficulties(40, seed=1).inputs
    logits = model(x)
    assert [block[0].in_features for block in model.blocks] == [64, 69, 77, 101]
    costs = model.exit_costs(64)
    assert costs == model.exit_costs(64, convention="lazy")
    assert costs[-1] == measure.count_macs(model, x[:1])
    scores = torch.stack([decision.confidence(one) for one in logits], 1)
    bar = decision.find_thresholds(scores, decision.exit_shares(0.8, 4))
    wanted, exits = decision.simulate(logits, bar)
    got = model.infer(x, bar)
    assert torch.equal(got.exit_index, exits)
    assert torch.allclose(got.logits, wanted, atol=1e-5)
    assert torch.equal(got.macs, torch.tensor(costs, dtype=torch.float64)[exits])
    streamed = list(model.infer_stream(x.split(8), bar, batch_size=8))
    assert torch.equal(torch.cat([part.exit_index for part in streamed]), exits)


# What is refused -----------------------------------------------------------------------------------------------------


def weighting(epsilon=0.8, mode="col", shape=(4, 2)):
    return l2w.center_weights(torch.zeros(shape), epsilon, mode)


def fit(count=8, **changed):
    settings = {"epochs": 1, "batch_size": 4, "hidden": 4, **changed}
    return l2w.fit_l2w(dense(), (torch.zeros(count, 64), torch.zeros(count, dtype=torch.int64)), **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: l2w.WeightPredictionNetwork(0), "exits: got 0"),
        (lambda: l2w.WeightPredictionNetwork(3, 0), "hidden: got 0"),
        (lambda: l2w.WeightPredictionNetwork(3)(torch.zeros(4, 2)), r"losses: got shape \(4, 2\), expected \(B, 3\)"),
        (lambda: weighting(epsilon=-0.1), "epsilon: got -0.1"),
        (lambda: weighting(epsilon=math.nan), "epsilon: got nan"),
        (lambda: weighting(mode="rows"), "mode: got 'rows', expected 'mat', 'col' or 'row'"),
        (lambda: weighting(shape=(4,)), r"raw: got shape \(4,\)"),
        (lambda: l2w.weight_range(0.8, 0), "averaged: got 0"),
        (lambda: l2w.allocate(torch.zeros(4), 0.5), r"confidence: got shape \(4,\)"),
        (lambda: l2w.allocate(torch.zeros(4, 2), -0.5), "rho: got -0.5"),
        (lambda: l2w.exit_losses([torch.zeros(2, 3)], torch.tensor([0, 3])), "labels: got values 0..3, expected 0..2"),
        (lambda: l2w.exit_losses([torch.zeros(2, 3)], torch.tensor([0])), r"labels: got shape \(1,\)"),
        (lambda: fit(batch_size=1), "batch_size: got 1, expected at least 2"),
        (lambda: fit(epochs=-1), "epochs: got -1"),
        (lambda: fit(meta_interval=0), "meta_interval: got 0"),
        (lambda: fit(epsilon=-1), "epsilon: got -1"),
        (lambda: fit(mode="column"), "mode: got 'column'"),
        (lambda: fit(rho=-1), "rho: got -1"),
        (lambda: fit(lookahead="paper"), "lookahead: got 'paper', expected 'optimizer' or 'plain'"),
        (lambda: fit(mode="kol", epsilon=0), "mode: got 'kol'"),
        (lambda: fit(rho=-1, epsilon=0), "rho: got -1"),
        (lambda: fit(lookahead="paper", epsilon=0), "lookahead: got 'paper'"),
        (lambda: l2w.allocate(torch.tensor([[0.5, math.nan]]), 0.5), "confidence: got NaN"),
        (lambda: l2w.look_ahead(TwoExits(), sgd(TwoExits()), {}), "optimizer: got none of the model's parameters"),
        (lambda: l2w.look_ahead(TwoExits(), sgd(TwoExits()), {}, kind="paper"), "kind: got 'paper'"),
        (lambda: fit(count=0), "data: got 0, expected at least 1"),
        (lambda: l2w.DenseMLP()(torch.zeros(2, 63)), r"x: got shape \(2, 63\), expected \(N, 64\)"),
        (lambda: l2w.DenseMLP().exit_costs(63), "size: got 63"),
        (lambda: l2w.DenseMLP().exit_costs(64, convention="published"), "convention: got 'published'"),
    ],
)
def test_bad_input_names_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_optimisers_that_are_not_understood(scene):
    model, wpn, optimizer, wpn_optimizer, first, second = scene
    with pytest.raises(TypeError, match="optimizer: got Adam, expected torch.optim.SGD"):
        l2w.meta_step(model, wpn, torch.optim.Adam(model.parameters()), wpn_optimizer, first, second)
    damped = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, dampening=0.1)
    with pytest.raises(ValueError, match="optimizer: got dampening"):
        l2w.meta_step(model, wpn, damped, wpn_optimizer, first, second)
    with pytest.raises(ValueError, match="meta: got samples"):
        l2w.meta_step(model, wpn, optimizer, None, first, second)


def test_a_loss_that_is_not_finite_changes_no_parameter(scene):
    model, wpn, optimizer, wpn_optimizer, first, second = scene
    before = copy.deepcopy((list(model.parameters()), list(wpn.parameters())))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        l2w.meta_step(model, wpn, optimizer, wpn_optimizer, (first[0] * math.nan, first[1]), second)
    for old, new in zip(before, (model, wpn), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new.parameters(), strict=True))


def test_an_optimiser_of_another_model_is_refused_before_anything_changes(scene):
    model, wpn, _, wpn_optimizer, first, second = scene
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="optimizer: got none of the model's parameters"):
        l2w.meta_step(model, wpn, sgd(TwoExits()), wpn_optimizer, first, second)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rate", [1e15, 1e30, None], ids=["gradient overflows", "logits overflow", "inputs are NaN"])
def test_a_step_that_diverges_raises_and_leaves_both_networks_as_they_were(training, rate):
    drawn, model, wpn = data.two_difficulties(64, seed=1), dense().train(training), l2w.WeightPredictionNetwork(2, 8)
    optimizer, wpn_optimizer = sgd(model, lr=rate or 0.1), torch.optim.Adam(wpn.parameters(), 0.01)
    inputs = drawn.inputs * (1.0 if rate else math.nan)
    first, second = zip(inputs.split(32), drawn.labels.split(32), strict=True)
    before = copy.deepcopy((model.state_dict(), wpn.state_dict()))
    with pytest.raises(FloatingPointError, match="that update was not made"):
        l2w.meta_step(model, wpn, optimizer, wpn_optimizer, first, second)
    for old, new in zip(before, (model, wpn), strict=True):  # running statistics, too
        assert all(torch.equal(a, b) for a, b in zip(old.values(), new.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_model_may_have_another_precision_than_the_weight_network(dtype):
    model, (first, second) = TwoExits().to(dtype), halves()
    wpn = l2w.WeightPredictionNetwork(2, 7)
    nn.init.normal_(wpn.layers[2].weight, generator=torch.Generator().manual_seed(1))
    adam, before = torch.optim.Adam(wpn.parameters(), 0.05), copy.deepcopy((model, wpn))
    first, second = ((inputs.to(dtype), labels) for inputs, labels in (first, second))
    seen = l2w.meta_step(model, wpn, sgd(model), adam, first, second)
    assert math.isfinite(seen.loss)
    assert math.isfinite(seen.meta_loss)
    assert float(seen.weights.mean()) == pytest.approx(1)
    assert wpn.layers[0].weight.dtype == torch.float32
    for old, new in zip(before, (model, wpn), strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


def test_half_precision_is_weighed_in_float32():
    logits, labels = torch.zeros(300, 4, dtype=torch.bfloat16), torch.zeros(300, dtype=torch.int64)
    assert l2w.exit_losses([logits], labels).dtype == torch.float32
    assert float(l2w.meta_objective([logits], labels, 1.0)) == pytest.approx(math.log(4), rel=1e-6)
