"""Where a program of these kernels works, and the tiles it loads.

Time is cut in chunks of C steps and those in blocks of `sub` steps. The chunk's inclusive sums of
log decay, b (float32, padded to whole chunks), are made outside by a product with a triangular
matrix: one pass over memory. Weights of pairs of steps are exp(b_i - b_j) with i >= j; every
exponential is taken relative to a step between the two, so that no exponent is positive:

    forward in time    i in the block, j before it   exp(b_i - b_n) exp(b_n - b_j)   n: its start
    backward in time   j in the block, i after it    exp(b_n - b_j) exp(b_i - b_n)   n: its end

Packed sequences are numbered, and only pairs of the same number count; a sum of log decays never
crosses a reset with -inf in it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

SMALLEST = -104.0  # exp of it is zero in float32, so nothing below it need be told apart


class Sizes(NamedTuple):
    """Static sizes of a launch."""

    time: int
    heads: int
    keys: int
    values: int
    chunk: int
    sub: int
    block_k: int
    block_v: int
    scale: float
    half: bool
    exact: bool

    @property
    def chunks(self) -> int:
        """How many chunks the time has."""
        return pl.cdiv(self.time, self.chunk)

    @property
    def key_tiles(self) -> int:
        """How many tiles the keys have."""
        return pl.cdiv(self.keys, self.block_k)

    @property
    def value_tiles(self) -> int:
        """How many tiles the values have."""
        return pl.cdiv(self.values, self.block_v)

    def dot(self, a: Any, b: Any, *, trans_a: bool = False, trans_b: bool = False) -> Any:
        """A product summed in float32: of bfloat16 for such inputs, of float32 for float32."""
        if self.half:
            a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return plt.dot(a, b, trans_a=trans_a, trans_b=trans_b, allow_tf32=not self.exact)


def chunk_sums(
    log_decay: jax.Array, reset: jax.Array | None, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """b (B, T', H, K) float32 and (B, T' + 1) int32 numbers of packed sequences.

    T' is T in whole chunks; padding does not decay and belongs to the last sequence. Entry t + 1 of
    the numbers is that of step t, and entry 0 that of the initial state.
    """
    batch, time, heads, keys = log_decay.shape
    chunks = pl.cdiv(time, chunk)
    over = chunks * chunk - time
    g = jnp.maximum(log_decay.astype(jnp.float32), SMALLEST)
    numbers = jnp.zeros((batch, time), jnp.int32)
    if reset is not None:
        g = jnp.where(reset[..., None, None], 0, g)
        numbers = jnp.cumsum(reset, axis=1, dtype=jnp.int32)
    g = jnp.pad(g, ((0, 0), (0, over), (0, 0), (0, 0))).reshape(batch, chunks, chunk, heads, keys)
    steps = jnp.arange(chunk)
    until = (steps[:, None] >= steps).astype(jnp.float32)
    b = jnp.einsum("ij,bnjhk->bnihk", until, g, precision=jax.lax.Precision.HIGHEST)
    numbers = jnp.pad(jnp.pad(numbers, ((0, 0), (0, over)), mode="edge"), ((0, 0), (1, 0)))
    return b.reshape(batch, chunks * chunk, heads, keys), numbers


class Chunk(NamedTuple):
    """One chunk of one head."""

    size: Sizes
    batch: Any
    head: Any
    number: Any

    @property
    def start(self) -> Any:
        """Its first step."""
        return self.number * self.size.chunk

    def _place(self, steps: Any, columns: Any, width: int) -> tuple[Any, Any]:
        index = (self.batch, steps[:, None], self.head, columns[None, :])
        return index, (steps < self.size.time)[:, None] & (columns < width)[None, :]

    def rows(self, ref: Any, first: Any, count: int, columns: Any) -> Any:
        """(count, columns) float32 rows from step `first` of the chunk; 0 beyond time and width."""
        index, mask = self._place(self.start + first + jnp.arange(count), columns, ref.shape[3])
        return plt.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

    def sums(self, b_ref: Any, first: Any, count: int, columns: Any) -> Any:
        """(count, columns) rows of b, which is padded to whole chunks."""
        steps = self.start + first + jnp.arange(count)
        index = (self.batch, steps[:, None], self.head, columns[None, :])
        mask = (columns < self.size.keys)[None, :]
        return plt.load(b_ref.at[index], mask=mask, other=0.0)

    def row(self, ref: Any, step: Any, columns: Any) -> Any:
        """(columns,) float32 row at one step of the chunk; 0 outside of the chunk and of time."""
        t = self.start + step
        mask = (columns < ref.shape[3]) & (step >= 0) & (t < ref.shape[1])
        index = (self.batch, jnp.maximum(t, 0), self.head, columns)
        return plt.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

    def store(self, ref: Any, first: Any, columns: Any, tile: Any) -> None:
        """Writes the rows of a tile from step `first` of the chunk on."""
        steps = self.start + first + jnp.arange(tile.shape[0])
        index, mask = self._place(steps, columns, ref.shape[3])
        plt.store(ref.at[index], tile.astype(ref.dtype), mask=mask)

    def sequences(self, numbers_ref: Any, first: Any, count: int) -> Any:
        """(count,) numbers of the packed sequences at the steps from `first` on."""
        return plt.load(numbers_ref.at[self.batch, self.start + first + 1 + jnp.arange(count)])

    def entering(self, numbers_ref: Any) -> Any:
        """Number of the sequence whose state enters the chunk."""
        return plt.load(numbers_ref.at[self.batch, self.start])

    def leaving(self, numbers_ref: Any) -> Any:
        """Number of the sequence whose state leaves the chunk."""
        return plt.load(numbers_ref.at[self.batch, self.start + self.size.chunk])

    def _state_place(self, boundary: Any, keys: Any, values: Any) -> tuple[Any, Any]:
        index = (self.batch, boundary, self.head, keys[:, None], values[None, :])
        return index, (keys < self.size.keys)[:, None] & (values < self.size.values)[None, :]

    def state(self, ref: Any, boundary: Any, keys: Any, values: Any) -> Any:
        """(keys, values) tile of a state at a chunk boundary."""
        index, mask = self._state_place(boundary, keys, values)
        return plt.load(ref.at[index], mask=mask, other=0.0)

    def store_state(self, ref: Any, boundary: Any, keys: Any, values: Any, tile: Any) -> None:
        """Writes a tile of a state at a chunk boundary."""
        index, mask = self._state_place(boundary, keys, values)
        plt.store(ref.at[index], tile, mask=mask)


def chunk_here(size: Sizes) -> Chunk:
    """The chunk of the program at hand, in a grid whose first axis is B H N."""
    n, row = pl.program_id(0) % size.chunks, pl.program_id(0) // size.chunks
    return Chunk(size, row // size.heads, row % size.heads, n)


class Block(NamedTuple):
    """A block of `sub` steps from step `first` of its chunk, for one tile of the keys.

    `backward` is the direction in which it looks at other steps of the chunk.
    """

    chunk: Chunk
    first: Any
    columns: Any
    backward: bool
    b_ref: Any

    def _signed(self, exponent: Any) -> Any:
        return jnp.exp(jnp.minimum(-exponent if self.backward else exponent, 0.0))

    def between(self) -> Any:
        """(K tile,) b at the step that separates the block from those it looks at."""
        step = self.first + self.chunk.size.sub - 1 if self.backward else self.first - 1
        return self.chunk.row(self.b_ref, step, self.columns)

    def own_weights(self) -> Any:
        """(sub, K tile) decay between each step of the block and the separating one."""
        b = self.chunk.sums(self.b_ref, self.first, self.chunk.size.sub, self.columns)
        return self._signed(b - self.between()[None, :])

    def other_weights(self) -> Any:
        """(C, K tile) decay between the separating step and those beyond it; 0 for all others."""
        size = self.chunk.size
        steps = jnp.arange(size.chunk)
        beyond = steps >= self.first + size.sub if self.backward else steps < self.first
        b = self.chunk.sums(self.b_ref, 0, size.chunk, self.columns)
        return jnp.where(beyond[:, None], self._signed(self.between()[None, :] - b), 0.0)

    def weights_to(self, step: Any) -> Any:
        """(sub, K tile) decay between the block's steps and one of them; 0 on its wrong side."""
        size = self.chunk.size
        rows = self.first + jnp.arange(size.sub)
        b = self.chunk.sums(self.b_ref, self.first, size.sub, self.columns)
        here = self.chunk.row(self.b_ref, step, self.columns)
        side = rows <= step if self.backward else rows >= step
        return jnp.where(side[:, None], self._signed(b - here[None, :]), 0.0)
