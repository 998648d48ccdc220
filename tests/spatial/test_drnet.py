"""DRNet: one resolution an image, one BatchNorm a resolution, and one run of the network for each image."""

import copy

import pytest
import torch
from torch import nn

from course_lib import data, measure, train
from course_lib.spatial.drnet import DRNet, MultiResolutionNetwork, ResolutionPredictor, drnet_loss

SIDES = (16, 12, 8)


def draw(n, seed):
    generator = torch.Generator().manual_seed(seed)
    radius = 16 * (0.14 + 0.26 * torch.rand(n, generator=generator))
    shapes = data.shapes(n, classes=4, seed=seed, radius=radius, noise=0.05)
    return (shapes.images - 0.5) * 2, shapes.labels


@pytest.fixture(scope="module")
def trained():
    """The shared network after a second of training at both resolutions."""
    torch.manual_seed(0)
    model = DRNet.tiny(4)
    train.fit(model.network, draw(3000, 1), epochs=6, lr=0.1, progress=False)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    """Untrained, with all three resolutions wanted by some of the images."""
    torch.manual_seed(1)
    model = DRNet.tiny(resolutions=SIDES)
    x = torch.rand(200, 3, 16, 16)
    with torch.no_grad():
        for _ in range(30):  # running statistics
            model.network(x), model.predictor(x)
        wanted = model.eval().predictor(x)
        model.predictor.linear.bias.sub_(wanted.mean(0))
        model.predictor.linear.weight.mul_(5)
        model.predictor.linear.bias.mul_(5)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).double().mean())


def test_a_picture_of_half_the_side_costs_a_quarter():
    half = MultiResolutionNetwork((224, 112), (16, 32, 64), 10, 3)
    linear = half.linear.weight.numel()
    assert (half.cost(1) - linear) / (half.cost(0) - linear) == (112 / 224) ** 2 == 0.25
    tiny = DRNet.tiny()
    assert tiny.resolutions == (16, 8)
    assert tiny.costs()[1] / tiny.costs()[0] == pytest.approx(0.25, abs=0.002)


def test_costs_agree_with_the_counter(model):
    x = torch.zeros(1, 3, 16, 16)
    assert [measure.count_macs(model.network, x, j) for j in range(3)] == model.costs()
    assert measure.count_macs(model.predictor, x) == model.predictor.cost()
    assert model.predictor.cost() < 0.15 * min(model.costs())


def test_each_image_runs_once_at_its_resolution_only(model, images):
    calls = []
    hooks = [
        model.network.register_forward_pre_hook(lambda _, args: calls.append((args[1], len(args[0])))),
        model.network.convs[0].register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape[2:]))),
        model.predictor.register_forward_pre_hook(lambda _, args: calls.append(("predictor", len(args[0])))),
    ]
    result = model.infer(images)
    for hook in hooks:
        hook.remove()
    counts = result.resolution.bincount(minlength=3).tolist()
    assert min(counts) > 0
    expected = [("predictor", 60)]
    for j, side in enumerate(SIDES):
        expected += [(j, counts[j]), (side, side)]
    assert calls == expected
    assert torch.equal(result.macs, torch.tensor(model.costs()).double()[result.resolution] + model.predictor.cost())


def test_infer_equals_every_image_alone_and_the_dense_path(model, images):
    whole = model.infer(images)
    with torch.no_grad():
        dense = model(images)
    torch.testing.assert_close(whole.logits, dense.logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(whole.resolution, dense.choice.argmax(1))
    for i in range(10):
        single = model.infer(images[i : i + 1])
        assert single.resolution == whole.resolution[i]
        torch.testing.assert_close(single.logits[0], whole.logits[i], atol=1e-5, rtol=1e-5)


def test_only_one_resolution_runs_when_all_want_it(model, images):
    stubborn = copy.deepcopy(model)
    with torch.no_grad():
        stubborn.predictor.linear.bias.copy_(torch.tensor([0.0, 0.0, 1e4]))
    calls = []
    stubborn.network.register_forward_pre_hook(lambda _, args: calls.append((args[1], len(args[0]))))
    assert stubborn.infer(images).resolution.tolist() == [2] * 60
    assert calls == [(2, 60)]


def test_empty_batch(model, images):
    empty = model.infer(images[:0])
    assert empty.logits.shape == (0, 10) and empty.resolution.shape == (0,) and empty.macs.shape == (0,)


def test_training_draws_one_resolution_and_passes_gradients_to_the_predictor():
    torch.manual_seed(0)
    model = DRNet.tiny(resolutions=SIDES)
    x, labels = torch.rand(32, 3, 16, 16), torch.randint(10, (32,))
    output = model(x, tau=1.0, generator=torch.Generator().manual_seed(3))
    assert set(output.choice.detach().unique().tolist()) == {0.0, 1.0}
    assert output.choice.sum(1).tolist() == pytest.approx([1.0] * 32)
    assert len(output.choice.argmax(1).unique()) == 3
    expected = (output.choice.detach().mean(0) * torch.tensor(model.costs())).sum()
    assert output.macs.item() == pytest.approx(float(expected), rel=1e-5)
    drnet_loss(output, labels, model.costs(), target=min(model.costs()), eta=0.2).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_charge_is_zero_under_the_target_and_eta_over_the_whole_range():
    model = DRNet.tiny()
    x, labels = torch.rand(8, 3, 16, 16), torch.zeros(8, dtype=torch.int64)
    fine, coarse = model.costs()
    output = model(x)
    spent = output.macs.item()
    plain = nn.functional.cross_entropy(output.logits, labels)
    loss = lambda target, eta=0.5: drnet_loss(output, labels, (fine, coarse), target=target, eta=eta)  # noqa: E731
    assert loss(spent) == loss(fine) == plain
    assert (loss(coarse) - plain).item() == pytest.approx(0.5 * (spent - coarse) / (fine - coarse), abs=1e-6)
    before = torch.autograd.grad(loss(fine), output.choice, retain_graph=True)[0]
    after = torch.autograd.grad(loss(spent + 1), output.choice, retain_graph=True)[0]
    assert torch.equal(before, after)
    assert not torch.equal(before, torch.autograd.grad(loss(coarse), output.choice)[0])


def test_each_resolution_needs_its_own_batchnorm(trained):
    x, labels = draw(1000, 2)
    borrowed = copy.deepcopy(trained.network)
    for norms in borrowed.norms:
        norms[1] = norms[0]
    with torch.no_grad():
        own, other = (accuracy(network.at(x, 1), labels) for network in (trained.network, borrowed))
    assert own > 0.75
    assert own > other + 0.03


def test_statistics_of_the_resolutions_are_apart(trained):
    first = trained.network.norms[1]
    assert not torch.allclose(first[0].running_mean, first[1].running_mean, atol=0.05)
    weights = sum(p.numel() for name, p in trained.network.named_parameters() if "convs" in name)
    assert weights == 3 * 16 * 9 + 16 * 32 * 9 + 32 * 64 * 9  # one set of convolutions for both


def test_larger_pictures_are_shrunk(model):
    assert model.infer(torch.zeros(2, 3, 20, 24)).logits.shape == (2, 10)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="resolutions: got .8, 16."):
        DRNet.tiny(resolutions=(8, 16))
    with pytest.raises(ValueError, match=r"resolutions: got \(16,\)"):
        DRNet.tiny(resolutions=(16,))
    network = MultiResolutionNetwork((16, 8), (8,), 10, 3)
    with pytest.raises(ValueError, match="predictor: got 3 choices"):
        DRNet(ResolutionPredictor(8, 8, 3, 3), network)
    model = DRNet.tiny()
    with pytest.raises(RuntimeError, match="training mode"):
        model.infer(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"x: got shape \(1, 3, 12, 16\)"):
        model.eval().infer(torch.zeros(1, 3, 12, 16))
    with pytest.raises(ValueError, match="tau"):
        model.train()(torch.zeros(2, 3, 16, 16), tau=0.0)
    output, labels = model(torch.zeros(2, 3, 16, 16)), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="eta: got -1"):
        drnet_loss(output, labels, model.costs(), target=1e9, eta=-1)
    with pytest.raises(ValueError, match="target: got 1"):
        drnet_loss(output, labels, model.costs(), target=1.0, eta=0.1)
    with pytest.raises(ValueError, match=r"costs: got \[2.0, 2.0\]"):
        drnet_loss(output, labels, [2.0, 2.0], target=3.0, eta=0.1)
