"""FastRP: fast and accurate network embeddings via very sparse random projection.

What it computes, for an undirected graph S (N, N) with degrees d_i = sum_j S_ij and
A = D^-1 S, without training and without any N x N matrix:

    R_ij = sqrt(s / d') * (+1, 0, -1  with probability 1/2s, 1 - 1/s, 1/2s)           (N, d')
    L    = diag( (d_j / sum d)^beta )                      beta in [-1, 0]; hubs count less
    N_1  = A (L R),   N_k = A N_{k-1}                      k = 2, ..., q              (N, d')
    N    = standardised columns of  sum_k alpha_k N_k / |rows of N_k|                 (N, d')

d' is the dimension, s = sqrt(N). E[R R^T] = I, so inner products of rows of N_k estimate those of
A^k L. Complexity O(q (E + N) d'); memory O(N d'), of which `fastrp` keeps three arrays. R is drawn
by the gaps between its entries: d' sqrt(N) random numbers in place of N d'.

Deviations: the authors' code has L without the division by sum d, a common factor that
normalisation or standardisation cancels. Nodes without edges have rows 0 in every power (there
1/0), and the standardised value of 0 in the result.

Reference: Chen, Sultan, Tian, Chen & Skiena, "Fast and Accurate Network Embeddings via Very Sparse
Random Projection", CIKM 2019, arXiv 1908.11512; code https://github.com/GTmac/FastRP.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgraph import ops
from jgraph.gnn.common import example_graph
from jgraph.graph import Graph
from jgraph.nn.inputs import is_sorted, node_mask
from jgraph.nn.sage import l2_normalize
from jgraph.paper import Paper

PAPER = Paper(
    slug="fastrp",
    title="Fast and Accurate Network Embeddings via Very Sparse Random Projection",
    authors="Haochen Chen, Syed Fahad Sultan, Yingtao Tian, Muhao Chen, Steven Skiena",
    year=2019,
    arxiv="1908.11512",
    family="gnn",
    task="embedding",
    experiment="experiments/gnn/fastrp.py",
    reported={
        "blogcatalog micro-F1 %, 10 % labels": 37.23,
        "blogcatalog macro-F1 %, 10 % labels": 22.81,
    },
)

Array = jax.Array
INPUTS = ("trans", "adj")


@functools.partial(jax.jit, static_argnames=("n", "d", "s"))
def very_sparse_projection(key: Array, n: int, d: int, s: float | None = None) -> Array:
    """Random matrix of entries 0 and +-sqrt(s / d), each non-zero with probability 1 / s.

    Down a column, the distance from one non-zero entry to the next is geometric; drawing distances
    costs d n / s random numbers. Room is left for eight standard deviations above the mean number
    of entries in a column.

    Args:
      n, d: rows and columns.
      s: at least 1; None is sqrt(n), 3 is Achlioptas's matrix, 1 is dense.

    Returns:
      (n, d) float32 R with E[R R^T] = I.

    Raises:
      ValueError: a size or s below 1.
    """
    s = math.sqrt(n) if s is None else float(s)
    if n < 1 or d < 1 or not s >= 1:
        raise ValueError(f"n is {n}, d is {d}, s is {s}; each must be at least 1")
    p = 1.0 / s
    room = min(n, math.ceil(n * p + 8 * math.sqrt(n * p * (1 - p)) + 8))
    gap_key, sign_key = jax.random.split(key)
    u = 1.0 - jax.random.uniform(gap_key, (d, room))
    skipped = jnp.floor(jnp.log(u) / (math.log1p(-p) if p < 1 else -math.inf))
    # A distance beyond the column's end need not be exact, but must not overflow.
    rows = jnp.cumsum(1 + jnp.minimum(skipped, n).astype(jnp.int32), axis=1) - 1
    values = jax.random.rademacher(sign_key, (d, room), jnp.float32) * math.sqrt(s / d)
    columns = jnp.broadcast_to(jnp.arange(d)[:, None], rows.shape)
    return jnp.zeros((n, d)).at[rows, columns].set(values, mode="drop")


def gaussian_projection(key: Array, n: int, d: int) -> Array:
    """(n, d) float32 normal entries of variance 1 / d, the dense alternative."""
    return jax.random.normal(key, (n, d)) / math.sqrt(d)


def _powers(
    graph: Any, projection: Array, q: int, beta: Any, input: str, edge_weight: Array | None
) -> Iterator[Array]:
    if q < 1:
        raise ValueError(f"q is {q}; there must be at least one power")
    if input not in INPUTS:
        raise ValueError(f"input is {input!r}; choose one of {', '.join(INPUTS)}")
    x = jnp.asarray(projection, jnp.promote_types(projection.dtype, jnp.float32))
    if edge_weight is None:
        degree = ops.degrees(graph, x.shape[0]).astype(x.dtype)
        edge_weight = jnp.ones(graph.senders.shape, x.dtype)
    else:
        edge_weight = jnp.asarray(edge_weight, x.dtype)
        degree = ops.segment_sum(
            edge_weight, graph.receivers, x.shape[0], indices_are_sorted=is_sorted(graph)
        )
    safe = jnp.where(degree > 0, degree, 1)
    scale = jnp.where(degree > 0, (safe / jnp.sum(degree)) ** beta, 0)
    if input == "trans":
        # Scaling E weights spares a pass over N x d per power.
        edge_weight = edge_weight * ops.gather_receivers(graph, 1 / safe)
    x = scale[:, None] * x
    for _ in range(q):
        x = ops.spmm(graph, x, edge_weight)
        yield x


@functools.partial(jax.jit, static_argnames=("q", "input"))
def fastrp_powers(
    graph: Any,
    projection: Array,
    q: int = 4,
    beta: float = -0.64,
    *,
    input: str = "trans",
    edge_weight: Array | None = None,
) -> Array:
    """N_1, ..., N_q of the module's docstring, not normalised.

    Args:
      graph: Graph or jraph.GraphsTuple with every edge in both directions.
      projection: R, (N, d).
      beta: exponent of the degrees in L.
      input: "trans" for A = D^-1 S, "adj" for S itself in its place.
      edge_weight: (E,) the entries of S, None for ones.

    Returns:
      (q, N, d) in the dtype of R, float32 at least; rows of nodes without edges are 0.

    Raises:
      ValueError: q below 1 or an unknown input.
    """
    return jnp.stack(list(_powers(graph, projection, q, beta, input, edge_weight)))


def standardize_columns(x: Array, mask: Array | None = None) -> Array:
    """Columns of (N, d) shifted to mean 0 and scaled to variance 1; constant columns become 0.

    Args:
      mask: (N,) bool rows that count; the others become 0. None: all.
    """
    kept = jnp.ones(x.shape[:1], bool) if mask is None else mask
    count = jnp.sum(kept)
    centred = jnp.where(kept[:, None], x - jnp.sum(x * kept[:, None], axis=0) / count, 0)
    variance = jnp.sum(centred * centred, axis=0) / count
    return centred * jnp.where(variance > 0, jax.lax.rsqrt(jnp.where(variance > 0, variance, 1)), 0)


def fastrp(
    graph: Any,
    key: Array,
    dim: int = 512,
    weights: Sequence[float] | None = (0.0, 0.0, 1.0, 6.67),
    beta: float = -0.64,
    normalize: bool = True,
    input: str = "trans",
    *,
    s: float | None = None,
    projection: Array | None = None,
    edge_weight: Array | None = None,
    num_powers: int = 4,
) -> Array:
    """The embedding.

    Args:
      graph: Graph or jraph.GraphsTuple with every edge in both directions; padding nodes get 0.
      key: of the projection; the same key gives the same embedding.
      dim: d'.
      weights: alpha_1, ..., alpha_q; None puts the powers side by side instead of adding them.
      beta, input, edge_weight: as in `fastrp_powers`.
      normalize: divide the rows of each power by their length.
      s: sparsity of the projection, None for sqrt(N). N counts padding: give s where it matters.
      projection: R (N, dim) to use in place of the very sparse one.
      num_powers: q when `weights` is None.

    Returns:
      (N, dim) float32 (side by side: (N, q dim)) with standardised columns.

    Raises:
      ValueError: no weights, or an unknown input.
    """
    if weights is not None and len(weights) == 0:
        raise ValueError("weights is empty; give one weight per power")
    if projection is None:
        index = getattr(graph, "index", None)
        nodes = graph.num_nodes if index is not None else int(np.sum(np.asarray(graph.n_node)))
        projection = very_sparse_projection(key, nodes, dim, s)
    alphas = (None,) * num_powers if weights is None else tuple(map(float, weights))
    return _embed(graph, projection, alphas, beta, normalize, input, edge_weight)


@functools.partial(jax.jit, static_argnums=(2, 4, 5))
def _embed(
    graph: Any,
    projection: Array,
    alphas: tuple[float | None, ...],
    beta: Any,
    normalize: bool,
    input: str,
    edge_weight: Array | None,
) -> Array:
    """`fastrp` of a given projection; powers with weight None stand side by side."""
    powers = _powers(graph, projection, len(alphas), beta, input, edge_weight)
    parts, total = [], jnp.zeros_like(projection)
    for alpha, x in zip(alphas, powers, strict=True):
        if alpha == 0:
            continue
        x = l2_normalize(x) if normalize else x
        if alpha is None:
            parts.append(x)
        else:
            total = total + alpha * x
    out = jnp.concatenate(parts, axis=1) if parts else total
    return standardize_columns(out, node_mask(graph))


def top_k_predictions(scores: Any, labels: Any) -> np.ndarray:
    """The k best-scored labels of each row, k the number of labels that the row truly has.

    Args:
      scores, labels: (M, C), labels of 0 and 1.

    Returns:
      (M, C) int array of 0 and 1.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    place = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    return (place < labels.sum(axis=1, keepdims=True)).astype(int)


def multilabel_f1(
    embedding: Any, labels: Any, fraction: float, key: Array, C: float = 0.1
) -> tuple[float, float]:
    """DeepWalk's protocol: one-vs-rest logistic regression on a random part of the nodes.

    Args:
      embedding: (N, d); labels: (N, C) of 0 and 1.
      fraction: share of nodes to train on, in (0, 1).
      key: of the shuffle.
      C: inverse strength of the L2 penalty.

    Returns:
      (micro F1, macro F1) in [0, 1] over the other nodes, each of which gets as many labels as it
      truly has.

    Raises:
      ValueError: fraction out of range.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    x, y = np.asarray(embedding), np.asarray(labels).astype(int)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; it must lie between 0 and 1")
    order = np.asarray(jax.random.permutation(key, x.shape[0]))
    train, test = np.split(order, [int(fraction * x.shape[0])])
    scores = np.zeros((test.size, y.shape[1]))
    for label in range(y.shape[1]):
        target = y[train, label]
        if target.min() == target.max():
            scores[:, label] = np.inf if target.all() else -np.inf
            continue
        # The solver of the protocol's own script, which penalises the intercept too; fast here.
        model = LogisticRegression(C=C, solver="liblinear").fit(x[train], target)
        scores[:, label] = model.decision_function(x[test])
    guess = top_k_predictions(scores, y[test])
    micro, macro = (
        float(f1_score(y[test], guess, average=how, zero_division=0)) for how in ("micro", "macro")
    )
    return micro, macro


def example(key: Array) -> Graph:
    """A tiny undirected batch of graphs with an isolated node, for tests."""
    return example_graph(key)
