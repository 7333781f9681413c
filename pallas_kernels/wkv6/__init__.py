"""WKV-6, the recurrence of RWKV-5 and RWKV-6: linear attention with a decay per key and step.

    y_t = r_t (S_{t-1} + diag(u) k_t^T v_t),   S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t

Computed in chunks, as matrix products. On a TPU XLA serves.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
from pallas_kernels.wkv6.reference import Options, reference

BACKENDS = ("gpu",)

__all__ = ["BACKENDS", "Options", "backward", "forward", "reference", "unsupported", "wkv6"]


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    from pallas_kernels import decay_tiles

    return decay_tiles.unsupported(options, operands[1], operands[2])


forward, backward, wkv6 = forms(__name__, BACKENDS)
