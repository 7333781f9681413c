"""Graph isomorphism layer (Xu, Hu, Leskovec & Jegelka, ICLR 2019, arXiv 1810.00826, eq. 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph import ops
from jgraph.graph import SparseMatrix
from jgraph.nn.inputs import cast, check_features, compute_dtype, node_mask
from jgraph.nn.mlp import MLP, linear
from jgraph.nn.norm import make_norm

Array = jax.Array


def gin_sum(graph: Any, x: Any, eps: Array | float = 0.0) -> Array:
    """(1 + eps) x_i + sum_{j -> i} x_j for x (N, F)."""
    own = jnp.asarray(1.0 + eps, x.dtype) * x
    return own + ops.spmm(graph, x)


class GINConv(nn.Module):
    """MLP((1 + eps) x_i + sum_j x_j).

    The MLP begins with a linear map, which commutes with the sum, so the sum is taken at the
    narrower side; the result is the same.

    Attributes:
      features: widths of the MLP's maps, the last one is F_out.
      norm: between the maps: "none", "batch" or "layer".
      learn_eps: eps is a parameter that begins at 0; else it stays 0 (GIN-0).
      aggregate_first: None sums at the narrower side. True is of use for a first layer on constant
        dense features: with GIN-0 the sum, with a learned eps its neighbour part, does not depend
        on the parameters, so inside a scanned training loop XLA hoists it out of the loop.
      use_bias: bias of the last map.
      axis_name: mapped device axis over which batch norm shares its moments.
    """

    features: Sequence[int]
    norm: str = "batch"
    learn_eps: bool = True
    aggregate_first: bool | None = None
    activation: Callable[[Array], Array] = nn.relu
    use_bias: bool = True
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, graph: Any, x: Array | SparseMatrix, *, train: bool = False) -> Array:
        """x (N, F_in) dense or sparse -> (N, features[-1])."""
        check_features(x, "GINConv")
        if len(self.features) < 1:
            raise ValueError("features is empty; give the width of each map of the MLP")
        early = self.aggregate_first
        if isinstance(x, SparseMatrix) and early:
            raise ValueError(
                "x is a SparseMatrix, which cannot be summed before a linear map; leave "
                "aggregate_first=None or make x dense"
            )
        first, rest = self.features[0], tuple(self.features[1:])
        if early is None:
            early = not isinstance(x, SparseMatrix) and x.shape[-1] <= first
        dtype = compute_dtype(x, self.dtype)
        x = cast(x, dtype)
        eps = self.param("eps", nn.initializers.zeros, (), jnp.float32) if self.learn_eps else 0.0
        kernel = self.param(
            "kernel", nn.initializers.glorot_uniform(), (x.shape[-1], first), jnp.float32
        )
        if early:
            y = linear(gin_sum(graph, x, eps), kernel, dtype=dtype)
        else:
            y = gin_sum(graph, linear(x, kernel, dtype=dtype), eps)
        if (rest and self.norm != "batch") or (not rest and self.use_bias):
            bias = self.param("bias", nn.initializers.zeros, (first,), jnp.float32)
            y = y + bias.astype(dtype)
        if not rest:
            return y
        mask = node_mask(graph)
        norm = make_norm(self.norm, axis_name=self.axis_name, name="norm")
        y = y if norm is None else norm(y, mask=mask, train=train)
        mlp = MLP(
            rest,
            self.norm,
            activation=self.activation,
            use_bias=self.use_bias,
            dtype=dtype,
            axis_name=self.axis_name,
            name="mlp",
        )
        return mlp(self.activation(y), mask=mask, train=train)
