"""The four stages that train AdaFocus; the policy learns from a reward that compares its window with a random one.

0. `pretrain_focus`: the focuser learns to read windows. It plays the part of the weights from ImageNet.
1. `warm_up`: random windows; the glancer, the classifier and, at a rate of its own, the focuser learn. In the released
   code the glancer, trained before, stands still; `glance_lr=0` gives that.
2. `train_policy`: only the policy learns. The reward of frame t is what the chosen window does to the probability of
   the true class, beyond what a random window at t would have done after the same history.
3. `fine_tune`: the focuser and the classifier get used to the windows the policy takes. The paper trains both; its
   released code trains the classifier alone, which `focus_lr=0` gives here.

Every stage depends on its `seed` alone, leaves the model in eval mode, and can be interrupted: with `checkpoint`, a
path, it saves itself after every epoch and goes on from there when called again.

Source: AdaFocus (arXiv 2105.03245) section 3.3 and its released code. There the random windows' corners never reach the
last pixel; here they do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.decision import discounted_returns, ppo_loss
from course_lib.temporal.adafocus.loop import (
    Checkpoint,
    Plan,
    StageHistory,
    accuracy,
    device_of,
    every_frame,
    run,
    seeded,
)
from course_lib.temporal.adafocus.model import AdaFocus, check_clips, pooled_features
from course_lib.temporal.adafocus.windows import cut, random_locations


def pretrain_focus(
    model: AdaFocus,
    windows: Tensor,
    labels: Tensor,
    *,
    epochs: int = 3,
    batch_size: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
    checkpoint: Checkpoint = None,
) -> StageHistory:
    """Stage 0: train the focuser, with a linear layer that is thrown away, to name what a window shows.

    Adam with a rate that rises over the first fifth and then falls; at a constant high rate it may collapse.

    Args:
        windows: (M, 3, P, P), normalised; see `object_windows`.
        labels: (M,) int64.
    """
    device = device_of(model)
    model.eval()
    with seeded(seed):
        head = nn.Linear(model.focus_features, model.classes).to(device)
    trained = nn.ModuleList([model.focuser, head])
    optimizer = torch.optim.Adam(trained.parameters(), lr=lr)

    def step(rows: Tensor, _: torch.Generator) -> tuple[Tensor, float]:
        logits = head(pooled_features(model.focuser(windows[rows].to(device)), model.pool))
        y = labels[rows].to(device)
        return functional.cross_entropy(logits, y), accuracy(logits, y)

    plan = Plan("pretrain_focus", len(windows), epochs, batch_size, seed, "warm cosine", (lr,))
    return run(plan, trained, optimizer, step, checkpoint, train=(trained,))


def warm_up(
    model: AdaFocus,
    clips: Tensor,
    labels: Tensor,
    *,
    epochs: int = 4,
    batch_size: int = 64,
    lr: float = 0.1,
    glance_lr: float | None = None,
    focus_lr: float | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = None,
) -> StageHistory:
    """Stage 1: random windows; cross-entropy of the answers after every frame.

    Args:
        clips, labels: (N, T, 3, size, size), normalised, and (N,) int64; batches are moved to the model's device.
        lr: of the classifier, by SGD with Nesterov momentum and a cosine schedule.
        glance_lr, focus_lr: of the encoders; None gives `lr` and a tenth of it, and 0 leaves an encoder as it is. On
            random windows, most of them empty, a focuser forgets fast.
    """
    check_clips(clips, model.size)
    device, room = device_of(model), model.size - model.patch
    rates = (lr, lr if glance_lr is None else glance_lr, lr / 10 if focus_lr is None else focus_lr)
    optimizer, trained = _sgd(rates, (model.classifier, model.glancer, model.focuser))

    def step(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        x, y = clips[rows].to(device), labels[rows].to(device)
        location = random_locations(len(x), x.shape[1], room=room, generator=generator).to(device)
        with torch.set_grad_enabled(rates[1] > 0):
            _, glance = model.glance(x)
        with torch.set_grad_enabled(rates[2] > 0):
            focus = model.look(x, location)
        logits, _, _ = model.classify(glance, focus)
        return every_frame(logits, y), accuracy(logits[:, -1], y)

    plan = Plan("warm_up", len(clips), epochs, batch_size, seed, "cosine", rates)
    return run(plan, model, optimizer, step, checkpoint, train=trained)


def train_policy(
    model: AdaFocus,
    clips: Tensor,
    labels: Tensor,
    *,
    epochs: int = 8,
    batch_size: int = 64,
    lr: float = 3e-3,
    gamma: float = 0.7,
    clip: float = 0.2,
    entropy: float = 0.01,
    seed: int = 0,
    checkpoint: Checkpoint = None,
) -> StageHistory:
    """Stage 2: PPO with one step a batch, for the policy alone; everything else stands still, in eval mode.

    Glances do not change, so they are computed once. The windows of a batch depend on them alone: all are drawn first,
    and the focuser reads the chosen and the random ones of all frames as one batch.

    Args:
        clips, labels: as in `warm_up`.
        lr: of Adam.
        gamma: discount of the rewards to come.
        clip, entropy: of PPO; the value's loss weighs 0.5.
    """
    device, room = device_of(model), model.size - model.patch
    maps, glance = glances(model, clips, batch_size)
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=lr)

    def step(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        x, y, seen = clips[rows].to(device), labels[rows].to(device), glance[rows].to(device)
        decision = model.policy(maps[rows].to(device))
        log_p = decision.logits.log_softmax(-1)
        chances = log_p.detach().exp().flatten(0, 1).cpu()
        action = torch.multinomial(chances, 1, generator=generator).view(x.shape[:2]).to(device)
        other = random_locations(len(x), x.shape[1], room=room, generator=generator).to(device)
        reward = window_rewards(model, x, y, seen, model.locations[action], other)
        returns = discounted_returns(reward.T, gamma).T
        returns = (returns - returns.mean()) / (returns.std(correction=0) + 1e-8)
        value = model.policy.critic(decision.hidden).squeeze(-1)
        chosen = log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        loss = ppo_loss(chosen, chosen.detach(), returns - value.detach(), clip=clip)
        spread_out = -(log_p.exp() * log_p).sum(-1).mean()
        loss = loss + 0.5 * (value - returns).square().mean() - entropy * spread_out
        return loss, float(reward.mean())

    plan = Plan("train_policy", len(clips), epochs, batch_size, seed, "constant", (lr, gamma, clip, entropy))
    return run(plan, model, optimizer, step, checkpoint, train=(model.policy,))


def fine_tune(
    model: AdaFocus,
    clips: Tensor,
    labels: Tensor,
    *,
    epochs: int = 4,
    batch_size: int = 64,
    lr: float = 0.05,
    focus_lr: float | None = None,
    windows: str = "learned",
    seed: int = 0,
    checkpoint: Checkpoint = None,
) -> StageHistory:
    """Stage 3: the windows are the policy's most likely ones; focuser and classifier get used to them.

    Args:
        clips, labels: as in `warm_up`.
        lr: of the classifier.
        focus_lr: of the focuser; None gives a tenth of `lr`, 0 trains the classifier alone. Then the features are
            computed once and the stage takes a second or two.
        windows: "learned"; or "random", fresh ones in every epoch, for a baseline that got the same training.
    """
    if windows not in ("learned", "random"):
        raise ValueError(f"windows: got {windows!r}, expected 'learned' or 'random'")
    device, room = device_of(model), model.size - model.patch
    rates = (lr, lr / 10 if focus_lr is None else focus_lr)
    optimizer, trained = _sgd(rates, (model.classifier, model.focuser))
    maps, glance = glances(model, clips, batch_size)
    learned = windows == "learned"
    location = model.locations.cpu()[choices(model, maps, batch_size)] if learned else torch.empty(0)
    stored = window_features(model, clips, location, batch_size) if learned and not rates[1] else None

    def step(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        y = labels[rows].to(device)
        if stored is not None:
            focus = stored[rows].to(device)
        else:
            x = clips[rows].to(device)
            where = location[rows] if learned else random_locations(len(x), x.shape[1], room=room, generator=generator)
            with torch.set_grad_enabled(rates[1] > 0):
                focus = model.look(x, where.to(device))
        logits, _, _ = model.classify(glance[rows].to(device), focus)
        return every_frame(logits, y), accuracy(logits[:, -1], y)

    plan = Plan(f"fine_tune {windows}", len(clips), epochs, batch_size, seed, "cosine", rates)
    return run(plan, model, optimizer, step, checkpoint, train=trained)


def window_rewards(
    model: AdaFocus, clips: Tensor, labels: Tensor, glance: Tensor, chosen: Tensor, other: Tensor
) -> Tensor:
    """(N, T): the true class's probability with the chosen window at t, less that with the other one there.

    Args:
        clips, labels: (N, T, 3, size, size), (N,) int64.
        glance: (N, T, F), features of the whole frames.
        chosen, other: (N, T, 2), locations; the history of both is the chosen windows of the frames before.
    """
    with torch.no_grad():
        windows = torch.cat((cut(clips, chosen, model.patch), cut(clips, other, model.patch)))
        focus = pooled_features(model.focuser(windows), model.pool)
        mine, theirs = focus.unflatten(0, (2, *clips.shape[:2])).unbind()
    return counterfactual(model, glance, mine, theirs, labels, history=mine)


@torch.no_grad()
def counterfactual(
    model: AdaFocus, glance: Tensor, mine: Tensor, theirs: Tensor, labels: Tensor, *, history: Tensor
) -> Tensor:
    """(N, T): what `mine` at t instead of `theirs` at t does to the true class's probability, after one history.

    The classifier runs once over `history`; its states, shifted by one frame, are what both answers at t start from.
    Each answer is one step of the GRU whose new state is dropped, so the comparison can leave no trace.

    Args:
        glance: (N, T, F_G), features of the whole frames.
        mine, theirs, history: (N, T, F_L), features of windows.
        labels: (N,) int64.
    """
    n, frames = glance.shape[:2]
    _, hidden, _ = model.classify(glance, history)
    before = torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), 1).flatten(0, 1)
    focus = torch.cat((mine, theirs)).flatten(0, 1).unsqueeze(1)  # (2 N T, 1, F_L), one frame each
    twice = glance.flatten(0, 1).repeat(2, 1).unsqueeze(1)
    logits, _, _ = model.classify(twice, focus, before.repeat(2, 1).unsqueeze(0))
    truth = labels.repeat_interleave(frames).repeat(2).unsqueeze(1)
    p = logits[:, 0].softmax(-1).gather(1, truth).view(2, n, frames)
    return p[0] - p[1]


def object_windows(
    clips: Tensor, labels: Tensor, box: Tensor, shown: Tensor, *, side: int, patch: int, n: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Windows around an object whose place is known, shifted at random so that all of it stays inside: for stage 0.

    Args:
        clips, labels: (N, T, C, H, W), (N,) int64.
        box: (N, T, 2), the object's upper left corner in pixels; side: its height and width.
        shown: (N, T) bool, frames that show it.
        patch: side of the windows, at least `side`.
        n: number of windows; frames are drawn with replacement.

    Returns:
        windows (n, C, patch, patch) and their labels (n,). Everything is on the CPU.
    """
    if not side <= patch <= min(clips.shape[3:]):
        raise ValueError(f"patch: got {patch}, expected {side} to {min(clips.shape[3:])}")
    generator = torch.Generator().manual_seed(seed)
    places = shown.nonzero()
    if not len(places):
        raise ValueError("shown: got no frame that shows the object, expected at least one")
    picked = places[torch.randint(len(places), (n,), generator=generator)]
    shift = torch.randint(patch - side + 1, (n, 2), generator=generator)
    room = torch.tensor([clips.shape[3] - patch, clips.shape[4] - patch])
    corner = torch.minimum((box[picked[:, 0], picked[:, 1]].long() - shift).clamp(min=0), room)
    everywhere = clips.unfold(3, patch, 1).unfold(4, patch, 1)
    return everywhere[picked[:, 0], picked[:, 1], :, corner[:, 0], corner[:, 1]], labels[picked[:, 0]]


def _sgd(
    rates: tuple[float, ...], modules: tuple[nn.Module, ...]
) -> tuple[torch.optim.Optimizer, tuple[nn.Module, ...]]:
    """SGD over the modules whose rate is above 0, and these modules."""
    pairs = [(module, rate) for module, rate in zip(modules, rates, strict=True) if rate > 0]
    if not pairs:
        raise ValueError(f"lr: got rates {rates}, expected at least one above 0")
    groups: list[dict[str, Any]] = [{"params": list(module.parameters()), "lr": rate} for module, rate in pairs]
    optimizer = torch.optim.SGD(groups, lr=rates[0], momentum=0.9, nesterov=True, weight_decay=1e-4)
    return optimizer, tuple(module for module, _ in pairs)


@torch.no_grad()
def glances(model: AdaFocus, clips: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Maps and features of all frames, in eval mode, kept on the CPU."""
    check_clips(clips, model.size)
    model.eval()
    parts = [model.glance(clips[rows].to(device_of(model))) for rows in torch.arange(len(clips)).split(batch_size)]
    return torch.cat([maps.cpu() for maps, _ in parts]), torch.cat([features.cpu() for _, features in parts])


@torch.no_grad()
def choices(model: AdaFocus, maps: Tensor, batch_size: int) -> Tensor:
    """(N, T) int64: the policy's most likely windows."""
    return torch.cat([model.policy(m.to(device_of(model))).logits.argmax(-1).cpu() for m in maps.split(batch_size)])


@torch.no_grad()
def window_features(model: AdaFocus, clips: Tensor, location: Tensor, batch_size: int) -> Tensor:
    """(N, T, F), kept on the CPU."""
    device = device_of(model)
    rows = torch.arange(len(clips)).split(batch_size)
    return torch.cat([model.look(clips[r].to(device), location[r].to(device)).cpu() for r in rows])
