"""Real data by name and root, on small files written here: nothing is downloaded, nothing large is needed."""

import gzip
import os
import pickle
import socket
import struct
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib import data
from course_lib.data import real
from course_lib.data.folder import resized
from course_lib.data.idx import read_idx

SHARED = Path(__file__).parents[3] / "shared" / "data"


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_fashion(folder: Path, *, packed: bool, train: int = 40, test: int = 10) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        raw = idx_bytes(array)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    return arrays


def write_images(folder: Path, *, classes=("cat", "dog"), n: int = 20, name="{c}_{i}.png", size=(10, 12)) -> None:
    Image = pytest.importorskip("PIL.Image")

    for k, c in enumerate(classes):
        (folder / c).mkdir(parents=True, exist_ok=True)
        for i in range(1, n + 1):
            Image.new("RGB", (size[1], size[0]), (10 * i % 256, 100 * k, 50)).save(folder / c / name.format(c=c, i=i))


def pack(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


# Fashion-MNIST


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("under", ["", "FashionMNIST/raw", "fashion_mnist"])
def test_fashion_mnist_in_every_layout(tmp_path, packed, under):
    arrays = write_fashion(tmp_path / under, packed=packed)
    test = data.load("fashion_mnist", root=tmp_path, split="test")
    image, label = test[3]
    assert len(test) == 10
    assert (image.shape, image.dtype, label) == ((1, 28, 28), torch.float32, 3)
    assert type(label) is int
    np.testing.assert_array_equal((image[0] * 255).round().byte().numpy(), arrays["t10k-images-idx3-ubyte"][3])
    assert len(test.classes) == 10
    assert test.classes[9] == "Ankle boot"


def test_fashion_mnist_validation_is_a_fixed_tenth_of_the_training_part(tmp_path):
    arrays = write_fashion(tmp_path, packed=True)
    train, validation = (data.load("fashion_mnist", root=tmp_path, split=s) for s in ("train", "validation"))
    assert (len(train), len(validation)) == (36, 4)
    together = sorted(bytes(image.numpy()) for image in torch.cat([train.images, validation.images]))
    assert together == sorted(bytes(image) for image in arrays["train-images-idx3-ubyte"])
    assert torch.equal(data.load("fashion_mnist", root=tmp_path, split="validation").images, validation.images)


def test_fashion_mnist_needs_no_writable_root(tmp_path):
    write_fashion(tmp_path / "data", packed=True)
    before = sorted(os.listdir(tmp_path / "data"))
    (tmp_path / "data").chmod(0o555)
    try:
        assert len(data.load("fashion_mnist", root=tmp_path / "data", split="train", download=True)) == 36
    finally:
        (tmp_path / "data").chmod(0o755)
    assert sorted(os.listdir(tmp_path / "data")) == before  # also true for a user whom permissions do not bind


def test_size_and_default_root(tmp_path, monkeypatch):
    write_fashion(tmp_path, packed=False)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    image, _ = data.load("fashion_mnist", split="test", size=16)[0]
    assert image.shape == (1, 16, 16)
    assert 0 <= image.min() <= image.max() <= 1


def test_the_items_go_through_a_data_loader(tmp_path):
    write_fashion(tmp_path, packed=False)
    loader = torch.utils.data.DataLoader(data.load("fashion_mnist", root=tmp_path, split="test"), batch_size=4)
    assert [tuple(x.shape) for x, _ in loader] == [(4, 1, 28, 28), (4, 1, 28, 28), (2, 1, 28, 28)]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x1f\x8bnot really", "broken gzip"),
        (gzip.compress(b"\0\0\x0d\x01aaaa"), "expected an idx file"),
        (gzip.compress(b""), "expected an idx file"),
        (gzip.compress(idx_bytes(np.zeros((3, 28, 28), np.uint8))[:-1]), "bytes of data"),
        (gzip.compress(idx_bytes(np.zeros((3, 28, 28), np.uint8)))[:-9], "broken gzip"),
        (gzip.compress(idx_bytes(np.zeros((3, 28, 28), np.uint8))), "expected .n, height"),
    ],
    # packed bytes hold the time of packing, and parallel test processes must agree on names
    ids=["no gzip", "foreign type", "empty", "short", "cut", "images for labels"],
)
def test_broken_idx_files_are_named(tmp_path, content, named):
    write_fashion(tmp_path, packed=True)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=named) as caught:
        data.load("fashion_mnist", root=tmp_path, split="test")
    assert str(tmp_path) in str(caught.value)


def test_a_label_beyond_the_classes(tmp_path):
    write_fashion(tmp_path, packed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(10, 10, np.uint8)))
    with pytest.raises(ValueError, match="label 10"):
        data.load("fashion_mnist", root=tmp_path, split="test")


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28), (5,), (2, 3, 4)])
def test_read_idx(tmp_path, shape):
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(array)))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name).numpy(), array)


@pytest.mark.skipif(not (SHARED / "fashion_mnist").is_dir(), reason="the real files are not beside this checkout")
def test_the_real_fashion_mnist():
    test = data.load("fashion_mnist", root=SHARED, split="test")
    assert test.labels.bincount().tolist() == [1000] * 10


# CIFAR and ImageNet


def write_cifar10(root: Path) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 256, (20, 3072), dtype=np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(20)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return pixels


def test_cifar10(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    pixels = write_cifar10(tmp_path)
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)  # the small files have other sums
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    splits = {s: data.load("cifar10", root=tmp_path, split=s) for s in ("train", "validation", "test")}
    assert {s: len(d) for s, d in splits.items()} == {"train": 90, "validation": 10, "test": 20}
    image, label = splits["test"][7]
    assert (image.shape, label, splits["test"].classes[7]) == ((3, 32, 32), 7, "class 7")
    np.testing.assert_array_equal((image * 255).round().byte().flatten().numpy(), pixels[7])


def test_imagenet_folders(tmp_path):
    write_images(tmp_path / "train", classes=("n01", "n02"), n=20)
    write_images(tmp_path / "val", classes=("n01", "n02"), n=2, size=(20, 31))
    splits = {s: data.load("imagenet", root=tmp_path, split=s, size=8) for s in ("train", "validation", "test")}
    assert {s: len(d) for s, d in splits.items()} == {"train": 36, "validation": 4, "test": 4}
    assert not set(splits["train"].files) & set(splits["validation"].files)
    assert splits["test"][3][0].shape == (3, 8, 8)
    assert splits["test"].classes == ("n01", "n02")


# Folders


@pytest.mark.parametrize("split_by", ["random", "number"])
@pytest.mark.parametrize("packed", [False, True])
def test_folder_is_divided_within_each_class(tmp_path, packed, split_by):
    write_images(tmp_path / "images")
    root = pack(tmp_path / "images", tmp_path / "images.zip", "2750/") if packed else tmp_path / "images"
    splits = {s: data.load("folder", root=root, split=s, split_by=split_by) for s in real.SPLITS}
    assert {s: d.labels.bincount().tolist() for s, d in splits.items()} == {
        "train": [14, 14],
        "validation": [3, 3],
        "test": [3, 3],
    }
    assert len({f for d in splits.values() for f in d.files}) == 40
    assert splits["test"].classes == ("cat", "dog")
    image, label = splits["test"][0]
    number = int(splits["test"].files[0].split("_")[1].removesuffix(".png"))
    assert (image.shape, image.dtype, label) == ((3, 10, 12), torch.float32, 0)
    assert (image[:, 0, 0] * 255).round().tolist() == [10 * number, 0, 50]


def test_number_blocks_are_contiguous_and_numeric(tmp_path):
    write_images(tmp_path)
    numbers = {}
    for split in real.SPLITS:
        files = data.load("folder", root=tmp_path, split=split, split_by="number").files
        numbers[split] = sorted({int(f.split("_")[1].removesuffix(".png")) for f in files})
    assert numbers == {"train": list(range(1, 15)), "validation": [15, 16, 17], "test": [18, 19, 20]}


def test_files_with_one_number_stay_together(tmp_path):
    write_images(tmp_path, n=10, name="scene_{i}.png")
    write_images(tmp_path, n=10, name="again_{i}.png")
    seen = [
        {f.split("_")[1] for f in data.load("folder", root=tmp_path, split=s, split_by="number").files}
        for s in real.SPLITS
    ]
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert sum(map(len, seen)) == 10


def test_number_wanted_but_not_there(tmp_path):
    write_images(tmp_path, n=1, name="{c}.png")
    with pytest.raises(ValueError, match="split_by: got 'number'"):
        data.load("folder", root=tmp_path, split="train", split_by="number")


def test_random_split_is_fixed(tmp_path):
    write_images(tmp_path)
    first, again = (data.load("folder", root=tmp_path, split="test").files for _ in range(2))
    assert first == again


def test_what_is_no_image_of_a_class_is_ignored(tmp_path):
    write_images(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("words")
    (tmp_path / "a" / "cat" / "notes.txt").write_text("words")
    root = pack(tmp_path / "a", tmp_path / "a.zip")
    with zipfile.ZipFile(root, "a") as archive:
        archive.writestr("__MACOSX/cat/._cat_1.png", b"x")
        archive.writestr("stray.png", b"x")
    for where in (tmp_path / "a", root):
        assert sum(len(data.load("folder", root=where, split=s)) for s in real.SPLITS) == 40


def test_a_zip_survives_pickling_and_worker_processes(tmp_path):
    write_images(tmp_path / "a", n=4)
    dataset = data.load("folder", root=pack(tmp_path / "a", tmp_path / "a.zip"), split="train", size=8)
    expected = torch.stack([image for image, _ in dataset])
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(torch.stack([image for image, _ in copy]), expected)
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=2)
    assert torch.equal(torch.cat([x for x, _ in loader]), expected)


def test_broken_and_ambiguous_folders_are_named(tmp_path):
    write_images(tmp_path / "a", n=4)
    for file in (tmp_path / "a" / "cat").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cat_\d.png: not a readable image"):
        data.load("folder", root=tmp_path / "a", split="train")[0]
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"b\.zip"):
        data.load("folder", root=tmp_path / "b.zip", split="train")
    write_images(tmp_path / "c" / "one", n=1)
    write_images(tmp_path / "c" / "two", n=1)
    with pytest.raises(ValueError, match="one/cat, one/dog, two/cat, two/dog"):
        data.load("folder", root=tmp_path / "c", split="train")


def test_resizing_keeps_proportions_and_constants():
    image = torch.full((3, 20, 31), 0.25)
    assert resized(image, None) is image
    assert resized(image, 8).shape == (3, 8, 8)
    torch.testing.assert_close(resized(image, 8), torch.full((3, 8, 8), 0.25))
    ramp = torch.linspace(0, 1, 40).expand(1, 20, 40)
    assert resized(ramp, 10).mean().item() == pytest.approx(0.5, abs=1e-4)  # the crop is central


# What is not there


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "imagenet", "folder"])
def test_absent_files_name_path_layout_and_remedy(tmp_path, name):
    if name.startswith("cifar"):
        pytest.importorskip("torchvision")
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, root=tmp_path / "nowhere", split="train")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert "Expected there" in message
    assert "download=True" in message


def test_an_empty_folder_counts_as_absent(tmp_path):
    (tmp_path / "val").mkdir()
    for name in ("folder", "imagenet"):
        with pytest.raises(FileNotFoundError):
            data.load(name, root=tmp_path, split="test")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_no_network_is_the_same_error(tmp_path, monkeypatch, name):
    pytest.importorskip("torchvision")

    def refuse(*args, **kwargs):
        assert socket.getdefaulttimeout() == real._TIMEOUT_S
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    before = socket.getdefaulttimeout()
    with pytest.raises(FileNotFoundError, match="the download failed") as caught:
        data.load(name, root=tmp_path, split="train", download=True)
    assert "Expected there" in str(caught.value)
    assert socket.getdefaulttimeout() == before


def test_a_server_that_never_answers_does_not_hang(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        monkeypatch.setattr(real, "_TIMEOUT_S", 0.2)
        with pytest.raises(FileNotFoundError, match="the download failed"):
            data.load("fashion_mnist", root=tmp_path, split="train", download=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "mnist", "split": "train"}, "name: got 'mnist'"),
        ({"name": "folder", "split": "val"}, "split: got 'val'"),
        ({"name": "folder", "split": "train", "size": 0}, "size: got 0"),
        ({"name": "folder", "split": "train", "split_by": "date"}, "split_by: got 'date'"),
        ({"name": "cifar10", "split": "train", "split_by": "number"}, "split_by: got 'number'"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        data.load(**arguments)
