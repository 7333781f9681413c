"""Rows in groups times one matrix per group: relations of a graph, experts of a mixture.

Gathering the rows, scaling them and putting the results in place are part of the kernel. Adding
up several results into one row is not: that is a sparse product over the result, in a fixed order.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
from pallas_kernels.grouped_matmul.reference import Options, reference

__all__ = [
    "BACKENDS",
    "Options",
    "backward",
    "forward",
    "grouped_matmul",
    "reference",
    "unsupported",
]

# On a TPU XLA's ragged_dot serves.
BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    x, weights, _, gather = operands[:4]
    for name, array in (("x", x), ("weights", weights)):
        if array.size == 0:
            return f"{name} has shape {array.shape}, which is empty"
        if array.dtype.name not in _DTYPES:
            return f"{name} is {array.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if x.dtype != weights.dtype:
        return f"x is {x.dtype} and weights are {weights.dtype}; they must be alike"
    if gather is not None and gather.shape[0] == 0:
        return "gather is empty"
    return None


forward, backward, grouped_matmul = forms(__name__, BACKENDS)
