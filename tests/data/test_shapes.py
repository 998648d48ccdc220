"""The procedural shapes: what the recipe fixes, what the labels promise, and that a network can tell the classes."""

import hashlib
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import data
from course_lib.data.shapes import MAX_ANGLE, _coverage, contrasting_colours

FIELDS = ("images", "labels", "difficulty", "center", "radius", "angle", "noise")


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 40), size=st.integers(8, 40), classes=st.integers(2, 10), seed=st.integers(0, 2**40))
def test_ranges_shapes_and_types(n, size, classes, seed):
    batch = data.shapes(n, size=size, classes=classes, seed=seed)
    assert batch.images.shape == (n, 3, size, size)
    assert batch.center.shape == (n, 2)
    assert len(batch) == n
    assert batch.labels.dtype == torch.int64
    assert all(getattr(batch, field).dtype == torch.float32 for field in FIELDS if field != "labels")
    assert all(len(getattr(batch, field)) == n for field in FIELDS)
    assert ((batch.images >= 0) & (batch.images <= 1)).all()
    assert ((batch.difficulty >= 0) & (batch.difficulty <= 1)).all()
    assert ((batch.labels >= 0) & (batch.labels < classes)).all()
    counts = batch.labels.bincount(minlength=classes)
    assert counts.max() - counts.min() <= 1
    torch.testing.assert_close(batch.radius, (0.40 - 0.26 * batch.difficulty) * size)
    torch.testing.assert_close(batch.noise, 0.05 + 0.15 * batch.difficulty)
    # The disc lies in the picture, and the easier the image the nearer to its middle.
    offset = (batch.center - size / 2).abs().amax(1)
    assert (offset <= (size / 2 - batch.radius) * batch.difficulty + 1e-4).all()
    assert (batch.angle.abs() <= MAX_ANGLE + 1e-6).all()


def test_same_arguments_same_bytes_other_seed_other_images():
    first, again, other = (data.shapes(70, size=16, seed=seed) for seed in (5, 5, 6))
    for field in FIELDS:
        assert getattr(first, field).numpy().tobytes() == getattr(again, field).numpy().tobytes()
    assert not torch.equal(first.images, other.images)


def test_the_same_bytes_as_when_the_recipe_was_fixed():
    batch = data.shapes(50, size=16, seed=7)
    digest = hashlib.sha256(
        b"".join(getattr(batch, field).numpy().tobytes() for field in ("labels", "radius", "center"))
    )
    assert digest.hexdigest()[:16] == "ebb58e900d937433"
    by_hand = data.shapes(50, size=16, seed=7, radius=batch.radius, noise=batch.noise)
    assert torch.equal(by_hand.images, batch.images)


def test_radius_and_noise_by_hand_change_nothing_else():
    batch = data.shapes(300, seed=3)
    radius = torch.linspace(2.3, 6.4, 300)
    other = data.shapes(300, seed=3, radius=radius, noise=0.1)
    for field in ("labels", "difficulty", "angle"):
        assert torch.equal(getattr(other, field), getattr(batch, field))
    assert torch.equal(other.radius, radius)
    assert other.noise.unique().tolist() == pytest.approx([0.1])
    offset = (other.center - 8).abs().amax(1)
    assert (offset <= (8 - radius) * other.difficulty + 1e-4).all()
    assert abs(torch.corrcoef(torch.stack([other.radius, other.difficulty]))[0, 1]) < 0.2
    clean = data.shapes(300, seed=3, radius=radius, noise=0)
    corner = clean.images[:, :, 0, 0]
    assert (clean.images == corner[:, :, None, None]).all(1).flatten(1).float().mean(1).min() > 0.2  # flat background
    assert data.shapes(0, radius=torch.zeros(0), noise=0.1).images.shape == (0, 3, 16, 16)


def test_the_global_generators_play_no_part():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = data.shapes(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(data.shapes(5).images, first.images)


def test_drawing_in_parts_does_not_change_the_pictures(monkeypatch):
    whole = data.shapes(60, size=12, seed=2)
    monkeypatch.setattr(sys.modules["course_lib.data.shapes"], "_CHUNK_PIXELS", 12 * 12 * 7)
    assert torch.equal(data.shapes(60, size=12, seed=2).images, whole.images)


def test_angle_keeps_square_and_diamond_apart():
    assert math.radians(90) / 2 - 2 * MAX_ANGLE > math.radians(20)


def test_colours_differ_enough():
    import numpy as np

    colours = contrasting_colours(np.random.default_rng(0), 5000)
    difference = colours[:, 1] - colours[:, 0]
    assert np.linalg.norm(difference, axis=1).min() >= 0.8
    assert np.abs(difference.mean(axis=1)).min() >= 0.32
    assert contrasting_colours(np.random.default_rng(0), 0).shape == (0, 2, 3)


def test_noise_grows_with_difficulty():
    batch = data.shapes(3000, size=16, seed=1)
    corner = batch.images[:, :, :2, :2].flatten(2)  # background, unless the shape strays there
    grey = (corner.mean(2) - 0.5).abs() < 0.15  # channels whose noise is hardly clipped
    spread, difficulty = corner.std(2)[grey], batch.difficulty[:, None].expand(-1, 3)[grey]
    easy, hard = (spread[(difficulty - at).abs() < 0.15].mean() for at in (0.15, 0.85))
    assert hard > 1.5 * easy


def test_coverage_stays_near_the_radius_and_areas_agree_with_geometry():
    import numpy as np

    n, size, radius = 400, 64, 20.0
    labels = np.arange(n) % 10
    angle = np.linspace(-MAX_ANGLE, MAX_ANGLE, n).astype(np.float32)
    center = np.full((n, 2), size / 2, np.float32)
    covered = _coverage(labels, center, np.full(n, radius, np.float32), angle, size)
    assert covered.min() >= 0
    assert covered.max() <= 1
    edge = np.abs(np.arange(size) + 0.5 - size / 2) > 1.2 * radius + 1
    assert covered[:, edge].max() == 0
    assert covered[:, :, edge].max() == 0
    area = np.array([covered[labels == k].sum((1, 2)).mean() for k in range(10)])
    arm, width = 1.04, 0.35
    expected = [math.pi, (2 * 0.88) ** 2, 2 * 1.14**2, 0.75 * math.sqrt(3) * 1.14**2, 4 * (2 * arm * width - width**2)]
    np.testing.assert_allclose(area[:5], np.array(expected) * radius**2, rtol=0.01)
    assert (area[5:] < 0.85 * area[:5]).all()  # outlines have a hole
    assert (area[5:] > 0.2 * area[:5]).all()


def test_rotation_is_counter_clockwise_and_positions_are_row_column():
    import numpy as np

    one = lambda label, center, angle: _coverage(  # noqa: E731
        np.array([label]),
        np.array([center], np.float32),
        np.array([6.0], np.float32),
        np.array([angle], np.float32),
        32,
    )[0]
    rows, columns = np.mgrid[0:32, 0:32] + 0.5
    disc = one(0, (10, 20), 0)
    assert (disc * rows).sum() / disc.sum() == pytest.approx(10, abs=0.01)
    assert (disc * columns).sum() / disc.sum() == pytest.approx(20, abs=0.01)
    upright, turned = one(3, (16, 16), 0.0), one(3, (16, 16), 0.17)
    top = lambda picture: (picture[:13] * columns[:13]).sum() / picture[:13].sum()  # noqa: E731
    assert top(upright) == pytest.approx(16, abs=0.05)  # the apex is up
    assert top(turned) < 15.7  # and leans to the left


def test_classes_can_be_told_apart_where_easy_and_less_where_hard():
    """Nearest mean of the shape mask, recovered from the brightness: far above chance, and worse on hard images."""
    batch = data.shapes(6000, size=16, seed=0)
    grey = batch.images.mean(1)
    border = torch.cat([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], 1).median(1).values
    mask = (grey - border[:, None, None]).abs().flatten(1)
    mask = mask / mask.norm(dim=1, keepdim=True)
    easy = batch.difficulty < 0.3
    train = torch.arange(6000) < 3000
    means = torch.stack([mask[train & easy & (batch.labels == k)].mean(0) for k in range(10)])
    right = torch.cdist(mask, means).argmin(1) == batch.labels
    assert right[~train & easy].float().mean() > 0.85
    assert right[~train & (batch.difficulty > 0.7)].float().mean() < 0.5


def test_names():
    assert len(set(data.SHAPE_CLASSES)) == 10
    assert data.SHAPE_CLASSES[0] == "filled disc"
    assert data.SHAPE_CLASSES[9] == "hollow cross"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n": -1}, "n: got -1"),
        ({"n": 1, "size": 7}, "size: got 7"),
        ({"n": 1, "classes": 1}, "classes: got 1"),
        ({"n": 1, "classes": 11}, "classes: got 11"),
        ({"n": 1, "seed": -1}, "seed: got -1"),
        ({"n": 2, "radius": 0.0}, "radius: got 0 to 0, expected numbers from 0.5 to 8"),
        ({"n": 2, "radius": torch.tensor([4.0, 9.0])}, "radius: got 4 to 9"),
        ({"n": 2, "radius": torch.ones(3)}, r"radius: got shape \(3,\)"),
        ({"n": 2, "noise": -0.1}, "noise: got -0.1 to -0.1, expected numbers from 0 to 1"),
        ({"n": 2, "noise": float("nan")}, "noise: got nan"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        data.shapes(**arguments)


def test_a_fraction_is_no_count():
    with pytest.raises(TypeError):
        data.shapes(1.5)
