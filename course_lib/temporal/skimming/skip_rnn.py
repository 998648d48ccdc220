"""Skip RNN (arXiv 1708.06834, section 3): a gate that copies the state or updates it, and knows its pauses in advance.

Base cell S, update gate u_t in {0, 1}, accumulated probability ut_t (one number a sequence):

    u_t      = 1 if ut_t >= 1/2 else 0
    s_t      = u_t S(s_{t-1}, x_t) + (1 - u_t) s_{t-1}
    dut_t    = sigmoid(w_p s_t + b_p)
    ut_{t+1} = u_t dut_t + (1 - u_t) (ut_t + min(dut_t, 1 - ut_t))

Of an LSTM's state [h, c] the gate reads c. ut_0 = 1 forces the first update, b_p = 1 makes every step one at first, and
s_0 is learned. While the state is copied, dut stands still, so the length of a pause is known when it begins:
`skipped_steps`. The accumulator is kept in float64: n times a float32 is exact there, so that adding up step by step
and the formula agree to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib import decision
from course_lib.temporal.skimming.reading import (
    GATES,
    READ,
    Cell,
    Reading,
    at_least,
    checked,
    no_marks,
    one_of,
    recurrent_macs,
)

Plan = Literal["masked", "compacted", "own_pace"]

_CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


def skipped_steps(increment: Tensor) -> Tensor:
    """Steps that are copied after an update: min{n : n * increment >= 1/2} - 1.

    Args:
        increment: any shape, float above 0: what the gate adds at every step, dut.

    Returns:
        int64 in the shape of `increment`; 0 from one half on. At most 2^53 - 1, for increments that vanish and for
        NaN, at which a gate never fires.

    >>> skipped_steps(torch.tensor([0.2, 0.25, 0.5, 0.73])).tolist()
    [2, 1, 0, 0]
    """
    increment = increment.double().nan_to_num(0.0)
    pause = (0.5 / increment).ceil().clamp(1, 2.0**53)
    # The division is rounded, the products below are not: they have the last word.
    pause = pause - ((pause - 1) * increment >= 0.5).double() + (pause * increment < 0.5).double()
    return pause.long() - 1


@dataclass(frozen=True)
class SkipTrace:
    """What `SkipRNN.forward` gives: everything that training and pictures need, padding included."""

    hidden: Tensor  #: (N, hidden) after the last step of each sequence
    updates: Tensor  #: (N, T), 1 where the state was updated and 0 where it was copied, with a straight-through slope
    probability: Tensor  #: (N, T) float64, the accumulated probability ut each step began with
    change: Tensor  #: (N, T), Euclidean length of s_t - s_{t-1}, without a gradient


class SkipRNN(nn.Module):
    """One recurrent layer that may copy its state instead of reading."""

    def __init__(self, input_size: int, hidden_size: int, *, cell: Cell = "gru") -> None:
        super().__init__()
        one_of("cell", cell, GATES)
        at_least(1, input_size=input_size, hidden_size=hidden_size)
        self.kind: Cell = cell
        self.input_size, self.hidden_size = input_size, hidden_size
        self.cell = _CELLS[cell](input_size, hidden_size)
        self.gate = nn.Linear(hidden_size, 1)
        parts = 1 if cell == "gru" else 2
        self.initial = nn.Parameter(torch.zeros(parts * hidden_size))
        nn.init.ones_(self.gate.bias)
        if cell == "lstm":
            forget = slice(hidden_size, 2 * hidden_size)
            nn.init.ones_(self.cell.bias_ih[forget])
            nn.init.zeros_(self.cell.bias_hh[forget])

    @property
    def macs_per_update(self) -> int:
        """Multiply-adds of one update: the cell's, and `hidden_size` for the gate."""
        return recurrent_macs(self.kind, self.input_size, self.hidden_size) + self.hidden_size

    def candidate(self, x: Tensor, state: Tensor) -> Tensor:
        """S(state, x): (N, input), (N, parts * hidden) -> (N, parts * hidden). The state of an LSTM is [h, c]."""
        if self.kind == "gru":
            return self.cell(x, state)
        return torch.cat(self.cell(x, state.chunk(2, 1)), 1)

    def increment(self, state: Tensor) -> Tensor:
        """dut = sigmoid(w_p s + b_p), s the memory of the state (an LSTM's c): (N, parts * hidden) -> (N,) float64."""
        return self.gate(state[:, -self.hidden_size :]).squeeze(1).sigmoid().double()

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> SkipTrace:
        """All rows at every step, copied where the gate says so: the path to train, and nothing is saved.

        Args:
            inputs: (N, T, input_size) float, padded with anything at the end.
            lengths: (N,) int64 in 0..T; default T for all. Padding is neither read nor counted.

        Raises:
            ValueError: another shape, or a length outside 0..T.
        """
        inputs, lengths = checked(inputs, lengths, self.input_size)
        inside = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
        inputs = inputs.masked_fill(~inside[..., None], 0)  # 0 times what stands there would not be 0 for an infinity
        state = self.initial.expand(len(inputs), -1)
        due = torch.ones(len(inputs), dtype=torch.float64, device=inputs.device)
        states, updates, probabilities = [state.detach()], [], []
        for t, x in enumerate(inputs.unbind(1)):
            wide = decision.straight_through(due >= 0.5, due) * inside[:, t]
            update = wide.to(state.dtype)
            # lerp(a, b, u) is u b + (1 - u) a: the two equations above in one operation each, exact for u of 0 and 1.
            state = torch.lerp(state, self.candidate(x, state), update[:, None])
            increment = self.increment(state)
            probabilities.append(due)
            due = torch.lerp(due + torch.minimum(increment, 1 - due), increment, wide)
            updates.append(update)
            states.append(state.detach())
        change = torch.stack(states, 1).diff(dim=1).norm(dim=2)
        return SkipTrace(
            state[:, : self.hidden_size], _stacked(updates, inputs), _stacked(probabilities, inputs), change
        )

    @torch.inference_mode()
    def infer(self, inputs: Tensor, lengths: Tensor | None = None, *, plan: Plan = "own_pace") -> Reading:
        """Read without computing what is copied; the same updates and states as `forward`, up to rounding.

        Args:
            inputs, lengths: as in `forward`.
            plan: what is computed together.
                "masked": in step, all rows whenever one of them updates, those that have ended included.
                "compacted": in step, the rows that update, copied together.
                "own_pace": each row jumps to its own next update at once, so that the cell's k-th call computes the
                k-th update of every row that has one. For one sequence: `skipped_steps` ahead each time.
        """
        inputs, lengths = checked(inputs, lengths, self.input_size)
        one_of("plan", plan, ("masked", "compacted", "own_pace"))
        state = self.initial.repeat(len(inputs), 1)
        marks = no_marks(inputs, lengths)
        if plan != "own_pace":
            rows, launches = self._in_step(inputs, lengths, state, marks, everybody=plan == "masked")
        elif len(inputs) == 1:
            rows, launches = self._alone(inputs, int(lengths), state, marks)
        else:
            rows, launches = self._own_pace(inputs, lengths, state, marks)
        macs = (marks == READ).sum(1).double() * self.macs_per_update
        return Reading(state[:, : self.hidden_size], marks, macs, rows, launches)

    def _in_step(
        self, inputs: Tensor, lengths: Tensor, state: Tensor, marks: Tensor, *, everybody: bool
    ) -> tuple[int, int]:
        """Step by step through the time of the whole batch; writes `state` and `marks`."""
        due = torch.ones(len(inputs), dtype=torch.float64, device=inputs.device)
        increment = torch.zeros_like(due)
        computed = launches = 0
        for t in range(inputs.shape[1]):
            update = (due >= 0.5) & (t < lengths)
            rows = update.nonzero().squeeze(1)
            if len(rows):
                launches += 1
                computed += len(state) if everybody else len(rows)
                if everybody:
                    fresh = self.candidate(inputs[:, t], state)[rows]
                else:
                    fresh = self.candidate(inputs[rows, t], state[rows])
                state[rows] = fresh
                marks[rows, t] = READ
                increment[rows] = self.increment(fresh)
            due = torch.where(update, increment, due + torch.minimum(increment, 1 - due))
        return computed, launches

    def _own_pace(self, inputs: Tensor, lengths: Tensor, state: Tensor, marks: Tensor) -> tuple[int, int]:
        """Every row at its own place in time: no row waits for another."""
        place = torch.zeros_like(lengths)
        rows = (lengths > 0).nonzero().squeeze(1)
        computed = launches = 0
        while len(rows):
            launches += 1
            computed += len(rows)
            at = place[rows]
            fresh = self.candidate(inputs[rows, at], state[rows])
            state[rows] = fresh
            marks[rows, at] = READ
            following = at + 1 + skipped_steps(self.increment(fresh))
            place[rows] = following
            rows = rows[following < lengths[rows]]
        return computed, launches

    def _alone(self, inputs: Tensor, length: int, state: Tensor, marks: Tensor) -> tuple[int, int]:
        """`_own_pace` for one row, with the place in time a plain number, since indexing costs as much as the cell."""
        steps, current, place = inputs[0].unsqueeze(1), state, 0
        read = []
        while place < length:
            current = self.candidate(steps[place], current)
            read.append(place)
            increment = self.increment(current).item()
            place += 1 if increment >= 0.5 else _pause(increment)
        state.copy_(current)
        marks[0, read] = READ
        return len(read), len(read)


def _pause(increment: float) -> int:
    """min{n : n * increment >= 1/2}, as `skipped_steps` finds it, for one number."""
    if not increment > 2.0**-53:  # NaN, too
        return 2**53
    pause = math.ceil(0.5 / increment)
    return pause - ((pause - 1) * increment >= 0.5) + (pause * increment < 0.5)


def _stacked(series: list[Tensor], inputs: Tensor) -> Tensor:
    return torch.stack(series, 1) if series else inputs.new_zeros(inputs.shape[:2])
