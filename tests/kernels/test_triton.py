"""Kernels reach Triton only when launched; a learner's own kernel runs in the interpreter."""

import subprocess
import sys

import pytest
import torch

from course_lib import kernels
from course_lib.kernels import _triton
from course_lib.kernels.conv_triton import _row

triton = pytest.importorskip("triton", reason="Triton is not installed")
import triton.language as tl  # noqa: E402


@triton.jit
def double(values, SCALE: tl.constexpr):
    return values * SCALE


@triton.jit
def sums(x, out, n, B: tl.constexpr, SCALE: tl.constexpr = 2):
    rows = tl.program_id(0) * B + tl.arange(0, B)
    values = double(tl.load(x + rows, mask=rows < n, other=0), SCALE)
    acc = tl.zeros((B,), tl.float32) + values
    tl.store(out + tl.program_id(0), tl.sum(acc, 0))


def plain(x, out, n, B: tl.constexpr):
    rows = tl.arange(0, B)
    tl.store(out + rows, tl.cumsum(tl.load(x + rows, mask=rows < n, other=0), 0), mask=rows < n)


@triton.jit
def broken(x):
    tl.store(x, undefined_name)  # noqa: F821


@_triton.kernel
def where_is_row(n, step, out):
    tl.store(out, _row(tl.load(n), tl.load(n), tl.load(n), step, 0, 0))


def test_a_kernel_calls_others_and_the_library():
    x, out = torch.arange(10.0), torch.empty(3)
    kernels.interpreted(sums)[(3,)](x, out, 10, B=4)
    assert out.tolist() == [12.0, 44.0, 34.0]


def test_a_plain_function_and_a_grid_that_is_computed():
    x, out = torch.ones(5), torch.zeros(5)
    kernels.interpreted(plain)[lambda meta: (1,)](x, out, 5, B=8)
    assert out.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_nothing_stays_changed():
    """After an interpreted launch, and after one that failed, the same process compiles."""
    with pytest.raises(Exception, match="undefined_name"):
        kernels.interpreted(broken)[(1,)](torch.ones(3))
    kernels.interpreted(sums)[(1,)](torch.ones(3), torch.ones(1), 3, B=4)
    with pytest.raises(RuntimeError, match="outside of the scope of a kernel"):
        double(1, 2)
    source = triton.compiler.ASTSource(sums, {"x": "*fp32", "out": "*fp32", "n": "i32"}, {(3,): 4, (4,): 2})
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    assert "ptx" in triton.compile(source, target=target).asm


def test_bfloat16_is_refused():
    with pytest.raises(RuntimeError, match="bfloat16"):
        kernels.interpreted(sums)[(1,)](torch.ones(3, dtype=torch.bfloat16), torch.ones(1), 3, B=4)


def test_what_is_no_kernel():
    with pytest.raises(TypeError, match="fn: got int"):
        kernels.interpreted(3)
    with pytest.raises(TypeError, match="runs inside a kernel"):
        where_is_row(1)


def test_addresses_have_64_bits():
    """Rows beyond 2**31 elements: a product in 32 bits would have wrapped around."""
    out = torch.zeros(1, dtype=torch.int64)
    kernels.interpreted(where_is_row)[(1,)](torch.tensor([70_000], dtype=torch.int32), 50_000, out)
    assert out.item() == 70_000 * 50_000 > 2**31


def test_everything_but_the_kernels_works_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from course_lib import kernels\n"
        "x, mask = torch.ones(1, 1, 3, 3), torch.eye(3).view(1, 1, 3, 3)\n"
        "print(kernels.masked_conv2d(x, x, mask=mask, padding=1).sum().item())\n"
        "try: kernels.masked_conv2d(x, x, mask=mask, padding=1, backend='triton')\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, message = done.stdout.splitlines()
    assert float(number) == 4 + 9 + 4
    assert "Triton is not installed; use 'gather' or 'auto'" in message
