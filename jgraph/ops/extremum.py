"""Largest or smallest message at each receiver, without an E x F array in memory.

    out_i = max_{e: receivers_e = i} weight_e x[senders_e]        0 where no edge enters i

Edges run in cache-sized chunks on a CPU. The backward pass recomputes the messages and sends
the gradient to those that equal the result; ties share it evenly, as `segment_max` does. Messages
are compared in float32 at least, so that rounding to half precision makes no ties.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.graph.adjacency import Adjacency
from jgraph.ops import chunks
from jgraph.ops.dispatch import by_platform
from jgraph.ops.graph_kernels import (
    folded,
    index_operands,
    may_serve,
    unsupported,
    with_gradient_of,
)
from jgraph.ops.reference import messages
from pallas_kernels import spmm as kernel


def _scan_edges(step, carry, adjacency, weight, count, chunked):
    """Runs `step(carry, senders, receivers, weight)` over chunks of edges, or all at once.

    Filled-up edges have receiver `count`, which scatters drop. Returns the carry and the
    per-edge output of `step`.
    """
    senders, receivers = adjacency.senders, adjacency.receivers
    edges = senders.shape[0]
    if not chunked or edges <= chunks.CHUNK:
        return step(carry, senders, receivers, weight)
    parts = (chunks.split_edges(senders, 0), chunks.split_edges(receivers, count))
    if weight is None:
        return jax.lax.scan(lambda c, p: step(c, *p, None), carry, parts)
    carry, out = jax.lax.scan(
        lambda c, p: step(c, *p), carry, (*parts, chunks.split_edges(weight, 0))
    )
    return carry, None if out is None else out.reshape(-1, *out.shape[2:])[:edges]


def _widened(x):
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if floating else x


def _forward(adjacency, x, weight, count, largest, chunked):
    x = _widened(x)
    info = jnp.finfo(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    worst = (-jnp.inf if largest else jnp.inf) if floating else (info.min if largest else info.max)

    def step(best, senders, receivers, weight):
        rows = messages(x, senders, weight)
        target = best.at[receivers]
        put = target.max if largest else target.min
        return put(rows, mode="drop", indices_are_sorted=adjacency.index is not None), None

    start = jnp.full((count, *x.shape[1:]), worst, x.dtype)
    best, _ = _scan_edges(step, start, adjacency, weight, count, chunked)
    entered = jnp.zeros((count,), bool).at[adjacency.receivers].set(True)
    return jnp.where(entered.reshape(count, *(1,) * (x.ndim - 1)), best, 0)


def _backward(adjacency, x, weight, out, grad, count, chunked):
    ordered = adjacency.index is not None
    dtype, x = x.dtype, _widened(x)
    wide = x.dtype

    def equal(senders, receivers, weight):
        return messages(x, senders, weight) == jnp.take(out, receivers, axis=0, mode="clip")

    def tally(ties, senders, receivers, weight):
        rows = equal(senders, receivers, weight).astype(wide)
        return ties.at[receivers].add(rows, mode="drop", indices_are_sorted=ordered), None

    ties, _ = _scan_edges(tally, jnp.zeros(out.shape, wide), adjacency, weight, count, chunked)
    share = grad.astype(wide) / jnp.maximum(ties, 1)

    def push(dx, senders, receivers, weight):
        real = (receivers < count).reshape(-1, *(1,) * (x.ndim - 1))
        rows = jnp.take(share, receivers, axis=0, mode="clip")
        rows = jnp.where(equal(senders, receivers, weight) & real, rows, 0)
        if weight is None:
            return dx.at[senders].add(rows), None
        scale = weight.reshape(weight.shape + (1,) * (rows.ndim - weight.ndim))
        dw = (rows * jnp.take(x, senders, axis=0)).reshape(*weight.shape, -1).sum(-1)
        return dx.at[senders].add(rows * scale), dw

    dx, dw = _scan_edges(push, jnp.zeros(x.shape, wide), adjacency, weight, count, chunked)
    return dx.astype(dtype), None if weight is None else dw.astype(weight.dtype)


def _options(largest):
    return kernel.Options("max" if largest else "min")


def _kernel_operands(adjacency, x, weight):
    return (folded(x, weight), weight, *index_operands(adjacency))


def _kernel_forward(adjacency, x, weight, count, largest, *, backend):
    operands = _kernel_operands(adjacency, x, weight)
    _, best = kernel.forward(_options(largest), *operands, backend=backend)
    return best.reshape(count, *x.shape[1:])


def _kernel_backward(adjacency, x, weight, best, grad, largest, *, backend):
    operands = _kernel_operands(adjacency, x, weight)
    best, grad = (rows.reshape(rows.shape[0], *operands[0].shape[1:]) for rows in (best, grad))
    dx, dw, *_ = kernel.backward(_options(largest), operands, best, grad, backend=backend)
    return dx.reshape(x.shape), dw


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _best(adjacency, x, weight, count, largest, implementation):
    """(count, ...) result in float32 at least, by the chosen form."""

    def form(chunked):
        return functools.partial(_forward, count=count, largest=largest, chunked=chunked)

    return by_platform(
        "spmm",
        implementation,
        adjacency,
        x,
        weight,
        xla=form(False),
        csr=form(True),
        kernel=functools.partial(_kernel_forward, count=count, largest=largest),
        backends=kernel.BACKENDS,
        unsupported=unsupported(kernel, _options(largest), adjacency, x, weight),
    )


def _best_fwd(adjacency, x, weight, count, largest, implementation):
    best = _best(adjacency, x, weight, count, largest, implementation)
    return best, (adjacency, x, weight, best)


def _best_bwd(count, largest, implementation, residuals, grad):
    def form(chunked):
        return functools.partial(_backward, count=count, chunked=chunked)

    def run(adjacency, x, weight, best, grad):
        return by_platform(
            "spmm",
            implementation,
            adjacency,
            x,
            weight,
            best,
            grad,
            xla=form(False),
            csr=form(True),
            kernel=functools.partial(_kernel_backward, largest=largest),
            backends=kernel.BACKENDS,
            unsupported=unsupported(kernel, _options(largest), adjacency, x, weight),
        )

    pull: Callable[..., Any] = run
    if may_serve(implementation):
        pull = with_gradient_of(form(False), run)
    return None, *pull(*residuals, grad)


_best.defvjp(_best_fwd, _best_bwd)


def extremum(
    adjacency: Adjacency,
    x: jax.Array,
    weight: jax.Array | None,
    count: int,
    largest: bool,
    implementation: str,
) -> jax.Array:
    """Maximum (`largest`) or minimum over neighbours; arguments as in `sparse_product.product`."""
    return _best(adjacency, x, weight, count, largest, implementation).astype(x.dtype)
