"""WKV-4 on a GPU: one lane per channel walks through time with its state in registers.

The next chunk is loaded while the present one is worked on, for a lane's steps depend on one
another but its loads do not. The backward pass walks the chunks in reverse, and repeats each one
forwards from the state stored at its start; its steps then lie in registers.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, next_power_of_2, out_struct
from pallas_kernels.wkv4.reference import Options, empty_state
from pallas_kernels.wkv4.steps import back, cleared, kept, read, write

DEFAULTS = {"block_c": 32, "num_warps": 1}


def _place(channels: int, block: int) -> tuple[Any, Any, Any]:
    programs = pl.cdiv(channels, block)
    lanes = pl.program_id(0) % programs * block + jnp.arange(block)
    return pl.program_id(0) // programs, lanes, lanes < channels


def _load(ref, *index, mask, other=0.0):
    return plt.load(ref.at[index], mask=mask, other=other).astype(jnp.float32)


def _load_chunk(refs, reset_ref, chunk, number, place, time):
    b, lanes, inside = place
    rows = []
    for step in range(chunk):
        t = number * chunk + step
        valid = (t >= 0) & (t < time)
        row = [_load(ref, b, t, lanes, mask=inside & valid) for ref in refs]
        if reset_ref is not None:
            row.append(plt.load(reset_ref.at[b, t], mask=valid, other=0))
        rows.append(tuple(row))
    return tuple(rows)


def _forward_kernel(*refs, chunk, time, channels, block, resets):
    k_ref, v_ref, w_ref, u_ref, initial_ref, *rest = refs
    reset_ref = rest.pop(0) if resets else None
    y_ref, final_ref, starts_ref = rest
    place = b, lanes, inside = _place(channels, block)
    w, u = _load(w_ref, lanes, mask=inside), _load(u_ref, lanes, mask=inside)
    state = tuple(_load(initial_ref, i, b, lanes, mask=inside) for i in range(3))
    load = functools.partial(_load_chunk, (k_ref, v_ref), reset_ref, chunk, place=place, time=time)

    def body(number, carry):
        state, rows = carry
        following = load(number + 1)
        for i in range(3):
            plt.store(starts_ref.at[number, i, b, lanes], state[i], mask=inside)
        for step, (k, v, *flag) in enumerate(rows):
            t = number * chunk + step
            before = cleared(flag[0] != 0, state) if resets else state
            y = read(before, k, v, u)[0]
            plt.store(y_ref.at[b, t, lanes], y.astype(y_ref.dtype), mask=inside & (t < time))
            state = kept(t < time, write(before, k, v, w), state)
        return state, following

    state, _ = jax.lax.fori_loop(0, pl.cdiv(time, chunk), body, (state, load(jnp.int32(0))))
    for i in range(3):
        plt.store(final_ref.at[i, b, lanes], state[i], mask=inside)


def _backward_kernel(*refs, chunk, time, channels, block, resets):
    k_ref, v_ref, w_ref, u_ref, initial_ref, *rest = refs
    reset_ref = rest.pop(0) if resets else None
    starts_ref, final_ref, g_ref, g_final_ref, dk_ref, dv_ref, dw_ref, du_ref, d_initial_ref = rest
    place = b, lanes, inside = _place(channels, block)
    w, u = _load(w_ref, lanes, mask=inside), _load(u_ref, lanes, mask=inside)
    a, q_cotangent = (_load(g_final_ref, i, b, lanes, mask=inside) for i in range(2))
    cotangent = a, q_cotangent, -_load(final_ref, 2, b, lanes, mask=inside)
    load = functools.partial(
        _load_chunk, (k_ref, v_ref, g_ref), reset_ref, chunk, place=place, time=time
    )
    chunks = pl.cdiv(time, chunk)

    def body(turn, carry):
        cotangent, dw, du, rows = carry
        number = chunks - 1 - turn
        following = load(number - 1)
        state = tuple(_load(starts_ref, number, i, b, lanes, mask=inside) for i in range(3))
        states = []
        for k, v, _, *flag in rows:
            state = cleared(flag[0] != 0, state) if resets else state
            states.append(state)
            state = write(state, k, v, w)
        for step in reversed(range(chunk)):
            t = number * chunk + step
            k, v, g, *flag = rows[step]
            new, (dk, dv, dw_t, du_t) = back(cotangent, states[step], k, v, g, w, u)
            mask = inside & (t < time)
            plt.store(dk_ref.at[b, t, lanes], dk.astype(dk_ref.dtype), mask=mask)
            plt.store(dv_ref.at[b, t, lanes], dv.astype(dv_ref.dtype), mask=mask)
            dw, du = dw + jnp.where(t < time, dw_t, 0.0), du + jnp.where(t < time, du_t, 0.0)
            new = cleared(flag[0] != 0, new) if resets else new
            cotangent = kept(t < time, new, cotangent)
        return cotangent, dw, du, following

    zero = jnp.zeros((block,), jnp.float32)
    (a, q_cotangent, m), dw, du, _ = jax.lax.fori_loop(
        0, chunks, body, (cotangent, zero, zero, load(jnp.int32(chunks - 1)))
    )
    p, q, o = (_load(initial_ref, i, b, lanes, mask=inside) for i in range(3))
    scale = jnp.exp(o + m)
    dp, dq = scale * a, scale * q_cotangent
    for i, gradient in enumerate((dp, dq, p * dp + q * dq)):
        plt.store(d_initial_ref.at[i, b, lanes], gradient, mask=inside)
    plt.store(dw_ref.at[b, lanes], dw, mask=inside)
    plt.store(du_ref.at[b, lanes], du, mask=inside)


def _launch(kernel, options, operands, extra, out_shape, name, interpret):
    k, v, w, u, initial, reset = operands
    batch, time, channels = k.shape
    sizes = tuned.blocks("wkv4", DEFAULTS)
    block = min(sizes["block_c"], next_power_of_2(channels))
    if initial is None:
        initial = empty_state(batch, channels, jnp.float32)
    arrays = [k, v, w, u, initial] + ([] if reset is None else [reset.astype(jnp.int32)])
    static = {
        "chunk": options.chunk,
        "time": time,
        "channels": channels,
        "block": block,
        "resets": reset is not None,
    }
    return gpu_call(
        functools.partial(kernel, **static),
        grid=(batch * pl.cdiv(channels, block),),
        out_shape=out_shape,
        name=name,
        interpret=interpret,
        num_warps=sizes["num_warps"],
    )(*arrays, *extra)


def forward(options: Options, *operands: Any, interpret: bool = False) -> tuple[Any, Any]:
    """((y, final state), (states at the start of every chunk (T/chunk, 3, B, C), final state))."""
    k = operands[0]
    batch, time, channels = k.shape
    shapes = [
        out_struct(k.shape, k.dtype, operands),
        out_struct((3, batch, channels), jnp.float32, operands),
        out_struct((pl.cdiv(time, options.chunk), 3, batch, channels), jnp.float32, operands),
    ]
    y, final, starts = _launch(
        _forward_kernel, options, operands, (), shapes, "wkv4_forward", interpret
    )
    return (y, final), (starts, final)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, interpret: bool = False
) -> tuple[Any, ...]:
    """One gradient per operand; those of w and u are summed over the batch last."""
    k, v, _, _, initial, _ = operands
    batch, _, channels = k.shape
    shapes = [
        out_struct(k.shape, k.dtype, operands, cotangents),
        out_struct(v.shape, v.dtype, operands, cotangents),
        out_struct((batch, channels), jnp.float32, operands, cotangents),
        out_struct((batch, channels), jnp.float32, operands, cotangents),
        out_struct((3, batch, channels), jnp.float32, operands, cotangents),
    ]
    dk, dv, dw, du, d_initial = _launch(
        _backward_kernel,
        options,
        operands,
        (*residuals, *cotangents),
        shapes,
        "wkv4_backward",
        interpret,
    )
    return dk, dv, dw.sum(0), du.sum(0), None if initial is None else d_initial, None
