"""What both sides of the benchmark share: sizes, inputs, the clock, and the child process."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MODELS = {"features": 128, "hidden": 64, "classes": 40}
OPTIONS: dict[str, dict[str, Any]] = {
    "gcn": {"hidden": 64, "layers": 2, "dropout": 0.0, "aggregate_first": True},
    "graphsage": {"hidden": 64, "layers": 2, "dropout": 0.0, "aggregate_first": True},
    "gin": {
        "hidden": 64,
        "layers": 2,
        "dropout": 0.0,
        "norm": "none",
        "learn_eps": False,
        "aggregate_first": True,
    },
    "gat": {"hidden": 8, "heads": 8, "layers": 2, "dropout": 0.0},
}


def inputs(nodes: int, edges: int, features: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A power-law graph, normal features and random labels."""
    from jgraph.data.generators import power_law_graph

    rng = np.random.default_rng(seed)
    senders, receivers = power_law_graph(nodes, edges, seed=seed)
    return {
        "senders": np.asarray(senders, np.int32),
        "receivers": np.asarray(receivers, np.int32),
        "x": rng.normal(size=(nodes, features)).astype(np.float32),
        "labels": rng.integers(0, MODELS["classes"], nodes).astype(np.int32),
    }


def timed(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls after two that warm up."""
    for _ in range(2):
        call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def in_child(side: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Runs `jgraph.bench.<side>.<function>(**arguments)` in a new process.

    Returns:
      Its result, with "peak_memory_MiB" of that process.

    Raises:
      RuntimeError: it failed; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, reply = Path(folder) / "request", Path(folder) / "reply"
        request.write_bytes(pickle.dumps((side, function, arguments)))
        command = [sys.executable, "-W", "ignore", "-m", "jgraph.bench.cases", folder]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        if done.returncode or not reply.exists():
            tail = "\n".join(done.stderr.strip().splitlines()[-3:])
            raise RuntimeError(f"{side}.{function} failed: {tail}")
        return pickle.loads(reply.read_bytes())  # written by this very program a moment ago


def _child(folder: Path) -> None:
    import importlib

    side, function, arguments = pickle.loads((folder / "request").read_bytes())
    module = importlib.import_module(f"jgraph.bench.{side}")
    result = getattr(module, function)(**arguments)
    if isinstance(result, dict):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["peak_memory_MiB"] = peak / (2**20 if sys.platform == "darwin" else 2**10)
    (folder / "reply").write_bytes(pickle.dumps(result))


def summary(seconds: list[float]) -> dict[str, float]:
    """Minimum, median and maximum in milliseconds."""
    points = np.percentile(seconds, [0, 50, 100]) * 1e3
    return dict(zip(("min_ms", "median_ms", "max_ms"), points.round(3).tolist()))


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
