"""Checks of `beyond/dapl`: what is trained, a careful mean, two denominators, a text tower fed with embeddings.

References count and loop; they share nothing with `course_lib.beyond.dapl`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.checks import Case, Check
from course_lib.checks.beyond._text_tower import encode_from_embeddings

CHAPTER = "beyond/dapl"

# Trained numbers -----------------------------------------------------------------------------------------------------


def _counted(classes: int, shared: int, specific: int, width: int, domains: int, per_class: bool) -> int:
    """Write every learned word down once, and count."""
    words: set[tuple[int | str, int]] = set()
    for k in range(classes if per_class else 1):
        words |= {(k, m) for m in range(shared)}
    for d in range(domains):
        words |= {(f"domain {d}", m) for m in range(specific)}
    return width * len(words)


def _numbers(
    classes: int,
    shared: int,
    specific: int,
    width: int,
    domains: int,
    per_class: bool,
    *,
    own: int | None = None,
    copies: int | None = None,
    name: int = 0,
) -> int:
    copies = (classes if per_class else 1) if copies is None else copies
    return width * (copies * shared + (domains if own is None else own) * specific + name)


trained_numbers = Check(
    "trained_numbers",
    chapter=CHAPTER,
    title="how many numbers the prompts hold",
    level=1,
    minutes=8,
    reference=_counted,
    cases=[
        Case.of("VisDA-2017: a context for every class", 12, 16, 16, 512, 2, True),
        Case.of("Office-Home: one context for all classes", 65, 16, 16, 512, 2, False),
        Case.of("Office-Home with a context for every class", 65, 16, 16, 512, 2, True),
        Case.of("CoOp: one domain without words of its own", 10, 4, 0, 512, 1, False),
        Case.of("three domains", 6, 4, 2, 64, 3, False),
    ],
    wrong_answers={
        "domain_part_per_class": lambda classes, shared, specific, width, domains, per_class: _numbers(
            classes, shared, specific, width, domains, per_class, own=domains * (classes if per_class else 1)
        ),
        "one_domain": lambda *args: _numbers(*args, own=1),
        "image_width": lambda classes, shared, specific, width, domains, per_class: _numbers(
            classes, shared, specific, 1024, domains, per_class
        ),
        "always_one_context": lambda *args: _numbers(*args, copies=1),
        "always_per_class": lambda *args: _numbers(*args, copies=args[0]),
        "counts_the_class_names": lambda *args: _numbers(*args, name=args[0]),
        "a_prompt_each": lambda *args: args[3] * args[4] * args[0] * (args[1] + args[2]),
        "shared_words_once_a_domain": lambda classes, shared, specific, width, domains, per_class: _numbers(
            classes, shared, specific, width, domains, per_class, copies=domains * (classes if per_class else 1)
        ),
        "always_two_domains": lambda *args: _numbers(*args, own=2),
        "words_not_numbers": lambda *args: _numbers(*args) // args[3],
    },
    diagnoses={
        "domain_part_per_class": "With a context for every class you also counted the domain's words once a class. "
        "Which part of a prompt may depend on the class, and which only on the domain?",
        "one_domain": "You counted the words of a single domain. How many domains have words of their own?",
        "image_width": "Your words are 1,024 numbers wide, as the image features of RN50 are. Into which tower do "
        "learned words go, and how wide is it?",
        "always_one_context": "You counted one shared context whatever `per_class` says. What does every class have to "
        "itself then?",
        "always_per_class": "You counted a context for every class also where all classes share one. What does "
        "`per_class` say?",
        "counts_the_class_names": "You counted the class names as well. Are their embeddings learned, or taken from "
        "the frozen table?",
        "a_prompt_each": "You counted every prompt's words for itself. Which words stand in many prompts at once?",
        "shared_words_once_a_domain": "You counted the shared words once a domain. Among whom are they shared?",
        "always_two_domains": "With two domains you are right, with three you are not. Where does `domains` come in?",
        "words_not_numbers": "You counted words. How many numbers is a word?",
    },
    accepted=[
        _numbers,
        lambda classes, shared, specific, width, domains, per_class: (
            torch.empty(classes if per_class else 1, shared, width).numel()
            + torch.empty(domains, specific, width).numel()
        ),
    ],
    hints=(
        "A prompt is made of shared words, domain words and a name. Ask of each how many different copies exist.",
        "65 classes, 16 + 16 words of width 512, 2 domains, one context for all: 16 x 512 + 2 x 16 x 512 = 24,576.",
        "(classes if per_class else 1) * shared * width + domains * specific * width.",
    ),
    shows="So a network of a hundred million numbers is adapted by some tens of thousands.",
    tolerance=0.0,
)

# Pseudo-labels -------------------------------------------------------------------------------------------------------


def _loop_loss(log_prob: Tensor, teacher_prob: Tensor, tau: float) -> Tensor:
    """Row by row, the target written as a distribution."""
    total, kept = 0.0 * log_prob.sum().square(), 0  # squared: 0, not -0
    for row, teacher in zip(log_prob, teacher_prob, strict=True):
        if max(teacher.tolist()) >= tau:
            one_hot = torch.zeros_like(row)
            one_hot[teacher.tolist().index(max(teacher.tolist()))] = 1.0
            total = total - (one_hot * row).sum()
            kept += 1
    return total / max(kept, 1)


def _pseudo(
    log_prob: Tensor,
    teacher_prob: Tensor,
    tau: float,
    *,
    by: Callable[[Tensor], Tensor | int] = lambda kept: kept.sum().clamp(min=1),
    strict: bool = False,
    student: bool = False,
    weigh: bool = False,
) -> Tensor:
    confidence, labels = teacher_prob.max(1)
    kept = confidence > tau if strict else confidence >= tau
    labels = log_prob.argmax(1) if student else labels
    each = -log_prob.gather(1, labels[:, None])[:, 0]
    each = each * confidence if weigh else each
    return each[kept].sum() / by(kept)


def _student_is_asked(log_prob: Tensor, teacher_prob: Tensor, tau: float) -> Tensor:
    kept = log_prob.exp().max(1).values >= tau
    each = F.nll_loss(log_prob, teacher_prob.argmax(1), reduction="none")
    return each[kept].sum() / kept.sum().clamp(min=1)


def _soft(log_prob: Tensor, teacher_prob: Tensor, tau: float) -> Tensor:
    kept = teacher_prob.max(1).values >= tau
    return -(teacher_prob * log_prob).sum(1)[kept].sum() / kept.sum().clamp(min=1)


def _every_class(log_prob: Tensor, teacher_prob: Tensor, tau: float) -> Tensor:
    kept = teacher_prob >= tau
    return -log_prob[kept].sum() / kept.sum().clamp(min=1)


_STUDENT = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.25, 0.35, 0.4], [0.8, 0.15, 0.05]], dtype=torch.float64)
_TEACHER = torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.1, 0.3, 0.6]], dtype=torch.float64)


def _loss_and_gradient(tau: float, rows: int = 4) -> Callable[[Callable[..., Any]], Any]:
    def run(answer: Callable[..., Any]) -> dict[str, Any]:
        log_prob = _STUDENT[:rows].log().requires_grad_()
        loss = answer(log_prob, _TEACHER[:rows].clone(), tau)
        gradient = torch.zeros_like(log_prob)
        if isinstance(loss, Tensor) and loss.requires_grad:
            (found,) = torch.autograd.grad(loss, log_prob, allow_unused=True)
            gradient = gradient if found is None else found
        return {"loss": loss, "its gradient": gradient}

    return run


_GIVEN = "4 images, 3 classes; the teacher's largest probabilities are 0.9, 0.5, 0.4, 0.6"

pseudo_label_loss = Check(
    "pseudo_label_loss",
    chapter=CHAPTER,
    title="a mean over the labels that are sure enough",
    level=2,
    minutes=15,
    reference=_loop_loss,
    cases=[
        Case("three of four are kept, one of them just so", _loss_and_gradient(0.5), show=f"tau 0.5; {_GIVEN}"),
        Case("nobody is sure enough", _loss_and_gradient(0.95), show=f"tau 0.95; {_GIVEN}"),
        Case("tau 0 keeps all", _loss_and_gradient(0.0), show=f"tau 0; {_GIVEN}"),
        Case("one is kept", _loss_and_gradient(0.7), show=f"tau 0.7; {_GIVEN}"),
        Case("an empty batch", _loss_and_gradient(0.5, rows=0), show="no images at all"),
    ],
    wrong_answers={
        "nan_when_empty": lambda *args: _pseudo(*args, by=lambda kept: kept.sum()),
        "mean_over_all": lambda *args: _pseudo(*args, by=lambda kept: max(len(kept), 1)),
        "labels_from_the_student": lambda *args: _pseudo(*args, student=True),
        "strictly_above": lambda *args: _pseudo(*args, strict=True),
        "asks_the_student_for_confidence": _student_is_asked,
        "sum_not_mean": lambda *args: _pseudo(*args, by=lambda kept: 1),
        "weighs_by_confidence": lambda *args: _pseudo(*args, weigh=True),
        "soft_labels": _soft,
        "every_class_above_tau": _every_class,
        "wrong_sign": lambda *args: -_pseudo(*args),
    },
    diagnoses={
        "nan_when_empty": "Where nobody is sure enough, your loss is not a number. What is 0 divided by 0, and by what "
        "would you rather divide?",
        "mean_over_all": "You divided by all images. How many did the sum contain?",
        "labels_from_the_student": "You took the labels from the student itself. Who is the teacher here, and what "
        "would a student learn that is told it is right?",
        "strictly_above": "An image whose confidence equals tau was left out. Which labels does `reaches tau` keep?",
        "asks_the_student_for_confidence": "You kept the images that the *student* is sure of. Whose confidence shall "
        "decide?",
        "sum_not_mean": "You added the losses up. What would a batch with twice as many kept images do to your "
        "gradient?",
        "weighs_by_confidence": "You weighed each kept image by its confidence. Once it is kept, how much does a "
        "label count?",
        "soft_labels": "You compared with all of the teacher's probabilities. Which single class does it name?",
        "every_class_above_tau": "You kept every class that reaches tau, and at tau 0 these are all. How many labels "
        "can an image have?",
        "wrong_sign": "Your loss is negative, and training would make the labels less likely. Of what is the loss the "
        "mean?",
    },
    accepted=[
        _pseudo,
        lambda log_prob, teacher_prob, tau: (
            F.nll_loss(log_prob[teacher_prob.amax(1) >= tau], teacher_prob.argmax(1)[teacher_prob.amax(1) >= tau])
            if (teacher_prob.amax(1) >= tau).any()
            else torch.zeros((), dtype=log_prob.dtype)
        ),
        lambda log_prob, teacher_prob, tau: (
            (-(log_prob * F.one_hot(teacher_prob.argmax(1), 3)).sum(1) * (teacher_prob.amax(1) >= tau)).sum()
            / max(1, int((teacher_prob.amax(1) >= tau).sum()))
        ),
    ],
    hints=(
        "Three things from two inputs: the label and the confidence come from the teacher, the loss from the student. "
        "Then a mean, with care for the case that there is nothing to take it of.",
        "tau 0.7 keeps only the first image. The teacher says class 0, the student gives it 0.6: the loss is -log 0.6, "
        "0.511.",
        "confidence, labels = teacher_prob.max(1); kept = confidence >= tau; then minus log_prob at the labels, "
        "[kept].sum(), divided by kept.sum().clamp(min=1).",
    ),
    shows="A label that is not sure enough counts as nothing, and nothing is 0, not NaN.",
    tolerance=1e-6,
)

# The two denominators ------------------------------------------------------------------------------------------------


def _by_hand(logits: Tensor, domain: int, denominator: str) -> Tensor:
    """One number at a time; the largest logit is taken off first."""
    classes = logits.shape[1] // 3
    rows = []
    for row in logits.unbind():
        over = row[: 2 * classes] if denominator == "both" else row[domain * classes : (domain + 1) * classes]
        top = float(over.detach().max())
        total = torch.stack([(value - top).exp() for value in over.unbind()]).sum().log() + top
        rows.append(torch.stack([row[domain * classes + k] - total for k in range(classes)]))
    return torch.stack(rows)


def _log_prob(
    logits: Tensor,
    domain: int,
    denominator: str,
    *,
    both: Callable[[Tensor, int], Tensor] = lambda x, k: x[:, : 2 * k],
    mine: Callable[[Tensor, int, int], Tensor] = lambda x, d, k: x[:, d * k : (d + 1) * k],
) -> Tensor:
    classes = logits.shape[1] // 3
    numerator = mine(logits, domain, classes)
    over = both(logits, classes) if denominator == "both" else numerator
    return numerator - over.logsumexp(1, keepdim=True)


def _two_softmaxes(logits: Tensor, domain: int, denominator: str) -> Tensor:
    own = [_log_prob(logits, d, "own") for d in (0, 1)]
    return torch.logaddexp(*own) if denominator == "both" else own[domain]


def _naive_exp(logits: Tensor, domain: int, denominator: str) -> Tensor:
    classes = logits.shape[1] // 3
    own = logits[:, domain * classes : (domain + 1) * classes].exp()
    over = logits[:, : 2 * classes].exp() if denominator == "both" else own
    return (own / over.sum(1, keepdim=True)).log()


_LOGITS = torch.tensor(
    [[2.0, 0.5, -1.0, 1.0, 1.5, 0.0, 3.0, 0.2, -0.4], [0.1, -0.7, 0.9, 2.2, -1.1, 0.3, 0.0, 1.0, 2.0]]
)


def _pattern(answer: Callable[..., Any], denominator: str) -> Any:
    """Which logits a loss on source labels moves."""
    logits = _LOGITS.clone().requires_grad_()
    value = answer(logits, 0, denominator)
    if not value.requires_grad:
        return "the answer carries no gradient"
    (gradient,) = torch.autograd.grad(-value[:, 1].sum(), logits)
    parts = dict(zip(("source", "target", "hand-written"), gradient.unflatten(1, (3, -1)).unbind(1), strict=True))
    return {f"{name} prompts": "move" if part.abs().max() > 1e-7 else "stay" for name, part in parts.items()}


dapl_log_prob = Check(
    "dapl_log_prob",
    chapter=CHAPTER,
    title="two denominators, the paper's and the code's",
    level=3,
    minutes=22,
    reference=_by_hand,
    cases=[
        Case.of("the source's prompts, both domains compete", _LOGITS, 0, "both"),
        Case.of("the target's prompts, both domains compete", _LOGITS, 1, "both"),
        Case.of("the target's prompts, each domain apart", _LOGITS, 1, "own"),
        Case("what source labels move, both", lambda answer: _pattern(answer, "both"), show="domain 0, both"),
        Case("what source labels move, own", lambda answer: _pattern(answer, "own"), show="domain 0, own"),
        Case.of("logits as large as CLIP's", 50 * _LOGITS, 1, "both"),
        Case.of("a single class", torch.tensor([[1.0, 2.0, 3.0]]), 1, "both"),
    ],
    wrong_answers={
        "class_major_order": lambda logits, domain, denominator: _log_prob(
            logits, domain, denominator, mine=lambda x, d, k: x[:, d : 2 * k : 2]
        ),
        "sums_two_softmaxes": _two_softmaxes,
        "naive_prompts_compete": lambda *args: _log_prob(*args, both=lambda x, k: x),
        "always_own": lambda logits, domain, denominator: _log_prob(logits, domain, "own"),
        "always_both": lambda logits, domain, denominator: _log_prob(logits, domain, "both"),
        "always_the_source": lambda logits, domain, denominator: _log_prob(logits, 0, denominator),
        "without_the_logarithm": lambda *args: _log_prob(*args).exp(),
        "exponentiates_first": _naive_exp,
        "both_domains_columns": lambda logits, domain, denominator: (
            logits[:, : logits.shape[1] // 3 * 2].log_softmax(1)
            if denominator == "both"
            else _log_prob(logits, domain, "own")
        ),
        "no_gradient": lambda logits, domain, denominator: _log_prob(logits.detach(), domain, denominator),
        "competes_class_by_class": lambda logits, domain, denominator: (
            _log_prob(logits, domain, "own")
            if denominator == "own"
            else logits.unflatten(1, (3, -1))[:, :2].log_softmax(1)[:, domain]
        ),
    },
    diagnoses={
        "class_major_order": "You took every second logit. In which order do the prompts stand, by class or by domain "
        "first?",
        "sums_two_softmaxes": "You took a softmax in each domain and added the two. In how many softmaxes does a "
        "prompt compete if there is one denominator?",
        "naive_prompts_compete": "The hand-written prompts are in your denominator. Which prompts does the paper let "
        "compete, and what are the others for?",
        "always_own": "Your denominator holds one domain's prompts, whatever was asked. Against whom must a source "
        "prompt win in the paper's equation?",
        "always_both": "Your denominator holds both domains' prompts, whatever was asked. What does the released code "
        "leave out?",
        "always_the_source": "You returned the source's prompts also for domain 1. Where do the target's begin?",
        "without_the_logarithm": "These are the probabilities. What does a log-likelihood add up?",
        "exponentiates_first": "Small logits come out right, large ones do not. How large is exp(110) in float32, and "
        "which function takes the logarithm of a sum of exponentials without computing them?",
        "both_domains_columns": "You returned the columns of both domains. All of them compete; whose were asked for?",
        "no_gradient": "The values are right and carry no gradient. How do learned words hear of the loss?",
        "competes_class_by_class": "You let the two prompts of one class compete, class by class. Over how many "
        "prompts does the paper's denominator run?",
    },
    accepted=[
        _log_prob,
        lambda logits, domain, denominator: (
            logits.unflatten(1, (3, -1))[:, :2].flatten(1).log_softmax(1).unflatten(1, (2, -1))[:, domain]
            if denominator == "both"
            else logits.chunk(3, dim=1)[domain].log_softmax(1)
        ),
    ],
    hints=(
        "Cut the row into three parts first. Then decide which part is the numerator, and which parts stand in the "
        "denominator.",
        "Two classes, logits [1, 0 | 2, 0 | 5, 5], domain 0: own takes log_softmax of [1, 0], so -0.313 for class 0; "
        "both takes it of [1, 0, 2, 0], so -1.494.",
        "mine = logits[:, domain * K : (domain + 1) * K]; over = logits[:, : 2 * K] for both, mine for own; "
        "mine - torch.logsumexp(over, 1, keepdim=True).",
    ),
    shows="One slice decides whether prompts learn to know their domain.",
    tolerance=1e-5,
)

TASKS = (trained_numbers, pseudo_label_loss, dapl_log_prob, encode_from_embeddings)
