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
# # Which words may stay unread?
# *60 min reading · 70 min exercises · needs [Gradients](../training/gradients.ipynb), a recurrent cell · CPU, under 60 s; GPU optional*
#
# A recurrent network reads every word of a text, also the tenth "the". This chapter builds one that decides where to
# read next, compares it with two relatives, and asks what is left of the saving when texts come in batches. Its terms,
# set in *italics* where they first appear, stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *explain* why a reader that may skip still has to read more than what matters;
# - *build* a gate that copies or updates the state, and *predict* its pauses;
# - *run* it so that what is skipped is not computed, and *prove* it by counting rows;
# - *tell apart* three ways to read less, and the estimator that teaches each;
# - *say* what a batch saves of it, and *mend* the batch.

# %%
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch import nn

import course_lib
from course_lib import bench, data, measure, plots
from course_lib.temporal import skimming
from course_lib.temporal.skimming import READ, SkipRNN, skipped_steps

plots.use_style()
generator = course_lib.seed_everything(0)
device = course_lib.device()

# %% [markdown]
# ## The question
#
# The adding task {cite}`hochreiter1997lstm` is reading in its purest form. At each of fifty steps come a number and a
# marker. Two markers are 1, the others 0, and what is asked for at the end is the sum of the two marked numbers.

# %%
fifty = data.adding(20_000, length=50, seed=0)
numbers, marked = fifty.inputs[0].T
where = fifty.markers[0].tolist()
print(
    "marked steps:",
    where,
    "- marked numbers:",
    [round(numbers[t].item(), 2) for t in where],
)
print("target:", round(fifty.targets[0].item(), 2))

# %% [markdown]
# Two of fifty numbers matter, that is 4 %. A network called Skip LSTM, which may leave steps unread, solves the task
# with 54 % of them (published {cite}`campos2018skiprnn`). Why not with 4 %? **Before you read on, say what you would
# do** to know which numbers you need not read.
#
# Suppose you know the rules by which the markers are placed, which a trained network may well know: the first stands
# somewhere in the first tenth, the second anywhere in the last half. Then you read from the start until you find the
# first, doze until step 25, and read again until you find the second. What does that cost?

# %%
early, late = fifty.markers.unbind(1)
needed = ((early + 1) + (late - 25 + 1)).float().mean() / 50
exactly = (3 + 13) / 50  # the middle of 1..5, and of 1..25
assert abs(needed - exactly) < 0.002
print(f"a reader who knows the rules needs {exactly:.0%} of the steps")

# %% [markdown]
# So the floor is 32 %, and 54 % is not so far above it. *One must read to know what not to read*: whoever has not
# looked at a step cannot know that it was not worth a look. The decision can only be about the **next** steps, from
# what has been read so far. Here is a gate that makes it.

# %% [markdown]
# ## A gate that copies
#
# Take any recurrent cell $S$. At step $t$ the Skip RNN either updates its state or copies it,
#
# $$
# s_t = u_t\, S(s_{t-1}, x_t) + (1 - u_t)\, s_{t-1}, \qquad u_t = \bigl[\tilde u_t \ge \tfrac12\bigr] ,
# $$ (eq-skimming-gate)
#
# and $\tilde u_t$ is a probability that *accumulates*. After an update the state says how much is added at every step,
# $\Delta = \sigma(w \cdot s_t + b)$; when the sum has fired, it starts again from $\Delta$:
#
# $$
# \tilde u_{t+1} = u_t\, \Delta + (1 - u_t)\bigl(\tilde u_t + \min(\Delta, 1 - \tilde u_t)\bigr) .
# $$ (eq-skimming-accumulate)
#
# At the first step $\tilde u_0 = 1$. The state of an LSTM has two parts, $[h, c]$; there the gate looks at the memory
# $c$.

# %% [markdown]
# **Predict (a).** Let $\Delta$ be 0.2 at every step, and let step 0 be an update. Which steps are updates after that?
# (i) Every second; (ii) every third; (iii) every fifth.

# %% tags=["hide-output"]
increment, due, updates = 0.2, 1.0, []
for _ in range(13):
    update = due >= 0.5
    due = increment if update else due + min(increment, 1 - due)
    updates.append(int(update))
print("".join(map(str, updates)))

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (iii) tempts because five times 0.2 is 1, and a probability of 1 is certainty. But the gate does not wait for
# certainty, it fires at one half. The steps after an update begin with 0.2, 0.4 and 0.6, and the third of them is over
# the line: (ii), every third step.
# ```

# %% [markdown]
# The next figure shows four such gates. The bars are $\tilde u_t$, a saw-tooth that is cut off where it reaches the
# dashed line. Filled bars are updates, pale and hatched ones are copies. Half a probability at a time reads everything;
# the less is added, the longer the pause.

# %% mystnb={"image": {"alt": "Four rows of bars over thirteen steps. A gate that adds 0.5 fires at every step, one that adds 0.25 at every second, one that adds 0.2 at every third, one that adds 0.1 at every fifth. Bars below the dashed line at one half are pale and hatched."}}
_ = plots.sawtooth([0.5, 0.25, 0.2, 0.1])
plt.show()

# %% [markdown]
# Look what stands still during a pause: the state is copied, so $\Delta$ is the same at each step of it. Hence the
# whole pause is known when it begins. It lasts $N_{\text{skip}} = \min\{n : n\,\Delta \ge \tfrac12\} - 1$ steps. The
# cell compares the formula with the recurrence for a hundred random increments.


# %%
def by_recurrence(increment):
    due, pause = increment, 0
    while due < 0.5:
        due, pause = due + min(increment, 1 - due), pause + 1
    return pause


random = torch.rand(100, generator=generator)
assert skipped_steps(random).tolist() == [by_recurrence(d) for d in random.tolist()]
print("0.2, 0.25, 0.5 pause for", skipped_steps(torch.tensor([0.2, 0.25, 0.5])).tolist())

# %% [markdown]
# ## Three passes over one text
#
# Now with a real cell, a GRU with eight units. It is not trained yet, but its gate is set so that it skips. First the
# equations as they stand, for one sequence, one step after the other.


# %%
def read_slowly(reader, sequence):
    """(T, 2) -> last state, and whether each step was an update."""
    state, due, increment, updates = reader.initial[None], 1.0, 0.0, []
    for x in sequence:
        update = due >= 0.5
        if update:
            state = reader.cell(x[None], state)
            increment = torch.sigmoid(reader.gate(state)).item()
        due = increment if update else due + min(increment, 1 - due)
        updates.append(update)
    return state[0], updates


reader = SkipRNN(2, 8)
nn.init.constant_(reader.gate.bias, -1.5)
nn.init.normal_(reader.gate.weight, std=2)
with torch.no_grad():
    slow = [read_slowly(reader, sequence) for sequence in fifty.inputs[:5]]
print("updates of 50:", [sum(updates) for _, updates in slow])

# %% [markdown]
# Second, all sequences at once. In a batch some rows update while others copy, so $u_t$ becomes a column of zeros and
# ones that multiplies both sides. Nothing is saved here, every row runs through the cell at every step. It is the form
# to train with, for reasons that follow.


# %%
def read_together(reader, sequences):
    """(N, T, 2) -> last states, and updates (N, T)."""
    state = reader.initial.expand(len(sequences), -1)
    due, updates = torch.ones(len(sequences)), []
    for x in sequences.unbind(1):
        u = (due >= 0.5).float()
        state = u[:, None] * reader.cell(x, state) + (1 - u[:, None]) * state
        increment = torch.sigmoid(reader.gate(state)).squeeze(1)
        due = u * increment + (1 - u) * (due + torch.minimum(increment, 1 - due))
        updates.append(u)
    return state, torch.stack(updates, 1)


with torch.no_grad():
    states, together = read_together(reader, fifty.inputs[:5])
    trace = reader(fifty.inputs[:5])
for i, (state, updates) in enumerate(slow):
    assert torch.allclose(state, states[i], atol=1e-5)
    assert updates == together[i].bool().tolist() == trace.updates[i].bool().tolist()
assert torch.allclose(trace.hidden, states, atol=1e-5)
print("loop, batch and library agree")

# %% [markdown]
# Third, the one that saves. It never looks at a step it skips: it goes from update to update, by the formula for the
# pause. The library's `infer` does this when it gets one sequence. The cell counts how often the GRU is called, with a
# hook that sees every call.


# %%
def read_ahead(reader, sequence):
    """(T, 2) -> last state, computing nothing but the updates."""
    state, t = reader.initial[None], 0
    while t < len(sequence):
        state = reader.cell(sequence[t][None], state)
        t += 1 + int(skipped_steps(torch.sigmoid(reader.gate(state))))
    return state[0]


calls = []
hook = reader.cell.register_forward_hook(lambda cell, rows, out: calls.append(len(rows[0])))
with torch.no_grad():
    for (state, _), sequence in zip(slow, fifty.inputs, strict=False):
        assert torch.allclose(read_ahead(reader, sequence), state, atol=1e-5)
        assert torch.allclose(reader.infer(sequence[None]).hidden[0], state, atol=1e-5)
hook.remove()
assert len(calls) == 2 * sum(sum(updates) for _, updates in slow)
print("two readers, five sequences: one call of the cell for each update")

# %% [markdown]
# Three ways, one result. Keep them apart in your mind: the second is for learning, the third for using, and the first
# is there so that you believe the other two.
#
# ## How a pause is learnt
#
# The threshold has no slope. Skip RNN takes the plainest way around it that the chapter on
# [gradients](../training/gradients.ipynb) has: *straight-through*, $\partial u_t / \partial \tilde u_t = 1$. Through
# $\tilde u_t$ the gradient then reaches every increment that was added, and through the state equation it carries the
# difference $S(s_{t-1}, x_t) - s_{t-1}$: what reading would have changed. That is why training computes the cell even
# where it copies. The inputs it skipped get no gradient, not even a small one:

# %%
x = fifty.inputs[:5].clone().requires_grad_()
trace = reader(x)
(gradient,) = torch.autograd.grad(trace.hidden.sum() + trace.updates.sum(), x)
reached = gradient.abs().sum(2) > 0
assert not reached[trace.updates == 0].any()
(at_gate,) = torch.autograd.grad(reader(x).hidden.sum(), reader.gate.weight)
print("a skipped step with a gradient:", bool(reached[trace.updates == 0].any()))
print("the gate gets one from the task:", bool(at_gate.any()))

# %% [markdown]
# Left alone, a reader has no reason to skip. So an update has a price: the loss is the error plus
# $\lambda \sum_t u_t$, averaged over the batch. And the gate starts open, with $b = 1$, since $\sigma(1) = 0.73$ fires
# at every step.
#
# We train one reader here, on sequences of twenty steps, which takes most of the time of this chapter. It has 32 units.
# For the first 15 % of the training updates are free, then the price rises, and at 45 % it has reached
# $\lambda = 0.0003$. A task counts as solved in the paper when the error
# is a hundredth of what guessing zero would give, which is the variance of the target, $1/6$.

# %%
recipe = {"length": 20, "price": 3e-4, "iterations": 3000, "lr": 3e-3}
run = skimming.train_skip_rnn(**recipe, seed=0, device=device)
twenty = data.adding(4000, length=20, seed=1_000_000)
score = skimming.score_adding(run.model, twenty)
print("error below a twentieth of guessing's:", score.error < data.ADDING_VARIANCE / 20)
print("less than half of the steps read:", score.used < 0.5)
print("more than 96 % of the markers read:", score.found > 0.96)
assert score.error < data.ADDING_VARIANCE / 20
assert score.used < 0.5

# %% mystnb={"image": {"alt": "Two curves over 3000 iterations. The mean squared error falls from nearly 0.2 to far below a dashed line at 0.0017, jumps up above it when the share of updates falls, and comes back down. The share of updates stays near 1 at first, then drops in steps to under 0.5."}}
_ = plots.skip_training(run.errors, run.used, solved=data.ADDING_VARIANCE / 100)
plt.show()

# %% [markdown]
# Three acts can be told apart: the task is learnt while everything is read, the price shuts the gate faster than the
# reader can follow, and then the reader learns when to look. The last act is the long one. The free start is ours: a
# marker that is not read teaches nothing. The paper asks a price thirty times as small from the first step on, and
# trains for longer.
#
# ## What it reads
#
# One sequence it has not seen. From top to bottom: the numbers with the two marked ones outlined, the saw-tooth, the
# updates, and how far the state moved.

# %% mystnb={"image": {"alt": "Twenty numbers, two of them outlined at steps 1 and 15. Below, bars of the accumulated probability: filled at the first two steps, then a long row of slowly rising pale ones, then filled bars from step 10 or 11 to 15, then pale ones to the end. The state moves most at the two outlined steps."}}
with torch.no_grad():
    trace = run.model.reader(twenty.inputs.to(device))
both = trace.updates.cpu().gather(1, twenty.markers).all(1)
shown = int(((twenty.markers == torch.tensor([1, 15])).all(1) & both).nonzero()[0])
_ = plots.skip_strip(twenty.inputs, trace, shown)
plt.show()

# %% [markdown]
# It reads until it has found the first marker, sleeps through the middle in one long pause, wakes up where the last
# half begins or one step later, reads until the second marker is found, and then goes to sleep for good. Nobody told
# it the rules. The next figure asks whether this is the habit. Bars show how many of 4000 sequences update at each
# step, and the line is the reader who knows the rules.

# %% mystnb={"image": {"alt": "Bars over twenty steps. Nearly all sequences update at step 0, half at step 1, hardly any from 2 to 8; at about step 10 the bars rise to near 1 and then fall steadily to about a tenth at step 19. A stepped line of what a reader who knows the rules needs runs close to the bars."}}
_ = plots.read_by_step(trace.updates.cpu() > 0, twenty.markers)
plt.show()
floor = ((twenty.markers[:, 0] + 1) + (twenty.markers[:, 1] - 9)).float().mean() / 20
print("less than 10 points above the floor:", bool(score.used - floor < 0.1))
assert floor - 0.03 < score.used < floor + 0.1

# %% [markdown]
# The bars follow the line: the reader has found the strategy. Where a bar stands above the line, it looks and cannot
# find anything; where one stays below, mostly at the waking, it saves a look and now and then misses a marker. Which of
# the two is the better bargain, the price decides. So the answer to the opening question is not that the gate is bad.
# It is that skipping needs knowledge, and knowledge comes from reading.

# %% [markdown]
# **Predict (b).** Handwritten digits, read pixel by pixel, 784 steps. A plain LSTM that reads all of them gets 91.0 %
# right. What does an LSTM get that reads about half of the pixels, those it *chooses*? (i) Fewer, it sees less; (ii)
# about the same; (iii) more.

# %% tags=["hide-output"]
published = {  # accuracy, pixels read
    "all": (0.910, 784),
    "a random half": (0.893, 392),
    "chosen by Skip LSTM": (0.973, 379),
}
for name, (accuracy, pixels) in published.items():
    print(f"{name:20}: {accuracy:.1%} with {pixels} of 784 (published)")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because information cannot grow by leaving some out, and the random half does lose 1.7 points. But a
# network is no lookup of information, it has to be *trained* through all its steps. A copied step passes the gradient
# on unchanged, so half of the updates means a path half as long from the end to what mattered. And most pixels of a
# digit are empty. (iii): 97.3 %, six points more than with everything, by reading the right 379.
# ```

# %% [markdown]
# It is the choice that counts. On the adding task the authors also let networks skip at random, at rates from 2 to
# 50 %, and all of them fail (published).

# %% [markdown]
# ## Words
#
# To see what a reader leaves out of a *text*, we need texts of which we know what matters. The library makes some:
# English words put into fixed patterns, so they are an exercise and no English. Every clause opens with a word that
# announces what follows. After "meanwhile" come eight words and after "elsewhere" six that mean nothing, the full stop
# among them, even if there is praise or blame between. After "frankly" comes the verdict, and it decides the label.

# %%
drawn = data.keyword_sentences(1000, seed=2)
for i in (3, 9):
    said = zip(drawn.texts[i], drawn.relevant[i], strict=False)
    print(" ".join(word.upper() if matters else word for word, matters in said))
    print("   label:", drawn.classes[drawn.labels[i]])
share = drawn.relevant.sum() / drawn.lengths.sum()
print(f"words that matter: {share:.0%} of {int(drawn.lengths.sum()):,}")

# %% [markdown]
# Upper case marks the words that matter: the openings up to the verdict, and its last word. Training readers on these
# takes minutes each, so they come trained; `skimming.train_recorded` is the recipe. Besides Skip RNN there are two
# relatives. Each differs from it in one thing.
#
# **LSTM-Jump** {cite}`yu2017lstmjump` says *how far*. After every $R$ words it reads, here after each, it chooses a
# number from 0 to $K$, here 10: how many words ahead to go on, 1 being the next. A 0 means stop, the answer is known.
# It jumps at most $N$ times.

# %%
readers = skimming.recorded_readers()
jumping = readers["LSTM-Jump"]
text = slice(3, 4)
with torch.no_grad():
    words = jumping.embedding(drawn.tokens[text, : drawn.lengths[3]])
    steps = jumping.core(words, sample=False).jumps[0].tolist()
place, said = 0, []
for jump in steps:
    said.append(f"{drawn.texts[3][place]} -> {'stop' if jump == 0 else f'+{jump}'}")
    place += jump
print(", ".join(said))

# %% [markdown]
# It has learnt how long the clauses are: from one opening straight to the next, word by word through the verdict, and
# stop. A jump is a choice among eleven numbers, and nothing in the loss is smooth in it. So it is taught by REINFORCE,
# with the reward 1 for a right answer and $-1$ for a wrong one (here less a price for each word read), and with a
# baseline for each jump, read off the state by a linear layer.
#
# **Skim-RNN** {cite}`seo2018skimrnn` *looks at every word*, but not with the same effort. From the word and the state
# it chooses between a large cell and a small one. The small one renews the first few entries of the state and leaves
# the others as they are, to the last bit.

# %%
gentle = readers["Skim-RNN"].core
forced = skimming.SkimRNN(gentle.input_size, gentle.hidden_size, small=gentle.small)
forced.load_state_dict(gentle.state_dict())
nn.init.constant_(forced.choice.bias[1:], 1e9)  # always skim
with torch.no_grad():
    after = forced.infer(readers["Skim-RNN"].embedding(drawn.tokens[text])).hidden[0]
print(
    "entries of the state:", len(after), "- written by skimming:", int((after != 0).sum())
)
print(
    f"multiply-adds to read a word: {gentle.macs_read:,}, to skim it: {gentle.macs_skim:,}"
)

# %% [markdown]
# Mind what is small about the small cell. It still takes in the word and the *whole* state; only what it writes is
# small. And because it looks at the word before it decides, it needs no announcement. The choice is taught by soft
# *Gumbel-softmax* samples: while training, both cells run and their results are mixed. Here are all three on one text.

# %% mystnb={"image": {"alt": "One text three times. Skip RNN: some words in black and underlined, the rest small and struck through. LSTM-Jump: black and underlined are nearly only the words that open a clause up to the verdict; everything else, and all after the verdict, is small and struck through. Skim-RNN: nearly all words grey and italic, black and underlined only in the verdict."}}
chosen = {
    "Skip RNN, price 0.003: copies": "Skip RNN 0.003",
    "LSTM-Jump: jumps": "LSTM-Jump",
    "Skim-RNN: skims": "Skim-RNN",
}
marks = {
    title: readers[name].read(drawn.tokens[text], drawn.lengths[text])[1].marks[0]
    for title, name in chosen.items()
}
_ = plots.highlighted_text({title: (drawn.texts[3], m) for title, m in marks.items()})
plt.show()

# %% [markdown]
# Read words are black and underlined, skimmed ones grey and italic, unread ones small and struck through. The
# characters show. The jumper lands on the openings and stops at the verdict's last word. The skimmer, who may look
# first, spends its large cell on the verdict alone. Skip RNN does not land on the openings. It has found a habit of
# its own: a look into each clause is enough, since "the ending was" gives the verdict away as well as "frankly" does.
# And it cannot stop. It only has long pauses, and wakes up now and then to the end of the text.
#
# One text is an anecdote. The table runs all trained readers over a thousand.

# %%
scores = {
    name: skimming.score_reader(model, drawn.tokens, drawn.lengths, drawn.labels)
    for name, model in readers.items()
}
for name, s in scores.items():
    print(
        f"{name:15} right {s.accuracy:4.0%}  read {s.read:4.0%}  skimmed {s.skimmed:4.0%}"
    )
assert all((s.accuracy > 0.95) == (name != "Skip RNN 0.01") for name, s in scores.items())

# %% [markdown]
# | | Skip RNN | LSTM-Jump | Skim-RNN |
# |---|---|---|---|
# | decides | copy or update | how far to go, or stop | large or small cell |
# | looks at a word before it leaves it out | no | no | yes |
# | taught by | straight-through | REINFORCE with a baseline | soft Gumbel-softmax |
# | bias of one estimate | yes | none | yes, of the mixture |
# | while training | computes everything | computes what it reads | computes both cells at every word |
# | epochs here | 15 | 40 | 15 |
# | budget set by | a price $\lambda$ an update | $N$, $K$, $R$; here a price, too | a price $\gamma$ on not skimming |
#
# These sentences were made for readers that leave words out. Real ones were not. The bench trains the same readers on
# single sentences from reviews of films {cite}`pang2005seeing`, each of them praise or blame, with word vectors from
# nothing. (Any corpus will do: `course bench temporal --data sentences --root CORPUS`.)

# %% mystnb={"image": {"alt": "Accuracy, 60 to 75 percent, over the share of words read, for six readers of real sentences. Reading all and the two gentler Skip RNNs stand close together at the upper right; Skip RNN at price 0.01 lower, in the middle; LSTM-Jump far below, at the left; Skim-RNN at the left and nearly as high as reading all."}}
record = bench.latest("temporal", "cpu", data="sentence_polarity")
_ = plots.recorded_readers(record)
plt.show()

# %% tags=["nbval-ignore-output"]
print(bench.caption(record) if record else "nothing recorded yet")

# %% [markdown]
# A point is the median of three trainings, the bars its quartiles. Nobody here is a good critic; what counts is the
# distance to the reader of all words.

# %%
if record:
    median = {row["name"]: row["median"] for row in record["rows"]}
    for name in ("read all", "Skip RNN 0.003", "Skip RNN 0.01", "LSTM-Jump", "Skim-RNN"):
        right, read, work = (
            median[f"{name}: {what}"] for what in ("right", "read", "work")
        )
        print(f"{name:15} right {right:.0f} %, read {read:.0f} %, work {work:.0f} %")

# %% [markdown]
# No word announces praise in a real sentence, and a sentence is short. So whoever decides before looking has little to
# go by. A seventh of the words Skip RNN leaves out for next to nothing. Leaving out more than half costs it
# nearly four points, and the jumper, who reads a seventh, ten. Skim-RNN looks first. It gives its large cell a fifth
# of the words, does a third of the work, and loses one point. The moral of the made sentences was that an announcement
# is worth a look ahead; the moral of the real ones is that without it a look is worth its price.
#
# Bias was the subject of the chapter on gradients. The other half is spread, and it can be measured here: the same
# batch of 64 texts, untrained readers, twelve estimates each of the gradient for the layer that decides. The spread is
# given relative to the length of their mean.

# %%
first = (drawn.tokens[:64], drawn.lengths[:64], drawn.labels[:64])
for name in ("Skip RNN 0.003", "Skim-RNN", "LSTM-Jump"):
    price, _ = skimming.RECIPES[name]
    torch.manual_seed(0)
    fresh = skimming.new_reader(name, len(drawn.vocabulary))
    source = torch.Generator().manual_seed(0)
    estimate = partial(skimming.decision_gradient, price=price, generator=source)
    estimates = torch.stack([estimate(fresh, *first) for _ in range(12)])
    spread = (estimates - estimates.mean(0)).square().sum(1).mean().sqrt()
    share = float(spread / estimates.mean(0).norm())
    size = "none" if share < 1e-4 else "small" if share < 0.2 else "more than the gradient"
    print(f"{name:15}: spread {size}")
    assert (share < 1e-4, share > 1) == (name.startswith("Skip"), name == "LSTM-Jump")

# %% [markdown]
# Skip RNN draws nothing, so its estimates do not scatter at all. Skim-RNN's hardly do, since the gradient runs through
# every word's own mixture. One estimate of LSTM-Jump is mostly noise, even averaged over 64 texts: a single reward has
# to tell all jumps of a text whether they were right. It shows in the recipes, where REINFORCE took more than twice as
# many epochs. In return it is the only one that skips while it trains. The next figure has the bill.

# %% mystnb={"image": {"alt": "Accuracy against thousand multiply-adds per text. Skip RNN has four points, from right to left as the price rises: two at 1, one just below, and the last one far down. LSTM-Jump and Skim-RNN have one point each, near 1 and a little to the left of the third."}}
work = {
    name: [(scores[name].macs, scores[name].accuracy)] for name in ("LSTM-Jump", "Skim-RNN")
}
skips = [scores[f"Skip RNN {price:g}"] for price in skimming.SKIP_PRICES]
_ = plots.accuracy_by_work({"Skip RNN": [(s.macs, s.accuracy) for s in skips], **work})
plt.show()

# %% [markdown]
# Skim-RNN reads half as many words as the jumper and does not have the smaller bill, since it pays for a look at
# each. Skip RNN is as good down to about a third of the words; a higher price still saves work, and now it costs
# accuracy. (It runs on a GRU, the other two on LSTMs as in their papers, three gate blocks against four.) Mind that
# these sentences suit the jumper: everything that matters is announced. Texts are not so polite. `data.sentences`
# reads a corpus of your own (a folder or zip with a subfolder of text files for each class, or one file of lines a
# class), and `skimming.train_reader` trains any of the three on it.

# %% [markdown]
# ## Turn the price yourself
#
# Pick a sentence and one of the four trained prices. You see the saw-tooth over the words, the words that were read,
# and where this price stands among the others.


# %% tags=["nbval-ignore-output"]
points = {p: (s.read, s.accuracy) for p, s in zip(skimming.SKIP_PRICES, skips, strict=True)}


def look(sentence, price):
    """What `reading_dashboard` needs for one sentence and one price."""
    model, length = readers[f"Skip RNN {price:g}"], drawn.lengths[sentence]
    with torch.no_grad():
        seen = model.core(model.embedding(drawn.tokens[sentence : sentence + 1, :length]))
    return drawn.texts[sentence], READ * seen.updates[0].long(), seen.probability[0], price


def show(sentence, price):
    _ = plots.reading_dashboard([look(sentence, price)], points)
    plt.show()


hand = {
    "sentence": ipywidgets.IntSlider(3, min=0, max=30, continuous_update=False),
    "price": ipywidgets.SelectionSlider(options=skimming.SKIP_PRICES, value=1e-3),
}
reset = ipywidgets.Button(description="reset")
start = {name: control.value for name, control in hand.items()}
reset.on_click(lambda _: [setattr(c, "value", start[name]) for name, c in hand.items()])
view = ipywidgets.interactive_output(show, hand)
display(ipywidgets.VBox([ipywidgets.HBox([*hand.values(), reset]), view]))

# %% mystnb={"image": {"alt": "The same sentence at prices 0, 0.001 and 0.01. From top to bottom the filled bars over the words become fewer, more words are small and struck through, and a diamond on the curve of accuracy against the share of words read moves to the left; at the last price it has fallen."}}
_ = plots.reading_dashboard([look(3, price) for price in (0.0, 1e-3, 1e-2)], points)
plt.show()

# %% [markdown]
# Three positions of the hand. The price moves the diamond to the left, and down to a third of the words nothing is
# lost. The last price is too high: the pauses grow longer than two clauses, and where the verdict fell into one, the
# reader can only guess.
#
# ## Two ledgers
#
# The first ledger is easy. A copied step costs nothing, so multiply-adds follow the updates. Without biases, a cell
# with $g$ gate blocks costs $g\,d\,(d + m)$ a step, for $d$ units and $m$ inputs. The gate adds $d$ at each update.

# %%
plain = {
    "adding, LSTM": skimming.recurrent_macs("lstm", 2, 110, 50),
    "adding, GRU": skimming.recurrent_macs("gru", 2, 110, 50),
    "pixels, LSTM": skimming.recurrent_macs("lstm", 1, 110, 784),
}
for name, macs in plain.items():
    print(f"{name:13}: {macs:>10,} multiply-adds to read everything")
assert list(plain.values()) == [2_464_000, 1_848_000, 38_290_560]
assert measure.count_macs(nn.LSTMCell(2, 110), torch.zeros(1, 2)) * 50 == 2_464_000

# %% [markdown]
# These are the figures of the paper for its networks of 110 units. The Skip LSTM above, with 379 of 784 pixels, pays
# 48 % of the last one (calculated).
#
# The second ledger is the clock. We time one sequence at a time: readers of 256 units on a hundred steps, alike but for the
# bias of their gates, which makes them update at every step, every second, third or fifth. The promise is that time
# goes with the share of updates. A third party sits in: PyTorch's own GRU, which reads everything, in one *fused* call.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Time relative to reading all, against the share of updates. Four measured squares lie on or near a rising diagonal with a band of 20 percent around it. A dashed horizontal line marks the fused kernel that reads everything."}}
torch.manual_seed(0)
steady, steps = {}, torch.randn(1, 100, 8, device=device)
for period, held in ((1, 0.9), (2, 0.4), (3, 0.2), (5, 0.11)):
    steady[period] = SkipRNN(8, 256).to(device).eval()
    nn.init.zeros_(steady[period].gate.weight)
    nn.init.constant_(steady[period].gate.bias, torch.tensor(held).logit().item())
fused = nn.GRU(8, 256, batch_first=True).to(device).eval()
contenders = {p: partial(model.infer, steps) for p, model in steady.items()}
with torch.inference_mode():
    timing = measure.compare(
        {**contenders, "fused": lambda: fused(steps)}, rounds=15, warmup=2
    )
fastest = {
    name: min(timing[name].samples_s) for name in timing
}  # the least disturbed round
ratios = {name: fastest[name] / fastest[1] for name in timing}
shares = {p: model.infer(steps).share() for p, model in steady.items()}
_ = plots.share_and_time(
    list(shares.values()), [ratios[p] for p in steady], fused=ratios["fused"]
)
plt.show()

# %% [markdown]
# Half of the updates, half of the time: how close the squares come to the diagonal depends on what else your machine
# is doing, and `course bench temporal` measures it with more patience. The dashed line is the sobering part. The
# fused call does the arithmetic of *all* steps without going back to Python in between, and with cells of this size
# Python and the launch of small operations are a good part of the time. A gate needs its own answer before the next
# step can be chosen, so it cannot use that call. Only squares below the line have gained anything over what you would
# have run without a gate. That takes long pauses, large cells, or something costly per step, as in the
# [chapter on video](adafocus.ipynb).
#
# ## Then came the batch
#
# A server has thirty-two texts at a time. They are read in step, word by word, with the masked form: at a step at
# which nobody updates, the cell need not be called.

# %% [markdown]
# **Predict (c).** Each row updates at 35 % of the steps, independently of the others. Which share of the steps can the
# masked batch of 32 leave out? (i) 65 %; (ii) about 20 %; (iii) practically none.

# %% tags=["hide-output"]
skipped_by_all = 0.65**32
print(f"one step in {1 / skipped_by_all:,.0f}")
print("shares for batches of 1, 2, 4, 8:", [round(0.65**n, 2) for n in (1, 2, 4, 8)])

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because it is the saving, and a mean does not care how it is batched. But a step can be left out only if
# *all* rows skip it, and $0.65^{32}$ is about one in a million: (iii). Two rows already leave only 42 %. The batch
# runs whenever one row runs.
# ```

# %% [markdown]
# There are ways out, and a small example shows them: three rows, six steps, two updates each. Filled cells are needed,
# crossed ones are computed for nothing.

# %% mystnb={"image": {"alt": "Four grids of three rows and six columns. One by one: six filled cells, six calls. Masked: six filled and six crossed cells in four columns, four calls. Compacted: six filled cells in four columns, four calls. Own pace: six filled cells pushed to the left into two columns, two calls."}}
small = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
_ = plots.batch_plans(small)
plt.show()
bills = {plan: skimming.plan_cost(small, plan) for plan in skimming.PLANS}
print({plan: (bill.rows, bill.launches) for plan, bill in bills.items()})

# %% [markdown]
# *Compaction* gathers the rows that are due and calls the cell on them alone. It saves rows, but the calls stay as many
# as before. The last plan drops an assumption that nobody needed. Rows do not talk to each other, so why should they be
# at the same word at the same time? Let each row go to its own next update, and let the cell's first call compute
# everybody's first update, the second call everybody's second, and so on. All three plans are `SkipRNN.infer`, and give
# the same states.

# %%
model = skimming.recorded_readers()["Skip RNN 0.003"].to(device)
batch = skimming.length_buckets(drawn.lengths, 64)[8]  # 64 texts of like length
longest = drawn.lengths[batch].max()
with torch.no_grad():
    words = model.embedding(drawn.tokens[batch, :longest].to(device))
lengths = drawn.lengths[batch].to(device)
results = {plan: model.core.infer(words, lengths, plan=plan) for plan in skimming.PLANS[1:]}
trace = model.core(words, lengths)
for plan, result in results.items():
    assert torch.allclose(result.hidden, trace.hidden, atol=1e-4)
    assert result.rows == skimming.plan_cost(trace.updates > 0, plan).rows
    print(
        f"{plan:9}: {result.rows / (64 * longest):4.0%} of the rows, {result.launches} calls"
    )

# %% [markdown]
# One thing more has happened in that cell: *length bucketing*. Texts in a batch are padded to the longest, and padding
# is work for nothing, too. Sorting texts by length before they are batched removes nearly all of it.

# %%
as_they_come = list(torch.arange(1000).split(64))
sorted_first = skimming.length_buckets(drawn.lengths, 64)
for name, batches in (("as they come", as_they_come), ("by length", sorted_first)):
    print(f"{name:12}: {skimming.padded_share(drawn.lengths, batches):4.0%} padding")

# %% [markdown]
# Now the clock again, for the 64 texts. "Read all" is the same reader with its gate held open. Beside the measured time
# stand the two things it is made of, rows and calls, all relative to the first line.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Three bar charts for read all, masked, compacted and own pace: measured time, rows and calls, relative to read all. Masked saves next to nothing; compacted saves rows and no calls; own pace saves both. A last line gives the time of the fused kernel that reads everything in one call."}}
open_gate = SkipRNN(16, 32).to(device).eval()
open_gate.load_state_dict(model.core.state_dict())
nn.init.zeros_(open_gate.gate.weight)
nn.init.constant_(open_gate.gate.bias, 5.0)
fused = nn.GRU(16, 32, batch_first=True).to(device).eval()
calls = {"read all": partial(open_gate.infer, words, lengths, plan="masked")}
calls |= {
    p.replace("_", " "): partial(model.core.infer, words, lengths, plan=p) for p in results
}
with torch.inference_mode():
    timing = measure.compare({**calls, "fused": lambda: fused(words)}, rounds=9, warmup=2)
everything = open_gate.infer(words, lengths, plan="masked")
bills = dict(zip(calls, [everything, *results.values()], strict=True))
_ = plots.plan_times(
    {n: (min(timing[n].samples_s), b.rows, b.launches) for n, b in bills.items()}
    | {"fused, reads all": (min(timing["fused"].samples_s), 64 * int(longest), 1)}
)
plt.show()

# %% [markdown]
# The honest answer, then. In step, batching eats the gain: masked, almost every step has somebody who needs it.
# Compaction gives the rows back, and on a CPU with small cells that is little, since a call with twenty rows takes
# nearly as long as one with sixty, and finding and gathering the rows costs something as well. Only calls that are
# *not made* save the rest, and for that each row needs its own clock. What to do, in this order: sort by length, let
# every row go at its own pace, and compare with the fused kernel, which may still be ahead with cells as small as
# these. On a GPU, where a small call is mostly overhead, expect all of this to be more pronounced.
#
# ## Where it breaks
#
# **Half to even.** The gate fires at one half *or more*. The obvious way to write that is `round`, which in most
# frameworks rounds one half to the even neighbour, and that is 0.

# %%
print("round(0.5) =", torch.round(torch.tensor(0.5)).item())
for increment in (0.5, 0.25):
    due, with_round = torch.tensor(1.0), []
    for _ in range(12):
        update = torch.round(due)
        due = update * increment + (1 - update) * (due + min(increment, 1 - due))
        with_round.append(int(update))
    pause = int(skipped_steps(torch.tensor(increment)))
    print(
        f"adds {increment}: every step {pause + 1} is right, got {''.join(map(str, with_round))}"
    )

# %% [markdown]
# A gate that should read everything reads every second word. Trained increments are seldom exactly one half, so the
# mistake hides until somebody sets a gate by hand or compares with the formula.
#
# **No reset.** After an update the accumulator must start again from $\Delta$. Whoever keeps adding to it has a gate
# that never closes, since it starts at 1. Here is the gate of the first prediction without its reset.

# %%
due, never_reset = 1.0, []
for _ in range(13):
    never_reset.append(int(due >= 0.5))
    due = due + min(0.2, 1 - due)
print("never reset:", "".join(map(str, never_reset)))
assert all(never_reset)

# %% [markdown]
# The symptom is a reader that goes on reading everything, whatever the price. A cousin of this mistake sits in the
# loss: with the *mean* over the steps in place of the sum, the same $\lambda$ is twenty times as weak on twenty steps,
# and changes its meaning with every length.
#
# **A surprise.** Our reader has learnt where markers *may* be. Now put the second one where it never was in training,
# at step 5.

# %%
moved = twenty.inputs.clone()
rows = torch.arange(len(moved))
moved[rows, twenty.markers[:, 1], 1] = 0
moved[:, 5, 1] = 1
with torch.no_grad():
    updates = run.model.reader(moved.to(device)).updates.cpu() > 0
print("surprises that are read, below 15 %:", bool(updates[:, 5].float().mean() < 0.15))
assert updates[:, 5].float().mean() < 0.15

# %% [markdown]
# It sleeps through it, and it cannot even know what it missed. That is the price of deciding before looking, and it is
# why Skim-RNN, which pays for a look, has a place of its own. What is left out of a text is a bet on texts being like
# those in training.

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/temporal/skimming](../../exercises/temporal/skimming.ipynb), and answer at once.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `skipped_steps` | how long a gate will pause | 1 | 8 |
# | `gated_step` | a step that computes only what updates | 3 | 15 |
# | `jump_loss` | a loss that teaches jumps | 3 | 22 |
# | `plan_cost` | what a batch must compute | 4 | 25 |
#
# ## Recap
#
# - A gate copies the state or updates it; the budget is the number of updates.
# - It accumulates and fires at one half, so the pause is known in advance.
# - Three decisions, three estimators: straight-through, REINFORCE, Gumbel.
# - Skimming still reads the whole state; it writes less.
# - Batches skip only what all rows skip, or what you compact, unless each row keeps its own time.
#
# ## Where next
#
# The [start page](../start/paths.ipynb) has the reading orders. From words to frames: [AdaFocus](adafocus.ipynb) asks
# where in a video to look, and its policy, a relative of the jumper, decides before the expensive network runs. If you
# are here for language, go on to [DAPL](../beyond/dapl.ipynb), in which no word is left out and some words are trained.
# The three estimators are taken apart in [Gradients](../training/gradients.ipynb).
#
# ## References
#
# Skip RNN, its recurrence (section 3.1) and its experiments (section 4): {cite}`campos2018skiprnn`. LSTM-Jump:
# {cite}`yu2017lstmjump`. Skim-RNN: {cite}`seo2018skimrnn`. The adding task: {cite}`hochreiter1997lstm`.
# Gumbel-softmax: {cite}`jang2017gumbel`. REINFORCE: {cite}`williams1992reinforce`. Where skipping in time stands among
# dynamic networks: {cite}`han2021dynamic`, section 4.
