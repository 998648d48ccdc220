"""MSDNet: a network with exits, built so that early ones are good and do not spoil late ones.

Paper: Multi-Scale Dense Networks for Resource Efficient Image Classification (arXiv 1703.09844, ICLR 2018).
Kept: multi-scale dense blocks, network reduction, exits on the coarsest scale, anytime and budgeted inference, and
every published configuration, exact in parameters and multiply-adds.
Different from the authors' evaluation: it counts what adaptive inference would save; here `infer` saves it. Finished
images leave the batch between blocks, and features that the requested exit does not depend on are computed only when
a later exit asks for them (lazy evaluation, section 4 of the paper).
Initialisation is PyTorch's default, as in the released code.

How the grid is run. Node (l, s) is layer l at scale s (s = 0 is the finest) and reads layers before l at scales s and
s - 1 only. So exit k at layer L needs node (l, s) exactly if s >= S - 1 - (L - l): a staircase one scale wide a layer.
The state is one tensor a scale, everything produced there so far; scales may stand at different layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor, nn

from course_lib.decision import AdaptiveInference
from course_lib.decision.early_exit import CostConvention, State


@dataclass(frozen=True)
class MSDNetConfig:
    """The numbers of a multi-scale dense network; the published ones are `MSDNet.cifar` and `MSDNet.imagenet`."""

    blocks: tuple[int, ...]  #: layers before each exit, counted from the exit before
    factors: tuple[int, ...]  #: widening of each scale, fine to coarse: r_s, and the bottleneck's b_s
    channels: int  #: of the first layer at the finest scale
    growth: int  #: channels a layer adds at the finest scale
    classes: int
    in_channels: int = 3
    head: tuple[int, ...] = (128, 128)  #: widths of an exit's stride-2 convolutions; empty: two as wide as their input
    size: int | None = 32  #: side of the images in pixels; None: any multiple of 4 from 8 up
    large_stem: bool = False  #: 7x7 stride 2 and max pooling, for images of 224 pixels
    scales: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", len(self.factors))
        for name in ("channels", "growth", "classes", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks: got {self.blocks}, expected at least one block of at least one layer")
        if sum(self.blocks) < self.scales:
            raise ValueError(
                f"blocks: got {sum(self.blocks)} layers, expected at least one for each of {self.scales} scales"
            )

    def first_scale(self, layer: int) -> int:
        """Finest scale that layer 1, 2, ... still computes: the depth is cut in S parts, each drops one more scale."""
        interval = ceil(sum(self.blocks) / self.scales)
        return max(0, layer - 1) // interval


def conv_bn_relu(cin: int, cout: int, kernel: int, *, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the side (or divides it by `stride`), BatchNorm, ReLU."""
    return [
        nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    ]


def bottleneck(cin: int, cout: int, factor: int, *, stride: int = 1) -> nn.Sequential:
    """h (stride 1) or h~ (stride 2): 1x1 bottleneck, then 3x3. `factor` is that of the scale it reads from."""
    width = min(cin, factor * cout)
    return nn.Sequential(*conv_bn_relu(cin, width, 1), *conv_bn_relu(width, cout, 3, stride=stride))


class Node(nn.Module):
    """One layer at one scale: new features from its own scale and from the finer one, appended to the state."""

    def __init__(self, own: int, finer: int | None, new: int, factors: tuple[int, int]) -> None:
        super().__init__()
        half = new if finer is None else new // 2
        self.normal = bottleneck(own, half, factors[1], stride=1)
        self.down = None if finer is None else bottleneck(finer, half, factors[0], stride=2)

    def forward(self, own: Tensor, finer: Tensor | None) -> Tensor:
        """own: (N, C_s, H, W), finer: (N, C_{s-1}, 2H, 2W) -> (N, C_s + growth, H, W)."""
        # x_l^s = [ h~([x_0^{s-1} ... x_{l-1}^{s-1}]), h([x_0^s ... x_{l-1}^s]) ], behind all that stood there
        if self.down is None:
            return torch.cat([own, self.normal(own)], 1)
        return torch.cat([own, self.down(finer), self.normal(own)], 1)


class Layer(nn.Module):
    """One layer at all scales it keeps. Where it drops a scale it reads it a last time, then halves all channels."""

    def __init__(self, config: MSDNetConfig, layer: int, channels: int) -> None:
        super().__init__()
        self.first = config.first_scale(layer)
        self.reads = config.first_scale(layer - 1)  # finest scale of its input
        self.nodes = nn.ModuleList()
        for s in range(self.first, config.scales):
            finer = channels * config.factors[s - 1] if s > self.reads else None
            growth = config.growth * config.factors[s]
            pair = (config.factors[max(s - 1, 0)], config.factors[s])
            self.nodes.append(Node(channels * config.factors[s], finer, growth, pair))
        self.channels = channels + config.growth
        self.squeeze = nn.ModuleList()
        if self.first > self.reads:
            wide, self.channels = self.channels, self.channels // 2
            for factor in config.factors[self.first :]:
                self.squeeze.append(nn.Sequential(*conv_bn_relu(wide * factor, self.channels * factor, 1)))

    def step(self, state: State, s: int) -> None:
        """Advance scale s of the state by this layer; forget the scale that nobody reads any more."""
        features = self.nodes[s - self.first](state[s], state[s - 1] if s else None)
        state[s] = self.squeeze[s - self.first](features) if self.squeeze else features
        if self.squeeze and s == self.first:
            state[s - 1] = None

    def parts(self, s: int) -> list[Any]:
        """The paths that make up node s, for counting: (down), normal, (squeeze)."""
        node: Any = self.nodes[s - self.first]
        paths = [node.normal] if node.down is None else [node.down, node.normal]
        return [*paths, self.squeeze[s - self.first]] if self.squeeze else paths


class Block(nn.Module):
    """The layers between one exit and the next.

    It runs the nodes it is told to: with lazy evaluation some of its own are left for later, and some that earlier
    blocks left are made up for. A hook on it sees the rows of every image that has come this far.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, state: State, nodes: Sequence[tuple[Layer, int]]) -> State:
        """Run `nodes`, pairs of a layer and a scale, on `state` in place, and give it back."""
        for layer, s in nodes:
            layer.step(state, s)
        return state


class Head(nn.Module):
    """An exit: two (or one) stride-2 convolutions on the coarsest map, average pooling, a linear classifier."""

    def __init__(self, cin: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        widths = widths or (cin, cin)
        self.convs = nn.Sequential(
            *(nn.Sequential(*conv_bn_relu(a, b, 3, stride=2)) for a, b in zip((cin, *widths), widths, strict=False))
        )
        self.classes = classes
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, coarsest: Tensor) -> Tensor:
        """coarsest: (N, C, H, W) -> logits (N, classes)."""
        return self.linear(self.convs(coarsest).mean((2, 3)))

    def operations(self, side: int, *, published: bool) -> int:
        """Operations on a map of `side` pixels; with `published` also what pooling reads and the classifier's bias."""
        convs: Any = self.convs
        spent, side = operations(convs, side, published=published)
        spent += self.linear.weight.numel()
        return spent + (self.linear.in_features * side**2 + self.classes) * published


class MSDNet(AdaptiveInference, nn.Module):
    """Multi-scale dense network with K exits.

    Args:
        config: the numbers; see the named constructors.

    >>> model = MSDNet.tiny().eval()
    >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
    [(2, 10), (2, 10), (2, 10), (2, 10)]
    >>> model.infer(torch.zeros(2, 3, 16, 16), [0.0, 0.0, 0.0, 0.0]).exit_index.tolist()
    [0, 0]
    """

    def __init__(self, config: MSDNetConfig) -> None:
        super().__init__()
        self.config = config
        self.exits = len(config.blocks)
        self.classes = config.classes
        self.stem = _stem(config)
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleList()
        channels, depth = config.channels, 0
        for size in config.blocks:
            layers = []
            for layer in range(depth + 1, depth + size + 1):
                layers.append(Layer(config, layer, channels))
                channels = layers[-1].channels
            depth += size
            self.blocks.append(Block(layers))
            self.heads.append(Head(channels * config.factors[-1], config.head, config.classes))
        self._nodes = {lazy: [_due(config, k, lazy) for k in range(self.exits)] for lazy in (False, True)}
        self._costs: dict[tuple[int, str], list[float]] = {}

    @classmethod
    def cifar(
        cls,
        classes: int,
        *,
        exits: int,
        base: int,
        step: int,
        growth: Literal["even", "linear"] = "even",
        in_channels: int = 3,
    ) -> MSDNet:
        """The networks for 32x32 images: 3 scales, 16 channels, growth 6, factors 1-2-4.

        `growth` is the block layout: "even" has `base` layers before the first exit and `step` before each later one;
        "linear" has `base`, then step * i + 1 for i = 1, 2, ... The published ones are (base 4, step 2, even, 7 or 10
        exits) for anytime prediction and (base 1, step 1, linear, 5 to 7 exits) for budgeted batches.
        """
        if growth not in ("even", "linear"):
            raise ValueError(f"growth: got {growth!r}, expected 'even' or 'linear'")
        later = (step if growth == "even" else step * i + 1 for i in range(1, exits))
        return cls(MSDNetConfig((base, *later), (1, 2, 4), 16, 6, classes, in_channels))

    @classmethod
    def imagenet(cls, *, step: int, base: int | None = None, channels: int = 32, classes: int = 1000) -> MSDNet:
        """The networks for 224x224 images: 5 exits, 4 scales, growth 16, factors 1-2-4-4, published for step 4, 6, 7.

        `base` None means `step`, the released code's layout; the paper's own is base = step + 3 with 64 channels.
        """
        blocks = (step if base is None else base, *[step] * 4)
        return cls(MSDNetConfig(blocks, (1, 2, 4, 4), channels, 16, classes, head=(), size=224, large_stem=True))

    @classmethod
    def tiny(cls, classes: int = 10, *, in_channels: int = 3) -> MSDNet:
        """The chapter's network, trained in half a minute: 2 scales, 4 exits, blocks 1-2-3-4, 138,336 parameters."""
        return cls(MSDNetConfig((1, 2, 3, 4), (1, 2), 8, 8, classes, in_channels, head=(32,), size=None))

    def start(self, x: Tensor) -> State:
        """Layer 0, at all scales: each is a strided convolution of the finer one.  x: (N, C, H, W)."""
        check_images(x, self.config.in_channels, self.config.size)
        state: State = []
        for conv in self.stem:
            x = conv(x)
            state.append(x)
        return state

    def advance(self, state: State, k: int, *, lazy: bool = True) -> Tensor:
        """Run block k on `state`, in place: the nodes exit k needs and nothing more.  Returns logits (N, classes)."""
        self._run(state, k, lazy=lazy)
        return self.heads[k](state[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """All exits, for training.  x: (N, C, H, W) -> K logits (N, classes) in order of execution."""
        state = self.start(x)
        return [self.advance(state, k, lazy=False) for k in range(self.exits)]

    def at_exit(self, x: Tensor, k: int = -1) -> Tensor:
        """Logits (N, classes) of one exit alone, as a static network that ends there: no other head is run."""
        k = range(self.exits)[k]
        state = self.start(x)
        for block in range(k):
            self._run(state, block)
        return self.advance(state, k)

    def exit_costs(self, size: int, *, convention: CostConvention = "macs") -> list[float]:
        """Cumulative cost a sample at each exit, earlier exits' heads included, for images of size x size pixels.

        "macs": multiply-adds of convolutions and linear layers. "published": the authors' counter, which adds one
        operation an element for ReLU, the elements read by pooling and the classifiers' biases. "lazy": like "macs",
        but only the nodes that the exit depends on. Normalisation counts 0.
        """
        if convention not in ("macs", "published", "lazy"):
            raise ValueError(f"convention: got {convention!r}, expected 'macs', 'published' or 'lazy'")
        check_side(size, size, self.config.size)
        if (size, convention) not in self._costs:
            self._costs[size, convention] = self._count(size, convention)
        return list(self._costs[size, convention])

    def load_official(self, state_dict: dict[str, Tensor]) -> MSDNet:
        """Load the weights of the authors' released PyTorch checkpoints, whose modules have other names.

        Raises:
            ValueError: names or shapes that do not fit this configuration; nothing is loaded then.
        """
        given = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
        table = dict(_official_names(self))
        ours = {}
        for name, tensor in self.state_dict().items():
            module, _, leaf = name.rpartition(".")
            theirs = f"{table[module]}.{leaf}"
            got = given.pop(theirs, None)
            if got is None or got.shape != tensor.shape:
                came = "nothing" if got is None else f"shape {tuple(got.shape)}"
                raise ValueError(f"state_dict: got {came} for '{theirs}', expected shape {tuple(tensor.shape)}")
            ours[name] = got
        if given:
            raise ValueError(
                f"state_dict: got {len(given)} names this configuration has not, such as '{next(iter(given))}'"
            )
        self.load_state_dict(ours)
        return self

    @property
    def layers(self) -> list[Layer]:
        """All layers in order, across blocks."""
        blocks: Any = self.blocks
        return [layer for block in blocks for layer in block.layers]

    def nodes(self, k: int, *, lazy: bool = True) -> list[tuple[int, int]]:
        """The nodes (layer from 1, scale from 0 = finest) that are computed between exit k - 1 and exit k."""
        return list(self._nodes[lazy][k])

    def _run(self, state: State, k: int, *, lazy: bool = True) -> None:
        layers = self.layers
        self.blocks[k](state, [(layers[layer - 1], s) for layer, s in self._nodes[lazy][k]])

    def _count(self, size: int, convention: CostConvention) -> list[float]:
        published = convention == "published"
        cost = partial(operations, published=published)
        total, sides, side = 0, [], size
        stem: Any = self.stem
        for conv in stem:
            spent, side = cost(conv, side)
            total += spent
            sides.append(side)
        costs = []
        heads: Any = self.heads
        for k, head in enumerate(heads):
            for layer, s in self._nodes[convention == "lazy"][k]:
                for path in self.layers[layer - 1].parts(s):
                    reads_finer = any(isinstance(m, nn.Conv2d) and m.stride == (2, 2) for m in path)
                    total += cost(path, sides[s - reads_finer])[0]
            total += head.operations(sides[-1], published=published)
            costs.append(float(total))
        return costs


def check_images(x: Tensor, channels: int, fixed: int | None) -> None:
    """Raise `ValueError` unless x is (N, channels, side, side) with a side that `check_side` accepts."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (N, {channels}, H, W)")
    check_side(x.shape[2], x.shape[3], fixed)


def check_side(height: int, width: int, fixed: int | None) -> None:
    """Raise `ValueError` unless the image is a square of `fixed` pixels, or, for None, of 8, 12, 16, ..."""
    if fixed is not None and (height, width) != (fixed, fixed):
        raise ValueError(f"size: got {height}x{width} pixels, expected {fixed}x{fixed}")
    if height != width or height < 8 or height % 4:
        raise ValueError(f"size: got {height}x{width} pixels, expected a square with a side of 8, 12, 16, ...")


def _stem(config: MSDNetConfig) -> nn.ModuleList:
    width = config.channels * config.factors[0]
    if config.large_stem:
        # with a bias, though a normalisation follows: the released weights have it
        conv = nn.Conv2d(config.in_channels, width, 7, stride=2, padding=3)
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        scales = [nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), pool)]
    else:
        scales = [nn.Sequential(*conv_bn_relu(config.in_channels, width, 3))]
    for fine, coarse in zip(config.factors, config.factors[1:], strict=False):
        scales.append(nn.Sequential(*conv_bn_relu(config.channels * fine, config.channels * coarse, 3, stride=2)))
    return nn.ModuleList(scales)


def _due(config: MSDNetConfig, k: int, lazy: bool) -> list[tuple[int, int]]:
    """Nodes (layer, scale) to run for exit k that no earlier exit has run, in an order that respects dependence."""

    def frontier(exit_: int, s: int) -> int:
        """The last layer that this exit needs at scale s."""
        depth = sum(config.blocks[: exit_ + 1])
        return depth - (config.scales - 1 - s) if lazy else depth

    nodes = []
    for layer in range(1, sum(config.blocks[: k + 1]) + 1):
        # coarse before fine: a node reads the finer scale as the layer before left it
        for s in reversed(range(config.first_scale(layer), config.scales)):
            if (frontier(k - 1, s) if k else 0) < layer <= frontier(k, s):
                nodes.append((layer, s))
    return nodes


def operations(modules: Iterable[nn.Module], side: int, *, published: bool) -> tuple[int, int]:
    """Operations of a chain of modules on a square map of `side` pixels, and the side of what comes out.

    Convolutions count their multiply-adds; with `published` also one operation an element of a ReLU and the elements a
    max pooling reads, as the authors' counter does.
    """
    total, channels = 0, 0
    for module in modules:
        if isinstance(module, nn.Sequential):
            spent, side = operations(module, side, published=published)
            total += spent
        elif isinstance(module, nn.Conv2d):
            side = (side + 2 * int(module.padding[0]) - module.kernel_size[0]) // module.stride[0] + 1
            channels = module.out_channels
            total += module.weight.numel() * side**2
        elif isinstance(module, nn.ReLU):
            total += channels * side**2 * published
        elif isinstance(module, nn.MaxPool2d):
            pool: Any = module
            side = (side + 2 * pool.padding - pool.kernel_size) // pool.stride + 1
            total += channels * side**2 * pool.kernel_size**2 * published
    return total, side


def _official_names(model: MSDNet) -> Iterator[tuple[str, str]]:
    """Pairs (our module, theirs) for every module with weights."""
    stem: Any = model.stem
    blocks: Any = model.blocks
    heads: Any = model.heads
    for s, conv in enumerate(stem):
        plain = model.config.large_stem and s == 0
        for i in range(len(conv)):
            yield f"stem.{s}.{i}", f"blocks.0.0.layers.{s}.{'' if plain else 'net.'}{i}"
    for b, block in enumerate(blocks):
        place = 1 if b == 0 else 0  # the first block starts with the stem, and squeezes count as layers
        for n, layer in enumerate(block.layers):
            for j in range(len(layer.nodes)):
                for path in ("normal", "down"):
                    for i in range(6):
                        theirs = f"blocks.{b}.{place}.layers.{j}.conv_{path}.net.{i}"
                        yield f"blocks.{b}.layers.{n}.nodes.{j}.{path}.{i}", theirs
            place += 1
            for j in range(len(layer.squeeze)):
                for i in range(3):
                    yield f"blocks.{b}.layers.{n}.squeeze.{j}.{i}", f"blocks.{b}.{place}.m.{j}.net.{i}"
            place += bool(len(layer.squeeze))
    for k, head in enumerate(heads):
        for c in range(len(head.convs)):
            for i in range(3):
                yield f"heads.{k}.convs.{c}.{i}", f"classifier.{k}.m.{c}.net.{i}"
        yield f"heads.{k}.linear", f"classifier.{k}.linear"
