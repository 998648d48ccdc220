"""Checks of `instance/l2w`: centred weights, the bins of the judges, the gradient of a weight, and the look-ahead step.

References are written anew, in plain Python where that is readable, and share nothing with `course_lib.instance.l2w`.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_lib.checks import Case, Check

CHAPTER = "instance/l2w"

# Weights -------------------------------------------------------------------------------------------------------------

_AXES: dict[str, tuple[int, ...]] = {"mat": (0, 1), "col": (1,), "row": (0,)}
_EXCHANGED = {"col": "row", "row": "col", "mat": "mat"}
_RAW = torch.tensor([[0.9, 0.0, -0.6, 0.3], [-0.2, 0.1, 0.4, -0.9], [0.5, 0.8, 0.7, -0.1]])
_ONE_HIGH = torch.tensor([[1.0, -1.0, -1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, 1.0, 1.0], [0.2, 0.1, 0.0, -0.1, -0.2]])


def _centred(raw: Tensor, epsilon: float, mode: str) -> list[list[float]]:
    rows = raw.tolist()
    flat = [t for row in rows for t in row]
    columns = list(zip(*rows, strict=True))

    def mean(i: int, k: int) -> float:
        over = {"mat": flat, "col": rows[i], "row": columns[k]}[mode]
        return math.fsum(over) / len(over)

    return [[1 + epsilon * (t - mean(i, k)) for k, t in enumerate(row)] for i, row in enumerate(rows)]


def _centred_at_once(raw: Tensor, epsilon: float, mode: str) -> Tensor:
    return 1 + epsilon * (raw - raw.mean(_AXES[mode], keepdim=True))


def _centred_after_scaling(raw: Tensor, epsilon: float, mode: str) -> Tensor:
    means = {"mat": raw.mean(), "col": raw.mean(1)[:, None], "row": raw.mean(0)[None]}
    return torch.ones_like(raw) + epsilon * raw - epsilon * means[mode].expand_as(raw)


def _divided(raw: Tensor, epsilon: float, mode: str) -> Tensor:
    around_one = 1 + epsilon * raw
    return around_one / around_one.mean(_AXES[mode], keepdim=True)


def _softmax_weights(raw: Tensor, epsilon: float, mode: str) -> Tensor:
    if mode == "mat":
        return raw.numel() * (epsilon * raw).flatten().softmax(0).reshape(raw.shape)
    axis = 1 if mode == "col" else 0
    return raw.shape[axis] * (epsilon * raw).softmax(axis)


centre = Check(
    "centre",
    chapter=CHAPTER,
    title="weights that average to one",
    level=1,
    minutes=10,
    reference=_centred,
    cases=[
        Case.of("over the exits of each sample", _RAW, 0.8, "col"),
        Case.of("over the samples at each exit", _RAW, 0.8, "row"),
        Case.of("over the whole matrix", _RAW, 0.3, "mat"),
        Case.of("extreme raw weights", _ONE_HIGH, 0.8, "col"),
        Case.of("no strength", _RAW, 0.0, "row"),
        Case.of("a single sample", _RAW[:1], 0.5, "mat"),
        Case(
            "the mean is one",
            lambda answer: [float(torch.as_tensor(answer(_RAW.clone(), 0.8, mode)).mean()) for mode in _AXES],
            show="the mean of your weights in the three modes",
        ),
    ],
    wrong_answers={
        "softmax_weights": _softmax_weights,
        "wrong_axis": lambda raw, epsilon, mode: _centred(raw, epsilon, _EXCHANGED[mode]),
        "one_mean_for_all": lambda raw, epsilon, mode: _centred(raw, epsilon, "mat"),
        "divides_by_the_mean": _divided,
        "clips_at_zero": lambda raw, epsilon, mode: _centred_at_once(raw, epsilon, mode).clamp(min=0),
        "forgets_to_centre": lambda raw, epsilon, mode: 1 + epsilon * raw,
        "centres_on_zero": lambda raw, epsilon, mode: _centred_at_once(raw, epsilon, mode) - 1,
    },
    diagnoses={
        "one_mean_for_all": "You took the mean of the whole matrix in every mode. With 'col' every sample must keep a "
        "total weight of K: over how many numbers does each mean go then?",
        "divides_by_the_mean": "You brought the average to one by a division. By how much does the largest weight grow "
        "if the mean of its row is small, and what does the formula do instead?",
        "softmax_weights": "Your weights average to one and are all positive: you used a softmax. Is the formula "
        "linear in the raw weights, and may a weight be negative?",
        "wrong_axis": "'col' and 'row' are exchanged in your answer. With 'col' every sample keeps a total weight of "
        "K: which numbers must then be averaged?",
        "clips_at_zero": "Your negative weights became 0, so the average is no longer one. Does the formula say "
        "anything about negative weights?",
        "forgets_to_centre": "You scaled the raw weights and added one. What is the mean of your weights when most raw "
        "weights are positive?",
        "centres_on_zero": "Your weights average to zero. What should a weight be where the raw weight is the mean?",
    },
    accepted=[_centred_at_once, _centred_after_scaling],
    hints=(
        "Three things happen to a raw weight: a mean is taken off, epsilon scales it, and 1 is added. Only the mean "
        "depends on the mode.",
        "Raw weights 0.9, 0.0, -0.6 of one sample, 'col', epsilon 0.8: the mean is 0.1, so the weights are 1 + 0.8 * "
        "0.8 = 1.64, 0.92 and 0.44. They add up to 3.",
        "`raw.mean(1, keepdim=True)` for 'col', `raw.mean(0, keepdim=True)` for 'row', `raw.mean()` for 'mat'; then "
        "1 + epsilon * (raw - mean).",
    ),
    shows="The weights move between exits or samples, while the loss as a whole keeps its size.",
)

# Bins ----------------------------------------------------------------------------------------------------------------

_SURE = torch.rand(512, 5, generator=torch.Generator().manual_seed(7))
_SIX = torch.tensor(
    [[0.9, 0.5, 0.1], [0.2, 0.9, 0.1], [0.8, 0.8, 0.1], [0.4, 0.7, 0.1], [0.7, 0.3, 0.1], [0.3, 0.6, 0.1]]
)


def _down(wanted: float) -> int:
    return math.floor(wanted + 1e-9)


def _each_down(wanted: list[float]) -> list[int]:
    return [_down(size) for size in wanted]


def _ends_rounded_down(wanted: list[float]) -> list[int]:
    ends = [0, *(_down(math.fsum(wanted[: k + 1])) for k in range(len(wanted)))]
    return [late - early for early, late in itertools.pairwise(ends)]


def _bins(
    confidence: Tensor,
    rho: float,
    *,
    sizes: Callable[[list[float]], list[int]] = _each_down,
    overlapping: bool = False,
    surest_first: bool = True,
    of_the_rest: bool = False,
) -> list[int]:
    """Sample by sample, with sorted lists; the flags are the planted mistakes."""
    rows, exits = confidence.tolist(), confidence.shape[1]
    shares = [rho**k / math.fsum(rho**j for j in range(exits)) for k in range(exits)]
    taken, here = [exits - 1] * len(rows), list(range(len(rows)))
    fixed = sizes([share * len(rows) for share in shares])
    for k in range(exits - 1):
        asked = list(range(len(rows))) if overlapping else here
        ranked = sorted(asked, key=lambda i: rows[i][k], reverse=surest_first)
        chosen = ranked[: _down(shares[k] * len(here)) if of_the_rest else fixed[k]]
        for i in chosen:
            taken[i] = k
        here = [i for i in here if i not in chosen]
    return taken


def _bins_by_masking(confidence: Tensor, rho: float) -> Tensor:
    number, exits = confidence.shape
    shares = rho ** torch.arange(exits, dtype=torch.float64)
    shares = shares / shares.sum()
    taken = torch.full((number,), exits - 1)
    left = confidence.clone()
    for k in range(exits - 1):
        chosen = left[:, k].topk(int(shares[k] * number + 1e-9)).indices
        taken[chosen] = k
        left[chosen] = -torch.inf
    return taken


def _sizes(answer: Callable[..., Any]) -> list[int]:
    return torch.as_tensor(answer(_SURE.clone(), 0.75)).bincount(minlength=5).tolist()


def _in_another_order(answer: Callable[..., Any]) -> bool:
    order = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    straight, mixed = (torch.as_tensor(answer(_SURE[rows], 0.75)) for rows in (torch.arange(512), order))
    return torch.equal(straight[order], mixed)


allocate = Check(
    "allocate",
    chapter=CHAPTER,
    title="the bins of the judges",
    level=2,
    minutes=15,
    reference=_bins,
    cases=[
        Case.of("the six samples of the chapter", _SIX, 1.0),
        Case("512 samples: how many in each bin", _sizes, show="the sizes of your bins for rho = 0.75, five exits"),
        Case.of("512 samples: who is where", _SURE, 0.75),
        Case.of("late exits favoured", _SURE[:40, :3], 1.6),
        Case.of("a hurry", _SURE[:33, :4], 0.3),
        Case.of("fewer samples than exits", _SURE[:3], 1.0),
        Case.of("a single exit", _SURE[:4, :1], 0.75),
        Case.of("everybody at the first exit", _SURE[:7, :3], 0.0),
        Case("the order of the samples does not matter", _in_another_order, show="512 samples, then the same shuffled"),
    ],
    wrong_answers={
        "rounds_sizes": lambda confidence, rho: _bins(confidence, rho, sizes=lambda wanted: [*map(round, wanted)]),
        "rounds_up": lambda confidence, rho: _bins(confidence, rho, sizes=lambda wanted: [-_down(-s) for s in wanted]),
        "rounds_the_ends": lambda confidence, rho: _bins(confidence, rho, sizes=_ends_rounded_down),
        "overlapping_bins": lambda confidence, rho: _bins(confidence, rho, overlapping=True),
        "least_confident_first": lambda confidence, rho: _bins(confidence, rho, surest_first=False),
        "share_of_the_rest": lambda confidence, rho: _bins(confidence, rho, of_the_rest=True),
    },
    diagnoses={
        "rounds_sizes": "Some of your bins hold one sample too many: 168 instead of 167 of 512. Which way does the "
        "size of a bin go when the share is no whole number?",
        "rounds_up": "Your sizes were rounded up, so the last exit gets too few. Which way does the size of a bin go "
        "when the share is no whole number, and who takes what is left over?",
        "rounds_the_ends": "You added the shares up, rounded where each bin ends, and took differences: 167, 126, "
        "95 of 512. Of which numbers does the sheet take the floor?",
        "overlapping_bins": "After the first exit you went on ranking all samples, also those that were taken already. "
        "Who is still there to be asked?",
        "least_confident_first": "Your first exit takes the samples it is least sure of. Who leaves first at test "
        "time?",
        "share_of_the_rest": "Your sizes are shares of those still there. Of how many samples are the shares a part, "
        "if they add up to 1?",
    },
    accepted=[_bins_by_masking, lambda confidence, rho: torch.tensor(_bins(confidence, rho), dtype=torch.int64)],
    hints=(
        "Go exit by exit and keep a list of who is still there. The sizes are shares of *all* samples, the ranking is "
        "among those left.",
        "Six samples, equal shares: exit 0 takes the two with the largest numbers in column 0, exit 1 the two largest "
        "of column 1 among the four that are left, exit 2 the last two.",
        "For k in range(K - 1): wanted = floor(q_k n); order = `confidence[here, k].argsort(descending=True)`; the "
        "first `wanted` of `here[order]` get k, the others are the new `here`. Start with everybody at K - 1.",
    ),
    shows="So each sample is judged at the exit where it would leave, and the last exits by a handful only.",
)

# The gradient of a weight --------------------------------------------------------------------------------------------


def _by_differences(theta: float, targets: Sequence[float], alpha: float, meta_target: float) -> list[float]:
    """Central differences; the meta loss is quadratic in a weight, so they are exact but for rounding."""
    number = len(targets)

    def meta_loss(weights: Sequence[float]) -> float:
        step = math.fsum(w * (theta - a) for w, a in zip(weights, targets, strict=True)) / number
        return (theta - alpha * step - meta_target) ** 2 / 2

    ones = [1.0] * number
    moved = lambda i, by: [w + by * (j == i) for j, w in enumerate(ones)]  # noqa: E731
    return [(meta_loss(moved(i, 0.5)) - meta_loss(moved(i, -0.5))) for i in range(number)]


def _agreement(
    theta: float,
    targets: Sequence[float],
    alpha: float,
    meta_target: float,
    *,
    old_theta: bool = False,
    sign: float = -1.0,
    batch_mean: bool = True,
    sum_step: bool = False,
    own_ahead: bool = False,
) -> list[float]:
    """The formula; the flags are the planted mistakes."""
    number = len(targets)
    step = sum(theta - a for a in targets) / (1 if sum_step else number)
    ahead = theta - alpha * step
    judged = (theta if old_theta else ahead) - meta_target
    return [
        sign * alpha / (number if batch_mean else 1) * judged * ((ahead if own_ahead else theta) - a) for a in targets
    ]


def _by_autograd(theta: float, targets: Sequence[float], alpha: float, meta_target: float) -> Tensor:
    places = torch.tensor(targets, dtype=torch.float64)
    weights = torch.ones_like(places, requires_grad=True)
    ahead = theta - alpha * (weights * (theta - places)).mean()
    return torch.autograd.grad((ahead - meta_target) ** 2 / 2, weights)[0]


meta_gradient = Check(
    "meta_gradient",
    chapter=CHAPTER,
    title="how a weight changes the loss one step later",
    level=3,
    minutes=25,
    reference=_by_differences,
    cases=[
        Case.of("two samples", 0.0, [1.0, -3.0], 0.1, 2.0),
        Case.of("three samples, a long step", 0.5, [1.0, 2.0, -0.5], 0.9, -1.0),
        Case.of("a single sample", 1.0, [3.0], 0.2, 0.0),
        Case.of("no step, no influence", 0.3, [1.0, -1.0], 0.0, 2.0),
        Case.of("a sample that is already fitted", 2.0, [2.0, 0.0], 0.5, 3.0),
    ],
    wrong_answers={
        "at_old_theta": lambda *args: _agreement(*args, old_theta=True),
        "wrong_sign": lambda *args: _agreement(*args, sign=1.0),
        "forgets_batch_mean": lambda *args: _agreement(*args, batch_mean=False),
        "steps_by_the_sum": lambda *args: _agreement(*args, sum_step=True),
        "sums_everywhere": lambda *args: _agreement(*args, sum_step=True, batch_mean=False),
        "own_gradient_ahead": lambda *args: _agreement(*args, own_ahead=True),
    },
    diagnoses={
        "at_old_theta": "You took the meta gradient at theta. Where does the network stand when it is judged?",
        "wrong_sign": "Your signs are turned round. If a sample's gradient agrees with the meta gradient, does more "
        "weight for it raise or lower the meta loss?",
        "forgets_batch_mean": "Each of your numbers is B times too large. By how much does one weight move the mean of "
        "B losses?",
        "steps_by_the_sum": "Your step goes B times too far before it is judged. Is the training loss a sum or a mean "
        "over the batch?",
        "sums_everywhere": "You added the training losses up, in the step and in its derivative. The sheet says mean: "
        "by how much less does one sample move theta then?",
        "own_gradient_ahead": "You took the samples' own gradients after the step. With which gradients was the step "
        "made?",
    },
    accepted=[_agreement, _by_autograd],
    hints=(
        "Write down theta_hat as a function of the weights, then use the chain rule: how does the meta loss change "
        "with theta_hat, and how does theta_hat change with one weight?",
        "theta 0, targets 1 and -3, alpha 0.1: the gradients are -1 and 3, their mean 1, so theta_hat is -0.1. With "
        "the meta target 2 the meta gradient is -2.1. For the first weight: -(0.1 / 2) * (-2.1) * (-1) = -0.105.",
        "gradients = [theta - a for a in targets]; theta_hat = theta - alpha * mean(gradients); then "
        "-(alpha / B) * (theta_hat - meta_target) * g for each g in gradients.",
    ),
    shows="A sample gains weight exactly if its gradient points where the judges want to go.",
)

# The look-ahead ------------------------------------------------------------------------------------------------------


def _network() -> nn.Module:
    generator = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.train()


def _gradient(total: Any, weights: Tensor) -> Tensor | str:
    """What the weights hear of a loss on the copy; no gradient and a failing one are observations, too."""
    if not (isinstance(total, Tensor) and total.requires_grad):
        return "none"
    try:
        found = torch.autograd.grad(total, weights, allow_unused=True)[0]
    except RuntimeError:
        return "an error: something the graph needs was overwritten"
    return "none" if found is None else found


def _trial(name: str, lr: float, momentum: float, weight_decay: float) -> Case:
    def run(answer: Callable[..., Any]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(8)
        model = _network()
        x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        labels = torch.tensor([0, 1, 1, 0, 1, 0])
        weights = torch.linspace(0.4, 1.6, 6, dtype=torch.float64).requires_grad_()
        buffers = {
            n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()
        }
        before = copy.deepcopy((dict(model.state_dict()), buffers))

        def loss(call: Callable[[Tensor], Tensor]) -> Tensor:
            return (weights * nn.functional.cross_entropy(call(x), labels, reduction="none")).mean()

        ahead = answer(model, loss, buffers, lr, momentum, weight_decay)
        ahead = {name: ahead[name] for name in buffers}
        total = sum((value * (1 + i)).sum() for i, value in enumerate(ahead.values()))
        gradient = _gradient(total, weights)
        state = model.state_dict()
        named = dict(model.named_parameters())
        return {
            "values": {name: value.detach().clone() for name, value in ahead.items()},
            "parameters untouched": all(torch.equal(state[n], before[0][n]) for n in named),
            "running statistics untouched": all(
                torch.equal(state[n], v) for n, v in before[0].items() if n not in named
            ),
            "momentum untouched": all(torch.equal(buffers[n], v) for n, v in before[1].items()),
            "still in training mode": model.training,
            "gradient of the weights": gradient,
        }

    return Case(name, run, show=f"lr {lr:g}, momentum {momentum:g}, weight decay {weight_decay:g}")


def _by_the_optimizer(
    model: nn.Module, loss: Any, buffers: dict[str, Tensor], lr: float, momentum: float, weight_decay: float
) -> dict[str, Tensor]:
    """Values from torch.optim.SGD on a copy; the weights' gradient from a second copy's loss, which is linear in it."""
    twin, stepped = copy.deepcopy(model), copy.deepcopy(model)
    slopes = torch.autograd.grad(loss(twin), list(twin.parameters()), create_graph=True)
    optimizer = torch.optim.SGD(stepped.parameters(), lr, momentum=momentum, weight_decay=weight_decay)
    for (name, parameter), slope in zip(stepped.named_parameters(), slopes, strict=True):
        optimizer.state[parameter]["momentum_buffer"] = buffers[name].clone()
        parameter.grad = slope.detach().clone()
    optimizer.step()
    return {
        name: parameter.detach() - lr * (slope - slope.detach())
        for (name, parameter), slope in zip(stepped.named_parameters(), slopes, strict=True)
    }


def _functional(
    model: nn.Module,
    loss: Any,
    buffers: dict[str, Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
    *,
    graph: bool = True,
    own_statistics: bool = False,
    restored: bool = False,
    for_real: bool = False,
    moved_buffers: bool = False,
    bare_decay: bool = False,
) -> dict[str, Tensor]:
    """The solution; the flags are the planted mistakes."""
    parameters = dict(model.named_parameters())
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    value = loss(model if own_statistics else lambda x: functional_call(model, copies, (x,)))
    slopes = torch.autograd.grad(value, list(parameters.values()), create_graph=graph)
    ahead = {}
    for (name, parameter), slope in zip(parameters.items(), slopes, strict=True):
        velocity = momentum * buffers[name] + slope
        decay = weight_decay * parameter
        ahead[name] = parameter - lr * velocity - (decay if bare_decay else lr * decay)
        if moved_buffers:
            buffers[name].copy_((velocity + decay).detach())
    written: Iterable[tuple[Tensor, Tensor]] = ()
    if for_real:
        written = ((parameter, ahead[name]) for name, parameter in parameters.items())
    elif restored:
        written = ((buffer, copies[name]) for name, buffer in model.named_buffers())
    with torch.no_grad():
        for tensor, new in written:
            tensor.copy_(new)
    return ahead


def _in_eval_mode(model: nn.Module, *args: Any) -> dict[str, Tensor]:
    ahead = _functional(model.eval(), *args)
    model.train()
    return ahead


def _with_a_copy(
    model: nn.Module, loss: Any, buffers: dict[str, Tensor], lr: float, momentum: float, weight_decay: float
) -> dict[str, Tensor]:
    """A differently written right answer: the whole module is copied, so nothing can be polluted."""
    twin = copy.deepcopy(model)
    names, parameters = zip(*twin.named_parameters(), strict=True)
    slopes = torch.autograd.grad(loss(twin), parameters, create_graph=True)
    found = {}
    for name, parameter, slope in zip(names, parameters, slopes, strict=True):
        velocity = momentum * buffers[name] + slope.add(parameter.detach(), alpha=weight_decay)
        found[name] = parameter.detach().sub(velocity, alpha=lr)
    return found


def _bare(*args: Any, momentum: bool = False, decay: bool = False) -> dict[str, Tensor]:
    model, loss, buffers, lr, with_momentum, weight_decay = args
    return _functional(model, loss, buffers, lr, with_momentum * momentum, weight_decay * decay)


look_ahead = Check(
    "look_ahead",
    chapter=CHAPTER,
    title="a step that touches nothing and can be differentiated",
    level=5,
    minutes=40,
    reference=_by_the_optimizer,
    cases=[
        _trial("momentum and weight decay", 0.1, 0.9, 0.05),
        _trial("a plain gradient step", 0.3, 0.0, 0.0),
        _trial("momentum alone", 0.2, 0.5, 0.0),
        _trial("weight decay alone", 0.2, 0.0, 0.1),
    ],
    wrong_answers={
        "no_graph": lambda *args: _functional(*args, graph=False),
        "pollutes_batchnorm": lambda *args: _functional(*args, own_statistics=True),
        "restores_in_place": lambda *args: _functional(*args, own_statistics=True, restored=True),
        "in_eval_mode": _in_eval_mode,
        "moves_the_buffers": lambda *args: _functional(*args, moved_buffers=True),
        "decay_without_lr": lambda *args: _functional(*args, bare_decay=True),
        "plain_sgd": lambda *args: _bare(*args, decay=True),
        "forgets_decay": lambda *args: _bare(*args, momentum=True),
        "steps_for_real": lambda *args: _functional(*args, for_real=True),
    },
    diagnoses={
        "no_graph": "Your parameters are right, but the sample weights get no gradient from them. What does "
        "`torch.autograd.grad` keep of its own computation, unless it is told to?",
        "pollutes_batchnorm": "Your parameters are right, and the model's running statistics have moved. Which tensors "
        "does a forward pass in training mode write into?",
        "restores_in_place": "You let the model write its running statistics and put them back afterwards, in place, "
        "and the graph finds that what it needs was overwritten. Could the pass write somewhere else to begin with?",
        "in_eval_mode": "Your pass used the running statistics in place of those of the batch. In which mode would the "
        "real step have run?",
        "moves_the_buffers": "The momentum buffers have moved, as if the step had been taken. Who still needs them as "
        "they were?",
        "decay_without_lr": "Your weight decay does not depend on the learning rate. To what does SGD add it, before "
        "or after the multiplication by lr?",
        "plain_sgd": "Your step ignores the momentum buffers. Where does SGD go next if the present gradient is zero?",
        "forgets_decay": "Your step ignores the weight decay. What does SGD add to each gradient before anything else?",
        "steps_for_real": "The model stands at the new place now. From where will the real step start?",
    },
    accepted=[_functional, _with_a_copy],
    hints=(
        "Three traps: the graph of the gradients, the buffers of the model, and that the result must be new tensors. "
        "`loss` calls whatever function you hand it.",
        "A parameter 2.0 with gradient 0.5, buffer 1.0, lr 0.1, momentum 0.9, weight decay 0.05: the velocity is 0.9 * "
        "1.0 + 0.5 + 0.05 * 2.0 = 1.5, the new value 1.85.",
        "copies = {name: b.clone() for name, b in model.named_buffers()}; value = loss(lambda x: "
        "functional_call(model, copies, (x,))); gradients by `torch.autograd.grad(value, parameters, "
        "create_graph=True)`; then p - lr * (momentum * buffers[name] + g + weight_decay * p).",
    ),
    shows="The copy is a function of the sample weights, so a loss on the copy can teach them.",
)

TASKS = (centre, allocate, meta_gradient, look_ahead)
