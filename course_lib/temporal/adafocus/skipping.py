"""Which frames need no window at all: one more output of the policy, trained after everything else.

AdaFocus+ adds to a trained AdaFocus an action that skips the heavy network for a frame; only the glance then reaches
the classifier. How the authors reward it is not in their released code, so the reward here is our own, in the spirit
of theirs: what reading the window at t does to the probability of the true class, after the same history, less a
price; and 0 for a frame that is skipped.

Source of the idea: AdaFocus (arXiv 2105.03245), temporal skipping.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib.decision import bernoulli_log_prob, discounted_returns, reinforce_loss
from course_lib.temporal.adafocus.loop import Checkpoint, Plan, StageHistory, device_of, every_frame, run, seeded
from course_lib.temporal.adafocus.model import AdaFocus
from course_lib.temporal.adafocus.training import choices, counterfactual, glances, window_features


def train_skipping(
    model: AdaFocus,
    clips: Tensor,
    labels: Tensor,
    *,
    price: float = 0.05,
    epochs: int = 8,
    batch_size: int = 64,
    lr: float = 3e-3,
    classifier_lr: float = 1e-3,
    gamma: float = 0.7,
    seed: int = 0,
    checkpoint: Checkpoint = None,
) -> StageHistory:
    """Teach a trained AdaFocus which windows are not worth reading; afterwards `infer(..., threshold=0.5)` skips.

    A linear layer on the policy's hidden state gives the chance that a window is read. It learns by REINFORCE from
    decisions drawn at random; the classifier learns beside it, so that it gets used to windows that are missing.
    Encoders and policy stand still, so every feature is computed once.

    Args:
        clips, labels: (N, T, 3, size, size), normalised, and (N,) int64.
        price: how much more probable the true class must become for a window to be worth it.
        lr, classifier_lr: of the new layer and of the classifier, by Adam.
        gamma: discount of what is gained in later frames.

    Returns:
        Losses, and as scores the shares of the windows that were read, epoch by epoch.
    """
    device = device_of(model)
    maps, glance = glances(model, clips, batch_size)
    focus = window_features(model, clips, model.locations.cpu()[choices(model, maps, batch_size)], batch_size)
    with torch.no_grad():
        hidden = torch.cat([model.policy(m.to(device)).hidden.cpu() for m in maps.split(batch_size)])
    with seeded(seed):
        skip = nn.Linear(hidden.shape[-1], 1).to(device)
    nn.init.constant_(skip.bias, 1.0)  # nearly three in four are read at first
    model.skip = skip
    groups = [
        {"params": list(skip.parameters()), "lr": lr},
        {"params": list(model.classifier.parameters()), "lr": classifier_lr},
    ]

    def step(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        y, seen, windows = labels[rows].to(device), glance[rows].to(device), focus[rows].to(device)
        logits = skip(hidden[rows].to(device)).squeeze(-1)
        read = torch.rand(logits.shape, generator=generator).to(device) < logits.detach().sigmoid()
        history = windows * read.unsqueeze(-1)
        model.classifier.eval()  # a reward is no place for dropout
        gain = counterfactual(model, seen, windows, torch.zeros_like(windows), y, history=history)
        model.classifier.train()
        reward = torch.where(read, gain - price, torch.zeros_like(gain))
        returns = discounted_returns(reward.T, gamma).T
        decisions = reinforce_loss(bernoulli_log_prob(logits, read.to(logits.dtype)), returns, returns.mean(0))
        answers, _, _ = model.classify(seen, history)
        return every_frame(answers, y) + decisions, float(read.double().mean())

    plan = Plan("train_skipping", len(clips), epochs, batch_size, seed, "constant", (price, lr, classifier_lr, gamma))
    return run(plan, model, torch.optim.Adam(groups), step, checkpoint, train=(model.classifier,))
