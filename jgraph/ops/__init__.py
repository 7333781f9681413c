"""The primitives: reductions over segments and neighbours, edge attention, scans over time."""

from jgraph.ops.attention import additive_attention, dot_attention, gatv2_attention
from jgraph.ops.edges import edge_softmax, gather_receivers, gather_senders
from jgraph.ops.gated_linear_attention import gated_linear_attention, gated_linear_attention_step
from jgraph.ops.grouped_matmul import grouped_matmul, sort_gather
from jgraph.ops.lif import lif, lif_step
from jgraph.ops.linear_scan import linear_scan, linear_scan_step
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
from jgraph.ops.selective_scan import selective_scan, selective_scan_step
from jgraph.ops.spmm import degrees, matmul, sddmm, spmm
from jgraph.ops.ssd import ssd, ssd_step
from jgraph.ops.wkv4 import wkv4, wkv4_step
from jgraph.ops.wkv6 import wkv6, wkv6_step
from jgraph.ops.wkv7 import wkv7, wkv7_step

__all__ = [
    "additive_attention",
    "degrees",
    "dot_attention",
    "edge_softmax",
    "gated_linear_attention",
    "gated_linear_attention_step",
    "gather_receivers",
    "gather_senders",
    "gatv2_attention",
    "grouped_matmul",
    "lif",
    "lif_step",
    "linear_scan",
    "linear_scan_step",
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
    "selective_scan",
    "selective_scan_step",
    "sort_gather",
    "spmm",
    "ssd",
    "ssd_step",
    "wkv4",
    "wkv4_step",
    "wkv6",
    "wkv6_step",
    "wkv7",
    "wkv7_step",
]
