"""The kernels compiled and run on a GPU. Needs only torch, numpy and pytest beside the package."""

import pytest
import torch
import torch.nn.functional as F

from course_lib import measure
from course_lib.kernels import (
    ActiveSet,
    cell_logits,
    cell_mask,
    conv_triton,
    gather_patches,
    gather_rows,
    masked_conv2d,
    scatter_rows_,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

# ||got - exact|| / ||exact||: float32 without and with TF32, and the half types.
TOLERANCE = {torch.float32: 1e-5, "tf32": 1e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float64: 1e-12}
CASES = {
    "1x1": {"cin": 64, "cout": 256, "kernel": 1, "size": (28, 20)},
    "1x1 strided": {"cin": 24, "cout": 40, "kernel": 1, "stride": 2, "size": (9, 8)},
    "3x3": {"cin": 64, "cout": 64, "size": (30, 17)},
    "3x3 wide": {"cin": 128, "cout": 256, "size": (14, 14), "granularity": 2},
    "3x3 strided": {"cin": 7, "cout": 70, "stride": 2, "size": (15, 12), "granularity": 4},
    "3x3 dilated": {"cin": 16, "cout": 16, "padding": 2, "dilation": 2, "granularity": 4},
    "5x5": {"cin": 40, "cout": 24, "kernel": 5},
    "groups": {"cin": 64, "cout": 96, "groups": 2},
    "depthwise": {"cin": 72, "cout": 72, "groups": 72, "stride": 2},
    "one channel": {"cin": 1, "cout": 1, "size": (9, 1)},
}


@pytest.fixture(autouse=True)
def _full_precision():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def no_sync():
    """Any wait for the GPU inside `with no_sync():` is an error."""

    class Guard:
        def __enter__(self):
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *_):
            torch.cuda.set_sync_debug_mode("default")

    return Guard


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, dtype, problem, error_of, poison):
    given = problem(**CASES[name]).to("cuda", dtype)
    want, exact = given.expected()
    leaves = {key: t.requires_grad_() for key, t in given.tensors.items()}
    backend = "auto" if dtype == torch.float64 else "triton"
    got = given.run(backend)
    assert error_of(got, want) < TOLERANCE[dtype]
    assert (got[~given.full().cuda().expand_as(got)] == 0).all()
    g = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    mine = torch.autograd.grad(got, list(leaves.values()), g.cuda())
    theirs = torch.autograd.grad(want, list(exact.values()), g.double())
    errors = {key: error_of(a, b) for key, a, b in zip(leaves, mine, theirs, strict=True)}
    assert {key: e for key, e in errors.items() if not e < 4 * TOLERANCE[dtype]} == {}


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_every_density(density, problem, error_of):
    given = problem(n=3, cin=64, cout=128, size=(40, 33), granularity=3, density=density).to("cuda", torch.float16)
    assert error_of(given.run("triton"), given.expected()[0]) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("rows", [10**3, 10**6])
@pytest.mark.parametrize("columns", [16, 32, 64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_shipped_tile(rows, columns, dtype, problem, error_of, monkeypatch):
    """Whatever the size of the problem, the tile chosen for `rows` positions."""
    choose = conv_triton.pick_config
    monkeypatch.setattr(conv_triton, "pick_config", lambda _, columns, *rest: choose(rows, columns, *rest))
    given = problem(cin=columns, cout=columns, size=(23, 19)).to("cuda", dtype)
    assert error_of(given.run("triton"), given.expected()[0]) < TOLERANCE[dtype]


def test_tf32_follows_the_switch_for_convolutions(problem, error_of):
    given = problem(cin=256, cout=64, size=(20, 20)).to("cuda", torch.float32)
    want = given.expected()[0]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        error = error_of(given.run("triton"), want)
    assert error < TOLERANCE["tf32"]


def test_auto_is_the_kernel_and_falls_back(problem, error_of):
    given = problem(cin=64, cout=64).to("cuda", torch.float16)
    assert torch.equal(given.run("auto"), given.run("triton"))
    narrow = problem(cin=8, cout=8, groups=4).to("cuda", torch.float16)
    assert torch.equal(narrow.run("auto"), narrow.run("dense"))


def test_nothing_waits_for_the_host(problem, no_sync, error_of):
    """And what comes out without waiting is what should; the first call of each kernel compiles it, and may wait."""
    given = problem(cin=64, cout=64, granularity=2).to("cuda", torch.float16)
    x, centers = given.tensors["input"], torch.zeros(2, 3, 2, device="cuda")
    weight, out = torch.ones(1, 64, device="cuda", dtype=torch.float16), torch.zeros_like(given.run("triton"))

    def everything():
        mask = cell_mask(x, weight, cell=2)
        active = ActiveSet.from_mask(mask, granularity=2, size=(9, 7))
        reads = active.dilate(3, 1, 1)
        rows = x.permute(0, 2, 3, 1).reshape(-1, 64)
        moved = scatter_rows_(torch.zeros_like(rows), gather_rows(rows, reads.idx, reads.cnt), reads.idx, reads.cnt)
        patches = gather_patches(x, centers, 4, 2)
        given.run("triton", mask=active, granularity=1, out=out)
        return mask, reads.mask, moved, patches, given.run("triton", mask=active, granularity=1)

    everything()
    out.zero_()
    with no_sync():
        given.mask, reads, moved, patches, result = everything()
    there = x.cpu().double()
    assert torch.equal(given.mask.cpu(), F.avg_pool2d(there.sum(1, keepdim=True), 2, ceil_mode=True) >= 0)
    assert torch.equal(reads.cpu(), F.max_pool2d(given.full().double(), 3, 1, 1) > 0)
    assert torch.equal(moved.cpu().double(), (there * reads.cpu()).permute(0, 2, 3, 1).reshape(-1, 64))
    assert error_of(patches, gather_patches(there, centers.cpu().double(), 4, 2)) < TOLERANCE[torch.float16]
    assert error_of(result, given.expected()[0]) < TOLERANCE[torch.float16]
    assert torch.equal(out, result)

    def gradients():
        return torch.autograd.grad(given.run("triton").sum(), leaves)

    leaves = [t.requires_grad_() for t in given.tensors.values()]
    gradients()
    with no_sync():
        mine = gradients()
    want, exact = given.expected()
    for got, expected in zip(mine, torch.autograd.grad(want.sum(), list(exact.values())), strict=True):
        assert error_of(got, expected) < 4 * TOLERANCE[torch.float16]


def test_a_graph_is_replayed_with_another_mask(problem, error_of):
    """The list keeps its room, the grid its size; only the numbers in the buffers change."""
    given = problem(n=4, cin=64, cout=128, size=(20, 18), granularity=2).to("cuda", torch.float16)
    mask = given.mask
    given.run("triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = given.run("triton")
    for density in (0.0, 0.3, 1.0):
        mask.copy_(torch.rand(mask.shape, device="cuda") < density)
        graph.replay()
        assert error_of(result, given.expected()[0]) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("how", ["aot_eager", "inductor"])
def test_it_compiles_without_a_break(how):
    def block(x, w1, w2, cells):
        active = ActiveSet.from_mask(cells, granularity=2, size=x.shape[2:])
        hidden = masked_conv2d(x, w1, mask=active.dilate(3, 1, 1), activation="relu")
        return masked_conv2d(hidden, w2, None, active, padding=1, residual=x)

    g = torch.Generator().manual_seed(0)
    x, w1, w2 = (torch.randn(*s, generator=g).cuda() for s in ((2, 64, 12, 12), (64, 64, 1, 1), (64, 64, 3, 3)))
    leaves = [t.requires_grad_() for t in (x, w1, w2)]
    cells = torch.rand(2, 1, 6, 6, generator=g).cuda() < 0.4
    torch._dynamo.reset()
    results = [fn(*leaves, cells) for fn in (torch.compile(block, fullgraph=True, backend=how), block)]
    gradients = [torch.autograd.grad(result.square().sum(), leaves) for result in results]
    torch.testing.assert_close(results[0], results[1])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-2, rtol=1e-4)


def test_gradients_have_the_same_bits_each_time(problem):
    given = problem(n=8, cin=64, cout=64, size=(30, 30)).to("cuda", torch.float16)
    leaves = [given.tensors[name].requires_grad_() for name in ("input", "weight")]
    g = torch.randn(8, 64, 30, 30, device="cuda", dtype=torch.float16)
    first, second = (torch.autograd.grad(given.run("triton"), leaves, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_lists_are_complete_and_in_order():
    for n in (1, 1024, 1025, 400_000, 5_000_000):
        mask = torch.rand(1, 1, 1, n, device="cuda") < 0.3
        active = ActiveSet.from_mask(mask)
        assert torch.equal(active.idx[: int(active.cnt)].long(), mask.flatten().nonzero().view(-1))
    mask = torch.rand(3, 1, 40, 50, device="cuda") < 0.1
    there, here = (ActiveSet.from_mask(m).dilate((3, 5), 2, (1, 2)) for m in (mask, mask.cpu()))
    assert torch.equal(there.mask.cpu(), here.mask) and int(there.cnt) == int(here.cnt)


def test_beyond_two_to_the_31_elements():
    """Offsets are 64 bits wide: the last image lies behind 2**31 elements."""
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("needs 12 GB of free GPU memory")
    n, channels, side = 9, 256, 1024
    x = torch.zeros(n, channels, side, side, device="cuda", dtype=torch.float16, memory_format=torch.channels_last)
    assert x.numel() > 2**31
    x[-1, :, -2:, -2:] = torch.randn(channels, 2, 2, device="cuda", dtype=torch.float16)
    weight = torch.randn(16, channels, 3, 3, device="cuda", dtype=torch.float16)
    mask = torch.zeros(n, 1, side, side, device="cuda", dtype=torch.bool)
    mask[-1, :, -1, -1] = True
    got = masked_conv2d(x, weight, mask=mask, padding=1, backend="triton")[-1, :, -1, -1]
    want = F.conv2d(x[-1:, :, -4:, -4:].cpu().double(), weight.cpu().double(), padding=1)[0, :, -1, -1]
    torch.testing.assert_close(got.cpu().double(), want, atol=0.1, rtol=1e-2)


def test_memory_is_the_result_and_the_lists(problem):
    given = problem(n=8, cin=64, cout=64, size=(64, 64)).to("cuda", torch.float16)
    given.tensors = {
        k: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for k, t in given.tensors.items()
    }
    given.run("triton")
    positions = 8 * 64 * 64
    held = measure.peak_memory(lambda: given.run("triton"))
    assert held <= positions * (64 * 2 + 4 + 4) + 64 * 1024


def test_other_streams(problem, error_of):
    given = problem(cin=64, cout=64, size=(30, 30)).to("cuda", torch.float16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = given.run("triton")
    torch.cuda.current_stream().wait_stream(stream)
    assert error_of(got, given.expected()[0]) < TOLERANCE[torch.float16]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_other_device(problem, error_of):
    given = problem(cin=64, cout=64).to("cuda:1", torch.float16)
    assert error_of(given.run("triton"), given.expected()[0]) < TOLERANCE[torch.float16]


def test_autocast(problem, error_of):
    given = problem(cin=64).to("cuda", torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            got = given.run("auto")
        assert got.dtype == dtype and error_of(got, given.expected()[0]) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_patches_and_masker_as_on_the_cpu(dtype):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 40, 15, 18, generator=g).to(dtype), torch.randn(2, 40, generator=g).to(dtype)
    centers = torch.rand(2, 5, 2, generator=g) * 2.4 - 1.2
    close = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    for layout in (torch.contiguous_format, torch.channels_last):
        y = x.cuda().contiguous(memory_format=layout)
        there = gather_patches(y, centers.cuda(), 6, 3).cpu()
        torch.testing.assert_close(there, gather_patches(x, centers, 6, 3), **close)
        for cell in (1, 4):
            there = cell_logits(y, weight.cuda(), cell=cell).cpu()
            torch.testing.assert_close(there, cell_logits(x, weight, cell=cell), **close)
            assert torch.equal(cell_mask(y, weight.cuda(), cell=cell).cpu(), there >= 0)
    table, active = (
        x.permute(0, 2, 3, 1).reshape(-1, 40),
        ActiveSet.from_mask(torch.rand(2, 1, 15, 18, generator=g) < 0.3),
    )
    lists = active.idx.cuda(), active.cnt.cuda()
    rows = gather_rows(table.cuda(), *lists)
    assert torch.equal(rows.cpu(), gather_rows(table, active.idx, active.cnt))
    out = scatter_rows_(torch.ones_like(rows), rows, *lists)
    assert torch.equal(out.cpu(), scatter_rows_(torch.ones_like(table), rows.cpu(), active.idx, active.cnt))


def test_gradients_of_patches_as_on_the_cpu():
    x, centers = torch.randn(2, 3, 12, 14), torch.rand(2, 4, 2) - 0.5
    g, results = torch.randn(2, 4, 2, 3, 5, 5), []
    for device in ("cpu", "cuda"):
        leaves = [t.detach().to(device).requires_grad_() for t in (x, centers)]
        results.append(torch.autograd.grad(gather_patches(*leaves, 5, 2), leaves, g.to(device)))
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=1e-3)
    leaves = [t.detach().cuda().requires_grad_() for t in (x, centers)]
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            gather_patches(*leaves, 5, 2).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_it_costs_active_positions():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(64, 32, 3, 3, device="cuda"))

        def forward(self, x, mask):
            return masked_conv2d(x, self.weight, mask=mask, padding=1, granularity=4)

    mask = torch.tensor([[[[1, 0], [0, 1]]]], device="cuda")
    x = torch.ones(1, 32, 7, 6, device="cuda")
    with pytest.raises(ValueError, match="expected"):
        Net()(x[..., :4], mask)
    assert measure.count_macs(Net(), x, mask) == (16 + 3 * 2) * 64 * 32 * 9
