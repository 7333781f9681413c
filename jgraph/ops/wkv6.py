"""WKV-6, the recurrence of RWKV-5 and RWKV-6 (Peng et al., 2024, arXiv 2404.05892, section 4).

    y_t = r_t (S_{t-1} + diag(u) k_t^T v_t),   S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t

RWKV-5 has the same decay at every step. The gradient repeats each chunk from the state at its
start. That of the decays follows from the other gradients: with r', k' the parts without the bonus
and G the cotangent of the state S' after the chunk,

    d log w_t = <G, S'> + sum_{s > t} r_s dr'_s - sum_{s >= t} k_s dk'_s   over the chunk's steps.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgraph.ops import sequence_op, time_chunks
from jgraph.ops.dispatch import check_implementation
from jgraph.ops.matrix_state import by_keys, by_values, outer
from jgraph.ops.time_chunks import cleared
from pallas_kernels import wkv6 as kernel
from pallas_kernels.wkv6 import Options


def _prepared(operands: Any) -> tuple[Any, ...]:
    *arrays, initial, reset = operands
    k, v = arrays[1:3]
    wide = jnp.promote_types(k.dtype, jnp.float32)
    batch, _, heads, width = k.shape
    state = jnp.zeros((batch, heads, width, v.shape[-1]), wide) if initial is None else initial
    return *(x.astype(wide) for x in arrays), state.astype(wide), reset


def _loop(u: jax.Array, state: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
    """One chunk step by step."""
    r, k, v, log_decay, reset = now

    def step(state, now):
        r, k, v, w, flag = now
        state = cleared(state, flag)
        return w[..., None] * state + outer(k, v), by_keys(r, state)

    state, y = jax.lax.scan(step, state, (r, k, v, jnp.exp(log_decay), reset))
    return state, y + jnp.sum(r * u * k, -1, keepdims=True) * v


def _matrix(u: jax.Array, state: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
    """One chunk as matrix products, with every exponent the sum of decays between two steps."""
    r, k, v, log_decay = (jnp.moveaxis(x, 0, 2) for x in now[:4])
    length = r.shape[2]
    upto = jnp.cumsum(log_decay, 2)
    before, total = upto - log_decay, upto[:, :, -1:]
    steps = np.arange(length)
    visible = jnp.asarray(steps[:, None] > steps)[None, None]
    from_start = to_end = whole = jnp.ones((), bool)
    if now[4] is not None:
        part = jnp.cumsum(now[4].T.astype(jnp.int32), 1)[:, None]
        visible = visible & (part[..., :, None] == part[..., None, :])
        from_start, whole = (part == 0)[..., None], (part[..., -1] == 0)[..., None]
        to_end = (part == part[..., -1:])[..., None]
    between = before[:, :, :, None] - upto[:, :, None]
    between = jnp.exp(jnp.where(visible[..., None], between, -jnp.inf))
    scores = jnp.einsum("bhid,bhjd,bhijd->bhij", r, k, between)
    bonus = jnp.sum(r * u[:, None] * k, -1, keepdims=True)
    y = (jnp.where(from_start, r * jnp.exp(before), 0.0)) @ state + scores @ v + bonus * v
    keys = jnp.where(to_end, k * jnp.exp(total - upto), 0.0)
    kept = jnp.where(whole, jnp.exp(total[:, :, 0]), 0.0)
    return kept[..., None] * state + jnp.swapaxes(keys, -1, -2) @ v, jnp.moveaxis(y, 2, 0)


def _loop_back(u: jax.Array, cotangent: jax.Array, start: jax.Array, now: Any) -> tuple[Any, ...]:
    """The gradient of `_loop`."""
    r, k, v, log_decay, g, reset = now
    w = jnp.exp(log_decay)

    def forwards(state, now):
        k, v, w, g, flag = now
        state = cleared(state, flag)
        return w[..., None] * state + outer(k, v), by_values(state, g)

    state, dr = jax.lax.scan(forwards, start, (k, v, w, g, reset))

    def backwards(carry, now):
        cotangent, summed = carry
        r, k, v, w, g, dr, flag = now
        dk, dv = by_values(cotangent, v), by_keys(k, cotangent)
        dw = cleared(summed - k * dk, flag)
        cotangent = cleared(w[..., None] * cotangent + outer(r, g), flag)
        return (cotangent, dw + r * dr), (dk, dv, dw)

    carry = cotangent, jnp.sum(cotangent * state, -1)
    (cotangent, _), (dk, dv, dw) = jax.lax.scan(
        backwards, carry, (r, k, v, w, g, dr, reset), reverse=True
    )
    seen = jnp.sum(g * v, -1, keepdims=True)
    dv = dv + jnp.sum(r * u * k, -1, keepdims=True) * g
    return cotangent, (dr + seen * u * k, dk + seen * u * r, dv, dw), jnp.sum(seen * r * k, (0, 1))


def _matrix_back(u: jax.Array, cotangent: jax.Array, start: jax.Array, now: Any) -> tuple[Any, ...]:
    """The gradient of `_matrix`, which is differentiated a chunk at a time."""
    r, k, v, log_decay, g, reset = now
    _, pull = jax.vjp(
        lambda u, state, *arrays: _matrix(u, state, (*arrays, reset)), u, start, r, k, v, log_decay
    )
    du, d_start, *gradients = pull((cotangent, g))
    return d_start, tuple(gradients), du


def _forward_by(chunk_form: Any, options: Options, *operands: Any) -> tuple[Any, Any]:
    *sequences, u, state, reset = _prepared(operands)
    run = functools.partial(chunk_form, u)
    y, final, starts = time_chunks.forward(run, options.chunk, state, (*sequences, reset))
    return (y.astype(operands[2].dtype), final), (starts,)


def _backward_by(chunk_form: Any, options: Options, *everything: Any) -> tuple[Any, ...]:
    operands, (starts,), (g, g_final) = everything
    *sequences, u, _, reset = _prepared(operands)
    run, g = functools.partial(chunk_form, u), g.astype(u.dtype)
    gradients, d_initial, du = time_chunks.backward(
        run, options.chunk, g_final, starts, (*sequences, g, reset), jnp.zeros_like(u)
    )
    return *gradients, du, d_initial


def _xla_forward(options: Options, *operands: Any) -> tuple[Any, Any]:
    return jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(_forward_by, _loop, options),
        default=functools.partial(_forward_by, _matrix, options),
    )


def _xla_backward(options: Options, *everything: Any) -> tuple[Any, ...]:
    gradients = jax.lax.platform_dependent(
        *everything,
        cpu=functools.partial(_backward_by, _loop_back, options),
        default=functools.partial(_backward_by, _matrix_back, options),
    )
    return *gradients, None


def _check(op: str, rank: int, letters: str, u: Any, state: Any, arrays: Any) -> None:
    sequence_op.check_sequences(op, rank, letters, **arrays)
    k, v = arrays["k"], arrays["v"]
    for name in ("r", "log_decay"):
        sequence_op.check_shape(op, name, arrays[name], k.shape)
    heads, width = k.shape[-2:]
    sequence_op.check_shape(op, "u", u, (heads, width))
    sequence_op.check_shape(op, "state", state, (k.shape[0], heads, width, v.shape[-1]))


def wkv6(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    u: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    chunk: int = 32,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """Linear attention with a decay per key and step, and a bonus for the present token.

    Half precision is computed in float32. On a CPU time is walked through step by step, all heads
    at once, with a hand-written gradient that is faster there than that of `jax.lax.scan` (see
    experiments/results/bench-kernels-cpu.json); elsewhere XLA takes chunks as matrix products.

    Args:
      r, k: (B, T, H, K) receptances (queries) and keys.
      v: (B, T, H, V) values.
      log_decay: (B, T, H, K), at most 0: -exp(w_t) in RWKV-6. May be float32 beside half precision.
      u: (H, K) bonus.
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
    check_implementation("wkv6", implementation, csr=False)
    r, k, v, log_decay, u = (jnp.asarray(x) for x in (r, k, v, log_decay, u))
    arrays = {"k": k, "r": r, "v": v, "log_decay": log_decay}
    _check("wkv6", 4, "(B, T, H, width)", u, initial_state, arrays)
    sequence_op.check_reset("wkv6", reset, k.shape[:2])
    run = sequence_op.sequence_op("wkv6", implementation, kernel, _xla_forward, _xla_backward)
    return run(Options(chunk), r, k, v, log_decay, u, initial_state, reset)


def wkv6_step(
    r: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    u: jax.Array,
    state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One step of `wkv6`, for generation.

    Args:
      r, k, log_decay: (B, H, K).
      v: (B, H, V).
      state: (B, H, K, V), by default zero.

    Returns:
      y (B, H, V) and the next state.

    Raises:
      ValueError, TypeError: as `wkv6`.
    """
    r, k, v, log_decay, u = (jnp.asarray(x) for x in (r, k, v, log_decay, u))
    arrays = {"k": k, "r": r, "v": v, "log_decay": log_decay}
    _check("wkv6_step", 3, "(B, H, width)", u, state, arrays)
    dtype = v.dtype
    sequences = [x[:, None] for x in (r, k, v, log_decay)]
    *sequences, u, state, _ = _prepared((*sequences, u, state, None))
    now = (*(jnp.swapaxes(x, 0, 1) for x in sequences), None)
    state, y = _loop(u, state, now)
    return y[0].astype(dtype), state
