"""The learned sentences: what is trained, what stands around it, and what the learned words look like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.beyond.clip import TEMPLATE, Clip, encode_prompts, text_tower


class DomainPrompts(nn.Module):
    """One learned sentence for every domain and class; `forward()` turns them into classifier rows, (D, K, E).

    Its parameters are the learned words and nothing else: `context` (shared, W), with `per_class` (K, shared, W), and
    `domain_vectors` (D, specific, W), on the device of `clip`. The CLIP itself is neither copied nor changed, and no
    part of the state dict; nor is what stands around the learned words, so that a state can be loaded for other names.

    Args:
        clip: any CLIP with a causal text tower; its own parameters should not require gradients.
        classnames: K distinct names.
        domains: D distinct names. In `dapl_loss` the first is the source, the last the target.
        shared: words shared by all domains (M1); 16 as published.
        specific: words of each domain (M2), the same for all classes; 16 as published. 0 and one domain is CoOp.
        per_class: shared words of its own for every class.
        words: begin with the embeddings of these words, exactly `shared` tokens, instead of random ones.
        ending: what follows the learned words; contains {name} and may contain {domain}.
        cut: leave out all positions behind the last end token, which cannot change the answer.
        seed: of the random words, normal with standard deviation 0.02.

    Raises:
        ValueError: for no, empty or equal names (class names are compared as the tokenizer sees them), for an ending
            without {name}, and for a prompt longer than the model's context, naming its class.
    """

    tokens: Tensor  #: (D * K, L) ids; where words are learned, the padding's. Only the end token's place is used
    start: Tensor  #: (D, K, 1, W) embedding of the start token
    end: Tensor  #: (D, K, L - 1 - shared - specific, W) embeddings of the rest

    def __init__(
        self,
        clip: Clip,
        classnames: Sequence[str],
        domains: Sequence[str],
        *,
        shared: int = 16,
        specific: int = 16,
        per_class: bool = False,
        words: str | None = None,
        ending: str = "{name}.",
        cut: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for argument, length in (("shared", shared), ("specific", specific)):
            if length < 0:
                raise ValueError(f"{argument}: got {length}, expected 0 or more")
        self.clip, self.classnames, self.domains = clip, tuple(classnames), tuple(domains)
        _distinct("classnames", self.classnames, [str(clip.tokenizer.encode(name)) for name in self.classnames])
        _distinct("domains", self.domains, self.domains)
        _names_the_class("ending", ending)
        table = _table(clip)
        tokens = torch.cat([_slots(clip, self.classnames, domain, ending, shared + specific) for domain in domains])
        tokens = tokens[:, : int(tokens.argmax(1).max()) + 1] if cut else tokens
        fixed = table[tokens.to(table.device)].unflatten(0, (len(self.domains), len(self.classnames)))
        self.register_buffer("tokens", tokens.to(table.device), persistent=False)
        self.register_buffer("start", fixed[:, :, :1].clone(), persistent=False)
        self.register_buffer("end", fixed[:, :, 1 + shared + specific :].clone(), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        width = table.shape[1]
        context = 0.02 * torch.randn(*([len(self.classnames)] if per_class else []), shared, width, generator=generator)
        own = 0.02 * torch.randn(len(self.domains), specific, width, generator=generator)
        if words is not None:
            context = _spoken(clip, words, shared).expand(context.shape)
        self.context = nn.Parameter(context.to(table, copy=True))
        self.domain_vectors = nn.Parameter(own.to(table))

    @property
    def trained_numbers(self) -> int:
        """How many numbers training changes."""
        return sum(p.numel() for p in self.parameters())

    def embeddings(self) -> Tensor:
        """All prompts as the text tower takes them, (D * K, L, W), domain-major."""
        shape = (len(self.domains), len(self.classnames))
        shared = self.context.expand(*shape, *self.context.shape[-2:])
        own = self.domain_vectors[:, None].expand(*shape, *self.domain_vectors.shape[1:])
        return torch.cat([self.start, shared, own, self.end], 2).flatten(0, 1)

    def forward(self) -> Tensor:
        """The classifier that the sentences spell: (D, K, E), rows of length 1."""
        rows = encode_prompts(self.clip, self.embeddings(), self.tokens)
        return rows.unflatten(0, (len(self.domains), len(self.classnames)))

    def logits(self, features: Tensor) -> Tensor:
        """Image features (N, E) against every prompt: (N, D, K), times the scale that CLIP was trained with."""
        return scores(self.clip, features, self.forward())


def trained_numbers(
    classes: int, shared: int, specific: int, width: int, *, domains: int = 2, per_class: bool = False
) -> int:
    """How many numbers the prompts hold; `width` is that of the text tower.

    >>> trained_numbers(65, 16, 16, 512), trained_numbers(12, 16, 16, 512, per_class=True)
    (24576, 114688)
    """
    return (classes if per_class else 1) * shared * width + domains * specific * width


def zero_shot_classifier(clip: Clip, classnames: Sequence[str], template: str = TEMPLATE) -> Tensor:
    """One sentence a class, spelled and encoded: (K, E), rows of length 1. The template contains {name} alone."""
    if not classnames:
        raise ValueError("classnames: got no names, expected at least one")
    _names_the_class("template", template)
    if "{domain}" in template:
        raise ValueError(f"template: got {template!r}, expected the domain's word in place of {{domain}}")
    tokens = torch.cat([_slots(clip, [name], "", template, 0) for name in classnames])
    table = _table(clip)
    with torch.no_grad():
        return encode_prompts(clip, table[tokens.to(table.device)], tokens.to(table.device))


def scores(clip: Clip, features: Tensor, classifier: Tensor) -> Tensor:
    """Cosines of image features (N, E) with classifier rows (..., E), times CLIP's scale: (N, ...)."""
    return clip.model.logit_scale.exp() * torch.einsum("ne,...e->n...", features, classifier)


def nearest_words(clip: Clip, vectors: Tensor, count: int = 1) -> list[list[tuple[str, float]]]:
    """The words of the vocabulary nearest to each of some learned ones, with their distances, nearest first.

    vectors: (M, W); distances are Euclidean, as in CoOp. Every vector has a nearest word, whether it means it or not.
    """
    table = _table(clip)
    specials = (clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id)
    ids = getattr(clip.tokenizer, "word_ids", [i for i in range(len(table)) if i not in specials])
    found = torch.cdist(vectors.detach().to(table), table[list(ids)]).topk(min(count, len(ids)), largest=False)
    return [
        [(clip.tokenizer.decode([ids[i]]).strip(), distance) for i, distance in zip(*row, strict=True)]
        for row in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


def _table(clip: Clip) -> Tensor:
    """The embeddings of all tokens, (V, W), without a gradient."""
    weight: Tensor = text_tower(clip.model).token_embedding.weight
    return weight.detach()


def _distinct(argument: str, names: Sequence[str], seen: Sequence[str]) -> None:
    """`seen`: by what two names are the same."""
    if not names:
        raise ValueError(f"{argument}: got no names, expected at least one")
    for i, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"{argument}: got the empty name {name!r}")
        if seen[i] in seen[:i]:
            raise ValueError(
                f"{argument}: got {names[list(seen).index(seen[i])]!r} and {name!r}, expected distinct names"
            )


def _names_the_class(argument: str, text: str) -> None:
    if "{name}" not in text:
        raise ValueError(f"{argument}: got {text!r}, expected {{name}} in it, or all classes get the same sentence")


def _slots(clip: Clip, classnames: Sequence[str], domain: str, ending: str, learned: int) -> Tensor:
    """Token ids of one domain's prompts with `learned` empty places behind the start token, (K, context length)."""
    rows, room = torch.zeros(len(classnames), clip.context_length, dtype=torch.int64), clip.context_length
    for row, name in zip(rows, classnames, strict=True):
        ids = clip.tokenizer.encode(ending.format(name=name, domain=domain))
        needed = len(ids) + learned + 2
        if needed > room:
            got = f"{name!r}, whose prompt takes {needed} tokens ({learned} learned, {len(ids)} spelled, start and end)"
            raise ValueError(f"classnames: got {got}, expected at most {room}, the context of this CLIP")
        row[0] = clip.tokenizer.sot_token_id
        row[1 + learned : needed] = torch.tensor([*ids, clip.tokenizer.eot_token_id])
    return rows


def _spoken(clip: Clip, words: str, shared: int) -> Tensor:
    ids = clip.tokenizer.encode(words)
    if len(ids) != shared:
        raise ValueError(f"words: got {words!r}, which is {len(ids)} tokens, expected {shared}, as `shared` says")
    return _table(clip)[torch.tensor(ids, dtype=torch.int64)]
