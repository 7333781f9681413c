"""The measurements behind the choices of `jgraph.ops` on a CPU.

command    python -m experiments.bench.cpu_facts
hardware   2 CPU cores
time       about 1 minute
reach      each chosen form is faster than the form it replaces, after a check that both agree
source     none: these are the library's own facts, on the graph of `jgraph bench aggregation`
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental.sparse import BCSR

from experiments.protocol import report
from jgraph import ops
from jgraph.bench.cases import inputs, timed
from jgraph.bench.jax_side import graph_of
from jgraph.ops.csr import csr_matmul
from jgraph.results import Value


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    nodes: int = 100_000
    edges: int = 1_600_000
    features: int = 64
    heads: int = 8
    classes: int = 40
    repeats: int = 9


def ratio(what: str, old: Callable, new: Callable, args: tuple, repeats: int) -> Value:
    """Median time of `old` over that of `new`.

    Raises:
      RuntimeError: the two differ.
    """
    old, new = jax.jit(old), jax.jit(new)
    for a, b in zip(jax.tree.leaves(old(*args)), jax.tree.leaves(new(*args)), strict=True):
        error = float(jnp.abs(a - b).max() / jnp.maximum(1.0, jnp.abs(a).max()))
        if not error < 1e-4:
            raise RuntimeError(f"{what}: the two forms differ by {error:.1e}")
    seconds = [
        float(np.median(timed(lambda f=f: jax.block_until_ready(f(*args)), repeats)))
        for f in (old, new)
    ]
    note = f"{1e3 * seconds[0]:.0f} ms against {1e3 * seconds[1]:.0f} ms"
    return Value(what, seconds[0] / seconds[1], target=1.0, note=note)


def import_seconds(modules: str, repeats: int) -> list[float]:
    """Seconds that `import <modules>` takes in a new process."""
    code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(repeats + 1)]
    return [float(run.stdout) for run in runs[1:]]


def imports(repeats: int) -> list[Value]:
    """What importing costs: jgraph alone, its ops, and JAX, on which they stand."""
    bars = {"jgraph": 1.5, "jgraph.graph, jgraph.ops": None, "jax": None}
    return [
        Value(
            f"import {modules}, s",
            float(np.median(import_seconds(modules, repeats))),
            target=bar,
            higher=False,
        )
        for modules, bar in bars.items()
    ]


def main(config: Config) -> None:
    """Runs the benchmark and records it."""
    began = time.time()
    graph = graph_of(inputs(config.nodes, config.edges, config.features))
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    n, e, h = graph.num_nodes, graph.num_edges, config.heads
    x, weight, seven = normal(n, config.features), normal(e), normal(n, 7)
    adjacency = (weight, graph.senders, graph.index.row_offsets)

    def heads(count: int, width: int) -> tuple:
        return graph, normal(n, count, width), normal(n, count), normal(n, count)

    def attention(graph: Any, values: Any, a: Any, b: Any) -> Any:
        z = ops.gather_senders(graph, a) + ops.gather_receivers(graph, b)
        return ops.spmm(graph, values, ops.edge_softmax(graph, jax.nn.leaky_relu(z, 0.2)))

    def slope(f: Callable) -> Callable:
        return jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args))), (1, 2, 3))

    fused = slope(ops.additive_attention)
    cases = [
        (
            "7 columns padded to 8, times faster than as they are",
            lambda w, c, o, x: BCSR((w, c, o), shape=(n, n)) @ x,
            csr_matmul,
            (*adjacency, seven),
        ),
        (
            "per-edge dot products in chunks, times faster than in one piece",
            lambda g, x: ops.sddmm(g, x, x, implementation="xla"),
            lambda g, x: ops.sddmm(g, x, x, implementation="csr"),
            (graph, x),
        ),
        (
            "maximum over neighbours in chunks, times faster than in one piece",
            lambda g, x: ops.spmm(g, x, reduce="max", implementation="xla"),
            lambda g, x: ops.spmm(g, x, reduce="max", implementation="csr"),
            (graph, x),
        ),
        (
            f"attention of one head of {config.classes}, fused: times faster than its parts",
            slope(attention),
            fused,
            heads(1, config.classes),
        ),
        (
            f"attention of {h} heads of {config.features // h}, parts: times faster than fused",
            fused,
            slope(attention),
            heads(h, config.features // h),
        ),
    ]
    measured = [ratio(*case, repeats=config.repeats) for case in cases]
    measured += imports(config.repeats)
    command = "python -m experiments.bench.cpu_facts"
    report("bench", measured, began, command, dataclasses.asdict(config), name="bench-cpu-facts")


if __name__ == "__main__":
    main(tyro.cli(Config))
