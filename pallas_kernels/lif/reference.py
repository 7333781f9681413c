"""Leaky integrate-and-fire neurons as a loop over time: the specification."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.lif.neuron import Options, charge, excess, settle
from pallas_kernels.lif.surrogate import step


def differentiable_step(
    options: Options, decay: jax.Array, threshold: jax.Array, before: jax.Array, current: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(potential after the spike, spike), from the potential before it and the current."""
    v = charge(options, decay, before, current)
    z = excess(options, v, threshold)
    spike = step(z, options.surrogate, options.width, options.scale)
    resetting = jax.lax.stop_gradient(spike) if options.detach_reset else spike
    return settle(options, v, resetting, threshold), spike


def reference(
    options: Options,
    current: jax.Array,
    decay: jax.Array,
    threshold: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Spikes and the last potential.

        v_t = decay w_{t-1} + gain current_t
        s_t = H(v_t - threshold), or H(v_t / threshold - 1)
        w_t = v_t (1 - s_t) | v_t - threshold s_t | v_t          for "hard" | "soft" | "none"

    Automatic differentiation of this function gives the surrogate gradient.

    Args:
      current: (B, T, D).
      decay, threshold: (D,).
      initial_state: (B, D) potential before the first step, zero if absent.
      reset: (B, T) bool, True at the first step of each packed sequence: w_{t-1} is zero there.

    Returns:
      s (B, T, D), 0 or 1, in the dtype of `current`; w after the last step (B, D), float32 or
      wider.
    """
    wide = jnp.promote_types(current.dtype, jnp.float32)
    decay, threshold = decay.astype(wide), threshold.astype(wide)
    state = jnp.zeros_like(current[:, 0], wide)
    if initial_state is not None:
        state = initial_state.astype(wide)
    if reset is None:
        reset = jnp.zeros(current.shape[:2], bool)

    def at(before, now):
        current_t, first = now
        before = jnp.where(first[:, None], 0, before)
        return differentiable_step(options, decay, threshold, before, current_t)

    by_time = (current.astype(wide).swapaxes(0, 1), reset.swapaxes(0, 1))
    final, spikes = jax.lax.scan(at, state, by_time)
    return spikes.swapaxes(0, 1).astype(current.dtype), final
