"""Figures of sample weights: who practises for what, the loop that learns the weights, and what it learnt.

Every function returns a `Figure` and takes stored results. Weights are drawn around 1, negative ones hatched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from course_lib import decision
from course_lib.plots.style import BLUE, INK, LINES, MARKERS, ORANGE, PALETTE, SKIPPED, VERMILION

__all__ = [
    "accuracy_spread",
    "bars_by_exit",
    "gradient_agreement",
    "paired_gains",
    "practice_and_exam",
    "served",
    "weight_dashboard",
    "weight_loop",
    "weights_by_group",
]

_SMALL = 8.5  # points; the smallest type in these figures
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
_KINDS = (BLUE, ORANGE)  # easy and hard, in every figure
_EASY: dict[str, Any] = {"facecolor": BLUE, "edgecolor": "white", "linewidth": 0.6}
_HARD: dict[str, Any] = {"facecolor": ORANGE, "edgecolor": "white", "linewidth": 0.6, "hatch": "..."}


# Practice and examination --------------------------------------------------------------------------------------------


def served(hard: Tensor, exit_index: Tensor, exits: int) -> Tensor:
    """Easy and hard samples that left at each exit, as shares of all: (N,) bool, (N,) int64 -> (exits, 2)."""
    counts = [torch.bincount(exit_index[kind], minlength=exits) for kind in (~hard, hard)]
    return torch.stack(counts, 1).double() / max(len(hard), 1)


def practice_and_exam(practised: Tensor, hard: Tensor, exit_index: Tensor, exits: int) -> Figure:
    """What each exit is trained on, and what it answers: bars as long as the share of all samples.

    practised: (M,) bool, which training samples are hard; hard: (N,) bool, which test samples are; exit_index: (N,),
    where each test sample left. What an exit is never asked is pale and hatched; the share of hard samples among those
    it is asked stands beside the bar.
    """
    shares = 100 * served(hard, exit_index, exits)
    total = 100 * served(practised, torch.zeros(len(practised), dtype=torch.int64), 1)[0]
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 0.42 * exits + 1.35), sharey=True)
    for ax, parts, title in ((axes[0], total.expand(exits, 2), "trained on"), (axes[1], shares, "answers")):
        for k, (easy, difficult) in enumerate(parts.tolist()):
            here = easy + difficult
            ax.barh(k, easy, 0.66, **_EASY, label="easy" if k == 0 else None)
            ax.barh(k, difficult, 0.66, left=easy, **_HARD, label="hard" if k == 0 else None)
            never = "never asked" if k == 0 and here < 99 else None
            ax.barh(k, 100 - here, 0.66, left=here, **SKIPPED, label=never)
            note = f"{100 * difficult / here:.0f} % hard" if here else "nobody"
            ax.text(102, k, note, va="center", fontsize=_SMALL)
        ax.set(title=title, xlim=(0, 100), xlabel="% of all samples")
        ax.grid(visible=False)
    axes[0].set_yticks(range(exits), [f"exit {k + 1}" for k in range(exits)])
    axes[0].invert_yaxis()
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


# The mechanism -------------------------------------------------------------------------------------------------------


def weight_loop(weights: Tensor, losses: Tensor, bins: Sequence[int], cosines: Mapping[str, float]) -> Figure:
    """The method in one picture: the weights, the loop that learns them, and the sign of a change.

    Args:
        weights: (N, K), of some samples; losses: (N,), their mean over the exits, which orders the rows.
        bins: how many judges each exit gets in the meta objective.
        cosines: for some samples the cosine of their gradient with that of the meta loss, by a name.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 4.1), width_ratios=[1, 1.9, 0.95])
    _map(axes[0], weights, losses)
    axes[0].set_title("the weights")
    _loop(axes[1], bins)
    axes[1].set_title("look ahead, judge, step")
    _directions(axes[2], cosines, stacked=True)
    axes[2].set_title("agreeing raises a weight")
    return figure


def gradient_agreement(cosines: Mapping[str, float]) -> Figure:
    """Gradients of some samples beside that of the meta loss: the cosine's sign is the sign of the weight's change."""
    figure, ax = plt.subplots(figsize=(3.1 * len(cosines), 2.2))
    _directions(ax, cosines)
    return figure


def _map(ax: Axes, weights: Tensor, losses: Tensor, *, printed: int = 5, reach: float | None = None) -> AxesImage:
    """Samples from small to large loss against exits; `printed` rows show their numbers, negative cells are hatched.

    The colours span 1 - reach to 1 + reach, by default as far as these weights go.
    """
    ordered = weights[losses.argsort()].double().numpy()
    number, exits = ordered.shape
    reach = max(float(np.abs(ordered - 1).max()), 1e-3) if reach is None else reach
    low, high = 1 - reach, 1 + reach
    image = ax.imshow(ordered, cmap="PuOr_r", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    for i, k in np.argwhere(ordered < 0):
        ax.add_patch(Rectangle((k - 0.5, i - 0.5), 1, 1, fill=False, hatch="xxxx", edgecolor="white", linewidth=0))
    for i in np.linspace(0.04, 0.96, printed) * (number - 1):
        for k in range(exits):
            value = f"{ordered[round(i), k]:.2f}"
            ax.text(k, round(i), value, ha="center", va="center", fontsize=8, bbox=_PAPER)
    ax.set_xticks(range(exits), [str(k + 1) for k in range(exits)])
    ax.set_yticks([0, number - 1], ["small", "large"], rotation=90, va="center")
    ax.set(xlabel="exit", ylabel="loss of the sample")
    ax.grid(visible=False)
    return image


def _loop(ax: Axes, bins: Sequence[int]) -> None:
    ax.set(xlim=(0, 12), ylim=(-1.3, 8))
    ax.axis("off")

    def box(x: float, y: float, wide: float, high: float, text: str, **look: Any) -> None:
        style = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": INK, "linewidth": 1.4, **look}
        ax.add_patch(FancyBboxPatch((x, y), wide, high, **style))
        ax.text(x + wide / 2, y + high / 2, text, ha="center", va="center", fontsize=9)

    def arrow(start: tuple[float, float], end: tuple[float, float], number: int, at: tuple[float, float]) -> None:
        look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 14, "linewidth": 2, "color": PALETTE[number - 1]}
        ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **look))
        circle = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": PALETTE[number - 1]}
        ax.text(*at, str(number), ha="center", va="center", fontsize=9, bbox=circle)

    box(0.3, 5.9, 3.6, 1.5, "weight network\nlosses → weights")
    box(0.3, 0.7, 3.6, 1.5, r"network $\Theta$")
    box(7.9, 5.9, 3.6, 1.5, r"copy $\hat{\Theta}$" + "\none step ahead", linestyle="--")
    ax.plot([2.1, 2.1], [5.75, 2.4], color=INK, ls=":", lw=1.4, marker="")
    ax.text(2.25, 4.6, "weights", fontsize=_SMALL, ha="left", va="center")
    arrow((4.0, 2.0), (8.0, 5.75), 1, (5.5, 3.4))
    ax.text(4.9, 2.3, "look ahead,\npresent weights", fontsize=_SMALL, va="top")
    arrow((7.7, 6.65), (4.1, 6.65), 2, (5.9, 6.65))
    ax.text(5.9, 7.25, "judge", fontsize=_SMALL, ha="center", va="bottom")
    ax.add_patch(
        FancyArrowPatch(
            (0.9, 0.55), (3.3, 0.55), connectionstyle="arc3,rad=0.8", arrowstyle="-|>", mutation_scale=14,
            linewidth=2, color=PALETTE[2], shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip
    circle = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": PALETTE[2]}
    ax.text(2.1, -0.42, "3", ha="center", va="center", fontsize=9, bbox=circle)
    ax.text(3.45, -0.42, "real step, updated weights", fontsize=_SMALL, va="center")
    left, width, gap = 8.3, 3.2 - 0.06 * (len(bins) - 1), 0.06
    for k, count in enumerate(bins):
        wide = width * count / max(sum(bins), 1)
        ax.add_patch(Rectangle((left, 4.55), wide, 0.75, facecolor=BLUE, alpha=0.25 + 0.15 * k, edgecolor="white"))
        ax.text(left + wide / 2, 4.42, str(count), ha="center", va="top", fontsize=8, rotation=90)
        left += wide + gap
    ax.text(9.95, 3.45, f"{sum(bins)} judges, each\nat its exit only", fontsize=_SMALL, ha="center", va="top")


def _directions(ax: Axes, cosines: Mapping[str, float], *, stacked: bool = False) -> None:
    """For each sample the two gradients from one point, side by side or one below the other."""
    apart = (0.0, -2.1) if stacked else (2.7, 0.0)
    for i, (name, cosine) in enumerate(cosines.items()):
        x, y = apart[0] * i, apart[1] * i
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        ax.plot([x, x], [y - 0.15, y + 1.05], color="#BBBBBB", lw=1, ls=":", marker="")
        for end, color in (((x + 1, y), INK), ((x + math.cos(angle), y + math.sin(angle)), PALETTE[i])):
            look: dict[str, Any] = {"arrowstyle": "-|>", "lw": 2.2, "color": color, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", end, (x, y), arrowprops=look)
        change = "weight rises" if cosine > 0 else "weight falls"
        ax.text(x, y + 1.12, f"{name}: {math.degrees(angle):.0f}°, {change}", fontsize=9, ha="center", va="bottom")
        ax.text(x + 1, y - 0.07, "judges", fontsize=_SMALL, ha="right", va="top")
    last = len(cosines) - 1
    wide, low = apart[0] * last, apart[1] * last
    ax.set(xlim=(-1.3, 1.3 + wide), ylim=(low - 0.35, 1.45), aspect="equal")
    ax.axis("off")


# What was learnt -----------------------------------------------------------------------------------------------------


def weights_by_group(weights: Sequence[Tensor], groups: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Weights at every exit of several groups of samples, run by run: the mean, and where eight in ten lie.

    Args:
        weights: for each run (N, K); groups: name -> for each run the rows of the group, (N,) bool.
    """
    exits = weights[0].shape[1]
    figure, ax = plt.subplots(figsize=(8, 3.4))
    series = len(groups) * len(weights)
    for g, (name, rows) in enumerate(groups.items()):
        for run, (values, mask) in enumerate(zip(weights, rows, strict=True)):
            place = np.arange(exits) + 0.8 * ((g * len(weights) + run + 0.5 + 0.6 * (g - 0.5)) / series - 0.5)
            low, high = np.quantile(values[mask].numpy(), (0.1, 0.9), axis=0)
            ax.vlines(place, low, high, color=_KINDS[g % 2], lw=3, alpha=0.4)
            mean = values[mask].mean(0).numpy()
            ax.plot(place, mean, ls="", marker=MARKERS[g], color=_KINDS[g % 2], label=name if run == 0 else None)
    ax.axhline(1, color=INK, lw=1, ls="-", marker="")
    ax.set_xticks(range(exits), [f"exit {k + 1}" for k in range(exits)])
    ax.set_ylabel("weight")
    ax.grid(visible=False, axis="x")
    ax.legend(loc="upper left", ncols=len(groups))
    ax.margins(y=0.2)
    return figure


def bars_by_exit(values: Mapping[str, Tensor], label: str) -> Figure:
    """One number for each exit and group: name -> (K,)."""
    figure, ax = plt.subplots(figsize=(6.5, 2.8))
    exits, width = len(next(iter(values.values()))), 0.8 / len(values)
    for g, (name, numbers) in enumerate(values.items()):
        look = (_EASY, _HARD)[g % 2]
        ax.bar(np.arange(exits) - 0.4 + width * (g + 0.5), numbers.numpy(), width, label=name, **look)
    ax.axhline(0, color=INK, lw=1, ls="-", marker="")
    ax.set_xticks(range(exits), [f"exit {k + 1}" for k in range(exits)])
    ax.set_ylabel(label)
    ax.grid(visible=False, axis="x")
    ax.legend(loc="upper center", ncols=len(values))
    ax.margins(y=0.25)
    return figure


def paired_gains(
    base: Sequence[decision.ExitStudy], other: Sequence[decision.ExitStudy], rhos: Sequence[float]
) -> np.ndarray:
    """Accuracy of `other` less that of `base`, run by run, in points: (runs, rhos)."""
    return np.array(
        [
            [100 * (two.at_rho(rho).accuracy - one.at_rho(rho).accuracy) for rho in rhos]
            for one, two in zip(base, other, strict=True)
        ]
    )


def accuracy_spread(studies: Mapping[str, Sequence[decision.ExitStudy]], rhos: Sequence[float]) -> Figure:
    """Accuracy against mean cost of two ways of training over several runs, and the difference run by run.

    Args:
        studies: name -> one study a run; two names, the baseline first, runs paired in order.
        rhos: the settings of the dial to draw.
    """
    figure, (curve, gain) = plt.subplots(1, 2, figsize=(9, 3.5), width_ratios=[1.25, 1])
    for i, (name, runs) in enumerate(studies.items()):
        points = [[run.at_rho(rho) for rho in rhos] for run in runs]
        cost = np.array([[p.cost for p in row] for row in points]).mean(0)
        accuracy = 100 * np.array([[p.accuracy for p in row] for row in points])
        curve.plot(cost, accuracy.mean(0), color=PALETTE[i], ls=LINES[i], marker=MARKERS[i], ms=4, label=name)
        band = accuracy.std(0, ddof=1)
        curve.fill_between(cost, accuracy.mean(0) - band, accuracy.mean(0) + band, color=PALETTE[i], alpha=0.18, lw=0)
    curve.set(xlabel="mean cost per sample, multiply-adds", ylabel="test accuracy, %")
    curve.legend(loc="lower right", title="mean and one standard deviation")
    base, other = studies.values()
    gains = paired_gains(base, other, rhos)
    gain.axhline(0, color=INK, lw=1, ls="-", marker="")
    gain.plot(rhos, gains.T, ls="", marker=".", color=PALETTE[1], alpha=0.8)
    gain.plot(rhos, gains.mean(0), color=PALETTE[1], ls=LINES[1], marker="_", ms=12, mew=2)
    gain.set(xlabel="ρ (small: leave early)", ylabel="difference, points\n(a dot is one seed)")
    return figure


# The widget ----------------------------------------------------------------------------------------------------------

# The same scales at every setting, or a larger strength would only relabel the axes.
_REACH = 1.5
_SPAN = (-3.0, 5.0)


def weight_dashboard(
    settings: Sequence[tuple[str, Tensor, Tensor, Sequence[int], tuple[float, float]]],
) -> Figure:
    """Bins, weight map and range of weights, one row of panels for each setting.

    Colours run from -0.5 to 2.5 and the axis of weights from -3 to 5 whatever the setting, so that two figures can be
    compared; only limits beyond that widen the axis.

    Args:
        settings: (title, weights (N, K), losses (N,), judges of each exit, smallest and largest weight possible).
    """
    rows = len(settings)
    ends = [end for *_, limits in settings for end in limits]
    span = (min(_SPAN[0], *ends) - 0.05, max(_SPAN[1], *ends) + 0.05)
    figure, axes = plt.subplots(rows, 3, figsize=(9.2, 2.75 * rows), squeeze=False, width_ratios=[1, 1.25, 1.4])
    for (title, weights, losses, bins, limits), (left, middle, right) in zip(settings, axes, strict=True):
        left.barh(range(1, len(bins) + 1), bins, 0.7, color=BLUE)
        for k, count in enumerate(bins, start=1):
            left.text(count + 0.02 * sum(bins), k, str(count), va="center", fontsize=_SMALL)
        left.set(xlim=(0, 1.15 * sum(bins)), ylabel="exit", xlabel="judges", title=title)
        left.set_yticks(range(1, len(bins) + 1))
        left.invert_yaxis()
        left.grid(visible=False)
        image = _map(middle, weights, losses, printed=0, reach=_REACH)
        figure.colorbar(image, ax=middle, label="weight", extend="both", ticks=[-0.5, 0, 0.5, 1, 1.5, 2, 2.5])
        _range(right, weights.flatten(), limits, span)
    return figure


def _range(ax: Axes, weights: Tensor, limits: tuple[float, float], span: tuple[float, float]) -> None:
    counts, edges = np.histogram(weights.numpy(), np.linspace(*span, 100))
    ax.stairs(counts, edges, fill=True, color=BLUE)
    low, high = limits
    for end in limits:
        ax.axvline(end, color=VERMILION, ls="--", lw=1.4, marker="")
    if low < 0:
        ax.axvspan(low, 0, facecolor="none", edgecolor="#9A9A9A", hatch="xxxx", lw=0)
    ax.axvline(1, color=INK, lw=1, ls="-", marker="")
    below = int((weights < 0).sum())
    safe = "cannot be negative" if low >= 0 else f"{below} of {len(weights)} negative"
    ax.set_title(f"{low:.2f} to {high:.2f} possible; {safe}", fontsize=9)
    ax.set(xlabel="weight", yticks=[], xlim=span)
    ax.grid(visible=False)
