"""What a run says while it trains: a JSONL file of metrics, and a bar or plain lines."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_PLAIN_SECONDS = 10.0


def finite(value: Any) -> Any:
    """JSON data with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class MetricsFile:
    """One JSON object per epoch, appended and flushed; values are lists over the runs.

    Args:
      path: the file; lines after `epoch` (of a run that was killed after its last checkpoint, the
        last perhaps cut short) are dropped, so that a resumed run has every epoch once.
      epoch: epochs that the run has behind it; 0 begins anew.
    """

    def __init__(self, path: str | os.PathLike, epoch: int = 0):
        self.path = Path(path)
        kept = []
        if epoch and self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    if json.loads(line)["epoch"] <= epoch:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    break
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, self.path)
        self._file = self.path.open("a")

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Appends rows and flushes them to the operating system."""
        self._file.writelines(json.dumps(finite(row)) + "\n" for row in rows)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _mean(values: Any) -> float:
    numbers = [float(v) for v in values if math.isfinite(v)]
    return sum(numbers) / len(numbers) if numbers else math.nan


class TensorBoard:
    """The means over runs as TensorBoard scalars, where `tensorboardX` is installed; else nothing.

    Args:
      folder: of the event files; the extra `experiments` installs the writer.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            self._writer: Any = None
        else:
            self._writer = SummaryWriter(str(folder))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Adds each row at its epoch; quantities without a finite mean are left out."""
        if self._writer is None:
            return
        for row in rows:
            means = {name: _mean(v) for name, v in row.items() if name != "epoch"}
            for name, value in means.items():
                if math.isfinite(value):
                    self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()


class Progress:
    """A tqdm bar on a terminal, else a plain line every ten seconds; silent when switched off.

    Numbers are means over the runs that still train.
    """

    def __init__(
        self,
        total: int,
        metric: str,
        *,
        done: int = 0,
        enabled: bool = True,
        stream: TextIO | None = None,
        name: str = "train",
    ):
        self.total, self.metric, self.enabled, self.name = total, metric, enabled, name
        self.stream = stream or sys.stderr
        self._bar: Any = None
        self._said = float("-inf")
        self._first: tuple[int, float] | None = None
        if enabled and self.stream.isatty():
            try:
                from tqdm import tqdm
            except ModuleNotFoundError:
                return
            self._bar = tqdm(
                total=total, initial=done, file=self.stream, unit="epoch", desc=name, leave=True
            )

    def update(self, epoch: int, row: dict[str, Any] | None) -> None:
        """Shows that `epoch` epochs are done; `row` is the last evaluated one."""
        if not self.enabled:
            return
        shown = (
            {}
            if row is None
            else {
                "train loss": f"{_mean(row['train_loss']):.4f}",
                "val loss": f"{_mean(row['val_loss']):.4f}",
                f"val {self.metric}": f"{_mean(row['val_metric']):.4f}",
            }
        )
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(epoch - self._bar.n)
            return
        now = time.monotonic()
        # Speed counts from the first report, which the compiler delays.
        first_epoch, began = self._first = self._first or (epoch, now)
        if epoch < self.total and now - self._said < _PLAIN_SECONDS:
            return
        self._said = now
        text = ", ".join(f"{name} {value}" for name, value in shown.items())
        if epoch > first_epoch:
            text += f" ({(epoch - first_epoch) / max(now - began, 1e-9):.1f} epochs/s)"
        print(
            f"{self.name}: epoch {epoch}/{self.total}, {text}",
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
