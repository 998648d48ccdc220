"""Readers that skip: facts of the papers, three executions that agree, estimators against enumeration, odd inputs."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import data, decision, measure
from course_lib.temporal import skimming
from course_lib.temporal.skimming import PADDING, PLANS, READ, SKIMMED, LSTMJump, SkimRNN, SkipRNN, WordReader

CELLS = ("gru", "lstm")
LENGTHS = torch.tensor([30, 0, 1, 17, 29, 5, 30])


def inputs(rows=7, steps=30, width=3, seed=0):
    return torch.randn(rows, steps, width, generator=torch.Generator().manual_seed(seed))


def lively(cell="gru", seed=0, hidden=8):
    """A reader whose gate skips often and not regularly."""
    torch.manual_seed(seed)
    model = SkipRNN(3, hidden, cell=cell).eval()
    nn.init.constant_(model.gate.bias, {"gru": -1.0, "lstm": -2.0}[cell])
    with torch.no_grad():
        model.gate.weight *= 8
        model.initial.normal_(std=0.1)
    return model


def held_at(increment, *, cell="gru", hidden=4):
    """A reader whose gate adds the same at every step, as exactly as a sigmoid can say it."""
    model = SkipRNN(3, hidden, cell=cell)
    nn.init.zeros_(model.gate.weight)
    nn.init.constant_(model.gate.bias, math.log(increment / (1 - increment)))
    return model


def by_the_equations(model, x):
    """One sequence, one step after the other, as the paper writes it: hidden, updates, probabilities."""
    state, due = model.initial[None], torch.ones((), dtype=torch.float64)
    updates, dues = [], []
    for step in x:
        hard = (due >= 0.5).to(due.dtype)
        u = due + (hard - due).detach()
        small = u.to(step.dtype)
        state = small * model.candidate(step[None], state) + (1 - small) * state
        memory = state[0, -model.hidden_size :]
        d = torch.sigmoid(model.gate.weight[0] @ memory + model.gate.bias[0]).double()
        updates.append(u)
        dues.append(due.item())
        due = u * d + (1 - u) * (due + torch.minimum(d, 1 - due))
    return state[0, : model.hidden_size], torch.stack(updates), dues


# Facts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "inputs", "steps", "published"),
    [("lstm", 2, 50, 2_464_000), ("gru", 2, 50, 1_848_000), ("lstm", 1, 784, 38_290_560)],
)
def test_multiply_adds_of_the_papers_cells(cell, inputs, steps, published):
    assert skimming.recurrent_macs(cell, inputs, 110, steps) == published
    whole = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[cell](inputs, 110)
    assert measure.count_macs(whole, torch.zeros(1, inputs)) * steps == published


@pytest.mark.parametrize("cell", CELLS)
def test_macs_of_a_sequence_are_those_of_its_updates_and_their_gates(cell):
    model = lively(cell)
    reading = model.infer(inputs(), LENGTHS)
    per_update = skimming.recurrent_macs(cell, 3, 8) + 8
    assert torch.equal(reading.macs, (reading.marks == READ).sum(1).double() * per_update)

    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.infer(x).hidden

    one = inputs()[:1]
    assert measure.count_macs(Alone(), one) == int(model.infer(one).macs)


@given(st.floats(2**-13, 1 - 2**-20, width=32))
def test_pause_equals_the_recurrence(increment):
    due, pause = increment, 0
    while due < 0.5:
        due += min(increment, 1 - due)
        pause += 1
    assert skimming.skipped_steps(torch.tensor([increment])).item() == pause


def test_pauses_known_by_heart():
    found = skimming.skipped_steps(torch.tensor([0.2, 0.25, 1 / 3, 0.5, 0.51, 1.0, 1 / 256]))
    assert found.tolist() == [2, 1, 1, 0, 0, 0, 127]
    assert skimming.skipped_steps(torch.zeros(2, 0)).shape == (2, 0)
    assert skimming.skipped_steps(torch.tensor(1e-38)).item() > 10**15


@pytest.mark.parametrize("increment", [0.8, 0.5, 0.4, 0.25, 0.2, 0.11, 0.05, 0.03])
def test_fixed_increment_makes_a_regular_pattern(increment):
    model = held_at(increment)
    actual = model.increment(torch.zeros(1, 4))
    period = int(skimming.skipped_steps(actual)) + 1
    trace = model(inputs(2, 60))
    expected = [float(t % period == 0) for t in range(60)]
    assert trace.updates.tolist() == [expected, expected]
    for plan in PLANS[1:]:
        assert (model.infer(inputs(2, 60), plan=plan).marks == READ).tolist() == [[bool(u) for u in expected]] * 2


def test_one_half_is_an_update():
    """Rounding half to even would make it a copy."""
    model = held_at(0.5)
    assert model.increment(torch.zeros(1, 4)).item() == 0.5
    assert model(inputs(1, 9)).updates.tolist() == [[1.0] * 9]


@pytest.mark.parametrize("cell", CELLS)
def test_gate_starts_open_and_then_it_is_the_plain_cell(cell):
    model = SkipRNN(3, 8, cell=cell)
    assert model.gate.bias.item() == 1
    nn.init.constant_(model.gate.bias, 50.0)
    plain = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](3, 8, batch_first=True)
    plain.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    x = inputs()
    trace = model(x)
    assert (trace.updates == 1).all()
    assert torch.allclose(trace.hidden, plain(x)[0][:, -1], atol=1e-6)
    if cell == "lstm":
        assert ((model.cell.bias_ih + model.cell.bias_hh)[8:16] == 1).all()


def test_lstm_gate_reads_the_cell_state():
    model = SkipRNN(3, 8, cell="lstm")
    state = torch.randn(2, 16)
    other = torch.cat([torch.randn(2, 8), state[:, 8:]], 1)
    assert torch.equal(model.increment(state), model.increment(other))


# Three executions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_loop_and_batch_agree_in_value_and_gradient(cell):
    model, x = lively(cell), inputs(rows=4)
    trace = model(x, torch.tensor([30, 12, 30, 1]))
    grads = []
    for hidden, updates, rows in [
        (trace.hidden, trace.updates.sum(1), range(4)),
        *[(*by_the_equations(model, x[i, :n])[:2], [i]) for i, n in enumerate((30, 12, 30, 1))],
    ]:
        if len(rows) == 1:
            assert torch.allclose(hidden, trace.hidden[rows[0]], atol=1e-6)
            assert torch.equal(updates.float().detach(), trace.updates[rows[0], : len(updates)].detach())
        loss = hidden.square().sum() + 0.1 * updates.sum()
        grads.append(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))
    for batch, *alone in zip(*grads, strict=True):
        assert torch.allclose(batch, sum(alone), atol=1e-4, rtol=1e-4)
    assert 0.1 < trace.updates.mean() < 0.9


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("plan", PLANS[1:])
def test_inference_agrees_and_computes_what_it_says(cell, plan):
    model, x = lively(cell), inputs()
    trace = model(x, LENGTHS)
    seen = []
    model.cell.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    reading = model.infer(x, LENGTHS, plan=plan)
    assert torch.equal(reading.marks == READ, trace.updates > 0)
    assert torch.allclose(reading.hidden, trace.hidden, atol=1e-6)
    assert (sum(seen), len(seen)) == (reading.rows, reading.launches)
    bill = skimming.plan_cost(trace.updates > 0, plan)
    assert (bill.rows, bill.launches) == (reading.rows, reading.launches)
    assert 0 < reading.share() < 0.9


@pytest.mark.parametrize("cell", CELLS)
def test_alone_it_jumps_from_update_to_update(cell):
    model, x = lively(cell), inputs()
    together = model.infer(x, LENGTHS)
    calls = []
    model.cell.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    alone = [model.infer(x[i : i + 1], LENGTHS[i : i + 1]) for i in range(len(x))]
    assert torch.equal(torch.cat([reading.marks for reading in alone]), together.marks)
    assert torch.allclose(torch.cat([reading.hidden for reading in alone]), together.hidden, atol=1e-6)
    assert calls == [1] * int((together.marks == READ).sum())


def test_skipped_inputs_are_never_looked_at():
    model, x = lively(), inputs()
    marks = model.infer(x, LENGTHS).marks
    blank = x.masked_fill((marks != READ)[..., None], math.nan)
    assert torch.equal(model.infer(blank, LENGTHS).hidden, model.infer(x, LENGTHS).hidden)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("plan", PLANS[1:])
def test_a_state_that_is_no_number_never_updates_again(cell, plan):
    assert skimming.skipped_steps(torch.tensor([math.nan, 0.0])).tolist() == [2**53 - 1] * 2
    model, broken = held_at(0.9, cell=cell), inputs(2, 4)
    broken[1, 1] = math.nan
    assert (model.infer(broken, plan=plan).marks == READ).tolist() == [[True] * 4, [True, True, False, False]]
    assert (model.infer(broken[1:], plan=plan).marks == READ).tolist() == [[True, True, False, False]]


def test_change_is_the_length_of_the_step():
    model, x = lively(), inputs(3, 12)
    trace = model(x)
    before = model.initial.expand(3, -1)
    for t in range(12):
        after = model(x[:, : t + 1]).hidden
        assert torch.allclose(trace.change[:, t], (after - before).norm(dim=1), atol=1e-6)
        before = after
    assert not trace.change.requires_grad


def test_gradient_of_a_skipped_input_is_zero():
    model, x = lively(), inputs().requires_grad_()
    trace = model(x, LENGTHS)
    (gradient,) = torch.autograd.grad(trace.hidden.square().sum() + trace.updates.sum(), x)
    reached = gradient.abs().sum(2) > 0
    read = trace.updates > 0
    assert not reached[~read].any()
    last = [int(row.nonzero().max()) for row in read if row.any()]
    assert all(reached[i, t] for i, t in zip([0, *range(2, 7)], last, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(CELLS))
def test_accumulated_probability_stays_in_the_unit_interval(seed, cell):
    trace = lively(cell, seed)(inputs(seed=seed))
    assert ((trace.probability >= 0) & (trace.probability <= 1)).all()
    assert torch.equal(trace.updates > 0, trace.probability >= 0.5)
    assert (trace.change[trace.updates == 0] == 0).all()


def test_every_parameter_learns():
    model = lively()
    trace = model(inputs())
    grads = torch.autograd.grad(trace.hidden.sum() + trace.updates.sum(), list(model.parameters()))
    assert all(gradient.any() for gradient in grads)


def test_padding_changes_nothing():
    model, x = lively(), inputs().requires_grad_()
    spoiled = torch.where(torch.arange(30)[:, None] < LENGTHS[:, None, None], x, torch.nan)
    trace = model(spoiled, LENGTHS)
    assert torch.equal(trace.hidden, model(x, LENGTHS).hidden)
    (gradient,) = torch.autograd.grad(trace.hidden.sum() + trace.updates.sum(), x)
    assert gradient.isfinite().all()
    alone = model(x[3:4, :17])
    assert torch.allclose(trace.hidden[3], alone.hidden[0], atol=1e-6)
    assert trace.updates[3].sum() == alone.updates.sum()


# Plans and batches ---------------------------------------------------------------------------------------------------


def test_plans_of_the_small_example():
    updates = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    bills = {plan: skimming.plan_cost(updates, plan) for plan in PLANS}
    assert {plan: (bill.rows, bill.launches) for plan, bill in bills.items()} == {
        "one_by_one": (6, 6), "masked": (12, 4), "compacted": (6, 4), "own_pace": (6, 2),
    }  # fmt: skip


@given(st.integers(0, 6), st.integers(0, 9), st.integers(0, 10**6))
def test_plans_are_ordered(rows, steps, seed):
    updates = torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed)) < 0.4
    one, masked, compacted, own = (skimming.plan_cost(updates, plan) for plan in PLANS)
    assert one.rows == compacted.rows == own.rows <= masked.rows <= rows * steps
    assert own.launches <= compacted.launches == masked.launches <= one.launches


@given(st.lists(st.integers(0, 40), max_size=50), st.integers(1, 9), st.booleans())
def test_buckets_hold_everybody_once_and_pad_little(lengths, size, shuffled):
    lengths = torch.tensor(lengths, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0) if shuffled else None
    batches = skimming.length_buckets(lengths, size, generator=generator)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    as_they_come = list(torch.arange(len(lengths)).split(size))
    if len(lengths) % size == 0:  # else the short batch may be another one
        assert skimming.padded_share(lengths, batches) <= skimming.padded_share(lengths, as_they_come) + 1e-9


# Skim-RNN ------------------------------------------------------------------------------------------------------------


def forced(reads, *, cell="lstm", small=3):
    torch.manual_seed(0)
    model = SkimRNN(3, 8, small=small, cell=cell).eval()
    nn.init.zeros_(model.choice.weight)
    with torch.no_grad():
        model.choice.bias.copy_(torch.tensor([1e9, -1e9] if reads else [-1e9, 1e9]))
    return model


@pytest.mark.parametrize("cell", CELLS)
def test_forced_skimming_writes_the_first_entries_only(cell):
    model = forced(False, cell=cell)
    state = torch.randn(4, 8 if cell == "gru" else 16)
    after = model._small(torch.randn(4, 3), state)
    parts = [slice(0, 8)] if cell == "gru" else [slice(0, 8), slice(8, 16)]
    for part in parts:
        assert torch.equal(after[:, part][:, 3:], state[:, part][:, 3:])
        assert not torch.equal(after[:, part][:, :3], state[:, part][:, :3])
    trace, reading = model(inputs(), LENGTHS), model.infer(inputs(), LENGTHS)
    assert (trace.hidden[:, 3:] == 0).all()
    assert (reading.hidden[:, 3:] == 0).all()
    assert torch.allclose(trace.hidden, reading.hidden, atol=1e-6)
    assert reading.share(SKIMMED) == 1
    assert reading.share() == 0


@pytest.mark.parametrize("cell", CELLS)
def test_the_small_cell_reads_the_whole_state(cell):
    model = forced(False, cell=cell)
    state = torch.randn(1, 8 if cell == "gru" else 16)
    far = state.clone()
    far[0, 7] += 1
    x = torch.randn(1, 3)
    assert not torch.equal(model._small(x, state)[:, :3], model._small(x, far)[:, :3])


@pytest.mark.parametrize("cell", CELLS)
def test_forced_reading_is_the_plain_cell(cell):
    model = forced(True, cell=cell)
    plain = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](3, 8, batch_first=True)
    plain.load_state_dict({f"{name}_l0": value for name, value in model.large_cell.state_dict().items()})
    x = inputs()
    assert torch.allclose(model(x).hidden, plain(x)[0][:, -1], atol=1e-6)
    assert torch.allclose(model.infer(x).hidden, plain(x)[0][:, -1], atol=1e-6)


def test_skimming_computes_each_word_once():
    torch.manual_seed(1)
    model, x, seen = SkimRNN(3, 8, small=2).eval(), inputs(), []
    nn.init.zeros_(model.choice.bias)
    for cell in (model.large_cell, model.small_cell):
        cell.register_forward_hook(lambda module, args, output: seen.append((module.hidden_size, len(args[0]))))
    reading = model.infer(x, LENGTHS)
    rows = {width: sum(n for w, n in seen if w == width) for width in (8, 2)}
    assert rows == {8: int((reading.marks == READ).sum()), 2: int((reading.marks == SKIMMED).sum())}
    assert min(rows.values()) > 0
    assert reading.rows == sum(rows.values()) == int(LENGTHS.sum())
    assert reading.launches == len(seen)
    assert model.macs_read == 2 * 11 + 4 * 8 * 11
    assert model.macs_skim == 2 * 11 + 4 * 2 * 11
    # one row after the other gives the same
    alone = [model.infer(x[i : i + 1, :n]).hidden for i, n in enumerate(LENGTHS.tolist())]
    assert torch.allclose(torch.cat(alone), reading.hidden, atol=1e-6)


def test_skim_loss_is_the_mean_over_words():
    torch.manual_seed(0)
    model = SkimRNN(3, 8, small=2)
    trace = model(inputs(), LENGTHS, generator=torch.Generator().manual_seed(0))
    expected = sum(-trace.skim_log_prob[i, :n].mean() for i, n in enumerate(LENGTHS.tolist()) if n) / 7
    assert torch.allclose(trace.skim_loss, expected)
    assert (trace.read[torch.arange(30) >= LENGTHS[:, None]] == 0).all()
    grads = torch.autograd.grad(trace.hidden.sum() + trace.skim_loss, list(model.parameters()))
    assert all(gradient.any() for gradient in grads)


def test_temperature_falls_to_its_floor():
    assert skimming.skim_temperature(0) == 1
    assert skimming.skim_temperature(10**6) == 0.5
    assert skimming.skim_temperature(1000) == pytest.approx(math.exp(-0.1))


# LSTM-Jump -----------------------------------------------------------------------------------------------------------


def jumper(*, seed=0, **options):
    torch.manual_seed(seed)
    model = LSTMJump(3, 6, **options)
    nn.init.normal_(model.jump.weight)
    return model


def always(kappa, **options):
    model = jumper(**options)
    nn.init.zeros_(model.jump.weight)
    with torch.no_grad():
        model.jump.bias.copy_(1e6 * (torch.arange(model.max_jump + 1) == kappa))
    return model


def places(model, steps, **how):
    return model(inputs(1, steps), **how).marks[0].eq(READ).nonzero().flatten().tolist()


def test_a_jump_of_one_is_the_next_word_and_zero_stops():
    assert places(always(1, max_jumps=4), 30) == [0, 1, 2, 3, 4]
    assert places(always(3, max_jumps=4), 30) == [0, 3, 6, 9, 12]
    assert places(always(3, max_jumps=4, read=2), 12) == [0, 1, 4, 5, 8, 9]
    assert places(always(0, read=2), 30) == [0, 1]
    assert places(always(3, max_jumps=0), 30) == [0]
    assert places(always(1, max_jumps=100), 5) == [0, 1, 2, 3, 4]


def test_reading_all_is_the_plain_lstm():
    model = always(1, max_jumps=1000)
    plain = nn.LSTM(3, 6, batch_first=True)
    plain.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    assert torch.allclose(model(inputs()).hidden, plain(inputs())[0][:, -1], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 5), st.integers(1, 3))
def test_reader_goes_forward_within_its_bounds(seed, max_jump, max_jumps, read):
    model = jumper(seed=seed, max_jump=max_jump, max_jumps=max_jumps, read=read)
    trace = model(inputs(), LENGTHS, generator=torch.Generator().manual_seed(seed))
    words = (trace.marks == READ).sum(1)
    assert (words <= read * (max_jumps + 1)).all()
    assert torch.equal(words > 0, LENGTHS > 0)
    assert trace.rows == words.sum()
    assert (trace.log_prob[trace.jumps < 0] == 0).all()
    assert trace.jumps.shape[1] <= max_jumps
    assert (trace.jumps <= max_jump).all()


def test_jumps_alone_and_together():
    model, seen = jumper(max_jump=5, max_jumps=4, read=2), []
    model.cell.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    together = model.infer(inputs(), LENGTHS)
    assert (sum(seen), len(seen)) == (together.rows, together.launches)
    alone = [model.infer(inputs()[i : i + 1], LENGTHS[i : i + 1]) for i in range(7)]
    assert torch.equal(torch.cat([reading.marks for reading in alone]), together.marks)
    assert torch.allclose(torch.cat([reading.hidden for reading in alone]), together.hidden, atol=1e-6)
    assert together.rows == int((together.marks == READ).sum())


def paths(model, x):
    """Every course of decisions a reader may take: what to say at each decision."""
    open_ = [()]
    while open_:
        script = open_.pop()
        trace = follow(model, x, script)
        decided = trace.jumps.shape[1]
        if decided <= len(script):
            yield script, trace
        else:
            open_ += [(*script, kappa) for kappa in range(model.max_jump + 1)]


def follow(model, x, script):
    """Run the reader with decisions written down beforehand; 0, stop, after their end."""
    said = itertools.chain(script, itertools.repeat(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            decision, "gumbel_noise", lambda like, generator=None: 1e6 * (torch.arange(like.shape[1]) == next(said))
        )
        return model(x)


def test_gradient_of_jumps_by_enumeration():
    """Summed over all courses with their probabilities, the loss has the gradient of minus the expected reward."""
    model = jumper(max_jump=2, max_jumps=3).double()
    x = inputs(1, 6).double()
    parameters = [model.jump.weight, model.jump.bias, *model.cell.parameters()]
    expected, estimated, total = 0.0, [torch.zeros_like(p) for p in parameters], 0.0
    for number, (script, trace) in enumerate(paths(model, x)):
        assert trace.jumps[0].tolist() == list(script)
        reward = torch.tensor([math.sin(number)], dtype=torch.float64)
        chance = trace.log_prob.sum().exp()
        total += chance.item()
        expected = expected + chance * reward[0]
        grads = torch.autograd.grad(skimming.jump_loss(trace, reward), parameters, retain_graph=True)
        estimated = [sofar + chance.detach() * g for sofar, g in zip(estimated, grads, strict=True)]
    exact = torch.autograd.grad(-expected, parameters)
    assert number > 8
    assert total == pytest.approx(1)
    for got, want in zip(estimated, exact, strict=True):
        assert torch.allclose(got, want, atol=1e-10)


def test_a_reward_as_expected_teaches_nothing():
    model = jumper(max_jump=3, max_jumps=4)
    nn.init.zeros_(model.expected.weight)
    nn.init.constant_(model.expected.bias, 0.7)
    trace = model(inputs(), LENGTHS, generator=torch.Generator().manual_seed(0))
    loss = skimming.jump_loss(trace, torch.full((7,), 0.7))
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-6 for g in grads)


def test_policy_and_baseline_do_not_mix():
    model = jumper(max_jump=3, max_jumps=4)
    trace = model(inputs(), LENGTHS, generator=torch.Generator().manual_seed(0))
    policy = skimming.jump_loss(trace, torch.arange(7.0))
    base = torch.autograd.grad(policy, [model.expected.weight], retain_graph=True)[0]
    decided = trace.jumps >= 0
    error = ((torch.arange(7.0)[:, None] - trace.baseline) * decided).square().sum(1).mean()
    assert torch.allclose(base, torch.autograd.grad(error, [model.expected.weight], retain_graph=True)[0])
    reached = torch.autograd.grad(error, list(model.cell.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in reached)


def test_jump_loss_of_texts_without_decisions():
    model = jumper(max_jumps=0)
    assert skimming.jump_loss(model(inputs()), torch.zeros(7)).item() == 0
    with pytest.raises(ValueError, match=r"reward: got shape \(3,\), expected \(7,\)"):
        skimming.jump_loss(model(inputs()), torch.zeros(3))


# Odd inputs ----------------------------------------------------------------------------------------------------------

READERS = {
    "Skip RNN, GRU": lambda: lively(),
    "Skip RNN, LSTM": lambda: lively("lstm"),
    "LSTM-Jump": lambda: jumper(),
    "Skim-RNN": lambda: SkimRNN(3, 8, small=2),
}


@pytest.mark.parametrize("name", READERS)
def test_empty_batch_empty_text_and_no_steps(name):
    model = READERS[name]()
    for shape in ((0, 5, 3), (0, 0, 3), (4, 0, 3)):
        assert model(torch.zeros(shape)).hidden.shape == (shape[0], model.hidden_size)
        reading = model.infer(torch.zeros(shape))
        assert reading.hidden.shape == (shape[0], model.hidden_size)
        assert reading.marks.shape == shape[:2]
        assert reading.macs.shape == shape[:1]
        assert reading.rows == 0
    reading = model.infer(inputs(), LENGTHS)
    start = getattr(model, "initial", torch.zeros(16))[: model.hidden_size]
    assert torch.equal(reading.hidden[1], start)
    assert reading.macs[1] == 0
    assert (reading.marks[1] == PADDING).all()
    assert torch.equal((reading.marks != PADDING).sum(1), LENGTHS)


@pytest.mark.parametrize("name", READERS)
def test_clear_errors(name):
    model = READERS[name]()
    for call in (model, model.infer):
        with pytest.raises(ValueError, match=r"inputs: got shape \(7, 30, 4\), expected \(N, T, 3\)"):
            call(inputs(width=4))
        with pytest.raises(ValueError, match=r"lengths: got 0 to 30, expected 0 to 29"):
            call(inputs(steps=29), LENGTHS)
        with pytest.raises(ValueError, match=r"lengths: got \(7,\) torch.float32, expected \(7,\) torch.int64"):
            call(inputs(), LENGTHS.float())


def test_clear_errors_of_constructors_and_plans():
    with pytest.raises(ValueError, match="cell: got 'rnn', expected one of 'gru', 'lstm'"):
        SkipRNN(3, 8, cell="rnn")
    with pytest.raises(ValueError, match="hidden_size: got 0, expected at least 1"):
        SkipRNN(3, 0)
    with pytest.raises(ValueError, match="small: got 8, expected less than hidden_size, 8"):
        SkimRNN(3, 8, small=8)
    with pytest.raises(ValueError, match="max_jumps: got -1, expected at least 0"):
        LSTMJump(3, 8, max_jumps=-1)
    with pytest.raises(ValueError, match="plan: got 'fast', expected one of 'masked', 'compacted', 'own_pace'"):
        lively().infer(inputs(), plan="fast")
    with pytest.raises(ValueError, match="plan: got 'fast'"):
        skimming.plan_cost(torch.zeros(1, 1).bool(), "fast")


# Training ------------------------------------------------------------------------------------------------------------


def test_training_on_the_adding_task_is_repeatable_and_leaves_no_trace():
    state = torch.get_rng_state()
    runs = [skimming.train_skip_rnn(length=5, hidden_size=4, iterations=12, batch_size=8, seed=3) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert runs[0].errors == runs[1].errors
    assert len(runs[0].used) == 12
    assert runs[0].used[0] == 1  # the gate starts open
    score = skimming.score_adding(runs[0].model, data.adding(50, length=5, seed=9))
    assert 0 < score.used <= 1
    assert score.error > 0
    with pytest.raises(ValueError, match="price: got -1, expected 0 or more"):
        skimming.train_skip_rnn(price=-1)


def test_a_price_closes_the_gate():
    settings_ = {"length": 8, "hidden_size": 8, "iterations": 150, "batch_size": 16, "lr": 1e-2}
    free, dear = (skimming.train_skip_rnn(price=price, **settings_) for price in (0.0, 0.1))
    assert free.used[-1] > 0.9
    assert dear.used[-1] < 0.5


CORES = {
    "skip": lambda: SkipRNN(8, 12),
    "jump": lambda: LSTMJump(8, 12, max_jumps=20),
    "skim": lambda: SkimRNN(8, 12, small=2),
}


@pytest.mark.parametrize("name", CORES)
def test_readers_of_words_train_and_score(name):
    torch.manual_seed(0)
    drawn = data.keyword_sentences(64, clauses=2, seed=0)
    model = WordReader(len(drawn.vocabulary), CORES[name]())
    told = skimming.train_reader(
        model, drawn.tokens, drawn.lengths, drawn.labels, price=0.0, epochs=3, batch_size=32, lr=5e-3
    )
    assert len(told) == 3
    assert all(math.isfinite(loss) for loss in told)
    assert not model.training
    score = skimming.score_reader(model, drawn.tokens, drawn.lengths, drawn.labels)
    assert 0 <= score.accuracy <= 1
    assert score.read + score.skimmed <= 1
    assert score.macs > 0
    logits, reading = model.read(drawn.tokens, drawn.lengths)
    assert score.accuracy == pytest.approx((logits.argmax(1) == drawn.labels).float().mean().item())
    assert score.read == pytest.approx(reading.share(), abs=1e-6)
    if name == "skim":  # nothing asks for skimming: nearly everything is read
        assert score.read > 0.8


def test_spread_of_the_three_estimators():
    drawn = data.keyword_sentences(16, clauses=2, seed=0)
    share = {}
    for name, make in CORES.items():
        torch.manual_seed(0)
        model, generator = WordReader(len(drawn.vocabulary), make()), torch.Generator().manual_seed(0)
        ask = (model, drawn.tokens, drawn.lengths, drawn.labels)
        found = torch.stack([skimming.decision_gradient(*ask, generator=generator) for _ in range(6)])
        spread = (found - found.mean(0)).square().sum(1).mean().sqrt()
        share[name] = float(spread / found.mean(0).norm())
    assert share["skip"] < 1e-4 < share["skim"] < share["jump"]


@pytest.mark.parametrize("name", CORES)
def test_texts_without_words_decide_nothing(name):
    model = WordReader(5, CORES[name]())
    none = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1])
    assert not skimming.decision_gradient(model, *none).any()
    assert all(math.isfinite(loss) for loss in skimming.train_reader(model, *none, price=0.1, epochs=2))
    score = skimming.score_reader(model, *none)
    assert (score.read, score.skimmed, score.macs) == (0, 0, 0)


def test_unknown_words_and_empty_texts_are_read():
    vocabulary = data.Vocabulary.of([["good", "bad"]])
    tokens, lengths = vocabulary.encode([["never", "seen"], [], ["good"]])
    model = WordReader(len(vocabulary), lively_words())
    logits, reading = model.read(tokens, lengths)
    assert logits.isfinite().all()
    assert (reading.marks != PADDING).sum(1).tolist() == [2, 0, 1]
    swapped, _ = model.read(vocabulary.encode([["other", "words"], [], ["good"]])[0], lengths)
    assert torch.equal(logits, swapped)


def lively_words():
    torch.manual_seed(0)
    return SkipRNN(8, 12)


# Recorded readers ----------------------------------------------------------------------------------------------------


def test_recorded_readers_read_as_the_chapter_says():
    pytest.importorskip("safetensors")
    readers = skimming.recorded_readers()
    assert list(readers) == list(skimming.RECIPES)
    drawn = data.keyword_sentences(300, seed=3)
    scores = {
        name: skimming.score_reader(model, drawn.tokens, drawn.lengths, drawn.labels) for name, model in readers.items()
    }
    skips = [scores[f"Skip RNN {price:g}"] for price in skimming.SKIP_PRICES]
    assert [round(s.read, 3) for s in skips] == sorted((round(s.read, 3) for s in skips), reverse=True)
    assert all(scores[name].accuracy > 0.97 for name in scores if name != "Skip RNN 0.01")
    assert skips[3].accuracy < 0.9  # too dear
    assert scores["LSTM-Jump"].read < 0.4
    assert scores["Skim-RNN"].read < 0.2
    assert scores["Skim-RNN"].read + scores["Skim-RNN"].skimmed == pytest.approx(1)


def test_recorded_readers_survive_a_round_trip(tmp_path):
    pytest.importorskip("safetensors")
    from course_lib.temporal.skimming import recorded

    readers = {name: recorded.new_reader(name, 9) for name in skimming.RECIPES}
    recorded.save_readers(readers, tmp_path / "deep" / "readers.safetensors")
    with pytest.raises(RuntimeError, match="size mismatch"):
        recorded.recorded_readers(tmp_path / "deep" / "readers.safetensors")  # of another vocabulary
    with pytest.raises(FileNotFoundError, match="python -m course_lib.temporal.skimming makes them"):
        recorded.recorded_readers(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="name: got 'BERT', expected one of Skip RNN 0"):
        recorded.new_reader("BERT", 9)


@pytest.mark.parametrize("name", CORES)
def test_readers_of_a_real_corpus(name):
    root = Path(__file__).parents[3] / "shared" / "data" / "sentence_polarity" / "sentence_polarity.zip"
    if not root.exists():
        pytest.skip(f"no shared data at {root}")
    drawn = data.sentences(root, split="validation", vocabulary=200, length=20)
    some = torch.arange(len(drawn))[:: len(drawn) // 60]
    part = (drawn.tokens[some], drawn.lengths[some], drawn.labels[some])
    torch.manual_seed(0)
    model = WordReader(len(drawn.vocabulary), CORES[name](), classes=len(drawn.classes))
    (told,) = skimming.train_reader(model, *part, price=1e-3, epochs=1)
    assert math.isfinite(told)
    assert skimming.score_reader(model, *part).macs > 0
