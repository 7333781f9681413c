"""Gated linear attention: a matrix state that decays by a factor per key and step.

    S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t,   o_t = scale q_t S_t

Computed in chunks, as matrix products. On a TPU XLA serves, whose chunked form is matrix products
as well.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
from pallas_kernels.gated_linear_attention.reference import Options, reference, state_dtype

__all__ = [
    "BACKENDS",
    "Options",
    "backward",
    "forward",
    "gated_linear_attention",
    "reference",
    "state_dtype",
    "unsupported",
]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernels cannot take these operands; None if they can."""
    for name, x in zip(("q", "k", "v", "log_decay"), operands):
        if x.dtype.name not in _DTYPES:
            return f"{name} has dtype {x.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if options.chunk not in (16, 32, 64, 128):
        return f"chunk is {options.chunk}; the kernel takes 16, 32, 64 and 128"
    if options.sub not in (16, 32) or options.chunk % options.sub:
        return f"sub is {options.sub}; the kernel takes 16 and 32, a part of chunk {options.chunk}"
    if operands[0].shape[-1] > 256:
        return f"q has width {operands[0].shape[-1]}; the kernel takes at most 256"
    return None


forward, backward, gated_linear_attention = forms(__name__, BACKENDS)
