"""A graph network that says of every connection how likely it is in a good plan, and the file its weights are kept in.

Trips and arcs tell each other what they have seen, four times; each arc listens with a gate to the two trips it joins,
each trip to its arcs, forwards and backwards in time apart. 29,601 weights, whatever the size of the timetable.

Paper: arXiv 2207.01411. Kept: a graph network on the edges of the pricing graph, trained on solved instances. Ours:
layers (a residual gated graph network, after Bresson and Laurent, arXiv 1711.07553), features, sizes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.beyond.cg_p.features import EDGE_FEATURES, NODE_FEATURES, features
from course_lib.checkpoint import require_same, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from course_lib.beyond.cg_p.graph import DutyGraph
    from course_lib.beyond.cg_p.rules import CrewRules
    from course_lib.beyond.cg_p.timetable import Timetable

FORMAT = "course_lib.beyond.cg_p/1"
#: Trained under the default rules.
FILE = Path(__file__).resolve().parents[2] / "weights" / "cg_p" / "default_rules.safetensors"
COMMAND = "python -m course_lib.beyond.cg_p"


@cache
def _scatter() -> Callable[..., Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it compiles some functions in a way torch will give up
            from torch_geometric.utils import scatter
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch_geometric":
            raise
        raise ImportError(
            "the edge predictor needs torch_geometric, which is not installed: pip install torch_geometric; "
            "without it, predictor=ShortGaps() does its work by a rule of one line"
        ) from error
    return scatter


class GatedLayer(nn.Module):
    """One exchange between n trips and m arcs; both keep what they knew and add to it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.edge, self.tail, self.head = (nn.Linear(hidden, hidden) for _ in range(3))
        self.own, self.forth, self.back = (nn.Linear(hidden, hidden) for _ in range(3))
        self.node_norm, self.edge_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, nodes: Tensor, edges: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """nodes (n, h), edges (m, h), edge_index (2, m) of tails and heads -> both anew."""
        tail, head = edge_index
        seen = self.edge(edges) + self.tail(nodes)[tail] + self.head(nodes)[head]
        gates = seen.sigmoid()
        before = _gated_mean(self.forth(nodes)[tail], gates, head, len(nodes))
        after = _gated_mean(self.back(nodes)[head], gates, tail, len(nodes))
        nodes = nodes + F.relu(self.node_norm(self.own(nodes) + before + after))
        return nodes, edges + F.relu(self.edge_norm(seen))


def _gated_mean(values: Tensor, gates: Tensor, index: Tensor, count: int) -> Tensor:
    """The mean of the rows with the same index, weighted by gates; 0 where there are none. All (m, h) -> (count, h)."""
    sums = [_scatter()(rows, index, dim=0, dim_size=count, reduce="sum") for rows in (gates * values, gates)]
    return sums[0] / (sums[1] + 1e-6)


class EdgePredictor(nn.Module):
    """Scores for the arcs of any connection graph; what `solve(predictor=...)` takes.

    Args:
        hidden: numbers known of each trip and each arc between the layers.
        layers: exchanges; without one, an arc knows its own features and those of its two trips.

    Raises:
        ImportError: torch_geometric is not installed.

    >>> sum(weight.numel() for weight in EdgePredictor().parameters())
    29601
    """

    def __init__(self, *, hidden: int = 32, layers: int = 4) -> None:
        super().__init__()
        _scatter()  # importing it takes seconds: now rather than while a timetable waits for its scores
        self.hidden, self.layers = hidden, layers
        self.node_in = nn.Linear(len(NODE_FEATURES), hidden)
        self.edge_in = nn.Linear(len(EDGE_FEATURES), hidden)
        self.exchanges = nn.ModuleList(GatedLayer(hidden) for _ in range(layers))
        self.answer = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, nodes: Tensor, edges: Tensor, edge_index: Tensor) -> Tensor:
        """Logits of "this arc is in a good plan".

        Args:
            nodes: (n, 8) float, see `features`.
            edges: (m, 9) float.
            edge_index: (2, m) int64, trip before and trip after.

        Returns:
            (m,)
        """
        nodes, edges = self.node_in(nodes), self.edge_in(edges)
        for exchange in self.exchanges:
            nodes, edges = exchange(nodes, edges, edge_index)
        tail, head = edge_index
        logits: Tensor = self.answer(torch.cat([edges, nodes[tail], nodes[head]], 1))[:, 0]
        return logits

    def scores(self, timetable: Timetable, rules: CrewRules, graph: DutyGraph) -> NDArray[np.floating]:
        """(arcs,) float32 logits, larger for arcs more likely in a good plan; their sigmoids are the probabilities."""
        with torch.inference_mode():
            return self(*as_tensors(graph, self.node_in.weight.device)).cpu().numpy()


def as_tensors(graph: DutyGraph, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """What the network is called with: nodes (n, 8), edges (m, 9), edge_index (2, m)."""
    nodes, edges = (torch.from_numpy(array).to(device) for array in features(graph))
    return nodes, edges, torch.from_numpy(graph.edge_index).to(device)


def save_predictor(path: str | os.PathLike[str], predictor: EdgePredictor, notes: Mapping[str, str]) -> None:
    """Write the weights in half precision, atomically, with their sizes and notes in the header.

    Raises:
        ImportError: safetensors is not installed.
    """
    from safetensors.torch import save

    state = {name: weight.detach().cpu().half().contiguous() for name, weight in predictor.state_dict().items()}
    sizes = {"hidden": str(predictor.hidden), "layers": str(predictor.layers)}
    content = save(state, metadata={**notes, **sizes, "format": FORMAT})
    write_atomically(path, lambda file: file.write(content))


def load_predictor(path: str | os.PathLike[str] | None = None, *, device: torch.device | str = "cpu") -> EdgePredictor:
    """A trained predictor in eval mode, ready for `solve(timetable, mode="fast", predictor=...)`.

    Args:
        path: a file of `save_predictor`; None: the weights kept in the package, trained under the default rules on
            drawn timetables of 150 to 200 trips.
        device: where to put it. A CPU has the scores of 2,000 trips in about a second.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unreadable file, or one with the weights of another network.
        ImportError: safetensors or torch_geometric is not installed.
    """
    file = FILE if path is None else Path(path)
    state, notes = _read(file)
    if notes.get("format") != FORMAT:
        got = notes.get("format") or f"{sorted(state)[:3]}"
        raise ValueError(f"{file}: weights of another architecture: got {got}, expected an edge predictor ({FORMAT})")
    sizes = {name: notes.get(name, "") for name in ("hidden", "layers")}
    if not all(size.isdecimal() for size in sizes.values()):
        raise ValueError(f"{file}: got {sizes}, expected whole numbers")
    predictor = EdgePredictor(**{name: int(size) for name, size in sizes.items()})
    require_same({"model": state}, predictor.state_dict(), {}, file)
    predictor.load_state_dict(state)
    return predictor.requires_grad_(False).eval().to(device)


def read_notes(path: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What the header of a file of weights says: command, seed, instances, how good they were. None: the kept one."""
    return _read(FILE if path is None else Path(path))[1]


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of a file in single precision, and its notes."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise FileNotFoundError(f"no weights of the edge predictor at {file.absolute()}; {COMMAND} makes them")
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name).float() for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file}: got an unreadable file ({error}), expected weights of an edge predictor") from error
