"""h_t = a_t h_{t-1} + x_t over time, for real and complex numbers.

The scan under diagonal state-space models (S5, LRU), gated recurrences and running means.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pallas_kernels.call import forms
from pallas_kernels.linear_scan.reference import Options, cut, reference, state_dtype

__all__ = [
    "BACKENDS",
    "Options",
    "backward",
    "cut",
    "forward",
    "linear_scan",
    "reference",
    "state_dtype",
    "unsupported",
]

BACKENDS = ("gpu", "tpu")
_DTYPES = ("float32", "bfloat16", "float16", "complex64")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernels cannot take these operands; None if they can."""
    for name, x in zip(("a", "x"), operands):
        if jnp.dtype(x.dtype).name not in _DTYPES:
            return f"{name} is {x.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if jnp.iscomplexobj(operands[0]) != jnp.iscomplexobj(operands[1]):
        return (
            f"a is {operands[0].dtype} and x is {operands[1].dtype}; both must be real or complex"
        )
    return None


forward, backward, linear_scan = forms(__name__, BACKENDS)
