"""Leaky integrate-and-fire neurons over time, with surrogate gradients."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pallas_kernels.call import forms
from pallas_kernels.lif.neuron import RESETS, Options
from pallas_kernels.lif.reference import reference
from pallas_kernels.lif.surrogate import SURROGATES, step

__all__ = [
    "BACKENDS",
    "RESETS",
    "SURROGATES",
    "Options",
    "backward",
    "forward",
    "lif",
    "reference",
    "step",
    "unsupported",
]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")
_MOST_STEPS = 64


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    current = operands[0]
    if jnp.dtype(current.dtype).name not in _DTYPES:
        return f"current is {current.dtype}; the kernel takes {', '.join(_DTYPES)}"
    if options.chunk > _MOST_STEPS:
        return (
            f"chunk is {options.chunk}; the kernel holds at most {_MOST_STEPS} steps in registers"
        )
    return None


forward, backward, lif = forms(__name__, BACKENDS)
