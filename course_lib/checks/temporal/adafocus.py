"""Checks of `temporal/adafocus`: what a video costs, rewards and returns, all windows in one batch, a soft crop.

References are written anew, in plain Python where that is readable, and share nothing with
`course_lib.temporal.adafocus`. The soft crop is in a file of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_lib.checks import Case, Check
from course_lib.checks.temporal._soft_crop import CHAPTER, soft_crop

# What a video costs ---------------------------------------------------------------------------------------------------

_GLANCE, _POLICY, _CLASSIFIER = 0.299494272, 0.009954304, 0.013574144
_FOCUS = {96: 0.750698496, 128: 1.334575104, 144: 1.757556736, 160: 2.085273600, 192: 3.002793984}
_SIZES = "in G: MobileNetV2 0.2995, ResNet-50 on the window {:.4f}, policy 0.0100, classifier 0.0136"


def _case_of(patch: int) -> Case:
    name = f"{patch}-pixel windows, 16 of 16 frames"
    return Case.of(name, _GLANCE, _FOCUS[patch], _POLICY, _CLASSIFIER, 16, 16, show=_SIZES.format(_FOCUS[patch]))


def _video_macs(
    glance: float,
    focus: float,
    policy: float,
    classifier: float,
    frames_glance: int,
    frames_focus: int,
    *,
    once: bool = False,
    small: bool = True,
    late_policy: bool = False,
    early_classifier: bool = False,
) -> float:
    total = 0.0
    for _ in range(1 if once else frames_glance):
        total += glance
    for _ in range(frames_focus):
        total += focus
    if small:
        total += policy * (frames_focus if late_policy else frames_glance)
        total += classifier * (frames_glance if early_classifier else frames_focus)
    return total


video_macs = Check(
    "video_macs",
    chapter=CHAPTER,
    title="what a video costs",
    level=1,
    minutes=8,
    reference=_video_macs,
    cases=[
        _case_of(128),
        _case_of(96),
        _case_of(160),
        _case_of(192),
        Case.of(
            "8 glances, 12 windows of 144 pixels",
            *(_GLANCE, _FOCUS[144], 0.0, 0.0, 8, 12),
            show="the variant for Something-Something, whose small parts are not counted",
        ),
        Case.of("small whole numbers, 4 glances, 3 windows", 10.0, 100.0, 1.0, 2.0, 4, 3),
        Case.of("no window at all", 10.0, 100.0, 1.0, 2.0, 4, 0),
    ],
    wrong_answers={
        "glance_once": lambda *args: _video_macs(*args, once=True),
        "two_per_mac": lambda *args: 2 * _video_macs(*args),
        "one_frame_count_for_both": lambda g, f, p, c, glances, windows: _video_macs(g, f, p, c, glances, glances),
        "windows_count_for_both": lambda g, f, p, c, glances, windows: _video_macs(g, f, p, c, windows, windows),
        "forgets_the_small_parts": lambda *args: _video_macs(*args, small=False),
        "policy_with_the_windows": lambda *args: _video_macs(*args, late_policy=True),
        "classifier_with_the_glances": lambda *args: _video_macs(*args, early_classifier=True),
        "counts_exchanged": lambda g, f, p, c, glances, windows: _video_macs(g, f, p, c, windows, glances),
    },
    diagnoses={
        "glance_once": "Your video is glanced at once. From what are the windows of the other frames chosen?",
        "two_per_mac": "Your number is twice as large. Does the paper's column count a multiply-add as one operation "
        "or as two?",
        "one_frame_count_for_both": "You multiplied everything by the number of glances. How often does the heavy "
        "network run when 8 frames are glanced at and 12 windows read?",
        "windows_count_for_both": "You multiplied everything by the number of windows. How many frames does the light "
        "network see when 8 are glanced at and 12 windows read?",
        "forgets_the_small_parts": "You counted the two encoders. Who chose the windows, and who gave the answers?",
        "policy_with_the_windows": "You ran the policy once for every window. What does it read, and how many of "
        "those are there?",
        "classifier_with_the_glances": "You ran the classifier once for every glance. With what does it run?",
        "counts_exchanged": "You glanced as often as there are windows, and read as many windows as there are "
        "glances. Which of the two counts belongs to the light network?",
    },
    accepted=[
        lambda g, f, p, c, glances, windows: glances * (g + p) + windows * (f + c),
        lambda g, f, p, c, glances, windows: (
            torch.tensor([g, p, f, c]).double() @ torch.tensor([glances, glances, windows, windows]).double()
        ),
    ],
    hints=(
        "Two parts run for every frame that is glanced at, two for every window that is read.",
        "4 glances at 10 and their policy at 1 are 44; 3 windows at 100 and the classifier at 2 are 306.",
        "frames_glance * (glance + policy), and to that what runs frames_focus times.",
    ),
    shows="So four fifths of the bill for a 128-pixel window is the window, and its finding is the fifth.",
    tolerance=1e-5,
)

# Rewards and returns --------------------------------------------------------------------------------------------------


def _spread(true: list[float], label: int, runner_up: float) -> list[list[float]]:
    """(T, 3) probabilities: of the true class as given, of another one `runner_up`, the rest."""
    other, third = ((label + k) % 3 for k in (1, 2))
    rows = []
    for p in true:
        row = [0.0] * 3
        row[label], row[other] = p, min(runner_up, 1 - p)
        row[third] = 1 - row[label] - row[other]
        rows.append(row)
    return rows


_CHOSEN = torch.tensor([_spread([0.3, 0.5, 0.8], 1, 0.45)], dtype=torch.float64)
_RANDOM = torch.tensor([_spread([0.25, 0.3, 0.7], 1, 0.6)], dtype=torch.float64)
_TWO_CHOSEN = torch.cat([_CHOSEN, torch.tensor([_spread([0.2, 0.1, 0.6], 2, 0.5)], dtype=torch.float64)])
_TWO_RANDOM = torch.cat([_RANDOM, torch.tensor([_spread([0.4, 0.1, 0.3], 2, 0.3)], dtype=torch.float64)])
_TABLES = "(N, T, 3) probabilities; true class .30 .50 .80 with the chosen window, .25 .30 .70 with a random one"


def _returns(
    p_chosen: Tensor,
    p_random: Tensor,
    labels: Tensor,
    gamma: float,
    *,
    reward: Callable[[Tensor, Tensor, int], list[float]] | None = None,
    forward: bool = False,
) -> list[list[float]]:
    rows = []
    for chosen, random, label in zip(p_chosen, p_random, labels.tolist(), strict=True):
        rewards = (reward or _difference)(chosen, random, label)
        ordered = rewards if forward else rewards[::-1]
        found, so_far = [], 0.0
        for r in ordered:
            so_far = r + gamma * so_far
            found.append(so_far)
        rows.append(found if forward else found[::-1])
    return rows


def _difference(chosen: Tensor, random: Tensor, label: int) -> list[float]:
    return [float(a[label]) - float(b[label]) for a, b in zip(chosen, random, strict=True)]


def _increments(chosen: Tensor, random: Tensor, label: int) -> list[float]:
    values = [0.0, *(float(row[label]) for row in chosen)]
    return [b - a for a, b in itertools.pairwise(values)]


def _top_class(chosen: Tensor, random: Tensor, label: int) -> list[float]:
    return [float(a.max()) - float(b.max()) for a, b in zip(chosen, random, strict=True)]


def _backwards(p_chosen: Tensor, p_random: Tensor, labels: Tensor, gamma: float) -> Tensor:
    index = labels[:, None, None].expand(-1, p_chosen.shape[1], 1)
    found = (p_chosen - p_random).gather(2, index).squeeze(2).clone()
    for t in range(found.shape[1] - 2, -1, -1):
        found[:, t] += gamma * found[:, t + 1]
    return found


def _by_powers(p_chosen: Tensor, p_random: Tensor, labels: Tensor, gamma: float) -> Tensor:
    everyone = torch.arange(len(labels))
    rewards = p_chosen[everyone, :, labels] - p_random[everyone, :, labels]
    ahead = torch.arange(rewards.shape[1])[None, :] - torch.arange(rewards.shape[1])[:, None]
    weights = torch.where(ahead >= 0, gamma ** ahead.clamp(min=0).double(), 0.0)
    return rewards.double() @ weights.T


returns = Check(
    "returns",
    chapter=CHAPTER,
    title="a reward is a comparison",
    level=2,
    minutes=15,
    reference=lambda p_chosen, p_random, labels, gamma: _returns(p_chosen, p_random, labels, gamma),
    cases=[
        Case.of("rewards alone: gamma = 0", _CHOSEN, _RANDOM, torch.tensor([1]), 0.0, show=_TABLES),
        Case.of("returns: gamma = 0.7", _CHOSEN, _RANDOM, torch.tensor([1]), 0.7, show=_TABLES),
        Case.of("two clips of different classes", _TWO_CHOSEN, _TWO_RANDOM, torch.tensor([1, 2]), 0.7),
        Case.of("the chosen windows are the random ones", _CHOSEN, _CHOSEN, torch.tensor([1]), 0.7),
        Case.of("one frame", _CHOSEN[:, :1], _RANDOM[:, :1], torch.tensor([0]), 0.7),
    ],
    wrong_answers={
        "increment_reward": lambda *args: _returns(*args, reward=_increments),
        "discounts_forward": lambda *args: _returns(*args, forward=True),
        "top_class_probability": lambda *args: _returns(*args, reward=_top_class),
        "no_baseline": lambda *args: _returns(*args, reward=lambda a, b, label: [float(row[label]) for row in a]),
        "random_minus_chosen": lambda p_chosen, p_random, *rest: _returns(p_random, p_chosen, *rest),
        "no_discount": lambda p_chosen, p_random, labels, gamma: _returns(p_chosen, p_random, labels, 1.0),
        "rewards_alone": lambda p_chosen, p_random, labels, gamma: _returns(p_chosen, p_random, labels, 0.0),
    },
    diagnoses={
        "increment_reward": "Your reward is the gain over the frame before. Whose doing is it when a clip becomes "
        "clearer by itself, whatever window was read?",
        "discounts_forward": "Your return at t is made of the rewards up to t. Can a window change what was earned "
        "before it was chosen?",
        "top_class_probability": "You compared the largest probabilities. What is the policy rewarded for when the "
        "answer becomes surer and wrong?",
        "no_baseline": "Your reward is the probability itself. What does a clip earn that is easy with any window?",
        "random_minus_chosen": "Your rewards have the opposite sign. What is the policy praised for?",
        "no_discount": "Your returns count later rewards in full, whatever gamma is. Where does gamma come in?",
        "rewards_alone": "You gave back the rewards. What does a frame get for what is earned after it?",
    },
    accepted=[_backwards, _by_powers],
    hints=(
        "First (N, T) rewards: the true class's probability in both tables, and their difference. Then go from the "
        "last frame to the first.",
        "Rewards .05 .20 .10: the last return is .10, the one before .20 + .7 * .10 = .27, the first .05 + .7 * .27.",
        "index = labels[:, None, None].expand(-1, T, 1); reward = (p_chosen - p_random).gather(2, index).squeeze(2); "
        "then, for t = T - 2 down to 0, reward[:, t] += gamma * reward[:, t + 1], on a copy.",
    ),
    shows="A window earns only what a random one would not have earned, and whatever that makes possible later.",
    tolerance=1e-6,
)

# All windows in one batch ---------------------------------------------------------------------------------------------

Parts = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]]

_N, _T, _SIDE, _P = 3, 4, 8, 3


def toy_video() -> tuple[Tensor, Parts]:
    """Three clips of four small frames (3, 4, 1, 8, 8), and the four parts of a network that has not been trained.

    The parts are (glance, policy, focus, classifier) as the exercise `offline` describes them.
    """
    source = torch.Generator().manual_seed(3)

    def weights(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    see, remember, choose = weights(_SIDE * _SIDE, 5) / 4, weights(10, 6), 2 * weights(6, 2)
    read, collect, answer = weights(_P * _P, 4), weights(15, 6), weights(6, 3)

    def glance(images: Tensor) -> Tensor:
        return (images.flatten(1) @ see).tanh()

    def policy(features: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        before = features.new_zeros(len(features), 5) if state is None else state
        hidden = torch.cat((features, before), 1) @ remember
        return (hidden.tanh() @ choose).sigmoid(), hidden[:, :5].tanh()

    def focus(images: Tensor, location: Tensor) -> Tensor:
        corner = (location * (_SIDE - _P)).floor().long()
        windows = images.unfold(2, _P, 1).unfold(3, _P, 1)[torch.arange(len(images)), :, corner[:, 0], corner[:, 1]]
        return (windows.flatten(1) @ read).tanh()

    def classifier(features: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        before = features.new_zeros(len(features), 6) if state is None else state
        hidden = (torch.cat((features, before), 1) @ collect).tanh()
        return hidden @ answer, hidden

    return weights(_N, _T, 1, _SIDE, _SIDE), (glance, policy, focus, classifier)


def _online(frames: Tensor, glance: Any, policy: Any, focus: Any, classifier: Any) -> Tensor:
    choice = memory = None
    answers = []
    for t in range(frames.shape[1]):
        seen = glance(frames[:, t])
        location, choice = policy(seen, choice)
        logits, memory = classifier(torch.cat((seen, focus(frames[:, t], location)), 1), memory)
        answers.append(logits)
    return torch.stack(answers, 1)


def _locations(seen: Tensor, policy: Any, *, forgets: bool = False) -> Tensor:
    state, found = None, []
    for t in range(seen.shape[1]):
        location, state = policy(seen[:, t], None if forgets else state)
        found.append(location)
    return torch.stack(found, 1)


def _answers(seen: Tensor, read: Tensor, classifier: Any, *, forgets: bool = False) -> Tensor:
    state, found = None, []
    for t in range(seen.shape[1]):
        logits, state = classifier(torch.cat((seen[:, t], read[:, t]), 1), None if forgets else state)
        found.append(logits)
    return torch.stack(found, 1)


def _offline(
    frames: Tensor,
    glance: Any,
    policy: Any,
    focus: Any,
    classifier: Any,
    *,
    mixes: bool = False,
    peeks: bool = False,
    forgets: bool = False,
    answers_forget: bool = False,
    one_window: bool = False,
) -> Tensor:
    """Three passes; the flags are the planted mistakes."""
    seen = glance(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    known = seen.mean(1, keepdim=True).expand_as(seen) if peeks else seen
    location = _locations(known[:, -1:] if one_window else known, policy, forgets=forgets)
    location = location.expand(-1, frames.shape[1], -1)
    where = torch.cat(location.unbind(1)) if mixes else location.flatten(0, 1)
    read = focus(frames.flatten(0, 1), where).unflatten(0, frames.shape[:2])
    return _answers(seen, read, classifier, forgets=answers_forget)


def _time_first(frames: Tensor, glance: Any, policy: Any, focus: Any, classifier: Any) -> Tensor:
    """Frame by frame through the batch, every frame glanced at on its own."""
    seen = torch.stack([glance(frame) for frame in frames.unbind(1)], 1)
    location = _locations(seen, policy).unbind(1)
    read = focus(torch.cat(frames.unbind(1)), torch.cat(location)).split(len(frames))
    return _answers(seen, torch.stack(read, 1), classifier)


def _answered(answer: Callable[..., Any], change: Callable[[Tensor], Tensor] = lambda frames: frames) -> Any:
    frames, parts = toy_video()
    return answer(change(frames), *parts)


def _heavy_calls(answer: Callable[..., Any]) -> list[int]:
    frames, (glance, policy, focus, classifier) = toy_video()
    rows = []

    def counted(images: Tensor, location: Tensor) -> Tensor:
        rows.append(len(images))
        return focus(images, location)

    answer(frames, glance, policy, counted, classifier)
    return rows


def _other_end(frames: Tensor) -> Tensor:
    changed = frames.clone()
    changed[:, 2:] = -changed[:, 2:]
    return changed


def _unmoved(answer: Callable[..., Any]) -> list[bool]:
    """Frame by frame: are the answers the same when the frames from the third on are others?"""
    before, after = _answered(answer), _answered(answer, _other_end)
    return [bool(torch.allclose(before[:, t], after[:, t])) for t in range(_T)]


offline = Check(
    "offline",
    chapter=CHAPTER,
    title="all windows of all frames in one batch",
    level=4,
    minutes=27,
    reference=_offline,
    cases=[
        Case("the logits of three clips of four frames", _answered, "compared with those of the online loop"),
        Case("how often the heavy network runs, and on how many windows", _heavy_calls, "3 clips of 4 frames"),
        Case("other frames at the end", _unmoved, "frame by frame: does the answer stay the same?"),
        Case("one clip", lambda f: _answered(f, lambda frames: frames[:1]), "a batch of one"),
        Case("one frame", lambda f: _answered(f, lambda frames: frames[:, :1]), "a still image"),
    ],
    wrong_answers={
        "mixes_batch_and_time": lambda *args: _offline(*args, mixes=True),
        "heavy_in_a_loop": _online,
        "peeks_at_the_future": lambda *args: _offline(*args, peeks=True),
        "forgets_the_state": lambda *args: _offline(*args, forgets=True),
        "forgets_the_memory": lambda *args: _offline(*args, answers_forget=True),
        "one_window_for_all": lambda *args: _offline(*args, one_window=True),
    },
    diagnoses={
        "mixes_batch_and_time": "Your frames stand clip by clip and your windows frame by frame, so the heavy network "
        "reads most windows in other clips. In which order do `flatten(0, 1)` and `cat` over time put N x T things?",
        "heavy_in_a_loop": "Your answers are right, and the heavy network still runs once a frame. Which of the four "
        "parts does its next input wait for?",
        "peeks_at_the_future": "Your early windows change when only later frames do. Which glances may the policy have "
        "seen at frame t?",
        "forgets_the_state": "Your policy begins anew at every frame. What does it give back beside the location?",
        "forgets_the_memory": "Your classifier begins anew at every frame. What has it collected in those before?",
        "one_window_for_all": "You read the same window in every frame. How many locations has a clip of T frames?",
    },
    accepted=[_time_first, lambda frames, *parts: _offline(frames.clone(), *parts).float()],
    hints=(
        "Three passes: all glances at once; the policy in a loop over time; all windows at once. Then the classifier "
        "in a loop over time.",
        "3 clips of 4 frames: flatten(0, 1) makes 12 images in the order clip 0 frame 0, 0-1, 0-2, 0-3, 1-0, ...; "
        "locations stacked to (3, 4, 2) and flattened stand in the same order.",
        "seen = glance(frames.flatten(0, 1)).unflatten(0, (N, T)); loop: location, state = policy(seen[:, t], state); "
        "read = focus(frames.flatten(0, 1), stack(locations, 1).flatten(0, 1)).unflatten(0, (N, T)); loop: logits, "
        "memory = classifier(cat((seen[:, t], read[:, t]), 1), memory).",
    ),
    shows="What is chosen one after another is cheap; what is dear runs once.",
    tolerance=1e-5,
)

TASKS = (video_macs, returns, offline, soft_crop)
