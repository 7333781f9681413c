"""What the attention kernels share: tiles of edges x heads x columns, and the logits of a tile.

A program works on one row of the adjacency (or one piece of a long row) and a block of heads. It
walks the row's entries in tiles; a tile gathers the rows of its neighbours, 3-D in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.call import next_power_of_2
from pallas_kernels.graph_attention.reference import Options, leaky_relu
from pallas_kernels.tuned import blocks

DEFAULTS = {
    "tile": 2048,  # numbers in a tile of gathered rows
    "columns": 128,  # of them side by side: heads x columns of one edge
    "edges": 32,  # at most so many edges in a tile
    "piece": 512,  # entries after which a long row is cut
    "rows": 8,  # rows per program where it also sums the gradient of the attention vector
    "warps": 4,
}
MAX_WIDTH = 1024
NEVER = -1e30  # below every logit, and its exponential is 0


class Features(NamedTuple):
    """The float operands, or references to them; None where absent."""

    left: Any
    right: Any
    att: Any
    values: Any


class Tiles(NamedTuple):
    """Sizes of a program's tile (powers of two) and of the arrays it works on."""

    edges: int
    heads: int
    values: int
    scores: int  # 0 where a score is one number per head
    num_heads: int
    num_values: int
    num_scores: int
    piece: int
    rows: int
    warps: int

    @property
    def head_blocks(self) -> int:
        """Blocks of heads, the second axis of the grid."""
        return pl.cdiv(self.num_heads, self.heads)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of the scores of one row."""
        return (self.heads, self.scores) if self.scores else (self.heads,)

    @property
    def num_row_shape(self) -> tuple[int, ...]:
        """The same without padding, for all heads."""
        return (self.num_heads, self.num_scores) if self.scores else (self.num_heads,)


def plan(features: Features) -> Tiles:
    """Tile sizes for these operands, of which left has shape (M, H) or (M, H, D)."""
    size = blocks("graph_attention", DEFAULTS)
    values = features.left if features.values is None else features.values
    heads, num_values = values.shape[-2:]
    num_scores = features.left.shape[2] if features.left.ndim == 3 else 0
    columns = next_power_of_2(num_values)
    scores = next_power_of_2(num_scores) if num_scores else 0
    width = max(columns, scores)
    block = min(next_power_of_2(heads), max(size["columns"] // width, 1))
    edges = min(max(size["tile"] // (block * width), 1), size["edges"])
    return Tiles(
        edges, block, columns, scores, heads, num_values, num_scores,
        size["piece"], size["rows"], size["warps"],
    )  # fmt: skip


class Reader:
    """Loads and stores of the heads that the program at hand is responsible for."""

    def __init__(self, tiles: Tiles):
        self.tiles = tiles
        self.heads = pl.program_id(1) * tiles.heads + jnp.arange(tiles.heads)
        self.real = self.heads < tiles.num_heads

    def _place(self, ref: Any, row: Any, live: Any) -> tuple[Any, Any]:
        # row: a scalar, or (edges,) with the mask `live`; ref: (rows, H) or (rows, H, C).
        columns = None
        if len(ref.shape) == 3:
            wide = self.tiles.scores if ref.shape[2] == self.tiles.num_scores else self.tiles.values
            columns = jnp.arange(wide)
        heads, mask = self.heads, self.real
        if columns is not None:
            heads, mask = heads[:, None], mask[:, None] & (columns < ref.shape[2])[None, :]
            columns = columns[None, :]
        if live is None:
            index = (row, heads) if columns is None else (row, heads, columns)
            return ref.at[index], mask
        for _ in range(len(ref.shape) - 1):
            row, live = row[..., None], live[..., None]
        index = (row, heads[None]) if columns is None else (row, heads[None], columns[None])
        return ref.at[index], live & mask[None]

    def load(self, ref: Any, row: Any, live: Any = None) -> jax.Array:
        """One row (H[, C]), or with the mask `live` many (edges, H[, C]), in float32."""
        place, mask = self._place(ref, row, live)
        return plt.load(place, mask=mask, other=0.0).astype(jnp.float32)

    def store(self, ref: Any, row: Any, value: jax.Array, only: Any = None) -> None:
        """Writes one row (H[, C]), if the scalar `only` says so."""
        place, mask = self._place(ref, row, None)
        plt.store(place, value.astype(ref.dtype), mask=mask if only is None else mask & only)

    def vector(self, ref: Any) -> jax.Array | None:
        """The attention vectors (H, D) of these heads; None where there are none."""
        if ref is None:
            return None
        columns = jnp.arange(self.tiles.scores)
        mask = self.real[:, None] & (columns < self.tiles.num_scores)[None, :]
        place = ref.at[self.heads[:, None], columns[None, :]]
        return plt.load(place, mask=mask, other=0.0).astype(jnp.float32)


def over(
    size: int, first: Any, end: Any, step: Callable[[jax.Array, jax.Array, Any], Any], carry: Any
) -> Any:
    """`carry = step(entries (size,), live (size,), carry)` over first : end, in order."""

    def body(t, carry):
        entries = first + t * size + jnp.arange(size)
        return step(entries, entries < end, carry)

    return lax.fori_loop(0, lax.div(end - first + (size - 1), size), body, carry)


def neighbours(
    ref: Any, entries: jax.Array, live: jax.Array, end: Any, loop: Any | None
) -> jax.Array:
    """The nodes at the other side of the entries before `end`; past it stands the loop, if any."""
    if loop is None:
        return plt.load(ref.at[entries], mask=live, other=0)
    found = plt.load(ref.at[entries], mask=live & (entries < end), other=0)
    return jnp.where(entries < end, found, loop)


def score(options: Options, left: Any, right: Any, att: Any) -> jax.Array:
    """Logits (edges, H) of (edges, H[, D]) with (1, H[, D]) on one side."""
    if options.kind == "additive":
        return leaky_relu(left + right, options.negative_slope)
    if options.kind == "dot":
        return options.scale * jnp.sum(left * right, axis=2)
    return jnp.sum(leaky_relu(left + right, options.negative_slope) * att[None], axis=2)


def pull(
    options: Options, own: jax.Array, others: jax.Array, att: Any, slopes: jax.Array
) -> tuple[Any, Any]:
    """From the gradient of the logits (edges, H) to that of (own, att), summed over the edges.

    Args:
      own: (1, H[, D]) scores of the program's row; others: (edges, H[, D]) of its neighbours.

    For "dot" the caller scales.
    """
    if options.kind == "additive":
        z = own + others
        return jnp.sum(slopes * jnp.where(z >= 0, 1.0, options.negative_slope), axis=0), None
    if options.kind == "dot":
        return jnp.sum(slopes[:, :, None] * others, axis=0), None
    z = own + others
    factor = jnp.where(z >= 0, 1.0, options.negative_slope) * slopes[:, :, None]
    return jnp.sum(factor, axis=0) * att, jnp.sum(factor * z, axis=0)
