"""The scan over time with one lane per channel, and its gradient, as Triton kernels.

A program owns `columns` channels of one batch row and keeps their state in registers. It works
through `steps` time steps at once and asks for the next ones before it computes, so that enough
bytes are on their way while the state, which is serial, advances.

Where B x D lanes are too few to keep the memory busy, time is cut into segments as well: a first
kernel reads each segment and leaves its product of factors and the state it would end with from
zero; in the second, a program finds the state its segment starts from by going through the
segments before it. Reading the operands twice costs 5/3 of the bytes of one pass, so this is
done only below half of `lanes`.

The gradient is the same scan the other way. With c the state of that scan as it leaves a step,
    l_t = g_t + c_{t+1},   dx_t = l_t,   da_t = l_t h_{t-1},   c_t = a_t l_t,
and the h that it needs is the result itself.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.linear_scan.parts import ONE, Parts, join, plus, split, times, where
from pallas_kernels.linear_scan.reference import Options, cut

DEFAULTS = {"columns": 32, "steps": 16, "lanes": 16384, "num_warps": 1}
# The steps of a round are written out one by one, which the interpreter is slow to compile.
INTERPRETED = {"steps": 2, "lanes": 128}


class _Plan(NamedTuple):
    """How the work is laid out: sizes of the arrays, of a program's share, and the direction."""

    batch: int
    time: int
    channels: int
    parts: int
    columns: int
    steps: int
    segments: int
    length: int
    backwards: bool
    cuts: bool

    @property
    def column_blocks(self) -> int:
        return math.ceil(self.channels / self.columns)


def _plan(
    a: jax.Array, reset: jax.Array | None, backwards: bool, interpret: bool
) -> tuple[_Plan, dict[str, Any]]:
    """The plan, and how its kernels are launched."""
    block = tuned.blocks("linear_scan", DEFAULTS) | (INTERPRETED if interpret else {})
    batch, time, channels = a.shape
    parts = 2 if jnp.iscomplexobj(a) else 1
    wanted = block["lanes"] // max(batch * channels * parts, 1)
    segments = max(1, min(wanted, time // (4 * block["steps"])))
    length = math.ceil(time / segments / block["steps"]) * block["steps"]
    plan = _Plan(
        batch=batch,
        time=time,
        channels=channels,
        parts=parts,
        columns=block["columns"],
        steps=block["steps"],
        segments=math.ceil(time / length),
        length=length,
        backwards=backwards,
        cuts=reset is not None,
    )
    return plan, {"interpret": interpret, "num_warps": block["num_warps"]}


def _here(plan: _Plan, segments: int) -> tuple[Any, Any, Any, Any]:
    """Batch row, segment, channels and their mask of this program, of `segments` per row."""
    row, segment = pl.program_id(0) // segments, pl.program_id(0) % segments
    columns = pl.program_id(1) * plan.columns + jnp.arange(plan.columns)
    return row, segment, columns, columns < plan.channels


def _when(plan: _Plan, segment: Any, step: Any) -> tuple[Any, Any]:
    """Time index of a step of a segment, and whether the segment has that step."""
    place = segment * plan.length + step
    live = (step < plan.length) & (place < plan.time)
    place = jnp.where(live, place, 0)
    return (plan.time - 1 - place if plan.backwards else place), live


def _load(refs: Any, row: Any, t: Any, columns: Any, mask: Any, other: tuple = (0.0, 0.0)) -> Parts:
    return tuple(
        plt.load(ref.at[row, t, columns], mask=mask, other=fill).astype(jnp.float32)
        for ref, fill in zip(refs, other, strict=False)
    )


def _store(refs: Any, index: tuple, values: Parts, mask: Any) -> None:
    for ref, value in zip(refs, values, strict=True):
        plt.store(ref.at[index], value.astype(ref.dtype), mask=mask)


def _zero_where_cut(plan: _Plan, cut_refs: Any, row: Any, t: Any, values: Parts) -> Parts:
    if not plan.cuts:
        return values
    stopped = cut_refs[0][row, t] != 0
    return tuple(jnp.where(stopped, 0.0, value) for value in values)


def _zeros(plan: _Plan) -> Parts:
    return tuple(jnp.zeros((plan.columns,), jnp.float32) for _ in range(plan.parts))


def _groups(refs: Any, parts: int, *counts: int) -> list[Any]:
    """`refs` cut into groups: `parts` references for each count of 1, none for a 0."""
    found, at = [], 0
    for count in counts:
        found.append(refs[at : at + count * parts])
        at += count * parts
    return [*found, refs[at:]]


def _run_segment(plan: _Plan, load: Any, advance: Any, state: Any) -> Any:
    """`advance(state, step, loaded)` over the segment, `load(step)` being one round ahead."""

    def load_round(start):
        return tuple(load(start + j) for j in range(plan.steps))

    def round_(i, carry):
        state, loaded = carry
        ahead = load_round((i + 1) * plan.steps)
        for j in range(plan.steps):
            state = advance(state, i * plan.steps + j, loaded[j])
        return state, ahead

    return jax.lax.fori_loop(0, plan.length // plan.steps, round_, (state, load_round(0)))[0]


def _loader(plan: _Plan, a: Any, x: Any, cuts: Any, here: Any) -> Any:
    row, segment, columns, inside = here

    def load(step):
        t, live = _when(plan, segment, step)
        mask = inside & live
        # A step that is not there multiplies by one and adds nothing.
        factor = _load(a, row, t, columns, mask, ONE)
        if plan.cuts:
            factor = where(live, _zero_where_cut(plan, cuts, row, t, factor), factor)
        return factor, _load(x, row, t, columns, mask)

    return load


def _start(plan: _Plan, here: Any, products: Any, ends: Any, state: Parts) -> Parts:
    """The state in which this program's segment starts, `state` being that of the first."""
    row, segment, columns, inside = here
    if plan.segments == 1:
        return state

    def over(s, state):
        product = _load(products, row, s, columns, inside)
        return plus(times(product, state), _load(ends, row, s, columns, inside))

    return jax.lax.fori_loop(0, segment, over, state)


def _summary_kernel(plan: _Plan, add_first: bool, *refs: Any) -> None:
    """Product of the factors of a segment, and its end from a zero state."""
    a, x, rest = _groups(refs, plan.parts, 1, 1)
    cuts, (products, ends, _) = rest[: plan.cuts], _groups(rest[plan.cuts :], plan.parts, 1, 1)
    here = _here(plan, plan.segments - 1)
    row, segment, columns, inside = here

    def advance(carry, step, loaded):
        product, state = carry
        factor, added = loaded
        if add_first:
            state = times(factor, plus(state, added))
        else:
            state = plus(times(factor, state), added)
        return times(factor, product), state

    one = (jnp.ones((plan.columns,), jnp.float32), *_zeros(plan)[1:])
    load = _loader(plan, a, x, cuts, here)
    product, end = _run_segment(plan, load, advance, (one, _zeros(plan)))
    _store(products, (row, segment, columns), product, inside)
    _store(ends, (row, segment, columns), end, inside)


def _forward_kernel(plan: _Plan, *refs: Any) -> None:
    many = int(plan.segments > 1)
    a, x, initial, products, ends, rest = _groups(refs, plan.parts, 1, 1, 1, many, many)
    cuts, (h, final, _) = rest[: plan.cuts], _groups(rest[plan.cuts :], plan.parts, 1, 1)
    here = _here(plan, plan.segments)
    row, segment, columns, inside = here
    state = _start(plan, here, products, ends, _load(initial, row, 0, columns, inside))

    def advance(state, step, loaded):
        t, live = _when(plan, segment, step)
        state = plus(times(loaded[0], state), loaded[1])
        _store(h, (row, t, columns), state, inside & live)
        return state

    state = _run_segment(plan, _loader(plan, a, x, cuts, here), advance, state)
    _store(final, (row, columns), state, inside & (segment == plan.segments - 1))


def _backward_kernel(plan: _Plan, *refs: Any) -> None:
    many = int(plan.segments > 1)
    groups = _groups(refs, plan.parts, 1, 1, 1, many, many, 1, 1)
    a, g, c_last, products, ends, initial, h, rest = groups
    cuts, (da, dx, c_first, _) = rest[: plan.cuts], _groups(rest[plan.cuts :], plan.parts, 1, 1, 1)
    here = _here(plan, plan.segments)
    row, segment, columns, inside = here
    c = _start(plan, here, products, ends, _load(c_last, row, 0, columns, inside))
    first = _load(initial, row, 0, columns, inside)
    load_both = _loader(plan, a, g, cuts, here)

    def load(step):
        t, live = _when(plan, segment, step)
        before = t - 1 if plan.backwards else t + 1
        within = (before >= 0) & (before < plan.time)
        mask = inside & live & within
        previous = _load(h, row, jnp.where(within, before, t), columns, mask)
        previous = where(within, previous, first)
        # Where no state enters, the slope by the factor is zero; flags are read here, ahead of use.
        return *load_both(step), _zero_where_cut(plan, cuts, row, t, previous)

    def advance(c, step, loaded):
        factor, cotangent, previous = loaded
        t, live = _when(plan, segment, step)
        c = plus(c, cotangent)
        _store(dx, (row, t, columns), c, inside & live)
        _store(da, (row, t, columns), times(c, previous), inside & live)
        return times(factor, c)

    c = _run_segment(plan, load, advance, c)
    _store(c_first, (row, columns), c, inside & (segment == plan.segments - 1))


def _like(x: jax.Array, shape: tuple[int, ...], dtype: Any, *operands: Any) -> list[Any]:
    """What a kernel returns for an array like `x`: one struct per part."""
    return [out_struct(shape, dtype, *operands) for _ in split(x)]


def _summaries(
    plan: _Plan, add_first: bool, arrays: list[Any], cuts: list[Any], name: str, **launch: Any
) -> list[Any]:
    if plan.segments == 1:
        return []
    shape = (plan.batch, plan.segments - 1, plan.channels)
    outs = [out_struct(shape, jnp.float32, *arrays) for _ in range(2 * plan.parts)]
    kernel = lambda *refs: _summary_kernel(plan, add_first, *refs)  # noqa: E731
    grid = (plan.batch * (plan.segments - 1), plan.column_blocks)
    return gpu_call(kernel, grid=grid, out_shape=outs, name=name, **launch)(*arrays, *cuts)


def _state(x: jax.Array, state: jax.Array | None) -> list[Any]:
    """The parts of a (B, D) state as (B, 1, D) float32, zeros if it is absent."""
    state = jnp.zeros_like(x[:, 0]) if state is None else state
    return [part.astype(jnp.float32)[:, None] for part in split(state)]


def _cuts(options: Options, reset: jax.Array | None) -> list[Any]:
    return [] if reset is None else [cut(options, reset).astype(jnp.int32)]


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
    plan, launch = _plan(a, reset, options.reverse, interpret)
    arrays, cuts = [*split(a), *split(x)], _cuts(options, reset)
    summaries = _summaries(plan, False, arrays, cuts, "linear_scan_segments", **launch)
    real = split(x)[0].dtype
    outs = [
        *_like(x, x.shape, real, a, x),
        *_like(x, (plan.batch, plan.channels), jnp.float32, a, x),
    ]
    parts = gpu_call(
        lambda *refs: _forward_kernel(plan, *refs),
        grid=(plan.batch * plan.segments, plan.column_blocks),
        out_shape=outs,
        name="linear_scan",
        **launch,
    )(*arrays, *_state(x, initial_state), *summaries, *cuts)
    h, final = join(tuple(parts[: plan.parts])), join(tuple(parts[plan.parts :]))
    return (h, final), (h,)


def backward(
    options: Options,
    operands: tuple[Any, ...],
    residuals: tuple[jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
    *,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """The gradients of (a, x, initial_state, reset), the last None."""
    a, x, initial_state, reset = operands
    (h,), (g, g_final) = residuals, cotangents
    plan, launch = _plan(a, reset, not options.reverse, interpret)
    arrays, cuts = [*split(a), *split(g)], _cuts(options, reset)
    summaries = _summaries(plan, True, arrays, cuts, "linear_scan_backward_segments", **launch)
    outs = [
        *_like(a, a.shape, split(a)[0].dtype, a, x, g),
        *_like(x, x.shape, split(x)[0].dtype, a, x, g),
        *_like(x, (plan.batch, plan.channels), jnp.float32, a, x, g),
    ]
    parts = gpu_call(
        lambda *refs: _backward_kernel(plan, *refs),
        grid=(plan.batch * plan.segments, plan.column_blocks),
        out_shape=outs,
        name="linear_scan_backward",
        **launch,
    )(*arrays, *_state(x, g_final), *summaries, *_state(x, initial_state), *split(h), *cuts)
    da, dx, first = (join(tuple(parts[i * plan.parts : (i + 1) * plan.parts])) for i in range(3))
    return da, dx, (None if initial_state is None else first), None
