"""What layers read off their inputs: masks, graph numbers, compute dtype.

A `jraph.GraphsTuple` says nothing about padding, so its masks are None (all rows are real); use
`Graph.from_jraph(..., padded=True)` where batch norm or pooling must ignore padding.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jgraph import ops
from jgraph.graph import SparseMatrix

Array = jax.Array


def is_sorted(graph: Any) -> bool:
    """True if the edges are sorted by receiver, as those of a `Graph` are."""
    return getattr(graph, "index", None) is not None


def node_mask(graph: Any) -> Array | None:
    """(N,) bool, False for padding nodes; None when nothing is padding."""
    return graph.node_mask() if getattr(graph, "padded", False) else None


def graph_mask(graph: Any) -> Array | None:
    """(G,) bool, False for padding graphs; None when nothing is padding."""
    return graph.graph_mask() if getattr(graph, "padded", False) else None


def node_graph_ids(graph: Any, num_nodes: int) -> Array:
    """(N,) int32 number of the graph that each node belongs to, ascending."""
    ids = jnp.arange(graph.n_node.shape[-1], dtype=jnp.int32)
    return jnp.repeat(ids, jnp.asarray(graph.n_node), total_repeat_length=num_nodes)


def compute_dtype(x: Array | SparseMatrix, dtype: Any = None) -> jnp.dtype:
    """`dtype`, or when it is None float32 (float64 for float64 `x`)."""
    return jnp.dtype(jnp.promote_types(x.dtype, jnp.float32) if dtype is None else dtype)


def cast(x: Any, dtype: Any) -> Any:
    """`x`, an array or SparseMatrix, with values of `dtype`."""
    if isinstance(x, SparseMatrix):
        return x.replace(values=jnp.asarray(x.values, dtype))
    return jnp.asarray(x, dtype)


def densify(x: Array | SparseMatrix) -> Array:
    """(N, F) dense array of dense or sparse features."""
    if isinstance(x, SparseMatrix):
        return ops.matmul(x, jnp.eye(x.shape[1], dtype=x.dtype))
    return jnp.asarray(x)


def check_features(x: Any, layer: str) -> None:
    """Checks that `x` is a matrix of node features.

    Raises:
      TypeError: no features, or a pytree of several arrays.
      ValueError: not two-dimensional.
    """
    if not hasattr(x, "ndim"):
        raise TypeError(
            f"{layer} needs node features x as an (N, F) array or SparseMatrix, got "
            f"{type(x).__name__}; set graph.nodes (degrees or a one-hot will do)"
        )
    if x.ndim != 2:
        raise ValueError(
            f"{layer} needs node features x of shape (N, F), got shape {tuple(x.shape)}; "
            "reshape them, or one-hot encode node types"
        )
