"""Sizes that the tests and the benchmark of `selective_scan` share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.selective_scan.reference import Options
from pallas_kernels.specs import Cost, Spec


def _spec(name: str, b: int, t: int, e: int, n: int, *having: str, checkpoint: int = 16) -> Spec:
    """`having`: which of softplus, skip, gate, bias, state and reset there are."""
    options = {**dict.fromkeys(having, True), "checkpoint": checkpoint}
    return Spec(name, {"B": b, "T": t, "E": e, "N": n}, options)


_MAMBA = ("softplus", "bias", "skip", "gate")

SPECS = {
    "test": (
        _spec("packed", 2, 21, 40, 4, *_MAMBA, "state", "reset", checkpoint=6),
        _spec("one_step", 2, 1, 1, 1, *_MAMBA, "state", "reset", checkpoint=2),
        _spec("segments", 1, 39, 3, 3, *_MAMBA, "state", "reset", checkpoint=2),
        _spec("mamba", 1, 6, 33, 16, *_MAMBA, checkpoint=4),
        _spec("many_states", 1, 5, 5, 64, "state", checkpoint=2),
    ),
    "cpu": (
        _spec("b2_t512_e192_n16", 2, 512, 192, 16, *_MAMBA),
        _spec("b8_t256_e256_n16", 8, 256, 256, 16, *_MAMBA),
    ),
    "gpu": (
        _spec("b8_t2048_e2048_n16", 8, 2048, 2048, 16, *_MAMBA),
        _spec("b1_t16384_e2048_n16", 1, 16384, 2048, 16, *_MAMBA),
    ),
}
SHARDED = "packed"


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options and all operands as shapes; parameters and states are float32 in any case."""
    b, t, e, n = (spec.sizes[letter] for letter in "BTEN")

    def shape(*sizes, dtype=jnp.float32, given=True):
        return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype)) if given else None

    has = spec.options.get
    options = Options(has("softplus", False), has("checkpoint", 16))
    return options, (
        shape(b, t, e, dtype=dtype),
        shape(b, t, e, dtype=dtype),
        shape(e, n),
        shape(b, t, n, dtype=dtype),
        shape(b, t, n, dtype=dtype),
        shape(e, given=has("skip")),
        shape(b, t, e, dtype=dtype, given=has("gate")),
        shape(e, given=has("bias")),
        shape(b, e, n, given=has("state")),
        shape(b, t, dtype=bool, given=has("reset")),
    )


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands: A = -1 .. -N as Mamba starts, step sizes of 0.001 to 0.5.

    Every row but the first starts with a reset; all have one in the middle and two in a row.
    """
    rng = np.random.default_rng(seed)
    options, like = shapes(spec, dtype)
    size = np.exp(rng.uniform(np.log(1e-3), np.log(0.5), like[1].shape))
    bias = rng.uniform(-1, 1, like[1].shape[2])
    if options.delta_softplus:
        size = np.log(np.expm1(size))
    if spec.options.get("bias"):
        size = size - bias
    marks = np.zeros(like[0].shape[:2], bool)
    marks[1:, 0] = True
    marks[:, marks.shape[1] // 2 :][:, :2] = True
    marks[0, 0] = False
    values: list[Any] = [rng.standard_normal(x.shape) if x is not None else None for x in like]
    values[1], values[9] = size, marks
    values[2] = np.broadcast_to(-np.arange(1.0, like[2].shape[1] + 1), like[2].shape)
    values[7] = bias
    return options, tuple(
        None if x is None else jnp.asarray(value, x.dtype) for value, x in zip(values, like)
    )


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Sequences in and out once; one exponential and six operations per step, channel and state.

    Forward reads u, delta, z, B, C and writes y; backward reads these and the cotangent and
    writes five gradients. The flops of the backward are 16 per step, channel and state. Kept
    states, parameters, softplus and the gate are left out.
    """
    b, t, e, n = (spec.sizes[letter] for letter in "BTEN")
    wide = 2 + bool(spec.options.get("gate"))
    rows = 2 * wide + 1 if backward else wide + 1
    narrow = 4 if backward else 2
    volume = float(b * t * e * n)
    return Cost(
        bytes=float(b * t * (rows * e + narrow * n) * jnp.dtype(dtype).itemsize),
        flops=(16 if backward else 6) * volume,
        exps=volume,
    )


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[tuple[P, ...], tuple[P, ...]]:
    """The batch split over a mesh axis; the parameters A, D and delta_bias on every device."""
    whole = (2, 5, 7)
    parts = tuple(
        P() if x is None or place in whole else P(axis) for place, x in enumerate(operands)
    )
    return parts, (P(axis), P(axis))
