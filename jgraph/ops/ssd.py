"""State-space duality (Mamba-2): linear attention whose state decays by one factor per head.

Per head, with the state S (N, P), a = log_decay <= 0, and b, c shared by the heads of a group:

    S_t = exp(a_t) S_{t-1} + b_t^T x_t,    y_t = c_t S_t

In chunks of C steps with g_i the sum of a over the chunk's steps up to i, and S the state that
enters the chunk (section 6 of Dao & Gu, ICML 2024, arXiv 2405.21060):

    y_i = exp(g_i) c_i S + sum_{j <= i} exp(g_i - g_j) <c_i, b_j> x_j
    S'  = exp(g_C) S + sum_j exp(g_C - g_j) b_j^T x_j

In the kernels the gradient of a needs no states within the chunk: it is
sum_{s >= t} (<y_s, dy_s> - <x_s, dx_s>) + <S', dS'>. The XLA form differentiates a chunk at a time
from the state at its start.

XLA takes the chunks on every platform. On a CPU too they are faster, with the gradient, than
`lax.scan` over time and than an associative scan; forward alone, `lax.scan` is faster at the
smaller size (experiments/results/bench-kernels-cpu.json).
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
    lowest_log,
    precision_of,
    walk,
    walk_back,
)
from jgraph.ops.sequence_op import sequence_op
from pallas_kernels import ssd as kernels

_OP = "ssd"


def _chunk(precision: Any, state: Any, arrays: Any, reset: Any) -> Any:
    """The next state and y of one chunk: `matrix_state.Body`."""
    x, log_decay, b, c = arrays
    batch, steps, groups, _ = b.shape
    dot = functools.partial(jnp.einsum, precision=precision)
    grouped = (batch, steps, groups, -1)
    x = x.reshape(*grouped, x.shape[-1])
    # A decay of zero begins a sequence for its head: no sum ever holds -inf.
    begins = reset[..., None] | (log_decay <= lowest_log(log_decay.dtype))
    log_decay, begins = (
        jnp.moveaxis(z.reshape(grouped), 1, -1) for z in (jnp.where(begins, 0, log_decay), begins)
    )
    g, number = jnp.cumsum(log_decay, axis=-1), jnp.cumsum(begins, axis=-1)
    places = jnp.arange(steps)
    counts = (places[:, None] >= places) & (number[..., :, None] == number[..., None, :])
    # Masked before the exponential: its gradient would be inf x 0 on the wrong side.
    between = jnp.exp(jnp.where(counts, g[..., :, None] - g[..., None, :], -jnp.inf))
    scores = dot("bign,bjgn->bgij", c, b)[:, :, None] * between
    since = jnp.where(number == 0, jnp.exp(g), 0)
    stays = number == number[..., -1:]
    to_end = jnp.where(stays, jnp.exp(jnp.where(stays, g[..., -1:] - g, 0)), 0)
    before = state.reshape(batch, groups, -1, *state.shape[2:])
    past = dot("bign,bgrnp->bgrip", c, before) * since[..., None]
    y = past + dot("bgrij,bjgrp->bgrip", scores, x)
    added = dot("bjgn,bjgrp->bgrnp", b, x * jnp.moveaxis(to_end, -1, 1)[..., None])
    after = since[..., -1, None, None] * before + added
    y = jnp.moveaxis(y, 3, 1).reshape(batch, steps, -1, x.shape[-1])
    return after.reshape(state.shape), y


def _prepared(operands: Any) -> Any:
    """(x, log_decay, b, c), the resets and the first state, in the state's dtype."""
    x, log_decay, b, c, state, reset = operands
    wide = kernels.state_dtype(x)
    batch, time, heads, width = x.shape
    if state is None:
        state = jnp.zeros((batch, heads, b.shape[-1], width), wide)
    if reset is None:
        reset = jnp.zeros((batch, time), bool)
    return tuple(z.astype(wide) for z in (x, log_decay, b, c)), reset, state.astype(wide)


def _chunk_of(options: Any, operands: Any) -> int:
    """The chunk, but no more steps than there are."""
    return min(options.chunk, operands[0].shape[1])


def _xla_forward(options: Any, *operands: Any) -> Any:
    body = functools.partial(_chunk, precision_of(operands[0]))
    y, states = walk(body, *_prepared(operands), chunk=_chunk_of(options, operands))
    return (y.astype(operands[0].dtype), states[:, -1]), (states,)


def _xla_backward(options: Any, operands: Any, residuals: Any, cotangents: Any) -> Any:
    body = functools.partial(_chunk, precision_of(operands[0]))
    arrays, reset, _ = _prepared(operands)
    states = residuals[0]
    wide = tuple(z.astype(states.dtype) for z in cotangents)
    chunk = _chunk_of(options, operands)
    gradients, first = walk_back(body, arrays, reset, states, wide, chunk=chunk)
    return *gradients, first, None


def ssd(
    x: jax.Array,
    log_decay: jax.Array,
    b: jax.Array,
    c: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    chunk: int = 64,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """S_t = exp(log_decay_t) S_{t-1} + b_t^T x_t and y_t = c_t S_t over time.

    Also linear attention whose decay all keys of a head share (RetNet, simple gated linear
    attention), with c the queries, b the keys and x the values.

    Args:
      x: (B, T, H, P) floating.
      log_decay: (B, T, H), at most 0 (not checked); -inf clears the state of a head.
      b, c: (B, T, G, N) floating; heads h H/G to (h + 1) H/G - 1 use group h.
      initial_state: (B, H, N, P), zero if absent.
      reset: (B, T) bool, True at the first step of each packed sequence.
      chunk: steps between stored states.
      implementation: see `jgraph.ops.dispatch`.

    Returns:
      y (B, T, H, P) in the dtype of `x`; the final state (B, H, N, P), at least float32.

    Raises:
      ValueError: shapes that do not fit, no steps, or a chunk below 1.
      TypeError: operands that are not floating, or resets that are not bool.
    """
    check_implementation(_OP, implementation, csr=False)
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    x, log_decay, b, c = (jnp.asarray(z) for z in (x, log_decay, b, c))
    _check(x, log_decay, b, c)
    shape = (x.shape[0], x.shape[2], b.shape[3], x.shape[3])
    initial_state = check_state(initial_state, shape)
    reset = check_reset(reset, x.shape[:2])
    options = kernels.Options(chunk)
    run = sequence_op(_OP, implementation, kernels, _xla_forward, _xla_backward)
    return run(options, x, log_decay, b, c, initial_state, reset)


def _check(x: jax.Array, log_decay: jax.Array, b: jax.Array, c: jax.Array) -> None:
    check_floating(x=x, log_decay=log_decay, b=b, c=c)
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}; it must be (B, T, H, P) with no size zero")
    if log_decay.shape != x.shape[:3]:
        raise ValueError(f"log_decay has shape {log_decay.shape}; for x it must be {x.shape[:3]}")
    if b.ndim != 4 or b.shape[:2] != x.shape[:2] or 0 in b.shape or x.shape[2] % b.shape[2]:
        raise ValueError(
            f"b has shape {b.shape}; for x {x.shape} it must be {x.shape[:2]} + (G, N) with G a "
            f"divisor of {x.shape[2]} heads"
        )
    if c.shape != b.shape:
        raise ValueError(f"c has shape {c.shape}; it must be that of b, {b.shape}")


def ssd_step(
    x: jax.Array, log_decay: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step of `ssd`, for generation.

    Args:
      x: (B, H, P).
      log_decay: (B, H).
      b, c: (B, G, N).
      state: (B, H, N, P) before the step.

    Returns:
      y (B, H, P) in the dtype of `x`; the state after the step.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: operands that are not floating.
    """
    x, log_decay, b, c = (jnp.asarray(z) for z in (x, log_decay, b, c))
    _check(*(z[:, None] for z in (x, log_decay, b, c)))
    state = check_state(state, (*x.shape[:2], b.shape[2], x.shape[2]))
    wide = kernels.state_dtype(x)
    b, c = (jnp.repeat(z.astype(wide), x.shape[1] // z.shape[1], axis=1) for z in (b, c))
    state = jnp.exp(log_decay.astype(wide))[..., None, None] * state.astype(wide)
    state = state + b[..., None] * x.astype(wide)[..., None, :]
    y = jnp.einsum("bhn,bhnp->bhp", c, state, precision=precision_of(x))
    return y.astype(x.dtype), state
