"""Attention whose logits are sums of node scores (GAT), fused with aggregation.

Per head, with scores a_j of senders and b_i of receivers, over the edges j -> i (and i -> i):

    z_e   = a_j + b_i          l_e = leaky_relu(z_e)          m_i >= max_e l_e
    p_e   = exp(l_e - m_i)     d_i = sum_e p_e                out_i = sum_e p_e x_j / d_i

The gradient needs no dot product per edge. With u_i = g_i / d_i, v_i = -<g_i, out_i> / d_i and
q_e = p_e leaky_relu'(z_e), the gradient of z_e is q_e (<u_i, x_j> + v_i), so summing it over the
edges of a node pulls that node's own row out of the sum:

    db_i = <[u_i, v_i], sum_{e into i} q_e [x_j, 1]>
    da_j = <[x_j, 1], sum_{e out of j} q_e [u_i, v_i]>
    dx_j = sum_{e out of j} p_e u_i

Four sparse products in all. One number per edge and head (q) is kept, and never E x F. m_i may be
any upper bound of the logits that keeps their exponentials inside float32.

Equation 3 of Velickovic et al., ICLR 2018, arXiv 1710.10903.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.graph.adjacency import Adjacency, Index
from jgraph.ops.dispatch import by_platform, check_implementation
from jgraph.ops.edges import as_adjacency, check_rows, num_receivers_of
from jgraph.ops.sparse_product import product

SPAN = 40.0  # exp(-40) is 4e-18: far above the smallest float32, also times another gradient


def _logits(z: jax.Array, slope: float) -> jax.Array:
    return jnp.where(z >= 0, z, slope * z)


def _take(x: jax.Array, ids: jax.Array) -> jax.Array:
    # Indices of a graph were checked when it was built; the default mode would test them again.
    return jnp.asarray(x).at[ids].get(mode="promise_in_bounds")


def _powers(senders: Any, receivers: Any, a: Any, b: Any, top: Any, slope: float) -> Any:
    """(p, q), each (E,), of the edges from `senders` to `receivers`."""
    z = _take(a, senders) + _take(b, receivers)
    p = jnp.exp(_logits(z, slope) - _take(top, receivers))
    return p, jnp.where(z >= 0, p, slope * p)


def _by_sender(adjacency: Adjacency) -> Adjacency:
    """The edges in sender order, senders in the role of receivers.

    Weights of one head are cheaper to make again in this order than to permute. The second half
    of the index describes nothing: only forward products are taken.
    """
    index = adjacency.index
    if index is None:
        return Adjacency(adjacency.receivers, adjacency.senders)
    senders = _take(adjacency.senders, index.col_order)
    again = Index(index.col_offsets, index.col_order, index.row_offsets, index.col_receivers)
    return Adjacency(index.col_receivers, senders, again)


def _with(x: jax.Array, column: jax.Array) -> jax.Array:
    return jnp.concatenate([x, column[:, None]], axis=1)


def _row_max(adjacency, a, b, slope, loops):
    """(N,) shift m_i: any value that keeps exp(l_e - m_i) and its sum inside float32.

    leaky_relu is increasing, so no logit of node i exceeds that of the largest sender of all.
    Where senders' scores span less than `SPAN`, that bound is at most `SPAN` too large and needs
    no pass over edges; otherwise it is the exact maximum.
    """

    def bound(_):
        return _logits(jnp.max(a) + b, slope)

    def exact(_):
        best = jax.ops.segment_max(
            _take(a, adjacency.senders),
            adjacency.receivers,
            b.shape[0],
            indices_are_sorted=adjacency.index is not None,
        )
        best = jnp.maximum(best, a) if loops else best
        return jnp.where(jnp.isfinite(best), _logits(best + b, slope), 0)

    return jax.lax.cond(jnp.max(a) - jnp.min(a) < SPAN, bound, exact, None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _head(adjacency, x, a, b, slope, loops, implementation):
    return _head_fwd(adjacency, x, a, b, slope, loops, implementation)[0]


def _head_fwd(adjacency, x, a, b, slope, loops, implementation):
    count = b.shape[0]
    top = _row_max(adjacency, a, b, slope, loops)
    p, q = _powers(adjacency.senders, adjacency.receivers, a, b, top, slope)
    ones = _with(x, jnp.ones(x.shape[0], x.dtype))
    total = product(adjacency, ones, p, count, False, implementation)
    if loops:
        total = total + jnp.exp(_logits(a + b, slope) - top)[:, None] * ones
    divisor = total[:, -1]
    divisor = jnp.where(divisor > 0, divisor, 1)
    out = total[:, :-1] / divisor[:, None]
    return out, (adjacency, x, a, b, top, divisor, out, q)


def _head_bwd(slope, loops, implementation, residuals, grad):
    adjacency, x, a, b, top, divisor, out, q = residuals
    u = grad / divisor[:, None]
    pulled = _with(u, -jnp.sum(u * out, axis=1))
    ones = _with(x, jnp.ones(x.shape[0], x.dtype))
    into = product(adjacency, ones, q, b.shape[0], False, implementation)
    reverse = _by_sender(adjacency)
    p, q = _powers(reverse.receivers, reverse.senders, a, b, top, slope)
    outof = product(reverse, pulled, q, a.shape[0], False, implementation)
    dx = product(reverse, u, p, a.shape[0], False, implementation)
    if loops:
        z = a + b
        p = jnp.exp(_logits(z, slope) - top)[:, None]
        q = jnp.where(z >= 0, 1, slope)[:, None] * p
        into, outof, dx = into + q * ones, outof + q * pulled, dx + p * u
    return None, dx, jnp.sum(ones * outof, axis=1), jnp.sum(pulled * into, axis=1)


_head.defvjp(_head_fwd, _head_bwd)


def _by_head(adjacency, values, a, b, slope, loops, implementation):
    heads = [
        _head(adjacency, values[:, h], a[:, h], b[:, h], slope, loops, implementation)
        for h in range(values.shape[1])
    ]
    return jnp.stack(heads, axis=1)


def _all_heads(adjacency, values, a, b, slope, loops, implementation):
    one = functools.partial(_head, slope=slope, loops=loops, implementation=implementation)
    return jax.vmap(one, (None, 1, 1, 1), 1)(adjacency, values, a, b)


def additive_attention(
    graph: Any,
    values: jax.Array,
    sender_scores: jax.Array,
    receiver_scores: jax.Array,
    *,
    negative_slope: float = 0.2,
    self_loops: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Softmax over incoming edges of leaky_relu(a_j + b_i), applied to the senders' values.

    Args:
      graph: `Graph`, `Adjacency` or `jraph.GraphsTuple`.
      values: (N_senders, H, F) floating.
      sender_scores, receiver_scores: a (N_senders, H) and b (N_receivers, H).
      negative_slope: of the leaky_relu, in (0, 1].
      self_loops: attend to the node itself beside its edges.

    Returns:
      (N_receivers, H, F) in the dtype of `values`, computed in float32 at least; 0 for a node
      that attends to nothing.

    Raises:
      ValueError: shapes that do not fit, or a slope outside (0, 1].
    """
    check_implementation("additive_attention", implementation)
    if not 0 < negative_slope <= 1:
        raise ValueError(f"negative_slope is {negative_slope}; it must lie in (0, 1]")
    values = jnp.asarray(values)
    adjacency: Adjacency = as_adjacency(graph)
    check_rows("values", values, adjacency.num_senders, "senders")
    count = num_receivers_of(graph, adjacency, receiver_scores.shape[0])
    heads = values.shape[1] if values.ndim == 3 else None
    for name, scores, rows in (
        ("sender_scores", sender_scores, values.shape[0]),
        ("receiver_scores", receiver_scores, count),
    ):
        if heads is None or scores.shape != (rows, heads):
            raise ValueError(
                f"{name} has shape {scores.shape}; for values {values.shape} it must be "
                f"({rows}, heads)"
            )
    if self_loops and count != values.shape[0]:
        raise ValueError("self_loops needs as many senders as receivers")
    wide = jnp.promote_types(values.dtype, jnp.float32)
    options = (negative_slope, self_loops)

    def form(run, inner):
        return lambda adjacency, *arrays: run(adjacency, *arrays, *options, inner)

    out = by_platform(
        "additive_attention",
        implementation,
        adjacency,
        *(array.astype(wide) for array in (values, sender_scores, receiver_scores)),
        xla=form(_all_heads, "xla"),
        csr=form(_by_head, "csr") if adjacency.index is not None else None,
    )
    return out.astype(values.dtype)
