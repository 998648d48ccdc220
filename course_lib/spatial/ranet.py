"""RANet: sub-networks from coarse to fine, so that only an image that needs fine pixels is looked at finely.

Paper: Resolution Adaptive Networks for Efficient Inference (arXiv 2003.07326, CVPR 2020).
Kept: sub-networks ("lanes" here) that run one after the other, coarse to fine, each fusing every layer of the one
before; exits in every lane; every published configuration, exact in parameters, operations and block shapes.
Different from the authors' evaluation: `infer` really drops finished images, together with their stored features,
and never starts a lane nobody needs. One layer a block works, where the released code crashes.
Initialisation as released: He normal by fan-out, except for the stem, which keeps PyTorch's default.

How the lanes are run. A dense layer appends its new channels, so the inputs of all layers of a block are prefixes of
one map. That map is all a block leaves for the lane after it, and a second one where its last layer halves the
resolution. The state is a flat list: the features of the lane in progress, the stem's maps of the lanes to come,
and the maps left behind by the lane before; a map is dropped as soon as it has been fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.decision import AdaptiveInference
from course_lib.decision.early_exit import CostConvention, State
from course_lib.instance.msdnet import Head, bottleneck, check_images, check_side, conv_bn_relu, operations

GrowthMode = Literal["even", "linear"]


@dataclass(frozen=True)
class BlockPlan:
    """What one block is, by the rules of the paper's section 3 and its code."""

    layers: int
    fusion: bool  #: fuses the block of the lane before; otherwise plain dense layers, with an exit behind them
    shrinks: bool  #: the last layer halves the resolution
    squeezes: bool  #: ends with a transition to half the channels


@dataclass(frozen=True)
class RANetConfig:
    """The numbers of a resolution adaptive network; the published ones are `RANet.cifar` and `RANet.imagenet`.

    All lists run coarse to fine, in the order in which the lanes run: the reverse of MSDNet's.
    """

    scales: tuple[int, ...]  #: of each lane: 1 is the coarsest resolution, 2 twice as fine, ...; lanes may share one
    factors: tuple[int, ...]  #: widening of each lane, and of its bottlenecks
    channels: int  #: of the stem at factor 1
    growth: int  #: channels a layer adds at factor 1
    step: int  #: layers of the first block
    growth_mode: GrowthMode  #: "even": all blocks have `step` layers; "linear": each plain block `step` more
    blocks: int  #: of the first lane
    block_step: int  #: plain blocks, and so exits, of every later lane
    classes: int
    in_channels: int = 3
    compress: float = 0.25  #: share of a fusion layer's new channels that come from the lane before
    reduction: float = 0.5  #: share of the channels a transition keeps
    head: tuple[int, ...] = (128, 128)  #: widths of an exit's stride-2 convolutions; empty: two as wide as their input
    size: int | None = 32  #: side of the images in pixels; None: any multiple of 4 from 8 up
    large_stem: bool = False  #: 7x7 stride 2 and max pooling, for images of 224 pixels
    he_init: bool = True  #: as released; False: PyTorch's smaller weights, which behind BatchNorm learn faster

    def __post_init__(self) -> None:
        for name in ("channels", "growth", "step", "blocks", "block_step", "classes", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.growth_mode not in ("even", "linear"):
            raise ValueError(f"growth_mode: got {self.growth_mode!r}, expected 'even' or 'linear'")
        scales, factors, lanes = self.scales, self.factors, len(self.scales)
        if not scales or scales[0] != 1 or any(fine - coarse not in (0, 1) for coarse, fine in pairwise(scales)):
            wanted = "1 first, then the same or one more each time, such as (1, 2, 3)"
            raise ValueError(f"scales: got {scales}, expected one for each lane, coarse to fine: {wanted}")
        if len(factors) != lanes:
            raise ValueError(f"factors: got {factors}, expected one for each of {lanes} scales, coarse to fine")
        if min(factors) < 1 or any(fine > coarse for coarse, fine in pairwise(factors)):
            wanted = "coarse to fine, from the widest lane to the narrowest, such as (4, 2, 1)"
            raise ValueError(f"factors: got {factors}, expected {wanted}")
        if not 0 < self.compress < 1 or not 0 < self.reduction <= 1:
            got = f"{self.compress}, {self.reduction}"
            raise ValueError(f"compress, reduction: got {got}, expected shares above 0, below 1 and at most 1")
        if min(self.head, default=1) < 1:
            raise ValueError(f"head: got {self.head}, expected widths of at least 1")
        if lanes > 1 and int(self.compress * self.growth * factors[-1]) < 1:
            wanted = f"at least {1 / self.compress:g}, so that one of them can come from the lane before"
            raise ValueError(f"growth: got {self.growth * factors[-1]} channels in the last lane, expected {wanted}")

    def plan(self) -> tuple[tuple[BlockPlan, ...], ...]:
        """For each lane, coarse to fine, its blocks in order."""
        lanes: list[tuple[BlockPlan, ...]] = []
        ends = [0]  # blocks in each lane so far; a lane shrinks where the lanes before it ended
        plain = 0
        for scale in self.scales:
            number = self.blocks + self.block_step * len(lanes)
            shrinks = ends[len(ends) - (scale - 1) :]
            squeezes = [i * number // scale for i in range(1, scale)]
            lane = []
            for block in range(1, number + 1):
                fusion = block <= ends[-1]
                plain += not fusion
                layers = self.step * (1 if self.growth_mode == "even" else plain)
                if fusion:
                    layers = lanes[-1][block - 1].layers
                lane.append(BlockPlan(layers, fusion, block in shrinks, block in squeezes))
            ends.append(number)
            lanes.append(tuple(lane))
        return tuple(lanes)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corner pixels on corner pixels, up and down alike."""
    same = x.shape[2:] == like.shape[2:]
    return x if same else F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


class Layer(nn.Module):
    """One dense layer; in a fusion block a share of its new channels is computed from the lane before.

    Args:
        own, low: channels of its input and of the input of the layer it fuses (None: a plain layer).
        growth: channels it adds, a share `compress` of them from the lane before; shrinks: halve the resolution.
        factors: of its own lane and of the lane before.
    """

    def __init__(
        self, own: int, low: int | None, growth: int, factors: tuple[int, int], compress: float, *, shrinks: bool
    ) -> None:
        super().__init__()
        fused = 0 if low is None else int(compress * growth)
        self.own = bottleneck(own, growth - fused, factors[0], stride=2 if shrinks else 1)
        self.low = None if low is None else bottleneck(low, fused, factors[1])
        self.reads = low

    def forward(self, x: Tensor, low: Tensor | None) -> Tensor:
        """x: (N, C, H, W), low: (N, >= C_low, h, w) -> (N, C + growth, H', W')."""
        # x_{i+1} = [ resize(x_i), resize(low path(low_i)), own path(x_i) ], resized to the own path's result
        new = self.own(x)
        if self.low is None:
            return torch.cat([x, new], 1)
        if low is None:
            raise ValueError("low: got None, expected the state of the lane before, as this layer fuses it")
        fused = self.low(low[:, : self.reads])
        return torch.cat([_resize(x, new), _resize(fused, new), new], 1)


class Block(nn.Module):
    """The layers up to an exit, or up to the end of a block of the lane before. A hook on it sees its rows.

    Args:
        plan: what it is; channels: of its input; low: the block it fuses, None for a plain block.
        config: of the whole network; lane: counted from 0, the coarsest.
    """

    def __init__(self, plan: BlockPlan, channels: int, low: Block | None, config: RANetConfig, lane: int) -> None:
        super().__init__()
        growth = config.growth * config.factors[lane]
        factors = (config.factors[lane], config.factors[max(lane - 1, 0)])
        self.plan = plan
        self.widths = [channels + i * growth for i in range(plan.layers + 1)]  #: channels before each layer, and after
        self.layers = nn.ModuleList()
        for i, own in enumerate(self.widths[:-1]):
            below = None if low is None else low.widths[i]
            shrinks = plan.shrinks and i == plan.layers - 1
            self.layers.append(Layer(own, below, growth, factors, config.compress, shrinks=shrinks))
        self.channels = self.widths[-1]
        self.closing = None
        if low is not None:  # the state after the last layer of the block below, in a quarter of this one's channels
            fused = int(config.compress * self.channels)
            self.closing = nn.Sequential(*conv_bn_relu(low.widths[-1], fused, 1))
            self.channels += fused
        self.squeeze = None
        if plan.squeezes:
            wide, self.channels = self.channels, int(config.reduction * self.channels)
            self.squeeze = nn.Sequential(*conv_bn_relu(wide, self.channels, 1))

    def forward(self, x: Tensor, low: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run the block.

        Args:
            x: (N, C, H, W), what the block before it in the lane gave.
            low: what the fused block kept; empty for a plain block.

        Returns:
            the block's output, and what it keeps for the lane after it: the state after its last layer, *before* the
            closing copy and the transition, and in front of it, where that layer shrinks, the state before the layer.
        """
        for layer in self.layers:
            before, x = x, layer(x, low[0] if low else None)
        kept = [before, x] if self.plan.shrinks else [x]
        if self.closing is not None:
            x = torch.cat([x, _resize(self.closing(low[-1]), x)], 1)
        if self.squeeze is not None:
            x = self.squeeze(x)
        return x, kept

    def operations(self, side: int, low: Sequence[int], *, published: bool) -> tuple[int, list[int]]:
        """Operations on a map of `side` pixels, and the sides of the maps it keeps; `low`: those of the fused block."""
        count = partial(operations, published=published)
        total, after = 0, side
        layers: Any = self.layers
        for layer in layers:
            spent, after = count(layer.own, side)
            total += spent + (count(layer.low, low[0])[0] if layer.low is not None else 0)
        if self.closing is not None:
            total += count(self.closing, low[-1])[0]
        if self.squeeze is not None:
            total += count(self.squeeze, after)[0]
        return total, [side, after] if self.plan.shrinks else [after]


@dataclass(frozen=True)
class CostParts:
    """Where the operations of one image go, in order of execution."""

    stem: tuple[int, ...]  #: of the stem's convolutions, fine to coarse: every image pays all of them
    blocks: tuple[tuple[int, ...], ...]  #: lane by lane, block by block
    heads: tuple[int, ...]  #: of each exit
    lanes: tuple[int, ...]  #: the lane of each exit, from 0
    ends: tuple[int, ...]  #: for each exit how many blocks of its lane it stands behind

    def spent(self, k: int) -> tuple[int, int, int]:
        """Spent by an answer at exit k (from 0) on stem, blocks and heads: lanes before it in full."""
        lane = self.lanes[k]
        blocks = sum(map(sum, self.blocks[:lane])) + sum(self.blocks[lane][: self.ends[k]])
        return sum(self.stem), blocks, sum(self.heads[: k + 1])


class RANet(AdaptiveInference, nn.Module):
    """Resolution adaptive network with K exits.

    Args:
        config: the numbers; see the named constructors.

    `lanes[h]` are the blocks of sub-network h, coarsest first, each a module that sees the images still there;
    `heads` are the K exits in order.

    >>> model = RANet.tiny().eval()
    >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
    [(2, 10), (2, 10), (2, 10), (2, 10)]
    >>> model.infer(torch.zeros(2, 3, 16, 16), [0.0, 0.0, 0.0, 0.0]).exit_index.tolist()
    [0, 0]
    """

    def __init__(self, config: RANetConfig) -> None:
        super().__init__()
        self.config = config
        self.classes = config.classes
        self.stem = _stem(config)
        self.lanes = nn.ModuleList()
        self.heads = nn.ModuleList()
        self._due: list[list[tuple[int, int]]] = [[]]  # (lane, block) to run for each exit
        below: list[Block] = []
        for h, plans in enumerate(config.plan()):
            lane: list[Block] = []
            channels = config.channels * config.factors[h]
            for b, plan in enumerate(plans):
                lane.append(Block(plan, channels, below[b] if plan.fusion else None, config, h))
                channels = lane[-1].channels
                self._due[-1].append((h, b))
                if not plan.fusion:
                    self.heads.append(Head(channels, config.head, config.classes))
                    self._due.append([])
            self.lanes.append(nn.ModuleList(lane))
            below = lane
        self.exits = len(self.heads)
        self._slots = _slots(config)
        self._parts: dict[tuple[int, bool], CostParts] = {}
        if config.he_init:
            _initialise(self.lanes, self.heads)

    @classmethod
    def cifar(
        cls, classes: int, *, scales: Sequence[int] = (1, 2, 3), factors: Sequence[int] | None = None,
        channels: int = 16, growth: int = 6, step: int = 4, growth_mode: GrowthMode = "even",
        blocks: int = 2, block_step: int = 2, in_channels: int = 3,
    ) -> RANet:  # fmt: skip
        """The networks for 32x32 images. Published: the defaults; scales (1, 2, 3, 3); and step 2, "linear".

        `growth` is the growth rate; `scales` and `factors` run coarse to fine. `factors` None: 4-2-1 or 4-2-1-1.
        """
        if factors is None:
            if len(scales) not in (3, 4):
                raise ValueError(f"factors: got None with {len(scales)} scales, expected one for each, coarse to fine")
            factors = (4, 2, 1, 1)[: len(scales)]
        layout = (channels, growth, step, growth_mode, blocks, block_step)
        return cls(RANetConfig(tuple(scales), tuple(factors), *layout, classes, in_channels))

    @classmethod
    def imagenet(
        cls, *, channels: int, factors: Sequence[int], scales: Sequence[int] = (1, 2, 3, 4),
        growth: int = 16, step: int = 8, growth_mode: GrowthMode = "even", classes: int = 1000,
    ) -> RANet:  # fmt: skip
        """The networks for 224x224 images. The published figures are those of 64 channels and factors 4-2-2-1."""
        layout = (channels, growth, step, growth_mode, 2, 2)
        return cls(RANetConfig(tuple(scales), tuple(factors), *layout, classes, head=(), size=224, large_stem=True))

    @classmethod
    def tiny(cls, classes: int = 10, *, in_channels: int = 3) -> RANet:
        """The chapter's network: 2 lanes, 4 exits, blocks of 1 | 1-2-3-4 layers, 163,040 parameters."""
        options: dict[str, Any] = {"head": (32,), "size": None, "he_init": False}
        return cls(RANetConfig((1, 2), (2, 2), 8, 8, 1, "linear", 1, 3, classes, in_channels, **options))

    def start(self, x: Tensor) -> State:
        """The stem: maps for all lanes, each a convolution of the finer one, kept until its lane runs."""
        check_images(x, self.config.in_channels, self.config.size)
        maps: list[Tensor | None] = []
        for conv in self.stem:
            x = conv(x)
            maps.append(x)
        return [*reversed(maps), *[None] * (self._slots[-1][-1].stop - len(maps))]

    def advance(self, state: State, k: int) -> Tensor:
        """Run the blocks up to exit k on `state`, in place: of a new lane all fusion blocks.  Logits (N, classes)."""
        self._run(state, k)
        return self.heads[k](state[0])

    def forward(self, x: Tensor) -> list[Tensor]:
        """All exits, for training.  x: (N, C, H, W) -> K logits (N, classes) in order of execution."""
        return list(self.anytime(x))

    def at_exit(self, x: Tensor, k: int = -1) -> Tensor:
        """Logits (N, classes) of one exit alone, as a static network that ends there: no other head is run."""
        k = range(self.exits)[k]
        state = self.start(x)
        for earlier in range(k):
            self._run(state, earlier)
        return self.advance(state, k)

    def exit_costs(self, size: int, *, convention: CostConvention = "macs") -> list[float]:
        """Cumulative cost a sample at each exit, stem and earlier exits' heads included, for size x size pixels.

        "macs": multiply-adds of convolutions and linear layers. "published": the authors' counter, which adds one
        operation an element for ReLU, the elements read by pooling and the classifiers' biases. "lazy": the same as
        "macs", because an exit depends on every block that stands before it. Normalisation and resizing count 0.
        """
        parts = self.cost_parts(size, convention=convention)
        return [float(sum(parts.spent(k))) for k in range(self.exits)]

    def cost_parts(self, size: int, *, convention: CostConvention = "macs") -> CostParts:
        """The same costs taken apart into stem, blocks and heads."""
        if convention not in ("macs", "published", "lazy"):
            raise ValueError(f"convention: got {convention!r}, expected 'macs', 'published' or 'lazy'")
        check_side(size, size, self.config.size)
        published = convention == "published"
        if (size, published) not in self._parts:
            self._parts[size, published] = self._count(size, published)
        return self._parts[size, published]

    @property
    def blocks(self) -> list[Block]:
        """All blocks in order of execution, across lanes."""
        lanes: Any = self.lanes
        return [block for lane in lanes for block in lane]

    def blocks_before(self, k: int) -> list[tuple[int, int]]:
        """The (lane, block), both from 0, that run between exit k - 1 and exit k."""
        return list(self._due[k])

    def _run(self, state: State, k: int) -> None:
        lanes: Any = self.lanes
        for h, b in self._due[k]:
            if h and not b:  # a new lane starts from the stem's map of its resolution
                state[0], state[h] = state[h], None
            block = lanes[h][b]
            below = self._slots[h - 1][b] if block.plan.fusion else slice(0)
            state[0], kept = block(state[0], state[below])
            state[below] = [None] * len(state[below])
            if h + 1 < len(lanes):
                state[self._slots[h][b]] = kept

    def _count(self, size: int, published: bool) -> CostParts:
        stem, sides, side = [], [], size
        convs: Any = self.stem
        for conv in convs:
            spent, side = operations(conv, side, published=published)
            stem.append(spent)
            sides.append(side)
        blocks: list[tuple[int, ...]] = []
        heads: list[int] = []
        places, kept = [], list[list[int]]()
        lanes: Any = self.lanes
        for h, lane in enumerate(lanes):
            below, kept, costs = kept, [], []
            side = sides[-1 - h]
            for b, block in enumerate(lane):
                spent, left = block.operations(side, below[b] if block.plan.fusion else [], published=published)
                costs.append(spent)
                kept.append(left)
                side = left[-1]
                if not block.plan.fusion:
                    head: Any = self.heads[len(heads)]
                    heads.append(head.operations(side, published=published))
                    places.append((h, b + 1))
            blocks.append(tuple(costs))
        on, ends = zip(*places, strict=True)
        return CostParts(tuple(stem), tuple(blocks), tuple(heads), on, ends)


def _stem(config: RANetConfig) -> nn.ModuleList:
    """Fine to coarse, as it is computed: one convolution for each lane, strided where the resolution changes."""
    width = config.channels * config.factors[-1]
    if config.large_stem:
        # with a bias, though a normalisation follows: so do the authors, and their parameter counts contain it
        conv = nn.Conv2d(config.in_channels, width, 7, stride=2, padding=3)
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        convs = [nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), pool)]
    else:
        convs = [nn.Sequential(*conv_bn_relu(config.in_channels, width, 3))]
    widths = [config.channels * factor for factor in config.factors]
    for h in reversed(range(len(widths) - 1)):
        stride = 2 if config.scales[h] < config.scales[h + 1] else 1
        convs.append(nn.Sequential(*conv_bn_relu(widths[h + 1], widths[h], 3, stride=stride)))
    return nn.ModuleList(convs)


def _slots(config: RANetConfig) -> list[list[slice]]:
    """Where in the state each block's kept maps stand: lane by lane, behind the features and the stem's maps."""
    free = len(config.scales)
    lanes: list[list[slice]] = []
    for plans in config.plan():
        last = len(lanes) == len(config.scales) - 1  # nobody fuses the last lane
        lanes.append([slice(free, free := free + (0 if last else 1 + plan.shrinks)) for plan in plans])
    return lanes


def _initialise(*parts: nn.Module) -> None:
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # drawing normals for no storage is slow
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
