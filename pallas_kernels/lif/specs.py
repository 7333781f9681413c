"""Sizes that the tests and the benchmark of `lif` share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.lif.neuron import Options
from pallas_kernels.specs import Cost, Spec


def _spec(name: str, b: int, t: int, d: int, **options: Any) -> Spec:
    return Spec(name, {"B": b, "T": t, "D": d}, options)


_SHORT = {"chunk": 3, "state": True, "reset": True}
SPECS = {
    "test": (
        _spec("hard_packed", 2, 10, 64, **_SHORT),
        _spec("one_step", 2, 1, 3, **_SHORT, surrogate="sigmoid"),
        _spec(
            "soft_relative",
            2,
            8,
            1,
            **_SHORT,
            after_spike="soft",
            surrogate="triangle",
            width=1.0,
            scale=0.3,
            relative=True,
        ),
        _spec(
            "detached",
            1,
            9,
            200,
            chunk=3,
            after_spike="soft",
            surrogate="rectangle",
            detach_reset=True,
            gain=0.5,
        ),
        _spec("no_reset", 2, 7, 5, **_SHORT, after_spike="none", surrogate="fast_sigmoid"),
    ),
    "cpu": (
        _spec("b8_t256_d512", 8, 256, 512),
        _spec("b1_t4096_d256", 1, 4096, 256),
    ),
    "gpu": (_spec("b8_t1024_d2048", 8, 1024, 2048),),
}
SHARDED = "hard_packed"


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (current, decay, threshold, initial_state, reset) as shapes."""
    b, t, d = (spec.sizes[letter] for letter in "BTD")
    single = jnp.dtype(jnp.float32)
    own = {k: v for k, v in spec.options.items() if k in Options._fields}
    return Options(**own), (
        jax.ShapeDtypeStruct((b, t, d), jnp.dtype(dtype)),
        jax.ShapeDtypeStruct((d,), single),
        jax.ShapeDtypeStruct((d,), single),
        jax.ShapeDtypeStruct((b, d), single) if spec.options.get("state") else None,
        jax.ShapeDtypeStruct((b, t), jnp.dtype(bool)) if spec.options.get("reset") else None,
    )


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands: normal currents that make about a quarter of the neurons fire.

    Every row but the first starts with a reset; each has one in the middle and two in a row.
    """
    rng = np.random.default_rng(seed)
    options, (current, decay, _, state, reset) = shapes(spec, dtype)
    values = jnp.asarray(rng.standard_normal(current.shape) + 0.3, current.dtype)
    factors = jnp.asarray(rng.uniform(0.3, 0.95, decay.shape), jnp.float32)
    threshold = jnp.asarray(rng.uniform(0.5, 1.2, decay.shape), jnp.float32)
    start = None if state is None else jnp.asarray(rng.standard_normal(state.shape), jnp.float32)
    flags = None
    if reset is not None:
        marks = np.zeros(reset.shape, bool)
        marks[:, reset.shape[1] // 2 :][:, :2] = True
        marks[:, 0] = np.arange(reset.shape[0]) > 0
        flags = jnp.asarray(marks)
    return options, (values, factors, threshold, start, flags)


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Forward reads the current and writes the spikes; backward reads two arrays and writes one.

    The kept potentials are counted, states, flags and vectors are not. A step is a product and
    three additions or comparisons; its gradient computes it again and takes about twelve more.
    """
    options, (current, *_) = shapes(spec, dtype)
    size = spec.sizes["B"] * spec.sizes["T"] * spec.sizes["D"]
    kept = 4 * size / options.chunk
    exps = size if backward and options.surrogate == "sigmoid" else 0
    return Cost(
        bytes=(3 if backward else 2) * size * current.dtype.itemsize + kept,
        flops=(16 if backward else 4) * size,
        exps=exps,
    )


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[tuple[P, ...], tuple[P, ...]]:
    """The batch split over a mesh axis; every device holds decay and threshold."""
    _, _, _, state, reset = operands
    per_row = tuple(P() if x is None else P(axis) for x in (state, reset))
    return (P(axis), P(), P(), *per_row), (P(axis), P(axis))
