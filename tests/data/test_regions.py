"""Points of a square, easy and hard: shares, classes, the same for the same seed."""

import pytest
import torch

from course_lib import data


def test_regions_are_as_described_and_repeatable():
    drawn, again = data.two_regions(2000, seed=3), data.two_regions(2000, seed=3)
    assert torch.equal(drawn.points, again.points)
    assert float(drawn.hard.float().mean()) == pytest.approx(0.4, abs=0.04)
    assert set(drawn.labels[~drawn.hard].tolist()) == {0, 1}
    assert set(drawn.labels[drawn.hard].tolist()) == {2, 3}
    assert data.two_regions(0).points.shape == (0, 2)


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="n: got -1"):
        data.two_regions(-1)
