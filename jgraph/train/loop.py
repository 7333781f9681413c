"""`fit`: the one training loop."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jgraph.train import checkpoint, plots
from jgraph.train.config import TrainConfig
from jgraph.train.logging import MetricsFile, Progress, TensorBoard
from jgraph.train.programs import GraphProgram, NodeProgram
from jgraph.train.result import Result
from jgraph.train.run import CURVES, METRICS, RESULT, RunDirectory, describe_dataset, write_json
from jgraph.train.steps import empty_history
from jgraph.train.tasks import Objective

_TARGET_SECONDS = 1.0
_GROWTH = 8


def _chosen_splits(dataset: Any, split: int | str | Sequence[int]) -> list[int]:
    count = len(dataset.splits)
    if isinstance(split, str):
        if split != "all":
            raise ValueError(f"split is {split!r}; give a number, a sequence of numbers or 'all'")
        return list(range(count))
    numbers = [split] if isinstance(split, (int, np.integer)) else list(split)
    if not numbers:
        raise ValueError("split is empty; give at least one number, or 'all'")
    for number in numbers:
        if not 0 <= number < count:
            raise ValueError(
                f"split is {number}, but {dataset.name} has splits 0 to {count - 1}, or 'all'"
            )
    return [int(number) for number in numbers]


def _check_parts(dataset: Any, numbers: Sequence[int], config: TrainConfig) -> None:
    chooses = config.test_at == "best" or config.patience or config.schedule == "plateau"
    for number in numbers:
        split = dataset.splits[number]
        if len(split.train) == 0:
            raise ValueError(f"split {number} of {dataset.name} has no training rows")
        if chooses and len(split.val) == 0:
            raise ValueError(
                f"split {number} of {dataset.name} has no validation rows to choose by: use "
                "test_at='end', patience=0 and a schedule other than 'plateau'"
            )


def _describe_model(model: Any) -> dict[str, str]:
    # Functions among the attributes print their address, which differs from process to process.
    return {"name": type(model).__name__, "text": re.sub(r" at 0x[0-9a-f]+", "", str(model))}


class _Chunks:
    """How many epochs to ask of the device next: about a second's worth."""

    def __init__(self, config: TrainConfig, longest: int):
        self.config, self.longest = config, longest
        self.length = config.chunk or 1

    def stop(self, epoch: int) -> int:
        """The end of the chunk that begins at `epoch`; checkpoints fall on chunk ends."""
        stop = min(epoch + self.length, self.config.epochs)
        every = self.config.checkpoint_every
        return min(stop, (epoch // every + 1) * every) if every else stop

    def took(self, epochs: int, seconds: float) -> None:
        """Adapts to the time that a chunk took."""
        if not self.config.chunk:
            wanted = int(_TARGET_SECONDS * epochs / max(seconds, 1e-6))
            self.length = max(1, min(wanted, self.longest, _GROWTH * epochs))


def fit(
    model: Any,
    dataset: Any,
    config: TrainConfig,
    *,
    split: int | str | Sequence[int] = 0,
    out: str | os.PathLike | None = None,
    resume: bool | str = False,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
    callbacks: Sequence[Callable[[int, dict[str, np.ndarray]], None]] = (),
    describe: dict[str, Any] | None = None,
) -> Result:
    """Trains a model on a data set, several seeds and splits at once.

    A node task trains on the whole graph, epochs looping on the device; a graph task on shuffled
    padded batches, nothing dropped. The test part is looked at once, after training. The same
    settings give the same bits, however the run is cut into chunks or interrupted and resumed.

    Args:
      model: a linen module, `model.apply(variables, graph, train=...)` -> (N, C) or (G, C).
      dataset: a `jgraph.data.Dataset`.
      split: number of the split, several numbers, or "all". With n splits, run r trains on split
        r % n with seed config.seed + r // n.
      out: run directory for settings, metrics, checkpoints, curves and result; None writes none.
      resume: go on from the last checkpoint in `out`; "auto" begins anew when there is none.
      mesh: a mesh with an axis "data". Batches of graphs are cut into one part per device, and
        gradients summed; a node task shares out its runs, whose number must be a multiple.
        With cut batches dropout masks differ from those on one device.
      progress: show a bar on a terminal, else a line every ten seconds.
      callbacks: called as `callback(epoch, row)` for every epoch (from 1) in order, after the
        device has finished the chunk it lies in; row holds (R,) arrays.
      describe: the model's name and hyperparameters, JSON data: stored in the run directory and
        compared on resume. Defaults to the class name and the module's text.

    Returns:
      `Result`.

    Raises:
      ValueError: settings that do not fit the data or the model.
      RunError: `out` holds a run and `resume` is False.
      CheckpointError: nothing to resume, a run with other settings, or a refused write.
    """
    if resume and out is None:
        raise ValueError("resume needs out, the directory of the run to go on with")
    numbers = _chosen_splits(dataset, split)
    _check_parts(dataset, numbers, config)
    objective = Objective(config.loss, dataset.metric)
    runs = [(number, config.seed + s) for s in range(config.seeds) for number in numbers]
    directory = None if out is None else RunDirectory(out, resume)
    identity = {
        "model": describe or _describe_model(model),
        "dataset": describe_dataset(dataset, numbers),
        "config": config.identity(),
    }
    build = NodeProgram if dataset.task == "node" else GraphProgram
    program = build(
        model,
        dataset,
        config,
        objective,
        [dataset.splits[number] for number, _ in runs],
        [seed for _, seed in runs],
        mesh,
    )
    state, history = program.initial, empty_history(config.epochs, len(runs))
    epoch, seconds = 0, 0.0
    writers: list[Any] = []
    if directory is not None:
        if directory.resumes:
            like = {"state": state, "history": history}
            tree, record = checkpoint.restore(directory.checkpoints, like, identity)
            state, history = tree["state"], tree["history"]
            epoch, seconds = record["epoch"], record["seconds"]
        directory.begin(identity, config)
        writers = [
            MetricsFile(directory.path / METRICS, epoch),
            TensorBoard(directory.path / "tensorboard"),
        ]
    state, history = program.place(state, history)

    bar = Progress(config.epochs, dataset.metric, done=epoch, enabled=progress, name=dataset.name)
    chunks = _Chunks(config, program.longest_chunk)
    timed: list[tuple[int, float]] = []
    saved = epoch if epoch else -1
    running = bool(np.any(jax.device_get(state.active)))
    try:
        while epoch < config.epochs and running:
            stop = chunks.stop(epoch)
            began, compiled = time.perf_counter(), program.compile_seconds
            state, history = program.run(state, history, epoch, stop)
            running = bool(np.any(jax.device_get(state.active)))
            took = time.perf_counter() - began - (program.compile_seconds - compiled)
            seconds += took
            timed.append((stop - epoch, took))
            chunks.took(*timed[-1])
            rows = jax.device_get({name: v[epoch:stop] for name, v in history.items()})
            _report(rows, epoch, stop, config, writers, bar, callbacks)
            epoch = stop
            every = config.checkpoint_every
            if directory is not None and every and epoch % every == 0:
                _save(directory, epoch, state, history, identity, seconds)
                saved = epoch
        if directory is not None and saved != epoch:
            _save(directory, epoch, state, history, identity, seconds)
    finally:
        bar.close()
        for writer in writers:
            writer.close()

    steady = timed[1:] if len(timed) > 1 else timed
    counted = sum(count for count, _ in steady)
    scores = _finish(program, config, objective, runs, state, history)
    result = Result(
        **scores,
        seconds=seconds,
        seconds_per_epoch=sum(s for _, s in steady) / counted if counted else float("nan"),
        compile_seconds=program.compile_seconds,
        out=None if directory is None else directory.path,
    )
    if directory is not None:
        write_json(directory.path / RESULT, result.record())
        try:
            plots.learning_curves(result.history, directory.path / CURVES, metric=dataset.metric)
        except ModuleNotFoundError as error:
            warnings.warn(f"no {CURVES} written: {error}", stacklevel=2)
    return result


def _report(
    rows: dict[str, np.ndarray],
    start: int,
    stop: int,
    config: TrainConfig,
    writers: Sequence[Any],
    bar: Progress,
    callbacks: Sequence[Callable],
) -> None:
    lines, last = [], None
    for offset, epoch in enumerate(range(start, stop)):
        row = {name: values[offset] for name, values in rows.items()}
        if np.isnan(row["lr"]).all():
            break  # every run had stopped before this epoch
        if config.evaluates(epoch):
            last = row
        lines.append({"epoch": epoch + 1, **row})
        for callback in callbacks:
            callback(epoch + 1, row)
    for writer in writers:
        writer.write(lines)
    bar.update(stop, last)


def _save(
    directory: RunDirectory, epoch: int, state: Any, history: Any, identity: dict, seconds: float
) -> None:
    tree = {"state": state, "history": history}
    record = {"identity": identity, "seconds": seconds}
    checkpoint.save(directory.checkpoints, epoch, tree, record)


def _finish(
    program: Any, config: TrainConfig, objective: Objective, runs: list, state: Any, history: dict
) -> dict[str, Any]:
    best = config.test_at == "best"
    params = state.best_params if best else state.params
    model_state = state.best_model_state if best else state.model_state
    test_loss, test_metric = (np.asarray(x) for x in program.test(params, model_state))
    history, params, model_state, best_epoch = jax.device_get(
        (history, params, model_state, state.best_epoch)
    )
    trained = np.isfinite(history["lr"])
    epochs_run = trained.sum(axis=0)
    at = best_epoch if best else epochs_run - 1
    failed = at < 0
    if failed.any():
        warnings.warn(
            f"runs {np.flatnonzero(failed).tolist()} never had a finite validation "
            f"{config.select}: lower lr or set grad_clip",
            stacklevel=3,
        )
    column = np.arange(len(runs))
    nan = np.float32(np.nan)
    return {
        "metric": objective.metric,
        "test_metric": np.where(failed, nan, test_metric),
        "test_loss": np.where(failed, nan, test_loss),
        "val_metric": np.where(failed, nan, history["val_metric"][at, column]),
        "val_loss": np.where(failed, nan, history["val_loss"][at, column]),
        "best_epoch": best_epoch + 1,
        "epochs_run": epochs_run,
        "runs": tuple(runs),
        "history": history,
        "params": params,
        "model_state": model_state,
    }
