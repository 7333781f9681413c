"""State-space duality on a GPU, in chunks, as matrix products.

Section 6 of Dao & Gu, ICML 2024, arXiv 2405.21060; see `kernels`. The state at every chunk boundary
is stored; everything else is computed again.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, next_power_of_2, out_struct
from pallas_kernels.ssd import kernels
from pallas_kernels.ssd.reference import Options
from pallas_kernels.ssd.tiles import Sizes, chunk_sums

DEFAULTS = {"block_n": 64, "block_p": 64, "together": 8, "num_warps": 4}


def _fit(block: int, width: int) -> int:
    return max(16, min(block, next_power_of_2(width)))


def _size(options: Options, operands: Any, blocks: dict[str, int]) -> Sizes:
    x, _, b = operands[:3]
    _, time, heads, width = x.shape
    groups, states = b.shape[2:]
    return Sizes(
        time=time,
        heads=heads,
        groups=groups,
        states=states,
        width=width,
        chunk=options.chunk,
        block_n=_fit(blocks["block_n"], states),
        block_p=_fit(blocks["block_p"], width),
        together=min(blocks["together"], heads // groups),
        half=x.dtype == jnp.bfloat16,
        exact=x.dtype == jnp.float32,
    )


def _calls(options: Options, operands: Any, interpret: bool) -> tuple[Sizes, Any]:
    blocks = tuned.blocks("ssd", DEFAULTS)
    size = _size(options, operands, blocks)

    def call(kernel, name, grid, out_shape, *arrays):
        run = gpu_call(
            kernel,
            grid=grid,
            out_shape=out_shape,
            name=f"ssd_{name}",
            interpret=interpret,
            num_warps=blocks["num_warps"],
        )
        return run(*arrays)

    return size, call


def _states(size: Sizes, call: Any, arrays: Any, start: jax.Array, backward: bool) -> jax.Array:
    """(B, N + 1, H, N, P) states at the chunk boundaries, or their cotangents."""
    batch, heads, states, width = start.shape
    shape = (batch, size.chunks + 1, heads, states, width)
    return call(
        functools.partial(kernels.states, size, backward),
        f"states{'_backward' * backward}",
        (batch * heads, size.state_tiles * size.width_tiles),
        out_struct(shape, jnp.float32, *arrays, start),
        *arrays,
        start.astype(jnp.float32)[:, None],
    )


def forward(options: Options, *operands: Any, interpret: bool = False) -> tuple[Any, Any]:
    """((y, final state), states at the chunk boundaries); see `reference` for the operands."""
    x, log_decay, b, c, initial_state, reset = operands
    size, call = _calls(options, operands, interpret)
    g, numbers = chunk_sums(log_decay, reset, options.chunk)
    if initial_state is None:
        shape = (x.shape[0], size.heads, size.states, size.width)
        initial_state = jnp.zeros(shape, jnp.float32)
    states = _states(size, call, (b, x, g, numbers), initial_state, False)
    arrays = (x, b, c, g, numbers, states)
    y = call(
        functools.partial(kernels.outputs, size),
        "outputs",
        (x.shape[0] * size.heads * size.chunks, size.width_tiles),
        out_struct(x.shape, x.dtype, *arrays),
        *arrays,
    )
    return (y, states[:, -1]), (states,)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, interpret: bool = False
) -> tuple[Any, ...]:
    """One gradient per operand."""
    x, log_decay, b, c, initial_state, reset = operands
    (states,), (dy, d_final) = residuals, cotangents
    size, call = _calls(options, operands, interpret)
    g, numbers = chunk_sums(log_decay, reset, options.chunk)
    d_states = _states(size, call, (c, dy, g, numbers), d_final, True)
    arrays = (x, b, c, g, numbers, states, dy, d_states)
    batch, time, groups, width = b.shape
    decays = (batch, size.heads, time)
    dx, dg = call(
        functools.partial(kernels.inputs, size),
        "inputs",
        (batch * size.heads * size.chunks,),
        [out_struct(x.shape, x.dtype, *arrays), out_struct(decays, jnp.float32, *arrays)],
        *arrays,
    )
    partial = out_struct((size.parts, batch, time, groups, width), jnp.float32, *arrays)
    dc, db = call(
        functools.partial(kernels.projections, size),
        "projections",
        (batch * groups * size.parts * size.chunks, size.state_tiles),
        [partial, partial],
        *arrays,
    )
    first = None if initial_state is None else d_states[:, 0]
    return dx, dg.swapaxes(1, 2), jnp.sum(db, axis=0), jnp.sum(dc, axis=0), first, None
