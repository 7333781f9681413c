"""WKV-7, the recurrence of RWKV-7: a generalised delta rule.

    S_t = diag(exp(log_decay_t)) S_{t-1} + b_t^T (a_t S_{t-1}) + k_t^T v_t,   y_t = r_t S_t

Computed in chunks, as matrix products and a triangular solve. On a TPU XLA serves.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels import decay_tiles
from pallas_kernels.call import differentiable
from pallas_kernels.wkv7 import gpu
from pallas_kernels.wkv7.reference import Options, reference

BACKENDS = ("gpu",)

__all__ = ["BACKENDS", "Options", "backward", "forward", "reference", "unsupported", "wkv7"]


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    return decay_tiles.unsupported(options, operands[2], operands[3])


def forward(options: Options, *operands: Any, backend: str) -> tuple[Any, Any]:
    """(outputs, residuals) by the kernel; backend "gpu" or "interpret"."""
    return gpu.forward(options, *operands, interpret=backend == "interpret")


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, backend: str
) -> tuple[Any, ...]:
    """One gradient per operand by the kernel; backend "gpu" or "interpret"."""
    return gpu.backward(options, operands, residuals, cotangents, interpret=backend == "interpret")


def wkv7(options: Options, *operands: Any, backend: str = "gpu") -> tuple[Any, Any]:
    """See `reference`: the same function by the kernel, with its gradient."""

    def run_forward(options, *operands):
        return forward(options, *operands, backend=backend)

    def run_backward(options, operands, residuals, cotangents):
        return backward(options, operands, residuals, cotangents, backend)

    return differentiable(run_forward, run_backward)(options, *operands)
