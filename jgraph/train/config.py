"""`TrainConfig`: every choice of a training run that is not the model or the data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

_CHOICES = {
    "schedule": ("constant", "cosine", "step", "plateau"),
    "optimizer": ("adam", "adamw", "sgd"),
    "weight_decay_on": ("all", "first"),
    "select": ("val_loss", "val_metric"),
    "test_at": ("best", "end"),
    "loss": ("cross_entropy", "l1", "mse"),
    "runs_by": ("vmap", "map"),
}
_AT_LEAST = {
    "epochs": 1,
    "step_size": 1,
    "warmup": 0,
    "batch_size": 1,
    "seeds": 1,
    "seed": 0,
    "patience": 0,
    "eval_every": 1,
    "checkpoint_every": 0,
    "chunk": 0,
}
_NON_NEGATIVE = ("weight_decay", "grad_clip", "momentum")
# These change when the host looks at a run, never what the run computes.
_WITHOUT_EFFECT = ("checkpoint_every", "chunk")


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of `fit`.

    Attributes:
      epochs: most epochs to train for.
      lr: learning rate at the start (after warm-up).
      schedule: "constant"; "cosine" to 0 at the last epoch; "step" times `step_factor` every
        `step_size` epochs; "plateau" times `step_factor` when the validation loss has not fallen
        by 0.01 % for more than `step_size` epochs. The rate is constant within an epoch.
      step_size, step_factor: see `schedule`.
      warmup: epochs over which the rate rises linearly.
      optimizer: "adam", "adamw" or "sgd".
      momentum: of "sgd".
      weight_decay: for "adam" and "sgd" the L2 coefficient added to the gradient, as in torch;
        for "adamw" decoupled (times the learning rate).
      weight_decay_on: "all" parameters, or those of the "first" layer that the model calls (Kipf
        and Welling, arXiv:1609.02907).
      grad_clip: largest global gradient norm, before weight decay; 0 is off.
      batch_size: graphs per step (graph tasks; a node task takes its whole graph).
      seeds: independent runs per split, trained side by side.
      seed: of the first run; run s draws everything from seed + s.
      patience: stop a run after this many epochs without a better `select`; 0 is off.
      eval_every: epochs between evaluations; the last epoch is always evaluated.
      checkpoint_every: epochs between checkpoints; 0 writes only the last.
      select: what "better" means: a lower "val_loss", or a better "val_metric".
      test_at: the parameters that are tested (and returned): "best" by `select`, or at the "end".
      loss: "cross_entropy", "l1" or "mse".
      runs_by: runs advance together ("vmap"), or one after another inside the program ("map"),
        which takes less memory.
      chunk: epochs per call of the device; 0 adapts to about one second. It changes no result.

    Raises:
      ValueError: a value out of range, naming the field and what is allowed.
      TypeError: a count that is not an integer.
    """

    epochs: int = 200
    lr: float = 0.01
    schedule: str = "constant"
    step_size: int = 50
    step_factor: float = 0.5
    warmup: int = 0
    optimizer: str = "adam"
    momentum: float = 0.0
    weight_decay: float = 5e-4
    weight_decay_on: str = "all"
    grad_clip: float = 0.0
    batch_size: int = 32
    seeds: int = 1
    seed: int = 0
    patience: int = 0
    eval_every: int = 1
    checkpoint_every: int = 0
    select: str = "val_loss"
    test_at: str = "best"
    loss: str = "cross_entropy"
    runs_by: str = "vmap"
    chunk: int = 0

    def __post_init__(self):
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} is {value!r}; it must be an integer")
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; it must be positive and finite")
        if not 0 < self.step_factor <= 1:
            raise ValueError(f"step_factor is {self.step_factor}; it must lie in (0, 1]")
        for name in _NON_NEGATIVE:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be at least 0 and finite")
        if self.momentum >= 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup is {self.warmup}, more than epochs ({self.epochs})")

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with other fields, checked again."""
        return dataclasses.replace(self, **changes)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what a run computes; two runs with equal ones may be resumed."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in _WITHOUT_EFFECT}

    def evaluates(self, epoch: Any) -> Any:
        """Whether epoch number `epoch` (from 0; may be traced) ends with an evaluation."""
        return ((epoch + 1) % self.eval_every == 0) | (epoch + 1 == self.epochs)
