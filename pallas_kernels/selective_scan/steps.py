"""What the forward and the backward kernel share: how the work is laid out, and one time step.

A program owns `columns` channels of one batch row, a thread one channel with its N states in
registers: arrays are (N, columns), so that the sum over N stays within a thread. Where B x E
channels are too few to fill the device, time is cut into segments too. A first kernel then leaves
for each segment the product of its factors and the state in which it would end from zero; in the
main kernel a program finds the state its segment starts from by going through those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels import tuned
from pallas_kernels.call import gpu_call, next_power_of_2, out_struct
from pallas_kernels.selective_scan.reference import Options

DEFAULTS = {"columns": 32, "steps": 8, "backward_steps": 8, "programs": 512, "num_warps": 1}
LOG2_E = math.log2(math.e)


class Plan(NamedTuple):
    """Sizes of the arrays and of a program's share; `states` is N padded to a power of two."""

    batch: int
    time: int
    channels: int
    N: int
    states: int
    columns: int
    steps: int
    checkpoint: int
    segments: int
    length: int
    softplus: bool
    num_warps: int
    interpret: bool

    @property
    def blocks(self) -> int:
        """Programs along the channels."""
        return math.ceil(self.channels / self.columns)

    @property
    def checkpoints(self) -> int:
        """Kept states of a batch row."""
        return math.ceil(self.time / self.checkpoint)


def plan(options: Options, u: jax.Array, A: jax.Array, *, backward: bool, interpret: bool) -> Plan:
    """The layout for these operands on the device at hand."""
    block = tuned.blocks("selective_scan", DEFAULTS)
    batch, time, channels = u.shape
    per_segment = batch * math.ceil(channels / block["columns"])
    wanted = min(block["programs"] // per_segment, time // (4 * options.checkpoint))
    length = math.ceil(time / max(wanted, 1) / options.checkpoint) * options.checkpoint
    return Plan(
        batch=batch,
        time=time,
        channels=channels,
        N=A.shape[1],
        states=next_power_of_2(A.shape[1]),
        columns=block["columns"],
        steps=math.gcd(block["backward_steps" if backward else "steps"], options.checkpoint),
        checkpoint=options.checkpoint,
        segments=math.ceil(time / length),
        length=length,
        softplus=options.delta_softplus,
        num_warps=block["num_warps"],
        interpret=interpret,
    )


class Here(NamedTuple):
    """The part of a program: batch row, segment, channels and states with their masks."""

    row: Any
    segment: Any
    block: Any
    columns: Any
    inside: Any
    states: Any
    state_mask: Any
    both: Any


def here(p: Plan) -> Here:
    """The part of this program."""
    block = pl.program_id(1)
    columns = block * p.columns + jnp.arange(p.columns)
    states = jnp.arange(p.states)
    inside, state_mask = columns < p.channels, states < p.N
    both = state_mask[:, None] & inside[None, :]
    row = jax.lax.div(pl.program_id(0), p.segments)
    segment = jax.lax.rem(pl.program_id(0), p.segments)
    return Here(row, segment, block, columns, inside, states, state_mask, both)


class Row(NamedTuple):
    """The rows of one time step as they lie in memory."""

    t: Any
    live: Any
    u: Any
    delta: Any
    more: tuple[Any, ...]


def load(ref: Any, index: tuple, mask: Any) -> Any:
    """Entries in float32, zero where masked."""
    return plt.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)


def store(ref: Any, index: tuple, value: Any, mask: Any) -> None:
    """Writes entries in the dtype of `ref`."""
    plt.store(ref.at[index], value.astype(ref.dtype), mask=mask)


def matrix(ref: Any, at: tuple, h: Here) -> Any:
    """The (states, columns) of this program, at `at` of an array (..., N, E)."""
    return load(ref, (*at, h.states[:, None], h.columns[None, :]), h.both)


def store_matrix(ref: Any, at: tuple, value: Any, h: Here, when: Any = True) -> None:
    """Writes the (states, columns) of this program at `at` of an array (..., N, E)."""
    store(ref, (*at, h.states[:, None], h.columns[None, :]), value, h.both & when)


def load_row(p: Plan, r: Mapping[str, Any], h: Here, step: Any, *more: str) -> Row:
    """u, delta and the sequences named in `more` at a step of the segment, still unconverted."""
    t = h.segment * p.length + step
    live = (step >= 0) & (step < p.length) & (t < p.time)
    t = jnp.where(live, t, 0)
    mask = h.inside & live
    values = [
        plt.load(r[name].at[h.row, t, h.columns], mask=mask, other=0.0)
        for name in ("u", "delta", *more)
    ]
    return Row(t, live, values[0], values[1], tuple(values[2:]))


class Step(NamedTuple):
    """The float32 operands of one step; `raw` is delta before softplus."""

    row: Row
    u: Any
    delta: Any
    raw: Any
    b: Any
    factor: Any
    cut: Any


def vector(ref: Any, h: Here, row: Row) -> Any:
    """B_t or C_t as a column, (states, 1)."""
    return load(ref, (h.row, row.t, h.states), h.state_mask & row.live)[:, None]


def prepare(p: Plan, r: Mapping[str, Any], h: Here, row: Row, rates: Any, bias: Any) -> Step:
    """What the recurrence needs of a row; a step that is not there keeps the state.

    Args:
      rates: (states, columns) A log2(e).
    """
    raw = row.delta.astype(jnp.float32) + bias
    delta = raw
    if p.softplus:
        delta = jnp.maximum(raw, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(raw)))
    delta = jnp.where(row.live, delta, 0.0)
    cut = (r["reset"][h.row, row.t] != 0) & row.live if "reset" in r else None
    factor = jnp.exp2(delta[None, :] * rates)
    return Step(row, row.u.astype(jnp.float32), delta, raw, vector(r["B"], h, row), factor, cut)


def kept(step: Step, x: Any) -> Any:
    """`x` unless a packed sequence begins at this step, which nothing passes."""
    return x if step.cut is None else jnp.where(step.cut, 0.0, x)


def advance(step: Step, state: Any) -> Any:
    """h_t from h_{t-1}."""
    return step.factor * kept(step, state) + (step.delta * step.u)[None, :] * step.b


def constants(r: Mapping[str, Any], h: Here) -> tuple[Any, Any]:
    """(A log2(e), delta_bias) of this program's channels."""
    return matrix(r["A"], (), h) * LOG2_E, load(r["bias"], (h.columns,), h.inside)


def start(p: Plan, r: Mapping[str, Any], h: Here, state: Any, *, reverse: bool = False) -> Any:
    """The state in which this program's segment starts, `state` being that of the first.

    In reverse the last segment is the first one.
    """
    if p.segments == 1:
        return state

    def over(i, state):
        s = p.segments - 1 - i if reverse else i
        return matrix(r["product"], (h.row, s), h) * state + matrix(r["end"], (h.row, s), h)

    count = p.segments - 1 - h.segment if reverse else h.segment
    return jax.lax.fori_loop(0, count, over, state)


def launch(
    p: Plan,
    kernel: Callable[[Plan, Mapping[str, Any]], None],
    operands: Mapping[str, Any],
    outputs: Mapping[str, tuple[Sequence[int], Any]],
    name: str,
) -> dict[str, jax.Array]:
    """Runs `kernel(plan, refs)` with all references by name; returns the outputs by name.

    Args:
      operands: absent ones are None.
      outputs: name -> (shape, dtype).
    """
    given = {key: x for key, x in operands.items() if x is not None}
    arrays = tuple(given.values())
    shapes = [out_struct(tuple(shape), dtype, *arrays) for shape, dtype in outputs.values()]
    names = (*given, *outputs)
    call = gpu_call(
        lambda *refs: kernel(p, dict(zip(names, refs, strict=True))),
        grid=(p.batch * p.segments, p.blocks),
        out_shape=shapes,
        name=name,
        interpret=p.interpret,
        num_warps=p.num_warps,
    )
    return dict(zip(outputs, call(*arrays), strict=True))


def by_state(x: jax.Array) -> jax.Array:
    """(..., E, N) -> (..., N, E) or back: kernels keep channels last, threads side by side."""
    return x.swapaxes(-1, -2)


def arrange(operands: Sequence[Any]) -> dict[str, Any]:
    """The operands by name, as the kernels take them."""
    u, delta, A, B, C, D, z, delta_bias, initial_state, reset = operands
    batch, _, channels = u.shape
    none = jnp.zeros((channels,), jnp.float32)
    state = jnp.zeros((batch, *A.shape), jnp.float32) if initial_state is None else initial_state
    return {
        "u": u,
        "delta": delta,
        "A": by_state(A),
        "B": B,
        "C": C,
        "D": none if D is None else D,
        "z": z,
        "bias": none if delta_bias is None else delta_bias,
        "initial": by_state(state),
        "reset": None if reset is None else reset.astype(jnp.int32),
    }
