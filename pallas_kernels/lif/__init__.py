"""Leaky integrate-and-fire neurons over time, with surrogate gradients."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.call import differentiable
from pallas_kernels.lif.neuron import RESETS, Options
from pallas_kernels.lif.reference import reference
from pallas_kernels.lif.surrogate import SURROGATES, step

__all__ = [
    "BACKENDS",
    "RESETS",
    "SURROGATES",
    "Options",
    "backward",
    "forward",
    "lif",
    "reference",
    "step",
    "unsupported",
]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")
_MOST_STEPS = 64


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    current = operands[0]
    if jnp.dtype(current.dtype).name not in _DTYPES:
        return f"current is {current.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if options.chunk > _MOST_STEPS:
        return (
            f"chunk is {options.chunk}; the kernel holds at most {_MOST_STEPS} steps in registers"
        )
    return None


def forward(options: Options, *operands: Any, backend: str = "gpu") -> tuple[Any, Any]:
    """(outputs, residuals) by the kernel; `backend` is "gpu" or "interpret"."""
    from pallas_kernels.lif import gpu

    return gpu.forward(options, *operands, interpret=backend == "interpret")


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, backend: str = "gpu"
) -> tuple[Any, ...]:
    """One gradient per operand by the kernel; `backend` is "gpu" or "interpret"."""
    from pallas_kernels.lif import gpu

    return gpu.backward(options, operands, residuals, cotangents, interpret=backend == "interpret")


@functools.cache
def _run(backend: str) -> Any:
    return differentiable(
        functools.partial(forward, backend=backend), functools.partial(backward, backend=backend)
    )


def lif(
    options: Options,
    current: jax.Array,
    decay: jax.Array,
    threshold: jax.Array,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    backend: str = "gpu",
) -> tuple[jax.Array, jax.Array]:
    """What `reference` computes, by the kernel; differentiable.

    Args:
      backend: "gpu" or "interpret" (the GPU kernel as plain JAX, for tests).
    """
    return _run(backend)(options, current, decay, threshold, initial_state, reset)
