"""What the opening chapter's figures compute and draw; how they look is for the eye."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.plots import ledgers


def _picture_of_waste(needed: list[int], costs: list[float]):
    tiles = torch.zeros(4, 4, dtype=torch.bool)
    tiles[1, 1:3] = True
    marked = torch.zeros(50, dtype=torch.bool)
    marked[[7, 33]] = True
    images = torch.rand(len(needed), 3, 16, 16)
    return ledgers.needed_and_spent((images, needed, costs), (images[0], images[0], tiles), (torch.rand(50), marked))


def _texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_shares_at_the_right_edge_are_needed_over_spent():
    figure = _picture_of_waste([0, 0, 2], [1.0, 2.0, 4.0])
    assert {"50 %", "12 %", "4 %"} <= set(_texts(figure))  # (1 + 1 + 4) / 12, 2 / 16, 2 / 50


def test_what_was_not_needed_is_hatched():
    figure = _picture_of_waste([0, 1], [1.0, 2.0, 4.0])
    bars = [ax for ax in figure.axes if ax.get_xlabel().startswith("exit")]
    hatched = [[bool(bar.get_hatch()) for bar in ax.patches] for ax in bars]
    assert hatched == [[False, True, True], [False, False, True]]
    assert [bar.get_width() for bar in bars[0].patches] == [1.0, 1.0, 2.0]
    tiles = next(ax for ax in figure.axes if ax.get_xlabel() == "tiles that matter")
    assert sum(bool(patch.get_hatch()) for patch in tiles.patches) == 14
    stems = next(ax for ax in figure.axes if ax.get_xlabel().startswith("step"))
    assert sum(bool(patch.get_hatch()) for patch in stems.patches) == 48


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 3)), min_size=0, max_size=40))
def test_shares_by_difficulty_add_up_in_every_bin_that_is_not_empty(drawn: list[tuple[float, int]]):
    difficulty = torch.tensor([d for d, _ in drawn])
    group = torch.tensor([g for _, g in drawn], dtype=torch.int64)
    shares = ledgers.shares_by_difficulty(difficulty, group, 4)
    assert shares.shape == (5, 4)
    filled = {min(int(d * 5), 4) for d in difficulty.tolist()}
    for place, total in enumerate(shares.sum(1)):
        assert total == pytest.approx(1.0 if place in filled else 0.0)


def test_needed_by_difficulty_draws_those_shares():
    difficulty, group = torch.tensor([0.1, 0.1, 0.9]), torch.tensor([0, 1, 2])
    figure = ledgers.needed_by_difficulty(difficulty, group, 2, bins=2)
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(3, 2)
    assert heights.tolist() == [[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]


def test_two_ledgers_hold_every_entry_against_the_first():
    figure = ledgers.two_ledgers({"all": (8e6, 0.004), "half": (4e6, 0.004), "more": (1.6e7, 0.002)})
    macs, seconds = ([text.get_text().strip() for text in ax.texts] for ax in figure.axes)
    assert macs == ["8 M", "4 M, 2 times less", "16 M, 2 times more"]
    assert seconds == ["4 ms", "4 ms, the same", "2 ms, 2 times less"]
    saved = [bar.get_width() for bar in figure.axes[0].patches if bar.get_hatch()]
    assert saved == [0, 4e6, 0]
