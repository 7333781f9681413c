"""h_t = a_t h_{t-1} + x_t over time: validation, the XLA forms, and the choice of a form.

On a CPU the XLA form is a loop over time that reads and writes (B, T, D) arrays in place; it is
faster there than `lax.scan`, whose operands must be transposed to time-major, and than
`associative_scan`: see `experiments/results/bench-kernels-cpu.json`. On other devices, where every
turn of a loop is a launch, it is `associative_scan`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.ops.dispatch import check_implementation
from jgraph.ops.sequence_op import check_reset, sequence_op
from pallas_kernels import linear_scan as kernel
from pallas_kernels.linear_scan import Options, cut, state_dtype


def linear_scan(
    a: jax.Array,
    x: jax.Array,
    *,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """All states of h_t = a_t h_{t-1} + x_t, elementwise, and the last one.

    The gradient is the same scan the other way (Martin & Cundy, "Parallelizing linear recurrent
    neural nets over sequence length", 2018): l_t = g_t + a_{t+1} l_{t+1}, dx_t = l_t,
    da_t = l_t h_{t-1}; it stores nothing besides operands and result.

    Args:
      a: (B, T, D) factors, or (D,) for the same factors at all times. Real or complex floating.
      x: (B, T, D) inputs, real or complex. If one of `a` and `x` is complex, so is the result.
      initial_state: (B, D) state before the first step computed; zero if absent.
      reset: (B, T) bool, True at the first step of each sequence packed into a row: no state
        enters that step. In reverse no state leaves it.
      reverse: run from step T - 1 to step 0; `initial_state` then enters step T - 1.
      implementation: "auto", "xla", "pallas" or "interpret"; see `jgraph.ops.dispatch`.

    Returns:
      h (B, T, D) in the dtype of `x` (complex if `a` is); the state after the last step computed,
      (B, D), float32 or complex64, in double precision if `x` is. States are kept in that dtype
      also for inputs in half precision.

    Raises:
      ValueError: shapes that do not fit, T = 0, an unknown implementation.
      TypeError: operands that are not floating, or flags that are not bool.
    """
    check_implementation("linear_scan", implementation, csr=False)
    a, x, initial_state = _checked(a, x, initial_state, reset)
    run = sequence_op("linear_scan", implementation, kernel, _xla_forward, _xla_backward)
    return run(Options(reverse=reverse), a, x, initial_state, reset)


def linear_scan_step(
    a: jax.Array, x: jax.Array, state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """One step of `linear_scan`, for generation: (h, state), the state being h in full precision.

    Args:
      a: (B, D) or (D,) factors at this step.
      x: (B, D) inputs at this step.
      state: (B, D) from the step before, zero if absent.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: operands that are not floating.
    """
    x = jnp.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; one step takes (batch, channels)")
    a = jnp.asarray(a)
    if a.ndim == 2:
        a = a[:, None]
    a, x, state = _checked(a, x[:, None], state, None)
    wide = state_dtype(x)
    new = x[:, 0].astype(wide)
    if state is not None:
        new = a[:, 0].astype(wide) * state.astype(wide) + new
    return new.astype(x.dtype), new


def _checked(
    a: Any, x: Any, initial_state: Any, reset: Any
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    a, x = jnp.asarray(a), jnp.asarray(x)
    for name, array in (("a", a), ("x", x)):
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise TypeError(
                f"{name} is {array.dtype}; linear_scan takes floating or complex numbers"
            )
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}; linear_scan takes (batch, time, channels)")
    batch, time, channels = x.shape
    if time == 0:
        raise ValueError(f"x has shape {x.shape}: no time steps; give at least one")
    if a.shape not in (x.shape, (channels,)):
        raise ValueError(f"a has shape {a.shape}; it must be {x.shape} like x, or ({channels},)")
    if jnp.iscomplexobj(a) or jnp.iscomplexobj(x):
        a = a.astype(jnp.promote_types(a.dtype, jnp.complex64))
        x = x.astype(jnp.promote_types(x.dtype, jnp.complex64))
    a = jnp.broadcast_to(a, x.shape)
    if initial_state is not None:
        initial_state = jnp.asarray(initial_state)
        if initial_state.shape != (batch, channels):
            raise ValueError(
                f"initial_state has shape {initial_state.shape}; it must be {(batch, channels)}, "
                "the batch and channels of x"
            )
        if not jnp.issubdtype(initial_state.dtype, jnp.inexact):
            raise TypeError(f"initial_state is {initial_state.dtype}; give floating numbers")
        if jnp.iscomplexobj(initial_state) and not jnp.iscomplexobj(x):
            raise TypeError(f"initial_state is {initial_state.dtype}, but a and x are real")
        initial_state = initial_state.astype(state_dtype(x))
    check_reset("linear_scan", reset, (batch, time))
    return a, x, initial_state


def _xla_forward(options: Options, a: Any, x: Any, initial_state: Any, reset: Any) -> Any:
    state = jnp.zeros_like(x[:, 0]) if initial_state is None else initial_state
    state = state.astype(state_dtype(x))
    stop = None if reset is None else cut(options, reset)
    h, final = jax.lax.platform_dependent(
        a,
        x,
        state,
        stop,
        cpu=functools.partial(_loop, options.reverse),
        default=functools.partial(_tree, options.reverse),
    )
    return (h, final), (h,)


def _xla_backward(options: Options, operands: Any, residuals: Any, cotangents: Any) -> Any:
    a, _, initial_state, reset = operands
    (h,), (g, g_final) = residuals, cotangents
    stop = None if reset is None else cut(options, reset)
    dx, first = jax.lax.platform_dependent(
        a,
        g,
        g_final,
        stop,
        cpu=functools.partial(_loop_gradient, options.reverse),
        default=functools.partial(_tree_gradient, options.reverse),
    )
    start = jnp.zeros_like(h[:, 0]) if initial_state is None else initial_state
    start = start.astype(h.dtype)[:, None]
    ends = (h[:, 1:], start) if options.reverse else (start, h[:, :-1])
    da = dx * jnp.concatenate(ends, axis=1)
    if stop is not None:
        da = jnp.where(stop[..., None], 0, da)
    return da, dx, (None if initial_state is None else first), None


def _at(array: jax.Array, t: Any) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, t, 1, keepdims=False)


def _put(array: jax.Array, t: Any, value: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), t, 1)


def _factor(a: jax.Array, stop: jax.Array | None, t: Any, wide: Any) -> jax.Array:
    factor = _at(a, t).astype(wide)
    return factor if stop is None else jnp.where(_at(stop, t)[:, None], 0, factor)


def _loop(reverse: bool, a: Any, x: Any, state: Any, stop: Any) -> tuple[jax.Array, jax.Array]:
    time, wide = x.shape[1], state.dtype

    def step(i, carry):
        state, h = carry
        t = time - 1 - i if reverse else i
        state = _factor(a, stop, t, wide) * state + _at(x, t).astype(wide)
        return state, _put(h, t, state)

    final, h = jax.lax.fori_loop(0, time, step, (state, jnp.zeros_like(x)))
    return h, final


def _loop_gradient(
    reverse: bool, a: Any, g: Any, g_final: Any, stop: Any
) -> tuple[jax.Array, jax.Array]:
    time, wide = g.shape[1], g_final.dtype

    def step(i, carry):
        c, dx = carry
        t = i if reverse else time - 1 - i
        c = c + _at(g, t).astype(wide)
        return _factor(a, stop, t, wide) * c, _put(dx, t, c)

    first, dx = jax.lax.fori_loop(0, time, step, (g_final, jnp.zeros_like(g)))
    return dx, first


def _tree(reverse: bool, a: Any, x: Any, state: Any, stop: Any) -> tuple[jax.Array, jax.Array]:
    wide = state.dtype
    factors, added = a.astype(wide), x.astype(wide)
    if stop is not None:
        factors = jnp.where(stop[..., None], 0, factors)
    first, last = (-1, 0) if reverse else (0, -1)
    added = added.at[:, first].add(factors[:, first] * state)

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    _, h = jax.lax.associative_scan(combine, (factors, added), axis=1, reverse=reverse)
    return h.astype(x.dtype), h[:, last]


def _tree_gradient(
    reverse: bool, a: Any, g: Any, g_final: Any, stop: Any
) -> tuple[jax.Array, jax.Array]:
    factors = a.astype(g_final.dtype)
    if stop is not None:
        factors = jnp.where(stop[..., None], 0, factors)
    one = jnp.ones_like(factors[:, :1])
    ends = (one, factors[:, :-1]) if reverse else (factors[:, 1:], one)
    shifted = jnp.concatenate(ends, axis=1)
    dx, leaving = _tree(not reverse, shifted, g, g_final, None)
    return dx, leaving * factors[:, -1 if reverse else 0]
