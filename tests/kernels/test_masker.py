"""The fused masker equals pooling and a 1x1 convolution."""

import pytest
import torch
import torch.nn.functional as F

from course_lib import measure
from course_lib.kernels import ActiveSet, cell_logits, cell_mask


@pytest.fixture(params=["plain", "interpreted"])
def way(request):
    if request.param == "interpreted":
        request.getfixturevalue("interpreter")
    return request.param


def drawn(channels=37, size=(8, 12), masks=2):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, channels, *size, generator=g), torch.randn(masks, channels, generator=g)
    return x, weight, torch.randn(masks, generator=g)


@pytest.mark.parametrize("cell", [1, 2, 4])
def test_where_cells_divide(way, cell, poison):
    """LASNet's masker has two logits per mask; their difference decides."""
    x, skip, bias = drawn()
    compute = drawn(masks=2)[1].flip(1)
    pooled = F.adaptive_avg_pool2d(x, (8 // cell, 12 // cell))
    both = [F.conv2d(pooled, w[:, :, None, None]) for w in (compute, skip)]
    want = both[0] + bias.view(1, -1, 1, 1) - both[1]
    for image in (x, x.to(memory_format=torch.channels_last)):
        logits = cell_logits(image, compute - skip, bias, cell=cell)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-4)
        assert torch.equal(cell_mask(image, compute - skip, bias, cell=cell), logits >= 0)


@pytest.mark.parametrize("cell", [3, 5, 20])
def test_cells_on_the_edge_average_what_is_there(way, cell):
    x, weight, bias = drawn()
    logits = cell_logits(x, weight, bias, cell=cell)
    for h in range(logits.shape[2]):
        for w in range(logits.shape[3]):
            inside = x[:, :, h * cell : (h + 1) * cell, w * cell : (w + 1) * cell].mean((2, 3))
            torch.testing.assert_close(logits[:, :, h, w], inside @ weight.t() + bias, atol=1e-5, rtol=1e-4)


def test_ties_are_active_and_feed_the_list(way):
    x, weight, _ = drawn(masks=1)
    mask = cell_mask(x, weight * 0, cell=4)
    assert mask.dtype == torch.bool and mask.all()
    assert ActiveSet.from_mask(mask, granularity=4, size=(8, 12)).density() == 1.0


def test_half_precision_sums_in_single(way):
    x = torch.full((1, 4096, 1, 1), 1.001).half()
    got = cell_logits(x, torch.ones(1, 4096).half())
    assert got.item() == pytest.approx(x.float().sum().item(), rel=1e-4)


def test_gradients(way):
    x, weight, bias = (t.double().requires_grad_() for t in drawn(5, (5, 4)))
    assert torch.autograd.gradcheck(lambda *a: cell_logits(*a, cell=3), (x, weight, bias))
    assert cell_logits(x.float(), weight.float(), bias.float(), cell=2).requires_grad
    assert not cell_mask(x, weight, bias).requires_grad


def test_nothing(way):
    x, weight, bias = drawn()
    assert cell_logits(x[:0], weight, bias, cell=4).shape == (0, 2, 2, 3)
    assert cell_mask(x[:0], weight, bias, cell=5).shape == (0, 2, 2, 3)


def test_cost(way):
    """A multiply-add for each cell, channel and mask, fused or not."""

    class Masker(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 37))

        def forward(self, x):
            return cell_logits(x, self.weight, cell=4)

    assert measure.count_macs(Masker(), drawn()[0]) == 2 * 2 * 6 * 37


X, W, B = drawn()


@pytest.mark.parametrize(
    ("arguments", "cell", "error", "message"),
    [
        ((X[0], W), 1, ValueError, "x: got shape"),
        ((X, W[:, 1:]), 1, ValueError, r"weight: got shape \(2, 36\), expected \(G, 37\)"),
        ((X, W, B[:1]), 1, ValueError, "bias: got shape"),
        ((X, W), 0, ValueError, "cell: got 0"),
        ((X.int(), W), 1, TypeError, "x: got torch.int32"),
        ((X, W.to("meta")), 1, ValueError, "weight: got one on meta"),
    ],
)
def test_bad_input(arguments, cell, error, message):
    with pytest.raises(error, match=message):
        cell_logits(*arguments, cell=cell)
