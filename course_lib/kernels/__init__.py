"""Kernels that compute only what is asked for, each beside the plain PyTorch that says what it means.

`masked_conv2d` and the lists it works on (`ActiveSet`), rows and patches picked by index, the masker that decides.
On a GPU they are written in Triton; on the CPU they are plain PyTorch arranged so that skipping saves time.
"""

from course_lib.kernels._triton import Interpreted, interpreted
from course_lib.kernels.compaction import ActiveSet
from course_lib.kernels.masked_conv2d import Backend, masked_conv2d
from course_lib.kernels.masker import cell_logits, cell_mask
from course_lib.kernels.patches import gather_patches
from course_lib.kernels.rows import gather_rows, scatter_rows_

__all__ = [
    "ActiveSet",
    "Backend",
    "Interpreted",
    "cell_logits",
    "cell_mask",
    "gather_patches",
    "gather_rows",
    "interpreted",
    "masked_conv2d",
    "scatter_rows_",
]
