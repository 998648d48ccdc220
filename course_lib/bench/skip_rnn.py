"""Skip RNN against reading every step: what the skipped updates save on the clock, one sequence at a time and batched.

Part of the temporal bench. The network: a trained `Adder` on the adding task, and the same one with its gate set by
hand, so that exactly every n-th step is an update. What is timed is `infer`, on one thread, contenders in turn.

- batch 1: the time of a reading, over what the share of updates predicts: that share of the time with every step read
  by the same code. Beside it a plain loop over the cell without a gate, and torch's own GRU, which knows no skipping;
- batch 64: the three plans that `SkipRNN.infer` has, against every step read;
- sequences of unequal length, batches of 64: as they come, and sorted by length.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import data
from course_lib.bench.core import Goal, Options, Row
from course_lib.bench.exits import ratios, timed
from course_lib.bench.kept import kept
from course_lib.temporal.skimming import Adder, SkipRNN, length_buckets, padded_share, score_adding, train_skip_rnn
from course_lib.temporal.skimming.skip_rnn import Plan

LENGTH, HIDDEN = 50, 64
ITERATIONS = 4_000
EVERY = (2, 3, 5, 10)  # steps from one update to the next, set by hand
PLANS: tuple[Plan, ...] = ("masked", "compacted", "own_pace")
WITHIN = 0.2
BATCH = 64


def compare(options: Options) -> tuple[list[Row], list[Goal]]:
    """Rows and goals; `options.quick`: hardly any training, few sequences."""
    model, commit = _trained(options)
    test = data.adding(64 if options.quick else 512, length=LENGTH, seed=10_000)
    score = score_adding(model, test)
    row = Row.of(
        "Skip RNN, adding: squared error", "", [score.error], used=score.used, found=score.found, trained=commit
    )
    alone, goals = _alone(model, test.inputs[: 8 if options.quick else 64], options)
    return [row, *alone, *_batched(model, test.inputs, options), *_buckets(options)], goals


def _trained(options: Options) -> tuple[Adder, str]:
    if options.quick:
        return train_skip_rnn(length=LENGTH, hidden_size=HIDDEN, iterations=3).model, "quick"
    plan = {"length": LENGTH, "hidden": HIDDEN, "iterations": ITERATIONS}

    def train() -> dict[str, Any]:
        run = train_skip_rnn(length=LENGTH, hidden_size=HIDDEN, iterations=ITERATIONS)
        return {"weights": run.model.state_dict(), "errors": list(run.errors), "used": list(run.used)}

    state = kept("adding-Skip-RNN-0", plan, train)
    model = Adder(HIDDEN).eval()
    model.load_state_dict(state["weights"])
    return model, state["commit"]


def every(reader: SkipRNN, steps: int) -> SkipRNN:
    """A copy whose gate says the same to any state: an update, and `steps` steps later the next one."""
    fixed = copy.deepcopy(reader)
    # a little more than a half shared among the steps, so that rounding cannot move it
    share = 0.5 / (steps - 0.5) if steps > 1 else 0.9
    with torch.no_grad():
        fixed.gate.weight.zero_()
        fixed.gate.bias.fill_(math.log(share / (1 - share)))
    return fixed


@torch.inference_mode()
def _read_all(read: Callable[[Tensor], object], parts: Sequence[Tensor]) -> object:
    """All sequences, batch by batch; what the last gave."""
    for part in parts:
        result = read(part)
    return result


def _cell_loop(cell: nn.GRUCell, inputs: Tensor) -> Tensor:
    """Every step by the cell alone: the plainest way to read everything."""
    state = inputs.new_zeros(len(inputs), cell.hidden_size)
    for x in inputs.unbind(1):
        state = cell(x, state)
    return state


def _fused(reader: SkipRNN) -> nn.GRU:
    """torch's own GRU with the cell's weights."""
    gru = nn.GRU(reader.input_size, reader.hidden_size, batch_first=True).eval()
    gru.load_state_dict({f"{name}_l0": value for name, value in reader.cell.state_dict().items()})
    return gru


def _everything(reader: SkipRNN) -> dict[str, Callable[[Tensor], object]]:
    """Three ways to read every step."""
    assert isinstance(reader.cell, nn.GRUCell)
    return {
        "every step": partial(every(reader, 1).infer, plan="own_pace"),
        "every step, the cell alone": partial(_cell_loop, reader.cell),
        "every step, torch's GRU": _fused(reader),
    }


# One sequence at a time ----------------------------------------------------------------------------------------------


def _alone(model: Adder, inputs: Tensor, options: Options) -> tuple[list[Row], list[Goal]]:
    reader = model.reader
    skipping = {"skipping": reader, **{f"every {n} steps": every(reader, n) for n in EVERY}}
    shares = {name: one.infer(inputs).share() for name, one in skipping.items()}
    parts = inputs.split(1)
    calls = {name: partial(_read_all, one.infer, parts) for name, one in skipping.items()}
    calls |= {name: partial(_read_all, read, parts) for name, read in _everything(reader).items()}
    rounds, warmup = (2, 1) if options.quick else (9, 2)
    details = {name: {"updates": round(share, 4)} for name, share in shares.items()}
    label = "Skip RNN, batch 1"
    rows, times = timed(
        label, calls, images=len(inputs), batch=1, rounds=rounds, warmup=warmup, details=details, what="sequences"
    )
    goals = []
    for name, share in shares.items():
        off = [measured / share for measured in ratios(times[name], times["every step"])]
        row = Row.of(f"{label}: {name}, time / prediction", "x", off, updates=round(share, 4))
        rows.append(row)
        if name == "skipping":
            goals.append(Goal(f"{row.name}: minus its distance from 1", -abs(row.median - 1), -WITHIN))
    return rows, goals


# Batches -------------------------------------------------------------------------------------------------------------


def _batched(model: Adder, inputs: Tensor, options: Options) -> list[Row]:
    reader = model.reader
    parts = inputs.split(BATCH)
    calls: dict[str, Callable[[], object]] = {}
    details: dict[str, dict[str, Any]] = {}
    for plan in PLANS:
        calls[plan] = partial(_read_all, partial(reader.infer, plan=plan), parts)
        readings = [reader.infer(part, plan=plan) for part in parts]
        share = sum(reading.share() for reading in readings) / len(parts)
        work = {"rows": sum(r.rows for r in readings), "calls": sum(r.launches for r in readings)}
        details[plan] = {"updates": round(share, 4), **work, "rows_of_all": inputs.shape[0] * inputs.shape[1]}
    calls |= {name: partial(_read_all, read, parts) for name, read in _everything(reader).items()}
    rounds, warmup = (2, 1) if options.quick else (9, 2)
    label = f"Skip RNN, batch {BATCH}"
    rows, times = timed(
        label, calls, images=len(inputs), batch=BATCH, rounds=rounds, warmup=warmup, details=details, what="sequences"
    )
    for plan in PLANS:
        rows.append(Row.of(f"{label}: every step / {plan}", "x", ratios(times["every step"], times[plan])))
    return rows


def _buckets(options: Options) -> list[Row]:
    """Lengths as those of sentences, log-normal around 20; every third step an update."""
    number = 256 if options.quick else 2_048
    generator = torch.Generator().manual_seed(0)
    lengths = (20 * torch.randn(number, generator=generator).mul(0.6).exp()).round().long().clamp(3, 100)
    inputs = torch.randn(number, int(lengths.max()), 2, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = SkipRNN(2, HIDDEN).eval()
    third, fused = every(reader, 3), _fused(reader)
    orders = {
        "as they come": list(torch.arange(number).split(BATCH)),
        "sorted by length": length_buckets(lengths, BATCH),
    }
    calls: dict[str, Callable[[], object]] = {}
    details: dict[str, dict[str, Any]] = {}
    for name, batches in orders.items():
        parts = [(inputs[rows, : int(lengths[rows].max())].contiguous(), lengths[rows]) for rows in batches]
        padding = {"padding": round(padded_share(lengths, batches), 4)}
        readers: Iterable[tuple[str, Callable[..., object]]] = [
            *((plan, partial(third.infer, plan=plan)) for plan in ("masked", "own_pace")),
            ("every step, torch's GRU", lambda x, _: fused(x)),
        ]
        for plan, read in readers:
            calls[f"{plan}, {name}"] = partial(_read_pairs, read, parts)
            details[f"{plan}, {name}"] = padding
    rounds, warmup = (2, 1) if options.quick else (7, 2)
    rows, _ = timed(
        "Skip RNN, unequal lengths",
        calls,
        images=number,
        batch=BATCH,
        rounds=rounds,
        warmup=warmup,
        details=details,
        what="sequences",
    )
    return rows


@torch.inference_mode()
def _read_pairs(read: Callable[..., object], parts: Sequence[tuple[Tensor, Tensor]]) -> object:
    for inputs, lengths in parts:
        result = read(inputs, lengths)
    return result
