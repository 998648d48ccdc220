"""Figures of the chapter on gradients for decisions: slopes, bias and spread, where gates settle and open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from course_lib.data import two_regions
from course_lib.plots.style import BLACK, BLUE, GREEN, INK, LINES, MARKERS, PALETTE, SKIPPED, SPENT, VERMILION
from course_lib.training import gradients
from course_lib.training.gradients import EstimatorError, GatedRun, GateProblem, gradient_samples

_SMALL = 9


def forward_and_backward() -> Figure:
    """Left what a gate gives for each logit, right the slope that is sent back: the true one, and two stand-ins."""
    logit = np.linspace(-5, 5, 401)
    sigmoid = 1 / (1 + np.exp(-logit))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.0))
    left.plot(logit, logit > 0, color=BLACK, marker="", label="gate, thresholded: [a > 0]")
    left.plot(logit, sigmoid, color=BLUE, marker="", linestyle="--", label=r"chance to be open: $\sigma(a)$")
    left.set(title="forward: what the network sees", xlabel="logit a", ylabel="gate", ylim=(-0.08, 1.75))
    right.plot(logit, np.zeros_like(logit), color=BLACK, marker="", label="true slope of the step: 0")
    right.plot(logit, sigmoid * (1 - sigmoid), color=BLUE, marker="", linestyle="--", label=r"slope of $\sigma$")
    right.plot(logit, np.ones_like(logit), color=VERMILION, marker="", linestyle="-.", label="slope of a itself: 1")
    right.set(title="backward: what the logit is told", xlabel="logit a", ylabel="slope", ylim=(-0.08, 1.75))
    for ax in (left, right):
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        ax.legend(loc="upper left", fontsize=_SMALL)
    return figure


# Bias and spread -----------------------------------------------------------------------------------------------------


def estimator_curves(errors: Mapping[str, EstimatorError], *, columns: int = 3) -> Figure:
    """One panel an estimator: the exact gradient over p, the mean estimate, and a band of one standard deviation."""
    rows = -(-len(errors) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(9.0, 2.15 * rows + 0.3), sharex=True, sharey=True, squeeze=False
    )
    for i, (ax, (name, error)) in enumerate(zip(axes.flat, errors.items(), strict=False)):
        low, high = (error.mean + sign * error.spread for sign in (-1, 1))
        ax.fill_between(error.p, low, high, facecolor=BLUE, alpha=0.22, edgecolor=BLUE, linewidth=0.5)
        ax.plot(error.p, error.mean, color=BLUE, marker="o", markersize=3, linestyle="-", linewidth=1.2)
        ax.plot(error.p, error.exact, color=BLACK, marker="", linestyle="--", linewidth=1.6)
        ax.set_title(name, fontsize=10)
        if i % columns == 0:
            ax.set_ylabel("gradient", fontsize=_SMALL)
        if i >= len(errors) - columns:
            ax.set_xlabel("p, the chance to be open", fontsize=_SMALL)
            ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(errors) :]:
        ax.remove()
    figure.legend(
        handles=[
            plt.Line2D([], [], color=BLACK, linestyle="--", label="exact"),
            plt.Line2D([], [], color=BLUE, marker="o", markersize=3, label="mean of the estimates"),
            Patch(facecolor=BLUE, alpha=0.22, label="one estimate: mean ± standard deviation"),
        ],
        loc="outside upper center",
        ncols=3,
    )
    return figure


def root_mean_square(values: Tensor) -> float:
    """The square root of the mean square, one number for a curve."""
    return float(values.square().mean().sqrt())


def bias_and_spread(errors: Mapping[str, EstimatorError]) -> Figure:
    """Two rows of bars, root mean squares over p: how far the mean is off, and how far one estimate scatters.

    The tick on a bias bar is what bias would be seen of an unbiased estimator, from that many samples. The dotted line
    is the exact gradient's own size: an estimate that says nothing, always 0, is wrong by that much.
    """
    names, rows = list(errors), np.arange(len(errors))
    bias = [root_mean_square(error.bias) for error in errors.values()]
    noise = [root_mean_square(error.standard_error) for error in errors.values()]
    spread = [root_mean_square(error.spread) for error in errors.values()]
    size = max(root_mean_square(error.exact) for error in errors.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 0.8 + 0.34 * len(rows)), sharey=True)
    left.barh(rows, bias, height=0.6, color=VERMILION, hatch="..", edgecolor="white")
    left.plot(noise, rows, linestyle="", marker="|", markersize=13, markeredgewidth=2, color=BLACK)
    left.axvline(size, color=BLACK, linestyle=":", linewidth=1.6, zorder=3)
    left.text(0.04 * max(bias) + size, len(rows) - 1.5, f"dotted: the gradient itself, {size:.3f}", fontsize=8)
    right.barh(rows, spread, height=0.6, **SPENT)
    left.set(title="bias (tick: what noise alone would show)", xlabel="wrong by")
    right.set(title="spread of one estimate", xlabel="standard deviation")
    left.set_yticks(rows, names)
    left.invert_yaxis()
    for ax, values in ((left, bias), (right, spread)):
        ax.grid(visible=False, axis="y")
        ax.set_xlim(0, 1.18 * max(values))
        for row, value in enumerate(values):
            at = (value + 0.02 * max(values), row)
            back = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the dotted line passes behind the number
            ax.text(*at, f"{value:.3f}", va="center", fontsize=8, bbox=back, zorder=4)
    return figure


def noise_by_gates(spreads: Mapping[str, Sequence[float]], numbers: Sequence[int], signal: float) -> Figure:
    """Spread of one gate's estimate against the number of gates that share the loss, both axes logarithmic.

    Args:
        spreads: name -> one standard deviation for each of `numbers`; zeros are left out.
        signal: the exact gradient of that gate, as a line.
    """
    figure, ax = plt.subplots(figsize=(7.4, 3.4))
    for i, (name, spread) in enumerate(spreads.items()):
        seen = [(n, value) for n, value in zip(numbers, spread, strict=True) if value > 1e-9]
        ax.plot(*zip(*seen, strict=True), color=PALETTE[i], marker=MARKERS[i], linestyle=LINES[i], label=name)
    ax.axhline(signal, color=INK, linewidth=1.2, linestyle=":")
    ax.text(numbers[-1], signal * 1.06, f"the gradient itself, {signal:.3f}", ha="right", va="bottom", fontsize=_SMALL)
    ax.set(xscale="log", yscale="log", xlabel="gates that share one loss", ylabel="spread of one estimate")
    ax.set_xticks(numbers, [str(n) for n in numbers])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def gate_dashboard(settings: Sequence[tuple[float, float, bool]], *, samples: int = 3000) -> Figure:
    """A Gumbel gate from two sides: the values it takes, and the gradients it gives on the one-gate problem.

    Args:
        settings: one row of two panels for each (p, tau, hard).
    """
    figure, rows = plt.subplots(len(settings), 2, figsize=(8.8, 2.2 * len(settings) + 0.3), squeeze=False)
    problem = GateProblem()
    for (left, right), (p, tau, hard) in zip(rows, settings, strict=True):
        sampler = partial(gradients.gumbel, tau=tau, hard=hard)
        logit = torch.tensor(p, dtype=torch.float64).logit()
        gates = sampler(logit.expand(samples), torch.Generator().manual_seed(0))
        estimates = gradient_samples(gradients.through(sampler), p, problem, samples=samples)[:, 0]
        exact = float(problem.exact_gradient(logit[None])[0])
        _histogram(left, gates, (-0.025, 1.025), 21)
        left.set_title(f"gates at p = {p:g}, tau = {tau:g}, {'hard' if hard else 'soft'}", fontsize=_SMALL)
        left.set_ylabel("share", fontsize=_SMALL)
        _histogram(right, estimates, (-0.75, 0.75), 40)
        right.axvline(exact, color=BLACK, linestyle="--", linewidth=1.6, label=f"exact {exact:+.3f}")
        mean = float(estimates.mean())
        right.axvline(mean, color=VERMILION, linestyle="-", linewidth=1.6, label=f"mean {mean:+.3f}")
        right.set_title(f"gradients: spread {float(estimates.std()):.3f}", fontsize=_SMALL)
        right.legend(loc="upper right", fontsize=8)
    rows[-1, 0].set_xlabel("value of the gate", fontsize=_SMALL)
    rows[-1, 1].set_xlabel("estimate of the gradient", fontsize=_SMALL)
    return figure


def _histogram(ax: Axes, values: Tensor, limits: tuple[float, float], bins: int) -> None:
    edges = np.linspace(*limits, bins + 1).tolist()
    shares = np.full(len(values), 1 / max(len(values), 1))
    ax.hist(values.clamp(*limits), bins=edges, weights=shares, color=BLUE, edgecolor="white", linewidth=0.4)
    ax.set_xlim(*limits)


# Training ------------------------------------------------------------------------------------------------------------


def settling(
    paths: Mapping[str, Tensor],
    *,
    levels: Mapping[str, float],
    xlabel: str = "step",
    ylim: tuple[float, float] = (0, 1),
) -> Figure:
    """How the chance to be open moves: a line for each path, a thin horizontal line for each level that has a name."""
    figure, ax = plt.subplots(figsize=(8.4, 3.6))
    for i, (name, path) in enumerate(paths.items()):
        look: dict[str, Any] = {"color": PALETTE[i % 7], "linestyle": LINES[i % 7], "marker": MARKERS[(i + i // 7) % 7]}
        ax.plot(np.arange(len(path)), path, markevery=(i * 3, max(len(path) // 8, 1)), markersize=5, label=name, **look)
    for name, level in levels.items():
        ax.axhline(level, color=INK, linewidth=1, linestyle=":")
        ax.annotate(name, (1.01, level), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    ax.set(xlabel=xlabel, ylabel="p, the chance to be open", ylim=(0, 1))
    ax.legend(loc="upper left", bbox_to_anchor=(1.1, 1.0))
    return figure


def gate_maps(runs: Mapping[str, GatedRun], *, columns: int = 3) -> Figure:
    """Where in the square each trained gate is open. Pale and hatched: closed, the costly path is skipped."""
    rows = -(-len(runs) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9.0, 2.75 * rows + 0.35), squeeze=False)
    side = torch.linspace(-1, 1, 121)
    grid = torch.cartesian_prod(side, side)
    data = two_regions(260, seed=2)
    for ax, (name, run) in zip(axes.flat, runs.items(), strict=False):
        with torch.inference_mode():
            logits = run.model.gate_logits(grid).reshape(121, 121).T.numpy()
        levels = [-np.inf, 0, np.inf]
        ax.contourf(side, side, logits, levels=levels, colors=[SKIPPED["facecolor"], "#CFE3F1"], hatches=["////", ""])
        for label in range(4):
            at = data.points[data.labels == label]
            ax.plot(at[:, 0], at[:, 1], linestyle="", marker=MARKERS[label], markersize=3, color=_CLASS_COLOURS[label])
        ax.axvline(0.2, color=INK, linewidth=1, linestyle=":")
        ax.set_title(f"{name}\nopen: easy {run.open_easy:.0%}, hard {run.open_hard:.0%}", fontsize=_SMALL)
        ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
        ax.grid(visible=False)
    for ax in axes.flat[len(runs) :]:
        ax.remove()
    keys = [Patch(facecolor="#CFE3F1", label="gate open: the costly path runs"), Patch(**SKIPPED, label="gate closed")]
    figure.legend(handles=keys, loc="outside upper center", ncols=2)
    return figure


_CLASS_COLOURS = (BLUE, VERMILION, GREEN, BLACK)


def soft_and_hard(runs: Mapping[str, GatedRun]) -> Figure:
    """Test accuracy of each run twice: with mixed paths, as some were trained, and with one path, as all will run."""
    names, rows = list(runs), np.arange(len(runs))
    figure, ax = plt.subplots(figsize=(8.4, 1.1 + 0.32 * len(rows)))
    soft, hard = ([getattr(run, key) for run in runs.values()] for key in ("soft_accuracy", "accuracy"))
    ax.hlines(rows, soft, hard, color=INK, linewidth=1.2)
    ax.plot(soft, rows, linestyle="", marker="D", color=PALETTE[4], markersize=8, label="mixed by p")
    ax.plot(hard, rows, linestyle="", marker="o", color=BLUE, markersize=8, label="one path, open if p > 1/2")
    ax.set(xlabel="test accuracy", ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(rows, names)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
