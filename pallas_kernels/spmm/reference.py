"""Aggregation over neighbours as a gather and a scatter: the specification."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """Static arguments.

    Attributes:
      reduce: "sum", "max" or "min".
      transposed: rows are gathered at the receivers and reduced at the senders.
    """

    reduce: str = "sum"
    transposed: bool = False


def reference(
    options: Options,
    x: jax.Array,
    weight: jax.Array | None,
    senders: jax.Array,
    receivers: jax.Array,
    row_offsets: jax.Array,
    col_order: jax.Array | None = None,
    col_receivers: jax.Array | None = None,
    col_offsets: jax.Array | None = None,
) -> jax.Array:
    """`out_i = reduce_{e: receivers_e = i} weight_e x[senders_e]`.

    Args:
      x: (N_senders, F), or (N_senders, H, F).
      weight: None, (E,), or (E, H) for x of H heads.
      senders, receivers: (E,) int32, sorted by receiver.
      row_offsets: (N_receivers + 1,) int32 where each receiver's edges begin.
      col_order, col_receivers, col_offsets: the edges in sender order: their numbers (E,), their
        receivers (E,), and where each sender's begin (N_senders + 1,); int32. Only the transposed
        product and gradients need them.

    Returns:
      (N_receivers, ...) in the dtype of `x`; 0 for a row without edges. Ties in a maximum share
      the gradient evenly.
    """
    sources, targets, count = senders, receivers, row_offsets.shape[0] - 1
    if options.transposed and col_offsets is not None:
        sources, targets, count = receivers, senders, col_offsets.shape[0] - 1
    rows = jnp.take(x, sources, axis=0)
    rows = rows.astype(jnp.promote_types(x.dtype, jnp.float32))
    if weight is not None:
        rows = rows * weight.reshape(weight.shape + (1,) * (rows.ndim - weight.ndim))
    if options.reduce == "sum":
        return jax.ops.segment_sum(rows, targets, count).astype(x.dtype)
    reduce = jax.ops.segment_max if options.reduce == "max" else jax.ops.segment_min
    entered = jnp.zeros(count, bool).at[targets].set(True)
    filled = entered.reshape(count, *(1,) * (x.ndim - 1))
    return jnp.where(filled, reduce(rows, targets, count), 0).astype(x.dtype)
