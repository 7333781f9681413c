"""GIN: graph isomorphism network.

What it computes, per convolution, for node states h (N, F_in), on graphs G:

    h'_i = relu( BN( MLP( (1 + eps) h_i + sum_{j -> i} h_j ) ) )     MLP = W_2 relu(BN(W_1 .)) + b_2
    y_G  = sum_{l=0..L} drop( U_l sum_{i in G} h^l_i + c_l )         (G, C), h^0 the input

Complexity per layer: O(N F^2 + E F); the sum over neighbours is taken at the narrower side of W_1.
For node tasks the last convolution gives the class scores.

Deviations: eps is learned from 0 (GIN-eps); `learn_eps=False` gives GIN-0. Linear maps in front of
a batch norm have no bias, which the norm would cancel. The paper's protocol (10 folds, the epoch
that is best on average over the test folds) belongs to the experiment, not to the model.

Reference: Xu, Hu, Leskovec & Jegelka, "How Powerful are Graph Neural Networks?", ICLR 2019, arXiv
1810.00826; code https://github.com/weihua916/powerful-gnns.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from jgraph.gnn.common import GNN, assemble, example_graph
from jgraph.graph import Graph
from jgraph.nn.gin import GINConv
from jgraph.paper import Paper, Recipe

PAPER = Paper(
    slug="gin",
    title="How Powerful are Graph Neural Networks?",
    authors="Keyulu Xu, Weihua Hu, Jure Leskovec, Stefanie Jegelka",
    year=2019,
    arxiv="1810.00826",
    family="gnn",
    task="graph",
    experiment="experiments/gnn/gin.py",
    reported={"mutag test accuracy %": 89.4, "proteins test accuracy %": 76.2},
    contracts=("invariant",),
)

# The paper counts the input as a layer: its five layers are four convolutions.
RECIPE = Recipe(
    hidden=32,
    layers=4,
    dropout=0.5,
    lr=0.01,
    weight_decay=0.0,
    epochs=350,
    batch_size=32,
    extra={
        "norm": "batch",
        "jumping": "scores",
        "pooling": "sum",
        "schedule": "step",
        "step_size": 50,
        "step_factor": 0.5,
    },
)
RECIPES = {
    "graph": RECIPE,
    "node": Recipe(
        hidden=64,
        layers=2,
        dropout=0.5,
        lr=0.01,
        weight_decay=5e-4,
        epochs=200,
        extra={"norm": "batch"},
    ),
}


class GIN(GNN):
    """The network of the module's docstring; attributes as in `GNN`.

    Attributes:
      norm: also of the MLP's hidden layer.
      learn_eps: eps is a parameter (else 0).
      aggregate_first: of the first convolution, see `jgraph.nn.GINConv`.
    """

    norm: str = "batch"
    learn_eps: bool = True
    aggregate_first: bool | None = None

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        return GINConv(
            (self.hidden, features),
            norm=self.norm,
            learn_eps=self.learn_eps,
            aggregate_first=self.aggregate_first if is_first else None,
            use_bias=is_output or self.conv_bias,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )


def build(num_classes: int, *, task: str = "node", **hyper: Any) -> GIN:
    """The model with the hyperparameters of `RECIPES[task]`, changed by `hyper`.

    Raises:
      ValueError: an unknown task or hyperparameter, or a value out of range.
    """
    return assemble(GIN, RECIPES, num_classes, task, hyper)


def example(key: jax.Array) -> Graph:
    """A tiny batch of graphs for tests."""
    return example_graph(key)
