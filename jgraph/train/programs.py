"""The two ways through a data set: one whole graph, or epochs of padded batches of graphs.

Both have the same face: `run(state, history, start, stop)` advances all runs on the device and
`test(params, model_state)` scores the test part. Each is compiled once, ahead of time, with data
as arguments and state donated, so no later call can retrace.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jgraph.train.batches import Batches, GraphStore, Loader
from jgraph.train.config import TrainConfig
from jgraph.train.state import TrainState
from jgraph.train.steps import AXIS, Stepper, check_outputs, over_runs, prepare
from jgraph.train.tasks import Objective

P = PartitionSpec


def _check_mesh(mesh: Mesh | None) -> int:
    if mesh is None:
        return 1
    if AXIS not in mesh.axis_names:
        raise ValueError(
            f"mesh has axes {mesh.axis_names}; fit needs one named {AXIS!r}: "
            f"jax.make_mesh((jax.device_count(),), ({AXIS!r},))"
        )
    return mesh.shape[AXIS]


def _sharded(function: Callable, mesh: Mesh | None, in_specs: Any, out_specs: Any) -> Callable:
    if mesh is None:
        return function
    # Custom derivatives of the sparse ops carry no varying-axes types, so these are not checked;
    # every sum over devices is written out in `Stepper.step`.
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


class _Program:
    """What the two programs share."""

    stepper: Stepper
    initial: TrainState
    compile_seconds = 0.0

    def __init__(self, mesh: Mesh | None):
        self.mesh, self.devices = mesh, _check_mesh(mesh)

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def _compile(self, function: Callable, args: Sequence[Any], outs: Any, donate: tuple) -> Any:
        began = time.perf_counter()
        shardings = {}
        mesh = self.mesh
        if mesh is not None and outs is not None:
            shardings["out_shardings"] = jax.tree.map(
                lambda spec: NamedSharding(mesh, spec),
                outs,
                is_leaf=lambda x: isinstance(x, PartitionSpec),
            )
        jitted = jax.jit(function, donate_argnums=donate, **shardings)
        compiled = jitted.lower(*args).compile()
        self.compile_seconds += time.perf_counter() - began
        return compiled


class NodeProgram(_Program):
    """Full-graph training: epochs run in a loop on the device; a mesh shares out the runs."""

    longest_chunk = 1000

    def __init__(
        self,
        model: Any,
        dataset: Any,
        config: TrainConfig,
        objective: Objective,
        splits: Sequence[Any],
        seeds: Sequence[int],
        mesh: Mesh | None,
    ):
        super().__init__(mesh)
        runs = len(splits)
        if runs % self.devices:
            raise ValueError(
                f"mesh has {self.devices} devices on axis {AXIS!r}, which cannot share out {runs} "
                "runs evenly: choose seeds and splits so that their product is a multiple"
            )
        labels = np.asarray(dataset.labels)
        self._shared = self._put((dataset.graph, labels), P())
        graph = self._shared[0]
        self.stepper, self.initial, outputs = prepare(
            model, config, objective, graph, np.asarray(seeds), axis=None, how=config.runs_by
        )
        check_outputs(outputs, graph.num_nodes, dataset.num_classes, objective, "nodes")
        self._test_mask = self._masks([split.test for split in splits], labels.size)
        self._masks_in = tuple(
            self._masks([getattr(split, part) for split in splits], labels.size)
            for part in ("train", "val")
        )
        self._specs = (P(AXIS), P(None, AXIS))
        self._advance: Any = None

    def _masks(self, indices: Sequence[np.ndarray], size: int) -> jax.Array:
        masks = np.zeros((len(indices), size), bool)
        for row, chosen in zip(masks, indices):
            row[chosen] = True
        return self._put(masks, P(AXIS))

    def place(self, state: TrainState, history: dict) -> tuple[TrainState, dict]:
        """State and history on their devices."""
        return self._put(state, self._specs[0]), self._put(history, self._specs[1])

    def _scores(self, params: Any, model_state: Any, shared: Any, *masks: jax.Array) -> list:
        """[(loss, metric), ...] of one run, for each mask."""
        graph, labels = shared
        outputs = self.stepper.forward(params, model_state, graph)
        return [self.stepper.objective.score(outputs, labels, mask) for mask in masks]

    def _chunk(
        self, state: TrainState, history: dict, shared: Any, masks: Any, start: Any, stop: Any
    ) -> tuple[TrainState, dict]:
        stepper = self.stepper
        graph, labels = shared

        def evaluate(state: TrainState) -> dict:
            score = over_runs(lambda p, m, *k: self._scores(p, m, shared, *k), stepper.how)
            train, val = score(state.params, state.model_state, *masks)
            return {
                "train_loss": train[0],
                "train_metric": train[1],
                "val_loss": val[0],
                "val_metric": val[1],
            }

        def epoch_of(carry: Any) -> Any:
            epoch, state, history = carry
            was_active = state.active
            advance = over_runs(
                lambda s, mask: stepper.step(s, epoch, graph, labels, mask)[0], stepper.how
            )
            state = advance(state, masks[0])
            state, history = stepper.close_epoch(state, history, epoch, was_active, evaluate)
            return epoch + 1, state, history

        def unfinished(carry: Any) -> jax.Array:
            epoch, state, _ = carry
            return (epoch < stop) & jnp.any(state.active)

        # A loop with bounds given at run time: one program for chunks of every length, hence the
        # same bits however the epochs are cut into chunks.
        _, state, history = jax.lax.while_loop(unfinished, epoch_of, (start, state, history))
        return state, history

    def run(
        self, state: TrainState, history: dict, start: int, stop: int
    ) -> tuple[TrainState, dict]:
        """Trains epochs [start, stop); compiles at the first call."""
        args = (state, history, self._shared, self._masks_in, np.int32(start), np.int32(stop))
        if self._advance is None:
            here, rows = self._specs
            ins = (here, rows, P(), here, P(), P())
            self._advance = self._compile(
                _sharded(self._chunk, self.mesh, ins, self._specs), args, None, (0, 1)
            )
        return self._advance(*args)

    def test(self, params: Any, model_state: Any) -> tuple[np.ndarray, np.ndarray]:
        """(loss, metric), each (R,), on the test nodes."""

        def score(params: Any, model_state: Any, shared: Any, masks: jax.Array) -> Any:
            one = over_runs(lambda p, m, k: self._scores(p, m, shared, k)[0], self.stepper.how)
            return one(params, model_state, masks)

        here = self._specs[0]
        function = _sharded(score, self.mesh, (here, here, P(), here), here)
        out = jax.jit(function)(params, model_state, self._shared, self._test_mask)
        return jax.device_get(out)


class GraphProgram(_Program):
    """Training on batches of graphs: an epoch is one scan; a mesh cuts every batch in parts."""

    longest_chunk = 8

    def __init__(
        self,
        model: Any,
        dataset: Any,
        config: TrainConfig,
        objective: Objective,
        splits: Sequence[Any],
        seeds: Sequence[int],
        mesh: Mesh | None,
    ):
        super().__init__(mesh)
        self._store = GraphStore(dataset.graphs, dataset.labels)
        self._load: Any = functools.partial(
            Loader, self._store, seeds=seeds, batch_size=config.batch_size, devices=self.devices
        )
        self._splits = splits
        self._train = self._load([s.train for s in splits], epochs=config.epochs)
        first = jax.tree.map(lambda x: x[0, 0, 0], self._train.epoch(0))
        self.stepper, self.initial, outputs = prepare(
            model,
            config,
            objective,
            first.graph,
            np.asarray(seeds),
            axis=None if mesh is None else AXIS,
            how=config.runs_by,
        )
        check_outputs(outputs, first.mask.size, dataset.num_classes, objective, "graphs")
        self._spec = P(None, None, AXIS)
        self._val = self._part("val")
        self._advance: Any = None

    def _part(self, name: str) -> Batches:
        loader = self._load([getattr(split, name) for split in self._splits])
        return self._put(loader.epoch(), self._spec)

    def place(self, state: TrainState, history: dict) -> tuple[TrainState, dict]:
        """State and history on their devices."""
        return self._put(state, P()), self._put(history, P())

    def _outputs(self, params: Any, model_state: Any, batches: Batches) -> jax.Array:
        """(R, steps, D, G, C) outputs without dropout."""

        def one(params: Any, model_state: Any, batches: Batches) -> jax.Array:
            local = jax.tree.map(lambda x: x[:, 0], batches)
            return jax.lax.map(lambda b: self.stepper.forward(params, model_state, b.graph), local)[
                :, None
            ]

        run = over_runs(one, self.stepper.how)
        return _sharded(run, self.mesh, (P(), P(), self._spec), self._spec)(
            params, model_state, batches
        )

    def _score(self, outputs: jax.Array, batches: Batches) -> tuple[jax.Array, jax.Array]:
        """(loss, metric), each (R,), over all batches of each run."""

        def local(*parts: jax.Array) -> tuple[jax.Array, jax.Array]:
            if self.mesh is not None:
                parts = jax.lax.all_gather(parts, AXIS, axis=2, tiled=True)
            runs, size = parts[2].shape[0], parts[2][0].size
            flat = [part.reshape(runs, size, *part.shape[4:]) for part in parts]
            return over_runs(self.stepper.objective.score, "vmap")(*flat)

        score = _sharded(local, self.mesh, (self._spec,) * 3, P())
        return score(outputs, batches.labels, batches.mask)

    def _epoch(
        self, state: TrainState, history: dict, train: Batches, val: Batches, epoch: Any
    ) -> tuple[TrainState, dict]:
        stepper = self.stepper

        def one(state: TrainState, batches: Batches) -> tuple[TrainState, jax.Array]:
            def body(state: TrainState, b: Batches) -> tuple[TrainState, jax.Array]:
                return stepper.step(state, epoch, b.graph, b.labels, b.mask)

            state, outputs = jax.lax.scan(body, state, jax.tree.map(lambda x: x[:, 0], batches))
            return state, outputs[:, None]

        was_active = state.active
        run = over_runs(one, stepper.how)
        state, outputs = _sharded(run, self.mesh, (P(), self._spec), (P(), self._spec))(
            state, train
        )

        def evaluate(state: TrainState) -> dict:
            train_loss, train_metric = self._score(outputs, train)
            seen = self._outputs(state.params, state.model_state, val)
            val_loss, val_metric = self._score(seen, val)
            return {
                "train_loss": train_loss,
                "train_metric": train_metric,
                "val_loss": val_loss,
                "val_metric": val_metric,
            }

        return stepper.close_epoch(state, history, epoch, was_active, evaluate)

    def run(
        self, state: TrainState, history: dict, start: int, stop: int
    ) -> tuple[TrainState, dict]:
        """Trains epochs [start, stop); compiles at the first call.

        The host builds the next epoch's batches while the device trains.
        """
        for epoch in range(start, stop):
            train = self._put(self._train.epoch(epoch), self._spec)
            args = (state, history, train, self._val, np.int32(epoch))
            if self._advance is None:
                self._advance = self._compile(self._epoch, args, (P(), P()), (0, 1))
            state, history = self._advance(*args)
        return state, history

    def test(self, params: Any, model_state: Any) -> tuple[np.ndarray, np.ndarray]:
        """(loss, metric), each (R,), on the test graphs."""

        @jax.jit
        def score(params: Any, model_state: Any, batches: Batches) -> Any:
            return self._score(self._outputs(params, model_state, batches), batches)

        return jax.device_get(score(params, model_state, self._part("test")))
