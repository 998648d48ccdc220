"""Real video files as clips, and clips as video files, on PyAV (the ffmpeg libraries).

Reading decodes a file from front to back and keeps only the frames asked for, so that memory does not grow with the
length of the video. The frames of a clip are the middles of segments of equally many frames (the sampling of temporal
segment networks, arXiv 1608.00859 section 3, as used at test time). Frames are counted and not timed: where a camera
took fewer of them a second, a clip passes faster. A file that says it is to be turned by a quarter or a half, as phones
write them, is turned.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.checkpoint import write_atomically
from course_lib.data.folder import resized

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}
_MISSING = 0.02  # share of its announced duration that a whole file may lack; containers are not exact
_SHOWN = 240  # pixels that the shorter side of an overlay has at least
_ROUNDING = 1e-4  # of a pixel, before corners are rounded down as the windows were
_DIMMED = 0.45  # brightness left outside of the window


class Located(Protocol):
    """What an overlay shows: anything that says where windows stand, such as a `FocusResult`.

    Where it also has `kept` (1, T) bool, frames whose window was not read are dimmed as a whole.
    """

    @property
    def location(self) -> Tensor:
        """(1, T, 2), the windows' upper left corners, (row, column); 0 is the first place that fits and 1 the last."""
        ...

    @property
    def patch(self) -> int:
        """Side of the windows in pixels."""
        ...


def read_clip(path: str | os.PathLike[str], *, frames: int, size: int | None) -> Tensor:
    """A video file as a clip of `frames` frames, the middles of as many segments of equally many frames.

    A video of fewer frames repeats some. The whole file is decoded, with as many threads as torch uses, but only one
    frame at a time is held besides the clip.

    Args:
        path: any video that ffmpeg can decode.
        frames: T, at least 1.
        size: side in pixels of the square frames: the shorter side is scaled to it (antialiased, bilinear), the centre
            cut out. None: all of it, upright, at its own size.

    Returns:
        (T, 3, H, W) float32 in [0, 1]. Raises FileNotFoundError, and ValueError, naming the file, for one that is no
        video, holds no frame or ends before its end.
    """
    frames = operator.index(frames)
    if frames < 1:
        raise ValueError(f"frames: got {frames}, expected at least 1")
    _require_size(size)
    with _opened(path) as (container, stream):
        number = stream.frames
    if not number:  # not every container says
        with _opened(path) as (container, stream):
            number = sum(packet.size > 0 for packet in container.demux(stream))
    wanted = [(2 * i + 1) * number // (2 * frames) for i in range(frames)]
    clip: list[Tensor] = []
    last = None
    for index, frame in enumerate(_decoded(path)):
        while len(clip) < frames and wanted[len(clip)] == index:
            clip.append(_as_tensor(frame, size) if not clip or wanted[len(clip) - 1] != index else clip[-1])
        last = frame
    if last is None:
        raise ValueError(f"{path}: got a video without a single frame, expected at least one")
    while len(clip) < frames:  # it had fewer frames than announced
        clip.append(_as_tensor(last, size))
    return torch.stack(clip)


def frames_of(path: str | os.PathLike[str], *, size: int | None) -> Iterator[Tensor]:
    """The frames of a video file one after another, (3, H, W) float32 in [0, 1], as an online recogniser meets them.

    Arguments and errors as in `read_clip`; that a file ends before its end is known, and raised, only there.
    """
    _require_size(size)
    for frame in _decoded(path):
        yield _as_tensor(frame, size)


def write_clip(path: str | os.PathLike[str], frames: Tensor, *, fps: float) -> None:
    """Write a clip (T, 3, H, W), values in [0, 1], as an H.264 video that any player shows; whole or not at all.

    The suffix of `path` says what container: .mp4, .mov, .mkv or .avi. The compression loses a little. Odd sides are
    kept, at the price of a colour format (4:4:4) that not every browser plays. Raises ValueError for other suffixes,
    shapes and values.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"path: got {path.name!r}, expected a name that ends in {', '.join(_FORMATS)}")
    _require_clip("frames", frames)
    if not 0 < fps < math.inf:
        raise ValueError(f"fps: got {fps}, expected a number of frames a second above 0")
    write_atomically(path, lambda file: _encode(file, _FORMATS[path.suffix.lower()], frames, fps))


def write_overlay(
    path: str | os.PathLike[str], clip: Tensor, result: Located, *, patch: int | None = None, fps: float = 8.0
) -> None:
    """Write a video that shows where a model looked: each window that was read outlined, all else dimmed.

    Args:
        path: as for `write_clip`.
        clip: (T, 3, H, W) in [0, 1]; enlarged by a whole number where it would be too small to see.
        result: has `location` (1, T, 2) in [0, 1], and `patch`; see `Located`.
        patch: side of the windows in pixels of `clip`, where that is not what the model saw: a larger clip of the
            same scene has larger windows at the same locations. At most H and W.
        fps: frames shown in a second.

    Raises ValueError for other shapes and values.
    """
    _require_clip("clip", clip)
    expected = (1, len(clip), 2)
    if tuple(result.location.shape) != expected:
        raise ValueError(f"result.location: got shape {tuple(result.location.shape)}, expected {expected}")
    patch = result.patch if patch is None else patch
    height, width = clip.shape[-2:]
    if not 1 <= patch <= min(height, width):
        raise ValueError(f"patch: got {patch}, expected 1 to {min(height, width)}, the shorter side of the frames")
    enlarged = math.ceil(_SHOWN / min(height, width))
    shown = F.interpolate(clip.detach().float().cpu(), scale_factor=enlarged, mode="nearest")
    room = torch.tensor([height - patch, width - patch])
    corners = (result.location[0].detach().float().cpu() * room + _ROUNDING).floor().long() * enlarged
    kept = getattr(result, "kept", None)
    read = [True] * len(clip) if kept is None else kept[0].tolist()
    for frame, (top, left), seen in zip(shown, corners.tolist(), read, strict=True):
        _outline(frame, top, left, patch * enlarged if seen else 0)
    write_clip(path, shown, fps=fps)


def _outline(frame: Tensor, top: int, left: int, side: int) -> None:
    """In place: a white line with a black one inside around the window, which is seen on any ground; the rest dim.

    A window of side 0 is none, and one of less than 5 pixels is nearly all line.
    """
    bottom, right = top + side, left + side
    window = frame[:, top:bottom, left:right].clone()
    frame *= _DIMMED
    for depth, shade in ((0, 1.0), (1, 1.0), (2, 0.0)):
        if 2 * depth >= side:
            break
        window[:, depth, depth : side - depth] = shade
        window[:, side - 1 - depth, depth : side - depth] = shade
        window[:, depth : side - depth, depth] = shade
        window[:, depth : side - depth, side - 1 - depth] = shade
    frame[:, top:bottom, left:right] = window


def _require_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise ValueError(f"size: got {size}, expected at least 1 pixel, or None")


def _require_clip(name: str, clip: Tensor) -> None:
    if clip.ndim != 4 or clip.shape[1] != 3 or 0 in clip.shape:
        raise ValueError(f"{name}: got shape {tuple(clip.shape)}, expected (T, 3, H, W) with at least one frame")
    low, high = float(clip.min()), float(clip.max())
    if not (low >= 0 and high <= 1):  # NaN is outside, too
        raise ValueError(f"{name}: got values from {low:g} to {high:g}, expected [0, 1]")


# The ffmpeg side -----------------------------------------------------------------------------------------------------


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("reading and writing videos needs PyAV: pip install av") from error
    return av


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its best video stream; what ffmpeg cannot read becomes a ValueError that names the file."""
    av = _av()
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    try:
        with av.open(os.fspath(path)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{path}: got a file without a video stream, expected a video")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = torch.get_num_threads()
            yield container, stream
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a readable video, or one that was cut off ({error.strerror})") from error


def _decoded(path: str | os.PathLike[str]) -> Iterator[VideoFrame]:
    """Every frame in turn; ValueError at the end where the file stops before the end that it announces."""
    with _opened(path) as (container, stream):
        frame = None
        for frame in container.decode(stream):
            yield frame
        announced = _announced_end(container, stream)
        if frame is None or frame.pts is None or announced is None:
            return
        assert stream.time_base is not None
        end = (frame.pts + (frame.duration or 0)) * stream.time_base
        slack = max(2 / (stream.average_rate or 25), Fraction(_MISSING) * announced)
        if end < announced - slack:
            got = f"got a video that was cut off after {float(end):.2f} s"
            raise ValueError(f"{path}: {got}, expected the {float(announced):.2f} s that it announces")


def _announced_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """In seconds, as the file's head has it; None where it does not say."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return stream.frames / stream.average_rate  # the duration of an AVI file is ffmpeg's guess by its size
    if stream.duration is not None and stream.time_base is not None:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    if container.duration is not None and len(container.streams) == 1:  # it is that of the longest stream
        return Fraction((container.start_time or 0) + container.duration, 1_000_000)
    return None


def _as_tensor(frame: VideoFrame, size: int | None) -> Tensor:
    """(3, H, W) in [0, 1], turned as the file says (counter-clockwise, in degrees), at `size`."""
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    pixels = pixels.rot90(round(getattr(frame, "rotation", 0) / 90), (1, 2))  # PyAV 14.0 does not know yet
    return resized(pixels.float() / 255, size).contiguous()


def _encode(file: IO[bytes], kind: str, frames: Tensor, fps: float) -> None:
    av = _av()
    height, width = frames.shape[-2:]
    pixels = (frames.detach().float().cpu() * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "16"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        stream.codec_context.thread_count = torch.get_num_threads()
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
