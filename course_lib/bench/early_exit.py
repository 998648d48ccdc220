"""Early exits against the clock: adaptive inference and the static networks it must beat, in one run.

On the CPU: `MSDNet.tiny`, trained here on procedural shapes and on the bundled digits (or on `--data`), one thread,
BatchNorm folded for everyone, batches of 1, 32 and 256. On a GPU: the CIFAR configuration on 32x32 shapes.

Contenders, interleaved round by round, each round in a new order of the images, so that batches leave survivors in
numbers not seen before:
- static: the last exit alone, without the heads on the way and without nodes it does not depend on;
- fixed exit: the earliest exit that, alone, stays within half a point of the last exit on the test images;
- adaptive: `infer`, finished images leave the batch; - queue: `infer_stream`, every block on full batches.

oneDNN may remember more prepared convolutions than its default, for all contenders: adaptive inference meets many
numbers of samples, and preparing each of them anew would be timed instead.

The thresholds are the cheapest that lose at most a quarter point on validation images; accuracies are on test images.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from course_lib import data, decision, measure, train
from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.instance.msdnet import MSDNet

ALLOWED_LOSS = 0.005  # half a point of accuracy, for adaptive inference and for the fixed exit alike
MARGIN = 0.0025  # on validation images, so that half a point holds on test images
GOALS = {1: ("adaptive", 1.8), 32: ("queue", 2.4), 256: ("adaptive", 2.8)}  # times static, on shapes
AGAINST_FIXED = 1.4
MEMORY_LIMIT = 2 * 2**30
PREPARED_CONVOLUTIONS = 16_384

Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """One data set with the network for it, images normalised to [-1, 1]."""

    name: str
    train: Images
    validation: Images
    test: Images
    model: MSDNet
    epochs: int


@dataclass(frozen=True)
class Setting:
    """A trained network ready to be timed, the thresholds, and what they cost in accuracy on test images."""

    task: Task
    model: MSDNet  # folded, eval mode
    thresholds: Tensor
    fixed: int  # exit of the fixed contender
    lost_points: float  # accuracy of the last exit minus that of adaptive inference, times 100


def run(options: Options) -> Report:
    """Train, choose thresholds, time. `options.quick`: small data and two rounds, no goals."""
    # read by oneDNN at the first convolution of the process
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PREPARED_CONVOLUTIONS))
    rows: list[Row] = []
    goals: list[Goal] = []
    with _one_thread():
        for task in _tasks(options):
            setting, more = _prepare(task, options.device)
            rows += more
            for batch in (32,) if options.quick else (1, 32, 256):
                ratios = _time(setting, batch, options, rows)
                if task.name == "shapes" and not options.quick and options.device == "cpu":
                    kind, least = GOALS[batch]
                    goals.append(Goal(f"batch {batch}: {kind} / static", ratios[kind], least))
                    fixed = ratios[kind] / ratios["fixed exit"]
                    goals.append(Goal(f"batch {batch}: {kind} / fixed exit", fixed, AGAINST_FIXED))
            if goals and task.name == "shapes":
                goals.append(Goal("shapes: points above the last exit", -setting.lost_points, -100 * ALLOWED_LOSS))
                used = next(row.median for row in rows if row.unit == "bytes")
                goals.append(Goal("shapes: bytes left of 2 GiB while training", MEMORY_LIMIT - used, 0))
    return Report("early-exit", rows, goals)


def _tasks(options: Options) -> Iterator[Task]:
    gpu = options.device != "cpu"
    size = 32 if gpu else 16

    def model(classes: int, channels: int) -> MSDNet:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if gpu:
                return MSDNet.cifar(classes, exits=5, base=1, step=1, growth="linear", in_channels=channels)
            return MSDNet.tiny(classes, in_channels=channels)

    if options.data is not None:
        fitted, held_out, tested = (_real(options, split, size) for split in ("train", "validation", "test"))
        classes = data.load(options.data, root=options.root, split="test").classes
        network = model(len(classes), fitted[0].shape[1])
        yield Task(options.data, fitted, held_out, tested, network, epochs=1 if options.quick else 2)
        return
    number = 2_000 if options.quick else 96_000 if gpu else 24_000
    fitted, held_out, tested = (_shapes(n, size, seed) for n, seed in ((number, 1), (4_000, 2), (4_096, 3)))
    yield Task("shapes", fitted, held_out, tested, model(10, 3), epochs=1)
    if not gpu:  # 8x8 pixels have no place in a network for 32x32
        fitted, held_out, tested = (_normalised(*data.digits(split=part)) for part in ("train", "validation", "test"))
        yield Task("digits", fitted, held_out, tested, model(10, 1), epochs=2 if options.quick else 20)


def _shapes(number: int, size: int, seed: int) -> Images:
    made = data.shapes(number, size=size, seed=seed)
    return _normalised(made.images, made.labels)


def _real(options: Options, split: str, size: int) -> Images:
    """A split of a real data set as tensors."""
    assert options.data is not None
    loaded = data.load(options.data, root=options.root, split=split, size=size)
    number = min(len(loaded), 500 if options.quick else 50_000)
    images, labels = zip(*(loaded[i] for i in range(number)), strict=True)
    return _normalised(torch.stack(images), torch.tensor(labels))


def _normalised(images: Tensor, labels: Tensor) -> Images:
    return (images - 0.5) * 2, labels


def _prepare(task: Task, device: str) -> tuple[Setting, list[Row]]:
    """Train, choose thresholds on validation images, look at test images."""
    model = task.model.to(device)
    fit = partial(train.fit, batch_size=64, lr=0.1, progress=False)
    one_step = (task.train[0][:64], task.train[1][:64])
    fit(copy.deepcopy(model), one_step, epochs=1)  # libraries set themselves up: not the network's memory
    histories = []
    peak = measure.peak_memory(lambda: histories.append(fit(model, task.train, epochs=task.epochs)))
    validation, validation_labels = train.evaluate(model, task.validation)
    test, test_labels = train.evaluate(model, task.test)
    costs = model.exit_costs(task.test[0].shape[-1], convention="lazy")
    thresholds = _cheapest(validation, validation_labels, costs)
    answers, exits = decision.simulate(test, thresholds)
    accuracies = [_accuracy(logits, test_labels) for logits in test]
    lost_points = 100 * (accuracies[-1] - _accuracy(answers, test_labels))
    shares = (exits.bincount(minlength=model.exits) / max(len(exits), 1)).tolist()
    fixed = next(k for k, reached in enumerate(accuracies) if reached >= accuracies[-1] - ALLOWED_LOSS)
    alone = _costs_alone(model, costs, task.test[0][:1].to(device))
    saved = alone[-1] / decision.mean_cost(shares, costs)
    parameters = sum(p.numel() for p in model.parameters())
    trained = {"images": len(task.train[0]), "epochs": task.epochs, "parameters": parameters}
    quality = {
        "accuracies": [round(100 * a, 2) for a in accuracies],
        "lost_points": round(lost_points, 2),
        "shares": [round(share, 3) for share in shares],
        "fixed_exit": fixed + 1,
        "fixed_exit_saves": round(alone[-1] / alone[fixed], 2),
    }
    rows = [
        Row.of(f"{task.name}: training", "s", [histories[0].seconds], **trained),
        Row.of(f"{task.name}: memory while training", "bytes", [float(peak)], **trained),
        Row.of(f"{task.name}: multiply-adds, static / adaptive", "x", [saved], **quality),
    ]
    folded = measure.fold_batchnorm(model)
    assert isinstance(folded, MSDNet)
    return Setting(task, folded, thresholds, fixed, lost_points), rows


def _costs_alone(model: MSDNet, costs: list[float], image: Tensor) -> list[float]:
    """Multiply-adds of each exit as a static network, which runs no head but its own."""
    per_module = measure.macs_per_module(model, image)
    heads = [per_module[f"heads.{k}"] for k in range(model.exits)]
    return [cost - sum(heads[:k]) for k, cost in enumerate(costs)]


def _cheapest(logits: list[Tensor], labels: Tensor, costs: list[float]) -> Tensor:
    """The cheapest thresholds that lose at most `MARGIN` on these images: shares by rho, or one bar for all exits."""
    scores = torch.stack([decision.confidence(one) for one in logits], 1)
    rhos = [p / 20 for p in range(1, 40)]
    candidates = [decision.find_thresholds(scores, decision.exit_shares(rho, len(costs))) for rho in rhos]
    candidates += [torch.full((len(costs),), bar) for bar in torch.linspace(0.3, 1.01, 72).tolist()]
    least = _accuracy(logits[-1], labels) - MARGIN
    best, best_cost = torch.full((len(costs),), float("inf")), costs[-1]
    for bar in candidates:
        answers, exits = decision.simulate(logits, bar)
        cost = decision.mean_cost(exits.bincount(minlength=len(costs)) / len(exits), costs)
        if cost < best_cost and _accuracy(answers, labels) >= least:
            best, best_cost = bar, cost
    return best


def _time(setting: Setting, batch: int, options: Options, rows: list[Row]) -> dict[str, float]:
    """Images a second of every contender at one batch size, and how many times static each is."""
    number = min(len(setting.task.test[0]), 512 if batch == 1 or options.quick else 4_096)
    images = setting.task.test[0][:number].to(options.device)
    model, bar = setting.model, setting.thresholds
    per_batch: dict[str, Callable[[Tensor], object]] = {
        "static": model.at_exit,
        "fixed exit": lambda x: model.at_exit(x, setting.fixed),
        "adaptive": lambda x: model.infer(x, bar).logits,
    }
    contenders = {name: _pass(fn, images, batch) for name, fn in per_batch.items()}
    if batch > 1:
        contenders["queue"] = _stream(model, images, bar, batch)
    # a server has met every number of survivors before: warm up until most of them are prepared
    rounds, warmup = (2, 1) if options.quick else (7, 6)
    timings = measure.compare(contenders, rounds=rounds, warmup=warmup)
    label = f"{setting.task.name}, batch {batch}"
    ratios = {}
    for name, timing in timings.items():
        speeds = [number / seconds for seconds in timing.samples_s]
        rows.append(Row.of(f"{label}: {name}", "images/s", speeds, batch=batch, images=number, threads=1))
    for name, timing in timings.items():
        if name != "static":
            pairs = zip(timings["static"].samples_s, timing.samples_s, strict=True)
            rows.append(Row.of(f"{label}: {name} / static", "x", [a / b for a, b in pairs], batch=batch))
            ratios[name] = rows[-1].median
    return ratios


def _pass(fn: Callable[[Tensor], object], images: Tensor, batch: int) -> Callable[[], object]:
    """One pass over the images in batches, in another order every time it is called, the same for all contenders."""
    orders = _orders(len(images))

    @torch.inference_mode()
    def call() -> object:
        for part in images[next(orders).to(images.device)].split(batch):
            result = fn(part)
        return result

    return call


def _stream(model: MSDNet, images: Tensor, bar: Tensor, batch: int) -> Callable[[], object]:
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


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
