"""Lists of active positions: complete, in order, counted on the device; and what a convolution reads for them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from course_lib.kernels import ActiveSet, compaction, conv_gather


def masks(shape, density=0.4, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def listed(active):
    return active.idx[: active.cnt].tolist()


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(2, 1, 5, 7), (1, 1, 1, 1), (3, 1, 16, 16), (0, 1, 4, 4)])
@pytest.mark.parametrize("block", [8, 1024])
def test_the_list_is_nonzero(shape, density, block, interpreter, monkeypatch):
    """More blocks than a block has entries, a last block that is not full, none at all."""
    monkeypatch.setattr(compaction, "_BLOCK", block)
    mask = masks(shape, density)
    for compact in (compaction.compact_reference, compaction.compact_triton):
        idx, cnt = compact(mask)
        assert idx.dtype == cnt.dtype == torch.int32
        assert idx.shape == (mask.numel(),) and cnt.shape == (1,)
        assert idx[: cnt.item()].tolist() == mask.flatten().nonzero().view(-1).tolist()


def test_unwritten_entries_do_not_matter(poison, interpreter):
    active = ActiveSet.from_mask(masks((2, 1, 6, 5)))
    assert listed(active) == active.mask.flatten().nonzero().view(-1).tolist()
    assert active.dilate(3, 1, 1).to_mask().sum() > active.cnt.item()


@pytest.mark.parametrize(("size", "granularity"), [((8, 8), 4), ((7, 9), 4), ((5, 3), 7), ((14, 14), 2)])
def test_cells_are_cropped(size, granularity):
    cells = masks((2, 1, -(-size[0] // granularity), -(-size[1] // granularity)))
    active = ActiveSet.from_mask(cells, granularity=granularity, size=size)
    whole = torch.kron(cells.int(), torch.ones(granularity, granularity, dtype=torch.int32)).bool()
    assert torch.equal(active.to_mask(), whole[:, :, : size[0], : size[1]])
    assert active.density() == active.to_mask().double().mean().item()
    assert listed(active) == cells.flatten().nonzero().view(-1).tolist()


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("granularity", [1, 3])
def test_without_a_list_the_positions_are_the_same(granularity, density):
    how = {"granularity": granularity, "size": (7, 8)}
    cells = masks((2, 1, -(-7 // granularity), -(-8 // granularity)), density)
    active, bare = ActiveSet.from_mask(cells, **how), compaction.unlisted(cells, **how)
    assert len(bare.idx) == 0 and torch.equal(bare.cnt, active.cnt) and bare.cnt.dtype == torch.int32
    assert (bare.size, bare.granularity) == (active.size, active.granularity) and torch.equal(bare.mask, active.mask)
    assert torch.equal(conv_gather.list_positions(bare), conv_gather.list_positions(active))


def test_real_numbers_count_from_one_half():
    active = ActiveSet.from_mask(torch.tensor([0.49, 0.5, 1.0, -1.0]).view(1, 1, 2, 2))
    assert listed(active) == [1, 2]
    assert listed(ActiveSet.from_mask(torch.tensor([[[[0, 1]]]]))) == [1]


def test_any_strides():
    mask = masks((2, 1, 6, 8))
    for view in (mask.transpose(2, 3), mask[:, :, ::2, 1:], mask[:1].expand(3, 1, 6, 8)):
        assert listed(ActiveSet.from_mask(view)) == view.flatten().nonzero().view(-1).tolist()


def test_nothing():
    assert ActiveSet.from_mask(masks((0, 1, 4, 4))).density() == 0.0
    assert ActiveSet.from_mask(masks((2, 1, 4, 4), 0)).dilate(3, 1, 1).cnt.item() == 0


def touched(mask, kernel, stride, padding, dilation, extra):
    """Which inputs receive something when every active output sends 1 back to what it read."""
    ones = torch.ones(1, 1, *kernel, dtype=torch.float64)
    sent = F.conv_transpose2d(mask.double(), ones, None, stride, padding, extra, 1, dilation)
    return sent > 0


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 99),
)
def test_dilation_is_what_the_convolution_reads(kernel, stride, padding, dilation, extra, seed):
    extra = tuple(min(e, s - 1) for e, s in zip(extra, stride, strict=True))
    active = ActiveSet.from_mask(masks((2, 1, 5, 6), 0.2, seed))
    in_size = [
        (extent - 1) * s + d * (k - 1) + 1 - 2 * p + e
        for extent, k, s, p, d, e in zip((5, 6), kernel, stride, padding, dilation, extra, strict=True)
    ]
    if min(in_size) < 1:
        return
    dilated = active.dilate(kernel, stride, padding, dilation, in_size)
    assert dilated.size == tuple(in_size) and dilated.granularity == 1
    assert torch.equal(dilated.to_mask(), touched(active.mask, kernel, stride, padding, dilation, extra))
    assert listed(dilated) == dilated.mask.flatten().nonzero().view(-1).tolist()


def test_dilation_knows_padding_by_name():
    """An even kernel pads less above and left than below and right."""
    active = ActiveSet.from_mask(masks((2, 1, 5, 6), 0.2))
    same = active.dilate(4, padding="same")
    assert same.size == (5, 6)
    whole = touched(active.mask, (4, 4), 1, 0, 1, 0)
    assert torch.equal(same.to_mask(), whole[:, :, 1:6, 1:7])
    assert torch.equal(active.dilate(4, padding="valid").to_mask(), whole)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "granularity"),
    [((3, 3), (1, 1), (1, 1), (1, 1), 1), ((3, 2), (2, 1), (1, 0), (1, 2), 2), ((1, 5), (3, 2), (0, 2), (2, 1), 3)],
)
def test_the_kernel_dilates_alike(kernel, stride, padding, dilation, granularity, interpreter, monkeypatch):
    monkeypatch.setattr(compaction, "_BLOCK", 64)
    size = (6, 7)
    cells = masks((2, 1, -(-6 // granularity), -(-7 // granularity)), 0.2)
    active = ActiveSet.from_mask(cells, granularity=granularity, size=size)
    got = active.dilate(kernel, stride, padding, dilation)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    want = active.dilate(kernel, stride, padding, dilation)
    assert torch.equal(got.mask, want.mask)
    assert listed(got) == listed(want)


@pytest.mark.parametrize(("side", "density", "expected"), [(1, 0.1, 0.61), (2, 0.25, 0.68), (4, 0.5, 0.73)])
def test_dilation_inflates_density(side, density, expected):
    """[(S-2)^2 d + 4(S-2)(1-(1-d)^2) + 4(1-(1-d)^4)] / S^2 for random cells and a 3x3 kernel; 1-(1-d)^9 for S = 1."""
    active = ActiveSet.from_mask(masks((1, 1, 200, 200), density), granularity=side)
    assert active.dilate(3, 1, 1).density() == pytest.approx(expected, abs=0.015)


def test_the_whole_way_compiles(interpreter):
    def lists(mask):
        active = ActiveSet.from_mask(mask, granularity=2, size=(7, 7))
        dilated = active.dilate(3, 1, 1)
        return active.to_mask(), active.cnt, dilated.mask, dilated.cnt

    mask = masks((1, 1, 4, 4))
    torch._dynamo.reset()
    compiled = torch.compile(lists, fullgraph=True, backend="aot_eager")(mask)
    assert all(torch.equal(a, b) for a, b in zip(compiled, lists(mask), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": torch.ones(2, 3, 3)}, r"mask: got \(2, 3, 3\), expected a tensor of shape"),
        ({"mask": torch.ones(2, 2, 3, 3)}, r"mask: got \(2, 2, 3, 3\)"),
        ({"mask": [[1]]}, "mask: got list"),
        ({"granularity": 0}, "granularity: got 0"),
        ({"granularity": 2, "size": (7, 6)}, r"got shape \(1, 1, 3, 3\), expected \(1, 1, 4, 3\) for maps of 7 x 6"),
        ({"size": (3,)}, None),
        ({"size": (3, 3, 3)}, "size: got"),
        ({"mask": torch.ones(1, 1, 3, 3, requires_grad=True)}, "mask: got one that requires a gradient.*dense path"),
        ({"mask": torch.ones(1, 1, 1, 1).expand(2, 1, 40_000, 40_000)}, "expected fewer than 2"),
    ],
)
def test_bad_masks(arguments, message):
    arguments = {"mask": torch.ones(1, 1, 3, 3), **arguments}
    if message is None:
        ActiveSet.from_mask(**arguments)
        return
    with pytest.raises(ValueError, match=message):
        ActiveSet.from_mask(**arguments)


def test_bad_dilations():
    active = ActiveSet.from_mask(torch.ones(1, 1, 3, 3))
    with pytest.raises(TypeError, match="complex"):
        ActiveSet.from_mask(torch.ones(1, 1, 3, 3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"in_size: got \(9, 9\), expected \(5, 5\) or up to stride - 1 more"):
        active.dilate(3, in_size=(9, 9))
    with pytest.raises(ValueError, match="kernel_size: got 0"):
        active.dilate(0)
    with pytest.raises(ValueError, match="padding: got -1"):
        active.dilate(3, padding=-1)
