"""Pictures of a run: learning curves and embeddings, drawn off screen by matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plots need matplotlib, which jgraph depends on but cannot find: pip install matplotlib"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Any, path: str | os.PathLike) -> Path:
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png", dpi=120)
    os.replace(temporary, path)
    return path


def learning_curves(
    history: Mapping[str, np.ndarray], path: str | os.PathLike, *, metric: str = "metric"
) -> Path:
    """Loss and metric by epoch: the mean over runs as a line, one standard deviation as a band.

    Args:
      history: "train_loss", "val_loss", "train_metric", "val_metric", each (epochs, R); epochs
        without evaluation, and after a run has stopped, are NaN.
      path: of the PNG to write.
      metric: its name, for the axis.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    figure = _figure(9, 3.5)
    for axes, kind, label in zip(figure.subplots(1, 2), ("loss", "metric"), ("loss", metric)):
        for part, colour in (("train", "tab:blue"), ("val", "tab:orange")):
            values = np.asarray(history[f"{part}_{kind}"], np.float64)
            rows = np.flatnonzero(np.isfinite(values).any(axis=1))
            values = np.ma.masked_invalid(values[rows])
            mean, spread = values.mean(axis=1), values.std(axis=1)
            axes.plot(rows + 1, mean, color=colour, label=part)
            if values.shape[1] > 1:
                axes.fill_between(
                    rows + 1, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0
                )
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend()
    return _write(figure, path)


def embedding_plot(points: np.ndarray, labels: np.ndarray, path: str | os.PathLike) -> Path:
    """A scatter plot of points coloured by class.

    Args:
      points: (N, 2), e.g. of a t-SNE or PCA.
      labels: (N,) integers.
      path: of the PNG to write.

    Raises:
      ValueError: shapes that do not fit.
      ModuleNotFoundError: matplotlib is not installed.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise ValueError(
            f"points has shape {points.shape} and labels {labels.shape}; they must be (N, 2) and "
            "(N,): project the embedding to two dimensions first"
        )
    figure = _figure(6, 5)
    axes = figure.subplots()
    classes = np.unique(labels)
    for number, label in enumerate(classes):
        chosen = points[labels == label]
        colour = f"C{number % 10}"
        axes.scatter(chosen[:, 0], chosen[:, 1], s=8, color=colour, label=str(label), linewidth=0)
    axes.set(xticks=[], yticks=[])
    if classes.size <= 20:
        axes.legend(markerscale=2, fontsize="small")
    return _write(figure, path)
