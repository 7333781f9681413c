"""Finds block sizes of the kernels on the GPU at hand: `pallas_kernels/tuned/<device>.json`.

command    python -m experiments.bench.tune
hardware   a GPU
time       a few minutes per kernel
reach      forward with backward at the first "gpu" spec, no slower than with the defaults
source     none

Every block size is doubled and halved in turn as long as that makes the kernel faster. Sizes that
do not compile, or that change the result, are passed over.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from jgraph.bench.cases import timed
from jgraph.train.run import write_json
from pallas_kernels import check, tuned

Sizes = dict[str, int]


@dataclass(frozen=True)
class Config:
    """Options of the search.

    Attributes:
      ops: kernels, all by default.
      dtype: of the operands.
      repeats: timed calls of each choice.
      rounds: times that all sizes are gone through.
    """

    ops: tuple[str, ...] = ()
    dtype: str = "bfloat16"
    repeats: int = 7
    rounds: int = 2


def search(measure: Callable[[Sizes], float], start: Sizes, rounds: int) -> tuple[Sizes, float]:
    """Coordinate descent over powers of two from `start`: the best sizes and their seconds.

    Args:
      measure: seconds with these sizes, inf where they do not work.

    Raises:
      RuntimeError: `start` itself does not work.
    """
    best, seconds = dict(start), measure(start)
    if math.isinf(seconds):
        raise RuntimeError(f"the block sizes to begin with do not work: {start}")
    tried = {tuple(start.values())}
    for _ in range(rounds):
        before = dict(best)
        for name in start:
            for factor in (2, 0.5):
                while True:
                    sizes = best | {name: int(best[name] * factor)}
                    key = tuple(sizes.values())
                    if sizes[name] < 1 or key in tried:
                        break
                    tried.add(key)
                    found = measure(sizes)
                    if found >= seconds:
                        break
                    best, seconds = sizes, found
        if best == before:
            break
    return best, seconds


def measured_by(op: str, dtype: str, repeats: int) -> tuple[Callable[[Sizes], float], Sizes]:
    """`measure` for `search`, and the sizes in effect now."""
    package, specs = check.load(op)
    options, operands = specs.make(specs.SPECS["gpu"][0], jnp.dtype(dtype))

    def both(*operands: Any) -> Any:
        outputs, pull, _ = check.pullback(
            functools.partial(getattr(package, op), options), operands
        )
        return outputs, pull(jax.tree.map(jnp.ones_like, outputs))

    with tuned.trial(op, {}) as start:
        want = jax.block_until_ready(jax.jit(both)(*operands))

    def measure(sizes: Sizes) -> float:
        jax.clear_caches()
        with tuned.trial(op, sizes):
            run = jax.jit(lambda *operands: both(*operands))
            try:
                got = jax.block_until_ready(run(*operands))
            except Exception:  # sizes that do not compile, however the compiler says so
                return math.inf
            pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
            if any(check.difference(a, b) > check.TOLERANCE[dtype] for a, b in pairs):
                return math.inf
            calls = timed(lambda: jax.block_until_ready(run(*operands)), repeats)
        return float(np.median(calls))

    return measure, dict(start)


def main(config: Config) -> None:
    """Searches, and writes the file after every kernel."""
    if jax.default_backend() != "gpu":
        raise ValueError("tuning needs a GPU; on a CPU and a TPU these block sizes mean nothing")
    console, kind = Console(), jax.devices()[0].device_kind
    path = tuned.file_of(kind)
    path.parent.mkdir(exist_ok=True)
    for op in config.ops or check.kernels():
        measure, start = measured_by(op, config.dtype, config.repeats)
        default = measure(start)
        best, seconds = search(measure, start, config.rounds)
        entry = {
            "blocks": best,
            "seconds": seconds,
            "seconds before": default,
            "command": f"python -m experiments.bench.tune --dtype {config.dtype} --ops {op}",
        }
        content = {name: dict(row) for name, row in tuned.measured(kind).items()}
        content[op] = content.get(op, {}) | entry
        write_json(path, content)
        tuned.measured.cache_clear()
        console.print(f"{op}: {1e3 * default:.3f} ms before, {1e3 * seconds:.3f} ms with {best}")


if __name__ == "__main__":
    main(tyro.cli(Config))
