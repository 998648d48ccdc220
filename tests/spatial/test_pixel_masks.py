"""SACT and DynConv: the rules of halting and budgets, and inference that computes active positions only."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from course_lib import data, measure
from course_lib.spatial.pixel_masks import (
    SACT,
    DynConv,
    MaskedBasicBlock,
    MaskUnit,
    SACTStage,
    ponder_cost,
    sparsity_loss,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def trained(module):
    """In eval mode, BatchNorms as if it had been trained."""
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.normal_(m.running_mean, std=0.5)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.normal_(m.bias, std=0.3)
    return module.eval()


# The block -----------------------------------------------------------------------------------------------------------


def defined(block, x, mask):
    """relu(identity + mask * F(x)) by the block's own layers."""
    y = block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))
    return functional.relu((x if block.shortcut is None else block.shortcut(x)) + mask * y)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_block_is_dense_times_mask(stride, density):
    block = trained(MaskedBasicBlock(6, 6, stride=stride))
    x = torch.randn(2, 6, 9, 10)
    mask = torch.rand(2, 1, -(-9 // stride), -(-10 // stride)) < density
    assert torch.allclose(block(x, mask), defined(block, x, mask), atol=1e-5)
    assert torch.allclose(block(x, torch.ones_like(mask)), block(x), atol=1e-5)


def test_block_computes_halo_and_mask_and_nothing_else():
    block = trained(MaskedBasicBlock(4, 4)).requires_grad_(False)
    block.backend = "gather"
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 3, 4] = True
    each = 4 * 4 * 9
    assert measure.count_macs(block, torch.randn(1, 4, 8, 8), mask) == 9 * each + 1 * each
    mask[0, 0, 0, 0] = True  # a corner is seen by four positions
    assert measure.count_macs(block, torch.randn(1, 4, 8, 8), mask) == 13 * each + 2 * each


# SACT ----------------------------------------------------------------------------------------------------------------


def stage(units=4, width=4, bias=None):
    made = trained(SACTStage([MaskedBasicBlock(width, width) for _ in range(units)], width))
    if bias is not None:
        for unit in made.halting:
            nn.init.zeros_(unit.local.weight)
            nn.init.zeros_(unit.pooled.weight)
            nn.init.constant_(unit.local.bias, bias)
    return made


def test_halting_at_once_leaves_the_first_unit_alone():
    made, x = stage(bias=50.0), torch.randn(2, 4, 6, 6)
    y, halting = made(x)
    assert torch.equal(halting.units, torch.ones(2, 1, 6, 6))
    assert torch.equal(halting.remainder, torch.ones(2, 1, 6, 6))
    assert torch.allclose(y, made.blocks[0](x))


def test_never_halting_is_the_plain_stage():
    made, x = stage(bias=-50.0), torch.randn(2, 4, 6, 6)
    y, halting = made(x)
    assert torch.equal(halting.units, torch.full((2, 1, 6, 6), 4.0))
    assert torch.allclose(halting.remainder, torch.ones(2, 1, 6, 6))
    plain = x
    for block in made.blocks:
        plain = block(plain)
    assert torch.allclose(y, plain, atol=1e-5)


def test_weights_are_a_distribution_and_follow_the_definition():
    made, x = stage(bias=-1.0), torch.randn(2, 4, 6, 6)
    _, halting = made(x)
    assert torch.allclose(halting.weights.sum(0), torch.ones(2, 1, 6, 6), atol=1e-6)
    chance = 1 / (1 + math.e)  # four times 0.269: the fourth unit is the last, and forced
    assert torch.allclose(halting.weights[:3], torch.full((3, 2, 1, 6, 6), chance), atol=1e-6)
    assert torch.allclose(halting.remainder, torch.full((2, 1, 6, 6), 1 - 3 * chance), atol=1e-6)
    assert ((halting.units >= 1) & (halting.units <= 4)).all()
    assert torch.allclose(halting.ponder, halting.units + halting.remainder)


def test_a_halted_position_keeps_its_features_for_its_neighbours():
    """Position by position against a loop over the definition."""
    made = stage(units=3)
    for unit in made.halting:
        nn.init.normal_(unit.local.weight, std=0.5)
        nn.init.zeros_(unit.local.bias)
    x = torch.randn(1, 4, 7, 7)
    y, halting = made(x)
    assert 1 < halting.units.mean() < 3
    h, total, active, want = made.blocks[0](x), torch.zeros(1, 1, 7, 7), torch.ones(1, 1, 7, 7), 0
    for k in range(3):
        if k:
            h = defined(made.blocks[k], h, active)
        chance = made.halting[k](h) if k < 2 else torch.ones_like(total)
        halts = active * (total + chance >= 0.99)
        weight = active * (halts * (1 - total) + (1 - halts) * chance)
        want, total, active = want + weight * h, total + weight * (1 - halts), active * (1 - halts)
    assert torch.allclose(y, want, atol=1e-5)


def test_sact_trains_its_halting_and_costs_less_when_it_halts():
    net = SACT(10, widths=(4, 8), units=2)
    logits, halting = net(torch.randn(4, 3, 8, 8))
    (functional.cross_entropy(logits, torch.arange(4)) + 0.01 * ponder_cost(halting)).backward()
    assert all(one.local.bias.grad.abs() > 0 for s in net.stages for one in s.halting)
    assert 2 < float(ponder_cost(halting).detach()) <= 2 * 3
    x = torch.randn(1, 3, 8, 8)
    costs = []
    for bias in (-50.0, 50.0):
        for s in net.stages:
            for one in s.halting:
                nn.init.constant_(one.local.bias, bias)
        costs.append(measure.count_macs(copy.deepcopy(net).eval(), x))
    assert costs[1] < 0.75 * costs[0]


# DynConv -------------------------------------------------------------------------------------------------------------


def test_mask_unit_has_the_published_parameters_and_rule():
    unit = MaskUnit(16, stride=2)
    assert sum(p.numel() for p in unit.parameters()) == 10 * 16 + 2
    x = torch.randn(3, 16, 9, 9)
    mask = unit(x, generator=torch.Generator().manual_seed(0))
    assert mask.shape == (3, 1, 5, 5) and set(mask.unique().tolist()) == {0.0, 1.0}
    mask.sum().backward()
    assert unit.pooled.weight.grad.abs().sum() > 0
    quiet = unit(x, noise=False)
    assert torch.equal(quiet.bool(), unit.logits(x) >= 0) and quiet.requires_grad
    assert torch.equal(unit.eval()(x), unit.logits(x) >= 0)


def test_dynconv_infers_what_it_was_trained_to():
    """Active positions only, and the answer of everything multiplied by the same masks."""
    net = trained(DynConv(10, widths=(4, 8, 8), units=2))
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        found = net(x)
        h = net.stem(x)
        for block, mask in zip(net.blocks, found.masks, strict=True):
            h = defined(block, h, mask)
        assert torch.allclose(found.logits, net.head(h.mean((2, 3))), atol=1e-4)
    assert any(0 < mask.float().mean() < 1 for mask in found.masks)


def test_dynconv_counts_what_it_executes():
    net = trained(DynConv(10, widths=(4, 8), units=2)).requires_grad_(False)
    for block in net.blocks:
        block.backend = "gather"
    x = torch.randn(1, 3, 8, 8)
    out = net(x)
    fixed = 3 * 4 * 9 * 64 + 80 + 4 * 8 * 16  # stem, head, shortcut
    units = sum((9 * c * (8 // s // t) ** 2 + c) for c, s, t in ((4, 1, 1), (4, 1, 1), (4, 1, 2), (8, 2, 1)))
    assert measure.count_macs(net, x) == round(float(out.costs.sum())) + fixed + units
    assert float(out.share) == pytest.approx(float(out.costs.sum() / out.totals.sum()))


def test_all_active_is_the_plain_network():
    net = trained(DynConv(10, widths=(4, 8), units=2))
    for unit in net.mask_units:
        nn.init.constant_(unit.pooled.bias, 100.0)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        h = net.stem(x)
        for block in net.blocks:
            h = block(h)
        out = net(x)
        assert torch.allclose(out.logits, net.head(h.mean((2, 3))), atol=1e-4)
    assert torch.equal(out.costs, out.totals) and float(out.share) == 1


def test_bounds_open():
    totals = torch.tensor([2.0, 2.0])
    costs = torch.tensor([1.6, 0.4])  # shares 0.8 and 0.2, together on a target of 0.5
    start = sparsity_loss(costs, totals, 0.5, epoch=0, epochs=9)
    assert float(start) == pytest.approx((0.3**2 + 0.3**2) / 2)
    assert float(sparsity_loss(costs, totals, 0.5, epoch=3, epochs=9)) == pytest.approx(0, abs=1e-3)
    assert float(sparsity_loss(costs, totals, 0.25, epoch=9, epochs=9)) == pytest.approx(0.25**2)
    with pytest.raises(ValueError, match="theta"):
        sparsity_loss(costs, totals, 1.5, epoch=0, epochs=1)


def test_a_budget_is_reached_by_training():
    """And the masks of held-out pictures stay near it, without noise."""
    shapes = data.shapes(512, size=12, seed=0)
    images, labels = (shapes.images - 0.5) * 2, shapes.labels
    net, steps = DynConv(10, widths=(8, 8), units=2), 60
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for step in range(steps):
        rows = torch.randint(448, (48,))
        out = net(images[rows], noise=step < 0.8 * steps)
        budget = sparsity_loss(out.costs, out.totals, 0.5, epoch=step, epochs=steps)
        loss = functional.cross_entropy(out.logits, labels[rows]) + 10 * budget
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert abs(float(net.eval()(images[448:]).share) - 0.5) < 0.12


def test_bad_input():
    with pytest.raises(ValueError, match="units"):
        SACT(10, units=0)
    with pytest.raises(ValueError, match="blocks"):
        SACTStage([], 4)
    with pytest.raises(ValueError, match="mask: got shape"):
        trained(MaskedBasicBlock(4, 4))(torch.randn(1, 4, 8, 8), torch.ones(1, 1, 4, 4))
