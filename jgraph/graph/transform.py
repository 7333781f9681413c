"""Host-side changes of a single graph's structure; each returns a new `Graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jgraph.graph.adjacency import check_indices
from jgraph.graph.errors import GraphError
from jgraph.graph.sparse import SparseMatrix

if TYPE_CHECKING:
    from jgraph.graph.graph import Graph


def _single(graph: Graph, what: str) -> None:
    if graph.num_graphs != 1:
        raise GraphError(
            f"{what} works on one graph, got a batch of {graph.num_graphs}; unbatch it first"
        )


def _rebuild(graph: Graph, senders: Any, receivers: Any, edges: Any) -> Graph:
    return type(graph).from_edges(
        senders,
        receivers,
        nodes=graph.nodes,
        edges=edges,
        num_nodes=graph.num_nodes,
        globals=graph.globals,
    )


def _take(tree: Any, rows: np.ndarray) -> Any:
    def take(leaf: Any) -> Any:
        if isinstance(leaf, SparseMatrix):
            return SparseMatrix.from_scipy(leaf.to_scipy()[rows], leaf.dtype)
        return np.asarray(leaf)[rows]

    return jax.tree.map(take, tree, is_leaf=lambda x: isinstance(x, SparseMatrix))


def add_self_loops(graph: Graph, fill: float = 1.0) -> Graph:
    """Adds the loop i -> i to every node that has none; new edge features are `fill`."""
    _single(graph, "add_self_loops")
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    lacking = np.setdiff1d(np.arange(graph.num_nodes), senders[senders == receivers])
    lacking = lacking.astype(np.int32)

    def extend(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.full((lacking.size, *leaf.shape[1:]), fill, leaf.dtype)])

    return _rebuild(
        graph,
        np.concatenate([senders, lacking]),
        np.concatenate([receivers, lacking]),
        jax.tree.map(extend, graph.edges),
    )


def remove_self_loops(graph: Graph) -> Graph:
    """Drops every edge i -> i."""
    _single(graph, "remove_self_loops")
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    keep = np.flatnonzero(senders != receivers)
    return _rebuild(graph, senders[keep], receivers[keep], _take(graph.edges, keep))


def coalesce(graph: Graph, reduce: str = "first") -> Graph:
    """Merges parallel edges; their features are combined by `reduce`: first | sum | mean | max.

    Raises:
      GraphError: unknown `reduce`.
    """
    _single(graph, "coalesce")
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    if senders.size == 0:
        return graph
    new = np.concatenate([[True], (np.diff(receivers) != 0) | (np.diff(senders) != 0)])
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, senders.size))

    def merge(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        if reduce == "first":
            return leaf[starts]
        if reduce == "max":
            return np.maximum.reduceat(leaf, starts)
        total = np.add.reduceat(leaf, starts)
        if reduce == "sum":
            return total
        if reduce == "mean":
            return (total / counts.reshape(-1, *[1] * (leaf.ndim - 1))).astype(leaf.dtype)
        raise GraphError(f"reduce is {reduce!r}; choose first, sum, mean or max")

    return _rebuild(graph, senders[starts], receivers[starts], jax.tree.map(merge, graph.edges))


def to_undirected(graph: Graph) -> Graph:
    """Adds the reverse of every edge (with its features) and merges duplicates, first wins."""
    _single(graph, "to_undirected")
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    both = jax.tree.map(lambda x: np.concatenate([np.asarray(x), np.asarray(x)]), graph.edges)
    doubled = _rebuild(
        graph,
        np.concatenate([senders, receivers]),
        np.concatenate([receivers, senders]),
        both,
    )
    return coalesce(doubled)


def subgraph(graph: Graph, node_ids: Any) -> Graph:
    """The graph induced by `node_ids`, renumbered in the order given.

    Raises:
      GraphError: an id out of range, given twice, or none given.
    """
    _single(graph, "subgraph")
    ids = check_indices("node_ids", node_ids, graph.num_nodes)
    if ids.size == 0 or np.unique(ids).size != ids.size:
        raise GraphError("node_ids must name at least one node, each once")
    number = np.full(graph.num_nodes, -1, np.int32)
    number[ids] = np.arange(ids.size, dtype=np.int32)
    senders = number[np.asarray(graph.senders)]
    receivers = number[np.asarray(graph.receivers)]
    keep = np.flatnonzero((senders >= 0) & (receivers >= 0))
    return type(graph).from_edges(
        senders[keep],
        receivers[keep],
        nodes=_take(graph.nodes, ids),
        edges=_take(graph.edges, keep),
        num_nodes=int(ids.size),
        globals=graph.globals,
    )


def k_hop(graph: Graph, node_ids: Any, k: int) -> tuple[Graph, np.ndarray]:
    """The subgraph of all nodes from which `node_ids` can be reached in at most k steps.

    Returns:
      (subgraph, ids): ids (M,) int32 are the original numbers, `node_ids` first, then by distance.

    Raises:
      GraphError: an id out of range, or k negative.
    """
    _single(graph, "k_hop")
    if k < 0:
        raise GraphError(f"k is {k}; it must be at least 0")
    frontier = check_indices("node_ids", node_ids, graph.num_nodes)
    offsets, senders = np.asarray(graph.index.row_offsets), np.asarray(graph.senders)
    seen = np.zeros(graph.num_nodes, bool)
    _, first = np.unique(frontier, return_index=True)
    frontier = frontier[np.sort(first)]
    seen[frontier] = True
    found = [frontier]
    for _ in range(k):
        starts, counts = offsets[frontier], offsets[frontier + 1] - offsets[frontier]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        reached = np.unique(senders[np.repeat(starts, counts) + within])
        frontier = reached[~seen[reached]]
        seen[frontier] = True
        found.append(frontier)
    ids = np.concatenate(found).astype(np.int32)
    return subgraph(graph, ids), ids
