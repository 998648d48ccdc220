"""LSTM-Jump (arXiv 1704.06877): read a few words, say how far to jump, or stop. Learnt by REINFORCE.

After R words, a softmax over {0, 1, ..., K} from the state: 0 stops, k goes on at the k-th word ahead (1 is the next
word). Reading also stops where the text ends and after N jumps. The reward, R = 1 for a right answer and -1 for a wrong
one, comes once, at the end; the baseline of each decision is linear in the state and trained by squared error.
Ours: the state that the softmax reads lets its gradient through, and the next word is the likeliest choice at first, as
the other two readers begin by reading. A policy that starts out even stops every few words and never learns the task.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib import decision
from course_lib.temporal.skimming.reading import READ, Reading, at_least, checked, no_marks, recurrent_macs

_NEXT_WORD = 4.5  # logit of the next word at first, against 0 for all others


@dataclass(frozen=True)
class JumpTrace:
    """What `LSTMJump.forward` gives; D is the largest number of decisions of a row, at most N + 1."""

    hidden: Tensor  #: (N, hidden) when reading stopped
    marks: Tensor  #: (N, T) int8, as in `Reading`
    jumps: Tensor  #: (N, D) int64: 0 stopped, k went on at the k-th word ahead, -1 nothing was decided
    log_prob: Tensor  #: (N, D) of what was decided; 0 where nothing was
    baseline: Tensor  #: (N, D), the reward each decision expected
    rows: int  #: rows the cell computed
    launches: int  #: calls of the cell


class LSTMJump(nn.Module):
    """An LSTM that decides, every `read` words, where to go on."""

    def __init__(
        self, input_size: int, hidden_size: int, *, max_jump: int = 10, max_jumps: int = 10, read: int = 1
    ) -> None:
        super().__init__()
        at_least(1, input_size=input_size, hidden_size=hidden_size, max_jump=max_jump, read=read)
        at_least(0, max_jumps=max_jumps)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.max_jump, self.max_jumps, self.read = max_jump, max_jumps, read
        self.cell = nn.LSTMCell(input_size, hidden_size)
        self.jump = nn.Linear(hidden_size, max_jump + 1)
        self.expected = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.jump.weight)
        with torch.no_grad():
            self.jump.bias.copy_(_NEXT_WORD * (torch.arange(max_jump + 1) == 1))

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor | None = None,
        *,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> JumpTrace:
        """Read, each row at its own place; what is jumped over is not computed, while training neither.

        Args:
            inputs: (N, T, input_size) float, padded at the end.
            lengths: (N,) int64 in 0..T; default T for all.
            sample: draw the jumps, as training needs; else the most likely one.
            generator: for the draws.

        Raises:
            ValueError: another shape, or a length outside 0..T.
        """
        inputs, lengths = checked(inputs, lengths, self.input_size)
        hidden = memory = inputs.new_zeros(len(inputs), self.hidden_size)
        place = torch.zeros_like(lengths)
        marks = no_marks(inputs, lengths)
        reading = (lengths > 0).nonzero().squeeze(1)
        series: list[tuple[Tensor, ...]] = []
        computed = launches = 0
        while len(reading):
            for _ in range(self.read):
                rows = reading[place[reading] < lengths[reading]]
                if not len(rows):
                    break
                launches += 1
                computed += len(rows)
                marks[rows, place[rows]] = READ
                h, c = self.cell(inputs[rows, place[rows]], (hidden[rows], memory[rows]))
                hidden, memory = hidden.index_copy(0, rows, h), memory.index_copy(0, rows, c)
                place[rows] += 1
            reading = reading[place[reading] < lengths[reading]]
            if len(reading) == 0 or len(series) == self.max_jumps:
                break
            step = self._decide(hidden, reading, sample, generator)
            series.append(step)
            jump = step[0]
            place[reading] += jump[reading] - 1
            reading = reading[(jump[reading] > 0) & (place[reading] < lengths[reading])]
        jumps, log_prob, baseline = (
            (torch.stack(one, 1) for one in zip(*series, strict=True))
            if series
            else (lengths.new_zeros(len(inputs), 0), *[inputs.new_zeros(len(inputs), 0)] * 2)
        )
        return JumpTrace(hidden, marks, jumps, log_prob, baseline, computed, launches)

    def _decide(
        self, hidden: Tensor, rows: Tensor, sample: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Jump, its log-probability and its baseline, each (N,), decided for the rows that still read."""
        log_prob = self.jump(hidden[rows]).log_softmax(1)
        score = log_prob.detach()
        if sample:  # the largest of log-probabilities plus Gumbel noise is a sample
            score = score + decision.gumbel_noise(score, generator=generator)
        choice = score.argmax(1)
        chosen = log_prob.gather(1, choice[:, None]).squeeze(1)
        expected = self.expected(hidden[rows].detach()).squeeze(1)  # the baseline must not train the reader
        nothing = hidden.new_zeros(len(hidden))
        jump = torch.full((len(hidden),), -1, device=rows.device).index_copy(0, rows, choice)
        return jump, nothing.index_copy(0, rows, chosen), nothing.index_copy(0, rows, expected)

    @torch.inference_mode()
    def infer(self, inputs: Tensor, lengths: Tensor | None = None) -> Reading:
        """The most likely jumps; arguments as in `forward`."""
        trace = self(inputs, lengths, sample=False)
        per_word = recurrent_macs("lstm", self.input_size, self.hidden_size)
        decisions = (trace.jumps >= 0).sum(1)
        macs = (trace.marks == READ).sum(1).double() * per_word + decisions * self.jump.weight.numel()
        return Reading(trace.hidden, trace.marks, macs, trace.rows, trace.launches)


def jump_loss(trace: JumpTrace, reward: Tensor) -> Tensor:
    """What is added to the cross-entropy: REINFORCE over all jumps of a text, and the error of the baseline.

    Per text, averaged over the batch: minus the sum over its jumps of (reward - baseline) log p, plus the sum of
    (reward - baseline)^2. The first trains the policy and not the baseline, the second the baseline and nothing else.

    Args:
        reward: (N,), one for the whole text, larger is better.

    Raises:
        ValueError: another shape.
    """
    number, decisions = trace.log_prob.shape
    if reward.shape != (number,):
        raise ValueError(f"reward: got shape {tuple(reward.shape)}, expected ({number},)")
    if not decisions or not number:
        return trace.log_prob.sum()
    shared = reward.detach()[:, None].expand(-1, decisions)
    policy = decisions * decision.reinforce_loss(trace.log_prob, shared, trace.baseline)
    error = ((shared - trace.baseline) * (trace.jumps >= 0)).square().sum(1).mean()
    return policy + error
