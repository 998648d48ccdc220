"""The three readers on a GPU: they read the same words as on the CPU, and learn."""

import pytest
import torch
from torch import nn

from course_lib.temporal.skimming import PLANS, LSTMJump, SkimRNN, SkipRNN

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LENGTHS = torch.tensor([30, 0, 1, 17, 29, 5, 30])
READERS = {
    "Skip RNN, GRU": lambda: SkipRNN(3, 8),
    "Skip RNN, LSTM": lambda: SkipRNN(3, 8, cell="lstm"),
    "LSTM-Jump": lambda: LSTMJump(3, 8, max_jump=4),
    "Skim-RNN": lambda: SkimRNN(3, 8, small=2),
}


def made(name):
    torch.manual_seed(0)
    model = READERS[name]().eval()
    if isinstance(model, SkipRNN):
        nn.init.constant_(model.gate.bias, -1.3)
    elif isinstance(model, LSTMJump):
        nn.init.normal_(model.jump.weight)
        nn.init.zeros_(model.jump.bias)
    else:
        nn.init.zeros_(model.choice.bias)
    return model, torch.randn(7, 30, 3)


@pytest.mark.parametrize("name", READERS)
def test_the_same_words_are_read(name):
    model, x = made(name)
    reading = model.infer(x, LENGTHS)
    there = model.cuda().infer(x.cuda(), LENGTHS.cuda())
    assert torch.equal(there.marks.cpu(), reading.marks)
    assert torch.allclose(there.hidden.cpu(), reading.hidden, atol=1e-4)
    assert (there.rows, there.launches) == (reading.rows, reading.launches)


@pytest.mark.parametrize("name", READERS)
def test_gradients_arrive(name):
    model, x = made(name)
    trace = model.cuda()(x.cuda(), LENGTHS.cuda())
    trace.hidden.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("plan", PLANS[1:])
def test_plans_agree(plan):
    model, x = made("Skip RNN, GRU")
    model, x, lengths = model.cuda(), x.cuda(), LENGTHS.cuda()
    trace, reading = model(x, lengths), model.infer(x, lengths, plan=plan)
    assert torch.equal(reading.marks == 2, trace.updates > 0)
    assert torch.allclose(reading.hidden, trace.hidden, atol=1e-5)
