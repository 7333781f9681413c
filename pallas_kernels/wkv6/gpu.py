"""WKV-6 on a GPU, in chunks of L steps, as matrix products.

With P_i the product of the chunk's decays before step i, Q_j of those after step j, W of all of
them, and E_ij of those strictly between j and i (a loop over j multiplies E up, and ends with P):

    A_ij = sum_d r_id E_ijd k_jd  (j < i),   A_ii = sum_d r_id u_d k_id
    Y = (R * P) S + A V,   S' = W S + (K * Q)^T V

A reset at step j is a decay of zero and a zero r_j for the past. The backward pass walks the
chunks in reverse from the states stored at their starts, with G the cotangent of S'. The gradient
of the decays needs no further state: with r', k' the parts without the bonus,

    d log w_t = <G, S'> + sum_{s > t} r_s dr'_s - sum_{s >= t} k_s dk'_s   over the chunk's steps.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.decay_tiles import (
    Chunk,
    Sizes,
    column,
    from_here_on,
    here,
    product,
    sizes_of,
    with_column,
    with_row,
)
from pallas_kernels.wkv6.reference import Options

DEFAULTS = {"block_v": 32, "num_warps": 4}


def _weights(chunk: Chunk, refs: Any, reset_ref: Any, past: Any) -> tuple[Any, ...]:
    """A below its diagonal, P, Q (both (L, K)) and W (K,)."""
    k_ref, w_ref = refs
    length, width = past.shape
    rows = jnp.arange(length)

    def body(turn, carry):
        scores, between, after, passed = carry
        j = length - 1 - turn
        k, w = chunk.key_row(k_ref, j), chunk.decay_row(w_ref, reset_ref, j)
        later = (rows > j)[:, None]
        scores = with_column(
            scores, j, jnp.sum(jnp.where(later, past * between * k[None, :], 0.0), axis=1)
        )
        after = with_row(after, j, passed)
        return scores, jnp.where(later, between * w[None, :], between), after, passed * w

    ones = jnp.ones((length, width), jnp.float32)
    start = jnp.zeros((length, length), jnp.float32), ones, ones, jnp.ones((width,), jnp.float32)
    return jax.lax.fori_loop(0, length, body, start)


def _weight_gradients(
    chunk: Chunk, refs: Any, reset_ref: Any, past: Any, d_scores: Any
) -> tuple[Any, Any]:
    """What the products of pairs of steps give to dr' and dk', (L, K) each."""
    k_ref, w_ref = refs
    length, width = past.shape
    rows = jnp.arange(length)

    def body(turn, carry):
        d_past, d_keys, between = carry
        j = length - 1 - turn
        k, w = chunk.key_row(k_ref, j), chunk.decay_row(w_ref, reset_ref, j)
        later = (rows > j)[:, None]
        weight = jnp.where(later, column(d_scores, j)[:, None] * between, 0.0)
        d_keys = with_row(d_keys, j, jnp.sum(weight * past, axis=0))
        between = jnp.where(later, between * w[None, :], between)
        return d_past + weight * k[None, :], d_keys, between

    zeros = jnp.zeros((length, width), jnp.float32)
    start = zeros, zeros, jnp.ones((length, width), jnp.float32)
    return jax.lax.fori_loop(0, length, body, start)[:2]


def _diagonal(values: Any) -> Any:
    rows = jnp.arange(values.shape[0])
    return jnp.where(rows[:, None] == rows[None, :], values[:, None], 0.0)


def _unpack(refs: Any, size: Sizes) -> tuple[Any, ...]:
    inputs, rest = refs[:6], list(refs[6:])
    return (*inputs, rest.pop(0) if size.resets else None, rest)


def _forward_kernel(*refs, size: Sizes):
    r_ref, k_ref, v_ref, w_ref, u_ref, initial_ref, reset_ref, rest = _unpack(refs, size)
    y_ref, final_ref, starts_ref = rest
    at = here(size)
    index, mask = at.state_index(), at.state_mask()
    dot = functools.partial(product, exact=size.exact)
    u = plt.load(u_ref.at[at.head, at.key_index], mask=at.in_keys, other=0.0).astype(jnp.float32)

    def body(number, state):
        plt.store(starts_ref.at[(number, *index)], state, mask=mask)
        chunk = Chunk(at, number * size.chunk)
        r, k, v = chunk.keys(r_ref), chunk.keys(k_ref), chunk.values(v_ref)
        past = chunk.unless_reset(r, reset_ref)
        scores, before, after, passed = _weights(chunk, (k_ref, w_ref), reset_ref, past)
        scores = scores + _diagonal(jnp.sum(r * u[None, :] * k, axis=1))
        chunk.store_values(y_ref, dot(past * before, state) + dot(scores, v))
        return passed[:, None] * state + dot(k * after, v, trans_a=True)

    initial = plt.load(initial_ref.at[index], mask=mask, other=0.0).astype(jnp.float32)
    state = jax.lax.fori_loop(0, size.chunks, body, initial)
    plt.store(final_ref.at[index], state, mask=mask)


def _backward_kernel(*refs, size: Sizes):
    r_ref, k_ref, v_ref, w_ref, u_ref, _, reset_ref, rest = _unpack(refs, size)
    starts_ref, g_ref, g_final_ref, dr_ref, dk_ref, dv_ref, dw_ref, du_ref, d_initial_ref = rest
    at = here(size)
    index, mask = at.state_index(), at.state_mask()
    dot = functools.partial(product, exact=size.exact)
    u = plt.load(u_ref.at[at.head, at.key_index], mask=at.in_keys, other=0.0).astype(jnp.float32)

    def body(turn, carry):
        d_state, du = carry
        number = size.chunks - 1 - turn
        chunk = Chunk(at, number * size.chunk)
        state = plt.load(starts_ref.at[(number, *index)], mask=mask, other=0.0)
        r, k, v, g = (
            chunk.keys(r_ref),
            chunk.keys(k_ref),
            chunk.values(v_ref),
            chunk.values(g_ref),
        )
        past = chunk.unless_reset(r, reset_ref)
        scores, before, after, passed = _weights(chunk, (k_ref, w_ref), reset_ref, past)
        scores = scores + _diagonal(jnp.sum(r * u[None, :] * k, axis=1))
        chunk.store_values(dv_ref, dot(scores, g, trans_a=True) + dot(k * after, d_state))

        d_past, d_keys = _weight_gradients(
            chunk, (k_ref, w_ref), reset_ref, past, dot(g, v, trans_b=True)
        )
        d_past = chunk.unless_reset(d_past + before * dot(g, state, trans_b=True), reset_ref)
        to_state = after * dot(v, d_state, trans_b=True)
        d_keys = d_keys + to_state
        d_bonus = jnp.sum(g * v, axis=1)[:, None]
        chunk.store_partial(dr_ref, d_past + d_bonus * u[None, :] * k)
        chunk.store_partial(dk_ref, d_keys + d_bonus * u[None, :] * r)

        end = passed * jnp.sum(d_state * state, axis=1) + jnp.sum(k * to_state, axis=0)
        read, written = from_here_on(True, past * d_past), from_here_on(False, k * d_keys)
        chunk.store_partial(dw_ref, chunk.unless_reset(end[None, :] + read - written, reset_ref))
        d_state = passed[:, None] * d_state + dot(past * before, g, trans_a=True)
        return d_state, du + jnp.sum(d_bonus * r * k, axis=0)

    d_final = plt.load(g_final_ref.at[index], mask=mask, other=0.0)
    zero = jnp.zeros((size.wide_k,), jnp.float32)
    d_initial, du = jax.lax.fori_loop(0, size.chunks, body, (d_final, zero))
    plt.store(d_initial_ref.at[index], d_initial, mask=mask)
    plt.store(du_ref.at[at.tile, at.batch, at.head, at.key_index], du, mask=at.in_keys)


def _sizes(options: Options, operands: Any) -> tuple[Sizes, int]:
    block = tuned.blocks("wkv6", DEFAULTS)
    resets = operands[6] is not None
    size = sizes_of(operands[1], operands[2], options.chunk, block["block_v"], resets)
    return size, block["num_warps"]


def _launch(kernel, size, warps, operands, extra, out_shape, name, interpret):
    *inputs, initial, reset = operands
    batch = inputs[0].shape[0]
    if initial is None:
        initial = jnp.zeros((batch, size.heads, size.keys, size.values), jnp.float32)
    return gpu_call(
        functools.partial(kernel, size=size),
        grid=(batch * size.heads, size.value_tiles),
        out_shape=out_shape,
        name=name,
        interpret=interpret,
        num_warps=warps,
    )(*inputs, initial, *([] if reset is None else [reset.astype(jnp.int32)]), *extra)


def forward(options: Options, *operands: Any, interpret: bool = False) -> tuple[Any, Any]:
    """((y, final state), (states at the start of every chunk (T/chunk, B, H, K, V),))."""
    size, warps = _sizes(options, operands)
    v = operands[2]
    state = (v.shape[0], size.heads, size.keys, size.values)
    shapes = [
        out_struct(v.shape, v.dtype, operands),
        out_struct(state, jnp.float32, operands),
        out_struct((size.chunks, *state), jnp.float32, operands),
    ]
    y, final, starts = _launch(
        _forward_kernel, size, warps, operands, (), shapes, "wkv6_forward", interpret
    )
    return (y, final), (starts,)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, interpret: bool = False
) -> tuple[Any, ...]:
    """One gradient per operand; the value tiles' shares are summed last."""
    size, warps = _sizes(options, operands)
    r, k, v, log_decay, _, initial, _ = operands
    tiles = size.value_tiles
    state = (v.shape[0], size.heads, size.keys, size.values)

    def shape(dims, dtype):
        return out_struct(dims, dtype, operands, cotangents)

    def shares(like):
        return shape((tiles, *like.shape), like.dtype if tiles == 1 else jnp.float32)

    shapes = [
        shares(r),
        shares(k),
        shape(v.shape, v.dtype),
        shares(log_decay),
        shape((tiles, *state[:3]), jnp.float32),
        shape(state, jnp.float32),
    ]
    dr, dk, dv, dw, du, d_initial = _launch(
        _backward_kernel,
        size,
        warps,
        operands,
        (*residuals, *cotangents),
        shapes,
        "wkv6_backward",
        interpret,
    )
    d_initial = None if initial is None else d_initial
    return dr.sum(0), dk.sum(0), dv, dw.sum(0), du.sum((0, 1)), d_initial, None
