"""Figures of networks that look at windows: what they write beside what they draw, and that they draw every case."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_lib import plots
from course_lib.plots.adafocus import _corners
from course_lib.temporal.adafocus import AdaFocus, FocusResult, corners


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def made(n=1, frames=4, kept=None):
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(n, frames, 3)
    logits[..., 1] = 2.0
    chances = torch.rand(n, frames, 9, generator=generator)
    return FocusResult(
        logits,
        torch.rand(n, frames, 2, generator=generator),
        torch.full((n,), 8e6, dtype=torch.float64),
        torch.ones(n, frames, dtype=torch.bool) if kept is None else kept,
        20,
        chances / chances.sum(-1, keepdim=True),
    )


def words(figure):
    found = [t.get_text() for ax in figure.axes for t in [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]]
    return [word for word in found if word]


def test_windows_are_drawn_where_they_were_cut():
    location = torch.rand(50, 2, generator=torch.Generator().manual_seed(1))
    location[:2] = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    location[2] = torch.tensor([5 / 6, 1 / 6])
    for side in (48, 44):
        assert torch.tensor(_corners(location, side, side, 20)).tolist() == corners(location, side, side, 20).tolist()


def test_focus_strip_says_what_was_answered_and_what_was_not_read():
    kept = torch.tensor([[True, False, True, False]])
    figure = plots.focus_strip(torch.rand(4, 3, 48, 48), made(kept=kept), label=1, glance=12)
    assert len(figure.axes) == 4 * 4
    said = words(figure)
    assert said.count("not read") == 2
    assert said.count("1") == 4
    p = float(torch.tensor([0.0, 2.0, 0.0]).softmax(0)[1])
    assert said.count(f"{p:.2f}") == 4
    wrong = words(plots.focus_strip(torch.rand(4, 3, 48, 48), made(), label=2, names=["a", "b", "c"]))
    assert wrong.count("b (no)") == 4
    assert "policy" not in wrong


def test_focus_strip_draws_a_still_and_what_a_model_gives():
    model = AdaFocus.tiny(frames=1).eval()
    frames = torch.rand(3, 1, 3, 48, 48)
    result = model.infer(frames)
    assert len(plots.focus_strip(frames[0], model.infer(frames[:1])).axes) == 3
    labels = torch.tensor([7, 8, 9])
    figure = plots.stills_strip(frames[:, 0], result, labels, glance=12)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a 7", "a 8", "a 9"]


def test_trajectory_follows_both_middles():
    result, box = made(), torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 2.0], [6.0, 3.0]])
    figure = plots.trajectory(torch.rand(4, 3, 48, 48), result, box, side=10)
    lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[1].get_lines()}
    assert lines["the digit's middle"] == [4.5, 6.5, 8.5, 10.5]
    expected = [row + 9.5 for row, _ in _corners(result.location[0], 48, 48, 20)]
    assert lines["the window's middle"] == expected


def test_dashboard_counts_up_to_the_frame():
    covered = {"learned": torch.tensor([[False] * 4, [True, False, True, True]])}
    figure = plots.focus_dashboard(
        [("learned", 1), ("learned", 3)],
        clip=torch.rand(4, 3, 48, 48),
        results={"learned": made(2)},
        covered=covered,
        index=1,
        label=1,
    )
    said = words(figure)
    assert "digit inside: 1 of 2" in said
    assert "digit inside: 3 of 4" in said
    assert "true class, 4.0 M so far" in said


def test_cost_boxes_add_up():
    rows = {"static": [("all", 65.4, False)], "adaptive": [("a", 4.8, False), ("b", 0.2, True), ("c", 21.0, False)]}
    figure = plots.cost_boxes(rows, unit="G")
    said = words(figure)
    assert {"65.4", "26.0"} <= set(said)
    assert "b\n0.20" in said
    dashed = [patch for patch in figure.axes[0].patches if patch.get_linestyle() == "--"]
    assert [patch.get_width() for patch in dashed] == [0.2]


def test_curves_and_bars_draw_what_they_are_given():
    figure = plots.coverage_over_time({"learned": torch.tensor([0.5, 0.6]), "random": torch.tensor([0.1, 0.1])})
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == pytest.approx([50, 60])
    figure = plots.stage_curves({"one": ("reward", {"a": [0.0, 0.1]}), "two": ("share", {"a": [1, 2], "b": [2, 3]})})
    assert [ax.get_title() for ax in figure.axes] == ["one", "two"]
    figure = plots.grouped_shares({"x": {"a": 0.5, "b": 0.25}, "y": {"a": 1.0, "b": 0.0}}, ylabel="%", chance=0.1)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [50, 100, 25, 0]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"a", "b", "right by guessing"}


def test_pull_field_averages_by_distance():
    at = torch.cartesian_prod(*[torch.linspace(0.0, 28.0, 4)] * 2)
    far, towards = (
        torch.cat((torch.full((20,), 1.0), torch.full((20,), 20.0))),
        torch.cat((torch.ones(20), torch.zeros(20))),
    )
    figure = plots.pull_field(
        torch.rand(3, 48, 48),
        at,
        torch.randn(16, 2),
        torch.rand(16),
        torch.tensor([5.0, 5.0, 10.0]),
        far,
        towards,
        patch=20,
    )
    curve = next(line for line in figure.axes[2].get_lines() if len(line.get_xdata()) == 2 and line.get_marker() == "o")
    assert curve.get_xdata().tolist() == [1.5, 19.5]
    assert curve.get_ydata().tolist() == [1.0, 0.0]


def accuracy_row(reader, frames, values):
    details = {"frames": frames, "macs": frames * 1_000_000, "values": values}
    return {"name": f"accuracy: {reader}, {frames} of 8 frames", "median": sorted(values)[1], "details": details}


def test_recorded_focus_draws_the_record_or_says_that_there_is_none():
    assert words(plots.recorded_focus(None)).count("no recorded run yet") == 2
    rows = [accuracy_row("learned windows", k, [50 + k, 51 + k, 53 + k]) for k in (8, 1, 2)]
    rows += [accuracy_row("full frames", k, [60, 61, 62]) for k in (1, 8)]
    for name, frames in (("AdaFocus, 8 windows", 8), ("full frames, 4", 4), ("AdaFocus online, 8 windows", 8)):
        details = {"frames": frames, "accuracy": 80.0}
        rows.append({"name": f"batch 64, seed 0: {name}", "median": 1000.0, "details": details})
    work, clock = plots.recorded_focus({"rows": rows}).axes
    learned = next(line for line in work.get_lines() if line.get_label() == "learned windows")
    assert learned.get_xdata().tolist() == [1.0, 2.0, 8.0]
    assert learned.get_ydata().tolist() == [52, 53, 59]
    assert {line.get_label() for line in clock.get_lines()} == {"AdaFocus", "full frames", "online"}
