"""Forward pass: one walk over each row's edges with an online softmax.

Per row and head the program keeps m (largest logit so far), l = sum exp(s - m) and
acc = sum exp(s - m) v; a larger logit rescales both. Pieces of long rows leave (m, l, acc), which
the row's own program merges in order by the same rule. Kept for the backward pass: the result and
log-sum-exp, m + log l.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.graph_attention.reference import Options
from pallas_kernels.graph_attention.tiles import (
    NEVER,
    Features,
    Reader,
    neighbours,
    over,
    plan,
    score,
)
from pallas_kernels.pieces import extra_pieces, num_pieces, own_end, piece_range


def _attend(options: Options, reader: Reader, senders, refs: Features, row, first, end, loop: bool):
    """(m, l, acc) of the entries first : end of this row, and of its loop."""
    tiles = reader.tiles
    right, att = reader.load(refs.right, row), reader.vector(refs.att)

    def step(entries, live, carry):
        top, total, acc = carry
        nodes = neighbours(senders, entries, live, end, row if loop else None)
        left = reader.load(refs.left, nodes, live)
        logits = jnp.where(live[:, None], score(options, left, right[None], att), NEVER)
        higher = jnp.maximum(top, jnp.max(logits, axis=0))
        powers = jnp.where(live[:, None], jnp.exp(logits - higher[None]), 0.0)
        values = left if refs.values is None else reader.load(refs.values, nodes, live)
        keep = jnp.exp(top - higher)
        acc = acc * keep[:, None] + jnp.sum(powers[:, :, None] * values, axis=0)
        return higher, total * keep + jnp.sum(powers, axis=0), acc

    empty = (
        jnp.full((tiles.heads,), NEVER, jnp.float32),
        jnp.zeros((tiles.heads,), jnp.float32),
        jnp.zeros((tiles.heads, tiles.values), jnp.float32),
    )
    return over(tiles.edges, first, end + 1 if loop else end, step, empty)


def _merge(reader: Reader, pieces, first, end, carry):
    def step(numbers, live, carry):
        top, total, acc = carry
        tops = jnp.where(live[:, None], reader.load(pieces[0], numbers, live), NEVER)
        higher = jnp.maximum(top, jnp.max(tops, axis=0))
        scale = jnp.where(live[:, None], jnp.exp(tops - higher[None]), 0.0)
        keep = jnp.exp(top - higher)
        total = total * keep + jnp.sum(scale * reader.load(pieces[1], numbers, live), axis=0)
        parts = scale[:, :, None] * reader.load(pieces[2], numbers, live)
        return higher, total, acc * keep[:, None] + jnp.sum(parts, axis=0)

    return over(reader.tiles.edges, first, end, step, carry)


def _piece_kernel(options, tiles, rows, starts, ends, senders, refs, top_ref, total_ref, acc_ref):
    k, reader = pl.program_id(0), Reader(tiles)
    parts = _attend(options, reader, senders, refs, rows[k], starts[k], ends[k], False)
    for ref, part in zip((top_ref, total_ref, acc_ref), parts):
        reader.store(ref, k, part)


def _row_kernel(options, tiles, offsets, senders, refs, pieces, out_ref, log_ref):
    i, reader = pl.program_id(0), Reader(tiles)
    start, end = offsets[i], offsets[i + 1]
    cut = own_end(start, end, tiles.piece)
    state = _attend(options, reader, senders, refs, i, start, cut, options.self_loops)
    if pieces is not None:
        state = _merge(reader, pieces, *piece_range(start, end, tiles.piece), state)
    top, total, acc = state
    some = total > 0
    divisor = jnp.where(some, total, 1.0)
    reader.store(out_ref, i, acc / divisor[:, None])
    reader.store(log_ref, i, jnp.where(some, top + jnp.log(divisor), 0.0))


def forward(
    options: Options, *operands: Any, interpret: bool = False
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """(out (N, H, F), (out, log-sum-exp (N, H) float32)); operands as in `reference`."""
    senders, receivers, offsets = operands[:3]
    features = Features(*operands[6:])
    tiles = plan(features)
    rows, like = features.right.shape[0], jax.tree.leaves(operands)
    heads, columns = tiles.num_heads, tiles.num_values

    def struct(count, *shape, dtype=jnp.float32):
        return out_struct((count, *shape), dtype, *like)

    launch = functools.partial(gpu_call, interpret=interpret, num_warps=tiles.warps)
    pieces = None
    count = num_pieces(senders.shape[0], tiles.piece)
    if count:
        pieces = launch(
            functools.partial(_piece_kernel, options, tiles),
            grid=(count, tiles.head_blocks),
            out_shape=[struct(count, heads), struct(count, heads), struct(count, heads, columns)],
            name="graph_attention_pieces",
        )(
            *extra_pieces(offsets, receivers[tiles.piece :: tiles.piece], tiles.piece),
            senders,
            features,
        )
    dtype = (features.left if features.values is None else features.values).dtype
    out, log = launch(
        functools.partial(_row_kernel, options, tiles),
        grid=(rows, tiles.head_blocks),
        out_shape=[struct(rows, heads, columns, dtype=dtype), struct(rows, heads)],
        name="graph_attention",
    )(offsets, senders, features, pieces)
    return out, (out, log)
