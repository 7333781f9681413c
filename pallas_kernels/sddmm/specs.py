"""Sizes that the tests and the benchmark of `sddmm` share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.graph_inputs import index_shapes, random_index
from pallas_kernels.sddmm.reference import Options
from pallas_kernels.specs import Cost, Spec


def _spec(name: str, n: int, e: int, f: int, h: int = 0, *, hub: bool = False) -> Spec:
    return Spec(name, {"N": n, "E": e, "F": f, "H": h}, {"hub": hub})


SPECS = {
    "test": (
        _spec("heads_f3", 12, 70, 3, 4),
        _spec("hub_f200", 11, 90, 200, hub=True),
        _spec("f1", 9, 40, 1),
        _spec("one_head_f64", 10, 30, 64, 1),
        _spec("no_edges", 4, 0, 3),
    ),
    "cpu": (
        _spec("n10k_e160k_f64", 10_000, 160_000, 64),
        _spec("n100k_e1m6_f64", 100_000, 1_600_000, 64),
        _spec("n10k_e160k_h8_f8", 10_000, 160_000, 8, 8),
    ),
    "gpu": (
        _spec("arxiv_f128", 169_343, 2_501_829, 128),
        _spec("arxiv_h8_f16", 169_343, 2_501_829, 16, 8),
        _spec("products_f100", 2_449_029, 123_718_280, 100),
    ),
}
SHARDED = "heads_f3"


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (a, b, senders, receivers, ...) as shapes."""
    n, e, f, h = (spec.sizes[letter] for letter in "NEFH")
    rows = jax.ShapeDtypeStruct((n, h, f) if h else (n, f), jnp.dtype(dtype))
    return Options(), (rows, rows, *index_shapes(n, e))


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands: unit normal rows, a long-tailed graph."""
    options, (a, b, *_) = shapes(spec, dtype)
    rng = np.random.default_rng(seed)
    index = random_index(seed, spec.sizes["N"], spec.sizes["E"], hub=spec.options["hub"])
    rows = (jnp.asarray(rng.standard_normal(x.shape, np.float32), x.dtype) for x in (a, b))
    return options, (*rows, *(jnp.asarray(array) for array in index))


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """A row of `b` read per edge and one of `a` per node, a product written, indices read.

    The gradient reads a row per edge twice, and the rows' cotangents of both ends are written.
    """
    n, e, f, h = (spec.sizes[letter] for letter in "NEFH")
    heads, size = max(h, 1), jnp.dtype(dtype).itemsize
    once = Cost((e + n) * f * heads * size + e * heads * size + 8 * e, 2.0 * e * f * heads)
    return Cost(2 * once.bytes, 2 * once.flops) if backward else once


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[tuple[P, ...], P]:
    """The heads split over a mesh axis: features are summed and stay together."""
    heads = P(None, axis)
    return (heads, heads, *(P() for _ in operands[2:])), heads
