"""State-space duality as a loop over time: the specification."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """Static arguments. `chunk`: steps between stored states."""

    chunk: int = 64


def state_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype of the state: that of `x`, but at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def reference(
    options: Options,
    x: jax.Array,
    log_decay: jax.Array,
    b: jax.Array,
    c: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """S_t = exp(log_decay_t) S_{t-1} + b_t^T x_t and y_t = c_t S_t.

    Args:
      x: (B, T, H, P).
      log_decay: (B, T, H).
      b, c: (B, T, G, N); H / G neighbouring heads share a group.
      initial_state: (B, H, N, P), zero if absent.
      reset: (B, T) bool; the state before such a step is zero.

    Returns:
      y (B, T, H, P) in the dtype of `x`; the final state (B, H, N, P), at least float32.
    """
    wide = state_dtype(x)
    batch, _, heads, width = x.shape
    groups, states = b.shape[2:]
    decay = jnp.exp(log_decay.astype(wide))
    if reset is not None:
        decay = jnp.where(reset[..., None], 0, decay)
    b, c = (jnp.repeat(z.astype(wide), heads // groups, axis=2) for z in (b, c))
    if initial_state is None:
        state = jnp.zeros((batch, heads, states, width), wide)
    else:
        state = initial_state.astype(wide)

    def step(state, at_t):
        x_t, decay_t, b_t, c_t = at_t
        state = decay_t[..., None, None] * state + b_t[..., None] * x_t[..., None, :]
        return state, jnp.einsum("bhn,bhnp->bhp", c_t, state)

    by_time = tuple(z.swapaxes(0, 1) for z in (x.astype(wide), decay, b, c))
    final, y = jax.lax.scan(step, state, by_time)
    return y.swapaxes(0, 1).astype(x.dtype), final
