"""Figures of networks that look closely at one window of each frame: film strips, coverage, costs, where they fail.

Every function returns a `Figure`. A window that the heavy network did not read is pale and hatched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.plots.style import INK, ORANGE, PALETTE, SKIPPED, SPENT, VERMILION, YELLOW

if TYPE_CHECKING:
    from course_lib.temporal.adafocus import FocusResult

__all__ = ["focus_dashboard", "focus_strip", "stills_strip", "trajectory"]

SMALL = 8.5  #: points; the smallest type in these figures
#: Behind words that a pattern or a line would cross.
PAPER: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.9}


# Film strips ---------------------------------------------------------------------------------------------------------


def focus_strip(
    clip: Tensor,
    result: FocusResult,
    *,
    label: int | Sequence[int] | None = None,
    glance: int | None = None,
    names: Sequence[str] | None = None,
    across: bool = True,
) -> Figure:
    """A clip as a strip: frames with their windows, what the policy thought, the cut-outs, the answer so far.

    Args:
        clip: (T, 3, H, W) in [0, 1].
        result: of this clip alone, so with N = 1, its answers in the order of the frames (`AdaFocusV2` reads them in
            another). Unread windows are pale and hatched.
        label: the true class, or one for each column; its probability is then drawn in the last row, else that of the
            likeliest class.
        glance: draw the policy's probabilities on frames shrunk to this side, as its encoder sees them; None leaves
            that row out, as does a result without probabilities.
        names: of the classes; their numbers if not given.
        across: draw the memories that run from frame to frame as dashed arrows.
    """
    frames, (height, width) = len(clip), clip.shape[2:]
    chances = None if glance is None else result.probability
    thinking = chances is not None
    rows = 4 if thinking else 3
    wide = 1.12 if frames > 2 else 1.7
    figure, axes = plt.subplots(
        rows,
        frames,
        squeeze=False,
        figsize=(max(wide * frames + 0.7, 3.2), (wide + 0.08) * rows - 0.25 * wide),
        height_ratios=[1] * (rows - 1) + [0.72],
    )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    corner = _corners(result.location[0], height, width, result.patch)
    for t in range(frames):
        picture = clip[t].permute(1, 2, 0).numpy()
        read = bool(result.kept[0, t])
        top, left = corner[t]
        show_picture(axes[0, t], picture)
        _window(axes[0, t], top, left, result.patch, read=read)
        axes[0, t].set_title(f"t = {t + 1}", fontsize=SMALL)
        if chances is not None:
            reach = result.patch / height / 2, 1 - result.patch / height / 2
            _policy(axes[1, t], clip[t : t + 1], chances[0, t], int(glance or 1), reach)
        _cut_out(axes[-2, t], picture[top : top + result.patch, left : left + result.patch], read=read)
        if t and across:
            for ax in (axes[1, t], axes[-1, t]) if thinking else (axes[-1, t],):
                _remembered(ax)
        truth = label if label is None or isinstance(label, int) else label[t]
        _answer(axes[-1, t], result.logits[0, t], truth, names)
    titles = ["frame", "policy", "window", "answer"] if thinking else ["frame", "window", "answer"]
    for ax, title in zip(axes[:, 0], titles, strict=True):
        ax.set_ylabel(title, fontsize=9)
    return figure


def stills_strip(images: Tensor, result: FocusResult, labels: Tensor, *, glance: int) -> Figure:
    """Still images side by side, each with its own window; images (N, 3, H, W), result with T = 1, labels (N,)."""
    turned = replace(
        result,
        logits=result.logits.transpose(0, 1),
        location=result.location.transpose(0, 1),
        kept=result.kept.T,
        probability=None if result.probability is None else result.probability.transpose(0, 1),
    )
    figure = focus_strip(images, turned, label=labels.tolist(), glance=glance, across=False)
    for ax, label in zip(figure.axes, labels.tolist(), strict=False):
        ax.set_title(f"a {label}", fontsize=SMALL)
    return figure


def _remembered(ax: Axes) -> None:
    """A dashed arrow from the column before."""
    arrow = {"arrowstyle": "->", "ls": "--", "lw": 1.1, "color": INK, "shrinkA": 0, "shrinkB": 0}
    note = ax.annotate("", (0.03, 0.5), (-0.2, 0.5), xycoords="axes fraction", arrowprops=arrow, annotation_clip=False)
    note.set_in_layout(False)


def _corners(location: Tensor, height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """Upper left pixels (row, column) of windows at `location` (T, 2), rounded down."""
    room = np.array([height - patch, width - patch])
    return [(int(r), int(c)) for r, c in np.floor(location.cpu().numpy() * room + 1e-4)]


def show_picture(ax: Axes, picture: np.ndarray) -> None:
    """Pixels (H, W, 3) in [0, 1] as they are, without a frame."""
    ax.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _window(ax: Axes, top: int, left: int, patch: int, *, read: bool, color: str = YELLOW) -> None:
    """An outline that is seen on any ground; dotted where the window was not read."""
    for line, shade in ((3.2, "black"), (1.7, color)):
        style: dict[str, Any] = {"ls": "-" if read else ":", "fill": False, "edgecolor": shade, "linewidth": line}
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), patch, patch, **style))


def _policy(ax: Axes, frame: Tensor, probability: Tensor, side: int, reach: tuple[float, float]) -> None:
    """Dots at the windows' middles, their area the probability, on the frame as the glance has it; one is ringed."""
    from torch.nn import functional

    small = functional.interpolate(frame, (side, side), mode="bilinear", antialias=True, align_corners=False)
    seen = small[0].permute(1, 2, 0).numpy()
    seen = (seen - seen.min()) / max(seen.max() - seen.min(), 1e-6)  # its own range: noise has been averaged away
    show_picture(ax, 0.45 + 0.55 * seen)
    grid = round(len(probability) ** 0.5)
    steps = np.linspace(*reach, grid) * side - 0.5
    columns, rows = np.meshgrid(steps, steps)
    share = probability.cpu().numpy()
    ax.scatter(columns.ravel(), rows.ravel(), s=3 + 90 * share, color=PALETTE[0], edgecolor="white", linewidth=0.4)
    best = int(share.argmax())
    ax.scatter(columns.ravel()[best], rows.ravel()[best], s=130, facecolor="none", edgecolor=VERMILION, linewidth=1.6)


def _cut_out(ax: Axes, window: np.ndarray, *, read: bool) -> None:
    if read:
        show_picture(ax, window)
        return
    ax.add_patch(Rectangle((0, 0), 1, 1, **SKIPPED))
    ax.text(0.5, 0.5, "not read", ha="center", va="center", fontsize=SMALL, bbox=PAPER)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _answer(ax: Axes, logits: Tensor, label: int | None, names: Sequence[str] | None) -> None:
    """The likeliest class, and a bar for its probability, or for that of the true class."""
    p = logits.softmax(-1).cpu().numpy()
    best = int(p.argmax())
    told = best if label is None else label
    right = label is None or best == label
    ax.bar([0], [1], 0.8, **SKIPPED)
    ax.bar([0], [p[told]], 0.8, **SPENT)
    said = names[best] if names else str(best)
    ax.set(xlim=(-0.55, 0.55), ylim=(0, 1.0))
    ax.set_xlabel(said if right else f"{said} (no)", fontsize=SMALL)
    ax.text(0, 0.96, f"{p[told]:.2f}", ha="center", va="top", fontsize=SMALL, bbox=PAPER)
    for spine in ax.spines.values():
        spine.set_visible(False)


def trajectory(clip: Tensor, result: FocusResult, box: Tensor, side: int, *, names: Sequence[str] = ()) -> Figure:
    """Where the object went and where the windows were: on the last frame, and row and column over time.

    Args:
        clip: (T, 3, H, W) in [0, 1].
        result: N = 1.
        box: (T, 2), the object's upper left corner in pixels; side: its height and width.
        names: what to call the two in the legend.
    """
    height, width = clip.shape[2:]
    object_at = box.numpy() + side / 2 - 0.5
    window_at = np.array(_corners(result.location[0], height, width, result.patch)) + result.patch / 2 - 0.5
    shown, read = names or ("the digit's middle", "the window's middle")
    figure, axes = plt.subplots(1, 3, figsize=(8.8, 3.0), width_ratios=[1, 1.15, 1.15])
    show_picture(axes[0], 0.3 + 0.7 * clip.mean(0).permute(1, 2, 0).numpy())
    axes[0].set(xticks=[], yticks=[], title="the frames' mean", xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes[0].grid(visible=False)
    looks = ({"color": ORANGE, "ls": "-", "marker": "o"}, {"color": PALETTE[0], "ls": "--", "marker": "s"})
    for place, look in zip((object_at, window_at), looks, strict=True):
        axes[0].plot(place[:, 1], place[:, 0], markersize=4, linewidth=1.4, **look)
        axes[0].plot(place[-1, 1], place[-1, 0], markersize=10, fillstyle="none", **{**look, "ls": ""})
    steps = np.arange(1, len(clip) + 1)
    reach = (result.patch - side) / 2
    for axis, (ax, name) in enumerate(zip(axes[1:], ("row", "column"), strict=True)):
        middle = window_at[:, axis]
        ax.fill_between(steps, middle - reach, middle + reach, color=PALETTE[0], alpha=0.15, linewidth=0)
        for place, look, what in zip((object_at, window_at), looks, (shown, read), strict=True):
            ax.plot(steps, place[:, axis], markersize=4, label=what, **look)
        ax.set(xlabel="frame", ylabel=f"{name} of the middle, pixels", ylim=(0, (height, width)[axis]))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


# The widget ----------------------------------------------------------------------------------------------------------


def focus_dashboard(
    rows: Sequence[tuple[str, int]],
    *,
    clip: Tensor,
    results: Mapping[str, FocusResult],
    covered: Mapping[str, Tensor],
    index: int,
    label: int,
) -> Figure:
    """One row for every (policy, frame): the frame with its window, the cut-out, coverage and confidence so far.

    Args:
        rows: names of policies in `results`, and frames counted from 0.
        clip: (T, 3, H, W) in [0, 1]; label: its class.
        results: policy -> answers to several clips; covered: policy -> (N, T) bool, windows that hold the object.
        index: which of them `clip` is.
    """
    figure, axes = plt.subplots(
        len(rows), 4, squeeze=False, figsize=(9.0, 2.25 * len(rows) + 0.3), width_ratios=[1, 0.8, 1.25, 1.25]
    )
    height, width = clip.shape[2:]
    for line, (name, t) in zip(axes, rows, strict=True):
        result = results[name]
        top, left = _corners(result.location[index], height, width, result.patch)[t]
        picture = clip[t].permute(1, 2, 0).numpy()
        show_picture(line[0], picture)
        _window(line[0], top, left, result.patch, read=True)
        show_picture(line[1], picture[top : top + result.patch, left : left + result.patch])
        for ax, title in zip(line[:2], (f"{name}, frame {t + 1}", "window"), strict=True):
            ax.set(xticks=[], yticks=[])
            ax.set_title(title, fontsize=9.5)
            ax.grid(visible=False)
        _so_far(line[2], covered[name][index].cpu().numpy(), t)
        steps = np.arange(1, len(clip) + 1)
        chance = result.logits[index].softmax(-1)[:, label].cpu().numpy()
        for other in results:
            faint = results[other].logits[index].softmax(-1)[:, label].cpu().numpy()
            line[3].plot(steps, faint, color="#C8C8C8", marker="", ls="-", lw=1)
        line[3].plot(steps, chance, color=PALETTE[0], ls="-", marker="o", markersize=4)
        line[3].axvline(t + 1, color=VERMILION, ls="--", marker="", lw=1.2)
        spent = float(result.macs[index]) * (t + 1) / len(clip) / 1e6
        line[3].set_title(f"true class, {spent:.1f} M so far", fontsize=9.5)
        line[3].set(ylim=(0, 1.04), xticks=steps, xlabel="frame")
    return figure


def _so_far(ax: Axes, covered: np.ndarray, now: int) -> None:
    """A box for each frame: filled where the window held the object, hollow where not; hatched is still to come."""
    for t, hit in enumerate(covered):
        look: dict[str, Any] = SKIPPED if t > now else {**SPENT, "facecolor": PALETTE[2] if hit else "white"}
        ax.add_patch(Rectangle((t + 0.55, 0.2), 0.9, 0.6, **{**look, "edgecolor": INK}))
        if t <= now:
            ink = "white" if hit else INK
            ax.text(t + 1, 0.5, "yes" if hit else "no", ha="center", va="center", fontsize=SMALL, color=ink)
    ax.set(xlim=(0.4, len(covered) + 0.6), ylim=(0, 1), yticks=[], xticks=range(1, len(covered) + 1), xlabel="frame")
    ax.set_title(f"digit inside: {int(covered[: now + 1].sum())} of {now + 1}", fontsize=9.5)
    ax.grid(visible=False)
