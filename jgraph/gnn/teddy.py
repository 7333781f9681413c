"""TEDDY: trimming edges with degree-based discrimination strategy.

One-shot sparsification of an undirected graph (N nodes, E directed copies of its edges) and of a
network f with P parameters theta. With d_v the degree of v in the whole graph, loops left out:

    a_v    = d_v^-1 sum_{u ~ v} d_u^-1/2,   g_v = a_v d_v^-1        1/0 = 0              (N,)
    T(u,v) = g_u g_v                        small between hubs                           (E,)
    Z_D    = logits of f trained on the whole graph, at the best validation epoch        (N, C)
    keep all but the share p_g of pairs with the lowest T; train f anew from the same theta_0 by
    Adam on
    L      = CE_train(Z) + lambda KL( softmax(Z_D) || softmax(Z) ),    KL a mean over all N nodes,
    and after every step set the ceil(P p_w) smallest |theta| to 0 (projection onto the L0 ball; the
    set is chosen anew every time, so weights can come back).

The score costs O(N + E), the projection 31 passes over theta (the threshold is found bit by bit,
not by sorting), training what f costs; `train` carries the best parameters and logits of each seed.

Deviations: T follows the authors' code, which the paper states as an outer product of averages.
Both directions of a pair go together, where top-k with ties may cut one; shares are of pairs, and
loops, never removed, do not count. The projection spans all parameters.

Its rival, UGS, stands in `jgraph.gnn.ugs`.

Reference: Seo, Yun & Yang, "TEDDY: Trimming Edges with Degree-based Discrimination strategY",
ICLR 2024, arXiv 2402.01261; code https://github.com/hyunjin72/TEDDY.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jgraph import ops
from jgraph.data.dataset import Split
from jgraph.gnn.common import example_graph
from jgraph.graph import Graph
from jgraph.nn.dropout import Dropout
from jgraph.nn.gcn import GCNConv
from jgraph.paper import Paper
from jgraph.train.tasks import accuracy, cross_entropy

PAPER = Paper(
    slug="teddy",
    title="TEDDY: Trimming Edges with Degree-based Discrimination strategY",
    authors="Hyunjin Seo, Jihun Yun, Eunho Yang",
    year=2024,
    arxiv="2402.01261",
    family="gnn",
    task="sparsification",
    experiment="experiments/gnn/teddy.py",
)

Array = jax.Array


def teddy_edge_scores(senders: Array, receivers: Array, n: int) -> Array:
    """T of each edge of an undirected graph.

    Args:
      senders, receivers: (E,) int, every edge in both directions; n: number of nodes.

    Returns:
      (E,) float32, equal for both directions; a loop has the largest score of all.
    """
    senders, receivers = jnp.asarray(senders), jnp.asarray(receivers)
    proper = (senders != receivers).astype(jnp.float32)
    degree = ops.segment_sum(proper, receivers, n)
    safe = jnp.where(degree > 0, degree, 1)
    near = ops.segment_sum(proper * jax.lax.rsqrt(safe)[senders], receivers, n)
    own = jnp.where(degree > 0, near / (safe * safe), 0)
    scores = own[senders] * own[receivers]
    return jnp.where(proper > 0, scores, jnp.max(scores, initial=0))


def prune_edges(scores: Any, fraction: float, senders: Any, receivers: Any) -> np.ndarray:
    """Which edges stay when the share `fraction` of pairs with the lowest scores goes (host).

    A pair is judged by the score of its direction from the smaller to the larger node; pairs with
    equal scores go in the order of their nodes, so the sets for growing fractions are nested.

    Args:
      scores: (E,); senders, receivers: (E,) int, every edge in both directions.
      fraction: in [0, 1]; floor(fraction * pairs) pairs go, loops stay.

    Returns:
      (E,) bool.

    Raises:
      ValueError: fraction out of range, or an edge without its reverse.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must lie in [0, 1]")
    senders, receivers = np.asarray(senders, np.int64), np.asarray(receivers, np.int64)
    width = int(max(senders.max(initial=0), receivers.max(initial=0))) + 1
    pair = np.minimum(senders, receivers) * width + np.maximum(senders, receivers)
    forth, back = senders < receivers, senders > receivers
    pairs, first = np.unique(pair[forth], return_index=True)
    if not np.array_equal(pairs, np.unique(pair[back])):
        raise ValueError("an edge lacks its reverse; make the graph undirected first")
    order = np.argsort(np.asarray(scores)[forth][first], kind="stable")
    gone = pairs[order[: math.floor(fraction * pairs.size)]]
    return ~np.isin(pair, gone) | (senders == receivers)


def prune_graph(graph: Graph, keep: np.ndarray) -> Graph:
    """The graph with the edges that `keep` (E,) bool names, and all its nodes (host)."""
    chosen = np.flatnonzero(np.asarray(keep))
    return Graph.from_edges(
        np.asarray(graph.senders)[chosen],
        np.asarray(graph.receivers)[chosen],
        nodes=graph.nodes,
        edges=jax.tree.map(lambda x: np.asarray(x)[chosen], graph.edges),
        num_nodes=graph.num_nodes,
    )


def l0_project(params: Any, fraction: float) -> Any:
    """The nearest point with at most P - ceil(P fraction) non-zero entries: the smallest become 0.

    Args:
      params: pytree of floating arrays with P entries in all; their magnitudes are compared in
        float32, and of equal ones the first go.
      fraction: in [0, 1].

    Raises:
      ValueError: fraction out of range.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must lie in [0, 1]")
    flat, restore = ravel_pytree(params)
    count = math.ceil(flat.size * fraction)
    if count == 0:
        return params
    # As integers the bits of non-negative floats are in the order of the floats.
    bits = jax.lax.bitcast_convert_type(jnp.abs(flat).astype(jnp.float32), jnp.uint32)

    def set_bit(i: Array, low: Array) -> Array:
        higher = low | (jnp.uint32(1) << (30 - i).astype(jnp.uint32))
        return jnp.where(jnp.sum(bits < higher) < count, higher, low)

    threshold = jax.lax.fori_loop(0, 31, set_bit, jnp.uint32(0))
    below, equal = bits < threshold, bits == threshold
    gone = below | (equal & (jnp.cumsum(equal) <= count - jnp.sum(below)))
    return restore(jnp.where(gone, 0, flat))


def optax_l0_projection(fraction: float) -> optax.GradientTransformation:
    """Changes updates so that the updated parameters lie in the L0 ball; put it last in a chain."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params is None; call update(updates, state, params)")
        if fraction == 0:
            return updates, state
        wanted = l0_project(optax.apply_updates(params, updates), fraction)
        # p + (0 - p) is exactly 0, so what is pruned is exactly 0.
        return jax.tree.map(lambda new, old: new - old, wanted, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def distill_kl(logits: Array, teacher_logits: Array) -> Array:
    """KL( softmax(teacher) || softmax(logits) ), summed over classes, mean over all rows (N, C)."""
    teacher = jax.nn.log_softmax(teacher_logits)
    gap = teacher - jax.nn.log_softmax(logits)
    return jnp.mean(jnp.sum(jnp.exp(teacher) * gap, axis=-1))


class SparseGCN(nn.Module):
    """The paper's GCN: no biases, dropout after the activation; edges may have weights.

    Attributes:
      num_classes, hidden, layers, dropout: as in `jgraph.gnn.gcn`.
    """

    num_classes: int
    hidden: int = 512
    layers: int = 2
    dropout: float = 0.5

    @nn.compact
    def __call__(
        self, graph: Any, edge_weight: Array | None = None, *, train: bool = False
    ) -> Array:
        """Logits (N, C) for graph.nodes (N, F) and edge_weight (E,) or None."""
        x = graph.nodes
        for i in range(self.layers):
            last = i == self.layers - 1
            width = self.num_classes if last else self.hidden
            x = GCNConv(width, use_bias=False, name=f"conv_{i}")(graph, x, edge_weight)
            if not last:
                x = Dropout(self.dropout)(nn.relu(x), train=train)
        return x


@dataclass(frozen=True)
class TrainOptions:
    """How a ticket is trained: Adam with L2 `weight_decay`; `distillation` is lambda."""

    epochs: int = 200
    lr: float = 0.01
    weight_decay: float = 5e-4
    distillation: float = 0.1


@dataclass(frozen=True)
class Trained:
    """S runs at their best validation epochs (of equal ones the last).

    Attributes:
      params: pytree with a leading axis S; logits: (S, N, C).
      val, test: (S,) accuracies in [0, 1].
    """

    params: Any
    logits: Array
    val: np.ndarray
    test: np.ndarray


def node_masks(nodes: int, split: Split) -> list[np.ndarray]:
    """Masks (N,) bool of the nodes that train, validate and test."""
    return [np.isin(np.arange(nodes), part) for part in (split.train, split.val, split.test)]


def train(
    model: Any,
    graph: Graph | Sequence[Graph],
    labels: np.ndarray,
    split: Split,
    options: TrainOptions,
    *,
    seeds: int = 1,
    teacher: Array | None = None,
    weight_fraction: float = 0.0,
) -> Trained:
    """Trains `model` from seeds 0, ..., S - 1 side by side.

    Seed s has the same initial parameters and dropout whatever the other arguments are.

    Args:
      model: linen module, model.apply(variables, graph, train=bool) -> logits (N, C), with
        parameters and nothing else.
      graph: the graph, or one per seed with equal numbers of edges.
      labels: (N,) int; split: which nodes train, choose the epoch and test.
      teacher: Z_D (S, N, C), None for no distillation.
      weight_fraction: p_w.

    Raises:
      ValueError: another number of graphs or teachers than seeds.
    """
    if not isinstance(graph, Graph):
        if len(graph) != seeds:
            raise ValueError(f"graph has {len(graph)} entries, but there are {seeds} seeds")
        graph = jax.tree.map(lambda *leaves: np.stack(leaves), *graph)
    if teacher is not None and len(teacher) != seeds:
        raise ValueError(f"teacher has {len(teacher)} entries, but there are {seeds} seeds")
    labels = np.asarray(labels)
    masks = node_masks(labels.size, split)
    rates = (options.lr, options.weight_decay, options.distillation)
    val, params, logits, test = _train_all(
        model,
        options.epochs,
        weight_fraction,
        rates,
        jnp.arange(seeds),
        graph,
        teacher if options.distillation > 0 else None,
        labels,
        masks,
    )
    return Trained(params, logits, np.asarray(val), np.asarray(test))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train_all(
    model: Any,
    epochs: int,
    weight_fraction: float,
    rates: Any,
    seeds: Array,
    graph: Any,
    teacher: Any,
    labels: Array,
    masks: Any,
) -> Any:
    """(validation accuracy, parameters, logits, test accuracy), each with a leading axis S."""
    lr, weight_decay, distillation = rates
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.adam(lr),
        optax_l0_projection(weight_fraction),
    )

    def run(seed: Array, graph: Any, teacher: Any) -> Any:
        init_key, key = jax.random.split(jax.random.key(seed))
        params = model.init(init_key, graph)["params"]

        def loss(params: Any, key: Array) -> Array:
            rngs = {"dropout": key}
            logits = model.apply({"params": params}, graph, train=True, rngs=rngs)
            cost = cross_entropy(logits, labels, masks[0])
            if teacher is not None:
                cost = cost + distillation * distill_kl(logits, teacher)
            return cost

        def epoch(carry: Any, key: Array) -> tuple[Any, None]:
            params, state, best = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key), state, params)
            params = optax.apply_updates(params, updates)
            logits = model.apply({"params": params}, graph)
            score = accuracy(logits, labels, masks[1])
            new = (score, params, logits)
            best = jax.tree.map(lambda a, b: jnp.where(score >= best[0], a, b), new, best)
            return (params, state, best), None

        best = (jnp.float32(-1), params, jnp.zeros_like(model.apply({"params": params}, graph)))
        start = (params, optimizer.init(params), best)
        (_, _, best), _ = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
        return *best, accuracy(best[2], labels, masks[2])

    several = graph.senders.ndim == 2
    return jax.vmap(run, (0, 0 if several else None, None if teacher is None else 0))(
        seeds, graph, teacher
    )


def run_teddy(
    model: Any,
    graph: Graph,
    labels: np.ndarray,
    split: Split,
    options: TrainOptions,
    *,
    edge_fraction: float,
    weight_fraction: float = 0.0,
    seeds: int = 1,
    dense: Trained | None = None,
) -> tuple[Trained, Trained]:
    """The whole method: dense training, one pruning, sparse training with distillation.

    Args:
      edge_fraction, weight_fraction: p_g and p_w; the rest as in `train`.
      dense: the result of the first training where it is known.

    Returns:
      (dense, sparse).
    """
    shared = (labels, split, options)
    dense = train(model, graph, *shared, seeds=seeds) if dense is None else dense
    scores = teddy_edge_scores(graph.senders, graph.receivers, graph.num_nodes)
    pruned = prune_graph(graph, prune_edges(scores, edge_fraction, graph.senders, graph.receivers))
    return dense, train(
        model, pruned, *shared, seeds=seeds, teacher=dense.logits, weight_fraction=weight_fraction
    )


def sparsity_level(k: int, edges: float = 0.05, weights: float = 0.1) -> tuple[float, float]:
    """(p_g, p_w) after k rounds that each remove these shares of what is left."""
    return 1 - (1 - edges) ** k, 1 - (1 - weights) ** k


def example(key: Array) -> Graph:
    """A tiny undirected batch of graphs for tests."""
    return example_graph(key)
