"""Confidence scores, the exit rule, and the simulation of adaptive inference."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import decision

KINDS = ["max_softmax", "entropy", "margin"]


@pytest.mark.parametrize("kind", KINDS)
def test_larger_is_surer(kind):
    logits = torch.tensor([[9.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    scores = decision.confidence(logits, kind)
    assert scores.shape == (4,)
    assert (scores.diff() < 0).all()


def test_worked_values():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    assert decision.confidence(logits).item() == pytest.approx(0.7)
    assert decision.confidence(logits, "margin").item() == pytest.approx(0.5)
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert decision.confidence(logits, "entropy").item() == pytest.approx(-entropy)


def test_certain_answers_have_no_entropy_and_no_nan():
    certain = torch.tensor([[0.0, -math.inf], [1e4, -1e4]])
    assert decision.confidence(certain, "entropy").tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_and_no_rows(kind):
    assert decision.confidence(torch.zeros(3, 1), kind).tolist() == [0.0 if kind == "entropy" else 1.0] * 3
    assert decision.confidence(torch.zeros(0, 5), kind).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
@given(shift=st.floats(-50, 50))
def test_adding_a_constant_to_all_logits_changes_nothing(kind, shift):
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(decision.confidence(logits + shift, kind), decision.confidence(logits, kind))


def test_wrong_logits():
    with pytest.raises(ValueError, match=r"logits: got shape \(3,\), expected \(N, classes\)"):
        decision.confidence(torch.zeros(3))
    with pytest.raises(ValueError, match="kind: got 'max', expected one of max_softmax, entropy, margin"):
        decision.confidence(torch.zeros(1, 2), "max")
    bad = torch.zeros(4, 2)
    bad[2, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN in 1 of 4 rows \(first: row 2\)"):
        decision.confidence(bad)


def test_first_sure_exit_and_ties():
    scores = torch.tensor([[0.9, 0.1, 0.1], [0.5, 0.6, 0.1], [0.1, 0.5, 0.1], [0.1, 0.1, 0.0]])
    assert decision.choose_exit(scores, [0.9, 0.5, 99.0]).tolist() == [0, 1, 1, 2]
    assert decision.choose_exit(scores[:0], [0.9, 0.5, 0.0]).shape == (0,)


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 10**6))
def test_choose_exit_equals_the_loop(exits, number, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 5, (number, exits), generator=generator) / 4  # coarse, so that ties occur
    bar = torch.randint(0, 6, (exits,), generator=generator) / 4
    wanted = [next((k for k in range(exits) if k == exits - 1 or row[k] >= bar[k]), None) for row in scores]
    assert decision.choose_exit(scores, bar).tolist() == wanted


def test_simulate_picks_the_logits_of_the_exit_taken():
    early = torch.tensor([[5.0, 0.0], [0.1, 0.0]])
    late = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    logits, exits = decision.simulate([early, late], [0.9, 0.0])
    assert exits.tolist() == [0, 1]
    assert torch.equal(logits, torch.stack([early[0], late[1]]))


def test_wrong_thresholds():
    with pytest.raises(ValueError, match=r"thresholds: got shape \(2,\), expected one value for each of 3 exits"):
        decision.choose_exit(torch.zeros(1, 3), [0.0, 0.0])
    with pytest.raises(ValueError, match="not NaN"):
        decision.choose_exit(torch.zeros(1, 1), [math.nan])
    with pytest.raises(ValueError, match=r"confidence: got shape \(3,\)"):
        decision.choose_exit(torch.zeros(3), [0.0] * 3)
    with pytest.raises(ValueError, match="confidence: got NaN"):
        decision.choose_exit(torch.full((1, 2), math.nan), [0.0, 0.0])
