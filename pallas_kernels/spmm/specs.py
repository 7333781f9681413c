"""Sizes that the tests and the benchmark of `spmm` share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.graph_inputs import index_shapes, random_index
from pallas_kernels.specs import Cost, Spec
from pallas_kernels.spmm.reference import Options


def _spec(name: str, n: int, e: int, f: int, h: int = 0, **options: Any) -> Spec:
    return Spec(name, {"N": n, "E": e, "F": f, "H": h}, options)


SPECS = {
    "test": (
        _spec("hub_f64", 13, 150, 64, weight="edge", hub=True),
        _spec("heads_f3", 15, 60, 3, 5, weight="head"),
        _spec("transposed_f1", 12, 100, 1, weight="edge", transposed=True, hub=True),
        _spec("wide_heads_f200", 10, 30, 200, 2, weight="head"),
        _spec("max_f3", 12, 100, 3, weight="edge", reduce="max", hub=True),
        _spec("min_heads_f1", 9, 40, 1, 3, weight="head", reduce="min"),
        _spec("max_plain_f64", 9, 30, 64, reduce="max"),
        _spec("no_edges", 4, 0, 3, weight="edge"),
    ),
    "cpu": (
        _spec("n10k_e160k_f64", 10_000, 160_000, 64, weight="edge"),
        _spec("n100k_e1m6_f64", 100_000, 1_600_000, 64, weight="edge"),
        _spec("n10k_e160k_h8_f8", 10_000, 160_000, 8, 8, weight="head"),
    ),
    "gpu": (
        _spec("arxiv_f128", 169_343, 2_501_829, 128, weight="edge"),
        _spec("arxiv_h8_f16", 169_343, 2_501_829, 16, 8, weight="head"),
        _spec("arxiv_max_f128", 169_343, 2_501_829, 128, weight="edge", reduce="max"),
        _spec("products_f100", 2_449_029, 123_718_280, 100, weight="edge"),
    ),
}
SHARDED = "hub_f64"


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (x, weight, senders, receivers, ...) as shapes."""
    n, e, f, h = (spec.sizes[letter] for letter in "NEFH")
    dtype, kind = jnp.dtype(dtype), spec.options.get("weight")
    options = Options(spec.options.get("reduce", "sum"), spec.options.get("transposed", False))
    x = jax.ShapeDtypeStruct((n, h, f) if h else (n, f), dtype)
    weight = jax.ShapeDtypeStruct((e, h) if kind == "head" else (e,), dtype) if kind else None
    return options, (x, weight, *index_shapes(n, e))


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands: unit normal values, a long-tailed graph."""
    options, (x, weight, *_) = shapes(spec, dtype)
    rng = np.random.default_rng(seed)
    n, e = spec.sizes["N"], spec.sizes["E"]
    index = random_index(seed, n, e, hub=spec.options.get("hub", False))

    def normal(like):
        return jnp.asarray(rng.standard_normal(like.shape, np.float32), like.dtype)

    return options, (
        normal(x),
        None if weight is None else normal(weight),
        *(jnp.asarray(array) for array in index),
    )


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """The floor without reuse: a row read per edge, a row written per node, weights and indices.

    The gradient of a sum reads a row of the cotangent per edge, and for the weights a row of `x`
    per edge again. That of a maximum also reads the result beside the cotangent in both, after a
    pass over the edges that counts ties.
    """
    n, e, f, h = (spec.sizes[letter] for letter in "NEFH")
    row = f * max(h, 1) * jnp.dtype(dtype).itemsize
    weighted = spec.options.get("weight")
    weight = (h if weighted == "head" else 1) * jnp.dtype(dtype).itemsize if weighted else 0
    once = Cost((e + n) * row + e * (4 + weight) + 4 * (n + 1), 2.0 * e * f * max(h, 1))
    if not backward:
        return once
    passes = 2 if weighted else 1
    if spec.options.get("reduce", "sum") != "sum":
        passes = 2 * passes + 1
    return Cost(passes * once.bytes, passes * once.flops)


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[tuple[P, ...], P]:
    """The features split over a mesh axis."""
    features = P(*(None,) * (operands[0].ndim - 1), axis)
    return (features, *(P() for _ in operands[1:])), features
