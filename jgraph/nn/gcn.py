"""Graph convolution of Kipf & Welling, ICLR 2017, arXiv 1609.02907, equation 2."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jgraph import ops
from jgraph.graph import SparseMatrix
from jgraph.nn.inputs import cast, check_features, compute_dtype, is_sorted
from jgraph.nn.mlp import linear

Array = jax.Array


def gcn_scale(
    graph: Any, num_nodes: int, edge_weight: Array | None = None, self_loops: bool = True
) -> Array:
    """D^-1/2 as (N,) float32, D the (weighted) in-degree, plus 1 with `self_loops`; 0 where D <= 0.

    Args:
      edge_weight: (E,), or None for weights of 1.
    """
    if edge_weight is None:
        degree = ops.degrees(graph, num_nodes).astype(jnp.float32)
    else:
        degree = ops.segment_sum(
            edge_weight.astype(jnp.float32),
            graph.receivers,
            num_nodes,
            indices_are_sorted=is_sorted(graph),
        )
    degree = degree + 1.0 if self_loops else degree
    positive = degree > 0
    return jnp.where(positive, lax.rsqrt(jnp.where(positive, degree, 1.0)), 0.0)


def gcn_propagate(
    graph: Any, x: Array, edge_weight: Array | None = None, self_loops: bool = True
) -> Array:
    """D^-1/2 (A + I) D^-1/2 x, without making the normalised edge weights.

    With s = D^-1/2 it is s * (A (s * x) + s * x): an unweighted product (or one with the weights
    as given) between two scalings of nodes. The identity is added to A as it is, so a loop that
    the graph has already counts beside it, as in the authors' code; D holds in-degrees.

    Args:
      graph: Graph or jraph.GraphsTuple.
      x: (N, F) dense.
      edge_weight: (E,) in the order of the graph's edges, or None.
      self_loops: whether I is added.

    Returns:
      (N, F) in the dtype of x. A node without edges gives x (0 without self loops).
    """
    s = gcn_scale(graph, x.shape[0], edge_weight, self_loops).astype(x.dtype)[:, None]
    scaled = s * x
    weight = None if edge_weight is None else edge_weight.astype(x.dtype)
    summed = ops.spmm(graph, scaled, weight)
    return s * (summed + scaled if self_loops else summed)


class GCNConv(nn.Module):
    """D^-1/2 (A + I) D^-1/2 x W + b.

    W comes before the propagation when that is narrower (F_in >= F_out) or x is sparse, else
    after; the result is the same.

    Attributes:
      features: F_out.
      self_loops: whether I is added to A.
      aggregate_first: None propagates at the narrower side. True is of use for a first layer on
        constant dense features: A x does not depend on the parameters, so inside a scanned
        training loop XLA hoists it out of the loop and it costs nothing.
      dtype: of the computation; parameters are float32.
    """

    features: int
    use_bias: bool = True
    self_loops: bool = True
    aggregate_first: bool | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        graph: Any,
        x: Array | SparseMatrix,
        edge_weight: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """x (N, F_in) dense or sparse, edge_weight (E,) or None -> (N, F_out)."""
        check_features(x, "GCNConv")
        kernel = self.param(
            "kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.features), jnp.float32
        )
        dtype = compute_dtype(x, self.dtype)
        early = self.aggregate_first
        if isinstance(x, SparseMatrix) and early:
            raise ValueError(
                "x is a SparseMatrix, which cannot be aggregated before a linear map; leave "
                "aggregate_first=None or make x dense"
            )
        if early is None:
            early = not isinstance(x, SparseMatrix) and x.shape[-1] < self.features
        if not early:
            y = linear(x, kernel, dtype=dtype)
            y = gcn_propagate(graph, y, edge_weight, self.self_loops)
        else:
            y = gcn_propagate(graph, cast(x, dtype), edge_weight, self.self_loops)
            y = linear(y, kernel, dtype=dtype)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(dtype)
