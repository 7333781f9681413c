"""The specification of the graph ops in plain jnp: gather, scale, scatter; differentiable as is."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jgraph.ops import segment

_REDUCE = {
    "sum": segment.segment_sum,
    "mean": segment.segment_mean,
    "max": segment.segment_max,
    "min": segment.segment_min,
}


def messages(x: jax.Array, senders: jax.Array, weight: jax.Array | None) -> jax.Array:
    """`weight_e * x[senders_e]`: x (N, ...), weight None | (E,) | (E, H) -> (E, ...)."""
    rows = jnp.take(x, senders, axis=0)
    if weight is None:
        return rows
    scale = weight.reshape(weight.shape + (1,) * (rows.ndim - weight.ndim))
    return (rows * scale).astype(x.dtype)


def spmm(senders, receivers, num_receivers, x, weight=None, reduce="sum"):
    """`out_i = reduce_{e: receivers_e = i} weight_e x[senders_e]` -> (num_receivers, ...)."""
    return _REDUCE[reduce](messages(x, senders, weight), receivers, num_receivers)


def sddmm(senders, receivers, a, b):
    """`sum_f a[receivers_e, ..., f] b[senders_e, ..., f]` -> (E, ...)."""
    product = jnp.take(a, receivers, axis=0).astype(jnp.float32) * jnp.take(b, senders, axis=0)
    return product.sum(-1).astype(a.dtype)


def edge_softmax(receivers, num_receivers, logits):
    """Softmax over the edges that enter each receiver: logits (E, ...) -> (E, ...)."""
    shift = jnp.take(segment.segment_max(logits, receivers, num_receivers), receivers, axis=0)
    powers = jnp.exp(logits - jax.lax.stop_gradient(shift))
    total = segment.segment_sum(powers, receivers, num_receivers)
    return powers / jnp.take(total, receivers, axis=0)
