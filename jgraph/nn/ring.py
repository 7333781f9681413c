"""Ring-GNN layer (Chen, Villar, Chen & Bruna, NeurIPS 2019, arXiv 1905.12560) on the 15 linear
maps from matrices to matrices that commute with every renumbering of nodes (Maron et al., ICLR
2019, arXiv 1812.09902).

    L(X)_d = sum_c sum_b theta_{c,d,b} basis_b(X_c)        sums over n nodes divided by n, totals
                                                           by n^2
    X'     = relu( s_1 (L_00(X) + diag(b_00)) + s_2 L_11(X) @ (L_10(X) + diag(b_10)) + b )

Functions take one graph, (C, n, n) with a mask (n,); `jax.vmap` gives them a batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph.nn.dense import pair_mask

Array = jax.Array
MAPS = 15


def _reductions(x: Array, mask: Array) -> tuple[Array, Array]:
    """What the maps read besides X and its transpose, x (C, n, n) being 0 outside the mask.

    Returns:
      (vectors (3, C, n): diagonal, row means, column means;
       scalars (2, C): trace / n, total / n^2)
    """
    n = jnp.maximum(jnp.sum(mask), 1).astype(x.dtype)
    diagonal = jnp.diagonal(x, axis1=1, axis2=2)
    vectors = jnp.stack([diagonal, x.sum(2) / n, x.sum(1) / n])
    scalars = jnp.stack([diagonal.sum(1) / n, x.sum((1, 2)) / n**2])
    return vectors, scalars


def equivariant_basis(x: Array, mask: Array) -> Array:
    """The 15 maps of every channel: x (C, n, n), mask (n,) -> (15, C, n, n).

    In order: on the diagonal the diagonal, trace, row sums, column sums, total (1-5); on rows the
    column sums, row sums (6, 7); on columns the column sums, row sums (8, 9); X, its transpose (10,
    11); the diagonal on rows, on columns (12, 13); trace, total everywhere (14, 15).
    """
    shown = pair_mask(mask)
    x = jnp.where(shown, x, 0)
    (diagonal, rows, columns), (trace, total) = _reductions(x, mask)
    eye = jnp.eye(x.shape[-1], dtype=x.dtype)
    on_rows = [v[:, :, None] + jnp.zeros_like(x) for v in (columns, rows)]
    on_columns = [v[:, None, :] + jnp.zeros_like(x) for v in (columns, rows)]
    everywhere = [v[:, None, None] + jnp.zeros_like(x) for v in (trace, total)]
    maps = [
        diagonal[:, :, None] * eye,
        everywhere[0] * eye,
        rows[:, :, None] * eye,
        columns[:, :, None] * eye,
        everywhere[1] * eye,
        *on_rows,
        *on_columns,
        x,
        jnp.swapaxes(x, 1, 2),
        diagonal[:, :, None] + jnp.zeros_like(x),
        diagonal[:, None, :] + jnp.zeros_like(x),
        *everywhere,
    ]
    return jnp.where(shown, jnp.stack(maps), 0)


def equivariant_linear(
    x: Array, theta: Array, mask: Array, diagonal_bias: Array | None = None
) -> Array:
    """sum_c sum_b theta[c, d, b] basis_b(x_c), without making the 15 maps.

    Only X and its transpose are mixed at full size; the other maps are vectors or scalars that
    are mixed first and spread afterwards: O(n^2 C D) with a factor of 2 in place of 15.

    Args:
      x: (C, n, n), 0 outside the mask; theta: (C, D, 15); mask: (n,) bool.
      diagonal_bias: (D,), added on the diagonal.

    Returns:
      (D, n, n), 0 outside the mask.
    """
    vectors, scalars = _reductions(x, mask)

    def vector(diagonal: int, rows: int, columns: int) -> Array:
        chosen = theta[:, :, jnp.array([diagonal, rows, columns])]
        return jnp.einsum("cdv,vcn->dn", chosen, vectors)

    def scalar(trace: int, total: int) -> Array:
        return jnp.einsum("cdv,vc->d", theta[:, :, jnp.array([trace, total])], scalars)

    y = jnp.einsum("cd,cij->dij", theta[:, :, 9], x) + jnp.einsum("cd,cij->dji", theta[:, :, 10], x)
    y = y + vector(11, 6, 5)[:, :, None] + vector(12, 8, 7)[:, None, :]
    y = y + scalar(13, 14)[:, None, None]
    on_diagonal = vector(0, 2, 3) + scalar(1, 4)[:, None]
    if diagonal_bias is not None:
        on_diagonal = on_diagonal + diagonal_bias[:, None]
    y = y + on_diagonal[:, :, None] * jnp.eye(x.shape[-1], dtype=x.dtype)
    return jnp.where(pair_mask(mask), y, 0)


def theta_init(key: Array, shape: tuple[int, int, int], dtype: Any = jnp.float32) -> Array:
    """Normal with variance 2 / (C + D), independent of the number of maps."""
    return jax.random.normal(key, shape, dtype) * (2.0 / (shape[0] + shape[1])) ** 0.5


class RingLayer(nn.Module):
    """X' of the module's docstring.

    Attributes:
      features: D.
      average_nodes: of the data set; s_2 begins at 0.5 / average_nodes, s_1 at 1.
      residual: adds a linear map of X's channels, as the networks of eight layers do.
    """

    features: int
    average_nodes: float = 20.0
    residual: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """x (G, C, n, n), 0 outside the mask (G, n) -> (G, features, n, n)."""
        dtype, width = x.dtype if self.dtype is None else self.dtype, self.features

        def parameter(name: str, init: Any, *shape: int) -> Array:
            return self.param(name, init, shape, jnp.float32).astype(dtype)

        zeros = nn.initializers.zeros
        theta = [parameter(f"theta_{i}", theta_init, x.shape[1], width, MAPS) for i in range(3)]
        diagonal = [parameter(f"diagonal_bias_{i}", zeros, width) for i in range(2)]
        bias = parameter("bias", zeros, width)
        switch = self.param(
            "switch", lambda _: jnp.array([1.0, 0.5 / self.average_nodes], jnp.float32)
        ).astype(dtype)

        def one(x: Array, mask: Array) -> Array:
            linear = equivariant_linear(x, theta[0], mask, diagonal[0])
            first = equivariant_linear(x, theta[1], mask, diagonal[1])
            second = equivariant_linear(x, theta[2], mask)
            y = switch[0] * linear + switch[1] * (second @ first) + bias[:, None, None]
            return jnp.where(pair_mask(mask), nn.relu(y), 0)

        y = jax.vmap(one)(x.astype(dtype), mask)
        if not self.residual:
            return y
        return y + ChannelMap(width, dtype, name="skip")(x, mask)


class ChannelMap(nn.Module):
    """Linear map of the channels of (G, C, n, n): a convolution of size 1x1."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """x (G, C, n, n), mask (G, n) -> (G, features, n, n), 0 outside the mask."""
        dtype = x.dtype if self.dtype is None else self.dtype
        init = nn.initializers.glorot_uniform()
        kernel = self.param("kernel", init, (x.shape[1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = jnp.einsum("cd,gcij->gdij", kernel.astype(dtype), x.astype(dtype))
        y = y + bias.astype(dtype)[:, None, None]
        return jnp.where(jax.vmap(pair_mask)(mask)[:, None], y, 0)
