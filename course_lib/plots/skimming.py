"""Figures of the chapter on skimming: the gate's saw-tooth, what was read of a text, and what a batch computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch, Rectangle
from matplotlib.textpath import TextToPath
from torch import Tensor

from course_lib.plots.style import BLACK, BLUE, GREEN, INK, LINES, MARKERS, ORANGE, PALETTE, SKIPPED, SPENT, VERMILION
from course_lib.temporal.skimming import PADDING, PLANS, READ, SKIMMED, UNREAD, SkipTrace

__all__ = [
    "accuracy_by_work",
    "batch_plans",
    "highlighted_text",
    "plan_times",
    "read_by_step",
    "reading_dashboard",
    "sawtooth",
    "share_and_time",
    "skip_strip",
    "skip_training",
]

_SMALL = 9
_LOOKS: dict[int, dict[str, Any]] = {
    READ: {"color": BLACK, "size": 11.0, "style": "normal"},
    SKIMMED: {"color": "#7A7A7A", "size": 11.0, "style": "italic"},
    UNREAD: {"color": "#9A9A9A", "size": 8.0, "style": "normal"},
}
_SAID = {READ: "read", SKIMMED: "skimmed", UNREAD: "not read"}


# The gate ------------------------------------------------------------------------------------------------------------


def sawtooth(increments: Sequence[float], *, steps: int = 13) -> Figure:
    """The accumulated probability of gates that always add the same, one row each, and the steps at which they fire."""
    figure, rows = plt.subplots(len(increments), 1, figsize=(8.2, 1.25 * len(increments) + 0.5), sharex=True)
    for ax, increment in zip(np.atleast_1d(rows), increments, strict=True):
        due, dues = 1.0, []
        for _ in range(steps):
            dues.append(due)
            due = increment if due >= 0.5 else due + min(increment, 1 - due)
        _teeth(ax, np.array(dues))
        ax.set_ylabel(f"adds {increment:g}", rotation=0, ha="right", va="center")
    np.atleast_1d(rows)[-1].set_xlabel("step")
    _said(figure)
    return figure


def _teeth(ax: Axes, dues: np.ndarray) -> None:
    """Bars of the accumulated probability: filled where the gate fires, pale and hatched where it copies."""
    for step, due in enumerate(dues):
        fires = due >= 0.5
        ax.add_patch(Rectangle((step - 0.4, 0), 0.8, due, **(SPENT if fires else SKIPPED)))
    ax.axhline(0.5, color=VERMILION, linewidth=1.4, linestyle="--")
    ax.set(xlim=(-0.6, len(dues) - 0.4), ylim=(0, 1.05), yticks=[0, 0.5, 1])
    ax.set_xticks(range(0, len(dues), max(1, len(dues) // 12)))
    ax.grid(visible=False, axis="x")


def _said(figure: Figure) -> None:
    handles = [
        Patch(**SPENT, label="update"),
        Patch(**SKIPPED, label="copy"),
        plt.Line2D([], [], color=VERMILION, linestyle="--", linewidth=1.4, marker="", label="one half: fires"),
    ]
    # Where a figure is laid out by hand there is no outside.
    figure.legend(
        handles=handles, loc="outside upper center" if figure.get_layout_engine() else "upper center", ncols=3
    )


def skip_strip(inputs: Tensor, trace: SkipTrace, row: int = 0) -> Figure:
    """One sequence of the adding task in four aligned rows: numbers and markers, the gate, updates, the state's change.

    Args:
        inputs: (N, T, 2), numbers and markers.
        trace: what a Skip RNN made of them.
        row: which of the N.
    """
    numbers, marked = inputs[row].T.cpu().numpy()
    updates = trace.updates[row].detach().cpu().numpy() > 0.5
    heights = [1.0, 1.5, 0.55, 1.0]
    figure, (top, gate, ticks, change) = plt.subplots(
        4, 1, figsize=(8.6, 4.6), sharex=True, gridspec_kw={"height_ratios": heights}
    )
    for step, (number, marker) in enumerate(zip(numbers, marked, strict=True)):
        look: dict[str, Any] = {"facecolor": "#FBE3B5" if marker else "white", "edgecolor": INK, "linewidth": 0.6}
        if marker:
            look |= {"edgecolor": VERMILION, "linewidth": 2.4, "zorder": 3}
        top.add_patch(Rectangle((step - 0.48, 0.05), 0.96, 0.9, **look))
        said = f"{number:.2f}".replace("0.", ".").replace("-", "\N{MINUS SIGN}")
        top.text(step, 0.5, said, ha="center", va="center", fontsize=8, zorder=4, weight="bold" if marker else "normal")
    top.set(ylim=(0, 1), yticks=[])
    _teeth(gate, trace.probability[row].detach().cpu().numpy())
    for step, update in enumerate(updates):
        ticks.add_patch(Rectangle((step - 0.18, 0.1), 0.36, 0.8, **(SPENT if update else SKIPPED)))
    ticks.set(ylim=(0, 1), yticks=[])
    change.bar(range(len(numbers)), trace.change[row].cpu().numpy(), width=0.5, color=GREEN)
    change.set(xlabel="step", xlim=(-0.6, len(numbers) - 0.4))
    change.set_xticks(range(len(numbers)))
    names = ("number, marked\nones outlined", "accumulated\nprobability", "update", "change of\nthe state")
    for ax, name in zip((top, gate, ticks, change), names, strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=_SMALL)
        ax.grid(visible=False)
    for ax in (top, ticks):
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.tick_params(bottom=False)
    _said(figure)
    return figure


def read_by_step(updates: Tensor, markers: Tensor) -> Figure:
    """The share of sequences that update at each step, and what a reader needs who must find both markers by reading.

    Such a reader reads from the start to the first marker and from the earliest place of the second one to it.

    Args:
        updates: (N, T) bool.
        markers: (N, 2), where the two marked numbers stand.
    """
    share = updates.float().mean(0).cpu().numpy()
    steps = np.arange(len(share))
    early, late = markers.cpu().numpy().T
    needed = (steps[:, None] <= early).mean(1) + ((steps[:, None] >= late.min()) & (steps[:, None] <= late)).mean(1)
    figure, ax = plt.subplots(figsize=(8.2, 3.0))
    ax.bar(steps, np.ones_like(share), width=0.8, **SKIPPED)
    ax.bar(steps, share, width=0.8, **SPENT)
    ax.step(steps, needed, where="mid", color=VERMILION, linewidth=2.2, linestyle="-", marker="")
    for first, last, name in ((early.min(), early.max(), "first marker"), (late.min(), late.max(), "second marker")):
        ax.annotate("", (first - 0.5, 1.06), (last + 0.5, 1.06), arrowprops={"arrowstyle": "<->", "color": INK})
        ax.text((first + last) / 2, 1.09, name, ha="center" if first else "left", va="bottom", fontsize=_SMALL)
    ax.set(xlabel="step", ylabel="share of the sequences", ylim=(0, 1.22), xlim=(-0.7, len(share) - 0.3))
    ax.set_xticks(steps[:: max(1, len(steps) // 20)])
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.grid(visible=False)
    handles = [
        Patch(**SPENT, label=f"updates, {share.mean():.0%}"),
        Patch(**SKIPPED, label="copies"),
        plt.Line2D(
            [], [], color=VERMILION, linewidth=2.2, marker="", label=f"needed to find them, {needed.mean():.0%}"
        ),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def skip_training(errors: Sequence[float], used: Sequence[float], *, solved: float, window: int = 50) -> Figure:
    """Error and share of updates over the iterations of training, averaged over a window.

    solved: the error below which the task counts as solved, as a line.
    """
    smooth = np.ones(window) / window
    at = np.arange(len(errors) - window + 1) + window / 2
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 2.9))
    left.plot(at, np.convolve(errors, smooth, "valid"), color=BLUE, marker="", linestyle="-")
    said = f"a hundredth of guessing's, {solved:.4f}"
    left.axhline(solved, color=VERMILION, linestyle="--", linewidth=1.4, marker="", label=said)
    left.legend(loc="upper right")
    left.set(yscale="log", title="mean squared error", xlabel="iteration")
    right.plot(at, np.convolve(used, smooth, "valid"), color=GREEN, marker="", linestyle="-")
    right.set(title="share of the steps that update", xlabel="iteration", ylim=(0, 1.05))
    return figure


# Words ---------------------------------------------------------------------------------------------------------------


def highlighted_text(texts: Mapping[str, tuple[Sequence[str], Tensor]], *, width: float = 8.6) -> Figure:
    """Texts and what became of each word: read black and underlined, skimmed grey italic, unread small and struck out.

    Args:
        texts: title -> (words, marks (T,) as in `Reading.marks`, at least as many as words).
        width: of the figure, in inches.
    """
    laid = {title: _lay_out(words, marks, width - 0.3) for title, (words, marks) in texts.items()}
    lines = sum(max((line for *_, line in placed), default=0) + 1 for placed in laid.values())
    height = 0.30 * lines + 0.42 * len(laid) + 0.35
    figure = plt.figure(figsize=(width, height), layout="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    top = 0.42
    for title, placed in laid.items():
        ax.text(0.15, top, title, fontsize=10, weight="bold", va="center", color=INK)
        top = _write(ax, placed, top + 0.33) + 0.12
    seen = sorted({mark for placed in laid.values() for _, mark, *_ in placed}, reverse=True)
    words = [(f"{_SAID[mark]}", mark) for mark in seen]
    at = width - 0.15 - sum(_extent(word, mark) + 0.25 for word, mark in words)
    for word, mark in words:
        at = _word(ax, word, mark, at, 0.14) + 0.25
    return figure


def _extent(word: str, mark: int) -> float:
    """Width of a word in inches as it is drawn."""
    look = _LOOKS[mark]
    font = FontProperties(size=look["size"], style=look["style"])
    width, _, _ = TextToPath().get_text_width_height_descent(word.replace("$", "S"), font, ismath=False)
    return float(width) / 72


def _lay_out(words: Sequence[str], marks: Tensor, width: float) -> list[tuple[str, int, float, int]]:
    """Each word with its mark, its place from the left in inches, and its line."""
    placed, at, line = [], 0.0, 0
    for word, mark in zip(words, marks.tolist(), strict=False):
        mark = UNREAD if mark == PADDING else mark
        extent = _extent(word, mark)
        if at + extent > width - 0.15 and at > 0:
            at, line = 0.0, line + 1
        placed.append((word, mark, at, line))
        at += extent + 0.085
    return placed


def _write(ax: Axes, placed: list[tuple[str, int, float, int]], top: float) -> float:
    """Draw words that were laid out; gives where they end, from the top."""
    for word, mark, at, line in placed:
        _word(ax, word, mark, 0.15 + at, top + 0.30 * line)
    return top + 0.30 * (max((line for *_, line in placed), default=0) + 1)


def _word(ax: Axes, word: str, mark: int, at: float, top: float) -> float:
    look, end = _LOOKS[mark], at + _extent(word, mark)
    ax.text(
        at, top, word, fontsize=look["size"], style=look["style"], color=look["color"],
        va="center_baseline", parse_math=False,
    )  # fmt: skip
    if mark != SKIMMED:
        level = top + (0.105 if mark == READ else 0.005)
        ax.plot(
            [at, end], [level, level], color=look["color"], linewidth=1.1 if mark == READ else 0.8, marker="", ls="-"
        )
    return end


def reading_dashboard(
    settings: Sequence[tuple[Sequence[str], Tensor, Tensor, float]], points: Mapping[float, tuple[float, float]]
) -> Figure:
    """What a Skip RNN reads of a sentence, from three sides: the gate over the words, the words, share and accuracy.

    Args:
        settings: one block for each (words, marks (T,), accumulated probability (T,), price).
        points: price -> (share of the words read, accuracy), over many sentences.
    """
    width, left = 8.8, 0.85
    laid = [_lay_out(words, marks, width - left) for words, marks, _, _ in settings]
    texts = [0.32 * (max((line for *_, line in placed), default=0) + 1) + 0.1 for placed in laid]
    height = 0.35 + sum(2.15 + text for text in texts)
    figure = plt.figure(figsize=(width, height), layout="none")  # placed by hand: a slider must not wait for a layout
    top = height - 0.35

    def axes(x: float, across: float, y: float, high: float) -> Axes:
        return figure.add_axes((x / width, y / height, across / width, high / height))

    for placed, text, (words, _, due, price) in zip(laid, texts, settings, strict=True):
        gate = axes(left, 5.5, top - 1.55, 1.25)
        _teeth(gate, due[: len(words)].detach().cpu().numpy())
        gate.set_title(f"price {price:g} an update", loc="left")
        gate.set_ylabel("accumulated\nprobability", fontsize=_SMALL)
        gate.set_xlabel("word", fontsize=_SMALL)
        _operating_points(axes(left + 6.35, 1.45, top - 1.55, 1.25), points, price)
        ax = axes(left, width - left, top - 2.1 - text, text)
        ax.set(xlim=(0, width - left), ylim=(text, 0))
        ax.axis("off")
        _write(ax, placed, 0.2)
        top -= 2.15 + text
    _said(figure)
    return figure


def _operating_points(ax: Axes, points: Mapping[float, tuple[float, float]], chosen: float) -> None:
    shares, accuracies = zip(*points.values(), strict=True)
    ax.plot(shares, accuracies, color=BLUE, marker="o", linestyle="-", linewidth=1.0, markersize=4)
    ax.plot(*points[chosen], color=VERMILION, marker="D", markersize=9, linestyle="")
    ax.set(xlabel="share read", ylabel="accuracy", xlim=(0, 1.05), ylim=(min(0.45, *accuracies), 1.03))
    ax.xaxis.label.set_fontsize(_SMALL)
    ax.yaxis.label.set_fontsize(_SMALL)


def accuracy_by_work(readers: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Accuracy against multiply-adds per text; each reader has a colour, a marker and a label of its own.

    readers: name -> (multiply-adds, accuracy) of each of its settings.
    """
    figure, ax = plt.subplots(figsize=(7.6, 3.3))
    for i, (name, points) in enumerate(readers.items()):
        macs, accuracies = zip(*sorted(points), strict=True)
        look: dict[str, Any] = {"color": PALETTE[i], "marker": MARKERS[i], "linestyle": LINES[i]}
        ax.plot(np.array(macs) / 1e3, accuracies, label=name, markersize=8, **look)
    ax.set(xlabel="thousand multiply-adds per text", ylabel="accuracy", ylim=(None, 1.02))
    ax.set_xlim(left=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


# Batches -------------------------------------------------------------------------------------------------------------


def batch_plans(updates: Tensor) -> Figure:
    """Which cells of a batch (rows by steps) each plan computes; what it skips is pale and hatched, calls are counted.

    updates: (N, T) bool, best a handful of rows.
    """
    read = updates.cpu().numpy()
    number, steps = read.shape
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 0.75 * number + 1.9))
    for ax, plan in zip(axes.flat, PLANS, strict=True):
        computed, useful = _grid(read, plan)
        for row in range(number):
            for step in range(steps):
                wasted = computed[row, step] and not useful[row, step]
                look = SPENT if useful[row, step] else SKIPPED
                if wasted:
                    look = {"facecolor": ORANGE, "edgecolor": "white", "hatch": "xx", "linewidth": 0.6}
                ax.add_patch(Rectangle((step - 0.45, row - 0.42), 0.9, 0.84, **look))
        calls = int(read.sum()) if plan == "one_by_one" else int(computed.any(0).sum())
        ax.set_title(f"{plan.replace('_', ' ')}: {int(computed.sum())} rows, {calls} calls", fontsize=10)
        ax.set(xlim=(-0.6, steps - 0.4), ylim=(number - 0.5, -0.5), yticks=range(number))
        ax.set_xticks(range(steps))
        ax.set_xlabel("call of the cell" if plan == "own_pace" else "step", fontsize=_SMALL)
        ax.set_ylabel("row", fontsize=_SMALL)
        ax.grid(visible=False)
    handles = [
        Patch(**SPENT, label="computed and needed"),
        Patch(facecolor=ORANGE, edgecolor="white", hatch="xx", label="computed for nothing"),
        Patch(**SKIPPED, label="not computed"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _grid(read: np.ndarray, plan: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, T) bool twice: what a plan computes, and what of it is needed; own pace has calls in place of steps."""
    if plan == "masked":
        return np.broadcast_to(read.any(0), read.shape), read
    if plan == "own_pace":
        pushed = np.arange(read.shape[1]) < read.sum(1, keepdims=True)
        return pushed, pushed
    return read, read


def share_and_time(
    shares: Sequence[float], ratios: Sequence[float], *, fused: float | None = None, band: float = 0.2
) -> Figure:
    """Time of one sequence over that of reading all of it, against the share of updates; the diagonal is the promise.

    Args:
        shares, ratios: one each a reader.
        fused: the same ratio for the library's fused kernel, which reads everything, as a line.
        band: half-width of the band around the promise, relative.
    """
    line = np.linspace(0, 1, 50)
    figure, ax = plt.subplots(figsize=(5.6, 3.6))
    ax.fill_between(line, (1 - band) * line, (1 + band) * line, facecolor="#DCE9F3", edgecolor=BLUE, linewidth=0.4)
    ax.plot(line, line, color=BLUE, marker="", linestyle="-", linewidth=1.2, label=f"as promised, ± {band:.0%}")
    ax.plot(shares, ratios, color=VERMILION, marker="s", linestyle="", label="measured, one sequence at a time")
    if fused is not None:
        ax.axhline(fused, color=BLACK, linestyle="--", linewidth=1.4, label="fused kernel, reads everything")
    ax.set(xlabel="share of the steps that update", ylabel="time / time of reading all")
    ax.set(xlim=(0, 1.03), ylim=(0, max(1.1, *ratios) + 0.05))
    ax.legend(loc="upper left", fontsize=_SMALL)
    return figure


def plan_times(times: Mapping[str, tuple[float, int, int]]) -> Figure:
    """Three bars a plan: measured time, rows computed, calls of the cell, each relative to the first plan.

    times: name -> (seconds, rows, calls).
    """
    names, rows = list(times), np.arange(len(times))
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 0.45 * len(names) + 1.0), sharey=True)
    first = times[names[0]]
    looks: Sequence[dict[str, Any]] = (
        {"color": VERMILION, "hatch": "..", "edgecolor": "white"},
        SPENT,
        {"color": GREEN, "hatch": "\\\\", "edgecolor": "white"},
    )
    for i, (ax, title, look) in enumerate(zip(axes, ("measured time", "rows", "calls"), looks, strict=True)):
        values = [times[name][i] / first[i] for name in names]
        ax.barh(rows, values, height=0.6, **look)
        for row, value in enumerate(values):
            ax.text(value + 0.02, row, f"{value:.2f}", va="center", fontsize=_SMALL)
        ax.set(title=title, xlim=(0, 1.2 * max(values)))
        ax.grid(visible=False, axis="y")
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    figure.supxlabel(f"relative to {names[0]!r}", fontsize=_SMALL)
    return figure
