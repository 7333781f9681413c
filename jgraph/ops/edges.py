"""Rows at the two ends of every edge, with gradients that sum in sorted order.

gather_senders(x)_e   = x[senders_e]       gradient: sum over each sender's edges (CSC)
gather_receivers(x)_e = x[receivers_e]     gradient: sum over each receiver's edges (CSR)
edge_softmax(l)_e     = softmax of l over the edges that share e's receiver
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.graph.adjacency import Adjacency
from jgraph.ops import segment
from jgraph.ops.csr import csr_matmul, supports
from jgraph.ops.dispatch import by_platform, check_implementation


def as_adjacency(graph: Any) -> Adjacency:
    """The adjacency of a `Graph`, `Adjacency` or `jraph.GraphsTuple` (unsorted).

    Raises:
      TypeError: something else.
    """
    if isinstance(graph, Adjacency):
        return graph
    adjacency = getattr(graph, "adjacency", None)
    if isinstance(adjacency, Adjacency):
        return adjacency
    if hasattr(graph, "senders") and hasattr(graph, "receivers"):
        return Adjacency(jnp.asarray(graph.senders), jnp.asarray(graph.receivers))
    raise TypeError(
        f"graph must be a Graph, an Adjacency or a jraph.GraphsTuple, got {type(graph).__name__}"
    )


def num_receivers_of(graph: Any, adjacency: Adjacency, rows: int) -> int:
    """How many receivers there are: from the index, else as many as `rows` (nodes of a tuple)."""
    return rows if adjacency.num_receivers is None else adjacency.num_receivers


def check_rows(name: str, array: jax.Array, rows: int | None, what: str) -> None:
    """Raises ValueError unless `array` has `rows` rows."""
    if array.ndim < 1 or (rows is not None and array.shape[0] != rows):
        raise ValueError(f"{name} has shape {array.shape}, but the graph has {rows} {what}")


def _flat(rows: jax.Array) -> jax.Array:
    return rows.reshape(rows.shape[0], -1)


def sum_edges(adjacency: Adjacency, rows: jax.Array, count: int, transposed: bool) -> jax.Array:
    """Sum of edge rows (E, ...) at each receiver, or at each sender when `transposed`."""
    index = adjacency.index
    ids = adjacency.senders if transposed else adjacency.receivers
    if index is None or adjacency.num_edges == 0:
        return segment.segment_sum(rows, ids, count)
    if not transposed:
        return segment.segment_sum(rows, ids, count, indices_are_sorted=True)

    def xla(rows, ids, order, offsets):
        return segment.segment_sum(
            jnp.take(rows, order, axis=0), jnp.take(ids, order), count, indices_are_sorted=True
        )

    def csr(rows, ids, order, offsets):
        ones = jnp.ones(order.shape, rows.dtype)
        return csr_matmul(ones, order, offsets, _flat(rows)).reshape(count, *rows.shape[1:])

    return by_platform(
        "sum_edges",
        "auto",
        rows,
        ids,
        index.col_order,
        index.col_offsets,
        xla=xla,
        csr=csr if supports(rows.dtype) else None,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(adjacency, x, transposed):
    return jnp.take(x, adjacency.senders if transposed else adjacency.receivers, axis=0)


def _gather_fwd(adjacency, x, transposed):
    # An array without columns carries the number of rows to the backward pass for free.
    return _gather(adjacency, x, transposed), (adjacency, jnp.zeros((x.shape[0], 0), x.dtype))


def _gather_bwd(transposed, residuals, grad):
    adjacency, like = residuals
    return None, sum_edges(adjacency, grad, like.shape[0], transposed).astype(like.dtype)


_gather.defvjp(_gather_fwd, _gather_bwd)


def gather_senders(graph: Any, x: jax.Array) -> jax.Array:
    """`x[senders]`: (N, ...) -> (E, ...).

    Raises:
      ValueError: rows of `x` that are not the graph's senders.
    """
    adjacency = as_adjacency(graph)
    check_rows("x", x, adjacency.num_senders, "senders")
    return _gather(adjacency, x, True)


def gather_receivers(graph: Any, x: jax.Array) -> jax.Array:
    """`x[receivers]`: (N, ...) -> (E, ...).

    Raises:
      ValueError: rows of `x` that are not the graph's receivers.
    """
    adjacency = as_adjacency(graph)
    check_rows("x", x, adjacency.num_receivers, "receivers")
    return _gather(adjacency, x, False)


def edge_softmax(
    graph: Any,
    logits: jax.Array,
    *,
    num_nodes: int | None = None,
    where: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Softmax over the edges that enter each receiver: logits (E, ...) -> (E, ...).

    Args:
      num_nodes: needed only for a `jraph.GraphsTuple` without nodes.
      where: optional (E,) bool; masked edges get probability 0.

    Raises:
      ValueError: rows that are not E, or a graph whose number of nodes is unknown.
    """
    check_implementation("edge_softmax", implementation)
    adjacency = as_adjacency(graph)
    check_rows("logits", logits, adjacency.num_edges, "edges")
    count = adjacency.num_receivers or num_nodes
    if count is None:
        leaves = jax.tree.leaves(getattr(graph, "nodes", None))
        if not leaves:
            raise ValueError("num_nodes must be given for a graph without index and nodes")
        count = leaves[0].shape[0]
    return segment.segment_softmax(
        logits,
        adjacency.receivers,
        count,
        where=where,
        indices_are_sorted=adjacency.index is not None,
    )
