"""What the figures of the chapter on DAPL draw: the data behind them, not their looks."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from course_lib import plots
from course_lib.beyond.clip import load_clip
from course_lib.beyond.dapl import DomainPrompts, PseudoLabels
from course_lib.plots import PromptResult

NAMES = ("circle", "square", "triangle", "cross")


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    mpl.use("Agg")
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def hatched(ax: plt.Axes, hatch: str = "////") -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_hatch() == hatch]


def words(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_picture_rows_have_a_name_a_row_and_a_title_a_column():
    figure = plots.picture_rows({"photo": torch.rand(3, 3, 8, 8), "sketch": torch.rand(2, 3, 8, 8)}, ["a", "b", "c"])
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 1, 0]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["photo", "sketch"]


def test_the_best_sentence_of_every_domain_is_framed():
    accuracy = torch.tensor([[0.9, 0.3, 0.2], [0.4, 0.8, 0.6]])
    ax = plots.sentence_matrix(accuracy, ["one", "two"], ["a", "b", "c"], chance=0.2).axes[0]
    assert words(ax) == ["90%", "30%", "20%", "40%", "80%", "60%"]
    frames = [(round(p.get_x() + 0.47), round(p.get_y() + 0.45)) for p in ax.patches]
    assert frames == [(0, 0), (1, 1), (2, 1)]


@pytest.fixture(scope="module")
def prompts() -> DomainPrompts:
    clip = load_clip("tiny", pretrained=False, device="cpu")
    return DomainPrompts(clip, NAMES, ("photo", "sketch"), shared=2, specific=3)


def test_a_ribbon_holds_every_word_and_the_cut_is_pale(prompts: DomainPrompts):
    features = torch.nn.functional.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.arange(40) % 4
    figure = plots.prompt_ribbons(prompts, {"photo": (features, labels), "sketch": (features, labels)})
    ribbons, circle = figure.axes
    boxes = words(ribbons)
    cut = prompts.clip.context_length - prompts.tokens.shape[1]
    assert [boxes.count(text) for text in ("start", "v2", "v3", "d3", "d4", "circle .", "cross .", f"{cut} cut")] == [
        6, 6, 0, 6, 0, 2, 0, 6,
    ]  # fmt: skip
    assert len(hatched(ribbons)) == 6
    assert len(hatched(ribbons, "\\\\\\")) == len(hatched(ribbons, "xx")) == 9
    pictures = [c for c in circle.collections if len(c.get_offsets()) == 30]  # 3 of 4 classes
    sentences = [c for c in circle.collections if len(c.get_offsets()) == 3]
    assert (len(pictures), len(sentences)) == (2, 2)


VERDICT = PseudoLabels(torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0.95, 0.9, 0.8, 0.7, 0.6, 0.3]))
TRUTH = torch.tensor([0, 1, 0, 3, 1, 1])


def test_quality_counts_right_and_wrong_and_follows_the_threshold():
    left, right = plots.pseudo_label_quality(VERDICT, TRUTH, (0.65,)).axes
    heights = [sum(bar.get_height() for bar in group) for group in left.containers]
    assert heights == [4, 2]
    kept, precise = right.lines[:2]
    at = int(abs(kept.get_xdata() - 0.65).argmin())
    assert kept.get_ydata()[at] == pytest.approx(4 / 6)
    assert precise.get_ydata()[at] == pytest.approx(3 / 4)


def test_the_gallery_sorts_pictures_and_hatches_those_not_kept():
    figure = plots.pseudo_label_gallery(torch.rand(6, 3, 8, 8), VERDICT, TRUTH, NAMES, 0.65, columns=3)
    rows = [figure.axes[i : i + 3] for i in (0, 3, 6)]
    assert [sum(len(ax.images) for ax in row) for row in rows] == [3, 1, 2]
    assert rows[1][0].get_title() == "triangle 0.80\nis: circle"
    assert [row[0].get_ylabel() for row in rows] == ["kept, right\n50%", "kept, wrong\n17%", "not kept\n33%"]
    assert [sum(len(hatched(ax)) for ax in row) for row in rows] == [0, 0, 2]


def test_accuracy_bars_say_the_difference_to_the_baseline():
    ax = plots.accuracy_bars({"a": 0.8, "b": 0.85, "c": 0.5}, baseline="a", chance=0.25).axes[0]
    assert [bar.get_width() for bar in ax.patches] == [0.8, 0.85, 0.5]
    assert words(ax) == ["80.0%", "85.0%  (+5.0)", "50.0%  (-30.0)"]


def test_preference_marks_both_domains():
    ax = plots.domain_preference({"both": (0.1, 0.9), "own": (0.4, 0.6)}, ("photo", "sketch")).axes[0]
    marks = [(float(line.get_xdata()[0]), line.get_marker()) for line in ax.lines if line.get_linestyle() == "None"]
    assert marks == [(0.1, "s"), (0.9, "o"), (0.4, "s"), (0.6, "o")]


def test_rates_are_drawn_step_by_step():
    ax = plots.learning_rates({"a": [1.0, 0.5, 0.0], "b": [1.0, 0.0, 1.0]}).axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 0.5, 0], [1, 0, 1]]


def test_the_dashboard_shows_the_setting_chosen_among_all():
    results = {
        (pair, tau, length): PromptResult(0.7 + 0.1 * tau + 0.01 * length, 1 - tau, 0.1, ("a",) * length + ("b", "c"))
        for pair in ("p → q", "p → r")
        for tau in (0.0, 0.5)
        for length in (1, 4)
    }
    figure = plots.dapl_dashboard([("p → q", 0.5, 4)], results, {"p → q": 0.7, "p → r": 0.7})
    labels, curve, table = figure.axes
    assert len(hatched(labels)) == 2
    chosen = [line for line in curve.lines if len(line.get_xdata()) == 1]
    assert [line.get_xydata().tolist() for line in chosen] == [[[1, pytest.approx(9.0)]]]
    assert [list(line.get_ydata()) for line in curve.lines if len(line.get_xdata()) == 2][:2] == [
        [pytest.approx(1.0), pytest.approx(6.0)],
        [pytest.approx(4.0), pytest.approx(9.0)],
    ]
    assert words(table) == ["shared:", "a a a\na", "source:", "b", "target:", "c"]


def record() -> dict[str, object]:
    """Two targets, one source each, two seeds, as the bench writes it."""
    rows = []
    for source, target, room in (("a", "b", True), ("b", "a", False)):
        for contender, values in (
            ("zero-shot", [80, 82]), ("CoOp", [70, 72]), ("fine-tuned", [60, 70]), ("DAPL", [85, 87]),
        ):  # fmt: skip
            details = {"source": source, "target": target, "contender": contender, "values": values, "room": room}
            rows.append({"name": f"{source} to {target}: {contender}", "median": values[0], "details": details})
        for tau, median in ((0.0, 81.0), (0.5, 86.0)):
            details = {"target": target, "tau": tau, "zero-shot": 81.0}
            rows.append({"name": f"{target}, tau {tau:g}", "median": median, "details": details})
        for denominator, values in (("both", [100, 99]), ("own", [20, 60])):
            details = {"target": target, "denominator": denominator, "values": values}
            rows.append({"name": f"{target}, denominator {denominator}", "median": 99, "details": details})
    return {"rows": rows}


def test_a_record_is_drawn_as_gains_over_zero_shot():
    left, middle, right = plots.recorded_language({"tiny CLIP, CPU": record()}).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["b", "(a)"]
    means = [
        float(line.get_xdata()[0]) for line in left.lines if line.get_marker() in "os^" and len(line.get_xdata()) == 1
    ]
    assert means == [-10, -16, 5, -10, -16, 5]
    assert [list(line.get_ydata()) for line in middle.lines[:2]] == [[0, 5], [0, 5]]
    assert [float(line.get_xdata()[0]) for line in right.lines if line.get_marker() in "oD"] == [99.5, 40, 99.5, 40]


def test_where_nothing_is_recorded_the_figure_says_so():
    figure = plots.recorded_language({"tiny CLIP, CPU": None, "larger CLIP, GPU": record()})
    assert figure.axes[0].get_title(loc="left") == "tiny CLIP, CPU: no recorded run yet"
    assert figure.axes[3].get_title(loc="left") == "larger CLIP, GPU"


def test_circles_stand_beside_each_other(prompts: DomainPrompts):
    features = torch.nn.functional.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.arange(40) % 4
    images = {"photo": (features, labels), "sketch": (features, labels)}
    figure = plots.prompt_circles({"before": prompts, "after": prompts}, images)
    assert [ax.get_title() for ax in figure.axes] == ["before", "after"]
    assert words(figure.axes[0]) == ["circle", "square", "triangle"]


def test_prompts_that_are_not_cut_have_no_pale_box():
    clip = load_clip("tiny", pretrained=False, device="cpu")
    whole = DomainPrompts(clip, NAMES, ("photo", "sketch"), shared=2, specific=3, cut=False)
    images = {d: (torch.randn(24, 64), torch.arange(24) % 4) for d in whole.domains}
    figure = plots.prompt_ribbons(whole, images)
    assert not [text for text in words(figure.axes[0]) if text.endswith("cut")]


def test_a_single_class_has_no_plane(prompts: DomainPrompts):
    images = {d: (torch.randn(24, 64), torch.arange(24) % 4) for d in prompts.domains}
    with pytest.raises(ValueError, match="classes: got 1, expected at least 2"):
        plots.prompt_circles({"one": prompts}, images, classes=1)
