"""GAT: graph attention network.

What it computes, per convolution and head k of H, for node states h (N, F_in):

    z_i   = W^k h_i                                                            (N, H, F)
    e_ij  = leaky_relu( a_s^k . z_j + a_r^k . z_i )     edges j -> i and i -> i  (E, H), (N, H)
    al_ij = exp(e_ij) / sum_j' exp(e_ij')
    h'_i  = act( concat_k sum_j al_ij z_j + b )         hidden layers          (N, H F)
    y_i   = mean_k sum_j al_ij z_j + b                  last layer             (N, C)

with elu as activation and dropout on the input of every layer and on the coefficients al.
Complexity per layer: O(N F_in H F + E H F); memory O(N H F + E H), no array of E x F.

Deviations: the authors' code also drops entries of z inside the sum; here, as in the paper's text,
only inputs and coefficients are dropped. The loop i -> i stands beside the edge list, so a loop
that the graph has already counts too.

Reference: Velickovic et al., "Graph Attention Networks", ICLR 2018, arXiv 1710.10903; code
https://github.com/PetarV-/GAT.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
from flax import linen as nn

from jgraph.gnn.common import GNN, assemble, example_graph
from jgraph.graph import Graph
from jgraph.nn.gat import GATConv
from jgraph.paper import Paper, Recipe

PAPER = Paper(
    slug="gat",
    title="Graph Attention Networks",
    authors=(
        "Petar Velickovic, Guillem Cucurull, Arantxa Casanova, Adriana Romero, Pietro Lio, "
        "Yoshua Bengio"
    ),
    year=2018,
    arxiv="1710.10903",
    family="gnn",
    task="node",
    experiment="experiments/gnn/gat.py",
    reported={
        "cora test accuracy %": 83.0,
        "citeseer test accuracy %": 72.5,
        "pubmed test accuracy %": 79.0,
    },
    contracts=("equivariant",),
)

RECIPE = Recipe(
    hidden=8, layers=2, dropout=0.6, heads=8, lr=0.005, weight_decay=5e-4, epochs=1000, patience=100
)
RECIPES = {
    "node": RECIPE,
    "graph": Recipe(
        hidden=16,
        layers=4,
        dropout=0.0,
        heads=4,
        lr=1e-3,
        weight_decay=0.0,
        epochs=200,
        extra={"norm": "batch", "residual": True},
    ),
}


class GAT(GNN):
    """The network of the module's docstring; attributes as in `GNN`, `hidden` is per head.

    Attributes:
      heads: H of the hidden layers.
      out_heads: heads of a last layer that gives the result, averaged.
      attn_dropout: dropout of the coefficients; None: `dropout` for node tasks, 0 for graph tasks.
      self_loops: attend to the node itself.
    """

    heads: int = 8
    out_heads: int = 1
    attn_dropout: float | None = None
    self_loops: bool = True

    conv_type: ClassVar[Any] = GATConv

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        rate = self.attn_dropout
        if rate is None:
            rate = self.dropout if self.task == "node" else 0.0
        return self.conv_type(
            features if is_output else self.hidden,
            heads=self.out_heads if is_output else self.heads,
            concat=not is_output,
            attn_dropout=rate,
            self_loops=self.self_loops,
            use_bias=is_output or self.conv_bias,
            dtype=self.dtype,
        )

    def activate(self, x: jax.Array) -> jax.Array:
        return nn.elu(x)

    @property
    def width(self) -> int:
        return self.heads * self.hidden


def build(num_classes: int, *, task: str = "node", **hyper: Any) -> GAT:
    """The model with the hyperparameters of `RECIPES[task]`, changed by `hyper`.

    Raises:
      ValueError: an unknown task or hyperparameter, or a value out of range.
    """
    return assemble(GAT, RECIPES, num_classes, task, hyper)


def example(key: jax.Array) -> Graph:
    """A tiny batch of graphs for tests."""
    return example_graph(key)
