"""What lies between a graph and the kernels of `pallas_kernels` that walk its edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from jgraph.graph.adjacency import Adjacency


def may_serve(implementation: str) -> bool:
    """Whether a kernel can be the choice here: asked for, or "auto" beside an accelerator.

    Where it cannot, ops keep to forms that JAX differentiates in every mode.
    """
    if implementation == "auto":
        return jax.default_backend() != "cpu"
    return implementation in ("pallas", "interpret")


def index_operands(adjacency: Adjacency) -> tuple[Any, ...]:
    """The graph as `pallas_kernels.spmm` takes it."""
    index = adjacency.sorted_index
    return (
        adjacency.senders,
        adjacency.receivers,
        index.row_offsets,
        index.col_order,
        index.col_receivers,
        index.col_offsets,
    )


def unsupported(kernel: Any, options: Any, adjacency: Adjacency, *arrays: Any) -> str | None:
    """Why `kernel` cannot take these arrays over this graph; None if it can."""
    if adjacency.index is None:
        return "the graph's edges are unsorted; build it with Graph.from_edges"
    return kernel.unsupported(options, *arrays, *index_operands(adjacency))


def flat_rows(rows: jax.Array) -> jax.Array:
    """(R, ...) -> (R, F)."""
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))


def folded(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """`x` (N, ...) as (N, F), or as (N, H, F) where `weight` is (E, H)."""
    if weight is None or weight.ndim == 1:
        return flat_rows(x)
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def with_gradient_of(xla: Callable[..., Any], run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, which computes what `xla` does, with the gradient of `xla`."""

    @jax.custom_vjp
    def call(*operands):
        return run(*operands)

    def forward(*operands):
        return run(*operands), operands

    def backward(operands, cotangents):
        return jax.vjp(xla, *operands)[1](cotangents)

    call.defvjp(forward, backward)
    return call
