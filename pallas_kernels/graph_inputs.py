"""Synthetic sorted graphs for the specs of the graph kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Index(NamedTuple):
    """Edges sorted by receiver, and the way to sender order; all int32.

    Attributes:
      senders, receivers: (E,).
      row_offsets: (N + 1,) where each receiver's edges begin.
      col_order: (E,) edge numbers in sender order; col_receivers: (E,) their receivers.
      col_offsets: (N + 1,) where each sender's edges begin in that order.
    """

    senders: Any
    receivers: Any
    row_offsets: Any
    col_order: Any
    col_receivers: Any
    col_offsets: Any


def index_shapes(nodes: int, edges: int) -> Index:
    """The shapes of `random_index`."""
    by_edge = jax.ShapeDtypeStruct((edges,), jnp.dtype(jnp.int32))
    by_node = jax.ShapeDtypeStruct((nodes + 1,), jnp.dtype(jnp.int32))
    return Index(by_edge, by_edge, by_node, by_edge, by_edge, by_node)


def _offsets(ids: np.ndarray, nodes: int) -> np.ndarray:
    offsets = np.zeros(nodes + 1, np.int32)
    np.cumsum(np.bincount(ids, minlength=nodes), out=offsets[1:])
    return offsets


def random_ids(rng: np.random.Generator, nodes: int, edges: int, *, hub: bool) -> np.ndarray:
    """(E,) int32 with long-tailed counts, a fifth of the nodes without any.

    Args:
      hub: one node has half of all edges.
    """
    used = max(nodes - nodes // 5, 1)
    spread = rng.permutation(nodes)[:used]
    ids = spread[(used * rng.random(edges) ** 2).astype(np.int64)]
    if hub:
        ids[: edges // 2] = spread[used // 2]
    return ids.astype(np.int32)


def random_index(seed: int, nodes: int, edges: int, *, hub: bool = False) -> Index:
    """A graph whose in-degrees and out-degrees have long tails, in arrays of NumPy."""
    rng = np.random.default_rng(seed)
    receivers = np.sort(random_ids(rng, nodes, edges, hub=hub))
    senders = rng.permutation(random_ids(rng, nodes, edges, hub=hub))
    order = np.argsort(senders, kind="stable").astype(np.int32)
    return Index(
        senders,
        receivers,
        _offsets(receivers, nodes),
        order,
        receivers[order],
        _offsets(senders, nodes),
    )
