"""Pooling of node vectors to one vector per graph."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jgraph import ops
from jgraph.nn.inputs import graph_mask, node_graph_ids

Array = jax.Array
POOLS = ("sum", "mean", "max")


def pool(graph: Any, x: Array, reduce: str = "mean") -> Array:
    """Sum, mean or maximum of each graph's node vectors.

    Args:
      graph: Graph or jraph.GraphsTuple of G graphs.
      x: (N, F) dense.
      reduce: "sum", "mean" or "max".

    Returns:
      (G, F) in the dtype of x; 0 for graphs without nodes and for padding graphs.

    Raises:
      ValueError: an unknown `reduce`.
    """
    if reduce not in POOLS:
        raise ValueError(f"reduce is {reduce!r}; choose one of {', '.join(POOLS)}")
    segment = {"sum": ops.segment_sum, "mean": ops.segment_mean, "max": ops.segment_max}[reduce]
    count = graph.n_node.shape[-1]
    ids = node_graph_ids(graph, x.shape[0])
    pooled = segment(x, ids, count, indices_are_sorted=True)
    mask = graph_mask(graph)
    shown = jnp.asarray(graph.n_node) > 0 if mask is None else (graph.n_node > 0) & mask
    return jnp.where(shown[:, None], pooled, jnp.zeros((), pooled.dtype))


def sum_pool(graph: Any, x: Array) -> Array:
    """`pool` with reduce="sum"."""
    return pool(graph, x, "sum")


def mean_pool(graph: Any, x: Array) -> Array:
    """`pool` with reduce="mean"."""
    return pool(graph, x, "mean")


def max_pool(graph: Any, x: Array) -> Array:
    """`pool` with reduce="max"."""
    return pool(graph, x, "max")
