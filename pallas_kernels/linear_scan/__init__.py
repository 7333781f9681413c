"""h_t = a_t h_{t-1} + x_t over time, for real and complex numbers (card "linear recurrences").

The scan under diagonal state-space models (S5, LRU), gated recurrences and running means.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.call import differentiable
from pallas_kernels.linear_scan.reference import Options, cut, reference, state_dtype

__all__ = [
    "BACKENDS",
    "Options",
    "backward",
    "cut",
    "forward",
    "linear_scan",
    "reference",
    "state_dtype",
    "unsupported",
]

BACKENDS = ("gpu", "tpu")
_DTYPES = ("float32", "bfloat16", "float16", "complex64")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernels cannot take these operands; None if they can."""
    for name, x in zip(("a", "x"), operands):
        if jnp.dtype(x.dtype).name not in _DTYPES:
            return f"{name} is {x.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if jnp.iscomplexobj(operands[0]) != jnp.iscomplexobj(operands[1]):
        return (
            f"a is {operands[0].dtype} and x is {operands[1].dtype}; both must be real or complex"
        )
    return None


def forward(options: Options, *operands: Any, backend: str = "gpu") -> tuple[Any, Any]:
    """(outputs, residuals) by the kernel of `backend`: "gpu", "tpu" or "interpret"."""
    if backend == "tpu":
        from pallas_kernels.linear_scan import tpu

        return tpu.forward(options, *operands)
    from pallas_kernels.linear_scan import gpu

    return gpu.forward(options, *operands, interpret=backend == "interpret")


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, backend: str = "gpu"
) -> tuple[Any, ...]:
    """One gradient per operand by the kernel of `backend`."""
    if backend == "tpu":
        from pallas_kernels.linear_scan import tpu

        return tpu.backward(options, operands, residuals, cotangents)
    from pallas_kernels.linear_scan import gpu

    return gpu.backward(options, operands, residuals, cotangents, interpret=backend == "interpret")


@functools.cache
def _run(backend: str) -> Any:
    return differentiable(
        functools.partial(forward, backend=backend), functools.partial(backward, backend=backend)
    )


def linear_scan(
    options: Options,
    a: jax.Array,
    x: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    backend: str = "gpu",
) -> tuple[jax.Array, jax.Array]:
    """What `reference` computes, by a kernel; differentiable.

    Args:
      backend: "gpu", "tpu" or "interpret" (the GPU kernel as plain JAX, for tests).
    """
    return _run(backend)(options, a, x, initial_state, reset)
