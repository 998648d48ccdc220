"""Every figure of the book that more than one cell draws; `style` holds what they have in common."""

from course_lib.plots.early_exit import (
    accuracy_cost_curve,
    accuracy_curves,
    block_calls,
    confidence_histograms,
    early_exit_dashboard,
    rows_per_block,
    share_bars,
    who_left_where,
)
from course_lib.plots.estimators import (
    bias_and_spread,
    estimator_curves,
    forward_and_backward,
    gate_dashboard,
    gate_maps,
    noise_by_gates,
    settling,
    soft_and_hard,
)
from course_lib.plots.exit_grid import exit_grid
from course_lib.plots.ledgers import needed_and_spent, needed_by_difficulty, two_ledgers
from course_lib.plots.measuring import (
    Measured,
    latency_by_batch,
    ledger_shares,
    queued_work,
    reliability_diagram,
    roofline,
    roofline_and_bars,
    warmup_trace,
)
from course_lib.plots.recorded import recorded_curves, recorded_networks, recorded_speed, recorded_training
from course_lib.plots.style import MARKERS, PALETTE, SKIPPED, SPENT, use_style

__all__ = [
    "MARKERS",
    "PALETTE",
    "SKIPPED",
    "SPENT",
    "Measured",
    "accuracy_cost_curve",
    "accuracy_curves",
    "bias_and_spread",
    "block_calls",
    "confidence_histograms",
    "early_exit_dashboard",
    "estimator_curves",
    "exit_grid",
    "forward_and_backward",
    "gate_dashboard",
    "gate_maps",
    "latency_by_batch",
    "ledger_shares",
    "needed_and_spent",
    "needed_by_difficulty",
    "noise_by_gates",
    "queued_work",
    "recorded_curves",
    "recorded_networks",
    "recorded_speed",
    "recorded_training",
    "reliability_diagram",
    "roofline",
    "roofline_and_bars",
    "rows_per_block",
    "settling",
    "share_bars",
    "soft_and_hard",
    "two_ledgers",
    "use_style",
    "warmup_trace",
    "who_left_where",
]
