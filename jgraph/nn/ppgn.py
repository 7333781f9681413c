"""Block of provably powerful graph networks, 3WLGNN (Maron, Ben-Hamu, Serviansky & Lipman, NeurIPS
2019, arXiv 1905.11136), on tensors (G, C, n, n).

    M(X) = relu(V_2 relu(V_1 X + c_1) + c_2)         maps of the channels of every pair
    X'   = V [X ; M_1(X) @ M_2(X)] + c               one matrix product per channel
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph.nn.dense import pair_mask
from jgraph.nn.ring import ChannelMap

Array = jax.Array


class PPGNBlock(nn.Module):
    """X' of the module's docstring.

    Attributes:
      features: channels of X' and of the MLPs.
      mlp_depth: maps in each MLP.
      residual: adds another linear map of X's channels, as the networks of eight layers do.
    """

    features: int
    mlp_depth: int = 2
    residual: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """x (G, C, n, n), 0 outside the mask (G, n) -> (G, features, n, n)."""

        def mlp(name: str) -> Array:
            h = x
            for i in range(self.mlp_depth):
                h = nn.relu(ChannelMap(self.features, self.dtype, name=f"{name}_{i}")(h, mask))
            return h

        product = mlp("left") @ mlp("right")
        joined = jnp.concatenate([x.astype(product.dtype), product], axis=1)
        y = ChannelMap(self.features, self.dtype, name="skip")(joined, mask)
        if self.residual:
            y = y + ChannelMap(self.features, self.dtype, name="residual")(x, mask)
        return y


def diagonal_and_rest(x: Array, mask: Array) -> Array:
    """Largest entry on the diagonal and off it: x (G, C, n, n), mask (G, n) -> (G, 2 C).

    0 for a graph without nodes, and off the diagonal for a graph of one node.
    """
    pairs = jax.vmap(pair_mask)(mask)[:, None]
    eye = jnp.eye(x.shape[-1], dtype=bool)
    largest = [jnp.where(pairs & side, x, -jnp.inf).max((2, 3)) for side in (eye, ~eye)]
    joined = jnp.concatenate(largest, axis=1)
    return jnp.where(jnp.isfinite(joined), joined, 0).astype(x.dtype)
