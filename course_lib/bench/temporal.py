"""AdaFocus against the heavy network on full frames, and Skip RNN against reading every step.

On the CPU, one thread, three seeds for clips and weights (course_lib.bench.clips says how they are trained):
- accuracy by number of frames: learned windows, random windows with the same training, the middle, the true place
  (oracle), and the heavy network on full frames; the shares of windows that hold the whole digit;
- clips a second at batch 64 and batch 1, contenders in turn, BatchNorm folded for all: the heavy network on 8, 4, 2, 1
  frames, AdaFocus offline and online, random windows, V2 on one seed. A batch of full frames that does not fit into a
  cache would make a slow baseline, so encoders run on as many images at a time as suits them best. Of equal accuracy is
  the smallest number of full frames that on validation clips comes within a point of AdaFocus, or of its own best if
  that is lower;
- the same ratios by the width of the focuser, with random weights: around a narrow one, all else weighs more;
- frames a second of the video reader beside those of the model;
- the published networks on one video (course_lib.bench.adafocus_published), and Skip RNN (course_lib.bench.skip_rnn).

On a GPU: the published networks alone. With `--data sentences --root CORPUS`: the readers of sentences alone, on real
ones (course_lib.bench.sentences).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import measure
from course_lib.bench import adafocus_published, sentences, skip_rnn
from course_lib.bench.clips import (
    EPOCHS,
    FRAMES,
    PATCH,
    SIZE,
    ClipSet,
    FullFrames,
    Widths,
    clip_set,
    in_parts,
    read_all,
    small_adafocus,
    small_v2,
    train_all,
    train_one,
)
from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.bench.exits import one_thread, ratios, timed

DATA = ("sentences",)

SEEDS = (0, 1, 2)
TOLD = (1, 2, 4, 8)  # numbers of frames
BY_WIDTH: tuple[Widths, ...] = ((16, 32, 64), (24, 48, 96), (32, 64, 128))
MARGIN = 0.01  # by which equally good networks differ, by chance, on a thousand clips
AGAINST_FULL, AGAINST_EQUAL = 2.5, 1.8
COVERAGE, POINTS = 3.0, 10.0

Trained = Mapping[tuple[str, int], Mapping[str, Any]]
Accuracies = dict[str, list[float]]  # by what reads the clips: after 1, 2, ... frames


def run(options: Options) -> Report:
    """Train, compare, time. `options.quick`: one seed, few clips, no goals."""
    if options.data is not None:
        return Report("temporal", sentences.compare(options), [])
    rows: list[Row] = []
    goals: list[Goal] = []
    with one_thread():
        if options.device == "cpu":
            rows, goals = _on_clips(options)
            more, more_goals = skip_rnn.compare(options)
            rows, goals = rows + more, goals + more_goals
        published, speed_up = adafocus_published.compare(options)
        rows += published
    if options.device != "cpu":
        goals.append(Goal("published networks: full frames / AdaFocus", speed_up, adafocus_published.ON_GPU))
    return Report("temporal", rows, [] if options.quick else goals)


def _on_clips(options: Options) -> tuple[list[Row], list[Goal]]:
    trained, seeds = _trained(options)
    number = 64 if options.quick else 1_000
    tests = {seed: clip_set(number, "test", seed) for seed in seeds}
    valid = {seed: clip_set(number, "validation", seed) for seed in seeds}
    found = {seed: _accuracies(trained, seed, tests[seed]) for seed in seeds}
    held = {seed: _accuracies(trained, seed, valid[seed]) for seed in seeds}
    rows, goals = _told(trained, found)
    covered, more = _coverage(trained, tests)
    rows, goals = rows + covered, goals + more
    for batch in (64, 1):
        timings = []
        for seed in seeds:
            equal = _equal_frames(held[seed])
            timed_rows, found_times = _times(trained, seed, tests[seed], found[seed], equal, batch, options)
            rows += timed_rows
            timings.append((equal, found_times))
        compared, more = _compared(timings, batch)
        rows += compared + _by_width(batch, options)
        goals += more
    fastest = next(row.median for row in rows if row.name == f"batch 64, seed {seeds[0]}: AdaFocus, 8 windows")
    return rows + _decoding(FRAMES * fastest, options), goals


def _trained(options: Options) -> tuple[Trained, tuple[int, ...]]:
    if not options.quick:
        return train_all(SEEDS), SEEDS
    once = {network: dict.fromkeys(stages, 1) for network, stages in EPOCHS.items()}
    return {(name, 0): {**train_one(name, 0, 64, 128, once[name]), "commit": "quick"} for name in EPOCHS}, (0,)


# Accuracy ------------------------------------------------------------------------------------------------------------


def _ready(kind: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> Any:
    model = kind().eval()
    model.load_state_dict(state)
    return measure.fold_batchnorm(model).requires_grad_(False)


@torch.inference_mode()
def _shares_right(answer: Callable[[Tensor, Any], Tensor], clips: ClipSet, where: Tensor | None = None) -> list[float]:
    """Share of right answers after each frame; `answer` gets some clips and, if told, the locations for them."""
    places = [None] * len(clips.x) if where is None else where.split(200)
    logits = torch.cat([answer(x, at) for x, at in zip(clips.x.split(200), places, strict=False)])
    return (logits.argmax(-1) == clips.labels[:, None]).double().mean(0).tolist()


def _accuracies(trained: Trained, seed: int, clips: ClipSet) -> Accuracies:
    """By contender; random and middle windows are read by the twin that was trained with random ones."""
    state = trained["AdaFocus", seed]
    learned, twin = (_ready(small_adafocus, state[name]) for name in ("learned", "random"))
    full = _ready(FullFrames.small, trained["full frames", seed]["learned"])
    drawn = torch.Generator().manual_seed(seed)
    found = {
        "learned windows": _shares_right(lambda x, _: learned.infer(x).logits, clips),
        "random windows": _shares_right(lambda x, _: twin.infer(x, policy="random", generator=drawn).logits, clips),
        "middle windows": _shares_right(lambda x, _: twin.infer(x, policy="center").logits, clips),
        "oracle windows": _shares_right(lambda x, at: learned.infer(x, policy=at).logits, clips, clips.oracle()),
        "full frames": _shares_right(lambda x, _: full(x), clips),
    }
    if ("V2", seed) in trained:
        second = _ready(small_v2, trained["V2", seed]["learned"])
        found["V2's windows"] = _shares_right(lambda x, _: second.infer(x).logits, clips)
    return found


def _told(trained: Trained, found: Mapping[int, Accuracies]) -> tuple[list[Row], list[Goal]]:
    """Accuracy of every contender by number of frames, one sample a seed."""
    rows = []
    macs = _macs_a_frame()
    for name in next(iter(found.values())):
        every = name in ("learned windows", "full frames")
        for k in range(1, FRAMES + 1) if every else TOLD:
            values = [100 * one[name][k - 1] for one in found.values() if name in one]
            network = {"full frames": "full frames", "V2's windows": "V2"}.get(name, "AdaFocus")
            more = {"frames": k, "macs": k * macs[name], "values": _rounded(values)}
            commits = sorted({str(state["commit"]) for (kind, _), state in trained.items() if kind == network})
            rows.append(Row.of(f"accuracy: {name}, {k} of 8 frames", "%", values, **more, trained=commits))
    gains = [100 * (one["learned windows"][-1] - one["random windows"][-1]) for one in found.values()]
    name = "accuracy: learned less random windows, equal cost"
    rows.append(Row.of(name, "points", gains, mean=mean(gains), values=_rounded(gains)))
    rewards = [trained["AdaFocus", seed]["rewards"][-1] for seed in found]
    rows.append(Row.of("policy: reward in the last epoch", "", rewards, values=_rounded(rewards, 4)))
    return rows, [Goal(f"{name}, mean over seeds", mean(gains), POINTS)]


def _macs_a_frame() -> dict[str, int]:
    """Multiply-adds; windows that nobody chooses still cost the policy, so that all cost the same."""
    model, full = small_adafocus(), FullFrames.small().eval()
    windows = model.video_macs() // FRAMES
    names = ("learned windows", "random windows", "middle windows", "oracle windows")
    second = small_v2().video_macs() // FRAMES
    return {**dict.fromkeys(names, windows), "full frames": full.macs_a_frame(), "V2's windows": second}


def _coverage(trained: Trained, tests: Mapping[int, ClipSet]) -> tuple[list[Row], list[Goal]]:
    """Shares of the frames whose window holds the whole digit."""
    found: dict[str, list[float]] = {}
    for seed, clips in tests.items():
        model = _ready(small_adafocus, trained["AdaFocus", seed]["learned"])
        for policy in ("learned", "random", "center"):
            drawn = torch.Generator().manual_seed(seed)
            parts = [model.infer(x, policy=policy, generator=drawn).location for x in clips.x.split(200)]
            share = clips.clips.covered(model.corners(torch.cat(parts)), PATCH).double().mean()
            found.setdefault(policy, []).append(100 * float(share))
        if ("V2", seed) in trained:
            second = _ready(small_v2, trained["V2", seed]["learned"])
            where = torch.cat([second.infer(x).location for x in clips.x.split(200)])
            room = clips.x.shape[-1] - PATCH
            # half a pixel is not to decide: it stands between pixels
            found["V2's"] = [100 * float(clips.clips.covered((where * room).round(), PATCH).double().mean())]
    rows = [
        Row.of(f"coverage: {'middle' if name == 'center' else name} windows", "%", values, values=_rounded(values))
        for name, values in found.items()
    ]
    times = [a / b for a, b in zip(found["learned"], found["random"], strict=True)]
    rows.append(Row.of("coverage: learned / random windows", "x", times, mean=mean(times), values=_rounded(times)))
    return rows, [Goal("coverage: learned / random windows, mean over seeds", mean(times), COVERAGE)]


def _equal_frames(held: Accuracies) -> int:
    """Fewest full frames that are as good as AdaFocus, or as the most full frames, on validation clips."""
    full = held["full frames"]
    wanted = min(held["learned windows"][-1], max(full)) - MARGIN
    return next(k + 1 for k, share in enumerate(full) if share >= wanted)


def _rounded(values: Sequence[float], digits: int = 3) -> list[float]:
    return [round(value, digits) for value in values]


# Time ----------------------------------------------------------------------------------------------------------------

Times = dict[str, measure.Timing]


def _times(
    trained: Trained,
    seed: int,
    clips: ClipSet,
    found: Accuracies,
    equal: int,
    batch: int,
    options: Options,
) -> tuple[list[Row], Times]:
    """Clips a second of one seed's networks at one batch size."""
    number = min(len(clips.x), 64 if batch == 1 or options.quick else 256)
    model = _ready(small_adafocus, trained["AdaFocus", seed]["learned"])
    full = _ready(FullFrames.small, trained["full frames", seed]["learned"])
    few = {k: [x[:, :k].contiguous() for x in clips.x[:number].split(batch)] for k in sorted({*TOLD, equal})}
    (model, of_windows), (full, of_frames) = (in_parts(one, few[FRAMES][0]) for one in (model, full))
    contenders: dict[str, Callable[[], object]] = {}
    details: dict[str, dict[str, Any]] = {}
    macs = _macs_a_frame()

    def add(name: str, reads: str, k: int, call: Callable[[Tensor], object]) -> None:
        contenders[name] = partial(read_all, call, few[k])
        details[name] = {"frames": k, "accuracy": round(100 * found[reads][k - 1], 3), "macs": k * macs[reads]}
        details[name]["images_at_a_time"] = {"full frames": of_frames, "V2's windows": of_second}.get(reads, of_windows)

    of_second = None
    if ("V2", seed) in trained:
        second, of_second = in_parts(_ready(small_v2, trained["V2", seed]["learned"]), few[FRAMES][0])
        add("V2, 8 windows", "V2's windows", FRAMES, second.infer)
    for k in few:
        add(_full(k), "full frames", k, full)
        if k in TOLD:
            add(f"AdaFocus, {k} windows", "learned windows", k, model.infer)
    drawn = torch.Generator().manual_seed(seed)
    add("AdaFocus online, 8 windows", "learned windows", FRAMES, model.infer_online)
    add("random windows, 8", "random windows", FRAMES, partial(model.infer, policy="random", generator=drawn))
    details[_full(equal)]["equal_accuracy"] = True
    rounds, warmup = (2, 1) if options.quick else (7, 2)
    label = f"batch {batch}, seed {seed}"
    return timed(
        label, contenders, images=number, batch=batch, rounds=rounds, warmup=warmup, details=details, what="clips"
    )


def _full(k: int) -> str:
    return f"full frames, {k}"


def _compared(seeds: Sequence[tuple[int, Times]], batch: int) -> tuple[list[Row], list[Goal]]:
    """Ratios of times, one sample a seed, the median of its rounds; goals at batch 64."""
    window = "AdaFocus, 8 windows"
    pairs = {
        "full frames, 8 / AdaFocus": [(_full(8), window)] * len(seeds),
        "full frames of equal accuracy / AdaFocus": [(_full(equal), window) for equal, _ in seeds],
        "AdaFocus online / offline": [("AdaFocus online, 8 windows", window)] * len(seeds),
    }
    rows, goals = [], []
    for name, names in pairs.items():
        values = [median(ratios(times[a], times[b])) for (a, b), (_, times) in zip(names, seeds, strict=True)]
        more: dict[str, Any] = {"values": _rounded(values)}
        if "equal" in name:
            more["frames"] = [equal for equal, _ in seeds]
        rows.append(Row.of(f"batch {batch}: {name}", "x", values, **more))
    if batch == 64:
        goals = [
            Goal(row.name, row.median, least) for row, least in zip(rows, (AGAINST_FULL, AGAINST_EQUAL), strict=False)
        ]
    return rows, goals


def _by_width(batch: int, options: Options) -> list[Row]:
    """Full frames against AdaFocus, in time, with focusers of several widths and random weights."""
    number = 64 if batch == 1 else 128
    clips = torch.randn(number, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    few = {k: [x[:, :k].contiguous() for x in clips.split(batch)] for k in (4, FRAMES)}
    rows = []
    for widths in BY_WIDTH[:1] if options.quick else BY_WIDTH:
        model, full = (
            in_parts(measure.fold_batchnorm(one.eval()).requires_grad_(False), few[FRAMES][0])[0]
            for one in (small_adafocus(widths), FullFrames.small(widths))
        )
        calls = {_full(k): partial(read_all, full, parts) for k, parts in few.items()}
        times = measure.compare({**calls, "AdaFocus": partial(read_all, model.infer, few[FRAMES])}, rounds=3, warmup=1)
        for k in few:
            name = f"batch {batch}, widths {'-'.join(map(str, widths))}: full frames, {k} / AdaFocus, 8"
            rows.append(Row.of(name, "x", ratios(times[_full(k)], times["AdaFocus"]), widths=list(widths)))
    return rows


def _decoding(model_frames: float, options: Options) -> list[Row]:
    """Frames a second that the reader decodes, whole videos read as clips of 8 frames of 48x48 pixels."""
    from course_lib import data

    length = 16 if options.quick else 96
    drawn = data.clips(1, frames=length, split="test", noise=0.02).frames[0]  # as noisy as footage is
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for height, width in ((48, 48), (240, 320)):
            path = Path(folder) / f"{height}.mp4"
            larger = nn.functional.interpolate(drawn, (height, width), mode="bilinear").clamp(0, 1)
            data.write_clip(path, larger, fps=25)
            read = partial(data.read_clip, path, frames=FRAMES, size=48)
            timing = measure.latency(read, warmup=1, repeats=2 if options.quick else 9)
            speeds = [length / seconds for seconds in timing.samples_s]
            more = {"size": [height, width], "frames": length, "threads": torch.get_num_threads()}
            more["adafocus_frames_per_s"] = round(model_frames)
            rows.append(Row.of(f"reader: H.264, {width}x{height} pixels", "frames/s", speeds, **more))
    return rows
