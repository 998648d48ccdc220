"""Images in which most of the area is nothing: noise with one bright glyph, for networks that choose where to look.

The four glyphs differ only inside their square of 9x9 pixels, so that nothing outside it helps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GLYPH = 9  #: side of a glyph in pixels


def _drawings() -> Tensor:
    """The four glyphs (4, 9, 9) of 0 and 1: plus, cross, frame and diamond."""
    row, column = torch.meshgrid(*[torch.arange(GLYPH) - GLYPH // 2] * 2, indexing="ij")
    plus = torch.minimum(row.abs(), column.abs()) <= 1
    cross = torch.minimum((row - column).abs(), (row + column).abs()) <= 1
    frame = torch.maximum(row.abs(), column.abs()) >= 3
    diamond = row.abs() + column.abs() <= 4
    return torch.stack([plus, cross, frame, diamond]).float()


@dataclass(frozen=True)
class Glyphs:
    """Noise with one glyph in each image, somewhere."""

    images: Tensor  #: (n, 1, size, size) in [0, 1]
    labels: Tensor  #: (n,) 0 plus, 1 cross, 2 frame, 3 diamond
    corner: Tensor  #: (n, 2) row and column of the glyph's upper left pixel

    def overlap(self, cells: int) -> Tensor:
        """(n, cells, cells) in [0, 1]: the share of each of cells x cells equal parts that the glyph's square takes."""
        side = self.images.shape[-1] / cells
        edge = torch.arange(cells) * side
        first = self.corner[:, :, None]
        inside = (torch.minimum(edge + side, first + GLYPH) - torch.maximum(edge, first)).clamp(min=0)  # (n, 2, cells)
        return inside[:, 0, :, None] * inside[:, 1, None, :] / side**2


def glyphs(n: int, *, size: int = 32, seed: int = 0) -> Glyphs:
    """`n` images of grey noise with one of four bright glyphs of 9x9 pixels at a random place.

    Args:
        n: their number.
        size: side in pixels, at least 9.
        seed: same arguments, same images.
    """
    if n < 0 or size < GLYPH:
        raise ValueError(f"n, size: got {n} and {size}, expected 0 or more images of at least {GLYPH} pixels")
    generator = torch.Generator().manual_seed(seed)
    drawings = _drawings()
    labels = torch.randint(len(drawings), (n,), generator=generator)
    corner = torch.randint(size - GLYPH + 1, (n, 2), generator=generator)
    images = 0.35 + 0.175 * torch.randn(n, size, size, generator=generator)
    inner = torch.arange(GLYPH)
    rows, columns = corner[:, :1] + inner, corner[:, 1:] + inner
    images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]] += 0.5 * drawings[labels]
    return Glyphs(images[:, None].clamp(0, 1), labels, corner)
