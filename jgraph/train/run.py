"""A run directory: what was run, what came out, and how to load it again.

config.json     model, data set, settings, versions, device
metrics.jsonl   one line per epoch
checkpoints/    the last two
result.json     scores, when the run is complete
curves.png      learning curves
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jgraph
from jgraph.train import checkpoint
from jgraph.train.config import TrainConfig
from jgraph.train.logging import finite

CONFIG, RESULT, METRICS, CHECKPOINTS, CURVES = (
    "config.json",
    "result.json",
    "metrics.jsonl",
    "checkpoints",
    "curves.png",
)


class RunError(RuntimeError):
    """A directory is not a run, is not complete, or holds a run that would be overwritten."""


def write_json(path: Path, data: Any) -> None:
    """Writes JSON whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(finite(data), indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def describe_dataset(dataset: Any, splits: list[int]) -> dict[str, Any]:
    """What identifies the data of a run: sizes, and checksums of labels and splits."""
    parts = [
        np.ascontiguousarray(getattr(dataset.splits[i], part), np.int32)
        for i in splits
        for part in ("train", "val", "test")
    ]
    crc = 0
    for array in [np.ascontiguousarray(dataset.labels), *parts]:
        crc = zlib.crc32(array.tobytes(), crc)
    return {
        "name": dataset.name,
        "task": dataset.task,
        "metric": dataset.metric,
        "graphs": len(dataset.graphs),
        "nodes": sum(graph.num_nodes for graph in dataset.graphs),
        "edges": sum(graph.num_edges for graph in dataset.graphs),
        "splits": splits,
        "checksum": crc,
    }


def versions() -> dict[str, str]:
    """Versions and device of this process, as stored in config.json."""
    devices = jax.devices()
    return {
        "jgraph": jgraph.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


class RunDirectory:
    """The directory of the run that `fit` is making.

    Args:
      path: created if need be.
      resume: True, False or "auto" (resume if there is a checkpoint, else begin).

    Raises:
      RunError: `resume` is False and the directory holds a run.
      CheckpointError: `resume` is True and there is no checkpoint, or the directory cannot be made.
    """

    def __init__(self, path: str | os.PathLike, resume: bool | str):
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS
        found = checkpoint.checkpoints(self.checkpoints)
        if resume not in (True, False, "auto"):
            raise ValueError(f"resume is {resume!r}; it must be True, False or 'auto'")
        if not resume and (found or (self.path / RESULT).exists()):
            raise RunError(
                f"{self.path} holds a run already: pass resume=True to go on with it, or give "
                "another directory"
            )
        if resume is True:
            checkpoint.latest(self.checkpoints)
        self.resumes = bool(resume and found)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise checkpoint.CheckpointError(
                f"cannot create the run directory {self.path}: {error}; give a writable path"
            ) from error

    def begin(self, identity: dict[str, Any], config: TrainConfig) -> None:
        """Writes config.json; a resumed run keeps its own."""
        if self.resumes and (self.path / CONFIG).exists():
            return
        stored = {**identity, "config": dataclasses.asdict(config), "versions": versions()}
        write_json(self.path / CONFIG, stored)


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, read back.

    Attributes:
      path: its directory.
      model: what `describe` said when it was trained: name and hyperparameters.
      dataset: name and sizes of its data.
      config: the `TrainConfig`.
      variables: {"params": ..., ...} of one run, for `model.apply`.
      run: which run that is.
      result: the content of result.json.
    """

    path: Path
    model: dict[str, Any]
    dataset: dict[str, Any]
    config: TrainConfig
    variables: dict[str, Any]
    run: int
    result: dict[str, Any]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def load_run(path: str | os.PathLike, run: int | str = "best") -> LoadedRun:
    """Settings, scores and tested parameters of a finished run.

    Args:
      path: the directory given to `fit` as `out`.
      run: which of its runs; "best" takes the best validation metric.

    Raises:
      RunError: not a run directory, or a run that has not finished.
      CheckpointError: its checkpoint cannot be read.
    """
    path = Path(path)
    if not (path / CONFIG).exists():
        raise RunError(f"{path} is not a run directory: it has no {CONFIG}")
    stored = _read_json(path / CONFIG)
    found = checkpoint.checkpoints(path / CHECKPOINTS)
    if not (path / RESULT).exists():
        state = (
            f"its last checkpoint is after epoch {found[-1].name}"
            if found
            else ("it has no checkpoint")
        )
        raise RunError(f"{path} is incomplete ({state}): finish it by fit(..., resume='auto')")
    result = _read_json(path / RESULT)
    count = len(result["runs"])
    chosen = result["best_run"] if run == "best" else run
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < count:
        raise RunError(f"run is {run!r}; {path} has runs 0 to {count - 1}, or 'best'")
    arrays, _ = checkpoint.read(checkpoint.latest(path / CHECKPOINTS))
    stored_state = {name.removeprefix("state/"): array for name, array in arrays.items()}
    config = TrainConfig(**stored["config"])
    prefix = "best_" if config.test_at == "best" else ""
    variables = {
        "params": checkpoint.nested(stored_state, f"{prefix}params"),
        **checkpoint.nested(stored_state, f"{prefix}model_state"),
    }
    return LoadedRun(
        path=path,
        model=stored["model"],
        dataset=stored["dataset"],
        config=config,
        variables=jax.tree.map(lambda x: x[chosen], variables),
        run=chosen,
        result=result,
    )
