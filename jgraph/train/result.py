"""`Result`: what `fit` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jgraph.train.tasks import HIGHER_IS_BETTER


@dataclass(frozen=True, repr=False)
class Result:
    """Scores, curves and parameters of R runs.

    Attributes:
      metric: its name; accuracy and roc_auc lie in [0, 1].
      test_metric, test_loss: (R,) at the tested parameters; NaN for a run that never had a finite
        validation value.
      val_metric, val_loss: (R,) at the tested parameters' epoch.
      best_epoch: (R,) epoch (from 1) of the best validation; 0 for none.
      epochs_run: (R,) epochs until the run ended or stopped early.
      runs: (split, seed) of each run.
      history: "train_loss", "train_metric", "val_loss", "val_metric", "lr", each (epochs, R)
        float32, NaN where not evaluated. Training values of a node task are those of the
        evaluation forward pass, of a graph task those of the steps (dropout on).
      params, model_state: tested parameters, every leaf with a leading axis R.
      seconds: of training, resumed parts included, compilation not.
      seconds_per_epoch: of all runs together, after warm-up.
      compile_seconds: of compilation in this call of `fit`.
      out: the run directory, or None.
    """

    metric: str
    test_metric: np.ndarray
    test_loss: np.ndarray
    val_metric: np.ndarray
    val_loss: np.ndarray
    best_epoch: np.ndarray
    epochs_run: np.ndarray
    runs: tuple[tuple[int, int], ...]
    history: dict[str, np.ndarray]
    params: Any
    model_state: Any
    seconds: float
    seconds_per_epoch: float
    compile_seconds: float
    out: Path | None = None

    @property
    def mean(self) -> float:
        """Mean test metric over the runs."""
        return float(np.mean(self.test_metric))

    @property
    def std(self) -> float:
        """Standard deviation of the test metric over the runs (n - 1); 0 for one run."""
        return float(np.std(self.test_metric, ddof=1)) if self.test_metric.size > 1 else 0.0

    @property
    def best_run(self) -> int:
        """The run with the best validation metric; 0 if none has one."""
        sign = 1 if HIGHER_IS_BETTER[self.metric] else -1
        values = sign * self.val_metric
        return int(np.nanargmax(values)) if np.isfinite(values).any() else 0

    def variables(self, run: int | None = None) -> dict[str, Any]:
        """What `model.apply` takes, of one run (default: the best by validation).

        Raises:
          IndexError: there is no such run.
        """
        run = self.best_run if run is None else run
        if not 0 <= run < len(self.runs):
            raise IndexError(f"run is {run}; there are runs 0 to {len(self.runs) - 1}")
        return jax.tree.map(lambda x: x[run], {"params": self.params, **self.model_state})

    def summary(self) -> str:
        """Two lines for people: the score, and the time."""
        percent = HIGHER_IS_BETTER[self.metric]
        scale, unit = (100.0, " %") if percent else (1.0, "")
        digits = 2 if percent else 4
        spread = f" ± {scale * self.std:.{digits}f}" if len(self.runs) > 1 else ""
        splits = len({split for split, _ in self.runs})
        count = f"{len(self.runs)} run{'s' if len(self.runs) > 1 else ''}"
        across = f" over {splits} splits" if splits > 1 else ""
        epochs = f"{self.epochs_run.min()} to {self.epochs_run.max()} epochs"
        if self.epochs_run.min() == self.epochs_run.max():
            epochs = f"{self.epochs_run[0]} epochs"
        speed = ""
        if np.isfinite(self.seconds_per_epoch):
            speed = f" ({1e3 * self.seconds_per_epoch:.2f} ms per epoch of all runs)"
        return (
            f"test {self.metric} {scale * self.mean:.{digits}f}{spread}{unit} ({count}{across}), "
            f"validation {scale * float(np.mean(self.val_metric)):.{digits}f}{unit}\n"
            f"{epochs} in {self.seconds:.1f} s{speed}, compiled in {self.compile_seconds:.1f} s"
        )

    def record(self) -> dict[str, Any]:
        """JSON data for result.json; everything but "timing" repeats exactly."""
        return {
            "metric": self.metric,
            "mean": self.mean,
            "std": self.std,
            "test_metric": self.test_metric,
            "test_loss": self.test_loss,
            "val_metric": self.val_metric,
            "val_loss": self.val_loss,
            "best_epoch": self.best_epoch,
            "epochs_run": self.epochs_run,
            "best_run": self.best_run,
            "runs": [{"split": split, "seed": seed} for split, seed in self.runs],
            "timing": {
                "seconds": self.seconds,
                "seconds_per_epoch": self.seconds_per_epoch,
                "compile_seconds": self.compile_seconds,
            },
        }

    def __repr__(self) -> str:
        return self.summary()
