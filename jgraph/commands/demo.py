"""`jgraph demo`: five models on handwritten digits: table, plots, checkpoint, predictions."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jgraph import data
from jgraph.commands.predict import probabilities, write_csv
from jgraph.commands.setting import Setting, config_of, count_parameters, make_setting
from jgraph.train import Result, embedding_plot, fit, learning_curves, load_run

MODELS = ("mlp", "gcn", "graphsage", "gat", "gin")


def embedding_2d(setting: Setting, result: Result) -> np.ndarray:
    """(N, 2) t-SNE of the node embedding of the best run."""
    from sklearn.manifold import TSNE

    embed = jax.jit(lambda v, g: setting.model.apply(v, g, method="embed"))
    points = np.asarray(embed(result.variables(), setting.dataset.graph))
    return TSNE(init="pca", perplexity=30, random_state=0, max_iter=500).fit_transform(points)


def _row(name: str, setting: Setting, result: Result) -> tuple[str, ...]:
    return (
        name,
        f"{count_parameters(result.params) // len(result.runs):,}",
        f"{100 * result.mean:.2f} ± {100 * result.std:.2f}",
        f"{100 * float(np.mean(result.val_metric)):.2f}",
        f"{1e3 * result.seconds_per_epoch:.1f}",
        f"{result.compile_seconds + result.seconds:.1f}",
    )


def demo(out: Path = Path("runs/demo"), seeds: int = 10, epochs: int = 200) -> Path:
    """Train MLP, GCN, GraphSAGE, GAT and GIN on the graph of handwritten digits.

    Writes, for each model, a run directory with checkpoint and learning curves; for the best one a
    2-D picture of its embedding and a CSV of predictions. An earlier demo in `out` is replaced.

    Args:
      out: directory for everything written.
      seeds: runs of each model, trained together.
      epochs: most epochs of each model.
    """
    console, began = Console(), time.perf_counter()
    dataset = data.load("digits")
    console.print(str(dataset), highlight=False)
    table = Table(
        "model",
        "parameters",
        "test accuracy %",
        "validation %",
        f"ms per epoch of {seeds} runs",
        "seconds in all",
        title=f"{seeds} seeds, test read once at the epoch that validation chose",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    done: dict[str, tuple[Setting, Result]] = {}
    for name in MODELS:
        setting = make_setting(name, dataset)
        config = config_of(setting.recipe, dataset, seeds=seeds, epochs=epochs)
        if (out / name / "config.json").exists():
            shutil.rmtree(out / name)
        result = fit(
            setting.model, setting.dataset, config, out=out / name, describe=setting.description
        )
        done[name] = setting, result
        table.add_row(*_row(name, setting, result))
    console.print(table)
    best = max(done, key=lambda name: float(np.mean(done[name][1].val_metric)))
    setting, result = done[best]
    learning_curves(result.history, out / "curves.png", metric=dataset.metric)
    points = embedding_2d(setting, result)
    embedding_plot(points, dataset.labels, out / "embedding.png")
    run = load_run(out / best)
    predictions = probabilities(run, setting.dataset.graph)
    write_csv(out / "predictions.csv", predictions, "node")
    test = setting.dataset.splits[0].test
    again = float(np.mean(predictions[test].argmax(-1) == dataset.labels[test]))
    console.print(
        f"best by validation: [bold]{best}[/bold]; its checkpoint, read back from {out / best}, "
        f"scores {100 * again:.2f} % on the test digits (run {run.run})"
    )
    for what, path in _written(out, best).items():
        console.print(f"  {what:22} {path}")
    console.print(f"{time.perf_counter() - began:.0f} seconds")
    return out


def _written(out: Path, best: str) -> dict[str, Any]:
    return {
        "learning curves": out / "curves.png",
        "embedding": out / "embedding.png",
        "predictions": out / "predictions.csv",
        "checkpoint": out / best / "checkpoints",
        "predict on your graph": f"jgraph predict --run {out / best} --graph FILE.npz",
    }
