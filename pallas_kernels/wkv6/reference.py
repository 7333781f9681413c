"""WKV-6, step by step: the specification that every faster form is tested against."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Options:
    """Static arguments.

    Attributes:
      chunk: time steps between the states that are kept for the gradient.
    """

    chunk: int = 32

    def __post_init__(self) -> None:
        """Raises ValueError for a chunk without steps."""
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be at least 1")


def reference(
    options: Options,
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    u: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """y_t = r_t (S_{t-1} + diag(u) k_t^T v_t),  S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t.

    Args:
      r, k, log_decay: (B, T, H, K), log_decay at most 0.
      v: (B, T, H, V).
      u: (H, K) bonus of the present token.
      initial_state: (B, H, K, V).
      reset: (B, T) bool, the state before that step is zero.

    Returns:
      y (B, T, H, V) and the state after the last step (B, H, K, V).
    """
    wide = jnp.promote_types(k.dtype, jnp.float32)
    r_, k_, v_, g_, u = (x.astype(wide) for x in (r, k, v, log_decay, u))
    batch, time, heads, width = k.shape
    state = jnp.zeros((batch, heads, width, v.shape[-1]), wide)
    if initial_state is not None:
        state = initial_state.astype(wide)
    flags = jnp.zeros((batch, time), bool) if reset is None else reset

    def step(state, now):
        r_t, k_t, v_t, g_t, flag = now
        state = jnp.where(flag[:, None, None, None], 0.0, state)
        bonus = jnp.sum(r_t * u * k_t, -1, keepdims=True) * v_t
        y = jnp.sum(r_t[..., None] * state, -2) + bonus
        return jnp.exp(g_t)[..., None] * state + k_t[..., None] * v_t[..., None, :], y

    over_time = (jnp.swapaxes(x, 0, 1) for x in (r_, k_, v_, g_, flags))
    final, y = jax.lax.scan(step, state, tuple(over_time))
    return jnp.swapaxes(y, 0, 1).astype(v.dtype), final
