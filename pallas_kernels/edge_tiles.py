"""Edge by edge: dot products of the rows at an edge's ends, and rows sent back to the edges.

    dot_e,h    = sum_f term(weight_e,h, rows at target_e, rows at source_e)       (E, H)
    spread_e,f = term(rows at id_e, rows of e)                                    (E, F)

Every program has some edges and loads whole rows, whatever the degrees are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.call import gpu_call, next_power_of_2, out_struct

# tile: numbers in a program's registers; features: the widest part of a row at once.
DEFAULTS = {"tile": 2048, "features": 128, "warps": 4}
EDGES = 512


def _rows_at(arrays, index, cols, mask):
    return [plt.load(a.at[index, cols], mask=mask, other=0).astype(jnp.float32) for a in arrays]


def _dot_kernel(ends, weight, at_target, at_source, out, *, side, edges, heads, width, term):
    blocks = pl.cdiv(heads, side[1])
    program = pl.program_id(0)
    head = jax.lax.rem(program, blocks) * side[1] + jnp.arange(side[1], dtype=jnp.int32)
    first = jax.lax.div(program, blocks) * side[0]
    edge = first + jnp.arange(side[0], dtype=jnp.int32)
    live = edge < edges
    target, source = (plt.load(end.at[edge], mask=live, other=0)[:, None, None] for end in ends)
    there = live[:, None] & (head < heads)[None, :]
    scale = None
    if weight is not None:
        scale = plt.load(weight.at[edge[:, None], head[None, :]], mask=there, other=0)
        scale = scale.astype(jnp.float32)[:, :, None]

    def step(k, acc):
        feature = k * side[2] + jnp.arange(side[2], dtype=jnp.int32)
        cols = (head[:, None] * width + feature[None, :])[None, :, :]
        mask = there[:, :, None] & (feature < width)[None, None, :]
        value = term(
            scale, _rows_at(at_target, target, cols, mask), _rows_at(at_source, source, cols, mask)
        )
        return acc + jnp.where(mask, value, 0)

    acc = jnp.zeros(side, jnp.float32)
    # A static number of steps would become a scan, which under `shard_map` wants a carry that
    # varies over the mesh as the loaded rows do; a loop whose end is computed does not.
    steps = jnp.where(first < edges, pl.cdiv(width, side[2]), 0)
    acc = jax.lax.fori_loop(0, steps, step, acc)
    plt.store(
        out.at[edge[:, None], head[None, :]], jnp.sum(acc, axis=2).astype(out.dtype), mask=there
    )


def dot_edges(
    targets: jax.Array,
    sources: jax.Array,
    weight: jax.Array | None,
    at_target: tuple[jax.Array, ...],
    at_source: tuple[jax.Array, ...],
    *,
    heads: int,
    term: Callable[[Any, list[Any], list[Any]], Any],
    dtype: Any,
    blocks: Mapping[str, int],
    name: str,
    interpret: bool = False,
) -> jax.Array:
    """Sum of `term` over the features of each head, in float32.

    Args:
      targets, sources: (E,) int32 rows to read of the arrays (N, H F) at either end.
      weight: None or (E, H).
      term: (weight tile or None, [target tiles], [source tiles]) -> [edges, heads, features] tile.
      dtype: of the result.

    Returns:
      (E, H).
    """
    edges, columns = targets.shape[0], at_source[0].shape[1]
    width = columns // heads
    if edges == 0 or columns == 0:
        return jnp.zeros((edges, heads), dtype)
    features = min(next_power_of_2(width), blocks["features"])
    together = min(next_power_of_2(heads), max(blocks["tile"] // (4 * features), 1))
    side = (
        max(min(blocks["tile"] // (features * together), EDGES, next_power_of_2(edges)), 1),
        together,
        features,
    )
    operands = ((targets, sources), weight, at_target, at_source)
    return gpu_call(
        functools.partial(_dot_kernel, side=side, edges=edges, heads=heads, width=width, term=term),
        grid=(pl.cdiv(edges, side[0]) * pl.cdiv(heads, side[1]),),
        out_shape=out_struct((edges, heads), dtype, *operands),
        name=name,
        interpret=interpret,
        num_warps=blocks["warps"],
    )(*operands)


def _spread_kernel(ids, at_id, at_edge, out, *, side, edges, rows, width, term):
    blocks = pl.cdiv(width, side[1])
    program = pl.program_id(0)
    feature = jax.lax.rem(program, blocks) * side[1] + jnp.arange(side[1], dtype=jnp.int32)
    edge = jax.lax.div(program, blocks) * side[0] + jnp.arange(side[0], dtype=jnp.int32)
    live = edge < edges
    row = plt.load(ids.at[edge], mask=live, other=0)
    mask = live[:, None] & (feature < width)[None, :]
    known = mask & ((row >= 0) & (row < rows))[:, None]
    cols = feature[None, :]
    value = term(
        _rows_at(at_id, row[:, None], cols, known), _rows_at(at_edge, edge[:, None], cols, mask)
    )
    plt.store(out.at[edge[:, None], cols], jnp.where(known, value, 0).astype(out.dtype), mask=mask)


def spread_edges(
    ids: jax.Array,
    at_id: tuple[jax.Array, ...],
    at_edge: tuple[jax.Array, ...] = (),
    *,
    term: Callable[[list[Any], list[Any]], Any],
    dtype: Any,
    blocks: Mapping[str, int],
    name: str,
    interpret: bool = False,
) -> jax.Array:
    """`term` of the rows (S, F) at each edge's id and of the edge's own rows (E, F): (E, F).

    An edge whose id is no row gets 0.
    """
    edges, (rows, width) = ids.shape[0], at_id[0].shape
    if edges == 0 or rows == 0 or width == 0:
        return jnp.zeros((edges, width), dtype)
    features = min(next_power_of_2(width), blocks["features"])
    side = (max(min(blocks["tile"] // features, EDGES, next_power_of_2(edges)), 1), features)
    operands = (ids, at_id, at_edge)
    return gpu_call(
        functools.partial(
            _spread_kernel, side=side, edges=edges, rows=rows, width=width, term=term
        ),
        grid=(pl.cdiv(edges, side[0]) * pl.cdiv(width, side[1]),),
        out_shape=out_struct((edges, width), dtype, *operands),
        name=name,
        interpret=interpret,
        num_warps=blocks["warps"],
    )(*operands)
