"""A model and a data set from their names, as a run directory stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jgraph import data, gnn
from jgraph.data import transforms
from jgraph.graph import Graph, SparseMatrix
from jgraph.paper import Recipe
from jgraph.train import TrainConfig

PREPARATIONS = {
    "undirected": transforms.to_undirected,
    "without_loops": transforms.remove_self_loops,
    "rows_to_one": transforms.normalize_features,
}


def default_preparations(dataset: data.Dataset) -> list[str]:
    """What is done to a data set unless the user says otherwise.

    Node tasks get both directions of every edge and no self-loops (the layers that want a loop
    add their own); sparse bags of words get rows that sum to 1.
    """
    if dataset.task != "node":
        return []
    steps = ["undirected", "without_loops"]
    return steps + (["rows_to_one"] if isinstance(dataset.graph.nodes, SparseMatrix) else [])


def prepare(dataset: data.Dataset, steps: Sequence[str]) -> data.Dataset:
    """Applies preparations by name.

    Raises:
      ValueError: an unknown name.
    """
    for step in steps:
        if step not in PREPARATIONS:
            raise ValueError(f"prepare is {step!r}; choose from {', '.join(PREPARATIONS)}")
        dataset = PREPARATIONS[step](dataset)
    return dataset


@dataclass(frozen=True)
class Setting:
    """A prepared data set, a model for it, and the description that rebuilds both."""

    model: Any
    dataset: data.Dataset
    recipe: Recipe
    description: dict[str, Any]


def make_setting(
    model: str,
    dataset: data.Dataset,
    *,
    hyper: dict[str, Any] | None = None,
    preparations: Sequence[str] | None = None,
) -> Setting:
    """Builds the model for the data set.

    Args:
      hyper: hyperparameters that replace the recipe's.
      preparations: names from `PREPARATIONS`; None takes the defaults.

    Raises:
      ValueError: an unknown model, hyperparameter or preparation.
    """
    module = gnn.get(model)
    steps = list(default_preparations(dataset) if preparations is None else preparations)
    dataset = prepare(dataset, steps)
    hyper = {key: value for key, value in (hyper or {}).items() if value is not None}
    built = module.build(dataset.num_classes, task=dataset.task, **hyper)
    description = {
        "name": model,
        "task": dataset.task,
        "num_classes": dataset.num_classes,
        "num_features": num_features(dataset.graphs[0]),
        "hyper": hyper,
        "preparations": steps,
    }
    return Setting(built, dataset, module.RECIPES[dataset.task], description)


def num_features(graph: Graph) -> int:
    """Columns of the node features.

    Raises:
      ValueError: the graph has none.
    """
    shape = getattr(graph.nodes, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError("nodes must be one (N, F) array; add features, such as degrees, first")
    return int(shape[1])


def config_of(recipe: Recipe, dataset: data.Dataset, **changes: Any) -> TrainConfig:
    """The recipe's training settings, changed by those of `changes` that are not None."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    chosen = {
        name: getattr(recipe, name)
        for name in ("epochs", "lr", "weight_decay", "weight_decay_on", "patience", "batch_size")
    }
    chosen |= {name: value for name, value in recipe.extra.items() if name in fields}
    if dataset.metric == "mae":
        chosen["loss"] = "l1"
    elif dataset.metric == "roc_auc":
        chosen["select"] = "val_metric"
    chosen |= {name: value for name, value in changes.items() if value is not None}
    return TrainConfig(**chosen)


def rebuild(description: dict[str, Any]) -> Any:
    """The model that a run directory describes."""
    module = gnn.get(description["name"])
    return module.build(
        description["num_classes"], task=description["task"], **description["hyper"]
    )


def count_parameters(params: Any) -> int:
    """Number of trainable scalars."""
    return int(sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(params)))
