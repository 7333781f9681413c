"""GraphSAGE layers (Hamilton, Ying & Leskovec, NeurIPS 2017, arXiv 1706.02216, algorithm 1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jgraph import ops
from jgraph.graph import SparseMatrix
from jgraph.nn.inputs import cast, check_features, compute_dtype
from jgraph.nn.mlp import Linear

Array = jax.Array


def sage_mean(
    graph: Any,
    x: Any,
    neighbour_kernel: Array,
    self_kernel: Array,
    aggregate_first: bool,
) -> Array:
    """mean_{j -> i}(x_j) W_n + x_i W_s.

    Args:
      x: (N, F_in), dense; or a SparseMatrix unless `aggregate_first`.
      neighbour_kernel, self_kernel: (F_in, F_out).
      aggregate_first: average x, then [mean, x] @ [W_n; W_s] in one product; else average x W_n.
        (One product x @ [W_n | W_s] would have to be copied apart, which takes longer.)

    Returns:
      (N, F_out); a node without edges has mean 0.
    """
    if aggregate_first:
        joined = jnp.concatenate([ops.spmm(graph, x, reduce="mean"), x], axis=-1)
        return joined @ jnp.concatenate([neighbour_kernel, self_kernel], axis=0)
    message = ops.matmul(x, neighbour_kernel)
    return ops.spmm(graph, message, reduce="mean") + ops.matmul(x, self_kernel)


def l2_normalize(x: Array) -> Array:
    """Rows of x (..., F) divided by their Euclidean norm; rows of zeros stay, with gradient 1."""
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    positive = square > 0
    factor = jnp.where(positive, lax.rsqrt(jnp.where(positive, square, 1.0)), 1.0)
    return (x * factor).astype(x.dtype)


class SAGEConv(nn.Module):
    """aggregate(x_j) W_n + x_i W_s + b, the sum form of W [x_i ; aggregate].

    Attributes:
      features: F_out.
      aggregator: "mean", or "max": elementwise maximum of relu(V x_j + c) (GraphSAGE-pool).
      normalize: divide each row of the result by its Euclidean norm.
      aggregate_first: for "mean" only. None averages at the narrower side. True is of use for a
        first layer on constant dense features: the average does not depend on the parameters, so
        inside a scanned training loop XLA hoists it out of the loop and it costs nothing.
      pool_transform: False leaves relu(V x + c) out of "max".
      pool_features: rows of V; None: F_in.
    """

    features: int
    aggregator: str = "mean"
    normalize: bool = False
    aggregate_first: bool | None = None
    pool_transform: bool = True
    pool_features: int | None = None
    use_bias: bool = True
    dtype: Any = None

    def _check(self, x: Any) -> None:
        check_features(x, "SAGEConv")
        if self.aggregator not in ("mean", "max"):
            raise ValueError(f"aggregator is {self.aggregator!r}; choose 'mean' or 'max'")
        if self.aggregator == "max" and self.aggregate_first is not None:
            raise ValueError(
                f"aggregate_first is {self.aggregate_first}, but a maximum does not commute with "
                "a linear map; leave it None for aggregator='max'"
            )
        early = self.aggregate_first or (self.aggregator == "max" and not self.pool_transform)
        if isinstance(x, SparseMatrix) and early:
            raise ValueError(
                "x is a SparseMatrix, which cannot be aggregated before a linear map; leave "
                "aggregate_first=None (and pool_transform=True) or make x dense"
            )

    @nn.compact
    def __call__(self, graph: Any, x: Array | SparseMatrix, *, train: bool = False) -> Array:
        """x (N, F_in) dense or sparse -> (N, F_out)."""
        self._check(x)
        dtype = compute_dtype(x, self.dtype)
        x, f_in = cast(x, dtype), x.shape[-1]
        init = nn.initializers.glorot_uniform()
        own = self.param("self_kernel", init, (f_in, self.features), jnp.float32).astype(dtype)
        if self.aggregator == "mean":
            kernel = self.param("neighbour_kernel", init, (f_in, self.features), jnp.float32)
            early = self.aggregate_first
            if early is None:
                early = not isinstance(x, SparseMatrix) and f_in <= self.features
            y = sage_mean(graph, x, kernel.astype(dtype), own, early)
        else:
            pooled: Any = x
            if self.pool_transform:
                pooled = Linear(self.pool_features or f_in, dtype=dtype, name="pool")(x)
                pooled = nn.relu(pooled)
            shape = (pooled.shape[-1], self.features)
            kernel = self.param("neighbour_kernel", init, shape, jnp.float32)
            pooled = ops.spmm(graph, pooled, reduce="max")
            y = pooled @ kernel.astype(dtype) + ops.matmul(x, own)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(dtype)
        return l2_normalize(y) if self.normalize else y
