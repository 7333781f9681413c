"""Training on precomputed rows: what decoupled methods need once their hops are made.

The loss sees the rows of the training nodes and nothing else, so a step costs what these rows cost
and no more; seeds train side by side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jgraph.data import Split
from jgraph.graph import Graph
from jgraph.train.tasks import accuracy, cross_entropy


@dataclass(frozen=True)
class Rows:
    """Accuracies of some runs: `val` and `test` (S,) in [0, 1], at the epoch of the best `val`."""

    val: np.ndarray
    test: np.ndarray


def _part(x: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> tuple[Graph, np.ndarray]:
    none = np.zeros(0, np.int32)
    return Graph.from_edges(none, none, nodes=np.asarray(x)[rows]), labels[rows]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(model: Any, epochs: int, seeds: Any, parts: Any, lr: Any, weight_decay: Any) -> Any:
    """(validation, test) accuracies of the seeds; one program for all rates of a model."""
    train, val, test = parts
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(lr))

    def score(params: Any, part: Any) -> tuple[Any, Any]:
        logits, mask = model.apply(params, part[0]), jnp.ones(part[1].shape, bool)
        return accuracy(logits, part[1], mask), cross_entropy(logits, part[1], mask)

    def run(seed: Any) -> tuple[Any, Any]:
        key, init_key = jax.random.split(jax.random.key(seed))
        params = model.init(init_key, train[0])

        def loss(params: Any, key: Any) -> Any:
            logits = model.apply(params, train[0], train=True, rngs={"dropout": key})
            return cross_entropy(logits, train[1], jnp.ones(train[1].shape, bool))

        def epoch(carry: Any, key: Any) -> tuple[Any, None]:
            params, state, best = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key), state, params)
            params = optax.apply_updates(params, updates)
            right, cost = score(params, val)
            better = (right > best[0]) | ((right == best[0]) & (cost < best[1]))
            new = (right, cost, params)
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)
            return (params, state, best), None

        best = (jnp.float32(-1), jnp.float32(jnp.inf), params)
        start = (params, optimizer.init(params), best)
        (_, _, best), _ = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
        return best[0], score(best[2], test)[0]

    return jax.vmap(run)(seeds)


def fit_rows(
    model: Any,
    x: Any,
    labels: np.ndarray,
    split: Split,
    *,
    seeds: int,
    epochs: int,
    lr: float,
    weight_decay: float,
) -> Rows:
    """Trains `model`, which must not use edges, on rows of x (N, F) by Adam with L2.

    The parameters that are tested are those of the epoch with the highest validation accuracy, the
    lower validation loss where it is equal. The test rows are read once, at the end.
    """
    parts = jax.device_put([_part(x, labels, p) for p in (split.train, split.val, split.test)])
    found = _train(model, epochs, jnp.arange(seeds), parts, lr, weight_decay)
    return Rows(*map(np.asarray, found))
