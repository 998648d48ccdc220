"""The language bench: one protocol for all contenders, nothing chosen by labels of the target, complete reports."""

import dataclasses

import pytest
import torch

pytest.importorskip("open_clip")

from course_lib import data
from course_lib.bench import core, domains, kept, language
from course_lib.bench.core import Options
from course_lib.beyond import clip as clips
from course_lib.beyond import dapl

PLAN = dataclasses.replace(language._plan(Options(quick=True)), train=24, test=24)


@pytest.fixture
def few_domains(monkeypatch):
    """Three domains and very few images; caches of other plans are left alone."""
    monkeypatch.setattr(language, "_plan", lambda options: PLAN)
    monkeypatch.setattr(language, "domain_names", lambda plan: data.DOMAINS[:3])


def test_a_quick_run_reports_every_pair_and_contender(few_domains):
    report = language.run(Options(quick=True))
    core.validate(core.recorded(report, command="course bench language --quick", device="cpu"))
    rows = {row.name: row for row in report.rows}
    for source in data.DOMAINS[:3]:
        for target in data.DOMAINS[:3]:
            names = {f"{source} to {target}: {contender}" for contender in language.CONTENDERS}
            assert names <= rows.keys() if source != target else not names & rows.keys()
    for target in data.DOMAINS[:3]:
        assert {f"{target}, tau {tau:g}" for tau in PLAN.taus} <= rows.keys()
        assert {f"{target}, denominator {which}" for which in ("both", "own")} <= rows.keys()
    assert rows["trained: DAPL"].median == 4 * 64 + 2 * 4 * 64
    assert rows["trained: fine-tuned"].median == 1_327_832
    assert {"steps: naive", "steps: cached and cut", "steps: cached and cut / naive"} <= rows.keys()
    assert not report.goals


def pair(seed: int, gain: float, zero_shot: float = 80.0) -> dict:
    return {"zero-shot": zero_shot, "CoOp": 70.0, "fine-tuned": 75.0, "DAPL": zero_shot + gain + seed}


def test_goals_are_about_the_targets_that_leave_room():
    plan = dataclasses.replace(PLAN, seeds=(0, 1))
    found = {("a", "b", seed): pair(seed, 3.0) for seed in (0, 1)}
    found |= {("b", "a", seed): pair(seed, -2.0) for seed in (0, 1)}
    found |= {("a", "c", seed): pair(seed, -50.0, zero_shot=99.0) for seed in (0, 1)}
    rows, goals = language._summary(found, plan)
    assert [round(goal.value, 6) for goal in goals] == [1.0, -1.5]  # the mean of 3, 4, -2, -1; the mean of -2, -1
    assert [goal.met for goal in goals] == [False, False]
    by_name = {row.name: row for row in rows}
    assert by_name["mean over pairs: DAPL"].details["values"] == [80.5, 81.5]
    assert by_name["mean over pairs: DAPL over zero-shot"].details["worst pair"] == "b to a"
    rows, goals = language._summary({("a", "c", seed): found["a", "c", seed] for seed in (0, 1)}, plan)
    assert rows == []
    assert not goals[0].met


def test_labels_of_the_target_change_no_training(monkeypatch):
    """Wrong labels for the target's images: accuracies on them change, the rate chosen and the epochs do not."""
    truth = language._pair(PLAN, "photo", "sketch", 0)
    domain = domains.domain_of.__wrapped__

    def mislabelled(plan, name, seed):
        found = domain(plan, name, seed)
        if name == "photo":
            return found
        parts = [dataclasses.replace(p, labels=(p.labels + 1) % 6) for p in (found.train, found.validation, found.test)]
        return domains.Domain(name, *parts)

    monkeypatch.setattr(language, "domain_of", mislabelled)
    other = language._pair(PLAN, "photo", "sketch", 0)
    assert other["zero-shot"] < truth["zero-shot"]
    for key in ("chosen", "rate", "moment", "coverage", "steps"):
        assert other[key] == truth[key]
    assert other[f"both {language.TAU:g}"]["epoch"] == truth[f"both {language.TAU:g}"]["epoch"]


def test_fine_tuning_is_no_straw_man():
    """Its rates keep what the image tower knew of the source; one that is too large would make any rival look good."""
    plan = dataclasses.replace(PLAN, train=256, test=256, rates=language.RATES)
    clip, pair = domains.clip_of(plan), [domains.domain_of(plan, name, 0) for name in ("photo", "sketch")]
    classifier = dapl.zero_shot_classifier(clip, data.DOMAIN_CLASSES)
    verdict = dapl.pseudo_label(dapl.scores(clip, pair[1].train.features, classifier))
    before = language._accuracy(dapl.scores(clip, pair[0].validation.features, classifier), pair[0].validation)
    found = language._fine_tuned(plan, clip, tuple(pair), verdict, classifier, 16, 0)
    assert found["chosen"] >= before - 5


def test_no_image_is_both_learned_from_and_tested_on():
    found = [domains.domain_of(PLAN, "photo", seed) for seed in (0, 1)]
    images = [part.images for domain in found for part in (domain.train, domain.validation, domain.test)]
    seen = {image.numpy().tobytes() for part in images for image in part}
    assert len(seen) == sum(len(part) for part in images)


def test_finished_pairs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.core, "checkout", lambda: tmp_path)
    calls = []

    def counted(plan, source, target, seed):
        calls.append((source, target, seed))
        return {"DAPL": 80.0}

    monkeypatch.setattr(language, "_pair", counted)
    for _ in range(2):
        assert language._kept_pair(PLAN, "photo", "sketch", 0)["DAPL"] == 80.0
    assert calls == [("photo", "sketch", 0)]
    language._kept_pair(dataclasses.replace(PLAN, train=25), "photo", "sketch", 0)  # another plan: done again
    assert len(calls) == 2


def test_the_larger_network_can_be_trained_here():
    plan = dataclasses.replace(PLAN, network="large")
    clip = domains._large(plan)
    assert 20e6 < sum(p.numel() for p in clip.model.visual.parameters()) < 24e6  # as ViT-S
    images = data.domain_shapes(2, domain="photo", seed=0).images
    assert clips.encode_images(clip, images).shape == (2, 256)
    assert not clip.model.training


def test_a_folder_of_domains(tmp_path, monkeypatch):
    Image = pytest.importorskip("PIL.Image")
    for domain in ("Art", "Real World"):
        drawn = data.domain_shapes(20, domain="photo", classes=2, seed=len(domain))
        for i, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
            folder = tmp_path / domain / ("Blue_Circle", "Square")[label]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{i}.png")
    report = language.run(Options(quick=True, data="folder", root=str(tmp_path)))
    names = {row.name for row in report.rows}
    assert {"Art to Real World: DAPL", "Real World to Art: fine-tuned"} <= names


def test_wrong_data_and_absent_weights(monkeypatch):
    with pytest.raises(ValueError, match="--data: got 'cifar10', expected 'folder'"):
        language.run(Options(data="cifar10"))

    def offline(*args, **kwargs):
        raise RuntimeError("OpenAI's weights of CLIP RN50 are neither here nor there")

    monkeypatch.setattr(clips, "load_clip", offline)
    plan = dataclasses.replace(PLAN, network="RN50", root="somewhere")
    with pytest.raises(FileNotFoundError, match="neither here nor there"):
        domains.clip_of(plan)


def test_updates_of_both_loops_are_the_same_up_to_rounding():
    """What is timed does the same work: full prompts and fresh features against cut prompts and kept features."""
    clip = domains.clip_of(PLAN)
    here, there = (domains.domain_of(PLAN, name, 0) for name in ("photo", "sketch"))
    verdict = dapl.pseudo_label(
        dapl.scores(clip, there.train.features, dapl.zero_shot_classifier(clip, data.DOMAIN_CLASSES))
    )
    grads = []
    for cut in (False, True):
        prompts = dapl.DomainPrompts(clip, data.DOMAIN_CLASSES, ("photo", "sketch"), cut=cut, **language.PROMPTS)
        logits = [
            prompts.logits(part.features if cut else clips.encode_images(clip, part.images))
            for part in (here.train, there.train)
        ]
        dapl.dapl_loss(logits[0], here.train.labels, logits[1], verdict.labels, verdict.confidence, tau=0.5).backward()
        grads.append(prompts.context.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-3)
