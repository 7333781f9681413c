"""FastRP beside a SciPy implementation on a large power-law graph.

command    python -m experiments.bench.fastrp
hardware   2 CPU cores
time       about 2 minutes
reach      the embedding of 100k nodes and 1.6M edges in under 5 s, compiled; at least as fast as
           SciPy; both after a gate that they agree
source     none: the rival runs in the same process

SciPy multiplies CSR by dense in float32, with the projection as a sparse matrix in the first
product, in place where it can be. Each side draws its own projection; for the gate they share one.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tyro

from experiments.protocol import report
from jgraph.bench.cases import timed
from jgraph.data.generators import power_law_graph
from jgraph.gnn.fastrp import fastrp, very_sparse_projection
from jgraph.graph import Graph
from jgraph.results import Value

WEIGHTS = (0.0, 0.0, 1.0, 6.67)
BETA = -0.64


@dataclass(frozen=True)
class Config:
    """Options of the benchmark; `edges` counts both directions of a pair."""

    nodes: int = 100_000
    edges: int = 1_600_000
    dims: tuple[int, ...] = (128, 512)
    repeats: int = 5


def scipy_projection(n: int, d: int, seed: int) -> Any:
    """The very sparse projection as a scipy CSR matrix (n, d)."""
    import scipy.sparse

    rng = np.random.default_rng(seed)
    s = np.sqrt(n)
    places = np.cumsum(rng.geometric(1 / s, int(n * d / s + 10 * np.sqrt(n * d / s) + 10))) - 1
    places = places[places < n * d]
    signs = rng.choice(np.array([-1, 1], np.float32), places.size)
    values = signs * np.float32(np.sqrt(s / d))
    return scipy.sparse.csr_matrix((values, (places // d, places % d)), shape=(n, d))


def scipy_fastrp(matrix: Any, projection: Any) -> np.ndarray:
    """The same embedding by SciPy and NumPy."""
    import scipy.sparse

    degree = np.asarray(matrix.sum(axis=1)).reshape(-1).astype(np.float64)
    inverse = np.divide(1, degree, out=np.zeros_like(degree), where=degree > 0)
    scale = np.where(degree > 0, (np.maximum(degree, 1) / degree.sum()) ** BETA, 0)
    a = (scipy.sparse.diags(inverse.astype(np.float32)) @ matrix).tocsr()
    x = a @ (scipy.sparse.diags(scale.astype(np.float32)) @ projection)
    x = x.toarray() if scipy.sparse.issparse(x) else x
    out = None
    for k, weight in enumerate(WEIGHTS):
        x = x if k == 0 else a @ x
        if weight:
            length = np.sqrt(np.einsum("ij,ij->i", x, x))
            part = x * (weight / np.where(length > 0, length, 1))[:, None].astype(np.float32)
            out = part if out is None else np.add(out, part, out=out)
    assert out is not None
    out -= out.mean(axis=0)
    spread = np.sqrt(np.einsum("ij,ij->j", out, out) / out.shape[0])
    out /= np.where(spread > 0, spread, 1)
    return out


def compare(graph: Any, matrix: Any, dim: int, repeats: int) -> list[Value]:
    """Seconds of both sides for one dimension.

    Raises:
      RuntimeError: they differ.
    """
    import scipy.sparse

    n = matrix.shape[0]
    embed = jax.jit(lambda graph, key: fastrp(graph, key, dim, WEIGHTS, BETA))
    key = jax.random.key(0)
    shared = np.asarray(very_sparse_projection(key, n, dim))
    error = np.abs(scipy_fastrp(matrix, scipy.sparse.csr_matrix(shared)) - embed(graph, key)).max()
    if not error < 2e-3:
        raise RuntimeError(f"the two embeddings of {dim} dimensions differ by {error:.1e}")
    ours = np.median(timed(lambda: jax.block_until_ready(embed(graph, key)), repeats))
    theirs = np.median(
        timed(lambda: scipy_fastrp(matrix, scipy_projection(n, dim, 0)), max(repeats // 2, 1))
    )
    what = f"FastRP, {n} nodes, {matrix.nnz} edges, {dim} dimensions"
    return [
        Value(f"{what}, s", float(ours), target=5.0, higher=False, note=f"SciPy {theirs:.2f} s"),
        Value(f"{what}: times faster than SciPy", float(theirs / ours), target=1.0),
    ]


def main(config: Config) -> None:
    """Runs the benchmark and records it."""
    began, values = time.time(), []
    senders, receivers = power_law_graph(config.nodes, config.edges // 2)
    both = np.concatenate([senders, receivers]), np.concatenate([receivers, senders])
    graph = Graph.from_edges(*both, num_nodes=config.nodes)
    matrix = graph.to_scipy()
    placed = jax.device_put(graph)
    for dim in config.dims:
        values += compare(placed, matrix, dim, config.repeats)
    command = "python -m experiments.bench.fastrp"
    report("bench", values, began, command, dataclasses.asdict(config), name="bench-fastrp")


if __name__ == "__main__":
    main(tyro.cli(Config))
