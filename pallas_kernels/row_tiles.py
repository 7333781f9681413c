"""Reduces the edges of every row in tiles: what the graph kernels are made of.

    out_i = reduce_{e = offsets[i] .. offsets[i + 1] - 1} message_e       (R, F)

where message_e is made of rows gathered at columns[e], the weight of e, and rows of i itself. One
program holds a tile of [rows, edges, features] in registers, walks its rows' edges tile by tile,
and adds up over the edges at the end. Wide rows of features get one row of the graph per program,
narrow ones several; both follow from static sizes. Long rows are cut as `pieces` describes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.call import gpu_call, next_power_of_2, out_struct
from pallas_kernels.pieces import extra_pieces, num_pieces, own_end, piece_range

# tile: numbers in a program's registers; edges, features: largest sides of a tile;
# piece: the most edges that one program adds up; warps: of 32 threads per program.
DEFAULTS = {"tile": 2048, "edges": 32, "features": 128, "piece": 512, "warps": 4}
ROWS = 64
ENOUGH_PROGRAMS = 4096

IDENTITY = {"sum": 0.0, "mean": 0.0, "max": -jnp.inf, "min": jnp.inf}
_COMBINE: dict[str, Callable[..., Any]] = {"max": jnp.maximum, "min": jnp.minimum}
_FOLD: dict[str, Callable[..., Any]] = {"max": jnp.max, "min": jnp.min}


class Walk(NamedTuple):
    """How rows find the edges and what scales them.

    Attributes:
      columns: (E,) int32 row to gather for the k-th edge visited; None gathers row k.
      order: (E,) int32 where the k-th edge visited has its weight; None for k.
      weight: None, (E,), or (E, H) for rows whose F columns are H heads side by side.
    """

    columns: Any = None
    order: Any = None
    weight: Any = None


class Tile(NamedTuple):
    """Sides of a program's tile; powers of two."""

    rows: int
    edges: int
    features: int


def tile_of(rows: int, edges: int, width: int, blocks: Mapping[str, int]) -> Tile:
    """The tile for `rows` of `edges` / `rows` edges on average and `width` features."""
    features = min(next_power_of_2(width), blocks["features"])
    mean = next_power_of_2(pl.cdiv(edges, max(rows, 1)))
    side = max(min(mean, blocks["edges"], blocks["tile"] // features), 1)
    several = blocks["tile"] // (features * side)
    return Tile(max(min(several, next_power_of_2(rows), ROWS), 1), side, features)


def piece_length(edges: int, blocks: Mapping[str, int]) -> int:
    """Edges per piece: short where the graph is small, so that there are programs enough."""
    return min(max(next_power_of_2(edges // ENOUGH_PROGRAMS), 32), blocks["piece"])


def rows_of_edges(offsets: jax.Array, positions: jax.Array) -> jax.Array:
    """The row of each edge number in `positions`, from where rows begin."""
    found = jnp.searchsorted(offsets, positions, side="right", method="scan_unrolled")
    return found.astype(jnp.int32) - 1


def _weight_tile(walk, visited, live, cols, tile, width, first):
    """float32 weights, broadcastable to the tile."""
    place = visited
    if walk.order is not None:
        place = plt.load(walk.order.at[visited], mask=live, other=0)
    if len(walk.weight.shape) == 1:
        found = plt.load(walk.weight.at[place], mask=live, other=0)[:, :, None]
    else:
        per_head = width // walk.weight.shape[1]
        if per_head % tile.features == 0:
            head = jax.lax.div(first, per_head)
            found = plt.load(walk.weight.at[place, head], mask=live, other=0)[:, :, None]
        else:
            head = jax.lax.div(cols, per_head)[None, None, :]
            mask = live[:, :, None] & (cols < width)[None, None, :]
            found = plt.load(walk.weight.at[place[:, :, None], head], mask=mask, other=0)
    return found.astype(jnp.float32)


def _walk(starts, ends, visit, start_value, reduce, tile):
    """Combines `visit(edge numbers, which are live)` over starts : ends of every row."""
    identity = IDENTITY[reduce]
    combine = _COMBINE.get(reduce, jnp.add)

    def step(k, acc):
        edges = starts[:, None] + k * tile.edges + jnp.arange(tile.edges, dtype=jnp.int32)[None, :]
        live = edges < ends[:, None]
        return combine(acc, jnp.where(live[:, :, None], visit(edges, live), identity))

    longest = jnp.max(ends - starts)
    steps = jax.lax.div(longest + (tile.edges - 1), tile.edges)
    return jax.lax.fori_loop(0, steps, step, start_value)


def _kernel(
    bounds, walk, gathered, own, partial, out, *, tile, count, width, message, reduce, length, extra
):
    """One tile of rows, or of extra pieces where `extra`; columns of features vary fastest."""
    blocks = pl.cdiv(width, tile.features)
    program = pl.program_id(0)
    first = jax.lax.rem(program, blocks) * tile.features
    numbers = jax.lax.div(program, blocks) * tile.rows + jnp.arange(tile.rows, dtype=jnp.int32)
    cols = first + jnp.arange(tile.features, dtype=jnp.int32)
    inside, real = numbers < count, cols < width
    if extra:
        rows, starts, ends = (plt.load(b.at[numbers], mask=inside, other=0) for b in bounds)
        stops = ends
    else:
        rows = numbers
        starts = plt.load(bounds.at[rows], mask=inside, other=0)
        ends = plt.load(bounds.at[rows + 1], mask=inside, other=0)
        stops = own_end(starts, ends, length)
    across = real[None, None, :]
    mine = inside[:, None, None] & across
    own_tiles = [
        plt.load(a.at[rows[:, None, None], cols[None, None, :]], mask=mine, other=0).astype(
            jnp.float32
        )
        for a in own
    ]

    def visit(edges, live):
        columns = edges
        if walk.columns is not None:
            columns = plt.load(walk.columns.at[edges], mask=live, other=0)
        mask = live[:, :, None] & across
        tiles = [
            plt.load(a.at[columns[:, :, None], cols[None, None, :]], mask=mask, other=0).astype(
                jnp.float32
            )
            for a in gathered
        ]
        weight = None
        if walk.weight is not None:
            weight = _weight_tile(walk, edges, live, cols, tile, width, first)
        return message(weight, tiles, own_tiles)

    acc = jnp.full(tile, IDENTITY[reduce], jnp.float32)
    acc = _walk(starts, stops, visit, acc, reduce, tile)
    if partial is not None:

        def add_up(pieces, live):
            mask = live[:, :, None] & across
            return plt.load(partial.at[pieces[:, :, None], cols[None, None, :]], mask=mask, other=0)

        acc = _walk(*piece_range(starts, ends, length), add_up, acc, reduce, tile)
    total = _FOLD.get(reduce, jnp.sum)(acc, axis=1)
    if not extra:
        entries = (ends - starts)[:, None]
        if reduce == "mean":
            total = total / jnp.maximum(entries, 1).astype(jnp.float32)
        total = jnp.where(entries > 0, total, 0)
    plt.store(
        out.at[numbers[:, None], cols[None, :]],
        total.astype(out.dtype),
        mask=inside[:, None] & real[None, :],
    )


def reduce_rows(
    offsets: jax.Array,
    walk: Walk,
    gathered: tuple[jax.Array, ...],
    own: tuple[jax.Array, ...] = (),
    *,
    message: Callable[[Any, list[Any], list[Any]], Any],
    reduce: str,
    dtype: Any,
    blocks: Mapping[str, int],
    name: str,
    interpret: bool = False,
) -> jax.Array:
    """`out_i = reduce_{e in row i} message(weight_e, gathered rows, own rows)`.

    Args:
      offsets: (R + 1,) int32 where each row's edges begin.
      gathered: arrays (N, F) read at `walk.columns`; own: arrays (R, F) read at the row itself.
      message: (weight tile or None, [gathered tiles], [own tiles]) -> tile, in float32; the sides
        are [rows, edges, features], of size one where nothing varies.
      reduce: "sum", "mean", "max" or "min".
      dtype: of the result; sums are in float32.
      blocks: see `DEFAULTS`.

    Returns:
      (R, F); 0 for a row without edges.
    """
    rows, width = offsets.shape[0] - 1, gathered[0].shape[1]
    edges = (gathered[0] if walk.columns is None else walk.columns).shape[0]
    if rows == 0 or edges == 0:
        return jnp.zeros((rows, width), dtype)
    length = piece_length(edges, blocks)

    def launch(count, entries, bounds, partial, reduce, dtype):
        tile = tile_of(count, entries, width, blocks)
        operands = (bounds, walk, gathered, own, partial)
        return gpu_call(
            functools.partial(
                _kernel,
                tile=tile,
                count=count,
                width=width,
                message=message,
                reduce=reduce,
                length=length,
                extra=isinstance(bounds, tuple),
            ),
            grid=(pl.cdiv(count, tile.rows) * pl.cdiv(width, tile.features),),
            out_shape=out_struct((count, width), dtype, *operands),
            name=name,
            interpret=interpret,
            num_warps=blocks["warps"],
        )(*operands)

    partial, extra = None, num_pieces(edges, length)
    if extra:
        marks = (jnp.arange(extra, dtype=jnp.int32) + 1) * length
        pieces = extra_pieces(offsets, rows_of_edges(offsets, marks), length)
        part = "sum" if reduce == "mean" else reduce
        partial = launch(extra, edges, pieces, None, part, jnp.float32)
    return launch(rows, edges, offsets, partial, reduce, dtype)
