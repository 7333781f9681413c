"""The kernels of state-space duality.

    states       S at every chunk boundary from (b, x); backward, its cotangent dS from (c, dy)
    outputs      y = ((c b^T) * L) x + since * (c S)
    inputs       dx = ((c b^T) * L)^T dy + to_end * (b dS), and the gradient of the log decays
    projections  dc and db, summed over some of the heads that share a group

L holds the decays between steps of a chunk, `since` those from its start and `to_end` those to its
end. With S', dS' at the chunk's end,

    d log_decay_t = sum_{s >= t} (<y_s, dy_s> - <x_s, dx_s>) + <S', dS'>.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.ssd.tiles import Chunk, Sizes, chunk_here


def states(size: Sizes, backward: bool, *refs: Any) -> None:
    """Grid (B H, N tiles x P tiles): walks over the chunks with a tile of the state."""
    a_ref, z_ref, g_ref, numbers_ref, start_ref, states_ref = refs
    tile = pl.program_id(1)
    rows = size.state_columns(tile // size.width_tiles)
    columns = size.width_columns(tile % size.width_tiles)
    batch, head = pl.program_id(0) // size.heads, pl.program_id(0) % size.heads

    def body(turn, state):
        chunk = Chunk(size, batch, head, size.chunks - 1 - turn if backward else turn)
        boundary = chunk.number + 1 if backward else chunk.number
        chunk.store_state(states_ref, boundary, rows, columns, state)
        before, own, after = chunk.numbers(numbers_ref)
        g, end = chunk.sums(g_ref), chunk.end(g_ref)
        counts = own == (before if backward else after)
        decay = jnp.where(counts, jnp.exp(g if backward else end - g), 0.0)
        kept = jnp.where(before == after, jnp.exp(end), 0.0)
        a = decay[:, None] * chunk.of_group(a_ref, rows)
        return kept * state + size.dot(a, chunk.of_head(z_ref, columns), trans_a=True)

    first = Chunk(size, batch, head, 0)
    state = jax.lax.fori_loop(0, size.chunks, body, first.state(start_ref, 0, rows, columns))
    first.store_state(states_ref, 0 if backward else size.chunks, rows, columns, state)


def _scores(chunk: Chunk, c_ref: Any, b_ref: Any) -> Any:
    """(C, C) c b^T."""
    size = chunk.size
    scores = jnp.zeros((size.chunk, size.chunk), jnp.float32)
    for tile in range(size.state_tiles):
        rows = size.state_columns(tile)
        c, b = chunk.of_group(c_ref, rows), chunk.of_group(b_ref, rows)
        scores += size.dot(c, b, trans_b=True)
    return scores


def _of_state(chunk: Chunk, a_ref: Any, states_ref: Any, boundary: Any, columns: Any) -> Any:
    """(C, P tile) a S."""
    size = chunk.size
    total = jnp.zeros((size.chunk, size.block_p), jnp.float32)
    for tile in range(size.state_tiles):
        rows = size.state_columns(tile)
        state = chunk.state(states_ref, boundary, rows, columns)
        total += size.dot(chunk.of_group(a_ref, rows), state)
    return total


def outputs(size: Sizes, *refs: Any) -> None:
    """Grid (B H chunks, P tiles)."""
    x_ref, b_ref, c_ref, g_ref, numbers_ref, states_ref, y_ref = refs
    chunk = chunk_here(size)
    columns = size.width_columns(pl.program_id(1))
    between, since, _ = chunk.decay(g_ref, numbers_ref)
    weights = _scores(chunk, c_ref, b_ref) * between
    y = size.dot(weights, chunk.of_head(x_ref, columns))
    past = _of_state(chunk, c_ref, states_ref, chunk.number, columns)
    chunk.store(y_ref, columns, y + since[:, None] * past)


def inputs(size: Sizes, *refs: Any) -> None:
    """Grid (B H chunks,)."""
    x_ref, b_ref, c_ref, g_ref, numbers_ref, states_ref, dy_ref, d_states_ref, *out_refs = refs
    dx_ref, dg_ref = out_refs
    chunk = chunk_here(size)
    between, since, to_end = chunk.decay(g_ref, numbers_ref)
    weights = _scores(chunk, c_ref, b_ref) * between
    pairs = jnp.zeros((size.chunk, size.chunk), jnp.float32)
    terms = jnp.zeros((size.chunk,), jnp.float32)
    later = jnp.float32(0)
    for tile in range(size.width_tiles):
        columns = size.width_columns(tile)
        x, dy = chunk.of_head(x_ref, columns), chunk.of_head(dy_ref, columns)
        pairs += size.dot(dy, x, trans_b=True)
        past = _of_state(chunk, c_ref, states_ref, chunk.number, columns)
        future = _of_state(chunk, b_ref, d_states_ref, chunk.number + 1, columns)
        terms += since * jnp.sum(dy * past, axis=1) - to_end * jnp.sum(x * future, axis=1)
        dx = size.dot(weights, dy, trans_a=True) + to_end[:, None] * future
        chunk.store(dx_ref, columns, dx)
        for place in range(size.state_tiles):
            rows = size.state_columns(place)
            state = chunk.state(states_ref, chunk.number + 1, rows, columns)
            d_state = chunk.state(d_states_ref, chunk.number + 1, rows, columns)
            later += jnp.sum(state * d_state)
    pairs *= weights
    steps = jnp.arange(size.chunk)
    # Steps along the rows: a pair (i, j) adds to every t with j < t <= i.
    rows = jnp.sum(pairs, axis=1) + terms
    from_here_on = steps[None, :] >= steps[:, None]
    dg = jnp.sum(jnp.where(from_here_on, (rows - jnp.sum(pairs, axis=0))[None, :], 0.0), axis=1)
    _, own, _ = chunk.numbers(numbers_ref)
    places = chunk.start + steps
    previous = plt.load(numbers_ref.at[chunk.batch, chunk.head, places])
    dg = jnp.where(own == previous, dg + later, 0.0)
    plt.store(dg_ref.at[chunk.batch, chunk.head, places], dg, mask=places < size.time)


def projections(size: Sizes, *refs: Any) -> None:
    """Grid (B G parts chunks, N tiles)."""
    x_ref, b_ref, c_ref, g_ref, numbers_ref, states_ref, dy_ref, d_states_ref, *out_refs = refs
    number, line = pl.program_id(0) % size.chunks, pl.program_id(0) // size.chunks
    part, line = line % size.parts, line // size.parts
    group, batch = line % size.groups, line // size.groups
    rows = size.state_columns(pl.program_id(1))
    first = group * size.per_group + part * size.together
    count = jnp.minimum(size.together, size.per_group - part * size.together)
    zeros = jnp.zeros((size.chunk, size.block_n), jnp.float32)

    def of_head(turn, totals):
        dc, db = totals
        chunk = Chunk(size, batch, first + turn, number)
        between, since, to_end = chunk.decay(g_ref, numbers_ref)
        pairs = jnp.zeros((size.chunk, size.chunk), jnp.float32)
        past, future = zeros, zeros
        for tile in range(size.width_tiles):
            columns = size.width_columns(tile)
            x, dy = chunk.of_head(x_ref, columns), chunk.of_head(dy_ref, columns)
            pairs += size.dot(dy, x, trans_b=True)
            state = chunk.state(states_ref, number, rows, columns)
            d_state = chunk.state(d_states_ref, number + 1, rows, columns)
            past += size.dot(dy, state, trans_b=True)
            future += size.dot(x, d_state, trans_b=True)
        pairs *= between
        dc += size.dot(pairs, chunk.of_group(b_ref, rows)) + since[:, None] * past
        db += size.dot(pairs, chunk.of_group(c_ref, rows), trans_a=True)
        return dc, db + to_end[:, None] * future

    totals = jax.lax.fori_loop(0, count, of_head, (zeros, zeros))
    steps = number * size.chunk + jnp.arange(size.chunk)
    mask = (steps < size.time)[:, None] & (rows < size.states)[None, :]
    for ref, total in zip(out_refs, totals, strict=True):
        plt.store(ref.at[part, batch, steps[:, None], group, rows[None, :]], total, mask=mask)
