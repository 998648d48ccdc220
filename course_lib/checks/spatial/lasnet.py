"""Checks of `spatial/lasnet`: the bill of a block, bounds and budget, a hard mask that learns, cells for a device.

References are written anew, in plain Python where that is readable, and share nothing with `course_lib.spatial.lasnet`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.checks import Case, Check

CHAPTER = "spatial/lasnet"

# The bill of a block --------------------------------------------------------------------------------------------------

_PARTS = {"masker": 0.5, "conv1": 51.38, "conv2": 115.61, "conv3": 51.38, "shortcut": 0.0}
_STRIDED = {"masker": 1.0, "conv1": 102.76, "conv2": 115.61, "conv3": 51.38, "shortcut": 102.76}


def _block_macs(
    parts: Mapping[str, float], a: float, a_dilated: float, *, masker: float = 1.0, shortcut: float | None = None
) -> float:
    always = masker * parts["masker"] + (1.0 if shortcut is None else shortcut) * parts["shortcut"]
    return always + a_dilated * parts["conv1"] + a * parts["conv2"] + a * parts["conv3"]


block_macs = Check(
    "block_macs",
    chapter=CHAPTER,
    title="what a block costs when a share of it is computed",
    level=1,
    minutes=10,
    reference=lambda parts, a, a_dilated: _block_macs(parts, a, a_dilated),
    cases=[
        Case.of("half of the 4x4 cells of a 256-64-256 block at 56x56", _PARTS, 0.5, 0.734),
        Case.of("everything active: the static block and its masker", _PARTS, 1.0, 1.0),
        Case.of("nothing active, with a shortcut convolution", _STRIDED, 0.0, 0.0),
        Case.of("a block with stride 2", _STRIDED, 0.25, 0.36),
    ],
    wrong_answers={
        "no_halo": lambda parts, a, a_dilated: _block_macs(parts, a, a),
        "halo_everywhere": lambda parts, a, a_dilated: _block_macs(parts, a_dilated, a_dilated),
        "halo_of_the_3x3": lambda parts, a, a_dilated: _block_macs(parts, a, a) + (a_dilated - a) * parts["conv2"],
        "free_masker": lambda parts, a, a_dilated: _block_macs(parts, a, a_dilated, masker=0.0),
        "masks_the_shortcut": lambda parts, a, a_dilated: _block_macs(parts, a, a_dilated, shortcut=a),
        "masked_masker": lambda parts, a, a_dilated: _block_macs(parts, a, a_dilated, masker=a),
    },
    diagnoses={
        "no_halo": "You charged all three convolutions for the active positions only. What does the 3x3 read at the "
        "rim of an active cell, and who must have computed it?",
        "halo_everywhere": "You charged all three convolutions for the dilated mask. Which of them has a 3x3 behind it "
        "that looks beyond the cell?",
        "halo_of_the_3x3": "You charged the 3x3 for the dilated mask. Whose *output* is the halo, and whose *input*?",
        "free_masker": "Your bill leaves out the masker. Who decided which cells are active, and on how many of them?",
        "masks_the_shortcut": "You charged the shortcut for the active share only. Where the mask is 0, what is the "
        "output of the block made of?",
        "masked_masker": "You charged the masker for the active share. Could it know which cells to leave out before "
        "it had looked at them?",
    },
    accepted=[
        lambda parts, a, a_dilated: sum(
            macs * {"conv1": a_dilated, "conv2": a, "conv3": a}.get(name, 1.0) for name, macs in parts.items()
        ),
        lambda parts, a, a_dilated: torch.tensor(
            sum(parts.values()) - (1 - a_dilated) * parts["conv1"] - (1 - a) * (parts["conv2"] + parts["conv3"])
        ),
    ],
    hints=(
        "Five parts, three kinds of price: always, at the active positions, at the active positions and their halo.",
        "Half active, halo 0.734, in M: 0.734 x 51.38 + 0.5 x (115.61 + 51.38) = 121.2; then masker and shortcut.",
        "masker + shortcut + a_dilated * conv1 + a * (conv2 + conv3).",
    ),
    shows="So half of the cells cost more than half: 56 % of this block, before the masker has been paid.",
    tolerance=1e-5,
)

# Bounds ---------------------------------------------------------------------------------------------------------------


def _bounds(epoch: float, epochs: float, target: float, *, part: float = 0.33, linear: bool = False) -> list[float]:
    done = min(1.0, epoch / (part * epochs))
    tight = 1 - done if linear else math.cos(done * math.pi / 2) ** 2
    return [1 - tight * (1 - target), tight * target]


def _accepted_bounds(epoch: float, epochs: float, target: float) -> tuple[float, float]:
    if epoch >= 0.33 * epochs:
        return 1.0, 0.0
    tight = (1 + math.cos(math.pi * epoch / (0.33 * epochs))) / 2
    return target + (1 - target) * (1 - tight), target - target * (1 - tight)


bounds = Check(
    "bounds",
    chapter=CHAPTER,
    title="bounds that start at the target and open",
    level=2,
    minutes=7,
    reference=lambda epoch, epochs, target: _bounds(epoch, epochs, target),
    cases=[
        Case.of("at the start", 0, 100, 0.6),
        Case.of("halfway to a third", 16.5, 100, 0.6),
        Case.of("early on", 5, 100, 0.35),
        Case.of("after a third", 33, 100, 0.6),
        Case.of("near the end", 90, 100, 0.6),
    ],
    wrong_answers={
        "swapped_bounds": lambda epoch, epochs, target: _bounds(epoch, epochs, target)[::-1],
        "never_released": lambda epoch, epochs, target: [target, target],
        "opens_over_all_epochs": lambda epoch, epochs, target: _bounds(epoch, epochs, target, part=1.0),
        "closes_again": lambda epoch, epochs, target: [
            1 - math.cos(math.pi / 2 * epoch / (0.33 * epochs)) ** 2 * (1 - target),
            math.cos(math.pi / 2 * epoch / (0.33 * epochs)) ** 2 * target,
        ],
        "linear": lambda epoch, epochs, target: _bounds(epoch, epochs, target, linear=True),
    },
    diagnoses={
        "swapped_bounds": "Your first number sinks from the target to 0 and your second rises to 1. Which of the two "
        "should be the upper bound?",
        "never_released": "Your bounds stay at the target for ever. How would one block ever do more than another?",
        "opens_over_all_epochs": "Your bounds are still closing in on the blocks near the end. At which share of the "
        "epochs should they be fully open?",
        "closes_again": "After a third your cosine goes on turning, and the bounds close again. What keeps the angle "
        "from passing a quarter turn?",
        "linear": "Your bounds open in a straight line. What does the squared cosine do near the start?",
    },
    accepted=[_accepted_bounds, lambda *args: torch.tensor(_bounds(*args), dtype=torch.float64)],
    hints=(
        "One number c falls from 1 to 0 within the first third; both bounds are mixtures by c.",
        "Target 0.6, epoch 16.5 of 100: c = cos(45 degrees) squared = 0.5, so the bounds are 0.8 and 0.3.",
        "c = cos(pi / 2 * min(epoch / (0.33 * epochs), 1)) ** 2; upper = 1 - c * (1 - target); lower = c * target.",
    ),
    shows="Every block is held to the target while the features are young, and free once they are worth a choice.",
)

# Budget ---------------------------------------------------------------------------------------------------------------

_STATIC = torch.tensor([100.0, 300.0])
_EVEN = torch.tensor([[50.0, 150.0], [50.0, 150.0]])  # every image, every block: half
_UNEVEN = torch.tensor([[20.0, 60.0], [80.0, 240.0]])  # the same on average
_LAYERS = torch.tensor([[100.0, 105.0], [100.0, 95.0]])  # the network half, the blocks 1 and a third


def _budget_loss(
    macs: Tensor, static: Tensor, target: float, upper: float, lower: float, *, blocks_count: bool = True
) -> float:
    images, blocks = len(macs), len(static)
    mean = [sum(float(macs[i, k]) for i in range(images)) / images for k in range(blocks)]
    rates = [mean[k] / float(static[k]) for k in range(blocks)]
    loss = (sum(mean) / float(static.sum()) - target) ** 2
    if blocks_count:
        loss += sum(max(0.0, r - upper) ** 2 + max(0.0, lower - r) ** 2 for r in rates) / blocks
    return loss


def _by_vectors(macs: Tensor, static: Tensor, target: float, upper: float, lower: float) -> Tensor:
    mean = macs.mean(0)
    rates = mean / static
    inside = rates.clamp(lower, upper)
    return (mean.sum() / static.sum() - target) ** 2 + (rates - inside).pow(2).mean()


def _squares_each_image(macs: Tensor, static: Tensor, target: float, upper: float, lower: float) -> Tensor:
    outside = macs / static - (macs / static).clamp(lower, upper)
    return ((macs.sum(1) / static.sum() - target) ** 2).mean() + (outside**2).mean()


def _squares_each_network(macs: Tensor, static: Tensor, target: float, upper: float, lower: float) -> Tensor:
    rates = macs.mean(0) / static
    return ((macs.sum(1) / static.sum() - target) ** 2).mean() + (rates - rates.clamp(lower, upper)).pow(2).mean()


def _sums_the_blocks(macs: Tensor, static: Tensor, target: float, upper: float, lower: float) -> Tensor:
    rates = macs.mean(0) / static
    return (macs.sum(1).mean() / static.sum() - target) ** 2 + (rates - rates.clamp(lower, upper)).pow(2).sum()


def _mean_of_rates(macs: Tensor, static: Tensor, target: float, upper: float, lower: float) -> Tensor:
    rates = macs.mean(0) / static
    return (rates.mean() - target) ** 2 + (rates - rates.clamp(lower, upper)).pow(2).mean()


budget_loss = Check(
    "budget_loss",
    chapter=CHAPTER,
    title="the loss that keeps a budget",
    level=2,
    minutes=8,
    reference=lambda macs, static, target, upper, lower: _budget_loss(macs, static, target, upper, lower),
    cases=[
        Case.of("on target everywhere", _EVEN, _STATIC, 0.5, 0.5, 0.5),
        Case.of("on target on average, images differ", _UNEVEN, _STATIC, 0.5, 0.5, 0.5),
        Case.of("the network is on target, its blocks are not, bounds closed", _LAYERS, _STATIC, 0.5, 0.5, 0.5),
        Case.of("the same with bounds open", _LAYERS, _STATIC, 0.5, 1.0, 0.0),
        Case.of("too much work", _EVEN * 1.6, _STATIC, 0.5, 0.7, 0.3),
    ],
    wrong_answers={
        "squares_each_image": _squares_each_image,
        "squares_the_network_each_image": _squares_each_network,
        "sums_the_blocks": _sums_the_blocks,
        "forgets_the_bounds": lambda *args: _budget_loss(*args, blocks_count=False),
        "mean_of_block_rates": _mean_of_rates,
        "only_upwards": lambda macs, static, target, upper, lower: (
            torch.relu(macs.mean(0).sum() / static.sum() - target) ** 2
            + torch.relu(macs.mean(0) / static - upper).pow(2).mean()
        ),
    },
    diagnoses={
        "squares_each_image": "You squared for each image and took the mean afterwards. What does that ask of an easy "
        "and a hard image that meet the budget together?",
        "squares_the_network_each_image": "Your blocks are right; for the network you squared for each image and took "
        "the mean afterwards. What does that ask of an easy and a hard image that meet the budget together?",
        "sums_the_blocks": "You added up what the blocks are out of bounds by. What happens to that part of the loss "
        "in a network of twice as many blocks?",
        "forgets_the_bounds": "Your loss looks at the network as a whole. Where do the upper and the lower bound of "
        "each block come in?",
        "mean_of_block_rates": "You took the mean of the blocks' rates for the rate of the network. Does a block of "
        "100 count as much as one of 300?",
        "only_upwards": "Your loss is 0 wherever too little is done. What keeps a block from switching itself off?",
    },
    accepted=[_by_vectors, lambda *args: torch.tensor(_budget_loss(*args))],
    hints=(
        "First the mean over the images, for each block; only then ratios, differences and squares.",
        "Blocks 20 and 60 in one image, 80 and 240 in the other: means 50 and 150 of 100 and 300, each rate is 0.5.",
        "mean = macs.mean(0); rates = mean / static; (mean.sum() / static.sum() - target) ** 2 plus the mean over the "
        "blocks of relu(rates - upper) ** 2 + relu(lower - rates) ** 2.",
    ),
    shows="The budget binds the batch, so an easy image may do next to nothing for a hard one.",
    tolerance=1e-4,
)

# A mask that learns ---------------------------------------------------------------------------------------------------

_CLEAR = 30.0 * torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]], [[-1.0, 1.0], [1.0, -1.0]]]])  # (1, 2, 2, 2)
_CLOSE = torch.tensor([[[[0.5, 0.5, -2.0]] * 4, [[0.5, 0.4, -1.9]] * 4]])  # (1, 2, 4, 3): tie, above, below
_MANY = 4000


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    uniform = torch.rand(like.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def _hard_mask(
    logits: Tensor,
    tau: float,
    training: bool,
    generator: torch.Generator | None = None,
    *,
    compute: int = 0,
    noise_in_eval: bool = False,
    soft_forward: bool = False,
    tie_is_idle: bool = False,
    detached: bool = False,
    cool_logits: bool = False,
    own_noise: bool = False,
    shared_noise: bool = False,
) -> Tensor:
    """Two logits as one, with the difference of two Gumbels; the flags are the planted mistakes."""
    difference = (logits[:, compute] - logits[:, 1 - compute])[:, None]
    if not training and not noise_in_eval:
        return (difference > 0 if tie_is_idle else difference >= 0).float()
    source = None if own_noise else generator
    first = _noise(difference, source)
    noise = first - (first if shared_noise else _noise(difference, source))
    score = difference / tau + noise if cool_logits else (difference + noise) / tau
    soft = score.sigmoid()
    if soft_forward:
        return soft
    hard = (score >= 0).float()
    return hard if detached else hard + soft - soft.detach()


def _with_softmax(logits: Tensor, tau: float, training: bool, generator: torch.Generator | None) -> Tensor:
    if not training:
        return 1.0 - logits.argmax(1, keepdim=True).float()  # the first of equal ones wins
    soft = functional.softmax((logits + _noise(logits, generator)) / tau, dim=1)
    hard = functional.one_hot(soft.argmax(1), 2).movedim(-1, 1)
    return (hard - soft.detach() + soft)[:, :1]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def _constant(difference: float) -> Tensor:
    return torch.stack([torch.full((_MANY, 1, 4), difference), torch.zeros(_MANY, 1, 4)], 1)


def _training_values(answer: Callable[..., Any]) -> dict[str, Any]:
    mask = answer(_constant(0.0), 5.0, True, _generator())
    rounded = mask.detach().round()  # hard + soft - soft may be off by a rounding
    binary = torch.allclose(mask, rounded.to(mask.dtype), atol=1e-5) and bool(((rounded == 0) | (rounded == 1)).all())
    both = rounded.unique().numel() == 2
    return {"shape": list(mask.shape), "every value is 0 or 1": binary, "both values are drawn": both}


def _share_of_ones(answer: Callable[..., Any]) -> bool:
    share = float((answer(_constant(1.0), 5.0, True, _generator()) > 0.5).float().mean())
    return abs(share - 1 / (1 + math.exp(-1.0))) < 0.02


def _gradient(answer: Callable[..., Any]) -> dict[str, bool]:
    logits = _constant(0.0).requires_grad_()
    answer(logits, 1.0, True, _generator()).sum().backward()
    compute, skip = (float(logits.grad[:, k].mean()) for k in (0, 1))  # type: ignore[index]
    return {
        "about 1/6 for channel 0": abs(abs(compute) - 1 / 6) < 0.01,
        "the opposite for channel 1": abs(compute + skip) < 1e-4,
    }


def _repeats(answer: Callable[..., Any]) -> bool:
    first, second = (answer(_constant(0.0), 1.0, True, _generator()) for _ in range(2))
    return bool(torch.equal(first, second))


hard_mask = Check(
    "hard_mask",
    chapter=CHAPTER,
    title="a mask of 0 and 1 that has a gradient",
    level=3,
    minutes=20,
    reference=_hard_mask,
    cases=[
        Case("logits far apart, training", lambda f: f(_CLEAR.clone(), 0.5, True, _generator()), "differences of 60"),
        Case.of("eval: a tie, a little above, a little below", _CLOSE, 1.0, False, None),
        Case("what comes out in training", _training_values, "equal logits, tau = 5"),
        Case("how often it is 1", _share_of_ones, "difference 1, tau = 5: is the share within 0.02 of sigmoid(1)?"),
        Case("the gradient of the sum", _gradient, "equal logits, tau = 1, mean over many cells"),
        Case("the same seed, twice", _repeats, "are both masks equal?"),
    ],
    wrong_answers={
        "noise_in_eval": lambda *args: _hard_mask(*args, noise_in_eval=True),
        "soft_forward": lambda *args: _hard_mask(*args, soft_forward=True),
        "skip_is_channel_zero": lambda *args: _hard_mask(*args, compute=1),
        "ties_are_idle": lambda *args: _hard_mask(*args, tie_is_idle=True),
        "no_gradient": lambda *args: _hard_mask(*args, detached=True),
        "cools_the_logits_only": lambda *args: _hard_mask(*args, cool_logits=True),
        "ignores_the_generator": lambda *args: _hard_mask(*args, own_noise=True),
        "shared_noise": lambda *args: _hard_mask(*args, shared_noise=True),
    },
    diagnoses={
        "noise_in_eval": "Without training your mask is still drawn. Should the same image get another answer when it "
        "is asked again?",
        "soft_forward": "Your mask takes values between 0 and 1 while training. What would it mean to compute 0.4 of a "
        "cell?",
        "skip_is_channel_zero": "Your mask is 1 where the second channel is larger. Which channel says compute?",
        "ties_are_idle": "With two equal logits you skip. Which sign does the rule l0 >= l1 have?",
        "no_gradient": "Your mask is right, and nothing can be learnt from it: it has no gradient. Which of hard and "
        "soft has one to lend?",
        "cools_the_logits_only": "Your temperature divides the logits and not the noise, so it changes how often a "
        "cell is active. What should be divided by tau?",
        "ignores_the_generator": "Two calls with equally seeded generators gave different masks. Where does your noise "
        "come from?",
        "shared_noise": "You added the same noise to both logits. What is left of it in their difference?",
    },
    accepted=[_with_softmax, lambda *args: _hard_mask(*args).double()],
    hints=(
        "Training: logits plus Gumbel noise, divided by tau, softmax over the two channels; forward the larger one, "
        "backward the soft one. Otherwise compare the logits.",
        "Equal logits, noise 0.3 and -0.2, tau = 1: softmax(0.3, -0.2) = (0.62, 0.38), the mask is 1, its gradient "
        "that of 0.62.",
        "noise = -log(-log(rand)) in the logits' shape, from `generator`; soft = softmax((logits + noise) / tau, 1); "
        "hard = (soft[:, :1] >= 0.5).float(); return hard + soft[:, :1] - soft[:, :1].detach().",
    ),
    shows="A cell is computed or it is not, and the logits still learn which would have been better.",
    tolerance=1e-4,
)

# Cells for a device ---------------------------------------------------------------------------------------------------

_MAPS = [56, 28, 14, 7]
_V100 = [
    {1: 1.674, 2: 1.116, 4: 0.846, 8: 0.795},
    {1: 1.452, 2: 0.974, 4: 0.753, 7: 0.770},
    {1: 1.123, 2: 0.799, 7: 0.623},
    {1: 0.804, 7: 0.846},
]
_TX2 = [
    {1: 0.730, 2: 0.704, 4: 0.699, 8: 0.706},
    {1: 0.657, 2: 0.645, 4: 0.651, 7: 0.700},
    {1: 0.644, 2: 0.642, 7: 0.776},
    {1: 0.727, 7: 1.005},
]
_TABLE = "ratios of the inner blocks at rate 0.5; seconds of ResNet-50's stages on a V100"
_SECONDS = [0.02359, 0.02484, 0.03475, 0.01980]
_TRAP = [{1: 0.9, 2: 0.8, 4: 0.7}, {1: 0.9, 4: 0.8, 8: 0.5}, {1: 0.6, 2: 0.6, 4: 0.5}]
_HOPELESS = [{1: 1.7, 2: 1.2, 4: 1.05}, {1: 0.9, 2: 0.7}]


def _choose(
    ratios: Sequence[Mapping[int, float]],
    maps: Sequence[int],
    seconds: Sequence[float],
    *,
    sign: int = 1,
    divides: bool = True,
    biggest: bool = False,
    may_give_up: bool = True,
    weighted: bool = True,
    ties_by_size: bool = True,
) -> tuple[list[int], float]:
    chosen, spent = [], []
    for table, side in zip(ratios, maps, strict=True):
        fitting = {s: ratio for s, ratio in table.items() if side % s == 0 or not divides}
        best = max(fitting) if biggest else sorted(fitting, key=lambda s: (sign * fitting[s], s * ties_by_size))[0]
        give_up = may_give_up and fitting[best] >= 1
        chosen.append(0 if give_up else best)
        spent.append(1.0 if give_up else fitting[best])
    weights = seconds if weighted else [1.0] * len(spent)
    return chosen, sum(w * r for w, r in zip(weights, spent, strict=True)) / sum(weights)


def _choose_slowly(
    ratios: Sequence[Mapping[int, float]], maps: Sequence[int], seconds: Sequence[float]
) -> tuple[Tensor, float]:
    chosen, time = [], 0.0
    for k, side in enumerate(maps):
        best, ratio = 0, 1.0
        for s in sorted(ratios[k]):
            if side % s == 0 and ratios[k][s] < ratio:
                best, ratio = s, ratios[k][s]
        chosen.append(best)
        time += ratio * seconds[k]
    return torch.tensor(chosen), time / math.fsum(seconds)


choose_granularity = Check(
    "choose_granularity",
    chapter=CHAPTER,
    title="the size of the cells for a device",
    level=4,
    minutes=30,
    reference=lambda ratios, maps, seconds: _choose(ratios, maps, seconds),
    cases=[
        Case.of("V100, half of the cells", _V100, _MAPS, _SECONDS, show=_TABLE),
        Case.of("Jetson TX2, half of the cells", _TX2, _MAPS, _SECONDS, show=_TABLE),
        Case.of("cells of 8 on a map of 28", _TRAP, [56, 28, 14], [1.0, 2.0, 3.0]),
        Case.of("a stage where nothing pays", _HOPELESS, [28, 14], [3.0, 1.0]),
        Case.of("two that are equally fast", [{2: 0.5, 1: 0.5, 4: 0.5}], [8], [1.0]),
    ],
    wrong_answers={
        "ratio_is_speedup": lambda ratios, maps, seconds: _choose(ratios, maps, seconds, sign=-1, may_give_up=False),
        "biggest_patch": lambda ratios, maps, seconds: _choose(ratios, maps, seconds, biggest=True),
        "ignores_divisibility": lambda ratios, maps, seconds: _choose(ratios, maps, seconds, divides=False),
        "never_gives_up": lambda ratios, maps, seconds: _choose(ratios, maps, seconds, may_give_up=False),
        "plain_mean": lambda ratios, maps, seconds: _choose(ratios, maps, seconds, weighted=False),
        "first_of_equals": lambda ratios, maps, seconds: _choose(ratios, maps, seconds, ties_by_size=False),
    },
    diagnoses={
        "ratio_is_speedup": "You chose the largest ratio of each stage. Is a block with ratio 1.7 faster or slower "
        "than the static one?",
        "biggest_patch": "You chose the largest cells that fit. On the TX2, what does the table say of 8 against 4?",
        "ignores_divisibility": "You chose cells that do not divide their map. How many cells of 8 fit into 28?",
        "never_gives_up": "In a stage where every ratio is above 1 you chose the least bad one. Which block is faster "
        "than all of them?",
        "plain_mean": "Your ratio of the network is the plain mean over its stages. Does a stage of one second count "
        "as much as one of three?",
        "first_of_equals": "Of cells that are equally fast you took those that stand first in the table. Which ones "
        "does the task ask for, and is a table always sorted?",
    },
    accepted=[_choose_slowly, lambda *args: list(_choose(*args))],
    hints=(
        "Stage by stage: drop what does not divide, take the smallest ratio, and ask whether it is below 1 at all.",
        "TX2, first stage: 0.730, 0.704, 0.699, 0.706 for S = 1, 2, 4, 8, so 4. For 28: 8 does not divide, whatever "
        "its ratio.",
        "fitting = {s: r for s, r in table.items() if side % s == 0}; best = min(sorted(fitting), key=fitting.get); 0 "
        "and ratio 1 if fitting[best] >= 1; at the end sum(ratio * seconds) / sum(seconds).",
    ),
    shows="The same mask pays in other cells on another device: granularity belongs to the machine.",
    tolerance=1e-4,
)

TASKS = (block_macs, bounds, budget_loss, hard_mask, choose_granularity)
