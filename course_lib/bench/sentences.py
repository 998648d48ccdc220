"""Readers of real sentences: how right they are, and how much they read.

Part of the temporal bench, `--data sentences --root CORPUS`, CORPUS being a folder or zip that `data.sentences` reads.
The readers of the chapter, with word vectors learned from nothing, trained alike on the corpus's training part; a
contender's rows are its accuracy and reading on the test part, a sample a seed. "read all" is the Skip RNN with its
gate held open. Prices and epochs were chosen on one seed of one corpus (sentence polarity); there is no search for the
best reader here, and none of them comes near what pre-trained networks reach.

Rows: "CONTENDER: right" (%), "CONTENDER: read" (% of the words), "CONTENDER: work" (% of the multiply-adds of reading
all), with the share skimmed, the price and the commit of the training in the details.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from course_lib import data
from course_lib.bench.core import Options, Row
from course_lib.bench.exits import one_thread
from course_lib.bench.kept import kept, side_by_side
from course_lib.temporal.skimming import LSTMJump, SkimRNN, SkipRNN, WordReader, score_reader, train_reader

SEEDS = (0, 1, 2)
WORDS, LENGTH = 5_000, 60  # known words; words of a sentence that are kept
EMBEDDING, HIDDEN = 32, 64
EPOCHS = 10
ALL = "read all"
PRICES = {
    ALL: 0.0, "Skip RNN 0.001": 0.001, "Skip RNN 0.003": 0.003, "Skip RNN 0.01": 0.01, "LSTM-Jump": 0.05,
    "Skim-RNN": 0.1,
}  # fmt: skip


def compare(options: Options) -> list[Row]:
    """Every reader and seed; `options.quick`: one seed, one epoch."""
    if options.root is None:
        raise ValueError("--root: got none, expected the folder or zip of a corpus beside --data sentences")
    corpus = options.root
    seeds, epochs = (SEEDS[:1], 1) if options.quick else (SEEDS, EPOCHS)
    jobs = [(name, seed) for name in PRICES for seed in seeds]
    work = partial(_train, corpus, epochs) if options.quick else partial(_scored, corpus, options.label or "", epochs)
    device = options.device if not options.quick else "none of many"
    scores = dict(zip(jobs, side_by_side(work, jobs, device), strict=True))
    rows = []
    for name, price in PRICES.items():
        found = [scores[name, seed] for seed in seeds]
        whole = [scores[ALL, seed]["macs"] for seed in seeds]
        details = {"price": price, "skimmed": round(sum(one["skimmed"] for one in found) / len(found), 4)}
        details |= {"trained": found[0].get("commit", "quick")}
        shares = [100 * one["macs"] / most for one, most in zip(found, whole, strict=True)]
        rows += [
            Row.of(f"{name}: right", "%", [100 * one["accuracy"] for one in found], **details),
            Row.of(f"{name}: read", "%", [100 * one["read"] for one in found], **details),
            Row.of(f"{name}: work", "%", shares, **details),
        ]
    return rows


def _scored(corpus: str, label: str, epochs: int, name: str, seed: int) -> dict[str, Any]:
    """One trained reader's score on the test part."""
    plan = {
        "corpus": label, "reader": name, "price": PRICES[name], "epochs": epochs, "words": WORDS, "length": LENGTH,
        "sizes": [EMBEDDING, HIDDEN],
    }  # fmt: skip
    with one_thread():
        return kept(
            f"sentences-{label}-{name}-{seed}".replace(" ", "-"), plan, partial(_train, corpus, epochs, name, seed)
        )


def _train(corpus: str, epochs: int, name: str, seed: int) -> dict[str, Any]:
    train = data.sentences(corpus, split="train", vocabulary=WORDS, length=LENGTH)
    test = data.sentences(corpus, split="test", vocabulary=train.vocabulary, length=LENGTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WordReader(len(train.vocabulary), _core(name), classes=len(train.classes))
        train_reader(model, train.tokens, train.lengths, train.labels, price=PRICES[name], epochs=epochs, seed=seed)
    return asdict(score_reader(model, test.tokens, test.lengths, test.labels))


def _core(name: str) -> SkipRNN | LSTMJump | SkimRNN:
    if name == "LSTM-Jump":
        return LSTMJump(EMBEDDING, HIDDEN, max_jump=5, max_jumps=40, read=3)
    if name == "Skim-RNN":
        return SkimRNN(EMBEDDING, HIDDEN, small=5)
    reader = SkipRNN(EMBEDDING, HIDDEN)
    if name == ALL:
        nn.init.zeros_(reader.gate.weight)
        nn.init.constant_(reader.gate.bias, 5.0)  # every step an update
        reader.gate.requires_grad_(False)
    return reader
