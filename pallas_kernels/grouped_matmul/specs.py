"""Sizes that tests and benchmarks share: M rows, G groups, (K, N) matrices, P gathered rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.grouped_matmul.reference import Options
from pallas_kernels.specs import Cost, Spec

# Spec.options say which optional operands there are ("scatter", "scale"; "gather" if P is among
# the sizes), and whether some rows belong to no group ("outside").


def _spec(name: str, *options: str, **sizes: int) -> Spec:
    return Spec(name, sizes, dict.fromkeys(options, True))


SPECS: dict[str, tuple[Spec, ...]] = {
    "test": (
        _spec("plain", M=70, G=5, K=16, N=16),
        _spec("one", M=5, G=1, K=1, N=1),
        _spec("gather", "scale", "outside", M=90, G=4, K=3, N=64, P=20),
        _spec("scatter", "scatter", M=40, G=6, K=64, N=3),
        _spec("wide", "scatter", "scale", M=150, G=3, K=200, N=200, P=30),
        _spec("long", "outside", M=900, G=3, K=5, N=7),
    ),
    "cpu": (
        _spec("relations", M=200_000, G=50, K=64, N=64, P=20_000),
        _spec("many-relations", "scale", M=100_000, G=474, K=32, N=32, P=14_541),
        _spec("experts", M=2048, G=8, K=256, N=1024),
    ),
    "gpu": (
        _spec("relations", M=2_500_000, G=50, K=64, N=64, P=169_343),
        _spec("experts", M=65_536, G=8, K=1024, N=4096),
    ),
}
SHARDED = "gather"


def _offsets(spec: Spec, rng: np.random.Generator) -> np.ndarray:
    """Skewed groups; where there are enough, one is empty and one has a single row."""
    groups, count = spec.sizes["G"], spec.sizes["M"]
    share = rng.random(groups) ** 3 + 0.01
    if groups > 2:
        share[1] = 0.0
    first, last = (count // 10, count - count // 10) if spec.options.get("outside") else (0, count)
    ends = np.floor(first + np.cumsum(share) / share.sum() * (last - first)).astype(np.int32)
    ends[-1] = last
    if groups > 2:
        ends[:2] = first + 1
    return np.append(np.int32(first), ends)


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands of `reference`, with random groups of skewed sizes."""
    rng = np.random.default_rng(seed)
    size, chosen = spec.sizes, spec.options
    count, depth, columns, rows = size["M"], size["K"], size["N"], size.get("P", size["M"])
    x = jnp.asarray(rng.standard_normal((rows, depth)), dtype)
    weights = rng.standard_normal((size["G"], depth, columns)) / np.sqrt(depth)
    gather = order = offsets = scatter = scale = None
    if "P" in size:
        gather = rng.integers(0, rows, count).astype(np.int32)
        order = np.argsort(gather, kind="stable").astype(np.int32)
        offsets = np.searchsorted(gather[order], np.arange(rows + 1)).astype(np.int32)
    if chosen.get("scatter"):
        scatter = rng.permutation(count).astype(np.int32)
    if chosen.get("scale"):
        scale = jnp.asarray(rng.random(count), dtype)
    integers = [None if a is None else jnp.asarray(a) for a in (gather, order, offsets, scatter)]
    groups = jnp.asarray(_offsets(spec, rng))
    return Options(), (x, jnp.asarray(weights, dtype), groups, *integers, scale)


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """The same as `make` without making arrays."""
    size, chosen = spec.sizes, spec.options
    count, rows = size["M"], size.get("P", size["M"])

    def struct(wanted: bool, *shape: int, kind: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(shape, kind) if wanted else None

    return Options(), (
        struct(True, rows, size["K"], kind=dtype),
        struct(True, size["G"], size["K"], size["N"], kind=dtype),
        struct(True, size["G"] + 1),
        struct("P" in size, count),
        struct("P" in size, count),
        struct("P" in size, rows + 1),
        struct(bool(chosen.get("scatter")), count),
        struct(bool(chosen.get("scale")), count, kind=dtype),
    )


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Bytes of rows, matrices, indices and results once, gathered rows without reuse.

    Backward reads rows, matrices and the gradient of the result (twice: for dX and for dW) and
    writes both gradients; where rows are gathered it also writes and reads the gradient of each.
    Flops are those of the products.
    """
    size, width = spec.sizes, np.dtype(dtype).itemsize
    count, depth, columns = size["M"], size["K"], size["N"]
    matrices = size["G"] * depth * columns * width
    lists = 4 * count * (("P" in size) + bool(spec.options.get("scatter")))
    flops = 2.0 * count * depth * columns
    if not backward:
        return Cost(count * (depth + columns) * width + matrices + lists, flops)
    rows = count * (2 * depth + 2 * columns) * width
    if "P" in size:
        rows += (count + size["P"]) * depth * width
    return Cost(rows + 2 * matrices + 2 * lists, 2 * flops)


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    """Columns of the matrices split over `axis`."""
    return (P(), P(None, None, axis), *(P() for _ in operands[2:])), P(None, axis)
