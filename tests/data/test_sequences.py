"""The adding task: where the markers stand, what is asked for, and that arguments are checked."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import data


@given(st.integers(0, 30), st.integers(2, 60), st.integers(0, 10**6))
def test_two_markers_stand_where_they_should(n, length, seed):
    drawn = data.adding(n, length=length, seed=seed)
    assert drawn.inputs.shape == (n, length, 2)
    assert drawn.inputs.dtype == drawn.targets.dtype == torch.float32
    assert len(drawn) == n
    early, late = drawn.markers.unbind(1)
    assert ((early >= 0) & (early < -(-length // 10))).all()
    assert ((late >= length / 2) & (late < length)).all()
    marked = drawn.inputs[..., 1]
    assert torch.equal(marked.sum(1), torch.full((n,), 2.0))
    assert (marked.gather(1, drawn.markers) == 1).all()


def test_the_target_is_the_sum_of_the_marked_numbers():
    drawn = data.adding(500, length=50, seed=3)
    by_markers = (drawn.inputs[..., 0] * drawn.inputs[..., 1]).sum(1)
    assert torch.allclose(drawn.targets, by_markers)


def test_numbers_and_places_are_spread_evenly():
    drawn = data.adding(20_000, length=50, seed=0)
    assert drawn.inputs[..., 0].abs().max() <= 0.5
    assert abs(drawn.targets.var().item() - data.ADDING_VARIANCE) < 0.005
    early = torch.bincount(drawn.markers[:, 0], minlength=5) / 20_000
    late = torch.bincount(drawn.markers[:, 1] - 25, minlength=25) / 20_000
    assert (early - 0.2).abs().max() < 0.02
    assert (late - 0.04).abs().max() < 0.01


def test_same_arguments_same_bytes():
    one, again, other = (data.adding(5, length=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.markers, again.markers)
    assert not torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n: got -1, expected at least 0"),
        ({"n": 1, "length": 1}, "length: got 1, expected at least 2"),
        ({"n": 1, "seed": -1}, "seed: got -1, expected at least 0"),
    ],
)
def test_clear_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.adding(**arguments)
