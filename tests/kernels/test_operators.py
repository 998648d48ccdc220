"""As operators of torch: compiled without a break, checked by torch's own checker, under autocast."""

import pytest
import torch
from torch.library import opcheck

from course_lib.kernels import ActiveSet, masked_conv2d
from course_lib.kernels.geometry import resolve

ops = torch.ops.course_lib


def compiler_is_there():
    try:
        from torch._inductor import cpp_builder

        return bool(cpp_builder.get_cpp_compiler())
    except Exception:
        return False


def block(x, w1, w2, cells, stream):
    """Dilation, a convolution where the next one reads, and that one."""
    active = ActiveSet.from_mask(cells, granularity=2, size=(9, 7))
    hidden = masked_conv2d(x, w1, mask=active.dilate(3, 1, 1), activation="relu", backend="gather")
    return masked_conv2d(hidden, w2, None, active, padding=1, residual=stream, backend="gather")


def arguments():
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 9, 7), (8, 4, 1, 1), (6, 8, 3, 3), (2, 1, 5, 4), (2, 6, 9, 7))
    x, w1, w2, cells, stream = (torch.randn(*shape, generator=g) for shape in shapes)
    return x.requires_grad_(), w1.requires_grad_(), w2.requires_grad_(), cells, stream.requires_grad_()


@pytest.mark.parametrize("how", ["aot_eager", "inductor"])
def test_a_block_compiles_with_its_gradients(how):
    if how == "inductor" and not compiler_is_there():
        pytest.skip("needs a C++ compiler")
    given = arguments()
    torch._dynamo.reset()
    results = [fn(*given) for fn in (torch.compile(block, fullgraph=True, backend=how), block)]
    assert results[0].stride() == results[1].stride()
    leaves = [t for t in given if t.requires_grad]
    gradients = [torch.autograd.grad(result.square().sum(), leaves) for result in results]
    for mine, theirs in zip((results[0], *gradients[0]), (results[1], *gradients[1]), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_in_place_compiles():
    x, _, w2, cells, stream = (t.detach() for t in arguments())

    def update(x, weight, cells, stream):
        masked_conv2d(x, weight, mask=cells, padding=1, granularity=2, residual=stream, out=stream, backend="gather")
        return stream * 2

    x = x.repeat(1, 2, 1, 1)
    torch._dynamo.reset()
    first, second = stream.clone(), stream.clone()
    doubled = torch.compile(update, fullgraph=True, backend="aot_eager")(x, w2, cells, first)
    torch.testing.assert_close(doubled, update(x, w2, cells, second))
    torch.testing.assert_close(first, second)
    assert not torch.equal(first, stream)


def test_the_kernel_compiles_in_a_graph(interpreter):
    x, w1, _, cells, _ = (t.detach() for t in arguments())
    torch._dynamo.reset()

    def convolve(x, weight, cells):
        return masked_conv2d(x, weight, mask=cells, granularity=2, backend="triton")

    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, w1, cells), convolve(x, w1, cells))


def test_torch_finds_nothing_wrong():
    x, _, w2, cells, stream = arguments()
    x = x.detach().repeat(1, 2, 1, 1).requires_grad_()
    active = ActiveSet.from_mask(cells, granularity=2, size=(9, 7))
    lists = (active.idx, active.cnt, active.mask)
    geometry = resolve(x, w2, 1, 1, 1, 1).flat()
    scale, shift = torch.rand(6), torch.randn(6, requires_grad=True)
    opcheck(
        ops.masked_conv2d.default,
        (x, w2, *lists, scale, shift, stream, geometry, 2, True, "gather"),
        raise_exception=True,
    )
    # The rest gets no gradients, or gives none; what the lists hold behind their count is anybody's guess.
    plain = x.detach(), w2.detach()
    into = (torch.zeros_like(stream), *plain, *lists, scale, None, None, True, geometry, 2, True, "gather")
    opcheck(ops.masked_conv2d_out.default, into)
    opcheck(ops.masked_conv2d_input_grad.default, (stream.detach(), plain[1], *lists, geometry, 2, "gather"))
    opcheck(ops.masked_conv2d_weight_grad.default, (stream.detach(), plain[0], *lists, geometry, 2, "gather"))
    everything = torch.ones_like(active.mask)
    opcheck(ops.compact_mask.default, (everything,))
    opcheck(ops.dilate_mask.default, (everything, [9, 7], 2, [3, 3], [1, 1], [1, 1], [1, 1], [9, 7]))
    opcheck(ops.gather_rows.default, (torch.randn(5, 3, requires_grad=True), torch.tensor([3, 1]), torch.tensor([2])))
    opcheck(ops.scatter_rows_.default, (torch.ones(5, 3), torch.ones(2, 3), torch.tensor([3, 1]), torch.tensor([1])))
    opcheck(ops.gather_patches.default, (x, torch.zeros(2, 1, 2, requires_grad=True), 3, 2))
    opcheck(ops.cell_logits.default, (plain[0], torch.randn(1, 8), None, 2, True))


@pytest.mark.parametrize("backend", ["gather", "auto", "dense", "reference"])
def test_autocast(backend, problem, error_of):
    """As conv2d: computed in autocast's type, whatever comes in, and gradients in the leaves' own."""
    given = problem(cin=16)
    weight = given.tensors["weight"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = given.run(backend)
    assert got.dtype == torch.bfloat16
    assert error_of(got, given.expected()[0]) < 2e-2
    assert torch.autograd.grad(got.float().sum(), weight)[0].dtype == torch.float32


def test_the_model_can_move_and_be_seen_without_data():
    """Fake tensors go through: shapes and memory layout are known before anything is computed."""
    x, _, w2, cells, stream = (t.detach() for t in arguments())
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(t) for t in (x.repeat(1, 2, 1, 1), w2, cells, stream)]
        y = masked_conv2d(fake[0], fake[1], None, fake[2], padding=1, granularity=2, residual=fake[3], backend="gather")
    assert y.shape == (2, 6, 9, 7) and y.is_contiguous(memory_format=torch.channels_last)
