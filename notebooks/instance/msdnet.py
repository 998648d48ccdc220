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
# # When is a network sure enough to stop?
# *70 min reading · 70 min exercises · needs [Measuring](../start/measuring.ipynb) · CPU, under 60 s; GPU optional*
#
# A network with several exits can answer an easy picture early and keep its work for the hard ones. This chapter
# builds one, turns a budget into a rule for stopping, and lets the finished pictures really leave. Its terms, set in
# *italics* where they first appear, stand in the [glossary](../../book/glossary.md).
#
# **You will be able to**
# - *explain* why ordinary networks make poor early exits, and what a multi-scale network does about it;
# - *compute* the share of pictures each exit should serve so that a budget is spent exactly;
# - *choose* thresholds on held-out data, and say what goes wrong if they come from training data;
# - *write* inference that drops finished pictures from the batch, and *prove* that it does;
# - *judge* a claimed saving by two ledgers, multiply-adds and time.

# %%
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import torch
from IPython.display import display

import course_lib
from course_lib import bench, data, decision, measure, plots, train
from course_lib.instance.msdnet import MSDNet

plots.use_style()
course_lib.seed_everything(1)
device = course_lib.device()
# on a GPU: no answer may depend on the batch it was computed in
torch.backends.cudnn.allow_tf32 = False

# %% [markdown]
# ## The question
#
# Here is a network from the paper {cite}`huang2018msdnet`, made for pictures of 32x32 pixels in 100 classes. It has
# five *exits*: five places where it can give its answer and stop. The cell builds it and counts what an answer has
# cost in all at each exit, in millions of operations, the way the authors counted.

# %%
published = MSDNet.cifar(100, exits=5, base=1, step=1, growth="linear")
ruler = [cost / 1e6 for cost in published.exit_costs(32, convention="published")]
print("cost of an answer at each exit, M:", [round(cost, 1) for cost in ruler])
print("of 20 M, left over if everybody stops at exit 2:", round(20 - ruler[1], 1), "M")

# %% [markdown]
# You may spend 20 M per picture *on average*. Exit 2 costs 14.4 M, exit 3 already 27.5 M. Stop everybody
# at exit 2 and leave 5.6 M a picture unspent? Or spend it on those who need it? And how would the network know who
# they are?
#
# **Before you read on, say what you would do**, and how many pictures in a hundred you would send to each exit.
#
# ## A network with exits that work
#
# Hanging a classifier on an early layer of an ordinary network disappoints twice. Early layers see fine detail and no
# whole, while a classifier needs *coarse* features that summarise the picture. And training the early exit bends the
# early layers to its own needs, at the expense of the last one. The multi-scale dense network, MSDNet, answers both.
# It carries a coarse map from the very first layer on, and only the coarsest map is classified. And every layer sees
# the features of *all* layers before it (*dense connectivity* {cite}`huang2017densenet`), so what one layer lost for
# the sake of an early exit, a later one still finds further back.
#
# The picture shows the network we shall train below, drawn from the model itself.

# %% mystnb={"image": {"alt": "A grid of squares. The upper row holds maps of 16x16 pixels from layer 0 to 5, the lower row maps of 8x8 pixels from layer 0 to 10. Arrows run right and down, never up. Four diamonds, the exits, hang below layers 1, 3, 6 and 10. For exit 2 four layers are solid, all that lies further right is pale and hatched. A ruler below puts the exits at 0.42, 1.44, 3.57 and 5.95 million multiply-adds."}}
model = MSDNet.tiny().to(device)
_ = plots.exit_grid(model, 16, exit_index=1)
plt.show()

# %% [markdown]
# Read it from left to right. Each square is a feature map: its side is the resolution, the number its
# channels. A node reads everything that stands to its left at its own scale and at the next finer one, so arrows run
# right or down, and never up (the map before it carries everything further left along, so one arrow is enough). Fine
# maps late in the network would cost much and help little, so the authors leave them out: the upper right of the grid
# is empty. The diamonds are exits, and the ruler below gives the price of an answer there.
#
# What is pale and hatched is not computed when a picture stops at exit 2. That includes, of course, all that comes
# later. But look closely at the top row: it also stops one layer *before* the exit does.

# %% [markdown]
# ## What does an exit depend on?
#
# The rule is short enough to run. A node at layer $l$ and scale $s$ (0 is the finest) needs the nodes of the layer
# before at scales $s$ and $s - 1$, as far as they exist. An exit needs the coarsest node of its layer. The function
# follows the arrows backwards and collects what it meets.


# %%
def depends_on(net, layer, scale, found):
    """Collect in `found` every node (layer, scale) that this node needs, itself included."""
    exists = layer >= 1 and net.config.first_scale(layer) <= scale
    if exists and (layer, scale) not in found:
        found.add((layer, scale))
        depends_on(net, layer - 1, scale, found)
        depends_on(net, layer - 1, scale - 1, found)
    return found


depth = 0
for k, layers in enumerate(published.config.blocks):
    depth += layers
    by_rule = depends_on(published, depth, scale=2, found=set())
    assert by_rule == {node for j in range(k + 1) for node in published.nodes(j)}
    print(f"exit {k + 1}, layer {depth:2}: needs {len(by_rule):2} nodes")

# %% [markdown]
# The assertion says that the library runs exactly these nodes and no others. Computing only what the
# requested exit needs, and the rest when a later exit asks for it, is called *lazy evaluation*. The answers stay the
# same; only the bill changes. In the network of the opening question, with its three scales, the saving is a triangle
# before each exit.

# %% mystnb={"image": {"alt": "The grid of the published network with three scales, 15 layers and five exits. For exit 3 at layer 6, the nodes needed form a staircase: the finest scale stops at layer 4, the middle one at layer 5, the coarsest at layer 6."}}
_ = plots.exit_grid(published, 32, exit_index=2)
plt.show()

# %% [markdown]
# ## Three "FLOPs at exit k"
#
# The ruler under this picture does not show the numbers of the opening question. Three ways to count circulate in the
# literature, and papers do not always say which one they use. The cell prints all three for the same network.

# %%
for convention in ("published", "macs", "lazy"):
    counted = published.exit_costs(32, convention=convention)
    print(f"{convention:>9}:", "  ".join(f"{cost / 1e6:5.1f}" for cost in counted), "M")

# %% [markdown]
# *published* is the authors' counter: multiply-adds, plus one operation for every element of a ReLU,
# plus pooling. *macs* counts the *multiply-adds* of convolutions and linear layers only. *lazy* counts the same for
# the nodes that the exit depends on. All three include the heads of the exits passed on the way, which is fair, since
# a network that asks at every exit has to run them. At exit 1 they differ by a seventh, at exit 5 hardly at all. From
# here on, costs are lazy multiply-adds unless the text says otherwise.

# %% [markdown]
# ## From a budget to shares
#
# To spend a budget one must decide how many pictures stop where. The paper's model has one number: at every exit, each
# picture still there leaves with the same chance $q$. Exit $k$ then serves a share
#
# $$
# q_k = z \, (1 - q)^{k-1} q , \qquad \bar C = \sum_{k=1}^{K} q_k \, C_k ,
# $$ (eq-msdnet-shares)
#
# where $z$ makes the shares add up to 1 and $C_k$ is the cost of an answer at exit $k$. A large $q$ is a hurry, a
# small $q$ patience.

# %% [markdown]
# **Predict (a).** The five exits cost 6.9, 14.4, 27.5, 41.7 and 58.5 M. What is the largest mean cost
# $\bar C$ that any $q$ between 0 and 1 can express? (i) about 58.5 M, (ii) about 42 M, (iii) about 30 M.

# %% tags=["hide-output"]
for q in (0.9, 0.5, 0.1, 0.001):
    chances = torch.tensor([q * (1 - q) ** k for k in range(5)])
    shares = chances / chances.sum()
    cost = decision.mean_cost(shares, ruler)
    print(f"q = {q:<5}: {[round(s, 2) for s in shares.tolist()]}, mean cost {cost:.1f} M")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts: with $q$ near 0 nobody seems to leave, so everybody should arrive at the last exit. But the shares are
# *normalised*, and for small $q$ they become equal. The mean cost then is the plain mean of the five costs, 29.8 M:
# (iii). No $q$ can express a budget beyond that, although the network could well spend it.
# ```

# %% [markdown]
# The authors' code, and this course, therefore use another number for the same family: $\rho = 1 - q$,
# the ratio of neighbouring shares, $q_k \propto \rho^k$. As a ratio it may exceed 1, and then late exits are favoured.
# The mean cost rises with $\rho$ from $C_1$ to $C_K$, so for each budget between them there is one $\rho$, found by
# bisection.

# %%
for budget in (20, 30):
    rho = decision.solve_budget(ruler, budget)
    plan = decision.exit_shares(rho, 5)
    assert abs(decision.mean_cost(plan, ruler) - budget) < 1e-3
    shares = [round(100 * s) for s in plan.tolist()]
    print(f"{budget} M: rho = {rho:.3f}, of 100 pictures {shares}")

# %% [markdown]
# There is the plan for 20 M: of a hundred pictures, 39 stop at the first exit and 7 go all the way.
# Compare it with what you wrote down. For 30 M the ratio is a little above 1, which no $q$ could have said. A plan is
# not a rule, though. Nothing so far says *which* 39 pictures.
#
# ## From shares to thresholds
#
# The rule is to stop at the first exit that is sure enough. How sure an exit is, we read off its largest class
# probability, the *confidence*. How sure is *enough*, the plan decides. Take six pictures a to f that the network has
# never been trained on, three exits, and a plan of 1/2, 1/3, 1/6: three pictures should leave at exit 1, two at exit
# 2, one at exit 3. The cell does by hand what one would do on paper: rank those still there, let the best go.

# %%
table = {"a": (0.9, 0.95, 0.99), "b": (0.8, 0.7, 0.9), "c": (0.6, 0.9, 0.8),
         "d": (0.5, 0.6, 0.7), "e": (0.4, 0.8, 0.9), "f": (0.3, 0.5, 0.6)}  # fmt: skip

here, by_hand = dict(table), []
for k, wanted in enumerate((3, 2)):
    ranked = sorted(here, key=lambda name: here[name][k], reverse=True)
    threshold = here[ranked[wanted - 1]][k]
    leaving = [name for name in here if here[name][k] >= threshold]
    here = {name: row for name, row in here.items() if name not in leaving}
    by_hand.append(threshold)
    print(f"exit {k + 1}: threshold {threshold}, leaving {leaving}")
print(f"exit 3: whoever is left, {list(here)}")

# %% [markdown]
# Look at exit 2. Its most confident pictures are a and c, but they left before; only d, e and f are
# there to be asked. The threshold is the confidence of the second best *among them*, 0.6. The same in tensors: a mask
# of who is still here takes the place of the dictionary, and `topk` that of the sorting.


# %%
def thresholds_from(confidence, shares):
    """(N, K) confidences and (K,) shares -> (K,) thresholds; who reaches one leaves."""
    thresholds = torch.full_like(shares, -torch.inf)
    here = torch.ones(len(confidence), dtype=torch.bool)
    for k in range(len(shares) - 1):
        wanted = int(shares[k] * len(confidence))
        thresholds[k] = confidence[here, k].topk(wanted).values[-1]
        here &= confidence[:, k] < thresholds[k]
    return thresholds


six = torch.tensor(list(table.values()))
vectorised = thresholds_from(six, torch.tensor([1 / 2, 1 / 3, 1 / 6]))
assert torch.equal(vectorised, torch.tensor([*by_hand, -torch.inf]))
print("thresholds:", [round(t, 3) for t in vectorised.tolist()])

# %% [markdown]
# The last threshold is $-\infty$: the last exit answers whoever is left, sure or not. The library's
# function is this loop with its edges filed off. Where a share rounds down to nobody the threshold becomes $+\infty$,
# and where pictures tie they leave together, as they will at test time. On 4000 random rows with many ties both give
# the same.

# %%
rounded = (
    torch.rand(4000, 4, generator=torch.Generator().manual_seed(0)).mul(50).round() / 50
)
plan = decision.exit_shares(0.6, 4)
assert torch.equal(decision.find_thresholds(rounded, plan), thresholds_from(rounded, plan))
assert torch.equal(decision.find_thresholds(six, [1 / 2, 1 / 3, 1 / 6]), vectorised)
print("exits of a to f:", (decision.choose_exit(six, vectorised) + 1).tolist())

# %% [markdown]
# ## Train it
#
# Now with a real network. The pictures are ten kinds of shapes, 16x16 pixels, and each carries a hidden number, its
# *difficulty*: hard ones are small, off centre and noisy. The network never sees that number; we keep it to check on
# it later. Three sets, drawn apart: one to train on, one to choose thresholds, one to report. Training minimises the
# sum of the four exits' cross-entropies, all with weight 1, as in the paper.

# %%
sets = {
    name: data.shapes(4000, seed=seed)
    for name, seed in (("train", 1), ("validation", 2), ("test", 3))
}
inputs = {name: (s.images - 0.5) * 2 for name, s in sets.items()}
test = sets["test"]
history = train.fit(
    model,
    (inputs["train"], sets["train"].labels),
    epochs=6,
    batch_size=64,
    lr=0.05,
    seed=1,
    progress=False,
)
halved = history.losses[-1] < 0.5 * history.losses[0]
print(history.steps, "steps; loss fell by more than half:", halved)

# %% [markdown]
# Half a minute, and that was the only training of this chapter. All that follows is decided from the logits of the
# four exits on the validation and the test pictures, which the next cell computes once and keeps in a *study*. The
# accuracies are properties of this one run, so the cell asserts what the argument needs and no more: the last exit must
# be clearly better than the first, or there would be nothing to gain by going on.

# %%
pairs = {name: (inputs[name], s.labels) for name, s in sets.items()}
study = train.study(model, pairs["validation"], pairs["test"])
accuracy, costs = study.accuracies, study.costs
assert accuracy[-1] - accuracy[0] > 0.03
assert accuracy[-1] > 0.8
print("last exit at least 3 points above the first:", accuracy[-1] - accuracy[0] > 0.03)
print("the first exit costs", round(costs[0] / costs[-1], 2), "of the last")

# %% [markdown]
# ## Stopped at any moment
#
# Before the thresholds, a simpler use of such a network. In *anytime prediction* somebody else decides when to stop: a
# camera needs its answer *now*. `model.anytime` yields the exits' logits one by one and does no work for an exit that
# nobody asks for. Below, the interruption comes after exit 2. The second part runs to the end and compares with the
# plain forward pass, which runs the nodes in another order.

# %%
x = inputs["test"][:200].to(device)
with torch.inference_mode():
    for k, out in enumerate(model.anytime(x)):
        answer = out
        if k == 1:  # the interruption
            break
    whole = model(x)
    lazily = list(model.anytime(x))
print("an answer for", len(answer), "pictures, from exit", k + 1)
same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(lazily, whole, strict=True))
assert same
print("lazy and full evaluation agree at every exit:", same)

# %% [markdown]
# ## Sure enough: thresholds from held-out pictures
#
# Back to *budgets*. We take $\rho = 0.6$, so that 46 % should leave at exit 1, and set the thresholds on the
# validation set. Then the test pictures come, and each leaves where its confidence first reaches the bar. `simulate`
# reads this off the stored logits.

# %%
rho = 0.6
plan = decision.exit_shares(rho, 4)
thresholds = decision.find_thresholds(study.validation_confidence, plan)
chosen, exit_index = decision.simulate(study.test_logits, thresholds)
realised = torch.bincount(exit_index, minlength=4) / len(exit_index)
print("planned:", [round(s, 2) for s in plan.tolist()])
close = bool(((realised - plan).abs() < 0.06).all())
print("every realised share within 0.06 of it:", close)

# %% [markdown]
# The figure shows the decision itself: for each exit the confidences of the test pictures that are still
# there. Those at or above the dashed threshold leave and are filled in; the outline shows those that stay. The
# thresholds need not fall from exit to exit by any law: they are *quantiles* of whoever is left. Hence only the
# *order* of the confidences matters. Whether 0.8 means "right eight times in ten" is a question of calibration, which
# the [chapter before](../start/measuring.ipynb) treats, and which this rule does not have to ask.

# %% mystnb={"image": {"alt": "Four histograms of confidence, one for each exit. At exits 1 to 3 a dashed line cuts the histogram: pictures to its right are filled in and leave, those to its left are an outline and stay. At exit 4 all leave."}}
_ = plots.confidence_histograms(study.test_confidence, thresholds.tolist())
plt.show()

# %% [markdown]
# Using pictures apart from the training set for the thresholds costs data. The training pictures are at
# hand, there are 4000 of them, and the shares would come true on them exactly as well.
#
# **Predict (b).** Set the thresholds on the *training* pictures instead, for the same plan. On test pictures, the mean
# cost will be (i) as planned, (ii) lower than planned, (iii) higher than planned?

# %% tags=["hide-output"] mystnb={"image": {"alt": "Bars of shares at four exits: planned, with thresholds from validation pictures, and with thresholds from training pictures. "}}
trained_on = train.study(model, validation=pairs["train"], test=pairs["test"])
late = trained_on.at_rho(rho).realised
for source, shares in (("validation", realised), ("training", late)):
    over = decision.mean_cost(shares, costs) / decision.mean_cost(plan, costs) - 1
    words = {"more than 7 % below": over < -0.07, "more than 7 % above": over > 0.07}
    said = next((word for word, true in words.items() if true), "within 7 % of")
    print(f"thresholds from {source} pictures: {said} the plan")
_ = plots.share_bars(plan, {"thresholds from validation": realised, "from training": late})
plt.show()

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because thresholds do come true where they were set, and the training pictures are drawn like the others.
# But the network has *learnt* the training pictures: it is surer of them than of anything new. A bar set among such
# confidences is too high for test pictures, so too few leave at exit 1, too many stay to the end, and the bill is
# more than 7 % above the plan: (iii). The same network, the same
# plan; only the data for the bar differ, and nothing looks wrong except the bill.
# ```

# %% [markdown]
# ## Is it worth it?
#
# Now turn $\rho$ through its range, from 0.05 to 1.95 as the authors do. Every value gives thresholds on the validation
# set and a point on the test set: mean cost and accuracy. Against it stand the alternatives without any decision:
# everybody at exit 1, everybody at exit 2, and so on. They make a staircase, since a budget between two exits buys no
# more than the lower one.

# %% mystnb={"image": {"alt": "Test accuracy against mean cost. The curve of the adaptive network rises steeply and lies above the dashed staircase of the fixed exits everywhere; it reaches the height of exit 4 at less than half of its cost."}}
points = study.sweep()
_ = plots.accuracy_cost_curve(study)
plt.show()

# %% [markdown]
# The curve lies above the staircase, and it is flat on the right: long before everybody goes to the end,
# the accuracy of the end is reached. For the setting we chose, the next cell holds the claim to account. It also
# compares with the rival that is easy to forget: the best *fixed* exit of no greater cost.

# %%
point = study.at_rho(rho)
rival = max(a for a, c in zip(accuracy, costs, strict=True) if c <= point.cost)
print("cost under a third of the last exit's:", point.cost < costs[-1] / 3)
print("lost against the last exit, under 1 point:", accuracy[-1] - point.accuracy < 0.01)
print("better than the best fixed exit of that cost:", point.accuracy > rival)
assert point.cost < costs[-1] / 3
assert point.accuracy > max(rival, accuracy[-1] - 0.01)

# %% [markdown]
# Read the figure the other way round, too: what does the curve ask for the accuracy of a given exit?

# %%
curve = measure.CostCurve([p.cost for p in points], [p.accuracy for p in points])
halved = curve.cost_at_accuracy(accuracy[2]) < costs[2] / 2
assert halved
print("as accurate as exit 3 for less than half its cost:", halved)

# %% [markdown]
# So the answer to the opening question is the second one: spend the budget on those who need it. The
# same average buys more when it is spent unevenly.
#
# ## Who left where?
#
# We asked for shares and got a saving. Did the network also choose the *right* pictures to let go early? Here the
# hidden difficulty comes back. Each row below shows the first pictures that left at one exit, with the mean difficulty
# of all that did.

# %% mystnb={"image": {"alt": "Four rows of small pictures. Those that left at exit 1 show large, clean shapes in the middle; from row to row the shapes get smaller, noisier and further from the centre. The mean difficulty noted beside the rows rises from exit to exit."}}
_ = plots.who_left_where(test.images, exit_index, 4, test.difficulty)
plt.show()
difficulty = [float(test.difficulty[exit_index == k].mean()) for k in range(4)]
assert difficulty == sorted(difficulty)
print("mean difficulty below 0.4 at exit 1:", difficulty[0] < 0.4)
print("mean difficulty above 0.75 at exit 4:", difficulty[3] > 0.75)

# %% [markdown]
# Large clean shapes leave at once, specks in noise stay to the end. Nobody told the network what
# difficulty is: the loss contains labels and nothing else. Confidence ranks it all the same, because what is hard to
# classify *is* what the exits are unsure about. That is the reason the whole scheme works. Here is the picture of the
# beginning again, with three pictures at the left, each typical of the exit it took: what is solid is all that the
# second of them needs.

# %% mystnb={"image": {"alt": "The grid of the trained network once more, highlighted for exit 2, with three small pictures at its left: a large clean shape that left at exit 1, a smaller one that left at exit 2, and a noisy speck that left at exit 4."}}
examples = []
for k in (0, 1, 3):
    left = (exit_index == k).nonzero().flatten()
    typical = left[(test.difficulty[left] - difficulty[k]).abs().argmin()]
    examples.append((test.images[typical], k))
_ = plots.exit_grid(model, 16, exit_index=1, pictures=examples)
plt.show()

# %% [markdown]
# ## Really stopping
#
# Up to here every picture ran through the whole network, and we only *counted* what could have been saved, as the
# authors' own evaluation does. Now the work itself must vanish. But hardware works on *batches*, and that raises a
# question.

# %% [markdown]
# **Predict (c).** At our setting 46 % of single pictures leave at exit 1. Somebody processes batches of
# 32 and stops a batch when all of it is sure. How often does a whole batch stop at exit 1? (i) in 46 % of the cases,
# (ii) about once in a hundred, (iii) practically never.

# %% tags=["hide-output"]
print(f"0.46 ** 32 = {0.46**32:.1e}")
whole_batches = (exit_index.reshape(-1, 32) == 0).all(1)
print("whole batches of 32 that leave at exit 1:", int(whole_batches.sum()), "of 125")

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because 46 % is a property of the pictures, and a batch is made of pictures. But 32 of them must be sure
# *at once*: $0.46^{32}$, about 2 in $10^{11}$. In the test set no batch managed it: (iii). A batch only gains if those
# who are finished are taken out of it.
# ```

# %% [markdown]
# So between two blocks the finished pictures are removed: the features of those who stay are gathered
# into a smaller batch, and only they go on (*batch compaction*). That is what `model.infer` does. We do not take its
# word for it. The helper below hangs a hook on every block, and notes the number of rows of every call.


# %%
def rows_seen(net, run):
    """Run `run()` and return for each block of `net` the rows of its calls, in order."""
    calls = [[] for _ in net.blocks]
    handles = [
        block.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(len(args[0][-1]))
        )
        for block, seen in zip(net.blocks, calls, strict=True)
    ]
    result = run()
    for handle in handles:
        handle.remove()
    return result, calls


x = inputs["test"][:256].to(device)
result, calls = rows_seen(model, partial(model.infer, x, thresholds))
still_there = [int((exit_index[:256] >= k).sum()) for k in range(4)]
adaptive_rows = [sum(rows) for rows in calls]
assert adaptive_rows == still_there
print("each block saw exactly the pictures still there:", adaptive_rows == still_there)

# %% [markdown]
# Two things must hold: the rows are those of the survivors, which the assertion above proved, and the
# answers are the same as those of the simulation, picture by picture and in the order in which they came. The figure
# sets the rows beside those of the static network. What is hatched was not computed.

# %% mystnb={"image": {"alt": "Rows each block worked on, for 256 pictures. The static network: 256 in all four blocks. The adaptive one: 256 in block 1, then fewer and fewer; the remainder of each bar is pale and hatched."}}
assert torch.equal(result.exit_index.cpu(), exit_index[:256])
assert torch.equal(result.logits.argmax(1).cpu(), chosen[:256].argmax(1))
_ = plots.rows_per_block({"static": [256] * 4, "infer": adaptive_rows}, 256)
plt.show()

# %% [markdown]
# ## Two ledgers
#
# The first ledger is exact. The static rival is the last exit alone, without the heads of the earlier ones.
# `result.macs` holds what each picture cost, heads on its way included.

# %%
with torch.inference_mode():
    per_module = measure.macs_per_module(model, x[:1])
static = costs[-1] - sum(per_module[f"heads.{k}"] for k in range(3))
spent = float(decision.mean_cost(realised, costs))
assert torch.allclose(
    result.macs.cpu(), torch.tensor(costs, dtype=torch.float64)[exit_index[:256]]
)
assert static / spent > 2
print(f"the last exit alone: {static / 1e6:.2f} M")
print("the adaptive network spends less than half of that:", spent < static / 2)

# %% [markdown]
# The second ledger is a clock, and it is this machine's. All contenders get the same care: BatchNorm is
# folded into the convolutions, no gradients, and the calls take turns, so that a busy moment hurts all of them. Three
# batch sizes, and a third contender that the next section explains.


# %% tags=["nbval-ignore-output"]
fast = measure.fold_batchnorm(model)
x = inputs["test"][:512].to(device)


@torch.inference_mode()
def last_exit(parts):
    return [fast.at_exit(part) for part in parts]


def drop_finished(parts):
    return [fast.infer(part, thresholds) for part in parts]


def with_queues(parts):
    return list(fast.infer_stream(parts, thresholds, batch_size=len(parts[0])))


contenders = {"static": last_exit, "infer": drop_finished, "queue": with_queues}
for size, number in ((1, 64), (32, 512), (256, 512)):
    parts = x[:number].split(size)
    timings = measure.compare({n: partial(run, parts) for n, run in contenders.items()})
    rate = number / timings["static"].median_s
    faster = {n: round(measure.ratio(timings["static"], t), 2) for n, t in timings.items()}
    print(f"batch {size:3}: static {rate:5.0f} pictures/s; times as fast: {faster}")

# %% [markdown]
# The two ledgers do not agree, and they need not. Every block call has a fixed price, whatever its rows,
# and every decision costs a softmax, a comparison and a gather. At batch 1 nothing is gathered, but many small calls
# are made. At batch 32 the late blocks work on a handful of rows and pay the fixed price for them. At batch 256 the
# multiply-adds dominate. The [chapter on measuring](../start/measuring.ipynb) told these regimes apart. A cell of a
# busy laptop is no benchmark, so the next figure draws *recorded* runs of `course bench early-exit --record`, on
# shapes and on Fashion-MNIST, if there are any. There the network saw 24,000 shapes once, or 50,000 real pictures
# twice. *Fixed exit* is the strongest static rival, the earliest exit within half a point of the last.

# %% mystnb={"image": {"alt": "Two panels of horizontal bars, shapes and Fashion-MNIST: how many times faster than the static network a fixed exit, adaptive inference and, from 32 on, the queue were at batches of 1, 32 and 256 in the recorded runs, with a dashed line at what the multiply-adds promise. Where no run is recorded, the panel says so and shows the promise alone."}}
recorded = {
    "shapes": bench.latest("early-exit", "cpu"),
    "fashion_mnist": bench.latest("early-exit", "cpu", data="fashion_mnist"),
}
_ = plots.recorded_speed(recorded, static / spent)
plt.show()

# %% tags=["nbval-ignore-output"]
for name, record in recorded.items():
    print(f"{name}: {bench.caption(record) if record else 'no recorded run yet'}")

# %% [markdown]
# Where both are drawn, adaptive inference and the queue beat the fixed exit, and none reaches the dashed line: that
# distance is the price of calls, decisions and shrinking batches. The longest bar at batch 32, the queue, is the
# subject of the next section (a batch of one needs none). The record also holds the bundled digits, which are too easy
# to need a second exit: there the first exit alone wins at every batch size. Adapting pays where some inputs really are
# harder than others.
#
# ## A queue before each block
#
# A server with batches of 32 has a remedy: let survivors *wait*. Each block gets a queue. Finished pictures leave, the
# others line up before the next block, and when 32 stand there, from whichever batches, the block runs on a full
# batch. `infer_stream` does this. It answers each batch with the predictions `infer` would give, and bounds the
# waiting: after `max_wait` further batches a queue runs even if it is not full. The figure compares the calls of 16
# batches.

# %% mystnb={"image": {"alt": "Rows of every call of every block for 16 batches of 32. Left, plain inference: 16 calls in each block, with fewer rows from block to block. Right, with queues: fewer and fewer calls, nearly all of them on full batches of 32."}}
parts = inputs["test"][:512].to(device).split(32)
plain, plain_calls = rows_seen(
    model, lambda: [model.infer(part, thresholds) for part in parts]
)
queued, queued_calls = rows_seen(
    model, lambda: list(model.infer_stream(parts, thresholds, batch_size=32))
)
assert all(
    torch.equal(a.exit_index, b.exit_index) for a, b in zip(plain, queued, strict=True)
)
assert [sum(rows) for rows in plain_calls] == [sum(rows) for rows in queued_calls]
_ = plots.block_calls({"infer": plain_calls, "infer_stream": queued_calls}, 32)
plt.show()

# %% [markdown]
# The rows are the same, the calls are not: block 4 works in a few nearly full batches instead of sixteen
# crumbs. The price is patience. A picture that is hard *and* comes first may wait for its companions, so this is for
# throughput, not for latency.

# %% [markdown]
# ## Where it breaks
#
# Four mistakes are made again and again. You have met the first, thresholds from training pictures. The second is the
# hardest to see: run everything, then pick. The third forgets to put the answers back in order.

# %% mystnb={"image": {"alt": "Rows each block worked on for 256 pictures: with infer they shrink from block to block, with masking after computing all four bars are full."}}
x, labels = inputs["test"][:256].to(device), test.labels[:256]


def mask_after_compute():
    with torch.inference_mode():
        return decision.simulate(model(x), thresholds.to(device))


(masked, _), masked_calls = rows_seen(model, mask_after_compute)
print("masking: same answers:", torch.equal(masked.argmax(1), result.logits.argmax(1)))
_ = plots.rows_per_block(
    {"infer": adaptive_rows, "mask after computing": [sum(r) for r in masked_calls]}, 256
)
plt.show()

# %% [markdown]
# Every prediction is right, every test of the accuracy passes, and nothing was saved. Only the rows give
# it away, which is why this course counts rows. Now the third and the fourth: answers in the order of leaving instead
# of the order of coming, and a batch that goes on until all of it is sure.

# %%
order_of_leaving = result.exit_index.argsort(stable=True)
mixed = result.logits[order_of_leaving].argmax(1).cpu()
right, wrong = (
    (found == labels).double().mean() for found in (result.logits.argmax(1).cpu(), mixed)
)
print("order kept, above 80 % right:", bool(right > 0.8))
print("order lost, below 40 % right:", bool(wrong < 0.4))

last_of_batch = exit_index.reshape(-1, 32).amax(1)  # the exit at which all 32 would be done
early = (last_of_batch < 3).double().mean()
print("waiting for all: fewer than 1 batch in 6 leaves before exit 4:", bool(early < 1 / 6))

# %% [markdown]
# A lost order is a loud mistake: the accuracy falls through the floor, on every batch except a batch of
# one, which is what unit tests like to use. Waiting for all is a quiet one. Everything is right and next to
# nothing is saved: most batches of 32 contain a picture that wants the last exit, and every head was run on the way.

# %% [markdown]
# ## Turn the dial yourself
#
# One hand, four views. The slider sets $\rho$ from 0.05 to 1.95. Watch the point move along the curve, the shares tip
# from early to late, the thresholds wander in the histograms, and pictures change their row in the gallery. Everything
# is read off the stored logits, so it answers at once.

# %% tags=["nbval-ignore-output"]
dashboard = partial(
    plots.early_exit_dashboard, study=study, points=points, images=test.images
)


def show(rho):
    dashboard(rho)
    plt.show()


slider = ipywidgets.FloatSlider(
    value=0.6, min=0.05, max=1.95, step=0.05, description="rho", continuous_update=False
)
reset = ipywidgets.Button(description="back to 0.6")
reset.on_click(lambda _: setattr(slider, "value", 0.6))
display(
    ipywidgets.VBox(
        [
            ipywidgets.HBox([slider, reset]),
            ipywidgets.interactive_output(show, {"rho": slider}),
        ]
    )
)

# %% mystnb={"image": {"alt": "Three rows of the same four views, for rho 0.3, 1.0 and 1.7. The point moves right and up along the curve, the tallest share moves from exit 1 to exit 4, the thresholds rise, and harder pictures appear in the upper rows of the gallery only at small rho."}}
_ = dashboard([0.3, 1.0, 1.7])
plt.show()

# %% [markdown]
# The figure shows three positions of the dial. At 0.3 seven in ten must leave at exit 1, so its
# threshold sinks and doubtful pictures go with the easy ones. At 1.0 the shares are equal. At 1.7 an exit must be
# nearly certain to let anyone go, the cost rises, and the accuracy has long stopped rising with it.
#
# ## At full size
#
# *Published, not run here.* On ImageNet {cite}`huang2018msdnet`, an evaluation of the released model with seven layers
# a block, re-plotted by the authors of its successor {cite}`yang2020ranet` and read off their figure to about a tenth
# of a point, gives for its five exits, at lazy costs:
#
# | exit | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|
# | cost, G | 0.50 | 1.34 | 2.22 | 2.96 | 3.25 |
# | top-1, % | 62.4 | 70.0 | 73.0 | 74.1 | 74.7 |
#
# It has the shape of our staircase, steep at first and flat at the end. A warning for readers of such plots: one curve
# in the paper is the envelope of several networks of different depth, so a single network covers a part of it only.

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/instance/msdnet](../../exercises/instance/msdnet.ipynb), and answer at once.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `exit_shares` | the share of each exit, from one number | 1 | 8 |
# | `solve_budget` | the number that spends a budget | 2 | 12 |
# | `find_thresholds` | thresholds from held-out confidences | 3 | 20 |
# | `infer` | inference that lets finished pictures go | 4 | 30 |
#
# ## Recap
#
# - Exits need coarse features early: carry all scales from the first layer.
# - Dense connections keep early exits from spoiling late ones.
# - Shares from the budget, thresholds from held-out data, exit by exit among those still there.
# - Three "FLOPs at exit k" circulate (with ReLU and pooling, multiply-adds only, lazy): say which.
# - Time is saved by removing finished images, and only then.
#
# ## Where next
#
# The [start page](../start/paths.ipynb) has the reading orders. Next on the path comes [a network that looks at a
# coarse picture first](../spatial/ranet.ipynb), and at a sharp one only if it must; then the question [whether every
# exit should learn from every picture](l2w.ipynb). Both build on this chapter's exits, shares and thresholds.
#
# ## References
#
# The network, its two uses and the budget: {cite}`huang2018msdnet`, sections 3 and 4. Dense connections:
# {cite}`huang2017densenet`. Exits on ordinary networks, and how they fail:
# {cite}`teerapittayanon2016branchynet,kaya2019shallow`. Where early exits stand among dynamic networks:
# {cite}`han2021dynamic`, sections 2.1.1 and 5.1.
