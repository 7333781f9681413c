"""Backward pass: logits made again, one walk over rows and one over columns.

With g the gradient of the result, alpha_e = exp(s_e - logsumexp_i) and delta_i = <g_i, out_i>:

    ds_e     = alpha_e (<g_i, v_j> - delta_i)
    dright_i = sum_{e into i}   ds_e  d s_e / d right_i      datt = sum_e ds_e d s_e / d att
    dleft_j  = sum_{e out of j} ds_e  d s_e / d left_j       dv_j = sum_{e out of j} alpha_e g_i

The walk over rows gives dright, and per program a part of datt; the walk over columns (the edges in
sender order) gives dleft and dv. Long rows and columns are cut in pieces as in the forward pass.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.graph_attention.reference import Options
from pallas_kernels.graph_attention.tiles import (
    Features,
    Reader,
    neighbours,
    over,
    plan,
    pull,
    score,
)
from pallas_kernels.pieces import extra_pieces, num_pieces, own_end, piece_range


def _alpha(logits, log, live):
    return jnp.where(live[:, None], jnp.exp(logits - log), 0.0)


def _into_row(options: Options, reader: Reader, others, refs, grads, row, first, end, loop):
    """(dright of this row[, its part of datt]) over the entries first : end and the loop."""
    tiles = reader.tiles
    right, att = reader.load(refs.right, row), reader.vector(refs.att)
    g, log, delta = (reader.load(ref, row) for ref in grads)

    def step(entries, live, carry):
        nodes = neighbours(others, entries, live, end, row if loop else None)
        left = reader.load(refs.left, nodes, live)
        values = left if refs.values is None else reader.load(refs.values, nodes, live)
        alpha = _alpha(score(options, left, right[None], att), log[None], live)
        slopes = alpha * (jnp.sum(values * g[None], axis=2) - delta[None])
        parts = pull(options, right[None], left, att, slopes)
        return tuple(total + part for total, part in zip(carry, parts))

    zero = jnp.zeros(tiles.row_shape, jnp.float32)
    empty = (zero,) if refs.att is None else (zero, zero)
    return over(tiles.edges, first, end + 1 if loop else end, step, empty)


def _into_column(
    options: Options, reader: Reader, others, refs, grads, row, first, end, loop: bool
):
    """(dleft, dv) of this sender over its entries first : end and the loop."""
    tiles = reader.tiles
    left, att = reader.load(refs.left, row), reader.vector(refs.att)
    values = left if refs.values is None else reader.load(refs.values, row)

    def step(entries, live, carry):
        nodes = neighbours(others, entries, live, end, row if loop else None)
        right = reader.load(refs.right, nodes, live)
        g, log, delta = (reader.load(ref, nodes, live) for ref in grads)
        alpha = _alpha(score(options, left[None], right, att), log, live)
        slopes = alpha * (jnp.sum(g * values[None], axis=2) - delta)
        dleft, _ = pull(options, left[None], right, att, slopes)
        return carry[0] + dleft, carry[1] + jnp.sum(alpha[:, :, None] * g, axis=0)

    empty = (
        jnp.zeros(tiles.row_shape, jnp.float32),
        jnp.zeros((tiles.heads, tiles.values), jnp.float32),
    )
    return over(tiles.edges, first, end + 1 if loop else end, step, empty)


def _scaled(options: Options, slopes):
    return slopes * options.scale if options.kind == "dot" else slopes


def _piece_kernel(walk, options, tiles, rows, starts, ends, others, refs, grads, *outs):
    k, reader = pl.program_id(0), Reader(tiles)
    sums = walk(options, reader, others, refs, grads, rows[k], starts[k], ends[k], False)
    for ref, part in zip(outs, sums):
        reader.store(ref, k, part)


def _add_pieces(reader: Reader, pieces, start, end, sums):
    tiles = reader.tiles

    def step(numbers, live, sums):
        return tuple(
            total + jnp.sum(reader.load(ref, numbers, live), axis=0)
            for total, ref in zip(sums, pieces)
        )

    return over(tiles.edges, *piece_range(start, end, tiles.piece), step, sums)


def _row_kernel(options, tiles, offsets, others, refs, grads, pieces, right_ref, att_ref=None):
    """Several rows in turn: their parts of datt are summed before they are written."""
    reader, count = Reader(tiles), right_ref.shape[0]
    rows = 1 if att_ref is None else tiles.rows
    first = pl.program_id(0) * rows

    def one(r, att_sum):
        i = first + r
        here = jnp.minimum(i, count - 1)
        start, end = offsets[here], jnp.where(i < count, offsets[here + 1], offsets[here])
        cut = own_end(start, end, tiles.piece)
        sums = _into_row(options, reader, others, refs, grads, here, start, cut, options.self_loops)
        if pieces is not None:
            sums = _add_pieces(reader, pieces, start, end, sums)
        reader.store(right_ref, here, _scaled(options, sums[0]), i < count)
        return att_sum if att_ref is None else att_sum + jnp.where(i < count, sums[1], 0.0)

    if att_ref is None:
        one(0, None)
        return
    total = lax.fori_loop(0, rows, one, jnp.zeros(tiles.row_shape, jnp.float32))
    reader.store(att_ref, pl.program_id(0), total)


def _column_kernel(options, tiles, offsets, others, refs, grads, pieces, *outs):
    j, reader = pl.program_id(0), Reader(tiles)
    start, end = offsets[j], offsets[j + 1]
    cut = own_end(start, end, tiles.piece)
    sums = _into_column(options, reader, others, refs, grads, j, start, cut, options.self_loops)
    if pieces is not None:
        sums = _add_pieces(reader, pieces, start, end, sums)
    dleft, dvalues = _scaled(options, sums[0]), sums[1]
    if refs.values is None:
        reader.store(outs[0], j, dleft + dvalues)
        return
    reader.store(outs[0], j, dleft)
    reader.store(outs[1], j, dvalues)


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, interpret: bool = False
) -> tuple[Any, ...]:
    """One gradient per operand of `reference`; None for the graph and for absent operands."""
    senders, receivers, row_offsets, col_order, col_offsets, col_receivers = operands[:6]
    features = Features(*operands[6:])
    out, log = residuals
    wide = jnp.float32
    delta = jnp.sum(out.astype(wide) * cotangents.astype(wide), axis=-1)
    grads = (cotangents, log, delta)
    tiles = plan(features)
    like = jax.tree.leaves((operands, cotangents))
    scores, values = tiles.num_row_shape, (tiles.num_heads, tiles.num_values)
    has_att, length = features.att is not None, tiles.piece
    launch = functools.partial(gpu_call, interpret=interpret, num_warps=tiles.warps)

    def struct(count, shape, dtype=wide):
        return out_struct((count, *shape), dtype, *like)

    def pieces_of(walk, name, offsets, rows_at_marks, others, *shapes):
        count = rows_at_marks.shape[0]
        if not count:
            return None
        return launch(
            functools.partial(_piece_kernel, walk, options, tiles),
            grid=(count, tiles.head_blocks),
            out_shape=[struct(count, shape) for shape in shapes],
            name=f"graph_attention_{name}_pieces",
        )(*extra_pieces(offsets, rows_at_marks, length), others, features, grads)

    def at_marks(ids):
        return ids[length::length] if num_pieces(ids.shape[0], length) else ids[:0]

    rows, columns = features.right.shape[0], features.left.shape[0]
    pieces = pieces_of(
        _into_row, "rows", row_offsets, at_marks(receivers), senders,
        *([scores, scores] if has_att else [scores]),
    )  # fmt: skip
    programs = pl.cdiv(rows, tiles.rows) if has_att else rows
    shapes = [struct(rows, scores, features.right.dtype)]
    found = launch(
        functools.partial(_row_kernel, options, tiles),
        grid=(programs, tiles.head_blocks),
        out_shape=shapes + [struct(programs, scores)] if has_att else shapes,
        name="graph_attention_rows",
    )(row_offsets, senders, features, grads, pieces)
    datt = jnp.sum(found[1], axis=0).astype(features.att.dtype) if has_att else None

    at_columns = jnp.take(senders, at_marks(col_order))
    pieces = pieces_of(
        _into_column, "columns", col_offsets, at_columns, col_receivers, scores, values
    )
    shapes = [struct(columns, scores, features.left.dtype)]
    if features.values is not None:
        shapes.append(struct(columns, values, features.values.dtype))
    left = launch(
        functools.partial(_column_kernel, options, tiles),
        grid=(columns, tiles.head_blocks),
        out_shape=shapes,
        name="graph_attention_columns",
    )(col_offsets, col_receivers, features, grads, pieces)
    dvalues = left[1] if features.values is not None else None
    return (None,) * 6 + (left[0], found[0], datt, dvalues)
