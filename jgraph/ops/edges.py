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
from jgraph.ops.graph_kernels import flat_rows
from pallas_kernels import segment_reduce as segment_kernel
from pallas_kernels import spmm as spmm_kernel


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


def _sum_edges_kernel(rows, adjacency, count, transposed, *, backend):
    index, flat = adjacency.sorted_index, flat_rows(rows)
    if transposed:
        by_sender = (flat, None, index.col_order, None, index.col_offsets)
        out, _ = spmm_kernel.forward(spmm_kernel.Options(), *by_sender, backend=backend)
    else:
        by_receiver = (flat, index.row_offsets)
        out, _ = segment_kernel.forward(segment_kernel.Options(), *by_receiver, backend=backend)
    return out.reshape(count, *rows.shape[1:])


def _sum_edges_xla(rows, adjacency, count, transposed):
    ids = adjacency.senders if transposed else adjacency.receivers
    if adjacency.index is not None and transposed:
        order = adjacency.index.col_order
        rows, ids = jnp.take(rows, order, axis=0), jnp.take(ids, order)
    ordered = adjacency.index is not None
    return segment.segment_sum(rows, ids, count, indices_are_sorted=ordered, implementation="xla")


def _sum_edges_csr(rows, adjacency, count, transposed):
    index = adjacency.sorted_index
    ones = jnp.ones(index.col_order.shape, rows.dtype)
    out = csr_matmul(ones, index.col_order, index.col_offsets, flat_rows(rows))
    return out.reshape(count, *rows.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def sum_edges(
    adjacency: Adjacency,
    rows: jax.Array,
    count: int,
    transposed: bool,
    implementation: str = "auto",
) -> jax.Array:
    """Sum of edge rows (E, ...) at each receiver, or at each sender when `transposed`."""
    reason: str | None
    if adjacency.index is None:
        reason = "the graph's edges are unsorted; build it with Graph.from_edges"
    elif rows.size == 0:
        reason = f"the rows of the edges have shape {rows.shape}"
    elif transposed:
        reason = spmm_kernel.unsupported(spmm_kernel.Options(), rows, None)
    else:
        reason = segment_kernel.unsupported(segment_kernel.Options(), rows)
    usable = transposed and adjacency.index is not None and adjacency.num_edges > 0

    def form(run):
        return functools.partial(run, count=count, transposed=transposed)

    return by_platform(
        "spmm" if transposed else "segment_reduce",
        implementation,
        rows,
        adjacency,
        xla=form(_sum_edges_xla),
        csr=form(_sum_edges_csr) if usable and supports(rows.dtype) else None,
        kernel=form(_sum_edges_kernel),
        backends=(spmm_kernel if transposed else segment_kernel).BACKENDS,
        unsupported=reason,
    )


def _sum_edges_fwd(adjacency, rows, count, transposed, implementation):
    return sum_edges(adjacency, rows, count, transposed, implementation), adjacency


def _sum_edges_bwd(count, transposed, implementation, adjacency, grad):
    return None, _gather(adjacency, grad, transposed, implementation)


sum_edges.defvjp(_sum_edges_fwd, _sum_edges_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gather(adjacency, x, transposed, implementation):
    return jnp.take(x, adjacency.senders if transposed else adjacency.receivers, axis=0)


def _gather_fwd(adjacency, x, transposed, implementation):
    # An array without columns carries the number of rows to the backward pass for free.
    out = _gather(adjacency, x, transposed, implementation)
    return out, (adjacency, jnp.zeros((x.shape[0], 0), x.dtype))


def _gather_bwd(transposed, implementation, residuals, grad):
    adjacency, like = residuals
    total = sum_edges(adjacency, grad, like.shape[0], transposed, implementation)
    return None, total.astype(like.dtype)


_gather.defvjp(_gather_fwd, _gather_bwd)


def gather_senders(graph: Any, x: jax.Array, *, implementation: str = "auto") -> jax.Array:
    """`x[senders]`: (N, ...) -> (E, ...).

    Args:
      implementation: of the gradient, a sum over edges; see `jgraph.ops.dispatch`.

    Raises:
      ValueError: rows of `x` that are not the graph's senders, unknown `implementation`.
    """
    check_implementation("spmm", implementation)
    adjacency = as_adjacency(graph)
    check_rows("x", x, adjacency.num_senders, "senders")
    return _gather(adjacency, x, True, implementation)


def gather_receivers(graph: Any, x: jax.Array, *, implementation: str = "auto") -> jax.Array:
    """`x[receivers]`: (N, ...) -> (E, ...); see `gather_senders`."""
    check_implementation("segment_reduce", implementation)
    adjacency = as_adjacency(graph)
    check_rows("x", x, adjacency.num_receivers, "receivers")
    return _gather(adjacency, x, False, implementation)


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
