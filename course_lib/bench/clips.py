"""The clips of the temporal bench, the networks trained on them (AdaFocus, the heavy one on full frames, V2), and how
they read: a network gets its images in parts of the size that suits it best."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import data, measure
from course_lib.bench.kept import kept, side_by_side
from course_lib.temporal import adafocus
from course_lib.temporal.adafocus import AdaFocus, AdaFocusV2, Encoder, FrameClassifier, resnet50
from course_lib.temporal.adafocus.backbones import small_convs, tiny_settings
from course_lib.temporal.adafocus.loop import Plan, every_frame
from course_lib.temporal.adafocus.loop import accuracy as share_right
from course_lib.temporal.adafocus.loop import run as run_epochs
from course_lib.temporal.adafocus.model import map_shape, pooled_features

FRAMES, SIZE, PATCH, CLASSES = 8, 48, 20, 10
Widths = tuple[int, int, int]
#: Of the focuser: twice those of `AdaFocus.tiny`, so that what is saved outweighs the small operations around it.
WIDTHS: Widths = (32, 64, 128)
NUMBER = 2_000  # training clips
WINDOWS = 12_800  # crops that every focuser is pre-trained on
#: Of each stage. Where clips teach a focuser, in fine-tuning or on full frames, they do so as often and as fast.
EPOCHS = {
    "AdaFocus": {"pretrain": 3, "warm_up": 4, "policy": 8, "fine_tune": 8},
    "full frames": {"pretrain": 3, "train": 8},
    "V2": {"pretrain": 3, "train": 8},
}
RATE, FOCUS_RATE = 0.1, 0.01  # of the classifier and of the focuser


@dataclass(frozen=True)
class ClipSet:
    """Clips with their truth, and their frames as networks see them, (N, T, 3, H, W) in [-1, 1]."""

    clips: data.Clips
    x: Tensor

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self.clips.labels

    def oracle(self) -> Tensor:
        """(N, T, 2): locations of the windows that have the digit in their middle, as far as the border lets them."""
        room = SIZE - PATCH
        return (self.clips.box - (PATCH - self.clips.side) // 2).clamp(0, room) / room


def clip_set(number: int, split: str, seed: int) -> ClipSet:
    """Clips of one split; the seed of the clips is that of the training."""
    clips = data.clips(number, frames=FRAMES, size=SIZE, split=split, seed=seed)
    one = (clips.frames[:, :, :1] - 0.5) * 2  # the channels are equal: one of them in memory
    return ClipSet(clips, one.expand(-1, -1, 3, -1, -1))


def small_adafocus(widths: Widths = WIDTHS) -> AdaFocus:
    """`AdaFocus.tiny` with a focuser of these widths."""
    return AdaFocus(**tiny_settings(widths), patch=PATCH, frames=FRAMES, classes=CLASSES)


def small_v2(widths: Widths = WIDTHS) -> AdaFocusV2:
    """`AdaFocusV2.tiny` with a focuser of these widths."""
    return AdaFocusV2(**tiny_settings(widths), patch=PATCH, frames=FRAMES, classes=CLASSES)


class FullFrames(nn.Module):
    """The heavy network on every full frame, and the recurrent classifier behind it."""

    def __init__(self, focuser: nn.Module, *, size: int, classes: int, width: int, pool: Any, dropout: float) -> None:
        super().__init__()
        self.focuser, self.size, self.pool = focuser, size, pool
        features = map_shape(focuser, size)[0] * (2 if pool == "mean_max" else 1)
        self.classifier = FrameClassifier(features, classes, width=width, dropout=dropout)

    @classmethod
    def small(cls, widths: Widths = WIDTHS) -> FullFrames:
        """With the focuser of `small_adafocus`."""
        return cls(
            small_convs(3, widths, (1, 2, 2)), size=SIZE, classes=CLASSES, width=64, pool="mean_max", dropout=0.0
        )

    @classmethod
    def published(cls, classes: int = 200) -> FullFrames:
        """ResNet-50 and a recurrent classifier as wide as that of `AdaFocus.published`."""
        return cls(Encoder(resnet50()), size=224, classes=classes, width=1024, pool="mean", dropout=0.8)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, T, 3, H, W) -> logits after each frame (N, T, classes)."""
        features = pooled_features(self.focuser(clips.flatten(0, 1)), self.pool)
        logits, _, _ = self.classifier(features.unflatten(0, clips.shape[:2]))
        return logits

    def macs_a_frame(self) -> int:
        """Multiply-adds, the classifier's among them."""
        device = next(self.parameters()).device
        return measure.count_macs(self.eval(), torch.zeros(1, 1, 3, self.size, self.size, device=device))


# Training ------------------------------------------------------------------------------------------------------------


def train_all(seeds: tuple[int, ...]) -> dict[tuple[str, int], dict[str, Any]]:
    """What `train_one` gives, by network and seed (V2: the first seed alone), kept from an earlier run if there."""
    jobs = [(network, seed) for network in ("full frames", "AdaFocus") for seed in seeds] + [("V2", seeds[0])]
    return dict(zip(jobs, side_by_side(_train_or_load, jobs, "cpu"), strict=True))


def _train_or_load(network: str, seed: int) -> dict[str, Any]:
    plan = {"widths": list(WIDTHS), "clips": NUMBER, "windows": WINDOWS, "rates": [RATE, FOCUS_RATE], **EPOCHS[network]}
    make = partial(train_one, network, seed, NUMBER, WINDOWS, EPOCHS[network])
    return kept(f"clips-{network.replace(' ', '-')}-{seed}", plan, make)


def train_one(network: str, seed: int, number: int, windows: int, epochs: Mapping[str, int]) -> dict[str, Any]:
    """Train one network on one seed; every focuser is first taught to read windows, in the same way.

    Returns:
        "learned": a state dict. Of "AdaFocus" also "random", that of a twin which got the same training with random
        windows, and "rewards", means over the policy's epochs.
    """
    torch.set_num_threads(1)
    train = clip_set(number, "train", seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = small_adafocus()
    truth = {"side": train.clips.side, "patch": PATCH, "n": windows, "seed": seed}
    cut_out = adafocus.object_windows(train.x, train.labels, train.clips.box, train.clips.informative, **truth)
    adafocus.pretrain_focus(model, *cut_out, epochs=epochs["pretrain"], seed=seed)
    if network == "AdaFocus":
        return _train_adafocus(model, train, seed, epochs)
    finish = _train_full if network == "full frames" else _train_v2
    return {"learned": finish(model, train, seed, epochs["train"]).state_dict()}


def _train_adafocus(model: AdaFocus, train: ClipSet, seed: int, epochs: Mapping[str, int]) -> dict[str, Any]:
    # random windows are mostly empty: the focuser would forget there what it can read
    adafocus.warm_up(model, train.x, train.labels, epochs=epochs["warm_up"], focus_lr=0, seed=seed)
    twin = copy.deepcopy(model)
    rewards = adafocus.train_policy(model, train.x, train.labels, epochs=epochs["policy"], seed=seed).scores
    fine_tune = partial(adafocus.fine_tune, epochs=epochs["fine_tune"], lr=RATE, focus_lr=FOCUS_RATE, seed=seed)
    fine_tune(model, train.x, train.labels)
    fine_tune(twin, train.x, train.labels, windows="random")
    return {"learned": model.state_dict(), "random": twin.state_dict(), "rewards": list(rewards)}


def _train_full(start: AdaFocus, train: ClipSet, seed: int, epochs: int) -> FullFrames:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FullFrames.small()
    model.focuser.load_state_dict(start.focuser.state_dict())
    rates = (RATE, FOCUS_RATE)
    groups = [
        {"params": list(part.parameters()), "lr": rate}
        for part, rate in zip((model.classifier, model.focuser), rates, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step(rows: Tensor, _: torch.Generator) -> tuple[Tensor, float]:
        logits = model(train.x[rows])
        return every_frame(logits, train.labels[rows]), share_right(logits[:, -1], train.labels[rows])

    plan = Plan("full frames", len(train.x), epochs, 64, seed, "cosine", rates)
    run_epochs(plan, model, optimizer, step, None, train=(model,))
    return model


def _train_v2(start: AdaFocus, train: ClipSet, seed: int, epochs: int) -> AdaFocusV2:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = small_v2()
    model.focuser.load_state_dict(start.focuser.state_dict())
    adafocus.train_v2(model, train.x, train.labels, epochs=epochs, seed=seed)
    return model


# Reading --------------------------------------------------------------------------------------------------------------

PARTS = (16, 32, 64, 128)  # images at a time that are tried


class Parts(nn.Module):
    """An encoder that takes its images some at a time."""

    def __init__(self, encoder: nn.Module, images: int) -> None:
        super().__init__()
        self.encoder, self.images = encoder, images

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> maps, those of the encoder."""
        return torch.cat([self.encoder(part) for part in x.split(self.images)])


def in_parts(model: Any, clips: Tensor, sizes: Sequence[int] = PARTS) -> tuple[Any, int | None]:
    """The model with its encoders in parts of the size that is fastest on these clips; None: everything at once."""
    made: dict[int | None, Any] = {None: model}
    for images in sizes:
        if images < clips.shape[0] * clips.shape[1]:
            made[images] = copy.copy(model)
            made[images]._modules = dict(model._modules)  # the same layers, but for the encoders
            for name in ("glancer", "focuser"):
                if hasattr(model, name):
                    setattr(made[images], name, Parts(getattr(model, name), images))
    calls = {str(images): partial(read_all, getattr(one, "infer", one), [clips]) for images, one in made.items()}
    times = measure.compare(calls, rounds=3, warmup=1)
    best = min(made, key=lambda images: times[str(images)].median_s)
    return made[best], best


@torch.inference_mode()
def read_all(call: Callable[[Tensor], object], parts: Sequence[Tensor]) -> object:
    """All batches once; what the last gave."""
    for part in parts:
        result = call(part)
    return result
