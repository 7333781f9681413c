"""Sum, mean, maximum or minimum of consecutive rows, one result per segment.

Serves `segment_sum` and its kin where the rows are sorted by segment: a scatter becomes a read of
the rows in order, each result written once.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
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


forward, backward, segment_reduce = forms(__name__, BACKENDS)
