"""How a network decides: confidence, calibration, shares, thresholds and budgets (survey section 5.1)."""

from course_lib.decision.budget import (
    exit_shares,
    find_thresholds,
    mean_cost,
    solve_budget,
)
from course_lib.decision.calibration import (
    Reliability,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from course_lib.decision.confidence import Confidence, as_thresholds, choose_exit, confidence, simulate
from course_lib.decision.early_exit import AdaptiveInference, EarlyExit, ExitResult, StreamResult, infer, infer_stream
from course_lib.decision.estimators import (
    MovingAverage,
    anneal_tau,
    bernoulli_log_prob,
    discounted_returns,
    expected_value,
    gumbel_noise,
    gumbel_sigmoid,
    gumbel_softmax,
    ppo_loss,
    reinforce_loss,
    self_critical,
    semantic_hash,
    straight_through,
    straight_through_gate,
)
from course_lib.decision.study import RHOS, ExitStudy, OperatingPoint

__all__ = [
    "RHOS",
    "AdaptiveInference",
    "Confidence",
    "EarlyExit",
    "ExitResult",
    "ExitStudy",
    "MovingAverage",
    "OperatingPoint",
    "Reliability",
    "StreamResult",
    "anneal_tau",
    "as_thresholds",
    "bernoulli_log_prob",
    "choose_exit",
    "confidence",
    "discounted_returns",
    "exit_shares",
    "expected_calibration_error",
    "expected_value",
    "find_thresholds",
    "fit_temperature",
    "gumbel_noise",
    "gumbel_sigmoid",
    "gumbel_softmax",
    "infer",
    "infer_stream",
    "mean_cost",
    "ppo_loss",
    "reinforce_loss",
    "reliability",
    "self_critical",
    "semantic_hash",
    "simulate",
    "solve_budget",
    "straight_through",
    "straight_through_gate",
]
