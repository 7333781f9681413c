"""`jgraph bench aggregation`: sums over neighbours and training steps beside PyG.

A training step is timed alone and in a scanned loop of ten, as `fit` trains; in the loop XLA moves
the first layer's aggregate of constant features out of it, which PyG computes in every step.
Ratios are of the loop. Every case runs in a process of its own, jgraph and its rivals in turn,
after a gate that all give the same result. Times are medians; the ratio is rival / jgraph, above 1
when jgraph is faster.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from jgraph import data
from jgraph.bench.cases import MODELS, OPTIONS, in_child, inputs, summary
from jgraph.results import Value, record

BARS = {"gcn": 3.0, "graphsage": 3.0, "gin": 3.0, "gat": 5.0}


def _gate(name: str, got: np.ndarray, want: np.ndarray, tolerance: float = 1e-4) -> None:
    error = float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))
    if not error < tolerance:
        raise RuntimeError(
            f"{name} differs from its rival by {error:.1e}; times would mean nothing"
        )


def check_models(seed: int = 0) -> None:
    """Checks on a small graph that every model gives PyG's logits with the same parameters.

    Raises:
      RuntimeError: one does not.
    """
    arrays = inputs(300, 3000, MODELS["features"], seed)
    for name in OPTIONS:
        ours = in_child("jax_side", "logits", name=name, arrays=arrays)
        theirs = in_child("torch_side", "logits", name=name, arrays=arrays, params=ours["params"])
        for form in ("csr", "coo"):
            _gate(f"{name} ({form})", ours["logits"], theirs[form], 1e-3)


def bench_products(arrays: dict[str, np.ndarray], repeats: int) -> dict[str, Any]:
    """Sum over neighbours: jgraph, jax.ops.segment_sum, torch and SciPy."""
    ours = in_child("jax_side", "spmm", arrays=arrays, repeats=repeats)
    theirs = in_child("torch_side", "spmm", arrays=arrays, repeats=repeats)
    want = theirs["results"]["SciPy CSR"]
    gradient = ours["results"]["segment_sum gradient"]
    for name in ("ops.spmm", "segment_sum", "segment_sum (sorted)"):
        _gate(name, ours["results"][name], want)
        _gate(f"{name} gradient", ours["results"][f"{name} gradient"], gradient)
    seconds = ours["seconds"] | theirs["seconds"]
    return {name: summary(values) for name, values in seconds.items()}


def bench_training(arrays: dict[str, np.ndarray], repeats: int) -> dict[str, Any]:
    """A full training step of each model, jgraph beside PyG in both adjacency forms."""
    out = {}
    for name in OPTIONS:
        ours = in_child("jax_side", "train", name=name, arrays=arrays, repeats=repeats)
        row = {f"jgraph {k}": summary(v) for k, v in ours["seconds"].items()}
        memory = {"jgraph": ours["peak_memory_MiB"]}
        for form in ("csr", "coo"):
            theirs = in_child(
                "torch_side",
                "train",
                name=name,
                arrays=arrays,
                repeats=repeats if form == "csr" else max(repeats // 3, 2),
                form=form,
            )
            row[f"PyG {form}"] = summary(theirs["seconds"]["step"])
            memory[f"PyG {form}"] = theirs["peak_memory_MiB"]
        out[name] = {
            "times": row,
            "peak_memory_MiB": {k: round(v) for k, v in memory.items()},
            "compile_seconds": round(ours["compile_seconds"], 2),
        }
    return out


def _median(row: dict[str, Any], *names: str) -> float:
    return min(row[name]["median_ms"] for name in names)


def _values(products: dict, training: dict, cora: dict | None) -> list[Value]:
    values = [
        Value(
            "spmm forward, times faster than segment_sum",
            _median(products, "segment_sum") / _median(products, "ops.spmm"),
            target=8.0,
        ),
        Value(
            "spmm forward + backward, times faster than segment_sum",
            _median(products, "segment_sum + backward") / _median(products, "ops.spmm + backward"),
            target=4.0,
        ),
        Value(
            "spmm forward, times faster than SciPy CSR",
            _median(products, "SciPy CSR") / _median(products, "ops.spmm"),
            target=1.0,
        ),
    ]
    for name, row in training.items():
        times = row["times"]
        fastest = "csr" if _median(times, "PyG csr") <= _median(times, "PyG coo") else "coo"
        values += [
            Value(f"{name} training step, ms", _median(times, "jgraph loop"), higher=False),
            Value(
                f"{name} training step, times faster than PyG",
                _median(times, "PyG csr") / _median(times, "jgraph loop"),
                target=BARS[name],
                note=f"sparse CSR; PyG's fastest here is {fastest}",
            ),
            Value(
                f"{name} training step, times less peak memory than PyG",
                row["peak_memory_MiB"]["PyG csr"] / row["peak_memory_MiB"]["jgraph"],
            ),
        ]
    if cora:
        values.append(
            Value(
                "Cora GCN, 200 epochs x 10 seeds with compilation, times faster than PyG",
                cora["PyG"]["seconds"] / cora["jgraph"]["seconds"],
                target=5.0,
            )
        )
    return values


def _show(console: Console, products: dict, training: dict, cora: dict | None) -> None:
    table = Table("case", "who", "median ms", "min", "max", box=None, header_style="bold")
    rows = [("sum over neighbours", k, v) for k, v in products.items()]
    rows += [(f"{m} step", k, v) for m, row in training.items() for k, v in row["times"].items()]
    for case, who, v in rows:
        table.add_row(case, who, *(f"{v[k]:.1f}" for k in ("median_ms", "min_ms", "max_ms")))
    for who, row in (cora or {}).items():
        table.add_row("Cora, 10 runs", who, f"{1e3 * row['seconds']:.0f}")
    console.print(table)


def bench(
    what: Annotated[Literal["aggregation"], tyro.conf.Positional] = "aggregation",
    nodes: int = 100_000,
    edges: int = 1_600_000,
    repeats: int = 15,
    cora: bool = True,
    out: Path = Path("experiments/results"),
) -> None:
    """Time sums over neighbours and training steps beside PyG; needs the extra `bench`.

    Args:
      what: the benchmark; there is one.
      nodes: nodes of the power-law graph.
      edges: its edges.
      repeats: timed calls of each case.
      cora: also time ten runs of GCN on Cora, compilation included.
      out: folder for the JSON.
    """
    console, began = Console(), time.time()
    if cora:
        data.load("cora")
    console.print("checking that every model gives PyG's logits ...")
    check_models()
    arrays = inputs(nodes, edges, MODELS["features"])
    narrow = {**arrays, "x": np.ascontiguousarray(arrays["x"][:, : MODELS["hidden"]])}
    console.print("timing sums over neighbours ...")
    products = bench_products(narrow, repeats)
    console.print("timing training steps ...")
    training = bench_training(arrays, repeats)
    ten = None
    if cora:
        console.print("timing ten runs on Cora ...")
        ten = {}
        for who, side in (("jgraph", "jax_side"), ("PyG", "torch_side")):
            done = in_child(side, "cora", epochs=200, seeds=10)
            ten[who] = {"seconds": done["seconds"]["run"][0], "accuracy %": done["accuracy"]}
    _show(console, products, training, ten)
    values = _values(products, training, ten)
    for value in values:
        if value.target is not None:
            mark = "reached" if value.reached else "NOT reached"
            console.print(f"{value.name}: {value.mean:.2f} (bar {value.target:g}, {mark})")
    path = record(
        "bench-aggregation",
        values,
        slug="bench",
        command=(
            f"jgraph bench aggregation --nodes {nodes} --edges {edges} --repeats {repeats}"
            f" --{'' if cora else 'no-'}cora"
        ),
        seconds=time.time() - began,
        config={"nodes": nodes, "edges": edges, "sum": products, "training": training, "cora": ten},
        root=out,
        extra_versions=("torch", "torch-geometric"),
    )
    console.print(f"written to {path}")
