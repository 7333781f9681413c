"""Dot products along edges as two gathers: the specification."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """The operation has no static arguments."""


def reference(
    options: Options,
    a: jax.Array,
    b: jax.Array,
    senders: jax.Array,
    receivers: jax.Array,
    row_offsets: jax.Array | None = None,
    col_order: jax.Array | None = None,
    col_receivers: jax.Array | None = None,
    col_offsets: jax.Array | None = None,
) -> jax.Array:
    """`out_e = <a[receivers_e], b[senders_e]>` for each head.

    Args:
      a: (N_receivers, F) or (N_receivers, H, F); b: (N_senders, ...) alike.
      senders, receivers, ...: the graph as in `spmm`; what follows them serves the gradient.

    Returns:
      (E,) or (E, H) in the dtype of `a`.
    """
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    rows = jnp.take(a, receivers, axis=0).astype(wide)
    return (rows * jnp.take(b, senders, axis=0).astype(wide)).sum(-1).astype(a.dtype)
