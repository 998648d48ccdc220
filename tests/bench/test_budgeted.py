"""The budgeted bench: one protocol for all, settings chosen without the test images, complete reports. No times."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from course_lib import decision
from course_lib.bench import budgeted, core
from course_lib.bench.core import Options


@pytest.fixture(scope="module")
def report():
    return budgeted.run(Options(quick=True))


def test_quick_run_reports_every_network_and_contender(report):
    core.validate(core.recorded(report, command="course bench budgeted --quick", device="cpu"))
    names = {row.name for row in report.rows}
    for network in budgeted.NETWORKS:
        assert {f"shapes: {network}, exit {k}" for k in (1, 2, 3, 4)} <= names
        assert {f"shapes: {network} at rho {rho:g}" for rho in budgeted.RHOS} <= names
        assert {f"shapes, batch 32, curve: {network} at rho {rho:g}" for rho in budgeted.RHOS} <= names
    matched = ["equal accuracy", "a sixth of the multiply-adds", "a quarter of the multiply-adds"]
    for queue in ("", ", queue"):
        for network in ("MSDNet", "RANet"):
            assert f"shapes, batch 32, seed 0: {network} adaptive{queue}" in names
            assert f"shapes, batch 32: {network}, static / adaptive{queue}" in names
        assert {f"shapes, batch 32: MSDNet / RANet at {setting}{queue}" for setting in matched} <= names
    assert "shapes: meta step / two plain half-batch steps" in names
    assert not report.goals  # a quick run shows that it runs, and promises nothing


def test_networks_are_of_one_size():
    task = budgeted._task(Options(quick=True))
    costs = [budgeted._build(name, task, 0, "cpu").exit_costs(16, convention="lazy")[-1] for name in budgeted.NETWORKS]
    assert max(costs) / min(costs) < 1.05


def test_networks_of_one_seed_start_from_the_same_weights():
    task = budgeted._task(Options(quick=True))
    plain, learned = (budgeted._build(name, task, 1, "cpu").state_dict() for name in ("MSDNet", "L2W-DEN"))
    assert all(torch.equal(plain[name], learned[name]) for name in plain)


def study(seed: int, costs: tuple[float, ...]) -> decision.ExitStudy:
    generator = torch.Generator().manual_seed(seed)

    def split() -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        labels = torch.randint(0, 4, (400,), generator=generator)
        truth = torch.nn.functional.one_hot(labels, 4)
        return tuple(truth * k + torch.randn(400, 4, generator=generator) for k in (1, 3, 4)), labels

    return decision.ExitStudy(costs, *split(), *split())


def test_settings_are_matched_on_validation_images():
    msdnet, ranet = study(0, (1.0, 2.0, 6.0)), study(1, (0.8, 2.5, 6.2))
    settings = budgeted._settings(msdnet, ranet)
    blind = (dataclasses.replace(one, test_labels=one.test_labels.roll(1)) for one in (msdnet, ranet))
    again = budgeted._settings(*blind)
    for network, found in settings.items():
        for setting, point in found.items():
            assert again[network][setting].thresholds == point.thresholds
    last = [(one.validation_logits[-1].argmax(1) == one.validation_labels).double().mean() for one in (msdnet, ranet)]
    for one, found in zip((msdnet, ranet), settings.values(), strict=True):
        taken = decision.choose_exit(one.validation_confidence, found["at equal accuracy"].thresholds)
        answers = torch.stack(one.validation_logits)[taken, torch.arange(400)]
        reached = float((answers.argmax(1) == one.validation_labels).double().mean())
        assert reached >= min(last) - budgeted.MARGIN - 1e-9
        for words, share in budgeted.BUDGETS.items():
            point = found[f"at {words} of the multiply-adds"]
            spent = decision.choose_exit(one.validation_confidence, point.thresholds).bincount(minlength=3) / 400
            assert decision.mean_cost(spent, one.costs) <= max(share * 6.0, one.costs[0]) + 1e-6


def test_flips_mirror_about_half_of_the_images_and_nothing_else():
    images = torch.rand(400, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    flipped = budgeted._flip(images, torch.Generator().manual_seed(1))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(flipped[~mirrored], images[~mirrored])
