"""Sentences: procedural ones in which the words that matter are known, and corpora by root.

The procedural sentences are honest about what they are: English words put into a few fixed patterns, so that for every
word it is known whether the answer depends on it. A corpus is a folder or a zip file, which is never unpacked, with one
subfolder of text files a class or one file of lines a class.
"""

from __future__ import annotations

import operator
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from course_lib.data.folder import split_rows

PADDING, UNKNOWN = 0, 1
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]|_")
_HIDDEN = re.compile(r"\.|__macosx", re.IGNORECASE)
_NOT_A_TEXT = re.compile(r"(readme|licen[cs]e|copying|notice)(?![a-z])", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")  # and none of the signs that str.splitlines takes for one, as 0x85 in Latin-1
_OTHER_ENDINGS = frozenset({".zip", ".gz", ".tar", ".xml", ".json", ".csv", ".md", ".html", ".pdf", ".py"})
_LARGEST = 1 << 30  # bytes of a corpus; more is no corpus for a laptop


def tokenise(text: str) -> list[str]:
    """Lower case, then runs of letters and digits (with apostrophes inside), and every other sign by itself.

    >>> tokenise("It isn't THAT bad - 7/10.")
    ['it', "isn't", 'that', 'bad', '-', '7', '/', '10', '.']
    """
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Words by number; 0 is the padding and 1 stands for every word that is not known."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], *, size: int = 5000) -> Vocabulary:
        """The `size` most frequent words of some texts, ties in alphabetical order, behind padding and unknown."""
        counts = Counter(word for text in texts for word in text)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(("<padding>", "<unknown>", *ranked[:size]))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, texts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Tokens (N, T) int64, padded at the end, and lengths (N,) int64; T is the longest text, perhaps 0.

        >>> tokens, lengths = Vocabulary.of([["a", "b"]]).encode([["b", "never", "seen"], []])
        >>> tokens.tolist(), lengths.tolist()
        ([[3, 1, 1], [0, 0, 0]], [3, 0])
        """
        number = {word: i for i, word in enumerate(self.words)}
        lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
        tokens = torch.zeros(len(texts), int(lengths.max()) if len(texts) else 0, dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = torch.tensor([number.get(word, UNKNOWN) for word in text], dtype=torch.int64)
        return tokens, lengths


@dataclass(frozen=True)
class Sentences:
    """Texts ready to be read.

    tokens: (N, T) int64, padded at the end; lengths: (N,) int64; labels: (N,) int64, indices into `classes`;
    texts: the words themselves; relevant: (N, T) bool, the words the answer depends on, where that is known.
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    texts: tuple[tuple[str, ...], ...]
    vocabulary: Vocabulary
    classes: tuple[str, ...]
    relevant: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


# Procedural ----------------------------------------------------------------------------------------------------------

_PRAISE = ("wonderful", "brilliant", "moving", "clever", "superb", "charming")
_BLAME = ("dull", "clumsy", "bad", "tedious", "hollow", "shallow")
_ASPECTS = ("acting", "plot", "music", "ending", "camera", "dialogue")
_PEOPLE = ("baker", "sailor", "teacher", "farmer", "doctor", "painter")
_HABITS = ("old", "tall", "quiet", "cheerful", "young", "careful")
_DEEDS = ("sold", "found", "carried", "painted", "repaired", "bought")
_THINGS = ("boat", "lamp", "chair", "kettle", "bicycle", "clock")

#: The word that opens each kind of clause, and what follows it.
_LONG = ("meanwhile", ("the", _HABITS, _PEOPLE, _DEEDS, "a", _PRAISE + _BLAME, _THINGS, "."))
_SHORT = ("elsewhere", ("the", _PEOPLE, _DEEDS, "a", _THINGS, "."))
_VERDICT = ("frankly", ("the", _ASPECTS, "was", _PRAISE + _BLAME, "."))


def keyword_sentences(n: int, *, clauses: int = 6, seed: int = 0) -> Sentences:
    """Draw `n` procedural reviews: one verdict somewhere among clauses that have nothing to do with it.

    A clause begins with a word that announces what follows: after "meanwhile" eight words, after "elsewhere" six, none
    of which matter, even where a word of praise or blame is among them; after "frankly" the verdict, five words with
    the one that decides. So `relevant` are the opening words up to the verdict's, and its word of praise or blame. Of
    the other clauses there are half of `clauses` to all of them, and the verdict stands anywhere among them.

    Args:
        n: number of texts, 0 included.
        clauses: the most clauses beside the verdict, at least 1.
        seed: a non-negative number; the same arguments give the same texts.

    Returns:
        `Sentences` with the classes "blame" and "praise". The vocabulary is the same for every call.

    Raises:
        ValueError: for an argument outside these ranges.

    >>> few = keyword_sentences(2, clauses=1, seed=1)
    >>> " ".join(few.texts[0])
    'frankly the ending was tedious . elsewhere the baker sold a bicycle .'
    """
    n, clauses, seed = (operator.index(value) for value in (n, clauses, seed))
    for name, got, least in (("n", n, 0), ("clauses", clauses, 1), ("seed", seed, 0)):
        if got < least:
            raise ValueError(f"{name}: got {got}, expected at least {least}")
    rng = np.random.default_rng(seed)
    texts, relevant, labels = [], [], []
    for _ in range(n):
        others = int(rng.integers((clauses + 1) // 2, clauses + 1))
        verdict = int(rng.integers(others + 1))
        words: list[str] = []
        matters: list[int] = []
        for clause in range(others + 1):
            opening, pattern = _VERDICT if clause == verdict else (_LONG, _SHORT)[int(rng.integers(2))]
            if clause <= verdict:
                matters.append(len(words))
            filled = [part if isinstance(part, str) else part[int(rng.integers(len(part)))] for part in pattern]
            words += [opening, *filled]
            if clause == verdict:
                matters.append(len(words) - 2)
                labels.append(int(filled[-2] in _PRAISE))
        texts.append(tuple(words))
        relevant.append(matters)
    vocabulary = Vocabulary(("<padding>", "<unknown>", *sorted(_all_words())))
    tokens, lengths = vocabulary.encode(texts)
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, matters in enumerate(relevant):
        where[row, matters] = True
    classes = ("blame", "praise")
    return Sentences(tokens, lengths, torch.tensor(labels, dtype=torch.int64), tuple(texts), vocabulary, classes, where)


def _all_words() -> set[str]:
    found = set()
    for opening, pattern in (_LONG, _SHORT, _VERDICT):
        found |= {opening, *(word for part in pattern for word in ((part,) if isinstance(part, str) else part))}
    return found


# Corpora -------------------------------------------------------------------------------------------------------------


def sentences(
    root: str | os.PathLike[str],
    *,
    split: str,
    vocabulary: Vocabulary | int = 5000,
    length: int | None = None,
) -> Sentences:
    """One split of a corpus: 70 : 15 : 15 within each class, shuffled with a fixed seed.

    Args:
        root: a folder or a zip file, either with one subfolder of .txt files a class, each file a text (folders around
            the class folders do not matter), or with one file a class in which each line is a text: several .txt files,
            named by their class, or files of one name whose endings are the classes, as in reviews.neg, reviews.pos.
            Files called README, LICENSE and the like, and hidden ones, are passed over. Text is UTF-8, else Latin-1.
        split: "train", "validation" or "test".
        vocabulary: a ready one, or how many of the training part's most frequent words to know.
        length: keep the first so many words of each text; None: all.

    Returns:
        `Sentences`, texts in the order of their files or lines, class by class. An empty file is a text without words;
        empty lines are no texts.

    Raises:
        FileNotFoundError: there is no such root.
        ValueError: another layout, fewer than two classes, a broken zip, a path that leads out of it, a file that is no
            text; an unknown split; a negative `vocabulary` or `length`.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split: got {split!r}, expected one of train, validation, test")
    if not isinstance(vocabulary, Vocabulary) and vocabulary < 0:
        raise ValueError(f"vocabulary: got {vocabulary}, expected 0 or more words, or a Vocabulary")
    if length is not None and length < 0:
        raise ValueError(f"length: got {length}, expected 0 or more words, or None")
    where = Path(root).expanduser()
    names, texts, labels, classes = _corpus(where)
    rows = split_rows(names, labels, split, by_number=False)
    words = {row: tuple(tokenise(texts[row])[:length]) for row in rows}
    if not isinstance(vocabulary, Vocabulary):
        known = rows if split == "train" else split_rows(names, labels, "train", by_number=False)
        vocabulary = Vocabulary.of((words.get(row) or tokenise(texts[row])[:length] for row in known), size=vocabulary)
    chosen = tuple(words[row] for row in rows)
    tokens, lengths = vocabulary.encode(chosen)
    kept = torch.tensor([labels[row] for row in rows], dtype=torch.int64)
    return Sentences(tokens, lengths, kept, chosen, vocabulary, classes)


_Corpus = tuple[list[str], list[str], list[int], tuple[str, ...]]


def _corpus(root: Path) -> _Corpus:
    """Name, content and label of every text, and the classes, all in sorted order."""
    if not root.exists():
        raise FileNotFoundError(f"root: there is no {root.absolute()}, expected a folder or a zip file of texts")
    if root.is_dir():
        found = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
        files = [PurePosixPath(path.as_posix()) for path in found]
        return _texts(root, files, lambda file: (root / file).read_bytes())
    try:
        with zipfile.ZipFile(root) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError(f"root: got {root}, which unpacks to over {_LARGEST >> 30} GiB, expected a corpus")
            entries = sorted(entry.filename for entry in archive.infolist() if not entry.is_dir())
            inside = {_within(root, entry): entry for entry in entries}
            return _texts(root, list(inside), lambda file: archive.read(inside[file]))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"root: got {root}, expected a folder or a readable zip file ({error})") from error


def _within(root: Path, entry: str) -> PurePosixPath:
    path = PurePosixPath(entry.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise ValueError(f"root: the zip {root} holds the path {entry!r}, which leads out of it; it is not read")
    return path


def _texts(
    root: Path, files: list[PurePosixPath], read: Callable[[PurePosixPath], bytes]
) -> tuple[list[str], list[str], list[int], tuple[str, ...]]:
    files = [file for file in files if not _NOT_A_TEXT.match(file.name) and not any(map(_HIDDEN.match, file.parts))]
    plain = [file for file in files if file.suffix.lower() == ".txt"]
    folders = sorted({file.parent for file in plain})
    if len(folders) > 1:  # one folder a class
        classes = sorted({folder.name for folder in folders})
        if len(classes) < len(folders) or "" in classes:
            listed = ", ".join(str(folder) for folder in folders)
            raise ValueError(
                f"root: got texts in {listed} under {root}, expected one folder a class and nothing beside"
            )
        plain.sort(key=lambda file: (file.parent.name, file.name))
        labels = [classes.index(file.parent.name) for file in plain]
        return [str(file) for file in plain], [_decoded(root, file, read) for file in plain], labels, tuple(classes)
    lines = {file.stem: file for file in plain} if len(plain) > 1 else _by_ending(files)
    if len(lines) < 2:
        found = ", ".join(str(file) for file in files[:5]) or "no file"
        zips = [str(file) for file in files if file.suffix.lower() == ".zip"]
        remedy = f" Perhaps you mean {root / zips[0]}." if zips else ""
        raise ValueError(
            f"root: got {found} under {root}, expected two or more subfolders of .txt files, one a class, or two or "
            f"more files of lines, one a class (negative.txt, positive.txt, or reviews.neg, reviews.pos).{remedy}"
        )
    names, texts, labels = [], [], []
    for label, name in enumerate(sorted(lines)):
        for number, line in enumerate(_LINE_END.split(_decoded(root, lines[name], read)), start=1):
            if line.strip():
                names.append(f"{lines[name]}:{number}")
                texts.append(line)
                labels.append(label)
    return names, texts, labels, tuple(sorted(lines))


def _by_ending(files: list[PurePosixPath]) -> dict[str, PurePosixPath]:
    """Files of one folder and name by their endings, where exactly one name has several."""
    groups: dict[PurePosixPath, dict[str, PurePosixPath]] = {}
    for file in files:
        if file.suffix and file.suffix.lower() not in _OTHER_ENDINGS:
            groups.setdefault(file.with_suffix(""), {})[file.suffix[1:]] = file
    several = [group for group in groups.values() if len(group) > 1]
    return several[0] if len(several) == 1 else {}


def _decoded(root: Path, file: PurePosixPath, read: Callable[[PurePosixPath], bytes]) -> str:
    raw = read(file)
    if b"\0" in raw:
        raise ValueError(f"root: {file} under {root} is no text (it has a byte 0), expected UTF-8 or Latin-1")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
