"""h_t = a_t h_{t-1} + x_t as a loop over time: the specification."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """Static arguments. `reverse`: run from the last step to the first."""

    reverse: bool = False


def state_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype of the state: that of `x`, but at least 32 bits per real number."""
    return jnp.promote_types(x.dtype, jnp.float32)


def cut(options: Options, reset: jax.Array) -> jax.Array:
    """(B, T) bool: whether no state enters the step, from the first steps of packed sequences.

    In reverse it is the last step of a sequence that no state enters.
    """
    if not options.reverse:
        return reset
    return jnp.pad(reset[:, 1:], ((0, 0), (0, 1)))


def reference(
    options: Options,
    a: jax.Array,
    x: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """All states and the last one.

    Args:
      a: (B, T, D) factors, real or complex.
      x: (B, T, D) inputs, of the same kind.
      initial_state: (B, D), zero if absent. It enters step T - 1 in reverse.
      reset: (B, T) bool, True at the first step of each packed sequence.

    Returns:
      h (B, T, D) in the dtype of `x`; the state after the last step computed, (B, D), with at
      least 32 bits per real number.
    """
    wide = state_dtype(x)
    factors = a.astype(wide)
    if reset is not None:
        factors = jnp.where(cut(options, reset)[..., None], 0, factors)
    if initial_state is None:
        state = jnp.zeros_like(x[:, 0], wide)
    else:
        state = initial_state.astype(wide)

    def step(state, at_t):
        a_t, x_t = at_t
        state = a_t * state + x_t
        return state, state

    by_time = (factors.swapaxes(0, 1), x.astype(wide).swapaxes(0, 1))
    final, h = jax.lax.scan(step, state, by_time, reverse=options.reverse)
    return h.swapaxes(0, 1).astype(x.dtype), final
