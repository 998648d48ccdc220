"""The early-exit bench: what it times is equal work, what it reports is complete. No figure here is a time."""

from itertools import chain

import pytest
import torch

from course_lib.bench import core, early_exit, exits
from course_lib.bench.core import Options


@pytest.fixture(scope="module")
def report():
    return early_exit.run(Options(quick=True))


def test_quick_run_reports_every_contender(report):
    core.validate(core.recorded(report, command="course bench early-exit --quick", device="cpu"))
    names = {row.name for row in report.rows}
    for task in ("shapes", "digits"):
        assert {f"{task}: training", f"{task}: memory while training"} <= names
        for contender in ("static", "fixed exit", "adaptive", "queue"):
            assert f"{task}, batch 32: {contender}" in names
        for contender in ("fixed exit", "adaptive", "queue"):
            assert f"{task}, batch 32: {contender} / static" in names
    assert not report.goals  # a quick run shows that it runs, and promises nothing


def test_one_thread_while_timing_and_the_old_number_after():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with exits.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_multiply_adds_follow_from_the_shares(report):
    row = next(row for row in report.rows if row.name == "shapes: multiply-adds, static / adaptive")
    assert sum(row.details["shares"]) == pytest.approx(1, abs=2e-3)
    model = early_exit.MSDNet.tiny().eval()
    costs = model.exit_costs(16, convention="lazy")
    last_alone = exits.costs_alone(model, costs, torch.zeros(1, 3, 16, 16))[-1]
    spent = sum(share * cost for share, cost in zip(row.details["shares"], costs, strict=True))
    assert row.median == pytest.approx(last_alone / spent, rel=0.01)  # the shares are given to three digits
    assert 1 <= row.details["fixed_exit"] <= 4


def test_a_static_network_pays_for_its_own_head_only():
    model = early_exit.MSDNet.tiny().eval()
    costs = model.exit_costs(16, convention="lazy")
    alone = exits.costs_alone(model, costs, torch.zeros(1, 3, 16, 16))
    assert alone[0] == costs[0]
    assert alone[-1] == pytest.approx(5.25e6, abs=1e4)  # of 5.95 million with the heads on the way


def test_all_contenders_see_the_same_orders():
    seen = {}
    images = torch.arange(10.0)[:, None]
    for name in "ab":
        calls = seen.setdefault(name, [])
        one_pass = exits.in_batches(lambda part, calls=calls: calls.append(part.flatten().tolist()), images, 4)
        one_pass(), one_pass()
    assert seen["a"] == seen["b"]
    first, second = seen["a"][:3], seen["a"][3:]
    assert [len(part) for part in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
