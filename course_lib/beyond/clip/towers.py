"""A CLIP with what belongs to it, and the ways into its two towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to `size` pixels (bicubic, antialiased), centre cropped, normalised channel by channel."""

    size: int
    mean: tuple[float, float, float] = _OPENAI_MEAN
    std: tuple[float, float, float] = _OPENAI_STD

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) or (3, H, W) in [0, 1] -> (N, 3, size, size) or (3, size, size)."""
        if images.ndim not in (3, 4) or images.shape[-3] != 3:
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected (N, 3, H, W) or (3, H, W)")
        height, width = images.shape[-2:]
        batch = images.reshape(-1, 3, height, width)
        if (height, width) != (self.size, self.size):
            scale = self.size / min(height, width)
            target = [max(self.size, int(side * scale)) for side in (height, width)]
            if len(batch):
                batch = F.interpolate(batch, target, mode="bicubic", antialias=True).clamp(0, 1)
            else:
                batch = batch.new_zeros(0, 3, *target)
            top, left = (round((side - self.size) / 2) for side in target)
            batch = batch[..., top : top + self.size, left : left + self.size]
        mean, std = (batch.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((batch - mean) / std).reshape(*images.shape[:-2], self.size, self.size)


@dataclass(frozen=True)
class Clip:
    """A CLIP network, frozen and in eval mode, with what belongs to it.

    model: open_clip's `CLIP` or `CustomTextCLIP`; tokenizer: texts -> (N, context_length) int64 ids, the end token the
    largest; preprocess: images (N, 3, H, W) or (3, H, W) in [0, 1] -> what the image tower takes; context_length: most
    tokens of a text, start and end among them; width: of the token embeddings.
    """

    model: Any
    tokenizer: Any
    preprocess: Preprocess
    context_length: int
    width: int


def build_clip(config: Mapping[str, Any]) -> nn.Module:
    """An open_clip `CLIP` with random weights from its configuration (`embed_dim`, `vision_cfg`, `text_cfg`, ...)."""
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("CLIP needs the package open_clip_torch: pip install 'course_lib[language]'") from error
    return open_clip.CLIP(**config)


def text_tower(model: Any) -> Any:
    """Where `token_embedding`, `positional_embedding`, `transformer`, `attn_mask`, `ln_final`, `text_projection` are:

    the model itself for open_clip's `CLIP`, its part `text` for `CustomTextCLIP`.
    """
    return model.text if hasattr(model, "text") else model


def encode_prompts(clip: Clip, embeddings: Tensor, tokens: Tensor) -> Tensor:
    """Text features of prompts given as embeddings: (M, L, W) -> (M, E), rows of length 1; gradients flow back.

    With the embeddings of words this is `encode_text(..., normalize=True)`, bit for bit if L is the whole context. The
    text tower is causal: a position sees itself and what stands before it. So nothing behind the last end token can
    matter, and prompts cut there give the same features to rounding, in less time. Positions are added here.

    Args:
        clip: whose text tower to run; its parameters are neither changed nor copied.
        embeddings: (M, L, W) of the tokens, without positions; L at most the context length.
        tokens: (M, L) int64; only the place of the end token, the largest id, is read.

    Raises:
        ValueError: for shapes that do not agree, a row without an end token, and a text tower that is not causal or
            does not pool at the end token.
    """
    if embeddings.ndim != 3 or embeddings.shape[2] != clip.width or embeddings.shape[1] > clip.context_length:
        expected = f"(M, L, {clip.width}) with L at most {clip.context_length}"
        raise ValueError(f"embeddings: got shape {tuple(embeddings.shape)}, expected {expected}")
    if tokens.shape != embeddings.shape[:2]:
        raise ValueError(f"tokens: got shape {tuple(tokens.shape)}, expected {tuple(embeddings.shape[:2])}")
    tower = text_tower(clip.model)
    pooling = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    if getattr(tower, "attn_mask", None) is None or pooling != "argmax":
        raise ValueError(
            f"clip: got a text tower with pooling {pooling!r}, expected a causal one that pools by 'argmax'"
        )
    end = tokens.argmax(-1)
    if len(tokens) and not bool((tokens.gather(1, end[:, None]) == clip.tokenizer.eot_token_id).all()):
        raise ValueError(f"tokens: got a row without the end token {clip.tokenizer.eot_token_id}, expected one in each")
    length = embeddings.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = embeddings.to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)
    x = x[torch.arange(len(x), device=x.device), end.to(x.device)]
    if tower.text_projection is not None:
        projection = tower.text_projection
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return F.normalize(x, dim=-1)


def encode_images(clip: Clip, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Image features of length 1, without a graph: images (N, 3, H, W) in [0, 1] -> (N, E), where the model lies.

    A frozen image tower gives the same features every time, so they are computed once and kept.
    """
    device = clip.model.logit_scale.device
    with torch.no_grad():
        parts = [
            clip.model.encode_image(clip.preprocess(part.to(device)), normalize=True)
            for part in images.split(batch_size)
        ]
        return torch.cat(parts)
