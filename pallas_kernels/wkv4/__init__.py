"""WKV-4, the recurrence of RWKV-4: an exponentially decaying weighted mean per channel.

    y_t = (sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (the same with v = 1)

Computed in logarithmic space with a running maximum. On a TPU XLA serves.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pallas_kernels.call import differentiable
from pallas_kernels.wkv4 import gpu
from pallas_kernels.wkv4.reference import Options, reference

BACKENDS = ("gpu",)

__all__ = ["BACKENDS", "Options", "backward", "forward", "reference", "unsupported", "wkv4"]


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    if operands[0].dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"k has dtype {operands[0].dtype}; the kernel takes float32, bfloat16 and float16"
    if options.chunk > 32:
        return f"chunk is {options.chunk}; the kernel keeps at most 32 steps in registers"
    return None


def forward(options: Options, *operands: Any, backend: str) -> tuple[Any, Any]:
    """(outputs, residuals) by the kernel; backend "gpu" or "interpret"."""
    return gpu.forward(options, *operands, interpret=backend == "interpret")


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, backend: str
) -> tuple[Any, ...]:
    """One gradient per operand by the kernel; backend "gpu" or "interpret"."""
    return gpu.backward(options, operands, residuals, cotangents, interpret=backend == "interpret")


def wkv4(options: Options, *operands: Any, backend: str = "gpu") -> tuple[Any, Any]:
    """See `reference`: the same function by the kernel, with its gradient."""

    def run_forward(options, *operands):
        return forward(options, *operands, backend=backend)

    def run_backward(options, operands, residuals, cotangents):
        return backward(options, operands, residuals, cotangents, backend)

    return differentiable(run_forward, run_backward)(options, *operands)
