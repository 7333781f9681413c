"""`jgraph train`: trains a model on a data set and leaves a run directory."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from jgraph import data
from jgraph.commands.setting import Setting, config_of, count_parameters, make_setting
from jgraph.train import Result, fit


def which_split(text: str, dataset: data.Dataset) -> int | str:
    """The argument of `fit` for a `--split` of "auto", "all" or a number.

    Raises:
      ValueError: something else.
    """
    if text == "auto":
        return "all" if len(dataset.splits) > 1 else 0
    if text == "all":
        return "all"
    if not text.isdigit():
        raise ValueError(f"split is {text!r}; give a number, 'all' or 'auto'")
    return int(text)


def show(console: Console, setting: Setting, result: Result) -> None:
    """Prints what was trained and how it did."""
    size = count_parameters(result.params) // len(result.runs)
    console.print(
        f"[bold]{setting.description['name']}[/bold] ({size:,} parameters) on "
        f"[bold]{setting.dataset.name}[/bold]: {result.summary()}",
        highlight=False,
    )
    if result.out is not None:
        console.print(
            f"run directory: {result.out} (predict with: jgraph predict --run {result.out})"
        )


def train(
    model: str,
    dataset: str,
    seeds: int = 1,
    seed: int = 0,
    split: str = "auto",
    epochs: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    patience: int | None = None,
    batch_size: int | None = None,
    select: str | None = None,
    hidden: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    dropout: float | None = None,
    norm: str | None = None,
    residual: bool = False,
    prepare: tuple[str, ...] | None = None,
    out: Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 50,
    progress: bool = True,
) -> Result:
    """Train a model on a data set.

    The defaults of a model are its paper's recipe. Test scores are read once, at the parameters
    that validation chose.

    Args:
      model: name of a model; `jgraph list` shows them.
      dataset: name of a data set; `jgraph list` shows them.
      seeds: independent runs per split, trained together.
      seed: the first seed.
      split: a split's number, "all", or "auto" (all where there are several).
      epochs: most epochs.
      lr: learning rate.
      weight_decay: L2 coefficient.
      schedule: constant, cosine, step or plateau.
      patience: stop after so many epochs without improvement; 0 never stops.
      batch_size: graphs per step (graph tasks).
      select: val_loss or val_metric, by which the tested epoch is chosen.
      hidden: hidden width (per head for attention).
      layers: number of convolutions.
      heads: attention heads.
      dropout: dropout rate.
      norm: none, batch or layer.
      residual: add a layer's input to its output.
      prepare: preparations of the graph: undirected, without_loops, rows_to_one.
      out: run directory; default runs/MODEL-DATASET.
      resume: go on with the run in the directory.
      checkpoint_every: epochs between checkpoints; 0 saves only at the end.
      progress: show a progress bar.
    """
    loaded = data.load(dataset)
    hyper = {
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "dropout": dropout,
        "norm": norm,
        "residual": residual or None,
    }
    setting = make_setting(model, loaded, hyper=hyper, preparations=prepare)
    config = config_of(
        setting.recipe,
        loaded,
        seeds=seeds,
        seed=seed,
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        patience=patience,
        batch_size=batch_size,
        select=select,
        checkpoint_every=checkpoint_every,
    )
    result = fit(
        setting.model,
        setting.dataset,
        config,
        split=which_split(split, loaded),
        out=out or Path("runs") / f"{model}-{dataset}",
        resume=resume,
        progress=progress,
        describe=setting.description,
    )
    show(Console(), setting, result)
    return result
