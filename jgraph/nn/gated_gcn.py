"""Residual gated graph convolution (Bresson & Laurent, 2017, arXiv 1711.07553), in the form of
Dwivedi et al., "Benchmarking Graph Neural Networks", JMLR 24, 2023, arXiv 2003.00982.

    ehat_ij = D h_j + E h_i + C e_ij                             for every edge j -> i
    eta_ij  = sigmoid(ehat_ij) / (sum_j' sigmoid(ehat_ij') + 1e-6)
    y_i     = A h_i + sum_j eta_ij * B h_j
    h'_i    = h_i + relu(BN(y_i))          e'_ij = e_ij + relu(BN(ehat_ij))

Gates have one entry per feature, so arrays of E x F exist by definition. The backward pass of the
gated mean keeps one of them, ehat itself, and makes the gates again from it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph import ops
from jgraph.nn.inputs import check_features, compute_dtype, node_mask
from jgraph.nn.mlp import Linear
from jgraph.nn.norm import make_norm
from jgraph.ops.edges import as_adjacency, check_rows, num_receivers_of, sum_edges

Array = jax.Array
EPSILON = 1e-6


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _take(x: Array, ids: Array) -> Array:
    # Indices of a graph were checked when it was built; the default mode would test them again.
    return jnp.asarray(x).at[ids].get(mode="promise_in_bounds")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _gated_mean(adjacency, gates, values, count):
    return _gated_mean_fwd(adjacency, gates, values, count)[0]


def _gated_mean_fwd(adjacency, gates, values, count):
    sigma = jax.nn.sigmoid(_wide(gates))
    rows = sigma * _take(_wide(values), adjacency.senders)
    total = sum_edges(adjacency, sigma, count, False) + EPSILON
    out = sum_edges(adjacency, rows, count, False) / total
    return out.astype(values.dtype), (adjacency, gates, values, total, out)


def _gated_mean_bwd(count, residuals, grad):
    adjacency, gates, values, total, out = residuals
    # out = num / total: the gradients of num and of total are u and -u * out.
    u = _wide(grad) / total
    sigma = jax.nn.sigmoid(_wide(gates))
    u_edge = _take(u, adjacency.receivers)
    pulled = u_edge * _take(_wide(values), adjacency.senders)
    pulled = pulled - _take(u * out, adjacency.receivers)
    d_gates = sigma * (1 - sigma) * pulled
    d_values = sum_edges(adjacency, sigma * u_edge, values.shape[0], True)
    return None, d_gates.astype(gates.dtype), d_values.astype(values.dtype)


_gated_mean.defvjp(_gated_mean_fwd, _gated_mean_bwd)


def gated_mean(graph: Any, gates: Array, values: Array) -> Array:
    """sum_e sigmoid(gates_e) * values[senders_e] / (sum_e sigmoid(gates_e) + 1e-6) per receiver.

    Args:
      graph: Graph, Adjacency or jraph.GraphsTuple.
      gates: (E, F) before the sigmoid; values: (N, F).

    Returns:
      (N, F) in the dtype of values, accumulated in float32 at least; 0 for a node that no edge
      enters. The backward pass keeps gates and arrays of nodes only.

    Raises:
      ValueError: rows that are not the graph's edges or senders, or widths that differ.
    """
    adjacency = as_adjacency(graph)
    check_rows("gates", gates, adjacency.num_edges, "edges")
    check_rows("values", values, adjacency.num_senders, "senders")
    if gates.ndim != 2 or gates.shape[1:] != values.shape[1:]:
        raise ValueError(
            f"gates has shape {gates.shape} and values {values.shape}; both need the same F columns"
        )
    count = num_receivers_of(graph, adjacency, values.shape[0])
    return _gated_mean(adjacency, gates, values, count)


def edge_mask(graph: Any) -> Array | None:
    """(E,) bool, False for padding edges; None when nothing is padding."""
    return graph.edge_mask() if getattr(graph, "padded", False) else None


class GatedGCNConv(nn.Module):
    """y and ehat of the module's docstring.

    Attributes:
      features: F_out of nodes and edges.
      self_bias: bias of A, which a batch norm behind the layer would cancel.
      dtype: of the computation; parameters are float32.
    """

    features: int
    self_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(
        self, graph: Any, x: Array, edges: Array, *, train: bool = False
    ) -> tuple[Array, Array]:
        """x (N, F_in) dense, edges (E, F_e), or (1, F_e) when all edges have one state, which
        saves the product with C for every edge -> (y (N, F_out), ehat (E, F_out))."""
        check_features(x, "GatedGCNConv")
        check_features(edges, "GatedGCNConv (edges)")
        dtype = compute_dtype(x, self.dtype)

        def mapped(name: str, of: Array, bias: bool = True) -> Array:
            return Linear(self.features, bias, dtype, name=name)(of)

        own, sent = mapped("A", x, self.self_bias), mapped("B", x)
        sender, receiver = mapped("D", x), mapped("E", x)
        ends = ops.gather_senders(graph, sender) + ops.gather_receivers(graph, receiver)
        ehat = ends + mapped("C", edges)
        return own + gated_mean(graph, ehat, sent), ehat


class GatedGCNLayer(nn.Module):
    """h' and e' of the module's docstring.

    Attributes:
      features: width; a residual is added where the input has that width too.
      norm: "batch", "layer" or "none", of nodes and of edges.
      residual: whether h and e are added.
      update_edges: False gives no e' (None), as after the last layer, where nothing reads it.
      axis_name: mapped device axis over which batch norm shares its moments.
    """

    features: int
    norm: str = "batch"
    residual: bool = True
    update_edges: bool = True
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, graph: Any, x: Array, edges: Array, *, train: bool = False
    ) -> tuple[Array, Array | None]:
        """x (N, F), edges (E, F_e) or (1, F_e) -> (h' (N, features), e' (E, features) or None)."""
        conv = GatedGCNConv(self.features, self.norm != "batch", self.dtype, name="conv")
        y, ehat = conv(graph, x, edges, train=train)

        def finish(new: Array, old: Array, mask: Array | None, name: str) -> Array:
            norm = make_norm(self.norm, axis_name=self.axis_name, name=name)
            new = nn.relu(new if norm is None else norm(new, mask=mask, train=train))
            same = self.residual and old.shape[-1] == self.features
            return new + old.astype(new.dtype) if same else new

        h = finish(y, x, node_mask(graph), "node_norm")
        if not self.update_edges:
            return h, None
        return h, finish(ehat, edges, edge_mask(graph), "edge_norm")
