"""The scan over time with the state in registers, as a Triton kernel.

Rows of the next `steps` steps are asked for before those at hand are computed, and results are
written after them, so that the serial chain waits for memory rarely. What remains is the work of
B T E N exponentials. The state before every `checkpoint`-th step is kept for the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.selective_scan import steps
from pallas_kernels.selective_scan.reference import Options
from pallas_kernels.selective_scan.steps import Here, Plan, Step


def rounds(p: Plan, h: Here, r: Mapping[str, Any], carry: Any, visit: Any, *more: str) -> Any:
    """`visit(carry, first step, rows)` for the segment's rows, `p.steps` at a time."""

    def rows(i):
        return tuple(steps.load_row(p, r, h, i * p.steps + j, *more) for j in range(p.steps))

    def round_(i, both):
        carry, at_hand = both
        ahead = rows(i + 1)
        return visit(carry, i * p.steps, at_hand), ahead

    return jax.lax.fori_loop(0, p.length // p.steps, round_, (carry, rows(0)))[0]


def _summary_kernel(p: Plan, r: Mapping[str, Any]) -> None:
    h = steps.here(p)
    rates, bias = steps.constants(r, h)

    def visit(carry, _, rows):
        state, total, keep = carry
        for row in rows:
            step = steps.prepare(p, r, h, row, rates, bias)
            state = steps.advance(step, state)
            total = total + step.delta
            keep = steps.kept(step, keep)
        return state, total, keep

    zero = jnp.zeros((p.states, p.columns), jnp.float32)
    carry = (zero, jnp.zeros((p.columns,), jnp.float32), jnp.ones((p.columns,), jnp.float32))
    end, total, keep = rounds(p, h, r, carry, visit)
    steps.store_matrix(r["end"], (h.row, h.segment), end, h)
    product = jnp.exp2(total[None, :] * rates) * keep[None, :]
    steps.store_matrix(r["product"], (h.row, h.segment), product, h)


def _silu(z: Any) -> Any:
    return z / (1.0 + jnp.exp(-z))


def _forward_kernel(p: Plan, r: Mapping[str, Any]) -> None:
    h = steps.here(p)
    rates, bias = steps.constants(r, h)
    skip = steps.load(r["D"], (h.columns,), h.inside)
    gated = ("z",) if "z" in r else ()

    def visit(state, first, rows):
        t = h.segment * p.length + first
        keep = (jax.lax.rem(first, p.checkpoint) == 0) & (t < p.time)
        at = jnp.where(keep, jax.lax.div(t, p.checkpoint), 0)
        steps.store_matrix(r["kept"], (h.row, at), state, h, keep)
        results = []
        for row in rows:
            step: Step = steps.prepare(p, r, h, row, rates, bias)
            state = steps.advance(step, state)
            y = jnp.sum(state * steps.vector(r["C"], h, row), axis=0) + skip * step.u
            if gated:
                y = y * _silu(row.more[0].astype(jnp.float32))
            results.append(y)
        for row, y in zip(rows, results, strict=True):
            steps.store(r["y"], (h.row, row.t, h.columns), y, h.inside & row.live)
        return state

    state = steps.start(p, r, h, steps.matrix(r["initial"], (h.row,), h))
    state = rounds(p, h, r, state, visit, *gated)
    last = h.segment == p.segments - 1
    steps.store_matrix(r["final"], (h.row,), state, h, last)


def forward(
    options: Options, *operands: Any, interpret: bool = False
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array]]:
    """((y, final state), (kept states (B, ceil(T / checkpoint), N, E),)), as `reference`."""
    p = steps.plan(options, operands[0], operands[2], backward=False, interpret=interpret)
    given = steps.arrange(operands)
    if p.segments > 1:
        shape = ((p.batch, p.segments, p.N, p.channels), jnp.float32)
        given |= steps.launch(
            p, _summary_kernel, given, {"product": shape, "end": shape}, "selective_scan_segments"
        )
    found = steps.launch(
        p,
        _forward_kernel,
        given,
        {
            "y": (given["u"].shape, given["u"].dtype),
            "final": ((p.batch, p.N, p.channels), jnp.float32),
            "kept": ((p.batch, p.checkpoints, p.N, p.channels), jnp.float32),
        },
        "selective_scan",
    )
    return (found["y"], steps.by_state(found["final"])), (found["kept"],)
