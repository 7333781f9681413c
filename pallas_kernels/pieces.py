"""Long rows cut in pieces, so that a hub is the work of many programs and not of one.

E entries stand sorted by row; row i has the entries offsets[i] : offsets[i + 1]. Marks stand at the
entries L, 2L, 3L, ... Wherever a mark falls inside a row (not on its first entry), the row is cut:

    row   |--- i ---|------------- i + 1 --------------|-- i + 2 --|
    mark       .         .         .         .         .         .
    piece      <-i->     <- i+1 -> <- i+1 -> <- i+1 -> (empty)   <-i+2>

Mark k (k = 0 stands at entry L) begins extra piece k, which ends at the next mark or with its row;
it is empty where a row begins at the mark. What comes before a row's first mark is its own part. No
piece has more than L entries, and there are `num_pieces(E, L)` = (E - 1) // L of them, a static
number. Where they lie follows from the offsets without a scan over rows, since the extra pieces of
a row are consecutive.

A kernel first reduces the extra pieces, each program one, into a small array; then one program per
row reduces its own part and adds up the row's extra pieces in their order: deterministic, without
atomics, and the result is written once.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def num_pieces(num_entries: int, length: int) -> int:
    """How many extra pieces there are when rows are cut every `length` entries."""
    return max(num_entries - 1, 0) // length


def extra_pieces(
    offsets: jax.Array, rows_at_marks: jax.Array, length: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Row, first entry and end of each extra piece.

    Args:
      offsets: (N + 1,) int32, where each row's entries begin.
      rows_at_marks: (X,) int32 row of the entries L, 2L, ..., with X = num_pieces(E, L). With
        sorted row numbers `ids` these are `ids[L::L]`.
      length: L.

    Returns:
      (row, start, end), (X,) int32 each; start == end for an empty piece.
    """
    marks = (jnp.arange(rows_at_marks.shape[0], dtype=jnp.int32) + 1) * length
    stop = jnp.take(offsets, rows_at_marks + 1)
    # A mark lies inside its row; the minimum says so, and makes of it an array that varies over
    # the same mesh axes as the offsets.
    start, end = jnp.minimum(marks, stop), jnp.minimum(marks + length, stop)
    return rows_at_marks, start, jnp.where(jnp.take(offsets, rows_at_marks) == start, start, end)


def own_end(start: Any, end: Any, length: int) -> Any:
    """Where the own part of a row with the entries start : end ends; scalars, inside a kernel."""
    return jnp.minimum(end, (jax.lax.div(start, length) + 1) * length)


def piece_range(start: Any, end: Any, length: int) -> tuple[Any, Any]:
    """(first, past the last) extra piece of the row with the entries start : end; may be empty."""
    return jax.lax.div(start, length), jax.lax.div(end - 1, length)
