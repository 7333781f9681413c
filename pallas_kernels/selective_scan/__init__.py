"""Mamba's selective scan: h_t = exp(Delta_t A) h_{t-1} + Delta_t u_t B_t, y_t = <h_t, C_t>.

GPU only. On a TPU the N states of a channel would lie along sublanes and B_t, C_t along lanes, so
that every step would transpose a vector; XLA's time loop serves there.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pallas_kernels.call import forms
from pallas_kernels.selective_scan.reference import Options, reference, state_dtype

__all__ = [
    "BACKENDS",
    "MAX_STATES",
    "Options",
    "backward",
    "forward",
    "reference",
    "selective_scan",
    "state_dtype",
    "unsupported",
]

BACKENDS = ("gpu",)
MAX_STATES = 64
_DTYPES = ("float32", "bfloat16", "float16")
_NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    for name, x in zip(_NAMES, operands):
        if x is not None and jnp.dtype(x.dtype).name not in _DTYPES:
            return f"{name} is {x.dtype}; the kernel takes {', '.join(_DTYPES)}"
    states = operands[2].shape[1]
    if states > MAX_STATES:
        return f"A has {states} states per channel; the kernel holds up to {MAX_STATES}"
    return None


forward, backward, selective_scan = forms(__name__, BACKENDS)
