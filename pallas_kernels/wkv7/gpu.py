"""WKV-7 on a GPU, in chunks of L steps, as matrix products and a triangular solve.

With the weights of `weights`, P_i the product of the chunk's decays before step i, P+_i up to it,
Q_j after step j, W of all of them, and u_i = a_i S_{i-1} what a step reads before it writes:

    U = (A * P) S + AB U + AK V            (AB is strictly lower triangular)
    Y = (R * P+) S + RB U + RK V,          S' = W S + (B * Q)^T U + (K * Q)^T V

A reset at step j is a decay of zero and a zero a_j. The backward pass walks the chunks in reverse
from the states stored at their starts, with G the cotangent of S':

    dU = RB^T dY + (B * Q) G + AB^T dU,    dV = RK^T dY + AK^T dU + (K * Q) G
    G of S = W G + (A * P)^T dU + (R * P+)^T dY

and the gradient of the decays needs no further state, over the chunk's steps:

    d log w_t = <G, S'> + sum_{s >= t} (r_s dr_s - k_s dk_s - b_s db_s) + sum_{s > t} a_s da_s
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.decay_tiles import Chunk, Sizes, from_here_on, here, product, sizes_of
from pallas_kernels.wkv7.reference import Options
from pallas_kernels.wkv7.weights import Rows, solve, weight_gradients, weights

DEFAULTS = {"block_v": 32, "num_warps": 4}


def _unpack(refs: Any, size: Sizes) -> tuple[Any, ...]:
    inputs, rest = refs[:7], list(refs[7:])
    return (*inputs, rest.pop(0) if size.resets else None, rest)


def _forward_kernel(*refs, size: Sizes):
    r_ref, w_ref, k_ref, v_ref, a_ref, b_ref, initial_ref, reset_ref, rest = _unpack(refs, size)
    y_ref, final_ref, starts_ref = rest
    at = here(size)
    index, mask = at.state_index(), at.state_mask()
    dot = functools.partial(product, exact=size.exact)
    rows = Rows(k_ref, b_ref, w_ref, reset_ref)

    def body(number, state):
        plt.store(starts_ref.at[(number, *index)], state, mask=mask)
        chunk = Chunk(at, number * size.chunk)
        r, a = chunk.keys(r_ref), chunk.unless_reset(chunk.keys(a_ref), reset_ref)
        k, b, v = chunk.keys(k_ref), chunk.keys(b_ref), chunk.values(v_ref)
        known = weights(chunk, rows, r, a)
        u = solve(known.ab, dot(a * known.before, state) + dot(known.ak, v), transposed=False)
        y = dot(r * known.upto, state) + dot(known.rb, u) + dot(known.rk, v)
        chunk.store_values(y_ref, y)
        added = dot(b * known.after, u, trans_a=True) + dot(k * known.after, v, trans_a=True)
        return known.passed[:, None] * state + added

    initial = plt.load(initial_ref.at[index], mask=mask, other=0.0).astype(jnp.float32)
    state = jax.lax.fori_loop(0, size.chunks, body, initial)
    plt.store(final_ref.at[index], state, mask=mask)


def _backward_kernel(*refs, size: Sizes):
    r_ref, w_ref, k_ref, v_ref, a_ref, b_ref, _, reset_ref, rest = _unpack(refs, size)
    starts_ref, g_ref, g_final_ref, *rest = rest
    dr_ref, dw_ref, dk_ref, dv_ref, da_ref, db_ref, d_initial_ref = rest
    at = here(size)
    index, mask = at.state_index(), at.state_mask()
    dot = functools.partial(product, exact=size.exact)
    rows = Rows(k_ref, b_ref, w_ref, reset_ref)

    def body(turn, d_state):
        number = size.chunks - 1 - turn
        chunk = Chunk(at, number * size.chunk)
        state = plt.load(starts_ref.at[(number, *index)], mask=mask, other=0.0)
        r, a = chunk.keys(r_ref), chunk.unless_reset(chunk.keys(a_ref), reset_ref)
        k, b = chunk.keys(k_ref), chunk.keys(b_ref)
        v, g = chunk.values(v_ref), chunk.values(g_ref)
        known = weights(chunk, rows, r, a)
        u = solve(known.ab, dot(a * known.before, state) + dot(known.ak, v), transposed=False)

        right = dot(known.rb, g, trans_a=True) + dot(b * known.after, d_state)
        du = solve(known.ab, right, transposed=True)
        dv = dot(known.rk, g, trans_a=True) + dot(known.ak, du, trans_a=True)
        chunk.store_values(dv_ref, dv + dot(k * known.after, d_state))

        outer = functools.partial(dot, trans_b=True)
        dr, dk, da, db = weight_gradients(
            chunk, rows, r, a, outer(du, u), outer(du, v), outer(g, u), outer(g, v)
        )
        dr = dr + known.upto * outer(g, state)
        da = chunk.unless_reset(da + known.before * outer(du, state), reset_ref)
        b_to_state, k_to_state = known.after * outer(u, d_state), known.after * outer(v, d_state)
        dk, db = dk + k_to_state, db + b_to_state
        for ref, gradient in ((dr_ref, dr), (dk_ref, dk), (da_ref, da), (db_ref, db)):
            chunk.store_partial(ref, gradient)

        end = known.passed * jnp.sum(d_state * state, axis=1)
        end = end + jnp.sum(k * k_to_state + b * b_to_state, axis=0)
        dw = from_here_on(False, r * dr - k * dk - b * db) + from_here_on(True, a * da)
        chunk.store_partial(dw_ref, chunk.unless_reset(end[None, :] + dw, reset_ref))
        read = dot(a * known.before, du, trans_a=True) + dot(r * known.upto, g, trans_a=True)
        return known.passed[:, None] * d_state + read

    d_final = plt.load(g_final_ref.at[index], mask=mask, other=0.0)
    d_initial = jax.lax.fori_loop(0, size.chunks, body, d_final)
    plt.store(d_initial_ref.at[index], d_initial, mask=mask)


def _sizes(options: Options, operands: Any) -> tuple[Sizes, int]:
    block = tuned.blocks("wkv7", DEFAULTS)
    resets = operands[7] is not None
    size = sizes_of(operands[2], operands[3], options.chunk, block["block_v"], resets)
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
    v = operands[3]
    state = (v.shape[0], size.heads, size.keys, size.values)
    shapes = [
        out_struct(v.shape, v.dtype, operands),
        out_struct(state, jnp.float32, operands),
        out_struct((size.chunks, *state), jnp.float32, operands),
    ]
    y, final, starts = _launch(
        _forward_kernel, size, warps, operands, (), shapes, "wkv7_forward", interpret
    )
    return (y, final), (starts,)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, interpret: bool = False
) -> tuple[Any, ...]:
    """One gradient per operand; the value tiles' shares are summed last."""
    size, warps = _sizes(options, operands)
    r, log_decay, k, v, a, b, initial, _ = operands
    tiles = size.value_tiles
    state = (v.shape[0], size.heads, size.keys, size.values)

    def shape(dims, dtype):
        return out_struct(dims, dtype, operands, cotangents)

    def shares(like):
        return shape((tiles, *like.shape), like.dtype if tiles == 1 else jnp.float32)

    shapes = [
        shares(r),
        shares(log_decay),
        shares(k),
        shape(v.shape, v.dtype),
        shares(a),
        shares(b),
        shape(state, jnp.float32),
    ]
    dr, dw, dk, dv, da, db, d_initial = _launch(
        _backward_kernel,
        size,
        warps,
        operands,
        (*residuals, *cotangents),
        shapes,
        "wkv7_backward",
        interpret,
    )
    d_initial = None if initial is None else d_initial
    dr, dw, dk, da, db = (x.sum(0) for x in (dr, dw, dk, da, db))
    return dr, dw, dk, dv, da, db, d_initial, None
