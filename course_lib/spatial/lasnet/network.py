"""LASNet: residual networks that decide, block by block, which patches of the map to compute.

Paper: Latency-aware Spatial-wise Dynamic Networks (arXiv 2210.06223, NeurIPS 2022).
Kept: a masker a block that decides in cells of S x S positions, the mask after the last convolution, the halo of the
first one, the published ResNets and RegNets with their granularities, the count of multiply-adds that is trained on.
Different: the authors' code multiplies dense results by the mask; `infer` computes the active positions only, on
`course_lib.kernels`, with BatchNorm folded. Squeeze-and-excitation in RegNetY pools over the active positions, in
training and in inference: the published code pools over all of them, which nobody can who computes some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from course_lib import kernels
from course_lib.spatial.lasnet.block import BlockMacs, MaskedBlock, conv_bn, expected_halo


@dataclass(frozen=True, eq=False)
class LASNetOutput:
    """What a forward pass gives; shares and multiply-adds are means over the batch, the rates carry gradients."""

    logits: Tensor  #: (N, classes)
    rates: Tensor  #: (L,) share of the cells that are active in each of L blocks
    dilated_rates: Tensor  #: (L,) share of the positions of its first convolution; no gradient, as published
    macs: Tensor  #: () multiply-adds of the network per image
    block_rates: Tensor  #: (L,) multiply-adds of each block over those with everything active
    rate: Tensor  #: () the same for the network
    masks: tuple[Tensor, ...]  #: L masks of cells (N, 1, rows, columns), 0 or 1


@dataclass(frozen=True)
class Stage:
    """One stage of a residual network: its first block has the stride, and S is the same in all of them."""

    depth: int
    width: int  #: of the 3x3 convolutions
    channels: int  #: of the blocks' outputs
    stride: int
    granularity: int
    groups: int = 1
    squeeze: float = 0.0  #: channels inside squeeze-and-excitation, as a share of the block's input channels


class LASNet(nn.Module):
    """A residual network whose blocks compute the patches they choose.

    Args:
        stages: from fine to coarse.
        stem: "resnet" (7x7 and max pooling, for 224 pixels), "regnet" (3x3, 32 channels) or "tiny" (3x3).
        classes: number of classes.
        target_rate: share of the static network's multiply-adds to train for; the losses read it.
        in_channels: of the images.
        bias: of the maskers, see `SpatialMasker`.
        pool: what summarises the last map.

    >>> model = LASNet.tiny().eval()
    >>> out = model.infer(torch.zeros(2, 1, 32, 32))
    >>> tuple(out.logits.shape), out.rates.tolist()
    ((2, 4), [1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        stem: Literal["resnet", "regnet", "tiny"],
        classes: int,
        target_rate: float,
        in_channels: int = 3,
        bias: float = 5.0,
        pool: Literal["avg", "max"] = "avg",
    ) -> None:
        super().__init__()
        if not 0 < target_rate <= 1:
            raise ValueError(f"target_rate: got {target_rate}, expected a share above 0 and at most 1")
        if classes < 1:
            raise ValueError(f"classes: got {classes}, expected at least 1")
        self.plan, self.classes, self.target_rate, self.pool = tuple(stages), classes, target_rate, pool
        channels = {"resnet": 64, "regnet": 32, "tiny": stages[0].channels}[stem]
        kernel = 7 if stem == "resnet" else 3
        self.stem = nn.Sequential(*conv_bn(in_channels, channels, kernel, stride=2), nn.ReLU(inplace=True))
        if stem == "resnet":
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.stages = nn.ModuleList()
        for stage in self.plan:
            blocks = []
            for i in range(stage.depth):
                blocks.append(
                    MaskedBlock(
                        channels,
                        stage.width,
                        stage.channels,
                        granularity=stage.granularity,
                        stride=stage.stride if i == 0 else 1,
                        groups=stage.groups,
                        squeeze=round(stage.squeeze * channels),
                        bias=bias,
                    )
                )
                channels = stage.channels
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Linear(channels, classes)

    @classmethod
    def resnet50(
        cls, *, granularity: Sequence[int] = (4, 4, 2, 1), target_rate: float = 0.5, classes: int = 1000
    ) -> LASNet:
        """ResNet-50 with 16 maskers: 25,583,304 parameters, 26,272 of them in the maskers."""
        return cls._resnet((3, 4, 6, 3), granularity, target_rate, classes)

    @classmethod
    def resnet101(
        cls, *, granularity: Sequence[int] = (4, 4, 2, 1), target_rate: float = 0.5, classes: int = 1000
    ) -> LASNet:
        """ResNet-101 with 33 maskers: 44,610,282 parameters."""
        return cls._resnet((3, 4, 23, 3), granularity, target_rate, classes)

    @classmethod
    def _resnet(cls, depths: Sequence[int], granularity: Sequence[int], target_rate: float, classes: int) -> LASNet:
        cells = _one_a_stage(granularity, len(depths))
        stages = [
            Stage(depth, 64 << i, 256 << i, 1 if i == 0 else 2, s)
            for i, (depth, s) in enumerate(zip(depths, cells, strict=True))
        ]
        return cls(stages, stem="resnet", classes=classes, target_rate=target_rate)

    @classmethod
    def regnety_400mf(
        cls, *, granularity: Sequence[int] = (4, 4, 2, 1), target_rate: float = 0.5, classes: int = 1000
    ) -> LASNet:
        """RegNetY-400MF: 16 blocks, groups of 8 channels, squeeze-and-excitation."""
        return cls._regnet((1, 3, 6, 6), (48, 104, 208, 440), 8, granularity, target_rate, classes)

    @classmethod
    def regnety_800mf(
        cls, *, granularity: Sequence[int] = (4, 4, 2, 1), target_rate: float = 0.5, classes: int = 1000
    ) -> LASNet:
        """RegNetY-800MF: 14 blocks, groups of 16 channels, squeeze-and-excitation."""
        return cls._regnet((1, 3, 8, 2), (64, 144, 320, 784), 16, granularity, target_rate, classes)

    @classmethod
    def _regnet(
        cls,
        depths: Sequence[int],
        channels: Sequence[int],
        group_width: int,
        granularity: Sequence[int],
        target_rate: float,
        classes: int,
    ) -> LASNet:
        cells = _one_a_stage(granularity, len(depths))
        stages = [
            Stage(depth, wide, wide, 2, s, groups=wide // group_width, squeeze=0.25)
            for depth, wide, s in zip(depths, channels, cells, strict=True)
        ]
        return cls(stages, stem="regnet", classes=classes, target_rate=target_rate, bias=10.0)

    @classmethod
    def tiny(
        cls,
        classes: int = 4,
        *,
        blocks: int = 3,
        granularity: int = 4,
        target_rate: float = 0.5,
        in_channels: int = 1,
        channels: int = 16,
    ) -> LASNet:
        """The chapter's network, trained in seconds: maps of 16x16 for images of 32x32, one stage, max pooling."""
        stage = Stage(blocks, channels // 2, channels, 1, granularity)
        return cls([stage], stem="tiny", classes=classes, target_rate=target_rate, in_channels=in_channels, pool="max")

    @property
    def blocks(self) -> list[MaskedBlock]:
        """All L blocks in order, across stages."""
        stages: Any = self.stages
        return [block for stage in stages for block in stage]

    def forward(
        self,
        x: Tensor,
        tau: float = 1.0,
        *,
        masks: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> LASNetOutput:
        """Everything computed and multiplied by the masks: for training, and what `infer` must equal.

        Args:
            x: (N, C, H, W), square.
            tau: temperature of the Gumbel noise; in eval mode there is none.
            masks: L masks of cells (N, 1, rows, columns) to use in place of the maskers'.
            generator: of the noise.
        """
        side = self._check(x)
        given = self._given(masks)
        chosen, dilated = [], []
        h = self.stem(x)
        for k, block in enumerate(self.blocks):
            mask = block.masker(h, tau, generator=generator) if given is None else given[k]
            mask = mask.to(h.dtype)
            chosen.append(mask)
            dilated.append(block.active(mask, h)[1].mask)
            h = block.dense(h, mask)
        return self._output(h, chosen, dilated, side)

    @torch.inference_mode()
    def infer(
        self, x: Tensor, *, backend: kernels.Backend = "auto", masks: Sequence[Tensor] | None = None
    ) -> LASNetOutput:
        """The same answer at the active positions only: work follows the masks.

        Args:
            x: (N, C, H, W), square.
            backend: of `kernels.masked_conv2d`.
            masks: as in `forward`.

        Raises:
            RuntimeError: the model is in training mode.
        """
        h, cells, halos = self._sparse(x, backend, masks)
        return self._output(h, [one.mask.to(h.dtype) for one in cells], [one.mask for one in halos], x.shape[2])

    @torch.inference_mode()
    def classify(self, x: Tensor, *, backend: kernels.Backend = "auto") -> Tensor:
        """The logits (N, classes) of `infer`, without counting what they cost: nothing waits for a GPU."""
        return self._classes(self._sparse(x, backend, None)[0])

    def _sparse(
        self, x: Tensor, backend: kernels.Backend, masks: Sequence[Tensor] | None
    ) -> tuple[Tensor, list[kernels.ActiveSet], list[kernels.ActiveSet]]:
        """The last map, and of every block the active cells and their halo."""
        if self.training:
            raise RuntimeError("infer: the model is in training mode; call model.eval() first")
        self._check(x)
        given = self._given(masks)
        chosen, dilated = [], []
        h = self.stem(x).contiguous(memory_format=torch.channels_last)
        for k, block in enumerate(self.blocks):
            cells, halo = block.active(block.masker(h, 1.0) if given is None else given[k], h)
            chosen.append(cells)
            dilated.append(halo)
            h = block.sparse(h, cells, halo, backend=backend)
        return h, chosen, dilated

    def block_macs(self, size: int) -> list[BlockMacs]:
        """The bill of each block for images of `size` x `size` pixels; ValueError where S does not divide a map."""
        side = self._side(size)
        self._check_maps(side)
        bills = []
        for block in self.blocks:
            bills.append(block.macs(side))
            side //= block.stride
        return bills

    def macs(
        self,
        size: int,
        *,
        rate: float | Sequence[float] | None = None,
        dilated_rate: float | Sequence[float] | None = None,
        convention: Literal["macs", "published"] = "macs",
    ) -> float:
        """Multiply-adds of one image of `size` x `size` pixels.

        Args:
            size: side of the images.
            rate: share of active positions, one number or one a block; None is the static network without maskers.
            dilated_rate: share of positions in their halo; None is what `expected_halo` says of random cells.
            convention: "macs" counts convolutions and linear layers, "published" also the operations of pooling and
                the classifier's bias, and no maskers, as the authors' counter.
        """
        if convention not in ("macs", "published"):
            raise ValueError(f"convention: got {convention!r}, expected 'macs' or 'published'")
        bills = self.block_macs(size)
        published = convention == "published"
        total = float(self._always(size, published=published))
        blocks = self.blocks
        rates = _one_a_block("rate", 1.0 if rate is None else rate, len(blocks))
        if dilated_rate is None:
            halos = [expected_halo(r, b.granularity, b.stride) for r, b in zip(rates, blocks, strict=True)]
        else:
            halos = _one_a_block("dilated_rate", dilated_rate, len(blocks))
        for bill, a, a_dilated in zip(bills, rates, halos, strict=True):
            total += bill.at(a, a_dilated) - (bill.masker if published or rate is None else 0)
        return total

    def load_static(self, state_dict: dict[str, Tensor]) -> LASNet:
        """Load a static network's weights under torchvision's names; the maskers keep theirs.

        Raises:
            ValueError: names or shapes that do not fit this configuration; nothing is loaded then.
        """
        ours = self.state_dict()
        given = {_our_name(name): tensor for name, tensor in state_dict.items()}
        wanted = {name for name in ours if ".masker." not in name}
        for name in sorted(wanted | given.keys()):
            got, expected = given.get(name), ours.get(name) if name in wanted else None
            if got is None or expected is None or got.shape != expected.shape:
                shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (got, expected)]
                raise ValueError(f"state_dict: got shape {shapes[0]} for '{name}', expected {shapes[1]}")
        self.load_state_dict(given, strict=False)
        return self

    def _always(self, size: int, *, published: bool) -> int:
        """Multiply-adds outside the blocks: stem and classifier."""
        side = -(-size // 2)
        conv: Any = self.stem[0]
        spent = conv.weight.numel() * side**2 + self.head.weight.numel()
        if published:
            pooled, last = self._side(size), self._side(size)
            for stage in self.plan:
                last //= stage.stride
            spent += self.classes + self.head.in_features * last**2
            spent += 9 * conv.out_channels * pooled**2 if pooled != side else 0
        return spent

    def _side(self, size: int) -> int:
        """Side of the stem's output."""
        side = -(-size // 2)
        return -(-side // 2) if len(self.stem) == 4 else side

    def _check(self, x: Tensor) -> int:
        conv: Any = self.stem[0]
        if x.ndim != 4 or x.shape[1] != conv.in_channels or x.shape[2] != x.shape[3]:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (N, {conv.in_channels}, H, H)")
        self._check_maps(self._side(x.shape[2]))
        return x.shape[2]

    def _check_maps(self, side: int) -> None:
        for number, stage in enumerate(self.plan, start=1):
            if side % stage.stride:
                raise ValueError(f"x: stage {number} gets a map of {side}x{side}, expected an even side for stride 2")
            side //= stage.stride
            if side == 0 or side % stage.granularity:
                raise ValueError(
                    f"granularity: got {stage.granularity} in stage {number}, expected a divisor of its map's side, "
                    f"{side}"
                )

    def _given(self, masks: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
        if masks is not None and len(masks) != len(self.blocks):
            raise ValueError(f"masks: got {len(masks)}, expected one for each of {len(self.blocks)} blocks")
        return masks

    def _classes(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)) if self.pool == "avg" else features.amax((2, 3)))

    def _output(self, features: Tensor, masks: list[Tensor], halos: list[Tensor], size: int) -> LASNetOutput:
        rates = torch.stack([_mean(mask) for mask in masks])
        dilated = torch.stack([_mean(halo) for halo in halos]).to(rates.dtype).detach()
        bills = self.block_macs(size)
        spent = [bill.at(a, d) for bill, a, d in zip(bills, rates, dilated, strict=True)]
        always = self._always(size, published=False)
        macs = torch.stack(spent).sum() + always
        return LASNetOutput(
            logits=self._classes(features),
            rates=rates,
            dilated_rates=dilated,
            macs=macs,
            block_rates=torch.stack([one / bill.static for one, bill in zip(spent, bills, strict=True)]),
            rate=macs / (sum(bill.static for bill in bills) + always),
            masks=tuple(masks),
        )


def _mean(mask: Tensor) -> Tensor:
    """The mean in float32 at least, as multiply-adds outgrow half precision; 0 instead of NaN for an empty batch."""
    mask = mask.to(torch.promote_types(mask.dtype, torch.float32))
    return mask.mean() if mask.numel() else mask.sum()


def _one_a_stage(granularity: Sequence[int], stages: int) -> tuple[int, ...]:
    cells = tuple(granularity)
    if len(cells) != stages or any(not isinstance(s, int) or s < 1 for s in cells):
        raise ValueError(f"granularity: got {granularity}, expected {stages} whole numbers, 1 or more")
    return cells


def _one_a_block(name: str, value: float | Sequence[float], blocks: int) -> list[float]:
    shares = [float(value)] * blocks if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(shares) != blocks or any(not 0 <= share <= 1 for share in shares):
        raise ValueError(f"{name}: got {value}, expected one share in [0, 1] or {blocks} of them")
    return shares


#: torchvision's names of a block's parts, and ours.
_PARTS = {
    "conv1": "a.0", "bn1": "a.1", "conv2": "b.0", "bn2": "b.1", "conv3": "c.0", "bn3": "c.1",
    "downsample": "shortcut", "proj": "shortcut", "f.a": "a", "f.b": "b", "f.se": "se", "f.c": "c",
}  # fmt: skip


def _our_name(name: str) -> str:
    """The name here of what torchvision's ResNet or RegNet calls `name`."""
    if name.startswith("layer"):
        stage, block, rest = name.removeprefix("layer").split(".", 2)
        at = f"stages.{int(stage) - 1}.{block}."
    elif name.startswith("trunk_output"):
        _, stage, block, rest = name.split(".", 3)
        at = f"stages.{int(stage.removeprefix('block')) - 1}.{block.split('-')[1]}."
    else:
        for theirs, ours in (("conv1.", "stem.0."), ("bn1.", "stem.1."), ("fc.", "head.")):
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name
    part = next((theirs for theirs in _PARTS if rest.startswith(f"{theirs}.")), "")
    return at + _PARTS[part] + rest.removeprefix(part) if part else at + rest
