"""Segments as tiles of rows; the gradient edge by edge. See `row_tiles` and `edge_tiles`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import edge_tiles, row_tiles, tuned
from pallas_kernels.segment_reduce.reference import Options, ids_of

DEFAULTS = row_tiles.DEFAULTS


def _blocks() -> dict[str, int]:
    return tuned.blocks("segment_reduce", DEFAULTS)


def forward(
    options: Options,
    data: jax.Array,
    offsets: jax.Array,
    ids: jax.Array | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, Any]:
    """The result, which is also what a maximum keeps for its gradient."""
    out = row_tiles.reduce_rows(
        offsets,
        row_tiles.Walk(),
        (data,),
        message=lambda weight, rows, own: rows[0],
        reduce=options.reduce,
        dtype=data.dtype,
        blocks=_blocks(),
        name="segment_reduce",
        interpret=interpret,
    )
    return out, out if options.reduce in ("max", "min") else None


def backward(
    options: Options,
    operands: tuple[Any, ...],
    residuals: Any,
    cotangents: jax.Array,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """The gradient of each segment, sent to its rows; to those that tie in a maximum."""
    data, offsets, ids = operands
    ids = ids_of(offsets, data.shape[0]) if ids is None else ids
    share = cotangents
    if options.reduce == "mean":
        lengths = jnp.maximum(jnp.diff(offsets), 1).astype(jnp.float32)
        share = share.astype(jnp.float32) / lengths[:, None]
    at_id: tuple[jax.Array, ...] = (share,)
    at_edge: tuple[jax.Array, ...] = ()
    if options.reduce in ("max", "min"):
        ties = row_tiles.reduce_rows(
            offsets,
            row_tiles.Walk(),
            (data,),
            (residuals,),
            message=lambda weight, rows, own: (rows[0] == own[0]).astype(jnp.float32),
            reduce="sum",
            dtype=jnp.float32,
            blocks=_blocks(),
            name="segment_ties",
            interpret=interpret,
        )
        at_id, at_edge = (share / jnp.maximum(ties, 1), residuals), (data,)

    def term(segment, edge):
        return jnp.where(edge[0] == segment[1], segment[0], 0) if edge else segment[0]

    gradient = edge_tiles.spread_edges(
        ids,
        at_id,
        at_edge,
        term=term,
        dtype=data.dtype,
        blocks=edge_tiles.DEFAULTS,
        name="segment_spread",
        interpret=interpret,
    )
    return gradient, None, None
