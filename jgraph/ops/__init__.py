"""The primitives: segment reductions, sparse products, edge softmax."""

from jgraph.ops.attention import additive_attention
from jgraph.ops.edges import edge_softmax, gather_receivers, gather_senders
from jgraph.ops.segment import (
    segment_count,
    segment_logsumexp,
    segment_max,
    segment_mean,
    segment_min,
    segment_softmax,
    segment_std,
    segment_sum,
)
from jgraph.ops.spmm import degrees, matmul, sddmm, spmm

__all__ = [
    "additive_attention",
    "degrees",
    "edge_softmax",
    "gather_receivers",
    "gather_senders",
    "matmul",
    "sddmm",
    "segment_count",
    "segment_logsumexp",
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_softmax",
    "segment_std",
    "segment_sum",
    "spmm",
]
