"""How long it takes and how much memory it holds, measured so that the numbers can be compared."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_lib.measure.observe import tensors_in

_clock = time.perf_counter


@dataclass(frozen=True)
class Timing:
    """Repeated wall-clock measurements of one call, in seconds: median, quartiles, and the samples in order."""

    median_s: float
    q25_s: float
    q75_s: float
    repeats: int
    device: str
    samples_s: tuple[float, ...]


def latency(fn: Callable[[], object], *, warmup: int = 3, repeats: int = 20) -> Timing:
    """Time `fn()` after `warmup` untimed calls. Work queued on a GPU is waited for, within the time.

    The device is that of the first tensor `fn` returns ("cpu" if it returns none). Raises ValueError for
    `warmup` < 0 or `repeats` < 1.
    """
    return compare({"": fn}, rounds=repeats, warmup=warmup)[""]


def throughput(fn: Callable[[], object], items: int, *, warmup: int = 3, repeats: int = 20) -> float:
    """Items per second of a call that handles `items` of them, from the median of `latency`."""
    if items < 1:
        raise ValueError(f"items: got {items}, expected at least 1")
    return items / latency(fn, warmup=warmup, repeats=repeats).median_s


def compare(contenders: Mapping[str, Callable[[], object]], *, rounds: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Time several calls against each other, each once per round.

    A machine that slows down meanwhile then slows down all of them: take `ratio` of two results, which divides
    within each round, rather than the ratio of two medians. Raises ValueError for `rounds` < 1 or `warmup` < 0.
    """
    if rounds < 1:
        raise ValueError(f"rounds or repeats: got {rounds}, expected at least 1")
    if warmup < 0:
        raise ValueError(f"warmup: got {warmup}, expected 0 or more")
    for _ in range(warmup):
        for fn in contenders.values():
            fn()
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    devices = {}
    for _ in range(rounds):
        for name, fn in contenders.items():
            _synchronize()
            start = _clock()
            result = fn()
            _synchronize()
            samples[name].append(_clock() - start)
            devices[name] = _device_of(result)
    return {name: _summary(samples[name], devices[name]) for name in contenders}


def ratio(a: Timing, b: Timing) -> float:
    """Median over the rounds of a's time divided by b's: how many times faster b is. Both from one `compare`."""
    if len(a.samples_s) != len(b.samples_s):
        raise ValueError(f"a, b: got {len(a.samples_s)} and {len(b.samples_s)} samples, expected the same rounds")
    return float(np.median(np.divide(a.samples_s, b.samples_s)))


def peak_memory(fn: Callable[[], object]) -> int:
    """Bytes held at the worst moment of `fn()` above what was held at its start; its result counts.

    If a GPU is in use: exact to the allocator's rounding (512 bytes) and without what other libraries hold there.
    Otherwise resident memory of the process. On Linux the kernel's high-water mark is reset first, which is good to
    about 1 MiB: memory that was freed earlier but kept by the allocator is reused unseen, a library's first call
    counts its set-up, so call `fn` once before. Elsewhere the mark cannot be reset, and the growth is a lower bound,
    0 where the process was larger before. Raises NotImplementedError where the system has no such mark (Windows).
    """
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        _synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        result = fn()
        _synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        held = _start_of_peak()
        result = fn()
        peak = _resident_peak()
    del result
    return max(0, peak - held)


def _start_of_peak() -> int:
    """Reset the high-water mark where that is possible, and read it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # give back what earlier work freed, or it would be reused unseen
        with contextlib.suppress(OSError):  # forbidden in some containers: the growth is then a lower bound
            Path("/proc/self/clear_refs").write_text("5")
    return _resident_peak()


def _resident_peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        raise NotImplementedError(
            "peak_memory: this system reports no peak resident size; use a GPU or Linux"
        ) from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _device_of(result: Any) -> str:
    return next((t.device.type for t in tensors_in(result)), "cpu")


def _summary(samples: list[float], device: str) -> Timing:
    q25, median, q75 = (float(q) for q in np.quantile(samples, (0.25, 0.5, 0.75)))
    return Timing(median, q25, q75, len(samples), device, tuple(samples))
