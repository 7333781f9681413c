"""Changes of a dataset's features, edges and splits; each returns a new Dataset, all on the host.

A transform that learns something from the data (`standardise`) learns it from training rows only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jgraph.data.dataset import Dataset, Split
from jgraph.graph import Graph, SparseMatrix, batch, unbatch


def normalize_features(data: Any) -> Any:
    """Divides each row of the node features by its sum, so that rows sum to 1; empty rows stay.

    Args:
      data: a Dataset, a Graph, an (N, F) array or a SparseMatrix; the same kind comes back.

    Raises:
      ValueError: negative features, whose row sums mean nothing; use `standardise`.
    """
    if isinstance(data, Dataset):
        return _map(data, normalize_features)
    if isinstance(data, Graph):
        return data.replace(nodes=normalize_features(_nodes(data)))
    sparse = isinstance(data, SparseMatrix)
    values = np.asarray(data.values if sparse else data)
    if values.size and values.min() < 0:
        raise ValueError(
            f"features go down to {values.min()}: row sums need features >= 0; use standardise"
        )
    if not sparse:
        return values / _or_one(values.sum(axis=1, keepdims=True))
    rows = np.asarray(data.adjacency.receivers)
    total = np.bincount(rows, weights=values, minlength=data.shape[0])
    return data.replace(values=(values / _or_one(total)[rows]).astype(values.dtype))


def _or_one(total: np.ndarray) -> np.ndarray:
    return np.where(total == 0, np.ones_like(total), total)


def to_undirected(dataset: Dataset) -> Dataset:
    """Adds the reverse of every edge; parallel edges are merged."""
    return _map_each(dataset, lambda graph: graph.to_undirected())


def remove_self_loops(dataset: Dataset) -> Dataset:
    """Drops every edge from a node to itself."""
    return _map_each(dataset, lambda graph: graph.remove_self_loops())


def degree_features(dataset: Dataset, *, log: bool = False) -> Dataset:
    """Appends the in-degree of each node as a column (log(1 + degree) with `log`).

    Features become (N, F + 1) float32, or (N, 1) where there were none.

    Raises:
      TypeError: sparse features, which a full column would not leave sparse.
    """

    def append(graph: Graph) -> Graph:
        column = np.asarray(graph.in_degrees()).astype(np.float32)[:, None]
        column = np.log1p(column) if log else column
        if graph.nodes is None:
            return graph.replace(nodes=column)
        return graph.replace(nodes=np.concatenate([_dense(graph, "degree_features"), column], 1))

    return _map(dataset, append)


def standardise(dataset: Dataset, split: int = 0) -> Dataset:
    """Shifts and scales each feature to mean 0 and deviation 1 over the training rows.

    Training rows are the training nodes, or all nodes of the training graphs. Columns that are
    constant there are only shifted.

    Args:
      split: number of the split whose training rows count.

    Raises:
      TypeError: sparse features, which shifting would make dense.
      ValueError: `split` is out of range.
    """
    if not 0 <= split < len(dataset.splits):
        raise ValueError(f"split is {split}; the dataset has splits 0..{len(dataset.splits) - 1}")
    train = dataset.splits[split].train
    if dataset.task == "node":
        rows = _dense(dataset.graph, "standardise")[train]
    else:
        rows = np.concatenate([_dense(dataset.graphs[i], "standardise") for i in train])
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1).astype(np.float32)

    def scaled(graph: Graph) -> Graph:
        return graph.replace(nodes=(_dense(graph, "standardise") - mean) / scale)

    return _map(dataset, scaled)


def random_split(
    num: int, *, train: float = 0.6, val: float = 0.2, seed: int = 0, labels: Any = None
) -> Split:
    """A random split of 0..num-1: `train` and `val` are shares, the rest is for testing.

    Args:
      num: number of rows.
      train, val: shares in (0, 1) and [0, 1); together at most 1.
      seed: of `numpy.random.default_rng`.
      labels: optional (num,) classes; then each class is divided in these shares.

    Raises:
      ValueError: shares out of range, labels of another length, or no row left for training.
    """
    if not (0 < train <= 1 and 0 <= val < 1 and train + val <= 1 + 1e-9):
        raise ValueError(f"train={train}, val={val}: shares must be positive and sum to at most 1")
    rng = np.random.default_rng(seed)
    groups = [np.arange(num)]
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (num,):
            raise ValueError(f"labels has shape {labels.shape}; it must be ({num},)")
        groups = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    parts: list[list[np.ndarray]] = [[], [], []]
    for group in groups:
        shuffled = rng.permutation(group)
        first = round(train * group.size)
        second = first + round(val * group.size)
        for part, indices in zip(parts, np.split(shuffled, [first, second]), strict=True):
            part.append(indices)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def _map(dataset: Dataset, change: Callable[[Graph], Graph]) -> Dataset:
    return dataset.replace(graphs=tuple(change(graph) for graph in dataset.graphs))


def _map_each(dataset: Dataset, change: Callable[[Graph], Graph]) -> Dataset:
    def each(graph: Graph) -> Graph:
        if graph.num_graphs == 1:
            return change(graph)
        return batch([change(one) for one in unbatch(graph)])

    return _map(dataset, each)


def _nodes(graph: Graph) -> Any:
    if graph.nodes is None:
        raise ValueError("graph.nodes is None: there are no features; add some first")
    return graph.nodes


def _dense(graph: Graph, what: str) -> np.ndarray:
    nodes = _nodes(graph)
    if isinstance(nodes, SparseMatrix):
        raise TypeError(
            f"{what} needs dense features, got {nodes}; make them dense first: "
            "graph.replace(nodes=graph.nodes.to_scipy().toarray())"
        )
    return np.asarray(nodes)
