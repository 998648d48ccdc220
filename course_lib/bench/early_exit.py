"""Early exits against the clock: adaptive inference and the static networks it must beat, in one run.

On the CPU: `MSDNet.tiny`, trained here on procedural shapes and on the bundled digits (or on `--data`), one thread,
BatchNorm folded for everyone, batches of 1, 32 and 256. On a GPU: the CIFAR configuration on 32x32 shapes.

Contenders:
- static: the last exit alone, without the heads on the way and without nodes it does not depend on;
- fixed exit: the earliest exit that, alone, stays within half a point of the last exit on the test images;
- adaptive: `infer`, finished images leave the batch; - queue: `infer_stream`, every block on full batches.

The thresholds are the cheapest that lose at most a quarter point on validation images; accuracies are on test images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from course_lib import data, measure, train
from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.bench.exits import (
    ImageTask,
    costs_alone,
    digits_task,
    in_batches,
    in_queues,
    one_thread,
    ratios,
    real_task,
    shapes_task,
    timed,
)
from course_lib.instance.msdnet import MSDNet

DATA = data.real.NAMES
ALLOWED_LOSS = 0.005  # half a point of accuracy, for adaptive inference and for the fixed exit alike
MARGIN = 0.0025  # on validation images, so that half a point holds on test images
GOALS = {1: ("adaptive", 1.8), 32: ("queue", 2.4), 256: ("adaptive", 2.8)}  # times static, on shapes
AGAINST_FIXED = 1.4
MEMORY_LIMIT = 2 * 2**30


@dataclass(frozen=True)
class Task:
    """One data set with the network for it."""

    images: ImageTask
    model: MSDNet
    epochs: int


@dataclass(frozen=True)
class Setting:
    """A trained network ready to be timed, the thresholds, and what they cost in accuracy on test images."""

    task: Task
    model: MSDNet  # folded, eval mode
    thresholds: tuple[float, ...]
    fixed: int  # exit of the fixed contender
    lost_points: float  # accuracy of the last exit minus that of adaptive inference, times 100


def run(options: Options) -> Report:
    """Train, choose thresholds, time. `options.quick`: small data and two rounds, no goals."""
    rows: list[Row] = []
    goals: list[Goal] = []
    with one_thread():
        for task in _tasks(options):
            setting, more = _prepare(task, options.device)
            rows += more
            for batch in (32,) if options.quick else (1, 32, 256):
                faster = _time(setting, batch, options, rows)
                if task.images.name == "shapes" and not options.quick and options.device == "cpu":
                    kind, least = GOALS[batch]
                    goals.append(Goal(f"batch {batch}: {kind} / static", faster[kind], least))
                    fixed = faster[kind] / faster["fixed exit"]
                    goals.append(Goal(f"batch {batch}: {kind} / fixed exit", fixed, AGAINST_FIXED))
            if goals and task.images.name == "shapes":
                goals.append(Goal("shapes: points above the last exit", -setting.lost_points, -100 * ALLOWED_LOSS))
                used = next(row.median for row in rows if row.unit == "bytes")
                goals.append(Goal("shapes: bytes left of 2 GiB while training", MEMORY_LIMIT - used, 0))
    return Report("early-exit", rows, goals)


def _tasks(options: Options) -> Iterator[Task]:
    gpu = options.device != "cpu"
    size = 32 if gpu else 16

    def task(images: ImageTask, epochs: int) -> Task:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if gpu:
                cifar = partial(MSDNet.cifar, exits=5, base=1, step=1, growth="linear")
                return Task(images, cifar(images.classes, in_channels=images.channels), epochs)
            return Task(images, MSDNet.tiny(images.classes, in_channels=images.channels), epochs)

    if options.data is not None:
        yield task(real_task(options, size), 1 if options.quick else 2)
        return
    yield task(shapes_task(size, train=2_000 if options.quick else 96_000 if gpu else 24_000), 1)
    if not gpu:  # 8x8 pixels have no place in a network for 32x32
        yield task(digits_task(), 2 if options.quick else 20)


def _prepare(task: Task, device: str) -> tuple[Setting, list[Row]]:
    """Train, choose thresholds on validation images, look at test images."""
    model, images = task.model.to(device), task.images
    fit = partial(train.fit, batch_size=64, lr=0.1, progress=False)
    one_step = (images.train[0][:64], images.train[1][:64])
    fit(copy.deepcopy(model), one_step, epochs=1)  # libraries set themselves up: not the network's memory
    histories = []
    peak = measure.peak_memory(lambda: histories.append(fit(model, images.train, epochs=task.epochs)))
    study = train.study(model, images.validation, images.test)
    point = study.cheapest(MARGIN)
    accuracies = study.accuracies
    lost_points = 100 * (accuracies[-1] - point.accuracy)
    fixed = next(k for k, reached in enumerate(accuracies) if reached >= accuracies[-1] - ALLOWED_LOSS)
    alone = costs_alone(model, study.costs, images.test[0][:1].to(device))
    parameters = sum(p.numel() for p in model.parameters())
    trained = {"images": len(images.train[0]), "epochs": task.epochs, "parameters": parameters}
    quality = {
        "accuracies": [round(100 * a, 2) for a in accuracies],
        "lost_points": round(lost_points, 2),
        "shares": [round(share, 3) for share in point.realised],
        "fixed_exit": fixed + 1,
        "fixed_exit_saves": round(alone[-1] / alone[fixed], 2),
    }
    rows = [
        Row.of(f"{images.name}: training", "s", [histories[0].seconds], **trained),
        Row.of(f"{images.name}: memory while training", "bytes", [float(peak)], **trained),
        Row.of(f"{images.name}: multiply-adds, static / adaptive", "x", [alone[-1] / point.cost], **quality),
    ]
    folded = measure.fold_batchnorm(model)
    assert isinstance(folded, MSDNet)
    return Setting(task, folded, point.thresholds, fixed, lost_points), rows


def _time(setting: Setting, batch: int, options: Options, rows: list[Row]) -> dict[str, float]:
    """Images a second of every contender at one batch size, and how many times static each is."""
    task = setting.task.images
    number = min(len(task.test[0]), 512 if batch == 1 or options.quick else 4_096)
    images = task.test[0][:number].to(options.device)
    model, bar = setting.model, setting.thresholds
    per_batch: dict[str, Callable[[Tensor], object]] = {
        "static": model.at_exit,
        "fixed exit": lambda x: model.at_exit(x, setting.fixed),
        "adaptive": lambda x: model.infer(x, bar).logits,
    }
    contenders = {name: in_batches(fn, images, batch) for name, fn in per_batch.items()}
    if batch > 1:
        contenders["queue"] = in_queues(model, images, bar, batch)
    # a server has met every number of survivors before: warm up until most of them are prepared
    rounds, warmup = (2, 1) if options.quick else (7, 6)
    label = f"{task.name}, batch {batch}"
    found, timings = timed(label, contenders, images=number, batch=batch, rounds=rounds, warmup=warmup)
    faster = [
        Row.of(f"{label}: {name} / static", "x", ratios(timings["static"], timing), batch=batch)
        for name, timing in timings.items()
        if name != "static"
    ]
    rows += found + faster
    return {name: row.median for name, row in zip(list(timings)[1:], faster, strict=True)}
