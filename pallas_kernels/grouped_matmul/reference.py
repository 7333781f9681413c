"""Rows in groups, each group times its own matrix, in plain jnp: the specification.

    Y[scatter_i] = scale_i X[gather_i] W[g]

for the rows i of each group g, which are offsets_g <= i < offsets_{g+1}. Rows before the first
group and after the last give 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Options:
    """Static arguments: none; the kernel's functions are called alike for all ops."""


def reference(
    options: Options,
    x: jax.Array,
    weights: jax.Array,
    group_offsets: jax.Array,
    gather: jax.Array | None,
    gather_order: jax.Array | None,
    gather_offsets: jax.Array | None,
    scatter: jax.Array | None,
    scale: jax.Array | None,
) -> jax.Array:
    """Grouped product of M rows.

    Args:
      x: (P, K) floating, with P = M unless rows are gathered.
      weights: (G, K, N) of the same dtype.
      group_offsets: (G + 1,) int32, not decreasing, within 0 and M: where groups begin.
      gather: (M,) int32 rows of x, or None for row i.
      gather_order (M,), gather_offsets (P + 1,): int32, given exactly if `gather` is: the rows i
        sorted by gather_i, and where those of each row of x begin. Only the gradient needs them.
      scatter: (M,) int32, a permutation of the rows of the result, or None for row i.
      scale: (M,) floating, or None for 1.

    Returns:
      (M, N) in the dtype of x, accumulated in float32.
    """
    del options, gather_order, gather_offsets
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows = x.astype(wide) if gather is None else x.astype(wide)[gather]
    numbers = jnp.arange(rows.shape[0])
    every = jnp.einsum("mk,gkn->gmn", rows, weights.astype(wide))
    mine = (group_offsets[:-1, None] <= numbers) & (numbers < group_offsets[1:, None])
    y = jnp.sum(jnp.where(mine[..., None], every, 0), axis=0)
    if scale is not None:
        y = y * scale.astype(wide)[:, None]
    if scatter is not None:
        y = jnp.zeros_like(y).at[scatter].set(y)
    return y.astype(x.dtype)
