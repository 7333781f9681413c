"""Leaky integrate-and-fire neurons over time: validation, the XLA form, and the choice of a form.

The XLA form is a loop over time in chunks that reads and writes (B, T, D) arrays in place, which
on a CPU, with its gradient, is faster than `lax.scan`, whose operands must be transposed to
time-major, and than a Python loop in torch; forward alone it is no faster than `lax.scan`: see
`experiments/results/bench-kernels-cpu.json`.

Spikes make the recurrence
nonlinear, so there is no parallel form.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.ops.dispatch import check_implementation
from jgraph.ops.sequence_op import check_reset, check_shape, sequence_op
from pallas_kernels import lif as kernel
from pallas_kernels.lif import RESETS, SURROGATES, Options, step
from pallas_kernels.lif.neuron import advance, gradient
from pallas_kernels.lif.reference import differentiable_step


def lif(
    current: jax.Array,
    decay: jax.Array | float,
    threshold: jax.Array | float = 1.0,
    *,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    gain: float = 1.0,
    after_spike: str = "hard",
    surrogate: str = "atan",
    width: float = 0.5,
    scale: float = 1.0,
    relative: bool = False,
    detach_reset: bool = False,
    chunk: int = 32,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """Spikes of leaky integrate-and-fire neurons, with surrogate gradients.

        v_t = decay w_{t-1} + gain current_t
        s_t = 1 if v_t > threshold else 0
        w_t = v_t (1 - s_t)           after_spike = "hard": back to zero
              v_t - threshold s_t     "soft"
              v_t                     "none"

    The backward pass puts scale * surrogate(z) for ds/dz, with z = v - threshold or, if
    `relative`, z = v / threshold - 1 (Neftci, Mostafa & Zenke, "Surrogate gradient learning in
    spiking neural networks", 2019). It stores the potential of every `chunk`-th step and computes
    the others again.

    With a time constant tau, v += (current - (v - v0)) / tau with a reset to v0 is decay
    1 - 1 / tau and gain 1 / tau, for potential and threshold counted from v0 (SpikeGPT: tau 2,
    v0 = 0). u_t = leak u_{t-1} + current - V s_{t-1} with a step of u / V - 1 is after_spike
    "soft" and `relative` (IIR-SNN: triangle, width 1, scale 0.3).

    Args:
      current: (B, T, D) floating.
      decay: scalar or (D,), differentiable.
      threshold: scalar or (D,), differentiable; not zero if `relative`.
      initial_state: (B, D) potential w before the first step; zero if absent.
      reset: (B, T) bool, True at the first step of each sequence packed into a row: w_{t-1} is
        zero there.
      gain: factor of the current.
      surrogate: "sigmoid", "atan", "triangle", "rectangle" or "fast_sigmoid"; closed forms in
        `pallas_kernels.lif.surrogate`. Each has area one and a `width` in units of z.
      scale: factor of the surrogate.
      detach_reset: no gradient flows through s_t into w_t.
      chunk: steps between kept potentials.
      implementation: "auto", "xla", "pallas" or "interpret"; see `jgraph.ops.dispatch`.

    Returns:
      s (B, T, D), exactly 0 or 1, in the dtype of `current`; w after the last step (B, D),
      float32, in double precision if `current` is.

    Raises:
      ValueError: shapes that do not fit, T = 0, an unknown name, a width or chunk that is not
        positive.
      TypeError: operands that are not floating, or flags that are not bool.
    """
    check_implementation("lif", implementation, csr=False)
    options = Options(
        after_spike,
        surrogate,
        float(width),
        float(scale),
        relative,
        float(gain),
        detach_reset,
        chunk,
    )
    operands = _checked(options, current, decay, threshold, initial_state)
    check_reset("lif", reset, operands[0].shape[:2])
    run = sequence_op("lif", implementation, kernel, _xla_forward, _xla_backward)
    return run(options, *operands, reset)


def lif_step(
    current: jax.Array,
    state: jax.Array | None,
    decay: jax.Array | float,
    threshold: jax.Array | float = 1.0,
    *,
    gain: float = 1.0,
    after_spike: str = "hard",
    surrogate: str = "atan",
    width: float = 0.5,
    scale: float = 1.0,
    relative: bool = False,
    detach_reset: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """One step of `lif`: (spikes (B, D), state (B, D)); for generation and recurrent networks.

    Args:
      current: (B, D) at this step.
      state: (B, D) from the step before, zero if absent.
      others: as in `lif`.

    Raises:
      ValueError, TypeError: as `lif`.
    """
    current = jnp.asarray(current)
    if current.ndim != 2:
        raise ValueError(f"current has shape {current.shape}; one step takes (batch, channels)")
    options = Options(
        after_spike, surrogate, float(width), float(scale), relative, float(gain), detach_reset
    )
    now, *vectors, state = _checked(options, current[:, None], decay, threshold, state)
    wide = jnp.promote_types(current.dtype, jnp.float32)
    state = jnp.zeros_like(current, wide) if state is None else state
    leak, level = (x.astype(wide) for x in vectors)
    state, fired = differentiable_step(options, leak, level, state, now[:, 0].astype(wide))
    return fired.astype(current.dtype), state


def spike(
    z: jax.Array, surrogate: str = "atan", *, width: float = 0.5, scale: float = 1.0
) -> jax.Array:
    """1 where z > 0, else 0, in the dtype of `z`; its derivative is `scale` times the surrogate.

    For neurons with other dynamics than `lif`, and for binary embeddings.

    Args:
      z: any shape, floating.
      surrogate, width, scale: as in `lif`.

    Raises:
      ValueError: an unknown surrogate or a width that is not positive.
      TypeError: `z` is not floating.
    """
    z = jnp.asarray(z)
    _check_surrogate(surrogate, width)
    _check_floating("z", z)
    return step(z, surrogate, float(width), float(scale))


def _check_surrogate(surrogate: str, width: float) -> None:
    if surrogate not in SURROGATES:
        raise ValueError(f"surrogate is {surrogate!r}; choose one of {', '.join(SURROGATES)}")
    if not 0 < width < math.inf:
        raise ValueError(f"width is {width}; give a positive number")


def _check_floating(name: str, x: jax.Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} is {x.dtype}; give it in floating point")


def _checked(
    options: Options, current: Any, decay: Any, threshold: Any, initial_state: Any
) -> tuple[Any, ...]:
    _check_surrogate(options.surrogate, options.width)
    if options.after_spike not in RESETS:
        raise ValueError(f"after_spike is {options.after_spike!r}; choose {', '.join(RESETS)}")
    if options.chunk < 1:
        raise ValueError(f"chunk is {options.chunk}; give at least one step")
    current = jnp.asarray(current)
    _check_floating("current", current)
    if current.ndim != 3:
        raise ValueError(f"current has shape {current.shape}; lif takes (batch, time, channels)")
    batch, time, channels = current.shape
    if time == 0:
        raise ValueError(f"current has shape {current.shape}: no time steps; give at least one")
    wide = jnp.promote_types(current.dtype, jnp.float32)
    vectors = []
    for name, x in (("decay", decay), ("threshold", threshold)):
        x = jnp.asarray(x, wide if isinstance(x, int | float) else None)
        _check_floating(name, x)
        if x.shape not in ((), (channels,)):
            raise ValueError(f"{name} has shape {x.shape}; it must be a number or ({channels},)")
        vectors.append(jnp.broadcast_to(x, (channels,)))
    if initial_state is not None:
        initial_state = jnp.asarray(initial_state)
        check_shape("lif", "initial_state", initial_state, (batch, channels))
        initial_state = initial_state.astype(wide)
    return current, *vectors, initial_state


def _at(array: jax.Array, t: Any, axis: int = 1) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, t, axis, keepdims=False)


def _put(array: jax.Array, t: Any, value: jax.Array, axis: int = 1) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), t, axis)


def _entering(state: jax.Array, reset: jax.Array | None, t: Any) -> jax.Array:
    return state if reset is None else jnp.where(_at(reset, t)[:, None], 0, state)


def _xla_forward(
    options: Options, current: Any, decay: Any, threshold: Any, initial_state: Any, reset: Any
) -> Any:
    batch, time, channels = current.shape
    wide = jnp.promote_types(current.dtype, jnp.float32)
    decay, threshold = decay.astype(wide), threshold.astype(wide)
    chunks = math.ceil(time / options.chunk)
    state = jnp.zeros_like(current[:, 0], wide)
    if initial_state is not None:
        state = initial_state.astype(wide)

    def step_at(t, carry):
        state, spikes = carry
        before, now = _entering(state, reset, t), _at(current, t).astype(wide)
        _, fired, state = advance(options, decay, threshold, before, now)
        return state, _put(spikes, t, fired)

    def chunk(i, carry):
        state, spikes, kept = carry
        kept = _put(kept, i, state)
        first, last = i * options.chunk, jnp.minimum((i + 1) * options.chunk, time)
        return *jax.lax.fori_loop(first, last, step_at, (state, spikes)), kept

    kept = jnp.zeros_like(current, wide, shape=(batch, chunks, channels))
    begin = (state, jnp.zeros_like(current), kept)
    state, spikes, kept = jax.lax.fori_loop(0, chunks, chunk, begin)
    return (spikes, state), (kept,)


def _xla_backward(options: Options, operands: Any, residuals: Any, cotangents: Any) -> Any:
    current, decay, threshold, initial_state, reset = operands
    (kept,), (d_spikes, d_final) = residuals, cotangents
    time, wide = current.shape[1], d_final.dtype
    decay, threshold = decay.astype(wide), threshold.astype(wide)
    chunks = kept.shape[1]

    def chunk(k, carry):
        d_state, d_current, to_decay, to_threshold, befores, potentials = carry
        first = (chunks - 1 - k) * options.chunk
        length = jnp.minimum(options.chunk, time - first)

        def again(j, carry):
            state, befores, potentials = carry
            before = _entering(state, reset, first + j)
            now = _at(current, first + j).astype(wide)
            v, _, state = advance(options, decay, threshold, before, now)
            return state, _put(befores, j, before, 0), _put(potentials, j, v, 0)

        start = _at(kept, chunks - 1 - k)
        _, befores, potentials = jax.lax.fori_loop(0, length, again, (start, befores, potentials))

        def back(i, carry):
            d_state, d_current, to_decay, to_threshold = carry
            j = length - 1 - i
            v, cotangent = _at(potentials, j, 0), _at(d_spikes, first + j).astype(wide)
            dv, d_level = gradient(options, threshold, v, cotangent, d_state)
            d_current = _put(d_current, first + j, options.gain * dv)
            to_decay = to_decay + dv * _at(befores, j, 0)
            d_state = _entering(decay * dv, reset, first + j)
            return d_state, d_current, to_decay, to_threshold + d_level

        sums = (d_state, d_current, to_decay, to_threshold)
        return *jax.lax.fori_loop(0, length, back, sums), befores, potentials

    zero = jnp.zeros_like(d_final)
    buffer = jnp.zeros_like(d_final, shape=(min(options.chunk, time), *d_final.shape))
    begin = (d_final, jnp.zeros_like(current), zero, zero, buffer, buffer)
    d_state, d_current, to_decay, to_threshold, _, _ = jax.lax.fori_loop(0, chunks, chunk, begin)
    first = None if initial_state is None else d_state
    return d_current, to_decay.sum(0), to_threshold.sum(0), first, None
