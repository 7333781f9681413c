"""The three kernels of gated linear attention; each also runs backward in time for the gradient.

    states     S at every chunk boundary; backward, the cotangent of S from (q, do)
    outputs    o from (q, k, v, S); backward, dv from (k, q, do, dS)
    gradients  dq from (do, v, k, S), dk the same backward from (v, do, q, dS), and d log_decay

With e = <S, dS> over the values at the chunk's end, within a chunk

    d log_decay_t = sum_{s >= t} (q_s dq_s - k_s dk_s) + e.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.gated_linear_attention.tiles import Block, Chunk, Sizes, chunk_here


def states(size: Sizes, backward: bool, *refs: Any) -> None:
    """Grid (B H, key tiles x value tiles): walks over the chunks with a tile of the state."""
    a_ref, z_ref, b_ref, numbers_ref, start_ref, states_ref = refs
    tile = pl.program_id(1)
    keys = tile // size.value_tiles * size.block_k + jnp.arange(size.block_k)
    values = tile % size.value_tiles * size.block_v + jnp.arange(size.block_v)
    batch, head = pl.program_id(0) // size.heads, pl.program_id(0) % size.heads
    length = size.chunk
    scale = size.scale if backward else 1.0

    def body(turn, state):
        chunk = Chunk(size, batch, head, size.chunks - 1 - turn if backward else turn)
        boundary = chunk.number + 1 if backward else chunk.number
        chunk.store_state(states_ref, boundary, keys, values, state)
        b, end = chunk.sums(b_ref, 0, length, keys), chunk.row(b_ref, length - 1, keys)
        before, after = chunk.entering(numbers_ref), chunk.leaving(numbers_ref)
        counts = chunk.sequences(numbers_ref, 0, length) == (before if backward else after)
        decay = jnp.exp(b if backward else end[None, :] - b)
        a = jnp.where(counts[:, None], decay * chunk.rows(a_ref, 0, length, keys) * scale, 0.0)
        kept = jnp.where(before == after, jnp.exp(end), 0.0)
        z = chunk.rows(z_ref, 0, length, values)
        return kept[:, None] * state + size.dot(a, z, trans_a=True)

    first = Chunk(size, batch, head, 0)
    state = first.state(start_ref, 0, keys, values)
    state = jax.lax.fori_loop(0, size.chunks, body, state)
    first.store_state(states_ref, 0 if backward else size.chunks, keys, values, state)


def _same(block: Block, numbers_ref: Any) -> Any:
    """(sub, C) whether steps of the block and of the chunk are of the same packed sequence."""
    size = block.chunk.size
    own = block.chunk.sequences(numbers_ref, block.first, size.sub)
    return own[:, None] == block.chunk.sequences(numbers_ref, 0, size.chunk)[None, :]


def _state_weights(block: Block, numbers_ref: Any) -> Any:
    """(sub, K tile) decay between the state at the chunk's boundary and the block's steps."""
    chunk, size = block.chunk, block.chunk.size
    own = chunk.sequences(numbers_ref, block.first, size.sub)
    b = chunk.sums(block.b_ref, block.first, size.sub, block.columns)
    if block.backward:
        b = chunk.row(block.b_ref, size.chunk - 1, block.columns)[None, :] - b
        counts = own == chunk.leaving(numbers_ref)
    else:
        counts = own == chunk.entering(numbers_ref)
    return jnp.where(counts[:, None], jnp.exp(b), 0.0)


def _scores(block: Block, own: Any, other_ref: Any) -> Any:
    """(sub, C) sums over a tile of keys of own x other x decay."""
    chunk, size = block.chunk, block.chunk.size
    others = chunk.rows(other_ref, 0, size.chunk, block.columns) * block.other_weights()
    scores = size.dot(own * block.own_weights(), others, trans_b=True)
    steps = jnp.arange(size.chunk)

    def column(n, scores):
        step = block.first + n
        other = chunk.row(other_ref, step, block.columns)
        sums = jnp.sum(own * block.weights_to(step) * other[None, :], axis=1)
        return jnp.where((steps == step)[None, :], sums[:, None], scores)

    return jax.lax.fori_loop(0, size.sub, column, scores)


def outputs(size: Sizes, backward: bool, *refs: Any) -> None:
    """Grid (B H N, value tiles): the rows of one chunk, block by block."""
    own_ref, other_ref, z_ref, b_ref, numbers_ref, states_ref, out_ref = refs
    chunk = chunk_here(size)
    values = pl.program_id(1) * size.block_v + jnp.arange(size.block_v)
    boundary = chunk.number + 1 if backward else chunk.number

    def body(number, carry):
        first = number * size.sub
        total = jnp.zeros((size.sub, size.block_v), jnp.float32)
        scores = jnp.zeros((size.sub, size.chunk), jnp.float32)
        for tile in range(size.key_tiles):
            columns = tile * size.block_k + jnp.arange(size.block_k)
            block = Block(chunk, first, columns, backward, b_ref)
            own = chunk.rows(own_ref, first, size.sub, columns)
            state = chunk.state(states_ref, boundary, columns, values)
            total += size.dot(own * _state_weights(block, numbers_ref), state)
            scores += _scores(block, own, other_ref)
        scores = jnp.where(_same(block, numbers_ref), scores, 0.0)
        if backward:
            # The states already carry the scale of the queries.
            total += size.dot(scores * size.scale, chunk.rows(z_ref, 0, size.chunk, values))
        else:
            total += size.dot(scores, chunk.rows(z_ref, 0, size.chunk, values))
            total *= size.scale
        chunk.store(out_ref, first, values, total)
        return carry

    jax.lax.fori_loop(0, size.chunk // size.sub, body, 0)


def _pulled(block: Block, refs: Any) -> Any:
    """(sub, K tile) gradient of the block's rows of q (or, backward in time, of k).

    Args:
      refs: the cotangents' partner of the block's rows, that of the other rows, the other rows,
        the states, and the numbers of the sequences.
    """
    pair_ref, other_pair_ref, other_ref, states_ref, numbers_ref = refs
    chunk, size = block.chunk, block.chunk.size
    boundary = chunk.number + 1 if block.backward else chunk.number
    steps = jnp.arange(size.chunk)
    weights = jnp.zeros((size.sub, size.chunk), jnp.float32)
    past = jnp.zeros((size.sub, size.block_k), jnp.float32)
    for tile in range(size.value_tiles):
        values = tile * size.block_v + jnp.arange(size.block_v)
        pair = chunk.rows(pair_ref, block.first, size.sub, values)
        others = chunk.rows(other_pair_ref, 0, size.chunk, values)
        weights += size.dot(pair, others, trans_b=True)
        state = chunk.state(states_ref, boundary, block.columns, values)
        past += size.dot(pair, state, trans_b=True)
    weights = jnp.where(_same(block, numbers_ref), weights, 0.0)
    scale_others, scale_past = (size.scale, 1.0) if block.backward else (size.scale, size.scale)
    others = chunk.rows(other_ref, 0, size.chunk, block.columns) * block.other_weights()
    total = size.dot(weights, others) * block.own_weights()

    def column(n, total):
        step = block.first + n
        weight = jnp.sum(jnp.where((steps == step)[None, :], weights, 0.0), axis=1)
        other = chunk.row(other_ref, step, block.columns)
        return total + weight[:, None] * block.weights_to(step) * other[None, :]

    total = jax.lax.fori_loop(0, size.sub, column, total)
    return total * scale_others + past * _state_weights(block, numbers_ref) * scale_past


def gradients(size: Sizes, *refs: Any) -> None:
    """Grid (B H N, key tiles): from a chunk's last block to its first."""
    q_ref, k_ref, v_ref, b_ref, numbers_ref, states_ref, do_ref, d_states_ref, *out_refs = refs
    dq_ref, dk_ref, dg_ref = out_refs
    chunk = chunk_here(size)
    columns = pl.program_id(1) * size.block_k + jnp.arange(size.block_k)
    later = jnp.zeros((size.block_k,), jnp.float32)
    for tile in range(size.value_tiles):
        values = tile * size.block_v + jnp.arange(size.block_v)
        state = chunk.state(states_ref, chunk.number + 1, columns, values)
        d_state = chunk.state(d_states_ref, chunk.number + 1, columns, values)
        later += jnp.sum(state * d_state, axis=1)
    turns = size.chunk // size.sub
    rows = jnp.arange(size.sub)
    from_here_on = (rows[None, :] >= rows[:, None]).astype(jnp.float32)

    def body(turn, later):
        first = (turns - 1 - turn) * size.sub
        forth, back = (Block(chunk, first, columns, way, b_ref) for way in (False, True))
        dq = _pulled(forth, (do_ref, v_ref, k_ref, states_ref, numbers_ref))
        dk = _pulled(back, (v_ref, do_ref, q_ref, d_states_ref, numbers_ref))
        chunk.store(dq_ref, first, columns, dq)
        chunk.store(dk_ref, first, columns, dk)
        q, k = (chunk.rows(ref, first, size.sub, columns) for ref in (q_ref, k_ref))
        terms = q * dq - k * dk
        exact = size._replace(half=False, exact=True)
        dg = exact.dot(from_here_on, terms) + later[None, :]
        own = chunk.sequences(numbers_ref, first, size.sub)
        begins = own != chunk.sequences(numbers_ref, first - 1, size.sub)
        chunk.store(dg_ref, first, columns, jnp.where(begins[:, None], 0.0, dg))
        return later + jnp.sum(terms, axis=0)

    jax.lax.fori_loop(0, turns, body, later)
