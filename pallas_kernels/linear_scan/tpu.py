"""The scan over time for TPUs: grid (B, D / lanes, T / chunk), the state staying in VMEM.

The time axis of the grid runs in order, so a chunk finds in VMEM the state that the one before
it left. A chunk is worked through in tiles of `TILE` rows, which both float32 and bfloat16 load
whole. Cuts between packed sequences are folded into the factors beforehand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.call import out_struct
from pallas_kernels.linear_scan.parts import Parts, join, plus, split, times, where
from pallas_kernels.linear_scan.reference import Options, cut

CHUNK, LANES, TILE = 256, 128, 16


class _Plan(NamedTuple):
    time: int
    parts: int
    chunk: int
    backwards: bool
    gradient: bool


def _rows(refs: Any, start: Any) -> list[Parts]:
    """The rows of one tile, in float32, each (1, lanes)."""
    tiles = [ref[0, pl.ds(start, TILE), :].astype(jnp.float32) for ref in refs]
    return [tuple(tile[j : j + 1] for tile in tiles) for j in range(TILE)]


def _kernel(plan: _Plan, *refs: Any) -> None:
    p = plan.parts
    a, x, initial = refs[:p], refs[p : 2 * p], refs[2 * p : 3 * p]
    h, final, carry = refs[3 * p : 4 * p], refs[4 * p : 5 * p], refs[5 * p :]
    step = pl.program_id(2)
    chunk = pl.num_programs(2) - 1 - step if plan.backwards else step

    @pl.when(step == 0)
    def _():
        for ref, first in zip(carry, initial, strict=True):
            ref[...] = first[0]

    def tile(i, state):
        i = plan.chunk // TILE - 1 - i if plan.backwards else i
        start = pl.multiple_of(i * TILE, TILE)
        factors, added = _rows(a, start), _rows(x, start)
        results: list[Any] = [None] * TILE
        for k in range(TILE):
            j = TILE - 1 - k if plan.backwards else k
            live = chunk * plan.chunk + start + j < plan.time
            if plan.gradient:
                results[j] = plus(state, added[j])
                after = times(factors[j], results[j])
            else:
                results[j] = after = plus(times(factors[j], state), added[j])
            state = where(live, after, state)
        for part, ref in enumerate(h):
            rows = jnp.concatenate([row[part] for row in results])
            ref[0, pl.ds(start, TILE), :] = rows.astype(ref.dtype)
        return state

    state = tuple(ref[...] for ref in carry)
    state = jax.lax.fori_loop(0, plan.chunk // TILE, tile, state)
    for ref, last, value in zip(carry, final, state, strict=True):
        ref[...] = value
        last[0] = value


def _scan(
    a: jax.Array,
    x: jax.Array,
    state: jax.Array,
    *,
    backwards: bool,
    gradient: bool,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """All states and the last; for the gradient, all l and the c that leaves the first step."""
    batch, time, channels = x.shape
    chunk = min(CHUNK, -(-time // TILE) * TILE)
    chunks = pl.cdiv(time, chunk)
    parts = len(split(x))
    plan = _Plan(time, parts, chunk, backwards, gradient)

    def in_time(b, d, t):
        return b, chunks - 1 - t if backwards else t, d

    sequence = pl.BlockSpec((1, chunk, LANES), in_time)
    one_row = pl.BlockSpec((1, 1, LANES), lambda b, d, t: (b, 0, d))
    outs = [out_struct(x.shape, part.dtype, a, x) for part in split(x)]
    outs += [out_struct((batch, 1, channels), jnp.float32, a, x) for _ in range(parts)]
    found = pl.pallas_call(
        lambda *refs: _kernel(plan, *refs),
        grid=(batch, pl.cdiv(channels, LANES), chunks),
        in_specs=[sequence] * (2 * parts) + [one_row] * parts,
        out_specs=[sequence] * parts + [one_row] * parts,
        out_shape=outs,
        scratch_shapes=[pltpu.VMEM((1, LANES), jnp.float32) for _ in range(parts)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        name="linear_scan_backward" if gradient else "linear_scan",
        interpret=interpret,
    )(*split(a), *split(x), *(part.astype(jnp.float32)[:, None] for part in split(state)))
    return join(tuple(found[:parts])), join(tuple(found[parts:]))[:, 0]


def _folded(options: Options, a: jax.Array, reset: jax.Array | None) -> jax.Array:
    return a if reset is None else jnp.where(cut(options, reset)[..., None], 0, a).astype(a.dtype)


def forward(
    options: Options,
    a: jax.Array,
    x: jax.Array,
    initial_state: jax.Array | None,
    reset: jax.Array | None,
    *,
    interpret: bool = False,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array]]:
    """((h, final state), residuals); see `reference` for the operands."""
    state = jnp.zeros_like(x[:, 0]) if initial_state is None else initial_state
    h, final = _scan(
        _folded(options, a, reset),
        x,
        state,
        backwards=options.reverse,
        gradient=False,
        interpret=interpret,
    )
    return (h, final), (h,)


def backward(
    options: Options,
    operands: tuple[Any, ...],
    residuals: tuple[jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
    *,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """The gradients of (a, x, initial_state, reset), the last None.

    The scan gives dx; da_t = dx_t h_{t-1} is left to XLA, which fuses it into one pass.
    """
    a, _, initial_state, reset = operands
    (h,), (g, g_final) = residuals, cotangents
    dx, first = _scan(
        _folded(options, a, reset),
        g,
        g_final,
        backwards=not options.reverse,
        gradient=True,
        interpret=interpret,
    )
    start = jnp.zeros_like(h[:, :1]) if initial_state is None else initial_state[:, None]
    start = start.astype(h.dtype)
    if options.reverse:
        before = jnp.concatenate([h[:, 1:], start], axis=1)
    else:
        before = jnp.concatenate([start, h[:, :-1]], axis=1)
    da = _folded(options, dx * before, reset)
    return da, dx, (None if initial_state is None else first), None
