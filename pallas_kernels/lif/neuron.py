"""One time step of the neuron and its gradient, elementwise: kernels and XLA both use these."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.lif.surrogate import SURROGATES

RESETS = ("hard", "soft", "none")


class Options(NamedTuple):
    """Static arguments.

    Attributes:
      after_spike: "hard" sets the potential to zero, "soft" subtracts the threshold, "none".
      surrogate, width, scale: what stands for the derivative of the step, see `surrogate`.
      relative: the step is taken of v / threshold - 1 instead of v - threshold, so that the
        surrogate's width is in units of the threshold.
      gain: factor of the current.
      detach_reset: no gradient flows through the spike into the reset.
      chunk: steps between the potentials that are kept for the backward pass.
    """

    after_spike: str = "hard"
    surrogate: str = "atan"
    width: float = 0.5
    scale: float = 1.0
    relative: bool = False
    gain: float = 1.0
    detach_reset: bool = False
    chunk: int = 32


def charge(options: Options, decay: jax.Array, before: jax.Array, current: jax.Array) -> jax.Array:
    """The potential v that is compared with the threshold."""
    return decay * before + (current if options.gain == 1.0 else options.gain * current)


def excess(options: Options, v: jax.Array, threshold: jax.Array) -> jax.Array:
    """What the step is taken of."""
    return v / threshold - 1.0 if options.relative else v - threshold


def settle(options: Options, v: jax.Array, spike: jax.Array, threshold: jax.Array) -> jax.Array:
    """The potential after the spike, which the next step decays."""
    if options.after_spike == "hard":
        return v * (1.0 - spike)
    return v - threshold * spike if options.after_spike == "soft" else v


def advance(
    options: Options, decay: jax.Array, threshold: jax.Array, before: jax.Array, current: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(v, spike, potential after it); the spike is 0 or 1 in the dtype of v."""
    v = charge(options, decay, before, current)
    spike = jnp.where(excess(options, v, threshold) > 0, 1.0, 0.0).astype(v.dtype)
    return v, spike, settle(options, v, spike, threshold)


def gradient(
    options: Options,
    threshold: jax.Array,
    v: jax.Array,
    d_spike: jax.Array,
    d_after: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Cotangents of v and of the threshold, from those of the spike and of the potential after."""
    z = excess(options, v, threshold)
    spike = jnp.where(z > 0, 1.0, 0.0).astype(v.dtype)
    dv, d_threshold = d_after, jnp.zeros_like(v)
    if options.after_spike == "hard":
        dv = d_after * (1.0 - spike)
        through = -v
    else:
        through = -threshold
    if options.after_spike == "soft":
        d_threshold = -spike * d_after
    if options.after_spike != "none" and not options.detach_reset:
        d_spike = d_spike + through * d_after
    dz = options.scale * SURROGATES[options.surrogate](z, options.width) * d_spike
    if options.relative:
        return dv + dz / threshold, d_threshold - dz * (z + 1.0) / threshold
    return dv + dz, d_threshold - dz
