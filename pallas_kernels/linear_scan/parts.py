"""Numbers as tuples of real arrays, (real,) or (real, imaginary), since kernels have no complex."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Parts = tuple[jax.Array, ...]
ONE = (1.0, 0.0)


def split(x: jax.Array) -> Parts:
    """The real arrays of `x`."""
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def join(parts: Parts) -> jax.Array:
    """The array of which these are the parts."""
    return parts[0] if len(parts) == 1 else jax.lax.complex(*parts)


def times(p: Parts, q: Parts) -> Parts:
    """Their product."""
    if len(p) == 1:
        return (p[0] * q[0],)
    return (p[0] * q[0] - p[1] * q[1], p[0] * q[1] + p[1] * q[0])


def plus(p: Parts, q: Parts) -> Parts:
    """Their sum."""
    return tuple(u + v for u, v in zip(p, q, strict=True))


def where(condition: jax.Array, p: Parts, q: Parts) -> Parts:
    """`p` where the condition holds, else `q`."""
    return tuple(jnp.where(condition, u, v) for u, v in zip(p, q, strict=True))
