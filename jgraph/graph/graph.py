"""`Graph`: jraph's fields plus a sorted index, as a frozen pytree.

    nodes (N, ...)   edges (E, ...)   senders, receivers (E,)   globals (G, ...)
    n_node (G,)      n_edge (G,)      index: CSR offsets and CSC order of the sorted edges

`nodes`, `edges` and `globals` are pytrees of arrays (or None); `nodes` may be a `SparseMatrix`.
Several graphs stand one after another, as in jraph; when `padded`, the last ones are padding.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgraph.graph import convert, transform
from jgraph.graph.adjacency import Adjacency, Array, Index, check_indices, sort_edges
from jgraph.graph.errors import GraphError
from jgraph.graph.sparse import SparseMatrix


def _is_sparse(leaf: Any) -> bool:
    return isinstance(leaf, SparseMatrix)


def check_features(name: str, tree: Any, rows: int, what: str) -> None:
    """Checks that every leaf of `tree` has `rows` rows and no NaN.

    Raises:
      GraphError: naming the field, the shape found and the fix.
    """
    for leaf in jax.tree.leaves(tree, is_leaf=_is_sparse):
        shape = leaf.shape if _is_sparse(leaf) else np.shape(leaf)
        if not shape or shape[0] != rows:
            raise GraphError(
                f"{name} has shape {tuple(shape)}, but there are {rows} {what}: "
                f"its first axis must be {rows}"
            )
        values = np.asarray(leaf.values if _is_sparse(leaf) else leaf)
        if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
            row = int(np.argwhere(np.isnan(values))[0][0])
            raise GraphError(f"{name} holds NaN (first in row {row}); impute or drop those rows")


def _describe(tree: Any) -> str:
    def leaf(x: Any) -> str:
        if _is_sparse(x):
            return repr(x)
        return f"{np.dtype(x.dtype).name}{list(x.shape)}" if hasattr(x, "dtype") else str(x)

    if tree is None:
        return "none"
    described = jax.tree.map(leaf, tree, is_leaf=_is_sparse)
    return described if isinstance(described, str) else str(described).replace("'", "")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Graph:
    """One or several graphs; see the module's docstring for the fields.

    Build it with `from_edges` or a `from_*` conversion, which validate and sort on the host;
    the constructor itself checks nothing, so that it can hold tracers. Arrays may live on the
    host (NumPy) or on a device: `jax.device_put(graph)` moves them all.
    """

    nodes: Any
    edges: Any
    senders: Array
    receivers: Array
    globals: Any
    n_node: Array
    n_edge: Array
    index: Index
    padded: bool = field(default=False, metadata={"static": True})

    # -- building ------------------------------------------------------------------------------

    @classmethod
    def from_edges(
        cls,
        senders: Any,
        receivers: Any,
        *,
        nodes: Any = None,
        edges: Any = None,
        num_nodes: int | None = None,
        globals: Any = None,
    ) -> Graph:
        """A single graph from an edge list.

        Args:
          senders, receivers: (E,) integers; an undirected graph lists both directions.
          nodes: pytree of (N, ...) features, or None.
          edges: pytree of (E, ...) features in the order of `senders`; sorted along with them.
          num_nodes: N; taken from `nodes`, else the largest index + 1.
          globals: pytree of (1, ...) features, or None.

        Raises:
          GraphError: no nodes, an index outside [0, N), rows that do not match, NaN features.
          TypeError: indices that are not integers.
        """
        leaves = jax.tree.leaves(nodes, is_leaf=_is_sparse)
        senders = check_indices("senders", senders, None)
        receivers = check_indices("receivers", receivers, None)
        if num_nodes is None:
            if leaves:
                shape = leaves[0].shape if _is_sparse(leaves[0]) else np.shape(leaves[0])
                num_nodes = int(shape[0]) if shape else 0
            else:
                num_nodes = int(max(senders.max(initial=-1), receivers.max(initial=-1))) + 1
        if num_nodes < 1:
            raise GraphError(
                f"num_nodes is {num_nodes}: a graph needs at least one node (edges may be empty)"
            )
        check_indices("senders", senders, num_nodes)
        check_indices("receivers", receivers, num_nodes)
        if senders.shape != receivers.shape:
            raise GraphError(
                f"senders and receivers must have equal length, got {senders.shape[0]} and "
                f"{receivers.shape[0]}"
            )
        check_features("nodes", nodes, num_nodes, "nodes")
        check_features("edges", edges, senders.shape[0], "edges")
        check_features("globals", globals, 1, "graphs")
        adjacency, order = sort_edges(senders, receivers, num_nodes, num_nodes)
        return cls(
            nodes=nodes,
            edges=jax.tree.map(lambda x: np.asarray(x)[order], edges),
            senders=adjacency.senders,
            receivers=adjacency.receivers,
            globals=globals,
            n_node=np.array([num_nodes], np.int32),
            n_edge=np.array([senders.shape[0]], np.int32),
            index=adjacency.sorted_index,
        )

    from_jraph = classmethod(convert.from_jraph)
    from_networkx = classmethod(convert.from_networkx)
    from_scipy = classmethod(convert.from_scipy)
    from_pyg = classmethod(convert.from_pyg)
    to_jraph = convert.to_jraph
    to_networkx = convert.to_networkx
    to_scipy = convert.to_scipy

    add_self_loops = transform.add_self_loops
    remove_self_loops = transform.remove_self_loops
    to_undirected = transform.to_undirected
    coalesce = transform.coalesce
    subgraph = transform.subgraph
    k_hop = transform.k_hop

    def replace(self, **changes: Any) -> Graph:
        """A copy with other fields; `_replace` is the name jraph code uses."""
        return dataclasses.replace(self, **changes)

    _replace = replace

    # -- sizes and masks -----------------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        """N, padding included; static."""
        return self.index.row_offsets.shape[-1] - 1

    @property
    def num_edges(self) -> int:
        """E, padding included; static."""
        return self.senders.shape[-1]

    @property
    def num_graphs(self) -> int:
        """G, padding included; static."""
        return self.n_node.shape[-1]

    @property
    def adjacency(self) -> Adjacency:
        """Senders, receivers and index without features."""
        return Adjacency(self.senders, self.receivers, self.index)

    def in_degrees(self) -> Array:
        """(N,) int32 number of edges that enter each node."""
        return self.index.row_offsets[1:] - self.index.row_offsets[:-1]

    def out_degrees(self) -> Array:
        """(N,) int32 number of edges that leave each node."""
        return self.index.col_offsets[1:] - self.index.col_offsets[:-1]

    def node_graph_ids(self) -> jax.Array:
        """(N,) int32 number of the graph that each node belongs to, ascending."""
        ids = jnp.arange(self.num_graphs, dtype=jnp.int32)
        return jnp.repeat(ids, self.n_node, total_repeat_length=self.num_nodes)

    def graph_mask(self) -> jax.Array:
        """(G,) bool, False for padding: the first padding graph holds all padding nodes."""
        ids = jnp.arange(self.num_graphs)
        if not self.padded:
            return ids >= 0
        last_filled = jnp.max(jnp.where(jnp.asarray(self.n_node) > 0, ids, 0))
        return ids < last_filled

    def node_mask(self) -> jax.Array:
        """(N,) bool, False for padding nodes."""
        real = jnp.sum(jnp.where(self.graph_mask(), self.n_node, 0))
        return jnp.arange(self.num_nodes) < real

    def edge_mask(self) -> jax.Array:
        """(E,) bool, False for padding edges."""
        real = jnp.sum(jnp.where(self.graph_mask(), self.n_edge, 0))
        return jnp.arange(self.num_edges) < real

    def validate(self) -> Graph:
        """Checks every contract of the fields on the host; returns the graph itself.

        Raises:
          GraphError: naming the field that is wrong.
        """
        n, e = self.num_nodes, self.num_edges
        senders = check_indices("senders", self.senders, n)
        receivers = check_indices("receivers", self.receivers, n)
        for name, total in (("n_node", n), ("n_edge", e)):
            counted = int(np.sum(np.asarray(getattr(self, name))))
            if counted != total:
                raise GraphError(f"{name} sums to {counted}, but the graph has {total}")
        check_features("nodes", self.nodes, n, "nodes")
        check_features("edges", self.edges, e, "edges")
        check_features("globals", self.globals, self.num_graphs, "graphs")
        want, _ = sort_edges(senders, receivers, n, n)
        stored = Adjacency(self.senders, self.receivers, self.index)
        for got, expected in zip(jax.tree.leaves(stored), jax.tree.leaves(want), strict=True):
            if not np.array_equal(np.asarray(got), expected):
                raise GraphError("index does not match the edges; rebuild with Graph.from_edges")
        return self

    def __repr__(self) -> str:
        count = f"{self.num_graphs} graphs, " if self.num_graphs != 1 else ""
        padded = ", padded" if self.padded else ""
        parts = [f"{count}{self.num_nodes} nodes, {self.num_edges} edges{padded}"]
        for name in ("nodes", "edges", "globals"):
            if getattr(self, name) is not None:
                parts.append(f"{name}={_describe(getattr(self, name))}")
        return f"Graph({'; '.join(parts)})"
