"""What the benches of networks with exits share: their images, fair contenders, and one thread to time them on.

Contenders take turns, round by round, and each round takes the images in a new order, the same for all of them, so
that batches leave survivors in numbers not seen before. BatchNorm is folded for everyone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_lib import data, measure
from course_lib.bench.core import Options, Row

Images = tuple[Tensor, Tensor]

PREPARED_CONVOLUTIONS = 16_384


@dataclass(frozen=True)
class ImageTask:
    """One data set, images normalised to [-1, 1]."""

    name: str
    classes: int
    train: Images
    validation: Images
    test: Images

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.test[0].shape[-1]

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.test[0].shape[1]


def shapes_task(size: int, *, train: int, validation: int = 4_000, test: int = 4_096) -> ImageTask:
    """Procedural shapes of `size` pixels, three sets drawn apart."""
    made = [data.shapes(n, size=size, seed=seed) for n, seed in ((train, 1), (validation, 2), (test, 3))]
    return ImageTask("shapes", 10, *(_normalised(one.images, one.labels) for one in made))


def digits_task() -> ImageTask:
    """The bundled digits of 8x8 pixels."""
    return ImageTask("digits", 10, *(_normalised(*data.digits(split=split)) for split in data.real.SPLITS))


def real_task(options: Options, size: int) -> ImageTask:
    """The real data set asked for; a folder of images is divided by the numbers in their names, and named after it."""
    assert options.data is not None
    assert options.label is not None
    splits = []
    for split in data.real.SPLITS:
        by: dict[str, Any] = {"split_by": "number"} if options.data == "folder" else {}
        loaded = data.load(options.data, root=options.root, split=split, size=size, **by)
        number = min(len(loaded), 500 if options.quick else 50_000)
        rows = torch.linspace(0, len(loaded) - 1, number).long().tolist()  # of every class, where they stand in order
        images, labels = zip(*(loaded[i] for i in rows), strict=True)
        splits.append(_normalised(torch.stack(images), torch.tensor(labels)))
    return ImageTask(options.label, len(loaded.classes), *splits)


def _normalised(images: Tensor, labels: Tensor) -> Images:
    return (images - 0.5) * 2, labels


def costs_alone(model: Any, costs: Sequence[float], image: Tensor) -> list[float]:
    """Multiply-adds of each exit as a static network, which runs no head but its own."""
    per_module = measure.macs_per_module(model, image)
    heads = [per_module[f"heads.{k}"] for k in range(model.exits)]
    return [cost - sum(heads[:k]) for k, cost in enumerate(costs)]


# Contenders ----------------------------------------------------------------------------------------------------------


def in_batches(fn: Callable[[Tensor], object], images: Tensor, batch: int) -> Callable[[], object]:
    """One pass over the images in batches, in another order every time it is called."""
    orders = _orders(len(images))

    @torch.inference_mode()
    def call() -> object:
        for part in images[next(orders).to(images.device)].split(batch):
            result = fn(part)
        return result

    return call


def in_queues(model: Any, images: Tensor, bar: Sequence[float], batch: int) -> Callable[[], object]:
    """One pass of `infer_stream` over the images, in the same orders as `in_batches`."""
    orders = _orders(len(images))

    def call() -> object:
        parts = images[next(orders).to(images.device)].split(batch)
        for result in model.infer_stream(parts, bar, batch_size=batch):
            logits = result.logits
        return logits

    return call


def _orders(number: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randperm(number, generator=generator)


def timed(
    label: str,
    contenders: Mapping[str, Callable[[], object]],
    *,
    images: int,
    batch: int,
    rounds: int,
    warmup: int,
    details: Mapping[str, Mapping[str, Any]] | None = None,
    what: str = "images",
) -> tuple[list[Row], dict[str, measure.Timing]]:
    """A row of images (or `what` else) a second for every contender, and the timings to take ratios of."""
    timings = measure.compare(contenders, rounds=rounds, warmup=warmup)
    rows = []
    for name, timing in timings.items():
        speeds = [images / seconds for seconds in timing.samples_s]
        more = {"batch": batch, what: images, "threads": torch.get_num_threads(), **(details or {}).get(name, {})}
        rows.append(Row.of(f"{label}: {name}", f"{what}/s", speeds, **more))
    return rows, timings


def ratios(above: measure.Timing, below: measure.Timing) -> list[float]:
    """Time over time, round by round."""
    return [a / b for a, b in zip(above.samples_s, below.samples_s, strict=True)]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside, the old number after; oneDNN may remember more prepared convolutions than its default.

    Adaptive inference meets many numbers of samples, and preparing each of them anew would be timed instead.
    """
    # read by oneDNN at the first convolution of the process
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PREPARED_CONVOLUTIONS))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
