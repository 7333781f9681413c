"""WKV-4, step by step: the specification that every faster form is tested against."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pallas_kernels.wkv4.steps import EMPTY, cleared, read, write


@dataclass(frozen=True)
class Options:
    """Static arguments.

    Attributes:
      chunk: time steps between the states that are kept for the gradient.
    """

    chunk: int = 16

    def __post_init__(self) -> None:
        """Raises ValueError for a chunk without steps."""
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be at least 1")


def empty_state(batch: int, channels: int, dtype) -> jax.Array:
    """(3, B, C): p = q = 0 and the lowest exponent."""
    values = jnp.asarray([0.0, 0.0, EMPTY], dtype)
    return jnp.broadcast_to(values[:, None, None], (3, batch, channels))


def reference(
    options: Options,
    k: jax.Array,
    v: jax.Array,
    w: jax.Array,
    u: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """y_t = (sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (the same with v = 1).

    Args:
      k, v: (B, T, C).
      w, u: (C,) logarithm of the decay per step, below 0, and bonus of the present token.
      initial_state: (3, B, C) p, q, o: e^o p is the numerator's past, e^o q the denominator's.
      reset: (B, T) bool, the state before that step is empty.

    Returns:
      y (B, T, C) and the state after the last step (3, B, C). Its exponent o is a constant to
      differentiation, which leaves the gradient of whatever depends on e^o p and e^o q exact.
    """
    wide = jnp.promote_types(k.dtype, jnp.float32)
    k_, v_, w, u = (x.astype(wide) for x in (k, v, w, u))
    batch, time, channels = k.shape
    state = empty_state(batch, channels, wide) if initial_state is None else initial_state
    flags = jnp.zeros((batch, time), bool) if reset is None else reset

    def step(state, now):
        k_t, v_t, flag = now
        state = cleared(flag[:, None], state)
        return write(state, k_t, v_t, w), read(state, k_t, v_t, u)[0]

    over_time = (jnp.swapaxes(x, 0, 1) for x in (k_, v_, flags))
    final, y = jax.lax.scan(step, tuple(state.astype(wide)), tuple(over_time))
    return jnp.swapaxes(y, 0, 1).astype(k.dtype), jnp.stack(final)
