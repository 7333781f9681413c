"""The gradient of the scan, backwards in time, as a Triton kernel.

With g_t the cotangent of <h_t, C_t> + D u_t and c_T that of the final state,

    l_t = g_t C_t + c_t              c_{t-1} = a_t l_t           a_t = exp(Delta_t A)
    q_t = c_{t-1} h_{t-1}            s_t = sum_n l_t B_t
    du = Delta s + D g               dDelta = u s + sum_n q A
    dB = sum_e l Delta u             dC = sum_e g h
    dA = sum_t q Delta               dD = sum_t g u

The states h are computed again from the kept ones, `backward_steps` steps at a time, and held in
registers meanwhile. A program leaves its sums over its channels (dB, dC) or its time (dA, dD,
d delta_bias) as a partial result, and XLA adds those up: no atomics, the same bits every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.selective_scan import steps
from pallas_kernels.selective_scan.reference import Options
from pallas_kernels.selective_scan.steps import Here, Plan, Row, Step


def _rounds(p: Plan, carry: Any, visit: Any) -> Any:
    """`visit(carry, first step)` for rounds of `p.steps` steps, the last one first."""
    count = p.length // p.steps
    return jax.lax.fori_loop(
        0, count, lambda i, carry: visit(carry, (count - 1 - i) * p.steps), carry
    )


def _rows(p: Plan, r: Mapping[str, Any], h: Here, first: Any, *more: str) -> list[Row]:
    return [steps.load_row(p, r, h, first + j, *more) for j in range(p.steps)]


def _gate(z: Any) -> tuple[Any, Any]:
    """(silu(z), its derivative)."""
    s = 1.0 / (1.0 + jnp.exp(-z))
    return z * s, s * (1.0 + z * (1.0 - s))


def _cotangent(row: Row) -> tuple[Any, Any]:
    """(g_t, cotangent of y_t times the derivative of the gate)."""
    dy = row.more[0].astype(jnp.float32)
    if len(row.more) == 1:
        return dy, dy
    gate, slope = _gate(row.more[1].astype(jnp.float32))
    return dy * gate, dy * slope


def _gated(r: Mapping[str, Any]) -> tuple[str, ...]:
    return ("dy", "z") if "z" in r else ("dy",)


def _summary_kernel(p: Plan, r: Mapping[str, Any]) -> None:
    """Product of the factors of a segment, and the c in which it would end from zero."""
    h = steps.here(p)
    rates, bias = steps.constants(r, h)

    def visit(carry, first):
        c, total, keep = carry
        for row in reversed(_rows(p, r, h, first, *_gated(r))):
            step = steps.prepare(p, r, h, row, rates, bias)
            g, _ = _cotangent(row)
            c = steps.kept(step, step.factor * (c + g[None, :] * steps.vector(r["C"], h, row)))
            total = total + step.delta
            keep = steps.kept(step, keep)
        return c, total, keep

    zero = jnp.zeros((p.states, p.columns), jnp.float32)
    carry = (zero, jnp.zeros((p.columns,), jnp.float32), jnp.ones((p.columns,), jnp.float32))
    end, total, keep = _rounds(p, carry, visit)
    steps.store_matrix(r["end"], (h.row, h.segment), end, h)
    product = jnp.exp2(total[None, :] * rates) * keep[None, :]
    steps.store_matrix(r["product"], (h.row, h.segment), product, h)


def _state_before(p: Plan, r: Mapping[str, Any], h: Here, first: Any, rates: Any, bias: Any) -> Any:
    """The state before step `first` of the segment, from the kept one before it."""
    begin = first - jax.lax.rem(first, p.checkpoint)
    t = h.segment * p.length + begin
    live = t < p.time
    state = steps.matrix(r["kept"], (h.row, jnp.where(live, jax.lax.div(t, p.checkpoint), 0)), h)

    def again(i, state):
        for row in _rows(p, r, h, begin + i * p.steps):
            state = steps.advance(steps.prepare(p, r, h, row, rates, bias), state)
        return state

    rounds = jax.lax.div(first - begin, p.steps)
    return jax.lax.fori_loop(0, rounds, again, jnp.where(live, state, 0.0))


def _backward_kernel(p: Plan, r: Mapping[str, Any]) -> None:
    h = steps.here(p)
    rates, bias = steps.constants(r, h)
    skip = steps.load(r["D"], (h.columns,), h.inside)

    def back(carry, step: Step, before, after):
        c, d_a, d_skip, d_bias = carry
        row = step.row
        write = h.inside & row.live
        at = (h.row, row.t, h.columns)
        column = steps.vector(r["C"], h, row)
        g, through_gate = _cotangent(row)
        if "z" in r:
            y = jnp.sum(after * column, axis=0) + skip * step.u
            steps.store(r["dz"], at, through_gate * y, write)
        _store_sum(r["dC"], h, row, after * g[None, :])
        l = c + g[None, :] * column
        _store_sum(r["dB"], h, row, l * (step.delta * step.u)[None, :])
        s = jnp.sum(l * step.b, axis=0)
        c = steps.kept(step, step.factor * l)
        q = c * before  # zero where a sequence begins, as c is
        d_delta = step.u * s + jnp.sum(q * rates, axis=0) / steps.LOG2_E
        if p.softplus:
            d_delta = d_delta / (1.0 + jnp.exp(-step.raw))
        d_delta = jnp.where(row.live, d_delta, 0.0)
        steps.store(r["du"], at, step.delta * s + skip * g, write)
        steps.store(r["ddelta"], at, d_delta, write)
        return c, d_a + q * step.delta[None, :], d_skip + g * step.u, d_bias + d_delta

    def visit(carry, first):
        states = [_state_before(p, r, h, first, rates, bias)]
        for row in _rows(p, r, h, first):
            step = steps.prepare(p, r, h, row, rates, bias)
            states.append(steps.advance(step, states[-1]))
        for j in reversed(range(p.steps)):
            # Read and computed again: beside the states there is no room for the factors.
            row = steps.load_row(p, r, h, first + j, *_gated(r))
            step = steps.prepare(p, r, h, row, rates, bias)
            carry = back(carry, step, states[j], states[j + 1])
        return carry

    zeros = jnp.zeros((p.columns,), jnp.float32)
    c = steps.start(p, r, h, steps.matrix(r["dfinal"], (h.row,), h), reverse=True)
    carry = (c, jnp.zeros((p.states, p.columns), jnp.float32), zeros, zeros)
    c, d_a, d_skip, d_bias = _rounds(p, carry, visit)
    part = (h.row, h.segment)
    steps.store_matrix(r["dA"], part, d_a, h)
    steps.store(r["dD"], (*part, h.columns), d_skip, h.inside)
    steps.store(r["dbias"], (*part, h.columns), d_bias, h.inside)
    steps.store_matrix(r["dinitial"], (h.row,), c, h, h.segment == 0)


def _store_sum(ref: Any, h: Here, row: Row, x: Any) -> None:
    """Sums (states, columns) over this program's channels into its own slot."""
    at = (h.block, h.row, row.t, h.states)
    steps.store(ref, at, jnp.sum(x, axis=1), h.state_mask & row.live)


def backward(
    options: Options,
    operands: tuple[Any, ...],
    residuals: tuple[jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
    *,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """One gradient per operand of `reference`, None for absent ones and for `reset`."""
    u, delta, A, B, C, D, z, delta_bias, initial_state, _ = operands
    dy, d_final = cotangents
    p = steps.plan(options, u, A, backward=True, interpret=interpret)
    given = steps.arrange(operands)
    del given["initial"]
    given |= {"dy": dy, "dfinal": steps.by_state(d_final), "kept": residuals[0]}
    if p.segments > 1:
        shape = ((p.batch, p.segments, p.N, p.channels), jnp.float32)
        given |= steps.launch(
            p,
            _summary_kernel,
            given,
            {"product": shape, "end": shape},
            "selective_scan_backward_segments",
        )
    parts = (p.batch, p.segments)
    outputs = {
        "du": (u.shape, u.dtype),
        "ddelta": (delta.shape, delta.dtype),
        "dB": ((p.blocks, *B.shape), jnp.float32),
        "dC": ((p.blocks, *C.shape), jnp.float32),
        "dA": ((*parts, p.N, p.channels), jnp.float32),
        "dD": ((*parts, p.channels), jnp.float32),
        "dbias": ((*parts, p.channels), jnp.float32),
        "dinitial": ((p.batch, p.N, p.channels), jnp.float32),
    }
    if z is not None:
        outputs["dz"] = (z.shape, z.dtype)
    found = steps.launch(p, _backward_kernel, given, outputs, "selective_scan_backward")
    return (
        found["du"],
        found["ddelta"],
        steps.by_state(found["dA"].sum((0, 1))),
        found["dB"].sum(0),
        found["dC"].sum(0),
        None if D is None else found["dD"].sum((0, 1)),
        found.get("dz"),
        None if delta_bias is None else found["dbias"].sum((0, 1)),
        None if initial_state is None else steps.by_state(found["dinitial"]),
        None,
    )
