"""`Dataset` and `Split`: graphs, labels and index sets that have been checked to fit together."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jgraph.data.errors import DatasetError
from jgraph.graph import Graph, SparseMatrix

TASKS = ("node", "graph")
METRICS = ("accuracy", "roc_auc", "mae")
_PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows of the labels are for training, for choosing, and for the final score.

    Attributes:
      train, val, test: (n,) int32 indices into the labels, disjoint; nodes for node tasks, graphs
        for graph tasks. They need not cover everything.

    Raises:
      ValueError: indices that are not one-dimensional integers, that are negative, that repeat, or
        that two parts share; an empty `train`.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def __post_init__(self):
        for part in _PARTS:
            indices = np.asarray(getattr(self, part))
            if indices.size == 0:
                indices = indices.astype(np.int32)
            if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
                raise ValueError(
                    f"split: {part} has dtype {indices.dtype} and shape {indices.shape}; it must "
                    "be a one-dimensional array of integers (for masks use Split.from_masks)"
                )
            if indices.size and indices.min() < 0:
                raise ValueError(f"split: {part} has index {indices.min()}; the smallest is 0")
            object.__setattr__(self, part, indices.astype(np.int32))
        if self.train.size == 0:
            raise ValueError("split: train is empty; it needs at least one index")
        everything = np.concatenate([self.train, self.val, self.test])
        unique, counts = np.unique(everything, return_counts=True)
        if unique.size < everything.size:
            raise ValueError(
                f"split: index {unique[counts > 1][0]} occurs more than once; train, val and test "
                "must be disjoint and without repeats"
            )

    @classmethod
    def from_masks(cls, train: Any, val: Any, test: Any) -> Split:
        """From three (n,) masks (bool, or integers 0 and 1)."""
        return cls(*(np.flatnonzero(np.asarray(mask)) for mask in (train, val, test)))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of indices in train, val and test."""
        return self.train.size, self.val.size, self.test.size

    def __repr__(self) -> str:
        return "Split(train {}, val {}, test {})".format(*self.sizes)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Graphs with labels and splits.

    Attributes:
      name: what `load` was called with.
      graphs: for node tasks exactly one `Graph` (which may be a batch of disconnected graphs); for
        graph tasks G graphs.
      labels: (N,) or (G,), int32 classes in [0, num_classes), or float32 for metric "mae".
      splits: one `Split` or more; the benchmark's own where it has any.
      task: "node" or "graph".
      num_classes: C; for metric "mae" the number of targets.
      metric: "accuracy", "roc_auc" or "mae".
      licence, citation, source: where it comes from; source is an address.
      description: one line.

    Raises:
      DatasetError: the parts do not fit together; the message names the field and the fix.
    """

    name: str
    graphs: tuple[Graph, ...]
    labels: np.ndarray
    splits: tuple[Split, ...]
    task: str
    num_classes: int
    metric: str = "accuracy"
    licence: str = ""
    citation: str = ""
    source: str = ""
    description: str = ""

    def __post_init__(self):
        graphs = (self.graphs,) if isinstance(self.graphs, Graph) else tuple(self.graphs)
        object.__setattr__(self, "graphs", graphs)
        object.__setattr__(self, "splits", tuple(self.splits))
        for field, allowed in (("task", TASKS), ("metric", METRICS)):
            value = getattr(self, field)
            if value not in allowed:
                raise self._error(f"{field} is {value!r}", f"choose one of {allowed}")
        if not graphs or (self.task == "node" and len(graphs) != 1):
            raise self._error(
                f"graphs has {len(graphs)} entries for task {self.task!r}",
                "give exactly one graph for a node task, at least one for a graph task",
            )
        object.__setattr__(self, "labels", self._checked_labels())
        if not self.splits:
            raise self._error("splits is empty", "make one with transforms.random_split")
        for number, split in enumerate(self.splits):
            for part in _PARTS:
                indices = getattr(split, part)
                if indices.size and indices.max() >= self.labels.shape[0]:
                    raise self._error(
                        f"splits[{number}].{part} has index {indices.max()}, but there are "
                        f"{self.labels.shape[0]} labels",
                        "indices count from 0",
                    )

    def _error(self, cause: str, fix: str) -> DatasetError:
        return DatasetError(self.name, cause, fix=fix)

    def _checked_labels(self) -> np.ndarray:
        labels = np.asarray(self.labels)
        rows = self.graphs[0].num_nodes if self.task == "node" else len(self.graphs)
        if labels.shape != (rows,):
            raise self._error(
                f"labels has shape {labels.shape}", f"there must be one for each of {rows} rows"
            )
        if self.metric == "mae":
            if not np.isfinite(labels).all():
                raise self._error("labels holds NaN or infinity", "impute or drop those rows")
            return labels.astype(np.float32)
        if not np.issubdtype(labels.dtype, np.integer):
            raise self._error(
                f"labels has dtype {labels.dtype}", f"metric {self.metric!r} needs integers"
            )
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise self._error(
                f"labels span {labels.min()} to {labels.max()}",
                f"with num_classes={self.num_classes} they must be in [0, {self.num_classes})",
            )
        return labels.astype(np.int32)

    @property
    def graph(self) -> Graph:
        """The one graph of a node task.

        Raises:
          DatasetError: a graph task; take `graphs`.
        """
        if self.task != "node":
            raise self._error(f"has {len(self.graphs)} graphs", "use .graphs")
        return self.graphs[0]

    @property
    def num_features(self) -> int:
        """Columns of the node features; 0 where there are none."""
        nodes = self.graphs[0].nodes
        return 0 if nodes is None else int(nodes.shape[1])

    @functools.cached_property
    def statistics(self) -> dict[str, Any]:
        """What `statistics(self)` counts, computed once."""
        return statistics(self)

    def replace(self, **changes: Any) -> Dataset:
        """A copy with other fields, checked again."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        facts = self.statistics
        nodes = self.graphs[0].nodes
        kind = "sparse" if isinstance(nodes, SparseMatrix) else "dense"
        sizes = "/".join(map(str, self.splits[0].sizes))
        lines = [
            f"Dataset {self.name!r}: {self.description}",
            f"  task      {self.task}, {self.num_classes} classes, {self.metric}",
            f"  graphs    {facts['graphs']}; {facts['nodes']} nodes, {facts['edges']} directed "
            f"edges, mean degree {facts['average_degree']:.2f}, "
            f"{facts['isolated_nodes']} isolated, {facts['self_loops']} self-loops",
            f"  features  {facts['features']} per node ({kind}), {facts['edge_features']} per edge",
            f"  splits    {len(self.splits)}; first {sizes} (train/val/test)",
            f"  licence   {self.licence or 'unstated'}",
        ]
        if "edge_homophily" in facts:
            lines.insert(3, f"  homophily {facts['edge_homophily']:.4f} of the edges")
        return "\n".join(lines)


def statistics(dataset: Dataset) -> dict[str, Any]:
    """Counts over all graphs of a dataset.

    Returns:
      graphs; nodes; edges (directed, loops included); features, edge_features (columns); classes;
      isolated_nodes (no edge except loops); self_loops; average_degree (edges / nodes); undirected
      (every edge has its reverse); split_sizes, one (train, val, test) per split; for node tasks
      edge_homophily, the share of joined pairs (each counted once, no loops) with equal labels, NaN
      without edges.
    """
    edges = isolated = loops = nodes = graphs = 0
    undirected = True
    for graph in dataset.graphs:
        senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
        proper = senders != receivers
        touched = np.zeros(graph.num_nodes, bool)
        touched[senders[proper]] = touched[receivers[proper]] = True
        undirected &= _is_symmetric(senders, receivers, graph.num_nodes)
        graphs += graph.num_graphs
        nodes += graph.num_nodes
        edges += graph.num_edges
        isolated += int((~touched).sum())
        loops += int((~proper).sum())
    first = dataset.graphs[0].edges
    facts: dict[str, Any] = {
        "graphs": graphs,
        "nodes": nodes,
        "edges": edges,
        "features": dataset.num_features,
        "edge_features": 0 if first is None else int(np.prod(np.shape(first)[1:])),
        "classes": dataset.num_classes,
        "isolated_nodes": isolated,
        "self_loops": loops,
        "average_degree": edges / nodes,
        "undirected": bool(undirected),
        "split_sizes": tuple(split.sizes for split in dataset.splits),
    }
    if dataset.task == "node":
        facts["edge_homophily"] = _homophily(dataset.graphs[0], dataset.labels)
    return facts


def _is_symmetric(senders: np.ndarray, receivers: np.ndarray, num_nodes: int) -> bool:
    forth = senders.astype(np.int64) * num_nodes + receivers
    back = receivers.astype(np.int64) * num_nodes + senders
    return np.array_equal(np.unique(forth), np.unique(back))


def _homophily(graph: Graph, labels: np.ndarray) -> float:
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    low, high = np.minimum(senders, receivers), np.maximum(senders, receivers)
    pairs = np.unique(low[low < high].astype(np.int64) * graph.num_nodes + high[low < high])
    if pairs.size == 0:
        return float("nan")
    same = labels[pairs // graph.num_nodes] == labels[pairs % graph.num_nodes]
    return float(same.mean())
