"""Images in one folder per class, on disk or inside a zip file that is never unpacked."""

from __future__ import annotations

import os
import random
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Images read when asked for, as RGB; items are (float32 (3, H, W) in [0, 1], int)."""

    def __init__(self, root: Path, files: list[str], labels: list[int], classes: tuple[str, ...], size: int | None):
        self.root, self.files, self.classes, self.size = root, files, classes, size
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self._archive: tuple[int, zipfile.ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, UnidentifiedImageError

        name = self.files[index]
        try:
            with self._open(name) as stream, Image.open(stream) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (UnidentifiedImageError, zipfile.BadZipFile, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{self.root / name}: not a readable image ({error})") from error
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        return resized(image, self.size), int(self.labels[index])

    def _open(self, name: str) -> Any:
        if self.root.is_dir():
            return (self.root / name).open("rb")
        # A forked worker must not share the parent's file position: each process opens the archive for itself.
        if self._archive is None or self._archive[0] != os.getpid():
            self._archive = (os.getpid(), zipfile.ZipFile(self.root))
        return self._archive[1].open(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def resized(image: Tensor, size: int | None) -> Tensor:
    """(C, H, W) to (C, size, size): shorter side scaled to `size`, centre cropped. None changes nothing."""
    height, width = image.shape[-2:]
    if size is None or (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    target = [max(size, round(height * scale)), max(size, round(width * scale))]
    image = F.interpolate(image[None], target, mode="bilinear", antialias=True)[0].clamp(0, 1)
    top, left = ((side - size) // 2 for side in target)
    return image[:, top : top + size, left : left + size].contiguous()


def read_tree(root: Path) -> tuple[list[str], list[int], tuple[str, ...]]:
    """File names relative to `root`, labels, and class names, all in sorted order; `root` is a directory or a zip.

    The class is the name of the folder an image lies in; folders around the class folders do not matter, unless two
    class folders then have the same name, which raises ValueError. So does a file that is no zip.
    """
    images = _image_paths(root)
    folders = {p.parent for p in images}
    classes = sorted({folder.name for folder in folders})
    if len(classes) < len(folders):
        twice = sorted(str(f) for f in folders if sum(g.name == f.name for g in folders) > 1)
        raise ValueError(f"root: got several folders for one class under {root} ({', '.join(twice)}), expected one")
    images.sort(key=lambda p: (p.parent.name, p.name))
    index = {name: i for i, name in enumerate(classes)}
    return [str(p) for p in images], [index[p.parent.name] for p in images], tuple(classes)


def read_domains(
    root: Path, domains: Sequence[str] | None = None
) -> tuple[dict[str, tuple[list[str], list[int]]], tuple[str, ...]]:
    """Files and labels of every domain, and the class names, which all domains share; sorted, as in `read_tree`.

    The class is the folder an image lies in, the domain the folder around that. `domains`: these alone, in this order.
    ValueError for a domain without images, for one that lacks a class of another, and for none at all.
    """
    found: dict[str, list[PurePosixPath]] = {}
    for path in _image_paths(root):
        if len(path.parts) > 2:
            found.setdefault(path.parent.parent.name, []).append(path)
    empty = [folder.name for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() and not found else []
    if not found:
        held = f" (folders there: {', '.join(empty[:5])})" if empty else ""
        raise ValueError(f"root: got no images under {root}{held}, expected <domain>/<class>/<image>")
    if domains is None:
        around = {path.parts[:-3] for paths in found.values() for path in paths}
        folders = [root.joinpath(*parts) for parts in around] if root.is_dir() else []
        hollow = sorted(f.name for top in folders for f in top.iterdir() if f.is_dir() and not f.name.startswith("."))
        domains = sorted({*found, *hollow})
    for domain in domains:
        if domain not in found:
            raise ValueError(f"domain {domain!r}: got no images under {root}, expected {domain}/<class>/<image>")
    classes = sorted({path.parent.name for domain in domains for path in found[domain]})
    index = {name: i for i, name in enumerate(classes)}
    trees = {}
    for domain in domains:
        paths = sorted(found[domain], key=lambda p: (p.parent.name, p.name))
        if missing := sorted(index.keys() - {path.parent.name for path in paths}):
            got = f"no images of {', '.join(missing[:5])}"
            raise ValueError(f"domain {domain!r}: got {got} under {root}, expected the same classes in all domains")
        trees[domain] = [str(p) for p in paths], [index[p.parent.name] for p in paths]
    return trees, tuple(classes)


def _image_paths(root: Path) -> list[PurePosixPath]:
    """The images under a directory or in a zip file, relative to it."""
    if root.is_dir():
        found = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    else:
        try:
            with zipfile.ZipFile(root) as archive:
                found = archive.namelist()
        except zipfile.BadZipFile as error:
            raise ValueError(f"root: got {root}, expected a directory or a zip file ({error})") from error
    return [p for p in map(PurePosixPath, found) if _is_image(p)]


def _is_image(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in _SUFFIXES and len(path.parts) > 1 and not hidden


def split_rows(files: list[str], labels: list[int], split: str, *, by_number: bool) -> list[int]:
    """Rows that belong to `split`: 70, 15 and 15 parts in a hundred of each class, at least one each from three up.

    At random, the classes are shuffled with a fixed seed. By number, all files of a class with the same last number
    in their name count as one, and train, validation and test are blocks of consecutive numbers.
    """
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    chosen: list[int] = []
    for label, rows in rows_of.items():
        groups: list[list[int]]
        if by_number:
            numbered: dict[int, list[int]] = {}
            for row in rows:
                numbered.setdefault(_number(files[row]), []).append(row)
            groups = [numbered[number] for number in sorted(numbered)]
        else:
            random.Random(label).shuffle(rows)
            groups = [[row] for row in rows]
        held_out = max(round(0.15 * len(groups)), int(len(groups) >= 3))
        train = len(groups) - 2 * held_out
        part = {
            "train": slice(0, train),
            "validation": slice(train, train + held_out),
            "test": slice(train + held_out, None),
        }
        chosen += [row for group in groups[part[split]] for row in group]
    return sorted(chosen)


def _number(file: str) -> int:
    digits = re.findall(r"\d+", PurePosixPath(file).stem)
    if not digits:
        raise ValueError(
            f"split_by: got 'number', but the name of {file} has no number; expected one, as in tile_12.png"
        )
    return int(digits[-1])
