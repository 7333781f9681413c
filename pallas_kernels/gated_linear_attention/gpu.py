"""Gated linear attention on a GPU, in chunks with secondary blocks, as matrix products.

Section 4 of Yang et al., ICML 2024, arXiv 2312.06635; see `tiles` for the decays and `kernels` for
the kernels. The state at every chunk boundary is stored; everything else is computed again.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, next_power_of_2, out_struct
from pallas_kernels.gated_linear_attention import kernels
from pallas_kernels.gated_linear_attention.reference import Options
from pallas_kernels.gated_linear_attention.tiles import Sizes, chunk_sums

DEFAULTS = {
    "states_block_k": 64,
    "states_block_v": 64,
    "outputs_block_k": 64,
    "outputs_block_v": 128,
    "gradients_block_k": 64,
    "gradients_block_v": 64,
    "num_warps": 4,
}


def _fit(block: int, width: int) -> int:
    return max(16, min(block, next_power_of_2(width)))


def _launch(name: str, options: Options, operands: Any, out_shape: Any, interpret: bool) -> Any:
    """(sizes, grid of chunks, call) of one of the kernels."""
    q, _, v = operands[:3]
    batch, time, heads, keys = q.shape
    blocks = tuned.blocks("gated_linear_attention", DEFAULTS)
    size = Sizes(
        time=time,
        heads=heads,
        keys=keys,
        values=v.shape[-1],
        chunk=options.chunk,
        sub=options.sub,
        block_k=_fit(blocks[f"{name}_block_k"], keys),
        block_v=_fit(blocks[f"{name}_block_v"], v.shape[-1]),
        scale=options.scale_of(keys),
        half=v.dtype == jnp.bfloat16,
        exact=v.dtype == jnp.float32,
    )
    grid = {
        "states": (batch * heads, size.key_tiles * size.value_tiles),
        "outputs": (batch * heads * size.chunks, size.value_tiles),
        "gradients": (batch * heads * size.chunks, size.key_tiles),
    }[name]
    call = functools.partial(
        gpu_call,
        grid=grid,
        out_shape=out_shape,
        interpret=interpret,
        num_warps=blocks["num_warps"],
    )
    return size, call


def _states(
    options: Options, operands: Any, arrays: Any, start: jax.Array, backward: bool, interpret: bool
) -> jax.Array:
    """(B, N + 1, H, K, V) states at the chunk boundaries, or their cotangents."""
    a, z, b, numbers = arrays
    batch, heads, keys, values = start.shape
    shape = (batch, b.shape[1] // options.chunk + 1, heads, keys, values)
    out = out_struct(shape, jnp.float32, *arrays, start)
    size, call = _launch("states", options, operands, out, interpret)
    run = call(
        functools.partial(kernels.states, size, backward),
        name=f"gated_linear_attention_states{'_backward' * backward}",
    )
    return run(a, z, b, numbers, start.astype(jnp.float32)[:, None])


def _outputs(options: Options, operands: Any, arrays: Any, backward: bool, interpret: bool) -> Any:
    z = arrays[2]
    out = out_struct(z.shape, z.dtype, *arrays)
    size, call = _launch("outputs", options, operands, out, interpret)
    run = call(
        functools.partial(kernels.outputs, size, backward),
        name=f"gated_linear_attention_outputs{'_backward' * backward}",
    )
    return run(*arrays)


def forward(options: Options, *operands: Any, interpret: bool = False) -> tuple[Any, Any]:
    """((o, final state), states at the chunk boundaries); see `reference` for the operands."""
    q, k, v, log_decay, initial_state, reset = operands
    b, numbers = chunk_sums(log_decay, reset, options.chunk)
    if initial_state is None:
        initial_state = jnp.zeros((q.shape[0], *q.shape[2:], v.shape[-1]), jnp.float32)
    states = _states(options, operands, (k, v, b, numbers), initial_state, False, interpret)
    o = _outputs(options, operands, (q, k, v, b, numbers, states), False, interpret)
    return (o, states[:, -1]), (states,)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, interpret: bool = False
) -> tuple[Any, ...]:
    """One gradient per operand."""
    q, k, v, log_decay, initial_state, reset = operands
    (states,), (do, d_final) = residuals, cotangents
    b, numbers = chunk_sums(log_decay, reset, options.chunk)
    d_states = _states(options, operands, (q, do, b, numbers), d_final, True, interpret)
    dv = _outputs(options, operands, (k, q, do, b, numbers, d_states), True, interpret)
    arrays = (q, k, v, b, numbers, states, do, d_states)
    out = [out_struct(x.shape, x.dtype, *arrays) for x in (q, k, log_decay)]
    size, call = _launch("gradients", options, operands, out, interpret)
    run = call(functools.partial(kernels.gradients, size), name="gated_linear_attention_gradients")
    dq, dk, dg = run(*arrays)
    return dq, dk, dv, dg, (None if initial_state is None else d_states[:, 0]), None
