"""The sizes at which WKV-4 is tested and measured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.specs import Cost, Spec
from pallas_kernels.wkv4.reference import Options

SPECS = {
    "test": (
        Spec("one-step", {"B": 1, "T": 1, "C": 1}, {"chunk": 2}),
        Spec("resets", {"B": 2, "T": 8, "C": 40}, {"chunk": 3, "reset": True, "state": True}),
        Spec("state", {"B": 2, "T": 6, "C": 3}, {"chunk": 2, "state": True}),
        Spec("wide", {"B": 1, "T": 5, "C": 200}, {"chunk": 2, "reset": True}),
    ),
    "cpu": (
        Spec("small", {"B": 4, "T": 512, "C": 256}),
        Spec("long", {"B": 1, "T": 4096, "C": 512}),
    ),
    "gpu": (Spec("rwkv4", {"B": 8, "T": 1024, "C": 2048}),),
}
SHARDED = "resets"


def _options(spec: Spec) -> Options:
    return Options(**{name: spec.options[name] for name in ("chunk",) if name in spec.options})


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """The operands of `make` as shapes: nothing is computed."""
    b, t, c = (spec.sizes[letter] for letter in "BTC")
    operands = [jax.ShapeDtypeStruct((b, t, c), dtype)] * 2
    operands += [jax.ShapeDtypeStruct((c,), jnp.float32)] * 2
    state = jax.ShapeDtypeStruct((3, b, c), jnp.float32) if spec.options.get("state") else None
    reset = jax.ShapeDtypeStruct((b, t), jnp.bool_) if spec.options.get("reset") else None
    return _options(spec), (*operands, state, reset)


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Operands of realistic scale: decays between 0.3 and 0.99 per step."""
    rng = np.random.default_rng(seed)
    b, t, c = (spec.sizes[letter] for letter in "BTC")
    k, v = (jnp.asarray(rng.standard_normal((b, t, c)), dtype) for _ in range(2))
    w = jnp.asarray(-np.exp(rng.uniform(-4, 0.2, c)), jnp.float32)
    u = jnp.asarray(rng.standard_normal(c), jnp.float32)
    state = reset = None
    if spec.options.get("state"):
        parts = rng.standard_normal((b, c)), rng.uniform(0.5, 2, (b, c)), rng.normal(size=(b, c))
        state = jnp.asarray(np.stack(parts), jnp.float32)
    if spec.options.get("reset"):
        flags = rng.uniform(size=(b, t)) < 0.2
        flags[0, 0] = flags[0, 2:4] = True
        reset = jnp.asarray(flags)
    return _options(spec), (k, v, w, u, state, reset)


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """k, v, y once (backward: k, v, dy, dk, dv); 12 (36) operations and 4 (9) exponentials a step.

    The states at chunk boundaries, which are needed only for the gradient, are not counted.
    """
    steps = spec.sizes["B"] * spec.sizes["T"] * spec.sizes["C"]
    width = jnp.dtype(dtype).itemsize
    if backward:
        return Cost(bytes=5 * steps * width, flops=36 * steps, exps=9 * steps)
    return Cost(bytes=3 * steps * width, flops=12 * steps, exps=4 * steps)


def partition(axis: str, operands: Any) -> tuple[tuple[Any, ...], Any]:
    """The batch in parts."""
    state = P() if operands[4] is None else P(None, axis)
    reset = P() if operands[5] is None else P(axis)
    return (P(axis), P(axis), P(), P(), state, reset), (P(axis), P(None, axis))
