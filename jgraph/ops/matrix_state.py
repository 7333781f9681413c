"""XLA forms of recurrences whose state is a matrix, S_t = decay_t S_{t-1} + k_t^T v_t.

Two ways through time, both of which store the state at chunk boundaries alone: a loop over steps,
vectorised over batch, heads, keys and values; and a walk over chunks whose body is matrix products,
differentiated one chunk at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Body = Callable[..., tuple[jax.Array, jax.Array]]


def outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """(..., K) and (..., V) -> (..., K, V)."""
    return x[..., :, None] * y[..., None, :]


def by_keys(x: jax.Array, state: jax.Array) -> jax.Array:
    """(B, H, K) times (B, H, K, V) -> (B, H, V)."""
    return jnp.einsum("bhk,bhkv->bhv", x, state)


def by_values(state: jax.Array, x: jax.Array) -> jax.Array:
    """(B, H, K, V) times (B, H, V) -> (B, H, K)."""
    return jnp.einsum("bhkv,bhv->bhk", state, x)


def lowest_log(dtype: Any) -> float:
    """A log decay whose exponential is zero in this dtype, as that of every lower one."""
    return math.log(float(jnp.finfo(dtype).smallest_subnormal)) - 1


def precision_of(x: jax.Array) -> jax.lax.Precision:
    """What products of operands like `x` need on devices that would round float32."""
    exact = jnp.finfo(x.dtype).bits >= 32
    return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT


def cut(x: jax.Array, chunk: int) -> jax.Array:
    """(B, T, ...) -> (N, B, C, ...), padded with zeros to whole chunks."""
    batch, time = x.shape[:2]
    chunks = -(-time // chunk)
    x = jnp.pad(x, ((0, 0), (0, chunks * chunk - time), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(batch, chunks, chunk, *x.shape[2:]), 1, 0)


def join(x: jax.Array, time: int) -> jax.Array:
    """(N, B, C, ...) -> (B, T, ...)."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :time]


def walk(
    body: Body,
    arrays: tuple[jax.Array, ...],
    reset: jax.Array,
    state: jax.Array,
    *,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """Outputs (B, T, ...) and the states (B, N + 1, ...) at the chunk boundaries.

    Args:
      body: (state, arrays of one chunk (B, C, ...), resets of it) -> (next state, outputs). Steps
        of zeros must leave the state as it is.
    """
    time = reset.shape[1]

    def step(state, xs):
        after, out = body(state, *xs)
        return after, (state, out)

    xs = tuple(cut(x, chunk) for x in arrays), cut(reset, chunk)
    final, (before, out) = jax.lax.scan(step, state, xs)
    states = jnp.concatenate([jnp.moveaxis(before, 0, 1), final[:, None]], axis=1)
    return join(out, time), states


def walk_back(
    body: Body,
    arrays: tuple[jax.Array, ...],
    reset: jax.Array,
    states: jax.Array,
    cotangents: tuple[jax.Array, jax.Array],
    *,
    chunk: int,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Gradients of the arrays and of the first state, from the `states` that `walk` returned."""
    time = reset.shape[1]
    d_out, d_final = cotangents

    def step(d_state, xs):
        before, chunk_arrays, flags, d_out = xs
        pull = jax.vjp(lambda *z: body(*z, flags), before, chunk_arrays)[1]
        return pull((d_state, d_out))

    before = jnp.moveaxis(states[:, :-1], 1, 0)
    xs = before, tuple(cut(x, chunk) for x in arrays), cut(reset, chunk), cut(d_out, chunk)
    d_first, gradients = jax.lax.scan(step, d_final, xs, reverse=True)
    return tuple(join(x, time) for x in gradients), d_first


def _by_step(x: jax.Array, chunk: int) -> jax.Array:
    """(B, T, ...) -> (T', B, ...), padded with zeros to whole chunks."""
    x = jnp.moveaxis(x, 1, 0)
    over = -x.shape[0] % chunk
    return jnp.pad(x, ((0, over), *((0, 0),) * (x.ndim - 1)))


def _from_steps(x: jax.Array, time: int) -> jax.Array:
    return jnp.moveaxis(x[:time], 0, 1)


def _decays(log_decay: jax.Array, reset: jax.Array) -> jax.Array:
    """Outside of the loop, where an exponential per step would be a small task each."""
    return jnp.where(reset[..., None, None], 0, jnp.exp(log_decay))


def _over_steps(
    step: Callable[..., Any], state: jax.Array, xs: Any, outs: Any, steps: Any, backward: bool
) -> tuple[jax.Array, Any]:
    """A scan over the steps (first, count) of `xs`, which writes its outputs into `outs`.

    A `lax.scan` within another would copy each chunk once more, in and out.
    """
    first, count = steps

    def one(i, carry):
        state, outs = carry
        t = first + (count - 1 - i if backward else i)
        at_t = [jax.lax.dynamic_index_in_dim(x, t, 0, keepdims=False) for x in xs]
        state, made = step(state, *at_t)
        return state, tuple(
            jax.lax.dynamic_update_index_in_dim(out, y, t, 0)
            for out, y in zip(outs, made, strict=True)
        )

    return jax.lax.fori_loop(0, count, one, (state, outs))


def loop(
    arrays: tuple[jax.Array, ...], reset: jax.Array, state: jax.Array, *, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """(q_t S_t (B, T, H, V), states (B, N + 1, H, K, V)) from (q, k, v, log decay)."""
    time = reset.shape[1]
    chunk = min(chunk, time)
    q, k, v, log_decay, flags = (_by_step(x, chunk) for x in (*arrays, reset))
    xs = q, k, v, _decays(log_decay, flags)

    def step(state, q, k, v, decay):
        state = decay[..., None] * state + k[..., None] * v[..., None, :]
        return state, (jnp.einsum("bhk,bhkv->bhv", q, state),)

    def over_chunk(carry, first):
        state, outs = carry
        return _over_steps(step, state, xs, outs, (first, chunk), False), state

    firsts = jnp.arange(0, len(q), chunk)
    (final, (out,)), before = jax.lax.scan(over_chunk, (state, (jnp.zeros_like(v),)), firsts)
    states = jnp.concatenate([jnp.moveaxis(before, 0, 1), final[:, None]], axis=1)
    return _from_steps(out, time), states


def loop_back(
    arrays: tuple[jax.Array, ...],
    reset: jax.Array,
    states: jax.Array,
    cotangents: tuple[jax.Array, jax.Array],
    *,
    chunk: int,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Gradients of (q, k, v, log decay) and of the first state, without a state per step.

    dq_t = S_t do_t needs the states in their order and dk, dv need their cotangents dS in reverse;
    the gradient of the log decays needs neither: within a chunk that ends with the state S' it is
    sum_{s >= t} (q_s dq_s - k_s dk_s) + <S', dS'>.
    """
    time = reset.shape[1]
    chunk = min(chunk, time)
    q, k, v, log_decay, flags, d_out = (_by_step(x, chunk) for x in (*arrays, reset, cotangents[0]))
    decay = _decays(log_decay, flags)

    def forth(state, k, v, decay, d_out):
        state = decay[..., None] * state + k[..., None] * v[..., None, :]
        return state, (jnp.einsum("bhkv,bhv->bhk", state, d_out),)

    def back(d_state, q, k, v, decay, d_out):
        d_state = d_state + q[..., None] * d_out[..., None, :]
        dk = jnp.einsum("bhkv,bhv->bhk", d_state, v)
        dv = jnp.einsum("bhkv,bhk->bhv", d_state, k)
        return decay[..., None] * d_state, (dk, dv)

    def over_chunk(carry, xs):
        d_state, dq, dk, dv = carry
        steps, before = (xs[0], chunk), xs[1]
        _, (dq,) = _over_steps(forth, before, (k, v, decay, d_out), (dq,), steps, False)
        after, (dk, dv) = _over_steps(back, d_state, (q, k, v, decay, d_out), (dk, dv), steps, True)
        return (after, dq, dk, dv), d_state

    boundaries = jnp.moveaxis(states, 1, 0)
    firsts = jnp.arange(0, len(q), chunk)
    start = (cotangents[1], *(jnp.zeros_like(x) for x in (q, k, v)))
    carry, d_ends = jax.lax.scan(over_chunk, start, (firsts, boundaries[:-1]), reverse=True)
    d_first, dq, dk, dv = carry
    terms = (q * dq - k * dk).reshape(-1, chunk, *q.shape[1:])
    ends = jnp.sum(boundaries[1:] * d_ends, axis=-1)[:, None]
    dg = (jax.lax.cumsum(terms, axis=1, reverse=True) + ends).reshape(q.shape)
    dg = jnp.where(flags[..., None, None], 0, dg)
    return tuple(_from_steps(x, time) for x in (dq, dk, dv, dg)), d_first


def check_floating(**arrays: jax.Array) -> None:
    """Raises TypeError for an array that is not floating."""
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} has dtype {x.dtype}; give floating numbers")


def check_state(state: Any, shape: tuple[int, ...]) -> Any:
    """The initial state as an array.

    Raises:
      ValueError: another shape than `shape`.
      TypeError: not floating.
    """
    if state is None:
        return None
    state = jnp.asarray(state)
    if state.shape != shape:
        raise ValueError(f"initial_state has shape {state.shape}; it must be {shape}")
    check_floating(initial_state=state)
    return state


def check_reset(reset: Any, shape: tuple[int, ...]) -> Any:
    """The resets as an array.

    Raises:
      ValueError: another shape than `shape`.
      TypeError: not bool.
    """
    if reset is None:
        return None
    reset = jnp.asarray(reset)
    if reset.shape != shape:
        raise ValueError(f"reset has shape {reset.shape}; it must be (B, T), {shape}")
    if reset.dtype != jnp.bool_:
        raise TypeError(f"reset has dtype {reset.dtype}; give bool, True where a sequence starts")
    return reset
