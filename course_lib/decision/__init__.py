"""How a network decides: confidence, calibration, shares, thresholds and budgets (survey section 5.1)."""

from course_lib.decision.budget import (
    OperatingPoint,
    exit_shares,
    find_thresholds,
    mean_cost,
    solve_budget,
    sweep,
)
from course_lib.decision.calibration import (
    Reliability,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from course_lib.decision.confidence import Confidence, as_thresholds, choose_exit, confidence, simulate
from course_lib.decision.early_exit import EarlyExit, ExitResult, StreamResult, infer, infer_stream

__all__ = [
    "Confidence",
    "EarlyExit",
    "ExitResult",
    "OperatingPoint",
    "Reliability",
    "StreamResult",
    "as_thresholds",
    "choose_exit",
    "confidence",
    "exit_shares",
    "expected_calibration_error",
    "find_thresholds",
    "fit_temperature",
    "infer",
    "infer_stream",
    "mean_cost",
    "reliability",
    "simulate",
    "solve_budget",
    "sweep",
]
