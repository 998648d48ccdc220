"""L2W-DEN: learning to weight samples, so that each exit practises for the samples it will answer.

Paper: Learning to Weight Samples for Dynamic Early-exiting Networks (arXiv 2209.08310, ECCV 2022).
Kept: the weight prediction network, the three ways of centring, the look-ahead step, the meta objective over simulated
exits, half-batches that exchange roles, alternating updates. The network with exits and its inference are untouched:
any model whose `forward` gives a list of logits will do, and the weight network is thrown away after training.
Different from the released code:
- *The gradient of the weights* is one forward-mode product. With w_ik the weight of sample i at exit k,
  dL_meta/dw_ik = -(alpha / B) <grad L_meta(Theta_hat), grad l_ik(Theta)>, since a weight enters the step linearly. The
  vector of all l_ik in the direction of grad L_meta costs about one plain step; differentiating the look-ahead's own
  backward pass, as released, costs about twice that and the memory of its graph. The numbers are the same.
- *The forward pass* at Theta serves the look-ahead and the real step, which differ in their weights only.
- *The look-ahead* includes momentum and weight decay, as the released code's does; `lookahead="plain"` is the paper's
  Theta - alpha * gradient. Its batch statistics go into copies, so the real network does not notice.
- *The weight network* starts from equal weights: its output layer is zero at first.
- *Thresholds*: the released scripts calibrate on training images. Here, as everywhere in this course, they are set on
  held-out ones (`train.study`).
"""

from __future__ import annotations

from course_lib.instance.l2w.dense_mlp import DenseMLP
from course_lib.instance.l2w.step import LookAhead, MetaStep, look_ahead, meta_step, weight_gradient
from course_lib.instance.l2w.training import L2WRun, fit_l2w
from course_lib.instance.l2w.weighting import (
    Centring,
    WeightPredictionNetwork,
    allocate,
    center_weights,
    exit_losses,
    meta_objective,
    weight_range,
)

__all__ = [
    "Centring", "DenseMLP", "L2WRun", "LookAhead", "MetaStep", "WeightPredictionNetwork", "allocate", "center_weights",
    "exit_losses", "fit_l2w", "look_ahead", "meta_objective", "meta_step", "weight_gradient", "weight_range",
]  # fmt: skip
