"""Where a window lies and what it shows: locations in [0, 1], corners in pixels, whole and fractional crops.

A location a = (a_0, a_1) says how far down and to the right a window stands, from 0 (flush with the upper or left edge)
to 1 (flush with the lower or right one). In a frame of H x W pixels the window of side P has its upper left corner at
(a_0 (H - P), a_1 (W - P)): so every location is a window that lies inside the frame.

Source: AdaFocus (arXiv 2105.03245) section 3; the differentiable crop is that of AdaFocusV2 (arXiv 2112.14238).
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib import kernels

_ROUNDING = 1e-4  # of a pixel: 5/6 of 24 is 20, also in float32


def grid_locations(grid: int) -> Tensor:
    """(grid * grid, 2): the locations a policy chooses among, row by row; one cell is the middle.

    >>> grid_locations(2).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    if grid < 1:
        raise ValueError(f"grid: got {grid}, expected at least 1")
    steps = torch.arange(grid) / (grid - 1) if grid > 1 else torch.full((1,), 0.5)
    return torch.cartesian_prod(steps, steps)


def corners(location: Tensor, height: int, width: int, patch: int) -> Tensor:
    """The upper left pixels (..., 2), int64, of windows of `patch` x `patch` pixels: rounded down to whole ones.

    >>> corners(torch.tensor([[0.0, 0.5], [1.0, 1.0]]), 48, 48, 20).tolist()
    [[0, 14], [28, 28]]
    """
    room = torch.tensor([height - patch, width - patch], dtype=location.dtype, device=location.device)
    return (location * room + _ROUNDING).floor().long()


def random_locations(n: int, frames: int, *, room: int, generator: torch.Generator | None = None) -> Tensor:
    """(n, frames, 2): windows whose corners are uniform over the whole pixels 0..room, both ends included.

    `room` is the side of the frame less that of the window. Drawn on the CPU.
    """
    corner = torch.randint(room + 1, (n, frames, 2), generator=generator)
    return corner / max(room, 1)


def asked_for(
    policy: str | Tensor, n: int, frames: int, *, room: int, generator: torch.Generator | None, device: torch.device
) -> Tensor | None:
    """Locations (n, frames, 2) of windows that a policy does not choose; None for "learned".

    `policy` is "learned", "random", "center", or the locations themselves.
    """
    if isinstance(policy, Tensor):
        if policy.shape != (n, frames, 2):
            raise ValueError(f"policy: got locations {tuple(policy.shape)}, expected {(n, frames, 2)}")
        if not ((policy >= 0) & (policy <= 1)).all():
            raise ValueError("policy: got locations outside [0, 1], expected shares of the way to the far edge")
        return policy.to(device, policy.dtype if policy.is_floating_point() else torch.float32)
    if policy == "learned":
        return None
    if policy == "random":
        return random_locations(n, frames, room=room, generator=generator).to(device)
    if policy == "center":
        return torch.full((n, frames, 2), 0.5, device=device)
    raise ValueError(f"policy: got {policy!r}, expected 'learned', 'random', 'center' or locations (N, T, 2)")


def cut(clips: Tensor, location: Tensor, patch: int, kept: Tensor | None = None) -> Tensor:
    """The windows at `location`, cut out at whole pixels, in one operation and without a loop.

    Args:
        clips: (N, T, C, H, W).
        location: (N, T, 2) in [0, 1], (row, column).
        patch: side P of the windows in pixels.
        kept: (N, T) bool, the frames whose windows are wanted; None for all.

    Returns:
        (M, C, P, P) with M the number of windows wanted, clip by clip and in each clip frame by frame.

    >>> clip = torch.arange(16.0).view(1, 1, 1, 4, 4)
    >>> cut(clip, torch.tensor([[[1.0, 0.5]]]), 2).flatten().tolist()
    [9.0, 10.0, 13.0, 14.0]
    """
    height, width = _sides(clips, location, patch)
    n, frames = clips.shape[:2]
    corner = corners(location, height, width, patch).flatten(0, 1)
    at = torch.arange(n * frames, device=clips.device)
    if kept is not None:
        at = kept.flatten().nonzero().squeeze(1)
        corner = corner[at]
    everywhere = clips.unfold(3, patch, 1).unfold(4, patch, 1)  # a view: every window there is, none of them copied
    return everywhere[at // max(frames, 1), at % max(frames, 1), :, corner[:, 0], corner[:, 1]]


def soft_cut(clips: Tensor, location: Tensor, patch: int) -> Tensor:
    """The same windows at fractions of a pixel, interpolated, so that gradients reach `location`.

    Equals `cut` to rounding where the corners are whole. A gradient is the difference of neighbouring pixels: it knows
    what lies one pixel further, and nothing of what lies beyond.

    Returns:
        (N * T, C, P, P). Arguments as in `cut`.

    >>> ramp = torch.arange(6.0).view(1, 1, 1, 6, 1).expand(1, 1, 1, 6, 6)  # one more a pixel downwards
    >>> a = torch.tensor([[[0.3, 0.3]]], requires_grad=True)
    >>> [round(g, 4) for g in torch.autograd.grad(soft_cut(ramp, a, 2).mean(), a)[0].flatten().tolist()]
    [4.0, 0.0]
    """
    height, width = _sides(clips, location, patch)
    room = location.new_tensor([height - patch, width - patch])
    side = location.new_tensor([height, width])
    centers = (2 * location * room + patch) / side - 1
    images = clips.flatten(0, 1)
    return kernels.gather_patches(images, centers.flatten(0, 1).unsqueeze(1), patch).flatten(0, 2)


def _sides(clips: Tensor, location: Tensor, patch: int) -> tuple[int, int]:
    """Height and width of the frames, after a look at the shapes."""
    if clips.ndim != 5:
        raise ValueError(f"clips: got shape {tuple(clips.shape)}, expected (N, T, C, H, W)")
    if location.shape != (*clips.shape[:2], 2):
        raise ValueError(f"location: got shape {tuple(location.shape)}, expected {(*clips.shape[:2], 2)}")
    height, width = clips.shape[3:]
    if not 1 <= patch <= min(height, width):
        raise ValueError(f"patch: got {patch}, expected 1 to {min(height, width)}, to fit into {height}x{width} pixels")
    return height, width
