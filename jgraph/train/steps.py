"""What happens on the device: one training step, forward passes, and an epoch's record.

Functions here treat one run; `over_runs` lifts them to the leading axis of R runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jgraph.train.config import TrainConfig
from jgraph.train.state import (
    TrainState,
    build_optimizer,
    choose,
    first_layer_mask,
    init_state,
    learning_rate,
    record_evaluation,
)
from jgraph.train.tasks import Objective

AXIS = "data"
HISTORY = ("train_loss", "train_metric", "val_loss", "val_metric", "lr")


def over_runs(function: Callable[..., Any], how: str) -> Callable[..., Any]:
    """`function` of one run applied along the leading axis of all its arguments.

    A single run is called bare, so that it costs what it would without runs.
    """

    def lifted(*args: Any) -> Any:
        if jax.tree.leaves(args)[0].shape[0] == 1:
            out = function(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], out)
        if how == "map":
            return jax.lax.map(lambda packed: function(*packed), args)
        return jax.vmap(function)(*args)

    return lifted


def empty_history(epochs: int, runs: int) -> dict[str, np.ndarray]:
    """(epochs, runs) float32 NaN for each quantity of `HISTORY`."""
    return {name: np.full((epochs, runs), np.nan, np.float32) for name in HISTORY}


def write_history(history: dict, epoch: jax.Array, row: dict, was_active: jax.Array) -> dict:
    """`history` with `row` (R,) at `epoch`; runs that had stopped before keep their NaN."""
    return {
        name: values.at[epoch].set(jnp.where(was_active, row[name], jnp.nan))
        for name, values in history.items()
    }


@dataclass(frozen=True)
class Stepper:
    """A model with its objective and optimiser.

    Attributes:
      model: a linen module; `trained`: the same, or its clone that syncs batch norm over `axis`.
      axis: mesh axis that the batch is split over, or None.
      how: "vmap" or "map", see `over_runs`.
    """

    model: nn.Module
    trained: nn.Module
    config: TrainConfig
    objective: Objective
    optimizer: optax.GradientTransformation
    axis: str | None
    how: str

    def step(
        self, state: TrainState, epoch: jax.Array, graph: Any, labels: jax.Array, mask: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        """One optimiser step on one (part of a) batch; returns the new state and the outputs.

        Loss and gradient are means over the masked-in rows of the whole batch, over all devices.
        A frozen run, or a batch without rows, changes nothing. With several devices dropout draws
        from the key and the device's number, so its masks differ from those on one device.
        """
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        if self.axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis))
        local = jnp.sum(mask).astype(jnp.float32)
        count = local if self.axis is None else jax.lax.psum(local, self.axis)

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            outputs, changed = self.trained.apply(
                {"params": params, **state.model_state},
                graph,
                train=True,
                rngs={"dropout": key},
                mutable=list(state.model_state),
            )
            losses = self.objective.losses(outputs, labels, mask)
            return jnp.sum(losses) / jnp.maximum(count, 1.0), (outputs, changed)

        grads, (outputs, changed) = jax.grad(loss_of, has_aux=True)(state.params)
        if self.axis is not None:
            # A device without rows has nothing to add, not even the NaN of its empty means.
            share = local / jnp.maximum(count, 1.0)
            changed = jax.tree.map(lambda x: x * share.astype(x.dtype), changed)
            nothing = jax.tree.map(jnp.zeros_like, (grads, changed))
            grads, changed = jax.lax.psum(choose(local > 0, (grads, changed), nothing), self.axis)
        rate = learning_rate(self.config, epoch, state.lr_scale)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates)
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state={**state.model_state, **changed},
            opt_state=opt_state,
        )
        return choose(state.active & (count > 0), new, state), outputs

    def forward(self, params: Any, model_state: Any, graph: Any) -> jax.Array:
        """Outputs without dropout."""
        outputs: Any = self.model.apply({"params": params, **model_state}, graph, train=False)
        return outputs

    def close_epoch(
        self,
        state: TrainState,
        history: dict,
        epoch: jax.Array,
        was_active: jax.Array,
        evaluate: Callable[[TrainState], dict],
    ) -> tuple[TrainState, dict]:
        """Evaluates all runs if this epoch is due, and writes the epoch's row.

        Args:
          evaluate: (R,) train and validation loss and metric of the runs.
        """
        config, objective = self.config, self.objective
        rate = learning_rate(config, epoch, state.lr_scale)

        def look(state: TrainState) -> tuple[TrainState, dict]:
            row = evaluate(state)
            value = row["val_loss"]
            if config.select == "val_metric":
                value = objective.lower_is_better(row["val_metric"])
            record = over_runs(
                lambda s, loss, v: record_evaluation(config, s, epoch, loss, v), "vmap"
            )
            return record(state, row["val_loss"], value), row

        def skip(state: TrainState) -> tuple[TrainState, dict]:
            nothing = jnp.full(was_active.shape, jnp.nan, jnp.float32)
            return state, {name: nothing for name in HISTORY if name != "lr"}

        if config.eval_every == 1:
            state, row = look(state)
        else:
            state, row = jax.lax.cond(config.evaluates(epoch), look, skip, state)
        return state, write_history(history, epoch, {**row, "lr": rate}, was_active)


def prepare(
    model: nn.Module,
    config: TrainConfig,
    objective: Objective,
    example: Any,
    seeds: np.ndarray,
    *,
    axis: str | None,
    how: str,
) -> tuple[Stepper, TrainState, jax.ShapeDtypeStruct]:
    """Initialises R runs.

    Args:
      example: the graph (or one padded batch) that parameters are initialised with.
      seeds: (R,) integers; run r draws its parameters and dropout from `seeds[r]` alone.
      axis: the mesh axis over which a batch is split; a model with an attribute `axis_name` is
        cloned with it, so that its batch norm sees the whole batch.

    Returns:
      (stepper, state of all runs, shape of the model's outputs).

    Raises:
      ValueError: the model has no parameters.
    """
    created: dict = {}

    def init(key: jax.Array, example: Any) -> tuple[Any, Any]:
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 2)}
        variables = dict(model.init(rngs, example, train=False))
        params = variables.pop("params", {})
        created.update(params)
        return params, variables

    shapes = jax.eval_shape(init, jax.random.key(0), example)
    if not jax.tree.leaves(shapes[0]):
        raise ValueError(f"model {type(model).__name__} has no parameters to train")
    decayed = first_layer_mask(created) if config.weight_decay_on == "first" else None
    optimizer = build_optimizer(config, decayed)
    trained = model
    if axis is not None and hasattr(model, "axis_name"):
        trained = model.clone(axis_name=axis)
    stepper = Stepper(model, trained, config, objective, optimizer, axis, how)

    @jax.jit
    def start(seeds: jax.Array, example: Any) -> TrainState:
        def one(seed: jax.Array) -> TrainState:
            key = jax.random.key(seed)
            params, model_state = init(jax.random.fold_in(key, 0), example)
            return init_state(params, model_state, jax.random.fold_in(key, 1), optimizer)

        return jax.lax.map(one, seeds)

    state = start(np.asarray(seeds, np.uint32), example)
    outputs = jax.eval_shape(stepper.forward, *shapes, example)
    return stepper, state, outputs


def check_outputs(
    outputs: jax.ShapeDtypeStruct, rows: int, num_classes: int, objective: Objective, what: str
) -> None:
    """Raises ValueError when the model's outputs do not fit the labels."""
    shape = tuple(outputs.shape)
    if not shape or shape[0] != rows:
        raise ValueError(
            f"the model returns shape {shape}, but there are {rows} {what}: build it with "
            f"task={'node' if what == 'nodes' else 'graph'!r}"
        )
    if objective.loss == "cross_entropy" and (len(shape) != 2 or shape[1] < num_classes):
        raise ValueError(
            f"the model returns shape {shape}, but the labels have {num_classes} classes: build "
            f"it with num_classes={num_classes}"
        )
    if objective.loss != "cross_entropy" and shape not in ((rows,), (rows, 1)):
        raise ValueError(
            f"the model returns shape {shape}, but a regression needs one value per row: build it "
            "with num_classes=1"
        )
