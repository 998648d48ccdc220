"""Training readers: Skip RNN on the adding task, and each of the three on sentences with its own estimator."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data.sequences import Sequences, adding
from course_lib.temporal.skimming.batching import length_buckets
from course_lib.temporal.skimming.jump import LSTMJump, jump_loss
from course_lib.temporal.skimming.reading import READ, SKIMMED, Cell, Reading, at_least
from course_lib.temporal.skimming.skim import SkimRNN, skim_temperature
from course_lib.temporal.skimming.skip_rnn import SkipRNN
from course_lib.train import cosine

Core = SkipRNN | LSTMJump | SkimRNN

_FREE, _DEAR = 0.15, 0.45  # shares of the training: until then updates cost nothing, from then on their full price


# The adding task -----------------------------------------------------------------------------------------------------


class Adder(nn.Module):
    """A Skip RNN and a linear layer that answers from its last state."""

    def __init__(self, hidden_size: int = 32, *, cell: Cell = "gru") -> None:
        super().__init__()
        self.reader = SkipRNN(2, hidden_size, cell=cell)
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, 2) -> answers (N,), updates (N, T) with their slope."""
        trace = self.reader(inputs)
        return self.head(trace.hidden).squeeze(1), trace.updates


@dataclass(frozen=True)
class SkipRun:
    """What `train_skip_rnn` did."""

    model: Adder
    errors: tuple[float, ...]  #: mean squared error of each iteration's batch, before its step
    used: tuple[float, ...]  #: share of the steps that were updates, likewise
    seconds: float


@dataclass(frozen=True)
class AddingScore:
    """How well, and for how much reading."""

    error: float  #: mean squared error
    used: float  #: share of the steps that were updates
    found: float  #: share of the marked steps that were updates


def train_skip_rnn(
    *,
    length: int = 20,
    hidden_size: int = 32,
    cell: Cell = "gru",
    price: float = 3e-4,
    iterations: int = 4000,
    batch_size: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SkipRun:
    """Teach a Skip RNN the adding task: mean squared error + price * updates of a sequence, averaged over the batch.

    Adam, gradients clipped at norm 1; every batch is new. Updates are free for the first 15 % of the iterations, then
    the price rises to its full height at 45 %: who pays from the start never learns what the second marker is good for.
    The rate is constant for 30 % and falls to 0 by a cosine.

    Args:
        length, hidden_size, cell: of the sequences and of the reader.
        price: lambda, what an update costs.
        seed: of the first weights and the sequences.
        device: where to train; the model stays there.

    Raises:
        ValueError: a size below 1, a negative price.
        FloatingPointError: the loss is not finite.
    """
    at_least(1, iterations=iterations, batch_size=batch_size)
    if not price >= 0:
        raise ValueError(f"price: got {price}, expected 0 or more")
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Adder(hidden_size, cell=cell).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    errors, used = [], []
    for i, (inputs, targets) in enumerate(_fresh(iterations, batch_size, length, seed)):
        done = i / iterations
        _set_rate(optimizer, lr, done)
        answers, updates = model(inputs.to(device))
        error = (answers - targets.to(device)).square().mean()
        _step(model, optimizer, error + price * _price_share(done) * updates.sum(1).mean(), i)
        errors.append(error.item())
        used.append(updates.detach().mean().item())
    model.eval()
    return SkipRun(model, tuple(errors), tuple(used), time.perf_counter() - started)


def _fresh(iterations: int, batch_size: int, length: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """New sequences for every iteration, drawn a hundred batches at a time."""
    for block in range(-(-iterations // 100)):
        batches = min(100, iterations - 100 * block)
        drawn = adding(batches * batch_size, length=length, seed=(seed * 1_000_003 + block) % 2**63)
        yield from zip(drawn.inputs.split(batch_size), drawn.targets.split(batch_size), strict=True)


@torch.no_grad()
def score_adding(model: Adder, data: Sequences) -> AddingScore:
    """Error, share of updates and share of the markers read on held-out sequences."""
    at = next(model.parameters()).device
    answers, updates = (found.cpu() for found in model(data.inputs.to(at)))
    error = (answers - data.targets).square().mean()
    return AddingScore(error.item(), updates.mean().item(), updates.gather(1, data.markers).mean().item())


# Sentences -----------------------------------------------------------------------------------------------------------


class WordReader(nn.Module):
    """Words to vectors, a reader of the three, and a linear layer that answers from its last state."""

    def __init__(self, words: int, core: Core, *, classes: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, core.input_size, padding_idx=0)
        self.core = core
        self.head = nn.Linear(core.hidden_size, classes)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(N, T) int64 -> logits (N, classes), read as `read` does, but with a gradient where the core has one."""
        return self.head(self.core(self.embedding(tokens), lengths).hidden)

    @torch.inference_mode()
    def read(self, tokens: Tensor, lengths: Tensor | None = None, **plan: str) -> tuple[Tensor, Reading]:
        """(N, T) int64 -> logits (N, classes) and what was read; `plan` as in `SkipRNN.infer`."""
        reading = self.core.infer(self.embedding(tokens), lengths, **plan)  # type: ignore[arg-type]
        return self.head(reading.hidden), reading


@dataclass(frozen=True)
class ReaderScore:
    """How well, and for how much reading."""

    accuracy: float
    read: float  #: share of the words
    skimmed: float  #: share of the words
    macs: float  #: per text


def train_reader(
    model: WordReader,
    tokens: Tensor,
    lengths: Tensor,
    labels: Tensor,
    *,
    price: float,
    epochs: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Teach a reader to classify, with the estimator that belongs to it; gives the mean cross-entropy of each epoch.

    Skip RNN: cross-entropy + price * updates, straight-through. Skim-RNN: + price * mean of -log p[skim], soft Gumbel
    samples whose temperature falls to 0.5. LSTM-Jump: + `jump_loss`, REINFORCE on right (1) or wrong (-1) less
    price * words read. The price rises as in `train_skip_rnn`, and the rate falls likewise. Batches hold texts of like
    length.

    Args:
        model: on any device; ends in eval mode.
        tokens: (N, T) int64, padded at the end; lengths, labels: (N,) int64.
        seed: of the order and of what the readers draw.

    Raises:
        ValueError: a size below 1, a negative price. FloatingPointError: the loss is not finite.
    """
    at_least(1, epochs=epochs, batch_size=batch_size, texts=len(tokens))
    if not price >= 0:
        raise ValueError(f"price: got {price}, expected 0 or more")
    at = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr)
    generator = torch.Generator().manual_seed(seed)
    batches_each = math.ceil(len(tokens) / batch_size)
    total, means = epochs * batches_each, []
    model.train()
    for epoch in range(epochs):
        losses = []
        for k, batch in enumerate(length_buckets(lengths, batch_size, generator=generator)):
            step = epoch * batches_each + k
            done = step / total
            _set_rate(optimizer, lr, done)
            longest = int(lengths[batch].max())
            words = model.embedding(tokens[batch, :longest].to(at))
            truth = (lengths[batch].to(at), labels[batch].to(at))
            entropy, rest = _objective(model, words, *truth, price * _price_share(done), done, generator)
            _step(model, optimizer, entropy + rest, step)
            losses.append(entropy.item())
        means.append(sum(losses) / len(losses))
    model.eval()
    return means


def _objective(
    model: WordReader,
    words: Tensor,
    lengths: Tensor,
    labels: Tensor,
    price: float,
    done: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """The cross-entropy, and what each reader adds to it."""
    core = model.core
    if isinstance(core, SkipRNN):
        skipping = core(words, lengths)
        return F.cross_entropy(model.head(skipping.hidden), labels), price * skipping.updates.sum(1).mean()
    if isinstance(core, SkimRNN):
        tau = skim_temperature(done, rate=2 * math.log(2))  # at its floor of one half after half of the training
        skimming = core(words, lengths, tau=tau, generator=generator)
        return F.cross_entropy(model.head(skimming.hidden), labels), price * skimming.skim_loss
    jumping = core(words, lengths, generator=generator)
    logits = model.head(jumping.hidden)
    right = (logits.detach().argmax(1) == labels).to(logits.dtype)
    reward = 2 * right - 1 - price * (jumping.marks == READ).sum(1)
    return F.cross_entropy(logits, labels), jump_loss(jumping, reward)


def decision_gradient(
    model: WordReader,
    tokens: Tensor,
    lengths: Tensor,
    labels: Tensor,
    *,
    price: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One estimate of the gradient for the weights of the layer that decides, flattened, by the reader's own estimator.

    That layer is Skip RNN's gate, LSTM-Jump's softmax or Skim-RNN's choice; the loss is that of `train_reader` at its
    beginning, at the price given. Called again it draws again, and the estimates differ by their spread.
    """
    core = model.core
    layer = core.gate if isinstance(core, SkipRNN) else core.jump if isinstance(core, LSTMJump) else core.choice
    at = layer.weight.device
    words = model.embedding(tokens[:, : int(lengths.max())].to(at))
    entropy, rest = _objective(model, words, lengths.to(at), labels.to(at), price, 0.0, generator)
    # Texts without words decide nothing: a gradient of zero.
    return torch.autograd.grad(entropy + rest, layer.weight, materialize_grads=True)[0].flatten()


@torch.no_grad()
def score_reader(
    model: WordReader, tokens: Tensor, lengths: Tensor, labels: Tensor, *, batch_size: int = 256
) -> ReaderScore:
    """Accuracy and reading on held-out texts, as they are read afterwards: no draw, no mixture."""
    at = next(model.parameters()).device
    right, words = 0, int(lengths.sum())
    counts, macs = {READ: 0, SKIMMED: 0}, 0.0
    for batch in length_buckets(lengths, batch_size):
        longest = int(lengths[batch].max()) if len(batch) else 0
        logits, reading = model.read(tokens[batch, :longest].to(at), lengths[batch].to(at))
        right += int((logits.argmax(1).cpu() == labels[batch].cpu()).sum())
        macs += float(reading.macs.sum())
        for mark in counts:
            counts[mark] += int((reading.marks == mark).sum())
    number = max(len(tokens), 1)
    return ReaderScore(right / number, counts[READ] / max(words, 1), counts[SKIMMED] / max(words, 1), macs / number)


# Shared --------------------------------------------------------------------------------------------------------------


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, number: int) -> None:
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()} at step {number}; that update was not made")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, done: float) -> None:
    """Constant for 30 % of the training, then down to 0 by a cosine."""
    for group in optimizer.param_groups:
        group["lr"] = rate * (1.0 if done < 0.3 else cosine((done - 0.3) / 0.7))


def _price_share(done: float) -> float:
    """The share of the price that is asked after a share `done` of the training."""
    return min(1.0, max(0.0, (done - _FREE) / (_DEAR - _FREE)))
