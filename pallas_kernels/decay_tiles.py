"""What the chunked kernels of WKV-6 and WKV-7 share: tiles of time by width, and their decays.

A program owns one head of one batch row and some of the value columns, and walks over chunks of
L steps with the state (K, columns) in registers. Inside a chunk every weight is a product of
decays, each at most 1, that a loop over the chunk's columns multiplies up: neither a quotient of
products, which would overflow under strong decay, nor an exponential per pair of steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.call import next_power_of_2


class Sizes(NamedTuple):
    """Static sizes of a launch; `wide_k` and `wide_v` are the tiles' powers of two."""

    time: int
    heads: int
    keys: int
    values: int
    chunk: int
    wide_k: int
    wide_v: int
    exact: bool
    resets: bool

    @property
    def chunks(self) -> int:
        """How many chunks the time has."""
        return pl.cdiv(self.time, self.chunk)

    @property
    def value_tiles(self) -> int:
        """How many programs share one head."""
        return pl.cdiv(self.values, self.wide_v)


def sizes_of(k: jax.Array, v: jax.Array, chunk: int, block_v: int, resets: bool) -> Sizes:
    """The sizes for k (B, T, H, K) and v (B, T, H, V); matrix products need tiles of 16."""
    _, time, heads, keys = k.shape
    values = v.shape[-1]
    return Sizes(
        time=time,
        heads=heads,
        keys=keys,
        values=values,
        chunk=chunk,
        wide_k=max(16, next_power_of_2(keys)),
        wide_v=max(16, min(block_v, next_power_of_2(values))),
        exact=k.dtype == jnp.float32,
        resets=resets,
    )


def unsupported(options: Any, keys: jax.Array, values: jax.Array) -> str | None:
    """Why a chunked kernel cannot take keys (B, T, H, K) and values (B, T, H, V)."""
    if keys.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"k has dtype {keys.dtype}; the kernel takes float32, bfloat16 and float16"
    if options.chunk not in (16, 32, 64):
        return f"chunk is {options.chunk}; the kernel takes 16, 32 and 64"
    if keys.shape[-1] > 128:
        return f"k has width {keys.shape[-1]}; the kernel's state tile holds at most 128"
    return None


class Here(NamedTuple):
    """Where a program works: indices and masks of its head, key rows and value columns."""

    size: Sizes
    batch: Any
    head: Any
    tile: Any
    key_index: Any
    value_index: Any
    in_keys: Any
    in_values: Any

    def state_index(self) -> tuple[Any, ...]:
        """Indices of the state tile in (B, H, K, V)."""
        return self.batch, self.head, self.key_index[:, None], self.value_index[None, :]

    def state_mask(self) -> Any:
        """(K, columns) bool."""
        return self.in_keys[:, None] & self.in_values[None, :]


def here(size: Sizes) -> Here:
    """The place of the program at hand in a grid of (B H, value tiles)."""
    key_index = jnp.arange(size.wide_k)
    tile = pl.program_id(1)
    value_index = tile * size.wide_v + jnp.arange(size.wide_v)
    return Here(
        size,
        pl.program_id(0) // size.heads,
        pl.program_id(0) % size.heads,
        tile,
        key_index,
        value_index,
        key_index < size.keys,
        value_index < size.values,
    )


class Chunk(NamedTuple):
    """One chunk of a program's time; padding after the last step reads as zero."""

    at: Here
    start: Any

    def _tile(self, columns: Any, inside: Any) -> tuple[Any, Any]:
        steps = self.start + jnp.arange(self.at.size.chunk)
        index = (self.at.batch, steps[:, None], self.at.head, columns[None, :])
        return index, (steps < self.at.size.time)[:, None] & inside[None, :]

    def keys(self, ref: Any) -> Any:
        """(L, K) float32 tile of an operand of width K."""
        index, mask = self._tile(self.at.key_index, self.at.in_keys)
        return plt.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

    def values(self, ref: Any) -> Any:
        """(L, columns) float32 tile of an operand of width V."""
        index, mask = self._tile(self.at.value_index, self.at.in_values)
        return plt.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

    def store_values(self, ref: Any, tile: Any) -> None:
        """Writes an (L, columns) tile."""
        index, mask = self._tile(self.at.value_index, self.at.in_values)
        plt.store(ref.at[index], tile.astype(ref.dtype), mask=mask)

    def store_partial(self, ref: Any, tile: Any) -> None:
        """Writes an (L, K) tile as this program's share of a sum over value tiles."""
        index, mask = self._tile(self.at.key_index, self.at.in_keys)
        plt.store(ref.at[(self.at.tile, *index)], tile.astype(ref.dtype), mask=mask)

    def key_row(self, ref: Any, step: Any) -> Any:
        """(K,) float32 row of an operand at one step of the chunk."""
        t = self.start + step
        index = (self.at.batch, t, self.at.head, self.at.key_index)
        mask = self.at.in_keys & (t < self.at.size.time)
        return plt.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

    def decay_row(self, ref: Any, reset_ref: Any, step: Any) -> Any:
        """(K,) decay of one step: 0 at a reset, 1 in the padding."""
        decay = jnp.exp(self.key_row(ref, step))
        if reset_ref is None:
            return decay
        t = self.start + step
        flag = plt.load(reset_ref.at[self.at.batch, t], mask=t < self.at.size.time, other=0)
        return jnp.where(flag != 0, 0.0, decay)

    def unless_reset(self, tile: Any, reset_ref: Any) -> Any:
        """An (L, K) tile with the rows at which the state is cleared set to zero."""
        if reset_ref is None:
            return tile
        steps = self.start + jnp.arange(self.at.size.chunk)
        mask = steps < self.at.size.time
        flags = plt.load(reset_ref.at[self.at.batch, steps], mask=mask, other=0)
        return jnp.where((flags != 0)[:, None], 0.0, tile)


def product(a: Any, b: Any, *, exact: bool, trans_a: bool = False, trans_b: bool = False) -> Any:
    """A matrix product summed in float32; `exact` keeps its factors in float32 as well."""
    return plt.dot(a, b, trans_a=trans_a, trans_b=trans_b, allow_tf32=not exact)


def column(matrix: Any, number: Any) -> Any:
    """(L,) column of an (L, L) matrix in registers."""
    columns = jnp.arange(matrix.shape[1])
    return jnp.sum(jnp.where((columns == number)[None, :], matrix, 0.0), axis=1)


def with_column(matrix: Any, number: Any, values: Any) -> Any:
    """`matrix` with one column replaced."""
    columns = jnp.arange(matrix.shape[1])
    return jnp.where((columns == number)[None, :], values[:, None], matrix)


def with_row(matrix: Any, number: Any, values: Any) -> Any:
    """`matrix` with one row replaced."""
    rows = jnp.arange(matrix.shape[0])
    return jnp.where((rows == number)[:, None], values[None, :], matrix)


def from_here_on(strict: bool, tile: Any) -> Any:
    """Sums over the steps of a chunk from each step, or from the one after it, to the end."""
    rows = jnp.arange(tile.shape[0])
    later = rows[None, :] > rows[:, None] if strict else rows[None, :] >= rows[:, None]
    return product(later.astype(jnp.float32), tile, exact=True)
