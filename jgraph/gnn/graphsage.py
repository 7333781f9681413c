"""GraphSAGE: sample and aggregate.

What it computes, per convolution, for node states h (N, F_in):

    m_i  = mean_{j -> i} h_j                       aggregator "mean"
    m_i  = max_{j -> i} relu(V h_j + c)            aggregator "max", elementwise (GraphSAGE-pool)
    h'_i = act( W_n m_i + W_s h_i + b )            that is W [h_i ; m_i]          (N, F_out)
    h'_i = h'_i / ||h'_i||                         if `normalize`

Complexity per layer: O(N F_in F_out + E min(F_in, F_out)) for the mean; the mean is taken at the
narrower side and both products are one.

Deviations: all neighbours take part; sampling them belongs to `jgraph.sample`. Rows are not
normalised by default, and the normalisation of algorithm 1, line 7, comes before the activation (it
is the layer's last step). The LSTM aggregator, which depends on the order of neighbours, is left
out.

Reference: Hamilton, Ying & Leskovec, "Inductive Representation Learning on Large Graphs",
NeurIPS 2017, arXiv 1706.02216; code https://github.com/williamleif/GraphSAGE.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from jgraph.gnn.common import GNN, assemble, example_graph
from jgraph.graph import Graph
from jgraph.nn.sage import SAGEConv
from jgraph.paper import Paper, Recipe

PAPER = Paper(
    slug="graphsage",
    title="Inductive Representation Learning on Large Graphs",
    authors="William L. Hamilton, Rex Ying, Jure Leskovec",
    year=2017,
    arxiv="1706.02216",
    family="gnn",
    task="node",
    experiment="experiments/gnn/graphsage.py",
    contracts=("equivariant",),
)

RECIPE = Recipe(hidden=64, layers=2, dropout=0.5, lr=0.01, weight_decay=5e-4, epochs=200)
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


class GraphSAGE(GNN):
    """The network of the module's docstring; attributes as in `GNN`.

    Attributes:
      aggregator: "mean" or "max".
      normalize: whether each convolution's rows are divided by their Euclidean norm.
      aggregate_first: of the first convolution, see `jgraph.nn.SAGEConv`.
    """

    aggregator: str = "mean"
    normalize: bool = False
    aggregate_first: bool | None = None

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        return SAGEConv(
            features,
            aggregator=self.aggregator,
            normalize=self.normalize and not is_output,
            aggregate_first=self.aggregate_first if is_first else None,
            use_bias=is_output or self.normalize or self.conv_bias,
            dtype=self.dtype,
        )


def build(num_classes: int, *, task: str = "node", **hyper: Any) -> GraphSAGE:
    """The model with the hyperparameters of `RECIPES[task]`, changed by `hyper`.

    Raises:
      ValueError: an unknown task or hyperparameter, or a value out of range.
    """
    return assemble(GraphSAGE, RECIPES, num_classes, task, hyper)


def example(key: jax.Array) -> Graph:
    """A tiny batch of graphs for tests."""
    return example_graph(key)
