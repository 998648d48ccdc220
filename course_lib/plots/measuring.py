"""Figures of the measuring chapter: the roofline, the clock, time against batch size, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from course_lib.decision import Reliability
from course_lib.measure import Roofline, intensity
from course_lib.plots.style import BLUE, INK, LINES, MARKERS, PALETTE, SKIPPED, SPENT, VERMILION

_SMALL = 9


@dataclass(frozen=True)
class Measured:
    """One layer as it ran: how much it had to do and how long it took."""

    name: str
    macs: float  #: multiply-adds of the call
    bytes: float  #: input, weights and output, once each
    seconds: float

    @property
    def intensity(self) -> float:
        """Multiply-adds per byte."""
        return intensity(self.macs, self.bytes)

    @property
    def rate(self) -> float:
        """Multiply-adds per second that were reached."""
        return self.macs / self.seconds


def roofline(roof: Roofline, runs: Mapping[str, Sequence[Measured]]) -> Figure:
    """The roofline of a machine with the layers of each run as numbered points, one panel a run, and a key.

    runs: name -> its layers, in order; all runs have the same layers (at two batch sizes, say).
    """
    everything = [point for layers in runs.values() for point in layers]
    widths = [1.75] * len(runs) + [1.0]
    figure, (*panels, key) = plt.subplots(1, len(runs) + 1, figsize=(2 * sum(widths), 3.9), width_ratios=widths)
    for i, (ax, (name, layers)) in enumerate(zip(panels, runs.items(), strict=True)):
        _draw_roof(ax, roof, everything)
        _draw_points(ax, layers, marker=MARKERS[i], colour=PALETTE[i])
        ax.set_title(name)
        if i:
            ax.set_ylabel("")
    key.axis("off")
    key.set_title("the layers", loc="left")
    for i, layer in enumerate(next(iter(runs.values()))):
        key.text(0, 0.95 - 0.085 * i, f"{i + 1}  {layer.name}", transform=key.transAxes, va="top")
    return figure


def roofline_and_bars(roof: Roofline, layers: Sequence[Measured]) -> Figure:
    """Left the roofline with some numbered layers, right what each should take at least and what it took."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 2.6 + 0.42 * len(layers)), width_ratios=(1, 1.15))
    _draw_roof(left, roof, layers)
    _draw_points(left, layers, marker="o", colour=BLUE)
    bars = [
        (
            "bound by bytes",
            [x.bytes / roof.bandwidth_bytes_per_s for x in layers],
            {"color": PALETTE[5], "hatch": ".."},
        ),
        ("bound by MACs", [x.macs / roof.macs_per_s for x in layers], {"color": PALETTE[4], "hatch": "\\\\"}),
        ("measured", [x.seconds for x in layers], SPENT),
    ]
    rows = np.arange(len(layers))
    for i, (label, seconds, look) in enumerate(bars):
        drawn = right.barh(rows + (i - 1) * 0.26, np.multiply(seconds, 1e3), height=0.24, label=label, **look)
        right.bar_label(
            drawn, [f"{s * 1e3:.2g} ms" if s >= 1e-5 else f"{s * 1e6:.2g} µs" for s in seconds], padding=2, fontsize=8
        )
    right.set_yticks(rows, [f"{i + 1}  {layer.name}" for i, layer in enumerate(layers)])
    right.invert_yaxis()
    right.set(xscale="log", xlabel="milliseconds a call (logarithmic)")
    low, high = right.get_xlim()
    right.set_xlim(low, high * 4)
    right.grid(visible=False, axis="y")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _draw_roof(ax: Axes, roof: Roofline, points: Sequence[Measured]) -> None:
    found = [point.intensity for point in points] + [roof.ridge]
    x = np.geomspace(min(found) / 2, max(found) * 2.5, 200)
    y = np.array([roof.attainable(value) for value in x])
    rates = [point.rate / 1e9 for point in points]
    floor = min([*rates, y.min() / 1e9]) / 3
    ax.plot(x, y / 1e9, color=INK, marker="", linestyle="-", linewidth=2)
    ax.fill_between(x, y / 1e9, y.max() / 1e9 * 4, color="#F2F2F2", zorder=0)
    ax.axvline(roof.ridge, color=INK, marker="", linestyle=":", linewidth=1)
    ax.text(roof.ridge, floor * 1.2, f" ridge {roof.ridge:.1f}", fontsize=_SMALL, va="bottom")
    ax.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), ylim=(floor, y.max() / 1e9 * 4))
    ax.set(xlabel="intensity, MACs per byte", ylabel="speed, $10^9$ MACs per second")
    ax.text(
        0.98, 0.97, "above the roof", transform=ax.transAxes, ha="right", va="top", fontsize=_SMALL, color="#666666"
    )
    _plain_ticks(ax.yaxis)
    _plain_ticks(ax.xaxis)


def _draw_points(ax: Axes, layers: Sequence[Measured], *, marker: str, colour: str) -> None:
    x, y = [layer.intensity for layer in layers], [layer.rate / 1e9 for layer in layers]
    ax.plot(x, y, marker=marker, linestyle="", color=colour, markersize=7)
    halo = [withStroke(linewidth=3, foreground="white")]
    for i, (across, up) in enumerate(zip(x, y, strict=True)):
        ax.annotate(str(i + 1), (across, up), xytext=(6, -2), textcoords="offset points", va="top", color=colour,
                    fontsize=10, fontweight="bold", path_effects=halo, zorder=1.9)  # fmt: skip


def _plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis 1, 2, 5, 10, ... where it is short, and 1, 10, 100 where it is long."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 120 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def ledger_shares(layers: Sequence[Measured]) -> Figure:
    """Two bars of full length, one of multiply-adds and one of seconds, cut into the shares of the layers."""
    figure, ax = plt.subplots(figsize=(8.6, 2.3))
    hatches = ("", "//", "..", "\\\\", "xx", "--", "oo")
    ledgers = {"MACs": [layer.macs for layer in layers], "time": [layer.seconds for layer in layers]}
    for row, (_, amounts) in enumerate(ledgers.items()):
        start = 0.0
        for i, share in enumerate(np.array(amounts) / sum(amounts)):
            ax.barh(row, share, left=start, height=0.6, color=PALETTE[i % 6], hatch=hatches[i % 7], edgecolor="white",
                    linewidth=0.6, alpha=0.85)  # fmt: skip
            if share > 0.03:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
                ax.text(start + share / 2, row, str(i + 1), ha="center", va="center", fontsize=10, bbox=box)
            start += share
    ax.set_yticks(range(2), ledgers)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="share of the network, by layer number")
    ax.grid(visible=False)
    return figure


def warmup_trace(milliseconds: Sequence[float], batches: Sequence[int]) -> Figure:
    """The time of each call in order; the first call of every batch size is marked.

    Args:
        milliseconds: of each call, in order.
        batches: the batch size of each call.
    """
    figure, ax = plt.subplots(figsize=(8.4, 3.0))
    calls = np.arange(1, len(milliseconds) + 1)
    first = np.array([i == 0 or batches[i] != batches[i - 1] for i in range(len(batches))])
    times = np.asarray(milliseconds)
    ax.plot(calls[~first], times[~first], linestyle="", marker="o", color=BLUE, label="later call")
    ax.plot(calls[first], times[first], linestyle="", marker="D", color=VERMILION, label="first call of a batch size")
    for start in calls[first]:
        ax.axvline(start - 0.5, color="#9A9A9A", marker="", linestyle=":", linewidth=1)
        ax.text(
            start - 0.3,
            0.98,
            f"batch {batches[start - 1]}",
            transform=ax.get_xaxis_transform(),
            va="top",
            fontsize=_SMALL,
        )
    ax.set(xlabel="call", ylabel="milliseconds (logarithmic)", yscale="log", ylim=(times.min() / 1.5, times.max() * 3))
    ax.set_xlim(0.3, len(times) + 0.7)
    _plain_ticks(ax.yaxis)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def queued_work(calls: int = 4, submit: float = 0.1, work: float = 1.0) -> Figure:
    """A device that is only told what to do: the calls return long before the work is done (a drawing, in ms)."""
    figure, ax = plt.subplots(figsize=(8.4, 2.3))
    submitted = calls * submit
    finished = submit + calls * work
    for i in range(calls):
        ax.barh(0, submit, left=i * submit, height=0.5, **{**SPENT, "facecolor": PALETTE[1]})
        ax.barh(1, work, left=submit + i * work, height=0.5, **SPENT)
        ax.text(submit + (i + 0.5) * work, 1, f"call {i + 1}", ha="center", va="center", color="white", fontsize=_SMALL)
    ax.barh(0, finished - submitted, left=submitted, height=0.5, **SKIPPED)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    ax.text((submitted + finished) / 2, 0, "synchronise: wait", ha="center", va="center", fontsize=_SMALL, bbox=box)
    for at, text in ((submitted, "clock stopped\ntoo early"), (finished, "clock stopped\nafter waiting")):
        ax.axvline(at, color=VERMILION, marker="", linestyle="--", linewidth=1.4)
        ax.annotate(text, (at, -0.42), xytext=(5, 0), textcoords="offset points", fontsize=_SMALL, va="bottom")
    ax.set_yticks([0, 1], ["Python", "GPU"])
    ax.set(ylim=(1.4, -1.05), xlim=(0, finished * 1.18), xlabel="time, arbitrary units")
    ax.grid(visible=False)
    return figure


def latency_by_batch(
    batches: Sequence[int], seconds: Mapping[str, Sequence[float]], fits: Mapping[str, tuple[float, float]]
) -> Figure:
    """Left the time of a call, right the time an image, against batch size; dashed what t = a + b N predicts.

    Args:
        batches: batch sizes N.
        seconds: name of the network -> time of one call at each of them.
        fits: name -> (a, b) in seconds.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.8, 3.5), sharex=True)
    n = np.asarray(batches, dtype=float)
    for i, (name, times) in enumerate(seconds.items()):
        a, b = fits[name]
        for ax, divide in zip(axes, (np.ones_like(n), n), strict=True):
            ax.plot(n, np.asarray(times) / divide * 1e6, linestyle="", marker=MARKERS[i], color=PALETTE[i], label=name)
            ax.plot(n, (a + b * n) / divide * 1e6, marker="", linestyle=LINES[1], color=PALETTE[i])
        axes[1].axhline(b * 1e6, color=PALETTE[i], marker="", linestyle=":", linewidth=1)
        axes[1].text(n[-1] * 1.15, b * 1e6, "b", color=PALETTE[i], va="center", fontsize=10, fontweight="bold")
    for ax, title in zip(axes, ("a call", "an image"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="batch size N", title=f"time of {title}")
        ax.set_xticks(batches[::2], [str(batch) for batch in batches[::2]])
        _plain_ticks(ax.yaxis)
        ax.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("microseconds")
    axes[0].legend(loc="upper left", title="dashed: a + b N")
    return figure


def reliability_diagram(diagrams: Mapping[str, Reliability]) -> Figure:
    """Accuracy by bin of confidence, one panel a diagram; the gap to the diagonal is pale and hatched, counts below."""
    figure, axes = plt.subplots(
        2,
        len(diagrams),
        squeeze=False,
        sharex=True,
        sharey="row",
        figsize=(4.2 * len(diagrams), 4.4),
        height_ratios=(3, 1),
    )
    for (top, bottom), (name, found) in zip(axes.T, diagrams.items(), strict=True):
        edges, counts = found.edges.cpu().numpy(), found.counts.cpu().numpy()
        width = edges[1] - edges[0]
        middle = edges[:-1] + width / 2
        confidence, accuracy = found.confidence.cpu().numpy(), found.accuracy.cpu().numpy()
        low, high = np.fmin(confidence, accuracy), np.fmax(confidence, accuracy)
        top.bar(middle, accuracy, width=width * 0.94, label="share that is right", **SPENT)
        top.bar(
            middle,
            high - low,
            bottom=low,
            width=width * 0.94,
            label="gap to the confidence",
            **{**SKIPPED, "alpha": 0.75},
        )
        top.plot([0, 1], [0, 1], color=INK, marker="", linestyle="--", linewidth=1.2, label="as good as claimed")
        gap = float(np.nansum(np.abs(confidence - accuracy) * counts) / max(counts.sum(), 1))
        top.set_title(f"{name}: calibration error {gap:.3f}")
        bottom.bar(middle, counts, width=width * 0.94, **SPENT)
        bottom.set(xlabel="confidence", xlim=(0, 1))
    axes[0][0].set_ylabel("accuracy")
    axes[1][0].set_ylabel("answers")
    axes[0][0].set_ylim(0, 1)
    axes[0][0].legend(loc="upper left", fontsize=_SMALL)
    return figure
