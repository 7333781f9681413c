"""MLP: the baseline that sees node features and no edges.

    h_l = relu( norm( W_l drop(h_{l-1}) + b_l ) )        y = W_L drop(h_{L-1}) + b_L

For graph tasks the states are pooled and scored as those of the other models. O(N F_in F_out) per
layer. What a graph model gains over it is what the edges say.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from jgraph.gnn.common import GNN, assemble, example_graph
from jgraph.graph import Graph
from jgraph.nn.mlp import Linear
from jgraph.paper import Recipe

RECIPE = Recipe(hidden=64, layers=2, dropout=0.5, lr=0.01, weight_decay=5e-4, epochs=200)
RECIPES = {
    "node": RECIPE,
    "graph": Recipe(
        hidden=64,
        layers=2,
        dropout=0.0,
        lr=1e-3,
        weight_decay=0.0,
        epochs=200,
        extra={"norm": "batch"},
    ),
}


class NodeLinear(nn.Module):
    """`Linear` with the call of a graph layer."""

    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, graph: Any, x: Any, *, train: bool = False) -> jax.Array:
        """x (N, F_in) dense or sparse -> (N, F_out)."""
        return Linear(self.features, self.use_bias, self.dtype, name="linear")(x)


class MLP(GNN):
    """The network of the module's docstring; attributes as in `GNN`."""

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        return NodeLinear(features, use_bias=is_output or self.conv_bias, dtype=self.dtype)


def build(num_classes: int, *, task: str = "node", **hyper: Any) -> MLP:
    """The model with the hyperparameters of `RECIPES[task]`, changed by `hyper`.

    Raises:
      ValueError: an unknown task or hyperparameter, or a value out of range.
    """
    return assemble(MLP, RECIPES, num_classes, task, hyper)


def example(key: jax.Array) -> Graph:
    """A tiny batch of graphs for tests."""
    return example_graph(key)
