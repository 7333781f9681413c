"""What stands for the derivative of the step H(z) = [z > 0] in the backward pass.

Each is the slope of a smooth step from 0 to 1, so its area is one whatever the `width` w:

    sigmoid        e / (w (1 + e)^2), e = exp(-|z| / w)        slope of the logistic function of z/w
    atan           1 / (2w (1 + (pi z / 2w)^2))                slope of atan(pi z / 2w) / pi + 1/2
    triangle       max(0, 1 - |z| / w) / w
    rectangle      [|z| < w] / 2w
    fast_sigmoid   1 / (2w (1 + |z| / w)^2)                    slope of z / 2(w + |z|) + 1/2

Published forms are these times a factor: ATan with alpha = 2 (spikingjelly) is width 1/2; the
triangle gamma max(0, 1 - |z|) (IIR-SNN) is width 1 times gamma; SuperSpike's 1 / (1 + beta |z|)^2
(Zenke & Ganguli, 2018) is fast_sigmoid of width 1/beta times 2/beta.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def sigmoid(z: jax.Array, width: float) -> jax.Array:
    """e / (w (1 + e)^2) with e = exp(-|z| / w)."""
    e = jnp.exp(-jnp.abs(z) / width)
    return e / (width * (1.0 + e) * (1.0 + e))


def atan(z: jax.Array, width: float) -> jax.Array:
    """1 / (2w (1 + (pi z / 2w)^2))."""
    x = (math.pi / (2.0 * width)) * z
    return 1.0 / (2.0 * width * (1.0 + x * x))


def triangle(z: jax.Array, width: float) -> jax.Array:
    """max(0, 1 - |z| / w) / w."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(z) / width) / width


def rectangle(z: jax.Array, width: float) -> jax.Array:
    """[|z| < w] / 2w."""
    return jnp.where(jnp.abs(z) < width, 0.5 / width, 0.0).astype(z.dtype)


def fast_sigmoid(z: jax.Array, width: float) -> jax.Array:
    """1 / (2w (1 + |z| / w)^2)."""
    x = 1.0 + jnp.abs(z) / width
    return 1.0 / (2.0 * width * x * x)


SURROGATES: Mapping[str, Callable[[jax.Array, float], jax.Array]] = {
    "sigmoid": sigmoid,
    "atan": atan,
    "triangle": triangle,
    "rectangle": rectangle,
    "fast_sigmoid": fast_sigmoid,
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def step(z: jax.Array, surrogate: str, width: float, scale: float) -> jax.Array:
    """H(z) = [z > 0] in the dtype of `z`, whose derivative is `scale` times the surrogate."""
    return (z > 0).astype(z.dtype)


@step.defjvp
def _step_jvp(surrogate, width, scale, primals, tangents):
    (z,), (dz,) = primals, tangents
    slope = scale * SURROGATES[surrogate](z, width)
    return step(z, surrogate, width, scale), slope * dz
