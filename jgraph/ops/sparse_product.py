"""The three products of a weighted adjacency; each one's gradient is made of the other two.

    product(w, x)_i              = sum_{e: receivers_e = i} w_e x[senders_e]         (A x)
    product(w, y, transposed)_j  = sum_{e: senders_e = j}   w_e y[receivers_e]       (A^T y)
    sddmm(a, b)_e                = <a[receivers_e], b[senders_e]>

    d product / dx = product(w, g, transposed)      d product / dw = sddmm(g, x)
    d sddmm / da   = product(g, b)                  d sddmm / db   = product(g, a, transposed)

so nothing of size E x F is kept for the backward pass, and derivatives of every order exist.
Time is O(E F); the XLA form makes a transient of E x F, the CPU form and the kernels none.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jgraph.graph.adjacency import Adjacency
from jgraph.ops import chunks, segment
from jgraph.ops.csr import csr_matmul, supports
from jgraph.ops.dispatch import by_platform
from jgraph.ops.graph_kernels import folded, index_operands, unsupported
from jgraph.ops.reference import messages
from pallas_kernels import sddmm as sddmm_kernel
from pallas_kernels import spmm as spmm_kernel


def _product_xla(adjacency, x, weight, count, transposed):
    index = adjacency.index
    if index is None:
        sources, targets = adjacency.senders, adjacency.receivers
        if transposed:
            sources, targets = targets, sources
    elif transposed:
        sources, targets = index.col_receivers, jnp.take(adjacency.senders, index.col_order)
        weight = None if weight is None else jnp.take(weight, index.col_order, axis=0)
    else:
        sources, targets = adjacency.senders, adjacency.receivers
    return segment.segment_sum(
        messages(x, sources, weight),
        targets,
        count,
        indices_are_sorted=index is not None,
        implementation="xla",
    )


def _product_csr(adjacency, x, weight, count, transposed):
    index = adjacency.index
    if transposed:
        columns, offsets = index.col_receivers, index.col_offsets
        weight = None if weight is None else jnp.take(weight, index.col_order, axis=0)
    else:
        columns, offsets = adjacency.senders, index.row_offsets
    if weight is None:
        weight = jnp.ones(columns.shape, x.dtype)
    if weight.ndim == 1:
        flat = csr_matmul(weight, columns, offsets, x.reshape(x.shape[0], -1))
        return flat.reshape(count, *x.shape[1:])
    heads = [csr_matmul(weight[:, h], columns, offsets, x[:, h]) for h in range(weight.shape[1])]
    return jnp.stack(heads, axis=1)


def _product_kernel(adjacency, x, weight, count, transposed, *, backend):
    options = spmm_kernel.Options(transposed=transposed)
    operands = (folded(x, weight), weight, *index_operands(adjacency))
    out, _ = spmm_kernel.forward(options, *operands, backend=backend)
    return out.reshape(count, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def product(
    adjacency: Adjacency,
    x: jax.Array,
    weight: jax.Array | None,
    count: int,
    transposed: bool,
    implementation: str,
) -> jax.Array:
    """Weighted sum over neighbours.

    Args:
      x: (N, ...) rows of the senders (of the receivers when `transposed`); (N, H, F) if `weight`
        is (E, H).
      weight: None for ones, (E,) or (E, H).
      count: number of result rows.

    Returns:
      (count, ...) in the dtype of `x`, accumulated in float32 at least.
    """
    usable = adjacency.index is not None and adjacency.num_edges > 0 and supports(x.dtype)

    def form(run):
        return functools.partial(run, count=count, transposed=transposed)

    return by_platform(
        "spmm",
        implementation,
        adjacency,
        x,
        weight,
        xla=form(_product_xla),
        csr=form(_product_csr) if usable else None,
        kernel=form(_product_kernel),
        backends=spmm_kernel.BACKENDS,
        unsupported=unsupported(spmm_kernel, spmm_kernel.Options(), adjacency, x, weight),
    )


def _product_fwd(adjacency, x, weight, count, transposed, implementation):
    out = product(adjacency, x, weight, count, transposed, implementation)
    like = jnp.zeros((x.shape[0], 0), x.dtype)
    return out, (adjacency, like if weight is None else x, weight)


def _product_bwd(count, transposed, implementation, residuals, grad):
    adjacency, x, weight = residuals
    grad = grad.astype(x.dtype)
    dx = product(adjacency, grad, weight, x.shape[0], not transposed, implementation)
    if weight is None:
        return None, dx, None
    a, b = (x, grad) if transposed else (grad, x)
    if weight.ndim == 1:
        a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    dw = sddmm_product(adjacency, a, b, implementation)
    return None, dx, dw.astype(weight.dtype)


product.defvjp(_product_fwd, _product_bwd)


def _dot(a, b):
    """(E, H*, F) row products, reduced over F in float32 at least."""
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return (a.astype(wide) * b.astype(wide)).sum(-1)


def _dot_by_matmul(a, b):
    # Reducing short rows inside a loop body is slow on CPU; a product with the matrix that adds
    # up each head's columns runs on the matrix routine instead.
    heads = a.shape[1] if a.ndim == 3 else 1
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    rows = a.shape[0]
    width = heads * a.shape[-1]
    terms = a.reshape(rows, width).astype(wide) * b.reshape(rows, width).astype(wide)
    adder = jnp.repeat(jnp.eye(heads, dtype=wide), a.shape[-1], axis=0)
    out = jnp.dot(terms, adder, precision=jax.lax.Precision.HIGHEST)
    return out if a.ndim == 3 else out[:, 0]


def _sddmm_xla(adjacency, a, b):
    at_receivers, at_senders = (
        jnp.take(a, adjacency.receivers, axis=0),
        jnp.take(b, adjacency.senders, axis=0),
    )
    return _dot(at_receivers, at_senders).astype(a.dtype)


def _sddmm_kernel(adjacency, a, b, *, backend):
    operands = (a, b, *index_operands(adjacency))
    return sddmm_kernel.forward(sddmm_kernel.Options(), *operands, backend=backend)[0]


def _sddmm_chunks(adjacency, a, b):
    senders, receivers = jnp.asarray(adjacency.senders), jnp.asarray(adjacency.receivers)

    def one(chunk):
        sender, receiver = chunk
        return _dot_by_matmul(a[receiver], b[sender]).astype(a.dtype)

    if senders.shape[0] <= chunks.CHUNK:
        return one((senders, receivers))
    out = jax.lax.map(one, (chunks.split_edges(senders, 0), chunks.split_edges(receivers, 0)))
    return chunks.join_edges(out, senders.shape[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def sddmm_product(
    adjacency: Adjacency, a: jax.Array, b: jax.Array, implementation: str
) -> jax.Array:
    """Per-edge dot products: a (N_receivers, [H,] F), b (N_senders, [H,] F) -> (E, [H])."""
    return by_platform(
        "sddmm",
        implementation,
        adjacency,
        a,
        b,
        xla=_sddmm_xla,
        csr=_sddmm_chunks,
        kernel=_sddmm_kernel,
        backends=sddmm_kernel.BACKENDS,
        unsupported=unsupported(sddmm_kernel, sddmm_kernel.Options(), adjacency, a, b),
    )


def _sddmm_fwd(adjacency, a, b, implementation):
    return sddmm_product(adjacency, a, b, implementation), (adjacency, a, b)


def _sddmm_bwd(implementation, residuals, grad):
    adjacency, a, b = residuals
    da = product(adjacency, b, grad, a.shape[0], False, implementation)
    db = product(adjacency, a, grad, b.shape[0], True, implementation)
    return None, da.astype(a.dtype), db.astype(b.dtype)


sddmm_product.defvjp(_sddmm_fwd, _sddmm_bwd)
