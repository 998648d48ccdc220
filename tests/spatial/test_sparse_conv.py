"""Masked layers and blocks equal the dense ones where they are active, compute no more, refuse what does not fit."""

import copy
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from course_lib import kernels, measure
from course_lib.spatial import sparse_conv
from course_lib.spatial.sparse_conv import DensityEstimate, MaskedBottleneck, MaskedConv2d, SpatialMasker, random_mask

LAST = torch.channels_last


def dense_block(stride=1, *, cin=16, width=4, groups=1, dilation=1, double=False):
    """torchvision's Bottleneck in eval mode, its BatchNorms as if it had been trained."""
    models = pytest.importorskip("torchvision").models
    downsample = None
    if stride > 1 or cin != 4 * width:
        downsample = nn.Sequential(nn.Conv2d(cin, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
    block = models.resnet.Bottleneck(cin, width, stride, downsample, groups, 64, dilation)
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
    return block.double().eval() if double else block.eval()


def full(cells, s, size):
    """A mask of cells, position by position."""
    return cells.repeat_interleave(s, 2).repeat_interleave(s, 3)[:, :, : size[0], : size[1]]


def defined(block, x, mask):
    """relu(identity + mask * F(x)), by the dense block's own layers."""
    h = block.relu(block.bn1(block.conv1(x)))
    y = block.bn3(block.conv3(block.relu(block.bn2(block.conv2(h)))))
    return ((x if block.downsample is None else block.downsample(x)) + y * mask).relu()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def eager_to_skip(monkeypatch):
    """Blocks as small as those of these tests are not too small for "auto"."""
    monkeypatch.setattr(sparse_conv, "_SMALL", 0)


@pytest.fixture
def poison(monkeypatch):
    """What is allocated without a value holds NaN, or a number no list should hold."""
    from torch._dynamo import trace_rules

    trace_rules.get_torch_obj_rule_map()  # the compiler's table of known functions, made before any is replaced

    def poisoned(make):
        def call(*args, **kwargs):
            made = make(*args, **kwargs)
            return made.fill_(float("nan") if made.is_floating_point() else 1 if made.dtype == torch.bool else 99)

        return call

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


# Convolution ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("backend", ["auto", "gather", "dense", "reference"])
def test_conv_is_the_dense_one_where_active(backend, padding_mode, poison):
    conv = MaskedConv2d(6, 8, 3, stride=2, padding=1, groups=2, padding_mode=padding_mode)
    conv.backend = backend
    x, cells = torch.randn(2, 6, 9, 11), torch.rand(2, 1, 3, 3) < 0.5
    mask = full(cells, 2, (5, 6))
    want = nn.Conv2d.forward(conv, x)
    got = conv(x, cells, granularity=2)
    assert torch.allclose(got, want * mask, atol=1e-5)
    assert not got[(~mask).expand_as(got)].any()
    assert torch.equal(conv(x, kernels.ActiveSet.from_mask(cells, granularity=2, size=(5, 6))), got)
    assert torch.allclose(conv(x), want, atol=1e-6)


def test_conv_has_the_state_of_a_conv():
    plain = nn.Conv2d(4, 6, 3, bias=True)
    masked = MaskedConv2d(4, 6, 3, bias=True)
    assert masked.state_dict().keys() == plain.state_dict().keys()
    masked.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(copy.deepcopy(masked)(x), plain(x))
    plain.load_state_dict(masked.state_dict())


def test_a_learned_mask_gets_its_gradient_everywhere():
    """Also where it is 0: from dense features."""
    conv = MaskedConv2d(3, 5, 3, padding=1)
    x, mask = torch.randn(1, 3, 6, 6), torch.zeros(1, 1, 3, 3, requires_grad=True)
    conv(x, mask, granularity=2).sum().backward()
    per_cell = functional.conv2d(x, conv.weight, conv.bias, padding=1).sum(1).unfold(1, 2, 2).unfold(2, 2, 2)
    assert torch.allclose(mask.grad[0, 0], per_cell.sum((-1, -2))[0], atol=1e-5)
    assert mask.grad.abs().min() > 0


# Block ---------------------------------------------------------------------------------------------------------------

KINDS = {
    "plain": {},
    "stride 2": {"stride": 2},
    "wider": {"cin": 8},
    "groups": {"groups": 2, "width": 4},
    "dilated": {"dilation": 2},
}


@pytest.mark.parametrize("folded", [False, True], ids=["norm", "folded"])
@pytest.mark.parametrize("kind", KINDS)
def test_block_equals_dense_times_mask(kind, folded, poison, eager_to_skip):
    """Any density and cell, in place or not, through gradients' path or not, every backend of this machine."""
    block = dense_block(**KINDS[kind])
    x = torch.randn(3, block.conv1.in_channels, 11, 10)
    for backend in ("auto", "gather", "dense", "reference"):
        masked = MaskedBottleneck.from_dense(block, backend=backend)
        if folded:
            assert masked.fold_bn_() is masked
        size = masked.out_size((11, 10))
        for s, density in ((1, 0.1), (1, 0.5), (2, 0.3), (4, 0.0), (4, 0.6), (4, 1.0)):
            cells = torch.rand(3, 1, -(-size[0] // s), -(-size[1] // s)) < density
            if density == 0.6:
                cells[0], cells[1] = False, True  # one sample empty, one full
            want = defined(block, x, full(cells, s, size))
            for inplace in (False, True):
                for grad in (False, True):
                    with torch.set_grad_enabled(grad):
                        got = masked(x.contiguous(memory_format=LAST), cells, granularity=s, inplace=inplace)
                    assert torch.allclose(got, want, atol=1e-4), (backend, s, density, inplace, grad)
                    assert not got.isnan().any()


@settings(max_examples=25)
@given(
    stride=st.integers(1, 2),
    side=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    n=st.integers(0, 3),
    s=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_block_any_shape(stride, side, n, s, seed):
    torch.manual_seed(seed)
    block = dense_block(stride, double=True)
    masked = MaskedBottleneck.from_dense(block, backend="gather").fold_bn_()
    x, size = torch.randn(n, 16, *side, dtype=torch.float64), masked.out_size(side)
    cells = torch.rand(n, 1, -(-size[0] // s), -(-size[1] // s)) < 0.4
    with torch.no_grad():
        assert torch.allclose(masked(x, cells, granularity=s), defined(block, x, full(cells, s, size)), atol=1e-10)


LAYOUTS = {
    "channels first": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=LAST),
    "sliced": lambda x: torch.cat([x, x], 1)[:, :16],
    "every second row": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded batch": lambda x: x[:1].expand(len(x), -1, -1, -1),
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["auto", "gather", "dense"])
def test_block_takes_any_layout_and_leaves_its_input_alone(layout, backend, eager_to_skip):
    block = dense_block()
    masked = MaskedBottleneck.from_dense(block, backend=backend).fold_bn_()
    x = LAYOUTS[layout](torch.randn(2, 16, 8, 8))
    before, mask = x.clone(), torch.rand(2, 1, 8, 8) < 0.3
    with torch.no_grad():
        got = masked(x, mask)
        assert torch.allclose(got, defined(block, x, mask), atol=1e-4)
    assert torch.equal(x, before)
    assert got.data_ptr() != x.data_ptr()


def test_in_place_it_returns_the_input():
    masked = MaskedBottleneck.from_dense(dense_block(), backend="gather").fold_bn_()
    x = torch.randn(1, 16, 8, 8).contiguous(memory_format=LAST)
    with torch.no_grad():
        assert masked(x, torch.rand(1, 1, 8, 8) < 0.3, inplace=True) is x


@pytest.mark.parametrize("stride", [1, 2])
def test_it_costs_what_is_active(stride, eager_to_skip):
    """conv1 on the halo, conv2 and conv3 on the mask; everything where everything is active."""
    block = dense_block(stride)
    masked = MaskedBottleneck.from_dense(block, backend="gather").fold_bn_().requires_grad_(False)
    x = torch.randn(1, 16, 8, 8)
    mask = torch.zeros(1, 1, 8 // stride, 8 // stride)
    mask[0, 0, 2, 1] = 1
    shortcut = 0 if stride == 1 else 16 * 16 * 16
    with torch.no_grad():
        assert measure.count_macs(masked, x, mask) == 9 * 64 + 9 * 16 + 64 + shortcut
        everything = measure.count_macs(block, x)
        for backend in ("auto", "dense", "gather"):
            masked.backend = backend
            assert measure.count_macs(masked, x, torch.ones_like(mask)) == everything


def test_a_learned_mask_is_trained_on_dense_features():
    """dL/dm[p] = <dL/dy[p], F(x)[p]> where the sum passes the ReLU, at skipped positions, too."""
    block = dense_block(2)
    masked = MaskedBottleneck.from_dense(block)
    x, mask = torch.randn(2, 16, 8, 8), (torch.rand(2, 1, 4, 4) < 0.5).float().requires_grad_()
    y = masked(x, mask)
    y.sum().backward()
    with torch.no_grad():
        branch = block.bn3(block.conv3(block.relu(block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x))))))))
        want = (branch * (y > 0)).sum(1, keepdim=True)
    assert torch.allclose(mask.grad, want, atol=1e-4)
    assert (mask.grad[mask == 0] != 0).any()


def test_statistics_are_those_of_unmasked_features():
    block = dense_block().train()
    masked = MaskedBottleneck.from_dense(block)
    assert masked.training
    x = torch.randn(2, 16, 6, 6)
    block(x)
    masked(x, torch.zeros(2, 1, 6, 6))
    for k in (1, 2, 3):
        got, want = (getattr(b, f"bn{k}").running_mean for b in (masked, block))
        assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("backend", ["gather", "dense"])
def test_a_given_mask_trains_the_rest(backend):
    """Gradients of input and weights through skipped work, in float64."""
    block = dense_block(width=2, cin=8, double=True)
    masked = MaskedBottleneck.from_dense(block, backend=backend)
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(1, 1, 2, 3) < 0.5
    weights = [p.requires_grad_() for p in masked.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: masked(x, mask, granularity=2), (x, *weights), fast_mode=True)


def test_state_dict_is_torchvisions_until_folded():
    block = dense_block(2)
    masked = MaskedBottleneck.from_dense(dense_block(2))
    assert masked.state_dict().keys() == block.state_dict().keys()
    masked.load_state_dict(block.state_dict())
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        assert torch.allclose(masked(x, torch.ones(1, 1, 4, 4)), block(x), atol=1e-5)
    assert block.conv1.weight.data_ptr() != masked.conv1.weight.data_ptr()
    twin = copy.deepcopy(masked.fold_bn_())
    assert torch.equal(twin.conv3.weight, masked.conv3.weight)
    assert not any("bn" in name for name in masked.state_dict())
    assert torch.equal(masked.fold_bn_().conv1.weight, twin.conv1.weight)  # a second time changes nothing


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiles_without_a_break(backend, eager_to_skip):
    if backend == "inductor" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler for Inductor's code")
    masked = MaskedBottleneck.from_dense(dense_block()).fold_bn_().requires_grad_(False)
    x, mask = torch.randn(1, 16, 8, 8), torch.rand(1, 1, 2, 2) < 0.5
    compiled = torch.compile(masked, fullgraph=True, backend=backend)
    with torch.no_grad():
        assert torch.allclose(compiled(x, mask, granularity=4), masked(x, mask, granularity=4), atol=1e-5)


def test_autocast_computes_in_its_own_type():
    masked = MaskedBottleneck.from_dense(dense_block(), backend="gather").fold_bn_()
    x, mask = torch.randn(1, 16, 8, 8), torch.rand(1, 1, 8, 8) < 0.5
    with torch.no_grad():
        want = masked(x, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.allclose(masked(x, mask).float(), want, atol=0.1, rtol=0.05)


# Choosing ------------------------------------------------------------------------------------------------------------


def test_auto_switches_late_in_both_directions(monkeypatch, eager_to_skip):
    masked = MaskedBottleneck.from_dense(dense_block(), break_even=0.5).fold_bn_()
    calls = []
    monkeypatch.setattr(
        masked, "_everything", lambda x: calls.append("dense") or MaskedBottleneck._everything(masked, x)
    )
    monkeypatch.setattr(masked, "_sparse", lambda *a: calls.append("sparse") or MaskedBottleneck._sparse(masked, *a))
    x = torch.randn(1, 16, 10, 10)
    with torch.no_grad():
        for number in (0, 45, 52, 58, 52, 48, 42, 48, 100):
            masked(x, (torch.arange(100) < number).view(1, 1, 10, 10))
    assert calls == ["sparse"] * 3 + ["dense"] * 3 + ["sparse"] * 2 + ["dense"]


def test_auto_does_not_bother_with_small_blocks():
    """17,408 multiply-adds are over before a list is made."""
    masked = MaskedBottleneck.from_dense(dense_block(), backend="auto").fold_bn_().requires_grad_(False)
    x, mask = torch.randn(1, 16, 8, 8), torch.zeros(1, 1, 8, 8)
    with torch.no_grad():
        assert measure.count_macs(masked, x, mask) == (16 * 4 + 9 * 16 + 4 * 16) * 64
        assert torch.allclose(masked(x, mask), x.relu(), atol=1e-6)


def test_estimates_can_be_copied():
    estimate = DensityEstimate(0.3)
    estimate.prefers_dense(torch.ones(4, dtype=torch.bool))
    twin = copy.deepcopy(estimate)
    assert twin.break_even == 0.3 and not twin.dense
    assert not DensityEstimate().prefers_dense(torch.zeros(0, dtype=torch.bool))


def test_random_masks_are_exact_and_discs_hang_together():
    generator = torch.Generator().manual_seed(0)
    for shape in ("scattered", "disc"):
        mask = random_mask(5, (30, 41), 0.25, cell=4, shape=shape, generator=generator)
        assert mask.shape == (5, 1, 8, 11) and (mask.sum((1, 2, 3)) == 22).all()
    halo = kernels.ActiveSet.from_mask(random_mask(9, (56, 56), 0.25, shape="disc", generator=generator)).dilate(
        3, 1, 1
    )
    assert 0.27 < halo.density() < 0.31
    with pytest.raises(ValueError, match="density"):
        random_mask(1, (4, 4), 1.5)
    with pytest.raises(ValueError, match="shape"):
        random_mask(1, (4, 4), 0.5, shape="ring")


# Masker --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "granularity", "stride", "cells"), [
    ((8, 8), 4, 1, (2, 2)), ((8, 8), 2, 2, (2, 2)), ((9, 7), 2, 2, (3, 2)), ((5, 5), 1, 1, (5, 5)),
])  # fmt: skip
def test_masker_decides_cell_by_cell(size, granularity, stride, cells):
    masker = SpatialMasker(6, granularity=granularity, stride=stride, bias=0.0).eval()
    x = torch.randn(2, 6, *size)
    mask = masker(x)
    assert mask.dtype == torch.bool and mask.shape == (2, 1, *cells)
    pooled = functional.avg_pool2d(x, granularity * stride, ceil_mode=True, count_include_pad=False)
    on, off = masker.conv(pooled).chunk(2, 1)
    assert torch.allclose(masker.logits(x), torch.cat([on, off], 1), atol=1e-5)
    assert torch.equal(mask, on - off >= 0)


def test_masker_in_training_draws_bits_with_a_gradient():
    masker = SpatialMasker(4, granularity=2, groups=3)
    x = torch.randn(5, 4, 8, 8)
    mask = masker(x, 0.7, generator=torch.Generator().manual_seed(1))
    assert mask.shape == (5, 3, 4, 4) and set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.mean() > 0.9  # the bias of "compute" starts at 5
    mask.sum().backward()
    assert masker.conv.weight.grad.abs().sum() > 0
    assert torch.equal(mask, masker(x, 0.7, generator=torch.Generator().manual_seed(1)))


def test_a_tie_is_computed():
    masker = SpatialMasker(4, granularity=2).eval()
    nn.init.zeros_(masker.conv.weight)
    nn.init.zeros_(masker.conv.bias)
    assert masker(torch.randn(1, 4, 4, 4)).all()


# Bad input -----------------------------------------------------------------------------------------------------------

X = torch.randn(2, 16, 8, 8)


@pytest.mark.parametrize("backend", ["auto", "dense", "reference"])
@pytest.mark.parametrize(
    ("x", "mask", "how", "error", "message"),
    [
        (X, torch.ones(2, 1, 4, 4), {}, ValueError, "mask: got shape (2, 1, 4, 4)"),
        (X, torch.ones(2, 1, 8, 8), {"granularity": 2}, ValueError, "expected (2, 1, 4, 4)"),
        (X, torch.ones(1, 1, 8, 8), {}, ValueError, "expected (2, 1, 8, 8)"),
        (X, torch.ones(2, 8, 8), {}, ValueError, "mask: got"),
        (X[0], torch.ones(2, 1, 8, 8), {}, ValueError, "x: got shape (16, 8, 8)"),
        (X, torch.ones(2, 1, 8, 8, dtype=torch.complex64), {}, TypeError, "mask: got torch.complex64"),
        (X, torch.ones(2, 1, 8, 8, device="meta"), {}, ValueError, "mask: got one on meta"),
    ],
)
def test_bad_masks(x, mask, how, error, message, backend):
    masked = MaskedBottleneck.from_dense(dense_block(), backend=backend)
    with pytest.raises(error) as raised:
        masked(x, mask, **how)
    assert message in str(raised.value)


def test_bad_blocks_and_backends():
    with pytest.raises(TypeError, match="Linear with conv1 None"):
        MaskedBottleneck.from_dense(nn.Linear(3, 3))
    block = dense_block()
    block.conv1 = nn.Conv2d(16, 4, 1, stride=2)
    with pytest.raises(ValueError, match="conv1"):
        MaskedBottleneck.from_dense(block)
    masked = MaskedBottleneck.from_dense(dense_block(), backend="triton")
    with pytest.raises(RuntimeError, match="triton"), torch.no_grad():
        masked(X, torch.ones(2, 1, 8, 8))
    with pytest.raises(RuntimeError, match="eval"):
        MaskedBottleneck.from_dense(dense_block().train()).fold_bn_()
    with pytest.raises(ValueError, match="granularity"):
        SpatialMasker(4, granularity=0)
    other = kernels.ActiveSet.from_mask(torch.ones(2, 1, 4, 4), granularity=2)
    with pytest.raises(ValueError, match="has 2"), torch.no_grad():
        MaskedBottleneck.from_dense(dense_block())(X, other, granularity=4)


# On a GPU ------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_and_a_graph_takes_another_mask():
    masked = MaskedBottleneck.from_dense(dense_block(cin=64, width=16), backend="triton").fold_bn_()
    masked = masked.cuda().half().requires_grad_(False)
    x = torch.randn(4, 64, 16, 16, device="cuda", dtype=torch.float16).contiguous(memory_format=LAST)
    masks = [torch.rand(4, 1, 4, 4, device="cuda") < d for d in (0.2, 0.7)]
    given = masks[0].clone()
    with torch.no_grad():
        masked(x, given, granularity=4)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            want = [masked(x, mask, granularity=4) for mask in masks]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = masked(x, given, granularity=4)
        for mask, expected in zip(masks, want, strict=True):
            given.copy_(mask)
            graph.replay()
            assert torch.equal(got, expected)


@pytest.mark.gpu
def test_on_a_gpu_auto_finds_out_by_itself():
    masked = MaskedBottleneck.from_dense(dense_block(cin=64, width=16)).fold_bn_().cuda().requires_grad_(False)
    x = torch.randn(1, 64, 16, 16, device="cuda")
    with torch.no_grad():
        for _ in range(8):
            masked(x, torch.ones(1, 1, 16, 16, device="cuda"))
            torch.cuda.synchronize()
    assert masked.estimate.dense
