"""Neighbours as tiles of gathered rows, forward and backward. See `row_tiles` and `edge_tiles`.

Sum, with g the cotangent and A the weighted adjacency:

    dx = A^T g                        the same kernel over the edges in sender order
    dweight_e = <g[target_e], x[source_e]>

Maximum, with `best` the result in float32:

    ties_i  = how many messages of row i equal best_i          share = g / ties
    dx_j    = sum_{e out of j} [weight_e x_j = best_i] weight_e share_i
    dweight_e = <[weight_e x_j = best_i], share_i x_j>

Messages are made again, never kept. They are compared in float32, unrounded, so that equal means
equal also in half precision.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import edge_tiles, row_tiles, tuned
from pallas_kernels.row_tiles import Walk
from pallas_kernels.spmm.reference import Options

DEFAULTS = row_tiles.DEFAULTS


def _views(options, weight, senders, row_offsets, col_order, col_receivers, col_offsets):
    """(offsets, walk) of the reduction, and of its transpose."""
    by_row = (row_offsets, Walk(senders, None, weight))
    by_col = (col_offsets, Walk(col_receivers, col_order, weight))
    return (by_col, by_row) if options.transposed else (by_row, by_col)


def _scaled(weight, rows):
    return rows if weight is None else weight * rows


def _rows(view, gathered, own=(), *, message, name, interpret, reduce="sum", dtype=jnp.float32):
    offsets, walk = view
    return row_tiles.reduce_rows(
        offsets,
        walk,
        gathered,
        own,
        message=message,
        reduce=reduce,
        dtype=dtype,
        blocks=tuned.blocks("spmm", DEFAULTS),
        name=name,
        interpret=interpret,
    )


def _message(weight, rows, own):
    return _scaled(weight, rows[0])


def weighted_rows(
    view: tuple[jax.Array, Walk], x: jax.Array, *, dtype: Any, interpret: bool = False
) -> jax.Array:
    """`out_i = sum_{k in row i} weight x[columns_k]` (R, F), for x (N, F).

    Args:
      view: where rows begin (R + 1,), and how they find their edges.
    """
    return _rows(view, (x,), message=_message, name="spmm", interpret=interpret, dtype=dtype)


def forward(
    options: Options,
    x: jax.Array,
    weight: jax.Array | None,
    senders: jax.Array,
    receivers: jax.Array,
    row_offsets: jax.Array,
    col_order: jax.Array | None = None,
    col_receivers: jax.Array | None = None,
    col_offsets: jax.Array | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, Any]:
    """The result; a maximum keeps it in float32 for its gradient."""
    view, _ = _views(options, weight, senders, row_offsets, col_order, col_receivers, col_offsets)
    flat = x.reshape(x.shape[0], -1)
    shape = (view[0].shape[0] - 1, *x.shape[1:])
    if options.reduce == "sum":
        total = weighted_rows(view, flat, dtype=x.dtype, interpret=interpret)
        return total.reshape(shape), None
    best = _rows(
        view,
        (flat,),
        message=_message,
        name="spmm_extremum",
        interpret=interpret,
        reduce=options.reduce,
    ).reshape(shape)
    return best.astype(x.dtype), best


def backward(
    options: Options,
    operands: tuple[Any, ...],
    residuals: Any,
    cotangents: jax.Array,
    interpret: bool = False,
) -> tuple[Any, ...]:
    """The gradients of `x` and `weight`."""
    x, weight, senders, receivers, row_offsets, col_order, col_receivers, col_offsets = operands
    here, there = _views(
        options, weight, senders, row_offsets, col_order, col_receivers, col_offsets
    )
    flat = x.reshape(x.shape[0], -1)
    grad = cotangents.reshape(cotangents.shape[0], -1)
    ends = (senders, receivers) if options.transposed else (receivers, senders)
    at_target: tuple[jax.Array, ...] = (grad,)
    if options.reduce == "sum":
        dx = weighted_rows(there, grad, dtype=x.dtype, interpret=interpret)
    else:
        best = residuals.reshape(grad.shape)
        ties = _rows(
            here, (flat,), (best,), message=_is_tied, name="spmm_ties", interpret=interpret
        )
        at_target = (grad.astype(jnp.float32) / jnp.maximum(ties, 1), best)
        dx = _rows(
            there,
            at_target,
            (flat,),
            message=_chosen,
            name="spmm_extremum_pull",
            interpret=interpret,
            dtype=x.dtype,
        )
    dweight = None
    if weight is not None:
        dweight = edge_tiles.dot_edges(
            *ends,
            weight.reshape(weight.shape[0], -1) if len(at_target) == 2 else None,
            at_target,
            (flat,),
            heads=weight.shape[1] if weight.ndim == 2 else 1,
            term=_product if len(at_target) == 1 else _chosen_product,
            dtype=weight.dtype,
            blocks=tuned.blocks("sddmm", edge_tiles.DEFAULTS),
            name="spmm_weight",
            interpret=interpret,
        ).reshape(weight.shape)
    return dx.reshape(x.shape), dweight, *(None for _ in operands[2:])


def _is_tied(weight, rows, own):
    return jnp.where(_scaled(weight, rows[0]) == own[0], 1.0, 0.0)


def _chosen(weight, rows, own):
    share, best = rows
    return jnp.where(_scaled(weight, own[0]) == best, _scaled(weight, share), 0.0)


def _product(weight, target, source):
    return target[0] * source[0]


def _chosen_product(weight, target, source):
    share, best = target
    return jnp.where(weight * source[0] == best, share * source[0], 0.0)
