"""Dot products of the rows at the two ends of every edge, per head; the gradient is two `spmm`.

Edges are shared out evenly over programs, whatever their degrees.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
from pallas_kernels.sddmm.reference import Options, reference

__all__ = ["BACKENDS", "Options", "backward", "forward", "reference", "sddmm", "unsupported"]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")


def unsupported(options: Options, a: Any, b: Any, *index: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    for name, array in (("a", a), ("b", b)):
        if array.dtype.name not in _DTYPES:
            return f"{name} is {array.dtype}; the kernel takes {', '.join(_DTYPES)}"
        if array.size == 0:
            return f"{name} has shape {array.shape}; the kernel takes no empty rows"
    if any(array is not None and array.dtype.name != "int32" for array in index):
        return "an index array is not int32"
    return None


forward, backward, sddmm = forms(__name__, BACKENDS)
