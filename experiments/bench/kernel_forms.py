"""The forms that the kernel benchmark compares: this library's ops, and their rivals in JAX.

Every form is called with (options, *operands), as the kernel's reference is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCSR

from jgraph import ops
from jgraph.graph.adjacency import Adjacency, Index


def _linear_scan(i: str, o: Any, a: Any, x: Any, state: Any, reset: Any) -> Any:
    given = {"initial_state": state, "reset": reset, "implementation": i}
    return ops.linear_scan(a, x, reverse=o.reverse, **given)


def _selective_scan(i: str, o: Any, *operands: Any) -> Any:
    u, delta, A, B, C, D, z, bias, state, reset = operands
    return ops.selective_scan(
        u,
        delta,
        A,
        B,
        C,
        D=D,
        z=z,
        delta_bias=bias,
        delta_softplus=o.delta_softplus,
        initial_state=state,
        reset=reset,
        implementation=i,
    )


def _gla(i: str, o: Any, q: Any, k: Any, v: Any, log_decay: Any, state: Any, reset: Any) -> Any:
    given = {"initial_state": state, "reset": reset, "implementation": i}
    return ops.gated_linear_attention(q, k, v, log_decay, scale=o.scale, **given)


def _ssd(i: str, o: Any, x: Any, log_decay: Any, b: Any, c: Any, state: Any, reset: Any) -> Any:
    given = {"initial_state": state, "reset": reset, "implementation": i}
    return ops.ssd(x, log_decay, b, c, **given)


def _wkv4(i: str, o: Any, k: Any, v: Any, w: Any, u: Any, state: Any, reset: Any) -> Any:
    return ops.wkv4(k, v, w, u, initial_state=state, reset=reset, implementation=i)


def _wkv6(i: str, o: Any, *operands: Any) -> Any:
    *main, state, reset = operands
    return ops.wkv6(*main, initial_state=state, reset=reset, implementation=i)


def _wkv7(i: str, o: Any, *operands: Any) -> Any:
    *main, state, reset = operands
    return ops.wkv7(*main, initial_state=state, reset=reset, implementation=i)


def _lif(i: str, o: Any, current: Any, decay: Any, threshold: Any, *rest: Any) -> Any:
    static = o._asdict()
    given = dict(zip(("initial_state", "reset"), rest))
    return ops.lif(current, decay, threshold, **given, **static, implementation=i)


def _segment_reduce(i: str, o: Any, data: Any, offsets: Any, ids: Any) -> Any:
    reduce = {"sum": ops.segment_sum, "max": ops.segment_max}[o.reduce]
    count = offsets.shape[0] - 1
    return reduce(data, ids, count, indices_are_sorted=True, implementation=i)


def _spmm(i: str, o: Any, x: Any, weight: Any, *index: Any) -> Any:
    return ops.spmm(_adjacency(*index), x, weight, reduce=o.reduce, implementation=i)


def _sddmm(i: str, o: Any, a: Any, b: Any, *index: Any) -> Any:
    return ops.sddmm(_adjacency(*index), a, b, implementation=i)


def _graph_attention(i: str, o: Any, *operands: Any) -> Any:
    *index, left, right, att, values = operands
    senders, receivers, rows, order, columns, col_receivers = index
    graph = _adjacency(senders, receivers, rows, order, col_receivers, columns)
    given = {"self_loops": o.self_loops, "implementation": i}
    if o.kind == "additive":
        slope = {"negative_slope": o.negative_slope}
        return ops.additive_attention(graph, values, left, right, **slope, **given)
    if o.kind == "gatv2":
        slope = {"negative_slope": o.negative_slope}
        return ops.gatv2_attention(graph, left, right, att, values, **slope, **given)
    values = left if values is None else values
    return ops.dot_attention(graph, right, left, values, scale=o.scale, **given)


def _grouped_matmul(i: str, o: Any, *operands: Any) -> Any:
    x, weights, offsets, gather, order, starts, scatter, scale = operands
    index = None if gather is None else (order, starts)
    given = {"gather": gather, "gather_index": index, "scatter": scatter, "scale": scale}
    return ops.grouped_matmul(x, weights, group_offsets=offsets, **given, implementation=i)


def loop_over_groups(offsets: Any) -> Callable[..., Any]:
    """The grouped product as one matrix product per group, for offsets known beforehand."""
    ends = [int(end) for end in offsets]

    def run(o: Any, x: Any, weights: Any, _: Any, gather: Any, *rest: Any) -> Any:
        scatter, scale = rest[2:]
        rows = x if gather is None else x[gather]
        parts = [rows[a:b] @ weights[g] for g, (a, b) in enumerate(itertools.pairwise(ends))]
        outside = (ends[0], rows.shape[0] - ends[-1])
        y = jnp.pad(jnp.concatenate(parts), (outside, (0, 0)))
        y = y if scale is None else y * scale[:, None]
        return y if scatter is None else jnp.zeros_like(y).at[scatter].set(y)

    return run


def _adjacency(
    senders: Any, receivers: Any, rows: Any, order: Any, col_receivers: Any, columns: Any
) -> Adjacency:
    return Adjacency(senders, receivers, Index(rows, order, columns, col_receivers))


OPS: dict[str, Callable[..., Any]] = {
    "linear_scan": _linear_scan,
    "selective_scan": _selective_scan,
    "gated_linear_attention": _gla,
    "ssd": _ssd,
    "wkv4": _wkv4,
    "wkv6": _wkv6,
    "wkv7": _wkv7,
    "lif": _lif,
    "graph_attention": _graph_attention,
    "grouped_matmul": _grouped_matmul,
    "segment_reduce": _segment_reduce,
    "spmm": _spmm,
    "sddmm": _sddmm,
}


def _states(decay: jax.Array, added: jax.Array) -> jax.Array:
    """All states of S_t = decay_t S_{t-1} + added_t from zero, by `associative_scan`."""

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    return jax.lax.associative_scan(combine, (decay, added), axis=1)[1]


def _tree_linear_scan(o: Any, a: Any, x: Any, state: Any, reset: Any) -> Any:
    h = _states(a, x)
    return h, h[:, -1]


def _tree_selective_scan(o: Any, *operands: Any) -> Any:
    u, delta, A, B, C, D, z, bias, _, _ = operands
    delta = delta if bias is None else delta + bias
    delta = jax.nn.softplus(delta) if o.delta_softplus else delta
    decay = jnp.exp(delta[..., None] * A)
    h = _states(decay, (delta * u)[..., None] * B[:, :, None])
    y = jnp.einsum("bten,btn->bte", h, C)
    y = y if D is None else y + D * u
    return (y if z is None else y * jax.nn.silu(z)), h[:, -1]


def _tree_gla(o: Any, q: Any, k: Any, v: Any, log_decay: Any, state: Any, reset: Any) -> Any:
    added = k[..., None] * v[..., None, :]
    s = _states(jnp.broadcast_to(jnp.exp(log_decay)[..., None], added.shape), added)
    return o.scale_of(k.shape[-1]) * jnp.einsum("bthk,bthkv->bthv", q, s), s[:, -1]


def _tree_ssd(o: Any, x: Any, log_decay: Any, b: Any, c: Any, state: Any, reset: Any) -> Any:
    share = x.shape[2] // b.shape[2]
    b, c = jnp.repeat(b, share, 2), jnp.repeat(c, share, 2)
    added = b[..., None] * x[..., None, :]
    s = _states(jnp.broadcast_to(jnp.exp(log_decay)[..., None, None], added.shape), added)
    return jnp.einsum("bthn,bthnp->bthp", c, s), s[:, -1]


def _tree_wkv6(
    o: Any, r: Any, k: Any, v: Any, log_decay: Any, u: Any, state: Any, reset: Any
) -> Any:
    added = k[..., None] * v[..., None, :]
    s = _states(jnp.broadcast_to(jnp.exp(log_decay)[..., None], added.shape), added)
    before = jnp.concatenate([jnp.zeros_like(s[:, :1]), s[:, :-1]], axis=1)
    return jnp.einsum("bthk,bthkv->bthv", r, before + u[..., None] * added), s[:, -1]


def _tree_wkv4(o: Any, k: Any, v: Any, w: Any, u: Any, state: Any, reset: Any) -> Any:
    def combine(left, right):
        (n1, p1, q1, o1), (n2, p2, q2, o2) = left, right
        past = o1 + n2 * w
        top = jax.lax.stop_gradient(jnp.maximum(past, o2))
        old, new = jnp.exp(past - top), jnp.exp(o2 - top)
        return n1 + n2, old * p1 + new * p2, old * q1 + new * q2, top

    ones = jnp.ones_like(k)
    _, p, q, top = jax.lax.associative_scan(combine, (ones, v, ones, k), axis=1)

    def shifted(array: jax.Array, first: float) -> jax.Array:
        return jnp.concatenate([jnp.full_like(array[:, :1], first), array[:, :-1]], axis=1)

    p0, q0, o0 = shifted(p, 0.0), shifted(q, 0.0), shifted(top, -1e38)
    high = jnp.maximum(o0, u + k)
    old, new = jnp.exp(o0 - high), jnp.exp(u + k - high)
    y = (old * p0 + new * v) / (old * q0 + new)
    return y, jnp.stack((p[:, -1], q[:, -1], jax.lax.stop_gradient(top[:, -1])))


def _ragged_dot(o: Any, x: Any, weights: Any, offsets: Any, gather: Any, *rest: Any) -> Any:
    scatter, scale = rest[2:]
    rows = x if gather is None else x[gather]
    y = jax.lax.ragged_dot(rows, weights, jnp.diff(offsets))
    y = y if scale is None else y * scale[:, None]
    return y if scatter is None else jnp.zeros_like(y).at[scatter].set(y)


def _scatter(ordered: bool) -> Callable[..., Any]:
    def run(o: Any, x: Any, weight: Any, senders: Any, receivers: Any, *index: Any) -> Any:
        rows = x[senders]
        if weight is not None:
            rows = rows * weight.reshape(weight.shape + (1,) * (rows.ndim - weight.ndim))
        count = index[0].shape[0] - 1
        return jax.ops.segment_sum(rows, receivers, count, indices_are_sorted=ordered)

    return run


def _bcsr(o: Any, x: Any, weight: Any, senders: Any, receivers: Any, *index: Any) -> Any:
    values = jnp.ones(senders.shape, x.dtype) if weight is None else weight
    shape = (index[0].shape[0] - 1, x.shape[0])
    return BCSR((values, senders, index[0]), shape=shape) @ x


def _segments(ordered: bool) -> Callable[..., Any]:
    def run(o: Any, data: Any, offsets: Any, ids: Any) -> Any:
        count = offsets.shape[0] - 1
        reduce = {"sum": jax.ops.segment_sum, "max": jax.ops.segment_max}[o.reduce]
        out = reduce(data, ids, count, indices_are_sorted=ordered)
        return out if o.reduce == "sum" else jnp.where(jnp.isfinite(out), out, 0)

    return run


def rivals(op: str, options: Any, operands: tuple[Any, ...]) -> dict[str, Callable[..., Any]]:
    """Name -> rival, those that can take these operands."""
    found = dict(RIVALS.get(op, {}))
    if op == "spmm" and operands[1] is not None and operands[1].ndim == 2:
        del found["BCSR"]
    if op == "spmm" and options.reduce != "sum":
        return {}
    if op == "grouped_matmul":
        # Off GPU and TPU, ragged_dot makes one copy of the rows per group.
        groups = operands[1].shape[0]
        if jax.default_backend() == "cpu" and groups > 8:
            del found["ragged_dot"]
        if groups <= 64:
            found["loop over groups"] = loop_over_groups(operands[2])
    return found


RIVALS: dict[str, dict[str, Callable[..., Any]]] = {
    "linear_scan": {"associative_scan": _tree_linear_scan},
    "selective_scan": {"associative_scan": _tree_selective_scan},
    "gated_linear_attention": {"associative_scan": _tree_gla},
    "ssd": {"associative_scan": _tree_ssd},
    "wkv4": {"associative_scan": _tree_wkv4},
    "wkv6": {"associative_scan": _tree_wkv6},
    "grouped_matmul": {"ragged_dot": _ragged_dot},
    "spmm": {
        "segment_sum": _scatter(False),
        "segment_sum (sorted)": _scatter(True),
        "BCSR": _bcsr,
    },
    "segment_reduce": {"segment_sum": _segments(False), "segment_sum (sorted)": _segments(True)},
}
