"""Graph attention layers: GAT and GATv2.

GAT: Velickovic et al., ICLR 2018, arXiv 1710.10903. GATv2: Brody, Alon & Yahav, ICLR 2022,
arXiv 2105.14491.

The softmax runs over the edges that enter a node and, with `self_loops`, one loop per node that
stands beside the edge list, which is never changed: a loop that the graph has already counts too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jgraph import ops
from jgraph.graph import SparseMatrix
from jgraph.nn.dropout import check_rate, dropout
from jgraph.nn.inputs import check_features, compute_dtype, densify, is_sorted
from jgraph.nn.mlp import Linear
from jgraph.ops.attention import additive_attention, gatv2_attention

Array = jax.Array
# Above this many entries (64 MiB of float32) the E x H x F array of GATv2 is made head by head.
_WHOLE = 1 << 24


def attention_init(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Glorot uniform for attention vectors (H, F), each of them a map from F to 1."""
    bound = (6.0 / (shape[-1] + 1)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def gat_scores(h: Array, vectors: Array) -> Array:
    """a . h per head: h (N, H, F), vectors (H, F) -> (N, H) in at least float32."""
    wide = jnp.promote_types(h.dtype, jnp.float32)
    return jnp.einsum("nhf,hf->nh", h, vectors.astype(h.dtype), preferred_element_type=wide)


def gat_logits(
    graph: Any, h: Array, sender: Array, receiver: Array, negative_slope: float = 0.2
) -> tuple[Array, Array]:
    """leaky_relu(a_s . h_j + a_r . h_i) for the edges j -> i, and for the loops i -> i.

    Args:
      h: (N, H, F); sender, receiver: attention vectors (H, F).

    Returns:
      (logits (E, H), loops (N, H)) in at least float32. Only N x H arrays are gathered.
    """
    outgoing, incoming = gat_scores(h, sender), gat_scores(h, receiver)
    edges = ops.gather_senders(graph, outgoing) + ops.gather_receivers(graph, incoming)
    loops = outgoing + incoming
    return nn.leaky_relu(edges, negative_slope), nn.leaky_relu(loops, negative_slope)


def gatv2_logits(
    graph: Any, sent: Array, received: Array, attention: Array, negative_slope: float = 0.2
) -> tuple[Array, Array]:
    """a . leaky_relu(l_j + r_i) for the edges j -> i, and for the loops i -> i.

    The E x H x F sums are needed by definition. They are not stored for the gradient but made
    anew, and large ones are made one head at a time.

    Args:
      sent, received: l and r, (N, H, F); attention: a, (H, F).

    Returns:
      (logits (E, H), loops (N, H)) in at least float32.
    """
    wide = jnp.promote_types(sent.dtype, jnp.float32)

    def score(pairs: Array, vectors: Array) -> Array:
        active = nn.leaky_relu(pairs, negative_slope)
        return jnp.einsum(
            "...f,...f->...", active, vectors.astype(active.dtype), preferred_element_type=wide
        )

    @jax.checkpoint
    def of_edges(sent: Array, received: Array, vectors: Array) -> Array:
        pairs = ops.gather_senders(graph, sent) + ops.gather_receivers(graph, received)
        return score(pairs, vectors)

    if graph.senders.shape[-1] * sent.shape[1] * sent.shape[2] <= _WHOLE:
        edges = of_edges(sent, received, attention)
    else:
        by_head = (sent.swapaxes(0, 1), received.swapaxes(0, 1), attention)
        edges = lax.map(lambda head: of_edges(*head), by_head).T
    return edges, score(sent + received, attention)


def attend(
    graph: Any,
    values: Array,
    logits: Array,
    loops: Array | None = None,
    *,
    dropout_rate: float = 0.0,
    key: Array | None = None,
) -> Array:
    """Softmax of the logits over each node's incoming edges (and its loop), applied to values.

        m_i   = max(max_e logits_e, loops_i)                    (no gradient: it cancels)
        p_e   = exp(logits_e - m_i),  q_i = exp(loops_i - m_i)
        out_i = (sum_e p_e v_j + q_i v_i) / (sum_e p_e + q_i)

    Dividing once per node saves the E x H gather of the divisor that a softmax over edges needs.
    Dropout drops terms of the numerator only, which is dropout of the attention coefficients.

    Args:
      values: (N, H, F); logits: (E, H); loops: (N, H), or None for no loops.
      dropout_rate, key: dropout of the coefficients when key is given.

    Returns:
      (N, H, F) in the dtype of values; 0 for a node without edges when there are no loops.
    """
    count = values.shape[0]

    ids, ordered = jnp.asarray(graph.receivers), is_sorted(graph)
    # Unlike ops.segment_max it leaves -inf at a node without edges, where the loop then wins.
    top = jax.ops.segment_max(lax.stop_gradient(logits), ids, count, indices_are_sorted=ordered)
    if loops is None:
        top = jnp.where(jnp.isfinite(top), top, 0)
    else:
        top = jnp.maximum(top, lax.stop_gradient(loops))
    p = jnp.exp(logits - ops.gather_receivers(graph, top))
    total = ops.segment_sum(p, ids, count, indices_are_sorted=ordered)
    q = None
    if loops is not None:
        q = jnp.exp(loops - top)
        total = total + q
    if key is not None and dropout_rate > 0.0:
        edge_key, loop_key = jax.random.split(key)
        p = dropout(edge_key, p, dropout_rate)
        if q is not None:
            q = dropout(loop_key, q, dropout_rate)
    out = ops.spmm(graph, values, p.astype(values.dtype)).astype(total.dtype)
    if q is not None:
        out = out + q[..., None] * values
    # Isolated nodes have numerator 0 too; any divisor but 0 gives them 0.
    return (out / jnp.where(total > 0, total, 1)[..., None]).astype(values.dtype)


class _Attention(nn.Module):
    """What GATConv and GATv2Conv share: options, and what follows the heads."""

    features: int
    heads: int = 1
    concat: bool = True
    negative_slope: float = 0.2
    attn_dropout: float = 0.0
    self_loops: bool = True
    residual: bool = False
    use_bias: bool = True
    dtype: Any = None

    def _heads(self, x: Any, name: str, dtype: Any) -> Array:
        h = Linear(self.heads * self.features, use_bias=False, dtype=dtype, name=name)(x)
        return h.reshape(x.shape[0], self.heads, self.features)

    def _vectors(self, name: str) -> Array:
        return self.param(name, attention_init, (self.heads, self.features), jnp.float32)

    def _drops(self, train: bool) -> bool:
        check_rate(self.attn_dropout, "attn_dropout")
        return train and self.attn_dropout > 0.0

    def _attend(self, graph: Any, values: Array, logits: Array, loops: Array, train: bool) -> Array:
        return attend(
            graph,
            values,
            logits,
            loops if self.self_loops else None,
            dropout_rate=self.attn_dropout,
            key=self.make_rng("dropout") if self._drops(train) else None,
        )

    def _finish(self, x: Any, out: Array) -> Array:
        out = out.reshape(out.shape[0], -1) if self.concat else out.mean(axis=1)
        if self.residual:
            same = x.shape[-1] == out.shape[-1]
            skip = Linear(out.shape[-1], use_bias=False, dtype=out.dtype, name="skip")
            out = out + (densify(x).astype(out.dtype) if same else skip(x))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, out.shape[-1:], jnp.float32)
            out = out + bias.astype(out.dtype)
        return out


class GATConv(_Attention):
    """Attention with e_ij = leaky_relu(a_s . W x_j + a_r . W x_i) per head, values W x_j.

    Attributes:
      features: F of each head.
      heads: H.
      concat: concatenate the heads (result H * F wide) or average them (F wide).
      attn_dropout: dropout of the attention coefficients.
      self_loops: attend to the node itself beside its edges.
      residual: add x, through a linear map if the widths differ.
    """

    @nn.compact
    def __call__(self, graph: Any, x: Array | SparseMatrix, *, train: bool = False) -> Array:
        """x (N, F_in) dense or sparse -> (N, H * F) or (N, F)."""
        check_features(x, "GATConv")
        h = self._heads(x, "linear", compute_dtype(x, self.dtype))
        sender, receiver = self._vectors("attention_sender"), self._vectors("attention_receiver")
        # The fused op keeps no coefficients, so it cannot drop them.
        if self._drops(train):
            logits, loops = gat_logits(graph, h, sender, receiver, self.negative_slope)
            return self._finish(x, self._attend(graph, h, logits, loops, train))
        out = additive_attention(
            graph,
            h,
            gat_scores(h, sender),
            gat_scores(h, receiver),
            negative_slope=self.negative_slope,
            self_loops=self.self_loops,
        )
        return self._finish(x, out)


class GATv2Conv(_Attention):
    """Attention with e_ij = a . leaky_relu(W_l x_j + W_r x_i) per head, values W_l x_j.

    Attributes:
      features, heads, concat, attn_dropout, self_loops, residual: as in `GATConv`.
      share_weights: W_r = W_l.
    """

    share_weights: bool = False

    @nn.compact
    def __call__(self, graph: Any, x: Array | SparseMatrix, *, train: bool = False) -> Array:
        """x (N, F_in) dense or sparse -> (N, H * F) or (N, F)."""
        check_features(x, "GATv2Conv")
        dtype = compute_dtype(x, self.dtype)
        sent = self._heads(x, "linear_sender", dtype)
        received = sent if self.share_weights else self._heads(x, "linear_receiver", dtype)
        vectors = self._vectors("attention")
        if self._drops(train):
            logits, loops = gatv2_logits(graph, sent, received, vectors, self.negative_slope)
            return self._finish(x, self._attend(graph, sent, logits, loops, train))
        out = gatv2_attention(
            graph,
            sent,
            received,
            vectors,
            negative_slope=self.negative_slope,
            self_loops=self.self_loops,
        )
        return self._finish(x, out)
