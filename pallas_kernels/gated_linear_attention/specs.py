"""Sizes that the tests and the benchmark of gated linear attention share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.gated_linear_attention.reference import Options
from pallas_kernels.specs import Cost, Spec


def _spec(name: str, b: int, t: int, h: int, k: int, v: int, **options: Any) -> Spec:
    return Spec(name, {"B": b, "T": t, "H": h, "K": k, "V": v}, options)


_BOTH = {"state": True, "reset": True}
SPECS = {
    "test": (
        _spec("packed", 2, 70, 2, 3, 20, chunk=32, **_BOTH),
        _spec("one_step", 2, 1, 1, 1, 1, chunk=16, **_BOTH),
        _spec("wide", 1, 64, 1, 72, 130, scale=0.7),
    ),
    "cpu": (
        _spec("b4_t512_h4_k32_v64", 4, 512, 4, 32, 64),
        _spec("b2_t1024_h4_k64_v64", 2, 1024, 4, 64, 64),
    ),
    "gpu": (
        _spec("b4_t2048_h16_d128", 4, 2048, 16, 128, 128),
        _spec("b2_t16384_h16_d128", 2, 16384, 16, 128, 128),
        _spec("b8_t2048_h32_d256", 8, 2048, 32, 256, 256),
    ),
}
SHARDED = "packed"


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (q, k, v, log_decay, initial_state, reset) as shapes."""
    b, t, h, k, v = (spec.sizes[letter] for letter in "BTHKV")
    keys, values = (jax.ShapeDtypeStruct((b, t, h, width), jnp.dtype(dtype)) for width in (k, v))
    static = {name: spec.options[name] for name in ("scale", "chunk") if name in spec.options}
    state = reset = None
    if spec.options.get("state"):
        state = jax.ShapeDtypeStruct((b, h, k, v), jnp.dtype(jnp.float32))
    if spec.options.get("reset"):
        reset = jax.ShapeDtypeStruct((b, t), jnp.dtype(bool))
    return Options(**static), (keys, keys, values, keys, state, reset)


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands: normal q, k, v; log decays -exp(x), x uniform in (-6, 1).

    Every row but the first starts with a reset; the first has one in the middle and two in a row.
    """
    rng = np.random.default_rng(seed)
    options, (q, _, v, log_decay, state, reset) = shapes(spec, dtype)
    arrays = [
        jnp.asarray(rng.standard_normal(x.shape) * x.shape[-1] ** -0.25, x.dtype) for x in (q, q, v)
    ]
    arrays.append(jnp.asarray(-np.exp(rng.uniform(-6, 1, log_decay.shape)), log_decay.dtype))
    start = flags = None
    if state is not None:
        start = jnp.asarray(rng.standard_normal(state.shape), state.dtype)
    if reset is not None:
        marks = np.zeros(reset.shape, bool)
        marks[1:, 0] = True
        marks[:, reset.shape[1] // 2 :][:, :2] = True
        marks[0, 0] = False
        flags = jnp.asarray(marks)
    return options, (*arrays, start, flags)


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Operands and o once (backward: operands, do and gradients), and the products of the chunks.

    Per chunk of C steps and head: keys times values into the state and out of it (2 x 2 C K V), and
    half of the C x C scores and of their product with the values (C C (K + V)); backward 2.5 times
    that. The states at the chunk boundaries are not counted. One exponential per decay
    (backward two).
    """
    b, t, h, k, v = (spec.sizes[letter] for letter in "BTHKV")
    chunk = shapes(spec, dtype)[0].chunk
    steps, width = b * t * h, jnp.dtype(dtype).itemsize
    flops = steps * (4 * k * v + chunk * (k + v))
    if backward:
        return Cost(bytes=steps * (6 * k + 3 * v) * width, flops=2.5 * flops, exps=2 * steps * k)
    return Cost(bytes=steps * (3 * k + 2 * v) * width, flops=flops, exps=steps * k)


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[tuple[P, ...], tuple[P, ...]]:
    """The heads in parts."""
    heads = P(None, None, axis)
    state = P() if operands[4] is None else P(None, axis)
    return (heads, heads, heads, heads, state, P()), (heads, P(None, axis))
