"""Block sizes measured per device: `pallas_kernels/tuned/<device kind>.json`.

A file maps a kernel's name to its block sizes, which `experiments/bench/tune.py` found, and to
whether `experiments/bench/kernels.py --tune` saw it beat XLA. A device without a file uses the
defaults that stand in the kernel.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "tuned"
_TRIAL: contextvars.ContextVar[tuple[str, Mapping[str, int], dict[str, int]] | None]
_TRIAL = contextvars.ContextVar("trial", default=None)


@contextlib.contextmanager
def trial(op: str, sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Block sizes that hold for what is traced inside; yields those that were then in effect."""
    seen: dict[str, int] = {}
    token = _TRIAL.set((op, sizes, seen))
    try:
        yield seen
    finally:
        _TRIAL.reset(token)


def file_of(device_kind: str) -> Path:
    """Where the block sizes of a device of this kind lie."""
    return FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', device_kind.lower()).strip('-')}.json"


@functools.cache
def measured(device_kind: str) -> Mapping[str, Any]:
    """Kernel name -> {"blocks": {...}, "faster_than_xla": bool, ...}; empty without a file."""
    path = file_of(device_kind)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def blocks(op: str, defaults: Mapping[str, int], device_kind: str | None = None) -> dict[str, int]:
    """`defaults`, overridden by what was measured for this op on the device at hand.

    Args:
      device_kind: by default that of the first device JAX sees.

    Raises:
      ValueError: the file names a block size that the kernel does not have.
    """
    if device_kind is None:
        import jax

        device_kind = jax.devices()[0].device_kind
    found = measured(device_kind).get(op, {}).get("blocks", {})
    unknown = set(found) - set(defaults)
    if unknown:
        raise ValueError(
            f"{file_of(device_kind).name} gives {op} the block sizes {sorted(unknown)}, which it "
            f"does not have; it has {sorted(defaults)}. Delete the file or tune again"
        )
    chosen = {**defaults, **found}
    tried = _TRIAL.get()
    if tried is not None and tried[0] == op:
        chosen |= tried[1]
        tried[2].update(chosen)
    return chosen
