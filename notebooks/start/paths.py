# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Start here: ways through the course
#
# This course is about networks that do not spend the same work on every input: they stop early, leave pixels out,
# skip words and frames. Every claim in it is code you run, or is marked as published, every saving is measured in
# seconds and not only in multiplications, and every exercise is judged the moment you run it.
# If you are new, open [Why should every input cost the same?](why_adapt.ipynb) and run it from top to bottom; it takes
# half an hour and needs no GPU.
#
# **In JupyterLab** a link below opens the chapter in a new tab. Run a cell with Shift+Enter. A chapter has its tasks
# under the same name in the folder `exercises/`; in a terminal, `course progress` shows how far you are and
# `course doctor` whether everything is in place.

# %% [markdown]
# ## The chapters
#
# Minutes are for a reader who meets the prerequisites: reading, predicting and running the chapter, and then its tasks.
#
# | chapter | the question | needs | reading, min | exercises, min |
# |---|---|---|---|---|
# | [start/why_adapt](why_adapt.ipynb) | Why should every input cost the same? | a CNN, softmax, PyTorch tensors | 30 | 45 |
# | [start/measuring](measuring.ipynb) | When is less work really faster? | [why_adapt](why_adapt.ipynb) | 40 | 30 |
# | [instance/msdnet](../instance/msdnet.ipynb) | When is a network sure enough to stop? | [measuring](measuring.ipynb) | 70 | 70 |
# | [spatial/ranet](../spatial/ranet.ipynb) | How sharp must a picture be? | [msdnet](../instance/msdnet.ipynb) | 55 | 75 |
# | [instance/l2w](../instance/l2w.ipynb) | Should every exit learn from every image? | [msdnet](../instance/msdnet.ipynb), the chain rule | 55 | 90 |
# | [training/gradients](../training/gradients.ipynb) | How does a yes or a no learn? | back-propagation, expectation | 60 | 60 |
# | [spatial/sparse_conv](../spatial/sparse_conv.ipynb) | Can a machine skip pixels and finish earlier? | [measuring](measuring.ipynb), convolution as matrix product | 75 | 85 |
# | [spatial/lasnet](../spatial/lasnet.ipynb) | How large must a patch be to be worth skipping? | [sparse_conv](../spatial/sparse_conv.ipynb) (first sitting), [gradients](../training/gradients.ipynb) (Gumbel) | 65 | 75 |
# | [temporal/skimming](../temporal/skimming.ipynb) | Which words may stay unread? | [gradients](../training/gradients.ipynb), a recurrent cell | 60 | 70 |
# | [temporal/adafocus](../temporal/adafocus.ipynb) | Where in a video does it happen? | [gradients](../training/gradients.ipynb) (policy gradient) | 65 | 90 |
# | [beyond/dapl](../beyond/dapl.ipynb) | Can a sentence move a classifier to a new world? | softmax, a transformer block | 60 | 75 |
# | [beyond/cg_p](../beyond/cg_p.ipynb) | Can a guess speed up a proof? | a linear program, message passing | 65 | 90 |

# %% [markdown]
# ## The tasks
#
# | exercise | tasks |
# |---|---|
# | [Exercises: why_adapt](../../exercises/start/why_adapt.ipynb) | the cost of a convolution; mean cost; really skipping samples; a fair clock |
# | [Exercises: measuring](../../exercises/start/measuring.ipynb) | intensity; the roofline's bound; calibration error; what a shrinking batch costs |
# | [Exercises: msdnet](../../exercises/instance/msdnet.ipynb) | exit shares; solving for a budget; thresholds; inference that lets finished images go |
# | [Exercises: ranet](../../exercises/spatial/ranet.ipynb) | exits of each lane; what an exit costs; the widths of a fusion; inference over lanes |
# | [Exercises: l2w](../../exercises/instance/l2w.ipynb) | centring weights; who is judged where; the meta-gradient by hand; the look-ahead step |
# | [Exercises: gradients](../../exercises/training/gradients.ipynb) | the exact gradient; straight-through; REINFORCE; Gumbel noise |
# | [Exercises: sparse_conv](../../exercises/spatial/sparse_conv.ipynb) | the halo; break-even; gather, multiply, scatter; the addresses of a GPU kernel |
# | [Exercises: lasnet](../../exercises/spatial/lasnet.ipynb) | what a masked block costs; bounds; the budget's loss; hard masks; choosing the granularity |
# | [Exercises: skimming](../../exercises/temporal/skimming.ipynb) | how long a pause is; a step that copies or updates; the loss of a jump; what a plan costs |
# | [Exercises: adafocus](../../exercises/temporal/adafocus.ipynb) | what a video costs; rewards and returns; all windows in one batch; a crop with a gradient |
# | [Exercises: dapl](../../exercises/beyond/dapl.ipynb) | how many numbers are trained; pseudo-labels with a threshold; two denominators; sentences from embeddings |
# | [Exercises: cg_p](../../exercises/beyond/cg_p.ipynb) | what a duty costs; the column to add; a bound from one pricing; which label may go |

# %% [markdown]
# ## Reading orders
#
# The folders follow the survey's taxonomy, and the table of contents keeps that order. A *reading* order follows what a
# chapter needs.
#
# - **From the beginning.** [why_adapt](why_adapt.ipynb), [measuring](measuring.ipynb),
#   [msdnet](../instance/msdnet.ipynb), [ranet](../spatial/ranet.ipynb), [l2w](../instance/l2w.ipynb),
#   [gradients](../training/gradients.ipynb), [sparse_conv](../spatial/sparse_conv.ipynb),
#   [lasnet](../spatial/lasnet.ipynb), [skimming](../temporal/skimming.ipynb), [adafocus](../temporal/adafocus.ipynb),
#   [dapl](../beyond/dapl.ipynb), [cg_p](../beyond/cg_p.ipynb).
# - **A weekend alone.** Saturday morning [why_adapt](why_adapt.ipynb) and [measuring](measuring.ipynb) (2 h 30 with
#   the tasks); Saturday afternoon [msdnet](../instance/msdnet.ipynb) with its first three tasks (2 h). Sunday morning
#   [sparse_conv](../spatial/sparse_conv.ipynb) to its marked stop with three tasks (1 h 30); Sunday afternoon
#   [lasnet](../spatial/lasnet.ipynb), and then *put one exit on a network of your own and show the gain in milliseconds*.
# - **A performance engineer.** [why_adapt](why_adapt.ipynb), [measuring](measuring.ipynb),
#   [sparse_conv](../spatial/sparse_conv.ipynb), the part of [gradients](../training/gradients.ipynb) on Gumbel noise,
#   [lasnet](../spatial/lasnet.ipynb).
# - **Language.** [why_adapt](why_adapt.ipynb), [measuring](measuring.ipynb),
#   [gradients](../training/gradients.ipynb), [skimming](../temporal/skimming.ipynb), [dapl](../beyond/dapl.ipynb).
# - **Video.** [why_adapt](why_adapt.ipynb), [measuring](measuring.ipynb),
#   [gradients](../training/gradients.ipynb), [adafocus](../temporal/adafocus.ipynb).
# - **Optimisation.** [why_adapt](why_adapt.ipynb), [cg_p](../beyond/cg_p.ipynb); it needs nothing else.
# - **Theory of training.** [msdnet](../instance/msdnet.ipynb), [l2w](../instance/l2w.ipynb),
#   [gradients](../training/gradients.ipynb).
# - **Half a course, six weeks.** [why_adapt](why_adapt.ipynb), [measuring](measuring.ipynb),
#   [msdnet](../instance/msdnet.ipynb), [gradients](../training/gradients.ipynb), [sparse_conv](../spatial/sparse_conv.ipynb)
#   (first sitting), [lasnet](../spatial/lasnet.ipynb).

# %% [markdown]
# ## The map
#
# The whole field as "Dynamic Neural Networks: A Survey" (arXiv 2102.04906) orders it, and where this course stands in
# it. A linked leaf has its chapter; the others are named so that you know where they will live. A network belongs on
# the map if, with its weights fixed and in evaluation mode, the graph it executes or the operators it applies differ
# from one input to another.
#
# ### Instance-wise: which samples get how much network
#
# **Dynamic depth**
#
# | leaf | the idea in one line |
# |---|---|
# | Cascade of networks | Run models from small to large until one is sure; nothing is shared. |
# | [Intermediate classifiers](../instance/msdnet.ipynb) | Put exits on one trunk and stop at the first that is sure enough. |
# | [Multi-scale network with exits](../instance/msdnet.ipynb) | Keep coarse features from the first layer on, so that early exits see the whole picture. |
# | Halting score | Add up a learned score, layer by layer, and stop when it reaches one. |
# | Gating function | A small gate at each residual block decides whether the block is run. |
# | Policy network | One look at the input decides about all blocks at once. |
#
# **Dynamic width**
#
# | leaf | the idea in one line |
# |---|---|
# | Skipping neurons | Predict cheaply which units of a fully connected layer will be zero, and leave those rows out. |
# | Mixture of experts | Send each input to a few of many branches, and keep the load balanced. |
# | Channels in stages | Compute some channels first, and the rest only if needed. |
# | Channels by a gate | A gate on pooled features chooses the channels to compute. |
# | Channels by activation | Let the activations themselves say which channels matter. |
#
# **Dynamic routing in a super-network**
#
# | leaf | the idea in one line |
# |---|---|
# | Path selection | At each layer choose one branch, or a few, of many. |
# | Soft decision trees | Every leaf of a tree answers, weighted by the probability of its path. |
# | Deterministic routing | The same tree with hard splits: only one path is computed. |
# | Tree-structured networks | Features are transformed along the edges, classifiers sit at the leaves. |
# | Scale routing | Soft gates decide whether features move up, stay, or move down in resolution. |
#
# **Dynamic parameters**: more accuracy for the same work, not less work
#
# | leaf | the idea in one line |
# |---|---|
# | Attention on weights | Mix several kernels by coefficients the input chooses, then convolve once. |
# | Kernel shape adaptation | Let every tap of a kernel move to where the input wants it. |
# | Weight prediction | One network writes the weights of another. |
# | Weight prediction from side information | The weights depend on something known beside the input: an edge, a camera, a task. |
# | Channel attention | Rescale channels by what the whole image shows. |
# | Spatial attention | Rescale positions. |
# | Dynamic activation | The slopes of the activation function come from the input. |

# %% [markdown]
# ### Spatial-wise: which pixels, regions, resolutions
#
# | leaf | the idea in one line |
# |---|---|
# | [Dynamic sparse convolution](../spatial/sparse_conv.ipynb) | Compute only the positions a mask keeps: gather, convolve, scatter. |
# | Additional refinement | A cheap pass everywhere and an expensive one where it matters. |
# | Dynamic weights per pixel | Every position has its own predicted kernel. |
# | Dynamic receptive field | Every position chooses how far it looks. |
# | Dynamic transformation | Move, turn or zoom the input before it is read. |
# | Hard attention with a recurrent network | Look at one small glimpse after another; the last glimpse says where to look next. |
# | [Hard attention without one](../temporal/adafocus.ipynb) | Glance at the whole, then crop where the answer is. |
# | [Adaptive scaling ratio](../spatial/ranet.ipynb) | Predict how small the picture may be made. |
# | [Dynamic resolution in multi-scale networks](../spatial/ranet.ipynb) | Try the coarse sub-network first, go finer only when unsure. |
#
# ### Temporal-wise: which words, frames, tokens
#
# | leaf | the idea in one line |
# |---|---|
# | [Skipped update](../temporal/skimming.ipynb) | A binary gate copies the hidden state instead of updating it. |
# | [Coarse update](../temporal/skimming.ipynb) | Unimportant words update only a part of the hidden state. |
# | Hierarchical update | Boundaries found in the input decide which level is updated. |
# | Temporal early exit | Stop reading when the answer is clear. |
# | [Jumping](../temporal/skimming.ipynb) | Read a little, then decide how many words to skip. |
# | [Video: dynamic update](../temporal/adafocus.ipynb) | A light network sees every frame, a heavy one only where a gate opens. |
# | [Video: early exit](../temporal/adafocus.ipynb) | Stop watching when the gathered evidence suffices. |
# | Video: jumping | Decide which frame to look at next. |
# | Video: frame sampling | Score all frames cheaply and run the heavy network on the best. |
#
# ### Inference and training: who decides, and how the decider learns
#
# | leaf | the idea in one line |
# |---|---|
# | [Confidence criteria](../instance/msdnet.ipynb) | Stop when the probability, margin or entropy passes a threshold set on held-out data. |
# | [Policy networks](../training/gradients.ipynb) | A separate network decides, usually trained by rewards. |
# | [Gating functions](../training/gradients.ipynb) | A small module inside the backbone decides, trained with it. |
# | [Multi-exit training](../instance/msdnet.ipynb) | All exits are trained together, by the sum of their losses. |
# | [Multi-exit training, weighted](../instance/l2w.ipynb) | Each image counts most at the exit where it will leave. |
# | [Encouraging sparsity](../training/gradients.ipynb) | A term in the loss pays for executed work, or gates stay open for ever. |
# | Other objectives | The last exit teaches the earlier ones, and more. |
# | [Gradient estimation](../training/gradients.ipynb) | Pretend, when going backward, that a hard decision was a smooth one. |
# | [Reparameterisation](../training/gradients.ipynb) | Replace a random choice by a smooth function of noise. |
# | [Reinforcement learning](../training/gradients.ipynb) | Reward decisions that were right and cheap; unbiased and noisy. |
#
# ### Applications and open problems
#
# | leaf | the idea in one line |
# |---|---|
# | [Applications](../beyond/dapl.ipynb) | Recognition, detection, segmentation, video, language, point clouds, and beyond efficiency: adapting to new domains. |
# | [Theory versus practice](measuring.ipynb) | Multiplications saved are not seconds saved: this is the question of the second chapter. |
# | [Theory](../instance/l2w.ipynb) | What is the best rule to decide, and what does it mean that each exit sees a selected set of inputs? |
# | Architectures | Most adaptive networks are static designs with something added. |
# | More tasks | Exits for detection, segmentation, generation. |
# | Robustness | An attacker may aim at the cost instead of the answer. |
# | Interpretability | What the decisions reveal, and whether it can be believed. |
#
# ### Beyond the survey: the same idea where no image is classified
#
# | leaf | the idea in one line |
# |---|---|
# | [Words for a new domain](../beyond/dapl.ipynb) | Leave the network alone and learn the sentences it is asked with. |
# | [A solver that looks away](../beyond/cg_p.ipynb) | Guess which part of a problem is worth computing; a proof overrules the guess. |
