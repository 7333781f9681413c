"""`TrainState` and what changes it: optimiser, learning rate, choice of the best epoch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jgraph.train.config import TrainConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes; inside `fit` each leaf has a leading axis of R runs.

    Attributes:
      step: int32, optimiser steps taken.
      params: parameters; `model_state`: the model's other collections (batch statistics).
      opt_state: of optax.
      key: uint32 key data that dropout is drawn from; constant, `step` is folded in.
      lr_scale, plateau_best, plateau_wait: of schedule "plateau".
      best_params, best_model_state, best_value, best_epoch: at the best evaluation so far; value
        is what `select` minimises, infinite and epoch -1 before the first finite one.
      epochs_since_best: int32.
      active: bool; a run that stopped early is frozen.
    """

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    key: Any
    lr_scale: Any
    plateau_best: Any
    plateau_wait: Any
    best_params: Any
    best_model_state: Any
    best_value: Any
    best_epoch: Any
    epochs_since_best: Any
    active: Any

    def replace(self, **changes: Any) -> TrainState:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)


def first_layer_mask(shapes: Any) -> Any:
    """Marks the parameters of the first layer that a model creates.

    Args:
      shapes: the nested dict of parameters in order of creation (as `Module.init` returns it;
        jax.jit and jax.tree.map would sort it). Wrappers that hold one child are looked through.

    Returns:
      the same tree with True at the leaves of the first child.
    """
    if not isinstance(shapes, dict):
        return True
    if len(shapes) == 1:
        return {name: first_layer_mask(child) for name, child in shapes.items()}
    children = [name for name, child in shapes.items() if isinstance(child, dict)]
    if not children:
        return jax.tree.map(lambda _: True, shapes)
    first = children[0]
    return {
        name: jax.tree.map(lambda _, name=name: name == first, child)
        for name, child in shapes.items()
    }


def build_optimizer(config: TrainConfig, decayed: Any = None) -> optax.GradientTransformation:
    """The optimiser without its learning rate: `-learning_rate(...)` multiplies its updates.

    Args:
      decayed: mask of the parameters that decay; None means all.
    """
    parts = []
    if config.grad_clip:
        parts.append(optax.clip_by_global_norm(config.grad_clip))
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
    if config.weight_decay and config.optimizer != "adamw":
        parts.append(decay)
    if config.optimizer == "sgd":
        parts.append(optax.trace(config.momentum) if config.momentum else optax.identity())
    else:
        parts.append(optax.scale_by_adam())
    if config.weight_decay and config.optimizer == "adamw":
        parts.append(decay)
    return optax.chain(*parts)


def learning_rate(config: TrainConfig, epoch: jax.Array, lr_scale: jax.Array) -> jax.Array:
    """float32 rate during `epoch` (int32, from 0)."""
    epoch = jnp.asarray(epoch, jnp.float32)
    factor = lr_scale if config.schedule == "plateau" else jnp.ones_like(lr_scale)
    if config.schedule == "cosine":
        span = max(config.epochs - config.warmup, 1)
        done = jnp.clip((epoch - config.warmup) / span, 0.0, 1.0)
        factor = factor * 0.5 * (1.0 + jnp.cos(np.pi * done))
    elif config.schedule == "step":
        factor = factor * config.step_factor ** jnp.floor(epoch / config.step_size)
    if config.warmup:
        factor = factor * jnp.minimum(1.0, (epoch + 1.0) / config.warmup)
    return config.lr * factor


def init_state(
    params: Any, model_state: Any, key: jax.Array, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step of one run; `key` is a typed key."""
    zero, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, jnp.float32)
    return TrainState(
        step=zero,
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(key),
        lr_scale=jnp.ones((), jnp.float32),
        plateau_best=infinite,
        plateau_wait=zero,
        best_params=jax.tree.map(jnp.copy, params),
        best_model_state=jax.tree.map(jnp.copy, model_state),
        best_value=infinite,
        best_epoch=jnp.full((), -1, jnp.int32),
        epochs_since_best=zero,
        active=jnp.ones((), bool),
    )


def choose(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` where the scalar condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def record_evaluation(
    config: TrainConfig,
    state: TrainState,
    epoch: jax.Array,
    val_loss: jax.Array,
    value: jax.Array,
) -> TrainState:
    """Keeps the best parameters, counts patience and plateau; a frozen run stays as it is.

    Args:
      val_loss: of this evaluation.
      value: what is minimised: `val_loss` or the metric with its sign turned; NaN never wins.
    """
    better = state.active & (value < state.best_value)
    best_epoch = jnp.where(better, epoch, state.best_epoch)
    since = epoch - best_epoch
    new = state.replace(
        best_params=choose(better, state.params, state.best_params),
        best_model_state=choose(better, state.model_state, state.best_model_state),
        best_value=jnp.where(better, value, state.best_value),
        best_epoch=best_epoch,
        epochs_since_best=since,
    )
    if config.schedule == "plateau":
        # PyTorch's ReduceLROnPlateau(mode="min", threshold=1e-4, threshold_mode="rel").
        improved = val_loss < state.plateau_best * (1 - 1e-4)
        wait = jnp.where(improved, 0, state.plateau_wait + config.eval_every)
        drop = wait > config.step_size
        new = new.replace(
            plateau_best=jnp.where(improved, val_loss, state.plateau_best),
            plateau_wait=jnp.where(drop, 0, wait),
            lr_scale=jnp.where(drop, state.lr_scale * config.step_factor, state.lr_scale),
        )
    if config.patience:
        new = new.replace(active=state.active & (since < config.patience))
    return choose(state.active, new, state)
