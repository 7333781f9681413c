"""WKV-7, the recurrence of RWKV-7 (Peng et al., 2025, arXiv 2503.14456): a generalised delta rule.

    S_t = diag(exp(log_decay_t)) S_{t-1} + b_t^T (a_t S_{t-1}) + k_t^T v_t,   y_t = r_t S_t

The state has keys first, (K, V); that of the official code is its transpose. With a = -kappa and
b = rate * kappa a step removes what the state holds under the key kappa before it writes. The
gradient repeats each chunk from the state at its start; nothing is divided by a decay. That of the
decays follows from the other gradients, with G the cotangent of the state S' after the chunk:

    d log w_t = <G, S'> + sum_{s >= t} (r_s dr_s - k_s dk_s - b_s db_s) + sum_{s > t} a_s da_s
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jgraph.ops import sequence_op, time_chunks
from jgraph.ops.dispatch import check_implementation
from jgraph.ops.matrix_state import by_keys, by_values, outer
from jgraph.ops.time_chunks import cleared
from pallas_kernels import wkv7 as kernel
from pallas_kernels.wkv7 import Options


def _prepared(operands: Any) -> tuple[Any, ...]:
    *arrays, initial, reset = operands
    k, v = arrays[2:4]
    wide = jnp.promote_types(k.dtype, jnp.float32)
    batch, _, heads, width = k.shape
    state = jnp.zeros((batch, heads, width, v.shape[-1]), wide) if initial is None else initial
    return *(x.astype(wide) for x in arrays), state.astype(wide), reset


def _chunk(state: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
    r, log_decay, k, v, a, b, reset = now

    def step(state, now):
        r, w, k, v, a, b, flag = now
        state = cleared(state, flag)
        state = w[..., None] * state + outer(b, by_keys(a, state)) + outer(k, v)
        return state, by_keys(r, state)

    return jax.lax.scan(step, state, (r, jnp.exp(log_decay), k, v, a, b, reset))


def _chunk_back(cotangent: jax.Array, start: jax.Array, now: Any) -> tuple[Any, Any, Any]:
    """Forwards for what was read and dr, backwards for the cotangents, forwards again for da."""
    r, log_decay, k, v, a, b, g, reset = now
    w = jnp.exp(log_decay)

    def reading(state, now):
        w, k, v, a, b, g, flag = now
        state = cleared(state, flag)
        u = by_keys(a, state)
        state = w[..., None] * state + outer(b, u) + outer(k, v)
        return state, (u, by_values(state, g))

    end, (u, dr) = jax.lax.scan(reading, start, (w, k, v, a, b, g, reset))
    inner = jnp.sum(cotangent * end, -1)

    def backwards(cotangent, now):
        r, w, k, v, a, b, g, u, flag = now
        cotangent = cotangent + outer(r, g)
        du = by_keys(b, cotangent)
        gradients = by_values(cotangent, v), by_keys(k, cotangent), by_values(cotangent, u), du
        return cleared(w[..., None] * cotangent + outer(a, du), flag), gradients

    cotangent, (dk, dv, db, du) = jax.lax.scan(
        backwards, cotangent, (r, w, k, v, a, b, g, u, reset), reverse=True
    )

    def again(state, now):
        w, k, v, b, u, du, flag = now
        state = cleared(state, flag)
        return w[..., None] * state + outer(b, u) + outer(k, v), by_values(state, du)

    _, da = jax.lax.scan(again, start, (w, k, v, b, u, du, reset))

    def decays(summed, now):
        here, later, flag = now
        dw = cleared(summed + here, flag)
        return dw + later, dw

    shares = r * dr - k * dk - b * db, a * da, reset
    _, dw = jax.lax.scan(decays, inner, shares, reverse=True)
    return cotangent, (dr, dw, dk, dv, da, db), ()


def _xla_forward(options: Options, *operands: Any) -> tuple[Any, Any]:
    *sequences, state, reset = _prepared(operands)
    y, final, starts = time_chunks.forward(_chunk, options.chunk, state, (*sequences, reset))
    return (y.astype(operands[3].dtype), final), (starts,)


def _xla_backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any
) -> tuple[Any, ...]:
    *sequences, state, reset = _prepared(operands)
    (starts,), (g, g_final) = residuals, cotangents
    gradients, d_initial, _ = time_chunks.backward(
        _chunk_back,
        options.chunk,
        g_final,
        starts,
        (*sequences, g.astype(state.dtype), reset),
        (),
    )
    return *gradients, d_initial, None


def _check(op: str, rank: int, letters: str, state: Any, arrays: Any) -> None:
    sequence_op.check_sequences(op, rank, letters, **arrays)
    k, v = arrays["k"], arrays["v"]
    for name in ("r", "log_decay", "a", "b"):
        sequence_op.check_shape(op, name, arrays[name], k.shape)
    shape = (k.shape[0], *k.shape[-2:], v.shape[-1])
    sequence_op.check_shape(op, "state", state, shape)


def wkv7(
    r: jax.Array,
    log_decay: jax.Array,
    k: jax.Array,
    v: jax.Array,
    a: jax.Array,
    b: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    chunk: int = 32,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The generalised delta rule of RWKV-7.

    Half precision is computed in float32. The XLA form walks through time step by step, all heads
    at once; on a CPU its hand-written gradient is faster than that of `jax.lax.scan`: see
    experiments/results/bench-kernels-cpu.json.

    Args:
      r, k, a, b: (B, T, H, K). In RWKV-7 a = -kappa and b = rate * kappa, kappa of norm 1.
      log_decay: (B, T, H, K), at most 0: -exp(w_t). May be float32 beside half precision.
      v: (B, T, H, V) values.
      initial_state: (B, H, K, V), by default zero.
      reset: (B, T) bool, True at the first step of a packed sequence.
      chunk: steps between the states that are kept for the gradient; 16, 32 or 64 for the kernel.
      implementation: see `jgraph.ops.dispatch`.

    Returns:
      y (B, T, H, V) in the dtype of v, and the last state (B, H, K, V) in
      float32 (float64 of such).

    Raises:
      ValueError: shapes that do not fit, no time steps, an unknown implementation.
      TypeError: operands that are not floating point, or of different dtypes.
    """
    check_implementation("wkv7", implementation, csr=False)
    r, log_decay, k, v, a, b = (jnp.asarray(x) for x in (r, log_decay, k, v, a, b))
    arrays = {"k": k, "r": r, "log_decay": log_decay, "v": v, "a": a, "b": b}
    _check("wkv7", 4, "(B, T, H, width)", initial_state, arrays)
    sequence_op.check_reset("wkv7", reset, k.shape[:2])
    run = sequence_op.sequence_op("wkv7", implementation, kernel, _xla_forward, _xla_backward)
    return run(Options(chunk), r, log_decay, k, v, a, b, initial_state, reset)


def wkv7_step(
    r: jax.Array,
    log_decay: jax.Array,
    k: jax.Array,
    v: jax.Array,
    a: jax.Array,
    b: jax.Array,
    state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One step of `wkv7`, for generation.

    Args:
      r, log_decay, k, a, b: (B, H, K).
      v: (B, H, V).
      state: (B, H, K, V), by default zero.

    Returns:
      y (B, H, V) and the next state.

    Raises:
      ValueError, TypeError: as `wkv7`.
    """
    r, log_decay, k, v, a, b = (jnp.asarray(x) for x in (r, log_decay, k, v, a, b))
    arrays = {"k": k, "r": r, "log_decay": log_decay, "v": v, "a": a, "b": b}
    _check("wkv7_step", 3, "(B, H, width)", state, arrays)
    sequences = [x[:, None] for x in (r, log_decay, k, v, a, b)]
    *sequences, state, _ = _prepared((*sequences, state, None))
    now = (*(jnp.swapaxes(x, 0, 1) for x in sequences), None)
    state, y = _chunk(state, now)
    return y[0].astype(v.dtype), state
