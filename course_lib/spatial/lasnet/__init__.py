"""LASNet: which patches of a map are worth computing, and how large they must be (arXiv 2210.06223)."""

from course_lib.spatial.lasnet.block import BlockMacs, MaskedBlock, expected_halo
from course_lib.spatial.lasnet.hardware import DEVICES, HardwareSpec
from course_lib.spatial.lasnet.network import LASNet, LASNetOutput, Stage
from course_lib.spatial.lasnet.predictor import (
    STAGE_MAPS,
    block_kernels,
    break_even,
    choose_granularity,
    efficiency,
    predict_block,
    predict_network,
    predict_skipping,
    predict_stage,
    sector_efficiency,
    stage_blocks,
    tile_sizes,
)
from course_lib.spatial.lasnet.training import (
    LASNetHistory,
    block_loss,
    bounds,
    budget_loss,
    fit,
)

__all__ = [
    "DEVICES",
    "STAGE_MAPS",
    "BlockMacs",
    "HardwareSpec",
    "LASNet",
    "LASNetHistory",
    "LASNetOutput",
    "MaskedBlock",
    "Stage",
    "block_kernels",
    "block_loss",
    "bounds",
    "break_even",
    "budget_loss",
    "choose_granularity",
    "efficiency",
    "expected_halo",
    "fit",
    "predict_block",
    "predict_network",
    "predict_skipping",
    "predict_stage",
    "sector_efficiency",
    "stage_blocks",
    "tile_sizes",
]
