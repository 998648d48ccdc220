"""Trained readers of the procedural sentences, kept as weights, and the recipe that made them.

`python -m course_lib.temporal.skimming` trains them anew (some minutes on one core) and writes the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from course_lib import data
from course_lib.checkpoint import write_atomically
from course_lib.temporal.skimming.jump import LSTMJump
from course_lib.temporal.skimming.skim import SkimRNN
from course_lib.temporal.skimming.skip_rnn import SkipRNN
from course_lib.temporal.skimming.training import Core, ReaderScore, WordReader, score_reader, train_reader

FILE = Path(__file__).resolve().parents[2] / "weights" / "skimming" / "readers.safetensors"

EMBEDDING, HIDDEN, SMALL = 16, 32, 4
MAX_JUMP, MAX_JUMPS = 10, 60

#: lambda of the four Skip RNNs.
SKIP_PRICES = (0.0, 1e-3, 3e-3, 1e-2)
#: Name, price and epochs of every reader.
RECIPES: dict[str, tuple[float, int]] = {
    **{f"Skip RNN {price:g}": (price, 15) for price in SKIP_PRICES},
    "LSTM-Jump": (0.02, 40),
    "Skim-RNN": (0.1, 15),
}


def new_reader(name: str, words: int) -> WordReader:
    """An untrained reader by the name it has in `RECIPES`, for a vocabulary of `words`."""
    core: Core
    if name.startswith("Skip"):
        core = SkipRNN(EMBEDDING, HIDDEN)
    elif name == "LSTM-Jump":
        core = LSTMJump(EMBEDDING, HIDDEN, max_jump=MAX_JUMP, max_jumps=MAX_JUMPS)
    elif name == "Skim-RNN":
        core = SkimRNN(EMBEDDING, HIDDEN, small=SMALL)
    else:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(RECIPES)}")
    return WordReader(words, core)


def train_recorded(name: str, *, texts: int = 4000, seed: int = 0) -> tuple[WordReader, ReaderScore]:
    """Train one of the readers by its recipe, and score it on a thousand sentences of another seed."""
    price, epochs = RECIPES[name]
    drawn, held_out = data.keyword_sentences(texts, seed=1), data.keyword_sentences(1000, seed=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = new_reader(name, len(drawn.vocabulary))
    train_reader(
        model, drawn.tokens, drawn.lengths, drawn.labels, price=price, epochs=epochs, lr=3e-3, seed=seed
    )  # fmt: skip
    return model, score_reader(model, held_out.tokens, held_out.lengths, held_out.labels)


def recorded_readers(path: Path = FILE) -> dict[str, WordReader]:
    """The trained readers by name, in eval mode on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.
    """
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(f"no recorded readers at {path}; python -m course_lib.temporal.skimming makes them")
    weights = load_file(path)
    words, readers = len(data.keyword_sentences(0).vocabulary), {}
    for name in RECIPES:
        reader = new_reader(name, words)
        reader.load_state_dict({k.partition("/")[2]: v for k, v in weights.items() if k.partition("/")[0] == name})
        readers[name] = reader.eval()
    return readers


def save_readers(readers: Mapping[str, WordReader], path: Path = FILE) -> None:
    """Write what `recorded_readers` gives."""
    from safetensors.torch import save

    weights = {f"{name}/{key}": value for name, reader in readers.items() for key, value in reader.state_dict().items()}
    content = save(weights, metadata={"made by": "python -m course_lib.temporal.skimming"})
    write_atomically(path, lambda file: file.write(content))


def main() -> None:
    """Train every reader, print its score, and write the file."""
    readers = {}
    for name in RECIPES:
        readers[name], score = train_recorded(name)
        print(f"{name}: {score}", flush=True)
    save_readers(readers)
