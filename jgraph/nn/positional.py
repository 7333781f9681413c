"""Positional encodings of nodes, computed on the host.

Laplacian eigenvectors: Dwivedi et al., JMLR 24, 2023, arXiv 2003.00982, section 4. Random walks:
Dwivedi et al., ICLR 2022, arXiv 2110.07875.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jgraph.graph.errors import GraphError

Array = Any
# Up to this many nodes a full eigendecomposition is quicker and surer than Lanczos iteration.
_DENSE_NODES = 600
_BLOCK = 256


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; give at least one column")


def _matrices(graph: Any) -> list[tuple[int, Any]]:
    """(first node, A) of each graph; A[receiver, sender] counts edges, scipy CSR float64."""
    import scipy.sparse

    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    n_node = np.asarray(graph.n_node)
    starts = np.concatenate([[0], np.cumsum(n_node)])
    total = int(starts[-1])
    whole = scipy.sparse.coo_matrix(
        (np.ones(senders.size), (receivers, senders)), shape=(total, total)
    ).tocsr()
    real = np.asarray(graph.graph_mask()) if getattr(graph, "padded", False) else n_node >= 0
    spans = [(int(a), int(b)) for a, b, r in zip(starts, starts[1:], real) if r and b > a]
    return [(low, whole[low:high, low:high]) for low, high in spans]


def _fix_signs(vectors: np.ndarray) -> np.ndarray:
    """Columns flipped so that their first entry of (nearly) greatest magnitude is positive."""
    magnitude = np.abs(vectors)
    first = np.argmax(magnitude >= magnitude.max(axis=0) * (1 - 1e-6), axis=0)
    return vectors * np.where(vectors[first, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def _leading_vectors(matrix: Any, trivial: np.ndarray, k: int) -> np.ndarray:
    """Eigenvectors (n, k) of the k greatest eigenvalues, descending, orthogonal to `trivial`."""
    n = matrix.shape[0]
    # Eigenvalues lie in [-1, 1]; this moves the trivial one from 1 to -2, below all others.
    if n <= _DENSE_NODES or k >= n // 2:
        _, vectors = np.linalg.eigh(matrix.toarray() - 3.0 * np.outer(trivial, trivial))
        return vectors[:, ::-1][:, :k]
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    def product(x: np.ndarray) -> np.ndarray:
        x = x.reshape(-1)
        return matrix @ x - 3.0 * trivial * (trivial @ x)

    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n)
    try:
        values, vectors = eigsh(
            operator, k=k, which="LA", v0=start, ncv=min(n, 4 * k + 20), maxiter=50 * n
        )
    except ArpackNoConvergence as error:
        raise GraphError(
            f"the {k} smallest Laplacian eigenvectors of a graph of {n} nodes did not converge; "
            "ask for a smaller k"
        ) from error
    return vectors[:, np.argsort(-values, kind="stable")]


def laplacian_pe(graph: Any, k: int) -> np.ndarray:
    """The k smallest non-trivial eigenvectors of I - D^-1/2 A D^-1/2, for each graph of a batch.

    The trivial one, D^1/2 1 with eigenvalue 0, is left out; the others come in ascending order,
    orthonormal, each with its first entry of greatest magnitude positive. Within an eigenspace of
    several dimensions the basis is arbitrary, as always.

    Args:
      graph: Graph or jraph.GraphsTuple with every edge in both directions.
      k: number of columns; columns beyond n - 1 for a graph of n nodes are 0, as are the rows of
        padding nodes.

    Returns:
      (N, k) float32 NumPy array.

    Raises:
      ValueError: k below 1.
      GraphError: an edge without its reverse, or no convergence.
    """
    import scipy.sparse

    _check_k(k)
    out = np.zeros((int(np.sum(np.asarray(graph.n_node))), k), np.float32)
    for start, adjacency in _matrices(graph):
        if abs(adjacency - adjacency.T).sum() > 0:
            raise GraphError(
                "graph has an edge without its reverse, so the Laplacian is not symmetric; call "
                "graph.to_undirected() first"
            )
        n = adjacency.shape[0]
        count = min(k, n - 1)
        if count == 0:
            continue
        degree = np.asarray(adjacency.sum(axis=1)).reshape(-1)
        scale = scipy.sparse.diags(np.maximum(degree, 1.0) ** -0.5)
        trivial = np.sqrt(degree / max(degree.sum(), 1.0))
        vectors = _leading_vectors((scale @ adjacency @ scale).tocsr(), trivial, count)
        out[start : start + n, :count] = _fix_signs(vectors)
    return out


def random_sign(pe: Array, key: jax.Array) -> jax.Array:
    """pe (N, k) with each column's sign drawn at random: augmentation of `laplacian_pe`."""
    return pe * jax.random.rademacher(key, pe.shape[-1:], pe.dtype)


def random_walk_pe(graph: Any, k: int) -> np.ndarray:
    """Probabilities that a walk is back where it began after 1, ..., k steps.

    The diagonals of the powers of P = A D^-1, D the out-degrees; a walk ends at a node that no
    edge leaves. Exact, in k * N * E operations and blocks of 256 columns.

    Args:
      graph: Graph or jraph.GraphsTuple, each graph of a batch on its own.
      k: number of columns.

    Returns:
      (N, k) float32 NumPy array; padding rows are 0.

    Raises:
      ValueError: k below 1.
    """
    import scipy.sparse

    _check_k(k)
    out = np.zeros((int(np.sum(np.asarray(graph.n_node))), k), np.float32)
    for start, adjacency in _matrices(graph):
        n = adjacency.shape[0]
        degree = np.asarray(adjacency.sum(axis=0)).reshape(-1)
        walk = (adjacency @ scipy.sparse.diags(1.0 / np.maximum(degree, 1.0))).tocsr()
        for low in range(0, n, _BLOCK):
            nodes = np.arange(low, min(low + _BLOCK, n))
            state = np.zeros((n, nodes.size))
            state[nodes, nodes - low] = 1.0
            for step in range(k):
                state = walk @ state
                out[start + nodes, step] = state[nodes, nodes - low]
    return out
