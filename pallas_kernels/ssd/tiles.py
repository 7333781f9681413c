"""Where a program of these kernels works, and the tiles it loads.

Sums of log decay over each chunk of C steps, g (float32, padded to whole chunks), and numbers of
the packed sequences stand as (B, H, T'): made outside in one pass over (B, T, H).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

SMALLEST = -104.0  # exp of it is zero in float32: such a step begins a sequence


class Sizes(NamedTuple):
    """Static sizes of a launch: N `states`, P `width`; `together` heads share a program."""

    time: int
    heads: int
    groups: int
    states: int
    width: int
    chunk: int
    block_n: int
    block_p: int
    together: int
    half: bool
    exact: bool

    @property
    def chunks(self) -> int:
        """How many chunks the time has."""
        return pl.cdiv(self.time, self.chunk)

    @property
    def state_tiles(self) -> int:
        """How many tiles the N of a state has."""
        return pl.cdiv(self.states, self.block_n)

    @property
    def width_tiles(self) -> int:
        """How many tiles the P of a head has."""
        return pl.cdiv(self.width, self.block_p)

    @property
    def per_group(self) -> int:
        """How many heads share a group."""
        return self.heads // self.groups

    @property
    def parts(self) -> int:
        """How many programs share the heads of a group."""
        return pl.cdiv(self.per_group, self.together)

    def dot(self, a: Any, b: Any, *, trans_a: bool = False, trans_b: bool = False) -> Any:
        """A product summed in float32: of bfloat16 for such inputs, of float32 for float32."""
        if self.half:
            a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return plt.dot(a, b, trans_a=trans_a, trans_b=trans_b, allow_tf32=not self.exact)

    def state_columns(self, tile: Any) -> Any:
        """Places of a tile of N."""
        return tile * self.block_n + jnp.arange(self.block_n)

    def width_columns(self, tile: Any) -> Any:
        """Places of a tile of P."""
        return tile * self.block_p + jnp.arange(self.block_p)


def chunk_sums(
    log_decay: jax.Array, reset: jax.Array | None, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """g (B, H, T') float32 and (B, H, T' + 1) int32 numbers of packed sequences.

    T' is T in whole chunks; padding does not decay and belongs to the last sequence. Entry t + 1 of
    the numbers is that of step t, and entry 0 that of the initial state.
    """
    log_decay = log_decay.astype(jnp.float32).swapaxes(1, 2)
    begins = log_decay <= SMALLEST
    if reset is not None:
        begins = begins | reset[:, None]
    batch, heads, time = log_decay.shape
    chunks = pl.cdiv(time, chunk)
    over = ((0, 0), (0, 0), (0, chunks * chunk - time))
    log_decay = jnp.pad(jnp.where(begins, 0, log_decay), over)
    steps = jnp.arange(chunk)
    until = (steps[:, None] >= steps).astype(jnp.float32)
    by_chunk = log_decay.reshape(batch, heads, chunks, chunk)
    g = jnp.einsum("ij,bhnj->bhni", until, by_chunk, precision=jax.lax.Precision.HIGHEST)
    numbers = jnp.pad(jnp.cumsum(begins, axis=2, dtype=jnp.int32), over, mode="edge")
    return g.reshape(batch, heads, -1), jnp.pad(numbers, ((0, 0), (0, 0), (1, 0)))


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

    @property
    def group(self) -> Any:
        """The group of its head."""
        return self.head // self.size.per_group

    def _steps(self) -> Any:
        return self.start + jnp.arange(self.size.chunk)

    def _load(self, ref: Any, line: Any, columns: Any) -> Any:
        steps = self._steps()
        mask = (steps < self.size.time)[:, None] & (columns < ref.shape[3])[None, :]
        index = (self.batch, steps[:, None], line, columns[None, :])
        return plt.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

    def of_head(self, ref: Any, columns: Any) -> Any:
        """(C, columns) float32 rows of an operand that has heads; 0 beyond time and width."""
        return self._load(ref, self.head, columns)

    def of_group(self, ref: Any, columns: Any) -> Any:
        """(C, columns) float32 rows of an operand that has groups; 0 beyond time and width."""
        return self._load(ref, self.group, columns)

    def store(self, ref: Any, columns: Any, tile: Any) -> None:
        """Writes the rows of an operand that has heads."""
        steps = self._steps()
        mask = (steps < self.size.time)[:, None] & (columns < ref.shape[3])[None, :]
        index = (self.batch, steps[:, None], self.head, columns[None, :])
        plt.store(ref.at[index], tile.astype(ref.dtype), mask=mask)

    def sums(self, g_ref: Any) -> Any:
        """(C,) g."""
        return plt.load(g_ref.at[self.batch, self.head, self._steps()])

    def end(self, g_ref: Any) -> Any:
        """g at the last step."""
        return plt.load(g_ref.at[self.batch, self.head, self.start + self.size.chunk - 1])

    def numbers(self, ref: Any) -> tuple[Any, Any, Any]:
        """Of the sequence that enters the chunk, of those of its steps, and of the last."""
        line = ref.at[self.batch, self.head, self.start]
        last = ref.at[self.batch, self.head, self.start + self.size.chunk]
        own = ref.at[self.batch, self.head, self._steps() + 1]
        return plt.load(line), plt.load(own), plt.load(last)

    def decay(self, g_ref: Any, numbers_ref: Any) -> tuple[Any, Any, Any]:
        """Decays between steps (C, C), from the chunk's start (C,), and to its end (C,)."""
        g, (before, own, after) = self.sums(g_ref), self.numbers(numbers_ref)
        steps = jnp.arange(self.size.chunk)
        counts = (steps[:, None] >= steps[None, :]) & (own[:, None] == own[None, :])
        between = jnp.where(counts, jnp.exp(jnp.minimum(g[:, None] - g[None, :], 0.0)), 0.0)
        since = jnp.where(own == before, jnp.exp(g), 0.0)
        return between, since, jnp.where(own == after, jnp.exp(self.end(g_ref) - g), 0.0)

    def _state_place(self, boundary: Any, rows: Any, columns: Any) -> tuple[Any, Any]:
        index = (self.batch, boundary, self.head, rows[:, None], columns[None, :])
        return index, (rows < self.size.states)[:, None] & (columns < self.size.width)[None, :]

    def state(self, ref: Any, boundary: Any, rows: Any, columns: Any) -> Any:
        """(N tile, P tile) of a state at a chunk boundary."""
        index, mask = self._state_place(boundary, rows, columns)
        return plt.load(ref.at[index], mask=mask, other=0.0)

    def store_state(self, ref: Any, boundary: Any, rows: Any, columns: Any, tile: Any) -> None:
        """Writes a tile of a state at a chunk boundary."""
        index, mask = self._state_place(boundary, rows, columns)
        plt.store(ref.at[index], tile, mask=mask)


def chunk_here(size: Sizes) -> Chunk:
    """The chunk of the program at hand, in a grid whose first axis is B H times the chunks."""
    line = pl.program_id(0) // size.chunks
    return Chunk(size, line // size.heads, line % size.heads, pl.program_id(0) % size.chunks)
