"""The temporal bench: contenders that read what they should, equal accuracy by validation clips, full reports."""

import math

import pytest
import torch

from course_lib.bench import adafocus_published, core, skip_rnn, temporal
from course_lib.bench import clips as bench_clips
from course_lib.bench.core import Options
from course_lib.temporal.adafocus import AdaFocus
from course_lib.temporal.skimming import SkipRNN


@pytest.fixture(scope="module")
def report():
    return temporal.run(Options(quick=True))


def test_quick_run_reports_every_contender(report):
    core.validate(core.recorded(report, command="course bench temporal --quick", device="cpu"))
    rows = {row.name: row for row in report.rows}
    for reads in ("learned", "random", "middle", "oracle", "V2's"):
        assert {f"accuracy: {reads} windows, {k} of 8 frames" for k in temporal.TOLD} <= set(rows)
    assert {f"accuracy: full frames, {k} of 8 frames" for k in range(1, 9)} <= set(rows)
    assert {f"coverage: {reads} windows" for reads in ("learned", "random", "middle", "V2's")} <= set(rows)
    for batch in (64, 1):
        label = f"batch {batch}, seed 0: "
        assert {f"{label}full frames, {k}" for k in temporal.TOLD} <= set(rows)
        assert {f"{label}AdaFocus, {k} windows" for k in temporal.TOLD} <= set(rows)
        assert {f"{label}AdaFocus online, 8 windows", f"{label}random windows, 8", f"{label}V2, 8 windows"} <= set(rows)
        assert f"batch {batch}: full frames of equal accuracy / AdaFocus" in rows
    assert {"reader: H.264, 48x48 pixels", "reader: H.264, 320x240 pixels"} <= set(rows)
    assert {f"Skip RNN, batch 1: every {n} steps, time / prediction" for n in skip_rnn.EVERY} <= set(rows)
    assert {f"Skip RNN, batch 64: every step / {plan}" for plan in skip_rnn.PLANS} <= set(rows)
    assert (
        rows["published networks, batch 1: AdaFocus"].details["macs"]
        < 0.5 * (rows["published networks, batch 1: full frames"].details["macs"])
    )
    assert not report.goals  # a quick run shows that it runs, and promises nothing


def test_costs_told_are_those_of_the_networks(report):
    rows = {row.name: row for row in report.rows}
    model = bench_clips.small_adafocus().eval()
    clips = torch.zeros(1, 8, 3, 48, 48)
    assert rows["accuracy: learned windows, 8 of 8 frames"].details["macs"] == model.infer(clips).macs.item()
    full = bench_clips.FullFrames.small()
    # the focuser alone, by area: 20x20 and 48x48 are whole at both strides
    by_area = model.frame_macs.focus * (48 / 20) ** 2
    assert full.macs_a_frame() == pytest.approx(by_area, rel=0.01)
    assert bench_clips.FullFrames.published().macs_a_frame() == pytest.approx(4.087e9, rel=0.01)


def test_full_frames_answer_after_each_frame():
    torch.manual_seed(0)
    full = bench_clips.FullFrames.small().eval()
    clips = torch.randn(2, 4, 3, 48, 48)
    with torch.inference_mode():
        logits = full(clips)
        assert logits.shape == (2, 4, 10)
        torch.testing.assert_close(full(clips[:, :2]), logits[:, :2])  # what comes later changes nothing


def test_oracle_windows_hold_the_digit():
    some = bench_clips.clip_set(30, "test", 3)
    model = AdaFocus.tiny()
    where = some.oracle()
    assert ((where >= 0) & (where <= 1)).all()
    assert some.clips.covered(model.corners(where), bench_clips.PATCH).all()
    assert some.x.shape == (30, 8, 3, 48, 48)
    torch.testing.assert_close(some.x, (some.clips.frames - 0.5) * 2)


def test_all_contenders_start_from_the_same_focuser():
    small = {"pretrain": 1, "warm_up": 0, "policy": 0, "fine_tune": 0, "train": 0}
    trained = [bench_clips.train_one(name, 0, 16, 32, small)["learned"] for name in bench_clips.EPOCHS]
    focusers = [{n: w for n, w in one.items() if n.startswith("focuser")} for one in trained]
    for other in focusers[1:]:
        assert all(torch.equal(focusers[0][name], other[name]) for name in focusers[0])


@pytest.mark.parametrize(
    ("learned", "full", "expected"),
    [
        (0.90, [0.7, 0.8, 0.892, 0.95], 3),  # a point less is as good
        (0.90, [0.7, 0.8, 0.888, 0.95], 4),
        (0.99, [0.7, 0.8, 0.915, 0.921], 3),  # nothing reaches it: its own best counts
        (0.50, [0.7, 0.8, 0.9, 0.95], 1),
    ],
)
def test_equal_accuracy_is_the_fewest_frames(learned, full, expected):
    assert temporal._equal_frames({"learned windows": [0.1, learned], "full frames": full}) == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_a_gate_set_by_hand_updates_every_n_steps(steps):
    torch.manual_seed(1)
    reader = skip_rnn.every(SkipRNN(2, 8), steps)
    inputs = torch.randn(3, 20, 2)
    for plan in skip_rnn.PLANS:
        marks = reader.infer(inputs, plan=plan).marks
        assert torch.equal(marks[0] == 2, torch.arange(20) % steps == 0)
    assert reader.infer(inputs).share() == pytest.approx(math.ceil(20 / steps) / 20)


def test_every_way_to_read_everything_reads_the_same():
    torch.manual_seed(2)
    reader = SkipRNN(2, 8).eval()
    inputs = torch.randn(4, 9, 2)
    with torch.inference_mode():
        ways = skip_rnn._everything(reader)
        expected = ways["every step"](inputs).hidden
        torch.testing.assert_close(ways["every step, the cell alone"](inputs), expected)
        torch.testing.assert_close(ways["every step, torch's GRU"](inputs)[1][0], expected)


def test_half_precision_encoders_give_the_same_maps():
    torch.manual_seed(3)
    encoder = AdaFocus.tiny().focuser.eval()
    x = torch.randn(2, 3, 20, 20)
    with torch.inference_mode():
        expected = encoder(x)
        got = adafocus_published.Half(encoder)(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)


def test_folding_changes_no_answer_and_leaves_no_batchnorm():
    torch.manual_seed(4)
    full = bench_clips.FullFrames.published(classes=5).eval()
    for norm in full.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):  # as after training: not the identity
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.8, 1.2)
    folded = adafocus_published.folded(full)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    clip = torch.randn(1, 1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(clip), full(clip), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("make", [bench_clips.small_adafocus, bench_clips.small_v2, bench_clips.FullFrames.small])
def test_encoders_in_parts_answer_the_same(make, monkeypatch):
    torch.manual_seed(5)
    model = make((4, 8, 8)).eval()
    clips = torch.randn(6, 8, 3, 48, 48)
    chosen = {}

    def slowest_first(calls, **_):  # the times are made up: the smaller the parts, the faster
        chosen.update(calls)
        order = {"None": 9.0, "32": 2.0, "16": 1.0}
        return {name: core_timing(order[name]) for name in calls}

    monkeypatch.setattr(bench_clips.measure, "compare", slowest_first)
    parted, images = bench_clips.in_parts(model, clips)
    assert images == 16
    assert set(chosen) == {"None", "16", "32"}  # no part is larger than the batch
    assert not any(isinstance(module, bench_clips.Parts) for module in model.modules())  # the given one stays as it was
    rows = []
    parted.focuser.encoder.register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))
    with torch.inference_mode():
        expected, got = (getattr(one, "infer", one)(clips) for one in (model, parted))
    expected, got = (getattr(answer, "logits", answer) for answer in (expected, got))
    torch.testing.assert_close(got, expected)
    assert 16 in rows


def core_timing(seconds):
    return bench_clips.measure.Timing(seconds, seconds, seconds, 1, "cpu", (seconds,))
