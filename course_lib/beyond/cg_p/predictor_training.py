"""How the predictor is trained and judged, and how the weights that the library keeps came about.

Source: arXiv 2207.01411 (supervised training on solved instances); loss, schedule and measures are ours.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from course_lib.beyond.cg_p.labels import (
    FAMILIES,
    FIRST_SEED,
    INSTANCES,
    Example,
    held_out_timetables,
    solve_examples,
    training_timetables,
)
from course_lib.beyond.cg_p.predictor import COMMAND, FILE, EdgePredictor, as_tensors, save_predictor
from course_lib.beyond.cg_p.reduction import Chance, Predictor, ShortGaps
from course_lib.beyond.cg_p.rules import CrewRules
from course_lib.train import epoch_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Times that the kept weights saw every example.
EPOCHS = 40
#: At the end of the linear decay.
LAST_RATE = 1e-5
#: An arc that is used counts at most so many times as much as one that is not.
HEAVIEST = 20.0


@dataclass(frozen=True)
class TrainingRun:
    """A trained predictor in eval mode, the mean loss of every epoch, and the seconds it took."""

    predictor: EdgePredictor
    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Judgement:
    """How well scores find the arcs in use."""

    auc: float  #: the chance that an arc in use has a larger score than one that is not; 0.5 for knowing nothing
    mass: float  #: share of the labels within the best share of the arcs


# Training -------------------------------------------------------------------------------------------------------------


def train_predictor(
    examples: Sequence[Example],
    *,
    epochs: int = EPOCHS,
    lr: float = 3e-3,
    seed: int = 0,
    predictor: EdgePredictor | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> TrainingRun:
    """Binary cross-entropy, one graph a step, Adam; the rate falls linearly to 1e-5.

    Few arcs are in use, so these weigh more: as many times as there are others, but 20 times at most. The probabilities
    are too large for it; the order is what counts.

    Args:
        examples: by any rules; the predictor learns those it is shown.
        epochs: times that every example is seen.
        lr: of the first step.
        seed: of the weights and of the order. On a CPU the same seed gives the same predictor.
        predictor: to go on with; None for a new one.
        device: where to train.
        progress: say every ten epochs how the loss is.

    Raises:
        ValueError: no examples, or less than one epoch.
        FloatingPointError: a loss that is not finite, naming the epoch.
    """
    if not examples or epochs < 1:
        raise ValueError(f"examples, epochs: got {len(examples)} and {epochs}, expected at least 1 of each")
    started = time.perf_counter()
    if predictor is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            predictor = EdgePredictor()
    predictor.to(device).requires_grad_(True).train()
    inputs = [as_tensors(example.graph, device) for example in examples]
    targets = [torch.from_numpy(example.labels).to(device) for example in examples]
    used = sum(float(target.sum()) for target in targets)
    weight = torch.tensor(min((sum(map(len, targets)) - used) / max(used, 1.0), HEAVIEST), device=device)
    optimizer = torch.optim.Adam(predictor.parameters(), lr)
    steps = epochs * len(examples)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_RATE / lr, total_iters=steps)
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for k in epoch_order(len(examples), seed, epoch)[0].tolist():
            loss = F.binary_cross_entropy_with_logits(predictor(*inputs[k]), targets[k], pos_weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            total += loss.item()
        losses.append(total / len(examples))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} in epoch {epoch}")
        if progress and (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4f}", flush=True)
    predictor.requires_grad_(False).eval()
    return TrainingRun(predictor, tuple(losses), time.perf_counter() - started)


# Judging --------------------------------------------------------------------------------------------------------------


def judge(scores: NDArray[np.floating], labels: NDArray[np.floating], *, share: float = 0.2) -> Judgement:
    """How well scores rank arcs. A label of 0.3 counts as 0.3 of an arc in use and 0.7 of one that is not.

    Args:
        scores, labels: (m,).
        share: of the arcs, the best of which are looked at for the mass.

    >>> judge(np.array([0.9, 0.8, 0.7, 0.1, 0.0]), np.array([1.0, 0.0, 1.0, 0.0, 0.0]))
    Judgement(auc=0.8333333333333334, mass=0.5)
    """
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    levels, level = np.unique(values, return_inverse=True)
    used, unused = (np.bincount(level, weight, len(levels)) for weight in (labels, 1 - labels))
    below = np.cumsum(unused) - unused / 2  # of equal scores, half are below
    best = np.argsort(-values, kind="stable")[: round(share * len(values))]
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = np.float64((used * below).sum()) / (used.sum() * unused.sum())
        return Judgement(float(auc), float(np.float64(labels[best].sum()) / labels.sum()))


def compare_predictors(
    examples: Sequence[Example], predictors: dict[str, Predictor], *, share: float = 0.2
) -> dict[str, Judgement]:
    """The mean judgement of each predictor over the examples."""
    found = {}
    for name, predictor in predictors.items():
        each = [
            judge(predictor.scores(e.graph.timetable, e.graph.rules, e.graph), e.labels, share=share) for e in examples
        ]
        found[name] = Judgement(*(float(np.mean([getattr(one, part) for one in each])) for part in ("auc", "mass")))
    return found


# The kept weights -----------------------------------------------------------------------------------------------------


def train_and_save(
    *,
    instances: int = INSTANCES,
    epochs: int = EPOCHS,
    seed: int = 0,
    out: Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> tuple[TrainingRun, dict[str, dict[str, Judgement]], Path]:
    """Solve, train, judge on held-out railways, and write the weights with how they came about in the header.

    out: None: the file that `load_predictor()` reads.

    Returns:
        The run; the judgements of network, rule of thumb and chance by kind of railway; the file.
    """
    say = partial(solve_examples, processes=processes)
    run = train_predictor(
        say(training_timetables(instances), progress=progress), epochs=epochs, seed=seed, progress=progress
    )
    rivals: dict[str, Predictor] = {"network": run.predictor, "short gaps": ShortGaps(), "chance": Chance()}
    held_out = {kind: compare_predictors(say(drawn), rivals) for kind, drawn in held_out_timetables().items()}
    options = {"--instances": (instances, INSTANCES), "--epochs": (epochs, EPOCHS), "--seed": (seed, 0)}
    words = [f"{name} {value}" for name, (value, usual) in options.items() if value != usual]
    kept = {kind: {name: round(one.auc, 4) for name, one in found.items()} for kind, found in held_out.items()}
    notes = {
        "command": " ".join([COMMAND, *words]), "rules": repr(CrewRules()), "instances": str(instances),
        "epochs": str(epochs), "seed": str(seed), "seeds": f"from {FIRST_SEED}", "families": ", ".join(FAMILIES),
        "held_out_auc": json.dumps(kept), "torch": torch.__version__,
    }  # fmt: skip
    file = FILE if out is None else Path(out)
    save_predictor(file, run.predictor, notes)
    return run, held_out, file


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m course_lib.beyond.cg_p`: make the kept weights anew (some minutes on one core)."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Train the edge predictor under the default rules.")
    parser.add_argument("--instances", type=int, default=INSTANCES, help="timetables to solve and learn from")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="that solve side by side")
    parser.add_argument("--out", type=Path, help="the file, instead of the library's")
    run, held_out, file = train_and_save(**vars(parser.parse_args(arguments)), progress=True)
    print(f"\n{'held out, 200 trips':<20}{'':<12}{'AUC':>7}{'used arcs in the best 20 %':>29}")
    for kind, found in held_out.items():
        for name, one in found.items():
            print(f"{kind:<20}{name:<12}{one.auc:7.3f}{one.mass:29.1%}")
    print(f"\ntrained in {run.seconds:.0f} s; weights written to {file}")
