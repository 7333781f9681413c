"""WKV-7, step by step: the specification that every faster form is tested against."""

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
    log_decay: jax.Array,
    k: jax.Array,
    v: jax.Array,
    a: jax.Array,
    b: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + b_t^T (a_t S_{t-1}) + k_t^T v_t,  y_t = r_t S_t.

    Args:
      r, log_decay, k, a, b: (B, T, H, K), log_decay at most 0. RWKV-7 sets a = -kappa and
        b = kappa * (in-context learning rate) with a normalised key kappa.
      v: (B, T, H, V).
      initial_state: (B, H, K, V): keys first, the transpose of the state of the official code.
      reset: (B, T) bool, the state before that step is zero.

    Returns:
      y (B, T, H, V) and the state after the last step (B, H, K, V).
    """
    wide = jnp.promote_types(k.dtype, jnp.float32)
    batch, time, heads, width = k.shape
    state = jnp.zeros((batch, heads, width, v.shape[-1]), wide)
    if initial_state is not None:
        state = initial_state.astype(wide)
    flags = jnp.zeros((batch, time), bool) if reset is None else reset

    def step(state, now):
        r_t, g_t, k_t, v_t, a_t, b_t, flag = now
        state = jnp.where(flag[:, None, None, None], 0.0, state)
        read = jnp.sum(a_t[..., None] * state, -2, keepdims=True)
        state = jnp.exp(g_t)[..., None] * state + b_t[..., None] * read
        state = state + k_t[..., None] * v_t[..., None, :]
        return state, jnp.sum(r_t[..., None] * state, -2)

    over_time = [jnp.swapaxes(x, 0, 1).astype(wide) for x in (r, log_decay, k, v, a, b)]
    final, y = jax.lax.scan(step, state, (*over_time, jnp.swapaxes(flags, 0, 1)))
    return jnp.swapaxes(y, 0, 1).astype(v.dtype), final
