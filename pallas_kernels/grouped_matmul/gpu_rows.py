"""Rows of each group times its matrix, or times its transpose.

A program multiplies a tile of rows of one group with a block of columns. Rows are gathered when
they are loaded and put in their place when they are stored, so neither copy exists. Tiles of rows
are worked on in stripes: all columns of a stripe before the next one, so that its rows and the
group's matrix are read from the cache.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.call import gpu_call, out_struct
from pallas_kernels.grouped_matmul.blocks import Sides, precision, sides, sizes, tile_rows


def _kernel(
    side: Sides, stripe: int, transposed: bool, tiles, x, weights, places, scale, other, out, dot
):
    """Writes out[places.to_i] = scale_i x[places.from_i] W, and dot_i = <x[..] W, other[..]>."""
    inner, columns = weights.shape[1:]
    if transposed:
        inner, columns = columns, inner
    across = pl.cdiv(columns, side.columns)
    count = tiles.group.shape[0]
    per_stripe = stripe * across
    number = lax.div(pl.program_id(0), per_stripe)
    within = lax.rem(pl.program_id(0), per_stripe)
    height = jnp.minimum(count - number * stripe, stripe)
    t, block = number * stripe + lax.rem(within, height), lax.div(within, height)
    start, end, group = tiles.start[t], tiles.end[t], tiles.group[t]
    inside = (group >= 0) & (group < weights.shape[0])
    group = jnp.where(inside, group, 0)
    rows = start + jnp.arange(side.rows)
    live = rows < end
    cols = block * side.columns + jnp.arange(side.columns)
    real = cols < columns
    sources = rows if places[0] is None else plt.load(places[0].at[rows], mask=live, other=0)

    def step(k, total):
        depth = k * side.inner + jnp.arange(side.inner)
        deep = depth < inner
        left = plt.load(
            x.at[sources[:, None], depth[None, :]], mask=live[:, None] & deep[None, :], other=0.0
        )
        mask = deep[:, None] & real[None, :]
        if transposed:
            place = weights.at[group, cols[:, None], depth[None, :]]
            right = plt.load(place, mask=real[:, None] & deep[None, :], other=0.0).T
        else:
            right = plt.load(weights.at[group, depth[:, None], cols[None, :]], mask=mask, other=0.0)
        return total + jnp.dot(
            left, right, precision=precision(left.dtype), preferred_element_type=jnp.float32
        )

    # No step at all for the rows that are in no group: they stay 0.
    steps = jnp.where(inside & (end > start), pl.cdiv(inner, side.inner), 0)
    total = lax.fori_loop(0, steps, step, jnp.zeros((side.rows, side.columns), jnp.float32))
    mask = live[:, None] & real[None, :]
    if dot is not None:
        at = rows if places[2] is None else plt.load(places[2].at[rows], mask=live, other=0)
        with_ = plt.load(other.at[at[:, None], cols[None, :]], mask=mask, other=0.0)
        sums = jnp.sum(total * with_.astype(jnp.float32), axis=1)
        plt.store(dot.at[rows, block], sums, mask=live)
    if scale is not None:
        factor = plt.load(scale.at[rows], mask=live, other=0.0)
        total = total * factor.astype(jnp.float32)[:, None]
    targets = rows
    if places[1] is not None:
        # Row M does not exist: where lanes that store nothing are simulated, they hit no real row.
        targets = plt.load(places[1].at[rows], mask=live, other=out.shape[0])
    plt.store(out.at[targets[:, None], cols[None, :]], total.astype(out.dtype), mask=mask)


def times_groups(
    x: jax.Array,
    weights: jax.Array,
    group_offsets: jax.Array,
    count: int,
    *,
    source: jax.Array | None = None,
    target: jax.Array | None = None,
    scale: jax.Array | None = None,
    transposed: bool = False,
    other: jax.Array | None = None,
    other_row: jax.Array | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """`out[target_i] = scale_i x[source_i] W` with W[g], or its transpose, of the group of row i.

    Args:
      count: M rows.
      source, target: (M,) int32 or None for row i; target is a permutation.
      other: (P, columns); asks for dot_i = <x[source_i] W, other[other_row_i]> beside.

    Returns:
      (out (M, columns) in the dtype of x, dot (M,) float32 or None). Rows of no group give 0.
    """
    inner, columns = weights.shape[1:] if not transposed else weights.shape[:0:-1]
    side = sides(count, inner, columns, x.dtype.itemsize)
    tiles = tile_rows(group_offsets, count, side.rows)
    across = pl.cdiv(columns, side.columns)
    like = jax.tree.leaves((x, weights, group_offsets, source, target, scale, other))
    out = [out_struct((count, columns), x.dtype, *like)]
    if other is not None:
        out.append(out_struct((count, across), jnp.float32, *like))

    def kernel(tiles, x, weights, places, scale, other, out, dot=None):
        stripe = sizes()["stripe"]
        _kernel(side, stripe, transposed, tiles, x, weights, places, scale, other, out, dot)

    run = gpu_call(
        kernel,
        grid=(tiles.group.shape[0] * across,),
        out_shape=out,
        name="grouped_matmul_transposed" if transposed else "grouped_matmul",
        interpret=interpret,
        num_warps=side.warps,
        num_stages=side.stages,
    )
    found = run(tiles, x, weights, (source, target, other_row), scale, other)
    return found[0], jnp.sum(found[1], axis=1) if other is not None else None
