"""Sum, mean, maximum or minimum of consecutive rows, one result per segment.

Serves `segment_sum` and its kin where the rows are sorted by segment: a scatter becomes a read of
the rows in order, each result written once.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from pallas_kernels.call import differentiable
from pallas_kernels.segment_reduce.reference import Options, ids_of, reference

__all__ = [
    "BACKENDS",
    "Options",
    "backward",
    "forward",
    "ids_of",
    "reference",
    "segment_reduce",
    "unsupported",
]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")


def unsupported(options: Options, data: Any, offsets: Any = None, ids: Any = None) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    if data.dtype.name not in _DTYPES:
        return f"data is {data.dtype}; the kernel takes {', '.join(_DTYPES)}"
    for name, array in (("offsets", offsets), ("ids", ids)):
        if array is not None and array.dtype.name != "int32":
            return f"{name} is {array.dtype}; the kernel takes int32"
    if data.shape[-1] == 0:
        return f"data has shape {data.shape}; the kernel takes no empty rows"
    return None


def forward(options: Options, *operands: Any, backend: str = "gpu") -> tuple[Any, Any]:
    """(outputs, residuals) by the kernel of `backend`: "gpu" or "interpret"."""
    from pallas_kernels.segment_reduce import gpu

    launch = functools.partial(gpu.forward, interpret=backend == "interpret")
    return launch(options, *operands)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, backend: str = "gpu"
) -> tuple[Any, ...]:
    """One gradient per operand by the kernel of `backend`."""
    from pallas_kernels.segment_reduce import gpu

    return gpu.backward(options, operands, residuals, cotangents, interpret=backend == "interpret")


@functools.cache
def _run(backend: str) -> Any:
    return differentiable(
        functools.partial(forward, backend=backend), functools.partial(backward, backend=backend)
    )


def segment_reduce(
    options: Options,
    data: jax.Array,
    offsets: jax.Array,
    ids: jax.Array | None = None,
    *,
    backend: str = "gpu",
) -> jax.Array:
    """What `reference` computes, by a kernel; differentiable.

    Args:
      backend: "gpu", or "interpret" (the GPU kernel as plain JAX, for tests).
    """
    return _run(backend)(options, data, offsets, ids)
