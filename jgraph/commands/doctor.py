"""`jgraph doctor`: versions, devices, and which implementations run and agree here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jgraph import ops
from jgraph.graph import Graph
from jgraph.ops import reference
from jgraph.results import versions
from pallas_kernels import check
from pallas_kernels.specs import Spec

TOLERANCE = 1e-4
FORMS = ("auto", "xla", "csr")  # the kernels have a table of their own


def _cases(graph: Graph, x: jax.Array, weight: jax.Array) -> Iterator[tuple]:
    """(label, function of implementation, reference), of the features and the weights."""
    n, s, r = graph.num_nodes, graph.senders, graph.receivers
    for reduce in ("sum", "mean", "max", "min"):
        yield (
            f"spmm {reduce}",
            lambda i, x, w, k=reduce: ops.spmm(graph, x, w, reduce=k, implementation=i),
            lambda x, w, k=reduce: reference.spmm(s, r, n, x, w, k),
        )
    yield (
        "sddmm",
        lambda i, x, w: ops.sddmm(graph, x, x, implementation=i) * w,
        lambda x, w: reference.sddmm(s, r, x, x) * w,
    )
    yield (
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


def _ops_table(nodes: int, edges: int) -> tuple[Table, int]:
    """Every graph op in every form beside its reference, and the number of failures."""
    rng = np.random.default_rng(0)
    graph = jax.device_put(Graph.from_edges(*rng.integers(0, nodes, (2, edges)), num_nodes=nodes))
    x = jnp.asarray(rng.normal(size=(nodes, 4, 16)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(edges, 4)), jnp.float32)
    table, failed = Table(box=None, header_style="bold"), 0
    for column in ("op", *FORMS):
        table.add_column(column)
    for label, run, spec in _cases(graph, x, weight):
        cells = []
        for form in FORMS:
            if form == "csr" and jax.default_backend() != "cpu":
                cells.append("CPU only")
                continue
            measure = functools.partial(_error, functools.partial(run, form), spec, x, weight)
            cell, good = _verdict(measure, TOLERANCE)
            cells.append(cell)
            failed += not good
        table.add_row(label, *cells)
    return table, failed


def _kernels_table() -> tuple[Table, int]:
    """Every Pallas kernel, on this device or else interpreted, beside its reference."""
    platform = jax.default_backend()
    table, failed = Table(box=None, header_style="bold"), 0
    for column in ("kernel", "has forms for", "runs here", *check.TOLERANCE):
        table.add_column(column)
    for name in track(check.kernels(), "kernels", transient=True):
        package, specs = check.load(name)
        backend = platform if platform in package.BACKENDS else "interpret"
        cells = []
        for dtype, tolerance in check.TOLERANCE.items():
            spec = specs.SPECS["test"][0]
            cell, good = _verdict(functools.partial(_worst, name, spec, dtype, backend), tolerance)
            cells.append(cell)
            failed += not good
        here = "as kernel" if backend == platform else "interpreted"
        table.add_row(name, ", ".join(package.BACKENDS), here, *cells)
    return table, failed


def _worst(name: str, spec: Spec, dtype: str, backend: str) -> float:
    return max(check.errors(name, spec, dtype, backend).values())


def _verdict(measure: Callable[[], float], tolerance: float) -> tuple[str, bool]:
    """A cell that says whether `measure()` stays below the tolerance, and whether it does."""
    try:
        error = measure()
    except Exception as problem:  # a report of what fails must survive any failure
        return f"[red]fails: {type(problem).__name__}[/red]", False
    good = error <= tolerance
    return f"{'agrees' if good else '[red]differs[/red]'} ({error:.0e})", good


def doctor(nodes: int = 500, edges: int = 20_000, kernels: bool = True) -> int:
    """Check this installation: versions, devices, implementations against the reference.

    Args:
      nodes: nodes of the random graph that is tried.
      edges: its edges.
      kernels: also run every Pallas kernel, on this device or else interpreted.
    """
    console = Console()
    console.print(", ".join(f"{name} {version}" for name, version in versions().items()))
    devices = ", ".join(f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices())
    console.print(f"devices: {devices}; auto picks for {jax.default_backend()}")
    table, failed = _ops_table(nodes, edges)
    console.print(table)
    if kernels:
        table, more = _kernels_table()
        failed += more
        console.print(table)
    console.print("all implementations agree" if not failed else f"[red]{failed} failures[/red]")
    return 1 if failed else 0
