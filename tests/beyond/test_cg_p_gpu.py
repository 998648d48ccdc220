"""Crew plans with the pricing in layers on a GPU, and the network's scores there."""

import numpy as np
import pytest
import torch

from course_lib.beyond.cg_p import DutyGraph, Timetable
from course_lib.beyond.cg_p.pricing_torch import LayeredPricer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def table():
    return Timetable.generate(120, seed=3)


@pytest.mark.parametrize("labels", [8, 32])
def test_the_same_duties_as_on_the_cpu(table, labels):
    graph = DutyGraph.of(table)
    prices = np.random.default_rng(0).uniform(100, 400, len(table))
    here, there = (LayeredPricer(graph, device).price(prices, labels=labels) for device in ("cpu", "cuda"))
    assert there.least == pytest.approx(here.least)
    assert there.columns.size == here.columns.size > 0
    assert np.allclose(there.columns.reduced(prices), here.columns.reduced(prices))


def test_a_plan_priced_there_ends_at_the_same_value(table):
    pytest.importorskip("ortools")
    from course_lib.beyond.cg_p import ShortGaps, check_plan, solve

    plain = solve(table)
    for mode in ("exact", "optimal"):
        plan = solve(table, mode=mode, predictor=ShortGaps(), device="cuda")
        assert check_plan(plan, table) == []
        assert plan.lp_value == pytest.approx(plain.lp_value, rel=1e-6)


def test_the_network_scores_as_on_the_cpu(table):
    pytest.importorskip("torch_geometric")
    pytest.importorskip("safetensors")
    from course_lib.beyond.cg_p.predictor import load_predictor

    graph = DutyGraph.of(table)
    here, there = (load_predictor(device=device).scores(table, graph.rules, graph) for device in ("cpu", "cuda"))
    assert np.allclose(here, there, atol=1e-3)
