"""DAPL: domain adaptation via prompt learning. The classifier is a set of sentences, and only their words are trained.

Paper: Domain Adaptation via Prompt Learning (arXiv 2202.06687); the prompt learner is that of CoOp (arXiv 2109.01134),
which is the case of one domain and no domain-specific words. CLIP stays frozen, image features are computed once.

A prompt is `[start] shared words, domain words, class name . [end]`; all of them pass through the frozen text tower
and become the rows of a linear classifier, one for each domain and class (domain-major: row d * K + k).
Kept: context shared by all domains or per class, context per domain, pseudo-labels from confident zero-shot answers.
Different from the released code:
- *The denominator.* The paper lets the prompts of both domains compete in one softmax ("both"); the code takes a
  softmax within each domain ("own"). Both are here.
- *No kept pseudo-label* in a batch gives a target loss of exactly 0, where a mean over nothing is NaN.
- *The rate* falls once from `lr` to 0. The code steps a scheduler of 25 steps at every iteration, so that its rate
  swings with a period of 50 iterations.
- *The epoch* is chosen by the loss on held-out samples, with source labels and pseudo-labels; the code chooses by the
  accuracy on the labelled target test set.
- *Prompts are cut* behind the last end token. Attention is causal, so nothing behind it can matter.
- *The sentence* ends with the class name, as in the paper; the code appends ", a {domain} image." (`ending=`).
"""

from __future__ import annotations

from course_lib.beyond.dapl.objective import (
    Denominator,
    PseudoLabels,
    accuracy,
    dapl_log_prob,
    dapl_loss,
    pseudo_label,
    pseudo_label_loss,
)
from course_lib.beyond.dapl.prompts import (
    TEMPLATE,
    DomainPrompts,
    nearest_words,
    scores,
    trained_numbers,
    zero_shot_classifier,
)
from course_lib.beyond.dapl.training import PromptRun, fit_prompts, train_step

__all__ = [
    "TEMPLATE", "Denominator", "DomainPrompts", "PromptRun", "PseudoLabels", "accuracy", "dapl_log_prob", "dapl_loss",
    "fit_prompts", "nearest_words", "pseudo_label", "pseudo_label_loss", "scores", "train_step", "trained_numbers",
    "zero_shot_classifier",
]  # fmt: skip
