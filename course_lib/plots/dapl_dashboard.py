"""The dashboard of the chapter on DAPL, and what the bench `language` has recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from course_lib.plots.dapl import LABEL_RIGHT, LABEL_WRONG
from course_lib.plots.style import BLUE, GREEN, INK, LINES, MARKERS, ORANGE, PALETTE, SKIPPED, VERMILION

_SMALL = 9


# The dashboard -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptResult:
    """What one training of prompts came to, for the dashboard.

    accuracy: on the target's test pictures with the target's prompts; coverage: share of pseudo-labels kept; wrong:
    share of all pictures kept under a wrong label; words: for each learned word, shared first, its nearest one.
    """

    accuracy: float
    coverage: float
    wrong: float
    words: tuple[str, ...]


def dapl_dashboard(
    settings: Sequence[tuple[str, float, int]],
    results: Mapping[tuple[str, float, int], PromptResult],
    zero_shot: Mapping[str, float],
) -> Figure:
    """A row for each (pair of domains, tau, shared words): labels kept and wrong, target accuracy, nearest words.

    `results` holds every pair with every tau and length; `zero_shot` the accuracy to beat, by pair.
    """
    figure, rows = plt.subplots(
        len(settings), 3, figsize=(9.6, 2.35 * len(settings) + 0.3), width_ratios=(1, 1.25, 1.05), squeeze=False
    )
    for (labels, curve, words), (pair, tau, length) in zip(rows, settings, strict=True):
        taus = sorted({t for p, t, _ in results if p == pair})
        _kept_bars(labels, [results[pair, t, length] for t in taus], taus, tau)
        labels.set_title(pair, fontsize=10, loc="left")
        for i, m in enumerate(sorted({m for p, _, m in results if p == pair})):
            values = [100 * (results[pair, t, m].accuracy - zero_shot[pair]) for t in taus]
            look: dict[str, Any] = {"color": PALETTE[i], "ls": LINES[i], "marker": MARKERS[i], "ms": 5}
            curve.plot(
                range(len(taus)), values, label=f"{m} word{'s' * (m > 1)}", alpha=1.0 if m == length else 0.35, **look
            )
        here = results[pair, tau, length]
        gain = 100 * (here.accuracy - zero_shot[pair])
        curve.plot(taus.index(tau), gain, ls="", marker="o", ms=15, mfc="none", mec=ORANGE, mew=2.5)
        curve.axhline(0, color=INK, ls=":", lw=1.3, marker="")
        curve.set_xticks(range(len(taus)), [f"{t:g}" for t in taus])
        curve.set_xlabel("threshold τ", fontsize=_SMALL)
        curve.set_ylabel("points over zero-shot", fontsize=_SMALL)
        curve.set_title(f"accuracy on the target {here.accuracy:.1%} ({gain:+.1f})", fontsize=10)
        curve.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)
        _word_table(words, here.words, length)
    gains = [100 * (result.accuracy - zero_shot[pair]) for (pair, _, _), result in results.items()]
    for ax in rows[:, 1]:
        ax.set_ylim(min(gains) - 2, max(gains) + 2)
    keys = [
        Patch(**LABEL_RIGHT, label="kept, right"),
        Patch(**LABEL_WRONG, label="kept, wrong"),
        Patch(**SKIPPED, label="not kept"),
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=3, fontsize=8)
    return figure


def _kept_bars(ax: Axes, results: Sequence[PromptResult], taus: Sequence[float], chosen: float) -> None:
    for i, (result, tau) in enumerate(zip(results, taus, strict=True)):
        right = result.coverage - result.wrong
        ax.bar(i, right, width=0.7, **LABEL_RIGHT)
        ax.bar(i, result.wrong, bottom=right, width=0.7, **LABEL_WRONG)
        ax.bar(i, 1 - result.coverage, bottom=result.coverage, width=0.7, **SKIPPED)
        if tau == chosen:
            ax.add_patch(Rectangle((i - 0.42, 0), 0.84, 1.0, fill=False, edgecolor=ORANGE, linewidth=2.5, zorder=4))
    ax.set_xticks(range(len(taus)), [f"{t:g}" for t in taus])
    ax.set(ylim=(0, 1.03), yticks=[0, 0.5, 1])
    ax.set_xlabel("threshold τ", fontsize=_SMALL)
    ax.set_ylabel("pseudo-labels", fontsize=_SMALL)
    ax.grid(visible=False)


def _word_table(ax: Axes, words: Sequence[str], shared: int) -> None:
    ax.set_axis_off()
    ax.set_title("nearest words", fontsize=10, loc="left")
    per_domain = (len(words) - shared) // 2
    groups = {
        "shared": words[:shared],
        "source": words[shared : shared + per_domain],
        "target": words[shared + per_domain :],
    }
    for row, (name, group) in enumerate(groups.items()):
        lines = [" ".join(group[i : i + 3]) for i in range(0, len(group), 3)] or ["-"]
        colour = (BLUE, VERMILION, GREEN)[row]
        ax.text(0.0, 0.93 - 0.34 * row, f"{name}:", fontsize=_SMALL, color=colour, va="top", transform=ax.transAxes)
        ax.text(0.26, 0.93 - 0.34 * row, "\n".join(lines), fontsize=8, va="top", transform=ax.transAxes)


# Recorded ------------------------------------------------------------------------------------------------------------


_CONTENDERS = ("CoOp", "fine-tuned", "DAPL")


def recorded_language(records: Mapping[str, Mapping[str, Any] | None]) -> Figure:
    """Points over zero-shot CLIP of every contender, by target; by threshold; and who knows which domain it is.

    Args:
        records: name -> the record of `course bench language`, or None where nothing is recorded yet. A small dot is
            one source and seed, a large mark the mean; target names in brackets: zero-shot below 60 or above 90 %.
    """
    heights = [3.5 if record else 0.6 for record in records.values()]
    figure, axes = plt.subplots(
        len(records),
        3,
        figsize=(9.6, sum(heights) + 0.5),
        width_ratios=(1.5, 1, 1),
        height_ratios=heights,
        squeeze=False,
    )
    for (left, middle, right), (name, record) in zip(axes, records.items(), strict=True):
        left.set_title(name if record else f"{name}: no recorded run yet", loc="left")
        if record is None:
            for ax in (left, middle, right):
                ax.set_axis_off()
            continue
        rows = record["rows"]
        targets = list(dict.fromkeys(row["details"]["target"] for row in rows if "contender" in row["details"]))
        _recorded_gains(left, rows, targets)
        _recorded_taus(middle, rows, targets)
        _recorded_denominators(right, rows, targets)
        for ax in (left, right):
            ax.set_ylim(len(targets) - 0.5, -0.5)
            ax.grid(visible=False, axis="y")
    if not any(records.values()):
        return figure
    handles = [
        plt.Line2D([], [], ls="", ms=8, color=PALETTE[i], marker=MARKERS[i], label=name)
        for i, name in enumerate(_CONTENDERS)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, title="left: points over zero-shot")
    return figure


def _recorded_gains(ax: Axes, rows: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> None:
    of = {row["name"]: row["details"] for row in rows if "contender" in row["details"]}
    room = {d["target"] for d in of.values() if d["room"]}
    for y, target in enumerate(targets):
        for i, contender in enumerate(_CONTENDERS):
            gains = [
                value - before
                for name, details in of.items()
                if details["target"] == target and details["contender"] == contender
                for value, before in zip(
                    details["values"], of[name.replace(contender, "zero-shot")]["values"], strict=True
                )
            ]
            at = y + 0.24 * (i - 1)
            ax.plot(gains, [at] * len(gains), ls="", marker=".", ms=4, color=PALETTE[i], alpha=0.6)
            ax.plot(np.mean(gains), at, ls="", marker=MARKERS[i], ms=8, color=PALETTE[i], mec="black", mew=0.8)
    ax.axvline(0, color=INK, ls=":", lw=1.3, marker="")
    ax.set_yticks(range(len(targets)), [t if t in room else f"({t})" for t in targets])
    ax.set_xlabel("points over zero-shot", fontsize=_SMALL)
    ax.set_ylabel("target", fontsize=_SMALL)


def _recorded_taus(ax: Axes, rows: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> None:
    for i, target in enumerate(targets):
        mine = [row for row in rows if row["details"].get("target") == target and "tau" in row["details"]]
        gains = [row["median"] - row["details"]["zero-shot"] for row in mine]
        look: dict[str, Any] = {"color": PALETTE[i % 7], "ls": LINES[i % 7], "marker": MARKERS[i % 7], "ms": 5}
        ax.plot(range(len(mine)), gains, label=target, **look)
        ax.set_xticks(range(len(mine)), [f"{row['details']['tau']:g}" for row in mine])
    ax.axhline(0, color=INK, ls=":", lw=1.3, marker="")
    ax.set_xlabel("threshold τ", fontsize=_SMALL)
    ax.set_ylabel("points over zero-shot", fontsize=_SMALL)
    ax.legend(fontsize=7.5, loc="best", handlelength=2.2)


def _recorded_denominators(ax: Axes, rows: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> None:
    for row in rows:
        details = row["details"]
        if "denominator" not in details:
            continue
        i = ("both", "own").index(details["denominator"])
        y = targets.index(details["target"]) + 0.16 * (2 * i - 1)
        look: dict[str, Any] = {"color": (BLUE, ORANGE)[i], "marker": ("o", "D")[i]}
        ax.plot(details["values"], [y] * len(details["values"]), ls="", **{**look, "marker": "."}, ms=4, alpha=0.6)
        label = details["denominator"] if details["target"] == targets[0] else None
        ax.plot(np.mean(details["values"]), y, ls="", ms=8, mec="black", mew=0.8, clip_on=False, label=label, **look)
    ax.set(xlim=(-3, 103), yticks=[])
    ax.set_xlabel("% of the target's pictures whose\nbest prompt is the target's", fontsize=_SMALL)
    ax.legend(fontsize=8, loc="best")
