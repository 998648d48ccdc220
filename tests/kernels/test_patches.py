"""Glimpses equal affine_grid and grid_sample, value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from course_lib.kernels import gather_patches


def by_affine_grid(x, centers, size, scales):
    """One patch after the other, by the two functions a reader knows."""
    height, width = x.shape[2:]
    result = x.new_zeros(*centers.shape[:2], scales, x.shape[1], size, size)
    for n, image in enumerate(centers):
        for t, (row, column) in enumerate(image):
            for k in range(scales):
                zero, reach = torch.zeros(()), size * 2.0**k
                theta = torch.stack(
                    (torch.tensor(reach / width), zero, column, zero, torch.tensor(reach / height), row)
                )
                grid = F.affine_grid(theta.view(1, 2, 3), (1, x.shape[1], size, size), align_corners=False)
                result[n, t, k] = F.grid_sample(x[n : n + 1], grid, align_corners=False)[0]
    return result


@pytest.fixture(params=["plain", "interpreted"])
def way(request):
    if request.param == "interpreted":
        request.getfixturevalue("interpreter")
    return request.param


def drawn(channels=3, size=(17, 23)):
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *size, generator=g), torch.rand(2, 4, 2, generator=g) * 2.6 - 1.3


@pytest.mark.parametrize(("channels", "size", "scales"), [(3, 5, 3), (1, 12, 1), (20, 4, 2)])
def test_values(way, channels, size, scales, poison):
    x, centers = drawn(channels)
    for image in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        got = gather_patches(image, centers, size, scales)
        assert got.shape == (2, 4, scales, channels, size, size)
        torch.testing.assert_close(got, by_affine_grid(x, centers, size, scales), atol=1e-5, rtol=1e-4)


def test_gradients(way):
    x, centers = (t.requires_grad_() for t in drawn())
    g = torch.randn(2, 4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(gather_patches(x, centers, 5, 2), (x, centers), g)
    want = torch.autograd.grad(by_affine_grid(x, centers, 5, 2), (x, centers), g)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-4)
    (alone,) = torch.autograd.grad(gather_patches(x.detach(), centers, 5, 2), centers, g)
    torch.testing.assert_close(alone, got[1])


def test_gradcheck():
    x, centers = (t.double() for t in drawn(2, (6, 5)))
    arguments = x.requires_grad_(), (centers[:, :2] * 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: gather_patches(a, b, 3, 2), arguments)


def test_half_precision_places_patches_exactly(way):
    """At 1,000 pixels float16 coordinates would be off by half a pixel."""
    x = torch.arange(1000.0).expand(1, 1, 4, 1000).half()
    centers = torch.tensor([[[0.0, 0.7]]])
    got = gather_patches(x, centers, 2)[0, 0, 0, 0, 0]
    torch.testing.assert_close(got.float(), torch.tensor([849.0, 850.0]), atol=0.51, rtol=0)


def test_far_outside_is_zero(way):
    x, _ = drawn()
    assert (gather_patches(x, torch.full((2, 1, 2), 1e9), 3, 2) == 0).all()
    assert (gather_patches(x, torch.full((2, 1, 2), -50.0), 3, 2) == 0).all()


def test_nothing(way):
    x, centers = drawn()
    assert gather_patches(x[:0], centers[:0], 3, 2).shape == (0, 4, 2, 3, 3, 3)
    empty = gather_patches(x.requires_grad_(), centers[:, :0], 3, 2)
    assert empty.shape == (2, 0, 2, 3, 3, 3)
    assert torch.autograd.grad(empty.sum(), x)[0].abs().sum() == 0


def test_compiles(way):
    x, centers = drawn()
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b: gather_patches(a, b, 4, 2), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, centers), gather_patches(x, centers, 4, 2))


X, P = torch.ones(2, 3, 8, 8), torch.zeros(2, 4, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], P, 3), ValueError, r"x: got shape \(3, 8, 8\)"),
        ((X[:, :, :0], P, 3), ValueError, "at least one pixel"),
        ((X, P[:1], 3), ValueError, r"centers: got shape \(1, 4, 2\), expected \(2, T, 2\)"),
        ((X, P.to("meta"), 3), ValueError, "centers: got one on meta"),
        ((X.int(), P, 3), TypeError, "x: got torch.int32"),
        ((X, P.int(), 3), TypeError, "centers: got torch.int32"),
        ((X, P, 0), ValueError, "size: got 0"),
        ((X, P, 3, 1.5), ValueError, "scales: got 1.5"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        gather_patches(*arguments)
