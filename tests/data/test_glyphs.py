"""Noise with a glyph in it: where it says, of the classes it says, the same for the same seed."""

import pytest
import torch

from course_lib import data


def test_a_glyph_is_where_it_says_and_nowhere_else():
    task = data.glyphs(50, seed=3)
    again = data.glyphs(50, seed=3)
    assert torch.equal(task.images, again.images)
    assert task.images.shape == (50, 1, 32, 32)
    assert 0 <= float(task.images.min()) <= float(task.images.max()) <= 1
    assert set(task.labels.tolist()) == {0, 1, 2, 3}
    # the glyph is where it says, all of it once, however the image is cut
    for cells in (1, 4, 16):
        area = task.overlap(cells).sum((1, 2)) * (32 / cells) ** 2
        assert torch.allclose(area, torch.full_like(area, 81.0))
    bright = torch.stack(
        [image[0, r : r + 9, c : c + 9].mean() for image, (r, c) in zip(task.images, task.corner, strict=True)]
    )
    assert float(bright.min()) > float(task.images.mean((1, 2, 3)).max())
    assert data.glyphs(0).images.shape == (0, 1, 32, 32)


@pytest.mark.parametrize(("n", "size"), [(1, 8), (-1, 32)])
def test_bad_input(n, size):
    with pytest.raises(ValueError, match="at least 9 pixels"):
        data.glyphs(n, size=size)
