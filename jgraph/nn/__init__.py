"""Layers: pure functions over arrays, and thin linen modules that name their parameters.

Layers are called `layer(graph, x, *, train=False)` with a `Graph` or `jraph.GraphsTuple`.
"""

from jgraph.nn.dropout import Dropout, dropout_mask
from jgraph.nn.gat import GATConv, GATv2Conv, attend, gat_logits, gatv2_logits
from jgraph.nn.gated_gcn import GatedGCNConv, GatedGCNLayer, gated_mean
from jgraph.nn.gcn import GCNConv, gcn_propagate
from jgraph.nn.gin import GINConv, gin_sum
from jgraph.nn.gine import GINEConv, gine_sum
from jgraph.nn.hops import hop_features, stationary_features
from jgraph.nn.mlp import MLP, Linear, linear
from jgraph.nn.monet import MoNetConv
from jgraph.nn.norm import (
    BatchNorm,
    LayerNorm,
    layer_norm,
    make_norm,
    masked_batch_norm,
    masked_moments,
)
from jgraph.nn.pool import max_pool, mean_pool, sum_pool
from jgraph.nn.positional import laplacian_pe, random_sign, random_walk_pe
from jgraph.nn.ppgn import PPGNBlock
from jgraph.nn.ring import RingLayer
from jgraph.nn.sage import SAGEConv, l2_normalize, sage_mean

__all__ = [
    "MLP",
    "BatchNorm",
    "Dropout",
    "GATConv",
    "GATv2Conv",
    "GCNConv",
    "GINConv",
    "GINEConv",
    "GatedGCNConv",
    "GatedGCNLayer",
    "LayerNorm",
    "Linear",
    "MoNetConv",
    "PPGNBlock",
    "RingLayer",
    "SAGEConv",
    "attend",
    "dropout_mask",
    "gat_logits",
    "gated_mean",
    "gatv2_logits",
    "gcn_propagate",
    "gin_sum",
    "gine_sum",
    "hop_features",
    "l2_normalize",
    "laplacian_pe",
    "layer_norm",
    "linear",
    "make_norm",
    "masked_batch_norm",
    "masked_moments",
    "max_pool",
    "mean_pool",
    "random_sign",
    "random_walk_pe",
    "sage_mean",
    "stationary_features",
    "sum_pool",
]
