"""RANet: the counts of the published configurations, what depends on what, and lanes that are really not run."""

import copy
from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from course_lib import decision, measure
from course_lib.instance.msdnet import MSDNet
from course_lib.spatial.ranet import BlockPlan, Layer, RANet, RANetConfig

SCRIPT = {"scales": (1, 2, 3, 3)}
LINEAR = {"step": 2, "growth_mode": "linear"}

# name: (constructor, size, published MFLOPs an exit, cumulative parameters or their last)
PUBLISHED = {
    "CIFAR-10 four lanes": (
        lambda: RANet.cifar(10, **SCRIPT),
        32,
        (15.814, 31.283, 44.655, 50.358, 60.655, 63.648, 90.174, 94.905),
        (470442, 1073780, 1476756, 1868414, 2165612, 2453494, 2871636, 3261830),
    ),
    "CIFAR-100 four lanes": (
        lambda: RANet.cifar(100, **SCRIPT),
        32,
        (15.826, 31.306, 44.690, 50.405, 60.713, 63.718, 90.255, 94.997),
        (3354710,),
    ),
    "CIFAR-10 linear": (
        lambda: RANet.cifar(10, **LINEAR),
        32,
        (8.361, 21.765, 32.844, 41.524, 53.226, 58.921),
        (347050, 876660, 1270165, 1754271, 2130143, 2547601),
    ),
    "CIFAR-100 linear": (lambda: RANet.cifar(100, **LINEAR), 32, None, (2617261,)),
    "CIFAR-10 defaults": (
        lambda: RANet.cifar(10),
        32,
        (13.439, 28.908, 42.280, 47.983, 58.279, 61.272),
        (468106, 1071444, 1474420, 1866078, 2163276, 2451158),
    ),
    "CIFAR-100 defaults": (lambda: RANet.cifar(100), 32, None, (2520818,)),
    "ImageNet script": (
        lambda: RANet.imagenet(channels=16, factors=(4, 2, 1, 1)),
        224,
        (168.067, 520.465, 731.891, 903.794, 1052.252, 1118.804, 1589.014, 1680.980),
        (87972617,),
    ),
    "ImageNet figures": (
        lambda: RANet.imagenet(channels=64, factors=(4, 2, 2, 1)),
        224,
        (434.969, 888.670, 1153.356, 1352.449, 2279.914, 2588.474, 3235.518, 3333.485),
        (14083432, 48077136, 60103248, 78659176, 100951482, 130170440, 139095138, 149144186),
    ),
}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
    build, size, flops, counts = PUBLISHED[request.param]
    with torch.device("meta"):
        return build().eval(), size, flops, counts


def output_shapes(model, size):
    """(channels, side) that every block gives, in order of execution, and that every head is given."""
    out, heads = [], []
    hooks = [
        b.register_forward_hook(lambda m, a, result: out.append(tuple(result[0].shape[1:3]))) for b in model.blocks
    ]
    hooks += [h.register_forward_pre_hook(lambda m, args: heads.append(args[0].shape[2])) for h in model.heads]
    device = next(model.parameters()).device
    with torch.no_grad():
        model(torch.zeros(1, model.config.in_channels, size, size, device=device))
    for hook in hooks:
        hook.remove()
    return out, heads


def test_published_parameters(published):
    model, _, _, counts = published
    running, seen = parameters(model.stem), []
    for k, head in enumerate(model.heads):
        running += parameters(head) + sum(parameters(model.lanes[h][b]) for h, b in model.blocks_before(k))
        seen.append(running)
    assert tuple(seen[-len(counts) :]) == counts
    assert parameters(model) == counts[-1]


def test_published_costs(published):
    model, size, flops, _ = published
    costs = model.exit_costs(size, convention="published")
    if flops is not None:
        assert [cost / 1e6 for cost in costs] == pytest.approx(flops, abs=6e-4)
    assert all(a < b for a, b in pairwise(costs))
    assert model.exits == len(costs) == model.config.blocks + model.config.block_step * (len(model.config.scales) - 1)


def test_every_classifier_sees_the_coarsest_resolution(published):
    model, size, _, _ = published
    _, heads = output_shapes(model, size)
    assert heads == [7 if size == 224 else 8] * model.exits


def test_where_parameters_and_operations_of_the_defaults_sit():
    model = RANet.cifar(10)
    assert parameters(model.stem) == 23696
    assert [parameters(lane) for lane in model.lanes] == [270000, 118262, 44644]
    heads = [parameters(head) for head in model.heads]
    assert heads == [333578, 444170, 310538, 365834, 256394, 284042]
    assert sum(heads) / parameters(model) == pytest.approx(0.81, abs=0.005)
    parts = model.cost_parts(32, convention="published")
    in_millions = lambda costs: [cost / 1e6 for cost in costs]  # noqa: E731
    # the card's rounded figures; it lists the stem coarse to fine
    assert in_millions(parts.stem[::-1]) == pytest.approx([1.180, 1.180, 0.442][:3], abs=0.03)
    assert [x for lane in parts.blocks for x in in_millions(lane)] == pytest.approx(
        [7.037, 10.125, 3.010, 5.769, 1.339, 1.634, 1.759, 3.471, 0.725, 1.698, 0.203, 0.240], abs=0.06
    )
    assert in_millions(parts.heads) == pytest.approx([3.540, 5.310, 3.172, 4.056, 2.305, 2.748], abs=0.01)
    shares = [sum(part) / model.exit_costs(32, convention="published")[-1] for part in (parts.heads, parts.blocks[2])]
    assert shares[0] == pytest.approx(0.345, abs=0.005)  # "about a third" of the operations


def test_block_outputs_of_the_cards_two_cifar_networks():
    three = [
        *[(160, 8), (256, 8)],
        *[(100, 16), (92, 8), (140, 8), (188, 8)],
        *[(50, 32), (46, 16), (87, 16), (69, 8), (93, 8), (117, 8)],
    ]
    four = [(50, 32), (46, 32), (87, 32), (138, 16), (101, 16), (156, 8), (180, 8), (204, 8)]
    with torch.device("meta"):
        model = RANet.cifar(10)
        assert output_shapes(model, 32)[0] == three
        stem = [tuple(x.shape[1:3]) for x in model.start(torch.zeros(1, 3, 32, 32)) if x is not None]
        assert stem == [(64, 8), (32, 16), (16, 32)]
        model = RANet.cifar(10, **SCRIPT)
        assert output_shapes(model, 32)[0] == [*three, *four]
        assert [x.shape[2] for x in model.start(torch.zeros(1, 3, 32, 32)) if x is not None] == [8, 16, 32, 32]


def test_plan_of_the_defaults_and_of_linear_growth():
    plain, fusion = BlockPlan(4, False, False, False), BlockPlan(4, True, False, False)
    ends = BlockPlan(4, True, True, True)
    assert RANet.cifar(10).config.plan() == (
        (plain, plain),
        (fusion, ends, plain, plain),
        (fusion, ends, fusion, ends, plain, plain),
    )
    with torch.device("meta"):
        layers = [[plan.layers for plan in lane] for lane in RANet.cifar(10, **LINEAR).config.plan()]
    assert layers == [[2, 4], [2, 4, 6, 8], [2, 4, 6, 8, 10, 12]]


def test_fusion_layer_of_the_card_by_hand():
    layer = Layer(32, 64, 12, (2, 4), 0.25, shrinks=False)
    convs = lambda path: [(m.in_channels, m.out_channels, m.kernel_size) for m in path if isinstance(m, nn.Conv2d)]  # noqa: E731
    assert convs(layer.low) == [(64, 12, (1, 1)), (12, 3, (3, 3))]
    assert convs(layer.own) == [(32, 18, (1, 1)), (18, 9, (3, 3))]


@pytest.mark.parametrize("shrinks", [False, True])
def test_fusion_layer_adds_its_growth_and_passes_gradients_to_both(shrinks):
    layer = Layer(6, 10, 8, (2, 2), 0.25, shrinks=shrinks)
    x, low = torch.rand(2, 6, 8, 8, requires_grad=True), torch.rand(2, 12, 4, 4, requires_grad=True)
    out = layer(x, low)
    assert out.shape == (2, 14, 4 if shrinks else 8, 4 if shrinks else 8)
    (out**2).sum().backward()
    assert x.grad.abs().sum() > 0
    assert low.grad[:, :10].abs().sum() > 0
    assert low.grad[:, 10:].abs().sum() == 0  # what the fused layer itself appended is not its input


def resized(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize("shrinks", [False, True])
def test_fusion_layer_is_its_formula_in_this_order(shrinks):
    layer = Layer(6, 10, 8, (2, 2), 0.25, shrinks=shrinks).eval()
    x, low = torch.randn(2, 6, 8, 8), torch.randn(2, 12, 4, 4)
    with torch.no_grad():
        new, fused = layer.own(x), layer.low(low[:, :10])
        assert torch.equal(layer(x, low), torch.cat([resized(x, new), resized(fused, new), new], 1))


def test_the_closing_copy_is_squeezed_first_and_resized_then():
    torch.manual_seed(0)
    model = RANet.tiny().eval()
    block, below = model.lanes[1][0], model.lanes[0][0]
    x, low = torch.randn(2, block.widths[0], 16, 16), [torch.randn(2, below.widths[-1], 8, 8)]
    with torch.no_grad():
        out, kept = block(x, low)
        copied = resized(block.closing(low[-1]), kept[-1])
        whole = torch.cat([kept[-1], copied], 1)
        assert torch.equal(out, whole if block.squeeze is None else block.squeeze(whole))


def test_the_kept_map_is_the_state_before_the_closing_copy():
    """The output has the same number of channels where nothing was squeezed, but other sizes: 43,836 against 44,644."""
    with torch.device("meta"):
        model = RANet.cifar(10)
    difference = 0
    for block, below in zip(model.lanes[2], model.lanes[1], strict=False):
        fused, read = block.closing[0].weight.shape[:2]
        assert read == below.widths[-1]
        difference += (below.channels - read) * fused
    assert parameters(model.lanes[2]) == 44644
    assert 44644 + difference == 43836


def test_tiny_is_the_measured_recipe():
    model = RANet.tiny()
    assert parameters(model) == 163_040
    assert [cost / 1e6 for cost in model.exit_costs(16)] == pytest.approx([0.57, 1.91, 3.50, 6.25], abs=6e-3)
    assert model.exit_costs(16)[-1] / MSDNet.tiny().exit_costs(16)[-1] == pytest.approx(1, abs=0.05)
    assert [[plan.layers for plan in lane] for lane in model.config.plan()] == [[1], [1, 2, 3, 4]]
    assert RANet.tiny(3, in_channels=1)(torch.zeros(2, 1, 8, 8))[0].shape == (2, 3)


class UpTo(nn.Module):
    def __init__(self, model, k):
        super().__init__()
        self.model, self.k = model, k

    def forward(self, x):
        return next(islice(self.model.anytime(x), self.k, None))


@pytest.mark.parametrize("size", [8, 12, 16, 20])
def test_costs_agree_with_the_counter_that_watches_the_operators(size):
    model = RANet.tiny().eval()
    x = torch.zeros(1, 3, size, size)
    counted = [measure.count_macs(UpTo(model, k), x) for k in range(4)]
    assert counted == model.exit_costs(size, convention="macs") == model.exit_costs(size, convention="lazy")


configs = st.builds(
    lambda rises, factors, rest: RANetConfig(
        scales=tuple(1 + sum(rises[: h + 1]) for h in range(len(rises))),
        factors=tuple(sorted(factors[: len(rises)], reverse=True)),
        classes=3,
        head=(8,),
        size=None,
        **rest,
    ),
    st.lists(st.integers(0, 1), min_size=0, max_size=2).map(lambda rises: [0, *rises]),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.fixed_dictionaries(
        {
            "channels": st.integers(1, 6),
            "growth": st.integers(4, 9),
            "step": st.integers(1, 3),
            "growth_mode": st.sampled_from(["even", "linear"]),
            "blocks": st.integers(1, 3),
            "block_step": st.integers(1, 2),
            "in_channels": st.integers(1, 3),
            "compress": st.sampled_from([0.25, 0.4, 0.5]),
        }
    ),
)


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=st.integers(0, 100))
def test_any_configuration_by_the_same_rules(config, seed):
    torch.manual_seed(seed)
    model = RANet(config).eval()
    x = torch.rand(5, config.in_channels, 16, 16)
    with torch.no_grad():
        every = model(x)
        assert len(every) == model.exits == config.blocks + config.block_step * (len(config.scales) - 1)
        for k, logits in enumerate(every):
            assert logits.shape == (5, 3)
            assert torch.equal(model.at_exit(x, k), logits)
    costs = model.exit_costs(16)
    assert all(a < b for a, b in pairwise(costs))
    assert costs[-1] == measure.count_macs(UpTo(model, model.exits - 1), x[:1])
    if all(h == 0 or config.scales[h - 1] <= h for h in range(len(config.scales))):
        assert set(output_shapes(model, 16)[1]) == {16 >> (config.scales[-1] - 1)}
    with torch.no_grad():
        state = model.start(x)
        for k in range(model.exits):
            model.advance(state, k)
    assert [features is None for features in state] == [False] + [True] * (len(state) - 1)  # all was used up


# Dependence ----------------------------------------------------------------------------------------------------------


def sharpened(model, seed=0):
    """Random weights give near-uniform answers; larger ones in the heads give confidences worth comparing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of the next forward pass, exactly
        model.train()(torch.rand(200, 3, 16, 16, generator=generator) * 2 - 1)
        for head in model.heads:
            head.linear.weight.copy_(torch.randn(head.linear.weight.shape, generator=generator) * 0.6)
    return model.eval()


def three_lanes():
    """Three lanes, five exits; lane 2 keeps two maps where it shrinks, and squeezes."""
    return RANet(RANetConfig((1, 2, 3), (2, 2, 1), 4, 8, 2, "even", 1, 2, 6, head=(8,), size=None))


@pytest.fixture(scope="module", params=["tiny", "three lanes"])
def model(request):
    torch.manual_seed(0)
    return sharpened(RANet.tiny() if request.param == "tiny" else three_lanes())


@pytest.fixture(scope="module")
def images():
    return torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def all_logits(model, images):
    with torch.no_grad():
        return model(images)


@pytest.fixture(scope="module")
def thresholds(model, all_logits):
    scores = torch.stack([decision.confidence(logits) for logits in all_logits], 1)
    return decision.find_thresholds(scores, decision.exit_shares(0.8, model.exits))


def test_random_numbers_in_later_lanes_change_later_exits_only(model, images, all_logits):
    lane_of = model.cost_parts(16).lanes
    for first in range(1, len(model.lanes)):
        changed = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(first)
        with torch.no_grad():
            for lane in changed.lanes[first:]:
                for parameter in lane.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
            logits = changed(images)
        for k in range(model.exits):
            assert torch.equal(logits[k], all_logits[k]) == (lane_of[k] < first)


def test_without_the_low_path_later_lanes_change_only(model, images, all_logits):
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for block in changed.blocks:
            for layer in block.layers:
                if layer.low is not None:
                    layer.low[4].weight.zero_()
                    layer.low[4].bias.zero_()
        logits = changed(images)
    lane_of = model.cost_parts(16).lanes
    assert [torch.equal(a, b) for a, b in zip(logits, all_logits, strict=True)] == [lane == 0 for lane in lane_of]


def test_stopping_or_skipping_heads_leaves_the_logits(model, images, all_logits):
    with torch.no_grad():
        for k in range(model.exits):
            assert torch.equal(UpTo(model, k)(images), all_logits[k])
            assert torch.equal(model.at_exit(images, k), all_logits[k])


def test_one_exit_alone_runs_no_other_head(model, images):
    ran = []
    hooks = [head.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, head in enumerate(model.heads)]
    with torch.no_grad():
        for k in (0, model.exits - 2, -1):
            model.at_exit(images[:2], k)
    for hook in hooks:
        hook.remove()
    assert ran == [0, model.exits - 2, model.exits - 1]


def test_who_asks_for_the_blocks_cannot_change_them(model):
    model.blocks_before(0).clear()
    assert model.blocks_before(0)


def test_every_parameter_gets_a_gradient(model):
    trained = copy.deepcopy(model).train()
    sum(logits.square().sum() for logits in trained(torch.rand(4, 3, 16, 16))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.parameters())


def test_folding_batchnorm_keeps_the_answers(model, images, all_logits):
    folded = measure.fold_batchnorm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        for a, b in zip(folded(images), all_logits, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_initialisation_is_he_by_fan_out_but_for_the_stem():
    torch.manual_seed(0)
    model = RANet.cifar(10)
    bottleneck = model.lanes[0][0].layers[0].own[0].weight
    assert bottleneck.shape[2] == 1
    assert bottleneck.std().item() == pytest.approx((2 / bottleneck.shape[0]) ** 0.5, rel=0.05)
    window = model.lanes[0][0].layers[0].own[3].weight
    assert window.shape[0] != window.shape[1]
    assert window.std().item() == pytest.approx((2 / 9 / window.shape[0]) ** 0.5, rel=0.05)
    stem = model.stem[0][0].weight
    assert stem.std().item() == pytest.approx((1 / 27 / 3) ** 0.5, rel=0.15)  # uniform within 1 / sqrt(fan in)
    assert all(head.linear.bias.eq(0).all() for head in model.heads)
    tiny = RANet.tiny().lanes[1][0].layers[0].own[0].weight  # PyTorch's default: it learns faster in few steps
    assert tiny.abs().max() <= tiny.shape[1] ** -0.5


# Work that is skipped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["max_softmax", "entropy", "margin"])
def test_infer_equals_simulation(model, images, all_logits, kind):
    scores = torch.stack([decision.confidence(logits, kind) for logits in all_logits], 1)
    bar = decision.find_thresholds(scores, decision.exit_shares(0.9, model.exits))
    wanted, exits = decision.simulate(all_logits, bar, confidence=kind)
    got = model.infer(images, bar, confidence=kind)
    assert got.exit_index.bincount(minlength=model.exits).min() > 0
    assert torch.equal(got.exit_index, exits)
    torch.testing.assert_close(got.logits, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(got.macs, torch.tensor(model.exit_costs(16), dtype=torch.float64)[exits])


def rows_entering(model, run):
    """For each (lane, block), the rows of its calls."""
    rows, hooks = {}, []
    for h, lane in enumerate(model.lanes):
        for b, block in enumerate(lane):
            seen = rows.setdefault((h, b), [])
            hooks.append(block.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0]))))
    result = run()
    for hook in hooks:
        hook.remove()
    return rows, result


def test_each_block_sees_exactly_the_images_still_there(model, images, thresholds):
    rows, result = rows_entering(model, lambda: model.infer(images, thresholds))
    for k in range(model.exits):
        still_there = int((result.exit_index >= k).sum())
        assert all(rows[place] == [still_there] for place in model.blocks_before(k))
    assert rows[0, 0] == [40]
    assert sum(rows[model.blocks_before(model.exits - 1)[-1]]) < 40


def test_every_convolution_sees_exactly_the_images_still_there(model, images, thresholds):
    seen = {}
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(lambda m, a: seen.update({m: seen.get(m, 0) + len(a[0])})) for m in convs]
    result = model.infer(images, thresholds)
    for hook in hooks:
        hook.remove()
    expected = {conv[0]: 40 for conv in model.stem}  # the whole stem, fine part included, for every image
    for k in range(model.exits):
        parts = [model.heads[k], *(model.lanes[h][b] for h, b in model.blocks_before(k))]
        reached = int((result.exit_index >= k).sum())
        expected |= {m: reached for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)}
    assert seen == expected


def test_no_later_lane_runs_when_all_have_left(model, images, all_logits):
    last_of_first_lane = model.cost_parts(16).lanes.count(0) - 1
    bar = [2.0] * last_of_first_lane + [0.0] * (model.exits - last_of_first_lane)
    rows, result = rows_entering(model, lambda: model.infer(images, bar))
    assert all(seen == ([40] if h == 0 else []) for (h, _), seen in rows.items())
    assert torch.equal(result.logits, all_logits[last_of_first_lane])


def test_none_leaves_early_and_the_first_lane_runs_once(model, images, all_logits):
    rows, result = rows_entering(model, lambda: model.infer(images, [2.0] * model.exits))
    assert all(seen == [40] for seen in rows.values())
    assert result.exit_index.tolist() == [model.exits - 1] * 40
    assert torch.equal(result.logits, all_logits[-1])


def test_empty_batch_and_batch_of_one(model, images, thresholds):
    empty = model.infer(images[:0], thresholds)
    assert empty.logits.shape == (0, model.classes) and empty.exit_index.shape == (0,) and empty.macs.shape == (0,)
    whole = model.infer(images, thresholds)
    for i in range(8):
        single = model.infer(images[i : i + 1], thresholds)
        assert single.exit_index == whole.exit_index[i]
        torch.testing.assert_close(single.logits[0], whole.logits[i], atol=1e-5, rtol=1e-5)


def test_order_of_the_images_does_not_matter(model, images, thresholds):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    plain, shuffled = model.infer(images, thresholds), model.infer(images[order], thresholds)
    assert torch.equal(plain.exit_index[order], shuffled.exit_index)
    torch.testing.assert_close(plain.logits[order], shuffled.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "max_wait"), [(8, 64), (8, 1), (8, 0), (3, 64), (100, 64)])
def test_stream_equals_infer(model, images, thresholds, batch_size, max_wait):
    batches = [images[:8], images[8:9], images[:0], images[9:30], images[30:]]
    stream = model.infer_stream(iter(batches), thresholds, batch_size=batch_size, max_wait=max_wait)
    for batch, got in zip(batches, stream, strict=True):
        want = model.infer(batch, thresholds)
        assert torch.equal(got.exit_index, want.exit_index)
        torch.testing.assert_close(got.logits, want.logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(got.macs, want.macs)


def test_stale_rows_would_be_seen(model, images, all_logits):
    """The mistake the chapter warns of: survivors move on, the stored maps do not move with them."""
    stay = torch.arange(1, 40, 2)
    last = model.cost_parts(16).lanes.count(0)
    with torch.no_grad():
        state = model.start(images)
        for k in range(last):
            model.advance(state, k)
        right = [None if features is None else features[stay] for features in state]
        stale = [None if features is None else features[: len(stay)] for features in state]
        stale[0], stale[1] = right[0], right[1]
        torch.testing.assert_close(model.advance(right, last), all_logits[last][stay], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model.advance(stale, last), all_logits[last][stay], atol=1e-2)


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(), (3, 2, 1), (1, 3), (2, 3), (1, 2, 1), (0, 1)])
def test_scales_of_the_wrong_order(scales):
    with pytest.raises(ValueError, match=r"scales: got .*coarse to fine"):
        RANet.cifar(10, scales=scales, factors=(1,) * len(scales))


@pytest.mark.parametrize("factors", [(4, 2), (4, 2, 1, 1), (1, 2, 4), (4, 2, 0)])
def test_factors_of_the_wrong_length_or_order(factors):
    with pytest.raises(ValueError, match=r"factors: got .*coarse to fine"):
        RANet.cifar(10, factors=factors)
    with pytest.raises(ValueError, match="factors: got None with 2 scales"):
        RANet.cifar(10, scales=(1, 2))


@pytest.mark.parametrize("name", ["channels", "growth", "step", "blocks", "block_step", "in_channels", "classes"])
def test_numbers_below_one(name):
    arguments = {"classes": 10, name: 0}
    with pytest.raises(ValueError, match=f"{name}: got 0"):
        RANet.cifar(**arguments)


def test_other_bad_configurations():
    with pytest.raises(ValueError, match="growth_mode: got 'lg'"):
        RANet.cifar(10, growth_mode="lg")
    with pytest.raises(ValueError, match="growth: got 3 channels"):
        RANet.cifar(10, growth=3)
    with pytest.raises(ValueError, match="compress, reduction: got 1"):
        RANetConfig((1,), (1,), 8, 8, 1, "even", 1, 1, 10, compress=1)
    with pytest.raises(ValueError, match=r"head: got \(0,\)"):
        RANetConfig((1,), (1,), 8, 8, 1, "even", 1, 1, 10, head=(0,))
    assert RANet(RANetConfig((1,), (1,), 8, 2, 1, "even", 2, 1, 10, size=None)).exits == 2  # one lane fuses nothing


def test_bad_inputs_are_named():
    model = RANet.tiny().eval()
    with pytest.raises(ValueError, match=r"x: got shape \(2, 1, 16, 16\), expected \(N, 3, H, W\)"):
        model(torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match="x: got shape"):
        model(torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="size: got 16x14"):
        model(torch.zeros(2, 3, 16, 14))
    with pytest.raises(ValueError, match="size: got 18x18"):
        model.exit_costs(18)
    with pytest.raises(ValueError, match="convention: got 'flops'"):
        model.exit_costs(16, convention="flops")
    with pytest.raises(ValueError, match="expected 32x32"):
        RANet.cifar(10)(torch.zeros(1, 3, 16, 16))
    with pytest.raises(IndexError):
        model.at_exit(torch.zeros(1, 3, 16, 16), 4)


def test_infer_refuses_training_mode_and_wrong_thresholds():
    model = RANet.tiny()
    with pytest.raises(RuntimeError, match="training mode"):
        model.infer(torch.zeros(1, 3, 16, 16), [0.5] * 4)
    with pytest.raises(ValueError, match="thresholds"):
        model.eval().infer(torch.zeros(1, 3, 16, 16), [0.5] * 3)
