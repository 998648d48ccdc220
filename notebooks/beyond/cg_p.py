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
# # Can a guess speed up a proof?
# *65 min reading · 90 min exercises · needs a linear program, message passing · CPU, under 60 s; GPU optional*
#
# Trains need crews, and crews have rules. This chapter finds *duties*, each one crew's day of work, for all trips of a
# timetable and proves how good they are, among more duties than anyone can list. Then a graph network guesses which
# connections matter, the others are skipped, and the proof survives, because the guess is overruled at the end. Terms
# set in *italics* where they first appear stand in the [glossary](../../book/glossary.md). There is a marked place to
# stop halfway.
#
# **You will be able to**
# - *say* what a dual is, in money, and *find* a duty that is worth having at given prices;
# - *write* a lower bound, and *say* which searches may claim one and which may not;
# - *decide* when one half-made duty may be dropped for another, and *show* what breaks if the test forgets something;
# - *prune* a graph by a learned score without losing the proof, and *tell* what was lost if you stop early;
# - *compare* a learned score with a rule of one line, and *recognise* a speed-up over a weak baseline.

# %%
import time
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import course_lib
from course_lib import bench, plots
from course_lib.beyond import cg_p
from course_lib.beyond.cg_p import bounds, duty_cost, labelling
from course_lib.beyond.cg_p.columns import Columns
from course_lib.beyond.cg_p.dive import FAST, Dive
from course_lib.beyond.cg_p.master import Master
from course_lib.beyond.cg_p.pricing import Pricer, engine
from course_lib.beyond.cg_p.proof import duties_within
from course_lib.beyond.cg_p.reduction import best_arcs

plots.use_style()
course_lib.seed_everything(0)
device = course_lib.device()

# %% [markdown]
# ## The question
#
# Four trips of an hour, there and back between A and B. A crew signs on a quarter of an hour before its first trip and
# off a quarter of an hour after its last, at the same depot, a station where crews are based: here A. It is paid 480
# for coming and 1 for every minute in between. It may work at most 270 minutes without a break, and a wait of half an
# hour is a break. Between any two of the four trips lie 20 minutes. What do the duties cost, and what if the third trip
# leaves ten minutes later?


# %%
def day(third):
    """Four trips; the third leaves at this minute."""
    trips = [("A", "B", 480, 540), ("B", "A", 560, 620)]
    trips += [("A", "B", third, third + 60), ("B", "A", 720, 780)]
    return cg_p.Timetable.of(trips, depots=["A"])


tight, loose = day(640), day(650)
pairs = duty_cost([0, 1], tight) + duty_cost([2, 3], tight)
print("all four:", duty_cost([0, 1, 2, 3], tight), "- two crews:", pairs)
print("ten minutes later, all four:", duty_cost([0, 1, 2, 3], loose))

# %% mystnb={"image": {"alt": "Two days of four trips between stations A and B, as slanted strokes over time with one thick path along all of them. Left a bracket above marks 315 minutes of work without a break, over the limit of 270. Right a wait of 30 minutes in the middle breaks the stretch, and the longer part, marked, is 155 minutes."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
everything = [(0, 1, 2, 3)]
late = (465, 780, "315 min, 270 are allowed")
plots.plot_space_time(tight, duties=everything, mark=late, legend=False, ax=left)
rested = (465, 620, "155 min, then a break")
plots.plot_space_time(loose, duties=everything, mark=rested, legend=False, ax=right)
left.set_title("illegal: two crews, 1,300")
right.set_title("one crew: 810")
plt.show()

# %% [markdown]
# Ten minutes are worth a crew: 1,300 against 810. So the plan cannot be found by looking at trips one at a time, and
# whether a duty is legal depends on its whole length. Could we list all duties, then, and choose? The next cell counts
# the legal ones for three small railways.

# %%
for trips in (20, 40, 60):
    railway = cg_p.DutyGraph.of(
        cg_p.Timetable.generate(trips, stations=5, depots=2, seed=4)
    )
    duties, complete = duties_within(Pricer(railway), np.zeros(trips), np.inf)
    assert complete
    print(f"{trips} trips, {len(railway):3} connections: {duties.size:6,} legal duties")

# %% [markdown]
# Ten times as many for every twenty trips more. With 200 trips nobody can list them. And yet this chapter will end up
# with a plan for such a day, and with a number that no plan can beat. **Before you read on, say what you would do**: how
# can one know that no *unlisted* duty is cheaper?
#
# ```{admonition} The rules of this chapter
# :class: dropdown
# A duty begins and ends at the same depot and lasts at most 540 minutes; it drives at most 330; a stretch of work
# without a break lasts at most 270, from signing on or the end of the last break to any arrival; a break is a wait of
# 30 minutes or more. From an arrival to the next departure there are at least 10 minutes beyond the ride between the
# two stations, and at most 150 in all. Rides as a passenger, or *deadheads*, take at most 60 minutes and cost 0.5 a
# minute on top. `CrewRules` has them all, to be changed; `duty_cost` walks through a duty by these sentences and
# knows nothing of what follows.
# ```
#
# ## Prices
#
# ```{admonition} A linear program in one page
# :class: note
# Choose numbers $x_p \geq 0$, one for each duty $p$ of cost $c_p$, so that every trip is covered and the cost is least:
#
# $$
# \min \sum_p c_p\, x_p \quad \text{subject to} \quad \sum_{p \ni i} x_p \geq 1 \text{ for every trip } i .
# $$ (eq-cgp-primal)
#
# Shares are allowed: $x_p = 0.5$ is half a duty. So the optimum may be cheaper than any real plan, never dearer. With it
# comes a second set of numbers, the *duals* $\pi_i \geq 0$, one for each trip: read them as *prices*. They solve the
# opposite problem, to charge as much as possible for all trips together, such that no duty's trips are worth more than
# the duty costs:
#
# $$
# \max \sum_i \pi_i \quad \text{subject to} \quad \sum_{i \in p} \pi_i \leq c_p \text{ for every duty } p .
# $$ (eq-cgp-dual)
#
# Both optima have the same value. And whatever prices keep the second line, no plan costs less than all trips are worth:
# a plan's duties cover every trip, so they cost at least what the trips are worth. That sentence is the proof of
# everything below.
# ```
#
# Three trips. Any two of them fit into one duty of cost 650, a single one costs 570, and all three are too long.

# %% [markdown]
# **Predict (a).** What is the optimum of the linear program {eq}`eq-cgp-primal`? (i) 1,220, a pair and a single; (ii)
# 1,140; (iii) 975; (iv) 650.

# %% tags=["hide-output"]
rows = [((i,), 570.0, 0) for i in range(3)]
rows += [(pair, 650.0, 0) for pair in ((0, 1), (0, 2), (1, 2))]
master = Master(np.ones(3, dtype=bool), 2000.0)
master.add(Columns.of(rows))
lp = master.solve()
print("value", lp.value)
print("shares", lp.shares.round(3) + 0.0, "prices", lp.duals.round(3))

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because it is the best *plan*, and it is: 650 + 570 = 1,220. But the program may halve. Half of each pair
# covers every trip once and costs 1.5 · 650 = 975, (iii). The prices prove that it cannot be less: at 325 each no duty's
# trips are worth more than it costs (a pair exactly, a single much less), and together they are worth 975. Between the
# two lie 20 %. On the railways below the difference is small; here three trips are fighting over one crew.
# ```

# %% [markdown]
# The picture shows why prices answer the question of the chapter. Suppose the master knew only the three singles: it
# would price every trip at 570. At these prices each pair is worth 1,140 and costs 650: whoever finds it should add it.
# At 325 no stack rises above its line, and *no further duty is worth having*, listed or not.

# %% mystnb={"image": {"alt": "Two panels of stacked bars for six duties, each bar the prices of the duty's trips, a black line at its cost. Left, at 570 a trip, the singles reach their line exactly and the three pairs rise far above theirs, the excess hatched. Right, at 325 a trip, the pairs reach their line of 650 exactly and the singles stay below theirs."}}
tags = {"+".join(str(i + 1) for i in trips): (trips, cost) for trips, cost, _ in rows}
stages = {"singles only: 570 each": [570] * 3, "at the end: 325 each": [325] * 3}
_ = plots.plot_prices(stages, tags)
plt.show()

# %% [markdown]
# The difference of cost and worth, $c_p - \sum_{i \in p} \pi_i$, is the *reduced cost* of a duty. In the program,
# written as a table with a row for each trip, a duty is a column: its cost, and which rows it covers. *Column
# generation* starts with a few duties, solves the *restricted master* over these, looks for the duty with the least
# reduced cost among *all*, adds it, and repeats until none is below zero.
#
# One need not wait for the end to have a proof. If the least reduced cost is $\varrho < 0$, a duty of cost $c$ has trips
# worth at most $c - \varrho \leq c\,(1 - \varrho / c_{\min})$, where no duty costs less than $c_{\min}$ (here 480 + 30).
# Divide all prices by the bracket, and no duty is worth more than it costs. This is *Farley's bound*
# {cite}`farley1990bound`. In code it asks to be told `exact=True`: that the search for $\varrho$ would have missed no
# duty.
#
# $$
# \text{every plan costs at least} \quad \frac{\sum_i \pi_i}{1 - \varrho / c_{\min}} .
# $$ (eq-cgp-farley)

# %%
singles = np.full(3, 570.0)
least = min(cost - singles[list(trips)].sum() for trips, cost, _ in rows)
by_hand = singles.sum() / (1 - least / 510)
assert abs(by_hand - bounds.farley(singles, least, 510, exact=True)) < 1e-9
print(f"singles only: master {singles.sum():.0f}, proven {by_hand:.1f}")
print(f"at the end: proven {bounds.farley(lp.duals, 0.0, 510, exact=True):.1f}")

# %% [markdown]
# After one look at all duties we know 872.1, without having solved anything but three singles. At the end bound and
# value meet at 975. What is left is to find the least reduced cost among duties that nobody has listed.
#
# ## Pricing: a shortest path with a memory
#
# A duty is a path. The trips are its nodes, and an arc leads from one trip to another if a crew can do them one after
# the other. Here are all 300 arcs of a railway with 60 trips. Since time only runs forward, there are no circles.

# %% mystnb={"image": {"alt": "A day from 5 to 25 hours with five stations as lines, 60 trips as dark slanted strokes and 300 thin blue arcs from arrivals to departures, dense in the morning and evening peaks and few at noon."}}
table = cg_p.Timetable.generate(60, stations=5, depots=2, seed=4)
graph = cg_p.DutyGraph.of(table)
_ = plots.plot_space_time(table, graph=graph)
plt.show()

# %% [markdown]
# Without rules the cheapest path would be an easy matter: for every trip keep the cheapest way to reach it. The rules
# spoil that, since the cheapest way to a trip may have used up all its driving. First the plain version, on the
# smallest of the three railways: list every path and take the least. The prices are made up.

# %%
small = cg_p.DutyGraph.of(cg_p.Timetable.generate(20, stations=5, depots=2, seed=4))
prices = np.random.default_rng(0).uniform(100, 500, 20).round()


def paths(begin):
    """Every legal duty that begins with these trips."""
    if duty_cost(begin, small.timetable) is not None:
        yield begin
    for arc in small.out_arcs[small.out_start[begin[-1]] : small.out_start[begin[-1] + 1]]:
        yield from paths((*begin, int(small.head[arc])))


listed = [path for trip in range(20) for path in paths((trip,))]
cost = [duty_cost(path, small.timetable) - prices[list(path)].sum() for path in listed]
print(f"{len(listed)} duties, least reduced cost {min(cost):.1f}")

# %% [markdown]
# (That is fewer than were counted above, where duties of different depots count apart.) Now the idea that replaces the
# list. A *label* is the beginning of a duty up to some trip, with all that the rest of the duty depends on: what it cost
# so far, when it signed on, how much it has driven, and since when it has been working without a break. All but the cost
# are called resources, since rules limit them. Trips are taken in the order of departure, and every label of a trip is
# extended along the arcs. This is *label setting*, as in {cite}`irnich2005sppr`; the library has it in readable Python.

# %%
pricer = Pricer(small, labelling=labelling)
found = pricer.price(prices)
assert abs(found.least - min(cost)) < 1e-6
best = found.columns.row(0)
print("the best duty:", [small.timetable.names[k] for k in best])

# %% [markdown]
# One small function in it, `dominates`, is the heart. Many labels reach the same trip. If one of them is at least as good
# as another in *every* respect (cost, sign-on, driving, break), then whatever the worse one can still do, the better one
# can, and for no more: the worse one is *dominated* and dropped.
#
# The figure shows one turn of the loop on the railway with 60 trips, after a few rounds: prices, the labels at the last
# trip of the best duty, and this duty on its way back into the master.


# %%
def one_trip_duties(graph):
    """The cheapest duty of each trip alone."""
    n = len(graph.timetable)
    alone = Pricer(graph.keep(np.zeros(len(graph), dtype=bool)))
    return alone.price(np.zeros(n), threshold=np.inf, most=n, per_trip=1).columns


master = Master(np.ones(60, dtype=bool), 2000.0)
master.add(one_trip_duties(graph))
for _ in range(5):
    prices = master.solve().duals
    found = Pricer(graph).price(prices)
    master.add(found.columns)
column, home = found.columns.row(0).tolist(), int(found.columns.depot[0])
node = plots.label_rows(graph, prices, column[-1], depot=home)
kept = sum(row.kept for row in node)
print("over 500 labels at its last trip, under 50 stay:", len(node) > 500 and kept < 50)

# %% mystnb={"image": {"alt": "Three parts joined by arrows. A bar chart with a price for each of 60 trips, four of them hatched. A table of labels with the columns reduced cost, signed on, driven and since break, most rows pale and hatched as dominated. Below, a row of boxes with the four trips of the new duty, its cost and its worth, and an arrow back to the prices."}}
_ = plots.plot_loop(table, prices, node, column, found.columns.cost[0])
plt.show()

# %% [markdown]
# A label that is dropped takes with it everything that could have grown out of it, which is why it must be dropped early
# and rightly. The library has the same functions compiled by numba. That the two versions keep the same labels, one by
# one, is asserted here; how much faster the second is, you see only on your machine.

# %%
flat = labelling.Flat.of(graph, home)
compiled = engine()  # numba's where it is installed
slow, quick = (version.label(flat, prices) for version in (labelling, compiled))
assert len(slow.cost) == len(quick.cost)
assert all(np.array_equal(a, b) for a, b in zip(slow, quick, strict=True))
print("the same labels in the same order:", len(slow.cost) > 500)

# %% tags=["nbval-ignore-output"]
for name, version in (("readable", labelling), ("compiled", compiled)):
    began = time.process_time()
    for _ in range(5):
        version.label(flat, prices)
    print(f"{name}: {1000 * (time.process_time() - began) / 5:.1f} ms")

# %% [markdown]
# ## The loop, and its two lines
#
# Everything is in place. The loop below is plain column generation: solve the master, price *exactly* (on all arcs, and
# no label dropped but the dominated ones), note value and bound, add the columns, stop when there are none. Adding only
# the best column would do; the library's pricing returns many at once, the best for every last trip and no trip in too
# many of them. (That matters: see the end of the chapter.)

# %%
Generated = namedtuple("Generated", "value lp columns steps")


def generate(graph, columns, *, phase="full", whole=True, bound=-np.inf, **pricing):
    """Column generation. `whole`: this is the graph that bounds are meant for."""
    master = Master(np.ones(len(graph.timetable), dtype=bool), 2000.0)
    master.add(columns)
    pricer = Pricer(graph)
    steps = []
    while True:
        lp = master.solve()
        found = pricer.price(lp.duals, **pricing)
        exact = found.exact and whole
        proven = bounds.farley(lp.duals, found.least, graph.rules.least_cost, exact=exact)
        bound = max(bound, proven)
        many = master.columns.size
        steps.append(
            cg_p.Step(0.0, phase, lp.value, bound, many, least_reduced_cost=found.least)
        )
        if not master.add(found.columns):
            return Generated(lp.value, lp, master.columns, steps)


# %% mystnb={"image": {"alt": "Two lines over about sixteen rounds: the master's value falls from above 36,000, steeply at first; the best proven bound rises from about 5,000; the hatched area between them closes at 14,180 in the last round."}}
plain = generate(graph, one_trip_duties(graph))
_ = plots.plot_bounds(plain.steps)
plt.show()

# %% [markdown]
# The value falls quickly and then creeps, the bound does the opposite, and what lies between them is not proven yet. Is
# it the truth? For 60 trips one can still list all duties and solve one large linear program.

# %%
duties, complete = duties_within(Pricer(graph), np.zeros(60), np.inf)
whole = Master(np.ones(60, dtype=bool), 2000.0)
whole.add(duties)
assert complete
assert abs(whole.solve().value - plain.value) < 1e-6
assert abs(plain.steps[-1].lower_bound - plain.value) < 1e-3
print(f"all {duties.size:,} duties: {whole.solve().value:,.1f}")
few = plain.columns.size < 500
print(f"column generation: {plain.value:,.1f}, with under 500 columns: {few}")

# %% [markdown]
# The same value from a few hundred of the duties, and a proof that the others are not needed. Three things can go wrong
# quietly.

# %% [markdown]
# **Predict (b).** Take a union agreement with breaks of at least 45 minutes, and let the dominance test forget one of
# its comparisons: since when the crew has been working. What breaks? (i) Illegal duties come out; (ii) legal duties are
# lost, the method stops too early and calls a value optimal that is too high; (iii) nothing but time: more labels are
# kept than needed.

# %% tags=["hide-output"]
strict = cg_p.DutyGraph.of(table, cg_p.CrewRules(break_minutes=45))


def forgets_the_break(a, b):
    return (
        a.cost <= b.cost
        and a.start >= b.start
        and a.driving <= b.driving
        and a.fed >= b.fed  # has eaten; some agreements ask for a meal, this one does not
    )


wrong_test = partial(labelling.label, better=forgets_the_break)
Forgetful = SimpleNamespace(completion=labelling.completion, label=wrong_test)


def forgetful(graph):
    """The loop with this labelling: master, its solution, and what exact pricing still finds."""
    pricer = Pricer(graph, labelling=Forgetful)
    master = Master(np.ones(60, dtype=bool), 2000.0)
    master.add(one_trip_duties(graph))
    while master.add(pricer.price(master.solve().duals).columns):
        pass
    lp = master.solve()
    return master.columns, lp, Pricer(graph).price(lp.duals).least


# %% tags=["hide-output"]
right = generate(strict, one_trip_duties(strict))
found, wrong, missed = forgetful(strict)
legal = [duty_cost(found.row(c), table, strict.rules) for c in range(found.size)]
print(f"all duties legal: {all(legal)}; the right value: {right.value:,.1f}")
print("the forgetful one is higher by more than 0.3 %:", wrong.value > 1.003 * right.value)
print("it missed a duty that saves more than 50:", missed < -50)
same = abs(forgetful(graph)[1].value - plain.value) < 1e-6
print("with breaks of 30 minutes, the right value:", same)

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because a rule seems to have been dropped. It has not: every extension is still checked, and every duty that
# comes out is legal. But a label that was cheaper has displaced one whose crew had rested later, and with it legal duties
# that only the rested crew can do: (ii). The pricing finds nothing more, "proves" it, and the value is too high. With
# breaks of 30 minutes the same mistake goes unnoticed on this railway, which is the worst about it: a test that compares
# optima on one instance passes.
# ```

# %% [markdown]
# **A bound by a hurried pricing.** On larger graphs one keeps at most eight labels a trip, which is fast and nearly as
# good. Nearly: when it finds nothing, there may be something. The cell runs the loop with eight labels on a railway with
# 200 trips and two hubs, which will serve for the rest of the chapter, and asks what its last prices would "prove".

# %%
city = cg_p.Timetable.generate(200, family="two_hubs", seed=2)
full = cg_p.DutyGraph.of(city)
exact = generate(full, one_trip_duties(full))
hurried = generate(full, one_trip_duties(full), cap=8)
claimed = bounds.farley(hurried.lp.duals, 0.0, 510, exact=True)  # it is not exact
print(f"{len(full):,} arcs; the linear program's value: {exact.value:,.1f}")
print("the hurried pricing would claim more than that:", claimed > exact.value + 1)
print("it knows that it was not exact:", hurried.steps[-1].lower_bound == -np.inf)

# %% [markdown]
# The claimed bound is no bound: real plans cost less. The library therefore counts the places where a label was refused
# for want of room, and any number above zero makes the pricing inexact and the bound minus infinity.
#
# **The price of nothing.** In the beginning there may be no duty for some trip. Artificial columns, one for each trip at
# a cost $M$, keep the master solvable. If $M$ is too small, the master prefers them to duties. Watch what it then
# reports as its optimum for our 60 trips.

# %%
for M in (300.0, 600.0, 2000.0):
    master = Master(np.ones(60, dtype=bool), M)
    while master.add(Pricer(graph).price(master.solve().duals).columns):
        pass
    lp = master.solve()
    missing = lp.uncovered > 1e-6
    print(f"M = {M:5,.0f}: value {lp.value:8,.1f}, trips left uncovered: {missing}")

# %% [markdown]
# Cheaper than the optimum, by leaving trips without a crew. A cost that contains $M$ is no cost. The library reports
# uncovered trips by name instead, and takes twice what the longest duty can cost.
#
# ```{admonition} You may stop here
# What you know now is column generation, and the exercises ask no more. What follows is needed for the network that
# prunes, and for the question in the title.
# ```
#
# ## A guess
#
# The labels grow faster than the graph, and with them the time of pricing. Most arcs are never used. CG-P
# {cite}`yuan2022cgp` trains a graph network on solved days to say for every arc how likely it is in the solution,
# keeps the likeliest, and solves on this *reduced graph* first. (Of the paper we could read only the summary; features,
# layers and labels are the course's own.) The network gets what is known before anything is solved: times, waits,
# ranks. Four times trips and arcs tell each other what they have seen.

# %%
from course_lib.beyond.cg_p.labels import solve_examples
from course_lib.beyond.cg_p.predictor import as_tensors, load_predictor
from course_lib.beyond.cg_p.predictor_training import judge, train_predictor

network = load_predictor(device=device)
print(f"{sum(weight.numel() for weight in network.parameters()):,} weights")

# %% [markdown]
# One exchange, by hand for one trip. Each arc $i \to j$ computes a gate $g_{ij}$ from what it knows and from its two
# trips, and trip $j$ hears the gated mean of all trips before it and of all trips after it,
#
# $$
# h_j \leftarrow h_j + \mathrm{relu}\,\mathrm{LN}\Bigl( U h_j + \frac{\sum_i g_{ij} V h_i}{\sum_i g_{ij}}
# + \frac{\sum_k g_{jk} W h_k}{\sum_k g_{jk}} \Bigr) ,
# $$ (eq-cgp-exchange)
#
# after {cite}`bresson2017gated`. It is *message passing* with two kinds of neighbours, since before and after are not
# the same.

# %%
layer, (nodes, edges, index) = network.exchanges[0], as_tensors(full, device)
h, e = network.node_in(nodes), network.edge_in(edges)
j = 100
before, after = (full.head == j).nonzero()[0], (full.tail == j).nonzero()[0]


def heard(arcs, others, words):
    """The gated mean of what the other ends of these arcs say."""
    gates = (
        layer.edge(e[arcs]) + layer.tail(h)[index[0, arcs]] + layer.head(h)[index[1, arcs]]
    ).sigmoid()
    return (gates * words(h)[others]).sum(0) / (gates.sum(0) + 1e-6)


told = heard(before, full.tail[before], layer.forth)
told = told + heard(after, full.head[after], layer.back)
by_hand = h[j] + layer.node_norm(layer.own(h[j]) + told).relu()
assert np.allclose(by_hand.cpu(), layer(h, e, index)[0][j].cpu(), atol=1e-4)
print(f"trip {j + 1} hears from {len(before)} trips before it and {len(after)} after it")

# %% [markdown]
# The kept weights were trained on 96 solved days, which takes minutes. Six small days take seconds, and show all of it:
# solve, note for each arc how much the linear program and the plan use it, and fit these labels by binary
# cross-entropy. The judgement is on a railway that nobody has seen (another *day* of the same railway would be a near
# copy): the probability that an arc in use gets a larger score than one that is not, or AUC. Do not ask for more of
# it. A linear program has many optima, and an arc that this one does not use may stand in the next.

# %%
kinds = ("line", "star", "two_hubs")
days = [
    cg_p.Timetable.generate(100, stations=6, depots=2, family=kinds[k % 3], seed=900 + k)
    for k in range(6)
]
run = train_predictor(solve_examples(days), epochs=20, seed=0, device=device)
print("the loss fell by a third at least:", run.losses[-1] < 0.67 * run.losses[0])
example = solve_examples([city])[0]
rivals = {
    "network": network,
    "six days": run.predictor,
    "short gaps": cg_p.ShortGaps(),
    "chance": cg_p.Chance(),
}
scores = {name: one.scores(city, full.rules, full) for name, one in rivals.items()}
auc = {name: judge(values, example.labels).auc for name, values in scores.items()}
assert auc["network"] > auc["short gaps"] > 0.8 > 0.6 > auc["chance"]
print("in this order:", sorted(auc, key=auc.get)[::-1])

# %% [markdown]
# Mind the third contestant. `ShortGaps` is a rule of one line: the less time lost between two trips, the better. It
# knows nothing of the rest of the graph and comes near. **Try the one-line rule first** is the advice of this chapter,
# and we will see what the network adds.
#
# How many arcs are kept, is by rank: some per trip on average by score, and the best two into and out of every trip in
# any case. Here is a part of the morning.

# %% mystnb={"image": {"alt": "Two panels of the same morning between seven and half past nine, eight stations, trips as dark strokes. Left: arcs kept by the network solid, the many dropped ones dotted and pale. Right: the same for chance, whose kept arcs are longer and run at random."}}
figure, axes = plt.subplots(1, 2, figsize=(9.4, 4), sharey=True)
for ax, name in zip(axes, ("network", "chance"), strict=True):
    keep = best_arcs(full, scores[name], per_trip=3.0)
    part, mask = plots.part_of_day(full, keep, 420, 570)
    plots.plot_space_time(
        part.timetable, graph=part, kept=mask, names=False, legend=False, ax=ax
    )
    ax.set_title(f"{name}: {keep.mean():.0%} of all arcs kept")
plt.show()

# %% [markdown]
# ## Two modes
#
# Now column generation on the reduced graph, exact and to its end: "optimal".

# %% [markdown]
# **Predict (c).** The reduced graph's linear program is solved to optimality. Is its value a lower bound on the cost of
# every plan? (i) Yes, it is optimal; (ii) yes, but a weak one; (iii) no, it lies at or above the full graph's value; (iv)
# it depends on how good the scores are.

# %% tags=["hide-output"]
keep = best_arcs(full, scores["network"], per_trip=2.0)
reduced = generate(full.keep(keep), one_trip_duties(full), phase="reduced", whole=False)
print(f"{keep.mean():.0%} of the arcs")
assert reduced.value >= exact.value - 1e-6
print("its value is above that of the full graph:", reduced.value > exact.value + 1)
look = Pricer(full).price(reduced.lp.duals)
proven = bounds.farley(reduced.lp.duals, look.least, 510, exact=look.exact)
print(
    "one exact look at the full graph proves less than 70 % of that:",
    proven < 0.7 * exact.value,
)

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts by its word: "optimal" sounds like a proof. But it is the optimum over *fewer duties*, and fewer choices can
# only make it dearer: (iii). A plan that uses a dropped arc may cost less than this "bound". One exact pricing on the
# full graph, at the last prices, gives a true one at once, but a poor one: prices made on a part of the graph do not know
# what duties on the dropped arcs are worth, and some look like a bargain. To state no bound at all would be honest, too.
# Good scores bring the two values closer and do not change who may claim a bound.
# ```

# %% [markdown]
# **Fast mode** stops here and makes whole duties of the shares. **Optimal mode** keeps all columns and goes on with the
# full graph until exact pricing finds nothing. A good guess has then left it little to do. To make whole duties, the
# library *dives*: fix the largest shares, solve the rest again with fresh prices, and so on.
#
# `solve` has both modes, with one more tool. On the reduced graph it solves no linear program at all: the *volume
# algorithm* {cite}`barahona2000volume` moves prices up where trips lack a crew and down where they have too many, and
# averages the duties that looked good on the way into shares. That is rough, and quick. Fast mode dives from these
# shares, and dives once more, with more patience, if over 5 % of the plan's cost lie above the algorithm's own estimate.
# Only then, for its report, it moves the prices on the full graph for some rounds and has one exact look there. The
# gap it reports is the share of the plan's cost that lies above this bound: it may be saved, for all that is proven.
# Optimal mode goes from the reduced to the full graph in the same quick way. Then comes the linear program, begun with
# few columns and the others in reserve until they are worth having, and exact pricing has the last word.

# %%
Mode = {}
for mode in ("exact", "optimal", "fast"):
    Mode[mode] = cg_p.solve(city, mode=mode)  # with the kept network
    assert cg_p.check_plan(Mode[mode], city) == []
assert abs(Mode["optimal"].lp_value - Mode["exact"].lp_value) < 1e-6 * exact.value
assert abs(Mode["exact"].lp_value - exact.value) < 1e-6 * exact.value
print(f"exact and optimal mode: linear program {Mode['optimal'].lp_value:,.1f}")
true_gap = 1 - exact.value / Mode["fast"].cost
print("fast mode, within 3 % of it:", true_gap < 0.03)
print("what it has proven itself is less:", Mode["fast"].gap > true_gap)
print("and much more than that first look:", Mode["fast"].lower_bound > 1.2 * proven)

# %% mystnb={"image": {"alt": "A Gantt chart with one row for each duty of the plan, sorted by sign-on: bars for driving, hatched ones for deadheads, dotted boxes for breaks, thin lines for waiting. Duties of the morning above, of the evening below, many with a long break in the middle."}}
_ = plots.plot_gantt(Mode["optimal"], most=24)
plt.show()

# %% [markdown]
# The rows are crews. Every one of them has passed `check_plan`, which walks through the duties by the sentences of the
# rules and shares nothing with the labelling. Times of the three modes, on your machine; `time.process_time` counts the
# seconds of the processor and not those of the clock, so that other programs do not spoil the comparison.

# %% tags=["nbval-ignore-output"]
for mode, plan in Mode.items():
    print(f"{mode:8} {sum(plan.times.values()):5.2f} CPU seconds, {plan!r}")

# %% [markdown]
# **Predict (d).** Replace the network by chance: the arcs to keep are drawn at random. What becomes of *optimal* mode?
# (i) Its value is worse; (ii) its value is the same, and it takes more time; (iii) it may never end.

# %% tags=["hide-output"]
blind = cg_p.solve(city, mode="optimal", predictor=cg_p.Chance())
assert cg_p.check_plan(blind, city) == []
print(f"optimal mode by chance: {blind.lp_value:,.1f}")
print("equal to exact mode:", abs(blind.lp_value - exact.value) < 1e-6 * exact.value)
bad = best_arcs(full, scores["chance"], per_trip=2.0)
lost = generate(full.keep(bad), one_trip_duties(full), whole=False).value / exact.value - 1
print("but fast mode's linear program is dearer by more than 10 %:", lost > 0.1)

# %% [markdown]
# ```{admonition} Answer
# :class: dropdown
# (i) tempts because bad input usually gives bad output. Here the guess decides only in which *order* duties are found;
# the last word has exact pricing on the full graph. The value is the same, and only time was lost: (ii).
# (And it ends, since there are finitely many duties and none is added twice.) In fast mode nobody overrules the
# guess: there it costs money, here more than a tenth.
# ```
#
# That is the answer to the title. A guess may speed up a proof if it may cost time and never correctness, that is, if
# something that does not trust it has the last word.
#
# ## Turn it yourself
#
# How much is a guess worth, and how many arcs? The cells below solve the day in both modes, with three ways to score and
# five numbers of arcs kept: thirty runs of tenths of a second. They use the chapter's own loop, with the linear program,
# so that its value and bound can be drawn. The time of each holds the loop and the dive; the gap is that of the *plan*
# against the full graph's value, which fast mode itself would not know. First the plain version, to compare with.


# %%
def plan_cost(graph, made):
    """Whole duties by the library's dive, on a graph with these columns."""
    needed = np.ones(len(graph.timetable), dtype=bool)
    dive = Dive(Pricer(graph), made.columns, needed, penalty=2000.0, settings=FAST)
    return float(dive.run(made.lp.shares, made.lp.duals).cost.sum())


began = time.process_time()
plain_gap = 1 - exact.value / plan_cost(full, generate(full, one_trip_duties(full)))
plain_seconds = time.process_time() - began
print("the plain version's plan is within 3 % of its bound:", plain_gap < 0.03)

# %% [markdown]
# Then one run on a reduced graph, which is fast mode, and how it goes on with the full graph, which is optimal mode.


# %%
def try_out(scorer, per_trip):
    """Fast and optimal mode from the same reduced graph."""
    keep = best_arcs(full, scores[scorer], per_trip=per_trip)
    began, smaller = time.process_time(), full.keep(keep)
    made = generate(smaller, one_trip_duties(full), phase="reduced", whole=False)
    until = time.process_time() - began
    cost, fast = plan_cost(smaller, made), time.process_time() - began
    began = time.process_time()
    more = generate(full, made.columns)
    dearer, slow = plan_cost(full, more), until + time.process_time() - began
    assert abs(more.value - exact.value) < 1e-6 * exact.value
    steps = {"fast": (*made.steps, more.steps[0]), "optimal": (*made.steps, *more.steps)}
    for mode, total, seconds in (("fast", cost, fast), ("optimal", dearer, slow)):
        told = 1 - exact.value / total, seconds, steps[mode], keep
        yield plots.PruningRun(scorer, per_trip, mode, keep.mean(), *told)


# %%
shares = (1.0, 2.0, 3.0, 4.0, 6.0)
scorers = ("network", "short gaps", "chance")
grid = {}
for scorer in scorers:
    for per_trip in shares:
        for one in try_out(scorer, per_trip):
            grid[scorer, per_trip, one.mode] = one
print(len(grid), "runs; the linear program's value was the same in every optimal one")
value = {key: one.steps[-2].value for key, one in grid.items() if key[2] == "fast"}
falls = [np.diff([value[s, k, "fast"] for k in shares]).max() <= 1e-6 for s in scorers]
print("more arcs, never a dearer linear program:", all(falls))

# %% [markdown]
# Pick a scorer, a number of arcs and a mode. Left: which arcs are kept, in a part of the morning. Middle, in fast mode:
# the plan's gap against time, with the arcs kept a trip beside each point; in optimal mode, where the gap is not the
# question, the time. Your choice is ringed. Right: the master's value, and the bound, which begins only when an exact
# pricing looks at the full graph (fast mode has a single look here, at its end, which is not in its time).


# %% tags=["nbval-ignore-output"]
def show(scorer, kept, mode):
    _ = plots.plot_pruning(
        [(scorer, kept, mode)], grid, full, plain=plain_seconds, least=exact.value
    )
    plt.show()


controls = {
    "scorer": ipywidgets.Dropdown(options=scorers, description="scores by"),
    "kept": ipywidgets.SelectionSlider(
        options=shares, value=2.0, description="arcs a trip"
    ),
    "mode": ipywidgets.ToggleButtons(options=("fast", "optimal"), description="mode"),
}
reset = ipywidgets.Button(description="reset")
start = {name: control.value for name, control in controls.items()}
reset.on_click(lambda _: [setattr(c, "value", start[name]) for name, c in controls.items()])
view = ipywidgets.interactive_output(show, controls)
display(ipywidgets.VBox([ipywidgets.HBox([*controls.values(), reset]), view]))

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Three rows of three panels. Network, two arcs a trip, fast: few solid arcs, a gap below two percent in less than half of the plain time, a bound only in the last round and far below. Chance, fast: a gap around twenty percent. Chance, optimal: no less time than the plain version; the value drops a second time once the full graph is looked at, and value and bound meet at the end."}}
positions = [("network", 2.0, "fast"), ("chance", 2.0, "fast"), ("chance", 2.0, "optimal")]
_ = plots.plot_pruning(positions, grid, full, plain=plain_seconds, least=exact.value)
plt.show()

# %% [markdown]
# Three positions of the hand. From network to chance the fast plan's gap grows to a fifth of its cost. From fast to
# optimal the value falls a second time, once the full graph is allowed, until the bound meets it; and by chance that
# saves no time to speak of, since nearly all those columns of the reduced graph were for nothing. And look at the middle
# panel of the first row: network and short gaps are not far from each other.
#
# ## Where the rule of thumb is as good, and where it is not
#
# One day is an anecdote. The next cell draws eight, of four kinds of railway (of rings the network has seen none in its
# training), and lets the two score the arcs. The gap is that of the linear program on the reduced graph. Three settings:
# about a quarter of the arcs; about a sixth, so that nearly every arc has to be the right one; and again a quarter, but
# under an agreement that asks for 45 minutes of break after three hours.


# %%
def reduced_gap(graph, least, scorer, per_trip, safe):
    values = scorer.scores(graph.timetable, graph.rules, graph)
    keep = best_arcs(graph, values, per_trip=per_trip, safe=safe)
    return generate(graph.keep(keep), one_trip_duties(graph), whole=False).value / least - 1


agreement = cg_p.CrewRules(max_stretch=180, break_minutes=45)
settings = {
    "a quarter of the arcs": (None, 2.5, 2),
    "a sixth": (None, 1.5, 1),
    "a quarter, long breaks": (agreement, 2.5, 2),
}

# %%
duels = {title: {} for title in settings}
for kind in ("line", "star", "two_hubs", "ring"):
    for seed in (11, 12):
        drawn = cg_p.Timetable.generate(150, family=kind, seed=seed)
        for rules in (None, agreement):
            one = cg_p.DutyGraph.of(drawn, rules)
            least = generate(one, one_trip_duties(one)).value
            for title, (asked, *size) in settings.items():
                if asked is rules:
                    pair = [
                        reduced_gap(one, least, p, *size)
                        for p in (cg_p.ShortGaps(), network)
                    ]
                    duels[title].setdefault(kind, []).append(tuple(pair))

# %% [markdown]
# A point is a day; below the diagonal the network loses less.

# %% mystnb={"image": {"alt": "Three square panels with the gap of short gaps to the right and the gap of the network upwards, one marker a day, kinds of railway by marker. With a quarter of the arcs all gaps are below about two percent and most points lie close to the lower edge. With a sixth the gaps lie between one and eleven percent, on both sides of the diagonal. With long breaks short gaps lose up to seven percent and most points lie well below the diagonal."}}
_ = plots.plot_duels(duels, names=("short gaps", "network"))
plt.show()

# %%
for title, by_kind in duels.items():
    pairs = [pair for each in by_kind.values() for pair in each]
    ahead = sum(ours < theirs for theirs, ours in pairs) > 4
    near = sum(abs(theirs - ours) < 0.01 for theirs, ours in pairs) > 4
    print(f"{title}: network ahead on most days {ahead}, within a point on most {near}")

# %% [markdown]
# So it depends. With a quarter of the arcs and the usual rules the network is ahead on most days, and by less than a
# point on most: whoever needs a plan and has no trained network may as well take the rule of one line. It is on lines,
# and on one of the stars, that this rule loses one or two percent. With a sixth of the arcs both lose too much to be of
# use. And with long breaks the rule of thumb fails, for a reason: the gap it likes best, the short one, is exactly the
# one that is no break. The network does better there although it was trained under other rules, but not well. Could it
# learn the agreement itself? Six small days again, solved under the new rules:

# %%
examples = solve_examples(days, agreement)
local = train_predictor(examples, epochs=20, seed=0, device=device).predictor
for kind in ("star", "two_hubs"):
    one = cg_p.DutyGraph.of(cg_p.Timetable.generate(150, family=kind, seed=11), agreement)
    least = generate(one, one_trip_duties(one)).value
    thumb, own = (reduced_gap(one, least, p, 2.5, 2) for p in (cg_p.ShortGaps(), local))
    print(f"{kind}: loses less than half of what short gaps lose: {own < 0.5 * thumb}")

# %% [markdown]
# Seconds of training under the rules that count. That is when learning pays: not where a rule of thumb is right anyway,
# but where nobody has a rule of thumb. Keep `ShortGaps` in every comparison all the same; without it, chance would be the
# only rival, and everything looks clever beside chance.
#
# ## A weak baseline
#
# One last trap, and it makes any speed-up look good. What is "plain column generation"? The next cell runs it three
# times on the railway of 60 trips; the only difference is how many columns a round may add.

# %%
rounds = {}
for most in (1, 5, 150):
    made = generate(graph, one_trip_duties(graph), most=most)
    assert abs(made.value - plain.value) < 1e-6 * plain.value
    rounds[most] = len(made.steps)
assert rounds[1] > rounds[5] > rounds[150]
print(
    "more than five times as many rounds with one column each:", rounds[1] > 5 * rounds[150]
)

# %% [markdown]
# All three are correct and end at the same value. Against the first, anything looks fast, a network too. So `course
# bench cg-p` compares with the strongest plain version that the library has: many columns, prices smoothed from round
# to round, and pricing in stages, of which only the last is exact.
#
# ## Recorded
#
# At 200 trips pruning saves tenths of a second. What it saves with 500 and 1,000 trips takes too long to measure on this
# page. The bench has recorded it, with the plain version beside it in the same run.

# %% mystnb={"image": {"alt": "Two panels. Left: the median gap of each contender against its time in percent of plain column generation, a marker a group of instances. Optimal mode is quicker than the same start on all arcs, and both need about half the time or less; fast mode needs a tenth or less, with larger gaps; chance is quickest, with gaps of tens of percent. Right: the gap over the share of arcs kept, lines of network and short gaps crossing at a few percent, chance falling from far above; with all arcs the three meet. Where nothing is recorded, a line says so."}}
record = bench.latest("cg-p")
_ = plots.recorded_crews(record)
plt.show()

# %% tags=["nbval-ignore-output"]
missing = "nothing recorded yet: course bench cg-p --record"
print(bench.caption(record) if record else missing)
median = {row["name"]: row["median"] for row in record["rows"]} if record else {}
for group in ("500 trips", "1000 trips"):
    for name in (
        "all exact",
        "optimal",
        "optimal, all arcs",
        "fast, network",
        "fast, short gaps",
    ):
        key = f"{group}: {name}, "
        if key + "gap" in median:
            part, gap = median[key + "% of plain"], median[key + "gap"]
            print(f"{key}{part:.0f} % of plain, gap {gap:.1f} %")
for name in ("network", "short gaps"):
    key = f"1000 trips, 4 % kept: {name}, gap"
    print(key, f"{median.get(key, np.nan):.1f} %")

# %% [markdown]
# How to read it. Left, first optimal mode (a) beside its ablation (b), the same start without prediction: only what lies
# between the two is the network's, and more is saved by the start itself. All their linear programs end at the same
# value; that one plan is a little dearer than another is the dive's doing. Then fast mode (c to e), where the gap
# is against the bound of the plain version. Network and short gaps need little time, and on these railways the network's
# plans are the better ones. Chance is quickest, since it leaves hardly any duties to be found.
#
# Right, on a few instances only, how many arcs it takes. In any case every trip keeps its two best arcs to either side,
# so that hardly less than 7 % can be kept. Chance shows that two arcs a trip are of no use unless they are the right
# ones. From a tenth on, network and short gaps cannot be told apart: the rule of one line is good enough there. And with
# all arcs, where nothing is pruned, the gap is no smaller: what is left then is the price of a hurried dive. At 1,000
# trips each arc has more rivals, and among 4 % of them the network chooses better, as the last two lines say.
#
# And mind the baseline. Plain column generation that prices exactly in every round ("all exact") takes several times as
# long; against that, all of these times would look as much better, and nothing would have been gained. The paper
# {cite}`yuan2022cgp` reports 63 % of the plain time for its optimal mode, and a gap of 7.6 % in 2.9 % of the
# time for its fast mode (published), on railways of its own.
#
# Two more things are in the record. How far does fast mode go? And are columns needed at all, or could one write the
# problem down with a yes or no for every connection, and hand it to a good solver of integer programs? Two were given
# that, with the same rules, a plan of one duty a trip to begin with, and ten seconds.

# %%
for row in record["rows"] if record else []:
    told, name = row["details"], row["name"]
    if name.startswith("2000 trips"):
        print(
            f"{name}: gap {told['gap']:.0f} % proven, {told['gap_to_estimate']:.0f} % estimated"
        )
    elif "arc-flow" in name:
        gap = "no plan" if told["gap"] is None else f"gap {told['gap']:.0f} %"
        print(f"{name}, {told['seconds_given']:.0f} s: {gap}")

# %% [markdown]
# With 2,000 trips the plan takes seconds, and the proof is what is left behind; proven and estimated are told apart.
# The integer programs can do days of 60 trips, the better one within a few percent if nobody may ride along on another
# crew's train. With 500 they have nothing better than the plan they were given, and one lost even that. A duty
# is a good thing to choose among; a connection is too small.

# %% [markdown]
# ## Exercises
#
# They wait in [exercises/beyond/cg_p](../../exercises/beyond/cg_p.ipynb), and answer at once.
#
# | task | what you write | level | minutes |
# |---|---|---|---|
# | `duty_cost` | what a duty costs, if it is legal | 2 | 12 |
# | `best_column` | the duty that saves most at given prices | 2 | 13 |
# | `lower_bound` | what no plan can cost less than | 3 | 20 |
# | `dominates` | which labels may be dropped | 5 | 45 |
#
# ## Recap
#
# - Master sets prices, pricing finds a duty below price, until none is left.
# - The bound needs exact pricing, on the full graph.
# - Dominance must compare every resource.
# - The network prunes first and is overruled at the end.
# - A fast solver, a weak baseline and a missing bound look alike: show all three lines.
#
# ## Where next
#
# A day of your own: `Timetable.from_gtfs` reads the public timetable of a railway, and `course solve-crew` plans it from
# the command line. The [start page](../start/paths.ipynb) has the reading orders. That work may be skipped as long as
# somebody checks has been the subject before: [MSDNet](../instance/msdnet.ipynb) leaves early where it is sure, and has
# nobody who overrules it.
#
# ## References
#
# The method: {cite}`yuan2022cgp`. Column generation and its bounds: {cite}`desaulniers2005column,farley1990bound`.
# Shortest paths with resources: {cite}`irnich2005sppr`. The graph network's layers: {cite}`bresson2017gated`. Computation
# that depends on the input, in general: {cite}`han2021dynamic`.
