"""The gradient of the matrices: dW_g = X_g^T (scale dY)_g, summed over the rows of each group.

A program owns a block of one matrix and walks the rows of its group. Where that would leave most
of the device idle, groups are cut in pieces (see `pallas_kernels.pieces`); the pieces of a group
are summed first and added up in order by the program that owns the block.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.grouped_matmul.blocks import SMALLEST, Sides, precision, sides, sizes
from pallas_kernels.pieces import extra_pieces, num_pieces, own_end, piece_range


class Factors(NamedTuple):
    """The rows that are multiplied: row i of x is source[i], that of dy is target[i]."""

    x: Any
    dy: Any
    source: Any
    target: Any
    scale: Any


class Block(NamedTuple):
    """Columns of x and of dy that the program at hand multiplies."""

    deep: Any
    cols: Any
    real_deep: Any
    real_cols: Any


def _here(side: Sides, depth: int, columns: int) -> tuple[Any, Block]:
    """The first coordinate of the program (a group or a piece), and its block."""
    across = pl.cdiv(columns, side.columns)
    blocks = pl.cdiv(depth, side.rows) * across
    within = lax.rem(pl.program_id(0), blocks)
    deep = lax.div(within, across) * side.rows + jnp.arange(side.rows)
    cols = lax.rem(within, across) * side.columns + jnp.arange(side.columns)
    return lax.div(pl.program_id(0), blocks), Block(deep, cols, deep < depth, cols < columns)


def _product(side: Sides, block: Block, refs: Factors, first, end):
    """sum_{first <= i < end} x_i^T dy_i over the block."""

    def step(t, total):
        rows = first + t * side.inner + jnp.arange(side.inner)
        live = rows < end
        source = rows if refs.source is None else plt.load(refs.source.at[rows], mask=live, other=0)
        target = rows if refs.target is None else plt.load(refs.target.at[rows], mask=live, other=0)
        left = plt.load(
            refs.x.at[source[:, None], block.deep[None, :]],
            mask=live[:, None] & block.real_deep[None, :],
            other=0.0,
        )
        right = plt.load(
            refs.dy.at[target[:, None], block.cols[None, :]],
            mask=live[:, None] & block.real_cols[None, :],
            other=0.0,
        )
        if refs.scale is not None:
            scale = plt.load(refs.scale.at[rows], mask=live, other=0.0).astype(jnp.float32)
            right = (right * scale[:, None]).astype(right.dtype)
        return total + jnp.dot(
            left.T, right, precision=precision(left.dtype), preferred_element_type=jnp.float32
        )

    steps = lax.div(end - first + (side.inner - 1), side.inner)
    return lax.fori_loop(0, steps, step, jnp.zeros((side.rows, side.columns), jnp.float32))


def _place(block: Block, ref, number):
    mask = block.real_deep[:, None] & block.real_cols[None, :]
    return ref.at[number, block.deep[:, None], block.cols[None, :]], mask


def _piece_kernel(side, starts, ends, refs, out):
    k, block = _here(side, *out.shape[1:])
    place, mask = _place(block, out, k)
    plt.store(place, _product(side, block, refs, starts[k], ends[k]), mask=mask)


def _group_kernel(side, length, offsets, refs, pieces, out):
    g, block = _here(side, *out.shape[1:])
    start, end = offsets[g], offsets[g + 1]
    total = _product(side, block, refs, start, own_end(start, end, length))
    if pieces is not None:

        def add(k, total):
            place, mask = _place(block, pieces, k)
            return total + plt.load(place, mask=mask, other=0.0)

        first, last = piece_range(start, end, length)
        total = lax.fori_loop(first, last, add, total)
    place, mask = _place(block, out, g)
    plt.store(place, total.astype(out.dtype), mask=mask)


def _pieces(offsets: jax.Array, count: int, length: int) -> tuple[jax.Array, jax.Array]:
    """(start, end) of the extra pieces; empty outside all groups."""
    marks = (jnp.arange(num_pieces(count, length), dtype=jnp.int32) + 1) * length
    groups = offsets.shape[0] - 1
    method = "compare_all" if groups <= 1024 else "scan_unrolled"
    found = jnp.searchsorted(offsets, marks, side="right", method=method).astype(jnp.int32) - 1
    _, start, end = extra_pieces(offsets, jnp.clip(found, 0, groups - 1), length)
    return start, jnp.where((found >= 0) & (found < groups), end, start)


def weight_gradient(
    x: jax.Array,
    dy: jax.Array,
    group_offsets: jax.Array,
    count: int,
    dtype: Any,
    *,
    source: jax.Array | None = None,
    target: jax.Array | None = None,
    scale: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Sum of scale_i x[source_i]^T dy[target_i] over the rows i of each group, (G, K, N).

    Args:
      x: (P, K); dy: (P', N) of the same dtype; count: M rows; dtype: of the result.
      source, target: (M,) int32 or None for row i; scale: (M,) or None for 1.
    """
    depth, columns = x.shape[1], dy.shape[1]
    groups = group_offsets.shape[0] - 1
    side = sides(depth, count, columns, x.dtype.itemsize)
    blocks = pl.cdiv(depth, side.rows) * pl.cdiv(columns, side.columns)
    wanted = max(sizes()["programs"] // blocks, 1)
    length = max(pl.cdiv(count, wanted), 8 * SMALLEST)
    refs = Factors(x, dy, source, target, scale)
    like = jax.tree.leaves((refs, group_offsets))
    launch = functools.partial(
        gpu_call, interpret=interpret, num_warps=side.warps, num_stages=side.stages
    )
    pieces, extra = None, num_pieces(count, length)
    if extra:
        start, end = _pieces(group_offsets, count, length)
        pieces = launch(
            functools.partial(_piece_kernel, side),
            grid=(extra * blocks,),
            out_shape=out_struct((extra, depth, columns), jnp.float32, *like),
            name="grouped_matmul_weights_pieces",
        )(start, end, refs)
    return launch(
        functools.partial(_group_kernel, side, length),
        grid=(groups * blocks,),
        out_shape=out_struct((groups, depth, columns), dtype, *like),
        name="grouped_matmul_weights",
    )(group_offsets, refs, pieces)
