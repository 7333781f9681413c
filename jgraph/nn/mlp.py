"""Linear maps and multilayer perceptrons over dense or sparse rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph import ops
from jgraph.graph import SparseMatrix
from jgraph.nn.dropout import Dropout
from jgraph.nn.inputs import cast, compute_dtype
from jgraph.nn.norm import make_norm

Array = jax.Array


def linear(
    x: Array | SparseMatrix, kernel: Array, bias: Array | None = None, dtype: Any = None
) -> Array:
    """x W + b.

    Args:
      x: (N, K) dense or sparse; kernel: (K, F); bias: (F,) or None.
      dtype: of the computation and result; None: float32 (float64 for float64 x).

    Returns:
      (N, F).
    """
    dtype = compute_dtype(x, dtype)
    y = ops.matmul(cast(x, dtype), kernel.astype(dtype))
    return y if bias is None else y + bias.astype(dtype)


class Linear(nn.Module):
    """`linear` with Glorot-uniform kernel and zero bias, both float32."""

    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array | SparseMatrix) -> Array:
        """x (N, K) -> (N, features)."""
        kernel = self.param(
            "kernel",
            nn.initializers.glorot_uniform(),
            (x.shape[-1], self.features),
            jnp.float32,
        )
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return linear(x, kernel, bias, self.dtype)


class MLP(nn.Module):
    """Linear maps with norm, activation and dropout between them; the last map stands alone.

    Attributes:
      features: width after each map.
      norm: "none", "batch" or "layer", after every map but the last. A map before batch norm has
        no bias, which the norm would cancel.
      dropout: rate after every activation.
      use_bias: bias of the last map.
      axis_name: mapped device axis over which batch norm shares its moments.
    """

    features: Sequence[int]
    norm: str = "none"
    dropout: float = 0.0
    activation: Callable[[Array], Array] = nn.relu
    use_bias: bool = True
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Array | SparseMatrix, *, mask: Array | None = None, train: bool = False
    ) -> Array:
        """x (N, K), mask (N,) bool for batch norm or None -> (N, features[-1])."""
        for i, width in enumerate(self.features[:-1]):
            x = Linear(width, self.norm != "batch", self.dtype, name=f"linear_{i}")(x)
            norm = make_norm(self.norm, axis_name=self.axis_name, name=f"norm_{i}")
            x = x if norm is None else norm(x, mask=mask, train=train)
            x = Dropout(self.dropout)(self.activation(x), train=train)
        last = len(self.features) - 1
        return Linear(self.features[-1], self.use_bias, self.dtype, name=f"linear_{last}")(x)
