"""Rows picked out and put back."""

import pytest
import torch

from course_lib.kernels import ActiveSet, gather_rows, scatter_rows_
from course_lib.kernels.rows import gather_rows_reference


@pytest.fixture(params=["plain", "interpreted"])
def way(request):
    if request.param == "interpreted":
        request.getfixturevalue("interpreter")
    return request.param


@pytest.mark.parametrize("width", [1, 5, 130])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_there_and_back(way, width, density, poison):
    x = torch.randn(70, width)
    mask = torch.rand(1, 1, 7, 10) < density
    active = ActiveSet.from_mask(mask)
    count = int(active.cnt)
    rows = gather_rows(x, active.idx, active.cnt)
    assert rows.shape == x.shape
    assert torch.equal(rows[:count], x[mask.view(-1)])
    assert (rows[count:] == 0).all()
    out = torch.full_like(x, 7)
    assert scatter_rows_(out, rows * 2, active.idx, active.cnt) is out
    assert torch.equal(out, torch.where(mask.view(-1, 1), x * 2, 7))


def test_any_strides_types_and_order(way):
    x = torch.randn(6, 20)[:, ::2].half()
    idx, cnt = torch.tensor([[4, 0, 5, 5], [9, 9, 9, 9]]).t().contiguous()[:, 0], torch.tensor([3])
    assert not idx.is_contiguous()
    assert torch.equal(gather_rows(x, idx, cnt)[:3], x[[4, 0, 5]])
    out = torch.zeros(10, 6, dtype=torch.float16).t()
    scatter_rows_(out, x[:4], idx, cnt)
    assert torch.equal(out[[4, 0, 5]], x[:3]) and (out[[1, 2, 3]] == 0).all()


def test_gradient(way):
    x = torch.randn(5, 3, requires_grad=True)
    idx, cnt = torch.tensor([3, 1, 3, 0]), torch.tensor([3])
    g = torch.randn(4, 3)
    (got,) = torch.autograd.grad(gather_rows(x, idx, cnt), x, g)
    want = torch.zeros(5, 3)
    for k in range(3):
        want[idx[k]] += g[k]
    torch.testing.assert_close(got, want)


def test_nothing(way):
    none, zero = torch.zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    assert gather_rows(torch.ones(0, 3), none, zero).shape == (0, 3)
    assert gather_rows_reference(torch.ones(0, 3), torch.zeros(2, dtype=torch.int32), zero).shape == (2, 3)
    assert scatter_rows_(torch.ones(4, 3), torch.ones(0, 3), none, zero).sum() == 12


def test_compiles(way):
    def move(x, idx, cnt):
        out = torch.zeros_like(x)
        scatter_rows_(out, gather_rows(x, idx, cnt) + 1, idx, cnt)
        return out

    arguments = torch.randn(6, 2), torch.randperm(6), torch.tensor([4])
    torch._dynamo.reset()
    assert torch.equal(torch.compile(move, fullgraph=True, backend="aot_eager")(*arguments), move(*arguments))


X, IDX, CNT = torch.ones(4, 2), torch.zeros(3, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gather_rows(X[0], IDX, CNT), ValueError, r"x: got shape \(2,\), expected \(L, C\)"),
        (lambda: gather_rows(X, IDX[None], CNT), ValueError, "idx: got shape"),
        (lambda: gather_rows(X, IDX, CNT[0]), ValueError, "cnt: got shape"),
        (lambda: gather_rows(X, IDX.float(), CNT), TypeError, "idx: got torch.float32"),
        (lambda: gather_rows(X, IDX.to("meta"), CNT), ValueError, "idx: got one on meta"),
        (
            lambda: scatter_rows_(X, torch.ones(4, 2), IDX, CNT),
            ValueError,
            r"rows: got shape \(4, 2\), expected \(3, 2\)",
        ),
        (lambda: scatter_rows_(X, torch.ones(3, 2).half(), IDX, CNT), TypeError, "rows: got torch.float16"),
        (lambda: scatter_rows_(X, torch.ones(3, 2, requires_grad=True), IDX, CNT), RuntimeError, "requires a gradient"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
