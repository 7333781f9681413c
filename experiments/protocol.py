"""What the experiments share: training by the recipe, tuning on validation, recording."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from jgraph import data
from jgraph.commands.setting import Setting, config_of, make_setting
from jgraph.results import Value, number, record
from jgraph.train import Result, fit

MODEL_OPTIONS = ("hidden", "layers", "heads", "dropout", "norm", "residual", "aggregate_first")


def run(
    model: str,
    dataset: str | data.Dataset,
    *,
    split: int | str = 0,
    preparations: Sequence[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> tuple[Setting, Result]:
    """Trains `model` on `dataset` by its recipe with options of model or training changed."""
    loaded = data.load(dataset) if isinstance(dataset, str) else dataset
    hyper = {name: options.pop(name) for name in MODEL_OPTIONS if name in options}
    setting = make_setting(model, loaded, hyper=hyper, preparations=preparations)
    config = config_of(setting.recipe, loaded, **options)
    return setting, fit(setting.model, setting.dataset, config, split=split, progress=progress)


def tune(
    model: str,
    dataset: str,
    grid: Mapping[str, Sequence[Any]],
    *,
    split: int | str = "all",
    **options: Any,
) -> tuple[dict[str, Any], Result]:
    """The combination of `grid` with the best mean validation metric, and its result.

    Test scores of the others are never looked at.
    """
    best: tuple[float, dict[str, Any], Result] | None = None
    loaded = data.load(dataset)
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values))
        _, result = run(model, loaded, split=split, progress=False, **options, **chosen)
        score = float(np.mean(result.val_metric))
        if best is None or score > best[0]:
            best = score, chosen, result
    assert best is not None
    return best[1], best[2]


def percent(
    name: str,
    result: Result,
    *,
    target: float | None = None,
    reported: float | None = None,
    source: str = "",
    note: str = "",
) -> Value:
    """The test metric of a result as a `Value` in percent."""
    return Value(
        name=name,
        mean=100 * result.mean,
        std=100 * result.std,
        n=len(result.runs),
        target=target,
        reported=reported,
        source=source,
        note=note,
    )


def report(
    slug: str,
    values: Sequence[Value],
    began: float,
    command: str,
    config: Mapping[str, Any],
    name: str | None = None,
    provenance: str = "",
) -> None:
    """Prints measured beside target and literature, and writes the result file.

    `provenance`: what a reader must know of how the values came about; the table prints it.
    """
    console = Console()
    for value in values:
        parts = [f"{value.name}: {number(value.mean)}"]
        if value.std is not None:
            parts.append(f"± {number(value.std)}")
        if value.target is not None:
            side = "≥" if value.higher else "≤"
            mark = "reached" if value.reached else "NOT reached"
            parts.append(f"(to reach {side} {number(value.target)}: {mark})")
        if value.reported is not None:
            parts.append(f"[literature {number(value.reported)}, {value.source}]")
        console.print(" ".join(parts), highlight=False, markup=False)
    path = record(
        name or slug,
        values,
        slug=slug,
        command=command,
        seconds=time.time() - began,
        config=config,
        provenance=provenance,
    )
    console.print(f"written to {path}")
