"""What it costs: multiply-adds, time, memory, the roofline, accuracy against cost."""

from course_lib.measure.curves import CostCurve
from course_lib.measure.deploy import fold_batchnorm
from course_lib.measure.macs import count_macs, macs_per_module, register_macs
from course_lib.measure.roofline import Roofline, intensity, moved_bytes
from course_lib.measure.timing import Timing, compare, latency, peak_memory, ratio, throughput

__all__ = [
    "CostCurve",
    "Roofline",
    "Timing",
    "compare",
    "count_macs",
    "fold_batchnorm",
    "intensity",
    "latency",
    "macs_per_module",
    "moved_bytes",
    "peak_memory",
    "ratio",
    "register_macs",
    "throughput",
]
