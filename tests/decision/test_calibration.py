"""Calibration: reliability bins, expected calibration error, and the temperature that mends it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torch.nn.functional import cross_entropy

from course_lib import decision


def answers(number=4000, sharpen=1.0, seed=0):
    """Logits whose softmax at temperature `sharpen` is the true probability of each class."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, 5, generator=generator, dtype=torch.float64) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return logits * sharpen, labels


def test_bins_agree_with_scikit_learn():
    logits, labels = answers(sharpen=2.0)
    confidence, correct = decision.confidence(logits), logits.argmax(1) == labels
    diagram = decision.reliability(confidence, correct, bins=10)
    accuracy, mean_confidence = calibration_curve(correct.numpy(), confidence.numpy(), n_bins=10)
    filled = diagram.counts > 0
    assert diagram.accuracy[filled].tolist() == pytest.approx(accuracy.tolist())
    assert diagram.confidence[filled].tolist() == pytest.approx(mean_confidence.tolist())
    assert int(diagram.counts.sum()) == len(labels)
    assert diagram.accuracy[~filled].isnan().all()


def test_worked_error():
    confidence = torch.tensor([0.95, 0.95, 0.55, 0.55])
    correct = torch.tensor([True, True, True, False])
    # bin of 0.95: gap 0.05, two answers; bin of 0.55: gap 0.05, two answers
    assert decision.expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.05, abs=1e-6)
    assert decision.expected_calibration_error(torch.tensor([1.0, 0.0]), torch.tensor([1, 0])) == 0
    assert decision.expected_calibration_error(torch.zeros(0), torch.zeros(0)) == 0


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 10**6))
def test_error_is_between_the_plain_gap_and_one(number, bins, seed):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(number, generator=generator, dtype=torch.float64)
    correct = torch.rand(number, generator=generator) < 0.5
    error = decision.expected_calibration_error(confidence, correct, bins)
    plain = abs(float(confidence.mean() - correct.double().mean()))
    assert plain - 1e-9 <= error <= 1
    assert decision.expected_calibration_error(confidence, correct, 1) == pytest.approx(plain)


@pytest.mark.parametrize("sharpen", [0.4, 1.0, 3.0])
def test_temperature_undoes_the_sharpening(sharpen):
    logits, labels = answers(sharpen=sharpen)
    temperature = decision.fit_temperature(logits, labels)
    assert temperature == pytest.approx(sharpen, rel=0.06)
    best = cross_entropy(logits / temperature, labels)
    for factor in (0.97, 1.03):
        assert best <= cross_entropy(logits / (temperature * factor), labels)
    cooled = logits / temperature
    correct = logits.argmax(1) == labels
    assert torch.equal(cooled.argmax(1), logits.argmax(1))
    if sharpen != 1.0:
        before = decision.expected_calibration_error(decision.confidence(logits), correct)
        assert decision.expected_calibration_error(decision.confidence(cooled), correct) < before / 2


def test_extreme_logits_stay_finite():
    labels = torch.tensor([0, 1, 2])
    never_wrong = torch.eye(3) * 5
    assert 1e-4 <= decision.fit_temperature(never_wrong, labels) < 0.2  # the loss is 0 to the last digit from there on
    assert math.isfinite(decision.fit_temperature(torch.zeros(3, 3), labels))
    always_wrong = never_wrong.roll(1, 0)
    assert decision.fit_temperature(always_wrong, labels) == pytest.approx(1e4, rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decision.reliability(torch.rand(3), torch.ones(2)), r"correct: got shape \(2,\)"),
        (lambda: decision.reliability(torch.rand(3), torch.ones(3), bins=0), "bins: got 0"),
        (lambda: decision.reliability(torch.tensor([1.5]), torch.ones(1)), r"confidence: got values from 1.5 to 1.5"),
        (lambda: decision.reliability(torch.tensor([math.nan]), torch.ones(1)), "confidence: got values"),
        (lambda: decision.fit_temperature(torch.zeros(0, 3), torch.zeros(0).long()), "at least one sample"),
        (lambda: decision.fit_temperature(torch.zeros(2, 3), torch.zeros(3).long()), r"labels: got shape \(3,\)"),
        (lambda: decision.fit_temperature(torch.full((1, 2), math.nan), torch.zeros(1).long()), "NaN"),
    ],
)
def test_clear_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
