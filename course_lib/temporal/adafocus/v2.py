"""AdaFocusV2: the same glance and focus, trained end to end, because the window slides by fractions of a pixel.

What is different from `AdaFocus`: the policy gives a location instead of choosing one, and the gradient of the loss
reaches it through the interpolated crop (`soft_cut`), so there are no stages and no reward. Four things keep that
stable: the policy reads the glance maps and sends no gradient back into them; both encoders have heads and losses of
their own; every batch is answered twice, with the policy's windows and with random ones; and the policy learns slowly.
The classifier takes the running maximum of what it has seen and has one head for each number of frames, and frames are
read coarse to fine in time, so that a clip can be answered early (`infer` with thresholds).

Source: AdaFocusV2 (arXiv 2112.14238) sections 3 and 4 and its released code; there confidence is the largest logit,
here a probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib.decision import Confidence, as_thresholds
from course_lib.decision import confidence as sureness
from course_lib.temporal.adafocus.backbones import Encoder, mobilenet_v2, resnet50, tiny_settings
from course_lib.temporal.adafocus.loop import Checkpoint, Plan, StageHistory, accuracy, device_of, every_frame, run
from course_lib.temporal.adafocus.model import (
    FocusResult,
    Pool,
    check_clips,
    check_lengths,
    check_sizes,
    map_shape,
    part_macs,
    pooled_features,
)
from course_lib.temporal.adafocus.windows import asked_for, soft_cut


def coarse_to_fine(frames: int) -> list[int]:
    """The order in which frames are read: the middle one, both ends, then the middle of every gap, level by level.

    >>> coarse_to_fine(8)
    [3, 0, 7, 1, 5, 2, 4, 6]
    """
    if frames < 1:
        raise ValueError(f"frames: got {frames}, expected at least 1")
    middle, last = (frames - 1) // 2, frames - 1
    order = list(dict.fromkeys([middle, 0, last]))
    gaps = [(0, middle), (middle, last)]
    while gaps:
        inside = [((a + b) // 2, a, b) for a, b in gaps if b - a > 1]
        order += [m for m, _, _ in inside]
        gaps = [gap for m, a, b in inside for gap in ((a, m), (m, b))]
    return order


@dataclass(frozen=True)
class V2Output:
    """What training looks at. Answers stand in the order in which frames are read, locations in that of time."""

    logits: Tensor  #: (N, T, classes), after 1, 2, ... frames
    glance_logits: Tensor  #: (N, T, classes), of each frame alone, from its glance
    focus_logits: Tensor  #: (N, T, classes), of each frame alone, from its window
    location: Tensor  #: (N, T, 2) in [0, 1]


class SoftPolicy(nn.Module):
    """A location in [0, 1] x [0, 1] for each frame, from the glance maps of the frames so far."""

    def __init__(self, shape: tuple[int, int, int], *, squeeze: int, width: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.encode = nn.Sequential(
            nn.Conv2d(channels, squeeze, 1, bias=False),
            nn.BatchNorm2d(squeeze),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(squeeze * height * across, width),
            nn.BatchNorm1d(width),
            nn.Tanh(),
        )
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, 2)

    def forward(self, maps: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, T, C, h, w) -> locations (N, T, 2), state (1, N, width)."""
        hidden, state = self.gru(self.encode(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]), state)
        return self.out(hidden).sigmoid(), state


class MaxClassifier(nn.Module):
    """A layer for each frame, the maximum over the frames so far, and a head for each number of frames."""

    def __init__(self, features: int, classes: int, frames: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.layer = nn.Sequential(nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList([nn.Linear(width, classes) for _ in range(frames)])

    def forward(self, features: Tensor, seen: Tensor | None = None, first: int = 0) -> tuple[Tensor, Tensor]:
        """(N, T, features), in the order of reading -> logits (N, T, classes), the maximum (N, width) for next time.

        seen: the maximum over the `first` frames before, None where there were none.
        """
        hidden = self.layer(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        if seen is not None:  # after a ReLU nothing is below 0, so the maximum needs no other start
            hidden = torch.cat((torch.maximum(seen.unsqueeze(1), hidden[:, :1]), hidden[:, 1:]), 1)
        so_far = hidden.cummax(1).values
        dropped = self.dropout(so_far)
        logits = [self.heads[first + k](dropped[:, k]) for k in range(features.shape[1])]
        return torch.stack(logits, 1), so_far[:, -1]


class AdaFocusV2(nn.Module):
    """Glancer, policy, focuser and classifier as one differentiable function.

    Arguments as for `AdaFocus`: `squeeze` and `policy_width` of the policy, `width` and `dropout` of the classifier.
    `frames` is the largest number of frames a clip may have: there is a head for each.
    """

    def __init__(
        self,
        *,
        glancer: nn.Module,
        focuser: nn.Module,
        patch: int,
        frames: int,
        classes: int,
        size: int = 224,
        pool: Pool = "mean",
        squeeze: int = 64,
        policy_width: int = 2048,
        width: int = 4096,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_sizes(patch, size, frames)
        self.patch, self.frames, self.classes, self.size = patch, frames, classes, size
        self.pool: Pool = pool
        self.glancer, self.focuser = glancer, focuser
        shape = map_shape(glancer, size)
        parts = 2 if pool == "mean_max" else 1
        glance, focus = parts * shape[0], parts * map_shape(focuser, patch)[0]
        self.glance_head, self.focus_head = nn.Linear(glance, classes), nn.Linear(focus, classes)
        self.policy = SoftPolicy(shape, squeeze=squeeze, width=policy_width)
        self.classifier = MaxClassifier(glance + focus, classes, frames, width=width, dropout=dropout)
        self.frame_macs = part_macs(self)

    @classmethod
    def published(cls, classes: int = 200, *, patch: int = 128, frames: int = 16) -> AdaFocusV2:
        """The released network with random weights; its encoders keep their unused heads for 1000 classes."""
        glancer, focuser = Encoder(mobilenet_v2(), nn.Linear(1280, 1000)), Encoder(resnet50(), nn.Linear(2048, 1000))
        return cls(glancer=glancer, focuser=focuser, patch=patch, frames=frames, classes=classes)

    @classmethod
    def tiny(cls, classes: int = 10, *, frames: int = 8, patch: int = 20) -> AdaFocusV2:
        """A laptop's network with the encoders of `AdaFocus.tiny`."""
        return cls(**tiny_settings(), patch=patch, frames=frames, classes=classes)

    def glance(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, T, C, h, w) and features (N, T, F) of whole frames."""
        maps = self.glancer(clips.flatten(0, 1))
        return maps.unflatten(0, clips.shape[:2]), pooled_features(maps, self.pool).unflatten(0, clips.shape[:2])

    def look(self, clips: Tensor, location: Tensor) -> Tensor:
        """Features (N, T, F) of the windows at `location`, to which gradients flow."""
        features = pooled_features(self.focuser(soft_cut(clips, location, self.patch)), self.pool)
        return features.unflatten(0, clips.shape[:2])

    def forward(self, clips: Tensor, other: Tensor | None = None) -> list[V2Output]:
        """The pass with the policy's windows, and one with windows at `other` (N, T, 2) where that is given.

        clips: (N, T, 3, size, size), normalised. Both passes share the glances, and the focuser reads the windows of
        both as one batch.
        """
        self._check(clips)
        order = torch.tensor(coarse_to_fine(clips.shape[1]), device=clips.device)
        maps, glance = self.glance(clips)
        in_order, _ = self.policy(maps.detach()[:, order])
        location = torch.empty_like(in_order).index_copy(1, order, in_order)
        places = [location] if other is None else [location, other]
        windows = torch.cat([soft_cut(clips, place, self.patch) for place in places])
        focus = pooled_features(self.focuser(windows), self.pool).unflatten(0, (len(places), *clips.shape[:2]))
        outputs = []
        for place, seen in zip(places, focus, strict=True):
            logits, _ = self.classifier(torch.cat((glance, seen), -1)[:, order])
            outputs.append(V2Output(logits, self.glance_head(glance), self.focus_head(seen), place))
        return outputs

    def infer(
        self,
        clips: Tensor,
        *,
        policy: str | Tensor = "learned",
        thresholds: Tensor | None = None,
        confidence: Confidence = "max_softmax",
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> FocusResult:
        """Answers after 1, 2, ... frames in the order of `coarse_to_fine`; logits[:, -1] is the final one.

        Args:
            clips, policy, lengths, generator: as in `AdaFocus.infer`; at most `frames` frames. A clip shorter than the
                others has an order of its own, and its last answer is repeated; the location of the frames that are
                not its own is the middle.
            thresholds: (T,); a clip is answered by the first number of frames whose answer is that sure; the last one
                is ignored. Frames are then read one after the other, those of answered clips not at all: they are not
                `kept`, their location is the middle, and the answer is repeated.
            confidence: how sure, see `decision.confidence`.

        Raises as `AdaFocus.infer` does.
        """
        self._check(clips)
        if self.training:
            raise RuntimeError("the model is in training mode; call model.eval() first")
        n, frames = clips.shape[:2]
        long = torch.full((n,), frames) if lengths is None else check_lengths(lengths, n, frames)
        orders = {length: coarse_to_fine(length) for length in set(long.tolist())}
        padded = [orders[length] + list(range(length, frames)) for length in long.tolist()]
        order = torch.tensor(padded, dtype=torch.int64, device=clips.device).view(n, frames)
        bar = None if thresholds is None else as_thresholds(thresholds, frames).tolist()
        room = self.size - self.patch
        places = asked_for(policy, n, frames, room=room, generator=generator, device=clips.device)
        with torch.inference_mode():
            return self._read(clips, order, long.to(clips.device), places, bar, confidence)

    def _read(
        self,
        clips: Tensor,
        order: Tensor,
        lengths: Tensor,
        places: Tensor | None,
        bar: list[float] | None,
        kind: Confidence,
    ) -> FocusResult:
        n, frames = order.shape
        answers = clips.new_zeros(n, frames, self.classes)
        location = clips.new_full((n, frames, 2), 0.5)
        kept = torch.zeros(n, frames, dtype=torch.bool, device=clips.device)
        here = torch.arange(n, device=clips.device)
        state: Tensor | None = None
        seen: Tensor | None = None
        stored = self._stored(clips, order, lengths, places) if bar is None and n else None
        for k in range(frames):
            if not len(here):
                break
            at = order[here, k]
            if stored is None:  # nobody knows yet whether this frame will be needed
                maps, glance = self.glance(clips[here, at].unsqueeze(1))
                where, state = (places[here, at].unsqueeze(1), None) if places is not None else self.policy(maps, state)
                focus = self.look(clips[here, at].unsqueeze(1), where)
            else:
                glance, focus, where = (values[here, at].unsqueeze(1) for values in stored)
            logits, seen = self.classifier(torch.cat((glance, focus), -1), seen, first=k)
            answers[here, k:] = logits
            location[here, at], kept[here, at] = where[:, 0], True
            stay = k + 1 < lengths[here]
            if bar is not None:
                stay &= sureness(logits[:, 0], kind) < bar[k]
            if not stay.all():
                here, seen = here[stay], seen[stay]
                state = None if state is None else state[:, stay]
        parts = self.frame_macs
        each = parts.glance + parts.focus + parts.classifier + (places is None) * parts.policy
        return FocusResult(answers, location, kept.sum(1).double() * each, kept, self.patch)

    def _stored(
        self, clips: Tensor, order: Tensor, lengths: Tensor, places: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features of glances and windows, and locations, of all frames: each network runs once, on one batch."""
        n, frames = order.shape
        valid = torch.arange(frames, device=clips.device) < lengths[:, None]
        maps, glance = self.glance(clips[valid].unsqueeze(1))
        if places is None:
            everywhere = maps.new_zeros(n, frames, *maps.shape[2:])
            everywhere[valid] = maps[:, 0]
            rows = torch.arange(n, device=clips.device)[:, None]
            in_order, _ = self.policy(everywhere[rows, order])
            places = torch.empty_like(in_order)
            places[rows, order] = in_order
        focus = self.look(clips[valid].unsqueeze(1), places[valid].unsqueeze(1))
        spread = []
        for features in (glance, focus):
            whole = features.new_zeros(n, frames, features.shape[-1])
            whole[valid] = features[:, 0]
            spread.append(whole)
        return spread[0], spread[1], places

    def video_macs(self, size: int | None = None) -> int:
        """Multiply-adds of one video of `frames` frames. `size`: only the model's own is legal."""
        if size not in (None, self.size):
            raise ValueError(f"size: got {size}, expected {self.size}, the frames that this model was made for")
        return self.frame_macs.video(self.frames)

    def _check(self, clips: Tensor) -> None:
        check_clips(clips, self.size)
        if clips.shape[1] > self.frames:
            raise ValueError(f"clips: got {clips.shape[1]} frames, expected at most {self.frames}, one head for each")


def v2_loss(outputs: list[V2Output], labels: Tensor) -> Tensor:
    """Cross-entropy of the answer and of both auxiliary heads, each averaged over frames; averaged over the passes."""
    losses = [
        every_frame(part, labels) for out in outputs for part in (out.logits, out.glance_logits, out.focus_logits)
    ]
    return torch.stack(losses).sum() / len(outputs)


def train_v2(
    model: AdaFocusV2,
    clips: Tensor,
    labels: Tensor,
    *,
    epochs: int = 8,
    batch_size: int = 64,
    lr: float = 5e-3,
    focus_lr: float | None = None,
    policy_lr: float | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = None,
) -> StageHistory:
    """Everything at once, end to end, in two passes a batch: with the policy's windows and with random ones.

    Args:
        clips, labels: (N, T, 3, size, size), normalised, and (N,) int64.
        lr: of glancer, classifier and heads, by Adam with a cosine schedule (the paper: SGD).
        focus_lr, policy_lr: of the focuser and of the policy; None gives a tenth and two fifths of `lr`.

    Returns:
        Losses, and as scores the accuracy of the last answers of the first pass, epoch by epoch.
    """
    check_clips(clips, model.size)
    device = device_of(model)
    rates = (lr, lr / 10 if focus_lr is None else focus_lr, 0.4 * lr if policy_lr is None else policy_lr)
    rest = [model.glancer, model.classifier, model.glance_head, model.focus_head]
    groups = [[p for m in modules for p in m.parameters()] for modules in (rest, [model.focuser], [model.policy])]
    optimizer = torch.optim.Adam([{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)])

    def step(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        x, y = clips[rows].to(device), labels[rows].to(device)
        other = torch.rand(*x.shape[:2], 2, generator=generator).to(device)
        outputs = model(x, other)
        return v2_loss(outputs, y), accuracy(outputs[0].logits[:, -1], y)

    plan = Plan("train_v2", len(clips), epochs, batch_size, seed, "cosine", rates)
    return run(plan, model, optimizer, step, checkpoint, train=(model,))
