"""One style for every figure: legible at 100 dpi, told apart without colour, light on the page.

Colours are Okabe and Ito's eight (distinguishable under the three common colour-vision deficiencies). Colour is never
the only cue: series also differ in marker and line, and work that is *skipped* is pale and hatched.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from cycler import cycler

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip

#: Colours of series in order of use; yellow is left out, it vanishes on white.
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
#: One marker and one line style beside each colour of `PALETTE`.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

INK = "#333333"
PALE = "#EDEDED"

#: How work that was skipped is drawn, everywhere in the book: pale and hatched.
SKIPPED: dict[str, Any] = {"facecolor": PALE, "edgecolor": "#9A9A9A", "hatch": "////", "linewidth": 0.6}
#: How work that was done is drawn.
SPENT: dict[str, Any] = {"facecolor": BLUE, "edgecolor": "white", "linewidth": 0.6}


def use_style() -> None:
    """Set matplotlib's defaults for the course; every chapter calls it once, after its imports."""
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.7,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
            "lines.markersize": 6,
            "hatch.linewidth": 0.6,
            "image.cmap": "cividis",
            "svg.hashsalt": "course_lib",
            "axes.prop_cycle": cycler(color=PALETTE) + cycler(marker=MARKERS) + cycler(linestyle=LINES),
        }
    )
