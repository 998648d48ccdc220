"""Checks of `start/measuring`: intensity, the roofline's bound, calibration error, rows under compaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from course_lib.checks import Case, Check

CHAPTER = "start/measuring"


def _convolution(cin: int, cout: int, kernel: int, side: int, batch: int) -> tuple[int, int, int, int]:
    """MACs, and numbers in input, weights and output, from torch's own shapes."""
    layer = torch.nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False, device="meta")
    x = torch.empty(batch, cin, side, side, device="meta")
    y = layer(x)
    return y.numel() * layer.weight[0].numel(), x.numel(), layer.weight.numel(), y.numel()


def _intensity(cin: int, cout: int, kernel: int, side: int, batch: int) -> float:
    macs, given, weights, made = _convolution(cin, cout, kernel, side, batch)
    return macs / (4 * (given + weights + made))


def _with_terms(combine: Callable[[int, int, int, int, int], float]) -> Callable[..., float]:
    """A mistake of `operational_intensity`: a wrong combination of MACs, input, weights, output and batch."""
    return lambda cin, cout, kernel, side, batch: combine(*_convolution(cin, cout, kernel, side, batch), batch)


operational_intensity = Check(
    "operational_intensity",
    chapter=CHAPTER,
    title="MACs per byte of a convolution",
    level=1,
    minutes=5,
    reference=_intensity,
    cases=[
        Case.of("64 to 64 channels on a 56x56 map", 64, 64, 3, 56, 1),
        Case.of("the same MACs with 4 channels on 896x896", 4, 4, 3, 896, 1),
        Case.of("a linear layer is a 1x1 convolution on a 1x1 map", 512, 256, 1, 1, 1),
        Case.of("the same linear layer for 64 images", 512, 256, 1, 1, 64),
        Case.of("more channels out than in", 3, 32, 5, 20, 8),
    ],
    wrong_answers={
        "forgets_weights": _with_terms(lambda macs, x, w, y, _: macs / (4 * (x + y))),
        "forgets_output": _with_terms(lambda macs, x, w, y, _: macs / (4 * (x + w))),
        "counts_numbers": _with_terms(lambda macs, x, w, y, _: macs / (x + w + y)),
        "counts_bits": _with_terms(lambda macs, x, w, y, _: macs / (32 * (x + w + y))),
        "counts_two_per_mac": _with_terms(lambda macs, x, w, y, _: 2 * macs / (4 * (x + w + y))),
        "weights_for_every_image": _with_terms(lambda macs, x, w, y, n: macs / (4 * (x + n * w + y))),
    },
    diagnoses={
        "forgets_weights": (
            "You moved the input and the output. What else must reach the processor before it can multiply?"
        ),
        "forgets_output": "You counted what is read. Where do the results go?",
        "counts_numbers": "You divided by the numbers moved. How many bytes is one float32?",
        "counts_bits": "Your result is 8 times too small: it is MACs per bit. In which unit is bandwidth given here?",
        "counts_two_per_mac": "You counted a multiplication and an addition as two. What is the unit of this book?",
        "weights_for_every_image": (
            "You moved the weights once for every image. Do the images of one batch need different weights?"
        ),
    },
    accepted=[
        lambda cin, cout, kernel, side, batch: (
            batch * side**2 * cout * cin * kernel**2 / 4 / (batch * side**2 * (cin + cout) + cin * cout * kernel**2)
        ),
        lambda cin, cout, kernel, side, batch: (
            1 / (4 * (1 / (cout * kernel**2) + 1 / (cin * kernel**2) + 1 / (batch * side * side)))
        ),
    ],
    hints=(
        "Three things are moved once each: the input, the weights, the output. Write down how many numbers each has.",
        "2 to 3 channels, 1x1, a 4x4 map, one image: 96 MACs; 32 + 6 + 48 = 86 numbers, 344 bytes; 0.279.",
        "macs = batch * side**2 * cout * cin * kernel**2; numbers = batch * side**2 * (cin + cout) + cin "
        "* cout * kernel**2; "
        "divide macs by 4 * numbers.",
    ),
    shows=(
        "So equal MACs can be far apart in bytes, and a larger batch raises the intensity of a layer with many weights."
    ),
)


def _bound(macs: float, moved: float, macs_per_s: float, bytes_per_s: float) -> tuple[float, str]:
    arithmetic, traffic = macs / macs_per_s, moved / bytes_per_s
    return (arithmetic, "compute") if arithmetic >= traffic else (traffic, "memory")


def _from_times(combine: Callable[[float, float], tuple[float, str]]) -> Callable[..., tuple[float, str]]:
    """A mistake of `roofline_bound`: a wrong combination of the two times."""
    return lambda macs, moved, macs_per_s, bytes_per_s: combine(macs / macs_per_s, moved / bytes_per_s)


def _compares_amounts(macs: float, moved: float, macs_per_s: float, bytes_per_s: float) -> tuple[float, str]:
    return max(macs / macs_per_s, moved / bytes_per_s), "compute" if macs >= moved else "memory"


def _gives_rate(macs: float, moved: float, macs_per_s: float, bytes_per_s: float) -> tuple[float, str]:
    seconds, limit = _bound(macs, moved, macs_per_s, bytes_per_s)
    return macs / seconds if seconds else 0.0, limit


roofline_bound = Check(
    "roofline_bound",
    chapter=CHAPTER,
    title="the least time a layer can take, and why",
    level=2,
    minutes=7,
    reference=_bound,
    cases=[
        Case.of("memory decides although there are more MACs than bytes", 200.0, 100.0, 100.0, 10.0),
        Case.of("arithmetic decides", 1000.0, 10.0, 100.0, 10.0),
        Case.of("exactly at the ridge it is called compute", 1000.0, 100.0, 100.0, 10.0),
        Case.of("a copy has no MACs", 0.0, 50.0, 100.0, 10.0),
        Case.of("a real layer on a real machine", 115_605_504, 25_690_688, 50e9, 20e9),
        Case.of("numbers that stay in registers move no bytes", 300.0, 0.0, 100.0, 10.0),
    ],
    wrong_answers={
        "faster_of_both": _from_times(lambda a, t: (a, "compute") if a <= t else (t, "memory")),
        "adds_both": _from_times(lambda a, t: (a + t, "compute" if a >= t else "memory")),
        "names_swapped": _from_times(lambda a, t: (max(a, t), "memory" if a >= t else "compute")),
        "ridge_is_memory": _from_times(lambda a, t: (max(a, t), "compute" if a > t else "memory")),
        "compares_amounts": _compares_amounts,
        "gives_rate": _gives_rate,
    },
    diagnoses={
        "faster_of_both": "You took the shorter of the two times. Can a layer end before both of its jobs are done?",
        "adds_both": "You did one job after the other. What does a processor do while data is on its way?",
        "names_swapped": "The seconds are right, the two names are exchanged. Which resource is busy all the time?",
        "ridge_is_memory": "All is right but the tie. What does the docstring call a layer exactly at the ridge?",
        "compares_amounts": "You compared MACs with bytes. How long does the machine take for each of them?",
        "gives_rate": "You returned MACs per second. What was asked for, a speed or a time?",
    },
    accepted=[
        lambda macs, moved, macs_per_s, bytes_per_s: max(
            (moved / bytes_per_s, "memory"),
            (macs / macs_per_s, "compute"),
            key=lambda pair: (pair[0], pair[1] == "compute"),
        ),
        lambda macs, moved, macs_per_s, bytes_per_s: (
            max(macs / macs_per_s, moved / bytes_per_s),
            "memory" if moved * macs_per_s > macs * bytes_per_s else "compute",
        ),
    ],
    hints=(
        "Turn each amount into seconds first; only seconds can be compared with seconds.",
        "200 MACs at 100 a second are 2 s, 100 bytes at 10 a second are 10 s: the bound is (10.0, 'memory').",
        "a, m = macs / macs_per_s, moved / bytes_per_s; return the larger of them, with 'compute' where a >= m.",
    ),
    shows="So a change that removes MACs from a memory-bound layer does not move its bound at all.",
)


def _bins(confidence: Tensor, bins: int, *, right_open: bool = False) -> list[list[int]]:
    """Which answers fall in each bin, by the definition: bin b holds b / bins < confidence <= (b + 1) / bins."""
    found: list[list[int]] = [[] for _ in range(bins)]
    for i, score in enumerate(confidence.tolist()):
        place = math.floor(score * bins) if right_open else math.ceil(score * bins) - 1
        found[min(max(place, 0), bins - 1)].append(i)
    return found


def _gaps(confidence: Tensor, correct: Tensor, bins: int, *, right_open: bool = False) -> list[tuple[int, float]]:
    """(answers, mean confidence - accuracy) of every bin that is not empty."""
    score, right = confidence.tolist(), [float(c) for c in correct.tolist()]
    members = [rows for rows in _bins(confidence, bins, right_open=right_open) if rows]
    return [(len(rows), sum(score[i] - right[i] for i in rows) / len(rows)) for rows in members]


def _ece(confidence: Tensor, correct: Tensor, bins: int) -> float:
    return sum(n * abs(gap) for n, gap in _gaps(confidence, correct, bins)) / max(len(confidence), 1)


def _ece_unweighted(confidence: Tensor, correct: Tensor, bins: int) -> float:
    gaps = _gaps(confidence, correct, bins)
    return sum(abs(gap) for _, gap in gaps) / max(len(gaps), 1)


def _ece_empty_bins(confidence: Tensor, correct: Tensor, bins: int) -> float:
    return sum(abs(gap) for _, gap in _gaps(confidence, correct, bins)) / bins


def _ece_squared(confidence: Tensor, correct: Tensor, bins: int) -> float:
    return sum(n * gap**2 for n, gap in _gaps(confidence, correct, bins)) / max(len(confidence), 1)


def _ece_right_open(confidence: Tensor, correct: Tensor, bins: int) -> float:
    return sum(n * abs(gap) for n, gap in _gaps(confidence, correct, bins, right_open=True)) / max(len(confidence), 1)


def _ece_cancelling(confidence: Tensor, correct: Tensor, bins: int) -> float:
    return abs(sum(n * gap for n, gap in _gaps(confidence, correct, bins))) / max(len(confidence), 1)


def _ece_centres(confidence: Tensor, correct: Tensor, bins: int) -> float:
    right, total = [float(c) for c in correct.tolist()], 0.0
    for b, rows in enumerate(_bins(confidence, bins)):
        total += abs(sum((b + 0.5) / bins - right[i] for i in rows))
    return total / max(len(confidence), 1)


def _ece_masks(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """Another correct way: one mask a bin; the count of a bin cancels against its means."""
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins) | ((confidence == 0) & (b == 0))
        total += abs(float(confidence[inside].double().sum()) - float(correct[inside].double().sum()))
    return total / len(confidence) if len(confidence) else 0.0


def _ece_scatter(confidence: Tensor, correct: Tensor, bins: int) -> float:
    index = ((confidence.double() * bins).ceil().long() - 1).clamp(0, bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).index_add(0, index, confidence.double() - correct.double())
    return float(sums.abs().sum() / max(len(confidence), 1))


def _answers(*pairs: tuple[float, int]) -> tuple[Tensor, Tensor]:
    confidence = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    return confidence, torch.tensor([pair[1] for pair in pairs], dtype=torch.bool)


def _crowd() -> tuple[Tensor, Tensor]:
    """Forty answers of an overconfident network; a fixed pattern, so that every machine has the same."""
    i = torch.arange(40, dtype=torch.float64)
    return 0.31 + 0.68 * ((i * 7) % 40) / 40, (i * 11) % 40 < 22


expected_calibration_error = Check(
    "expected_calibration_error",
    chapter=CHAPTER,
    title="how far confidence is from accuracy",
    level=3,
    minutes=10,
    reference=_ece,
    cases=[
        Case.of("five answers in two bins", *_answers((0.9, 1), (0.8, 0), (0.7, 1), (0.9, 1), (0.3, 0)), 2),
        Case.of("confidences exactly on the edges", *_answers((0.25, 0), (0.5, 1), (0.75, 0), (1.0, 1), (0.6, 1)), 4),
        Case.of("too sure in one bin, too modest in another", *_answers((0.9, 0), (0.9, 1), (0.4, 1), (0.4, 1)), 5),
        Case.of("forty answers", *_crowd(), 10, show="40 answers, confidence from 0.31 to 0.97, 10 bins"),
        Case.of("never wrong and always certain", *_answers((1.0, 1), (1.0, 1)), 10),
        Case.of("a confidence of 0 joins the first bin", *_answers((0.0, 0), (0.1, 1)), 3),
        Case.of("no answers at all", *_answers(), 5),
    ],
    wrong_answers={
        "unweighted_bins": _ece_unweighted,
        "empty_bins_count": _ece_empty_bins,
        "squared_gap": _ece_squared,
        "right_open_bins": _ece_right_open,
        "gaps_cancel": _ece_cancelling,
        "middle_of_the_bin": _ece_centres,
    },
    diagnoses={
        "unweighted_bins": (
            "You averaged over the bins that are not empty. Should a bin of 1 answer weigh as much as one of 1,000?"
        ),
        "empty_bins_count": (
            "You divided by the number of bins, the empty ones too. What does a bin without answers tell?"
        ),
        "squared_gap": "You squared the gaps. Is 0.2 the average distance of confidence and accuracy, or is 0.04?",
        "right_open_bins": "A confidence on an edge went to the bin above it. Which end of a bin belongs to it here?",
        "gaps_cancel": (
            "You took the absolute value after adding up. May being too sure here make up for too modest there?"
        ),
        "middle_of_the_bin": (
            "You compared accuracy with the middle of the bin. How sure were the answers inside it on average?"
        ),
    },
    accepted=[_ece_masks, _ece_scatter],
    hints=(
        "Three steps: who is in which bin; mean confidence and accuracy there; the weighted mean of the distances.",
        "Bins (0, 0.5] and (0.5, 1], answers 0.9 right, 0.8 wrong, 0.3 wrong: gaps |0.85 - 0.5| and |0.3 - 0|, so "
        "(2 * 0.35 + 1 * 0.3) / 3 = 0.333.",
        "For each b: inside = (confidence > b / bins) & (confidence <= (b + 1) / bins); skip it if empty; add "
        "inside.sum() * abs(confidence[inside].mean() - correct[inside].double().mean()); divide by the "
        "number of answers.",
    ),
    shows="So calibration is measured over many answers: no single one of them can be calibrated or not.",
)


def _saved(rows: Sequence[int], number: int) -> float:
    return 1 - sum(rows) / (len(rows) * number) if number else 0.0


def _walk(exit_index: Tensor, exits: int) -> tuple[list[int], float]:
    here, rows = exit_index.tolist(), []
    for k in range(exits):
        rows.append(len(here))
        here = [e for e in here if e != k]
    return rows, _saved(rows, len(exit_index))


def _with_rows(rule: Callable[[Tensor, int, int], Any]) -> Callable[..., tuple[list[int], float]]:
    """A mistake of `rows_per_block`: the rows of block k of K by a wrong rule, the saving computed from them."""

    def mistaken(exit_index: Tensor, exits: int) -> tuple[list[int], float]:
        rows = [int(rule(exit_index, k, exits)) for k in range(exits)]
        return rows, _saved(rows, len(exit_index))

    return mistaken


def _gives_speedup(exit_index: Tensor, exits: int) -> tuple[list[int], float]:
    rows, _ = _walk(exit_index, exits)
    return rows, exits * len(exit_index) / sum(rows) if sum(rows) else 0.0


def _against_whole_batch(exit_index: Tensor, exits: int) -> tuple[list[int], float]:
    rows, _ = _walk(exit_index, exits)
    return rows, 1 - rows[-1] / rows[0] if rows[0] else 0.0


def _reversed_cumulative_sum(exit_index: Tensor, exits: int) -> tuple[list[int], float]:
    leavers = torch.bincount(exit_index, minlength=exits)
    rows = leavers.flip(0).cumsum(0).flip(0).tolist()
    return rows, _saved(rows, len(exit_index))


def _compare_with_all(exit_index: Tensor, exits: int) -> tuple[list[int], float]:
    seen = exit_index[:, None] >= torch.arange(exits)[None]
    return seen.sum(0).tolist(), 1 - float(seen.double().mean()) if seen.numel() else 0.0


rows_per_block = Check(
    "rows_per_block",
    chapter=CHAPTER,
    title="how a batch shrinks from block to block",
    level=3,
    minutes=8,
    reference=_walk,
    cases=[
        Case.of("eight images, three exits", torch.tensor([0, 0, 0, 1, 1, 2, 2, 0]), 3),
        Case.of("nobody leaves at the second exit", torch.tensor([2, 0, 2, 3, 0]), 4),
        Case.of("all leave at the first exit", torch.zeros(5, dtype=torch.int64), 3),
        Case.of("nobody leaves early", torch.full((4,), 2), 3),
        Case.of("a single image", torch.tensor([1]), 4),
        Case.of("an empty batch saves nothing", torch.zeros(0, dtype=torch.int64), 3),
    ],
    wrong_answers={
        "counts_leavers": _with_rows(lambda e, k, _: (e == k).sum()),
        "those_who_go_on": _with_rows(lambda e, k, _: (e > k).sum()),
        "static_everywhere": _with_rows(lambda e, k, _: len(e)),
        "answered_so_far": _with_rows(lambda e, k, _: (e <= k).sum()),
        "gives_speedup": _gives_speedup,
        "against_whole_batch": _against_whole_batch,
    },
    diagnoses={
        "counts_leavers": "You counted who leaves at each exit. Who must have been computed before they could leave?",
        "those_who_go_on": (
            "You counted who is still there after the block. Did the leavers of an exit pass its block, or not?"
        ),
        "static_everywhere": "You let every block run on the whole batch. What does an image do after its exit?",
        "answered_so_far": (
            "Your numbers grow from block to block. Are these the images that work is done for, or the finished ones?"
        ),
        "gives_speedup": (
            "The rows are right; then you divided static by adaptive work. What share of the rows was not computed?"
        ),
        "against_whole_batch": (
            "The rows are right; then you looked at the last block only. How many rows do all blocks save together?"
        ),
    },
    accepted=[_reversed_cumulative_sum, _compare_with_all],
    hints=(
        "An image with exit index e passes blocks 0 to e, both included. So which images does block k see?",
        "Exit indices 0, 0, 1, 2 with three exits: rows 4, 2, 1; static 12, so 1 - 7 / 12 = 0.417 is saved.",
        "rows = [int((exit_index >= k).sum()) for k in range(exits)]; saved = 1 - sum(rows) / (exits * "
        "N), 0.0 where N is 0.",
    ),
    shows=(
        "So the rows saved follow from the exits alone; the seconds saved also depend on how small the last "
        "batches get."
    ),
)

TASKS = (operational_intensity, roofline_bound, expected_calibration_error, rows_per_block)
