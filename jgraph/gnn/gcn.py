"""GCN: graph convolutional network.

What it computes, per convolution, for node states H (N, F_in):

    D_ii = 1 + number of edges that enter i
    H'   = act( D^-1/2 (A + I) D^-1/2 H W + b )                              (N, F_out)

Two such layers with dropout on the input of each, ReLU between them and class scores after the
second are the paper's network (equation 9); for graph tasks the states are mean-pooled and an MLP
scores them. Complexity per layer: O(N F_in F_out + E min(F_in, F_out)); memory O(N (F_in + F_out)),
no array of E x F and no edge weights.

Deviations: degrees count incoming edges, so a directed graph works too (the paper's are
undirected). A bias is learned, as in the authors' later PyTorch code; equation 2 has none.

Input: the reported numbers need features whose rows sum to 1 (`transforms.normalize_features`).

Reference: Kipf & Welling, "Semi-Supervised Classification with Graph Convolutional Networks",
ICLR 2017, arXiv 1609.02907; code https://github.com/tkipf/gcn.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from jgraph.gnn.common import GNN, assemble, example_graph
from jgraph.graph import Graph
from jgraph.nn.gcn import GCNConv
from jgraph.paper import Paper, Recipe

PAPER = Paper(
    slug="gcn",
    title="Semi-Supervised Classification with Graph Convolutional Networks",
    authors="Thomas N. Kipf, Max Welling",
    year=2017,
    arxiv="1609.02907",
    family="gnn",
    task="node",
    experiment="experiments/gnn/gcn.py",
    reported={
        "cora test accuracy %": 81.5,
        "citeseer test accuracy %": 70.3,
        "pubmed test accuracy %": 79.0,
    },
    contracts=("equivariant",),
)

RECIPE = Recipe(
    hidden=16,
    layers=2,
    dropout=0.5,
    lr=0.01,
    weight_decay=5e-4,
    weight_decay_on="first",
    epochs=200,
)
RECIPES = {
    "node": RECIPE,
    "graph": Recipe(
        hidden=64,
        layers=4,
        dropout=0.0,
        lr=1e-3,
        weight_decay=0.0,
        epochs=200,
        extra={"norm": "batch", "residual": True},
    ),
}


class GCN(GNN):
    """The network of the module's docstring; attributes as in `GNN`.

    Attributes:
      self_loops: whether I is added to A.
      aggregate_first: of the first convolution, see `jgraph.nn.GCNConv`.
    """

    self_loops: bool = True
    aggregate_first: bool | None = None

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        return GCNConv(
            features,
            use_bias=is_output or self.conv_bias,
            self_loops=self.self_loops,
            aggregate_first=self.aggregate_first if is_first else None,
            dtype=self.dtype,
        )


def build(num_classes: int, *, task: str = "node", **hyper: Any) -> GCN:
    """The model with the hyperparameters of `RECIPES[task]`, changed by `hyper`.

    Raises:
      ValueError: an unknown task or hyperparameter, or a value out of range.
    """
    return assemble(GCN, RECIPES, num_classes, task, hyper)


def example(key: jax.Array) -> Graph:
    """A tiny batch of graphs for tests."""
    return example_graph(key)
