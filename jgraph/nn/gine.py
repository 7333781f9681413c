"""GIN with edge features (Hu et al., "Strategies for Pre-training Graph Neural Networks", ICLR
2020, arXiv 1905.12265).

    y_i = MLP( (1 + eps) x_i + sum_{j -> i} relu(x_j + W e_ij + b) )
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph import ops
from jgraph.nn.inputs import cast, check_features, compute_dtype, node_mask
from jgraph.nn.mlp import MLP, Linear
from jgraph.ops.edges import as_adjacency, num_receivers_of, sum_edges

Array = jax.Array


def gine_sum(graph: Any, x: Array, edges: Array, eps: Array | float = 0.0) -> Array:
    """(1 + eps) x_i + sum_{j -> i} relu(x_j + e_ij).

    Args:
      x: (N, F); edges: (E, F), or (1, F) when all edges have one feature.

    Returns:
      (N, F) in the dtype of x.
    """
    adjacency = as_adjacency(graph)
    count = num_receivers_of(graph, adjacency, x.shape[0])
    rows = nn.relu(ops.gather_senders(graph, x) + edges.astype(x.dtype))
    return jnp.asarray(1.0 + eps, x.dtype) * x + sum_edges(adjacency, rows, count, False)


class GINEConv(nn.Module):
    """The layer of the module's docstring.

    Attributes:
      features: widths of the MLP's maps, the last one is F_out.
      norm: between the maps: "none", "batch" or "layer".
      learn_eps: eps is a parameter that begins at 0; else it stays 0.
      edge_map: False adds the edge features as they are, which must then be F_in wide.
      use_bias: bias of the last map.
      axis_name: mapped device axis over which batch norm shares its moments.
    """

    features: Sequence[int]
    norm: str = "batch"
    learn_eps: bool = True
    edge_map: bool = True
    activation: Callable[[Array], Array] = nn.relu
    use_bias: bool = True
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, graph: Any, x: Array, edges: Array, *, train: bool = False) -> Array:
        """x (N, F_in) dense, edges (E, F_e) or (1, F_e) -> (N, features[-1])."""
        check_features(x, "GINEConv")
        check_features(edges, "GINEConv (edges)")
        if len(self.features) < 1:
            raise ValueError("features is empty; give the width of each map of the MLP")
        width = x.shape[-1]
        if not self.edge_map and edges.shape[-1] != width:
            raise ValueError(
                f"edges has {edges.shape[-1]} columns and x has {width}; with edge_map=False they "
                "must agree"
            )
        dtype = compute_dtype(x, self.dtype)
        x = cast(x, dtype)
        if self.edge_map:
            edges = Linear(width, dtype=dtype, name="edge")(edges)
        eps = self.param("eps", nn.initializers.zeros, (), jnp.float32) if self.learn_eps else 0.0
        mlp = MLP(
            self.features,
            self.norm,
            activation=self.activation,
            use_bias=self.use_bias,
            dtype=dtype,
            axis_name=self.axis_name,
            name="mlp",
        )
        return mlp(gine_sum(graph, x, edges, eps), mask=node_mask(graph), train=train)
