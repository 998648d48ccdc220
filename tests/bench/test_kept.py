"""Long work is done once for a plan, kept as soon as it is done, and lost to no interruption."""

from __future__ import annotations

import operator

import pytest
import torch

from course_lib.bench import core
from course_lib.bench.kept import kept, side_by_side


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(core, "checkout", lambda: tmp_path)
    monkeypatch.setattr(core, "commit", lambda: "abc1234")
    return tmp_path / "bench-results" / "trained"


def never():
    raise AssertionError("made again")


def test_the_same_plan_is_made_once(folder):
    made = kept("net-0.cpu", {"epochs": 2}, lambda: {"weights": {"w": torch.ones(2)}, "values": [1.5]})
    again = kept("net-0.cpu", {"epochs": 2}, never)
    assert made["commit"] == again["commit"] == "abc1234"
    assert torch.equal(again["weights"]["w"], torch.ones(2)) and again["values"] == [1.5]
    assert [path.name for path in folder.iterdir()] == ["net-0.cpu.pt"]


def test_another_plan_is_made_anew():
    kept("net", {"epochs": 2}, lambda: {"value": 1})
    assert kept("net", {"epochs": 3}, lambda: {"value": 2})["value"] == 2
    assert kept("net", {"epochs": 3}, never)["value"] == 2


def test_an_interruption_leaves_what_was_kept():
    kept("net", {"epochs": 2}, lambda: {"value": 1})

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept("net", {"epochs": 3}, interrupted)
    assert kept("net", {"epochs": 2}, never)["value"] == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # the name alone decides between processes and turns
def test_jobs_come_back_in_their_order(device):
    assert list(side_by_side(operator.add, [(3, 4), (1, 1), (5, 0)], device)) == [7, 2, 5]
