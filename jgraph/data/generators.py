"""Synthetic graphs, deterministic by seed.

PATTERN, CLUSTER and CSL follow Dwivedi et al., "Benchmarking Graph Neural Networks" (JMLR 24, 2023,
arXiv 2003.00982); CSL is from Murphy et al., "Relational Pooling" (ICML 2019). The same recipes
with other random numbers: the graphs are not bit for bit those of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jgraph.graph import Graph

CSL_NODES = 41
CSL_SKIPS = (2, 3, 4, 5, 6, 9, 11, 12, 13, 16)
_BLOCK_SIZES = (5, 35)


@dataclass(frozen=True, eq=False)
class LabelledGraphs:
    """Graphs of which every node has a class.

    Attributes:
      graphs: each with one-hot float32 node features and symmetric edges.
      labels: for each graph, (N,) int32.
    """

    graphs: tuple[Graph, ...]
    labels: tuple[np.ndarray, ...]


def stochastic_block_model(
    sizes: Sequence[int] | np.ndarray, probabilities: np.ndarray, rng: np.random.Generator | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A symmetric graph without loops; a pair in blocks a, b is joined with probabilities[a, b].

    Args:
      sizes: number of nodes of each of the B blocks.
      probabilities: (B, B), symmetric, in [0, 1].
      rng: a generator, or a seed.

    Returns:
      senders, receivers: (E,) int32, both directions; blocks: (N,) int32.

    Raises:
      ValueError: probabilities of another shape, not symmetric, or outside [0, 1].
    """
    rng = np.random.default_rng(rng)
    table = np.asarray(probabilities, float)
    count = len(sizes)
    if table.shape != (count, count) or not np.array_equal(table, table.T):
        raise ValueError(
            f"probabilities has shape {table.shape}; it must be a symmetric ({count}, {count})"
        )
    if table.size and (table.min() < 0 or table.max() > 1):
        raise ValueError(f"probabilities span {table.min()} to {table.max()}; keep to [0, 1]")
    blocks = np.repeat(np.arange(count, dtype=np.int32), sizes)
    low, high = np.triu_indices(blocks.size, k=1)
    joined = rng.random(low.size) < table[blocks[low], blocks[high]]
    low, high = low[joined].astype(np.int32), high[joined].astype(np.int32)
    return np.concatenate([low, high]), np.concatenate([high, low]), blocks


def make_pattern(
    seed: int,
    n_train: int,
    n_val: int,
    n_test: int,
    *,
    num_patterns: int = 100,
    p: float = 0.5,
    q: float = 0.35,
) -> tuple[LabelledGraphs, LabelledGraphs, LabelledGraphs]:
    """PATTERN: find the nodes of a planted subgraph in a block model.

    Five blocks of U{5..34} nodes (joined with probability p inside, q across) and a pattern of
    U{5..34} nodes (0.5 inside, 0.5 to all others). Features are uniform in {0, 1, 2}, one-hot; the
    edges and features of a pattern are fixed, and each of `num_patterns` patterns serves graphs of
    all three sets in turn. Label 1 = in the pattern. Published: 100 patterns, 10000/2000/2000.

    Args:
      seed: of `numpy.random.default_rng`.
      n_train, n_val, n_test: number of graphs.

    Returns:
      The three sets.
    """
    _check_counts(n_train, n_val, n_test)
    rng = np.random.default_rng(seed)
    patterns = []
    for _ in range(num_patterns):
        size = int(rng.integers(*_BLOCK_SIZES))
        senders, receivers, _ = stochastic_block_model([size], np.array([[0.5]]), rng)
        patterns.append((size, senders, receivers, rng.integers(3, size=size)))

    def one(number: int) -> tuple[Graph, np.ndarray]:
        sizes, table = _blocks(5, p, q, rng)
        senders, receivers, blocks = stochastic_block_model(sizes, table, rng)
        host = blocks.size
        size, inner_from, inner_to, kinds = patterns[number % num_patterns]
        there, here = np.nonzero(rng.random((size, host)) < 0.5)
        senders = np.concatenate([senders, inner_from + host, there + host, here])
        receivers = np.concatenate([receivers, inner_to + host, here, there + host])
        kinds = np.concatenate([rng.integers(3, size=host), kinds])
        labels = (np.arange(host + size) >= host).astype(np.int32)
        return _shuffled(senders, receivers, np.eye(3, dtype=np.float32)[kinds], labels, rng)

    return _three(one, n_train, n_val, n_test)


def make_cluster(
    seed: int, n_train: int, n_val: int, n_test: int, *, p: float = 0.55, q: float = 0.25
) -> tuple[LabelledGraphs, LabelledGraphs, LabelledGraphs]:
    """CLUSTER: tell the six blocks apart when one node of each is known.

    Six blocks of U{5..34} nodes, joined with probability p inside and q across. One random node of
    block c has feature c + 1, all others 0; one-hot over 0..6. Label = block. Published:
    10000/1000/1000 graphs. Arguments and result as in `make_pattern`.
    """
    _check_counts(n_train, n_val, n_test)
    rng = np.random.default_rng(seed)

    def one(number: int) -> tuple[Graph, np.ndarray]:
        sizes, table = _blocks(6, p, q, rng)
        senders, receivers, blocks = stochastic_block_model(sizes, table, rng)
        kinds = np.zeros(blocks.size, int)
        starts = np.cumsum(sizes) - sizes
        kinds[starts + rng.integers(sizes)] = np.arange(1, 7)
        return _shuffled(senders, receivers, np.eye(7, dtype=np.float32)[kinds], blocks, rng)

    return _three(one, n_train, n_val, n_test)


def make_csl(seed: int = 0, copies: int = 15) -> tuple[tuple[Graph, ...], np.ndarray]:
    """CSL: circular skip links, 4-regular graphs that message passing cannot tell apart.

    41 nodes on a cycle, each also joined to the nodes R steps away, for ten values of R (the
    class); `copies` random renumberings of each. The single node feature is 1.

    Returns:
      10 * copies graphs, ordered by class, and their labels (10 * copies,) int32.
    """
    rng = np.random.default_rng(seed)
    ring = np.arange(CSL_NODES)
    graphs = []
    for skip in CSL_SKIPS:
        ends = [(ring + step) % CSL_NODES for step in (1, -1, skip, -skip)]
        for _ in range(copies):
            number = rng.permutation(CSL_NODES)
            graphs.append(
                Graph.from_edges(
                    number[np.tile(ring, 4)],
                    number[np.concatenate(ends)],
                    nodes=np.ones((CSL_NODES, 1), np.float32),
                )
            )
    return tuple(graphs), np.repeat(np.arange(len(CSL_SKIPS), dtype=np.int32), copies)


def power_law_graph(
    num_nodes: int, num_edges: int, exponent: float = 2.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A directed graph whose expected degrees follow a power law (Chung and Lu, PNAS 2002).

    Node i has weight (i + 1)^(-1 / (exponent - 1)); both ends of an edge are drawn by weight, loops
    and repeats are drawn again, and nodes are renumbered at random. For benchmarks.

    Args:
      num_nodes, num_edges: N and E, exactly.
      exponent: of the degree distribution, above 1; 2 to 3 is typical.
      seed: of `numpy.random.default_rng`.

    Returns:
      senders, receivers: (E,) int32, unsorted.

    Raises:
      ValueError: exponent at most 1, or more edges than such a graph can hold.
    """
    if exponent <= 1:
        raise ValueError(f"exponent is {exponent}; it must be above 1")
    if not 0 <= num_edges <= num_nodes * (num_nodes - 1) // 2:
        raise ValueError(
            f"num_edges is {num_edges}; {num_nodes} nodes take 0 to half of all ordered pairs"
        )
    rng = np.random.default_rng(seed)
    weight = np.arange(1, num_nodes + 1) ** (-1.0 / (exponent - 1))
    cumulative = np.cumsum(weight) / weight.sum()
    codes = np.zeros(0, np.int64)
    for _ in range(60):
        lacking = num_edges - codes.size
        if lacking <= 0:
            break
        ends = np.searchsorted(cumulative, rng.random((2, lacking + lacking // 4 + 16)), "right")
        ends = np.minimum(ends, num_nodes - 1).astype(np.int64)
        ends = ends[:, ends[0] != ends[1]]
        codes = np.unique(np.concatenate([codes, ends[0] * num_nodes + ends[1]]))
    if codes.size < num_edges:
        raise ValueError(
            f"num_edges={num_edges} is too dense for exponent={exponent} on {num_nodes} nodes: the "
            "hubs are full; take fewer edges or a larger exponent"
        )
    codes = rng.permutation(codes)[:num_edges]
    number = rng.permutation(num_nodes).astype(np.int32)
    return number[codes // num_nodes], number[codes % num_nodes]


def _check_counts(*counts: int) -> None:
    if min(counts) < 1:
        raise ValueError(f"n_train, n_val, n_test are {counts}; each must be at least 1")


def _blocks(count: int, p: float, q: float, rng) -> tuple[np.ndarray, np.ndarray]:
    sizes = rng.integers(*_BLOCK_SIZES, size=count)
    return sizes, np.full((count, count), q) + np.eye(count) * (p - q)


def _shuffled(senders, receivers, nodes, labels, rng) -> tuple[Graph, np.ndarray]:
    order = rng.permutation(labels.size)
    number = np.argsort(order)
    graph = Graph.from_edges(number[senders], number[receivers], nodes=nodes[order])
    return graph, labels[order].astype(np.int32)


def _three(one, *counts: int) -> tuple[LabelledGraphs, LabelledGraphs, LabelledGraphs]:
    sets = []
    for count in counts:
        pairs = [one(number) for number in range(count)]
        sets.append(LabelledGraphs(tuple(g for g, _ in pairs), tuple(y for _, y in pairs)))
    return sets[0], sets[1], sets[2]
