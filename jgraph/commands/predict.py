"""`jgraph predict`: class probabilities from a trained run, as CSV."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jgraph import data
from jgraph.commands.setting import num_features, prepare, rebuild
from jgraph.graph import Graph, GraphError, batch
from jgraph.train import LoadedRun, load_run


def read_graph(path: Path) -> Graph:
    """A graph from an `.npz` file.

    Args:
      path: arrays `senders` and `receivers` (E,), or `edge_index` (2, E), and `nodes` or `x`
        (N, F). Pickled objects are refused.

    Raises:
      ValueError: not such a file, naming what is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"graph: cannot read {path}: {error}; give an .npz of arrays") from error
    if "edge_index" in arrays:
        ends = arrays["edge_index"]
        if ends.ndim != 2 or ends.shape[0] != 2:
            raise ValueError(f"graph: edge_index in {path} must be (2, E), got {ends.shape}")
        arrays["senders"], arrays["receivers"] = ends
    nodes = arrays.get("nodes", arrays.get("x"))
    if nodes is None or "senders" not in arrays or "receivers" not in arrays:
        raise ValueError(
            f"graph: {path} holds {sorted(arrays)}; it needs senders and receivers (or "
            "edge_index), and nodes (or x)"
        )
    return Graph.from_edges(
        arrays["senders"], arrays["receivers"], nodes=nodes.astype(np.float32, copy=False)
    )


def _graph_of(run: LoadedRun, path: Path | None) -> Graph:
    steps = run.model["preparations"]
    if path is None:
        dataset = prepare(data.load(run.dataset["name"]), steps)
        return dataset.graph if dataset.task == "node" else batch(dataset.graphs)
    graph = read_graph(path)
    if "undirected" in steps:
        graph = graph.to_undirected()
    if "without_loops" in steps:
        graph = graph.remove_self_loops()
    if "rows_to_one" in steps:
        total = graph.nodes.sum(axis=1, keepdims=True)
        graph = graph.replace(nodes=graph.nodes / np.where(total == 0, 1, total))
    return graph


def probabilities(run: LoadedRun, graph: Graph) -> np.ndarray:
    """(rows, C) class probabilities of nodes or graphs.

    Raises:
      GraphError: the graph has another number of features than the model was trained on.
    """
    want, have = run.model["num_features"], num_features(graph)
    if want != have:
        raise GraphError(
            f"nodes has {have} features, but the run in {run.path} was trained on {want}"
        )
    model = rebuild(run.model)
    variables = jax.tree.map(jnp.asarray, run.variables)

    @jax.jit
    def apply(variables: Any, graph: Graph) -> jax.Array:
        return jax.nn.softmax(model.apply(variables, graph, train=False), axis=-1)

    return np.asarray(apply(variables, graph))


def write_csv(path: Path, table: np.ndarray, what: str) -> None:
    """One row per node or graph: its number, the likeliest class, and every probability."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([what, "prediction", *(f"p{c}" for c in range(table.shape[1]))])
        for number, row in enumerate(table):
            rows.writerow([number, int(row.argmax()), *(f"{p:.6g}" for p in row)])
    os.replace(temporary, path)


def predict(run: Path, graph: Path | None = None, out: Path | None = None) -> Path:
    """Write class probabilities of a trained run as CSV.

    Args:
      run: a run directory made by `jgraph train`.
      graph: an .npz file with senders, receivers and nodes; default: the run's own data set.
      out: the CSV file; default RUN/predictions.csv.
    """
    loaded = load_run(run)
    table = probabilities(loaded, _graph_of(loaded, graph))
    path = out or run / "predictions.csv"
    write_csv(path, table, loaded.model["task"])
    Console().print(f"{table.shape[0]} predictions of {table.shape[1]} classes written to {path}")
    return path
