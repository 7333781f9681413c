"""Reductions of consecutive rows as a scatter over segment numbers: the specification."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """Static arguments. `reduce`: "sum", "mean", "max" or "min"."""

    reduce: str = "sum"


def ids_of(offsets: jax.Array, rows: int) -> jax.Array:
    """(rows,) int32 segment of each row; -1 before the first segment, S after the last."""
    marks = jnp.zeros(rows + 1, jnp.int32).at[offsets].add(1)
    return jnp.cumsum(marks)[:rows] - 1


def reference(
    options: Options, data: jax.Array, offsets: jax.Array, ids: jax.Array | None = None
) -> jax.Array:
    """Sum, mean, maximum or minimum of the rows of each segment.

    Args:
      data: (E, F) rows; segment s has the rows offsets[s] : offsets[s + 1].
      offsets: (S + 1,) int32, not falling.
      ids: (E,) int32 segment of each row, which saves making them from the offsets.

    Returns:
      (S, F) in the dtype of `data`; 0 for an empty segment. In the gradient of a maximum, rows
      that tie share evenly.
    """
    count = offsets.shape[0] - 1
    ids = ids_of(offsets, data.shape[0]) if ids is None else ids
    wide = data.astype(jnp.promote_types(data.dtype, jnp.float32))
    lengths = jnp.diff(offsets)[:, None]
    if options.reduce in ("sum", "mean"):
        out = jax.ops.segment_sum(wide, ids, count)
        if options.reduce == "mean":
            out = out / jnp.maximum(lengths, 1).astype(wide.dtype)
    else:
        reduce = jax.ops.segment_max if options.reduce == "max" else jax.ops.segment_min
        out = jnp.where(lengths > 0, reduce(wide, ids, count), 0)
    return out.astype(data.dtype)
