"""Gated linear attention as a loop over time: the specification."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """Static arguments.

    Attributes:
      scale: of the queries; 1/sqrt(K) if None.
      chunk: steps between stored states, a multiple of `sub`.
      sub: steps of a secondary block.
    """

    scale: float | None = None
    chunk: int = 64
    sub: int = 16

    def scale_of(self, keys: int) -> float:
        """The scale for keys of this width."""
        return keys**-0.5 if self.scale is None else self.scale


def state_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype of the state: that of `x`, but at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def reference(
    options: Options,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t and o_t = scale q_t S_t.

    Args:
      q, k, log_decay: (B, T, H, K).
      v: (B, T, H, V).
      initial_state: (B, H, K, V), zero if absent.
      reset: (B, T) bool; the state before such a step is zero.

    Returns:
      o (B, T, H, V) in the dtype of `v`; the final state (B, H, K, V), at least float32.
    """
    wide = state_dtype(v)
    batch, _, heads, keys = k.shape
    scale = options.scale_of(keys)
    decay = jnp.exp(log_decay.astype(wide))
    if reset is not None:
        decay = jnp.where(reset[..., None, None], 0, decay)
    if initial_state is None:
        state = jnp.zeros((batch, heads, keys, v.shape[-1]), wide)
    else:
        state = initial_state.astype(wide)

    def step(state, at_t):
        q_t, k_t, v_t, decay_t = at_t
        state = decay_t[..., None] * state + k_t[..., None] * v_t[..., None, :]
        return state, scale * jnp.einsum("bhk,bhkv->bhv", q_t, state)

    by_time = tuple(x.astype(wide).swapaxes(0, 1) for x in (q, k, v, decay))
    final, o = jax.lax.scan(step, state, by_time)
    return o.swapaxes(0, 1).astype(v.dtype), final
