"""A tokenizer for few words: what the tiny CLIP reads, in place of a table of 49,408 rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from course_lib.data.domains import CAPTION_WORDS

START, END = "<start>", "<end>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_MARKS = ".,:;!?'-()"

CHATTER: tuple[str, ...] = (
    *("here", "now", "we", "see", "this", "is", "look", "again", "just"),
    *("one", "the", "my", "your", "nice", "good", "old", "new"),
)
"""Words that say nothing of a picture; captions of the web are full of them."""

WORDS: tuple[str, ...] = tuple(dict.fromkeys((*CAPTION_WORDS, *CHATTER)))
"""What the tiny CLIP reads whole: the words of the captions of `data.domain_shapes`, and chatter."""


class WordTokenizer:
    """Words as single tokens; any other word is spelled, one token a letter.

    Called like open_clip's tokenizer, with the same attributes. Ids: 0 the padding, then punctuation, letters and
    digits, then the words, the start token, and as the largest the end token.

    >>> tokenizer = WordTokenizer(["a", "ring"], context_length=8)
    >>> [tokenizer.decode([i]).strip() for i in tokenizer.encode("A ring, oval.")]
    ['a', 'ring', ',', 'o', 'v', 'a', 'l', '.']
    """

    def __init__(self, words: Iterable[str], *, context_length: int = 32) -> None:
        self.words = tuple(dict.fromkeys(words))
        for word in self.words:
            if not re.fullmatch(r"[a-z]+", word):
                raise ValueError(f"words: got {word!r}, expected lower-case letters a to z")
        if context_length < 3:
            raise ValueError(f"context_length: got {context_length}, expected at least 3")
        self.context_length = context_length
        # a word that is a single letter has one id as a word, another as a letter of a spelled word
        self._pieces = ("", *_MARKS, *_LETTERS, *self.words, START, END)
        self._spelled = {piece: i for i, piece in enumerate(self._pieces[: 1 + len(_MARKS) + len(_LETTERS)])}
        self._whole = {word: len(self._spelled) + i for i, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._pieces)

    @property
    def sot_token_id(self) -> int:
        """Id of the start token."""
        return self.vocab_size - 2

    @property
    def eot_token_id(self) -> int:
        """Id of the end token, the largest."""
        return self.vocab_size - 1

    @property
    def word_ids(self) -> tuple[int, ...]:
        """Ids of the whole words, which stand for something."""
        return tuple(self._whole.values())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end; `ValueError` for a character that is not in the vocabulary."""
        ids = []
        for piece in re.findall(r"[a-z]+|[^\sa-z]", text.lower()):
            if piece in self._whole:
                ids.append(self._whole[piece])
                continue
            for character in piece:
                if character not in self._spelled:
                    known = f"letters, digits and {_MARKS}"
                    raise ValueError(f"text: got the character {character!r} in {text!r}, expected {known}")
                ids.append(self._spelled[character])
        return ids

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The words of some ids, a space behind each."""
        return "".join(f"{self._pieces[int(i)]} " for i in ids)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Ids with start, end and padding, (N, context_length) int64; `ValueError` for a text that is too long."""
        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.context_length
        rows = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.sot_token_id, *self.encode(text), self.eot_token_id]
            if len(ids) > length:
                raise ValueError(f"texts: got {text!r}, which takes {len(ids)} tokens, expected at most {length}")
            row[: len(ids)] = torch.tensor(ids)
        return rows
