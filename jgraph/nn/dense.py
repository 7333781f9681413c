"""Batches of graphs as dense tensors (G, C, n, n), for networks on pairs of nodes.

Node k of graph g stands at (g, k); rows are receivers, columns are senders; everything beyond a
graph's own nodes is 0. Nets on such tensors need O(n^2) memory per channel and graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.nn.gcn import gcn_scale
from jgraph.nn.inputs import graph_mask, node_graph_ids

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseLayout:
    """Where the nodes of a batch stand.

    Attributes:
      graph_ids, places: (N,) int32, graph and position of each node; nodes that stand nowhere
        (those of padding graphs) have a position that scatters drop.
      mask: (G, n) bool, True where a node stands.
      fits: () bool, False when a graph has more than n nodes.
    """

    graph_ids: Array
    places: Array
    mask: Array
    fits: Array


def dense_layout(graph: Any, num_nodes: int, max_nodes: int) -> DenseLayout:
    """The layout of a batch with up to `max_nodes` nodes per graph (static)."""
    n_node = jnp.asarray(graph.n_node)
    shown = graph_mask(graph)
    n_node = n_node if shown is None else jnp.where(shown, n_node, 0)
    ids = node_graph_ids(graph, num_nodes)
    start = jnp.cumsum(jnp.asarray(graph.n_node)) - graph.n_node
    places = jnp.arange(num_nodes, dtype=jnp.int32) - start[ids].astype(jnp.int32)
    places = jnp.where(places < n_node[ids], places, max_nodes)
    mask = jnp.arange(max_nodes) < n_node[:, None]
    return DenseLayout(ids, places, mask, jnp.all(n_node <= max_nodes))


def dense_tensor(graph: Any, layout: DenseLayout, nodes: Array, edges: Array | None) -> Array:
    """(G, 1 + F + F_e, n, n): D^-1/2 A D^-1/2, node features on the diagonal, edge features.

    Args:
      nodes: (N, F); edges: (E, F_e) or None. Parallel edges add up.
    """
    groups, size = layout.mask.shape
    s = gcn_scale(graph, nodes.shape[0], self_loops=False).astype(nodes.dtype)
    senders, receivers = jnp.asarray(graph.senders), jnp.asarray(graph.receivers)
    columns = [(s[receivers] * s[senders])[:, None]]
    columns += [] if edges is None else [edges.astype(nodes.dtype)]
    at = (layout.graph_ids[receivers], layout.places[receivers], layout.places[senders])
    pairs = jnp.zeros((groups, size, size, 1), nodes.dtype)
    adjacency = pairs.at[at].add(columns[0], mode="drop")
    diagonal = jnp.zeros((groups, size, size, nodes.shape[1]), nodes.dtype)
    here = (layout.graph_ids, layout.places, layout.places)
    parts = [adjacency, diagonal.at[here].set(nodes, mode="drop")]
    if edges is not None:
        blank = jnp.zeros((groups, size, size, edges.shape[1]), nodes.dtype)
        parts.append(blank.at[at].add(columns[1], mode="drop"))
    return jnp.moveaxis(jnp.concatenate(parts, axis=-1), -1, 1)


def node_rows(layout: DenseLayout, dense: Array) -> Array:
    """(G, F, n) -> (N, F); 0 for nodes that stand nowhere."""
    size = layout.mask.shape[1]
    rows = jnp.swapaxes(dense, 1, 2)[layout.graph_ids, jnp.minimum(layout.places, size - 1)]
    return jnp.where((layout.places < size)[:, None], rows, 0)


def pair_mask(mask: Array) -> Array:
    """(n, n) bool of a graph's (n,) mask."""
    return mask[:, None] & mask[None, :]
