"""State-space duality (Mamba-2): a matrix state that decays by one factor per head and step.

    S_t = exp(log_decay_t) S_{t-1} + b_t^T x_t,   y_t = c_t S_t

Computed in chunks, as matrix products. On a TPU XLA serves, whose chunked form is matrix products
as well.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
from pallas_kernels.ssd.reference import Options, reference, state_dtype

__all__ = [
    "BACKENDS",
    "Options",
    "backward",
    "forward",
    "reference",
    "ssd",
    "state_dtype",
    "unsupported",
]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernels cannot take these operands; None if they can."""
    for name, x in zip(("x", "log_decay", "b", "c"), operands):
        if x.dtype.name not in _DTYPES:
            return f"{name} has dtype {x.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if options.chunk not in (16, 32, 64):
        return f"chunk is {options.chunk}; the kernel takes 16, 32 and 64"
    for name, width in (("x", operands[0].shape[-1]), ("b", operands[2].shape[-1])):
        if width > 256:
            return f"{name} has width {width}; the kernel takes at most 256"
    return None


forward, backward, ssd = forms(__name__, BACKENDS)
