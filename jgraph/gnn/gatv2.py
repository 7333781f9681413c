"""GATv2: graph attention whose ranking of neighbours depends on the node that attends.

What it computes, per convolution and head k of H, for node states h (N, F_in):

    l_j, r_i = W_l^k h_j, W_r^k h_i                                            (N, H, F) each
    e_ij  = a^k . leaky_relu( l_j + r_i )               edges j -> i and i -> i  (E, H), (N, H)
    al_ij = exp(e_ij) / sum_j' exp(e_ij')
    h'_i  = act( concat_k sum_j al_ij l_j + b )         hidden layers          (N, H F)
    y_i   = mean_k sum_j al_ij l_j + b                  last layer             (N, C)

In GAT the vector a acts before the nonlinearity, so all nodes rank their neighbours alike; here it
acts after (equation 7). Complexity per layer: O(N F_in H F + E H F). The scores need the E x H x F
sums: they are made anew for the gradient, and head by head when large.

Deviations: elu, dropout and the averaged last layer are those of the GAT network; the paper
searches them per data set. W_l and W_r differ, as in the authors' default.

Reference: Brody, Alon & Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022, arXiv
2105.14491; code https://github.com/tech-srl/how_attentive_are_gats.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax

from jgraph.gnn import gat
from jgraph.gnn.common import assemble, example_graph
from jgraph.graph import Graph
from jgraph.nn.gat import GATv2Conv
from jgraph.paper import Paper

PAPER = Paper(
    slug="gatv2",
    title="How Attentive are Graph Attention Networks?",
    authors="Shaked Brody, Uri Alon, Eran Yahav",
    year=2022,
    arxiv="2105.14491",
    family="gnn",
    task="node",
    experiment="experiments/gnn/gatv2.py",
    contracts=("equivariant",),
)

RECIPES = gat.RECIPES
RECIPE = RECIPES["node"]


class GATv2(gat.GAT):
    """The network of the module's docstring; attributes as in `GAT`."""

    conv_type: ClassVar[Any] = GATv2Conv


def build(num_classes: int, *, task: str = "node", **hyper: Any) -> GATv2:
    """The model with the hyperparameters of `RECIPES[task]`, changed by `hyper`.

    Raises:
      ValueError: an unknown task or hyperparameter, or a value out of range.
    """
    return assemble(GATv2, RECIPES, num_classes, task, hyper)


def example(key: jax.Array) -> Graph:
    """A tiny batch of graphs for tests."""
    return example_graph(key)
