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
# # Exercises: where in a video does it happen?
#
# Four functions: the bill of a video, the reward that teaches a policy where to look, the pass over a whole clip that
# runs the heavy network once, and the crop through which a gradient can flow. Together they are what AdaFocus and its
# second version add to two networks for images.
#
# Write the body in place of `raise NotImplementedError`, run the cell, then run the check below it. The chapter is
# [Where in a video does it happen?](../../notebooks/temporal/adafocus.ipynb).

# %%
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.checks.temporal import adafocus as check

# A part of a network; what it takes and gives is said where it matters.
Part = Callable[..., object]

# %% [markdown]
# ## 1. The bill of a video
#
# Looking before looking is only worth it if the first look is cheap. Four parts share the bill, and they do not all
# run equally often: some videos are glanced at in fewer frames than are read. Each part's cost for one frame is given.
#
# ```{admonition} Level 1 of 5 · 8 minutes
# One line.
# ```


# %% nbgrader={"solution": true, "grade_id": "video_macs"}
def video_macs(
    glance: float,
    focus: float,
    policy: float,
    classifier: float,
    frames_glance: int,
    frames_focus: int,
) -> float:
    """The multiply-adds of one video, each counted as one.

    Args:
        glance: multiply-adds of the light network on one full frame.
        focus: those of the heavy network on one window.
        policy: those of choosing a window; the policy runs with every glance.
        classifier: those of one answer; the classifier runs with every window.
        frames_glance: frames that are glanced at.
        frames_focus: frames whose window is read.

    Returns:
        The multiply-adds of the video. With glances at 10 G, windows at 100 G, policy 1 G
        and classifier 2 G, four glances and three windows cost 44 + 306 = 350 G.
    """
    ### BEGIN SOLUTION
    return frames_glance * (glance + policy) + frames_focus * (focus + classifier)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "video_macs_check", "points": 1}
_ = check.video_macs(video_macs)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.video_macs.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So 16 frames with 128-pixel windows cost 26.5 G, of which finding the windows is a fifth.

# %% [markdown]
# ## 2. A reward is a comparison
#
# The policy is praised for what its window did, not for a clip that is easy anyway. So each frame is answered twice
# after the same history, once with the chosen window and once with a random one, and the difference is the reward.
# The classifier remembers a window, so a window also gets a share of the rewards of the frames after it.
#
# ```{admonition} Level 2 of 5 · 15 minutes
# About five lines, PyTorch. `gather` picks one class of three.
# ```


# %% nbgrader={"solution": true, "grade_id": "returns"}
def returns(p_chosen: Tensor, p_random: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """The discounted return of every frame.

    The reward r_t is the probability of the true class with the chosen window, less that
    with the random one. The return is G_t = r_t + gamma * G_{t+1}, where nothing comes after
    the last frame.

    Args:
        p_chosen: (N, T, classes), probabilities after frame t, read with the chosen window.
        p_random: (N, T, classes), the same with a random window at t.
        labels: (N,) int64, the true classes.
        gamma: how much a reward one frame later counts, in [0, 1].

    Returns:
        (N, T). A true class at .30 .50 .80 against .25 .30 .70 has the rewards .05 .20 .10
        and, with gamma = 0.7, the returns .239 .270 .100.
    """
    ### BEGIN SOLUTION
    index = labels[:, None, None].expand(-1, p_chosen.shape[1], 1)
    found = (p_chosen - p_random).gather(2, index).squeeze(2)
    for t in reversed(range(found.shape[1] - 1)):
        found[:, t] = found[:, t] + gamma * found[:, t + 1]
    return found
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "returns_check", "points": 2}
_ = check.returns(returns)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.returns.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a policy that looks where chance looks earns nothing, however well the clips are recognised.

# %% [markdown]
# ## 3. All windows in one batch
#
# This is the loop for a video that is still going on. Each frame waits for the one before, because the policy and the
# classifier remember. The heavy network waits, too, although nobody needs its output to choose a window.


# %%
def online(frames: Tensor, glance, policy, focus, classifier) -> Tensor:
    choice = memory = None
    answers = []
    for t in range(frames.shape[1]):
        seen = glance(frames[:, t])  # (N, F)
        location, choice = policy(seen, choice)  # (N, 2), and a state
        # cuts the windows out and reads them: (N, G)
        window = focus(frames[:, t], location)
        logits, memory = classifier(torch.cat((seen, window), 1), memory)
        answers.append(logits)
    return torch.stack(answers, 1)


# %% [markdown]
# Three clips of four small frames and four untrained parts, to try things on:

# %%
frames, parts = check.toy_video()
print(tuple(frames.shape), "->", tuple(online(frames, *parts).shape))

# %% [markdown]
# For a video that is there as a whole, write the pass that gives the same answers and calls `focus` once, with the
# windows of all frames of all clips.
#
# ```{admonition} Level 4 of 5 · 27 minutes
# About twelve lines, PyTorch, two short loops. `flatten(0, 1)` makes N * T images of N clips; `unflatten(0, (N, T))`
# undoes it.
# ```


# %% nbgrader={"solution": true, "grade_id": "offline"}
def offline(
    frames: Tensor, glance: Part, policy: Part, focus: Part, classifier: Part
) -> Tensor:
    """The answers of the online loop, with the heavy network run once.

    Args:
        frames: (N, T, C, H, W).
        glance: images (M, C, H, W) -> features (M, F).
        policy: features (N, F) of one frame of every clip and a state -> locations (N, 2)
            and the next state. The state is None at the first frame.
        focus: images (M, C, H, W) and locations (M, 2) -> features (M, G) of the windows.
        classifier: (N, F + G), the features of glance and window of one frame of every clip
            side by side, and a state -> logits (N, classes) and the next state; None at
            first.

    Returns:
        (N, T, classes), equal to `online`. `focus` is called once, with N * T images. Three
        clips of four frames: one call with 12 images.
    """
    ### BEGIN SOLUTION
    n, t = frames.shape[:2]
    images = frames.flatten(0, 1)
    seen = glance(images).unflatten(0, (n, t))
    state, places = None, []
    for k in range(t):
        location, state = policy(seen[:, k], state)
        places.append(location)
    windows = focus(images, torch.stack(places, 1).flatten(0, 1)).unflatten(0, (n, t))
    both = torch.cat((seen, windows), 2)
    memory, answers = None, []
    for k in range(t):
        logits, memory = classifier(both[:, k], memory)
        answers.append(logits)
    return torch.stack(answers, 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "offline_check", "points": 4}
_ = check.offline(offline)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.offline.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So what must be chosen one after another is small, and what is large runs as one dense batch.

# %% [markdown]
# ## 4. A crop with a gradient
#
# A window that stands on whole pixels jumps, and a jump has no slope to learn from. The second version of AdaFocus lets
# it stand between pixels and interpolates, so the loss can say in which direction a window should move. Write the
# interpolation yourself, without `grid_sample`.
#
# ```{admonition} Level 5 of 5 · 40 minutes
# About fifteen lines, PyTorch. Mind the far corner, where the next pixel does not exist and has weight 0.
# ```


# %% nbgrader={"solution": true, "grade_id": "soft_crop"}
def soft_crop(x: Tensor, location: Tensor, size: int) -> Tensor:
    """Windows at real-valued places, interpolated from the four nearest pixels.

    In an image of H x W pixels the window's upper left corner stands at row a_0 (H - size)
    and column a_1 (W - size). Its pixel (i, j) is the bilinear interpolation of the image at
    row a_0 (H - size) + i and column a_1 (W - size) + j. Gradients reach `location`.

    Args:
        x: (N, C, H, W).
        location: (N, 2) in [0, 1], (a_0, a_1), row first.
        size: side of the windows, at most H and W.

    Returns:
        (N, C, size, size). In 12 rows, size 4 and a_0 = 0.3 start at row 2.4: the first row
        of the window is 0.6 of row 2 plus 0.4 of row 3.
    """
    ### BEGIN SOLUTION
    height, width = x.shape[2:]
    corner = location * location.new_tensor([height - size, width - size])
    whole = corner.detach().floor()
    down, right = (corner - whole)[:, :, None, None, None].unbind(1)
    steps = torch.arange(size)
    rows = whole[:, 0].long()[:, None] + steps  # (N, size)
    columns = whole[:, 1].long()[:, None] + steps
    n = torch.arange(len(x))[:, None, None]

    def pixels(below: int, beside: int) -> Tensor:
        i = (rows + below).clamp(max=height - 1)[:, :, None]
        j = (columns + beside).clamp(max=width - 1)[:, None, :]
        return x[n, :, i, j].movedim(-1, 1)

    upper = pixels(0, 0) * (1 - right) + pixels(0, 1) * right
    lower = pixels(1, 0) * (1 - right) + pixels(1, 1) * right
    return upper * (1 - down) + lower * down
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "soft_crop_check", "points": 5}
_ = check.soft_crop(soft_crop)

# %% [markdown]
# ```{admonition} Stuck?
# :class: dropdown
# Run `check.soft_crop.hint()` in a new cell: three hints, from a nudge to nearly the code.
# ```
#
# So a window can learn by its own slope where to go, but it feels one pixel far: whoever starts in the dark stays
# there, and random windows must go on lighting the way.
