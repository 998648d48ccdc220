"""LASNet: parameters and multiply-adds of the published networks, the identities, masks that save work, training."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import data, decision, kernels, measure
from course_lib.spatial import lasnet
from course_lib.spatial.lasnet import LASNet, MaskedBlock, Stage, expected_halo

RESNETS = {
    # parameters, of them in the maskers, the authors' count of the static network
    "resnet50": (25_583_304, 26_272, 4_091_091_944),
    "resnet101": (44_610_282, 61_122, 7_803_313_128),
}
REGNETS = {"regnety_400mf": 4_344_144, "regnety_800mf": 6_432_512}
DEPTH = {"resnet50": 16, "resnet101": 33, "regnety_400mf": 16, "regnety_800mf": 14}


def build(name, **options):
    with torch.device("meta"):
        return getattr(LASNet, name)(**options)


def parameters(model, part=""):
    return sum(p.numel() for name, p in model.named_parameters() if part in name)


def shaken(model, seed=0):
    """Eval mode with normalisations that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.2)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.2)
    return model.eval()


def random_masks(model, n, size, rate, seed=0):
    generator, masks, side = torch.Generator().manual_seed(seed), [], size
    for block in model.blocks:
        side //= block.stride
        cells = side // block.granularity
        masks.append((torch.rand(n, 1, cells, cells, generator=generator) < rate).float())
    return masks


def small(**options):
    """Two stages, strides, groups and squeeze-and-excitation; maps of 16 and 8 for images of 32."""
    stages = [Stage(2, 8, 16, 1, 4), Stage(2, 16, 32, 2, 2, groups=2, squeeze=0.25)]
    return LASNet(stages, stem="regnet", classes=5, target_rate=0.5, **options)


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("granularity", [(4, 4, 2, 1), (8, 4, 7, 1)])
def test_published_resnets(name, granularity):
    total, maskers, static = RESNETS[name]
    model = build(name, granularity=granularity)
    assert (parameters(model), parameters(model, ".masker.")) == (total, maskers)
    assert model.macs(224, convention="published") == static
    # with everything active the network costs what the static one does, and its maskers
    assert model.macs(224, rate=1.0) - model.macs(224) == sum(bill.masker for bill in model.block_macs(224))
    assert [len(stage) for stage in model.stages] == [3, 4, {16: 6, 33: 23}[DEPTH[name]], 3]


@pytest.mark.parametrize("name", REGNETS)
def test_published_regnets(name):
    model = build(name)
    maskers = sum(2 * block.masker.conv.in_channels + 2 for block in model.blocks)
    assert parameters(model) == REGNETS[name] + maskers
    assert parameters(model, ".masker.") == maskers
    assert len(model.blocks) == DEPTH[name]


@pytest.mark.parametrize(
    ("name", "giga"),
    [("resnet50", {0.25: 1.62, 0.5: 2.51, 0.75: 3.40, 1.0: 4.091}), ("resnet101", {0.25: 2.90, 0.5: 4.62, 0.75: 6.35})],
)
def test_macs_at_random_masks(name, giga):
    """What one draw of random masks cost in the authors' code; ours are the mean over many draws."""
    model = build(name)
    for rate, expected in giga.items():
        halos = [one_halo(rate, block, side) for block, side in zip(model.blocks, sides(model), strict=True)]
        counted = model.macs(224, rate=rate, dilated_rate=halos, convention="published") / 1e9
        assert counted == pytest.approx(expected, rel=0.025), rate
        assert counted == pytest.approx(model.macs(224, rate=rate, convention="published") / 1e9, rel=0.06)


def sides(model):
    """Side of each block's output map for images of 224."""
    side, found = 56, []
    for block in model.blocks:
        side //= block.stride
        found.append(side)
    return found


def one_halo(rate, block, side):
    shape = (64, 1, side // block.granularity, side // block.granularity)
    cells = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < rate
    active = kernels.ActiveSet.from_mask(cells, granularity=block.granularity)
    return active.dilate(3, block.stride, 1, in_size=(side * block.stride,) * 2).density()


@pytest.mark.parametrize("granularity", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_expected_halo_is_what_random_cells_give(granularity, stride, rate):
    cells = torch.rand(4, 1, 48, 48, generator=torch.Generator().manual_seed(1)) < rate
    active = kernels.ActiveSet.from_mask(cells, granularity=granularity)
    found = active.dilate(3, stride, 1, in_size=(48 * granularity * stride,) * 2).density()
    assert found == pytest.approx(expected_halo(rate, granularity, stride), abs=0.02)


def test_the_bill_is_what_the_counter_of_operations_sees():
    model = shaken(LASNet.tiny())
    masks = random_masks(model, 1, 16, 0.4)

    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.infer(x, backend="gather", masks=masks).logits

    x = torch.randn(1, 1, 32, 32)
    counted = measure.count_macs(Sparse(), x)
    spent = float(model.infer(x, masks=masks).macs)
    maskers = sum(bill.masker for bill in model.block_macs(32))  # given masks, so none has run
    assert counted == spent - maskers
    assert spent == pytest.approx(model.macs(32, rate=1.0) - saved(model, masks))


def saved(model, masks):
    total = 0.0
    for bill, mask, block in zip(model.block_macs(32), masks, model.blocks, strict=True):
        _, halo = block.active(mask, torch.zeros(1, 1, 16, 16))
        total += (1 - halo.density()) * bill.conv1 + (1 - float(mask.mean())) * bill.conv2_conv3
    return total


# Identities ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    granularity=st.sampled_from([1, 2, 4]),
    stride=st.sampled_from([1, 2]),
    rate=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    squeeze=st.sampled_from([0, 2]),
    same=st.booleans(),
    backend=st.sampled_from(["auto", "gather", "reference", "dense"]),
)
def test_sparse_equals_dense_and_masked(granularity, stride, rate, squeeze, same, backend):
    torch.manual_seed(0)
    block = MaskedBlock(8, 4, 8 if same else 12, granularity=granularity, stride=stride, groups=2, squeeze=squeeze)
    shaken(block)
    x = torch.rand(3, 8, 8 * stride, 8 * stride)
    mask = (torch.rand(3, 1, 8 // granularity, 8 // granularity) < rate).float()
    with torch.no_grad():
        expected = block.dense(x, mask)
        found = block.sparse(x.contiguous(memory_format=torch.channels_last), *block.active(mask, x), backend=backend)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("squeeze", [0, 2])
@pytest.mark.parametrize(("granularity", "stride", "side"), [(1, 2, 7), (2, 2, 7), (4, 1, 6), (4, 2, 11)])
def test_sizes_that_nothing_divides(granularity, stride, side, squeeze):
    torch.manual_seed(0)
    block = shaken(MaskedBlock(8, 4, 8, granularity=granularity, stride=stride, squeeze=squeeze))
    with torch.no_grad():
        block.masker.conv.bias.zero_()
    x = torch.rand(3, 8, side, side)
    out = -(-side // stride)
    rows = -(-out // granularity)
    with torch.no_grad():
        mask = block.masker(x)
        assert mask.shape == (3, 1, rows, rows)
        for chosen in (mask, (torch.rand(mask.shape) < 0.5).float(), torch.ones_like(mask)):
            expected = block.dense(x, chosen)
            assert expected.shape == (3, 8, out, out)
            found = block.sparse(x.contiguous(memory_format=torch.channels_last), *block.active(chosen, x))
            assert torch.allclose(found, expected, atol=1e-5)
    assert block.macs(side).masker == 2 * 8 * rows**2


@pytest.mark.parametrize("backend", ["auto", "gather"])
def test_infer_equals_forward(backend):
    torch.manual_seed(0)
    model = shaken(small())
    with torch.no_grad():
        for block in model.blocks:  # maskers that say yes and no
            block.masker.conv.bias.zero_()
            block.masker.conv.weight.mul_(5)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
    found = model.infer(x, backend=backend)
    folded = measure.fold_batchnorm(model).infer(x, backend=backend)
    assert 0.1 < float(expected.rates.mean()) < 0.9
    for output in (found, folded):
        assert torch.allclose(output.logits, expected.logits, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(output.masks, expected.masks, strict=True))
        assert torch.equal(output.macs, expected.macs)


def static_resnet(models):
    depths = (2, 1, 2, 1)
    stages = [Stage(d, 64 << i, 256 << i, 1 if i == 0 else 2, 1) for i, d in enumerate(depths)]
    static = models.ResNet(models.resnet.Bottleneck, list(depths), num_classes=7)
    return static, LASNet(stages, stem="resnet", classes=7, target_rate=0.5), 16


def static_regnet(models):
    return models.regnet_y_400mf(num_classes=7), LASNet.regnety_400mf(classes=7, granularity=(1, 1, 1, 1)), 32


@pytest.mark.parametrize("pair", [static_resnet, static_regnet])
def test_all_ones_is_the_static_network(pair):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    static, model, side = pair(models)
    model.load_static(shaken(static).state_dict()).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = static(x)
        found = model(x, masks=random_masks(model, 2, side, 1.1))
    small_enough = 1e-3 * float(expected.abs().max())
    assert torch.allclose(found.logits, expected, rtol=1e-3, atol=small_enough)
    assert found.rates.tolist() == [1.0] * len(model.blocks)
    assert torch.allclose(model.infer(x).logits, expected, rtol=1e-3, atol=small_enough)


def test_networks_start_dense():
    out = shaken(LASNet.tiny()).infer(torch.zeros(2, 1, 32, 32))
    assert out.rates.tolist() == [1.0, 1.0, 1.0]


def test_all_zeros_is_the_shortcut():
    torch.manual_seed(0)
    for cout, stride in ((8, 1), (12, 1), (12, 2)):
        block = shaken(MaskedBlock(8, 4, cout, granularity=2, stride=stride))
        x = torch.rand(2, 8, 8 * stride, 8 * stride)
        nothing = torch.zeros(2, 1, 4, 4)
        with torch.no_grad():
            expected = x if block.shortcut is None else block.shortcut(x).relu()
            assert torch.equal(block.dense(x, nothing), expected)
            assert torch.allclose(block.sparse(x.clone(), *block.active(nothing, x)), expected, atol=1e-6)


def test_what_is_outside_the_halo_does_not_matter():
    """Scratch maps are uninitialised: fill what is never computed with NaN."""
    torch.manual_seed(0)
    block = shaken(MaskedBlock(8, 4, 8, granularity=2))
    x = torch.rand(2, 8, 8, 8)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, 1, 1] = 1
    cells, halo = block.active(mask, x)
    assert int(halo.mask.sum()) == 16
    with torch.no_grad():
        expected = block.dense(x, mask)
        poisoned = torch.where(halo.mask, x, torch.nan)
        found = block.sparse(poisoned.contiguous(memory_format=torch.channels_last), cells, halo, backend="gather")
    at = cells.to_mask().expand_as(found)
    assert torch.allclose(found[at], expected[at], atol=1e-5)


def test_a_stride_two_cell_needs_twenty_five_inputs():
    block = MaskedBlock(4, 4, 4, granularity=2, stride=2)
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 1, 1] = 1
    assert int(block.active(mask, torch.zeros(1, 4, 16, 16))[1].mask.sum()) == 25


# Deciding ------------------------------------------------------------------------------------------------------------


def test_maskers_are_binary_and_learn_through_the_soft_value():
    torch.manual_seed(0)
    model = LASNet.tiny()
    for block in model.blocks:
        with torch.no_grad():
            block.masker.conv.bias.zero_()
    out = model(torch.randn(3, 1, 32, 32), 1.0, generator=torch.Generator().manual_seed(0))
    assert all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in out.masks)
    out.rates.sum().backward()
    assert all(float(block.masker.conv.weight.grad.abs().sum()) > 0 for block in model.blocks)


def test_no_noise_in_eval():
    torch.manual_seed(0)
    model, x = small().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first, second = model(x, 5.0), model(x, 0.1)
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize(("name", "bias"), [("resnet50", 5.0), ("regnety_400mf", 10.0)])
def test_maskers_begin_open(name, bias):
    model = getattr(LASNet, name)()
    assert {block.masker.conv.bias[0].item() for block in model.blocks} == {bias}


def test_the_mean_over_active_positions_teaches_the_mask_nothing():
    """Squeeze-and-excitation reads the mask: the gradient of m is that of m * F(x) alone, F(x) held fixed."""
    torch.manual_seed(0)
    block = MaskedBlock(8, 8, 8, granularity=1, squeeze=4).double().eval()
    x, mask = torch.rand(2, 8, 4, 4).double(), (torch.rand(2, 1, 4, 4) < 0.5).double().requires_grad_()
    (found,) = torch.autograd.grad(block.dense(x, mask).sum(), mask)
    with torch.no_grad():
        branch = block.c(block.se(block.b(block.a(x).relu()).relu(), mask))
        expected = (branch * (x + mask * branch > 0)).sum(1, keepdim=True)
    assert torch.allclose(found, expected)


def test_noise_is_the_generators_and_the_temperature_the_callers():
    torch.manual_seed(0)
    model, x = LASNet.tiny().train(), torch.rand(4, 1, 32, 32)
    for block in model.blocks:
        nn.init.zeros_(block.masker.conv.bias)

    def drawn(seed, tau):
        model.zero_grad()
        out = model(x, tau, generator=torch.Generator().manual_seed(seed))
        out.rates.sum().backward()
        return out.masks, model.blocks[0].masker.conv.weight.grad.clone()

    masks, slope = drawn(1, 2.0)
    again, same = drawn(1, 2.0)
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True)) and torch.equal(slope, same)
    assert not torch.allclose(slope, drawn(1, 0.5)[1])
    assert not torch.equal(masks[0], drawn(2, 2.0)[0][0])


def test_the_halo_carries_no_gradient_and_the_rates_do():
    torch.manual_seed(0)
    model = LASNet.tiny()
    out = model(torch.randn(2, 1, 32, 32), 1.0)
    assert not out.dilated_rates.requires_grad
    assert out.rates.requires_grad
    gradient = torch.autograd.grad(out.macs, out.rates, retain_graph=True)[0]
    assert gradient.tolist() == [bill.conv2_conv3 for bill in model.block_macs(32)]


def test_block_rate_at_full_is_one():
    out = LASNet.tiny().eval().infer(torch.zeros(1, 1, 32, 32))
    assert out.block_rates.tolist() == [1.0, 1.0, 1.0]
    assert float(out.rate) == 1.0


# Training ------------------------------------------------------------------------------------------------------------


def test_bounds_open_within_a_third():
    assert lasnet.bounds(0, 100, 0.6) == pytest.approx((0.6, 0.6))
    assert lasnet.bounds(33, 100, 0.6) == pytest.approx((1.0, 0.0))
    assert lasnet.bounds(80, 100, 0.6) == pytest.approx((1.0, 0.0))
    uppers, lowers = zip(*(lasnet.bounds(e, 100, 0.6) for e in range(40)), strict=True)
    assert list(uppers) == sorted(uppers)
    assert list(lowers) == sorted(lowers, reverse=True)


def output(rate, block_rates):
    parts = torch.tensor(block_rates)
    return lasnet.LASNetOutput(torch.zeros(1, 2), parts, parts, torch.tensor(0.0), parts, torch.tensor(rate), ())


def test_losses_vanish_on_target_only():
    assert float(lasnet.budget_loss(output(0.5, [1.0, 0.0]), 0.5)) == 0  # free allocation
    assert float(lasnet.budget_loss(output(0.5, [1.0, 0.0]), 0.5, (0.5, 0.5))) == pytest.approx(0.25)
    assert float(lasnet.budget_loss(output(0.7, [0.7, 0.7]), 0.5)) == pytest.approx(0.04)
    assert float(lasnet.block_loss(output(0.5, [0.5, 0.5]), 0.5)) == 0
    assert float(lasnet.block_loss(output(0.5, [1.0, 0.0]), 0.5)) == pytest.approx(0.25)


@pytest.mark.parametrize(("budget", "loss"), [("network", lasnet.budget_loss), ("block", lasnet.block_loss)])
def test_training_is_these_steps(budget, loss):
    task = data.glyphs(64, seed=1)
    torch.manual_seed(0)
    model = LASNet.tiny(blocks=2, target_rate=0.35)
    twin = copy.deepcopy(model).train()
    log = lasnet.fit(model, task.images, task.labels, budget=budget, steps=4, batch_size=8, lr=1e-2, seed=3)
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(twin.parameters())
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * step / 4)) / 2
        rows = torch.randint(64, (8,), generator=generator)
        out = twin(task.images[rows], decision.anneal_tau(step, 4, start=5.0, end=0.1), generator=generator)
        task_loss = nn.functional.cross_entropy(out.logits, task.labels[rows])
        optimizer.zero_grad()
        (task_loss + 10 * loss(out, 0.35, lasnet.bounds(step, 4, 0.35))).backward()
        optimizer.step()
        assert (log.losses[step], log.rates[step]) == pytest.approx((task_loss.item(), out.rate.item()), rel=1e-4)
        assert torch.allclose(log.block_rates[step], out.block_rates)
    for name, value in twin.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], rtol=1e-3, atol=1e-5), name


def test_half_precision_counts_as_float32_does():
    model, x = LASNet.tiny(), torch.rand(1, 1, 32, 32)
    masks = [torch.ones(1, 1, 4, 4)] * 3
    whole = model.eval()(x, masks=masks)
    found = model.half()(x.half(), masks=masks)
    assert float(found.macs) == float(whole.macs) > torch.finfo(torch.float16).max
    assert float(found.rate) == 1


def test_training_lowers_loss_and_rate():
    torch.manual_seed(0)
    task = data.glyphs(512, seed=1)
    model = LASNet.tiny(blocks=2, target_rate=0.35)
    history = lasnet.fit(model, (task.images - 0.5) * 2, task.labels, budget="block", steps=100, lr=1e-2, seed=0)
    assert not model.training
    assert len(history.losses) == 100
    assert history.block_rates.shape == (100, 2)
    assert sum(history.losses[-10:]) < sum(history.losses[:10])
    assert history.rates[-1] < 0.7 < history.rates[0]


# Edges and bad input -------------------------------------------------------------------------------------------------


def test_empty_batch():
    model = LASNet.tiny().eval()
    out = model.infer(torch.zeros(0, 1, 32, 32))
    assert out.logits.shape == (0, 4)
    assert out.rates.tolist() == [0.0, 0.0, 0.0]


def test_granularity_must_divide_the_map():
    with pytest.raises(ValueError, match=r"granularity: got 4 in stage 3, expected a divisor of its map's side, 14"):
        build("resnet50", granularity=(4, 4, 4, 1)).macs(224)
    model = LASNet.tiny(granularity=3).eval()
    for call in (model, model.infer):
        with pytest.raises(ValueError, match="granularity: got 3"):
            call(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LASNet.resnet50(granularity=(4, 4, 2)), "expected 4 whole numbers"),
        (lambda: LASNet.tiny(target_rate=0.0), "target_rate: got 0.0"),
        (lambda: LASNet.tiny(0), "classes: got 0"),
        (lambda: LASNet.tiny()(torch.zeros(1, 3, 32, 32)), r"expected \(N, 1, H, H\)"),
        (lambda: LASNet.tiny()(torch.zeros(1, 1, 32, 16)), "x: got shape"),
        (lambda: LASNet.tiny().macs(32, rate=[0.5]), "rate: got"),
        (lambda: LASNet.tiny().macs(32, rate=1.5), "rate: got 1.5"),
        (lambda: LASNet.tiny().macs(32, convention="flops"), "convention: got 'flops'"),
        (lambda: LASNet.tiny().eval().infer(torch.zeros(1, 1, 32, 32), masks=[torch.ones(1, 1, 4, 4)]), "masks: got 1"),
        (
            lambda: LASNet.tiny().eval().infer(torch.zeros(1, 1, 32, 32), masks=[torch.ones(1, 1, 5, 5)] * 3),
            r"mask: got shape \(1, 1, 5, 5\)",
        ),
        (lambda: LASNet.tiny()(torch.zeros(2, 1, 32, 32), masks=[torch.ones(1, 1, 4, 4)] * 3), "mask: got one for 1"),
        (lambda: LASNet.tiny().load_static({}), "state_dict: got shape None"),
        (lambda: lasnet.bounds(0, 10, 0.0), "target: got 0.0"),
        (lambda: lasnet.fit(LASNet.tiny(), torch.zeros(1), torch.zeros(1), budget="none"), "budget: got 'none'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_infer_refuses_training_mode():
    with pytest.raises(RuntimeError, match="training mode"):
        LASNet.tiny().infer(torch.zeros(1, 1, 32, 32))
