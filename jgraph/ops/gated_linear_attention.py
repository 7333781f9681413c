"""Gated linear attention: linear attention whose state decays by a factor per key and step.

Per head, with the state S (K, V), a = log_decay <= 0:

    S_t = diag(exp(a_t)) S_{t-1} + k_t^T v_t,    o_t = scale q_t S_t

In chunks of C steps with b_i the sum of a over the chunk's steps up to i, and S the state that
enters the chunk (equations of section 4.3 of Yang et al., ICML 2024, arXiv 2312.06635):

    A_ij = sum_d q_id k_jd exp(b_id - b_jd)
    o_i = scale ((q_i * exp(b_i)) S + sum_{j <= i} A_ij v_j)
    S'  = diag(exp(b_C)) S + sum_j (k_j * exp(b_C - b_j))^T v_j

Products of blocks of `sub` steps take the exponentials relative to the later block's start, and a
block with itself takes them per pair of steps: no exponent is positive, so strong decay underflows
to zero where exp(-b) would overflow. The gradient of a needs no states within the chunk: it is
sum_{s >= t} (q_s dq_s - k_s dk_s) + <S', dS'>.

On a CPU the form is a loop over time, faster with its gradient than `lax.scan` and an associative
scan; forward alone `lax.scan` is faster
(experiments/results/bench-kernels-cpu.json). Elsewhere XLA takes the chunks.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.ops.dispatch import check_implementation
from jgraph.ops.matrix_state import (
    check_floating,
    check_reset,
    check_state,
    loop,
    loop_back,
    lowest_log,
    precision_of,
    walk,
    walk_back,
)
from jgraph.ops.sequence_op import sequence_op
from pallas_kernels import gated_linear_attention as kernels

_OP = "gated_linear_attention"


def _pair_scores(q: jax.Array, k: jax.Array, b: jax.Array, sub: int, precision: Any) -> jax.Array:
    """(B, H, C, C) A for q, k, b (B, H, C, K), zero above the diagonal."""
    batch, heads, length, keys = q.shape
    blocks = length // sub
    cut_q, cut_k, cut_b = (x.reshape(batch, heads, blocks, sub, keys) for x in (q, k, b))
    steps = jnp.arange(sub)
    until = (steps[:, None] >= steps)[..., None]
    # Masked before the exponential: its gradient would be inf x 0 on the wrong side.
    gap = jnp.where(until, cut_b[..., :, None, :] - cut_b[..., None, :, :], -jnp.inf)
    within = jnp.sum(cut_q[..., :, None, :] * cut_k[..., None, :, :] * jnp.exp(gap), axis=-1)
    start = jnp.pad(cut_b[:, :, :-1, -1], ((0, 0), (0, 0), (1, 0), (0, 0)))
    later = cut_q * jnp.exp(cut_b - start[..., None, :])
    rows = []
    for block in range(blocks):
        first = block * sub
        earlier = k[:, :, :first] * jnp.exp(start[:, :, block, None] - b[:, :, :first])
        before = jnp.einsum("bhik,bhjk->bhij", later[:, :, block], earlier, precision=precision)
        after = jnp.zeros((batch, heads, sub, length - first - sub), q.dtype)
        rows.append(jnp.concatenate([before, within[:, :, block], after], axis=-1))
    return jnp.concatenate(rows, axis=2)


def _chunk(sub: int, precision: Any, state: Any, arrays: Any, reset: Any) -> Any:
    """The next state and q_t S_t of one chunk: `matrix_state.Body`."""
    q, k, v, log_decay = (x.swapaxes(1, 2) for x in arrays)
    dot = functools.partial(jnp.einsum, precision=precision)
    log_decay = jnp.maximum(log_decay, lowest_log(log_decay.dtype))
    b = jnp.cumsum(jnp.where(reset[:, None, :, None], 0, log_decay), axis=2)
    # Steps count together only if they are of the same packed sequence; 0 is the one that enters.
    number = jnp.cumsum(reset, axis=1)
    same = number[:, :, None] == number[:, None, :]
    scores = jnp.where(same[:, None], _pair_scores(q, k, b, sub, precision), 0)
    entered = (number == 0)[:, None, :, None]
    past = jnp.where(entered, q * jnp.exp(b), 0)
    out = dot("bhik,bhkv->bhiv", past, state) + dot("bhij,bhjv->bhiv", scores, v)
    end = b[:, :, -1:]
    stays = (number == number[:, -1:])[:, None, :, None]
    kept = jnp.where(entered[:, :, -1:], jnp.exp(end), 0).swapaxes(2, 3)
    added = dot("bhjk,bhjv->bhkv", jnp.where(stays, k * jnp.exp(end - b), 0), v)
    return kept * state + added, out.swapaxes(1, 2)


def _prepared(options: Any, operands: Any) -> Any:
    """(q scaled, k, v, log_decay), the resets and the first state, in the state's dtype."""
    q, k, v, log_decay, state, reset = operands
    wide = kernels.state_dtype(v)
    batch, time, heads, keys = q.shape
    if state is None:
        state = jnp.zeros((batch, heads, keys, v.shape[-1]), wide)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    q, k, v, log_decay = (x.astype(wide) for x in (q, k, v, log_decay))
    arrays = (q * options.scale_of(keys), k, v, log_decay)
    return arrays, reset, state.astype(wide)


def _chunk_of(options: Any, operands: Any) -> int:
    """The chunk, but no more blocks than the time fills."""
    return min(options.chunk, -(-operands[0].shape[1] // options.sub) * options.sub)


def _xla_forward(options: Any, *operands: Any) -> Any:
    body = functools.partial(_chunk, options.sub, precision_of(operands[2]))
    o, states = jax.lax.platform_dependent(
        *_prepared(options, operands),
        cpu=functools.partial(loop, chunk=options.chunk),
        default=functools.partial(walk, body, chunk=_chunk_of(options, operands)),
    )
    return (o.astype(operands[2].dtype), states[:, -1]), (states,)


def _xla_backward(options: Any, operands: Any, residuals: Any, cotangents: Any) -> Any:
    body = functools.partial(_chunk, options.sub, precision_of(operands[2]))
    arrays, reset, state = _prepared(options, operands)
    do, d_final = (x.astype(state.dtype) for x in cotangents)
    (dq, dk, dv, dg), d_first = jax.lax.platform_dependent(
        arrays,
        reset,
        residuals[0],
        (do, d_final),
        cpu=functools.partial(loop_back, chunk=options.chunk),
        default=functools.partial(walk_back, body, chunk=_chunk_of(options, operands)),
    )
    dq = dq * options.scale_of(dq.shape[-1])
    return dq, dk, dv, dg, (None if operands[4] is None else d_first), None


def gated_linear_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    scale: float | None = None,
    chunk: int = 64,
    sub: int = 16,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t and o_t = scale q_t S_t over time.

    For a decay that all keys of a head share, `ssd` is faster.

    Args:
      q, k: (B, T, H, K) floating.
      v: (B, T, H, V) floating.
      log_decay: (B, T, H, K), at most 0 (not checked); -inf clears the state of a key.
      initial_state: (B, H, K, V), zero if absent.
      reset: (B, T) bool, True at the first step of each packed sequence.
      scale: of the queries; 1/sqrt(K) if None.
      chunk: steps between stored states; a multiple of `sub`.
      sub: steps of a secondary block.
      implementation: see `jgraph.ops.dispatch`.

    Returns:
      o (B, T, H, V) in the dtype of `v`; the final state (B, H, K, V), at least float32.

    Raises:
      ValueError: shapes that do not fit, no steps, or a chunk that is no multiple of `sub`.
      TypeError: operands that are not floating, or resets that are not bool.
    """
    check_implementation(_OP, implementation, csr=False)
    q, k, v, log_decay = (jnp.asarray(x) for x in (q, k, v, log_decay))
    if sub < 1 or chunk < 1 or chunk % sub:
        raise ValueError(f"chunk is {chunk}; it must be a positive multiple of sub, {sub}")
    _check(q, k, v, log_decay)
    state_shape = (q.shape[0], *q.shape[2:], v.shape[-1])
    initial_state = check_state(initial_state, state_shape)
    reset = check_reset(reset, q.shape[:2])
    options = kernels.Options(scale, chunk, sub)
    run = sequence_op(_OP, implementation, kernels, _xla_forward, _xla_backward)
    return run(options, q, k, v, log_decay, initial_state, reset)


def _check(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array) -> None:
    check_floating(q=q, k=k, v=v, log_decay=log_decay)
    if q.ndim != 4 or 0 in q.shape:
        raise ValueError(f"q has shape {q.shape}; it must be (B, T, H, K) with no size zero")
    for name, x in (("k", k), ("log_decay", log_decay)):
        if x.shape != q.shape:
            raise ValueError(f"{name} has shape {x.shape}; it must be that of q, {q.shape}")
    if v.ndim != 4 or v.shape[:3] != q.shape[:3] or v.shape[3] == 0:
        raise ValueError(f"v has shape {v.shape}; for q {q.shape} it must be {q.shape[:3]} + (V,)")


def gated_linear_attention_step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    state: jax.Array,
    *,
    scale: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One step of `gated_linear_attention`, for generation.

    Args:
      q, k, log_decay: (B, H, K).
      v: (B, H, V).
      state: (B, H, K, V) before the step.

    Returns:
      o (B, H, V) in the dtype of `v`; the state after the step.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: operands that are not floating.
    """
    q, k, v, log_decay = (jnp.asarray(x) for x in (q, k, v, log_decay))
    _check(*(x[:, None] for x in (q, k, v, log_decay)))
    state = check_state(state, (*q.shape, v.shape[-1]))
    wide = kernels.state_dtype(v)
    (q, k, log_decay), dtype = (x.astype(wide) for x in (q, k, log_decay)), v.dtype
    state = jnp.exp(log_decay)[..., None] * state.astype(wide)
    state = state + k[..., None] * v.astype(wide)[..., None, :]
    scale = kernels.Options(scale).scale_of(q.shape[-1])
    out = scale * jnp.einsum("bhk,bhkv->bhv", q, state, precision=precision_of(v))
    return out.astype(dtype), state
