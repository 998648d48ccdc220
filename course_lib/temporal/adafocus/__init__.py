"""AdaFocus: where in a video to look closely, and what that saves (arXiv 2105.03245; V2: arXiv 2112.14238)."""

from course_lib.temporal.adafocus.backbones import Encoder, Shrink, mobilenet_v2, resnet50
from course_lib.temporal.adafocus.loop import StageHistory
from course_lib.temporal.adafocus.model import AdaFocus, FocusResult, FrameClassifier, FrameMacs, WindowPolicy
from course_lib.temporal.adafocus.skipping import train_skipping
from course_lib.temporal.adafocus.training import (
    counterfactual,
    fine_tune,
    object_windows,
    pretrain_focus,
    train_policy,
    warm_up,
    window_rewards,
)
from course_lib.temporal.adafocus.v2 import AdaFocusV2, V2Output, coarse_to_fine, train_v2, v2_loss
from course_lib.temporal.adafocus.windows import corners, cut, grid_locations, random_locations, soft_cut

__all__ = [
    "AdaFocus",
    "AdaFocusV2",
    "Encoder",
    "FocusResult",
    "FrameClassifier",
    "FrameMacs",
    "Shrink",
    "StageHistory",
    "V2Output",
    "WindowPolicy",
    "coarse_to_fine",
    "corners",
    "counterfactual",
    "cut",
    "fine_tune",
    "grid_locations",
    "mobilenet_v2",
    "object_windows",
    "pretrain_focus",
    "random_locations",
    "resnet50",
    "soft_cut",
    "train_policy",
    "train_skipping",
    "train_v2",
    "v2_loss",
    "warm_up",
    "window_rewards",
]
