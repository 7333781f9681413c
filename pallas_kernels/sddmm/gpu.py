"""Dot products edge by edge; the gradients are sums over neighbours. See `edge_tiles`.

da_i = sum_{e into i}   g_e b[senders_e]        db_j = sum_{e out of j} g_e a[receivers_e]
"""

from __future__ import annotations

from typing import Any

import jax

from pallas_kernels import edge_tiles, tuned
from pallas_kernels.row_tiles import Walk
from pallas_kernels.sddmm.reference import Options
from pallas_kernels.spmm.gpu import weighted_rows

DEFAULTS = edge_tiles.DEFAULTS


def forward(
    options: Options,
    a: jax.Array,
    b: jax.Array,
    senders: jax.Array,
    receivers: jax.Array,
    row_offsets: jax.Array | None = None,
    col_order: jax.Array | None = None,
    col_receivers: jax.Array | None = None,
    col_offsets: jax.Array | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, None]:
    """(E,) or (E, H) products; nothing is kept."""
    heads = a.shape[1] if a.ndim == 3 else 1
    out = edge_tiles.dot_edges(
        receivers,
        senders,
        None,
        (a.reshape(a.shape[0], -1),),
        (b.reshape(b.shape[0], -1),),
        heads=heads,
        term=lambda weight, target, source: target[0] * source[0],
        dtype=a.dtype,
        blocks=tuned.blocks("sddmm", DEFAULTS),
        name="sddmm",
        interpret=interpret,
    )
    return (out if a.ndim == 3 else out[:, 0]), None


def backward(
    options: Options,
    operands: tuple[Any, ...],
    residuals: Any,
    cotangents: jax.Array,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """The gradients of `a` and `b`."""
    a, b, senders, _, row_offsets, col_order, col_receivers, col_offsets = operands
    by_row = (row_offsets, Walk(senders, None, cotangents))
    by_col = (col_offsets, Walk(col_receivers, col_order, cotangents))
    da = weighted_rows(by_row, b.reshape(b.shape[0], -1), dtype=a.dtype, interpret=interpret)
    db = weighted_rows(by_col, a.reshape(a.shape[0], -1), dtype=b.dtype, interpret=interpret)
    return da.reshape(a.shape), db.reshape(b.shape), *(None for _ in operands[2:])
