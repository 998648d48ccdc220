"""The check of `encode_from_embeddings`, in a file of its own: it needs a small CLIP and many ways to misuse one.

The reference is CLIP's own `encode_text`, with a hook that exchanges what the table of words gave.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.checks import Case, Check

_TEXTS = ("a photo of a ring.", "a bar.", "a cross, a thin outline image.")


@functools.cache
def _tiny() -> Any:
    """A CLIP of 20 thousand random numbers with the course's small vocabulary."""
    from course_lib.beyond.clip import WORDS, Clip, Preprocess, WordTokenizer, build_clip, text_tower

    tokenizer = WordTokenizer(WORDS, context_length=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_clip(
            {
                "embed_dim": 8,
                "vision_cfg": {"layers": 1, "width": 8, "head_width": 4, "patch_size": 4, "image_size": 8},
                "text_cfg": {
                    "context_length": 12, "vocab_size": tokenizer.vocab_size, "width": 16, "heads": 2, "layers": 2,
                },
            }
        )  # fmt: skip
        with torch.no_grad():  # a tower in which order matters: positions as large as words
            text_tower(model).token_embedding.weight.normal_()
            text_tower(model).positional_embedding.normal_()
    return Clip(model.eval().requires_grad_(False), tokenizer, Preprocess(8), 12, 16)


def _prompts(learned: bool, length: int | None) -> tuple[Tensor, Tensor]:
    """Embeddings and tokens of three sentences; `learned` moves the first two words of each."""
    clip = _tiny()
    tokens = clip.tokenizer(list(_TEXTS))[:, :length]
    embeddings = clip.model.token_embedding(tokens).detach().clone()
    if learned:
        embeddings[:, 1:3] += torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(1))
    return embeddings, tokens


def _hooked(clip: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    """CLIP's own `encode_text`, in which a hook exchanges what the table gave."""
    room = clip.context_length - embeddings.shape[1]
    whole, ids = F.pad(embeddings, (0, 0, 0, room)), F.pad(tokens, (0, room))
    handle = clip.model.token_embedding.register_forward_hook(lambda *_: whole)
    try:
        found: Tensor = clip.model.encode_text(ids, normalize=True)
        return found
    finally:
        handle.remove()


def _encode(
    clip: Any,
    embeddings: Tensor,
    tokens: Tensor,
    *,
    masked: bool = True,
    positions: float = 1.0,
    end: Callable[[Tensor], Tensor] = lambda tokens: tokens.argmax(1),
    norm: bool = True,
    project: bool = True,
) -> Tensor:
    model, length = clip.model, embeddings.shape[1]
    x = embeddings + positions * model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length] if masked else None)
    x = (model.ln_final(x) if norm else x)[torch.arange(len(x)), end(tokens)]
    return F.normalize(x @ model.text_projection if project else x, dim=-1)


def _length_first(clip: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    """As older recipes did: the library of today takes the batch first."""
    model, length = clip.model, embeddings.shape[1]
    x = (embeddings + model.positional_embedding[:length]).permute(1, 0, 2)
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length]).permute(1, 0, 2)
    return F.normalize(model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection, dim=-1)


def _whole_mask(clip: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    model = clip.model
    x = embeddings + model.positional_embedding[: embeddings.shape[1]]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection, dim=-1)


def _reads_the_words(clip: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    found: Tensor = _hooked(clip, clip.model.token_embedding(tokens), tokens)
    return found


def _without_gradient(clip: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return _encode(clip, embeddings, tokens)


def _mean(clip: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    model, length = clip.model, embeddings.shape[1]
    x = embeddings + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return F.normalize(x.mean(1) @ model.text_projection, dim=-1)


def _not_normalised(clip: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    model, length = clip.model, embeddings.shape[1]
    x = embeddings + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    found: Tensor = x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection
    return found


def _encoded(learned: bool, length: int | None = None) -> Callable[[Callable[..., Any]], Any]:
    return lambda answer: answer(_tiny(), *_prompts(learned, length))


def _who_learns(answer: Callable[..., Any]) -> dict[str, Any]:
    clip = _tiny()
    embeddings, tokens = _prompts(True, None)
    before = [p.detach().clone() for p in clip.model.parameters()]
    embeddings.requires_grad_()
    value = answer(clip, embeddings, tokens)
    reached: Any = "nothing reaches the prompts"
    if value.requires_grad:
        (reached,) = torch.autograd.grad(value[:, 0].sum(), embeddings)
    same = all(torch.equal(a, b) for a, b in zip(before, clip.model.parameters(), strict=True))
    frozen = same and not any(p.requires_grad for p in clip.model.parameters())
    return {"gradient of the prompts": reached, "the encoder stays frozen": frozen}


encode_from_embeddings = Check(
    "encode_from_embeddings",
    chapter="beyond/dapl",
    title="the text tower, fed with embeddings instead of words",
    level=4,
    minutes=30,
    reference=_hooked,
    cases=[
        Case("embeddings of words: CLIP's own answer", _encoded(False), show="three sentences of different length"),
        Case("two learned words in each", _encoded(True), show="the same, words 1 and 2 moved"),
        Case("cut behind the last end token", _encoded(True, 10), show="the same, 10 of 12 positions"),
        Case("who learns", _who_learns, show="the gradient of one feature"),
    ],
    wrong_answers={
        "no_causal_mask": lambda *args: _encode(*args, masked=False),
        "last_position_as_end": lambda *args: _encode(*args, end=lambda t: torch.full((len(t),), t.shape[1] - 1)),
        "positions_added_twice": lambda *args: _encode(*args, positions=2.0),
        "no_positions": lambda *args: _encode(*args, positions=0.0),
        "length_first": _length_first,
        "whole_mask": _whole_mask,
        "reads_the_words": _reads_the_words,
        "calls_encode_text": lambda clip, embeddings, tokens: clip.model.encode_text(tokens, normalize=True),
        "mean_of_all_positions": _mean,
        "no_gradient": _without_gradient,
        "not_normalised": _not_normalised,
        "no_final_norm": lambda *args: _encode(*args, norm=False),
        "not_projected": lambda *args: _encode(*args, project=False),
        "one_end_for_all": lambda *args: _encode(*args, end=lambda t: t.argmax(1).max().expand(len(t))),
    },
    diagnoses={
        "no_causal_mask": "Your words see what comes behind them. With which mask was this tower trained?",
        "last_position_as_end": "You read the answer at the last position, which holds padding. At which token did "
        "CLIP learn to write its summary?",
        "positions_added_twice": "Your positions count twice. Were they in what you were given, or are they still "
        "to be added?",
        "no_positions": "Your words have no positions. What is added to the embeddings before the first block?",
        "length_first": "You put the length before the batch, as older recipes do. Which of the two does this library "
        "take first?",
        "whole_mask": "Whole prompts come out right, cut ones do not. How large must the mask be for 10 positions?",
        "reads_the_words": "You looked the tokens up in the table. What were the embeddings given for, if some of them "
        "are no words?",
        "calls_encode_text": "You asked `encode_text`, which looks the tokens up in the table. What became of the "
        "embeddings you were given?",
        "mean_of_all_positions": "You took the mean over all positions. At which single one did CLIP learn to write "
        "its summary?",
        "no_gradient": "The values are right and carry no gradient. Frozen weights need none; who still does?",
        "not_normalised": "Your rows do not have length 1. What does the cosine with an image feature need?",
        "no_final_norm": "The last normalisation is missing. What stands between the blocks and the projection?",
        "not_projected": "Your rows are as wide as words are. How do they get into the space of the images?",
        "one_end_for_all": "You read all prompts at the end of the longest one. Where does each of them end?",
    },
    accepted=[
        _encode,
        lambda clip, embeddings, tokens: F.normalize(
            torch.stack(
                [
                    clip.model.ln_final(
                        clip.model.transformer(
                            (e + clip.model.positional_embedding[: len(e)])[None, : int(t.argmax()) + 1],
                            attn_mask=clip.model.attn_mask[: int(t.argmax()) + 1, : int(t.argmax()) + 1],
                        )[0, -1]
                    )
                    for e, t in zip(embeddings, tokens, strict=True)
                ]
            )
            @ clip.model.text_projection,
            dim=-1,
        ),
    ],
    hints=(
        "Five steps: positions, transformer with its mask, last norm, one row of each prompt, projection and length 1. "
        "Every part hangs on clip.model.",
        "With 10 positions: positional_embedding[:10] is added, the mask is attn_mask[:10, :10], and for tokens [57, "
        "3, 20, 58, 0, ...] the row to read is 3, where the largest id stands.",
        "x = embeddings + m.positional_embedding[:n]; x = m.transformer(x, attn_mask=m.attn_mask[:n, :n]); "
        "x = m.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)] @ m.text_projection; then F.normalize(x, dim=-1).",
    ),
    shows="A sentence need not be made of words, and 77 positions need not be computed for 12.",
    tolerance=1e-5,
)
