"""DAPL against zero-shot CLIP, CoOp and fine-tuning, on every ordered pair of domains, three seeds.

A seed draws its own images, learned words and batches. Every learned contender makes the same number of steps on 32
source images, and 32 target images where it looks at them; no label of the target is used before the test.
- zero-shot: "a photo of a ..." for each class, in every domain;
- CoOp: words learned on the source alone, four as DAPL's shared ones;
- fine-tuned: the image tower on the source's labels and the kept pseudo-labels, sentences fixed, BatchNorm's averages
  fixed; the best of three learning rates, and its best quarter of the training, by accuracy on the source's validation
  images (on those of the target it would need labels);
- DAPL: four shared words, beginning as "a photo of a", four of each domain, denominator "both"; the epoch by the loss
  on held-out images with source labels and pseudo-labels.
The threshold, the rate, the number of steps and how long the tiny CLIP is pre-trained were chosen on other draws of
the same domains, with all labels: the comparison is one of methods, not a promise for a domain never seen.
The goals are about the pairs whose target leaves room: zero-shot accuracy from 60 to 90 %. All pairs are recorded.

Further rows: DAPL at other thresholds, with coverage and precision of the pseudo-labels; both denominators, with the
share of the target's images that answer to the target's own prompts; numbers trained; steps a second on cached
features with prompts cut behind the last end token, against the naive loop.

- CPU: the tiny CLIP of the package, 32 pixels.
- GPU: a ViT-S-sized CLIP pre-trained here on a million captioned images, 32 pixels, then the same.
- `--data folder --root DIR`: OpenAI's RN50 on a folder laid out as Office-Home; all its images train, and test.

Results of a pair are kept in `bench-results/trained/` as soon as they are there: an interrupted run goes on.

Rows: "SOURCE to TARGET: CONTENDER" (accuracy in percent, a sample a seed), "TARGET, tau T" and "TARGET, denominator D"
(a sample a source and seed), "mean over pairs: CONTENDER" (a sample a seed), "trained: CONTENDER", "steps: LOOP".
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations, product
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import measure
from course_lib.bench.core import Goal, Options, Report, Row
from course_lib.bench.domains import Domain, Part, Plan, class_names, clip_of, domain_names, domain_of, prepared
from course_lib.bench.exits import one_thread, ratios
from course_lib.bench.kept import kept, side_by_side
from course_lib.beyond import dapl
from course_lib.beyond.clip import Clip
from course_lib.train import cosine, epoch_order

DATA = ("folder",)
SEEDS = (0, 1, 2)
BATCH = 32  # images of each domain in a step
TAU = 0.8
TAUS = (0.0, 0.5, 0.8, 0.95)
WORDS = "a photo of a"
PROMPTS: dict[str, Any] = {"shared": 4, "specific": 4, "words": WORDS}
EPOCHS = 3
RATE = 0.003  # of prompts, as published; at 0.01 the words of some pairs fly away
RATES = (3e-5, 1e-4, 3e-4)  # of the image tower: the middle one is best on the source, 1e-3 destroys it
ROOM = (0.60, 0.90)  # zero-shot accuracy that leaves room, and something to build on
POINTS, LOSS, SPEED = 3.0, 1.0, 5.0
CONTENDERS = ("zero-shot", "CoOp", "fine-tuned", "DAPL")


def run(options: Options) -> Report:
    """Every pair, then speed. `options.quick`: one seed, little data, no goals."""
    plan = _plan(options)
    with one_thread():
        names = domain_names(plan)
        clip_of(plan)  # made once, here, before others want it
        jobs = [(s, t, seed) for seed, (s, t) in product(plan.seeds, permutations(names, 2))]
        work = partial(_pair, plan) if plan.quick else partial(_kept_pair, plan)
        device = plan.device if not plan.quick else "none of many"
        found = dict(zip(jobs, side_by_side(work, jobs, device), strict=True))
        rows = _accuracy_rows(found, plan)
        summary, goals = _summary(found, plan)
        rows += summary + _tau_rows(found, plan) + _denominator_rows(found, plan) + _trained_rows(found, plan)
        speed, faster = _speed(plan, names[:2])
    goals.append(Goal("steps a second: cached and cut / naive", faster, SPEED))
    return Report("language", rows + speed, [] if plan.quick or plan.root else goals)


def _plan(options: Options) -> Plan:
    if options.data not in (None, "folder"):
        raise ValueError(
            f"--data: got {options.data!r}, expected 'folder' with --root DIR, laid out by domain and class"
        )
    network = "tiny" if torch.device(options.device).type == "cpu" or options.quick else "large"
    if options.data is not None and not options.quick:
        network = "RN50"
    train, test = (128, 128) if options.quick else (2_000, 2_000)
    return Plan(
        network, options.root, options.device, train, test,
        epochs=1 if options.quick else EPOCHS,
        rates=RATES[1:2] if options.quick else RATES,
        taus=TAUS[1:3] if options.quick else TAUS,
        seeds=SEEDS[:1] if options.quick else SEEDS,
        quick=options.quick,
    )  # fmt: skip


# One pair ------------------------------------------------------------------------------------------------------------


def _kept_pair(plan: Plan, source: str, target: str, seed: int) -> dict[str, Any]:
    settings = {
        "weights": _fingerprint(clip_of(plan)), "images": [plan.train, plan.test], "epochs": plan.epochs, "lr": RATE,
        "rates": list(plan.rates), "tau": TAU, "taus": list(plan.taus), "prompts": repr(PROMPTS), "root": plan.root,
    }  # fmt: skip
    name = f"language-{plan.network}-{source}-{target}-{seed}.{torch.device(plan.device).type}"
    return kept(name.replace(" ", "_"), settings, partial(_pair, plan, source, target, seed))


def _fingerprint(clip: Clip) -> str:
    digest = hashlib.sha256()
    for name, tensor in clip.model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _pair(plan: Plan, source: str, target: str, seed: int) -> dict[str, Any]:
    """All contenders on one ordered pair: accuracies and what explains them."""
    torch.set_num_threads(1)
    clip, names = clip_of(plan), class_names(plan)
    here, there = (domain_of(plan, name, seed) for name in (source, target))
    classifier = dapl.zero_shot_classifier(clip, names)
    verdict = dapl.pseudo_label(dapl.scores(clip, there.train.features, classifier))
    found: dict[str, Any] = {"zero-shot": _accuracy(dapl.scores(clip, there.test.features, classifier), there.test)}
    labelled = here.train.features, here.train.labels
    settings: dict[str, Any] = {"epochs": plan.epochs, "lr": RATE, "batch_size": BATCH, "seed": seed}

    coop = dapl.DomainPrompts(clip, names, [source], shared=4, specific=0, words=WORDS, seed=seed)
    dapl.fit_prompts(coop, labelled, None, **settings)
    with torch.no_grad():
        found["CoOp"] = _accuracy(coop.logits(there.test.features)[:, 0], there.test)

    variants: list[tuple[dapl.Denominator, float]] = [("both", tau) for tau in plan.taus] + [("own", TAU)]
    for denominator, tau in variants:
        prompts = dapl.DomainPrompts(clip, names, [source, target], seed=seed, **PROMPTS)
        done = dapl.fit_prompts(
            prompts, labelled, (there.train.features, verdict), tau=tau, denominator=denominator, **settings
        )
        with torch.no_grad():
            logits = prompts.logits(there.test.features)
        found[f"{denominator} {tau:g}"] = {
            "accuracy": _accuracy(logits[:, 1], there.test),
            "source prompts": _accuracy(logits[:, 0], there.test),
            "own prompts win": 100 * float((logits.amax(2).argmax(1) == 1).double().mean()),
            "epoch": done.epoch,
        }
        found["steps"] = len(done.losses)
        found["trained"] = prompts.trained_numbers
    found["DAPL"] = found[f"both {TAU:g}"]["accuracy"]
    found["coverage"] = {f"{tau:g}": 100 * verdict.coverage(tau) for tau in plan.taus}
    found["precision"] = {
        f"{tau:g}": 100 * verdict.precision(tau, there.train.labels) if verdict.coverage(tau) else None
        for tau in plan.taus
    }
    return found | _fine_tuned(plan, clip, (here, there), verdict, classifier, found["steps"], seed)


def _accuracy(logits: Tensor, part: Part) -> float:
    return 100 * dapl.accuracy(logits.argmax(1).cpu(), part.labels)


def _fine_tuned(
    plan: Plan,
    clip: Clip,
    pair: tuple[Domain, Domain],
    verdict: dapl.PseudoLabels,
    classifier: Tensor,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """The image tower trained on source labels and kept pseudo-labels; rate and moment chosen on the source."""
    best: dict[str, Any] = {"chosen": -1.0}
    for rate in plan.rates:
        tower = copy.deepcopy(clip.model.visual).requires_grad_(True).eval()  # eval: BatchNorm keeps its averages
        optimizer = torch.optim.SGD(tower.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        feeds = [_feed(len(domain.train.labels), 2 * seed + i) for i, domain in enumerate(pair)]
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * cosine(step / steps)
            rows = [next(feed) for feed in feeds]
            images = torch.cat([prepared(d.train.images, r, clip) for d, r in zip(pair, rows, strict=True)])
            logits = dapl.scores(clip, F.normalize(tower(images), dim=-1), classifier)
            mine, theirs = logits.split([len(r) for r in rows])
            loss = F.cross_entropy(mine, pair[0].train.labels[rows[0]].to(mine.device))
            guessed = verdict.labels[rows[1]], verdict.confidence[rows[1]]
            loss = loss + dapl.pseudo_label_loss(theirs.log_softmax(1), *guessed, TAU)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % max(1, steps // 4) == 0:
                chosen = _tower_accuracy(clip, tower, classifier, pair[0].validation)
                if chosen > best["chosen"]:
                    reached = _tower_accuracy(clip, tower, classifier, pair[1].test)
                    best = {"chosen": chosen, "fine-tuned": reached, "rate": rate, "moment": step + 1}
    best["tower"] = sum(p.numel() for p in clip.model.visual.parameters())
    return best


def _feed(number: int, seed: int) -> Iterator[Tensor]:
    epoch = 0
    while True:
        yield from epoch_order(number, seed, epoch)[0].split(BATCH)
        epoch += 1


@torch.no_grad()
def _tower_accuracy(clip: Clip, tower: Any, classifier: Tensor, part: Part) -> float:
    rows = torch.arange(len(part.labels)).split(256)
    features = torch.cat([F.normalize(tower(prepared(part.images, some, clip)), dim=-1) for some in rows])
    return _accuracy(dapl.scores(clip, features, classifier), part)


# Rows ----------------------------------------------------------------------------------------------------------------

Found = Mapping[tuple[str, str, int], Mapping[str, Any]]  # by source, target, seed


def _pairs(found: Found) -> list[tuple[str, str]]:
    return list(dict.fromkeys((source, target) for source, target, _ in found))


def _with_room(found: Found, plan: Plan) -> list[tuple[str, str]]:
    """Pairs whose target leaves room, by zero-shot accuracy, mean over seeds."""
    low, high = (100 * bound for bound in ROOM)
    zero_shot = {pair: mean(found[(*pair, seed)]["zero-shot"] for seed in plan.seeds) for pair in _pairs(found)}
    return [pair for pair, value in zero_shot.items() if low <= value <= high]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]


def _accuracy_rows(found: Found, plan: Plan) -> list[Row]:
    """Each contender on each pair, a sample a seed."""
    rows, room = [], _with_room(found, plan)
    for source, target in _pairs(found):
        results = [found[source, target, seed] for seed in plan.seeds]
        for contender in CONTENDERS:
            values = [one[contender] for one in results]
            more: dict[str, Any] = {"source": source, "target": target, "contender": contender}
            more |= {"values": _rounded(values)}
            more |= {"room": (source, target) in room, "commits": [one.get("commit", "quick") for one in results]}
            if contender == "fine-tuned":
                more |= {"rates": [one["rate"] for one in results], "moments": [one["moment"] for one in results]}
            if contender == "DAPL":
                more |= {"epochs": [one[f"both {TAU:g}"]["epoch"] for one in results], "steps": results[0]["steps"]}
            rows.append(Row.of(f"{source} to {target}: {contender}", "%", values, **more))
    return rows


def _summary(found: Found, plan: Plan) -> tuple[list[Row], list[Goal]]:
    """Means over the pairs with room, and what DAPL wins over zero-shot."""
    rows, room = [], _with_room(found, plan)
    if not room:
        return [], [Goal("DAPL over zero-shot, points: no target leaves room", float("-inf"), POINTS)]
    for contender in CONTENDERS:
        values = [mean(found[(*pair, seed)][contender] for pair in room) for seed in plan.seeds]
        rows.append(Row.of(f"mean over pairs: {contender}", "%", values, pairs=len(room), values=_rounded(values)))
    gains = [mean(found[(*p, seed)]["DAPL"] - found[(*p, seed)]["zero-shot"] for p in room) for seed in plan.seeds]
    least = {p: mean(found[(*p, seed)]["DAPL"] - found[(*p, seed)]["zero-shot"] for seed in plan.seeds) for p in room}
    worst = min(least, key=lambda pair: least[pair])
    details = {"pairs": len(room), "worst pair": " to ".join(worst), "its gain": round(least[worst], 2)}
    rows.append(Row.of("mean over pairs: DAPL over zero-shot", "points", gains, **details))
    return rows, [
        Goal("DAPL over zero-shot, points, mean over pairs", mean(gains), POINTS),
        Goal("DAPL over zero-shot, points, worst pair", least[worst], -LOSS),
    ]


def _by_target(found: Found, key: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for (_, target, _), one in found.items():
        values.setdefault(target, []).append(key(one))
    return values


def _tau_rows(found: Found, plan: Plan) -> list[Row]:
    """Accuracy by threshold, a sample a source and seed; what was kept, and how much of it was right."""
    rows = []
    for tau in plan.taus:
        by = f"{tau:g}"
        values = _by_target(found, lambda one: one[f"both {by}"]["accuracy"])  # noqa: B023 - called at once
        kept_share = _by_target(found, lambda one: one["coverage"][by])  # noqa: B023
        right = _by_target(found, lambda one: one["precision"][by])  # noqa: B023
        before = _by_target(found, lambda one: one["zero-shot"])
        for target, accuracies in values.items():
            known = [value for value in right[target] if value is not None]
            more = {"target": target, "tau": tau, "coverage": round(mean(kept_share[target]), 2)}
            more |= {"precision": round(mean(known), 2) if known else None, "zero-shot": round(mean(before[target]), 2)}
            rows.append(Row.of(f"{target}, tau {by}", "%", accuracies, **more))
    return rows


def _denominator_rows(found: Found, plan: Plan) -> list[Row]:
    """How many of the target's images answer to its own prompts, by denominator, and how they are classified."""
    rows = []
    for denominator in ("both", "own"):
        key = f"{denominator} {TAU:g}"
        shares = _by_target(found, lambda one: one[key]["own prompts win"])  # noqa: B023 - called at once
        accuracies = _by_target(found, lambda one: one[key]["accuracy"])  # noqa: B023
        others = _by_target(found, lambda one: one[key]["source prompts"])  # noqa: B023
        for target, values in shares.items():
            more = {"target": target, "denominator": denominator, "accuracy": round(mean(accuracies[target]), 2)}
            more |= {"with source prompts": round(mean(others[target]), 2), "values": _rounded(values)}
            name = f"{target}, denominator {denominator}"
            rows.append(Row.of(name, "% own prompts", values, **more))
    return rows


def _trained_rows(found: Found, plan: Plan) -> list[Row]:
    one = next(iter(found.values()))
    return [
        Row.of("trained: DAPL", "numbers", [one["trained"]]),
        Row.of(
            "trained: fine-tuned",
            "numbers",
            [one["tower"]],
            clip=sum(p.numel() for p in clip_of(plan).model.parameters()),
        ),
    ]


# Speed ---------------------------------------------------------------------------------------------------------------


def _speed(plan: Plan, names: Sequence[str]) -> tuple[list[Row], float]:
    """The same updates by both loops, in turn: images encoded in each step and prompts of full length, or neither."""
    clip, classnames = clip_of(plan), class_names(plan)
    here, there = (domain_of(plan, name, plan.seeds[0]) for name in names)
    classifier = dapl.zero_shot_classifier(clip, classnames)
    verdict = dapl.pseudo_label(dapl.scores(clip, there.train.features, classifier))
    rows_of = [torch.arange(BATCH).remainder(len(domain.train.labels)) for domain in (here, there)]
    steps = 2 if plan.quick else 20

    def loop(*, cached: bool) -> Callable[[], Tensor]:
        prompts = dapl.DomainPrompts(clip, classnames, names, cut=cached, **PROMPTS)
        optimizer = torch.optim.SGD(prompts.parameters(), RATE, momentum=0.9, weight_decay=5e-4)

        def features(domain: Domain, rows: Tensor) -> Tensor:
            if cached:
                return domain.train.features[rows]
            with torch.no_grad():
                return clip.model.encode_image(prepared(domain.train.images, rows, clip), normalize=True)

        def call() -> Tensor:
            for _ in range(steps):
                mine, theirs = (features(d, r) for d, r in zip((here, there), rows_of, strict=True))
                labels = here.train.labels[rows_of[0]].to(mine.device)
                guessed = theirs, verdict.labels[rows_of[1]], verdict.confidence[rows_of[1]]
                loss = dapl.train_step(prompts, optimizer, (mine, labels), guessed, tau=TAU)
            return loss

        return call

    contenders = {"naive": loop(cached=False), "cached and cut": loop(cached=True)}
    timings = measure.compare(contenders, rounds=2 if plan.quick else 15, warmup=1)
    faster = ratios(timings["naive"], timings["cached and cut"])
    more = {"batch": 2 * BATCH, "prompts": 2 * len(classnames), "network": plan.network}
    rows = [
        Row.of(f"steps: {name}", "steps/s", [steps / seconds for seconds in timing.samples_s], **more)
        for name, timing in timings.items()
    ]
    row = Row.of("steps: cached and cut / naive", "x", faster, **more)
    return [*rows, row], row.median
