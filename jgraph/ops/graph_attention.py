"""Forms of attention over edges in XLA: forward and backward pass of the three kinds of logit.

    p_e   = exp(s_e - m_i)      d_i = sum_e p_e      out_i = sum_e p_e v_j / d_i

Kept for the backward pass: out and m_i + log d_i. With alpha_e = exp(s_e - m_i - log d_i):

    ds_e = alpha_e (<g_i, v_j> - <g_i, out_i>)       dv_j = sum_{e out of j} alpha_e g_i

and the gradients of the scores follow from ds_e. Arrays of size E x H are made and dropped again;
E x H x D exists for "gatv2" alone, whose definition asks for it: on a CPU a chunk of edges at a
time, elsewhere by head if it is large.

Additive logits of one head have a form without any dot product per edge, which keeps one number
per edge instead of making it again. The gradient of z_e = a_j + b_i is
q_e (<g_i, v_j> - <g_i, out_i>) with q_e = alpha_e leaky_relu'(z_e), so its sums pull the node's own
row out:

    db_i = <[g_i, -<g_i, out_i>], sum_{e into i} q_e [v_j, 1]>
    da_j = <[v_j, 1], sum_{e out of j} q_e [g_i, -<g_i, out_i>]>
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jgraph.graph.adjacency import INT32_MAX, Adjacency, Index
from jgraph.ops import chunks
from jgraph.ops.edges import sum_edges
from jgraph.ops.sparse_product import product, sddmm_product
from pallas_kernels.graph_attention import Options, logits_of
from pallas_kernels.graph_attention.reference import leaky_relu

SPAN = 40.0  # exp(-40) is 4e-18: far above the smallest float32, also times another gradient
# Above this many entries (64 MiB of float32) an E x H x D array of gatv2 is made head by head.
WHOLE = 1 << 24


def take(x: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of x; indices of a graph were checked when it was built."""
    return jnp.asarray(x).at[ids].get(mode="promise_in_bounds")


def _slopes(z: jax.Array, slope: float) -> jax.Array:
    return jnp.where(z >= 0, jnp.ones((), z.dtype), jnp.asarray(slope, z.dtype))


def _heads_in_turn(
    run: Any, adjacency: Adjacency, left: Any, right: Any, att: Any, *edges: Any
) -> Any:
    """`run(left, right, att, *edges)` at once, or head by head if E x H x D is large.

    left, right: (M, H, D), (N, H, D); att: (H, D); edges: (E, H) each. Results have H as their
    second axis.
    """
    if adjacency.num_edges * att.size <= WHOLE or att.shape[0] == 1:
        return run(left, right, att, *edges)
    parts = (
        jnp.moveaxis(left, 1, 0)[:, :, None],
        jnp.moveaxis(right, 1, 0)[:, :, None],
        att[:, None],
        *(rows.T[..., None] for rows in edges),
    )
    found = jax.lax.map(lambda part: run(*part), parts)
    return jax.tree.map(lambda x: jnp.moveaxis(x[:, :, 0], 0, 1), found)


def _adder(att: jax.Array) -> jax.Array:
    """(H * D, H) matrix that adds up the D columns of each head: short rows sum up slowly."""
    heads, width = att.shape
    return jnp.repeat(jnp.eye(heads, dtype=att.dtype), width, axis=0)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _gatv2_logits(options, implementation, adjacency, left, right, att):
    slope = options.negative_slope

    def whole(left, right, att):
        z = take(left, adjacency.senders) + take(right, adjacency.receivers)
        return jnp.einsum("ehd,hd->eh", leaky_relu(z, slope), att)

    if implementation != "csr":
        return _heads_in_turn(whole, adjacency, left, right, att)
    left, right, weighted = _flat(left), _flat(right), _adder(att) * att.reshape(-1, 1)

    def one(chunk):
        active = leaky_relu(take(left, chunk[0]) + take(right, chunk[1]), slope)
        return jnp.dot(active, weighted, precision=jax.lax.Precision.HIGHEST)

    parts = (adjacency.senders, adjacency.receivers)
    if adjacency.num_edges <= chunks.CHUNK:
        return one(parts)
    found = jax.lax.map(one, tuple(chunks.split_edges(rows, 0) for rows in parts))
    return chunks.join_edges(found, adjacency.num_edges)


def edge_logits(
    options: Options, implementation: str, adjacency: Adjacency, left: Any, right: Any, att: Any
) -> jax.Array:
    """(E, H) logits of the edges."""
    if options.kind == "dot":
        return options.scale * sddmm_product(adjacency, right, left, implementation)
    if options.kind == "gatv2":
        return _gatv2_logits(options, implementation, adjacency, left, right, att)
    rows = take(left, adjacency.senders), take(right, adjacency.receivers)
    return logits_of(options, *rows, None)


def forward(
    options: Options, implementation: str, adjacency: Adjacency, left: Any, right: Any, att: Any,
    values: Any,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """(out (N, H, F), log-sum-exp (N, H)); operands as in the kernel's reference, all wide."""
    values = left if values is None else values
    count, ids, ordered = right.shape[0], adjacency.receivers, adjacency.index is not None
    logits = edge_logits(options, implementation, adjacency, left, right, att)
    # Unlike ops.segment_max it leaves -inf at a node without edges, where the loop then wins.
    top = jax.ops.segment_max(logits, ids, count, indices_are_sorted=ordered)
    loops = None
    if options.self_loops:
        loops = logits_of(options, left, right, att)
        top = jnp.maximum(top, loops)
    top = jnp.where(jnp.isfinite(top), top, 0)
    powers = jnp.exp(logits - take(top, ids))
    total = jax.ops.segment_sum(powers, ids, count, indices_are_sorted=ordered)
    out = product(adjacency, values, powers, count, False, implementation)
    if loops is not None:
        own = jnp.exp(loops - top)
        total, out = total + own, out + own[..., None] * values
    divisor = jnp.where(total > 0, total, 1)
    return out / divisor[..., None], top + jnp.log(divisor)


def _gatv2_gradients(options, implementation, adjacency, left, right, att, slopes):
    """Of (left, right, att), given the gradient of the logits (E, H)."""
    slope, senders, receivers = options.negative_slope, adjacency.senders, adjacency.receivers

    def whole(left, right, att, slopes):
        z = take(left, senders) + take(right, receivers)
        factor = _slopes(z, slope) * slopes[..., None]
        pairs = factor * att
        return (
            sum_edges(adjacency, pairs, left.shape[0], True),
            sum_edges(adjacency, pairs, right.shape[0], False),
            jnp.einsum("ehd,ehd->hd", factor, z)[None],
        )

    if implementation != "csr":
        found = _heads_in_turn(whole, adjacency, left, right, att, slopes)
        return found[0], found[1], found[2][0]
    flat, adder, vector = (_flat(left), _flat(right)), _adder(att).T, att.reshape(-1)

    def one(sums, chunk):
        sender, receiver, slopes = chunk
        z = take(flat[0], sender) + take(flat[1], receiver)
        wide = jnp.dot(slopes, adder, precision=jax.lax.Precision.HIGHEST)
        factor = _slopes(z, slope) * wide
        pairs = factor * vector
        return (
            sums[0].at[sender].add(pairs, mode="promise_in_bounds"),
            sums[1].at[receiver].add(pairs, mode="promise_in_bounds", indices_are_sorted=True),
            sums[2] + jnp.sum(factor * z, axis=0),
        ), None

    # Chunks that stay in cache are added to the rows of both ends: no E x H x D array at all. The
    # last one is filled up with edges of gradient 0.
    sums = (jnp.zeros_like(flat[0]), jnp.zeros_like(flat[1]), jnp.zeros_like(vector))
    last = adjacency.num_edges - 1
    parts = (
        chunks.split_edges(senders, 0),
        jnp.minimum(chunks.split_edges(receivers, INT32_MAX), take(receivers, last)),
        chunks.split_edges(slopes, 0),
    )
    sums, _ = jax.lax.scan(one, sums, parts)
    return sums[0].reshape(left.shape), sums[1].reshape(right.shape), sums[2].reshape(att.shape)


def _score_gradients(options, implementation, adjacency, left, right, att, slopes):
    """Of (left, right, att), given the gradient of the logits (E, H)."""
    rows, columns = right.shape[0], left.shape[0]
    if options.kind == "dot":
        scaled = options.scale * slopes
        return (
            product(adjacency, right, scaled, columns, True, implementation),
            product(adjacency, left, scaled, rows, False, implementation),
            None,
        )

    if options.kind == "gatv2":
        return _gatv2_gradients(options, implementation, adjacency, left, right, att, slopes)
    z = take(left, adjacency.senders) + take(right, adjacency.receivers)
    edges = slopes * _slopes(z, options.negative_slope)
    return (
        sum_edges(adjacency, edges, columns, True),
        sum_edges(adjacency, edges, rows, False),
        None,
    )


def _loop_gradients(options, left, right, att, slopes):
    _, pull = jax.vjp(lambda *arrays: logits_of(options, *arrays), left, right, att)
    return pull(slopes)


def backward(
    options: Options, implementation: str, adjacency: Adjacency, left: Any, right: Any, att: Any,
    values: Any, out: jax.Array, log: jax.Array, grad: jax.Array,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """Gradients of (left, right, att, values), None for absent ones; all arrays wide."""
    shared = values is None
    values = left if shared else values
    logits = edge_logits(options, implementation, adjacency, left, right, att)
    alpha = jnp.exp(logits - take(log, adjacency.receivers))
    delta = jnp.sum(grad * out, -1)
    pulled = sddmm_product(adjacency, grad, values, implementation)
    slopes = alpha * (pulled - take(delta, adjacency.receivers))
    scores = _score_gradients(options, implementation, adjacency, left, right, att, slopes)
    dvalues = product(adjacency, grad, alpha, values.shape[0], True, implementation)
    if options.self_loops:
        own = jnp.exp(logits_of(options, left, right, att) - log)
        slopes = own * (jnp.sum(grad * values, -1) - delta)
        more = _loop_gradients(options, left, right, att, slopes)
        scores = tuple(None if a is None else a + b for a, b in zip(scores, more))
        dvalues = dvalues + own[..., None] * grad
    if shared:
        return scores[0] + dvalues, scores[1], scores[2], None
    return *scores, dvalues


def _by_sender(adjacency: Adjacency) -> Adjacency:
    """The edges in sender order, senders in the role of receivers.

    Weights of one head are cheaper to make again in this order than to permute. The second half
    of the index describes nothing: only forward products are taken.
    """
    index = adjacency.index
    if index is None:
        return Adjacency(adjacency.receivers, adjacency.senders)
    senders = take(adjacency.senders, index.col_order)
    again = Index(index.col_offsets, index.col_order, index.row_offsets, index.col_receivers)
    return Adjacency(index.col_receivers, senders, again)


def _with(x: jax.Array, column: jax.Array) -> jax.Array:
    return jnp.concatenate([x, column[:, None]], axis=1)


def _shift(adjacency, a, b, slope, loops):
    """(N,) shift m_i: any value that keeps exp(s_e - m_i) and its sum inside float32.

    leaky_relu is increasing, so no logit of node i exceeds that of the largest sender of all.
    Where senders' scores span less than `SPAN`, that bound is at most `SPAN` too large and needs
    no pass over edges; otherwise it is the exact maximum.
    """

    def bound(_):
        return leaky_relu(jnp.max(a) + b, slope)

    def exact(_):
        best = jax.ops.segment_max(
            take(a, adjacency.senders),
            adjacency.receivers,
            b.shape[0],
            indices_are_sorted=adjacency.index is not None,
        )
        best = jnp.maximum(best, a) if loops else best
        return jnp.where(jnp.isfinite(best), leaky_relu(best + b, slope), 0)

    return jax.lax.cond(jnp.max(a) - jnp.min(a) < SPAN, bound, exact, None)


def forward_one_head(options, implementation, adjacency, left, right, att, values):
    """`forward` for additive logits of one head, and (q (E,), m (N,)) for the backward pass."""
    slope, loops = options.negative_slope, options.self_loops
    a, b, x = left[:, 0], right[:, 0], values[:, 0]
    top = _shift(adjacency, a, b, slope, loops)
    z = take(a, adjacency.senders) + take(b, adjacency.receivers)
    powers = jnp.exp(leaky_relu(z, slope) - take(top, adjacency.receivers))
    kept = jnp.where(z >= 0, powers, slope * powers)
    ones = _with(x, jnp.ones(x.shape[0], x.dtype))
    total = product(adjacency, ones, powers, b.shape[0], False, implementation)
    if loops:
        total = total + jnp.exp(leaky_relu(a + b, slope) - top)[:, None] * ones
    divisor = jnp.where(total[:, -1] > 0, total[:, -1], 1)
    out, log = total[:, :-1] / divisor[:, None], top + jnp.log(divisor)
    return out[:, None], log[:, None], (kept, top)


def backward_one_head(
    options, implementation, adjacency, left, right, att, values, out, log, kept, grad
):
    """`backward` for additive logits of one head."""
    q, top = kept
    slope, loops = options.negative_slope, options.self_loops
    a, b, x, out, log, g = left[:, 0], right[:, 0], values[:, 0], out[:, 0], log[:, 0], grad[:, 0]

    pulled = _with(g, -jnp.sum(g * out, axis=1))
    ones = _with(x, jnp.ones(x.shape[0], x.dtype))
    into = product(adjacency, ones, q, b.shape[0], False, implementation)
    into = into * jnp.exp(top - log)[:, None]
    reverse = _by_sender(adjacency)
    z = take(a, reverse.receivers) + take(b, reverse.senders)
    p = jnp.exp(leaky_relu(z, slope) - take(log, reverse.senders))
    q = jnp.where(z >= 0, p, slope * p)
    outof = product(reverse, pulled, q, a.shape[0], False, implementation)
    dx = product(reverse, g, p, a.shape[0], False, implementation)
    if loops:
        p = jnp.exp(leaky_relu(a + b, slope) - log)[:, None]
        q = _slopes(a + b, slope)[:, None] * p
        into, outof, dx = into + q * ones, outof + q * pulled, dx + p * g
    da, db = jnp.sum(ones * outof, axis=1), jnp.sum(pulled * into, axis=1)
    return da[:, None], db[:, None], None, dx[:, None]
