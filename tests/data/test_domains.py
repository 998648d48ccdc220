"""Shapes in several domains: one scene in many styles, captions that fit, and folders laid out by domain and class."""

import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import data
from course_lib.data.distances import bar, cross, disc, ring, square, triangle
from course_lib.data.domains import CAPTION_WORDS

ARRAYS = ("images", "labels", "center", "radius", "angle")


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 30),
    domain=st.sampled_from(data.DOMAINS),
    classes=st.integers(1, 6),
    size=st.integers(16, 40),
    seed=st.integers(0, 2**40),
)
def test_ranges_shapes_and_types(n, domain, classes, size, seed):
    drawn = data.domain_shapes(n, domain=domain, classes=classes, size=size, seed=seed)
    assert drawn.images.shape == (n, 3, size, size)
    assert drawn.images.dtype == torch.float32
    assert drawn.labels.dtype == torch.int64
    assert len(drawn) == len(drawn.captions) == n
    assert ((drawn.images >= 0) & (drawn.images <= 1)).all()
    counts = drawn.labels.bincount(minlength=classes)
    assert counts.max() - counts.min() <= 1
    assert len(counts) == classes
    # the shape lies in the picture
    assert ((drawn.center - size / 2).abs() <= size / 2 - drawn.radius[:, None] + 1e-3).all()


@pytest.mark.parametrize("domain", data.DOMAINS)
def test_same_arguments_same_bytes_other_seed_other_images(domain):
    first, again, other = (data.domain_shapes(40, domain=domain, seed=seed) for seed in (5, 5, 6))
    for name in ARRAYS:
        assert getattr(first, name).numpy().tobytes() == getattr(again, name).numpy().tobytes()
    assert first.captions == again.captions
    assert not torch.equal(first.images, other.images)


def test_one_seed_is_one_scene_in_every_domain():
    drawn = [data.domain_shapes(30, domain=domain, seed=3) for domain in data.DOMAINS]
    for other in drawn[1:]:
        for name in ("labels", "center", "radius", "angle"):
            assert torch.equal(getattr(other, name), getattr(drawn[0], name))
        assert not torch.equal(other.images, drawn[0].images)


def test_captions_are_true_and_made_of_known_words():
    words_of = {}
    for domain in data.DOMAINS:
        drawn = data.domain_shapes(600, domain=domain, seed=1)
        text = " ".join(drawn.captions)
        words_of[domain] = set(re.findall("[a-z]+", text))
        assert words_of[domain] <= set(CAPTION_WORDS)
        assert set(re.sub("[a-z ]", "", text)) <= {".", ","}
        assert sum(f"{domain} of a" in caption for caption in drawn.captions) > 200
        assert not any(
            other in caption.split() for caption in drawn.captions for other in data.DOMAINS if other != domain
        )
        for caption, label in zip(drawn.captions, drawn.labels.tolist(), strict=True):
            named = [name for name in data.DOMAIN_CLASSES if name in re.findall("[a-z]+", caption)]
            assert named in ([], [data.DOMAIN_CLASSES[label]])  # a class by its name, or by a word of the domain
    assert all(set(data.DOMAIN_CLASSES) <= words for words in words_of.values())


def test_domains_look_different():
    drawn = {domain: data.domain_shapes(200, domain=domain, seed=2).images for domain in data.DOMAINS}
    spread = {domain: images.std(1).mean().item() for domain, images in drawn.items()}  # between colour channels
    assert spread["painting"] > 0.3 > spread["sketch"]
    assert spread["xray"] < 0.01
    assert drawn["sketch"].mean() > 0.8
    assert drawn["blueprint"][:, 2].mean() > drawn["blueprint"][:, 0].mean() + 0.2


def test_distances_are_negative_inside_and_never_steeper_than_true_ones():
    rng = np.random.default_rng(0)
    here, there = rng.uniform(-20, 20, (2, 2, 4000))
    apart = np.hypot(*(here - there))
    for shape in (disc, square, triangle, cross, ring, bar):
        first, second = (shape(x, y, np.float32(8.0)) for x, y in (here, there))
        assert first.min() < -1
        assert first.max() > 10
        assert (np.abs(first - second) <= apart + 1e-6).all()  # as with a true distance
    assert ring(np.zeros(1), np.zeros(1), np.float32(8.0)) > 0 > disc(np.zeros(1), np.zeros(1), np.float32(8.0))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"n": -1}, "n: got -1"),
        ({"domain": "fresco"}, "domain: got 'fresco', expected one of photo"),
        ({"classes": 0}, "classes: got 0"),
        ({"classes": 7}, "classes: got 7"),
        ({"size": 15}, "size: got 15"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_arguments_out_of_range(given, named):
    with pytest.raises(ValueError, match=named):
        data.domain_shapes(**{"n": 3, "domain": "photo", **given})


# Folders -------------------------------------------------------------------------------------------------------------


def write_domains(root, domains=("Art", "Real World"), classes=("Alarm_Clock", "Bike"), n=3):
    Image = pytest.importorskip("PIL.Image")
    for d, domain in enumerate(domains):
        for k, name in enumerate(classes):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (12, 10), (100 * d, 100 * k, i)).save(folder / f"{i:05}.png")
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_domains_of_a_folder(tmp_path, packed):
    root = write_domains(tmp_path / "set")
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in sorted(root.rglob("*.png")):
                archive.write(file, "OfficeHome/" + file.relative_to(root).as_posix())
        root = tmp_path / "set.zip"
    found = data.load_domains(root, size=8)
    assert list(found) == ["Art", "Real World"]
    assert {tuple(part.classes) for part in found.values()} == {("Alarm_Clock", "Bike")}
    assert [len(part) for part in found.values()] == [6, 6]
    image, label = found["Real World"][4]
    assert (image.shape, label) == ((3, 8, 8), 1)
    assert (image[:, 0, 0] * 255).round().tolist() == [100, 100, 1]
    assert list(data.load_domains(root, domains=["Real World"])) == ["Real World"]


def test_an_empty_domain_is_named(tmp_path):
    root = write_domains(tmp_path / "set")
    (root / "Clipart" / "Bike").mkdir(parents=True)
    with pytest.raises(ValueError, match="domain 'Clipart': got no images"):
        data.load_domains(root)
    assert list(data.load_domains(root, domains=["Art", "Real World"])) == ["Art", "Real World"]
    with pytest.raises(ValueError, match="domain 'Product': got no images"):
        data.load_domains(root, domains=["Art", "Product"])


def test_domains_must_share_their_classes(tmp_path):
    root = write_domains(tmp_path / "set")
    for file in (root / "Art" / "Bike").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="domain 'Art': got no images of Bike"):
        data.load_domains(root)


def test_a_broken_image_is_named(tmp_path):
    root = write_domains(tmp_path / "set")
    (root / "Art" / "Bike" / "00001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"Art/Bike/00001.png: not a readable image"):
        list(data.load_domains(root)["Art"])


def test_no_folder_and_no_domains(tmp_path):
    with pytest.raises(FileNotFoundError, match="<domain>/<class>/<image>"):
        data.load_domains(tmp_path / "nowhere")
    (tmp_path / "photo").mkdir()
    with pytest.raises(ValueError, match="no images under"):
        data.load_domains(tmp_path)
