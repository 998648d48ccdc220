"""How long a block takes, from three descriptions: the algorithm, the schedule, the hardware.

Source: the latency predictor behind LASNet (arXiv 2210.06223), published with its successor LAUDNet (arXiv 2308.15949).
Time is data movement plus arithmetic plus launches, in float32. A kernel cuts its output into tiles, and a processing
engine works on one tile at a time, so a last, half-empty wave of tiles costs a whole one. Every tile from a short list
is priced and the cheapest is taken. A dynamic kernel is compiled before its input is known: its tile is the best one
for the mean number of patches, and its time that of this tile at the real number.

Kept from the published code, though one may doubt it: the halo of the first convolution is not priced; that
convolution counts its S x S cells on its own map, also where that is twice as large; a first block without stride has
no shortcut convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from course_lib.spatial.lasnet.hardware import HardwareSpec

SECTOR = 8  #: float32 values in a memory sector of 32 bytes
PIPELINE = 4  #: instructions a lane keeps in flight: so many times the lanes must be filled
STAGE_MAPS = (56, 28, 14, 7)  #: side of the maps of a ResNet's stages, for images of 224 pixels
CANDIDATES = (1, 2, 4, 7, 8)  #: granularities worth trying on these maps

Numbers = NDArray[np.float64]
Tile = tuple[float, ...]
Schedule = Literal["best", "fused", "unfused"]


# Tiles ---------------------------------------------------------------------------------------------------------------


def efficiency(wanted: Any, unit: float) -> Any:
    """Useful share of `wanted` things, more than 0, that only come in whole `unit`s.

    >>> float(efficiency(6, 4))
    0.75
    """
    return wanted / (np.ceil(wanted / unit) * unit)


def sector_efficiency(run: Any, gap: Any) -> Any:
    """Useful share of the memory sectors read for runs of `run` values with `gap` values nobody wants in between.

    >>> [float(sector_efficiency(*pair)) for pair in ((12, 44), (4, 52), (4, 2))]
    [0.75, 0.5, 0.6666666666666666]
    """
    run, gap = np.asarray(run, float), np.maximum(gap, 0)
    whole = np.where(run + gap > SECTOR, run / SECTOR, run / (run + gap))
    return np.where(run > SECTOR, efficiency(run, SECTOR), whole)


def tile_sizes(extent: int) -> list[int]:
    """Sides a tile may have along `extent`: powers of two, the extent cut into up to seven parts, and 2 to 7.

    >>> tile_sizes(7)
    [1, 2, 3, 4, 5, 6, 7, 8]
    """
    powers = {2**k for k in range(8) if 2**k <= 2 * extent}
    few = min(extent, 8)
    return sorted(powers | {ceil(extent / i) for i in range(1, few)} | set(range(2, few)))


def _tiles(*extents: int) -> list[Numbers]:
    """All combinations of tile sizes, one flat array an extent."""
    grids = np.meshgrid(*(np.array(tile_sizes(extent), float) for extent in extents), indexing="ij")
    return [grid.ravel() for grid in grids]


# Kernels -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Conv:
    """A convolution with square maps of `size` output positions."""

    cin: int
    cout: int
    size: int
    kernel: int = 1
    stride: int = 1

    def traffic(self, channels: Any, rows: Any, columns: Any) -> Any:
        """Values that one tile reads from its input, of one image."""
        side = self.kernel - 1
        tiles_deep = np.ceil(channels / self.cout)
        return tiles_deep * self.cin * (rows + side) * self.stride * (columns + side) * self.stride

    @property
    def weights(self) -> int:
        return self.cin * self.cout * self.kernel**2

    @property
    def input(self) -> int:
        """Values of the whole input map of one image."""
        return self.cin * (self.size * self.stride) ** 2


def _joined(spec: HardwareSpec, memory: Any, arithmetic: Any) -> Any:
    return memory + arithmetic if spec.mode == "add" else np.maximum(memory, arithmetic)


@cache
def _static_conv(spec: HardwareSpec, conv: _Conv) -> float:
    c, h, w = _tiles(conv.cout, conv.size, conv.size)
    tiles = np.ceil(conv.cout / c) * np.ceil(conv.size / h) * np.ceil(conv.size / w)
    reduction = conv.cin * conv.kernel**2
    near = (c * reduction + spec.batch * (conv.traffic(c, h, w) + c * h * w)) * tiles
    far = conv.weights + spec.batch * (conv.input + conv.cout * conv.size**2)
    memory = far / spec.values_per_s + near / (spec.near_values_per_s * sector_efficiency(w, conv.size - w))
    filled = efficiency(c * h * w, PIPELINE * spec.lanes)
    arithmetic = c * h * w * reduction * spec.batch / spec.lane_rate / filled * np.ceil(tiles / spec.engines)
    return float(np.min(_joined(spec, memory, arithmetic))) + spec.launch_s


@cache
def _static_add(spec: HardwareSpec, channels: int, size: int) -> float:
    c, h, w = _tiles(channels, size, size)
    tiles = np.ceil(channels / c) * np.ceil(size / h) * np.ceil(size / w)
    filled = efficiency(c * h * w, PIPELINE * spec.lanes)
    memory = spec.batch * 3 * c * h * w * tiles / spec.values_per_s
    arithmetic = spec.batch * c * h * w / spec.lane_rate / filled * np.ceil(tiles / spec.engines)
    return float(np.min(_joined(spec, memory, arithmetic))) + spec.launch_s


def _patch_conv_times(spec: HardwareSpec, conv: _Conv, cell: int, compact: bool, tile: Any, patches: float) -> Any:
    """Time without launch of a convolution on `patches` cells, for one tile or many."""
    c, h, w, together = tile
    tiles = np.ceil(conv.cout / c) * np.ceil(cell / h) * np.ceil(cell / w)
    reduction = conv.cin * conv.kernel**2
    near = (c * reduction + spec.batch * patches * (conv.traffic(c, h, w) + c * h * w)) * tiles
    read = patches * conv.cin * ((cell + conv.kernel - 1) * conv.stride) ** 2 if compact else conv.input
    far = conv.weights + spec.batch * (read + patches * conv.cout * cell**2)
    filled = efficiency(c * h * w * spec.batch * together, PIPELINE * spec.lanes)
    waves = np.ceil(patches / together) * np.ceil(tiles / spec.engines)
    arithmetic = spec.batch * c * h * w * reduction * together / spec.lane_rate / filled * waves
    return _joined(spec, far / spec.values_per_s + near / spec.near_values_per_s, arithmetic)


@cache
def _patch_conv_tile(spec: HardwareSpec, conv: _Conv, cell: int, compact: bool) -> Tile:
    tiles = _tiles(conv.cout, cell, cell, 256)
    times = _patch_conv_times(spec, conv, cell, compact, tiles, _mean_patches(conv.size, cell))
    return _best(tiles, times)


def _patch_conv(spec: HardwareSpec, conv: _Conv, cell: int, rate: float, *, compact: bool) -> float:
    """A dynamic convolution; `compact` says that its input comes as patches, not as a map read by index."""
    tile = _patch_conv_tile(spec, conv, cell, compact)
    return float(_patch_conv_times(spec, conv, cell, compact, tile, _patches(conv.size, cell, rate))) + spec.launch_s


def _scatter_times(spec: HardwareSpec, channels: int, size: int, cell: int, tile: Any, patches: float) -> Any:
    c, h, w, together = tile
    tiles = np.ceil(channels / c) * np.ceil(cell / h) * np.ceil(cell / w)
    far = spec.batch * (patches * channels * cell**2 + 2 * channels * size**2)
    near = 3 * c * h * w * patches * tiles * spec.batch / sector_efficiency(w, cell - w)
    filled = efficiency(c * h * w * spec.batch * together, PIPELINE * spec.lanes)
    waves = np.ceil(patches / together) * spec.batch * np.ceil(tiles / spec.engines)
    arithmetic = c * h * w * together / spec.lane_rate / filled * waves
    return _joined(spec, far / spec.values_per_s + near / spec.near_values_per_s, arithmetic)


@cache
def _scatter_tile(spec: HardwareSpec, channels: int, size: int, cell: int) -> Tile:
    tiles = _tiles(channels, cell, cell, ceil(size / cell) ** 2)
    return _best(tiles, _scatter_times(spec, channels, size, cell, tiles, _mean_patches(size, cell)))


def _scatter_add(spec: HardwareSpec, channels: int, size: int, cell: int, rate: float) -> float:
    """The result of the active cells, added into a copy of the shortcut's map."""
    tile = _scatter_tile(spec, channels, size, cell)
    return float(_scatter_times(spec, channels, size, cell, tile, _patches(size, cell, rate))) + spec.launch_s


def _gather(spec: HardwareSpec, channels: int, size: int, cell: int, rate: float, halo: int) -> float:
    """A kernel of its own that copies active cells with their halo; the fused schedule has none."""
    patches, side = _patches(size, cell, rate), cell + 2 * halo
    moved = channels * patches * side**2
    near = moved / spec.near_values_per_s * (1 / sector_efficiency(side, size - side) + 1)
    return float(spec.batch * ((channels * size**2 + moved) / spec.values_per_s + near)) + spec.launch_s


def _patches(size: int, cell: int, rate: float) -> int:
    cells = ceil(size / cell) ** 2
    return ceil(rate * cells - 1e-9)  # (m / n) * n may be a little more than m


def _mean_patches(size: int, cell: int) -> float:
    return (ceil(size / cell) ** 2 + 1) / 2


def _best(tiles: Sequence[Numbers], times: Numbers) -> Tile:
    best = int(np.argmin(times))
    return tuple(float(side[best]) for side in tiles)


# Blocks --------------------------------------------------------------------------------------------------------------


def block_kernels(
    spec: HardwareSpec,
    *,
    channels: int,
    width: int,
    size: int,
    granularity: int | None = None,
    rate: float = 1.0,
    stride: int = 1,
    in_channels: int | None = None,
    schedule: Schedule = "best",
) -> dict[str, float]:
    """Predicted seconds of every kernel of a bottleneck block, in the order in which they run.

    Args:
        channels, width: of its output, and of its 3x3 convolution.
        size: side of its output map.
        granularity: S; None is the static block, for which `rate` and `schedule` mean nothing.
        rate: share of the cells that are active.
        stride: of the 3x3 convolution; a shortcut convolution comes with stride 2.
        in_channels: by default `channels`, and half of them with stride 2.
        schedule: "fused" has the masker in the first convolution, which is then dense, no gather and a scatter that
            adds; "best" also tries the masker apart with a first convolution on active cells, and takes the faster.
            "unfused" has a kernel for every step.

    Raises:
        ValueError: S does not divide `size`, or the rate is no share.

    >>> tx2 = HardwareSpec.jetson_tx2()
    >>> [name for name in block_kernels(tx2, channels=256, width=64, size=56, granularity=4, rate=0.5)]
    ['masker', 'conv1', 'conv2', 'conv3', 'scatter-add']
    """
    cin = in_channels or (channels if stride == 1 else channels // 2)
    conv1 = _Conv(cin, width, size * stride)
    conv2, conv3 = _Conv(width, width, size, 3, stride), _Conv(width, channels, size)
    after = {"shortcut": _static_conv(spec, _Conv(cin, channels, size, 1, stride))} if stride > 1 else {}
    if granularity is None:
        times = {f"conv{k}": _static_conv(spec, conv) for k, conv in enumerate((conv1, conv2, conv3), start=1)}
        return {**times, "add": _static_add(spec, channels, size), **after}
    s = granularity
    _check_cell(size, s, rate)
    masker = _static_conv(spec, _Conv(cin, 2, size * stride))
    sparse1 = _patch_conv(spec, conv1, s, rate, compact=False)
    third = {"conv3": _patch_conv(spec, conv3, s, rate, compact=True)}
    last = _scatter_add(spec, channels, size, s, rate)
    if schedule == "unfused":
        cell1, cell2 = _gather(spec, cin, conv1.size, s, rate, 0), _gather(spec, width, conv1.size, s, rate, 1)
        compact1 = _patch_conv(spec, conv1, s, rate, compact=True)
        compact2 = _patch_conv(spec, conv2, s, rate, compact=True)
        start = {"masker": masker, "gather 1": cell1, "conv1": compact1, "gather 2": cell2, "conv2": compact2}
        return {**start, **third, "scatter": last, "add": _static_add(spec, channels, size), **after}
    both = _static_conv(spec, _Conv(cin, width + 1, conv1.size))
    apart = {"masker": masker, "conv1": sparse1}
    fused = schedule == "fused" or both <= masker + sparse1
    first = {"masker + conv1": both} if fused else apart
    return {**first, "conv2": _patch_conv(spec, conv2, s, rate, compact=False), **third, "scatter-add": last, **after}


def predict_block(
    spec: HardwareSpec,
    *,
    channels: int,
    width: int,
    size: int,
    granularity: int | None = None,
    rate: float = 1.0,
    stride: int = 1,
    batch: int | None = None,
    in_channels: int | None = None,
) -> float:
    """Predicted seconds of a bottleneck block for a whole batch, under the better of the two published schedules.

    The arguments are those of `block_kernels`; `granularity` None is the static block, `batch` None the device's.

    >>> v100 = HardwareSpec.v100()
    >>> static = predict_block(v100, channels=256, width=64, size=56)
    >>> pixels = predict_block(v100, channels=256, width=64, size=56, granularity=1, rate=0.25)
    >>> round(1e6 * static, 1), round(pixels / static, 3)
    (7863.3, 1.045)
    """
    spec = spec if batch is None else spec.with_batch(batch)
    times = block_kernels(
        spec,
        channels=channels,
        width=width,
        size=size,
        granularity=granularity,
        rate=rate,
        stride=stride,
        in_channels=in_channels,
    )
    return sum(times.values())


def predict_skipping(spec: HardwareSpec, *, channels: int, width: int, size: int, rate: float) -> float:
    """Predicted mean seconds of a block that is run or skipped as a whole: the masker always, the block with `rate`.

    This is the limit S = size, which `predict_block` gets wrong: there one patch out of one is computed at every rate.
    """
    _check_cell(size, size, rate)
    masker = _static_conv(spec, _Conv(channels, 2, size))
    return masker + rate * predict_block(spec, channels=channels, width=width, size=size)


def _check_cell(size: int, granularity: int, rate: float) -> None:
    if granularity < 1 or size % granularity:
        raise ValueError(f"granularity: got {granularity}, expected a divisor of the map's side {size}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: got {rate}, expected a share between 0 and 1")


# Networks ------------------------------------------------------------------------------------------------------------


def stage_blocks(stage: int, depth: int) -> list[dict[str, Any]]:
    """Arguments for `predict_block` of the `depth` blocks of a ResNet's stage (from 0), for images of 224 pixels."""
    channels, size = 256 << stage, STAGE_MAPS[stage]
    inner = {"channels": channels, "width": channels // 4, "size": size}
    first = {**inner, "in_channels": 64} if stage == 0 else {**inner, "stride": 2}
    return [first, *[inner] * (depth - 1)]


def predict_stage(
    spec: HardwareSpec, stage: int, depth: int, *, granularity: int | None = None, rate: float = 1.0
) -> float:
    """Predicted seconds of one stage of a ResNet; `granularity` None is the static one."""
    return sum(predict_block(spec, granularity=granularity, rate=rate, **block) for block in stage_blocks(stage, depth))


def predict_network(
    spec: HardwareSpec, *, depth: Sequence[int], granularity: Sequence[int] | None = None, rate: float = 1.0
) -> float:
    """Predicted seconds of the residual blocks of a ResNet for a batch of 224x224 images.

    Args:
        depth: blocks a stage, (3, 4, 6, 3) for ResNet-50 and (3, 4, 23, 3) for ResNet-101.
        granularity: one S a stage; None is the static network.
        rate: the same in every block.

    >>> round(1e3 * predict_network(HardwareSpec.v100(), depth=(3, 4, 6, 3)), 2)
    116.21
    """
    _check_stages("depth", depth)
    if granularity is not None:
        _check_stages("granularity", granularity)
    cells = granularity or (None,) * len(STAGE_MAPS)
    pairs = enumerate(zip(depth, cells, strict=True))
    return sum(predict_stage(spec, stage, blocks, granularity=s, rate=rate) for stage, (blocks, s) in pairs)


def choose_granularity(
    spec: HardwareSpec, *, depth: Sequence[int], rate: float, candidates: Sequence[int] = CANDIDATES
) -> tuple[tuple[int, ...], float, list[Mapping[int, float]]]:
    """The granularity of every stage at which its inner blocks, those without stride, are predicted to be fastest.

    Args:
        depth: blocks a stage.
        rate: share of active cells, the same everywhere.
        candidates: S to try; left out in a stage where they do not divide the map or are the whole map, which is layer
            skipping and priced by `predict_skipping`.

    Returns:
        granularity, one S a stage (the smaller where two are equal); predicted seconds of the network's blocks with it;
        and what was compared: for each stage, by S, the inner block's time over that of the static one.

    >>> devices = (HardwareSpec.v100(), HardwareSpec.jetson_tx2())
    >>> [choose_granularity(spec, depth=(3, 4, 23, 3), rate=0.5)[0] for spec in devices]
    [(8, 4, 7, 1), (4, 2, 2, 1)]
    """
    _check_stages("depth", depth)
    table: list[Mapping[int, float]] = []
    for stage, size in enumerate(STAGE_MAPS):
        cells = sorted(s for s in set(candidates) if s < size and size % s == 0)
        if not cells:
            raise ValueError(f"candidates: got {tuple(candidates)}, expected a divisor of {size} among them")
        block = stage_blocks(stage, 2)[-1]
        static = predict_block(spec, **block)
        table.append({s: predict_block(spec, granularity=s, rate=rate, **block) / static for s in cells})
    chosen = tuple(min(ratios, key=lambda s: ratios[s]) for ratios in table)
    return chosen, predict_network(spec, depth=depth, granularity=chosen, rate=rate), table


def break_even(spec: HardwareSpec, *, channels: int, width: int, size: int, granularity: int) -> float:
    """The largest share of active cells at which the block is predicted to be faster than the static one; 0 if none.

    Shares are numbers of cells over all cells, so the answer is one of them.
    """
    cells = (size // granularity) ** 2
    block = {"channels": channels, "width": width, "size": size}
    static = predict_block(spec, **block)
    low, high = 0, cells + 1  # time never falls as cells are added
    while high - low > 1:
        middle = (low + high) // 2
        faster = predict_block(spec, granularity=granularity, rate=middle / cells, **block) < static
        low, high = (middle, high) if faster else (low, middle)
    return low / cells


def _check_stages(name: str, values: Sequence[int]) -> None:
    if len(values) != len(STAGE_MAPS):
        raise ValueError(f"{name}: got {len(values)} numbers, expected one for each of {len(STAGE_MAPS)} stages")
