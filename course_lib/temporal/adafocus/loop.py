"""The loop that every stage of training shares: epochs that depend on the seed alone and can be gone on with."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.checkpoint import require_same, write_atomically
from course_lib.train import cosine, epoch_order

Checkpoint = str | os.PathLike[str] | None
Step = Callable[[Tensor, torch.Generator], tuple[Tensor, float]]

_CLIP = 5.0  #: largest norm of a gradient
_FORMAT = "course_lib.temporal.adafocus/1"  #: of the checkpoints


@dataclass(frozen=True)
class StageHistory:
    """Means over each epoch: the loss, and what the stage is measured by (accuracy; in stage 2 the reward)."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """What decides the course of a stage; a checkpoint is continued only under the same plan."""

    stage: str
    samples: int
    epochs: int
    batch_size: int
    seed: int
    schedule: str  # "constant", "cosine", "warm cosine"
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("epochs", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {least}")

    def factor(self, done: float) -> float:
        """What the rates are multiplied by after a share `done` of all steps."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "cosine":
            return cosine(done)
        return 0.04 + 0.96 * cosine(1 - done / 0.2) if done < 0.2 else cosine((done - 0.2) / 0.8)


def run(
    plan: Plan,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Step,
    checkpoint: Checkpoint,
    *,
    train: tuple[nn.Module, ...],
) -> StageHistory:
    """Train through the epochs: `step(rows, generator)` gives a batch's loss and its score. `train`: in train mode."""
    path = None if checkpoint is None else Path(checkpoint)
    rates = [group["lr"] for group in optimizer.param_groups]
    rows: list[tuple[float, float]] = []
    if path is not None and path.exists():
        rows = _restore(path, plan, model, optimizer)
    steps = math.ceil(plan.samples / plan.batch_size)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    model.eval()
    for epoch in range(len(rows), plan.epochs):
        order, generator = epoch_order(plan.samples, plan.seed, epoch)
        for module in train:
            module.train()
        total = torch.zeros(2, dtype=torch.float64)
        with seeded(plan.seed * 1_000_003 + epoch, wanted=_draws(model)):
            for i, batch in enumerate(order.split(plan.batch_size)):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * plan.factor((epoch * steps + i) / (plan.epochs * steps))
                loss, score = step(batch, generator)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise FloatingPointError(f"{plan.stage}: the loss is {value} in epoch {epoch}, batch {i}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(trained, _CLIP)
                optimizer.step()
                total += len(batch) * torch.tensor([value, score], dtype=torch.float64)
        model.eval()
        mean = (total / plan.samples).tolist()
        rows.append((mean[0], mean[1]))
        if path is not None:
            _save(path, plan, model, optimizer, rows)
    return StageHistory(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def _save(path: Path, plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, rows: list[Any]) -> None:
    """A stage after a whole number of epochs, whose random numbers depend on seed and epoch: no generator to keep."""
    state = {
        "format": _FORMAT,
        "plan": _described(plan),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "means": torch.tensor(rows, dtype=torch.float64),
    }
    write_atomically(path, lambda file: torch.save(state, file))


def _restore(path: Path, plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
    expected = f"expected a checkpoint of a stage ({_FORMAT})"
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums it writes
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"checkpoint {path}: got an unreadable file ({reason}), {expected}") from error
    found = state.get("format") if isinstance(state, dict) else type(state)
    if found != _FORMAT:
        raise ValueError(f"checkpoint {path}: got {found}, {expected}")
    require_same(state, model.state_dict(), _described(plan), path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return [(row[0], row[1]) for row in state["means"].tolist()]


def _described(plan: Plan) -> dict[str, Any]:
    return {**vars(plan), "rates": list(plan.rates)}


def every_frame(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the answers (N, T, classes) after every frame, averaged."""
    return functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of rows (N, classes) whose largest logit is the label's."""
    return float((logits.argmax(-1) == labels).double().mean())


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device


def _draws(model: nn.Module) -> bool:
    """Whether training draws from torch's own generators."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


@contextlib.contextmanager
def seeded(seed: int, *, wanted: bool = True) -> Iterator[None]:
    """Seed torch's own generators inside, where they are `wanted`, and put them back afterwards."""
    if not wanted:
        yield
        return
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**63)
        yield
