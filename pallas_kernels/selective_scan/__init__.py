"""Mamba's selective scan: h_t = exp(Delta_t A) h_{t-1} + Delta_t u_t B_t, y_t = <h_t, C_t>.

GPU only. On a TPU the N states of a channel would lie along sublanes and B_t, C_t along lanes, so
that every step would transpose a vector; XLA's time loop serves there.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.call import differentiable
from pallas_kernels.selective_scan.reference import Options, reference, state_dtype

__all__ = [
    "BACKENDS",
    "MAX_STATES",
    "Options",
    "backward",
    "forward",
    "reference",
    "selective_scan",
    "state_dtype",
    "unsupported",
]

BACKENDS = ("gpu",)
MAX_STATES = 64
_DTYPES = ("float32", "bfloat16", "float16")
_NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    for name, x in zip(_NAMES, operands):
        if x is not None and jnp.dtype(x.dtype).name not in _DTYPES:
            return f"{name} is {x.dtype}; the kernel takes {', '.join(_DTYPES)}"
    states = operands[2].shape[1]
    if states > MAX_STATES:
        return f"A has {states} states per channel; the kernel holds up to {MAX_STATES}"
    return None


def forward(options: Options, *operands: Any, backend: str = "gpu") -> tuple[Any, Any]:
    """(outputs, residuals) by the kernel of `backend`: "gpu" or "interpret"."""
    from pallas_kernels.selective_scan import gpu_forward

    return gpu_forward.forward(options, *operands, interpret=backend == "interpret")


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, backend: str = "gpu"
) -> tuple[Any, ...]:
    """One gradient per operand by the kernel of `backend`."""
    from pallas_kernels.selective_scan import gpu_backward

    interpret = backend == "interpret"
    return gpu_backward.backward(options, operands, residuals, cotangents, interpret=interpret)


@functools.cache
def _run(backend: str) -> Any:
    return differentiable(
        functools.partial(forward, backend=backend), functools.partial(backward, backend=backend)
    )


def selective_scan(
    options: Options,
    u: jax.Array,
    delta: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    D: jax.Array | None = None,
    z: jax.Array | None = None,
    delta_bias: jax.Array | None = None,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    backend: str = "gpu",
) -> tuple[jax.Array, jax.Array]:
    """What `reference` computes, by a kernel; differentiable.

    Args:
      backend: "gpu" or "interpret" (the same kernel as plain JAX, for tests).
    """
    return _run(backend)(options, u, delta, A, B, C, D, z, delta_bias, initial_state, reset)
