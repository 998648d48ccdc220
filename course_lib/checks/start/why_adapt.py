"""Checks of `start/why_adapt`: the cost of a convolution, a mean cost, samples really skipped, a fair clock.

Samples are counted by a hook on the layer, time runs on a clock that the check itself moves: no check measures seconds.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.checks.core import Case, Check

# 1. conv_macs --------------------------------------------------------------------------------------------------------


def _counted(cin: int, cout: int, k: int, out_h: int, out_w: int, groups: int) -> int:
    """Run torch's own convolution with ones everywhere: each product is 1, so the results add up to their number.

    `measure.count_macs` says the same, but torch's counter takes seconds to load, and an exercise should not wait.
    """
    ones = torch.ones(1, cin, out_h + k - 1, out_w + k - 1, dtype=torch.float64)
    kernel = torch.ones(cout, cin // groups, k, k, dtype=torch.float64)
    return int(F.conv2d(ones, kernel, groups=groups).sum())


def _random_convolutions(answer: Callable[..., Any]) -> list[Any]:
    """Twenty layers of any stride and groups; the answer gets what torch says is the size of their output."""
    draw = random.Random(20)
    counts = []
    for _ in range(20):
        groups, k, stride = draw.choice([1, 1, 2, 4]), draw.choice([1, 3, 5]), draw.choice([1, 2, 3])
        cin, cout = groups * draw.randint(1, 6), groups * draw.randint(1, 6)
        layer = nn.Conv2d(cin, cout, k, stride=stride, groups=groups, padding=draw.randint(0, 2))
        out_h, out_w = layer(torch.zeros(1, cin, draw.randint(7, 20), draw.randint(7, 20))).shape[2:]
        counts.append(answer(cin, cout, k, out_h, out_w, groups))
    return counts


conv_macs = Check(
    "conv_macs",
    chapter="start/why_adapt",
    title="the cost of a convolution",
    level=1,
    minutes=5,
    reference=_counted,
    cases=[
        Case.of("a dense 3x3", 16, 32, 3, 8, 10, 1),
        Case.of("the same in four groups", 16, 32, 3, 8, 10, 4),
        Case.of("depthwise", 256, 256, 3, 28, 28, 256),
        Case.of("a single 1x1 product", 1, 1, 1, 1, 1, 1),
        Case("twenty random convolutions", _random_convolutions, show="strides 1 to 3, groups 1, 2 and 4"),
    ],
    wrong_answers={
        "forgets_groups": lambda cin, cout, k, out_h, out_w, groups: cin * cout * k * k * out_h * out_w,
        "counts_two_per_mac": lambda cin, cout, k, out_h, out_w, groups: (
            2 * (cin // groups) * cout * k * k * out_h * out_w
        ),
        "multiplies_kernel_side_once": lambda cin, cout, k, out_h, out_w, groups: (
            (cin // groups) * cout * k * out_h * out_w
        ),
        "one_group_only": lambda cin, cout, k, out_h, out_w, groups: (
            (cin // groups) * (cout // groups) * k * k * out_h * out_w
        ),
        "counts_weights": lambda cin, cout, k, out_h, out_w, groups: (cin // groups) * cout * k * k,
    },
    diagnoses={
        "forgets_groups": "You let every output channel read all input channels. How many does it read when the "
        "channels are split into groups?",
        "counts_two_per_mac": "Your numbers are twice as large. Is a multiplication with its addition one or two here?",
        "multiplies_kernel_side_once": "You counted a row of the kernel. How many weights has a kernel of side k for "
        "one input channel?",
        "one_group_only": "You counted the work of one group. How many groups are there, and do all of them run?",
        "counts_weights": "You counted the weights of the layer. How often is each of them used on one image?",
    },
    accepted=[
        lambda cin, cout, k, out_h, out_w, groups: out_h * out_w * cout * (cin // groups) * k**2,
        lambda cin, cout, k, out_h, out_w, groups: sum(
            (cin // groups) * (cout // groups) * k * k * out_h * out_w for _ in range(groups)
        ),
    ],
    hints=(
        "Fix one number of the output map. How many weights meet how many inputs to make it?",
        "16 to 32 channels, 3x3, 8 x 10 outputs: one output number needs 16 * 9 = 144 products, and there are "
        "32 * 8 * 10 of them: 368,640. In four groups each needs 4 * 9.",
        "(output numbers) times (input channels of one group) times (kernel side squared).",
    ),
    shows="So a depthwise layer saves by its number of channels, and the kernel pays by its area.",
)

# 2. expected_cost ----------------------------------------------------------------------------------------------------

_PROTOTYPE = [450_000.0, 730_000.0, 1_070_000.0, 1_330_000.0]


def _mean_of_all(counts: list[int], costs: list[float]) -> float:
    """Write down what every single image cost, then take the mean."""
    return statistics.fmean([cost for number, cost in zip(counts, costs, strict=True) for _ in range(number)])


expected_cost = Check(
    "expected_cost",
    chapter="start/why_adapt",
    title="mean cost",
    level=2,
    minutes=10,
    reference=_mean_of_all,
    cases=[
        Case.of("a thousand images, four exits", [460, 276, 165, 99], _PROTOTYPE),
        Case.of("all leave at exit 1", [50, 0, 0], [2.0, 5.0, 11.0]),
        Case.of("a single image, which leaves at exit 3", [0, 0, 1, 0], _PROTOTYPE),
        Case.of("a network with one exit", [7], [3.0]),
    ],
    wrong_answers={
        "ignores_counts": lambda counts, costs: sum(costs) / len(costs),
        "adds_up_costs": lambda counts, costs: sum(n * sum(costs[: k + 1]) for k, n in enumerate(counts)) / sum(counts),
        "forgets_to_divide": lambda counts, costs: sum(n * c for n, c in zip(counts, costs, strict=True)),
        "divides_by_exits": lambda counts, costs: sum(n * c for n, c in zip(counts, costs, strict=True)) / len(counts),
    },
    diagnoses={
        "ignores_counts": "You took the plain mean of the exits' costs. What should happen when everybody leaves at "
        "exit 1?",
        "adds_up_costs": "You added the costs of the earlier exits to each exit's cost. Does a cumulative cost contain "
        "them already?",
        "forgets_to_divide": "You found what all images cost together. What does one of them cost?",
        "divides_by_exits": "You divided by the number of exits. Over whom is the mean to be taken?",
    },
    accepted=[
        lambda counts, costs: (
            float(torch.tensor(counts, dtype=torch.float64) @ torch.tensor(costs).double()) / sum(counts)
        ),
        lambda counts, costs: sum(n / sum(counts) * c for n, c in zip(counts, costs, strict=True)),
    ],
    hints=(
        "Each image pays once: the cumulative cost of the exit where it left.",
        "50 images at 2.0 and nobody elsewhere: they pay 100 together, which is 2.0 each.",
        "Sum counts[k] * costs[k] over the exits, then divide by the number of images.",
    ),
    shows="So in the first case the mean image costs 0.717 M, the hardest 1.33 M: a promise in multiply-adds only.",
    tolerance=1e-6,
)

# 3. skip_samples -----------------------------------------------------------------------------------------------------


def _layer() -> nn.Conv2d:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    for weights in layer.parameters():
        weights.data = torch.linspace(-1, 1, weights.numel()).view_as(weights)
    return layer.requires_grad_(False)


def _watched(keep: list[bool], answer: Callable[..., Any]) -> dict[str, Any]:
    """What came out, how many rows went into the layer, and whether the input is still what it was."""
    layer = _layer()
    rows: list[int] = []
    layer.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    x = torch.randn(len(keep), 2, 3, 4, generator=torch.Generator().manual_seed(len(keep)))
    before = x.clone()
    out = answer(layer, x, torch.tensor(keep, dtype=torch.bool))
    return {"output": out, "rows the layer saw": sum(rows), "input unchanged": torch.equal(x, before)}


def _row_by_row(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    rows = [layer(row[None])[0] if kept else row for row, kept in zip(x, keep.tolist(), strict=True)]
    return torch.stack(rows) if rows else x.clone()


def _by_mask(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    gate = keep.to(x.dtype)[:, None, None, None]
    return layer(x) * gate + x * (1 - gate)


def _zeroes(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[keep] = layer(x[keep])
    return out


def _writes(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    x[keep] = layer(x[keep])
    return x


def _kept_first(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    return torch.cat([layer(x[keep]), x[~keep]])


def _by_index(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    rows = keep.nonzero().flatten()
    return x.index_copy(0, rows, layer(x.index_select(0, rows)))


def _by_clone(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    out = x.clone()
    if keep.any():
        out[keep] = layer(x[keep])
    return out


def _skip_case(name: str, keep: list[bool]) -> Case:
    shown = f"keep = {keep}, x of shape ({len(keep)}, 2, 3, 4)"
    return Case(name, partial(_watched, keep), show=shown)


skip_samples = Check(
    "skip_samples",
    chapter="start/why_adapt",
    title="really skipping samples",
    level=3,
    minutes=15,
    reference=_row_by_row,
    cases=[
        _skip_case("three of five are kept", [False, True, True, False, True]),
        _skip_case("none is kept", [False, False, False]),
        _skip_case("all are kept", [True, True, True, True]),
        _skip_case("a batch of one", [True]),
    ],
    wrong_answers={
        "multiplies_by_mask": _by_mask,
        "returns_compacted": lambda layer, x, keep: layer(x[keep]),
        "zeroes_the_rest": _zeroes,
        "writes_into_the_input": _writes,
        "kept_first": _kept_first,
    },
    diagnoses={
        "multiplies_by_mask": "Your output is right, but the layer has run on all rows. Which rows should it ever see?",
        "returns_compacted": "You returned the kept rows only. How shall the caller know which images they were?",
        "zeroes_the_rest": "The rows that were not kept came out as zeros. What should an image that skips the layer "
        "carry on to the next one?",
        "writes_into_the_input": "Your output is right, but you wrote it into x. Who else may still need x?",
        "kept_first": "The kept rows came out in front of the others. Is row 0 of your output still image 0?",
    },
    accepted=[_by_index, _by_clone],
    hints=(
        "A batch is indexed by a boolean tensor: x[keep] has fewer rows, in the same order.",
        "keep = [False, True]: the output's row 0 is x[0], its row 1 is what the layer makes of x[1:2].",
        "Start from a copy of x, and assign the layer's rows to the places where keep is True.",
    ),
    shows="So the work falls with the number of kept rows, which no multiplication by zero can do.",
)

# 4. fair_time --------------------------------------------------------------------------------------------------------


class _Device:
    """A fake accelerator: a call returns at once and queues its work; only `synchronize` waits until that is done."""

    def __init__(self, work: list[float]) -> None:
        self.work = work  # seconds on the device, one number a call
        self.now = 100.0
        self.done_at = 100.0
        self.calls = 0

    def fn(self) -> None:
        seconds = self.work[min(self.calls, len(self.work) - 1)]
        self.calls += 1
        self.now += 0.25  # handing the work over takes the host a quarter of a second
        self.done_at = max(self.done_at, self.now) + seconds

    def clock(self) -> float:
        return self.now

    def synchronize(self) -> None:
        self.now = max(self.now, self.done_at)


def _on_device(work: list[float], warmup: int, repeats: int, answer: Callable[..., Any]) -> dict[str, Any]:
    device = _Device(work)
    seconds = answer(device.fn, device.clock, device.synchronize, warmup, repeats)
    return {"seconds": seconds, "calls": device.calls}


Call = Callable[[], Any]


def _samples(fn: Call, clock: Call, synchronize: Call, repeats: int, *, wait: bool = True) -> list[float]:
    samples = []
    for _ in range(repeats):
        start = clock()
        fn()
        if wait:
            synchronize()
        samples.append(clock() - start)
    return samples


def _fair(fn: Call, clock: Call, synchronize: Call, warmup: int, repeats: int) -> float:
    _samples(fn, clock, synchronize, warmup)
    return statistics.median(_samples(fn, clock, synchronize, repeats))


def _without_waiting(fn: Call, clock: Call, synchronize: Call, warmup: int, repeats: int) -> float:
    for _ in range(warmup):
        fn()
    return statistics.median(_samples(fn, clock, synchronize, repeats, wait=False))


def _warmup_still_running(fn: Call, clock: Call, synchronize: Call, warmup: int, repeats: int) -> float:
    for _ in range(warmup):
        fn()
    return statistics.median(_samples(fn, clock, synchronize, repeats))


def _mean(fn: Call, clock: Call, synchronize: Call, warmup: int, repeats: int) -> float:
    _samples(fn, clock, synchronize, warmup)
    return statistics.fmean(_samples(fn, clock, synchronize, repeats))


def _fair_by_lists(fn: Call, clock: Call, synchronize: Call, warmup: int, repeats: int) -> float:
    samples: list[float] = []
    for _ in range(warmup + repeats):
        synchronize()
        start = clock()
        fn()
        synchronize()
        samples.append(clock() - start)
    return sorted(samples[warmup:])[repeats // 2]


def _fair_by_torch(fn: Call, clock: Call, synchronize: Call, warmup: int, repeats: int) -> float:
    for _ in range(warmup):
        fn()
    synchronize()
    return torch.tensor(_samples(fn, clock, synchronize, repeats), dtype=torch.float64).median().item()


def _time_case(name: str, work: list[float], warmup: int, repeats: int) -> Case:
    show = f"seconds on the device = {work}, the last one repeats; 0.25 s to hand a call over; "
    return Case(name, partial(_on_device, work, warmup, repeats), f"{show}warmup = {warmup}, repeats = {repeats}")


fair_time = Check(
    "fair_time",
    chapter="start/why_adapt",
    title="a fair clock",
    level=4,
    minutes=15,
    reference=_fair,
    cases=[
        _time_case("two slow first calls, then a steady device", [9.0, 6.0, 2.0], 2, 5),
        _time_case("one spike among the repeats", [5.0, 2.0, 2.0, 40.0, 2.0, 2.0], 1, 5),
        _time_case("no warm-up asked for", [3.0, 1.0, 2.0], 0, 3),
        _time_case("one repeat only", [8.0, 2.0], 1, 1),
    ],
    wrong_answers={
        "times_the_warmup": lambda fn, clock, synchronize, warmup, repeats: statistics.median(
            _samples(fn, clock, synchronize, warmup + repeats)
        ),
        "mean_instead_of_median": _mean,
        "forgets_to_wait": _without_waiting,
        "warmup_still_running": _warmup_still_running,
        "skips_the_warmup": lambda fn, clock, synchronize, warmup, repeats: statistics.median(
            _samples(fn, clock, synchronize, repeats)
        ),
    },
    diagnoses={
        "times_the_warmup": "Your samples contain the warm-up calls. What are those calls there for?",
        "mean_instead_of_median": "One slow call moved your result. Which summary of five numbers ignores one of them?",
        "forgets_to_wait": "You found 0.25 s every time: what it takes to hand the work over. When has the device "
        "finished it?",
        "warmup_still_running": "Your first sample starts while the device still works on the warm-up. What must have "
        "happened before the clock is read?",
        "skips_the_warmup": "You never ran the warm-up. How many calls of fn should there be in all?",
    },
    accepted=[_fair_by_lists, _fair_by_torch],
    hints=(
        "There are two loops: one whose time nobody reads, and one whose samples you keep.",
        "Work of 2 s behind an idle queue: the clock says 100, after the call 100.25, after waiting 102.25. "
        "The sample is 2.25.",
        "Warm up and wait; then for each repeat: read the clock, call, wait, read it again; return the median.",
    ),
    shows="So a time needs a warm-up, a wait and a median before it may stand in a table.",
)

TASKS = (conv_macs, expected_cost, skip_samples, fair_time)
