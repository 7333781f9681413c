"""Attention over the edges of a graph in plain jnp: the specification.

    additive   s_eh = leaky_relu(left_jh + right_ih)
    gatv2      s_eh = sum_d att_hd leaky_relu(left_jhd + right_ihd)
    dot        s_eh = scale sum_d left_jhd right_ihd

for the edges e: j -> i (and i -> i with self loops), and then

    alpha_eh = exp(s_eh) / sum_{e' into i} exp(s_e'h)        out_ihf = sum_{e into i} alpha_eh v_jhf
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

KINDS = ("additive", "gatv2", "dot")


@dataclass(frozen=True)
class Options:
    """Static arguments.

    Attributes:
      kind: "additive", "gatv2" or "dot".
      negative_slope: of the leaky_relu in (0, 1]; unused by "dot".
      scale: of the dot product; unused by the others.
      self_loops: attend to the node itself beside its edges; as many senders as receivers then.
    """

    kind: str = "additive"
    negative_slope: float = 0.2
    scale: float = 1.0
    self_loops: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(KINDS)}")


def leaky_relu(z: jax.Array, slope: float) -> jax.Array:
    """z where positive, slope z elsewhere."""
    return jnp.where(z >= 0, z, slope * z)


def logits_of(options: Options, left: jax.Array, right: jax.Array, att: Any) -> jax.Array:
    """Logits (..., H) of pairs: left, right (..., H), or (..., H, D) for "gatv2" and "dot".

    `att` is (H, D) for "gatv2", else None.
    """
    if options.kind == "additive":
        return leaky_relu(left + right, options.negative_slope)
    if options.kind == "dot":
        return options.scale * jnp.sum(left * right, -1)
    return jnp.sum(att * leaky_relu(left + right, options.negative_slope), -1)


def reference(
    options: Options,
    senders: jax.Array,
    receivers: jax.Array,
    row_offsets: jax.Array,
    col_order: jax.Array,
    col_offsets: jax.Array,
    col_receivers: jax.Array,
    left: jax.Array,
    right: jax.Array,
    att: jax.Array | None,
    values: jax.Array | None,
) -> jax.Array:
    """Attention of N receivers to M senders over E edges sorted by receiver.

    Args:
      senders, receivers: (E,) int32.
      row_offsets (N + 1,), col_order (E,), col_offsets (M + 1,), col_receivers (E,): int32, where
        each receiver's edges begin, and the edges in sender order; unused here.
      left, right: (M, H) and (N, H) scores for "additive", else (M, H, D) and (N, H, D).
      att: (H, D) for "gatv2", else None.
      values: (M, H, F); None for `left` itself ("gatv2" and "dot").

    Returns:
      (N, H, F) in the dtype of the values; 0 for a receiver that attends to nothing.
    """
    del row_offsets, col_order, col_offsets, col_receivers
    values = left if values is None else values
    dtype, count = values.dtype, right.shape[0]
    wide = jnp.promote_types(dtype, jnp.float32)
    left, right, values = left.astype(wide), right.astype(wide), values.astype(wide)
    att = None if att is None else att.astype(wide)
    if options.self_loops:
        loops = jnp.arange(count, dtype=senders.dtype)
        senders, receivers = jnp.append(senders, loops), jnp.append(receivers, loops)
    logits = logits_of(options, left[senders], right[receivers], att)
    top = jax.lax.stop_gradient(jax.ops.segment_max(logits, receivers, count))
    powers = jnp.exp(logits - top[receivers])
    total = jax.ops.segment_sum(powers, receivers, count)
    alpha = powers / total[receivers]
    return jax.ops.segment_sum(alpha[..., None] * values[senders], receivers, count).astype(dtype)
