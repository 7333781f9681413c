"""Sum, maximum or minimum over neighbours: rows gathered at senders, scaled, reduced at receivers.

Nothing of size edges x features is made, forward or backward. Rows of high degree are shared out
over programs and added up in a fixed order (`pallas_kernels.pieces`).
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from pallas_kernels.call import differentiable
from pallas_kernels.spmm.reference import Options, reference

__all__ = ["BACKENDS", "Options", "backward", "forward", "reference", "spmm", "unsupported"]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")


def unsupported(options: Options, x: Any, weight: Any, *index: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    for name, array in (("x", x), ("weight", weight)):
        if array is not None and array.dtype.name not in _DTYPES:
            return f"{name} is {array.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if any(array is not None and array.dtype.name != "int32" for array in index):
        return "an index array is not int32"
    if x.size == 0:
        return f"x has shape {x.shape}; the kernel takes no empty rows"
    return None


def forward(options: Options, *operands: Any, backend: str = "gpu") -> tuple[Any, Any]:
    """(outputs, residuals) by the kernel of `backend`: "gpu" or "interpret"."""
    from pallas_kernels.spmm import gpu

    launch = functools.partial(gpu.forward, interpret=backend == "interpret")
    return launch(options, *operands)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, backend: str = "gpu"
) -> tuple[Any, ...]:
    """One gradient per operand by the kernel of `backend`."""
    from pallas_kernels.spmm import gpu

    return gpu.backward(options, operands, residuals, cotangents, interpret=backend == "interpret")


@functools.cache
def _run(backend: str) -> Any:
    return differentiable(
        functools.partial(forward, backend=backend), functools.partial(backward, backend=backend)
    )


def spmm(options: Options, *operands: Any, backend: str = "gpu") -> jax.Array:
    """What `reference` computes, of the same operands, by a kernel; differentiable.

    Args:
      backend: "gpu", or "interpret" (the GPU kernel as plain JAX, for tests).
    """
    return _run(backend)(options, *operands)
