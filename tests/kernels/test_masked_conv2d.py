"""The masked convolution is exact: every backend equals a dense convolution in float64, masked."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from course_lib import measure
from course_lib.kernels import ActiveSet, conv_triton, masked_conv2d

BACKENDS = ["reference", "dense", "gather", "auto", "triton"]
# Kernels, strides, paddings, dilations, groups, channels that fill no tile, maps that are odd, even and not square.
CASES = {
    "1x1": {"cin": 24, "cout": 40, "kernel": 1},
    "1x1 strided": {"cin": 7, "cout": 70, "kernel": 1, "stride": 2, "size": (8, 5)},
    "1x1 padded": {"kernel": 1, "padding": 1},
    "3x3": {"cin": 16, "cout": 24},
    "3x3 strided": {"cin": 7, "stride": 2, "size": (8, 11), "granularity": 2},
    "3x3 stride 3": {"n": 1, "stride": 3, "padding": 0, "size": (10, 9)},
    "3x3 dilated": {"padding": 2, "dilation": 2, "granularity": 4, "size": (9, 10)},
    "3x3 unequal": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "granularity": 2},
    "3x3 same": {"padding": "same", "n": 5, "size": (4, 3)},
    "3x3 valid": {"padding": "valid", "granularity": 7},
    "2x2 same": {"kernel": 2, "padding": "same"},
    "5x5": {"n": 1, "cin": 16, "cout": 7, "kernel": 5, "size": (6, 7), "granularity": 4},
    "groups": {"cin": 12, "cout": 8, "groups": 2, "stride": 2},
    "depthwise": {"cin": 7, "cout": 7, "groups": 7, "granularity": 2},
    "depthwise, more out": {"cin": 6, "cout": 18, "groups": 6, "stride": 2, "padding": 2, "dilation": 2},
    "wide groups": {"n": 1, "cin": 40, "cout": 36, "groups": 2, "size": (5, 4)},
    "one column": {"size": (9, 1), "kernel": 3},
}


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "triton":
        request.getfixturevalue("interpreter")
    return request.param


@pytest.fixture(params=["gather", "triton"])
def sparse(request):
    """The backends that skip."""
    if request.param == "triton":
        request.getfixturevalue("interpreter")
    return request.param


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, backend, problem, error_of, poison):
    """Exact zeros where the mask is off, and gradients of all six tensors; every other case with an activation."""
    given = problem(**CASES[name], relu=list(CASES).index(name) % 2 == 0)
    want, exact = given.expected()
    leaves = {key: t.requires_grad_() for key, t in given.tensors.items()}
    got = given.run(backend)
    assert got.shape == want.shape and got.is_contiguous(memory_format=torch.channels_last)
    assert error_of(got, want) < 1e-5
    assert (got[~given.full().expand_as(got)] == 0).all()
    g = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad(got, list(leaves.values()), g)
    theirs = torch.autograd.grad(want, list(exact.values()), g.double())
    assert {key: True for key, a, b in zip(leaves, mine, theirs, strict=True) if not error_of(a, b) < 1e-5} == {}


@settings(max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    granularity=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 999),
)
def test_gathering_any_geometry(kernel, stride, padding, dilation, groups, size, granularity, density, seed):
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    assume(all(s + 2 * p >= r for s, p, r in zip(size, padding, reach, strict=True)))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, *size, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 4 // groups, *kernel, generator=g, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    cells = [-(-extent // granularity) for extent in y.shape[2:]]
    mask = torch.rand(2, 1, *cells, generator=g) < density
    full = ActiveSet.from_mask(mask, granularity=granularity, size=y.shape[2:]).to_mask()
    want = torch.where(full, y, 0)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "granularity": granularity}
    dy = torch.randn(y.shape, generator=g, dtype=torch.float64)
    gradients = torch.autograd.grad(want, (x, weight), dy)
    for backend in ("gather", "auto", "dense"):
        got = masked_conv2d(x, weight, mask=mask, **how, backend=backend)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, (x, weight), dy), gradients)


def corners(mask):
    mask[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] = True


def edges(mask):
    mask[:, :, [0, 4, -1, 4], [3, 0, 3, -1]] = True


def checkerboard(mask):
    mask[:, :, ::2, ::2] = mask[:, :, 1::2, 1::2] = True


def uneven(mask):
    mask[0], mask[2, 0, 4] = True, True


def first(count):
    def fill(mask):
        mask.view(-1)[:count] = True

    fill.__name__ = f"first {count}"
    return fill


MASKS = [lambda mask: None, lambda mask: mask.fill_(True), corners, edges, checkerboard, uneven, first(63), first(64)]


@pytest.mark.parametrize("fill", [*MASKS, first(65)], ids=lambda fill: fill.__name__)
def test_masks(fill, backend, problem, error_of, poison):
    """Nothing, everything, borders; one empty sample beside a full one; a tile filled exactly, and one off."""
    given = problem(n=3, cin=7, cout=20)
    given.mask = torch.zeros(3, 1, 9, 7, dtype=torch.bool)
    fill(given.mask)
    want, _ = given.expected()
    assert error_of(given.run(backend), want) < 1e-5


@pytest.mark.parametrize("chosen", [["bias"], ["scale"], ["shift"], ["residual"], ["bias", "scale"], []])
def test_each_part_of_the_epilogue_alone(chosen, backend, problem, error_of):
    given = problem()
    neutral = {"bias": 0, "scale": 1, "shift": 0, "residual": 0}
    absent = {name: None for name in neutral if name not in chosen}
    for name in absent:
        given.tensors[name].fill_(neutral[name])
    assert error_of(given.run(backend, **absent), given.expected()[0]) < 1e-5


def views(x):
    """The same numbers in other places of memory."""
    n, channels, height, width = x.shape
    yield "channels last", x.to(memory_format=torch.channels_last)
    yield "rows and columns swapped", x.transpose(2, 3).contiguous().transpose(2, 3)
    wide = torch.full((n, channels + 3, height + 2, width + 1), torch.nan)
    for layout in (torch.contiguous_format, torch.channels_last):
        inner = wide.contiguous(memory_format=layout)[:, 1 : channels + 1, 1:-1, 1:]
        yield f"cut out of a larger one, {layout}", inner.copy_(x)
    yield "behind an offset", torch.cat((torch.full((5,), torch.nan), x.flatten()))[5:].view_as(x)


def test_any_strides(backend, problem, error_of):
    given = problem(cin=5, cout=6)
    want = given.expected()[0]
    for name in ("input", "residual", "weight"):
        for layout, view in views(given.tensors[name]):
            assert torch.equal(view, given.tensors[name])
            assert error_of(given.run(backend, **{name: view}), want) < 1e-5, (name, layout)
    for name in ("bias", "scale", "shift"):
        column = given.tensors[name][:, None].repeat(1, 3)[:, 1]
        assert error_of(given.run(backend, **{name: column}), want) < 1e-5, name
    one = {name: given.tensors[name][:1] for name in ("input", "residual")}
    many = {name: t.expand(4, -1, -1, -1) for name, t in one.items()}
    got = given.run(backend, **many, mask=given.mask[:1].expand(4, -1, -1, -1))
    torch.testing.assert_close(got, given.run(backend, **one, mask=given.mask[:1]).expand(4, -1, -1, -1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_out_keeps_what_is_not_active(density, layout, backend, problem, error_of, poison):
    given = problem(density=density, granularity=2)
    given.tensors["residual"] = given.tensors["residual"].contiguous(memory_format=layout)
    want, off = given.expected()[0], ~given.full().expand(2, 16, 9, 7)
    before = torch.randn(2, 16, 9, 7)
    out = before.clone().contiguous(memory_format=layout)
    version = out._version
    assert given.run(backend, out=out) is out
    assert out._version > version
    assert torch.equal(out[off], before[off])
    assert error_of(out[~off], want[~off]) < 1e-5
    stream = given.tensors["residual"].clone()  # the residual stream itself, updated in place
    given.run(backend, residual=stream, out=stream)
    assert torch.equal(stream[off], given.tensors["residual"][off])
    assert error_of(stream[~off], want[~off]) < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("granularity", [1, 2, 4])
def test_a_bottleneck_block(stride, granularity, sparse, poison):
    """1x1 on what the 3x3 reads, 3x3, 1x1 in place: the rows between hold NaN, and none of it is seen."""
    g = torch.Generator().manual_seed(stride)
    x = torch.randn(2, 16, 12, 9, generator=g)
    w1, w2, w3 = (torch.randn(*s, generator=g) / 4 for s in ((8, 16, 1, 1), (8, 8, 3, 3), (16, 8, 1, 1)))
    hidden = F.conv2d(F.conv2d(x, w1).relu(), w2, None, stride, 1).relu()
    identity = torch.randn(2, 16, *hidden.shape[2:], generator=g).relu()
    cells = [-(-extent // granularity) for extent in hidden.shape[2:]]
    active = ActiveSet.from_mask(
        torch.rand(2, 1, *cells, generator=g) < 0.3, granularity=granularity, size=hidden.shape[2:]
    )
    want = (identity + active.to_mask() * F.conv2d(hidden, w3)).relu()
    reads = active.dilate(3, stride, 1, in_size=x.shape[2:])
    scratch1, scratch2 = torch.empty(2, 8, 12, 9), torch.empty(2, 8, *hidden.shape[2:])
    masked_conv2d(x, w1, mask=reads, activation="relu", out=scratch1, backend=sparse)
    assert scratch1.isnan().any()
    masked_conv2d(scratch1, w2, None, active, stride, 1, activation="relu", out=scratch2, backend=sparse)
    masked_conv2d(scratch2, w3, mask=active, residual=identity, activation="relu", out=identity, backend=sparse)
    torch.testing.assert_close(identity, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "dense", "gather", "auto"])
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "granularity": 2}, {"groups": 2}, {"dilation": 2, "padding": 0}])
def test_gradcheck(options, density, backend, problem):
    given = problem(n=2, cin=2, cout=4, size=(6, 5), density=density, **options)
    given.relu = False  # a kink would disturb the difference quotients
    leaves = {name: t.double().requires_grad_() for name, t in given.tensors.items()}

    def run(*tensors):
        return given.run(backend, **dict(zip(leaves, tensors, strict=True)))

    assert torch.autograd.gradcheck(run, tuple(leaves.values()))


def test_gradients_stay_where_they_belong(sparse, problem):
    """0 for what no active position reads; the same bits in two runs; NaN at skipped positions is not seen."""
    given = problem(granularity=2, density=0.2, stride=2)
    x, weight = (given.tensors[name].requires_grad_() for name in ("input", "weight"))
    runs = []
    for _ in range(2):
        y = given.run(sparse)
        g = torch.ones_like(y).masked_fill(~given.full(), torch.nan)
        runs.append(torch.autograd.grad(y, (x, weight), g))
    read = ActiveSet.from_mask(given.mask, granularity=2, size=(5, 4)).dilate(3, 2, 1, in_size=(9, 7)).to_mask()
    assert (runs[0][0][~read.expand_as(x)] == 0).all() and not runs[0][0].isnan().any()
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("density", [0.02, 0.6])
def test_many_programs_share_the_work(density, problem, error_of, interpreter, monkeypatch):
    """More programs than tiles and fewer; shares of the weight's gradient that are empty, and several that are not."""
    monkeypatch.setattr(conv_triton, "_multiprocessors", lambda x: 5)
    given = problem(size=(26, 23), kernel=1, cin=3, cout=5, density=density)
    want, exact = given.expected()
    leaves = [given.tensors[name].requires_grad_() for name in ("input", "weight")]
    got = given.run("triton")
    assert error_of(got, want) < 1e-5
    mine = torch.autograd.grad(got.sum(), leaves)
    theirs = torch.autograd.grad(want.sum(), [exact["input"], exact["weight"]])
    assert max(error_of(a, b) for a, b in zip(mine, theirs, strict=True)) < 1e-5


def test_second_derivatives_are_refused(sparse, problem):
    given = problem()
    x = given.tensors["input"].requires_grad_()
    given.tensors["weight"].requires_grad_()
    (dx,) = torch.autograd.grad(given.run(sparse).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of a kernel are not supported"):
        dx.sum().backward()


@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("gather", torch.float16, 2e-3), ("gather", torch.bfloat16, 1e-2), ("triton", torch.float16, 2e-3)],
)
def test_half_precision(backend, dtype, tolerance, problem, error_of, request):
    if backend == "triton":
        request.getfixturevalue("interpreter")
    given = problem(cin=40, cout=24).to("cpu", dtype)
    want, exact = given.expected()
    leaves = {name: t.requires_grad_() for name, t in given.tensors.items()}
    got = given.run(backend)
    assert got.dtype == dtype
    assert error_of(got, want) < tolerance
    g = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    mine = torch.autograd.grad(got, list(leaves.values()), g)
    theirs = torch.autograd.grad(want, list(exact.values()), g.double())
    assert max(error_of(a, b) for a, b in zip(mine, theirs, strict=True)) < 4 * tolerance


def test_half_precision_rounds_once(sparse):
    """2048 + 1 - 2048: float16 has no 2049, so rounding before the end would give 0."""
    numbers = {"input": 1.0, "weight": 2048.0, "residual": -2048.0}
    tensors = {name: torch.full((1, 1, 1, 1), value).half() for name, value in numbers.items()}
    shift, mask = torch.ones(1).half(), torch.ones(1, 1, 1, 1)
    assert masked_conv2d(**tensors, shift=shift, mask=mask, backend=sparse).item() == 1.0


def test_no_mask_is_dense(problem):
    given = problem()
    got = given.run("gather", mask=None)
    given.mask = torch.ones_like(given.mask)
    torch.testing.assert_close(got.double(), given.expected()[0], atol=1e-5, rtol=1e-4)
    out = torch.zeros_like(got)
    assert torch.equal(given.run("auto", mask=None, out=out), got) and torch.equal(out, got)


def test_masks_of_numbers_and_lists_are_equal(backend, problem):
    given = problem(granularity=2)
    want = given.run(backend)
    active = ActiveSet.from_mask(given.mask, granularity=2, size=(9, 7))
    assert torch.equal(given.run(backend, mask=given.mask.float() * 0.6), want)
    assert torch.equal(given.run(backend, mask=active, granularity=1), want)


def test_no_samples(backend, problem):
    given = problem()
    leaves = {name: t[:0] if t.ndim == 4 and name != "weight" else t for name, t in given.tensors.items()}
    leaves = {name: t.clone().requires_grad_() for name, t in leaves.items()}
    got = given.run(backend, **leaves, mask=given.mask[:0])
    assert got.shape == (0, 16, 9, 7)
    gradients = torch.autograd.grad(got.sum(), list(leaves.values()))
    assert [g.abs().sum().item() for g in gradients] == [0.0] * 6


def test_it_costs_active_positions(sparse, problem):
    """Positions x reduction x outputs, also where cells are cropped; forward and in place."""

    class Net(torch.nn.Module):
        def __init__(self, weight, **options):
            super().__init__()
            self.weight, self.options = torch.nn.Parameter(weight), options

        def forward(self, x, mask):
            return masked_conv2d(x, self.weight, mask=mask, padding=1, granularity=4, backend=sparse, **self.options)

    given = problem(granularity=4)
    x, weight = given.tensors["input"], given.tensors["weight"]
    expected = int(given.full().sum()) * 16 * 8 * 9
    assert measure.count_macs(Net(weight), x, given.mask) == expected > 0
    assert measure.count_macs(Net(weight, out=torch.zeros(2, 16, 9, 7)), x, given.mask) == expected


X, W, M = torch.ones(2, 4, 6, 5), torch.ones(8, 4, 3, 3), torch.ones(2, 1, 6, 5)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"input": X[0]}, ValueError, r"input: got shape \(4, 6, 5\), expected \(N, C, H, W\)"),
        ({"weight": W[0]}, ValueError, "weight: got shape"),
        ({"input": X[:, :3]}, ValueError, r"input: got 3 channels .*, expected 4 for a weight of shape"),
        ({"groups": 3}, ValueError, "groups: got 3, expected a divisor of"),
        ({"stride": 0}, ValueError, "stride: got 0"),
        ({"padding": "full"}, ValueError, "padding: got 'full'"),
        ({"padding": "same", "stride": 2}, ValueError, "padding: got 'same' with stride"),
        ({"padding": 0, "weight": torch.ones(8, 4, 7, 7)}, ValueError, "too small for a"),
        ({"mask": M[:1]}, ValueError, r"mask: got one for outputs of shape \(1, 1, 6, 5\), expected \(2, 1, 6, 5\)"),
        ({"mask": M[..., :4]}, ValueError, r"mask: got shape \(2, 1, 6, 4\), expected \(2, 1, 6, 5\)"),
        ({"granularity": 2}, ValueError, r"expected \(2, 1, 3, 3\) for maps of 6 x 5 positions with granularity=2"),
        ({"mask": M.to("meta")}, ValueError, "mask: got one on meta"),
        ({"mask": ActiveSet.from_mask(M), "granularity": 2}, ValueError, "granularity: got 2, but the ActiveSet"),
        ({"mask": M.clone().requires_grad_()}, ValueError, r"mask: .*dense path, mask \* conv2d"),
        ({"mask": M.to(torch.complex64)}, TypeError, "mask: got torch.complex64"),
        ({"bias": torch.ones(4)}, ValueError, r"bias: got shape \(4,\), expected \(8,\)"),
        ({"scale": torch.ones(8, 1)}, ValueError, "scale: got shape"),
        ({"shift": torch.ones(8, dtype=torch.int64)}, TypeError, "shift: got torch.int64"),
        ({"residual": X}, ValueError, r"residual: got shape \(2, 4, 6, 5\), expected \(2, 8, 6, 5\)"),
        ({"weight": W.double()}, TypeError, "weight: got torch.float64, expected the input's torch.float32"),
        ({"input": X.int(), "weight": W.int()}, TypeError, "input: got torch.int32"),
        ({"weight": W.to("meta")}, ValueError, "weight: got one on meta"),
        ({"activation": "gelu"}, ValueError, "activation: got 'gelu'"),
        ({"backend": "cudnn"}, ValueError, "backend: got 'cudnn', expected one of auto, reference"),
        ({"backend": "triton"}, RuntimeError, "expected a CUDA device, or Triton's interpreter"),
        ({"out": X}, ValueError, "out: got shape"),
        ({"out": X.half().expand(2, 4, 6, 5).repeat(1, 2, 1, 1)}, TypeError, "out: got torch.float16"),
        ({"out": torch.ones(2, 8, 6, 5), "weight": W.clone().requires_grad_()}, RuntimeError, "out: given together"),
    ],
)
def test_bad_input(changed, error, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(error, match=message):
        masked_conv2d(**{"input": X, "weight": W, "mask": M, "padding": 1, **changed})


def test_out_must_not_be_the_input(sparse):
    x = torch.ones(1, 4, 5, 5)
    with pytest.raises(ValueError, match="out: shares its memory with input"):
        masked_conv2d(x, torch.ones(4, 4, 3, 3), mask=torch.ones(1, 1, 5, 5), padding=1, out=x, backend=sparse)
    both = torch.ones(2, 5, 5, 4).permute(0, 3, 1, 2)  # side by side in one workspace is no overlap
    masked_conv2d(both[:1], torch.ones(4, 4, 1, 1), mask=torch.ones(1, 1, 5, 5), out=both[1:], backend=sparse)
    assert (both[0] == 1).all() and (both[1] == 4).all()


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, RuntimeError), (torch.float64, TypeError)])
def test_types_the_kernels_do_not_take(dtype, error, interpreter):
    with pytest.raises(error, match=str(dtype).removeprefix("torch.")):
        masked_conv2d(X.to(dtype), W.to(dtype), mask=M, padding=1, backend="triton")


def test_lists_can_be_copied():
    active = ActiveSet.from_mask(M)
    assert torch.equal(copy.deepcopy(active).to_mask(), active.to_mask())
