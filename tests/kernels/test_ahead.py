"""The kernels compiled for GPUs this machine need not have: tensor cores, 16-byte copies, no spilled registers."""

import inspect
import os
import re

import pytest
import torch

from course_lib.kernels import compaction, conv_triton, masker, patches, rows

triton = pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET", "0") == "1":
    pytest.skip("nothing compiles in a process of the interpreter", allow_module_level=True)

STEPS = ("x_n", "x_h", "x_w", "r_n", "r_h", "r_w", "y_n", "y_h", "y_w")
SIZES = ("H", "W", "Ho", "Wo", "Hc", "Wc")
PIXELS = ("T", "SCALES", "C", "G", "cells", "x_n", "x_c", "x_h", "x_w")
MOVES = ("K", "C", "s_row", "s_column", "t_row", "t_column")


def build(kernel, capability, types, constants, *, warps=4, stages=3, aligned=(), disassemble=True):
    """Compile one kernel: its assembler text, and what the checks need from the intermediate one."""
    from triton.backends.compiler import GPUTarget
    from triton.tools.disasm import get_sass

    signature, fixed, attributes = {}, {}, {}
    for i, name in enumerate(inspect.signature(kernel.fn).parameters):
        if name in constants:
            signature[name], fixed[(i,)] = "constexpr", constants[name]
        else:
            signature[name] = types[name]
            if name in aligned or types[name].startswith("*"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel.compiled, signature, fixed, attributes)
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    return get_sass(built.asm["cubin"]) if disassemble else "", built.asm["ptx"]


def convolution(dtype, cin, cout, kernel, granularity):
    numbers = dict.fromkeys((*STEPS, *SIZES), "i32")
    data = dict.fromkeys(("x", "w", "y", "res", "dy", "dx"), "*" + dtype)
    lists = {"idx": "*i32", "cnt": "*i32", "mask": "*i8", "scale": "*fp32", "shift": "*fp32", "partial": "*fp32"}
    window = {"KH": kernel, "KW": kernel, "PH": kernel // 2, "PW": kernel // 2, "SH": 1, "SW": 1, "DH": 1, "DW": 1}
    constants = {"CI": cin, "CO": cout, "S": granularity, "RELU": True, "EACH": 1, **window}
    return {**numbers, **data, **lists}, {**constants, "PRECISION": "tf32" if dtype == "fp32" else "ieee"}


def tile(config):
    return {"BM": config.rows, "BN": config.columns, "BK": config.depth}


# Every tile `pick_config` gives, where a network would use it: (rows, type, Cin, Cout, kernel, granularity).
SHIPPED = {
    "large 3x3": (10**6, "fp16", 256, 256, 3, 1),
    "large 1x1": (10**6, "fp16", 256, 256, 1, 1),
    "64 channels": (10**6, "fp16", 64, 64, 3, 4),
    "few rows": (10**3, "bf16", 64, 64, 3, 1),
    "32 channels": (10**6, "fp16", 32, 32, 3, 1),
    "single precision": (10**6, "fp32", 256, 256, 3, 1),
}


@pytest.mark.parametrize(
    ("name", "capability"),
    [*((name, 90) for name in SHIPPED), *((name, 80) for name in ("large 1x1", "single precision"))],
)
def test_forward(name, capability):
    count, dtype, cin, cout, kernel, granularity = SHIPPED[name]
    config = conv_triton.pick_config(count, cout, torch.float32 if dtype == "fp32" else torch.float16, capability // 10)
    types, constants = convolution(dtype, cin, cout, kernel, granularity)
    code, ptx = build(
        conv_triton._forward,
        capability,
        types,
        {**constants, **tile(config)},
        warps=config.warps,
        stages=config.stages,
        aligned=STEPS,
    )
    assert ("HGMMA" if capability == 90 else "HMMA") in code
    assert not re.search(r"\b(LDL|STL)\b", code), "registers are spilled to memory"
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], (0x\w+)", ptx)
    wide = [size for size in copies if int(size, 16) == 16]
    assert wide, "rows are not copied 16 bytes at a time"
    # With one step a tile there is nothing to overlap but the list itself, whose entries have four bytes.
    assert len(wide) == len(copies) or kernel == 1


@pytest.mark.parametrize(("dtype", "capability"), [("fp16", 90), ("fp32", 80)])
def test_gradients(dtype, capability):
    config = conv_triton.pick_config(10**6, 256, torch.float32 if dtype == "fp32" else torch.float16, capability // 10)
    types, constants = convolution(dtype, 256, 256, 3, 1)
    code, _ = build(
        conv_triton._input_grad,
        capability,
        types,
        {**constants, **tile(config)},
        warps=config.warps,
        stages=config.stages,
        aligned=STEPS,
    )
    assert "MMA" in code and not re.search(r"\b(LDL|STL)\b", code)
    code, _ = build(
        conv_triton._weight_grad, capability, types, {**constants, "BO": 64, "BC": 64, "BR": 64}, aligned=STEPS
    )
    assert "MMA" in code and not re.search(r"\b(LDL|STL)\b", code)


def others():
    window = {"KH": 3, "KW": 3, "SH": 2, "SW": 1, "PH": 1, "PW": 1, "DH": 1, "DW": 1}
    lists = {"mask": "*i8", "flags": "*i8", "counts": "*i32", "idx": "*i32", "cnt": "*i32", "L": "i32"}
    lists |= dict.fromkeys(SIZES, "i32")
    pixels = dict.fromkeys((*PIXELS, *SIZES), "i32") | {"x": "*fp16", "centers": "*fp32", "weight": "*fp16"}
    moved = dict.fromkeys(MOVES, "i32") | {"source": "*fp16", "target": "*fp16", "idx": "*i64", "cnt": "*i32"}
    types, constants = convolution("fp16", 1, 96, 3, 2)
    yield "depthwise", conv_triton._depthwise, types, {**constants, "BM": 64, "BN": 64}
    yield "count", compaction._count, lists, {"S": 2, **window, "BLOCK": 1024}
    yield "count flags", compaction._count_flags, lists, {"BLOCK": 1024}
    yield "write", compaction._write, lists, {"BLOCK": 1024}
    for gather in (True, False):
        yield f"rows {gather}", rows._move, moved, {"GATHER": gather, "BM": 32, "BC": 128}
    yield "patches", patches._sample, {**pixels, "out": "*fp16"}, {"SIZE": 7, "BP": 128, "BC": 16}
    for mask, out in ((True, "*i8"), (False, "*fp32")):
        fixed = {"S": 4, "AS_MASK": mask, "BM": 16, "BC": 128, "bias": None}
        yield f"masker {mask}", masker._logits, {**pixels, "out": out}, fixed


@pytest.mark.parametrize(("kernel", "types", "constants"), [pytest.param(*o[1:], id=o[0]) for o in others()])
def test_the_rest(kernel, types, constants):
    _, ptx = build(kernel, 90, types, constants, disassemble=False)
    assert ".target sm_90" in ptx


@pytest.mark.parametrize("name", ["depthwise", "count", "patches", "masker True"])
def test_sizes_of_one(name):
    """Triton takes an argument that equals 1 for a constant, and constants lack what numbers can."""
    kernel, types, constants = next(o[1:] for o in others() if o[0] == name)
    ones = {n: 1 for n, kind in types.items() if kind == "i32" and n in inspect.signature(kernel.fn).parameters}
    _, ptx = build(kernel, 80, types, {**constants, **ones}, disassemble=False)
    assert ".target sm_80" in ptx
