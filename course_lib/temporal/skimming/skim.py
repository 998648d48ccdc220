"""Skim-RNN (arXiv 1711.02085): every word is looked at, by a large cell or by a small one. Learnt by Gumbel-softmax.

Two cells share one state of size d. From the word and the state, p_t = softmax(W [x_t; h_{t-1}] + b) chooses:
read, h_t = f(x_t, h_{t-1}); or skim, h_t = [f'(x_t, h_{t-1}); h_{t-1}[d':]], where f' writes the first d' entries only.
Both read the whole state: what is small about the small cell is what it writes. An LSTM's c is treated alike.
While training the two results are mixed by a soft Gumbel sample; afterwards the likelier one alone is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib import decision
from course_lib.temporal.skimming.reading import (
    GATES,
    READ,
    SKIMMED,
    Cell,
    Reading,
    at_least,
    checked,
    no_marks,
    one_of,
    recurrent_macs,
)

_CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


def skim_temperature(step: float, *, rate: float = 1e-4, least: float = 0.5) -> float:
    """The temperature of the Gumbel sample at a training step: max(least, exp(-rate * step)).

    >>> [round(skim_temperature(step), 3) for step in (0, 5000, 10_000)]
    [1.0, 0.607, 0.5]
    """
    return max(least, math.exp(-rate * step))


@dataclass(frozen=True)
class SkimTrace:
    """What `SkimRNN.forward` gives."""

    hidden: Tensor  #: (N, hidden) after the last step of each sequence
    read: Tensor  #: (N, T) in [0, 1], the weight of the large cell; 0 in the padding
    skim_log_prob: Tensor  #: (N, T), log p_t[skim]; 0 in the padding
    lengths: Tensor  #: (N,) int64

    @property
    def skim_loss(self) -> Tensor:
        """The mean over a sequence's words of -log p_t[skim], averaged over the batch: small where much is skimmed."""
        return -(self.skim_log_prob.sum(1) / self.lengths.clamp(min=1)).mean()


class SkimRNN(nn.Module):
    """A recurrent layer with a large cell for words that matter and a small one for the others."""

    def __init__(self, input_size: int, hidden_size: int, *, small: int = 5, cell: Cell = "lstm") -> None:
        super().__init__()
        one_of("cell", cell, GATES)
        at_least(1, input_size=input_size, hidden_size=hidden_size, small=small)
        if small >= hidden_size:
            raise ValueError(f"small: got {small}, expected less than hidden_size, {hidden_size}")
        self.kind: Cell = cell
        self.input_size, self.hidden_size, self.small = input_size, hidden_size, small
        self.large_cell = _CELLS[cell](input_size, hidden_size)
        # The state's other entries come in beside the word, so that every entry is read once.
        self.small_cell = _CELLS[cell](input_size + hidden_size - small, small)
        self.choice = nn.Linear(input_size + hidden_size, 2)
        with torch.no_grad():  # nearly everything is read at first
            self.choice.bias.copy_(torch.tensor([2.0, 0.0]))

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor | None = None,
        *,
        tau: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> SkimTrace:
        """Both cells at every word, mixed: the path to train.

        Args:
            inputs: (N, T, input_size) float, padded at the end.
            lengths: (N,) int64 in 0..T; default T for all.
            tau: temperature of the Gumbel sample.
            generator: for its noise.

        Raises:
            ValueError: another shape, or a length outside 0..T.
        """
        inputs, lengths = checked(inputs, lengths, self.input_size)
        inside = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
        inputs = inputs.masked_fill(~inside[..., None], 0)
        state = self._start(inputs)
        weights, chances = [], []
        for t in range(inputs.shape[1]):
            log_prob = self._log_prob(inputs[:, t], state)
            read, skim = decision.gumbel_softmax(log_prob, tau=tau, generator=generator).unbind(1)
            mixed = read[:, None] * self._large(inputs[:, t], state) + skim[:, None] * self._small(inputs[:, t], state)
            state = torch.where(inside[:, t, None], mixed, state)
            weights.append(read * inside[:, t])
            chances.append(log_prob[:, 1] * inside[:, t])
        read, chance = (
            torch.stack(one, 1) if one else inputs.new_zeros(inputs.shape[:2]) for one in (weights, chances)
        )
        return SkimTrace(state[:, : self.hidden_size], read, chance, lengths)

    @torch.inference_mode()
    def infer(self, inputs: Tensor, lengths: Tensor | None = None) -> Reading:
        """The likelier cell for each word, and only that one computed; a tie is read. Arguments as in `forward`."""
        inputs, lengths = checked(inputs, lengths, self.input_size)
        state = self._start(inputs)
        marks = no_marks(inputs, lengths)
        computed = launches = 0
        for t in range(inputs.shape[1]):
            rows = (t < lengths).nonzero().squeeze(1)
            log_prob = self._log_prob(inputs[rows, t], state[rows])
            read = log_prob[:, 0] >= log_prob[:, 1]
            for chosen, cell, mark in ((rows[read], self._large, READ), (rows[~read], self._small, SKIMMED)):
                if len(chosen):
                    state[chosen] = cell(inputs[chosen, t], state[chosen])
                    marks[chosen, t] = mark
                    computed, launches = computed + len(chosen), launches + 1
        costs = {READ: self.macs_read, SKIMMED: self.macs_skim}
        macs = sum((marks == mark).sum(1).double() * cost for mark, cost in costs.items())
        return Reading(state[:, : self.hidden_size], marks, macs, computed, launches)  # type: ignore[arg-type]

    @property
    def macs_read(self) -> int:
        """Multiply-adds for a word that is read: the choice and the large cell."""
        return self.choice.weight.numel() + recurrent_macs(self.kind, self.input_size, self.hidden_size)

    @property
    def macs_skim(self) -> int:
        """Multiply-adds for a word that is skimmed: the choice, and the first `small` rows of a large cell."""
        return self.choice.weight.numel() + GATES[self.kind] * self.small * (self.hidden_size + self.input_size)

    def _start(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(len(inputs), self.hidden_size * (1 if self.kind == "gru" else 2))

    def _log_prob(self, x: Tensor, state: Tensor) -> Tensor:
        """(N, 2), log-probabilities of reading and of skimming."""
        return self.choice(torch.cat([x, state[:, : self.hidden_size]], 1)).log_softmax(1)

    def _large(self, x: Tensor, state: Tensor) -> Tensor:
        if self.kind == "gru":
            return self.large_cell(x, state)
        return torch.cat(self.large_cell(x, state.chunk(2, 1)), 1)

    def _small(self, x: Tensor, state: Tensor) -> Tensor:
        """The state with its first `small` entries renewed; the others are the same numbers."""
        hidden, *memory = state.split(self.hidden_size, 1)
        wide = torch.cat([x, hidden[:, self.small :]], 1)
        if self.kind == "gru":
            return torch.cat([self.small_cell(wide, hidden[:, : self.small]), hidden[:, self.small :]], 1)
        h, c = self.small_cell(wide, (hidden[:, : self.small], memory[0][:, : self.small]))
        return torch.cat([h, hidden[:, self.small :], c, memory[0][:, self.small :]], 1)
