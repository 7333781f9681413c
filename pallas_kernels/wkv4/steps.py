"""One time step of WKV-4 forwards and backwards, elementwise: what every form of the op repeats.

The state (p, q, o) stands for a weighted sum of values e^o p and a sum of weights e^o q; o is the
largest exponent met so far, so that no exponential here has a positive argument. The cotangent
of the state is kept the same way, (a, b, m) for e^m a and e^m b, with a maximum m of its own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

EMPTY = -1e38
"""The exponent of a state that holds nothing: finite, so that differences stay finite."""

Triple = tuple[Any, Any, Any]


def cleared(flag: jax.Array, state: Triple) -> Triple:
    """`state`, emptied where `flag` is set."""
    p, q, o = state
    return jnp.where(flag, 0.0, p), jnp.where(flag, 0.0, q), jnp.where(flag, EMPTY, o)


def kept(flag: jax.Array, new: Triple, old: Triple) -> Triple:
    """`new` where `flag` is set, else `old`."""
    return (
        jnp.where(flag, new[0], old[0]),
        jnp.where(flag, new[1], old[1]),
        jnp.where(flag, new[2], old[2]),
    )


def read(state: Triple, k: jax.Array, v: jax.Array, u: jax.Array) -> tuple[Any, ...]:
    """Output y, weight of the present token in it, 1 / denominator, and their common exponent.

    The maximum is a constant to differentiation: it cancels in y.
    """
    p, q, o = state
    top = jax.lax.stop_gradient(jnp.maximum(o, u + k))
    past, present = jnp.exp(o - top), jnp.exp(u + k - top)
    inverse = 1.0 / (past * q + present)
    return (past * p + present * v) * inverse, present * inverse, inverse, top


def write(state: Triple, k: jax.Array, v: jax.Array, w: jax.Array) -> Triple:
    """The state after the token, decayed by e^w first."""
    p, q, o = state
    top = jax.lax.stop_gradient(jnp.maximum(w + o, k))
    past, present = jnp.exp(w + o - top), jnp.exp(k - top)
    return past * p + present * v, past * q + present, top


def back(
    cotangent: Triple,
    state: Triple,
    k: jax.Array,
    v: jax.Array,
    g: jax.Array,
    w: jax.Array,
    u: jax.Array,
) -> tuple[Triple, tuple[Any, ...]]:
    """One step of the reversed pass.

    Args:
      cotangent: of the state after this token.
      state: before this token.
      g: cotangent of y.

    Returns:
      The cotangent of `state`, and (dk, dv, dw, du).
    """
    (a, b, m), (p, q, o) = cotangent, state
    y, share, inverse, top = read(state, k, v, u)
    direct = share * g
    du = direct * (v - y)
    reach = jnp.exp(k + m)
    dk = du + reach * (a * v + b)
    dv = direct + reach * a
    dw = jnp.exp(w + o + m) * (a * p + b * q)
    highest = jnp.maximum(w + m, -top)
    later, here = jnp.exp(w + m - highest), jnp.exp(-top - highest) * inverse * g
    return (later * a + here, later * b - here * y, highest), (dk, dv, dw, du)
