"""Gaussian mixture convolution MoNet (Monti et al., CVPR 2017, arXiv 1611.08402) with the
pseudo-coordinates of Dwivedi et al., JMLR 24, 2023, arXiv 2003.00982.

    s_i    = (deg_i + 1)^-1/2                                    deg: number of edges that enter
    u_ij   = tanh( B [s_j ; s_i] + b )                           in R^P
    w_k(u) = exp( -1/2 sum_p (u_p - mu_kp)^2 sigma_kp^2 )
    y_i    = sum_k sum_{j -> i} w_k(u_ij) W_k x_j
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jgraph import ops
from jgraph.nn.inputs import cast, check_features, compute_dtype

Array = jax.Array


def degree_coordinates(graph: Any, num_nodes: int) -> Array:
    """[s_j ; s_i] for every edge, (E, 2) float32, constant in all parameters."""
    scale = lax.rsqrt(ops.degrees(graph, num_nodes).astype(jnp.float32) + 1.0)
    ends = ops.gather_senders(graph, scale), ops.gather_receivers(graph, scale)
    return lax.stop_gradient(jnp.stack(ends, axis=-1))


def gaussian_weights(coordinates: Array, mu: Array, inverse_sigma: Array) -> Array:
    """w_k of coordinates (E, P) for kernels mu, inverse_sigma (K, P): (E, K)."""
    scaled = (coordinates[:, None] - mu) * inverse_sigma
    return jnp.exp(-0.5 * jnp.sum(jnp.square(scaled), axis=-1))


class MoNetConv(nn.Module):
    """The layer of the module's docstring; no bias.

    Attributes:
      features: F_out.
      kernels: K.
      coordinates: P.
    """

    features: int
    kernels: int = 3
    coordinates: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, graph: Any, x: Array, *, train: bool = False) -> Array:
        """x (N, F_in) dense -> (N, features)."""
        check_features(x, "MoNetConv")
        dtype = compute_dtype(x, self.dtype)
        x, shape = cast(x, dtype), (self.kernels, self.coordinates)
        projected = nn.tanh(
            nn.Dense(self.coordinates, name="pseudo")(degree_coordinates(graph, x.shape[0]))
        )
        mu = self.param("mu", nn.initializers.normal(0.1), shape, jnp.float32)
        sigma = self.param("inverse_sigma", nn.initializers.ones, shape, jnp.float32)
        weights = gaussian_weights(projected, mu, sigma).astype(dtype)
        # Gain sqrt(2) for the relu behind the layer, as the reference has it.
        init = nn.initializers.variance_scaling(2.0, "fan_avg", "normal")
        wide = self.param("kernel", init, (x.shape[-1], self.kernels * self.features), jnp.float32)
        h = (x @ wide.astype(dtype)).reshape(x.shape[0], self.kernels, self.features)
        return ops.spmm(graph, h, weights).sum(axis=1)
