"""Figures of the chapter on DAPL: worlds, sentences, prompts as ribbons, pseudo-labels, domains that compete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, FancyBboxPatch, Rectangle
from torch import Tensor

from course_lib.plots.style import BLUE, GREEN, INK, LINES, MARKERS, ORANGE, PALE, PALETTE, SKIPPED, VERMILION

if TYPE_CHECKING:
    from course_lib.beyond.dapl import DomainPrompts, PseudoLabels

_SMALL = 9
#: How a right label is drawn, and a wrong one.
LABEL_RIGHT: dict[str, Any] = {"facecolor": BLUE, "edgecolor": "white", "linewidth": 0.4}
LABEL_WRONG: dict[str, Any] = {"facecolor": VERMILION, "edgecolor": "white", "hatch": "xxx", "linewidth": 0.4}


# Worlds and sentences ------------------------------------------------------------------------------------------------


def picture_rows(rows: Mapping[str, Tensor], titles: Sequence[str] = ()) -> Figure:
    """A row of pictures for each name, (n, 3, H, W) in [0, 1], with a title above each column."""
    columns = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.02 * columns + 1.0, 1.06 * len(rows) + 0.3), squeeze=False
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=False):
            ax.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=_SMALL)
    return figure


def sentence_matrix(accuracy: Tensor, sentences: Sequence[str], domains: Sequence[str], *, chance: float) -> Figure:
    """Accuracy of each sentence (rows) on the pictures of each domain (columns); the best of a column is framed.

    accuracy: (rows, columns) in [0, 1]; chance is where the colours begin.
    """
    figure, ax = plt.subplots(figsize=(1.15 * len(domains) + 3.4, 0.44 * len(sentences) + 1.0))
    ax.imshow(accuracy.numpy(), cmap="Blues", vmin=chance, vmax=1.15, aspect="auto")
    for (row, column), value in np.ndenumerate(accuracy.numpy()):
        colour = "white" if value > 0.5 + 0.5 * chance else INK
        ax.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour)
    for column, row in enumerate(accuracy.argmax(0).tolist()):
        ax.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=ORANGE, linewidth=2.5))
    ax.set_xticks(range(len(domains)), domains)
    ax.set_yticks(range(len(sentences)), sentences)
    ax.set(xlabel="the pictures", ylabel="the sentence")
    ax.grid(visible=False)
    return figure


# Prompts as ribbons --------------------------------------------------------------------------------------------------

_DOMAIN_LOOKS = ((VERMILION, "\\\\\\", "s"), (GREEN, "xx", "o"))  # source, target: colour, hatch, marker


def prompt_ribbons(prompts: DomainPrompts, images: Mapping[str, tuple[Tensor, Tensor]], *, classes: int = 3) -> Figure:
    """The prompts as rows of boxes, the frozen tower, and the circle where sentences meet pictures.

    Args:
        prompts: of two domains; the first `classes` of their classes are drawn.
        images: for each domain features (N, E) and labels (N,); those of the classes drawn are projected, with the
            prompts, onto the plane in which the class means of all the features lie. Crosses show directions: those of
            a domain are centred on their own mean and drawn as long as fits.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.3), width_ratios=(1.85, 1))
    names = prompts.classnames[:classes]
    _ribbons(left, prompts, names)
    _plane(right, prompts, images, names)
    right.legend(handles=_plane_keys(list(images)), loc="upper center", bbox_to_anchor=(0.5, 0.02), **_KEYS)
    return figure


def prompt_circles(
    stages: Mapping[str, DomainPrompts], images: Mapping[str, tuple[Tensor, Tensor]], *, classes: int = 3
) -> Figure:
    """The circle of `prompt_ribbons` for several sets of prompts beside each other, such as before and after."""
    figure, axes = plt.subplots(1, len(stages), figsize=(4.3 * len(stages), 4.4), squeeze=False)
    for ax, (name, prompts) in zip(axes[0], stages.items(), strict=True):
        _plane(ax, prompts, images, prompts.classnames[:classes])
        ax.set_title(name)
    figure.legend(handles=_plane_keys(list(images)), loc="outside lower center", **{**_KEYS, "ncols": 4})
    return figure


_KEYS: dict[str, Any] = {"ncols": 2, "fontsize": 8, "columnspacing": 0.8}


def _plane_keys(domains: Sequence[str]) -> list[Any]:
    looks = list(zip(domains, _DOMAIN_LOOKS, strict=True))
    keys = [plt.Line2D([], [], ls="", marker=m, mfc="none", mec=c, label=f"{n}: pictures") for n, (c, _, m) in looks]
    return keys + [
        plt.Line2D([], [], ls="", marker="X", ms=9, color=c, mec="black", label=f"{n}: sentences")
        for n, (c, _, _) in looks
    ]


def _ribbons(ax: Axes, prompts: DomainPrompts, names: Sequence[str]) -> None:
    shared, own = prompts.context.shape[-2], prompts.domain_vectors.shape[1]
    rows = len(prompts.domains) * len(names)
    for row in range(rows):
        domain, name, y = row // len(names), names[row % len(names)], row + 0.35 * (row // len(names))
        colour, hatch, _ = _DOMAIN_LOOKS[domain]
        fixed: dict[str, Any] = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
        boxes: list[tuple[float, str, dict[str, Any]]] = [(0.9, "start", fixed)]
        boxes += [
            (0.62, f"v{m + 1}", {"facecolor": "#CFE3F1", "edgecolor": BLUE, "linewidth": 1.0}) for m in range(shared)
        ]
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": colour, "hatch": hatch, "linewidth": 1.0}
        boxes += [(0.62, f"d{m + 1}", look) for m in range(own)]
        boxes += [(1.5, f"{name} .", fixed), (0.75, "end", fixed)]
        x = 0.0
        for width, text, look in boxes:
            ax.add_patch(Rectangle((x, y), width, 0.72, **look))
            back = {"facecolor": "white", "edgecolor": "none", "pad": 0.6} if text.startswith("d") else None
            ax.text(x + width / 2, y + 0.36, text, ha="center", va="center", fontsize=8, bbox=back)
            x += width
        rest = prompts.clip.context_length - prompts.tokens.shape[1]
        if rest:
            ax.add_patch(Rectangle((x, y), 1.1, 0.72, **SKIPPED))
            ax.text(x + 0.55, y + 0.36, f"{rest} cut", ha="center", va="center", fontsize=8, bbox=_PAPER)
    end, height = x + 1.1, rows + 0.35
    _bracket(ax, -0.95, (-0.05, height), "-", "both: paper")
    for domain in range(len(prompts.domains)):
        top = domain * (len(names) + 0.35)
        _bracket(ax, -0.35, (top - 0.05, top + len(names) - 0.2), "--", "own: code" if domain else "")
        ax.text(0.0, top - 0.12, prompts.domains[domain], fontsize=_SMALL, va="bottom", color=_DOMAIN_LOOKS[domain][0])
    _locked(ax, end + 0.9, height)
    ax.set(xlim=(-1.6, end + 3.3), ylim=(height + 0.1, -0.7))
    ax.set_axis_off()


_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def _bracket(ax: Axes, x: float, ends: tuple[float, float], line: Any, text: str) -> None:
    ax.plot([x + 0.2, x, x, x + 0.2], [ends[0], ends[0], ends[1], ends[1]], color=INK, ls=line, lw=1.3, marker="")
    middle = sum(ends) / 2 if text.startswith("both") else ends[0]
    ax.text(x - 0.08, middle, text, rotation=90, ha="right", va="center", fontsize=8)


def _locked(ax: Axes, x: float, height: float) -> None:
    """The text tower with a lock, and the arrows into it and out of it."""
    box = FancyBboxPatch((x, 0.18 * height), 1.4, 0.64 * height, boxstyle="round,pad=0.05", fc=PALE, ec=INK, lw=1.2)
    ax.add_patch(box)
    ax.text(x + 0.7, 0.36 * height, "text\ntower,\nfrozen", ha="center", va="center", fontsize=_SMALL)
    ax.add_patch(Arc((x + 0.7, 0.62 * height), 0.42, 0.85, theta1=180, theta2=360, color=INK, lw=2))
    ax.add_patch(Rectangle((x + 0.38, 0.62 * height), 0.64, 0.75, facecolor=INK))
    for start, stop in ((x - 0.8, x - 0.1), (x + 1.55, x + 2.3)):
        ax.annotate(
            "", (stop, height / 2), (start, height / 2), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.4}
        )


def _plane(ax: Axes, prompts: DomainPrompts, images: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ValueError(f"classes: got {len(names)}, expected at least 2, as the plane is that of the classes' means")
    with torch.no_grad():
        rows = prompts()[:, : len(names)].cpu()
    rows = rows - rows.mean(1, keepdim=True)  # what all sentences of a domain share decides nothing among them
    features = torch.cat([x.cpu() for x, _ in images.values()])
    labels = torch.cat([y.cpu() for _, y in images.values()])
    centres = torch.stack([features[labels == k].mean(0) for k in range(len(names))])
    origin = centres.mean(0)
    axes = torch.linalg.svd(centres - origin, full_matrices=False).Vh[:2].T
    reach = 0.0
    for (x, y), (colour, _, marker) in zip(images.values(), _DOMAIN_LOOKS, strict=True):
        chosen = y.cpu() < len(names)
        at = (x.cpu()[chosen] - origin) @ axes
        ax.scatter(
            at[:, 0], at[:, 1], s=12, marker=marker, facecolor="none", edgecolor=colour, linewidth=0.7, alpha=0.6
        )
        reach = max(reach, float(at.norm(dim=1).max()))
    for domain, own in enumerate(rows):
        at = own @ axes
        at = at * (0.9 * reach / at.norm(dim=1).max())
        ax.scatter(
            at[:, 0],
            at[:, 1],
            s=110,
            marker="X",
            color=_DOMAIN_LOOKS[domain][0],
            edgecolor="black",
            linewidth=1,
            zorder=4,
        )
        for (u, v), name in zip(at.tolist(), names, strict=True) if domain == 0 else ():
            out = 1.22 * reach / max((u * u + v * v) ** 0.5, 1e-9)
            ax.text(u * out, v * out, name, ha="center", va="center", fontsize=_SMALL, zorder=6, bbox=_PAPER)
    ax.add_patch(Circle((0, 0), 1.08 * reach, fill=False, edgecolor=INK, linewidth=1.2))
    ax.set(xlim=(-1.45 * reach, 1.45 * reach), ylim=(-1.3 * reach, 1.3 * reach), aspect="equal")
    ax.set_axis_off()


# Pseudo-labels -------------------------------------------------------------------------------------------------------


def pseudo_label_quality(verdict: PseudoLabels, labels: Tensor, taus: Sequence[float]) -> Figure:
    """Left how sure the teacher was where right and where wrong; right what a threshold keeps, and how pure that is."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.2))
    confidence = verdict.confidence.cpu()
    correct = (verdict.labels == labels.to(verdict.labels)).cpu()
    edges = np.linspace(float(confidence.min()) // 0.1 * 0.1, 1, 19)
    parts = [confidence[correct].numpy(), confidence[~correct].numpy()]
    _, _, bars = left.hist(parts, bins=edges.tolist(), stacked=True, label=["right", "wrong"])
    for group, look in zip(bars, (LABEL_RIGHT, LABEL_WRONG), strict=True):
        for bar in group:
            bar.set(**look)
    for tau in taus:
        left.axvline(tau, color=INK, ls="--", lw=1.2, marker="")
    left.set(xlabel="the teacher's confidence", ylabel="pictures")
    left.legend(loc="upper left")
    grid = np.linspace(edges[0], 1, 60)
    coverage = [verdict.coverage(t) for t in grid]
    precision = [verdict.precision(t, labels) if verdict.coverage(t) > 0.005 else np.nan for t in grid]
    for values, name, i in ((coverage, "kept", 2), (precision, "of these right", 0)):
        right.plot(grid, values, color=PALETTE[i], ls=LINES[i], marker=MARKERS[i], markevery=7, ms=5, label=name)
    for tau in taus:
        right.axvline(tau, color=INK, ls="--", lw=1.2, marker="")
    right.set(xlabel="threshold τ", ylabel="share", ylim=(0, 1.03))
    right.legend(loc="lower left")
    return figure


def pseudo_label_gallery(
    images: Tensor, verdict: PseudoLabels, labels: Tensor, names: Sequence[str], tau: float, *, columns: int = 8
) -> Figure:
    """Three rows of pictures with what the teacher says: kept and right, kept and wrong, not kept (under hatching).

    images: (N, 3, H, W) in [0, 1]; labels: (N,), the truth, which no training sees.
    """
    kept, right = verdict.kept(tau).cpu(), (verdict.labels == labels.to(verdict.labels)).cpu()
    rows = {"kept, right": kept & right, "kept, wrong": kept & ~right, "not kept": ~kept}
    figure, axes = plt.subplots(3, columns, figsize=(1.08 * columns + 0.9, 4.4), squeeze=False)
    for line, (title, chosen) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(f"{title}\n{float(chosen.double().mean()):.0%}", rotation=0, ha="right", va="center")
        for ax, i in zip(line, chosen.nonzero()[:, 0].tolist(), strict=False):
            ax.imshow(images[i].permute(1, 2, 0).clamp(0, 1).numpy())
            said = f"{names[int(verdict.labels[i])]} {float(verdict.confidence[i]):.2f}"
            ax.set_title(said if right[i] else f"{said}\nis: {names[int(labels[i])]}", fontsize=8, pad=3)
            if title == "not kept":
                side = images.shape[-1]
                veil = Rectangle(
                    (-0.5, -0.5), side, side, facecolor="#FFFFFF70", edgecolor="#FFFFFFD0", hatch="////", lw=0
                )
                ax.add_patch(veil)
    return figure


# What was learned ----------------------------------------------------------------------------------------------------


def accuracy_bars(accuracies: Mapping[str, float], *, baseline: str, chance: float) -> Figure:
    """Accuracy by name, with the difference to one of them; dotted line: chance."""
    figure, ax = plt.subplots(figsize=(8.4, 0.7 + 0.4 * len(accuracies)))
    for row, (name, value) in enumerate(accuracies.items()):
        look = {"facecolor": "white", "edgecolor": INK, "hatch": "..", "lw": 0.8} if name == baseline else LABEL_RIGHT
        ax.barh(row, value, height=0.62, **look)
        points = 100 * (value - accuracies[baseline])
        ax.text(value + 0.008, row, f"{value:.1%}" + (f"  ({points:+.1f})" if name != baseline else ""), va="center")
    ax.axvline(chance, color=INK, ls=":", lw=1.3, marker="")
    ax.set(xlim=(0, 1.12), ylim=(len(accuracies) - 0.5, -0.5), xlabel="accuracy on the target's test pictures")
    ax.set_yticks(range(len(accuracies)), list(accuracies))
    ax.grid(visible=False, axis="y")
    return figure


def domain_preference(shares: Mapping[str, tuple[float, float]], domains: tuple[str, str]) -> Figure:
    """For each name: how often the strongest prompt is the target's, on source and on target pictures.

    shares: name -> (share on the source's pictures, share on the target's).
    """
    figure, ax = plt.subplots(figsize=(8.4, 0.9 + 0.42 * len(shares)))
    for row, pair in enumerate(shares.values()):
        ax.plot(pair, [row, row], color=INK, lw=1.2, ls="-", marker="")
        for value, (colour, _, marker) in zip(pair, _DOMAIN_LOOKS, strict=True):
            ax.plot(value, row, ls="", marker=marker, ms=10, color=colour, mec="black", clip_on=False)
    ax.axvline(0.5, color=INK, ls=":", lw=1.2, marker="")
    ax.set(xlim=(-0.02, 1.02), ylim=(len(shares) - 0.5, -0.5), xlabel="share whose strongest prompt is the target's")
    ax.set_yticks(range(len(shares)), list(shares))
    ax.grid(visible=False, axis="y")
    keys = [
        plt.Line2D([], [], ls="", marker=m, ms=9, color=c, mec="black", label=f"{name} pictures")
        for name, (c, _, m) in zip(domains, _DOMAIN_LOOKS, strict=True)
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2)
    return figure


def learning_rates(rates: Mapping[str, Sequence[float]]) -> Figure:
    """Learning rate over steps, a line for each schedule."""
    figure, ax = plt.subplots(figsize=(8.2, 2.7))
    for i, (name, values) in enumerate(rates.items()):
        ax.plot(np.arange(len(values)), values, color=PALETTE[i], ls=LINES[i], marker="", label=name)
    ax.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure
