"""Batching of graphs and padding to a small set of shapes, so that nothing recompiles.

Padding follows jraph: a padding graph after the real ones takes all padding nodes and edges, the
rest are empty. Padding edges join padding nodes only, so they never touch real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jgraph.graph.adjacency import Adjacency, sort_edges
from jgraph.graph.errors import GraphError
from jgraph.graph.graph import Graph
from jgraph.graph.sparse import SparseMatrix


def _is_sparse(leaf: Any) -> bool:
    return isinstance(leaf, SparseMatrix)


def _concatenate(trees: Sequence[Any], name: str) -> Any:
    def join(*leaves: Any) -> Any:
        if _is_sparse(leaves[0]):
            import scipy.sparse

            stacked = scipy.sparse.vstack([leaf.to_scipy() for leaf in leaves])
            return SparseMatrix.from_scipy(stacked, leaves[0].dtype)
        return np.concatenate([np.asarray(leaf) for leaf in leaves])

    try:
        return jax.tree.map(join, trees[0], *trees[1:], is_leaf=_is_sparse)
    except (ValueError, TypeError) as error:
        raise GraphError(f"the graphs' {name} do not have one structure and width: {error}") from (
            error
        )


def batch(graphs: Iterable[Graph]) -> Graph:
    """Several graphs as one disconnected `Graph`; host side.

    Raises:
      GraphError: no graphs, a padded one, or features of different structure.
    """
    graphs = list(graphs)
    if not graphs:
        raise GraphError("graphs is empty: batch needs at least one graph")
    if any(g.padded for g in graphs):
        raise GraphError("graphs holds a padded graph; batch first, then pad")
    shifts = np.cumsum([0] + [g.num_nodes for g in graphs]).astype(np.int32)
    senders = np.concatenate([np.asarray(g.senders) + s for g, s in zip(graphs, shifts)])
    receivers = np.concatenate([np.asarray(g.receivers) + s for g, s in zip(graphs, shifts)])
    total = int(shifts[-1])
    adjacency, _ = sort_edges(senders, receivers, total, total)
    return Graph(
        nodes=_concatenate([g.nodes for g in graphs], "nodes"),
        edges=_concatenate([g.edges for g in graphs], "edges"),
        senders=adjacency.senders,
        receivers=adjacency.receivers,
        globals=_concatenate([g.globals for g in graphs], "globals"),
        n_node=np.concatenate([np.asarray(g.n_node) for g in graphs]),
        n_edge=np.concatenate([np.asarray(g.n_edge) for g in graphs]),
        index=adjacency.sorted_index,
    )


def unbatch(graph: Graph) -> list[Graph]:
    """The real graphs of a batch, in order; host side."""
    n_node, n_edge = np.asarray(graph.n_node), np.asarray(graph.n_edge)
    count = int(np.sum(np.asarray(graph.graph_mask())))
    node_at, edge_at = np.cumsum([0, *n_node]), np.cumsum([0, *n_edge])
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)

    def rows(tree: Any, low: int, high: int) -> Any:
        def cut(leaf: Any) -> Any:
            if _is_sparse(leaf):
                return SparseMatrix.from_scipy(leaf.to_scipy()[low:high], leaf.dtype)
            return np.asarray(leaf)[low:high]

        return jax.tree.map(cut, tree, is_leaf=_is_sparse)

    out = []
    for i in range(count):
        nodes, edges = slice(*node_at[i : i + 2]), slice(*edge_at[i : i + 2])
        out.append(
            Graph.from_edges(
                senders[edges] - nodes.start,
                receivers[edges] - nodes.start,
                nodes=rows(graph.nodes, nodes.start, nodes.stop),
                edges=rows(graph.edges, edges.start, edges.stop),
                num_nodes=int(n_node[i]),
                globals=rows(graph.globals, i, i + 1),
            )
        )
    return out


def _pad_rows(tree: Any, extra: int) -> Any:
    def grow(leaf: Any) -> np.ndarray:
        if _is_sparse(leaf):
            raise GraphError("nodes is a SparseMatrix, which pad cannot grow; make it dense first")
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.zeros((extra, *leaf.shape[1:]), leaf.dtype)])

    return jax.tree.map(grow, tree, is_leaf=_is_sparse)


def pad(graph: Graph, num_nodes: int, num_edges: int, num_graphs: int) -> Graph:
    """Pads to exactly these sizes with zero features; host side.

    Needs at least one more node and one more graph than there are. Padding edges are loops on
    the padding nodes, spread evenly so that none becomes a hub.

    Raises:
      GraphError: a size too small, or a graph padded already.
    """
    if graph.padded:
        raise GraphError("the graph is padded already")
    for name, want, have, least in (
        ("num_nodes", num_nodes, graph.num_nodes, 1),
        ("num_edges", num_edges, graph.num_edges, 0),
        ("num_graphs", num_graphs, graph.num_graphs, 1),
    ):
        if want < have + least:
            raise GraphError(f"{name} is {want}; this graph needs at least {have + least}")
    extra_nodes, extra_edges = num_nodes - graph.num_nodes, num_edges - graph.num_edges
    loops = graph.num_nodes + np.sort(np.arange(extra_edges) % extra_nodes).astype(np.int32)
    adjacency: Adjacency
    adjacency, _ = sort_edges(
        np.concatenate([np.asarray(graph.senders), loops]),
        np.concatenate([np.asarray(graph.receivers), loops]),
        num_nodes,
        num_nodes,
    )
    empty = np.zeros(num_graphs - graph.num_graphs - 1, np.int32)
    return Graph(
        nodes=_pad_rows(graph.nodes, extra_nodes),
        edges=_pad_rows(graph.edges, extra_edges),
        senders=adjacency.senders,
        receivers=adjacency.receivers,
        globals=_pad_rows(graph.globals, num_graphs - graph.num_graphs),
        n_node=np.concatenate([np.asarray(graph.n_node), [extra_nodes], empty]).astype(np.int32),
        n_edge=np.concatenate([np.asarray(graph.n_edge), [extra_edges], empty]).astype(np.int32),
        index=adjacency.sorted_index,
        padded=True,
    )


@dataclass(frozen=True)
class Buckets:
    """A few padded shapes (nodes, edges, graphs), ascending, that every batch fits into."""

    shapes: tuple[tuple[int, int, int], ...]

    @classmethod
    def fit(cls, sizes: Iterable[tuple[int, int, int]], max_buckets: int = 8) -> Buckets:
        """At most `max_buckets` geometrically spaced shapes that cover all `sizes`.

        Args:
          sizes: (nodes, edges, graphs) of the batches to come, unpadded.

        Raises:
          GraphError: no sizes, or `max_buckets` below 1.
        """
        table = np.array(list(sizes), np.int64).reshape(-1, 3)
        if table.shape[0] == 0 or max_buckets < 1:
            raise GraphError("Buckets.fit needs at least one size and max_buckets >= 1")
        table = table + np.array([1, 0, 1])
        weight = table[:, 0] + table[:, 1]
        edges = np.geomspace(weight.min(), weight.max(), max_buckets + 1)[1:]
        edges[-1] = weight.max()
        group = np.searchsorted(edges, weight)
        tops = [table[group == g].max(axis=0) for g in np.unique(group)]
        grown = np.maximum.accumulate(np.array(tops), axis=0)
        return cls(tuple((int(n), int(e), int(g)) for n, e, g in np.unique(grown, axis=0)))

    def choose(self, graph: Graph) -> tuple[int, int, int]:
        """The smallest shape that fits.

        Raises:
          GraphError: none fits.
        """
        need = (graph.num_nodes + 1, graph.num_edges, graph.num_graphs + 1)
        for shape in self.shapes:
            if all(have >= want for have, want in zip(shape, need)):
                return shape
        raise GraphError(f"no bucket of {self.shapes} fits a graph that needs {need}; refit")

    def pad(self, graph: Graph) -> Graph:
        """`graph` padded to the smallest shape that fits."""
        return pad(graph, *self.choose(graph))

    def waste(self, sizes: Iterable[tuple[int, int, int]]) -> float:
        """Share of nodes and edges that are padding over batches of these sizes, in [0, 1)."""
        real = padded = 0
        for nodes, edges, graphs in sizes:
            shape = next(s for s in self.shapes if s[0] > nodes and s[1] >= edges and s[2] > graphs)
            real += nodes + edges
            padded += shape[0] + shape[1]
        return 1.0 - real / padded if padded else 0.0
