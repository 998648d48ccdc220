"""The idx format of MNIST and its descendants, packed or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

_UINT8 = 8


def read_idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes: two zero bytes, the type, the rank, big-endian sizes, then the bytes.

    A name ending in .gz is unpacked in memory, so the folder may be read-only. Returns a uint8 tensor; raises
    ValueError naming the file if it is broken or of another type.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: a broken gzip file ({error})") from error
    if len(raw) < 4 or raw[:3] != bytes((0, 0, _UINT8)):
        raise ValueError(f"{path}: got the first bytes {raw[:4].hex(' ')}, expected an idx file of bytes (00 00 08 ..)")
    rank = raw[3]
    start = 4 + 4 * rank
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    if len(raw) != start + math.prod(shape):
        raise ValueError(f"{path}: got {len(raw) - start} bytes of data, expected {math.prod(shape)} for {shape}")
    if not math.prod(shape):
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=start).reshape(shape)
