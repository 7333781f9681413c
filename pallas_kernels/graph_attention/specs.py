"""Sizes that tests and benchmarks share: M = N nodes, E edges, H heads, D scores, F values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.graph_attention.reference import Options
from pallas_kernels.graph_inputs import Index, index_shapes, random_index
from pallas_kernels.specs import Cost, Spec


def _spec(name: str, kind: str, options: Any = None, **sizes: int) -> Spec:
    return Spec(name, sizes, {"kind": kind, **(options or {})})


_LOOPS = {"self_loops": True}
_ARXIV = {"N": 169_343, "E": 2_484_941}
_CPU = {"N": 20_000, "E": 320_000}
SPECS: dict[str, tuple[Spec, ...]] = {
    "test": (
        _spec("additive", "additive", N=13, E=50, H=3, F=5),
        # Half of all edges enter one node and half leave one: rows longer than a piece.
        _spec("additive-hub", "additive", _LOOPS, N=11, E=1300, H=2, F=4, hub=1),
        _spec("additive-one", "additive", N=7, E=9, H=1, F=1),
        _spec("gatv2", "gatv2", N=12, E=40, H=2, D=3, F=7),
        _spec("gatv2-shared-hub", "gatv2", _LOOPS, N=9, E=1100, H=2, D=3, hub=1),
        _spec("gatv2-wide", "gatv2", N=6, E=20, H=3, D=64),
        _spec("dot", "dot", {"scale": 0.5}, N=12, E=40, H=4, D=8, F=16),
        _spec("dot-hub", "dot", {"scale": 0.3}, N=10, E=1200, H=1, D=5, F=3, hub=1),
        _spec("dot-wide", "dot", _LOOPS, N=6, E=20, H=2, D=1, F=200),
    ),
    "cpu": (
        _spec("additive-h8", "additive", **_CPU, H=8, F=8),
        _spec("additive-h1", "additive", **_CPU, H=1, F=40),
        _spec("gatv2-h4", "gatv2", **_CPU, H=4, D=16),
        _spec("dot-h4", "dot", {"scale": 0.25}, **_CPU, H=4, D=16, F=16),
    ),
    "gpu": (
        _spec("additive-arxiv", "additive", **_ARXIV, H=8, F=16),
        _spec("gatv2-arxiv", "gatv2", **_ARXIV, H=8, D=16),
        _spec("dot-arxiv", "dot", {"scale": 0.25}, **_ARXIV, H=8, D=16, F=16),
    ),
}
SHARDED = "additive-hub"


def _options(spec: Spec) -> Options:
    return Options(**spec.options)


def _float_shapes(spec: Spec) -> list[tuple[int, ...] | None]:
    size, kind = spec.sizes, spec.options["kind"]
    scores = (size["N"], size["H"]) + ((size["D"],) if kind != "additive" else ())
    att = (size["H"], size["D"]) if kind == "gatv2" else None
    values = (size["N"], size["H"], size["F"]) if "F" in size else None
    return [scores, scores, att, values]


def _graph(index: Index) -> tuple[Any, ...]:
    return (
        index.senders,
        index.receivers,
        index.row_offsets,
        index.col_order,
        index.col_offsets,
        index.col_receivers,
    )


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands of `reference` on a random graph; logits are of the order of 1."""
    rng, size = np.random.default_rng(seed), spec.sizes
    arrays = [None if s is None else rng.standard_normal(s) for s in _float_shapes(spec)]
    if arrays[2] is not None:
        arrays[2] /= np.sqrt(size["D"])
    floats = [None if array is None else jnp.asarray(array, dtype) for array in arrays]
    index = random_index(seed, size["N"], size["E"], hub=bool(size.get("hub")))
    return _options(spec), (*map(jnp.asarray, _graph(index)), *floats)


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """The same as `make` without making arrays."""
    floats = [
        None if shape is None else jax.ShapeDtypeStruct(shape, dtype)
        for shape in _float_shapes(spec)
    ]
    return _options(spec), (
        *_graph(index_shapes(spec.sizes["N"], spec.sizes["E"])),
        *floats,
    )


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Bytes that a fused kernel moves without reuse of gathered rows, and its arithmetic.

    Forward counts per edge its index and the sender's scores and values, and per node its own
    scores and the result. Backward counts two walks over the edges: by receiver the same gathers,
    by sender those of the receiver's scores, gradient and two numbers per head; and per node the
    gradients. Flops count two per number of a gathered row and product.
    """
    size, width = spec.sizes, np.dtype(dtype).itemsize
    heads, edges, nodes = size["H"], size["E"], size["N"]
    scores = heads * size.get("D", 1)
    values = heads * size["F"] if "F" in size else 0
    gathered = (scores + values) * width + 4
    out = values or scores
    if not backward:
        total = edges * gathered + nodes * ((scores + out) * width + heads * 4 + 4)
        return Cost(total, 2.0 * edges * (scores + out), float(edges * heads))
    by_sender = (scores + out) * width + 8 * heads + 4
    per_node = (3 * (scores + values) + 2 * out) * width + 16 * heads + 8
    flops = 2.0 * edges * (4 * scores + 3 * out)
    return Cost(edges * (gathered + by_sender) + nodes * per_node, flops, 2.0 * edges * heads)


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    """Heads split over `axis`."""
    features = [
        P() if x is None else P(axis) if name == "att" else P(None, axis)
        for name, x in zip(("left", "right", "att", "values"), operands[6:])
    ]
    return (*(P() for _ in operands[:6]), *features), P(None, axis)
