"""MSDNet, RANet and L2W-DEN under one protocol: accuracy against multiply-adds, and against the clock.

Same images, same epochs, same steps of 128 samples, same validation split, three seeds. L2W-DEN is MSDNet trained with
learned sample weights; its mini-batches of 256 are cut in halves of 128, so the plainly trained MSDNet is its baseline
with equal weights. On the CPU the networks are `MSDNet.tiny` and `RANet.tiny`, whose last exits cost the same within
5 %; on a GPU the published CIFAR configurations on 32x32 pixels.

What is timed, one thread, contenders in turn, batches of 1, 32 and 256, for every seed:
- static: the last exit alone; adaptive: `infer`, thresholds that lose at most a quarter point on validation images;
- both networks at equal accuracy: each at the cheapest thresholds that reach, on validation images, a quarter point
  less than the weaker network's last exit; the difference on test images is recorded;
- both networks at equal multiply-adds: each as accurate as a sixth, and a quarter, of MSDNet's full cost allows;
- the last three again with the queues of `infer_stream`;
- the meta step: a mini-batch of L2W-DEN against the two plain steps on its halves.

Training takes most of the time, so trained networks are kept in `bench-results/trained/`, each as soon as it is done:
an interrupted run goes on from there. Every row of accuracies names the commit its networks were trained at; delete the
folder to train them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor

from course_lib import data, measure, train
from course_lib.bench.core import Goal, Options, Report, Row, commit
from course_lib.bench.exits import (
    ImageTask,
    in_batches,
    in_queues,
    one_thread,
    ratios,
    real_task,
    shapes_task,
    timed,
)
from course_lib.bench.kept import kept, side_by_side
from course_lib.decision import ExitStudy, OperatingPoint
from course_lib.instance.l2w import fit_l2w
from course_lib.instance.msdnet import MSDNet
from course_lib.spatial.ranet import RANet

DATA = data.real.NAMES
NETWORKS = ("MSDNet", "RANet", "L2W-DEN")
SEEDS = (0, 1, 2)
RHOS = (0.1, 0.2, 0.4, 0.6, 0.75, 1.0, 1.3, 1.6)
RATE = 0.1  # learning rate, for every network
STEP = 128  # samples of one update, for every network
SEEN = 48_000  # training images a network sees, on the CPU
MARGIN = 0.0025
BUDGETS = {"a sixth": 1 / 6, "a quarter": 1 / 4}  # of MSDNet's full cost
AGAINST_STATIC = 1.8
META_STEP = 4.5  # plain steps


@dataclass(frozen=True)
class Trained:
    """One network after training: its weights, and its logits on validation and test images."""

    network: str
    seed: int
    weights: dict[str, Tensor]
    study: ExitStudy
    commit: str  #: of the library that trained it


def run(options: Options) -> Report:
    """Train three networks on three seeds, compare, time. `options.quick`: one seed, little data, no goals."""
    rows: list[Row] = []
    goals: list[Goal] = []
    with one_thread():
        task = _task(options)
        trained = {(one.network, one.seed): one for one in _train_all(task, options)}
        seeds = sorted({seed for _, seed in trained})
        rows += _accuracies(task, trained, seeds)
        promised = not options.quick and options.device == "cpu" and options.data is None
        for batch in (32,) if options.quick else (1, 32, 256):
            pairs = [_time_pair(task, trained, seed, batch, options) for seed in seeds]
            rows += [row for found, _ in pairs for row in found]
            compared = _compared(task, batch, [timings for _, timings in pairs])
            rows += compared
            if promised and batch == 256:
                static = [row for row in compared if row.name.endswith("static / adaptive")]
                goals += [Goal(row.name, row.median, AGAINST_STATIC) for row in static]
        rows += _time_curves(task, trained, seeds[0], options)
        meta_step = _time_meta_step(task, options)
        rows.append(meta_step)
        if promised:
            goals.append(Goal("meta step: minus its time in plain steps", -meta_step.median, -META_STEP))
    return Report("budgeted", rows, goals)


# Training ------------------------------------------------------------------------------------------------------------


def _task(options: Options) -> ImageTask:
    size = 16 if options.device == "cpu" else 32
    if options.data is not None:
        return real_task(options, size)
    if options.quick:
        return shapes_task(size, train=1_024, validation=500, test=500)
    return shapes_task(size, train=24_000 if options.device == "cpu" else 96_000)


def _build(network: str, task: ImageTask, seed: int, device: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        make: Callable[..., Any]
        if network == "RANet":
            make = RANet.tiny if device == "cpu" else RANet.cifar
        elif device == "cpu":
            make = MSDNet.tiny
        else:
            make = partial(MSDNet.cifar, exits=5, base=1, step=1, growth="linear")
        return make(task.classes, in_channels=task.channels).to(device)


def _train_all(task: ImageTask, options: Options) -> Iterator[Trained]:
    """Every network on every seed, each kept; on the CPU several at a time, one thread each, which nobody times."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    seen = SEEN if options.device == "cpu" else 10 * SEEN
    epochs = 1 if options.quick else max(1, round(seen / len(task.train[0])))
    jobs = list(product(reversed(NETWORKS), seeds))  # the longest first
    if options.quick:
        for network, seed in jobs:
            yield _trained(network, seed, {**_train(task, options.device, epochs, network, seed), "commit": commit()})
        return
    states = side_by_side(partial(_train_or_load, task, options.device, epochs), jobs, options.device)
    for (network, seed), state in zip(jobs, states, strict=True):
        yield _trained(network, seed, state)


def _trained(network: str, seed: int, state: Mapping[str, Any]) -> Trained:
    return Trained(network, seed, state["weights"], ExitStudy(**state["study"]), state["commit"])


def _train_or_load(task: ImageTask, device: str, epochs: int, network: str, seed: int) -> dict[str, Any]:
    sizes = [len(images) for images, _ in (task.train, task.validation, task.test)]
    plan = {"images": sizes, "size": task.size, "epochs": epochs, "step": STEP, "lr": RATE}
    name = f"{task.name}-{network}-{seed}.{torch.device(device).type}"
    return kept(name, plan, partial(_train, task, device, epochs, network, seed))


def _train(task: ImageTask, device: str, epochs: int, network: str, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    model = _build(network, task, seed, device)
    augment = None if task.name == "shapes" else _flip
    if network == "L2W-DEN":
        # a hundred times fewer steps than published, so ten times the published rate for the weights
        fit_l2w(model, task.train, epochs=epochs, batch_size=2 * STEP, lr=RATE, wpn_lr=1e-3, seed=seed, augment=augment)
    else:
        fit = partial(train.fit, batch_size=STEP, lr=RATE, nesterov=False, progress=False)
        fit(model, task.train, epochs=epochs, seed=seed, augment=augment)
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return {"weights": weights, "study": asdict(train.study(model, task.validation, task.test))}


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images mirrored."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None].to(images.device), images.flip(-1), images)


# Accuracy ------------------------------------------------------------------------------------------------------------


def _accuracies(task: ImageTask, trained: Mapping[tuple[str, int], Trained], seeds: Sequence[int]) -> list[Row]:
    """Accuracy of every exit and at every rho, in percent, one sample a seed; cost beside it."""
    rows = []
    for network in NETWORKS:
        studies = [trained[network, seed].study for seed in seeds]
        commits = [trained[network, seed].commit for seed in seeds]
        for k, cost in enumerate(studies[0].costs):
            values = [100 * study.accuracies[k] for study in studies]
            more = {"macs": cost, "values": _rounded(values), "trained": commits}
            rows.append(Row.of(f"{task.name}: {network}, exit {k + 1}", "%", values, **more))
        for rho in RHOS:
            points = [study.at_rho(rho) for study in studies]
            values = [100 * point.accuracy for point in points]
            more = {"network": network, "rho": rho, "macs": [round(point.cost) for point in points]}
            more |= {"values": _rounded(values), "trained": commits}
            rows.append(Row.of(f"{task.name}: {network} at rho {rho:g}", "%", values, **more))
    return rows


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]


# Time ----------------------------------------------------------------------------------------------------------------

Timings = dict[str, measure.Timing]


def _time_pair(
    task: ImageTask, trained: Mapping[tuple[str, int], Trained], seed: int, batch: int, options: Options
) -> tuple[list[Row], Timings]:
    """MSDNet and RANet of one seed at one batch size, in all their settings."""
    number = min(len(task.test[0]), 512 if batch == 1 or options.quick else 2_048)
    images = task.test[0][:number].to(options.device)
    contenders: dict[str, Callable[[], object]] = {}
    details: dict[str, dict[str, Any]] = {}
    settings = _settings(trained["MSDNet", seed].study, trained["RANet", seed].study)
    for network in ("MSDNet", "RANet"):
        model = _ready(task, trained[network, seed], options.device)
        contenders[f"{network} static"] = in_batches(model.at_exit, images, batch)
        for setting, point in settings[network].items():
            name = f"{network} {setting}"
            contenders[name] = in_batches(_infer(model, point.thresholds), images, batch)
            details[name] = {"accuracy": round(100 * point.accuracy, 3), "macs": round(point.cost)}
            if batch > 1:
                contenders[f"{name}, queue"] = in_queues(model, images, point.thresholds, batch)
                details[f"{name}, queue"] = details[name]
    rounds, warmup = (2, 1) if options.quick else (5, 4)
    label = f"{task.name}, batch {batch}, seed {seed}"
    return timed(label, contenders, images=number, batch=batch, rounds=rounds, warmup=warmup, details=details)


def _infer(model: Any, bar: Sequence[float]) -> Callable[[Tensor], object]:
    return lambda x: model.infer(x, bar)


def _ready(task: ImageTask, trained: Trained, device: str) -> Any:
    model = _build(trained.network, task, trained.seed, device)
    model.load_state_dict(trained.weights)
    return measure.fold_batchnorm(model.eval())


def _settings(msdnet: ExitStudy, ranet: ExitStudy) -> dict[str, dict[str, OperatingPoint]]:
    """For each network the thresholds at which it is timed; all chosen on validation images."""
    studies = {"MSDNet": msdnet, "RANet": ranet}
    reached = min(study.validation_accuracy for study in studies.values()) - MARGIN
    found: dict[str, dict[str, OperatingPoint]] = {}
    for name, study in studies.items():
        found[name] = {
            "adaptive": study.cheapest(MARGIN),
            "at equal accuracy": study.cheapest(study.validation_accuracy - reached),
        }
        for words, share in BUDGETS.items():
            budget = max(share * msdnet.costs[-1], study.costs[0])
            found[name][f"at {words} of the multiply-adds"] = study.within(budget)
    return found


def _compared(task: ImageTask, batch: int, seeds: Sequence[Timings]) -> list[Row]:
    """Ratios of times, one sample a seed, the median of its rounds."""
    names = list(seeds[0])
    pairs = {f"{n}, static / {a}": (f"{n} static", f"{n} {a}") for n in ("MSDNet", "RANet") for a in _ADAPTIVE}
    matched = [name.removeprefix("MSDNet ") for name in names if name.startswith("MSDNet at ")]
    pairs |= {f"MSDNet / RANet {setting}": (f"MSDNet {setting}", f"RANet {setting}") for setting in matched}
    rows = []
    for name, (above, below) in pairs.items():
        if above in names and below in names:
            values = [median(ratios(timings[above], timings[below])) for timings in seeds]
            rows.append(Row.of(f"{task.name}, batch {batch}: {name}", "x", values, values=_rounded(values)))
    return rows


_ADAPTIVE = ("adaptive", "adaptive, queue")


def _time_curves(task: ImageTask, trained: Mapping[tuple[str, int], Trained], seed: int, options: Options) -> list[Row]:
    """Images a second of every network at every rho: the curve of accuracy against measured time."""
    batch, number = (32, 256) if options.quick else (256, 2_048)
    images = task.test[0][:number].to(options.device)
    contenders: dict[str, Callable[[], object]] = {}
    details: dict[str, dict[str, Any]] = {}
    for network in NETWORKS:
        model = _ready(task, trained[network, seed], options.device)
        for point in trained[network, seed].study.sweep(RHOS):
            name = f"{network} at rho {point.rho:g}"
            contenders[name] = in_batches(_infer(model, point.thresholds), images, batch)
            more = {"accuracy": round(100 * point.accuracy, 3), "macs": round(point.cost)}
            details[name] = {"network": network, "rho": point.rho, **more}
    rounds, warmup = (2, 1) if options.quick else (5, 4)
    label = f"{task.name}, batch {batch}, curve"
    rows, _ = timed(label, contenders, images=len(images), batch=batch, rounds=rounds, warmup=warmup, details=details)
    return rows


def _time_meta_step(task: ImageTask, options: Options) -> Row:
    """Time of L2W-DEN's mini-batch, two meta steps, over that of the two plain steps on its halves."""
    batches = 2 if options.quick else 8
    some = (task.train[0][: batches * 2 * STEP], task.train[1][: batches * 2 * STEP])
    model = _build("MSDNet", task, 0, options.device)
    step = partial(fit_l2w, model, some, epochs=1, batch_size=2 * STEP, lr=1e-4)
    contenders = {"plain": lambda: step(epsilon=0), "learned": lambda: step(epsilon=0.8)}
    timings = measure.compare(contenders, rounds=2 if options.quick else 7, warmup=1)
    samples = ratios(timings["learned"], timings["plain"])
    return Row.of(f"{task.name}: meta step / two plain half-batch steps", "x", samples, batch=2 * STEP)
