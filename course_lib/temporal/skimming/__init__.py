"""Reading less: Skip RNN at the centre, and two relatives, each with its own estimator.

- `SkipRNN` (arXiv 1708.06834, ICLR 2018): a gate *copies* the state or updates it; straight-through.
- `LSTMJump` (arXiv 1704.06877, ACL 2017): says how many words to leave out, or stops; REINFORCE.
- `SkimRNN` (arXiv 1711.02085, ICLR 2018): looks at every word, with a large cell or a small one; Gumbel-softmax.

Each has `forward`, the path to train, and `infer`, which computes nothing that it does not need and gives a `Reading`:
what became of every word, the multiply-adds of every sequence, and the rows and calls that the machine really made.
`train_skip_rnn` and `train_reader` train them, `length_buckets` and `plan_cost` are about batches of them.
Kept: the three mechanisms, their losses and estimators. Simplified: one layer each, no layer normalisation.
"""

from __future__ import annotations

from course_lib.temporal.skimming.batching import PLANS, PlanCost, length_buckets, padded_share, plan_cost
from course_lib.temporal.skimming.jump import JumpTrace, LSTMJump, jump_loss
from course_lib.temporal.skimming.reading import PADDING, READ, SKIMMED, UNREAD, Reading, recurrent_macs
from course_lib.temporal.skimming.recorded import RECIPES, SKIP_PRICES, new_reader, recorded_readers, train_recorded
from course_lib.temporal.skimming.skim import SkimRNN, SkimTrace, skim_temperature
from course_lib.temporal.skimming.skip_rnn import SkipRNN, SkipTrace, skipped_steps
from course_lib.temporal.skimming.training import (
    Adder,
    AddingScore,
    ReaderScore,
    SkipRun,
    WordReader,
    decision_gradient,
    score_adding,
    score_reader,
    train_reader,
    train_skip_rnn,
)

__all__ = [
    "PADDING", "PLANS", "READ", "RECIPES", "SKIMMED", "SKIP_PRICES", "UNREAD", "Adder", "AddingScore", "JumpTrace",
    "LSTMJump", "PlanCost", "ReaderScore", "Reading", "SkimRNN", "SkimTrace", "SkipRNN", "SkipRun", "SkipTrace",
    "WordReader", "decision_gradient", "jump_loss", "length_buckets", "new_reader", "padded_share", "plan_cost",
    "recorded_readers", "recurrent_macs", "score_adding", "score_reader", "skim_temperature", "skipped_steps",
    "train_reader", "train_recorded", "train_skip_rnn",
]  # fmt: skip
