"""The procedural clips: what the recipe fixes, what each knob leaves alone, and that the truth they carry is true."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import data
from course_lib.data.clips import SIDE

FIELDS = ("labels", "box", "informative", "rival", "rival_box")


def seen(value: float) -> float:
    """What a brightness looks like in a frame."""
    return min(max(0.25 + value / 2, 0), 1)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 12),
    frames=st.integers(1, 6),
    size=st.integers(16, 40),
    split=st.sampled_from(["train", "validation", "test"]),
    strokes=st.integers(0, 4),
    speed=st.sampled_from([0.0, 3.0, 40.0]),
    visible=st.sampled_from([None, 0, 1]),
    rival=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_ranges_shapes_and_types(n, frames, size, split, strokes, speed, visible, rival, seed):
    made = data.clips(
        n, frames=frames, size=size, split=split, strokes=strokes, speed=speed, visible=visible, rival=rival, seed=seed
    )
    assert len(made) == n
    assert made.frames.shape == (n, frames, 3, size, size)
    assert made.frames.dtype == made.box.dtype == made.rival_box.dtype == torch.float32
    assert made.labels.dtype == made.rival.dtype == torch.int64
    assert ((made.frames >= 0) & (made.frames <= 1)).all()
    assert torch.equal(made.frames[:, :, 0], made.frames[:, :, 2])
    counts = made.labels.bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    assert made.box.shape == made.rival_box.shape == (n, frames, 2)
    assert ((made.box >= 0) & (made.box <= size - made.side) & (made.box == made.box.round())).all()
    steps = made.box.diff(dim=1).abs()
    assert (steps <= speed + 1).all()  # rounded at both ends
    assert (made.informative.sum(1) == (frames if visible is None else visible)).all()
    if rival:
        assert ((made.rival >= 0) & (made.rival < 10) & (made.rival != made.labels)).all()
        assert ((made.rival_box >= 0) & (made.rival_box <= size - made.side)).all()
    else:
        assert (made.rival == -1).all()
        assert made.rival_box.isnan().all()


def test_same_arguments_same_bytes_other_seed_or_split_other_clips():
    first, again = (data.clips(20, seed=5) for _ in range(2))
    assert torch.equal(first.frames, again.frames)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in FIELDS[:-1])
    for other in (data.clips(20, seed=6), data.clips(20, seed=5, split="test")):
        assert not torch.equal(first.box, other.box)
        assert not torch.equal(first.frames, other.frames)


def test_the_same_bytes_as_when_the_recipe_was_fixed():
    made = data.clips(30, seed=7, rival=True)
    digest = hashlib.sha256(b"".join(getattr(made, name).numpy().tobytes() for name in FIELDS))
    assert digest.hexdigest()[:16] == "e4db2d37a3915952"


def test_the_digit_is_where_the_box_says_and_nowhere_else():
    made = data.clips(40, noise=0, strokes=0, visible=5, seed=1)
    ground = seen(0)
    for frames, box, informative in zip(made.frames[:, :, 0], made.box.long(), made.informative, strict=True):
        for frame, (top, left), shown in zip(frames, box.tolist(), informative.tolist(), strict=True):
            window = frame[top : top + SIDE, left : left + SIDE]
            assert bool((window > ground + 0.2).any()) == shown
            assert (frame != ground).sum() == (window != ground).sum()


def test_the_digit_is_a_real_one_of_its_class_and_of_its_split():
    made = data.clips(30, frames=2, noise=0, strokes=0, split="validation", seed=3)
    images, labels = data.digits(split="validation")
    larger = torch.nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    for clip, label, ((top, left), _) in zip(made.frames, made.labels, made.box.long().tolist(), strict=True):
        drawn = (clip[0, 0, top : top + SIDE, left : left + SIDE] - 0.25) * 2
        distance = (larger - drawn).abs().amax((1, 2))
        assert distance.min() < 1e-6
        assert labels[distance.argmin()] == label


def test_digits_move_on_straight_lines_and_are_reflected():
    made = data.clips(500, frames=8, speed=3.0, seed=2)
    steps = made.box.diff(dim=1)
    room = 48 - SIDE
    near = ((made.box[:, :-1] < 4) | (made.box[:, :-1] > room - 4)).any(1)
    free = ~near.any(1)
    assert free.float().mean() > 0.3
    spread = steps[free].amax(1) - steps[free].amin(1)
    assert (spread <= 1).all()  # a constant velocity, seen in whole pixels
    assert 1.0 < steps.abs().mean() < 1.7  # the mean of a uniform speed up to 3 is 1.5, less at the border


def test_a_still_digit_does_not_move_and_a_fast_one_does():
    assert (data.clips(20, speed=0, seed=4).box.diff(dim=1) == 0).all()
    assert data.clips(200, speed=20, seed=4).box.diff(dim=1).abs().mean() > 5


def test_every_frame_has_noise_of_its_own():
    made = data.clips(6, strokes=0, visible=0, seed=8)
    noise = (made.frames[:, :, 0] - seen(0)) * 2
    assert noise.std() == pytest.approx(0.25, abs=0.01)
    frames = noise.flatten(2).flatten(0, 1)
    correlation = torch.corrcoef(frames) - torch.eye(len(frames))
    assert correlation.abs().max() < 0.12  # 48 frames of 2,304 independent pixels


def test_the_knobs_leave_the_rest_alone():
    plain = data.clips(25, seed=9)
    quiet = data.clips(25, seed=9, noise=0)
    for other in (quiet, data.clips(25, seed=9, brightness=1.2), data.clips(25, seed=9, visible=2)):
        assert torch.equal(plain.labels, other.labels)
        assert torch.equal(plain.box, other.box)
    faster = data.clips(25, seed=9, speed=9)
    assert torch.equal(plain.box[:, 0], faster.box[:, 0])
    crowded = data.clips(25, seed=9, noise=0, rival=True)
    changed = (crowded.frames != quiet.frames)[:, :, 0]
    for clip, box in zip(changed, crowded.rival_box.long(), strict=True):
        for frame, (top, left) in zip(clip, box.tolist(), strict=True):
            frame[top : top + SIDE, left : left + SIDE] = False
    assert not changed.any()  # the rival is all that was added


def test_strokes_are_brighter_than_the_digit_when_told_to_be():
    made = data.clips(50, noise=0, visible=0, brightness=1.3, seed=1)
    assert made.frames.max() == pytest.approx(seen(1.3))
    assert (made.frames.amax((1, 2, 3, 4)) > seen(1.0)).all()
    lit = (made.frames[:, :, 0] > seen(0.1)).sum((2, 3))
    assert lit.max() == 30  # three strokes of 5x2 that do not overlap


def test_covered_windows_hold_the_whole_shown_digit():
    made = data.clips(4, frames=3, visible=2, seed=6)
    exact = made.covered(made.box, SIDE)
    assert torch.equal(exact, made.informative)
    assert torch.equal(made.covered(made.box - torch.tensor([3.0, 10.0]), 20), made.informative)
    assert not made.covered(made.box - torch.tensor([0.0, 11.0]), 20).any()
    assert not made.covered(made.box + 1, 20).any()
    with pytest.raises(ValueError, match="corner"):
        made.covered(made.box[:, :1], 20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n": -1}, "n: got -1"),
        ({"frames": 0}, "frames: got 0"),
        ({"size": 15}, "size: got 15"),
        ({"split": "val"}, "split: got 'val'"),
        ({"noise": -0.1}, "noise: got -0.1"),
        ({"noise": float("nan")}, "noise: got nan"),
        ({"strokes": -1}, "strokes: got -1"),
        ({"brightness": 2}, "brightness: got 2"),
        ({"speed": float("inf")}, "speed: got inf"),
        ({"visible": 9}, "visible: got 9"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        data.clips(**{"n": 2, **arguments})
