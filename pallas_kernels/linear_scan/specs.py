"""Sizes that the tests and the benchmark of `linear_scan` share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.linear_scan.reference import Options
from pallas_kernels.specs import Cost, Spec


def _spec(name: str, b: int, t: int, d: int, **options: Any) -> Spec:
    return Spec(name, {"B": b, "T": t, "D": d}, options)


SPECS = {
    "test": (
        _spec("packed", 2, 21, 200, state=True, reset=True),
        _spec("one_step", 2, 1, 3, state=True, reset=True),
        _spec("segments", 1, 37, 3, state=True, reset=True),
        _spec("reverse", 2, 19, 1, state=True, reset=True, reverse=True),
        _spec("plain", 2, 16, 64),
        _spec("complex", 2, 19, 5, state=True, reset=True, complex=True),
        _spec("complex_reverse", 1, 6, 5, reverse=True, complex=True),
    ),
    "cpu": (
        _spec("b8_t512_d256", 8, 512, 256),
        _spec("b1_t16384_d128", 1, 16384, 128),
        _spec("complex_b4_t1024_d128", 4, 1024, 128, complex=True),
    ),
    "gpu": (
        _spec("b8_t2048_d2048", 8, 2048, 2048),
        _spec("b1_t65536_d1024", 1, 65536, 1024),
        _spec("complex_b8_t2048_d1024", 8, 2048, 1024, complex=True),
    ),
}
SHARDED = "packed"


def _dtypes(spec: Spec, dtype: Any) -> tuple[Any, Any]:
    """The dtypes of the operands and of the state; complex numbers have no half precision."""
    if spec.options.get("complex"):
        return jnp.dtype(jnp.complex64), jnp.dtype(jnp.complex64)
    return jnp.dtype(dtype), jnp.dtype(jnp.float32)


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (a, x, initial_state, reset) as shapes."""
    b, t, d = (spec.sizes[letter] for letter in "BTD")
    wide, state = _dtypes(spec, dtype)
    return Options(reverse=spec.options.get("reverse", False)), (
        jax.ShapeDtypeStruct((b, t, d), wide),
        jax.ShapeDtypeStruct((b, t, d), wide),
        jax.ShapeDtypeStruct((b, d), state) if spec.options.get("state") else None,
        jax.ShapeDtypeStruct((b, t), jnp.dtype(bool)) if spec.options.get("reset") else None,
    )


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (a, x, initial_state, reset): factors of size 0.5 to 1, unit normal inputs.

    Every row but the first starts with a reset; the first has one in the middle and two in a row.
    """
    rng = np.random.default_rng(seed)
    options, (a, x, state, reset) = shapes(spec, dtype)

    def normal(like):
        values = rng.standard_normal(like.shape)
        if jnp.issubdtype(like.dtype, jnp.complexfloating):
            values = values + 1j * rng.standard_normal(like.shape)
        return jnp.asarray(values, like.dtype)

    factors = rng.uniform(0.5, 1.0, a.shape)
    if spec.options.get("complex"):
        factors = factors * np.exp(1j * rng.uniform(-np.pi, np.pi, a.shape))
    flags = None
    if reset is not None:
        marks = np.zeros(reset.shape, bool)
        marks[1:, 0] = True
        marks[:, reset.shape[1] // 2 :][:, :2] = True
        marks[0, 0] = False
        flags = jnp.asarray(marks)
    start = None if state is None else normal(state)
    return options, (jnp.asarray(factors, a.dtype), normal(x), start, flags)


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Forward reads a and x and writes h; backward reads a, h and the cotangent and writes two.

    States and flags are left out. A complex product with addition is 8 flops, a real one 2.
    """
    size = spec.sizes["B"] * spec.sizes["T"] * spec.sizes["D"]
    arrays, products = (5, 2) if backward else (3, 1)
    per_product = 8 if spec.options.get("complex") else 2
    width = _dtypes(spec, dtype)[0].itemsize
    return Cost(bytes=arrays * size * width, flops=per_product * products * size)


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[tuple[P, ...], tuple[P, ...]]:
    """The batch split over a mesh axis."""
    return tuple(P() if x is None else P(axis) for x in operands), (P(axis), P(axis))
