"""Adaptive inference for any network with exits: leave when sure, and never compute for those who have left.

Source: survey (arXiv 2102.04906) sections 2.1.1 and 5.1. The published evaluations run the whole network and count
what could have been saved; here the finished samples are taken out of the batch between blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from course_lib.decision.confidence import Confidence, as_thresholds, confidence

#: What a network carries from one exit to the next: feature maps (N, ...), or None for a map nobody needs any more.
State = list[Tensor | None]

#: The three "multiply-adds at exit k" that circulate; see `exit_costs` of the networks.
CostConvention = Literal["macs", "published", "lazy"]


class EarlyExit(Protocol):
    """What a network must offer to be run adaptively; MSDNet and its relatives do."""

    exits: int
    classes: int
    training: bool

    def start(self, x: Tensor) -> State:
        """Everything before the first block. x: (N, C, H, W)."""

    def advance(self, state: State, k: int) -> Tensor:
        """Run block k on `state`, in place, and give the logits (N, classes) of exit k."""

    def exit_costs(self, size: int, *, convention: CostConvention = "macs") -> list[float]:
        """Cumulative multiply-adds a sample at each exit, for square images of `size` pixels."""


@dataclass(frozen=True)
class ExitResult:
    """What adaptive inference answered, in the order of the input."""

    logits: Tensor  #: (N, classes) of the exit each sample took
    exit_index: Tensor  #: (N,) int64
    macs: Tensor  #: (N,) float64, multiply-adds spent on each sample, heads passed on the way included


@dataclass(frozen=True)
class StreamResult(ExitResult):
    """The answer to one batch of a stream."""

    waited: Tensor  #: (N,) int64, how many later batches had come in when each sample was answered


def infer(
    model: EarlyExit, x: Tensor, thresholds: Tensor | Sequence[float], *, confidence: Confidence = "max_softmax"
) -> ExitResult:
    """Run a batch block by block; after each exit the samples that are sure enough leave the batch.

    Block k runs on exactly the samples that have not left before: none of the skipped work is done. On a CPU each
    number of samples is a shape that oneDNN prepares its convolutions for; with large batches set the environment
    variable ONEDNN_PRIMITIVE_CACHE_CAPACITY (default 1024 shapes) so high that it remembers all of them.

    Args:
        model: in eval mode.
        x: (N, C, H, W) float; N = 0 is legal.
        thresholds: (K,); leave at the first exit with confidence >= threshold, the last one is ignored.
        confidence: the score, see `decision.confidence`.

    Raises:
        RuntimeError: the model is in training mode, where batch statistics would tie the samples together.
        ValueError: thresholds of the wrong length, an input the model refuses, or NaN logits.
    """
    bar = _ready(model, thresholds)
    with torch.inference_mode():
        state = model.start(x)
        here = torch.arange(len(x), device=x.device)
        taken = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        parts: list[tuple[Tensor, Tensor]] = []
        for k in range(model.exits):
            logits = model.advance(state, k)
            leaves = _leaves(logits, bar[k], confidence)
            gone = leaves.nonzero().squeeze(1)
            if not len(gone):  # nobody leaves: nothing to move
                continue
            parts.append((here[gone], logits[gone]))
            taken[here[gone]] = k
            if len(gone) == len(here):
                break
            stay = (~leaves).nonzero().squeeze(1)
            here, state = here[stay], _rows(state, stay)
        answers = logits.new_zeros(len(x), logits.shape[1])
        for rows, logits in parts:
            answers[rows] = logits
        return ExitResult(answers, taken, _spent(model, x.shape[-1], taken))


def infer_stream(
    model: EarlyExit,
    batches: Iterable[Tensor],
    thresholds: Tensor | Sequence[float],
    *,
    batch_size: int,
    max_wait: int = 64,
    confidence: Confidence = "max_softmax",
) -> Iterator[StreamResult]:
    """Run a stream of batches with a queue before each block, so that every block works on full batches.

    Taking finished samples out leaves small batches to the late blocks, and small batches are slow. Here survivors of
    several batches wait for each other until `batch_size` of them stand before a block. The predictions are those of
    `infer`. Waiting is bounded: when a sample has seen `max_wait` later batches come in, its queue runs although it is
    not full, so every result is out by then; the end of the stream empties all queues.

    Args:
        model: in eval mode.
        batches: (N_i, C, H, W) tensors of one image size; read one at a time, as results are asked for.
        thresholds: as in `infer`.
        batch_size: samples each block runs on.
        max_wait: batches that may come in before a sample is answered at the latest; 0 runs everything at once.

    Yields:
        One result for each batch, in the order of the batches.

    Raises:
        RuntimeError, ValueError: as `infer`; `ValueError` also for a batch size below 1 or a negative wait.
    """
    bar = _ready(model, thresholds)
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    if max_wait < 0:
        raise ValueError(f"max_wait: got {max_wait}, expected 0 or more batches")
    return _stream(model, batches, bar, batch_size, max_wait, confidence)


class AdaptiveInference:
    """What every network with exits can do, given the members of `EarlyExit`: mixed into the networks."""

    infer = infer
    infer_stream = infer_stream

    def anytime(self: EarlyExit, x: Tensor) -> Iterator[Tensor]:
        """Logits (N, classes) exit by exit; whoever stops asking has spent no more than what was answered."""
        state = self.start(x)
        for k in range(self.exits):
            yield self.advance(state, k)


def _stream(
    model: EarlyExit, batches: Iterable[Tensor], bar: list[float], batch_size: int, max_wait: int, kind: Confidence
) -> Iterator[StreamResult]:
    queues = [_Queue() for _ in range(model.exits)]
    open_batches: deque[_Pending] = deque()
    first = 0  # number of the batch at the head of `open_batches`

    def run(k: int, rows: int, now: int) -> None:
        state, owner, place = queues[k].take(rows)
        logits = model.advance(state, k)
        leaves = _leaves(logits, bar[k], kind)
        for number in owner[leaves].unique().tolist():
            mine = leaves & (owner == number)
            open_batches[number - first].answer(place[mine], logits[mine], k, now - number)
        stay = (~leaves).nonzero().squeeze(1)
        if len(stay):
            queues[k + 1].put(_rows(state, stay), owner[stay], place[stay])

    now = -1
    for now, x in enumerate(batches):
        with torch.inference_mode():
            open_batches.append(_Pending(len(x), x.shape[-1], x.device))
            queues[0].put(
                model.start(x), torch.full((len(x),), now, device=x.device), torch.arange(len(x), device=x.device)
            )
            for k in range(model.exits):  # survivors only move to later queues, so one pass serves them all
                while len(queues[k]) >= batch_size:
                    run(k, batch_size, now)
                if queues[k].oldest() <= now - max_wait:
                    run(k, len(queues[k]), now)
        while open_batches and open_batches[0].complete():
            yield open_batches.popleft().result(model)
            first += 1
    with torch.inference_mode():
        for k in range(model.exits):
            while len(queues[k]):
                run(k, min(batch_size, len(queues[k])), now)
    for pending in open_batches:
        yield pending.result(model)


class _Queue:
    """Samples waiting before a block, oldest first, with the batch each came in and its place there."""

    def __init__(self) -> None:
        self.chunks: deque[tuple[State, Tensor, Tensor]] = deque()
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def oldest(self) -> float:
        # survivors keep their order from queue to queue, so whoever came first stands first
        return float(self.chunks[0][1][0]) if self.size else float("inf")

    def put(self, state: State, owner: Tensor, place: Tensor) -> None:
        if len(owner):
            self.chunks.append((state, owner, place))
            self.size += len(owner)

    def take(self, rows: int) -> tuple[State, Tensor, Tensor]:
        taken: list[tuple[State, Tensor, Tensor]] = []
        missing = rows
        while missing:
            state, owner, place = self.chunks.popleft()
            if len(owner) > missing:
                rest = slice(missing, None)
                self.chunks.appendleft((_rows(state, rest), owner[rest], place[rest]))
                state, owner, place = _rows(state, slice(missing)), owner[:missing], place[:missing]
            taken.append((state, owner, place))
            missing -= len(owner)
        self.size -= rows
        states, owners, places = zip(*taken, strict=True)
        merged = [None if maps[0] is None else torch.cat(maps) for maps in zip(*states, strict=True)]
        return merged, torch.cat(owners), torch.cat(places)


class _Pending:
    """One batch of the stream whose answers are coming in."""

    def __init__(self, size: int, side: int, device: torch.device) -> None:
        self.side = side
        self.logits: Tensor | None = None
        self.exit_index = torch.zeros(size, dtype=torch.int64, device=device)
        self.waited = torch.zeros(size, dtype=torch.int64, device=device)
        self.missing = size

    def answer(self, place: Tensor, logits: Tensor, k: int, waited: int) -> None:
        if self.logits is None:
            self.logits = logits.new_zeros(len(self.exit_index), logits.shape[1])
        self.logits[place] = logits
        self.exit_index[place] = k
        self.waited[place] = waited
        self.missing -= len(place)

    def complete(self) -> bool:
        return self.missing == 0

    def result(self, model: EarlyExit) -> StreamResult:
        logits = self.logits
        if logits is None:  # an empty batch: ask the model for the shape of no answers
            logits = self.waited.new_zeros(0, model.classes, dtype=torch.float32)
        return StreamResult(logits, self.exit_index, _spent(model, self.side, self.exit_index), self.waited)


def _ready(model: EarlyExit, thresholds: Tensor | Sequence[float]) -> list[float]:
    if model.training:
        raise RuntimeError("the model is in training mode; call model.eval() first, or samples share batch statistics")
    bar = as_thresholds(thresholds, model.exits).tolist()
    return [*bar[:-1], float("-inf")]


def _leaves(logits: Tensor, threshold: float, kind: Confidence) -> Tensor:
    """(N,) bool: who is sure enough. The scores are compared even at the last exit, so that NaN never passes."""
    return confidence(logits, kind) >= threshold


def _rows(state: State, index: Tensor | slice) -> State:
    """The rows of every map; places rather than a mask, so that they are looked up once and not for every map."""
    return [None if features is None else features[index] for features in state]


def _spent(model: EarlyExit, side: int, exit_index: Tensor) -> Tensor:
    costs = torch.tensor(model.exit_costs(side, convention="lazy"), dtype=torch.float64, device=exit_index.device)
    return costs[exit_index]
