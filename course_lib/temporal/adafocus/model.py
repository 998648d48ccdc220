"""AdaFocus: glance at every frame, choose a window from the glance, look at the window with the heavy network.

Because the windows depend on the glances alone, those of a whole clip are known before the heavy network starts: it
runs on all of them as one batch (`infer`), and gives what the loop over frames gives (`infer_online`).

Source: AdaFocus (arXiv 2105.03245), sections 3.1-3.2 and its released code; frames whose window is not read at all
(AdaFocus+ there) are learned in `skipping`, with our own reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from course_lib.measure import count_macs
from course_lib.temporal.adafocus.backbones import Encoder, mobilenet_v2, resnet50, tiny_settings
from course_lib.temporal.adafocus.windows import asked_for, corners, cut, grid_locations

Pool = Literal["mean", "mean_max"]
State = tuple[Tensor | None, Tensor | None]  #: of the policy and of the classifier; None before the first frame


@dataclass(frozen=True)
class FocusResult:
    """What was answered, and where the heavy network looked.

    Behind the end of a clip that is shorter than the others the answer is that of its last frame, and nothing is
    `kept`; which location stands there is said by the `infer` that put it there.
    """

    logits: Tensor  #: (N, T, classes), the answer after each frame
    location: Tensor  #: (N, T, 2) in [0, 1], (row, column): see `windows`
    macs: Tensor  #: (N,) float64, multiply-adds spent on each clip
    kept: Tensor  #: (N, T) bool, frames whose window the heavy network read
    patch: int  #: side of the windows in pixels
    probability: Tensor | None = None  #: (N, T, grid * grid) of the policy, where it was asked


@dataclass(frozen=True)
class FrameMacs:
    """Multiply-adds of the four parts for one frame.

    >>> parts = FrameMacs(glance=299_494_272, focus=1_334_575_104, policy=9_954_304, classifier=13_574_144)
    >>> round(parts.video(16) / 1e9, 2)
    26.52
    """

    glance: int
    focus: int
    policy: int
    classifier: int

    def video(self, glances: int, windows: int | None = None) -> int:
        """A video of so many glances and windows (as many if not said); the policy runs with the glances."""
        windows = glances if windows is None else windows
        return glances * (self.glance + self.policy) + windows * (self.focus + self.classifier)


class Decision(NamedTuple):
    """What the policy says about some frames."""

    logits: Tensor  #: (N, T, actions)
    hidden: Tensor  #: (N, T, width), what the logits were made of
    state: Tensor  #: (1, N, width), to go on with


class WindowPolicy(nn.Module):
    """From glance maps to a choice among windows, with a memory: convolution, linear layer, GRU, two heads.

    Args:
        shape: (C, h, w) of the maps.
        actions: windows to choose among.
        squeeze: channels of the 1x1 convolution.
        width: of the linear layer and of the GRU.
    """

    def __init__(self, shape: tuple[int, int, int], actions: int, *, squeeze: int, width: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.encode = nn.Sequential(
            nn.Conv2d(channels, squeeze, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(squeeze * height * across, width),
            nn.ReLU(inplace=True),
        )
        self.gru = nn.GRU(width, width, batch_first=True)
        self.actor = nn.Linear(width, actions)
        self.critic = nn.Linear(width, 1)  # the value of a state: used in training only

    def forward(self, maps: Tensor, state: Tensor | None = None) -> Decision:
        """maps: (N, T, C, h, w), frames in order; state: from the frames before, None at the start."""
        encoded = self.encode(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        hidden, state = self.gru(encoded, state)
        return Decision(self.actor(hidden), hidden, state)


class FrameClassifier(nn.Module):
    """What has been seen so far: a GRU over the features of both encoders, with an answer after each frame."""

    def __init__(self, features: int, classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.gru = nn.GRU(features, width, batch_first=True)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(width, classes)

    def forward(self, features: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(N, T, features) -> logits (N, T, classes), hidden (N, T, width), state (1, N, width)."""
        hidden, state = self.gru(features, state)
        return self.out(self.dropout(hidden)), hidden, state


class AdaFocus(nn.Module):
    """A glancer for whole frames, a policy that chooses windows, a focuser for the windows, a recurrent classifier.

    Args:
        glancer, focuser: modules that turn images (B, 3, h, w) into feature maps (B, C, h', w').
        patch: side P of the windows in pixels.
        frames: of a clip, for the costs; a clip may have any number.
        classes: of the answer.
        grid: windows stand on a grid of grid x grid locations.
        size: side of the frames in pixels.
        pool: how maps become features: their mean, or mean and maximum side by side.
        squeeze, policy_width: of the policy.
        width, dropout: of the classifier.

    Raises ValueError for a window larger than the frame.
    """

    def __init__(
        self,
        *,
        glancer: nn.Module,
        focuser: nn.Module,
        patch: int,
        frames: int,
        classes: int,
        grid: int = 7,
        size: int = 224,
        pool: Pool = "mean",
        squeeze: int = 32,
        policy_width: int = 1024,
        width: int = 1024,
        dropout: float = 0.8,
    ) -> None:
        super().__init__()
        check_sizes(patch, size, frames)
        self.patch, self.frames, self.classes, self.grid, self.size = patch, frames, classes, grid, size
        self.pool: Pool = pool
        self.glancer, self.focuser = glancer, focuser
        glance, focus = map_shape(glancer, size), map_shape(focuser, patch)
        parts = 2 if pool == "mean_max" else 1
        self.focus_features = parts * focus[0]
        self.policy = WindowPolicy(glance, grid * grid, squeeze=squeeze, width=policy_width)
        features = parts * glance[0] + self.focus_features
        self.classifier = FrameClassifier(features, classes, width=width, dropout=dropout)
        self.skip: nn.Linear | None = None  # reads the policy's hidden state; `train_skipping` puts it here
        self.locations: Tensor
        self.register_buffer("locations", grid_locations(grid), persistent=False)
        self.frame_macs = part_macs(self)

    @classmethod
    def published(cls, classes: int = 200, *, patch: int = 128, frames: int = 16) -> AdaFocus:
        """The paper's network for ActivityNet (200 classes), FCVID (239) and Mini-Kinetics (200), random weights."""
        glancer = Encoder(mobilenet_v2(), nn.Linear(1280, classes))
        return cls(glancer=glancer, focuser=Encoder(resnet50()), patch=patch, frames=frames, classes=classes)

    @classmethod
    def tiny(cls, classes: int = 10, *, frames: int = 8, patch: int = 20) -> AdaFocus:
        """A laptop's network for the clips of `data.clips`, 48x48 pixels with a digit of 10."""
        return cls(**tiny_settings(), patch=patch, frames=frames, classes=classes)

    # The parts, in the order in which they run --------------------------------------------------------------------

    def glance(self, clips: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps (N, T, C, h, w) and features (N, T, F) of whole frames (N, T, 3, H, W); 0 where not `valid` (N, T)."""
        rows = clips.flatten(0, 1) if valid is None else clips[valid]
        maps = self.glancer(rows)
        pooled = pooled_features(maps, self.pool)
        if valid is None:
            return maps.unflatten(0, clips.shape[:2]), pooled.unflatten(0, clips.shape[:2])
        return spread(maps, valid), spread(pooled, valid)

    def look(self, clips: Tensor, location: Tensor, kept: Tensor | None = None) -> Tensor:
        """Features (N, T, F) of the windows at `location`, read as one batch; 0 where not `kept` (N, T)."""
        features = pooled_features(self.focuser(cut(clips, location, self.patch, kept)), self.pool)
        return features.unflatten(0, clips.shape[:2]) if kept is None else spread(features, kept)

    def corners(self, location: Tensor) -> Tensor:
        """The upper left pixels (..., 2) of windows at `location` (..., 2)."""
        return corners(location, self.size, self.size, self.patch)

    def classify(self, glance: Tensor, focus: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, hidden states and last state for features (N, T, F) of both encoders."""
        return self.classifier(torch.cat((glance, focus), -1), state)

    # A whole clip -------------------------------------------------------------------------------------------------

    def infer(
        self,
        clips: Tensor,
        *,
        policy: str | Tensor = "learned",
        threshold: float | None = None,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> FocusResult:
        """Answer clips that are there as a whole: all glances, all decisions, then every window in one batch.

        Args:
            clips: (N, T, 3, size, size), normalised as in training; T is at least 1, N = 0 is legal.
            policy: where to look: "learned" takes the policy's most likely window, "random" a corner uniform over
                the whole pixels, "center" the middle, and a tensor (N, T, 2) says it.
            threshold: read only windows whose chance to be worth it is at least this (after `train_skipping`); the
                others are not cut out, and the classifier gets zeros. None reads every window.
            lengths: (N,) int64, how many frames of each clip count; None for all. No encoder runs on the others; their
                answers and locations repeat those of the clip's last frame.
            generator: for random windows.

        Raises:
            RuntimeError: the model is in training mode, or a threshold is given and no skipping was trained.
            ValueError: a wrong shape, an empty clip, an unknown policy, lengths outside 1..T.
        """
        self._check(clips, threshold)
        n, frames = clips.shape[:2]
        with torch.inference_mode():
            valid = None if lengths is None else _valid(lengths, n, frames, clips.device)
            if not n:
                return self._nothing(clips)
            maps, glance = self.glance(clips, valid)
            room = self.size - self.patch
            location = asked_for(policy, n, frames, room=room, generator=generator, device=clips.device)
            decision = self.policy(maps) if location is None or threshold is not None else None
            probability = None
            if location is None:
                location, probability = self._chosen(decision)
            kept = valid
            if threshold is not None and decision is not None:
                wanted = self._worth(decision.hidden, threshold)
                kept = wanted if valid is None else wanted & valid
            logits, _, _ = self.classify(glance, self.look(clips, location, kept))
            return self._result(logits, location, probability, valid, kept, decided=decision is not None)

    def infer_online(self, clips: Tensor, *, threshold: float | None = None) -> FocusResult:
        """The same answers, frame by frame, as for a clip that is still going on; arguments as in `infer`."""
        self._check(clips, threshold)
        if not len(clips):
            return self._nothing(clips)
        state: State = (None, None)
        logits, location, kept, chance = [], [], [], []
        for frame in clips.unbind(1):
            answer, state = self.step(frame, state, threshold=threshold)
            logits.append(answer.logits)
            location.append(answer.location)
            kept.append(answer.kept)
            chance.append(answer.probability)
        where, read = torch.cat(location, 1), torch.cat(kept, 1)
        chances = torch.cat([p for p in chance if p is not None], 1)
        return self._result(torch.cat(logits, 1), where, chances, None, read, decided=True)

    def step(self, frame: Tensor, state: State, *, threshold: float | None = None) -> tuple[FocusResult, State]:
        """One more frame (N, 3, size, size) of N clips: the answer (T = 1) and the state for the next one.

        `state` is (None, None) at the first frame, and then what the call before returned.
        """
        clips = frame.unsqueeze(1)
        self._check(clips, threshold)
        with torch.inference_mode():
            maps, glance = self.glance(clips)
            decision = self.policy(maps, state[0])
            location, probability = self._chosen(decision)
            kept = None if threshold is None else self._worth(decision.hidden, threshold)
            logits, _, seen = self.classify(glance, self.look(clips, location, kept), state[1])
            result = self._result(logits, location, probability, None, kept, decided=True)
            return result, (decision.state, seen)

    # Costs --------------------------------------------------------------------------------------------------------

    def video_macs(self, size: int | None = None) -> int:
        """Multiply-adds of one video of `frames` frames, every window read. `size`: only the model's own is legal."""
        if size not in (None, self.size):
            raise ValueError(f"size: got {size}, expected {self.size}, the frames that this model was made for")
        return self.frame_macs.video(self.frames)

    # ---------------------------------------------------------------------------------------------------------------

    def _chosen(self, decision: Any) -> tuple[Tensor, Tensor]:
        """The most likely windows (N, T, 2), and how likely all are (N, T, grid * grid)."""
        return self.locations[decision.logits.argmax(-1)], decision.logits.softmax(-1)

    def _worth(self, hidden: Tensor, threshold: float) -> Tensor:
        """(N, T) bool: whose window is read."""
        assert self.skip is not None  # seen to by `_check`
        return self.skip(hidden).squeeze(-1).sigmoid() >= threshold

    def _result(
        self,
        logits: Tensor,
        location: Tensor,
        probability: Tensor | None,
        valid: Tensor | None,
        kept: Tensor | None,
        *,
        decided: bool,
    ) -> FocusResult:
        everything = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        seen = everything if valid is None else valid
        kept = seen if kept is None else kept
        parts = self.frame_macs
        every_frame = parts.glance + parts.classifier + decided * parts.policy
        macs = seen.sum(1).double() * every_frame + kept.sum(1).double() * parts.focus
        if valid is not None:
            logits, location = last_repeated(logits, valid), last_repeated(location, valid)
            probability = None if probability is None else last_repeated(probability, valid)
        return FocusResult(logits, location, macs, kept, self.patch, probability)

    def _nothing(self, clips: Tensor) -> FocusResult:
        shape = (0, clips.shape[1])
        return FocusResult(
            clips.new_zeros(*shape, self.classes),
            clips.new_zeros(*shape, 2),
            clips.new_zeros(0, dtype=torch.float64),
            clips.new_zeros(shape, dtype=torch.bool),
            self.patch,
        )

    def _check(self, clips: Tensor, threshold: float | None) -> None:
        check_clips(clips, self.size)
        if self.training:
            raise RuntimeError("the model is in training mode; call model.eval() first")
        if threshold is not None and self.skip is None:
            raise RuntimeError("threshold: got one, but this model was not taught to skip; see train_skipping")


def check_sizes(patch: int, size: int, frames: int) -> None:
    """Raise unless a window fits into a frame, and a clip has at least one."""
    if not 1 <= patch <= size:
        raise ValueError(f"patch: got {patch}, expected 1 to {size}, to fit into frames of {size}x{size} pixels")
    if frames < 1:
        raise ValueError(f"frames: got {frames}, expected at least 1")


def check_clips(clips: Tensor, size: int) -> None:
    """Raise unless `clips` are (N, T, 3, size, size) with at least one frame."""
    if clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[3:] != (size, size):
        hint = "; a single clip needs clip[None]" if clips.ndim == 4 else ""
        raise ValueError(f"clips: got shape {tuple(clips.shape)}, expected (N, T, 3, {size}, {size}){hint}")
    if not clips.shape[1]:
        raise ValueError("clips: got clips of 0 frames, expected at least one frame")


def pooled_features(maps: Tensor, pool: Pool) -> Tensor:
    """(B, C, h, w) -> (B, C), the mean over positions, or (B, 2 C), mean and maximum."""
    mean = maps.mean((2, 3))
    return mean if pool == "mean" else torch.cat((mean, maps.amax((2, 3))), 1)


def map_shape(encoder: nn.Module, side: int) -> tuple[int, int, int]:
    """(C, h, w) of the maps that an encoder gives for images of `side` x `side` pixels."""
    first = next(encoder.parameters(), None)
    device = None if first is None else first.device
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 3, side, side, device=device))
    encoder.train(training)
    if maps.ndim != 4:
        raise ValueError(f"encoder: got an output of shape {tuple(maps.shape)}, expected feature maps (B, C, h, w)")
    return maps.shape[1], maps.shape[2], maps.shape[3]


def part_macs(model: Any) -> FrameMacs:
    """Multiply-adds of each part for one frame, counted on the modules; what idles after training is not."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    maps = torch.zeros(1, 1, *map_shape(model.glancer, model.size), device=device)
    parts = FrameMacs(
        glance=count_macs(model.glancer, torch.zeros(1, 3, model.size, model.size, device=device)),
        focus=count_macs(model.focuser, torch.zeros(1, 3, model.patch, model.patch, device=device)),
        policy=count_macs(model.policy, maps),
        classifier=count_macs(model.classifier, torch.zeros(1, 1, model.classifier.features, device=device)),
    )
    model.train(training)
    return parts


def spread(rows: Tensor, where: Tensor) -> Tensor:
    """Rows (M, ...) at the M places of `where` (N, T) bool, zeros elsewhere: (N, T, ...)."""
    everywhere = rows.new_zeros(*where.shape, *rows.shape[1:])
    everywhere[where] = rows
    return everywhere


def last_repeated(values: Tensor, valid: Tensor) -> Tensor:
    """(N, T, ...) with each clip's last valid frame repeated behind it."""
    last = valid.sum(1, keepdim=True) - 1
    index = torch.minimum(torch.arange(valid.shape[1], device=valid.device).expand_as(valid), last)
    return values[torch.arange(len(values), device=valid.device)[:, None], index]


def check_lengths(lengths: Tensor, n: int, frames: int) -> Tensor:
    """`lengths` as they are, (n,), if each is a number from 1 to `frames`."""
    if lengths.shape != (n,) or not ((lengths >= 1) & (lengths <= frames)).all():
        raise ValueError(f"lengths: got {lengths.tolist()}, expected {n} numbers from 1 to {frames}")
    return lengths


def _valid(lengths: Tensor, n: int, frames: int, device: torch.device) -> Tensor:
    return torch.arange(frames, device=device) < check_lengths(lengths, n, frames).to(device)[:, None]
