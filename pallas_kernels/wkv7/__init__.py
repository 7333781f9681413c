"""WKV-7, the recurrence of RWKV-7: a generalised delta rule.

    S_t = diag(exp(log_decay_t)) S_{t-1} + b_t^T (a_t S_{t-1}) + k_t^T v_t,   y_t = r_t S_t

Computed in chunks, as matrix products and a triangular solve. On a TPU XLA serves.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
from pallas_kernels.wkv7.reference import Options, reference

BACKENDS = ("gpu",)

__all__ = ["BACKENDS", "Options", "backward", "forward", "reference", "unsupported", "wkv7"]


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    from pallas_kernels import decay_tiles

    return decay_tiles.unsupported(options, operands[2], operands[3])


forward, backward, wkv7 = forms(__name__, BACKENDS)
