"""What holds for every figure tested: no window, the course's style, and nothing left open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    import matplotlib as mpl  # here: a plain checkout collects this folder without matplotlib
    from matplotlib import pyplot as plt

    from course_lib import plots

    mpl.use("Agg")
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


@pytest.fixture
def hatched() -> Callable[[Any], list[Any]]:
    """Of an axes the rectangles drawn as skipped work."""
    from matplotlib.patches import Rectangle

    def find(ax: Any) -> list[Any]:
        return [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_hatch() == "////"]

    return find
