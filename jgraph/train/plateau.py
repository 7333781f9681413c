"""Training that halves its rate on plateaus and stops when the rate is small.

The protocol of Dwivedi et al., "Benchmarking Graph Neural Networks", JMLR 24, 2023, arXiv
2003.00982: Adam; after every epoch the validation loss drives the rate, which is multiplied by
`factor` when the loss has not improved for more than `patience` epochs (PyTorch's
ReduceLROnPlateau); training ends when the rate falls below `min_lr`; the parameters at that point,
not those of the best validation, are tested.

`Plateau` is the schedule alone, usable in any loop. `fit_on_plateau` is the loop for sets of graphs
whose targets belong to graphs or to nodes: it trains on batches of graphs either way.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jgraph.graph import Graph
from jgraph.train.batches import Batches, GraphStore, Loader
from jgraph.train.state import choose

Array = jax.Array
TARGETS = "targets"


class PlateauState(NamedTuple):
    """Scalars: rate, lowest loss so far, epochs since it fell (int32), whether to stop (bool)."""

    lr: Any
    best: Any
    waited: Any
    stopped: Any


@dataclass(frozen=True)
class Plateau:
    """The schedule of the module's docstring, as pure functions that also work under jit.

    Attributes:
      lr: the rate at the start.
      factor: what the rate is multiplied by, in (0, 1).
      patience: epochs without improvement that are tolerated.
      min_lr: training stops when the rate is below it; 0 never stops.
      threshold: an improvement is a loss below best * (1 - threshold).

    Raises:
      ValueError: a value out of range.
    """

    lr: float = 1e-3
    factor: float = 0.5
    patience: int = 10
    min_lr: float = 1e-5
    threshold: float = 1e-4

    def __post_init__(self):
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be positive")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it must lie in (0, 1)")
        for name in ("patience", "min_lr", "threshold"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")

    def start(self) -> PlateauState:
        """The state before the first epoch."""
        return PlateauState(np.float32(self.lr), np.float32(np.inf), np.int32(0), np.bool_(False))

    def step(self, state: PlateauState, loss: Any) -> PlateauState:
        """The state after an epoch with this validation loss; NaN is no improvement."""
        improved = loss < state.best * (1 - self.threshold)
        waited = jnp.where(improved, 0, state.waited + 1)
        drop = waited > self.patience
        lr = jnp.where(drop, state.lr * self.factor, state.lr)
        best = jnp.where(improved, loss, state.best)
        return PlateauState(lr, best, jnp.where(drop, 0, waited), lr < self.min_lr)


@dataclass(frozen=True)
class Measure:
    """What is minimised and what is reported, for one kind of targets.

    Attributes:
      per_node: targets belong to nodes, else to graphs.
      loss: (outputs, targets, mask) -> scalar of one batch; rows outside the mask do not count.
      counts: (outputs, targets, mask) -> array that is summed over batches.
      metric: summed counts (NumPy) -> float.
    """

    per_node: bool
    loss: Callable[[Array, Array, Array], Array]
    counts: Callable[[Array, Array, Array], Array]
    metric: Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Examples:
    """Graphs with targets: one row per graph (G,), or one array (N,) per graph."""

    graphs: Sequence[Graph]
    targets: Sequence[Any]

    def __post_init__(self):
        if len(self.graphs) != len(self.targets):
            raise ValueError(
                f"targets has {len(self.targets)} entries for {len(self.graphs)} graphs; "
                "give one for each"
            )


@dataclass(frozen=True)
class PlateauResult:
    """What `fit_on_plateau` returns.

    Attributes:
      test, val, train: metric of each part at the end of training.
      epochs: trained; seconds: of training without compilation; seconds_per_epoch: after the first.
      history: "train_loss", "val_loss", "val_metric", "lr", one entry per epoch.
      stopped: why: "rate", "epochs" or "time".
      variables: params and statistics at the end.
    """

    test: float
    val: float
    train: float
    epochs: int
    seconds: float
    seconds_per_epoch: float
    history: dict[str, list[float]]
    stopped: str
    variables: Any


def _store(examples: Examples, per_node: bool) -> GraphStore:
    graphs: list[Graph] = list(examples.graphs)
    targets: Any = examples.targets
    if per_node:
        graphs = [
            g.replace(nodes={"nodes": g.nodes, TARGETS: np.asarray(y)})
            for g, y in zip(graphs, targets, strict=True)
        ]
        targets = np.zeros(len(graphs), np.int32)
    return GraphStore(graphs, np.asarray(targets))


class _Part:
    """One part of the data, served as stacks of equally padded batches."""

    def __init__(self, store: GraphStore, per_node: bool, size: int, seed: int, epochs: int):
        self.per_node = per_node
        rows = np.arange(store.labels.shape[0])
        self.loader = Loader(store, [rows], [seed], batch_size=size, epochs=epochs)

    def stacks(self, epoch: int, length: int) -> Any:
        """Batches of an epoch, `length` at a time (empty ones fill up the last stack)."""
        loader = self.loader
        table = loader.table(epoch)[0, :, 0]
        extra = -table.shape[0] % length
        table = np.concatenate([table, np.full((extra, table.shape[1]), -1, table.dtype)])
        for start in range(0, table.shape[0], length):
            rows = table[start : start + length]
            yield self._split(loader.store.build(rows, loader.num_nodes, loader.num_edges))

    def _split(self, batches: Batches) -> Batches:
        if not self.per_node:
            return batches
        graph, nodes = batches.graph, batches.graph.nodes
        # Rows of padding hold target 0; the mask says which nodes are real.
        real = np.where(batches.mask, graph.n_node, 0).sum(-1)
        mask = np.arange(graph.num_nodes) < real[..., None]
        return Batches(graph.replace(nodes=nodes["nodes"]), nodes[TARGETS], mask)


def _stack_length(part: _Part, limit: int) -> int:
    """Batches per call: up to eight, so many that a call holds at most `limit` edges."""
    steps = part.loader.steps
    most = max(1, min(8, limit // max(part.loader.num_edges, 1)))
    return -(-steps // -(-steps // most))


def fit_on_plateau(
    model: Any,
    parts: Mapping[str, Examples],
    measure: Measure,
    schedule: Plateau,
    *,
    batch_size: int,
    epochs: int = 1000,
    seed: int = 0,
    max_seconds: float = float("inf"),
    max_edges: int = 4_000_000,
    callback: Callable[[int, dict[str, float]], None] | None = None,
) -> PlateauResult:
    """Trains a model by the protocol of the module's docstring.

    Args:
      model: linen module, `model.apply(variables, graph, train=...)` -> (N, C) or (G, C).
      parts: "train", "val" and "test".
      measure: loss and metric. The validation loss is the mean over batches, as in the protocol.
      batch_size: graphs per step.
      epochs, max_seconds: limits.
      seed: of parameters, dropout, signs and shuffles.
      max_edges: edges that one call of the device holds, which bounds memory.
      callback: called with (epoch, row) after every epoch.

    Returns:
      `PlateauResult`; the test part is read once, after training.

    Raises:
      ValueError: a part is missing.
    """
    lacking = sorted({"train", "val", "test"} - set(parts))
    if lacking:
        raise ValueError(f"parts lacks {', '.join(lacking)}; it has {', '.join(sorted(parts))}")

    def part(name: str, epochs: int = 0) -> _Part:
        stores.setdefault(name, _store(parts[name], measure.per_node))
        return _Part(stores[name], measure.per_node, batch_size, seed, epochs)

    stores: dict[str, GraphStore] = {}
    train, val = part("train", epochs), part("val")
    key = jax.random.key(seed)
    optimizer = optax.scale_by_adam()
    length = _stack_length(train, max_edges)
    first = jax.tree.map(lambda x: x[0], next(train.stacks(0, 1)))

    @jax.jit
    def start(graph: Graph) -> Any:
        rngs = {"params": jax.random.fold_in(key, 0), "dropout": jax.random.fold_in(key, 1)}
        variables = dict(model.init(rngs, graph, train=False))
        params = variables.pop("params")
        return jnp.int32(0), params, variables, optimizer.init(params)

    def step(lr: Array, state: Any, batch: Batches) -> tuple[Any, Array]:
        number, params, statistics, moments = state
        rngs = {"dropout": jax.random.fold_in(jax.random.fold_in(key, 2), number)}

        def loss_of(params: Any) -> tuple[Array, Any]:
            outputs, changed = model.apply(
                {"params": params, **statistics},
                batch.graph,
                train=True,
                rngs=rngs,
                mutable=list(statistics),
            )
            return measure.loss(outputs, batch.labels, batch.mask), changed

        (loss, changed), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: -lr * u, updates))
        new = (number + 1, params, {**statistics, **changed}, moments)
        filled = jnp.any(batch.mask)
        return choose(filled, new, state), jnp.where(filled, loss, 0)

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: Any, lr: Array, batches: Batches) -> tuple[Any, Array]:
        state, losses = jax.lax.scan(functools.partial(step, lr), state, batches)
        return state, jnp.sum(losses)

    @jax.jit
    def assess(state: Any, batches: Batches) -> tuple[Array, Array]:
        def one(batch: Batches) -> tuple[Array, Array]:
            outputs = model.apply({"params": state[1], **state[2]}, batch.graph, train=False)
            args = outputs, batch.labels, batch.mask
            return jnp.where(jnp.any(batch.mask), measure.loss(*args), 0), measure.counts(*args)

        losses, counts = jax.lax.map(one, batches)
        return jnp.sum(losses), jnp.sum(counts, axis=0)

    def score(part: _Part) -> tuple[float, float]:
        """(mean loss of the batches, metric) of a part."""
        per_call = _stack_length(part, max_edges)
        seen = [assess(state, stack) for stack in part.stacks(0, per_call)]
        loss = float(sum(float(loss) for loss, _ in seen)) / part.loader.steps
        return loss, measure.metric(np.sum([np.asarray(c, np.float64) for _, c in seen], axis=0))

    state, pace = start(first.graph), schedule.start()
    history: dict[str, list[float]] = {
        k: [] for k in ("train_loss", "val_loss", "val_metric", "lr")
    }
    took: list[float] = []
    stopped = "epochs"
    for epoch in range(epochs):
        began = time.perf_counter()
        lr, total = np.float32(pace.lr), 0.0
        for stack in train.stacks(epoch, length):
            state, loss = advance(state, lr, stack)
            total += float(loss)
        val_loss, val_metric = score(val)
        pace = PlateauState(*jax.device_get(schedule.step(pace, np.float32(val_loss))))
        took.append(time.perf_counter() - began)
        row = {
            "train_loss": total / train.loader.steps,
            "val_loss": val_loss,
            "val_metric": val_metric,
            "lr": float(lr),
        }
        for name, value in row.items():
            history[name].append(value)
        if callback is not None:
            callback(epoch + 1, row)
        if pace.stopped or sum(took) > max_seconds:
            stopped = "rate" if pace.stopped else "time"
            break
    return PlateauResult(
        test=score(part("test"))[1],
        val=history["val_metric"][-1],
        train=score(part("train"))[1],
        epochs=len(took),
        seconds=sum(took),
        seconds_per_epoch=float(np.mean(took[1:] or took)),
        history=history,
        stopped=stopped,
        variables=jax.device_get({"params": state[1], **state[2]}),
    )
