"""Softmax over each node's incoming edges, fused with the weighted sum of the senders' values.

Three kinds of logit: additive (GAT), gatv2 and dot product; see `reference`.
"""

from __future__ import annotations

from typing import Any

from pallas_kernels.call import forms
from pallas_kernels.graph_attention.reference import KINDS, Options, logits_of, reference

__all__ = [
    "BACKENDS",
    "KINDS",
    "Options",
    "backward",
    "forward",
    "graph_attention",
    "logits_of",
    "reference",
    "unsupported",
]

BACKENDS = ("gpu",)
_DTYPES = ("float32", "bfloat16", "float16")


def unsupported(options: Options, *operands: Any) -> str | None:
    """Why the kernel cannot take these operands; None if it can."""
    from pallas_kernels.graph_attention.tiles import MAX_WIDTH

    if operands[0].shape[0] == 0:
        return "the graph has no edges"
    for name, x in zip(("left", "right", "att", "values"), operands[6:]):
        if x is None:
            continue
        if x.size == 0:
            return f"{name} has shape {x.shape}, which is empty"
        if x.dtype.name not in _DTYPES:
            return f"{name} is {x.dtype}; the kernel takes {', '.join(_DTYPES)}"
        if x.ndim == 3 and x.shape[2] > MAX_WIDTH:
            return f"{name} has {x.shape[2]} columns per head; the kernel takes up to {MAX_WIDTH}"
    return None


forward, backward, graph_attention = forms(__name__, BACKENDS)
