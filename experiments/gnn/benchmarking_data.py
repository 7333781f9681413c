"""Data sets and published values of `experiments.gnn.benchmarking_gnns`.

pattern, cluster     generated in the published sizes (10000/2000/2000 and 10000/1000/1000 graphs)
pattern-small        600/100/100 generated graphs
csl                  the published files and folds; csl-generated needs no files
aqsol                the pickles `val.pickle` and `test.pickle` of the benchmark's repository
                     (data/molecules/asqol_graph_raw); its `train.pickle` cannot be had, so 796 and
                     200 molecules of the validation file serve for training and validation
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jgraph import data
from jgraph.data import safe_pickle
from jgraph.data.errors import DatasetError
from jgraph.data.generators import LabelledGraphs, make_cluster, make_pattern
from jgraph.gnn.benchmarking_gnns import ENCODINGS
from jgraph.graph import Graph
from jgraph.nn.positional import laplacian_pe
from jgraph.train.plateau import Examples

SETS = ("csl", "csl-generated", "pattern", "pattern-small", "cluster", "aqsol")
ATOMS, BONDS = 65, 5
_ADDRESS = (
    "https://github.com/graphdeeplearning/benchmarking-gnns/tree/"
    "b6c407712fa576e9699555e1e035d1e327ccae6c/data/molecules/asqol_graph_raw"
)


_CHECKED, _MEMORY = "official leaderboard", "from memory, unchecked"
# Accuracy in percent: data set -> kind -> (100k, 500k), None where there is none.
_ACCURACY: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "pattern": {
        "mlp": (50.52, None), "gcn": (63.88, 71.892), "graphsage": (50.52, 50.492),
        "monet": (85.48, 85.582), "gat": (75.82, 78.271), "gatedgcn": (84.48, 85.568),
        "gin": (85.59, 85.387), "ringgnn": (86.25, 86.244), "3wlgnn": (85.66, 85.341),
    },
    "cluster": {
        "mlp": (20.97, None), "gcn": (53.45, 68.498), "graphsage": (50.45, 63.844),
        "monet": (58.06, 66.407), "gat": (57.73, 70.587), "gatedgcn": (60.40, 73.840),
        "gin": (58.38, 64.716), "ringgnn": (42.42, 22.340), "3wlgnn": (57.13, 55.489),
    },
}  # fmt: skip
_POSITIONS = {("pattern", "gatedgcn", "500k"): 86.508, ("cluster", "gatedgcn", "500k"): 76.082}
_CSL = {
    "mlp": 22.57, "gcn": 100.0, "graphsage": 99.93, "monet": 99.97, "gat": 99.93, "gatedgcn": 99.60,
    "gin": 99.33, "ringgnn": 17.23, "3wlgnn": 30.53,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    dataset: str
    kind: str
    budget: str = "100k"
    positions: bool = False

    @property
    def key(self) -> str:
        """Its name: dataset/kind/budget, and /pe with positions."""
        parts = [self.dataset, self.kind, self.budget] + ["pe"] * self.positions
        return "/".join(parts)

    @classmethod
    def parse(cls, key: str) -> Cell:
        """The inverse of `key`.

        Raises:
          ValueError: another form.
        """
        parts = key.split("/")
        if len(parts) not in (3, 4) or (len(parts) == 4 and parts[3] != "pe"):
            raise ValueError(
                f"cell is {key!r}; write dataset/kind/budget or dataset/kind/budget/pe"
            )
        return cls(*parts[:3], positions=len(parts) == 4)

    def reported(self) -> tuple[float | None, str]:
        """The published value and where it was read."""
        if self.dataset == "csl":
            bare = 95.70 if self.kind == "3wlgnn" else 10.0
            return _CSL.get(self.kind) if self.positions else bare, _MEMORY
        if self.positions:
            return _POSITIONS.get((self.dataset, self.kind, self.budget)), _MEMORY
        row = _ACCURACY.get(self.dataset, {}).get(self.kind, (None, None))
        at = self.budget == "500k"
        return row[at], _CHECKED if at else _MEMORY


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
      name: of `SETS`; family: the name that configurations go by.
      parts: one {"train", "val", "test"} of `Examples` per fold.
      task, measure, classes: of the network and of `MEASURES`.
      max_nodes: in one graph.
    """

    name: str
    family: str
    parts: tuple[dict[str, Examples], ...]
    task: str
    measure: str
    classes: int
    max_nodes: int


def load(
    name: str,
    *,
    positions: bool = False,
    seed: int = 0,
    sizes: tuple[int, int, int] | None = None,
    aqsol: Path | None = None,
) -> Source:
    """A data set, with positional encodings if asked for.

    Args:
      sizes: graphs of the generated sets, in place of the published numbers.
      aqsol: folder with the two pickles.

    Raises:
      ValueError: an unknown name. DatasetError: files that are missing or malformed.
    """
    if name in ("csl", "csl-generated"):
        return _csl(name, positions)
    if name in ("pattern", "pattern-small"):
        default = (10_000, 2_000, 2_000) if name == "pattern" else (600, 100, 100)
        return _blocks(name, "pattern", make_pattern(seed, *(sizes or default)), 2, positions)
    if name == "cluster":
        sets = make_cluster(seed, *(sizes or (10_000, 1_000, 1_000)))
        return _blocks(name, "cluster", sets, 6, positions)
    if name == "aqsol":
        return _aqsol(aqsol, positions)
    raise ValueError(f"dataset is {name!r}; choose one of {', '.join(SETS)}")


def _largest(parts: dict[str, Examples]) -> int:
    return max(graph.num_nodes for part in parts.values() for graph in part.graphs)


def _placed(graph: Graph, family: str, positions: bool, keep: bool) -> Graph:
    if not positions:
        return graph
    pe = laplacian_pe(graph, ENCODINGS[family])
    return graph.replace(nodes={"features": graph.nodes, "pe": pe} if keep else {"pe": pe})


def _csl(name: str, positions: bool) -> Source:
    dataset = data.load(name)
    # Their one feature is constant, so with positions the net reads these alone.
    graphs = [_placed(graph, "csl", positions, False) for graph in dataset.graphs]

    def part(rows: np.ndarray) -> Examples:
        return Examples([graphs[i] for i in rows], dataset.labels[rows])

    folds = tuple(
        {"train": part(s.train), "val": part(s.val), "test": part(s.test)} for s in dataset.splits
    )
    return Source(name, "csl", folds, "graph", "accuracy", 10, _largest(folds[0]))


def _blocks(
    name: str, family: str, sets: tuple[LabelledGraphs, ...], classes: int, positions: bool
) -> Source:
    parts = {
        part: Examples([_placed(g, family, positions, True) for g in one.graphs], one.labels)
        for part, one in zip(("train", "val", "test"), sets, strict=True)
    }
    return Source(name, family, (parts,), "node", "sbm", classes, _largest(parts))


def _molecules(path: Path) -> tuple[list[Graph], np.ndarray]:
    if not path.is_file():
        raise DatasetError("aqsol", "the file is missing", file=str(path), fix=f"get {_ADDRESS}")
    rows = safe_pickle.loads(path.read_bytes(), dataset="aqsol", file=str(path))
    graphs, targets = [], []
    for atoms, bonds, ends, value in rows:
        ends = np.asarray(ends, np.int64).reshape(2, -1)
        # As in the official loader: molecules without bonds, or with atoms beyond them, are out.
        if ends.size == 0 or ends.max() + 1 != len(atoms):
            continue
        nodes, edges = (
            np.eye(ATOMS, dtype=np.float32)[atoms],
            np.eye(BONDS, dtype=np.float32)[bonds],
        )
        graphs.append(Graph.from_edges(ends[0], ends[1], nodes=nodes, edges=edges))
        targets.append(float(value))
    return graphs, np.asarray(targets, np.float32)


def _aqsol(folder: Path | None, positions: bool) -> Source:
    if folder is None:
        raise DatasetError(
            "aqsol", "no folder is given", fix=f"pass --aqsol FOLDER with the pickles of {_ADDRESS}"
        )
    graphs, targets = _molecules(folder / "val.pickle")
    tested = _molecules(folder / "test.pickle")
    order = np.random.default_rng(0).permutation(len(graphs))
    cut = len(graphs) - 200

    def part(chosen: list[Graph], values: Any) -> Examples:
        return Examples([_placed(g, "aqsol", positions, True) for g in chosen], values)

    parts = {
        "train": part([graphs[i] for i in order[:cut]], targets[order[:cut]]),
        "val": part([graphs[i] for i in order[cut:]], targets[order[cut:]]),
        "test": part(*tested),
    }
    return Source("aqsol", "aqsol", (parts,), "graph", "mae", 1, _largest(parts))


def mean_error(parts: dict[str, Examples]) -> float:
    """Test MAE of the constant that fits the training part best, its median.

    The bar for a regression: what is reached without looking at a molecule.
    """
    constant = np.median(parts["train"].targets)
    return float(np.abs(np.asarray(parts["test"].targets) - constant).mean())
