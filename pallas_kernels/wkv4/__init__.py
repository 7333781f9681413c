"""WKV-4, the recurrence of RWKV-4: an exponentially decaying weighted mean per channel.

    y_t = (sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (the same with v = 1)

Computed in logarithmic space with a running maximum. On a TPU XLA serves.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pallas_kernels.call import forms
from pallas_kernels.wkv4.reference import Options, reference

BACKENDS = ("gpu",)

__all__ = ["BACKENDS", "Options", "backward", "forward", "reference", "unsupported", "wkv4"]


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    if operands[0].dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"k has dtype {operands[0].dtype}; the kernel takes float32, bfloat16 and float16"
    if options.chunk > 32:
        return f"chunk is {options.chunk}; the kernel keeps at most 32 steps in registers"
    return None


forward, backward, wkv4 = forms(__name__, BACKENDS)
