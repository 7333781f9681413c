"""Features propagated over several hops before any parameter sees them.

    A_hat   = D^(r-1) (A + I) D^(-r)          D_i = 1 + (weighted) in-degree of i
    X^(k)   = A_hat^k X                       k = 0, ..., K                       (K + 1, N, F)
    X^(inf) = lim A_hat^k X:   x_i = D_i^r  sum_j D_j^(1-r) x_j / sum_j D_j
              with both sums over the connected component of i                    (N, F)

r = 1/2 is GCN's symmetric rule, r = 0 averages neighbours, r = 1 spreads a node's features evenly.
The ground floor of decoupled networks (SGC, SIGN, GAMLP, DGMLP, NAFS), which compute this once.
Sparse features (SparseMatrix) are made dense. Padding nodes stay among themselves.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jgraph import ops
from jgraph.graph import SparseMatrix
from jgraph.nn.inputs import check_features, densify, is_sorted

Array = jax.Array


def _degree(graph: Any, nodes: int, edge_weight: Array | None) -> Array:
    """D (N,) float32."""
    if edge_weight is None:
        return 1.0 + ops.degrees(graph, nodes).astype(jnp.float32)
    return 1.0 + ops.segment_sum(
        edge_weight.astype(jnp.float32),
        graph.receivers,
        nodes,
        indices_are_sorted=is_sorted(graph),
    )


def propagate(graph: Any, x: Array, r: float = 0.5, edge_weight: Array | None = None) -> Array:
    """A_hat x for x (N, F), without making normalised edge weights.

    Args:
      graph: Graph or jraph.GraphsTuple; the identity is added beside loops that it already has.
      r: exponent of the normalisation, in [0, 1].
      edge_weight: (E,) non-negative, None for ones.

    Returns:
      (N, F) in the dtype of x; a node without edges keeps its row.
    """
    degree = _degree(graph, x.shape[0], edge_weight)
    inner = (degree**-r).astype(x.dtype)[:, None] * x
    weight = None if edge_weight is None else edge_weight.astype(x.dtype)
    return (degree ** (r - 1)).astype(x.dtype)[:, None] * (ops.spmm(graph, inner, weight) + inner)


@functools.partial(jax.jit, static_argnames=("hops", "r"))
def hop_features(
    graph: Any,
    x: Array | SparseMatrix,
    hops: int,
    r: float = 0.5,
    edge_weight: Array | None = None,
) -> Array:
    """X^(0), ..., X^(hops) for x (N, F): (hops + 1, N, F).

    Raises:
      TypeError, ValueError: x is no matrix, or hops is negative.
    """
    check_features(x, "hop_features")
    if hops < 0:
        raise ValueError(f"hops is {hops}; it must be at least 0")
    first = densify(x)

    def step(h: Array, _: None) -> tuple[Array, Array]:
        h = propagate(graph, h, r, edge_weight)
        return h, h

    _, later = lax.scan(step, first, None, length=hops)
    return jnp.concatenate([first[None], later])


@functools.partial(jax.jit, static_argnames="num_nodes")
def components(graph: Any, num_nodes: int) -> Array:
    """(N,) int32 the smallest node number in the connected component of each node.

    Edges count in both directions. Labels travel along edges and are then followed to their own
    labels, so the number of rounds grows with the logarithm of the diameter, not with it.
    """
    senders, receivers = jnp.asarray(graph.senders), jnp.asarray(graph.receivers)

    def changes(state: tuple[Array, Array]) -> Array:
        return state[1]

    def round_(state: tuple[Array, Array]) -> tuple[Array, Array]:
        before, _ = state
        near = before.at[receivers].min(before[senders]).at[senders].min(before[receivers])
        # The old root learns of the smaller neighbour too, and with it all that point to the root.
        label = near.at[before].min(near)
        label = label[label]
        return label, jnp.any(label != before)

    start = jnp.arange(num_nodes, dtype=jnp.int32)
    return lax.while_loop(changes, round_, (start, jnp.asarray(True)))[0]


@functools.partial(jax.jit, static_argnames="r")
def stationary_features(
    graph: Any,
    x: Array | SparseMatrix,
    r: float = 0.5,
    edge_weight: Array | None = None,
) -> Array:
    """X^(inf), to which X^(k) tends, in closed form: O(N F + E log N).

    Args:
      graph: undirected, that is with every edge in both directions.
      x: (N, F); r, edge_weight: as in `propagate`; weights equal in both directions and positive.

    Returns:
      (N, F) in the dtype of x.
    """
    check_features(x, "stationary_features")
    x = densify(x)
    nodes = x.shape[0]
    degree, label = _degree(graph, nodes, edge_weight), components(graph, nodes)
    total = ops.segment_sum(degree, label, nodes)
    inner = (degree ** (1 - r))[:, None] * x.astype(jnp.float32)
    mean = ops.segment_sum(inner, label, nodes) / jnp.maximum(total, 1)[:, None]
    return ((degree**r)[:, None] * mean[label]).astype(x.dtype)
