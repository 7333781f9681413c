"""The neurons with one lane each, forward and backward in time, as Triton kernels.

A program owns `columns` channels of one batch row and keeps their potential in registers. It takes
`chunk` time steps at once and asks for those of the next chunk before it computes. Of all
potentials only the first of each chunk is kept; the backward kernel computes the others again, a
chunk at a time, in registers. Each program leaves its sums over time for the gradients of decay
and threshold, and XLA adds those up over the batch: no atomics, the same bits every time.

Spikes make the recurrence nonlinear, so time cannot be cut into segments that run at once: the
B x D lanes are all there is.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.lif import neuron
from pallas_kernels.lif.neuron import Options

DEFAULTS = {"columns": 32, "num_warps": 1}


class _Plan(NamedTuple):
    batch: int
    time: int
    channels: int
    columns: int
    resets: bool

    def here(self) -> tuple[Any, Any, Any]:
        """Batch row, channels and their mask of this program."""
        columns = pl.program_id(1) * self.columns + jnp.arange(self.columns)
        return pl.program_id(0), columns, columns < self.channels


def _vector(ref: Any, *index: Any, mask: Any, other: float = 0.0) -> Any:
    return plt.load(ref.at[index], mask=mask, other=other).astype(jnp.float32)


def _put(ref: Any, *index: Any, value: Any, mask: Any) -> None:
    plt.store(ref.at[index], value.astype(ref.dtype), mask=mask)


def _step_at(plan: _Plan, t: Any) -> tuple[Any, Any]:
    """A time index that exists, and whether it is `t`."""
    live = (t >= 0) & (t < plan.time)
    return jnp.where(live, t, 0), live


def _flag(plan: _Plan, flags: Any, row: Any, t: Any) -> tuple[Any, ...]:
    """Whether a packed sequence starts at step `t`, as one number; nothing without flags."""
    return (flags[0][row, t],) if plan.resets else ()


def _entering(flag: tuple[Any, ...], state: Any) -> Any:
    """`state`, zero at the first step of a packed sequence."""
    return jnp.where(flag[0] != 0, 0.0, state) if flag else state


def _forward_kernel(plan: _Plan, options: Options, *refs: Any) -> None:
    current, decay_ref, threshold_ref, initial, *flags = refs[: 4 + plan.resets]
    spikes, final, starts = refs[4 + plan.resets :]
    row, columns, inside = plan.here()
    decay = _vector(decay_ref, columns, mask=inside)
    threshold = _vector(threshold_ref, columns, mask=inside, other=1.0)

    def load(i):
        found = []
        for j in range(options.chunk):
            t, live = _step_at(plan, i * options.chunk + j)
            now = _vector(current, row, t, columns, mask=inside & live)
            found.append((now, _flag(plan, flags, row, t)))
        return tuple(found)

    def chunk(i, carry):
        state, steps = carry
        ahead = load(i + 1)
        _put(starts, row, i, columns, value=state, mask=inside)
        for j, (now, flag) in enumerate(steps):
            t, live = _step_at(plan, i * options.chunk + j)
            before = _entering(flag, state)
            _, spike, after = neuron.advance(options, decay, threshold, before, now)
            _put(spikes, row, t, columns, value=spike, mask=inside & live)
            state = jnp.where(live, after, state)
        return state, ahead

    carry = (_vector(initial, row, columns, mask=inside), load(0))
    state, _ = jax.lax.fori_loop(0, math.ceil(plan.time / options.chunk), chunk, carry)
    _put(final, row, columns, value=state, mask=inside)


def _backward_kernel(plan: _Plan, options: Options, *refs: Any) -> None:
    count = 6 + plan.resets
    current, decay_ref, threshold_ref, starts, d_spikes, d_final, *flags = refs[:count]
    d_current, d_decay, d_threshold, d_initial = refs[count:]
    row, columns, inside = plan.here()
    decay = _vector(decay_ref, columns, mask=inside)
    threshold = _vector(threshold_ref, columns, mask=inside, other=1.0)
    chunks = math.ceil(plan.time / options.chunk)

    def load(i):
        """Potential before chunk `i`; current, cotangent and flag of its steps."""
        found = []
        for j in range(options.chunk):
            t, live = _step_at(plan, i * options.chunk + j)
            mask = inside & live
            now = _vector(current, row, t, columns, mask=mask)
            cotangent = _vector(d_spikes, row, t, columns, mask=mask)
            found.append((now, cotangent, _flag(plan, flags, row, t)))
        return _vector(starts, row, jnp.maximum(i, 0), columns, mask=inside), tuple(found)

    def chunk(k, carry):
        d_state, to_decay, to_threshold, (state, steps) = carry
        i = chunks - 1 - k
        ahead = load(i - 1)
        potentials = []
        for now, _, flag in steps:
            before = _entering(flag, state)
            v, _, state = neuron.advance(options, decay, threshold, before, now)
            potentials.append((before, v))
        for j in reversed(range(options.chunk)):
            (_, cotangent, flag), (before, v) = steps[j], potentials[j]
            t, live = _step_at(plan, i * options.chunk + j)
            dv, d_level = neuron.gradient(options, threshold, v, cotangent, d_state)
            _put(d_current, row, t, columns, value=options.gain * dv, mask=inside & live)
            to_decay += jnp.where(live, dv * before, 0.0)
            to_threshold += jnp.where(live, d_level, 0.0)
            d_state = jnp.where(live, _entering(flag, decay * dv), d_state)
        return d_state, to_decay, to_threshold, ahead

    zero = jnp.zeros((plan.columns,), jnp.float32)
    carry = (_vector(d_final, row, columns, mask=inside), zero, zero, load(chunks - 1))
    d_state, to_decay, to_threshold, _ = jax.lax.fori_loop(0, chunks, chunk, carry)
    _put(d_initial, row, columns, value=d_state, mask=inside)
    _put(d_decay, row, columns, value=to_decay, mask=inside)
    _put(d_threshold, row, columns, value=to_threshold, mask=inside)


def _launch(current: Any, reset: Any, interpret: bool) -> tuple[_Plan, list[Any], dict[str, Any]]:
    block = tuned.blocks("lif", DEFAULTS)
    batch, time, channels = current.shape
    plan = _Plan(batch, time, channels, columns=block["columns"], resets=reset is not None)
    flags = [] if reset is None else [reset.astype(jnp.int32)]
    return (
        plan,
        flags,
        {
            "grid": (plan.batch, math.ceil(plan.channels / plan.columns)),
            "num_warps": block["num_warps"],
            "interpret": interpret,
        },
    )


def forward(
    options: Options,
    current: jax.Array,
    decay: jax.Array,
    threshold: jax.Array,
    initial_state: jax.Array | None,
    reset: jax.Array | None,
    *,
    interpret: bool = False,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array]]:
    """((spikes, final state), (potentials before each chunk (B, chunks, D) float32,))."""
    plan, flags, launch = _launch(current, reset, interpret)
    if initial_state is None:
        initial_state = jnp.zeros_like(current[:, 0], jnp.float32)
    arrays = [current, decay, threshold, initial_state, *flags]
    starts = (plan.batch, math.ceil(plan.time / options.chunk), plan.channels)
    outs = [
        out_struct(current.shape, current.dtype, *arrays),
        out_struct((plan.batch, plan.channels), jnp.float32, *arrays),
        out_struct(starts, jnp.float32, *arrays),
    ]
    kernel = functools.partial(_forward_kernel, plan, options)
    spikes, final, kept = gpu_call(kernel, out_shape=outs, name="lif", **launch)(*arrays)
    return (spikes, final), (kept,)


def backward(
    options: Options,
    operands: tuple[Any, ...],
    residuals: tuple[jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
    *,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """Gradients of (current, decay, threshold, initial_state, reset), the last None."""
    current, decay, threshold, initial_state, reset = operands
    plan, flags, launch = _launch(current, reset, interpret)
    arrays = [current, decay, threshold, *residuals, *cotangents, *flags]
    state = out_struct((plan.batch, plan.channels), jnp.float32, *arrays)
    outs = [out_struct(current.shape, current.dtype, *arrays), state, state, state]
    kernel = functools.partial(_backward_kernel, plan, options)
    run = gpu_call(kernel, out_shape=outs, name="lif_backward", **launch)
    d_current, d_decay, d_threshold, d_initial = run(*arrays)
    first = None if initial_state is None else d_initial
    return d_current, d_decay.sum(0), d_threshold.sum(0), first, None
