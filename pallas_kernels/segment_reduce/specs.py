"""Sizes that the tests and the benchmark of `segment_reduce` share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.graph_inputs import random_ids
from pallas_kernels.segment_reduce.reference import Options
from pallas_kernels.specs import Cost, Spec


def _spec(name: str, s: int, e: int, f: int, reduce: str = "sum", **options: Any) -> Spec:
    return Spec(name, {"S": s, "E": e, "F": f}, {"reduce": reduce, **options})


SPECS = {
    "test": (
        _spec("hub_sum_f3", 11, 150, 3, hub=True),
        _spec("mean_f1", 9, 40, 1, "mean", ids=True),
        _spec("max_f200", 7, 70, 200, "max", hub=True),
        _spec("min_f64", 20, 50, 64, "min", ids=True),
        _spec("no_rows", 4, 0, 3),
        _spec("one_segment", 1, 100, 3, "max"),
    ),
    "cpu": (
        _spec("sum_10k_160k_f64", 10_000, 160_000, 64),
        _spec("max_10k_160k_f64", 10_000, 160_000, 64, "max"),
        _spec("sum_100k_1m6_f8", 100_000, 1_600_000, 8),
    ),
    "gpu": (
        _spec("arxiv_f128", 169_343, 2_501_829, 128),
        _spec("arxiv_max_f128", 169_343, 2_501_829, 128, "max"),
        _spec("products_f100", 2_449_029, 123_718_280, 100),
    ),
}
SHARDED = "min_f64"


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (data, offsets, ids) as shapes."""
    s, e, f = (spec.sizes[letter] for letter in "SEF")
    whole = jnp.dtype(jnp.int32)
    return Options(spec.options["reduce"]), (
        jax.ShapeDtypeStruct((e, f), jnp.dtype(dtype)),
        jax.ShapeDtypeStruct((s + 1,), whole),
        jax.ShapeDtypeStruct((e,), whole) if spec.options.get("ids") else None,
    )


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (data, offsets, ids): unit normal rows in halves, so that there are ties."""
    rng = np.random.default_rng(seed)
    options, (data, offsets, ids) = shapes(spec, dtype)
    count = offsets.shape[0] - 1
    numbers = np.sort(random_ids(rng, count, data.shape[0], hub=spec.options.get("hub", False)))
    starts = np.searchsorted(numbers, np.arange(count + 1)).astype(np.int32)
    values = rng.standard_normal(data.shape, np.float32)
    return options, (
        jnp.asarray(np.round(2 * values) / 2, data.dtype),
        jnp.asarray(starts),
        None if ids is None else jnp.asarray(numbers),
    )


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Forward reads the rows and writes a result per segment; the gradient does the reverse.

    The gradient of a maximum also reads the rows again, and the results.
    """
    s, e, f = (spec.sizes[letter] for letter in "SEF")
    extremum = spec.options["reduce"] in ("max", "min")
    arrays = 2 if backward and extremum else 1
    size = jnp.dtype(dtype).itemsize
    return Cost(bytes=arrays * (e + s) * f * size + 4 * (s + 1), flops=e * f)


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[tuple[P, ...], P]:
    """The features split over a mesh axis."""
    return (P(None, axis), *(P() for _ in operands[1:])), P(None, axis)
