"""UGS: unified sparsification of a graph and of a network's weights, the rival of TEDDY.

Round after round, with fixed masks F_e (E,), F_w (like theta) that begin at one:

    search   theta = theta_0;  minimise  CE( f(theta * M_w * F_w, M_e * F_e) )
             + l_e |M_e|_1 + l_w |M_w|_1   over theta, M_e, M_w;  keep the masks of the best epoch
    prune    of what F_e and F_w still keep, the shares p_e and p_w with the smallest |M|
    train    theta_0 anew with the fixed masks; the ticket's accuracy is that of the best epoch

Complexity: 2 trainings per round. Each direction of an edge has a mask of its own.

Deviation: masks begin at 1 plus noise of 1e-5 for edges and weights alike.

Reference: Chen, Sui, Chen, Zhang & Wang, "A Unified Lottery Ticket Hypothesis for Graph Neural
Networks", ICML 2021, arXiv 2102.06790.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jgraph.data.dataset import Split
from jgraph.gnn.teddy import TrainOptions, node_masks
from jgraph.graph import Graph
from jgraph.train.tasks import accuracy, cross_entropy

Array = jax.Array


@dataclass(frozen=True)
class Ticket:
    """What is left after a round, and what it is worth.

    Attributes:
      edges: (E,) bool; weights: pytree of bool like the parameters.
      val, test: accuracies in [0, 1] at the best validation epoch.
    """

    edges: np.ndarray
    weights: Any
    val: float
    test: float


def _l1(tree: Any) -> Array:
    return optax.tree.sum(jax.tree.map(lambda x: jnp.sum(jnp.abs(x)), tree))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _fit(
    model: Any,
    options: TrainOptions,
    searching: bool,
    penalties: tuple[float, float],
    start: Any,
    fixed: Any,
    graph: Any,
    labels: Array,
    masks: Any,
    key: Array,
) -> Any:
    """Trains (theta, M_e, M_w), or theta alone; (val, (M_e, M_w), logits) of the best epoch."""
    optimizer = optax.chain(optax.add_decayed_weights(options.weight_decay), optax.adam(options.lr))

    def logits_of(params: Any, **kwargs: Any) -> Array:
        theta, edge, weight = params
        theta = jax.tree.map(lambda *parts: parts[0] * parts[1] * parts[2], theta, weight, fixed[1])
        return model.apply({"params": theta}, graph, edge * fixed[0], **kwargs)

    def loss(params: Any, key: Array) -> Array:
        logits = logits_of(params, train=True, rngs={"dropout": key})
        cost = cross_entropy(logits, labels, masks[0])
        if searching:
            cost = cost + penalties[0] * _l1(params[1]) + penalties[1] * _l1(params[2])
        return cost

    def epoch(carry: Any, key: Array) -> tuple[Any, None]:
        params, state, best = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state, params)
        moved = optax.apply_updates(params, updates)
        params = moved if searching else (moved[0], *params[1:])
        logits = logits_of(params)
        score = accuracy(logits, labels, masks[1])
        new = (score, params[1:], logits)
        best = jax.tree.map(lambda a, b: jnp.where(score > best[0], a, b), new, best)
        return (params, state, best), None

    best = (jnp.float32(-1), start[1:], jnp.zeros_like(logits_of(start)))
    carry = (start, optimizer.init(start), best)
    return jax.lax.scan(epoch, carry, jax.random.split(key, options.epochs))[0][2]


def _prune(masks: Any, kept: Any, fraction: float) -> Any:
    """`kept` without the share `fraction` of its entries whose masks are smallest (host)."""
    flat, _ = ravel_pytree(masks)
    joined, restore = ravel_pytree(kept)
    alive = np.asarray(joined) > 0
    size = np.where(alive, np.abs(np.asarray(flat)), np.inf)
    gone = np.argsort(size, kind="stable")[: int(fraction * alive.sum())]
    alive[gone] = False
    return restore(jnp.asarray(alive, jnp.float32))


def ugs_train(
    model: Any,
    graph: Graph,
    labels: np.ndarray,
    split: Split,
    options: TrainOptions,
    *,
    rounds: int,
    edges: float = 0.05,
    weights: float = 0.1,
    edge_l1: float = 1e-6,
    weight_l1: float = 1e-5,
    seed: int = 0,
) -> list[Ticket]:
    """The tickets after 1, ..., `rounds` rounds.

    Args:
      model: linen module, model.apply(variables, graph, edge_weight, train=bool) -> (N, C), with
        parameters and nothing else, such as `jgraph.gnn.teddy.SparseGCN`.
      labels: (N,) int; split: which nodes train, choose the epoch and test.
      edges, weights: shares of what is left that each round removes.
      edge_l1, weight_l1: l_e and l_w.

    Raises:
      ValueError: a share outside [0, 1).
    """
    for name, share in (("edges", edges), ("weights", weights)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share}; it must lie in [0, 1)")
    init_key, key = jax.random.split(jax.random.key(seed))
    theta = model.init(init_key, graph)["params"]
    classes = jnp.asarray(labels)
    masks = [jnp.asarray(mask) for mask in node_masks(classes.size, split)]
    ones = (jnp.ones(graph.num_edges), jax.tree.map(jnp.ones_like, theta))
    shared = (graph, classes, masks)
    fixed, tickets = ones, []
    for number in range(rounds):
        search_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
        flat, restore = ravel_pytree(ones)
        noisy = restore(flat + 1e-5 * jax.random.normal(noise_key, flat.shape))
        found = _fit(
            model, options, True, (edge_l1, weight_l1), (theta, *noisy), fixed, *shared, search_key
        )
        fixed = tuple(
            _prune(mask, kept, share)
            for mask, kept, share in zip(found[1], fixed, (edges, weights), strict=True)
        )
        val, _, logits = _fit(
            model, options, False, (0.0, 0.0), (theta, *ones), fixed, *shared, key
        )
        tickets.append(
            Ticket(
                np.asarray(fixed[0]) > 0,
                jax.tree.map(lambda x: np.asarray(x) > 0, fixed[1]),
                float(val),
                float(accuracy(logits, classes, masks[2])),
            )
        )
    return tickets
