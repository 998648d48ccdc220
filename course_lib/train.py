"""One small training loop: one device or many, interruptible at any step.

`fit` is a plain loop over shuffled batches with SGD, a schedule, mixed precision and a checkpoint. The checkpoint
holds all that the next step depends on, so a run that is killed and resumed ends with the weights of the undisturbed
run. Multi-exit networks, whose `forward` gives a list of logits, are trained with the sum of their exits'
cross-entropies (MSDNet, arXiv 1703.09844, section 4).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from course_lib.checkpoint import generator_states, load_checkpoint, require_same, save_checkpoint, set_generator_states
from course_lib.decision import ExitStudy

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "History",
    "as_batches",
    "cosine",
    "epoch_order",
    "evaluate",
    "fit",
    "load_checkpoint",
    "multi_exit_loss",
    "save_checkpoint",
    "study",
]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCHEDULES = ("cosine", "steps")

Outputs: TypeAlias = Tensor | Sequence[Tensor]
Data: TypeAlias = tuple[Tensor, Tensor] | Dataset
Loss: TypeAlias = Callable[[Any, Tensor], Tensor]
Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
Batches: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class History:
    """What a training run did, the parts before an interruption included.

    `losses`: the mean loss over the global batch, one per step; `epochs`, `steps`: how many; `seconds`: time spent.
    """

    losses: tuple[float, ...]
    epochs: int
    steps: int
    seconds: float


def multi_exit_loss(outputs: Outputs, labels: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Sum over the exits of the mean cross-entropy, each times its weight (1 where none is given); a scalar.

    outputs: (N, C) logits, or a list of them, one per exit; labels: (N,) int64. N = 0 gives 0.
    `ValueError` for labels outside 0..C-1 and for weights that are not one per exit.

    >>> logits = [torch.zeros(4, 10), torch.zeros(4, 10)]
    >>> round(multi_exit_loss(logits, torch.arange(4), weights=(1.0, 0.5)).item(), 4)  # 1.5 * ln 10
    3.4539
    """
    exits = _as_list(outputs)
    weights = [1.0] * len(exits) if weights is None else weights
    if len(weights) != len(exits):
        raise ValueError(f"weights: got {len(weights)} values, expected one for each of {len(exits)} exits")
    classes = exits[0].shape[-1]
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        got = f"{int(labels.min())}..{int(labels.max())}"
        raise ValueError(f"labels: got values {got}, expected 0..{classes - 1}, as the model has {classes} classes")
    losses = [F.cross_entropy(logits, labels, reduction="sum") for logits in exits]
    total = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
    return total / max(len(labels), 1)


def fit(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 64,
    lr: float = 0.05,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-4,
    schedule: str = "cosine",
    loss: Loss | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    precision: str = "fp32",
    accelerator: Accelerator | None = None,
    progress: bool = True,
    augment: Augment | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> History:
    """Train `model` where its parameters lie (with an accelerator: on its device); it comes back in eval mode.

    data: (images (N, ...), labels (N,) int64), or a map-style dataset of (image tensor, int). Images reach the model
    as they are, apart from `augment(images, generator)`, called on every global batch with a CPU generator.
    batch_size: images a step, over all devices together; the last batch of an epoch may be smaller.
    schedule: "cosine" falls from `lr` to 0; "steps" divides `lr` by 10 after 1/2 and again after 3/4 of the steps.
    loss: `loss(outputs, labels)`, a mean over the batch; by default `multi_exit_loss`.
    seed: the order of the data depends on (seed, epoch) alone; dropout draws from `seed`, not from the global state.
    checkpoint: a file written at the end of every epoch, and every `checkpoint_every` steps. With `resume`, an
    existing file is continued (it must come from the same settings), otherwise it is overwritten.
    precision: "fp32", or "bf16"/"fp16" by autocast; "fp16" scales its gradients and needs a GPU.
    accelerator: an `accelerate.Accelerator`, to train on many devices. Each process gets its part, in order, of the
    same global batch, and the recorded losses are means over all of it: the loss curve is that of one process.
    BatchNorm breaks this equality, since each process normalises by the statistics of its own part (and the running
    averages of the first process are kept); so does dropout, since each process draws its own.
    on_epoch: called as `on_epoch(epochs_done, mean_loss)` after each epoch.

    Raises `FloatingPointError`, naming the step, where the loss, or a weight to be saved, is not finite: the checkpoint
    stays the last good one, as after Ctrl-C. `ValueError` for one that is corrupt, foreign, of another model or plan.
    """
    batches, n = as_batches(data)
    if n == 0:
        raise ValueError("data: got no images, expected at least one")
    plan = _Plan(n, epochs, batch_size, lr, momentum, nesterov, weight_decay, schedule, seed, precision)
    run = _start(model, plan, accelerator)
    path = None if checkpoint is None else Path(checkpoint)
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every: got {checkpoint_every}, expected at least 1")
    with _generators_of(run, seed), _bar(plan.total, show=progress and run.rank == 0) as bar:
        if path is not None and resume and path.exists():
            _restore(run, load_checkpoint(path), path)
            bar.update(run.step)
        while run.epoch < epochs:
            for loss_value in _epoch(run, batches, loss or multi_exit_loss, augment):
                bar.set_postfix(loss=f"{loss_value:.3f}", refresh=False)
                bar.update(1)
                if path is not None and checkpoint_every and run.step % checkpoint_every == 0:
                    _save(run, path)
            run.epoch, run.batch = run.epoch + 1, 0
            if path is not None:
                _save(run, path)
            if on_epoch is not None:
                last = run.losses[-plan.batches :]
                on_epoch(run.epoch, sum(last) / len(last))
    model.eval()
    return History(tuple(run.losses), run.epoch, run.step, run.seconds)


def evaluate(model: nn.Module, data: Data, *, batch_size: int = 512) -> tuple[list[Tensor], Tensor]:
    """Logits of every exit in eval mode, and the labels: ([(N, C) per exit], (N,)), all on the CPU.

    data as in `fit`; a model with one output gives a list of one. The model's mode is left as it was.
    """
    batches, n = as_batches(data)
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    training, device = model.training, _device_of(model)
    logits, labels = [], []
    model.eval()
    with torch.no_grad():  # not inference_mode: these logits may later be calibrated by gradient descent
        for batch in torch.arange(n).split(batch_size):  # one empty batch where N = 0
            images, targets = batches(batch)
            logits.append([out.float().cpu() for out in _as_list(model(images.to(device)))])
            labels.append(targets.cpu())
    model.train(training)
    return [torch.cat(exit_logits) for exit_logits in zip(*logits, strict=True)], torch.cat(labels)


def study(model: Any, validation: Data, test: Data, *, batch_size: int = 512) -> ExitStudy:
    """Run a network with exits over both sets once and keep what budgeted evaluation asks for.

    model: a `decision.EarlyExit`; its costs are lazy multiply-adds for the size of the test images. Data as in `fit`.
    """
    validation_logits, validation_labels = evaluate(model, validation, batch_size=batch_size)
    test_logits, test_labels = evaluate(model, test, batch_size=batch_size)
    first, _ = as_batches(test)[0](torch.arange(1))
    costs = tuple(model.exit_costs(first.shape[-1], convention="lazy"))
    return ExitStudy(costs, tuple(validation_logits), validation_labels, tuple(test_logits), test_labels)


@dataclass(frozen=True)
class _Plan:
    """What decides the course of a run; a checkpoint is continued only under the same plan."""

    images: int
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    seed: int
    precision: str

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {least}")
        for name, known in (("schedule", SCHEDULES), ("precision", tuple(PRECISIONS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(known)}")

    @property
    def batches(self) -> int:
        return math.ceil(self.images / self.batch_size)

    @property
    def total(self) -> int:
        return self.epochs * self.batches

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        done = step / self.total
        if self.schedule == "cosine":
            return self.lr * cosine(done)
        return self.lr * 0.1 ** ((done >= 0.5) + (done >= 0.75))


@dataclass
class _Run:
    """Where a run stands: everything a checkpoint holds, and the devices it runs on."""

    plan: _Plan
    model: nn.Module  # as the caller knows it
    wrapped: nn.Module  # as it is called: the same, or wrapped for many devices
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    accelerator: Accelerator | None
    rank: int  # which of the `world` processes this is
    world: int
    epoch: int = 0
    batch: int = 0  # batches done of this epoch
    # State of the generator that drew this epoch's order and now feeds `augment`.
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def place(self) -> str:
        return f"epoch {self.epoch}, batch {self.batch}, learning rate {self.optimizer.param_groups[0]['lr']:.3g}"


def _start(model: nn.Module, plan: _Plan, accelerator: Accelerator | None) -> _Run:
    device = _device_of(model) if accelerator is None else accelerator.device
    if plan.precision == "fp16" and device.type != "cuda":
        raise ValueError(f"precision: got 'fp16' on {device.type}, expected 'bf16' or 'fp32' where there is no GPU")
    if accelerator is not None and accelerator.mixed_precision != "no":
        got = accelerator.mixed_precision
        raise ValueError(f"accelerator: got one with mixed_precision={got!r}, expected 'no'; say precision= instead")
    wrapped = model if accelerator is None else accelerator.prepare_model(model)
    optimizer = torch.optim.SGD(
        model.parameters(), plan.lr, plan.momentum, weight_decay=plan.weight_decay, nesterov=plan.nesterov
    )
    scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")
    place = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    return _Run(plan, model, wrapped, optimizer, scaler, device, accelerator, *place)


def _epoch(run: _Run, batches: Batches, loss_fn: Loss, augment: Augment | None) -> Iterator[float]:
    """Train through what is left of the present epoch, yielding each step's loss after its update."""
    order, generator = epoch_order(run.plan.images, run.plan.seed, run.epoch)
    if run.batch:  # resumed in the middle: drawn again, and then on from where it was
        generator.set_state(run.order)
    run.wrapped.train()
    for indices in order.split(run.plan.batch_size)[run.batch :]:
        started = time.perf_counter()
        images, labels = _share(run, batches, indices, augment, generator)
        value = _train_step(run, images.to(run.device), labels.to(run.device), len(indices), loss_fn)
        run.losses.append(value)
        run.batch += 1
        run.order = generator.get_state()
        run.seconds += time.perf_counter() - started
        yield value


def _share(
    run: _Run, batches: Batches, indices: Tensor, augment: Augment | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """This process's part of a global batch."""
    if augment is None:
        return batches(indices.tensor_split(run.world)[run.rank])
    # Every process augments the whole batch, so that all draw the same numbers, as one process would.
    images, labels = batches(indices)
    images = augment(images, generator)
    return images.tensor_split(run.world)[run.rank], labels.tensor_split(run.world)[run.rank]


def _train_step(run: _Run, images: Tensor, labels: Tensor, global_batch: int, loss_fn: Loss) -> float:
    """One update; returns the mean loss over the global batch."""
    for group in run.optimizer.param_groups:
        group["lr"] = run.plan.lr_at(run.step)
    run.optimizer.zero_grad(set_to_none=True)
    dtype = PRECISIONS[run.plan.precision]
    with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        outputs = run.wrapped(images)
        if len(labels):
            loss = loss_fn(outputs, labels) * (len(labels) / global_batch)
        else:  # fewer images than processes: take part in the exchange of gradients with zeros
            loss = sum((out.sum() for out in _as_list(outputs)), torch.zeros((), device=run.device))
    total = loss.detach().float()
    value = (total if run.accelerator is None else run.accelerator.reduce(total, "sum")).item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {run.step} ({run.place}); that update was not made")
    # Gradients are averaged over the processes, the loss is a sum over them.
    run.scaler.scale(loss * run.world).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return value


@contextlib.contextmanager
def _generators_of(run: _Run, seed: int) -> Iterator[None]:
    """Seed the global generators for this run and give them back afterwards as they were."""
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        # Not torch.manual_seed, which would also seed devices that are not in use here.
        torch.default_generator.manual_seed(seed + run.rank)
        if run.device.type == "cuda":
            with torch.cuda.device(run.device):
                torch.cuda.manual_seed(seed + run.rank)
        yield


def _bar(total: int, *, show: bool) -> contextlib.AbstractContextManager[Any]:
    """A progress bar, silent where it is not wanted or where there is no tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext(SimpleNamespace(update=lambda n: None, set_postfix=lambda **values: None))
    return tqdm(total=total, unit="step", disable=not show)


def cosine(done: float) -> float:
    """What is left of a learning rate after a share `done` of the training, in [0, 1]: from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * done))


def epoch_order(number: int, seed: int, epoch: int) -> tuple[Tensor, torch.Generator]:
    """The order of an epoch's samples (number,), by seed and epoch alone, and the generator to augment them with."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(number, generator=generator), generator


def as_batches(data: Data) -> tuple[Batches, int]:
    """How to fetch the images and labels of some indices, and how many there are."""
    if isinstance(data, tuple | list):
        return _tensor_batches(data)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(f"data: got {type(data).__name__}, expected (images, labels) or a map-style dataset")

    def fetch(indices: Tensor) -> tuple[Tensor, Tensor]:
        if len(data) == 0:
            raise ValueError("data: got an empty dataset, expected tensors (0, ...), which say the shape of an image")
        # No indices: nothing of the first image, so that the empty batch has the right shape.
        images, labels = zip(*(data[i] for i in indices.tolist() or [0]), strict=True)
        if not isinstance(images[0], Tensor):
            raise TypeError(f"data: got images of type {type(images[0]).__name__}, expected tensors")
        return torch.stack(images)[: len(indices)], torch.tensor(labels, dtype=torch.int64)[: len(indices)]

    return fetch, len(data)


def _tensor_batches(data: Sequence[Any]) -> tuple[Batches, int]:
    if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        got = ", ".join(type(part).__name__ for part in data)
        raise TypeError(f"data: got ({got}), expected two tensors (images, labels)")
    images, labels = data
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        got = f"labels {tuple(labels.shape)} {labels.dtype} for images {tuple(images.shape)}"
        raise ValueError(f"data: got {got}, expected labels {tuple(images.shape[:1])} torch.int64")
    return lambda indices: (images[indices], labels[indices]), len(images)


def _as_list(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _save(run: _Run, path: Path) -> None:
    generators = [generator_states(run.device)]
    if run.accelerator is not None:
        from accelerate.utils import gather_object

        generators = gather_object(generators)
    weights = run.model.state_dict()
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise FloatingPointError(f"weights not finite after step {run.step - 1} ({run.place}); {path} not written")
    if run.rank == 0:
        state = {
            "plan": asdict(run.plan),
            "model": weights,
            "optimizer": run.optimizer.state_dict(),
            "scaler": run.scaler.state_dict(),
            "generators": generators,
            "order": run.order,
            "epoch": run.epoch,
            "batch": run.batch,
            "losses": torch.tensor(run.losses, dtype=torch.float64),
            "seconds": run.seconds,
        }
        save_checkpoint(path, state)


def _restore(run: _Run, state: dict[str, Any], path: Path) -> None:
    """Put a run where the checkpoint says, or raise before anything is changed."""
    require_same(state, run.model.state_dict(), asdict(run.plan), path)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    run.epoch, run.batch, run.order = state["epoch"], state["batch"], state["order"]
    run.losses, run.seconds = state["losses"].tolist(), state["seconds"]
    if run.rank < len(state["generators"]):
        set_generator_states(state["generators"][run.rank], run.device)
