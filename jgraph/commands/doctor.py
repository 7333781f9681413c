"""`jgraph doctor`: versions, devices, and which implementations run and agree here."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jgraph import ops
from jgraph.graph import Graph
from jgraph.ops import reference
from jgraph.ops.dispatch import IMPLEMENTATIONS, has_kernel
from jgraph.results import versions

TOLERANCE = 1e-4


def _cases(graph: Graph, x: jax.Array, weight: jax.Array) -> Iterator[tuple]:
    """(op, label, function of implementation, reference value with gradient)."""
    n, s, r = graph.num_nodes, graph.senders, graph.receivers
    for reduce in ("sum", "mean", "max", "min"):
        yield (
            "spmm",
            f"spmm {reduce}",
            lambda i, x, w, k=reduce: ops.spmm(graph, x, w, reduce=k, implementation=i),
            lambda x, w, k=reduce: reference.spmm(s, r, n, x, w, k),
        )
    yield (
        "sddmm",
        "sddmm",
        lambda i, x, w: ops.sddmm(graph, x, x, implementation=i) * w,
        lambda x, w: reference.sddmm(s, r, x, x) * w,
    )
    yield (
        "edge_softmax",
        "edge softmax",
        lambda i, x, w: ops.edge_softmax(graph, w, implementation=i) * w,
        lambda x, w: reference.edge_softmax(r, n, w) * w,
    )


def _error(run, spec, x, weight) -> float:
    """Largest difference of value and gradients, relative to the largest entry."""

    def both(f):
        loss = lambda x, w: jnp.sum(jnp.sin(f(x, w)))  # noqa: E731
        return jax.jit(lambda x, w: (f(x, w), jax.grad(loss, (0, 1))(x, w)))(x, weight)

    worst = 0.0
    for got, want in zip(jax.tree.leaves(both(run)), jax.tree.leaves(both(spec)), strict=True):
        scale = max(1.0, float(jnp.abs(want).max()))
        worst = max(worst, float(jnp.abs(got - want).max()) / scale)
    return worst


def doctor(nodes: int = 500, edges: int = 20_000) -> int:
    """Check this installation: versions, devices, implementations against the reference.

    Args:
      nodes: nodes of the random graph that is tried.
      edges: its edges.
    """
    console = Console()
    console.print(", ".join(f"{name} {version}" for name, version in versions().items()))
    devices = ", ".join(f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices())
    console.print(f"devices: {devices}; auto picks for {jax.default_backend()}")
    rng = np.random.default_rng(0)
    graph = jax.device_put(Graph.from_edges(*rng.integers(0, nodes, (2, edges)), num_nodes=nodes))
    x = jnp.asarray(rng.normal(size=(nodes, 4, 16)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(edges, 4)), jnp.float32)
    table = Table(box=None, header_style="bold")
    for column in ("op", *IMPLEMENTATIONS):
        table.add_column(column)
    failed = 0
    for op, label, run, spec in _cases(graph, x, weight):
        cells = []
        for form in IMPLEMENTATIONS:
            if form == "pallas" and not has_kernel(op):
                cells.append("no kernel")
                continue
            if form == "csr" and jax.default_backend() != "cpu":
                cells.append("CPU only")
                continue
            try:
                error = _error(lambda x, w, i=form, f=run: f(i, x, w), spec, x, weight)
            except Exception as problem:  # a report of what fails must survive any failure
                cells.append(f"[red]fails: {type(problem).__name__}[/red]")
                failed += 1
                continue
            good = error < TOLERANCE
            failed += not good
            cells.append(f"{'agrees' if good else '[red]differs[/red]'} ({error:.0e})")
        table.add_row(label, *cells)
    console.print(table)
    console.print("all implementations agree" if not failed else f"[red]{failed} failures[/red]")
    return 1 if failed else 0
