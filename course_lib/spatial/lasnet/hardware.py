"""A device as the latency predictor sees it: published ones, and the one this runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

import course_lib
from course_lib.measure import Roofline, latency


@dataclass(frozen=True, kw_only=True)
class HardwareSpec:
    """Processing engines, their arithmetic, two bandwidths, the price of a launch.

    >>> HardwareSpec.v100().engines, HardwareSpec.v100().values_per_s
    (80, 175000000000.0)
    """

    engines: int  #: processing engines: streaming multiprocessors, or a CPU's threads
    lanes: int  #: float32 multiply-adds that an engine starts per cycle
    clock_hz: float
    bandwidth: float  #: of the memory off the chip, bytes per second
    l2_ratio: float = 4.0  #: how many times as fast the cache is that all engines share
    launch_s: float = 8e-6  #: fixed price of a kernel
    batch: int = 128  #: images at once
    mode: Literal["add", "max"] = "add"  #: memory and arithmetic one after the other, or perfectly overlapped

    def __post_init__(self) -> None:
        for name in ("engines", "lanes", "clock_hz", "bandwidth", "l2_ratio", "batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")
        if not self.launch_s >= 0:
            raise ValueError(f"launch_s: got {self.launch_s}, expected 0 or more seconds")
        if self.mode not in ("add", "max"):
            raise ValueError(f"mode: got {self.mode!r}, expected 'add' or 'max'")

    @classmethod
    def v100(cls) -> HardwareSpec:
        """As published with the predictor, for batches of 128; 700 GB/s is theirs, the vendor says 900."""
        return cls(engines=80, lanes=64, clock_hz=1500e6, bandwidth=700e9)

    @classmethod
    def rtx3090(cls) -> HardwareSpec:
        """As published with the predictor, where its cache is no faster than its memory."""
        return cls(engines=82, lanes=128, clock_hz=1250e6, bandwidth=936e9, l2_ratio=1.0)

    @classmethod
    def rtx3060(cls) -> HardwareSpec:
        """As published with the predictor."""
        return cls(engines=28, lanes=128, clock_hz=1777e6, bandwidth=360e9)

    @classmethod
    def jetson_tx2(cls) -> HardwareSpec:
        """As published with the predictor, one image at a time."""
        return cls(engines=2, lanes=128, clock_hz=1300e6, bandwidth=59.7e9, batch=1)

    @classmethod
    def jetson_nano(cls) -> HardwareSpec:
        """As published with the predictor, one image at a time."""
        return cls(engines=1, lanes=128, clock_hz=921e6, bandwidth=25.6e9, batch=1)

    @classmethod
    def h200(cls) -> HardwareSpec:
        """The vendor's figures, float32 without tensor cores; not among the published devices."""
        return cls(engines=132, lanes=128, clock_hz=1980e6, bandwidth=4800e9)

    @classmethod
    def probe(cls, *, batch: int = 1, seconds: float = 1.5, device: torch.device | str | None = None) -> HardwareSpec:
        """Measure the machine this runs on, within about `seconds`.

        Bandwidth and multiply-adds per second come from `measure.Roofline.probe`; the ratio of the caches from copying
        a megabyte (8 MB on a GPU) over and over; the launch from the smallest addition there is. How many engines and
        lanes the arithmetic comes from, is read off (threads torch uses and the width of their vectors; the GPU's
        multiprocessors), and the clock is set to what makes the product true.
        """
        where = torch.device(device) if device is not None else course_lib.device()
        roof = Roofline.probe(seconds=seconds * 2 / 3, device=where)
        small = torch.ones(2 << 20 if where.type != "cpu" else 1 << 17, device=where)
        target = torch.empty_like(small)
        near = 2 * small.numel() * 4 / _shortest(lambda: target.copy_(small), seconds / 6)
        one = torch.ones(1, device=where)
        launch = _shortest(lambda: one.add_(1.0), seconds / 6)
        if where.type == "cuda":
            properties = torch.cuda.get_device_properties(where)
            engines = properties.multi_processor_count
            lanes = 64 if (properties.major, properties.minor) in ((7, 0), (7, 5), (8, 0)) else 128
        else:
            engines = min(torch.get_num_threads(), os.cpu_count() or 1)
            vector = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)
            lanes = 2 * vector  # two vector units that multiply and add
        return cls(
            engines=engines,
            lanes=lanes,
            clock_hz=roof.macs_per_s / (engines * lanes),
            bandwidth=roof.bandwidth_bytes_per_s,
            l2_ratio=max(1.0, near / roof.bandwidth_bytes_per_s),
            launch_s=launch,
            batch=batch,
        )

    def with_batch(self, batch: int) -> HardwareSpec:
        """The same device for another number of images at once."""
        return replace(self, batch=batch)

    @property
    def values_per_s(self) -> float:
        """float32 values per second from memory."""
        return self.bandwidth / 4

    @property
    def near_values_per_s(self) -> float:
        """float32 values per second from the shared cache."""
        return self.l2_ratio * self.bandwidth / 4

    @property
    def lane_rate(self) -> float:
        """Multiply-adds per second of one engine with all lanes busy."""
        return self.clock_hz * self.lanes


#: The devices of the published study, by name; the two that the paper's abstract reports come first.
DEVICES = {
    "V100": HardwareSpec.v100(),
    "Jetson TX2": HardwareSpec.jetson_tx2(),
    "RTX 3090": HardwareSpec.rtx3090(),
    "RTX 3060": HardwareSpec.rtx3060(),
    "Jetson Nano": HardwareSpec.jetson_nano(),
}


def _shortest(fn: Callable[[], object], seconds: float) -> float:
    """Shortest time of one call out of as many as fit into `seconds`, at least ten."""
    once = latency(fn, warmup=3, repeats=10)
    repeats = int(min(5000, max(10, seconds / max(once.median_s, 1e-7))))
    return min(latency(fn, warmup=0, repeats=repeats).samples_s)
