"""The selective scan of Mamba (S6), over a sequence and step by step.

    Delta_t = softplus(delta_t + delta_bias)              (or delta_t + delta_bias)
    h_t     = exp(Delta_t A) h_{t-1} + (Delta_t u_t) B_t   one (N,) state per channel
    y_t     = (<h_t, C_t> + D u_t) silu(z_t)

Gu & Dao, 2023, arXiv 2312.00752. Each channel and state has its own decay, so there is no form in
matrix products as Mamba-2 has one; an associative scan writes (B, T, E, N) arrays log T times.
XLA's form here is a time loop that is vectorised over channels, which lie last: the sum over N is
then an addition of whole vectors. For the gradient only the state before every 16th step is kept;
the backward pass computes the others again, a stretch at a time, and runs the scan
l_t = g_t C_t + a_{t+1} l_{t+1} through it. On a CPU this is faster than the plain `lax.scan` with
states last and than an associative scan:
see experiments/results/bench-kernels-cpu.json.

B batch, T time, E channels, N states per channel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jgraph.ops.dispatch import check_implementation
from jgraph.ops.sequence_op import check_reset, check_shape, sequence_op
from jgraph.ops.time_chunks import vary_like
from pallas_kernels import selective_scan as kernel
from pallas_kernels.selective_scan import Options, state_dtype


class _Operands(NamedTuple):
    u: Any
    delta: Any
    A: Any
    B: Any
    C: Any
    D: Any = None
    z: Any = None
    delta_bias: Any = None
    initial_state: Any = None
    reset: Any = None


class _Steps(NamedTuple):
    """What a time step reads; (T, B, ...), or cut in stretches (T / K, K, B, ...)."""

    u: Any
    delta: Any
    B: Any
    C: Any
    reset: Any


def _step_size(options: Options, delta: Any, bias: Any, dtype: Any) -> tuple[Any, Any]:
    """(Delta, its derivative by delta)."""
    raw = delta.astype(dtype)
    if bias is not None:
        raw = raw + bias.astype(dtype)
    if options.delta_softplus:
        return jax.nn.softplus(raw), jax.nn.sigmoid(raw)
    return raw, jnp.ones((), dtype)


def _stretch(options: Options, time: int) -> int:
    return min(options.checkpoint, time)


def _in_stretches(x: Any, length: int) -> Any:
    """(B, T, ...) -> (ceil(T / length), length, B, ...), zero after the end."""
    if x is None:
        return None
    x = x.swapaxes(0, 1)
    count = -(-x.shape[0] // length)
    x = jnp.pad(x, [(0, count * length - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(count, length, *x.shape[1:])


def _whole(x: Any, time: int) -> Any:
    """The inverse of `_in_stretches`."""
    return x.reshape(-1, *x.shape[2:])[:time].swapaxes(0, 1)


def _sequences(o: _Operands, delta: Any, dtype: Any, length: int) -> _Steps:
    # Padding has Delta = 0: it leaves the state as it is.
    rows = _Steps(o.u.astype(dtype), delta, o.B.astype(dtype), o.C.astype(dtype), o.reset)
    return _Steps(*(_in_stretches(x, length) for x in rows))


def _kept(x: Any, reset: Any) -> Any:
    return x if reset is None else jnp.where(reset[:, None, None], 0, x)


def _advance(rates: Any, h: Any, x: _Steps) -> Any:
    """h_t from h_{t-1}, (B, N, E); `rates` is A as (N, E)."""
    factor = jnp.exp(x.delta[:, None, :] * rates)
    return factor * _kept(h, x.reset) + (x.delta * x.u)[:, None, :] * x.B[:, :, None]


def _read(h: Any, c: Any) -> Any:
    return (h * c[:, :, None]).sum(1)


def _xla_forward(options: Options, *operands: Any) -> tuple[Any, Any]:
    """((y, final state), (states before every stretch, (B, T / K, N, E),))."""
    o = _Operands(*operands)
    dtype, time = state_dtype(o.u), o.u.shape[1]
    rates = o.A.astype(dtype).T
    delta, _ = _step_size(options, o.delta, o.delta_bias, dtype)
    if o.initial_state is None:
        h = jnp.zeros((o.u.shape[0], *rates.shape), dtype)
    else:
        h = o.initial_state.astype(dtype).swapaxes(1, 2)

    def step(h, x):
        h = _advance(rates, h, x)
        return h, _read(h, x.C)

    def stretch(h, xs):
        after, y = jax.lax.scan(step, h, xs)
        return after, (y, h)

    rows = _sequences(o, delta, dtype, _stretch(options, time))
    final, (y, kept) = jax.lax.scan(stretch, vary_like(h, rows), rows)
    y = _whole(y, time)
    if o.D is not None:
        y = y + o.D.astype(dtype) * o.u.astype(dtype)
    if o.z is not None:
        y = y * jax.nn.silu(o.z.astype(dtype))
    return (y.astype(o.u.dtype), final.swapaxes(1, 2)), (kept.swapaxes(0, 1),)


def _sums_over_states(x: Any, y: Any) -> tuple[Any, Any]:
    """Both arrays summed over axis 1 in one pass, which shares what they are computed from."""
    zero = jnp.zeros((), x.dtype)
    return jax.lax.reduce((x, y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (1,))


def _sum_over_channels(x: Any, row: Any) -> Any:
    return jnp.einsum("bne,be->bn", x, row, precision=jax.lax.Precision.HIGHEST)


def _xla_backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any
) -> tuple[Any, ...]:
    """One gradient per operand; for the equations see the kernel's `gpu_backward`."""
    o, (kept,), (dy, d_final) = _Operands(*operands), residuals, cotangents
    dtype, time = state_dtype(o.u), o.u.shape[1]
    rates, u = o.A.astype(dtype).T, o.u.astype(dtype)
    delta, slope = _step_size(options, o.delta, o.delta_bias, dtype)
    dy = dy.astype(dtype)
    g = dy if o.z is None else dy * jax.nn.silu(o.z.astype(dtype))

    def again(h, at_t):
        x, g = at_t
        after = _advance(rates, h, x)
        y = None if o.z is None else _read(after, x.C)
        return after, (_kept(h, x.reset), _sum_over_channels(after, g), y)

    def back(carry, at_t):
        c, d_a = carry
        x, g, before = at_t
        l = c + g[:, None, :] * x.C[:, :, None]
        d_b = _sum_over_channels(l, x.delta * x.u)
        c = _kept(l * jnp.exp(x.delta[:, None, :] * rates), x.reset)
        q = c * before
        s, d_delta = _sums_over_states(l * x.B[:, :, None], q * rates)
        return (c, d_a + q * x.delta[:, None, :]), (s, d_delta, d_b)

    def stretch(carry, at_k):
        h, xs, gs = at_k
        _, (before, d_c, y) = jax.lax.scan(again, h, (xs, gs))
        carry, (s, d_delta, d_b) = jax.lax.scan(back, carry, (xs, gs, before), reverse=True)
        return carry, (s, d_delta, d_b, d_c, y)

    length = _stretch(options, time)
    rows = (kept.swapaxes(0, 1), _sequences(o, delta, dtype, length), _in_stretches(g, length))
    c = d_final.astype(dtype).swapaxes(1, 2)
    start = vary_like((c, jnp.zeros_like(c)), rows)
    (c, d_a), found = jax.lax.scan(stretch, start, rows, reverse=True)
    s, d_delta, d_b, d_c, y = (None if x is None else _whole(x, time) for x in found)
    d_u = delta * s
    d_delta = (u * s + d_delta) * slope
    d_z = None
    if o.D is not None:
        d_u = d_u + o.D.astype(dtype) * g
        y = None if y is None else y + o.D.astype(dtype) * u
    if o.z is not None:
        _, pull = jax.vjp(jax.nn.silu, o.z.astype(dtype))
        d_z = pull(dy * y)[0]
    return (
        d_u,
        d_delta,
        d_a.sum(0).T,
        d_b,
        d_c,
        None if o.D is None else (g * u).sum((0, 1)),
        d_z,
        None if o.delta_bias is None else d_delta.sum((0, 1)),
        None if o.initial_state is None else c.swapaxes(1, 2),
        None,
    )


def _check(o: _Operands, letters: tuple[str, ...]) -> None:
    """Raises where shapes or dtypes do not fit; `letters` are the axes of `u`."""
    for name, x, axes in (("u", o.u, letters), ("A", o.A, ("E", "N"))):
        if x.ndim != len(axes):
            raise ValueError(
                f"selective_scan: {name} has shape {x.shape}; it must be ({', '.join(axes)})"
            )
    sizes = dict(zip(letters, o.u.shape), N=o.A.shape[1])
    for letter, size in sizes.items():
        if size == 0 and letter != "B":
            raise ValueError(
                f"selective_scan: {letter} is 0 in u {o.u.shape}, A {o.A.shape}; give at least 1"
            )
    time = letters[:-1]
    names_of = {
        "u": letters,
        "delta": letters,
        "A": ("E", "N"),
        "B": (*time, "N"),
        "C": (*time, "N"),
        "D": ("E",),
        "z": letters,
        "delta_bias": ("E",),
        "initial_state": ("B", "E", "N"),
        "reset": time,
    }
    for name, names in names_of.items():
        shape = tuple(sizes[letter] for letter in names)
        if name == "reset":
            check_reset("selective_scan", o.reset, shape)
        else:
            check_shape("selective_scan", name, getattr(o, name), shape)


def selective_scan(
    u: jax.Array,
    delta: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    D: jax.Array | None = None,
    z: jax.Array | None = None,
    *,
    delta_bias: jax.Array | None = None,
    delta_softplus: bool = False,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The scan of this module's docstring; differentiable in every floating operand.

    Args:
      u, delta: (B, T, E) inputs and step sizes, T at least 1.
      A: (E, N) decay rates, below zero (exp(Delta A) is not bounded otherwise).
      B, C: (B, T, N) what enters the state and what is read from it.
      D: (E,) weight of the skip connection.
      z: (B, T, E) gate, before its SiLU.
      delta_bias: (E,) added to `delta`.
      delta_softplus: whether `delta`, with its bias, goes through softplus.
      initial_state: (B, E, N), zero if absent.
      reset: (B, T) bool, True at the first step of each packed sequence: the state before that
        step is zero.
      implementation: see `jgraph.ops.dispatch`.

    Returns:
      y (B, T, E) in the dtype of `u`; the final state (B, E, N), float32 (float64 for such `u`).
      Half precision is computed in float32.

    Raises:
      ValueError: shapes that do not fit, no time steps, unknown implementation.
      TypeError: an operand that is not real floating; `reset` that is not bool.
    """
    check_implementation("selective_scan", implementation, csr=False)
    operands = _Operands(u, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    _check(operands, ("B", "T", "E"))
    run = sequence_op("selective_scan", implementation, kernel, _xla_forward, _xla_backward)
    return run(Options(delta_softplus=delta_softplus), *operands)


def selective_scan_step(
    u: jax.Array,
    delta: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    D: jax.Array | None = None,
    z: jax.Array | None = None,
    *,
    state: jax.Array,
    delta_bias: jax.Array | None = None,
    delta_softplus: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """One step of `selective_scan`, for generation.

    Args:
      u, delta, z: (B, E).
      B, C: (B, N).
      state: (B, E, N), as `selective_scan` returns it.

    Returns:
      (y (B, E) in the dtype of `u`, the next state).

    Raises:
      ValueError, TypeError: as `selective_scan`.
    """
    _check(_Operands(u, delta, A, B, C, D, z, delta_bias, state), ("B", "E"))
    dtype = state_dtype(u)
    options = Options(delta_softplus=delta_softplus)
    size, _ = _step_size(options, delta, delta_bias, dtype)
    x = u.astype(dtype)
    h = jnp.exp(size[:, :, None] * A.astype(dtype)) * state.astype(dtype)
    h = h + (size * x)[:, :, None] * B.astype(dtype)[:, None, :]
    y = (h * C.astype(dtype)[:, None, :]).sum(-1)
    if D is not None:
        y = y + D.astype(dtype) * x
    if z is not None:
        y = y * jax.nn.silu(z.astype(dtype))
    return y.astype(u.dtype), h
