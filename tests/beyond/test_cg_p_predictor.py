"""The edge predictor of CG-P: features by hand, the network, the reduction, labels, training, the kept weights."""

import dataclasses
import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.beyond.cg_p import CrewRules, DutyGraph, Timetable
from course_lib.beyond.cg_p.features import EDGE_FEATURES, NODE_FEATURES, features, rank
from course_lib.beyond.cg_p.reduction import Chance, ShortGaps, best_arcs
from course_lib.beyond.cg_p.search import Search

pytest.importorskip("torch_geometric")
pytest.importorskip("ortools")
safetensors = pytest.importorskip("safetensors.torch")

from course_lib.beyond.cg_p import labels as solved  # noqa: E402
from course_lib.beyond.cg_p import predictor as predictors  # noqa: E402
from course_lib.beyond.cg_p import predictor_training as training  # noqa: E402


def connected() -> DutyGraph:
    """Five trips, seven connections; from C a crew has no way home to A, the depot."""
    trips = [("A", "B", 480, 540), ("B", "A", 560, 620), ("C", "A", 600, 660), ("B", "A", 650, 710)]
    trips += [("A", "B", 690, 750)]
    graph = DutyGraph.of(Timetable.of(trips, depots=["A"], deadhead={("A", "B"): 30, ("B", "C"): 20}))
    arcs = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 4), (2, 4)]
    assert list(zip(graph.tail.tolist(), graph.head.tolist(), strict=True)) == arcs
    return graph


def small(trips=40, seed=3, **more) -> DutyGraph:
    return DutyGraph.of(Timetable.generate(trips, stations=6, seed=seed, **more))


def random_predictor(seed=0, **sizes) -> predictors.EdgePredictor:
    torch.manual_seed(seed)
    return predictors.EdgePredictor(**sizes).eval()


@pytest.fixture(scope="module")
def examples():
    """Four small railways, solved."""
    return solved.solve_examples(Timetable.generate(50, stations=6, seed=seed) for seed in range(4))


# Features -------------------------------------------------------------------------------------------------------------


def test_features_of_trips_by_hand():
    nodes, _ = features(connected())
    assert nodes.dtype == np.float32
    assert nodes.shape == (5, len(NODE_FEATURES))
    log = math.log1p
    expected = {
        0: [480 / 1440, 60 / 120, 0, 30 / 60, 1, 0, log(4) / 5, 0],
        2: [600 / 1440, 60 / 120, 120 / 60, 0, 0, 1, log(1) / 5, log(1) / 5],  # no depot reaches C
        4: [690 / 1440, 60 / 120, 0, 30 / 60, 1, 0, 0, log(3) / 5],
    }
    for trip, row in expected.items():
        np.testing.assert_allclose(nodes[trip], row, rtol=1e-6)


def test_features_of_arcs_by_hand():
    _, edges = features(connected())
    assert edges.dtype == np.float32
    assert edges.shape == (6, len(EDGE_FEATURES))
    first, second, third = (math.log1p(place) / 3 for place in (1, 2, 3))
    expected = {
        0: [20 / 60, 20 / 60, 0, 1, 0, 0, 0, 0, 0],
        1: [40 / 60, 60 / 60, 20 / 60, 0, 1, first, 0, second, 0],  # the wait without a ride passes it
        2: [110 / 60, 110 / 60, 0, 1, 1, second, 0, first, 0],
        3: [120 / 60, 150 / 60, 30 / 60, 0, 1, third, second, third, second],
        5: [30 / 60, 30 / 60, 0, 1, 1, 0, 0, 0, 0],
    }
    for arc, row in expected.items():
        np.testing.assert_allclose(edges[arc], row, rtol=1e-6)


def test_a_crew_that_stays_on_board_has_no_break():
    table = Timetable.of([("A", "B", 480, 540), ("B", "A", 580, 640)], depots=["A"])
    pieces = DutyGraph.of(dataclasses.replace(table, follows=np.array([1, -1])))
    assert [features(graph).edges[0, 4] for graph in (DutyGraph.of(table), pieces)] == [1, 0]


@pytest.mark.parametrize("trips", [[], [("A", "B", 480, 540)]])
def test_nothing_to_score(trips):
    graph = DutyGraph.of(Timetable.of(trips, depots=["A"]))
    nodes, edges = features(graph)
    assert (nodes.shape, edges.shape) == ((len(trips), 8), (0, 9))
    assert random_predictor().scores(graph.timetable, graph.rules, graph).shape == (0,)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=20))
def test_rank_counts_the_smaller_of_the_group(pairs):
    group, key = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    expected = [sum(g == h and k < own for h, k in pairs) for g, own in pairs]
    assert rank(key.astype(float), group).tolist() == expected


def test_features_of_large_graphs_stay_small():
    for array in features(small(400)):
        assert np.isfinite(array).all()
        assert np.abs(array).max() < 4


# The network ----------------------------------------------------------------------------------------------------------


def test_number_of_weights():
    count = lambda module: sum(weight.numel() for weight in module.parameters())  # noqa: E731
    assert count(predictors.EdgePredictor()) == 29_601  # as the card says
    assert count(predictors.EdgePredictor(layers=3)) == 29_601 - 6464


def test_a_layer_does_what_the_formula_says():
    torch.manual_seed(0)
    layer, h = predictors.GatedLayer(6), 6
    nodes, edges = torch.randn(4, h), torch.randn(4, h)
    arcs = [(0, 1), (0, 2), (1, 2), (2, 3)]
    new_nodes, new_edges = layer(nodes, edges, torch.tensor(arcs).T)
    seen = [layer.edge(edges[a]) + layer.tail(nodes[i]) + layer.head(nodes[j]) for a, (i, j) in enumerate(arcs)]
    for a in range(4):
        torch.testing.assert_close(new_edges[a], edges[a] + layer.edge_norm(seen[a]).relu())
    for j in range(4):
        heard = layer.own(nodes[j])
        for end, other, weights in ((1, 0, layer.forth), (0, 1, layer.back)):
            mine = [a for a in range(4) if arcs[a][end] == j]
            gates = [torch.sigmoid(seen[a]) for a in mine]
            said = sum((g * weights(nodes[arcs[a][other]]) for g, a in zip(gates, mine, strict=True)), torch.zeros(h))
            heard = heard + said / (sum(gates, torch.zeros(h)) + 1e-6)
        torch.testing.assert_close(new_nodes[j], nodes[j] + layer.node_norm(heard).relu())


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_the_order_of_trips_and_arcs_does_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    n, m = 12, 30
    nodes, edges = torch.randn(n, 8, generator=generator), torch.randn(m, 9, generator=generator)
    index = torch.randint(0, n, (2, m), generator=generator)
    network = random_predictor()
    trips, arcs = torch.randperm(n, generator=generator), torch.randperm(m, generator=generator)
    moved = network(nodes[trips], edges[arcs], trips.argsort()[index[:, arcs]])
    torch.testing.assert_close(moved, network(nodes, edges, index)[arcs], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 4])
@pytest.mark.parametrize("changed", [0, 9])
def test_news_travels_one_trip_a_layer_and_both_ways(layers, changed):
    chain = torch.stack([torch.arange(9), torch.arange(1, 10)])
    torch.manual_seed(1)
    nodes, edges = torch.randn(10, 8), torch.randn(9, 9)
    network = random_predictor(layers=layers)
    before = network(nodes, edges, chain)
    nodes[changed] += 1
    moved = (network(nodes, edges, chain) != before).tolist()
    if changed == 9:
        moved.reverse()
    assert moved == [arc <= layers for arc in range(9)]


def test_scores_are_logits_without_a_gradient():
    graph, network = small(), random_predictor()
    scores = network.scores(graph.timetable, graph.rules, graph)
    assert (scores.dtype, scores.shape) == (np.float32, (len(graph),))
    logits = network(*predictors.as_tensors(graph))
    np.testing.assert_allclose(scores, logits.detach().numpy(), rtol=1e-6)
    assert logits.requires_grad


def test_without_torch_geometric(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch_geometric")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    predictors._scatter.cache_clear()
    with pytest.raises(ImportError, match=r"needs torch_geometric, which is not installed: .*ShortGaps"):
        predictors.load_predictor()


# The reduction --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.floats(0, 5))
@settings(max_examples=20, deadline=None)
def test_the_best_two_into_and_out_of_every_trip_stay(seed, per_trip):
    graph = small()
    scores = Chance(seed).scores(graph.timetable, graph.rules, graph)
    kept = best_arcs(graph, scores, per_trip=per_trip)
    for end in (graph.tail, graph.head):
        for trip in range(len(graph.timetable)):
            arcs = np.flatnonzero(end == trip)
            assert kept[arcs[np.argsort(-scores[arcs])[:2]]].all()
    best = np.argsort(-scores)[: round(per_trip * len(graph.timetable))]
    assert kept[best].all()
    reduced = graph.keep(kept)
    assert np.array_equal(reduced.sources, graph.sources)
    assert np.array_equal(reduced.sinks, graph.sinks)


def test_all_equal_or_infinite_scores_keep_what_is_asked():
    graph = small()
    n = len(graph.timetable)
    assert best_arcs(graph, np.zeros(len(graph)), per_trip=2, safe=0).sum() == 2 * n
    infinite = np.where(np.arange(len(graph)) % 2, np.inf, -np.inf)
    assert best_arcs(graph, infinite, per_trip=2, safe=0).sum() == 2 * n
    assert best_arcs(graph, infinite, per_trip=1e6).all()


@pytest.mark.parametrize("scores", [np.zeros(3), np.full(6, np.nan)])
def test_scores_that_are_none(scores):
    with pytest.raises(ValueError, match="expected a number for each of 6 arcs"):
        best_arcs(connected(), scores, per_trip=1)


def linear_program(graph: DutyGraph) -> float:
    return Search(graph).relax(stages=(12, 0)).value


def test_more_arcs_never_cost_more():
    graph = small(60)
    scores = predictors.load_predictor().scores(graph.timetable, graph.rules, graph)
    kept = [best_arcs(graph, scores, per_trip=per_trip) for per_trip in (0, 1, 2, 3, 1e6)]
    for fewer, more in itertools.pairwise(kept):
        assert (more | ~fewer).all()
    values = [linear_program(graph.keep(mask)) for mask in kept]
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(values))
    assert values[0] > values[-1] + 1
    assert values[-1] == pytest.approx(linear_program(graph), abs=1e-6)


# Labels ---------------------------------------------------------------------------------------------------------------


def test_labels_by_hand():
    trips = [("A", "B", 480, 540), ("B", "A", 560, 620), ("A", "B", 650, 710), ("B", "A", 720, 780)]
    graph = DutyGraph.of(Timetable.of(trips, depots=["A"]))
    used = solved.arc_labels(graph)
    arcs = dict(zip(zip(graph.tail.tolist(), graph.head.tolist(), strict=True), used.tolist(), strict=True))
    assert arcs == {(0, 1): 1, (1, 2): 1, (2, 3): 1}  # one duty of four, 810


def test_labels_where_the_linear_program_halves_its_duties():
    """Any two of three trips make a duty, all three none: the program takes half of each pair, the plan one pair."""
    trips = [("A", "A", 480, 580), ("A", "A", 600, 700), ("A", "A", 720, 820)]
    graph = DutyGraph.of(Timetable.of(trips, depots=["A"]), CrewRules(max_driving=250))
    assert len(graph) == 3
    used = solved.arc_labels(graph)
    assert sorted(used.tolist()) == [0.25, 0.25, 0.75]


def test_labels_where_nothing_can_be_covered():
    table = Timetable.of([("B", "C", 480, 540), ("C", "B", 560, 620)], depots=["A"])
    assert solved.arc_labels(DutyGraph.of(table)).tolist() == [0]


def test_labels_do_not_depend_on_the_number_of_processes(examples):
    again = solved.solve_examples([e.graph.timetable for e in examples[:2]], processes=2)
    for one, other in zip(examples, again, strict=False):
        assert np.array_equal(one.labels, other.labels)
        assert one.labels.dtype == np.float32
        assert 0 <= one.labels.min() < one.labels.max() <= 1


def test_labels_refused(tmp_path):
    table = Timetable.of([("A", "A", 0, 10), ("A", "A", 20, 30)], depots=["A"])
    listed = dataclasses.replace(table, links=np.array([[0, 1, 12]]), limit=480)
    with pytest.raises(ValueError, match="listed transitions"):
        solved.arc_labels(DutyGraph.of(listed))
    with pytest.raises(ValueError, match="processes: got 0"):
        solved.solve_examples([table], processes=0)


def test_no_railway_is_trained_and_tested_on():
    drawn, held_out = solved.training_timetables(12), solved.held_out_timetables(2)
    assert {150 <= len(t) <= 200 for t in drawn} == {True}
    plans = {t.deadhead.tobytes() for t in drawn}
    assert len(plans) == 12
    assert not plans & {t.deadhead.tobytes() for kind in held_out.values() for t in kind}
    assert set(held_out) - set(solved.FAMILIES) == {"ring"}
    again = solved.training_timetables(3)
    assert [str(t) for t in again] == [str(t) for t in drawn[:3]]


# Judging --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.25, 1.0])), min_size=2, max_size=12))
def test_auc_is_the_chance_of_the_right_order(pairs):
    scores, labels = np.array(pairs, dtype=float).T
    found = training.judge(scores, labels).auc
    wins = [(a > b) + 0.5 * (a == b) for a in scores for b in scores]
    weights = [p * (1 - q) for p in labels for q in labels]
    if sum(weights) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(np.average(wins, weights=weights))


def test_auc_of_whole_labels_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.2
    scores = np.round(rng.normal(size=200) + labels, 1)
    assert training.judge(scores, labels).auc == pytest.approx(metrics.roc_auc_score(labels, scores))


def test_mass_of_the_best_share():
    scores, labels = np.arange(10), np.array([0, 0, 0, 0.5, 0, 0, 0, 0.5, 0, 1])
    assert [training.judge(scores, labels, share=share).mass for share in (0.1, 0.3, 1)] == [0.5, 0.75, 1]
    assert math.isnan(training.judge(scores, np.zeros(10)).mass)


# Training -------------------------------------------------------------------------------------------------------------


def test_a_short_training_learns(examples):
    run = training.train_predictor(examples[:3], epochs=20, seed=1)
    assert len(run.losses) == 20
    assert run.losses[-1] < 0.7 * run.losses[0]
    assert not run.predictor.training
    judged = training.compare_predictors(examples[3:], {"trained": run.predictor, "not": random_predictor()})
    assert judged["trained"].auc > max(0.7, judged["not"].auc + 0.1)
    again = training.train_predictor(examples[:3], epochs=20, seed=1)
    assert again.losses == run.losses
    assert all(torch.equal(a, b) for a, b in zip(run.predictor.parameters(), again.predictor.parameters(), strict=True))
    assert training.train_predictor(examples[:3], epochs=1, seed=2).losses != run.losses[:1]


def test_training_leaves_the_global_generator_alone(examples):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    training.train_predictor(examples[:1], epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_training_goes_on_with_a_predictor(examples):
    network = random_predictor(hidden=8, layers=1)
    run = training.train_predictor(examples[:1], epochs=2, predictor=network)
    assert run.predictor is network
    more = training.train_predictor(examples[:1], epochs=1, predictor=run.predictor)
    assert more.losses[0] < run.losses[0]


def test_training_refused(examples):
    with pytest.raises(ValueError, match="got 0 and 40, expected at least 1"):
        training.train_predictor([])
    with pytest.raises(ValueError, match="got 1 and 0, expected at least 1"):
        training.train_predictor(examples[:1], epochs=0)
    broken = dataclasses.replace(examples[0], labels=np.full_like(examples[0].labels, np.nan))
    with pytest.raises(FloatingPointError, match="nan in epoch 0"):
        training.train_predictor([broken], epochs=1)


def test_arcs_in_use_that_are_missing_do_no_harm(examples):
    unused = dataclasses.replace(examples[0], labels=np.zeros_like(examples[0].labels))
    losses = training.train_predictor([unused], epochs=4).losses
    assert losses[-1] < losses[0]


# The file -------------------------------------------------------------------------------------------------------------


def test_weights_come_back_in_half_precision(tmp_path):
    file, network, graph = tmp_path / "new" / "weights.safetensors", random_predictor(hidden=8, layers=2), small()
    predictors.save_predictor(file, network, {"command": "by hand"})
    read = predictors.load_predictor(file)
    for old, new in zip(network.parameters(), read.parameters(), strict=True):
        assert torch.equal(old.detach().half().float(), new)
    assert not read.training
    ours, theirs = (one.scores(graph.timetable, graph.rules, graph) for one in (network, read))
    np.testing.assert_allclose(ours, theirs, atol=2e-2)
    assert predictors.read_notes(file)["command"] == "by hand"
    assert file.stat().st_size < 2 * sum(w.numel() for w in network.parameters()) + 4000
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors; python -m course_lib\.beyond\.cg_p makes them"):
        predictors.load_predictor(tmp_path / "none.safetensors")


def test_weights_cut_short_or_no_weights(tmp_path):
    file = tmp_path / "weights.safetensors"
    predictors.save_predictor(file, random_predictor(), {})
    whole = file.read_bytes()
    for content in (whole[:-100], whole[:50], b"", b"not weights at all"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.safetensors: got an unreadable file"):
            predictors.load_predictor(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "course_lib.beyond.clip/1"},
            "another architecture: got course_lib.beyond.clip/1, expected an edge",
        ),
        ({"format": ""}, r"another architecture: got \['answer"),
        ({"hidden": "16"}, r"belongs to another model: got \(32, 8\) as 'node_in.weight', expected \(16, 8\)"),
        ({"layers": "5"}, "got no tensor as 'exchanges.4"),
        ({"layers": "3"}, r"as 'exchanges.3.*expected no tensor"),
        ({"layers": "many"}, "got {'hidden': '32', 'layers': 'many'}, expected whole numbers"),
    ],
)
def test_weights_of_another_architecture(tmp_path, change, message):
    file = tmp_path / "weights.safetensors"
    header = {"format": predictors.FORMAT, "hidden": "32", "layers": "4", **change}
    safetensors.save_file(random_predictor().state_dict(), file, metadata=header)
    with pytest.raises(ValueError, match=message):
        predictors.load_predictor(file)


# The kept weights -----------------------------------------------------------------------------------------------------


def test_the_kept_weights_say_how_they_came_about():
    notes = predictors.read_notes()
    assert notes["command"].startswith("python -m course_lib.beyond.cg_p")
    assert notes["rules"] == repr(CrewRules())
    assert sum(weight.numel() for weight in predictors.load_predictor().parameters()) == 29_601
    assert predictors.FILE.stat().st_size < 70_000
    found = json.loads(notes["held_out_auc"])
    for kind in found.values():
        assert kind["network"] > kind["short gaps"] > 0.7
        assert 0.45 < kind["chance"] < 0.55


def test_the_kept_weights_are_as_good_on_a_kind_of_railway_never_seen():
    drawn = solved.held_out_timetables()["ring"]
    rivals = {"network": predictors.load_predictor(), "short gaps": ShortGaps(), "chance": Chance()}
    found = training.compare_predictors(solved.solve_examples(drawn), rivals)
    recorded = json.loads(predictors.read_notes()["held_out_auc"])["ring"]
    for name, judged in found.items():
        assert judged.auc == pytest.approx(recorded[name], abs=0.02)
    assert found["network"].mass > found["short gaps"].mass > found["chance"].mass + 0.3


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        training, "training_timetables", lambda count: [Timetable.generate(40, seed=k) for k in range(count)]
    )
    monkeypatch.setattr(
        training, "held_out_timetables", lambda: {"ring": [Timetable.generate(40, family="ring", seed=9)]}
    )
    file = tmp_path / "weights.safetensors"
    training.main(["--instances", "2", "--epochs", "3", "--out", str(file)])
    said = capsys.readouterr().out
    assert str(file) in said
    assert said.count("ring ") == 3
    notes = predictors.read_notes(file)
    assert notes["command"] == "python -m course_lib.beyond.cg_p --instances 2 --epochs 3"
    assert (notes["instances"], notes["epochs"], notes["seed"]) == ("2", "3", "0")
    predictors.load_predictor(file)
