"""The sizes at which WKV-7 is tested and measured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pallas_kernels.specs import Cost, Spec
from pallas_kernels.wkv7.reference import Options

_CHUNK = {"chunk": 16}
_BOTH = {**_CHUNK, "reset": True, "state": True}
SPECS = {
    "test": (
        Spec("one-step", {"B": 1, "T": 1, "H": 1, "K": 1, "V": 1}, _CHUNK),
        Spec("resets", {"B": 2, "T": 37, "H": 2, "K": 3, "V": 40}, _BOTH),
        Spec("state", {"B": 1, "T": 32, "H": 2, "K": 64, "V": 3}, {**_CHUNK, "state": True}),
    ),
    "cpu": (
        Spec("many-heads", {"B": 4, "T": 512, "H": 4, "K": 32, "V": 32}),
        Spec("wide-heads", {"B": 2, "T": 512, "H": 4, "K": 64, "V": 64}),
    ),
    "gpu": (Spec("rwkv7", {"B": 8, "T": 2048, "H": 32, "K": 64, "V": 64}),),
}
SHARDED = "resets"


def _options(spec: Spec) -> Options:
    return Options(**{name: spec.options[name] for name in ("chunk",) if name in spec.options})


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """The operands of `make` as shapes: nothing is computed."""
    b, t, h, n, m = (spec.sizes[letter] for letter in "BTHKV")
    wide, narrow = (jax.ShapeDtypeStruct((b, t, h, width), dtype) for width in (n, m))
    state = reset = None
    if spec.options.get("state"):
        state = jax.ShapeDtypeStruct((b, h, n, m), jnp.float32)
    if spec.options.get("reset"):
        reset = jax.ShapeDtypeStruct((b, t), jnp.bool_)
    return _options(spec), (wide, wide, wide, narrow, wide, wide, state, reset)


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Operands of realistic scale: a = -kappa, b = kappa * rate with normalised keys kappa.

    Decays are exp(-exp(x)) with x uniform in (-6, -0.5), as RWKV-7 bounds them.
    """
    rng = np.random.default_rng(seed)
    b, t, h, n, m = (spec.sizes[letter] for letter in "BTHKV")
    r, k = (jnp.asarray(rng.standard_normal((b, t, h, n)) * n**-0.5, dtype) for _ in range(2))
    v = jnp.asarray(rng.standard_normal((b, t, h, m)), dtype)
    log_decay = jnp.asarray(-np.exp(rng.uniform(-6, -0.5, (b, t, h, n))), dtype)
    kappa = rng.standard_normal((b, t, h, n))
    kappa /= np.linalg.norm(kappa, axis=-1, keepdims=True)
    remove = jnp.asarray(-kappa, dtype)
    replace = jnp.asarray(kappa * rng.uniform(size=(b, t, h, n)), dtype)
    state = reset = None
    if spec.options.get("state"):
        state = jnp.asarray(rng.standard_normal((b, h, n, m)), jnp.float32)
    if spec.options.get("reset"):
        flags = rng.uniform(size=(b, t)) < 0.1
        flags[0, 0] = flags[0, 4:6] = flags[0, 20] = True
        reset = jnp.asarray(flags)
    return _options(spec), (r, log_decay, k, v, remove, replace, state, reset)


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Operands and y once (backward: operands, dy and gradients); 8 K V (22 K V) flops a step.

    The flops are those of the recurrence, a decay's exponential is counted once (twice), and the
    states at chunk boundaries, needed only for the gradient, are not counted.
    """
    b, t, h, n, m = (spec.sizes[letter] for letter in "BTHKV")
    steps, width = b * t * h, jnp.dtype(dtype).itemsize
    if backward:
        return Cost(
            bytes=(10 * n + 3 * m) * steps * width, flops=22 * n * m * steps, exps=2 * n * steps
        )
    return Cost(bytes=(5 * n + 2 * m) * steps * width, flops=8 * n * m * steps, exps=n * steps)


def partition(axis: str, operands: Any) -> tuple[tuple[Any, ...], Any]:
    """The heads in parts."""
    state = P() if operands[6] is None else P(None, axis)
    heads = P(None, None, axis)
    return (*(heads,) * 6, state, P()), (heads, P(None, axis))
