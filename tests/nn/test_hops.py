"""Hop features and their limit: dense powers of the propagation matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph.graph import Graph, SparseMatrix, pad
from jgraph.nn.hops import components, hop_features, propagate, stationary_features


def undirected(seed=0, nodes=10, edges=14):
    rng = np.random.default_rng(seed)
    graph = Graph.from_edges(*rng.integers(0, nodes, (2, edges)), num_nodes=nodes)
    return graph.remove_self_loops().to_undirected()


def connected(seed=0, nodes=10):
    rng = np.random.default_rng(seed)
    ring = np.arange(nodes)
    senders = np.concatenate([ring, rng.integers(0, nodes, 6)])
    receivers = np.concatenate([(ring + 1) % nodes, rng.integers(0, nodes, 6)])
    return Graph.from_edges(senders, receivers).remove_self_loops().to_undirected()


def dense_rule(graph, r, weight=None):
    a = graph.to_scipy(weight).toarray().astype(np.float64) + np.eye(graph.num_nodes)
    degree = a.sum(1)
    return degree[:, None] ** (r - 1) * a * degree**-r


@pytest.mark.parametrize("r", [0.0, 0.3, 0.5, 1.0])
def test_hops_are_powers_of_the_dense_matrix(r):
    graph = undirected()
    x = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    rule, want = dense_rule(graph, r), [x]
    for _ in range(3):
        want.append(rule @ want[-1])
    got = jax.jit(hop_features, static_argnums=(2, 3))(graph, x, 3, r)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_weighted_sparse_padded_and_unsorted_inputs():
    graph = undirected(2)
    weight = np.random.default_rng(0).uniform(0.1, 2, (10, 10)).astype(np.float32)
    weight = (weight + weight.T)[graph.receivers, graph.senders]
    x = np.eye(10, dtype=np.float32)
    np.testing.assert_allclose(
        propagate(graph, jnp.asarray(x), 0.5, weight), dense_rule(graph, 0.5, weight), atol=1e-6
    )
    limit = stationary_features(graph, x, 0.5, weight)
    np.testing.assert_allclose(
        limit, np.linalg.matrix_power(dense_rule(graph, 0.5, weight), 2000), atol=1e-4
    )
    want = hop_features(graph, x, 2)
    np.testing.assert_allclose(hop_features(graph, SparseMatrix.from_dense(x), 2), want, atol=1e-6)
    graph = graph.replace(nodes=x)
    np.testing.assert_allclose(hop_features(graph.to_jraph(), x, 2), want, atol=1e-6)
    padded = pad(graph, 14, graph.num_edges + 5, 2)
    np.testing.assert_allclose(hop_features(padded, padded.nodes, 2)[:, :10], want, atol=1e-6)
    np.testing.assert_allclose(
        stationary_features(padded, padded.nodes)[:10], stationary_features(graph, x), atol=1e-6
    )


@pytest.mark.parametrize("r", [0.0, 0.5, 1.0])
def test_limit_equals_four_hundred_hops(r):
    graph = connected()
    x = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    far = hop_features(graph, x, 400, r)[-1]
    np.testing.assert_allclose(stationary_features(graph, x, r), far, atol=1e-4)


def test_limit_of_each_component_and_of_isolated_nodes():
    pair = Graph.from_edges([0, 1, 3, 4, 4, 5], [1, 0, 4, 3, 5, 4], num_nodes=7)
    x = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)
    limit = stationary_features(pair, x)
    np.testing.assert_allclose(limit, hop_features(pair, x, 400)[-1], atol=1e-4)
    np.testing.assert_allclose(limit[jnp.array([2, 6])], x[[2, 6]], atol=1e-6)


def test_components_are_those_of_scipy():
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(0)
    label_of = jax.jit(components, static_argnums=1)
    path = np.arange(63)
    for senders, receivers in (
        *(rng.integers(0, 64, (2, count)) for count in (0, 20, 40, 60)),
        (path, path + 1),
        (rng.permutation(64)[:-1], rng.permutation(64)[1:]),
    ):
        graph = Graph.from_edges(senders, receivers, num_nodes=64)
        _, want = connected_components(graph.to_scipy(), directed=False)
        first = np.array([np.flatnonzero(want == label)[0] for label in want])
        np.testing.assert_array_equal(label_of(graph, 64), first)


def test_wrong_arguments_are_named():
    graph = undirected()
    with pytest.raises(ValueError, match="hops is -1"):
        hop_features(graph, np.ones((10, 2), np.float32), -1)
    with pytest.raises(TypeError, match="hop_features needs node features"):
        hop_features(graph, None, 1)
