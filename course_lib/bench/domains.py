"""What the language bench compares on: which CLIP, which domains, and their images with features computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from course_lib import data
from course_lib.bench.kept import kept
from course_lib.beyond import clip as clips
from course_lib.beyond.clip import Clip
from course_lib.data.folder import FolderImages

LARGE: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"layers": 12, "width": 384, "head_width": 64, "patch_size": 4, "image_size": 32},
    "text_cfg": {"context_length": 32, "width": 256, "heads": 4, "layers": 6},
}
LARGE_STEPS, LARGE_BATCH, LARGE_RATE = 1_000, 1_024, 5e-4


@dataclass(frozen=True)
class Plan:
    """What is compared: which CLIP, which images, how much of them, on which device."""

    network: str  # tiny, large, or one that is released
    root: str | None  # of a folder of domains; None: drawn
    device: str
    train: int  # images a domain
    test: int
    epochs: int
    rates: tuple[float, ...]
    taus: tuple[float, ...]
    seeds: tuple[int, ...]
    quick: bool


@dataclass(frozen=True)
class Part:
    """Some images of a domain: pixels (N, 3, H, W), labels (N,), features (N, E)."""

    images: Tensor
    labels: Tensor
    features: Tensor


@dataclass(frozen=True)
class Domain:
    """What one domain offers."""

    name: str
    train: Part
    validation: Part
    test: Part


@cache
def clip_of(plan: Plan) -> Clip:
    """The CLIP of a plan, frozen; made once. `FileNotFoundError` where released weights are not to be had."""
    if plan.network == "large":
        return _large(plan)
    try:
        return clips.load_clip(plan.network, device=plan.device)
    except RuntimeError as error:  # no network: for whoever called, a file that is not there
        raise FileNotFoundError(str(error)) from error


def _large(plan: Plan) -> Clip:
    """A CLIP the size of ViT-S, from an earlier run or trained now."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = clips.random_clip(config=LARGE)
    clip.model.to(plan.device)
    steps, batch = (2, 8) if plan.quick else (LARGE_STEPS, LARGE_BATCH)

    def make() -> dict[str, Any]:
        trained = clips.fit_clip(
            clip,
            steps=steps,
            batch_size=batch,
            lr=LARGE_RATE,
            judged_on=8 if plan.quick else 2_000,
            progress=not plan.quick,
        )
        weights = {name: tensor.cpu() for name, tensor in trained.clip.model.state_dict().items()}
        return {"weights": weights, "seconds": trained.seconds, "zero_shot": trained.zero_shot}

    settings = {"steps": steps, "batch": batch, "lr": LARGE_RATE, "mixture": dict(clips.MIXTURE), "config": repr(LARGE)}
    state = make() if plan.quick else kept(f"clip-large.{torch.device(plan.device).type}", settings, make)
    clip.model.load_state_dict(state["weights"])
    clip.model.requires_grad_(False).eval()
    return clip


def domain_names(plan: Plan) -> tuple[str, ...]:
    """Of all domains, in order."""
    return data.DOMAINS if plan.root is None else tuple(_folders(plan.root, None))


def class_names(plan: Plan) -> list[str]:
    """As they stand in a sentence."""
    if plan.root is None:
        return list(data.DOMAIN_CLASSES)
    first = next(iter(_folders(plan.root, None).values()))
    return [name.replace("_", " ").lower() for name in first.classes]


@cache
def _folders(root: str, size: int | None) -> dict[str, FolderImages]:
    return data.load_domains(root, size=size)


@lru_cache(maxsize=6)  # one seed's domains: jobs come seed by seed
def domain_of(plan: Plan, name: str, seed: int) -> Domain:
    """The images of a domain for a seed, and their features."""
    clip = clip_of(plan)
    if plan.root is None:
        sizes = (plan.train, plan.test // 4, plan.test)
        first = 10_000 + 3 * seed + 100 * data.DOMAINS.index(name)
        drawn = [data.domain_shapes(n, domain=name, seed=first + i) for i, n in enumerate(sizes)]
        return Domain(name, *(Part(d.images, d.labels, clips.encode_images(clip, d.images)) for d in drawn))
    folder = _folders(plan.root, clip.preprocess.size)[name]
    number = min(len(folder), 64) if plan.quick else len(folder)
    rows = torch.linspace(0, len(folder) - 1, number).long().tolist()
    pixels, features = [], []
    for some in _chunks(rows, 64):
        images = torch.stack([folder[i][0] for i in some])
        features.append(clips.encode_images(clip, images))
        pixels.append((images * 255).round().byte())
    every = Part(torch.cat(pixels), folder.labels[rows], torch.cat(features))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    apart = order[: number // 10]
    validation = Part(every.images[apart], every.labels[apart], every.features[apart.to(every.features.device)])
    return Domain(name, every, validation, every)


def _chunks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def prepared(images: Tensor, rows: Tensor, clip: Clip) -> Tensor:
    """Some images as the image tower takes them."""
    some = images[rows].to(clip.model.logit_scale.device)
    return clip.preprocess(some if some.is_floating_point() else some.float() / 255)
