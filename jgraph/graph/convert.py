"""Conversions between `Graph` and jraph, networkx, scipy.sparse and PyG `Data`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jgraph.graph.adjacency import check_indices, sort_edges
from jgraph.graph.errors import GraphError

if TYPE_CHECKING:
    import jraph

    from jgraph.graph.graph import Graph


def from_jraph(cls: type[Graph], graphs: jraph.GraphsTuple, *, padded: bool = False) -> Graph:
    """From a `jraph.GraphsTuple`; edges are sorted, also across the graphs of a batch.

    Args:
      padded: True if the tuple came from `jraph.pad_with_graphs`.

    Raises:
      GraphError: fields that do not fit together.
    """
    n_node, n_edge = np.asarray(graphs.n_node), np.asarray(graphs.n_edge)
    num_nodes = int(n_node.sum())
    if num_nodes < 1:
        raise GraphError("graphs.n_node sums to 0: a graph needs at least one node")
    senders = check_indices("graphs.senders", graphs.senders, num_nodes)
    receivers = check_indices("graphs.receivers", graphs.receivers, num_nodes)
    if senders.shape != receivers.shape:
        raise GraphError(
            f"graphs.senders has {senders.size} edges and graphs.receivers {receivers.size}"
        )
    adjacency, order = sort_edges(senders, receivers, num_nodes, num_nodes)
    return cls(
        nodes=graphs.nodes,
        edges=jax.tree.map(lambda x: np.asarray(x)[order], graphs.edges),
        senders=adjacency.senders,
        receivers=adjacency.receivers,
        globals=graphs.globals,
        n_node=n_node.astype(np.int32),
        n_edge=n_edge.astype(np.int32),
        index=adjacency.sorted_index,
        padded=padded,
    ).validate()


def to_jraph(graph: Graph) -> jraph.GraphsTuple:
    """As a `jraph.GraphsTuple` (the index is dropped)."""
    import jraph

    return jraph.GraphsTuple(
        nodes=graph.nodes,
        edges=graph.edges,
        senders=graph.senders,
        receivers=graph.receivers,
        globals=graph.globals,
        n_node=graph.n_node,
        n_edge=graph.n_edge,
    )


def from_networkx(
    cls: type[Graph],
    graph: Any,
    *,
    node_features: str | None = None,
    edge_features: str | None = None,
) -> Graph:
    """From a networkx graph; nodes are numbered in its iteration order.

    Args:
      graph: Graph, DiGraph or a multigraph; undirected edges become two directed ones.
      node_features, edge_features: names of attributes to stack into arrays.

    Raises:
      GraphError: no nodes, or an attribute that some node or edge lacks.
    """
    number = {node: i for i, node in enumerate(graph.nodes)}
    pairs = list(graph.edges(data=True))
    if not graph.is_directed():
        pairs += [(b, a, data) for a, b, data in pairs if a != b]

    def stack(name: str | None, records: list[tuple[Any, dict]], what: str) -> Any:
        if name is None:
            return None
        lacking = [where for where, data in records if name not in data]
        if lacking:
            raise GraphError(f"{what} {lacking[0]!r} has no attribute {name!r}")
        return np.stack([np.asarray(data[name]) for _, data in records]) if records else None

    return cls.from_edges(
        np.array([number[a] for a, _, _ in pairs], np.int32),
        np.array([number[b] for _, b, _ in pairs], np.int32),
        nodes=stack(node_features, list(graph.nodes(data=True)), "node"),
        edges=stack(edge_features, [((a, b), data) for a, b, data in pairs], "edge"),
        num_nodes=len(number),
    )


def to_networkx(graph: Graph) -> Any:
    """As a `networkx.MultiDiGraph` with attributes "x" on nodes and edges where arrays exist."""
    import networkx

    out = networkx.MultiDiGraph()
    out.add_nodes_from(range(graph.num_nodes))
    if hasattr(graph.nodes, "ndim") and not hasattr(graph.nodes, "to_scipy"):
        for i, row in enumerate(np.asarray(graph.nodes)):
            out.nodes[i]["x"] = row
    senders, receivers = np.asarray(graph.senders).tolist(), np.asarray(graph.receivers).tolist()
    if hasattr(graph.edges, "ndim"):
        rows = np.asarray(graph.edges)
        out.add_edges_from((s, r, {"x": x}) for s, r, x in zip(senders, receivers, rows))
    else:
        out.add_edges_from(zip(senders, receivers))
    return out


def from_scipy(cls: type[Graph], matrix: Any, *, nodes: Any = None) -> Graph:
    """From a square scipy.sparse adjacency: entry (i, j) is an edge from j to i.

    The values become `edges` (E,), unless all are 1.

    Raises:
      GraphError: the matrix is not square.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise GraphError(f"matrix has shape {matrix.shape}; an adjacency must be square")
    coo = matrix.tocoo()
    weights = None if np.all(coo.data == 1) else np.asarray(coo.data)
    return cls.from_edges(
        coo.col, coo.row, nodes=nodes, edges=weights, num_nodes=int(matrix.shape[0])
    )


def to_scipy(graph: Graph, weights: Any = None) -> Any:
    """As a scipy CSR matrix A with A[receiver, sender] = weight (1 by default)."""
    import scipy.sparse

    values = np.ones(graph.num_edges, np.float32) if weights is None else np.asarray(weights)
    return scipy.sparse.csr_matrix(
        (values, np.asarray(graph.senders), np.asarray(graph.index.row_offsets)),
        shape=(graph.num_nodes, graph.num_nodes),
    )


def from_pyg(cls: type[Graph], data: Any) -> Graph:
    """From a PyG `Data`-like object: `edge_index` (2, E), optional `x`, `edge_attr`, `num_nodes`.

    Only attributes are read, so torch need not be installed.

    Raises:
      GraphError: `edge_index` is missing or not (2, E).
    """

    def array(name: str) -> np.ndarray | None:
        value = getattr(data, name, None)
        if value is None:
            return None
        value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        return np.asarray(value)

    edge_index = array("edge_index")
    if edge_index is None or edge_index.ndim != 2 or edge_index.shape[0] != 2:
        found = None if edge_index is None else edge_index.shape
        raise GraphError(f"data.edge_index must have shape (2, E), got {found}")
    num_nodes = getattr(data, "num_nodes", None)
    return cls.from_edges(
        edge_index[0],
        edge_index[1],
        nodes=array("x"),
        edges=array("edge_attr"),
        num_nodes=None if num_nodes is None else int(num_nodes),
    )
