"""WKV-4, the recurrence of RWKV-4 (Peng et al., 2023, arXiv 2305.13048, equations 16 to 21).

    y_t = (sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (the same with v = 1)

Per channel, with the state (p, q, o) for a numerator e^o p and a denominator e^o q: o is the
largest exponent so far, and no exponential has a positive argument. The gradient repeats each
chunk from the state at its start, and keeps a running maximum of its own in the reversed pass.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jgraph.ops import sequence_op, time_chunks
from jgraph.ops.dispatch import check_implementation
from pallas_kernels import wkv4 as kernel
from pallas_kernels.wkv4 import Options
from pallas_kernels.wkv4.reference import empty_state
from pallas_kernels.wkv4.steps import EMPTY, back, read, write


def _emptied(state: Any, flag: jax.Array | None) -> Any:
    if flag is None:
        return tuple(state)
    p, q, o = state
    return *(jnp.where(flag[:, None], 0.0, x) for x in (p, q)), jnp.where(flag[:, None], EMPTY, o)


def _prepared(operands: Any) -> tuple[Any, ...]:
    k, v, w, u, initial, reset = operands
    wide = jnp.promote_types(k.dtype, jnp.float32)
    batch, _, channels = k.shape
    state = empty_state(batch, channels, wide) if initial is None else initial.astype(wide)
    k, v, w, u = (x.astype(wide) for x in (k, v, w, u))
    return k, v, w, u, state, reset


def _xla_forward(options: Options, *operands: Any) -> tuple[Any, Any]:
    k, v, w, u, state, reset = _prepared(operands)

    def step(state, now):
        k, v, flag = now
        state = _emptied(state, flag)
        return write(state, k, v, w), read(state, k, v, u)[0]

    def run(state, now):
        state, y = jax.lax.scan(step, tuple(state), now)
        return jnp.stack(state), y

    y, final, starts = time_chunks.forward(run, options.chunk, state, (k, v, reset))
    return (y.astype(operands[0].dtype), final), (starts, final)


def _xla_backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any
) -> tuple[Any, ...]:
    k, v, w, u, initial, reset = _prepared(operands)
    (starts, final), (g, g_final) = residuals, cotangents
    g = g.astype(k.dtype)

    def forwards(state, now):
        k, v, flag = now
        state = _emptied(state, flag)
        return write(state, k, v, w), state

    def backwards(carry, now):
        cotangent, dw, du = carry
        k, v, g, flag, state = now
        cotangent, (dk, dv, dw_t, du_t) = back(cotangent, state, k, v, g, w, u)
        return (_emptied(cotangent, flag), dw + dw_t, du + du_t), (dk, dv)

    def run(cotangent, start, now):
        k, v, g, flag = now
        _, states = jax.lax.scan(forwards, tuple(start), (k, v, flag))
        zero = time_chunks.vary_like(jnp.zeros_like(start[0]), cotangent)
        (cotangent, dw, du), gradients = jax.lax.scan(
            backwards, (cotangent, zero, zero), (k, v, g, flag, states), reverse=True
        )
        return cotangent, gradients, (dw, du)

    zero = jnp.zeros_like(final[0])
    (dk, dv), (a, b, m), (dw, du) = time_chunks.backward(
        run, options.chunk, (*g_final[:2], -final[2]), starts, (k, v, g, reset), (zero, zero)
    )
    p, q, o = initial
    dp, dq = jnp.exp(o + m) * a, jnp.exp(o + m) * b
    return dk, dv, dw.sum(0), du.sum(0), jnp.stack([dp, dq, p * dp + q * dq]), None


def _check(k: Any, w: Any, u: Any, initial_state: Any) -> None:
    channels = k.shape[-1]
    sequence_op.check_shape("wkv4", "w", w, (channels,))
    sequence_op.check_shape("wkv4", "u", u, (channels,))
    sequence_op.check_shape("wkv4", "state", initial_state, (3, k.shape[0], channels))


def wkv4(
    k: jax.Array,
    v: jax.Array,
    w: jax.Array,
    u: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    chunk: int = 16,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The exponentially decaying weighted mean of RWKV-4, over time.

    Half precision is computed in float32. Off the GPU kernel, and on a CPU always, time is
    walked through step by step, all channels at once: there this is faster than an associative
    scan of (steps, p, q, o), and its hand-written gradient faster than that of `jax.lax.scan`:
    see experiments/results/bench-kernels-cpu.json.

    Args:
      k, v: (B, T, C) keys, which are exponents, and values.
      w: (C,) logarithm of the decay per step, below 0: -exp(decay) in RWKV-4.
      u: (C,) bonus of the present token's exponent.
      initial_state: (3, B, C) p, q, o; by default empty (p = q = 0, o = -1e38).
      reset: (B, T) bool, True at the first step of a packed sequence.
      chunk: steps between the states that are kept for the gradient.
      implementation: see `jgraph.ops.dispatch`.

    Returns:
      y (B, T, C) in the dtype of k, and the last state (3, B, C) in
      float32 (float64 of such).
      The exponent o is a constant to differentiation; what depends on e^o p and e^o q only, as
      every continuation does, has its exact gradient.

    Raises:
      ValueError: shapes that do not fit, no time steps, an unknown implementation.
      TypeError: operands that are not floating point, k and v of different dtypes.
    """
    check_implementation("wkv4", implementation, csr=False)
    k, v, w, u = (jnp.asarray(x) for x in (k, v, w, u))
    sequence_op.check_sequences("wkv4", 3, "(B, T, C)", k=k, v=v)
    if k.shape != v.shape:
        raise ValueError(f"wkv4: v has shape {v.shape} and k {k.shape}; give them one shape")
    _check(k, w, u, initial_state)
    sequence_op.check_reset("wkv4", reset, k.shape[:2])
    return sequence_op.sequence_op("wkv4", implementation, kernel, _xla_forward, _xla_backward)(
        Options(chunk), k, v, w, u, initial_state, reset
    )


def wkv4_step(
    k: jax.Array, v: jax.Array, w: jax.Array, u: jax.Array, state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """One step of `wkv4`, for generation: k, v (B, C), state (3, B, C) -> y (B, C), state.

    Raises:
      ValueError, TypeError: as `wkv4`.
    """
    k, v, w, u = (jnp.asarray(x) for x in (k, v, w, u))
    sequence_op.check_sequences("wkv4_step", 2, "(B, C)", k=k, v=v)
    if k.shape != v.shape:
        raise ValueError(f"wkv4_step: v has shape {v.shape} and k {k.shape}; give them one shape")
    _check(k, w, u, state)
    dtype = k.dtype
    k, v, w, u, state, _ = _prepared((k[:, None], v[:, None], w, u, state, None))
    k, v = k[:, 0], v[:, 0]
    y = read(tuple(state), k, v, u)[0]
    return y.astype(dtype), jnp.stack(write(tuple(state), k, v, w))
