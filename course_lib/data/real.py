"""Real data sets by name and root. Nothing here needs a writable root, and nothing waits for a network unasked."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from course_lib.data.folder import FolderImages, read_domains, read_tree, resized, split_rows
from course_lib.data.idx import read_idx

SPLITS = ("train", "validation", "test")
NAMES = ("fashion_mnist", "cifar10", "cifar100", "imagenet", "folder")

_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_TIMEOUT_S = 20.0  # how long a download may be silent before it counts as no network


class TensorImages(Dataset[tuple[Tensor, int]]):
    """Images held in memory as uint8; items are (float32 (C, H, W) in [0, 1], int)."""

    def __init__(self, images: Tensor, labels: Tensor, classes: tuple[str, ...], size: int | None = None):
        self.images, self.labels, self.classes, self.size = images, labels, classes, size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return resized(self.images[index].float() / 255, self.size), int(self.labels[index])


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    split: str,
    size: int | None = None,
    download: bool = False,
    split_by: str = "random",
) -> TensorImages | FolderImages:
    """A real data set: items (image float32 (C, H, W) in [0, 1], label int), class names in `.classes`.

    Args:
        name: "fashion_mnist" (1, 28, 28), "cifar10", "cifar100" (3, 32, 32), "imagenet" or "folder" (3, H, W).
        root: where the files lie; default `COURSE_DATA`, else the current folder's `data`. For "folder" a directory
            or a zip file with one folder of images per class.
        split: "train", "validation" or "test". Validation is a fixed random tenth of the published training part
            (at most 50,000 images); ImageNet's test split is its published validation part. A "folder" is divided
            70 : 15 : 15 within each class.
        size: resize so that the shorter side has this many pixels (antialiased, bilinear), then crop the centre to a
            square. None: as stored.
        download: fetch Fashion-MNIST or CIFAR through torchvision if absent, which needs a network.
        split_by: only for "folder". "random": shuffled with a fixed seed. "number": by the last number in the file
            name, in three blocks, so that neighbouring pictures (frames, tiles of one scene) stay together.

    Raises:
        ValueError: unknown name or split, a broken file.
        FileNotFoundError: files absent, or the download failed.
    """
    if name not in NAMES:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(NAMES)}")
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    if size is not None and size < 1:
        raise ValueError(f"size: got {size}, expected at least 1 pixel, or None")
    if split_by not in ("random", "number") or (split_by == "number" and name != "folder"):
        raise ValueError(f"split_by: got {split_by!r}, expected 'random', or 'number' for the data set 'folder'")
    where = Path(root if root is not None else os.environ.get("COURSE_DATA") or "data").expanduser()
    if name == "fashion_mnist":
        return _fashion_mnist(where, split, size, download)
    if name in ("cifar10", "cifar100"):
        return _cifar(name, where, split, size, download)
    if name == "imagenet":
        return _imagenet(where, split, size)
    return _folder(where, split, size, split_by)


def load_domains(
    root: str | os.PathLike[str] | None = None, *, domains: Sequence[str] | None = None, size: int | None = None
) -> dict[str, FolderImages]:
    """The domains of a folder laid out as Office-Home or VisDA: `<domain>/<class>/<image>`, all images of each.

    Args:
        root: a directory or a zip file; default as in `load`. Folders around the domains do not matter in a zip.
        domains: these alone, in this order; None: all, in sorted order.
        size: as in `load`.

    Returns:
        By domain: items (image float32 (3, H, W) in [0, 1], label int), the same `.classes` in all. Images are read
        when asked for; a broken one then raises ValueError, naming the file.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a domain without images, or without images of a class that another has.
    """
    if size is not None and size < 1:
        raise ValueError(f"size: got {size}, expected at least 1 pixel, or None")
    where = Path(root if root is not None else os.environ.get("COURSE_DATA") or "data").expanduser()
    if not where.exists():
        raise _missing("domains", where)
    trees, classes = read_domains(where, domains)
    return {domain: FolderImages(where, *tree, classes, size) for domain, tree in trees.items()}


def _held_out(n: int, split: str) -> Tensor:
    """Rows of the published training part that `split` ("train" or "validation") stands for, in order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    validation = min(n // 10, 50_000)
    return (order[:validation] if split == "validation" else order[validation:]).sort().values


def _published(images: Tensor, labels: Tensor, classes: tuple[str, ...], split: str, size: int | None) -> TensorImages:
    if split != "test":
        rows = _held_out(len(labels), split)
        images, labels = images[rows], labels[rows]
    return TensorImages(images, labels, classes, size)


def _fashion_mnist(root: Path, split: str, size: int | None, download: bool) -> TensorImages:
    part = "t10k" if split == "test" else "train"
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    files = _find_idx(root, names)
    if files is None and download:
        from torchvision.datasets import FashionMNIST

        _fetch("fashion_mnist", root, lambda: FashionMNIST(str(root), download=True))
        files = _find_idx(root, names)
    if files is None:
        raise _missing("fashion_mnist", root)
    images, labels = (read_idx(file) for file in files)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{files[0].parent}: got images {tuple(images.shape)} and labels {tuple(labels.shape)}, "
            "expected (n, height, width) and (n,)"
        )
    if len(labels) and int(labels.max()) >= len(_FASHION_CLASSES):
        raise ValueError(f"{files[1]}: got label {int(labels.max())}, expected 0 to 9")
    return _published(images.unsqueeze(1), labels.long(), _FASHION_CLASSES, split, size)


def _find_idx(root: Path, names: tuple[str, ...]) -> list[Path] | None:
    """The files in the first folder that has them all, unpacked rather than packed."""
    for folder in (root, root / "FashionMNIST" / "raw", root / "fashion_mnist", root / "raw"):
        found = [next((f for f in (folder / n, folder / f"{n}.gz") if f.is_file()), None) for n in names]
        complete = [file for file in found if file is not None]
        if len(complete) == len(names):
            return complete
    return None


def _cifar(name: str, root: Path, split: str, size: int | None, download: bool) -> TensorImages:
    from torchvision import datasets

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]

    def build(fetch: bool) -> Any:
        return kind(str(root), train=split != "test", download=fetch)

    try:
        stored = build(False)
    except RuntimeError as error:  # torchvision's word for absent or incomplete
        if not download:
            raise _missing(name, root) from error
        stored = _fetch(name, root, lambda: build(True))
    images = torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous()
    return _published(images, torch.tensor(stored.targets), tuple(stored.classes), split, size)


def _imagenet(root: Path, split: str, size: int | None) -> FolderImages:
    part = root / ("val" if split == "test" else "train")
    if not part.is_dir():
        raise _missing("imagenet", root)
    files, labels, classes = read_tree(part)
    if not files:
        raise _missing("imagenet", root)
    if split != "test":
        rows = _held_out(len(files), split).tolist()
        files, labels = [files[i] for i in rows], [labels[i] for i in rows]
    return FolderImages(part, files, labels, classes, size)


def _folder(root: Path, split: str, size: int | None, split_by: str) -> FolderImages:
    if not root.exists():
        raise _missing("folder", root)
    files, labels, classes = read_tree(root)
    if not files:
        raise _missing("folder", root)
    rows = split_rows(files, labels, split, by_number=split_by == "number")
    return FolderImages(root, [files[i] for i in rows], [labels[i] for i in rows], classes, size)


def _fetch(name: str, root: Path, build: Callable[[], Any]) -> Any:
    """Let torchvision download; whatever goes wrong, silence included, ends as the error of absent files."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)  # torchvision sets none and would wait for ever
    try:
        return build()
    except (OSError, RuntimeError, EOFError) as error:
        raise _missing(name, root, f"the download failed ({' '.join(str(error).split())})") from error
    finally:
        socket.setdefaulttimeout(before)


def _missing(name: str, root: Path, what: str = "not found") -> FileNotFoundError:
    layouts = {
        "fashion_mnist": "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        "t10k-labels-idx1-ubyte, packed (.gz) or not, in it or in its FashionMNIST/raw",
        "cifar10": "the folder cifar-10-batches-py",
        "cifar100": "the folder cifar-100-python",
        "imagenet": "train/<class>/<image> and val/<class>/<image>",
        "folder": "a directory or a zip file with <class>/<image>",
        "domains": "a directory or a zip file with <domain>/<class>/<image>",
    }
    remedy = (
        "put the files there, name another root (or set COURSE_DATA), or call with download=True where there is a "
        "network"
    )
    if name in ("imagenet", "folder", "domains"):
        remedy = "put the files there or name another root (or set COURSE_DATA); download=True does not help here"
    return FileNotFoundError(
        f"{name}: {what} under {root.absolute()}. Expected there: {layouts[name]}. To mend it, {remedy}."
    )
