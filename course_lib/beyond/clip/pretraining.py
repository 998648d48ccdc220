"""How the tiny CLIP came about: images drawn as it goes, captions that repeat, one contrastive loss."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.beyond.clip.loading import TINY_FILE, random_clip, save_clip
from course_lib.beyond.clip.towers import Clip, encode_images
from course_lib.beyond.clip.words import CHATTER
from course_lib.data.domains import DOMAIN_CLASSES, DOMAINS, domain_shapes
from course_lib.train import cosine

MIXTURE: dict[str, float] = {"photo": 0.4, "painting": 0.26, "sketch": 0.16, "blueprint": 0.17, "xray": 0.01}
"""Shares of the domains in what the tiny CLIP saw. The rarer a domain, the less it knows of it."""

STEPS = 660
TEMPLATE = "a photo of a {name}."
"""The sentence for a class where nothing is said of the domain."""
_HELD_OUT = 2**31  # added to the seed: images that no training draws
_CHUNK = 32  # steps whose images are drawn together
_WARM_UP = 0.1  # of the steps
_MOST_CHATTER = 12  # words before a caption
_LARGEST_SCALE = 100.0  # of the logits, as published


@dataclass(frozen=True)
class ClipRun:
    """A trained CLIP, frozen, and how it went.

    `losses`: one a step; `zero_shot`: accuracy by domain on held-out images, with "a photo of a ..." as in every
    domain; `seconds`: time spent training.
    """

    clip: Clip
    losses: tuple[float, ...]
    zero_shot: dict[str, float]
    seconds: float


def caption_loss(images: Tensor, captions: Tensor, index: Tensor, scale: Tensor | float) -> Tensor:
    """Contrast images with the *different* captions of a batch, both ways; a scalar.

    An image is to find its caption among the U; a caption is to find its images, all alike. The usual loss, in which
    image i belongs to caption i alone, would punish an image for matching the same sentence in another row.

    images: (B, E) and captions: (U, E), features of length 1; index: (B,) int64, the caption of each image, every
    caption at least once; scale: of the logits.
    """
    logits = scale * images @ captions.T
    to_caption = F.cross_entropy(logits, index)
    counts = index.bincount(minlength=len(captions)).to(logits)
    log_prob = logits.log_softmax(0).gather(1, index[:, None])[:, 0]  # of each image, under its caption
    to_image = -(log_prob / counts[index]).sum() / len(captions)
    return 0.5 * (to_caption + to_image)


def train_tiny(
    *,
    steps: int = STEPS,
    batch_size: int = 96,
    lr: float = 1.5e-3,
    seed: int = 0,
    mixture: Mapping[str, float] = MIXTURE,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> ClipRun:
    """Train the tiny CLIP from random weights on captioned shapes; `fit_clip` says how. The kept weights: defaults."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = random_clip()
    clip.model.to(device)
    return fit_clip(clip, steps=steps, batch_size=batch_size, lr=lr, seed=seed, mixture=mixture, progress=progress)


def train_and_save(
    *, steps: int = STEPS, seed: int = 0, out: Path | None = None, progress: bool = False
) -> tuple[ClipRun, Path]:
    """What `course train tiny-clip` does: train, and write the weights with how they came about in the header.

    out: None: the file that `load_clip("tiny")` reads.
    """
    run = train_tiny(steps=steps, seed=seed, progress=progress)
    words = ["course", "train", "tiny-clip"]
    words += ["--seed", str(seed)] if seed else []
    words += ["--steps", str(steps)] if steps != STEPS else []
    file = TINY_FILE if out is None else Path(out)
    kept = {domain: round(accuracy, 4) for domain, accuracy in run.zero_shot.items()}
    notes = {"command": shlex.join(words), "seed": str(seed), "steps": str(len(run.losses))}
    save_clip(file, run.clip, {**notes, "zero_shot": json.dumps(kept), "torch": torch.__version__})
    return run, file


def fit_clip(
    clip: Clip,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int = 0,
    mixture: Mapping[str, float] = MIXTURE,
    weight_decay: float = 0.05,
    judged_on: int = 2000,
    progress: bool = False,
) -> ClipRun:
    """Train a CLIP of `random_clip`, where it lies, on shapes drawn while it runs; no image is seen twice.

    AdamW; the rate rises for a tenth of the steps, then falls by a half-cosine; the scale of the logits stays at most
    100. On a GPU in bfloat16 where it can. The network comes back frozen, in eval mode, judged on `judged_on` images of
    each domain.

    Raises:
        ValueError: for a mixture of unknown domains or of no positive sum, steps or a batch size below 1.
        FloatingPointError: where the loss is not finite, naming the step.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    model, started = clip.model.requires_grad_(True).train(), time.perf_counter()
    device = model.logit_scale.device
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    losses: list[float] = []
    talk = np.random.default_rng((seed, _HELD_OUT))
    for step, (images, captions) in enumerate(_batches(steps, batch_size, mixture, clip.preprocess.size, seed)):
        done = step / steps
        rate = lr * (min((step + 1) / (_WARM_UP * steps), 1.0) if done < _WARM_UP else cosine((done - 0.1) / 0.9))
        optimizer.param_groups[0]["lr"] = rate
        distinct = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        tokens = clip.tokenizer([_chattering(caption, talk) for caption in distinct]).to(device)
        index = torch.tensor([distinct[caption] for caption in captions], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            seen = model.encode_image(clip.preprocess(images.to(device)), normalize=True)
            read = model.encode_text(tokens, normalize=True)
        loss = caption_loss(seen.float(), read.float(), index, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(_LARGEST_SCALE)))
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {step}")
        if progress and (step + 1) % 100 == 0:
            print(f"step {step + 1} of {steps}: loss {np.mean(losses[-100:]):.3f}", flush=True)
    seconds = time.perf_counter() - started
    model.requires_grad_(False).eval()
    return ClipRun(clip, tuple(losses), zero_shot_accuracy(clip, images=judged_on), seconds)


def _chattering(caption: str, rng: np.random.Generator) -> str:
    """Half of the captions begin with some words that say nothing, so that a class name is known at any place."""
    count = int(rng.integers(1, _MOST_CHATTER + 1)) if rng.random() < 0.5 else 0
    return " ".join([*rng.choice(CHATTER, count), caption])


def zero_shot_accuracy(
    clip: Clip, *, images: int = 2000, domains: Sequence[str] = DOMAINS, template: str = TEMPLATE, seed: int = _HELD_OUT
) -> dict[str, float]:
    """Share of right answers in each domain, `images` each, with one sentence a class, the same in all domains.

    template: may contain {domain}, beside {name}.
    """
    found = {}
    device = clip.model.logit_scale.device
    for domain in domains:
        drawn = domain_shapes(images, domain=domain, size=clip.preprocess.size, seed=seed)
        sentences = [template.format(name=name, domain=domain) for name in DOMAIN_CLASSES]
        with torch.no_grad():
            classifier = clip.model.encode_text(clip.tokenizer(sentences).to(device), normalize=True)
        answer = (encode_images(clip, drawn.images) @ classifier.T).argmax(1).cpu()
        found[domain] = float((answer == drawn.labels).double().mean())
    return found


def _batches(
    steps: int, batch_size: int, mixture: Mapping[str, float], size: int, seed: int
) -> Iterator[tuple[Tensor, list[str]]]:
    """Images and captions of every step, by the seed alone."""
    unknown = [domain for domain in mixture if domain not in DOMAINS]
    shares = np.array(list(mixture.values()), dtype=float)
    if unknown or not len(shares) or (shares < 0).any() or shares.sum() <= 0:
        raise ValueError(f"mixture: got {dict(mixture)}, expected shares of {', '.join(DOMAINS)}")
    for first in range(0, steps, _CHUNK):
        count = min(_CHUNK, steps - first) * batch_size
        rng = np.random.default_rng((seed, first))
        parts = [
            domain_shapes(int(n), domain=domain, size=size, seed=int(rng.integers(_HELD_OUT)))
            for domain, n in zip(mixture, rng.multinomial(count, shares / shares.sum()), strict=True)
        ]
        images = torch.cat([part.images for part in parts])
        captions = [caption for part in parts for caption in part.captions]
        for rows in np.array_split(rng.permutation(count), count // batch_size):
            yield images[torch.from_numpy(rows)], [captions[i] for i in rows]
