"""Anytime and budgeted evaluation: thresholds on one set, costs and accuracies on another, choices by rule."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import data, decision, train
from course_lib.instance.msdnet import MSDNet

COSTS = (1.0, 2.0, 4.0)


def made(seed: int = 0) -> decision.ExitStudy:
    """Three exits that answer better and more surely the later they are."""
    generator = torch.Generator().manual_seed(seed)

    def split(number: int) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        labels = torch.randint(0, 4, (number,), generator=generator)
        truth = torch.nn.functional.one_hot(labels, 4)
        return tuple(truth * k + torch.randn(number, 4, generator=generator) for k in (1, 2, 4)), labels

    return decision.ExitStudy(COSTS, *split(200), *split(150))


def test_a_point_is_thresholds_from_one_set_and_results_on_the_other():
    study = made()
    points = study.sweep([0.0, 0.5, 1.0, math.inf])
    assert [point.rho for point in points] == [0.0, 0.5, 1.0, math.inf]
    assert points[0].cost == COSTS[0] and points[-1].cost == COSTS[-1]
    for point in points:
        assert point.planned == pytest.approx(decision.exit_shares(point.rho, 3).tolist())
        bar = decision.find_thresholds(study.validation_confidence, point.planned)
        assert list(point.thresholds) == bar.tolist()
        answers, exits = decision.simulate(study.test_logits, bar)
        assert torch.equal(study.exit_index(bar), exits)
        assert point.accuracy == pytest.approx(float((answers.argmax(1) == study.test_labels).double().mean()))
        assert point.realised == pytest.approx((exits.bincount(minlength=3) / 150).tolist())
        assert point.cost == pytest.approx(decision.mean_cost(point.realised, COSTS))


def test_accuracies_are_those_of_each_exit_alone():
    study = made()
    for k, accuracy in enumerate(study.accuracies):
        bar = [math.inf] * k + [-math.inf] * (3 - k)
        point = study.at(bar)
        assert (point.accuracy, point.cost) == (accuracy, COSTS[k])
        assert math.isnan(point.rho) and point.planned[k] == 1


def test_the_published_sweep_is_the_default():
    assert [point.rho for point in made().sweep()] == [p / 20 for p in range(1, 40)] == list(decision.RHOS)


def on_validation(study: decision.ExitStudy, point: decision.OperatingPoint) -> tuple[float, float]:
    swapped = decision.ExitStudy(
        study.costs, study.validation_logits, study.validation_labels, study.validation_logits, study.validation_labels
    )
    found = swapped.at(point.thresholds)
    return found.cost, found.accuracy


@given(st.integers(0, 50), st.floats(0, 0.3))
def test_cheapest_keeps_its_margin_and_a_larger_margin_is_never_dearer(seed: int, margin: float):
    study = made(seed)
    cost, accuracy = on_validation(study, study.cheapest(margin))
    _, best = on_validation(study, study.at([math.inf] * 3))
    assert accuracy >= best - margin
    assert on_validation(study, study.cheapest(margin + 0.1))[0] <= cost
    assert all(
        p[0] >= cost for p in (on_validation(study, q) for q in study.sweep([0.4, 1.0])) if p[1] >= best - margin
    )


@given(st.integers(0, 50), st.floats(1, 4))
def test_within_keeps_the_budget_and_more_money_is_never_worse(seed: int, budget: float):
    study = made(seed)
    cost, accuracy = on_validation(study, study.within(budget))
    assert cost <= budget
    assert on_validation(study, study.within(budget + 0.5))[1] >= accuracy
    for point in study.sweep([0.4, 1.0]):
        other_cost, other = on_validation(study, point)
        assert other_cost > budget or other <= accuracy


def test_a_setting_that_loses_exactly_the_margin_is_good_enough():
    labels = torch.zeros(2000, dtype=torch.int64)
    first, last = (torch.tensor([4.0, 0.0]).repeat(2000, 1) for _ in range(2))
    first[:14], last[:9] = torch.tensor([0.0, 4.0]), torch.tensor([0.0, 4.0])  # 1986 and 1991 right
    study = decision.ExitStudy((1.0, 2.0), (first, last), labels, (first, last), labels)
    assert study.cheapest(0.0025).cost == 1.0


def test_choices_do_not_look_at_the_test_samples():
    study = made()
    shuffled = dataclasses.replace(study, test_labels=study.test_labels.roll(1))
    assert shuffled.cheapest().thresholds == study.cheapest().thresholds
    assert shuffled.within(2.0).thresholds == study.within(2.0).thresholds


def test_no_test_samples_is_a_legal_study():
    study = made()
    empty = dataclasses.replace(
        study, test_logits=tuple(one[:0] for one in study.test_logits), test_labels=torch.zeros(0).long()
    )
    assert empty.at_rho(1.0).realised == (0.0, 0.0, 0.0)
    assert math.isnan(empty.accuracies[0])


def test_a_network_is_studied_once_on_both_sets():
    torch.manual_seed(0)
    model = MSDNet.tiny().eval()
    validation, test = data.shapes(20, seed=1), data.shapes(12, seed=2)
    study = train.study(model, (validation.images, validation.labels), (test.images, test.labels), batch_size=7)
    assert study.costs == tuple(model.exit_costs(16, convention="lazy"))
    assert study.validation_confidence.shape == (20, 4) and study.test_confidence.shape == (12, 4)
    bar = study.thresholds(0.7)
    result = model.infer(test.images, bar)
    assert torch.equal(result.exit_index, study.exit_index(bar))
    assert float(result.macs.mean()) == pytest.approx(study.at(bar).cost)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dataclasses.replace(s, costs=(1.0, 2.0)), "validation_logits: got 3 exits, expected .* 2 costs"),
        (lambda s: dataclasses.replace(s, test_labels=s.test_labels[:-1]), "test_logits: got .* 149 labels"),
        (lambda s: s.within(0.5), "budget: got 0.5, expected at least the first exit's cost, 1"),
        (lambda s: s.at([0.5, 0.5]), "thresholds: got shape"),
    ],
    ids=["costs", "labels", "budget", "thresholds"],
)  # fmt: skip
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        change(made())
