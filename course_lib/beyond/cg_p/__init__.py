"""CG-P: column generation whose pricing a graph network has pruned, for crew scheduling on a railway.

Paper: The Neural-Prediction based Acceleration Algorithm of Column Generation for Graph-Based Set Covering Problems
(arXiv 2207.01411, 2022).
Kept: set covering of trips by duties; a restricted master and a shortest-path pricing with resources; a graph network
that says how likely each connection is in the solution; a fast mode on the pruned graph alone, an optimal mode that
goes on to the full graph and keeps the guarantee.
Ours, not the paper's, whose details we could not read: crew rules; layers, features, labels and loss of the network;
the share of connections kept; the integer finish.
"""

from __future__ import annotations

from course_lib.beyond.cg_p.graph import DutyGraph
from course_lib.beyond.cg_p.plan import CrewPlan, Duty, Step, check_plan
from course_lib.beyond.cg_p.reduction import Chance, Predictor, ShortGaps
from course_lib.beyond.cg_p.rules import CrewRules, duty_cost, duty_violations, rules_for
from course_lib.beyond.cg_p.solver import solve
from course_lib.beyond.cg_p.timeline import Activity, duty_timeline
from course_lib.beyond.cg_p.timetable import NO_WAY, Timetable, clock

__all__ = [
    "NO_WAY", "Activity", "Chance", "CrewPlan", "CrewRules", "Duty", "DutyGraph", "Predictor", "ShortGaps", "Step",
    "Timetable", "check_plan", "clock", "duty_cost", "duty_timeline", "duty_violations", "rules_for", "solve",
]  # fmt: skip
