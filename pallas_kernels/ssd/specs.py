"""Sizes that the tests and the benchmark of state-space duality share, and what they cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from pallas_kernels.specs import Cost, Spec
from pallas_kernels.ssd.reference import Options


def _spec(name: str, sizes: tuple[int, ...], **options: Any) -> Spec:
    return Spec(name, dict(zip("BTHPNG", sizes, strict=True)), options)


_BOTH = {"state": True, "reset": True}
SPECS = {
    "test": (
        _spec("packed", (2, 70, 4, 20, 3, 2), chunk=32, **_BOTH),
        _spec("one_step", (2, 1, 1, 1, 1, 1), chunk=16, **_BOTH),
        _spec("wide", (1, 64, 11, 70, 66, 1)),
    ),
    "cpu": (
        _spec("b2_t512_h8_p64_n64", (2, 512, 8, 64, 64, 1)),
        _spec("b1_t1024_h8_p64_n128", (1, 1024, 8, 64, 128, 1)),
    ),
    "gpu": (
        _spec("b8_t2048_h32_p64_n128", (8, 2048, 32, 64, 128, 1)),
        _spec("b2_t16384_h32_p64_n128", (2, 16384, 32, 64, 128, 1)),
    ),
}
SHARDED = "packed"


def shapes(spec: Spec, dtype: Any) -> tuple[Options, tuple[Any, ...]]:
    """Options, and (x, log_decay, b, c, initial_state, reset) as shapes."""
    batch, time, heads, width, states, groups = (spec.sizes[letter] for letter in "BTHPNG")
    struct = jax.ShapeDtypeStruct
    x = struct((batch, time, heads, width), jnp.dtype(dtype))
    projection = struct((batch, time, groups, states), jnp.dtype(dtype))
    decay = struct((batch, time, heads), jnp.dtype(dtype))
    static = {name: spec.options[name] for name in ("chunk",) if name in spec.options}
    state = reset = None
    if spec.options.get("state"):
        state = struct((batch, heads, states, width), jnp.dtype(jnp.float32))
    if spec.options.get("reset"):
        reset = struct((batch, time), jnp.dtype(bool))
    return Options(**static), (x, decay, projection, projection, state, reset)


def make(spec: Spec, dtype: Any, seed: int = 0) -> tuple[Options, tuple[Any, ...]]:
    """Options and operands: normal x, b, c; log decays -exp(u), u uniform in (-6, 1).

    Every row but the first starts with a reset; the first has one in the middle and two in a row.
    """
    rng = np.random.default_rng(seed)
    options, (x, decay, projection, _, state, reset) = shapes(spec, dtype)
    b, c = (
        jnp.asarray(
            rng.standard_normal(projection.shape) * projection.shape[-1] ** -0.5, projection.dtype
        )
        for _ in range(2)
    )
    inputs = jnp.asarray(rng.standard_normal(x.shape), x.dtype)
    decays = jnp.asarray(-np.exp(rng.uniform(-6, 1, decay.shape)), decay.dtype)
    start = flags = None
    if state is not None:
        start = jnp.asarray(rng.standard_normal(state.shape), state.dtype)
    if reset is not None:
        marks = np.zeros(reset.shape, bool)
        marks[1:, 0] = True
        marks[:, reset.shape[1] // 2 :][:, :2] = True
        marks[0, 0] = False
        flags = jnp.asarray(marks)
    return options, (inputs, decays, b, c, start, flags)


def cost(spec: Spec, dtype: Any, backward: bool = False) -> Cost:
    """Operands and y once (backward: operands, dy and gradients), and the products of the chunks.

    Per chunk of C steps and head: N times P into the state and out of it (2 x 2 C N P) and half of
    the product of the C x C weights with x (C C P); half of the weights per group (C C N);
    backward 2.5 times that. The states at the chunk boundaries are not counted. The exponentials
    are half of those between the steps of a chunk.
    """
    batch, time, heads, width, states, groups = (spec.sizes[letter] for letter in "BTHPNG")
    chunk, steps = shapes(spec, dtype)[0].chunk, batch * time
    x, decays, projections = heads * width, heads, 2 * groups * states
    size = steps * jnp.dtype(dtype).itemsize
    flops = steps * (heads * (4 * states * width + chunk * width) + groups * chunk * states)
    exps = steps * heads * chunk / 2
    if backward:
        moved = (3 * x + 2 * decays + 2 * projections) * size
        return Cost(bytes=moved, flops=2.5 * flops, exps=2 * exps)
    return Cost(bytes=(2 * x + decays + projections) * size, flops=flops, exps=exps)


def partition(axis: str, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    """The batch in parts: heads share their group's projections."""
    split = PartitionSpec(axis)
    return tuple(PartitionSpec() if x is None else split for x in operands), (split, split)
