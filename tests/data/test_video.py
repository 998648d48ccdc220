"""Video files: what comes back from one, what a broken one says, and that nothing half-written stays."""

import itertools
import shutil
import sys
import tracemalloc
import wave
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from course_lib import data, plots
from course_lib.data import video
from course_lib.temporal.adafocus import AdaFocus

av = pytest.importorskip("av")

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = sorted([*SHARED.glob("hmdb51_clips/*.avi"), *SHARED.glob("nasa_clip/*.mp4")])
real = pytest.mark.skipif(not REAL, reason="the real clips are not beside this checkout")


@dataclass(frozen=True)
class Looked:
    location: torch.Tensor
    patch: int = 20


def ramp(frames: int, height: int = 32, width: int = 32) -> torch.Tensor:
    """Frames of one grey each, so that a frame's number can be read off: 8 levels of 255 a frame."""
    levels = torch.arange(frames) * 8 / 255
    return levels[:, None, None, None].expand(-1, 3, height, width).contiguous()


def numbers(clip: torch.Tensor) -> list[int]:
    return (clip.mean((1, 2, 3)) * 255 / 8).round().int().tolist()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".MP4"])
def test_what_is_written_is_read(tmp_path, suffix):
    clip = data.clips(1, frames=5, seed=3).frames[0]
    file = tmp_path / "new" / f"clip{suffix}"
    data.write_clip(file, clip, fps=12.5)
    again = data.read_clip(file, frames=5, size=None)
    assert again.shape == clip.shape
    assert again.dtype == torch.float32
    assert (again - clip).abs().mean() < 0.02  # compression loses a little
    with av.open(str(file)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(12.5)


@pytest.mark.parametrize(("there", "asked"), [(12, 12), (12, 4), (12, 5), (12, 1), (3, 7), (1, 1), (1, 6)])
def test_frames_are_the_middles_of_equal_segments(tmp_path, there, asked):
    data.write_clip(tmp_path / "ramp.mp4", ramp(there), fps=8)
    clip = data.read_clip(tmp_path / "ramp.mp4", frames=asked, size=16)
    assert clip.shape == (asked, 3, 16, 16)
    # frame k lasts from k / there to (k + 1) / there of the video
    middles = [(i + 0.5) / asked for i in range(asked)]
    assert numbers(clip) == [next(k for k in range(there) if (k + 1) / there > middle) for middle in middles]


def test_frames_of_gives_every_frame_once_and_only_when_asked(tmp_path):
    data.write_clip(tmp_path / "ramp.mkv", ramp(9, 32, 48), fps=8)
    assert numbers(torch.stack(list(data.frames_of(tmp_path / "ramp.mkv", size=None)))) == list(range(9))
    first = list(itertools.islice(data.frames_of(tmp_path / "ramp.mkv", size=24), 2))
    assert [frame.shape for frame in first] == [(3, 24, 24)] * 2


def turned(file: Path, matrix: list[int]) -> None:
    """Write a display matrix [a, b, c, d] into the head of an .mp4 file, as phones do."""
    content = bytearray(file.read_bytes())
    start = content.find(b"tkhd") + 4 + 40  # behind the fields of version 0
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[start + 4 * place : start + 4 * place + 4] = (65536 * value).to_bytes(4, "big", signed=True)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "shape", "bright"),
    [([1, 0, 0, 1], (40, 64), (0, 0)), ([0, 1, -1, 0], (64, 40), (0, -1)), ([-1, 0, 0, -1], (40, 64), (-1, -1)),
     ([0, -1, 1, 0], (64, 40), (-1, 0))],
)  # fmt: skip
def test_a_video_that_was_taken_sideways_is_turned(tmp_path, matrix, shape, bright):
    clip = torch.zeros(3, 3, 40, 64)
    clip[..., :16, :16] = 1  # the upper left corner, as stored
    data.write_clip(tmp_path / "a.mp4", clip, fps=8)
    turned(tmp_path / "a.mp4", matrix)
    again = data.read_clip(tmp_path / "a.mp4", frames=2, size=None)
    assert again.shape == (2, 3, *shape)
    corners = {place: float(again[:, :, place[0], place[1]].mean()) for place in itertools.product((0, -1), repeat=2)}
    assert max(corners, key=corners.get) == bright
    assert data.read_clip(tmp_path / "a.mp4", frames=1, size=20).shape == (1, 3, 20, 20)


def test_frames_are_counted_and_not_timed(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, milliseconds in zip(ramp(6), (0, 33, 66, 100, 5000, 20_000), strict=True):
            frame = av.VideoFrame.from_ndarray((picture * 255).round().byte().permute(1, 2, 0).numpy(), format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert numbers(data.read_clip(tmp_path / "a.mp4", frames=6, size=None)) == list(range(6))
    assert numbers(data.read_clip(tmp_path / "a.mp4", frames=2, size=None)) == [1, 4]


def test_only_the_asked_frames_are_held(tmp_path):
    data.write_clip(tmp_path / "long.mp4", torch.rand(1, 3, 240, 320).expand(150, -1, -1, -1), fps=25)
    data.read_clip(tmp_path / "long.mp4", frames=2, size=24)  # libraries are loaded now
    tracemalloc.start()
    clip = data.read_clip(tmp_path / "long.mp4", frames=2, size=24)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert clip.shape == (2, 3, 24, 24)
    assert peak < 10 * 240 * 320 * 3  # not 150 frames of so many bytes; decoded ones are numpy arrays and are traced


def test_sides_of_any_length(tmp_path):
    clip = torch.rand(2, 3, 33, 47)
    data.write_clip(tmp_path / "odd.mp4", clip, fps=8)
    assert data.read_clip(tmp_path / "odd.mp4", frames=2, size=None).shape == clip.shape
    assert data.read_clip(tmp_path / "odd.mp4", frames=2, size=20).shape == (2, 3, 20, 20)


def test_the_centre_is_cut_out_of_wide_frames(tmp_path):
    wide = torch.zeros(2, 3, 32, 96)
    wide[..., 32:64] = 1
    data.write_clip(tmp_path / "wide.mp4", wide, fps=8)
    assert (data.read_clip(tmp_path / "wide.mp4", frames=2, size=32)[..., 1:-1] > 0.9).all()


def test_colours_keep_their_places(tmp_path):
    clip = torch.tensor([0.9, 0.5, 0.1])[None, :, None, None].expand(3, -1, 32, 32)
    data.write_clip(tmp_path / "orange.mp4", clip, fps=8)
    colour = data.read_clip(tmp_path / "orange.mp4", frames=3, size=8).mean((0, 2, 3))
    assert colour.tolist() == pytest.approx([0.9, 0.5, 0.1], abs=0.03)


# Files that are not what they should be


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.mp4"):
        data.read_clip(tmp_path / "nowhere.mp4", frames=2, size=8)
    with pytest.raises(FileNotFoundError, match="no such video"):
        data.read_clip(tmp_path, frames=2, size=8)


@pytest.mark.parametrize("content", [b"", b"no video at all\n" * 50, bytes(4000), b"RIFF\0\0\0\0AVI LIST"])
def test_a_file_that_is_no_video(tmp_path, content):
    (tmp_path / "not.avi").write_bytes(content)
    with pytest.raises(ValueError, match=r"not\.avi"):
        data.read_clip(tmp_path / "not.avi", frames=2, size=8)


def test_a_file_with_sound_only(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"sound\.wav: got a file without a video stream"):
        data.read_clip(tmp_path / "sound.wav", frames=2, size=8)


def test_a_video_without_frames(tmp_path):
    with av.open(str(tmp_path / "empty.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        container.start_encoding()
    with pytest.raises(ValueError, match=r"empty\.mkv"):
        data.read_clip(tmp_path / "empty.mkv", frames=2, size=8)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_truncated_video(tmp_path, suffix, share):
    file = tmp_path / f"cut{suffix}"
    data.write_clip(file, data.clips(1, frames=60, seed=1).frames[0], fps=8)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"cut{suffix}: .*cut off"):
        data.read_clip(file, frames=1, size=8)
    with pytest.raises(ValueError, match="cut off"):
        list(data.frames_of(file, size=8))


@pytest.mark.parametrize(
    ("arguments", "named"), [({"frames": 0, "size": 8}, "frames: got 0"), ({"frames": 2, "size": 0}, "size: got 0")]
)
def test_bad_numbers_are_named(tmp_path, arguments, named):
    data.write_clip(tmp_path / "a.mp4", ramp(2), fps=8)
    with pytest.raises(ValueError, match=named):
        data.read_clip(tmp_path / "a.mp4", **arguments)


def test_without_pyav_the_remedy_is_named(tmp_path, monkeypatch):
    data.write_clip(tmp_path / "a.mp4", ramp(2), fps=8)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="PyAV"):
        data.read_clip(tmp_path / "a.mp4", frames=1, size=8)


# Writing


@pytest.mark.parametrize(
    ("clip", "named"),
    [
        (torch.zeros(0, 3, 8, 8), r"frames: got shape \(0, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"frames: got shape \(3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8), r"frames: got shape \(2, 1, 8, 8\)"),
        (torch.full((2, 3, 8, 8), -1.0), "frames: got values from -1"),
        (torch.full((2, 3, 8, 8), float("nan")), "frames: got values from nan"),
    ],
)
def test_a_clip_that_cannot_be_written(tmp_path, clip, named):
    with pytest.raises(ValueError, match=named):
        data.write_clip(tmp_path / "a.mp4", clip, fps=8)
    assert not list(tmp_path.iterdir())


def test_bad_names_and_speeds(tmp_path):
    with pytest.raises(ValueError, match="expected a name that ends in .mp4"):
        data.write_clip(tmp_path / "a.gif", ramp(2), fps=8)
    with pytest.raises(ValueError, match="fps: got 0"):
        data.write_clip(tmp_path / "a.mp4", ramp(2), fps=0)


def test_an_interrupted_writer_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.mp4"
    data.write_clip(file, ramp(3), fps=8)
    before = file.read_bytes()

    def interrupted(stream, *rest):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.write_clip(file, ramp(3), fps=8)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_an_overlay_shows_the_window_and_dims_the_rest(tmp_path):
    clip = torch.full((3, 3, 48, 48), 0.5)
    looked = Looked(torch.tensor([[[0.0, 0.0], [0.5, 1.0], [1.0, 0.0]]]))
    data.write_overlay(tmp_path / "a.mp4", clip, looked)
    shown = data.read_clip(tmp_path / "a.mp4", frames=3, size=None)
    assert shown.shape == (3, 3, 240, 240)  # five times as large
    for frame, (top, left) in zip(shown, [(0, 0), (70, 140), (140, 0)], strict=True):
        inside = torch.zeros(240, 240, dtype=torch.bool)
        inside[top + 5 : top + 95, left + 5 : left + 95] = True
        assert frame[:, inside].mean() == pytest.approx(0.5, abs=0.02)
        inside[max(0, top - 2) : top + 102, max(0, left - 2) : left + 102] = True
        assert frame[:, ~inside].mean() == pytest.approx(0.225, abs=0.02)
        assert frame[:, top : top + 2, left + 5 : left + 95].mean() > 0.8  # the outline


@pytest.mark.parametrize("patch", [1, 2, 3, 5])
def test_an_overlay_of_the_smallest_windows(tmp_path, patch):
    data.write_overlay(tmp_path / "a.mp4", torch.full((1, 3, 240, 240), 0.5), Looked(torch.zeros(1, 1, 2), patch))
    shown = data.read_clip(tmp_path / "a.mp4", frames=1, size=None)
    assert shown[..., 120:, 120:].mean() == pytest.approx(0.225, abs=0.02)


def test_an_overlay_dims_frames_whose_window_was_not_read(tmp_path):
    model = AdaFocus.tiny(frames=2).eval()
    clip = torch.full((2, 3, 48, 48), 0.5)
    result = replace(model.infer(clip[None]), kept=torch.tensor([[False, True]]))
    data.write_overlay(tmp_path / "a.mp4", clip, result)
    unread, read = data.read_clip(tmp_path / "a.mp4", frames=2, size=None)
    assert unread.max() < 0.4 < 0.8 < read.max()


def test_an_overlay_of_something_else(tmp_path):
    clip = torch.rand(3, 3, 48, 48)
    for location in (torch.zeros(3, 2), torch.zeros(1, 2, 2), torch.zeros(2, 3, 2)):
        with pytest.raises(ValueError, match="result.location"):
            data.write_overlay(tmp_path / "a.mp4", clip, Looked(location), patch=20)
    for patch in (0, 49):
        with pytest.raises(ValueError, match=f"patch: got {patch}"):
            data.write_overlay(tmp_path / "a.mp4", clip, Looked(torch.zeros(1, 3, 2)), patch=patch)
    assert not list(tmp_path.iterdir())


# Real clips


@real
@pytest.mark.parametrize("file", REAL, ids=lambda file: file.stem[:12])
def test_real_clips_are_read(file, tmp_path):
    clip = data.read_clip(file, frames=8, size=64)
    assert clip.shape == (8, 3, 64, 64)
    assert (clip.mean((1, 2, 3)) > 0.02).all()
    assert (clip[1:] - clip[:-1]).abs().mean((1, 2, 3)).max() > 0.01  # something moves
    copy = tmp_path / file.name
    shutil.copy(file, copy)
    raw = copy.read_bytes()
    copy.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="cut off"):
        data.read_clip(copy, frames=8, size=64)


@real
@pytest.mark.parametrize("file", REAL, ids=lambda file: file.stem[:12])
def test_real_clips_go_through_the_whole_pipeline(file, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    model = AdaFocus.tiny().eval()
    clip = data.read_clip(file, frames=8, size=48)
    result = model.infer((clip[None] - 0.5) * 2)
    figure = plots.focus_strip(clip, result, glance=12)
    figure.savefig(tmp_path / "strip.png")
    plt.close(figure)
    assert (tmp_path / "strip.png").stat().st_size > 10_000
    large = data.read_clip(file, frames=8, size=240)
    data.write_overlay(tmp_path / "overlay.mp4", large, result, patch=100)  # 20 of 48 pixels are 100 of 240
    shown = data.read_clip(tmp_path / "overlay.mp4", frames=8, size=None)
    assert shown.shape == large.shape
    inside = torch.zeros(8, 240, 240, dtype=torch.bool)
    for t, (top, left) in enumerate((result.location[0] * 140).floor().long().tolist()):
        inside[t, top + 4 : top + 96, left + 4 : left + 96] = True
    difference = (shown - large).abs().mean(1)
    assert difference[inside].mean() < 0.03
    assert shown.mean(1)[~inside].mean() < 0.6 * large.mean(1)[~inside].mean()
