"""Tiles of rows that belong to one group, and the sides of the products' blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.call import next_power_of_2
from pallas_kernels.tuned import blocks

DEFAULTS = {
    "rows": 128,  # rows of a tile
    "columns": 128,  # columns of a tile of results
    "inner": 128,  # bytes of one row that a step of the product reads
    "stripe": 8,  # tiles of rows that are done for all columns before the next ones
    "programs": 512,  # wanted for the gradient of the weights: long groups are cut for them
    "warps": 8,
    "stages": 3,
}
SMALLEST = 16  # least side of a block that goes into a dot product


class Rows(NamedTuple):
    """Tile t holds the rows start[t] : end[t], all of group[t] (-1 or G: of none); (T,) int32."""

    group: Any
    start: Any
    end: Any


class Sides(NamedTuple):
    """Sides of the blocks of one product (rows, inner) @ (inner, columns); powers of two."""

    rows: int
    inner: int
    columns: int
    warps: int
    stages: int


def sizes() -> dict[str, int]:
    """The block sizes for the device at hand."""
    return blocks("grouped_matmul", DEFAULTS)


def sides(rows: int, inner: int, columns: int, itemsize: int) -> Sides:
    """Blocks for a product of these sizes."""
    size = sizes()

    def side(length: int, most: int) -> int:
        return max(min(next_power_of_2(length), most), SMALLEST)

    height, width = side(rows, size["rows"]), side(columns, size["columns"])
    # 32 x 32 results for each warp keep its threads at 32 accumulators each.
    warps = max(min(size["warps"], height * width // 1024), 1)
    depth = side(inner, max(size["inner"] // itemsize, SMALLEST))
    return Sides(height, depth, width, warps, size["stages"])


def tile_rows(group_offsets: jax.Array, count: int, height: int) -> Rows:
    """Cuts the rows of each group, and those before and after all groups, in tiles.

    A group of n rows fills ceil(n / height) tiles, so `ceil(M / height) + G + 1` tiles are enough
    for any sizes; those left over are empty (start == end).

    Args:
      group_offsets: (G + 1,) int32; count: M.
    """
    edges = jnp.concatenate([jnp.zeros(1, jnp.int32), group_offsets, jnp.full(1, count, jnp.int32)])
    filled = jnp.cumsum((edges[1:] - edges[:-1] + height - 1) // height)
    groups = filled.shape[0]
    numbers = jnp.arange(pl.cdiv(count, height) + groups - 1, dtype=jnp.int32)
    method = "compare_all" if groups <= 1024 else "scan_unrolled"
    place = jnp.searchsorted(filled, numbers, side="right", method=method).astype(jnp.int32)
    here = jnp.minimum(place, groups - 1)
    before = jnp.where(here > 0, filled[here - 1], 0)
    start = edges[here] + (numbers - before) * height
    end = jnp.minimum(start + height, edges[here + 1])
    empty = place == groups
    return Rows(here - 1, jnp.where(empty, 0, start), jnp.where(empty, 0, end))


def precision(dtype: Any) -> Any:
    """Of the dot products: float32 stays float32."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT
