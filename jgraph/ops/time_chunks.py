"""Recurrences over time in chunks: the state is kept at chunk boundaries, the rest is repeated.

Time is axis 1 of every sequence outside, and axis 0 inside a chunk. A last chunk that is shorter
runs by itself, so that nothing has to be padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def vary_like(tree: Any, like: Any) -> Any:
    """Inside `jax.shard_map`, `tree` varying over the mesh axes over which `like` varies.

    The carry of a loop must, also where it begins as the same zeros on every device.
    """

    def axes(x: Any) -> frozenset[str]:
        return jax.typeof(x).manual_axis_type.varying

    every = frozenset[str]().union(*map(axes, jax.tree.leaves(like)))

    def vary(x: Any) -> Any:
        missing = tuple(sorted(every - axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def _swapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _parts(tree: Any, chunk: int) -> tuple[Any, Any, int]:
    """Whole chunks (n, chunk, ...), what is left over (rest, ...), and its length."""
    time = jax.tree.leaves(tree)[0].shape[0]
    whole, rest = divmod(time, chunk)
    many = jax.tree.map(lambda x: x[: whole * chunk].reshape(whole, chunk, *x.shape[1:]), tree)
    return many, jax.tree.map(lambda x: x[whole * chunk :], tree), rest


def _joined(many: Any, last: Any | None) -> Any:
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), many)
    if last is None:
        return flat
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), flat, last)


def forward(
    run: Callable[[Any, Any], tuple[Any, Any]], chunk: int, state: jax.Array, sequences: Any
) -> tuple[Any, jax.Array, jax.Array]:
    """Runs a recurrence.

    Args:
      run: (state, sequences of one chunk (L, B, ...)) -> (next state, outputs (L, B, ...)).
      sequences: pytree of (B, T, ...).

    Returns:
      Outputs (B, T, ...), the last state, the states at the start of every chunk (n, ...).
    """
    many, last, rest = _parts(_swapped(sequences), chunk)
    state = vary_like(state, sequences)

    def body(state, now):
        following, outputs = run(state, now)
        return following, (outputs, state)

    state, (outputs, starts) = jax.lax.scan(body, state, many)
    final_outputs = None
    if rest:
        starts = jnp.concatenate([starts, state[None]])
        state, final_outputs = run(state, last)
    return _swapped(_joined(outputs, final_outputs)), state, starts


def backward(
    run: Callable[[Any, Any, Any], tuple[Any, Any, Any]],
    chunk: int,
    cotangent: Any,
    starts: jax.Array,
    sequences: Any,
    sums: Any,
) -> tuple[Any, Any, Any]:
    """Runs the reversed pass.

    Args:
      run: (cotangent of the state after a chunk, state at its start, its sequences) ->
        (cotangent of the state at its start, gradients (L, B, ...), shares of `sums`).
      cotangent: of the last state; a pytree.
      starts: as `forward` returned them.
      sequences: pytree of (B, T, ...), with the cotangents of the outputs among them.
      sums: zeros of the gradients that are summed over time; a pytree.

    Returns:
      Gradients (B, T, ...), the cotangent of the first state, the sums.
    """
    many, last, rest = _parts(_swapped(sequences), chunk)
    cotangent, sums = vary_like((cotangent, sums), (sequences, starts))

    def add(x, y):
        return jax.tree.map(jnp.add, x, y)

    last_gradients = None
    if rest:
        cotangent, last_gradients, share = run(cotangent, starts[-1], last)
        sums, starts = add(sums, share), starts[:-1]

    def body(carry, now):
        cotangent, sums = carry
        cotangent, gradients, share = run(cotangent, *now)
        return (cotangent, add(sums, share)), gradients

    (cotangent, sums), gradients = jax.lax.scan(
        body, (cotangent, sums), (starts, many), reverse=True
    )
    return _swapped(_joined(gradients, last_gradients)), cotangent, sums


def cleared(state: jax.Array, flag: jax.Array | None) -> jax.Array:
    """State (B, ...), zero where `flag` (B,) is set."""
    if flag is None:
        return state
    return jnp.where(flag.reshape(flag.shape + (1,) * (state.ndim - 1)), 0.0, state)
