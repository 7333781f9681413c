"""DGMLP: evaluating deep graph neural networks by their two depths, propagation and transformation.

What it computes, for node features X (N, F) and A_hat of `jgraph.nn.hops`:

    X^(k)    = A_hat^k X,  k = 0, ..., K;   X^(inf) its limit in each connected component
    NSL_v(k) = cos(x_v^k, x_v^0) (1 - cos(x_v^k, x_v^inf))       node smoothing level   (N, K + 1)
    w_v      = softmax_k( NSL_v(k) / T )                         T the temperature
    h_0      = sum_k w_v(k) x_v^k                                no parameters so far   (N, F)
    h_l      = relu(W_l drop(h_{l-1}) + b_l)  [+ h_{l-1}]        l = 1, ..., D_t - 1    (N, d)
    y        = W drop(h_{D_t - 1}) + b                                                  (N, C)

The skip connection is there where the widths agree: from the second map on, or from the first if
d = F. Complexity: K products with the sparse A_hat, O(K E F), once; then O(N F d + N d^2 D_t) per
step. `smooth` keeps four N x F arrays whatever K is (a softmax that is rescaled as hops arrive).

Deviations: the paper writes only the residual form; how it changes the width F to d and d to C is
not said, and the two outer maps here have no skip. Its hyperparameters (appendix) were not at hand;
`RECIPES` holds ours, chosen on validation accuracy. Cosines with a row of zeros are 0.

Beside it: what its study compares. `mixing="uniform"` and "last" replace the weights (S2GC without
teleport, SGC), `hops=0` is a residual MLP; `StepsGCN` is a GCN that propagates `steps` times per
layer; `hop_attention_air` is the attention over hops of the authors' later AIR (KDD 2022).

Reference: Zhang, Sheng, Jiang, Xia, Gao, Yang & Cui, "Evaluating Deep Graph Neural Networks", 2021,
arXiv 2108.00955; code (of AIR) https://github.com/zwt233/DGMLP.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jgraph.gnn.common import GNN, assemble, example_graph
from jgraph.gnn.mlp import NodeLinear
from jgraph.graph import Graph, SparseMatrix
from jgraph.nn.hops import propagate, stationary_features
from jgraph.nn.inputs import check_features, compute_dtype, densify
from jgraph.paper import Paper, Recipe

PAPER = Paper(
    slug="dgmlp",
    title="Evaluating Deep Graph Neural Networks",
    authors=("Wentao Zhang, Zeang Sheng, Yuezihan Jiang, Yikuan Xia, Jun Gao, Zhi Yang, Bin Cui"),
    year=2021,
    arxiv="2108.00955",
    family="gnn",
    task="node",
    experiment="experiments/gnn/dgmlp.py",
    reported={
        "cora test accuracy %": 84.6,
        "citeseer test accuracy %": 73.4,
        "pubmed test accuracy %": 81.2,
    },
    contracts=("equivariant",),
)

RECIPE = Recipe(
    hidden=64,
    layers=2,
    dropout=0.5,
    lr=0.01,
    weight_decay=5e-4,
    epochs=200,
    extra={"hops": 10, "temperature": 0.5},
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
        extra={"norm": "batch", "hops": 4, "temperature": 0.5},
    ),
}

Array = jax.Array
MIXING = ("adaptive", "uniform", "last")


def cosine(a: Array, b: Array) -> Array:
    """Cosine of the angle between rows (..., F), in float32; 0 where a row is 0."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    square = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    positive = square > 0
    return jnp.sum(a * b, axis=-1) * jnp.where(
        positive, lax.rsqrt(jnp.where(positive, square, 1.0)), 0.0
    )


def _level(hop: Array, first: Array, limit: Any) -> Array:
    return cosine(hop, first) * (1 - cosine(hop, limit))


def node_smoothing_level(hops: Array, limit: Array) -> Array:
    """NSL: how much of its own features a node still has, and how far it is from the limit.

    Args:
      hops: X^(0), ..., X^(K), (K + 1, N, F); limit: X^(inf), (N, F).

    Returns:
      (N, K + 1) float32 in [-2, 2]; in [0, 1] for features that are not negative.
    """
    return jax.vmap(_level, (0, None, None), 1)(hops, hops[0], limit)


def graph_smoothing_level(levels: Array, mask: Array | None = None) -> Array:
    """GSL: mean of NSL (N, K + 1) over the nodes that `mask` (N,) bool keeps -> (K + 1,)."""
    kept = jnp.ones(levels.shape[:1]) if mask is None else mask.astype(jnp.float32)
    return kept @ levels / jnp.sum(kept)


def smoothing_weights(levels: Array, temperature: float) -> Array:
    """softmax_k(NSL / T) (N, K + 1).

    Raises:
      ValueError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    return jax.nn.softmax(levels / temperature, axis=-1)


def hop_attention_air(hops: Array, vector: Array) -> Array:
    """AIR: sum_k a_k X^(k), a = softmax_k sigmoid(vector . [x^0 ; x^k]), over all K + 1 hops.

    Args:
      hops: (K + 1, N, F); vector: (2 F,).

    Returns:
      (N, F).
    """
    own, other = jnp.split(vector, 2)
    scores = jax.nn.softmax(jax.nn.sigmoid(hops[0] @ own + hops @ other), axis=0)
    return jnp.einsum("kn,knf->nf", scores, hops)


@functools.partial(jax.jit, static_argnames=("hops", "temperature", "r", "mixing"))
def smooth(
    graph: Any,
    x: Array | SparseMatrix,
    hops: int = 10,
    temperature: float = 0.5,
    r: float = 0.5,
    mixing: str = "adaptive",
) -> Array:
    """h_0 of the module's docstring; no hop but the current one is kept.

    Args:
      graph: Graph or jraph.GraphsTuple with every edge in both directions.
      x: (N, F); hops: K, at least 0; r: exponent of the normalisation.
      mixing: "adaptive", "uniform" (1 / (K + 1) each) or "last" (X^(K) alone).

    Returns:
      (N, F) float32.

    Raises:
      ValueError: hops negative, temperature not positive, unknown mixing.
    """
    check_features(x, "smooth")
    if mixing not in MIXING:
        raise ValueError(f"mixing is {mixing!r}; choose one of {', '.join(MIXING)}")
    if hops < 0:
        raise ValueError(f"hops is {hops}; it must be at least 0")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    x = densify(x).astype(jnp.float32)
    if hops == 0:
        return x
    if mixing == "last":
        return lax.fori_loop(0, hops, lambda _, h: propagate(graph, h, r), x)
    adaptive = mixing == "adaptive"
    limit = stationary_features(graph, x, r) if adaptive else None

    def logit(h: Array) -> Array:
        return _level(h, x, limit) / temperature if adaptive else jnp.zeros(x.shape[:1])

    def step(carry: Any, _: None) -> tuple[Any, None]:
        h, top, total, mixed = carry
        h = propagate(graph, h, r)
        level = logit(h)
        new = jnp.maximum(top, level)
        old, now = jnp.exp(top - new), jnp.exp(level - new)
        mixed = old[:, None] * mixed + now[:, None] * h
        return (h, new, old * total + now, mixed), None

    start = (x, logit(x), jnp.ones(x.shape[:1]), x)
    (_, _, total, mixed), _ = lax.scan(step, start, None, length=hops)
    return mixed / total[:, None]


class DGMLP(GNN):
    """The network of the module's docstring; attributes as in `GNN`, `layers` is D_t.

    Attributes:
      hops, temperature, r, mixing: of `smooth`, which is applied to the graph's features. It does
        not depend on the parameters, so a training loop on one graph computes it once.
    """

    residual: bool = True
    hops: int = 10
    temperature: float = 0.5
    r: float = 0.5
    mixing: str = "adaptive"

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        return NodeLinear(features, use_bias=is_output or self.conv_bias, dtype=self.dtype)

    def _states(self, graph: Any, train: bool) -> list[Any]:
        check_features(graph.nodes, type(self).__name__)
        x = smooth(graph, graph.nodes, self.hops, self.temperature, self.r, self.mixing)
        x = x.astype(compute_dtype(x, self.dtype))
        return super()._states(graph._replace(nodes=x), train)


class StepsGCN(GNN):
    """GCN with `steps` propagations before each linear map: D_p = steps D_t.

    Attributes as in `GNN`; one step is the GCN of `jgraph.gnn.gcn`.
    """

    steps: int = 1

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        return _StepsConv(features, self.steps, is_output or self.conv_bias, self.dtype)


class _StepsConv(nn.Module):
    features: int
    steps: int
    use_bias: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, graph: Any, x: Any, *, train: bool = False) -> Array:
        y = NodeLinear(self.features, False, self.dtype, name="map")(graph, x)
        y = lax.fori_loop(0, self.steps, lambda _, h: propagate(graph, h), y)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(y.dtype)


def build(num_classes: int, *, task: str = "node", **hyper: Any) -> DGMLP:
    """The model with the hyperparameters of `RECIPES[task]`, changed by `hyper`.

    Raises:
      ValueError: an unknown task or hyperparameter, or a value out of range.
    """
    return assemble(DGMLP, RECIPES, num_classes, task, hyper)


def example(key: jax.Array) -> Graph:
    """A tiny batch of graphs for tests."""
    return example_graph(key)
