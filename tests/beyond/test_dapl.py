"""DAPL: prompts that reproduce CLIP's own sentences, two denominators, careful means, training on kept features."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.beyond import dapl
from course_lib.beyond.clip import Clip
from course_lib.beyond.dapl import DomainPrompts, PseudoLabels

NAMES = ("circle", "square", "fire engine")  # the last takes two tokens
DOMAINS = ("photo", "sketch")
CONTEXT, WIDTH = 24, 16


def random_clip(kind: str, seed: int = 0) -> Clip:
    """A small CLIP of open_clip with random weights and the real tokenizer, frozen."""
    torch.manual_seed(seed)
    architecture = open_clip.CLIP if kind == "CLIP" else open_clip.CustomTextCLIP
    model = architecture(
        embed_dim=12,
        vision_cfg={"layers": 1, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 8},
        text_cfg={"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2},
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    model.eval().requires_grad_(False)
    return Clip(model=model, tokenizer=tokenizer, preprocess=None, context_length=CONTEXT, width=WIDTH)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return random_clip("CLIP")


@pytest.fixture(params=["CLIP", "CustomTextCLIP"], scope="module")
def any_clip(request: pytest.FixtureRequest) -> Clip:
    return random_clip(request.param)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def spelled(clip: Clip, texts: list[str]) -> Tensor:
    with torch.no_grad():
        return clip.model.encode_text(clip.tokenizer(texts), normalize=True)


# Prompts -------------------------------------------------------------------------------------------------------------


def test_prompts_begun_from_words_are_bit_equal_to_the_sentences(any_clip: Clip):
    prompts = DomainPrompts(any_clip, NAMES, ("any",), shared=4, specific=0, words="a photo of a", cut=False)
    with torch.no_grad():
        rows = prompts()
    assert rows.shape == (1, 3, 12)
    assert torch.equal(rows[0], spelled(any_clip, [f"a photo of a {name}." for name in NAMES]))


def test_cutting_behind_the_last_end_token_changes_nothing(any_clip: Clip):
    cut, whole = (DomainPrompts(any_clip, NAMES, DOMAINS, shared=3, specific=2, cut=c) for c in (True, False))
    assert cut.tokens.shape == (6, 1 + 3 + 2 + 3 + 1)  # start, learned, "fire engine.", end
    assert whole.tokens.shape == (6, CONTEXT)
    with torch.no_grad():
        assert torch.allclose(cut(), whole(), atol=1e-6)


def test_the_domain_word_may_stand_behind_the_class(clip: Clip):
    prompts = DomainPrompts(
        clip, NAMES, DOMAINS, shared=2, specific=0, words="look at", ending="{name}, a {domain} image.", cut=False
    )
    with torch.no_grad():
        rows = prompts()
    texts = [f"look at {name}, a {domain} image." for domain in DOMAINS for name in NAMES]
    assert torch.equal(rows.flatten(0, 1), spelled(clip, texts))


def test_prompts_are_ordered_by_domain_then_class(clip: Clip):
    prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=2, specific=3)
    rows = prompts.embeddings()
    assert rows.shape == (6, prompts.tokens.shape[1], WIDTH)
    for d, k in ((0, 0), (0, 2), (1, 1)):
        assert torch.equal(rows[d * 3 + k, 1:3], prompts.context)
        assert torch.equal(rows[d * 3 + k, 3:6], prompts.domain_vectors[d])
    assert torch.equal(rows[0, 6:], rows[3, 6:])  # the same class in the other domain
    assert not torch.equal(rows[0, 6:], rows[1, 6:])


@pytest.mark.parametrize(
    ("classes", "width", "per_class", "numbers"),
    [(65, 512, False, 24_576), (12, 512, True, 114_688), (65, 512, True, 548_864), (12, 512, False, 24_576)],
)
def test_trained_numbers_of_the_paper(classes: int, width: int, per_class: bool, numbers: int):
    assert dapl.trained_numbers(classes, 16, 16, width, per_class=per_class) == numbers


@pytest.mark.parametrize("per_class", [False, True])
def test_only_the_learned_words_are_parameters(clip: Clip, per_class: bool):
    prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=4, specific=2, per_class=per_class)
    assert (
        set(prompts.state_dict()) == {name for name, _ in prompts.named_parameters()} == {"context", "domain_vectors"}
    )
    expected = dapl.trained_numbers(3, 4, 2, WIDTH, per_class=per_class)
    assert prompts.trained_numbers == sum(p.numel() for p in prompts.parameters()) == expected
    prompts().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in prompts.parameters())
    assert all(p.grad is None for p in clip.model.parameters())


def test_per_class_words_move_only_their_class(clip: Clip):
    prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=4, specific=2, per_class=True)
    before = prompts().detach()
    with torch.no_grad():
        prompts.context[1] += 0.5
    changed = (prompts() != before).any(-1)
    assert changed.tolist() == [[False, True, False], [False, True, False]]


def test_swapping_the_domains_words_swaps_the_logits(clip: Clip):
    prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=3, specific=3)
    features = unit(5, 12)
    with torch.no_grad():
        before = prompts.logits(features)
        prompts.domain_vectors.copy_(prompts.domain_vectors.flip(0))
        after = prompts.logits(features)
    assert before.shape == (5, 2, 3)
    assert torch.equal(before.flip(1), after)
    assert not torch.allclose(before, after, atol=1e-4)


def test_one_class_one_domain_and_no_learned_word_are_legal(clip: Clip):
    assert DomainPrompts(clip, ["dog"], ["a"], shared=2, specific=0)().shape == (1, 1, 12)
    bare = DomainPrompts(clip, NAMES, DOMAINS, shared=0, specific=0)
    assert bare.trained_numbers == 0
    assert torch.allclose(bare()[0], spelled(clip, [f"{name}." for name in NAMES]), atol=1e-6)


def test_equal_seeds_give_equal_words(clip: Clip):
    a, b, c = (DomainPrompts(clip, NAMES, DOMAINS, shared=2, specific=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.context, b.context)
    assert not torch.equal(a.context, c.context)


@pytest.mark.parametrize(
    ("names", "domains", "options", "message"),
    [
        ((), DOMAINS, {}, "classnames: got no names"),
        (("cat", "dog", "Cat"), DOMAINS, {}, "classnames: got 'cat' and 'Cat', expected distinct"),
        (("cat", " "), DOMAINS, {}, "classnames: got the empty name ' '"),
        (NAMES, (), {}, "domains: got no names"),
        (NAMES, ("photo", ""), {}, "domains: got the empty name ''"),
        (NAMES, ("photo", "photo"), {}, "domains: got 'photo' and 'photo'"),
        (NAMES, DOMAINS, {"shared": 16, "specific": 4}, "classnames: got 'fire engine', whose prompt takes 25 tokens"),
        (NAMES, DOMAINS, {"shared": -1}, "shared: got -1, expected 0 or more"),
        (NAMES, DOMAINS, {"ending": "a {domain}."}, "ending: got 'a {domain}.', expected {name} in it"),
        (
            NAMES,
            DOMAINS,
            {"shared": 3, "specific": 1, "words": "a photo of a"},
            "words: got 'a photo of a', which is 4",
        ),
    ],
)
def test_names_that_cannot_be_prompts_are_refused(clip: Clip, names, domains, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        DomainPrompts(clip, names, domains, **{"shared": 4, "specific": 4, **options})


def test_the_longest_name_that_fits_is_taken_whole(clip: Clip):
    prompts = DomainPrompts(clip, ("fire engine",), ("a",), shared=15, specific=4, cut=False)
    assert int(prompts.tokens.argmax()) == CONTEXT - 1


def test_words_nearest_to_words_are_themselves(clip: Clip):
    table = clip.model.token_embedding.weight
    ids = clip.tokenizer.encode("a red circle")
    found = dapl.nearest_words(clip, table[ids] + 1e-6, count=2)
    assert [row[0][0] for row in found] == ["a", "red", "circle"]
    assert all(row[0][1] < 1e-3 < row[1][1] for row in found)


# The teacher ---------------------------------------------------------------------------------------------------------


def test_the_zero_shot_classifier_is_the_encoded_sentences(any_clip: Clip):
    rows = dapl.zero_shot_classifier(any_clip, NAMES)
    assert torch.equal(rows, spelled(any_clip, [f"a photo of a {name}." for name in NAMES]))


@pytest.mark.parametrize(
    ("names", "template", "message"),
    [
        ((), "a {name}.", "classnames: got no names"),
        (NAMES, "a photo.", "template: got 'a photo.', expected {name} in it"),
        (NAMES, "a {domain} of a {name}.", "expected the domain's word in place of {domain}"),
    ],
)
def test_sentences_that_name_no_class_are_refused(clip: Clip, names, template, message):
    with pytest.raises(ValueError, match=message):
        dapl.zero_shot_classifier(clip, names, template)


def test_scores_are_those_of_clip(clip: Clip):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = dapl.zero_shot_classifier(clip, NAMES)
    with torch.no_grad():
        features, _, scale = clip.model(images, clip.tokenizer(["dog"]))
        assert torch.allclose(dapl.scores(clip, features, rows), scale * features @ rows.T, atol=1e-5)


def test_a_higher_temperature_keeps_fewer_labels_and_changes_none():
    logits = 4 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    cool, warm = dapl.pseudo_label(logits), dapl.pseudo_label(logits, temperature=3.0)
    assert torch.equal(cool.labels, warm.labels)
    assert bool((warm.confidence < cool.confidence).all())
    with pytest.raises(ValueError, match="temperature: got 0, expected more than 0"):
        dapl.pseudo_label(logits, temperature=0)


def test_coverage_falls_and_precision_of_a_calibrated_teacher_rises():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 4, generator=generator)
    labels = torch.distributions.Categorical(logits=logits).sample()  # the teacher's own probabilities are the truth
    verdict = dapl.pseudo_label(logits)
    taus = (0.0, 0.5, 0.7, 0.9)
    coverage = [verdict.coverage(tau) for tau in taus]
    precision = [verdict.precision(tau, labels) for tau in taus]
    assert coverage[0] == 1.0
    assert coverage == sorted(coverage, reverse=True)
    assert precision == sorted(precision)
    assert verdict.coverage(1.1) == 0.0
    assert math.isnan(verdict.precision(1.1, labels))


# The loss ------------------------------------------------------------------------------------------------------------


def two_domains(rows: int, classes: int, seed: int) -> Tensor:
    return 3 * torch.randn(rows, 2, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(rows=st.integers(1, 5), classes=st.integers(1, 6), domain=st.integers(0, 1), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_the_denominators_differ_by_the_share_of_the_other_domain(rows: int, classes: int, domain: int, seed: int):
    logits = two_domains(rows, classes, seed)
    both, own = (dapl.dapl_log_prob(logits, domain, which) for which in ("both", "own"))
    mine, other = (logits[:, d].exp().sum(1, keepdim=True) for d in (domain, 1 - domain))
    assert torch.allclose(-both, -own + torch.log1p(other / mine))
    assert bool((both < own).all())
    assert torch.allclose(own.exp().sum(1), torch.ones(rows, dtype=torch.float64))
    every = torch.cat([dapl.dapl_log_prob(logits, d, "both") for d in (0, 1)], 1)
    assert torch.allclose(every.exp().sum(1), torch.ones(rows, dtype=torch.float64))


def test_the_denominators_agree_where_the_other_domain_is_out_of_the_question():
    logits = two_domains(4, 3, 0)
    logits[:, 1] = -torch.inf
    assert torch.equal(dapl.dapl_log_prob(logits, 0, "both"), dapl.dapl_log_prob(logits, 0, "own"))


def loss_of(logits: Tensor, denominator: str = "both", tau: float = 0.5, **more: float) -> Tensor:
    """Both domains see the same five images; three pseudo-labels reach a half."""
    labels, guessed = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 0, 2, 1, 1])
    confidence = torch.tensor([0.9, 0.5, 0.4, 0.7, 0.1])
    return dapl.dapl_loss(logits, labels, logits.flip(0), guessed, confidence, tau=tau, denominator=denominator, **more)


def test_the_loss_is_the_two_means_written_out():
    logits = two_domains(5, 3, 0)
    p = logits.flatten(1).softmax(1).unflatten(1, (2, 3))
    source = -sum(p[i, 0, k].log() for i, k in enumerate((0, 1, 2, 0, 1))) / 5
    kept = [(4, 0), (3, 0), (1, 1)]  # rows of the flipped logits, with their pseudo-labels
    target = -sum(p[i, 1, k].log() for i, k in kept) / 3
    assert torch.allclose(loss_of(logits), source + target)
    assert torch.allclose(loss_of(logits, target_weight=0.3), source + 0.3 * target)


@pytest.mark.parametrize("denominator", ["both", "own"])
def test_no_kept_label_costs_exactly_nothing(denominator: str):
    logits = two_domains(5, 3, 0).requires_grad_()
    log_prob = dapl.dapl_log_prob(logits, 1, denominator)
    loss = dapl.pseudo_label_loss(log_prob, torch.zeros(5, dtype=torch.int64), torch.full((5,), 0.99), tau=1.1)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_certainly_wrong_label_that_is_not_kept_does_not_spoil_the_mean():
    log_prob = torch.tensor([[0.0, -torch.inf], [-0.5, -1.0]], requires_grad=True)
    loss = dapl.pseudo_label_loss(log_prob, torch.tensor([1, 0]), torch.tensor([0.2, 0.9]), tau=0.5)
    loss.backward()
    assert loss.item() == 0.5
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [[0.0, 0.0], [-1.0, 0.0]]


def test_tau_0_keeps_all_pseudo_labels():
    logits = two_domains(5, 3, 0)
    by_hand = torch.nn.functional.nll_loss(dapl.dapl_log_prob(logits, 1), torch.tensor([0, 1, 2, 2, 1]))
    found = dapl.pseudo_label_loss(
        dapl.dapl_log_prob(logits, 1), torch.tensor([0, 1, 2, 2, 1]), torch.linspace(0, 1, 5), tau=0
    )
    assert torch.allclose(found, by_hand)


def test_source_labels_reach_the_targets_words_only_where_the_domains_compete(clip: Clip):
    features, labels = unit(4, 12), torch.tensor([0, 1, 2, 0])
    for denominator, reaches in (("both", True), ("own", False)):
        prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=2, specific=2)
        logits = prompts.logits(features)
        nobody = torch.zeros(4)
        dapl.dapl_loss(logits, labels, logits, labels, nobody, tau=0.5, denominator=denominator).backward()
        source, target = prompts.domain_vectors.grad
        assert bool(source.any())
        assert bool(target.any()) is reaches


def test_one_domain_is_coop(clip: Clip):
    """Cross-entropy of CLIP's logits on source labels, whichever denominator: there is nobody to compete with."""
    prompts = DomainPrompts(clip, NAMES, ("any",), shared=4, specific=0)
    features, labels = unit(6, 12), torch.tensor([0, 1, 2, 2, 1, 0])
    logits = prompts.logits(features)
    expected = torch.nn.functional.cross_entropy(logits[:, 0], labels)
    for denominator in ("both", "own"):
        loss = dapl.dapl_loss(logits, labels, logits[:0], labels[:0], torch.zeros(0), tau=0.5, denominator=denominator)
        assert torch.allclose(loss, expected)


def test_wrong_arguments_of_the_loss_are_named():
    logits = two_domains(5, 3, 0)
    with pytest.raises(ValueError, match="denominator: got 'all', expected one of both, own"):
        dapl.dapl_log_prob(logits, 0, "all")
    with pytest.raises(ValueError, match=r"labels: got shape \(4,\) for logits \(5, 2, 3\)"):
        dapl.dapl_loss(logits, torch.zeros(4), logits, torch.zeros(5), torch.zeros(5), tau=0.5)


# Training ------------------------------------------------------------------------------------------------------------


def easy(clip: Clip, n: int = 96) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, PseudoLabels]]:
    """Features in three bunches, those of the target shifted; its pseudo-labels are right and certain."""
    centres = unit(3, 12, seed=5)
    labels = torch.arange(n) % 3
    source = torch.nn.functional.normalize(centres[labels] + 0.2 * unit(n, 12, seed=6), dim=-1)
    target = torch.nn.functional.normalize(centres[labels] + 0.6 * unit(1, 12, seed=8), dim=-1)
    return (source, labels), (target, PseudoLabels(labels, torch.full((n,), 0.9)))


def test_training_lowers_the_loss_and_learns_both_domains(clip: Clip):
    source, target = easy(clip)
    prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=3, specific=3)
    run = dapl.fit_prompts(prompts, source, target, epochs=12, lr=0.01, batch_size=16)
    assert len(run.losses) == 12 * 6  # 87 samples are left after a tenth is held out
    assert len(run.held_out) == 12
    assert run.held_out[run.epoch - 1] == min(run.held_out)
    assert sum(run.losses[-6:]) < 0.8 * sum(run.losses[:6])
    assert run.held_out[-1] < run.held_out[0]
    with torch.no_grad():  # the prompts know their domain: they had to compete
        assert prompts.logits(target[0]).amax(2).argmax(1).double().mean() > 0.9
        assert prompts.logits(source[0]).amax(2).argmax(1).double().mean() < 0.1


def test_the_kept_epoch_is_the_best_on_held_out_samples_not_the_last(clip: Clip):
    source, target = easy(clip)
    build = lambda: DomainPrompts(clip, NAMES, DOMAINS, shared=2, specific=2)  # noqa: E731
    wild = {"epochs": 6, "lr": 0.01, "schedule": lambda done: 1.0 if done < 0.5 else -1.0}  # climbs in the end
    kept, last = build(), build()
    run = dapl.fit_prompts(kept, source, target, **wild)
    assert run.epoch < 6
    again = dapl.fit_prompts(last, source, target, **{**wild, "held_out": 0.0})
    assert again.epoch == 6
    assert not torch.equal(kept.context, last.context)


def test_training_is_repeatable_and_touches_no_global_randomness(clip: Clip):
    source, target = easy(clip)
    before = torch.random.get_rng_state()
    twice = []
    for _ in range(2):
        prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=2, specific=2)
        run = dapl.fit_prompts(prompts, source, target, epochs=2, seed=3)
        twice.append((run.losses, prompts.context.detach()))
    assert twice[0][0] == twice[1][0]
    assert torch.equal(twice[0][1], twice[1][1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_rate_falls_once_over_the_whole_run(clip: Clip, monkeypatch: pytest.MonkeyPatch):
    source, target = easy(clip)
    seen: list[float] = []
    step = dapl.train_step

    def spy(prompts, optimizer, *args, **objective):
        seen.append(optimizer.param_groups[0]["lr"])
        return step(prompts, optimizer, *args, **objective)

    monkeypatch.setattr(dapl.training, "train_step", spy)
    dapl.fit_prompts(DomainPrompts(clip, NAMES, DOMAINS, shared=1, specific=1), source, target, epochs=5, lr=0.1)
    assert seen[0] == 0.1
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.01


def test_a_scheduler_of_25_stepped_every_iteration_swings_with_period_50():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=25)
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:150] == pytest.approx(rates[50:], abs=1e-9)
    assert min(rates) == pytest.approx(0, abs=1e-9)
    assert rates[99] == pytest.approx(2.988e-3, abs=1e-6)  # as the published log prints after iteration 100


def test_kept_features_give_the_gradients_of_the_slow_path(clip: Clip):
    """Encoding images in every step changes nothing: the tower is frozen and in eval mode."""
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        kept = clip.model.encode_image(images, normalize=True)
    gradients = []
    for cut, features in ((True, kept), (False, clip.model.encode_image(images, normalize=True))):
        prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=2, specific=2, cut=cut)
        logits = prompts.logits(features)
        dapl.dapl_loss(logits, labels, logits, labels, torch.ones(6), tau=0.5).backward()
        gradients.append(prompts.context.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_coop_trains_without_a_target_and_one_class_has_nothing_to_learn(clip: Clip):
    source, _ = easy(clip)
    coop = DomainPrompts(clip, NAMES, ("any",), shared=4, specific=0)
    run = dapl.fit_prompts(coop, source, None, epochs=4, lr=0.3)
    assert run.losses[-1] < run.losses[0]
    one = DomainPrompts(clip, ["dog"], ("any",), shared=2, specific=0)
    before = one.context.detach().clone()
    alone = (source[0], torch.zeros_like(source[1]))
    run = dapl.fit_prompts(one, alone, None, epochs=1, weight_decay=0.0)
    assert set(run.losses) == {0.0}
    assert torch.equal(one.context, before)


def test_a_tau_that_nobody_reaches_trains_like_a_target_weight_of_0(clip: Clip):
    source, target = easy(clip)
    found = []
    for options in ({"tau": 1.1}, {"tau": 0.0, "target_weight": 0.0}):
        prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=2, specific=2)
        dapl.fit_prompts(prompts, source, target, epochs=1, **options)
        found.append(prompts.domain_vectors.detach())
    assert bool(found[0].isfinite().all())
    assert torch.equal(*found)


def test_data_that_cannot_be_trained_on_is_refused(clip: Clip):
    source, target = easy(clip)
    prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=1, specific=1)
    nobody = (target[0][:0], PseudoLabels(source[1][:0], torch.zeros(0)))
    with pytest.raises(ValueError, match="target: got no samples of domain 'sketch'"):
        dapl.fit_prompts(prompts, source, nobody)
    with pytest.raises(ValueError, match="source: got no samples of domain 'photo'"):
        dapl.fit_prompts(prompts, (source[0][:0], source[1][:0]), target)
    with pytest.raises(ValueError, match=r"source: got labels 0..4, expected 0..2, as there are 3 classes"):
        dapl.fit_prompts(prompts, (source[0], 2 * source[1]), target)
    with pytest.raises(ValueError, match="held_out: got 1.0"):
        dapl.fit_prompts(prompts, source, target, held_out=1.0)


@pytest.mark.parametrize(("number", "given"), [("epochs", -1), ("batch_size", 0)])
def test_numbers_that_make_no_training_are_refused(clip: Clip, number: str, given: int):
    prompts = DomainPrompts(clip, NAMES, DOMAINS, shared=1, specific=1)
    with pytest.raises(ValueError, match=f"{number}: got {given}, expected at least"):
        dapl.fit_prompts(prompts, (unit(4, 12), torch.zeros(4, dtype=torch.int64)), None, **{number: given})


def test_a_loss_that_is_not_finite_stops_the_training(clip: Clip):
    source, target = easy(clip)
    broken = (source[0].clone(), source[1])
    broken[0][:] = torch.nan
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        dapl.fit_prompts(DomainPrompts(clip, NAMES, DOMAINS, shared=1, specific=1), broken, target, epochs=1)


# Judging -------------------------------------------------------------------------------------------------------------


def test_the_class_average_counts_a_rare_class_as_much_as_a_frequent_one():
    labels = torch.tensor([0] * 9 + [1])
    always_0 = torch.zeros(10, dtype=torch.int64)
    assert dapl.accuracy(always_0, labels) == pytest.approx(0.9)
    assert dapl.accuracy(always_0, labels, average="class") == pytest.approx(0.5)
    for average in ("overall", "class"):
        assert math.isnan(dapl.accuracy(always_0[:0], labels[:0], average=average))
    with pytest.raises(ValueError, match="average: got 'mean'"):
        dapl.accuracy(always_0, labels, average="mean")
