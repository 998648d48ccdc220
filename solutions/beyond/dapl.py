# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: can a sentence move a classifier to a new world?
#
# Four functions: what is trained, a mean that survives an empty set, the equation in two readings, and a text tower
# that takes embeddings for words. With them you have written the core of `course_lib.beyond.dapl`.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [Can a sentence move a classifier to a new world?](../../notebooks/beyond/dapl.ipynb).

# %%
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.beyond.clip import Clip
from course_lib.checks.beyond import dapl as check

# %% [markdown]
# ## 1. What is trained
#
# "Only the prompts are trained" is a claim with a number, and the number is the method's price. A prompt holds shared
# words, words of its domain, and the name of its class. Count each learned word once, however many prompts it stands
# in.
#
# ```{admonition} Level 1 of 5 · 8 minutes
# One line, plain Python.
# ```


# %% nbgrader={"solution": true, "grade_id": "trained_numbers"}
def trained_numbers(
    classes: int, shared: int, specific: int, width: int, domains: int, per_class: bool
) -> int:
    """How many numbers a set of learned prompts holds.

    Args:
        classes: number of classes; their names are words of the frozen table.
        shared: learned words at the head of every prompt, the same in all domains.
        specific: further learned words of each domain, the same for all classes.
        width: length of the vector that is a word.
        domains: number of domains.
        per_class: whether every class has shared words of its own, or all classes have
            the same.

    65 classes, 16 and 16 words of width 512 and 2 domains make 24,576 numbers; with words
    of its own for every class, 548,864.
    """
    ### BEGIN SOLUTION
    return (classes if per_class else 1) * shared * width + domains * specific * width
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "trained_numbers_check", "points": 1}
_ = check.trained_numbers(trained_numbers)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.trained_numbers.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a network of a hundred million numbers is adapted by some tens of thousands, and the file to be kept per task is small.

# %% [markdown]
# ## 2. A mean over the labels that are sure enough
#
# The teacher labels every image of the new domain. Where its largest probability reaches a threshold, its label is
# taken for true, and elsewhere for nothing. There are batches in which nobody reaches it, and a training that has run
# for an hour should not end there.
#
# ```{admonition} Level 2 of 5 · 15 minutes
# About four lines, PyTorch.
# ```


# %% nbgrader={"solution": true, "grade_id": "pseudo_label_loss"}
def pseudo_label_loss(log_prob: Tensor, teacher_prob: Tensor, tau: float) -> Tensor:
    """Mean of -log P(label) over the images whose label is kept.

    An image's label is the teacher's most probable class. It is kept if the teacher's
    probability of that class reaches tau (is equal or larger).

    Args:
        log_prob: (N, K) float, log-probabilities of the student, who is trained.
        teacher_prob: (N, K) float, probabilities of the teacher, who is not.
        tau: the threshold; 0 keeps all labels, more than 1 none.

    Returns:
        A scalar tensor. Exactly 0, with a gradient of exactly 0, where no label is kept,
        also for N = 0.

    Student `[[0.6, 0.4], [0.5, 0.5]]` (as logarithms), teacher `[[0.9, 0.1], [0.3, 0.7]]`
    and tau 0.8 give -log 0.6, about 0.511.
    """
    ### BEGIN SOLUTION
    confidence, labels = teacher_prob.max(1)
    kept = confidence >= tau
    wrong = -log_prob.gather(1, labels[:, None])[:, 0]
    return wrong[kept].sum() / kept.sum().clamp(min=1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "pseudo_label_loss_check", "points": 2}
_ = check.pseudo_label_loss(pseudo_label_loss)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.pseudo_label_loss.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a label that is not sure enough counts as nothing, and nothing is 0 and not NaN, which would have spread from this
# batch into every learned word.

# %% [markdown]
# ## 3. Two denominators
#
# The paper and the code published with it differ in one slice. In the paper's equation the prompts of both domains
# stand in the denominator of one softmax, so that an image of the source must prefer the source's prompt of its class
# to the target's. In the code there is a softmax in each domain, and they never meet. Write both, so that they can be
# compared.
#
# ```{admonition} Level 3 of 5 · 22 minutes
# About five lines, PyTorch. CLIP's logits reach 100: take no exponential of them.
# ```


# %% nbgrader={"solution": true, "grade_id": "dapl_log_prob"}
def dapl_log_prob(logits: Tensor, domain: int, denominator: str) -> Tensor:
    """log P of every class, under the prompts of one domain.

    Args:
        logits: (N, 3K) float, image features against prompts, times CLIP's scale. The
            columns are [K source prompts | K target prompts | K hand-written prompts];
            the last K serve the teacher and take no part here.
        domain: 0 for the source's prompts, 1 for the target's.
        denominator: "both": one softmax over the 2K prompts of both domains; the result
            is log P(class, domain | image). "own": a softmax over the K prompts of the
            domain alone.

    Returns:
        (N, K) float, with a gradient to the logits.

    `dapl_log_prob(torch.tensor([[1., 0., 2., 0., 5., 5.]]), 0, "both")` is about
    `[[-1.494, -2.494]]`; with "own" it is about `[[-0.313, -1.313]]`.
    """
    ### BEGIN SOLUTION
    classes = logits.shape[1] // 3
    mine = logits[:, domain * classes : (domain + 1) * classes]
    over = logits[:, : 2 * classes] if denominator == "both" else mine
    return mine - torch.logsumexp(over, 1, keepdim=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "dapl_log_prob_check", "points": 3}
_ = check.dapl_log_prob(dapl_log_prob)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.dapl_log_prob.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So one slice decides whether prompts learn to know their domain: with "own" a label of the source never moves a word
# of the target.

# %% [markdown]
# ## 4. A text tower that is fed with embeddings
#
# Learned words have no token ids, so `encode_text` cannot take them. What it does behind its first line can: add
# positions, run the blocks, read the row at which the sentence ends. The network is open_clip's, and these of its
# parts are needed:
#
# | part | what it is |
# |---|---|
# | `clip.model.positional_embedding` | `(context, W)`, added to the words |
# | `clip.model.transformer(x, attn_mask=mask)` | the blocks, `(M, L, W)` in and out, batch first |
# | `clip.model.attn_mask` | `(context, context)`, 0 and minus infinity: who may look at whom |
# | `clip.model.ln_final` | the last normalisation |
# | `clip.model.text_projection` | `(W, E)`, into the space shared with images |
#
# ```{admonition} Level 4 of 5 · 30 minutes
# About six lines, PyTorch.
# ```


# %% nbgrader={"solution": true, "grade_id": "encode_from_embeddings"}
def encode_from_embeddings(clip: Clip, embeddings: Tensor, tokens: Tensor) -> Tensor:
    """Text features of prompts whose words are given as vectors.

    Args:
        clip: `clip.model` is a frozen CLIP of open_clip, see the table above.
        embeddings: (M, L, W) float, the words of M prompts, without positions. L may be
            less than the context: prompts cut behind the last end token.
        tokens: (M, L) int64. Only needed to find where each prompt ends: at the end token,
            which is the largest id of its row.

    Returns:
        (M, E) float, rows of length 1. For the embeddings of words it equals
        `clip.model.encode_text(tokens, normalize=True)`. Gradients flow back into
        `embeddings`, and the network stays frozen.
    """
    ### BEGIN SOLUTION
    model, length = clip.model, embeddings.shape[1]
    x = embeddings + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
    return F.normalize(x @ model.text_projection, dim=-1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "encode_from_embeddings_check", "points": 4}
_ = check.encode_from_embeddings(encode_from_embeddings)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.encode_from_embeddings.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a sentence need not be made of words, and of 77 positions only those up to the end of the longest one are worth
# computing.
