"""Sum, maximum or minimum over neighbours: rows gathered at senders, scaled, reduced at receivers.

Nothing of size edges x features is made, forward or backward. Rows of high degree are shared out
over programs and added up in a fixed order (`pallas_kernels.pieces`).
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
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


forward, backward, spmm = forms(__name__, BACKENDS)
