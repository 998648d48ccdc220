"""Sentences: procedural ones whose relevant words are known, and corpora of both layouts, on small files made here."""

import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import data

SHARED = Path(__file__).parents[3] / "shared" / "data"


def pack(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


def write_folders(root: Path, n: int = 20) -> Path:
    for label in ("neg", "pos"):
        (root / label).mkdir(parents=True)
        for i in range(n):
            (root / label / f"review_{i:03}.txt").write_text(f"A {label} text, number {label}{i}.\nIt isn't long.")
    (root / "README.txt").write_text("not a review")
    return root


def write_lines(root: Path, names=("reviews.neg", "reviews.pos"), n: int = 20) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).write_text("\n".join(f"a line {name[-3:]}{i} of {name[-3:]}" for i in range(n)) + "\n\n")
    (root / "README.txt").write_text("not a review")
    return root


# Words ---------------------------------------------------------------------------------------------------------------


def test_tokeniser_says_what_it_does():
    assert data.tokenise("Don't  stop--it's 1999!\n") == ["don't", "stop", "-", "-", "it's", "1999", "!"]
    assert data.tokenise("naïve CAFÉ_2") == ["naïve", "café", "_", "2"]
    assert data.tokenise(" \n ") == []


@given(st.text())
def test_tokeniser_loses_no_sign(text):
    assert "".join(data.tokenise(text)) == "".join(text.lower().split())


def test_vocabulary_keeps_the_frequent_and_knows_the_unknown():
    words = data.Vocabulary.of([["b", "a", "c"], ["b", "a"], ["b"]], size=2)
    assert words.words == ("<padding>", "<unknown>", "b", "a")
    tokens, lengths = words.encode([["a", "c", "b"], [], ["b"]])
    assert tokens.tolist() == [[3, 1, 2], [0, 0, 0], [2, 0, 0]]
    assert lengths.tolist() == [3, 0, 1]
    assert len(words) == 4
    assert words.encode([])[0].shape == (0, 0)
    assert words.encode([[], []])[0].shape == (2, 0)


# Procedural ----------------------------------------------------------------------------------------------------------


def test_procedural_answer_depends_on_what_is_said_to_matter():
    drawn = data.keyword_sentences(300, seed=1)
    assert drawn.classes == ("blame", "praise")
    for i, text in enumerate(drawn.texts):
        n = int(drawn.lengths[i])
        assert len(text) == n
        assert [drawn.vocabulary.words[t] for t in drawn.tokens[i, :n]] == list(text)
        assert not drawn.relevant[i, n:].any()
        told = [text[t] for t in drawn.relevant[i].nonzero().flatten()]
        assert told[-2] == "frankly"
        assert set(told[:-2]) <= {"meanwhile", "elsewhere"}
        assert text[text.index("frankly") + 4] == told[-1]
    assert (drawn.tokens != 1).all()  # no unknown word
    assert 0.4 < drawn.labels.float().mean() < 0.6
    assert 0.05 < drawn.relevant.sum() / drawn.lengths.sum() < 0.2


def test_procedural_words_of_praise_also_stand_where_they_do_not_count():
    drawn = data.keyword_sentences(200, seed=1)
    praise = {drawn.texts[i][t] for i in range(200) for t in drawn.relevant[i].nonzero()[-1:, 0].tolist()}
    decoys = sum(word in praise for text in drawn.texts for word in text) - 200
    assert decoys > 200


def test_procedural_sentences_are_repeatable_and_share_their_words():
    one, again, other = (data.keyword_sentences(5, clauses=2, seed=seed) for seed in (1, 1, 2))
    assert one.texts == again.texts != other.texts
    assert one.vocabulary == other.vocabulary == data.keyword_sentences(0).vocabulary
    assert data.keyword_sentences(0).tokens.shape == (0, 0)


@pytest.mark.parametrize(("arguments", "name"), [({"n": -1}, "n"), ({"n": 1, "clauses": 0}, "clauses")])
def test_procedural_arguments_are_checked(arguments, name):
    with pytest.raises(ValueError, match=f"{name}: got"):
        data.keyword_sentences(**arguments)


# Corpora -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("write", [write_folders, write_lines])
def test_both_layouts_as_folder_and_zip(tmp_path, write, packed):
    root = write(tmp_path / "corpus")
    if packed:
        root = pack(root, tmp_path / "corpus.zip", "around/")
    parts = {split: data.sentences(root, split=split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 28, "validation": 6, "test": 6}
    texts = [text for part in parts.values() for text in part.texts]
    assert len(set(texts)) == 40
    for part in parts.values():
        assert part.classes == ("neg", "pos")
        assert torch.bincount(part.labels).tolist() == [len(part) // 2] * 2
        assert all(part.classes[label] in text for label, text in zip(part.labels, part.texts, strict=True))
        assert part.vocabulary == parts["train"].vocabulary
        assert part.relevant is None
    assert (parts["train"].tokens != 1).all()
    assert (parts["test"].tokens == 1).any()  # the number of a text is nowhere else
    again = data.sentences(root, split="test")
    assert again.texts == parts["test"].texts


def test_line_files_of_plain_texts(tmp_path):
    part = data.sentences(write_lines(tmp_path, ("bad.txt", "good.txt")), split="train")
    assert part.classes == ("bad", "good")


def test_length_and_vocabulary_are_taken(tmp_path):
    root = write_folders(tmp_path)
    words = data.Vocabulary.of([["text"]])
    part = data.sentences(root, split="test", vocabulary=words, length=3)
    assert part.tokens.tolist() == [[1, 1, 2]] * 6
    assert data.sentences(root, split="train", vocabulary=4).tokens.max() == 5
    assert data.sentences(root, split="train", length=0).tokens.shape == (28, 0)


def test_an_empty_file_is_a_text_and_an_empty_line_is_none(tmp_path):
    root = write_folders(tmp_path / "a", n=3)
    (root / "neg" / "review_000.txt").write_text("")
    lengths = torch.cat([data.sentences(root, split=split).lengths for split in ("train", "validation", "test")])
    assert sorted(lengths.tolist())[:2] == [0, 11]
    assert len(data.sentences(write_lines(tmp_path / "b", n=3), split="train")) == 2


def test_encodings(tmp_path):
    root = write_folders(tmp_path, n=1)
    (root / "neg" / "review_000.txt").write_bytes("\ufeffdéjà vu".encode())
    (root / "pos" / "review_000.txt").write_bytes("déjà vu".encode("latin-1"))
    assert data.sentences(root, split="train").texts == (("déjà", "vu"), ("déjà", "vu"))


@pytest.mark.parametrize("name", ["../outside/a.txt", "/etc/a.txt", "pos/../../a.txt", "C:\\a.txt", "..\\a.txt"])
def test_a_zip_may_not_lead_out_of_itself(tmp_path, name):
    root = pack(write_folders(tmp_path / "corpus"), tmp_path / "corpus.zip")
    with zipfile.ZipFile(root, "a") as archive:
        archive.writestr(name, "text")
    with pytest.raises(ValueError, match="leads out of it"):
        data.sentences(root, split="train")


@pytest.mark.parametrize("spelt", ["{}\\{}.txt", "./{}/{}.txt", "{}//{}.txt"])
def test_a_zip_may_spell_its_paths_as_it_likes(tmp_path, spelt):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in [".", *(spelt.format(label, i) for label in ("neg", "pos") for i in range(3))]:
            entry = zipfile.ZipInfo("entry")
            entry.filename = name  # as it is, where the constructor would tidy it
            archive.writestr(entry, "some words")
    train = data.sentences(tmp_path / "a.zip", split="train")
    assert train.classes == ("neg", "pos")
    assert train.texts == (("some", "words"),) * 2


def test_a_damaged_zip_is_no_corpus(tmp_path):
    source = tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for label in ("neg", "pos"):
            archive.writestr(f"{label}/a.txt", "not so short a text " * 50 + label)
    whole = source.read_bytes()
    for at in range(39, 60):  # in the first text's compressed bytes
        source.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="expected a folder or a readable zip file"):
            data.sentences(source, split="train")


def test_a_class_may_be_called_nearly_like_a_notice(tmp_path):
    for label in ("copying", "noticed", "Readme"):
        (tmp_path / label).mkdir()
        for name in ("licensed.txt", "b.txt", "README-first.txt", "LICENSE"):
            (tmp_path / label / name).write_text("text")
    train = data.sentences(tmp_path, split="train")
    assert train.classes == ("Readme", "copying", "noticed")
    assert len(train) == 6


def test_only_ends_of_lines_end_a_line(tmp_path):
    (tmp_path / "neg.txt").write_bytes(b"well\x85 caf\xe9\r\nb\n")  # Latin-1, in which 0x85 may mean an ellipsis
    (tmp_path / "pos.txt").write_text("c\u2028d\x0ce\nf\n", encoding="utf-8", newline="")
    train = data.sentences(tmp_path, split="train")
    assert [len(text) for text in train.texts] == [2, 1, 3, 1]


def test_an_empty_part_has_labels_of_the_same_kind(tmp_path):
    held_out = data.sentences(write_folders(tmp_path, n=1), split="test")
    assert len(held_out) == 0
    assert held_out.labels.dtype == torch.int64


def test_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere"):
        data.sentences(tmp_path / "nowhere", split="train")
    root = write_folders(tmp_path / "corpus")
    with pytest.raises(ValueError, match="split: got 'dev', expected one of train, validation, test"):
        data.sentences(root, split="dev")
    with pytest.raises(ValueError, match="vocabulary: got -1"):
        data.sentences(root, split="train", vocabulary=-1)
    with pytest.raises(ValueError, match="length: got -1"):
        data.sentences(root, split="train", length=-1)
    (root / "neg" / "review_000.txt").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(ValueError, match=r"neg/review_000.txt under .* is no text"):
        data.sentences(root, split="train")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 nonsense")
    with pytest.raises(ValueError, match="expected a folder or a readable zip file"):
        data.sentences(tmp_path / "broken.zip", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got no file under"):
        data.sentences(tmp_path / "empty", split="train")


def test_layouts_that_cannot_be_told(tmp_path):
    one = tmp_path / "one"
    (one / "pos").mkdir(parents=True)
    (one / "pos" / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"got pos/a.txt under .*, expected two or more subfolders"):
        data.sentences(one, split="train")
    beside = write_folders(tmp_path / "beside")
    (beside / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match="expected one folder a class and nothing beside"):
        data.sentences(beside, split="train")
    around = tmp_path / "around"
    pack(write_folders(tmp_path / "corpus"), around.with_suffix(".zip"))
    around.mkdir()
    (around.with_suffix(".zip")).rename(around / "corpus.zip")
    with pytest.raises(ValueError, match=r"Perhaps you mean .*corpus.zip"):
        data.sentences(around, split="train")


@pytest.mark.parametrize(
    ("name", "texts", "longest"), [("sentence_polarity", 10_662, 100), ("movie_reviews", 2000, 4000)]
)
def test_shared_corpora(name, texts, longest):
    root = SHARED / name / f"{name}.zip"
    if not root.exists():
        pytest.skip(f"no shared data at {root}")
    parts = [data.sentences(root, split=split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == texts
    assert all(part.classes == ("neg", "pos") for part in parts)
    assert parts[0].tokens.shape[1] < longest
    assert (parts[0].lengths > 0).all()
    assert len(parts[2].vocabulary) == 5002
    assert abs(parts[2].labels.float().mean() - 0.5) < 0.01
