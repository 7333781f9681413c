"""Aggregation over neighbours and its companions, for graphs of every kind.

    spmm(graph, x, w)_i  = reduce_{e: receivers_e = i} w_e x[senders_e]
    sddmm(graph, a, b)_e = <a[receivers_e], b[senders_e]>
    matmul(x, w)         = x w, with x dense or sparse

N nodes, E edges, H heads, F features. See `reference.py` for the specification in plain jnp and
`dispatch.py` for the implementations.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jgraph.graph.sparse import SparseMatrix
from jgraph.ops.dispatch import check_implementation
from jgraph.ops.edges import as_adjacency, check_rows, num_receivers_of
from jgraph.ops.extremum import extremum
from jgraph.ops.sparse_product import product, sddmm_product

REDUCTIONS = ("sum", "mean", "max", "min")


def _check_weight(weight: jax.Array, x: jax.Array, edges: int) -> None:
    if weight.ndim not in (1, 2) or weight.shape[0] != edges:
        raise ValueError(
            f"weight has shape {weight.shape}; it must be ({edges},) or ({edges}, heads)"
        )
    if weight.ndim == 2 and (x.ndim < 3 or x.shape[1] != weight.shape[1]):
        raise ValueError(
            f"weight {weight.shape} has {weight.shape[1]} heads, so x must be "
            f"(N, {weight.shape[1]}, F), got {x.shape}"
        )


def spmm(
    graph: Any,
    x: jax.Array,
    weight: jax.Array | None = None,
    *,
    reduce: str = "sum",
    implementation: str = "auto",
) -> jax.Array:
    """Gathers rows at the senders, scales them, reduces them at each receiver.

    Args:
      graph: `Graph`, `Adjacency` or `jraph.GraphsTuple` (unsorted: slower, same result).
      x: (N_senders, ...) floating; (N, H, F) with per-head weights.
      weight: None, (E,) or (E, H) in the order of the graph's edges.
      reduce: "sum", "mean" (divides by the number of edges), "max" or "min".
      implementation: see `jgraph.ops.dispatch`.

    Returns:
      (N_receivers, ...) in the dtype of `x`; 0 for a node that no edge enters. Sums accumulate
      in float32 at least, in the order of edges.

    Raises:
      ValueError: shapes that do not fit, unknown `reduce` or `implementation`.
    """
    check_implementation("spmm", implementation)
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce is {reduce!r}; choose one of {', '.join(REDUCTIONS)}")
    x = jnp.asarray(x)
    adjacency = as_adjacency(graph)
    check_rows("x", x, adjacency.num_senders, "senders")
    count = num_receivers_of(graph, adjacency, x.shape[0])
    if weight is not None:
        weight = jnp.asarray(weight)
        _check_weight(weight, x, adjacency.num_edges)
    if reduce in ("max", "min"):
        return extremum(adjacency, x, weight, count, reduce == "max", implementation)
    total = product(adjacency, x, weight, count, False, implementation)
    if reduce == "sum":
        return total
    degree = degrees(adjacency, count).reshape(count, *(1,) * (x.ndim - 1))
    return (total / jnp.maximum(degree, 1).astype(total.dtype)).astype(x.dtype)


def degrees(graph: Any, num_nodes: int | None = None) -> jax.Array:
    """(N,) int32 number of edges that enter each node."""
    adjacency = as_adjacency(graph)
    if adjacency.index is not None:
        return jnp.diff(adjacency.index.row_offsets)
    if num_nodes is None:
        raise ValueError("num_nodes must be given for a graph without an index")
    return jax.ops.segment_sum(
        jnp.ones(adjacency.receivers.shape, jnp.int32), adjacency.receivers, num_nodes
    )


def sddmm(graph: Any, a: jax.Array, b: jax.Array, *, implementation: str = "auto") -> jax.Array:
    """Dot product over the last axis at the two ends of every edge.

    Args:
      a: (N_receivers, F) or (N_receivers, H, F).
      b: (N_senders, F) or (N_senders, H, F).

    Returns:
      (E,) or (E, H) in the dtype of `a`, accumulated in float32 at least.

    Raises:
      ValueError: shapes that do not fit.
    """
    check_implementation("sddmm", implementation)
    a, b = jnp.asarray(a), jnp.asarray(b)
    adjacency = as_adjacency(graph)
    check_rows("a", a, adjacency.num_receivers, "receivers")
    check_rows("b", b, adjacency.num_senders, "senders")
    if a.ndim not in (2, 3) or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"a and b must be (N, F) or (N, H, F) alike, got {a.shape} and {b.shape}")
    return sddmm_product(adjacency, a, b, implementation)


def matmul(x: jax.Array | SparseMatrix, w: jax.Array, *, implementation: str = "auto"):
    """`x @ w` for dense (N, K) or sparse x and dense w (K, F) -> (N, F).

    Raises:
      ValueError: widths that differ.
    """
    if x.shape[-1] != w.shape[0]:
        raise ValueError(f"x has {x.shape[-1]} columns, but w has {w.shape[0]} rows")
    if isinstance(x, SparseMatrix):
        return spmm(x.adjacency, w, x.values, implementation=implementation)
    return x @ w
