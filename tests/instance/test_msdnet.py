"""MSDNet: the counts of the published configurations, the properties of the method, and work that is really skipped."""

import copy
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import decision, measure
from course_lib.instance.msdnet import MSDNet, MSDNetConfig

LINEAR = {"base": 1, "step": 1, "growth": "linear"}
EVEN = {"base": 4, "step": 2, "growth": "even"}

# name: (constructor, blocks, published MFLOPs an exit, parameters)
PUBLISHED = {
    "CIFAR-100 budgeted 5": (
        lambda: MSDNet.cifar(100, exits=5, **LINEAR),
        (1, 2, 3, 4, 5),
        (6.860, 14.350, 27.537, 41.715, 58.481),
        2_078_924,
    ),
    "CIFAR-10 budgeted 5": (
        lambda: MSDNet.cifar(10, exits=5, **LINEAR),
        (1, 2, 3, 4, 5),
        (6.848, 14.327, 27.502, 41.668, 58.423),
        2_020_874,
    ),
    "CIFAR-100 budgeted 6": (
        lambda: MSDNet.cifar(100, exits=6, **LINEAR),
        (1, 2, 3, 4, 5, 6),
        (6.860, 14.350, 27.291, 46.561, 67.427, 89.091),
        2_852_392,
    ),
    "CIFAR-100 budgeted 7": (
        lambda: MSDNet.cifar(100, exits=7, **LINEAR),
        (1, 2, 3, 4, 5, 6, 7),
        (6.860, 14.350, 27.291, 48.449, 76.433, 108.851, 137.281),
        3_966_664,
    ),
    "CIFAR-100 anytime 7": (
        lambda: MSDNet.cifar(100, exits=7, **EVEN),
        (4, 2, 2, 2, 2, 2, 2),
        (15.140, 25.506, 37.096, 46.331, 57.336, 66.961, 75.938),
        3_067_960,
    ),
    "CIFAR-10 anytime 10": (
        lambda: MSDNet.cifar(10, exits=10, **EVEN),
        (4, *[2] * 9),
        (15.129, 25.483, 37.754, 52.015, 62.124, 74.001, 87.648, 99.946, 110.017, 121.563),
        4_839_544,
    ),
    "CIFAR-100 anytime 10": (
        lambda: MSDNet.cifar(100, exits=10, **EVEN),
        (4, *[2] * 9),
        (15.140, 25.506, 37.788, 52.062, 62.182, 74.071, 87.730, 100.039, 110.122, 121.679),
        4_955_644,
    ),
    "ImageNet step 4": (
        lambda: MSDNet.imagenet(step=4),
        (4,) * 5,
        (339.903, 685.457, 1008.156, 1254.473, 1360.530),
        23_958_440,
    ),
    "ImageNet step 7": (
        lambda: MSDNet.imagenet(step=7),
        (7,) * 5,
        (615.693, 1436.392, 2283.210, 2967.421, 3253.794),
        62_314_472,
    ),
    "ImageNet step 4, 64 channels": (
        lambda: MSDNet.imagenet(step=4, channels=64),
        (4,) * 5,
        (590.465, 1020.773, 1378.761, 1636.702, 1746.849),
        29_726_408,
    ),
}

CUMULATIVE_PARAMETERS = {
    "CIFAR-100 budgeted 5": (299704, 649740, 1018308, 1492424, 2078924),
    "CIFAR-10 budgeted 5": (288094, 626520, 983478, 1445984, 2020874),
    "CIFAR-100 anytime 7": (433876, 876792, 1274952, 1695548, 2178352, 2603252, 3067960),
    "CIFAR-10 anytime 10": (422266, 853572, 1346798, 1781396, 2221486, 2723784, 3288290, 3772068, 4273550, 4839544),
    "ImageNet step 4": (4238504, 8772240, 13073272, 16748416, 23958440),
    "ImageNet step 7": (8759240, 20154896, 31730040, 41860288, 62314472),
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
    build, blocks, flops, parameters = PUBLISHED[request.param]
    return request.param, build(), blocks, flops, parameters


def size_of(model):
    return model.config.size or 16


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameters(published):
    name, model, blocks, _, total = published
    assert model.config.blocks == blocks
    assert parameters(model) == total
    if name in CUMULATIVE_PARAMETERS:
        running, seen = parameters(model.stem), []
        for block, head in zip(model.blocks, model.heads, strict=True):
            running += parameters(block) + parameters(head)
            seen.append(running)
        assert tuple(seen) == CUMULATIVE_PARAMETERS[name]


def test_published_costs(published):
    _, model, _, flops, _ = published
    costs = model.exit_costs(size_of(model), convention="published")
    assert [cost / 1e6 for cost in costs] == pytest.approx(flops, abs=6e-4)


def test_three_conventions_on_cifar_100_and_imagenet():
    model = PUBLISHED["CIFAR-100 budgeted 5"][0]()
    trunk = [4.568, 8.875, 19.425, 29.231, 41.509]
    lazy_trunk = [3.693, 7.311, 16.649, 28.027, 41.509]
    heads = [2.225, 3.109, 2.520, 4.289, 4.436]
    passed = [sum(heads[: k + 1]) for k in range(5)]
    in_millions = lambda convention: [cost / 1e6 for cost in model.exit_costs(32, convention=convention)]  # noqa: E731
    assert in_millions("macs") == pytest.approx([a + b for a, b in zip(trunk, passed, strict=True)], abs=3e-3)
    assert in_millions("lazy") == pytest.approx([a + b for a, b in zip(lazy_trunk, passed, strict=True)], abs=3e-3)
    model = MSDNet.imagenet(step=7)
    macs = [cost / 1e6 for cost in model.exit_costs(224)]
    lazy = [cost / 1e6 for cost in model.exit_costs(224, convention="lazy")]
    assert macs == pytest.approx([612.031, 1430.810, 2276.389, 2959.943, 3246.182], abs=1.5e-3)
    assert lazy == pytest.approx([502.046, 1334.874, 2220.192, 2959.943, 3246.182], abs=1.5e-3)


def test_tiny_is_the_measured_recipe():
    model = MSDNet.tiny()
    assert parameters(model) == 138_336
    assert parameters(MSDNet.tiny(in_channels=1)) == 138_192
    in_millions = lambda convention: [cost / 1e6 for cost in model.exit_costs(16, convention=convention)]  # noqa: E731
    assert in_millions("macs") == pytest.approx([0.58, 1.64, 3.57, 5.96], abs=6e-3)
    assert in_millions("lazy") == pytest.approx([0.42, 1.44, 3.57, 5.96], abs=6e-3)


def test_papers_own_imagenet_layout():
    assert MSDNet.imagenet(step=4, base=7, channels=64).config.blocks == (7, 4, 4, 4, 4)  # 23 layers


def exit_by_exit(model, x, *, lazy):
    state = model.start(x)
    return (model.advance(state, k, lazy=lazy) for k in range(model.exits))


@pytest.mark.parametrize(("convention", "lazy"), [("macs", False), ("lazy", True)])
def test_costs_agree_with_the_counter_that_watches_the_operators(convention, lazy):
    model = MSDNet.tiny().eval()
    x = torch.zeros(1, 3, 16, 16)

    class UpTo(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.model, self.k = model, k

        def forward(self, x):
            return next(islice(exit_by_exit(self.model, x, lazy=lazy), self.k, None))

    counted = [measure.count_macs(UpTo(k), x) for k in range(4)]
    assert counted == model.exit_costs(16, convention=convention)


def shapes_after_blocks(model, size):
    state, shapes = model.start(torch.zeros(1, 3, size, size)), []
    for k in range(model.exits):
        model.advance(state, k, lazy=False)
        shapes.append([tuple(features.shape[1:3]) for features in state if features is not None])
    return shapes


def test_shapes_after_each_block_of_cifar_100():
    assert shapes_after_blocks(PUBLISHED["CIFAR-100 budgeted 5"][0]().eval(), 32) == [
        [(22, 32), (44, 16), (88, 8)],
        [(34, 32), (68, 16), (136, 8)],
        [(52, 16), (104, 8)],
        [(100, 16), (200, 8)],
        [(208, 8)],
    ]


def test_shapes_after_each_block_of_imagenet():
    with torch.device("meta"):
        model = MSDNet.imagenet(step=7)
        assert shapes_after_blocks(model, 224) == [
            [(144, 56), (288, 28), (576, 14), (576, 7)],
            [(320, 28), (640, 14), (640, 7)],
            [(608, 14), (608, 7)],
            [(528, 7)],
            [(976, 7)],
        ]


def sharpened(model, seed=0):
    """Random weights give near-uniform answers; larger ones give confidences worth comparing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in model.heads:
            head.linear.weight.copy_(torch.randn(head.linear.weight.shape, generator=generator) * 2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) * 0.5 + 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return sharpened(MSDNet.tiny())


@pytest.fixture(scope="module")
def images():
    return torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def all_logits(model, images):
    with torch.no_grad():
        return model(images)


@pytest.fixture(scope="module")
def thresholds(all_logits):
    scores = torch.stack([decision.confidence(logits) for logits in all_logits], 1)
    return decision.find_thresholds(scores, decision.exit_shares(0.8, 4))


def test_channels_grow_by_the_same_factors_at_every_scale(published):
    _, model, _, _, _ = published
    running = model.config.channels
    for layer in model.layers:
        wide = running + model.config.growth
        for s, node in enumerate(layer.nodes, start=layer.first):
            new = sum(path[3].out_channels for path in (node.normal, node.down) if path is not None)
            assert node.normal[0].in_channels == running * model.config.factors[s]
            assert running * model.config.factors[s] + new == wide * model.config.factors[s]
        running = wide // 2 if layer.squeeze else wide
        assert layer.channels == running


def test_removing_early_heads_leaves_late_logits_unchanged(model, images, all_logits):
    for k in range(4):
        with torch.no_grad():
            assert torch.equal(model.at_exit(images, k), all_logits[k])


@pytest.mark.parametrize("build", [MSDNet.tiny, lambda: MSDNet.cifar(10, exits=5, **LINEAR)])
def test_lazy_equals_full_and_never_costs_more(build):
    model = sharpened(build())
    size = size_of(model)
    x = torch.rand(3, 3, size, size)
    with torch.no_grad():
        full, lazy = list(exit_by_exit(model, x, lazy=False)), list(model.anytime(x))
    for a, b in zip(full, lazy, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(model.exit_costs(size, convention="lazy"), model.exit_costs(size), strict=True):
        assert a <= b
    assert model.exit_costs(size, convention="lazy")[-1] == model.exit_costs(size)[-1]  # one scale is left at the end


def test_lazy_runs_every_node_once(published):
    _, model, _, _, _ = published
    full = sorted(node for k in range(model.exits) for node in model.nodes(k, lazy=False))
    lazy = sorted(node for k in range(model.exits) for node in model.nodes(k, lazy=True))
    assert lazy == full == sorted({*full})


def test_anytime_stops_without_computing_further(model, images):
    ran = []
    hooks = [block.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, block in enumerate(model.blocks)]
    answers = model.anytime(images)
    next(answers), next(answers)
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]


def test_pruned_or_pending_node_does_not_touch_the_exit(model, images, all_logits):
    changed = copy.deepcopy(model)
    layer, s = next(node for node in model.nodes(0, lazy=False) if node not in model.nodes(0, lazy=True))
    with torch.no_grad():
        changed.layers[layer - 1].nodes[s].normal[0].weight.add_(1.0)
        logits = changed(images)
    assert torch.equal(logits[0], all_logits[0])
    assert not torch.allclose(logits[-1], all_logits[-1])


def test_every_parameter_gets_a_gradient():
    model = MSDNet.tiny()
    sum(logits.square().sum() for logits in model(torch.rand(4, 3, 16, 16))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("kind", ["max_softmax", "entropy", "margin"])
def test_infer_equals_simulation(model, images, all_logits, kind):
    scores = torch.stack([decision.confidence(logits, kind) for logits in all_logits], 1)
    bar = decision.find_thresholds(scores, decision.exit_shares(0.9, 4))
    wanted, exits = decision.simulate(all_logits, bar, confidence=kind)
    got = model.infer(images, bar, confidence=kind)
    assert got.exit_index.bincount(minlength=4).min() > 0
    assert torch.equal(got.exit_index, exits)
    torch.testing.assert_close(got.logits, wanted, atol=1e-5, rtol=1e-5)
    costs = torch.tensor(model.exit_costs(16, convention="lazy"), dtype=torch.float64)
    assert torch.equal(got.macs, costs[exits])


def rows_entering(model, run):
    """For each block, the rows of the state it is given."""
    rows = [[] for _ in model.blocks]
    hooks = [
        block.register_forward_pre_hook(lambda _, args, k=k: rows[k].append(len(args[0][-1])))
        for k, block in enumerate(model.blocks)
    ]
    result = run()
    for hook in hooks:
        hook.remove()
    return rows, result


def test_finished_images_are_not_computed(model, images, thresholds):
    rows, result = rows_entering(model, lambda: model.infer(images, thresholds))
    left = result.exit_index.bincount(minlength=4).cumsum(0)
    assert rows == [[40], [40 - int(left[0])], [40 - int(left[1])], [40 - int(left[2])]]
    assert rows[0] > rows[1] > rows[2] > rows[3]


def test_convolutions_see_no_finished_image_and_no_pending_node(model, images, thresholds):
    seen = {}

    def note(module, args):
        seen[module] = seen.get(module, 0) + len(args[0])

    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(note) for m in convs]
    result = model.infer(images, thresholds)
    for hook in hooks:
        hook.remove()
    reached = [int((result.exit_index >= k).sum()) for k in range(4)]
    expected = {conv[0]: reached[0] for conv in model.stem}
    for k in range(4):
        expected |= {m: reached[k] for m in model.heads[k].modules() if isinstance(m, nn.Conv2d)}
        for layer, s in model.nodes(k):
            for path in model.layers[layer - 1].parts(s):
                expected |= {m: reached[k] for m in path if isinstance(m, nn.Conv2d)}
    assert seen == expected


def test_all_at_the_first_exit_and_none_early(model, images, all_logits):
    rows, first = rows_entering(model, lambda: model.infer(images, [0.0] * 4))
    assert rows == [[40], [], [], []]
    assert first.exit_index.tolist() == [0] * 40
    assert first.macs.tolist() == [model.exit_costs(16, convention="lazy")[0]] * 40
    assert torch.equal(first.logits, all_logits[0])
    last = model.infer(images, [2.0, 2.0, 2.0, 2.0])  # the last threshold is ignored
    assert last.exit_index.tolist() == [3] * 40
    torch.testing.assert_close(last.logits, all_logits[3])


def test_empty_batch_and_batch_of_one(model, images, thresholds):
    empty = model.infer(images[:0], thresholds)
    assert empty.logits.shape == (0, 10) and empty.exit_index.shape == (0,) and empty.macs.shape == (0,)
    whole = model.infer(images, thresholds)
    for i in range(5):
        single = model.infer(images[i : i + 1], thresholds)
        assert single.exit_index == whole.exit_index[i]
        torch.testing.assert_close(single.logits[0], whole.logits[i], atol=1e-5, rtol=1e-5)


def test_ties_leave_together(model, images):
    repeated = images[:1].expand(6, -1, -1, -1)
    with torch.no_grad():
        confidence = decision.confidence(model.at_exit(repeated, 0))
    result = model.infer(repeated, [float(confidence.min()), 2.0, 2.0, 0.0])
    assert result.exit_index.tolist() == [0] * 6


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9),
    batch_size=st.integers(1, 12),
    max_wait=st.integers(0, 4),
)
def test_stream_answers_as_infer_within_the_bound(model, images, thresholds, sizes, batch_size, max_wait):
    batches = list(images[: sum(sizes)].split(sizes)) if sum(sizes) <= 40 else list(images.split(7))
    results = list(model.infer_stream(iter(batches), thresholds, batch_size=batch_size, max_wait=max_wait))
    assert len(results) == len(batches)
    for batch, result in zip(batches, results, strict=True):
        alone = model.infer(batch, thresholds)
        assert torch.equal(result.exit_index, alone.exit_index)
        torch.testing.assert_close(result.logits, alone.logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(result.macs, alone.macs)
        assert (result.waited <= max_wait).all() and (result.waited >= 0).all()


def test_stream_runs_full_batches(model, images, thresholds):
    results = lambda: list(model.infer_stream(images.split(5), thresholds, batch_size=8))  # noqa: E731
    rows, answers = rows_entering(model, results)
    reached = [int((torch.cat([a.exit_index for a in answers]) >= k).sum()) for k in range(4)]
    for k in range(4):
        assert sum(rows[k]) == reached[k]
        assert all(r == 8 for r in rows[k][:-1])  # only the end of the stream may leave a part


def test_stream_is_lazy_and_in_time(model, images, thresholds):
    """A result is out as soon as its bound is reached: after `max_wait` later batches the source is not read again."""
    read = []

    def source():
        for i, batch in enumerate(images.split(4)):
            read.append(i)
            yield batch

    answers = model.infer_stream(source(), thresholds, batch_size=40, max_wait=2)
    next(answers)
    assert read == [0, 1, 2]


def test_folded_batchnorm_answers_the_same(model, images, thresholds):
    folded = measure.fold_batchnorm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert folded.exit_costs(16, convention="lazy") == model.exit_costs(16, convention="lazy")
    a, b = folded.infer(images, thresholds), model.infer(images, thresholds)
    assert (a.exit_index == b.exit_index).float().mean() > 0.9  # a confidence on the threshold may fall to either side
    same = a.exit_index == b.exit_index
    torch.testing.assert_close(a.logits[same], b.logits[same], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("build", [MSDNet.tiny, lambda: MSDNet.cifar(10, exits=5, **LINEAR)])
def test_official_checkpoint_names(build):
    """Weights under the released names come back under ours, wherever they belong."""
    from course_lib.instance.msdnet import _official_names

    source, target = sharpened(build(), seed=3), build()
    table = dict(_official_names(source))
    official = {
        f"module.{table[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in source.state_dict().items()
    }
    assert len(official) == len(source.state_dict())
    size = size_of(source)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        for a, b in zip(source(x), target.load_official(official).eval()(x), strict=True):
            assert torch.equal(a, b)
    before = copy.deepcopy(target.state_dict())
    missing = dict(list(official.items())[1:])
    with pytest.raises(ValueError, match=r"state_dict: got nothing for 'blocks\.0\.0\.layers\.0\.net\.0\.weight'"):
        target.load_official(missing)
    with pytest.raises(ValueError, match="names this configuration has not, such as 'blocks.99"):
        target.load_official({**official, "blocks.99.weight": torch.zeros(1)})
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_official_names_of_a_known_layout():
    """A few names written out by hand, squeeze and large stem among them."""
    from course_lib.instance.msdnet import _official_names

    names = dict(_official_names(MSDNet.cifar(100, exits=5, **LINEAR)))
    assert names["stem.2.1"] == "blocks.0.0.layers.2.net.1"
    assert names["blocks.0.layers.0.nodes.1.down.3"] == "blocks.0.1.layers.1.conv_down.net.3"
    # layer 6 is the third of the third block and drops a scale; its squeeze stands behind it in their list
    assert names["blocks.2.layers.2.squeeze.1.0"] == "blocks.2.3.m.1.net.0"
    assert names["heads.4.linear"] == "classifier.4.linear"
    with torch.device("meta"):
        names = dict(_official_names(MSDNet.imagenet(step=4)))
    assert names["stem.0.0"] == "blocks.0.0.layers.0.0"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 16, 16), r"x: got shape \(3, 16, 16\), expected \(N, 3, H, W\)"),
        (torch.zeros(2, 1, 16, 16), r"x: got shape \(2, 1, 16, 16\), expected \(N, 3, H, W\)"),
        (torch.zeros(2, 3, 16, 12), "size: got 16x12 pixels, expected a square"),
        (torch.zeros(2, 3, 18, 18), "size: got 18x18 pixels, expected a square with a side of 8, 12, 16"),
        (torch.zeros(2, 3, 4, 4), "size: got 4x4"),
    ],
)
def test_wrong_images(model, x, message):
    with pytest.raises(ValueError, match=message):
        model(x)
    with pytest.raises(ValueError, match=message):
        model.infer(x, [0.5] * 4)


def test_wrong_arguments(model, images):
    with pytest.raises(ValueError, match="expected 32x32"):
        MSDNet.cifar(10, exits=5, **LINEAR).exit_costs(28)
    with pytest.raises(ValueError, match=r"thresholds: got shape \(3,\), expected one value for each of 4 exits"):
        model.infer(images, [0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="NaN"):
        model.infer(images, [float("nan")] * 4)
    with pytest.raises(ValueError, match="kind: got 'surprise'"):
        model.infer(images, [0.5] * 4, confidence="surprise")
    with pytest.raises(ValueError, match="convention: got 'flops'"):
        model.exit_costs(16, convention="flops")
    with pytest.raises(ValueError, match="growth: got 'odd'"):
        MSDNet.cifar(10, exits=5, base=1, step=1, growth="odd")
    with pytest.raises(ValueError, match="classes: got 0"):
        MSDNet.tiny(0)
    with pytest.raises(ValueError, match="blocks: got 2 layers"):
        MSDNet(MSDNetConfig((1, 1), (1, 2, 4), 8, 4, 10))
    with pytest.raises(ValueError, match="batch_size: got 0"):
        model.infer_stream([images], [0.5] * 4, batch_size=0)
    with pytest.raises(ValueError, match="max_wait: got -1"):
        model.infer_stream([images], [0.5] * 4, batch_size=2, max_wait=-1)


def test_training_mode_is_refused(images):
    with pytest.raises(RuntimeError, match="training mode"):
        MSDNet.tiny().infer(images, [0.5] * 4)


@pytest.mark.parametrize("broken_exit", [0, 3])
def test_nan_logits_are_an_error_at_any_exit(model, images, broken_exit):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.heads[broken_exit].linear.bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN in 40 of 40 rows"):
        broken.infer(images, [2.0, 2.0, 2.0, 0.0])


def test_budget_from_validation_holds_on_validation(model, images, all_logits):
    scores = torch.stack([decision.confidence(logits) for logits in all_logits], 1)
    costs = model.exit_costs(16, convention="lazy")
    previous = 0.0
    for rho in (0.0, 0.3, 1.0, 1.9, float("inf")):
        shares = decision.exit_shares(rho, 4)
        result = model.infer(images, decision.find_thresholds(scores, shares))
        realised = result.exit_index.bincount(minlength=4) / 40
        assert (realised - shares).abs().max() <= 3 / 40  # ties and the floor at each of three exits
        assert float(result.macs.mean()) >= previous
        previous = float(result.macs.mean())
        assert costs[0] <= previous <= costs[-1]
