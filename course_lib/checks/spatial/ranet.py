"""Checks of `spatial/ranet`: exits and costs of lanes, the widths of a fusion block, and inference over lanes.

References are written anew, in plain Python where that is readable, and share nothing with `course_lib.spatial`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.checks import Case, Check

CHAPTER = "spatial/ranet"

# Exits ---------------------------------------------------------------------------------------------------------------


def _exits(n_blocks: int, block_step: int, lanes: int) -> list[int]:
    """Blocks of the lane less blocks of the lane before, which it fuses."""
    numbers = [n_blocks + block_step * h for h in range(lanes)]
    return [number - fused for number, fused in zip(numbers, [0, *numbers], strict=False)]


exits_per_lane = Check(
    "exits_per_lane",
    chapter=CHAPTER,
    title="how many exits each lane has",
    level=1,
    minutes=8,
    reference=_exits,
    cases=[
        Case.of("a first lane of three blocks, two more a lane", 3, 2, 3),
        Case.of("the chapter's small network", 1, 3, 2),
        Case.of("the default CIFAR network", 2, 2, 3),
        Case.of("one lane only", 4, 2, 1),
        Case("exits of the four-lane networks", lambda answer: int(sum(answer(2, 2, 4))), show="the sum for 2, 2, 4"),
    ],
    wrong_answers={
        "every_block_exits": lambda n_blocks, block_step, lanes: [n_blocks + block_step * h for h in range(lanes)],
        "n_blocks_each": lambda n_blocks, block_step, lanes: [n_blocks] * lanes,
        "block_step_each": lambda n_blocks, block_step, lanes: [block_step] * lanes,
        "fine_to_coarse": lambda n_blocks, block_step, lanes: _exits(n_blocks, block_step, lanes)[::-1],
    },
    diagnoses={
        "every_block_exits": "You gave every block an exit, the fusion blocks too. What does a fusion block have in "
        "place of one: of what is it made a copy, block by block?",
        "n_blocks_each": "You gave every lane as many exits as the first has blocks. How many blocks does each lane "
        "have more than the one before?",
        "block_step_each": "You gave the first lane as many exits as the others. Which lane is there before it for "
        "its blocks to fuse?",
        "fine_to_coarse": "Your numbers are right and stand in the reverse order. Which lane runs first?",
    },
    accepted=[
        lambda n_blocks, block_step, lanes: [n_blocks] + [block_step] * (lanes - 1),
        lambda n_blocks, block_step, lanes: torch.tensor([block_step if h else n_blocks for h in range(lanes)]),
    ],
    hints=(
        "A lane has one fusion block for every block of the lane before, and plain blocks after them. Only plain "
        "blocks carry an exit.",
        "3 blocks, 2 more a lane: lane 2 has 5 blocks. Three of them fuse lane 1's, so two are plain.",
        "The first lane fuses nothing: n_blocks exits. Every later lane has block_step blocks more than it fuses.",
    ),
    shows="The number of exits depends on the first lane and on what each later lane adds, on nothing else.",
)

# Costs ---------------------------------------------------------------------------------------------------------------

# Multiply-adds of the default CIFAR-10 network, counted from its layer sizes.
_STEM = [442368, 1179648, 1179648]
_BLOCKS = [
    [7036928, 10125312],
    [3009536, 5768576, 1339392, 1634304],
    [1759232, 3471104, 725248, 1698496, 202752, 239616],
]
_HEADS = [3540224, 5309696, 3171584, 4056320, 2305280, 2747648]


def _costs(
    stem: Sequence[float],
    blocks: Sequence[Sequence[float]],
    heads: Sequence[float],
    lanes: Sequence[int],
    *,
    restart: bool = False,
    own_head: bool = False,
    own_maps: bool = False,
    whole_lane: bool = False,
    earlier_heads: bool = True,
    no_stem: bool = False,
) -> list[float]:
    """Exit by exit, everything summed anew; the flags are the planted mistakes."""
    found: list[float] = []
    for h, exits in enumerate(lanes):
        for e in range(exits):
            k = len(found)
            begun = blocks[h] if whole_lane else blocks[h][: len(blocks[h]) - exits + e + 1]
            earlier = [] if restart else [cost for lane in blocks[:h] for cost in lane]
            first = k if own_head else 0 if earlier_heads else k - e
            seen = stem[len(stem) - h - 1 :] if own_maps else [] if no_stem else stem
            found.append(sum([*seen, *earlier, *begun, *heads[first : k + 1]]))
    return found


def _costs_running(
    stem: Sequence[float], blocks: Sequence[Sequence[float]], heads: Sequence[float], lanes: Sequence[int]
) -> list[float]:
    spent, found, rest = sum(stem), [], list(heads)
    for lane, exits in zip(blocks, lanes, strict=True):
        for b, cost in enumerate(lane):
            spent += cost
            if b >= len(lane) - exits:
                spent += rest.pop(0)
                found.append(spent)
    return found


def _rises(answer: Callable[..., Any]) -> bool:
    found = answer(list(_STEM), [list(lane) for lane in _BLOCKS], list(_HEADS), [2, 2, 2])
    return all(a < b for a, b in itertools.pairwise(found))


exit_costs = Check(
    "exit_costs",
    chapter=CHAPTER,
    title="what an answer at each exit has cost",
    level=2,
    minutes=15,
    reference=_costs,
    cases=[
        Case.of("the default CIFAR-10 network", _STEM, _BLOCKS, _HEADS, [2, 2, 2], show="its parts, in multiply-adds"),
        Case.of("a first lane of one block", [3, 5], [[10], [20, 4, 6]], [1, 2, 2], [1, 2]),
        Case.of("one lane", [7], [[1, 2]], [4, 8], [2]),
        Case(
            "every exit costs more",
            _rises,
            show="whether the six costs rise",
        ),
    ],
    wrong_answers={
        "restarts_each_lane": lambda *parts: _costs(*parts, restart=True),
        "own_head_only": lambda *parts: _costs(*parts, own_head=True),
        "stem_without_fine_part": lambda *parts: _costs(*parts, own_maps=True),
        "whole_lane": lambda *parts: _costs(*parts, whole_lane=True),
        "earlier_heads_free": lambda *parts: _costs(*parts, earlier_heads=False),
        "no_stem": lambda *parts: _costs(*parts, no_stem=True),
    },
    diagnoses={
        "restarts_each_lane": "You forgot the earlier lanes as soon as a new one began. Whose features does the new "
        "lane fuse, and were they free?",
        "own_head_only": "You charged an exit with its own head alone. How did the image learn that it was not sure "
        "enough at the exits before?",
        "stem_without_fine_part": "You charged the first lane with the coarse map of the stem only. From which map "
        "was that one computed?",
        "whole_lane": "You charged the first exit of a lane with the whole lane. Which blocks stand behind it?",
        "earlier_heads_free": "You charged the blocks of the earlier lanes and not their heads. At which exits was an "
        "image asked before it came to this lane?",
        "no_stem": "Your sums begin with the first block. What had to be computed before it had a map to work on?",
    },
    accepted=[
        _costs_running,
        lambda *parts: torch.tensor(_costs(*parts), dtype=torch.float64),
    ],
    hints=(
        "Walk through the network in the order in which it runs, and keep one running total that is never reset.",
        "Stem 3 + 5, first lane [10], its head 1: the first exit costs 19. Lane 2 then runs 20 and 4 and a head of 2: "
        "45 in all. One more block of 6 and a head of 2: 53.",
        "spent = sum(stem). For each lane and each block: add the block; if it is among the last `exits` of the lane, "
        "add the next head and note the total.",
    ),
    shows="Exit 2 of 6 has spent nearly half of the whole: the coarse lane is the widest and has paid two heads.",
)

# Widths --------------------------------------------------------------------------------------------------------------

Widths = tuple[list[tuple[int, int, int, int]], int]


def _widths(
    own: int,
    low: Sequence[int] | None,
    growth: int,
    layers: int,
    compress: float,
    *,
    rounded: bool = False,
    late: bool = False,
    closed: bool = True,
    on_top: bool = False,
    of_low: bool = False,
) -> Widths:
    whole = (lambda x: math.floor(x + 0.5)) if rounded else math.floor
    rows, channels = [], own
    for i in range(layers):
        from_low = 0 if low is None else whole(compress * growth)
        from_own = growth if on_top else growth - from_low
        reads = 0 if low is None else low[i + late]
        rows.append((reads, from_low, channels, from_own))
        channels += from_low + from_own
    if low is not None and closed:
        channels += whole(compress * (low[-1] if of_low else channels))
    return rows, channels


def _widths_in_closed_form(own: int, low: Sequence[int] | None, growth: int, layers: int, compress: float) -> Widths:
    fused = int(compress * growth) if low is not None else 0
    reads = [0] * layers if low is None else list(low[:layers])
    rows = [(reads[i], fused, own + i * growth, growth - fused) for i in range(layers)]
    end = own + layers * growth
    return rows, end if low is None else end + int(compress * end)


fusion_widths = Check(
    "fusion_widths",
    chapter=CHAPTER,
    title="the channels of a fusion block",
    level=3,
    minutes=22,
    reference=lambda *args: _widths(*args),
    cases=[
        Case.of("lane 2, block 1: 32 to 100", 32, [64, 88, 112, 136, 160], 12, 4, 0.25),
        Case.of("lane 3, block 3: 46 to 87", 46, [92, 104, 116, 128, 140], 6, 4, 0.25),
        Case.of("a plain block: 92 + 48", 92, None, 12, 4, 0.25),
        Case.of("one layer, a third of the channels", 10, [20, 29], 9, 1, 0.33),
    ],
    wrong_answers={
        "rounds": lambda *args: _widths(*args, rounded=True),
        "reads_low_after_the_layer": lambda *args: _widths(*args, late=True),
        "forgets_the_closing_copy": lambda *args: _widths(*args, closed=False),
        "low_on_top": lambda *args: _widths(*args, on_top=True),
        "closing_share_of_low": lambda *args: _widths(*args, of_low=True),
    },
    diagnoses={
        "rounds": "You rounded shares to the nearest whole channel. A quarter of 6 is one and a half: how many whole "
        "channels does it hold?",
        "reads_low_after_the_layer": "Layer i of yours reads the lane before after its layer i. Which state did that "
        "layer itself read?",
        "forgets_the_closing_copy": "Your layers are right, and your block ends with them. What does a fusion block "
        "take over once more, after its last layer?",
        "low_on_top": "Your own path gives all of the growth, and the low path comes on top. By how many channels "
        "should a layer grow in all?",
        "closing_share_of_low": "Your closing copy is a share of the channels of the fused block. Of which block's "
        "channels should it be a share?",
    },
    accepted=[
        _widths_in_closed_form,
        lambda *args: ([list(row) for row in _widths(*args)[0]], _widths(*args)[1]),
    ],
    hints=(
        "A layer adds `growth` channels whatever they come from; only their origin is split. Floors, not rounding.",
        "46 channels, growth 6: each layer takes 1 channel from below and makes 5 of its own. After four layers 70, "
        "and floor(70 / 4) = 17 more for the closing copy: 87.",
        "u = floor(compress * growth). Layer i: (low[i], u, own + i * growth, growth - u). At the end add "
        "floor(compress * channels). Without `low`: no u, no closing copy.",
    ),
    shows="In the first case 12 + 20 of 100 channels come from the lane before, where work on coarse maps is cheap.",
)

# Inference -----------------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """Features (n, 4) and what the fused block gave (n, 4), or None -> features (n, 4); counts the rows it sees."""

    weight: Tensor
    low: Tensor

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(4, 4, generator=generator))
        self.register_buffer("low", torch.randn(4, 4, generator=generator))
        self.rows = 0

    def forward(self, x: Tensor, stored: Tensor | None = None) -> Tensor:
        if not len(x):
            raise ValueError("features: got no rows; nobody is left, so this lane should not run")
        self.rows += len(x)
        fused = x @ self.weight
        if stored is not None:
            if len(stored) != len(x):
                raise ValueError(f"stored: got {len(stored)} rows, expected those of the {len(x)} features")
            fused = fused + stored @ self.low
        return torch.tanh(fused)


class _Head(nn.Module):
    weight: Tensor

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", 2 * torch.randn(4, 3, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class _Torn(nn.Module):
    """Gives two classes equal logits, so that the confidence is 0.5 to the last bit."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].repeat(1, 2)


def _network() -> tuple[list[list[_Block]], list[_Head]]:
    generator = torch.Generator().manual_seed(8)
    lanes = [[_Block(generator) for _ in range(number)] for number in (1, 2, 3)]
    return lanes, [_Head(generator) for _ in range(3)]


_MAPS = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(30))


def _trial(name: str, maps: Tensor, thresholds: Sequence[float], *, torn: bool = False) -> Case:
    def run(answer: Callable[..., Any]) -> dict[str, Any]:
        lanes, heads = _network()
        lent = list(maps.clone())
        asked: list[nn.Module] = [_Torn() for _ in heads] if torn else [*heads]
        logits, exit_index = answer(lanes, asked, lent, torch.tensor(thresholds))
        return {
            "exit_index": exit_index,
            "rows each block saw": [[block.rows for block in lane] for lane in lanes],
            "logits": logits,
            "maps are unchanged": len(lent) == len(maps)
            and all(torch.equal(a, b) for a, b in zip(lent, maps, strict=True)),
        }

    show = f"{maps.shape[1]} images, thresholds {', '.join(f'{t:g}' for t in thresholds)}"
    return Case(name, run, show=f"{show}, two classes with 0.5 each" if torn else show)


def _one_by_one(lanes: Any, heads: Any, maps: Any, thresholds: Tensor) -> tuple[list[list[float]], list[int]]:
    """Each image alone through the lanes: slow, and plainly right."""
    answers, taken = [], []
    for i in range(len(maps[0])):
        before: list[Tensor] = []
        for h, (lane, head) in enumerate(zip(lanes, heads, strict=True)):
            features, after = maps[h][i : i + 1], []
            for b, block in enumerate(lane):
                features = block(features, before[b] if b < len(before) else None)
                after.append(features)
            before = after
            logits = head(features)
            if h == len(lanes) - 1 or logits.softmax(1).max() >= thresholds[h]:
                break
        answers.append(logits[0].tolist())
        taken.append(h)
    return answers, taken


def _over_lanes(
    lanes: Any,
    heads: Any,
    maps: Any,
    bars: Tensor,
    *,
    stale: bool = False,
    stale_maps: bool = False,
    again: bool = False,
    sort: bool = True,
    above: bool = False,
    to_the_end: bool = False,
) -> tuple[Tensor, Tensor]:
    here = torch.arange(len(maps[0]))
    stored: list[Tensor] = []
    answers, owners, taken = [], [], []
    for h, (lane, head) in enumerate(zip(lanes, heads, strict=True)):
        if again:  # the lanes before, once more, for those still there
            stored = []
            for earlier, given in zip(lanes[:h], maps, strict=False):
                stored = _run_lane(earlier, given[here], stored)
        rows = maps[h][: len(here)] if stale_maps else maps[h][here]
        stored = _run_lane(lane, rows, [kept[: len(here)] for kept in stored] if stale else stored)
        logits = head(stored[-1])
        confidence = logits.softmax(1).amax(1)
        sure = confidence > bars[h] if above else confidence >= bars[h]
        sure |= torch.tensor(h == len(lanes) - 1)
        answers.append(logits[sure])
        owners.append(here[sure])
        taken.append(torch.full_like(here[sure], h))
        here = here[~sure]
        if not stale:
            stored = [kept[~sure] for kept in stored]
        if not len(here) and not to_the_end:
            break
    order = torch.cat(owners).argsort() if sort else slice(None)
    return torch.cat(answers)[order], torch.cat(taken)[order]


def _run_lane(lane: Any, features: Tensor, stored: Sequence[Tensor]) -> list[Tensor]:
    """What every block of the lane gave."""
    given = []
    for b, block in enumerate(lane):
        features = block(features, stored[b] if b < len(stored) else None)
        given.append(features)
    return given


def _runs_all_lanes(lanes: Any, heads: Any, maps: Any, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    outputs: list[Tensor] = []
    stored: list[Tensor] = []
    for lane, head, features in zip(lanes, heads, maps, strict=True):
        stored = _run_lane(lane, features, stored)
        outputs.append(head(stored[-1]))
    sure = torch.stack([logits.softmax(1).amax(1) >= thresholds[h] for h, logits in enumerate(outputs)], 1)
    sure[:, -1] = True
    taken = sure.int().argmax(1)
    return torch.stack(outputs)[taken, torch.arange(len(taken))], taken


def _shrinks_the_maps(lanes: Any, heads: Any, maps: Any, bars: Tensor) -> tuple[Tensor, Tensor]:
    """Right, and what it leaves in the caller's list is the finer maps of those who went on."""
    logits, taken = _over_lanes(lanes, heads, list(maps), bars)
    for h in range(1, len(maps)):
        maps[h] = maps[h][taken >= h]
    return logits, taken


infer = Check(
    "infer",
    chapter=CHAPTER,
    title="inference over lanes that takes the stored features along",
    level=4,
    minutes=30,
    reference=_one_by_one,
    cases=[
        _trial("eight images leave one after another", _MAPS, [0.85, 0.9, -math.inf]),
        _trial("the last lane answers, sure or not", _MAPS, [0.85, 0.95, 0.999]),
        _trial("all leave after the first lane", _MAPS, [0.0, 0.5, -math.inf]),
        _trial("nobody leaves early", _MAPS, [math.inf, math.inf, -math.inf]),
        _trial("a batch of one", _MAPS[:, :1], [0.85, 0.9, -math.inf]),
        _trial("as sure as the first bar asks", _MAPS[:, :3], [0.5, 0.9, -math.inf], torn=True),
    ],
    wrong_answers={
        "stale_rows": lambda *args: _over_lanes(*args, stale=True),
        "runs_all_lanes": _runs_all_lanes,
        "recomputes_the_coarse_lane": lambda *args: _over_lanes(*args, again=True),
        "lost_order": lambda *args: _over_lanes(*args, sort=False),
        "stale_maps": lambda *args: _over_lanes(*args, stale_maps=True),
        "above_the_bar": lambda *args: _over_lanes(*args, above=True),
        "runs_empty_lanes": lambda *args: _over_lanes(*args, to_the_end=True),
        "shrinks_the_maps_lent": _shrinks_the_maps,
    },
    diagnoses={
        "stale_rows": "Your survivors are fused with the first stored rows, whoever's they are. Which rows of the "
        "lane before belong to the images still there?",
        "runs_all_lanes": "Every answer is right, and every lane worked on every image. Which rows should lane 2 "
        "never have seen?",
        "recomputes_the_coarse_lane": "You ran the earlier lanes again for the images that went on. Where had their "
        "features been a moment ago?",
        "lost_order": "Your answers come in the order in which the images left. How does the caller know whose they "
        "are?",
        "stale_maps": "Your survivors go on with the first rows of the finer map. Whose are they?",
        "above_the_bar": "An image exactly as sure as the bar asks went on in your code. What does the specification "
        "say of that case?",
        "runs_empty_lanes": "Nobody was left, and your next lane ran all the same. When are the lanes done?",
        "shrinks_the_maps_lent": "Every answer is right, and the caller's list now holds the survivors' rows only. "
        "Where else could you keep track of who is still there?",
    },
    accepted=[
        _over_lanes,
        lambda *args: tuple(torch.tensor(part) for part in _one_by_one(*args)),
    ],
    hints=(
        "Carry two things from lane to lane: the places of the images still there, and what each block of the lane "
        "before gave for them. When images leave, both shrink.",
        "Eight images, three leave after lane 1: lane 2 starts from maps[1][here], five rows, and its first block is "
        "given the five rows of lane 1's block that belong to the same images.",
        "Per lane: features = maps[h][here]; for each block: features = block(features, stored[b] or None), keep it in "
        "a list. Then the head, sure, write answers[here[sure]]; here = here[~sure], stored = [s[~sure] for s in "
        "new list].",
    ),
    shows="When images leave, the stored features leave with them; nothing is computed twice, and nothing for nobody.",
)

TASKS = (exits_per_lane, exit_costs, fusion_widths, infer)
