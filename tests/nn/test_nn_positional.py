import jax
import numpy as np
import pytest

from jgraph import nn
from jgraph.graph import Graph, GraphError, batch, pad


def undirected(seed, nodes, edges):
    rng = np.random.default_rng(seed)
    ring = np.arange(nodes)
    graph = Graph.from_edges(
        np.concatenate([ring, rng.integers(0, nodes, edges)]),
        np.concatenate([(ring + 1) % nodes, rng.integers(0, nodes, edges)]),
        nodes=np.zeros((nodes, 1), np.float32),
    )
    return graph.to_undirected().remove_self_loops()


def laplacian(graph):
    a = graph.to_scipy().toarray()
    s = np.maximum(a.sum(1), 1) ** -0.5
    return np.eye(len(a)) - s[:, None] * a * s[None]


def check(pe, graph, k):
    matrix = laplacian(graph)
    pe = np.asarray(pe, np.float64)
    np.testing.assert_allclose(pe.T @ pe, np.eye(k), atol=1e-5)
    values = np.einsum("nk,nm,mk->k", pe, matrix, pe)
    np.testing.assert_allclose(matrix @ pe, pe * values, atol=1e-5)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[1 : k + 1], atol=1e-5)
    largest = np.abs(pe).argmax(0)
    assert (pe[largest, np.arange(k)] > 0).all()


def test_laplacian_pe_are_eigenvectors():
    graph = undirected(0, 20, 25)
    pe = nn.laplacian_pe(graph, 6)
    assert pe.shape == (20, 6) and pe.dtype == np.float32
    check(pe, graph, 6)
    np.testing.assert_array_equal(pe, nn.laplacian_pe(graph, 6))
    np.testing.assert_array_equal(pe, nn.laplacian_pe(graph.to_jraph(), 6))


def test_iterative_solver_agrees(monkeypatch):
    graph = undirected(1, 60, 80)
    dense = nn.laplacian_pe(graph, 4)
    monkeypatch.setattr("jgraph.nn.positional._DENSE_NODES", 10)
    sparse = nn.laplacian_pe(graph, 4)
    check(sparse, graph, 4)
    np.testing.assert_allclose(sparse, dense, atol=1e-4)


def test_disconnected_graph_loses_only_the_trivial_vector():
    two = Graph.from_edges([0, 1, 1, 2, 0, 2, 3, 4], [1, 0, 2, 1, 2, 0, 4, 3], num_nodes=5)
    pe = nn.laplacian_pe(two, 2).astype(np.float64)
    matrix = laplacian(two)
    np.testing.assert_allclose(matrix @ pe[:, 0], 0, atol=1e-6)
    trivial = np.sqrt([2, 2, 2, 1, 1])
    np.testing.assert_allclose(trivial @ pe, 0, atol=1e-6)


def test_batches_padding_and_small_graphs():
    graphs = [undirected(2, 9, 8), undirected(3, 3, 0), Graph.from_edges([], [], num_nodes=1)]
    graphs = [g.replace(nodes=np.zeros((g.num_nodes, 1), np.float32)) for g in graphs]
    whole = nn.laplacian_pe(batch(graphs), 5)
    parts = np.concatenate([nn.laplacian_pe(g, 5) for g in graphs])
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(whole[9:12, 2:], 0)
    np.testing.assert_array_equal(whole[12], 0)
    padded = nn.laplacian_pe(pad(batch(graphs), 20, 90, 5), 5)
    np.testing.assert_array_equal(padded, np.pad(whole, ((0, 7), (0, 0))))


def test_malformed_input_is_rejected():
    with pytest.raises(GraphError, match="to_undirected"):
        nn.laplacian_pe(Graph.from_edges([0], [1]), 1)
    with pytest.raises(ValueError, match="k is 0"):
        nn.laplacian_pe(undirected(0, 4, 0), 0)
    with pytest.raises(ValueError, match="k is -1"):
        nn.random_walk_pe(undirected(0, 4, 0), -1)


def test_random_sign_flips_whole_columns():
    pe = nn.laplacian_pe(undirected(0, 20, 25), 6)
    flipped = np.asarray(nn.random_sign(pe, jax.random.key(0)))
    np.testing.assert_array_equal(np.abs(flipped), np.abs(pe))
    signs = flipped / np.where(pe == 0, 1, pe)
    assert all(len(set(np.unique(column)) - {0.0}) == 1 for column in signs.T)
    draws = jax.vmap(lambda k: nn.random_sign(pe, k))(jax.random.split(jax.random.key(1), 400))
    assert np.abs(np.sign(draws[:, 0]).mean(0)).max() < 0.2


def test_random_walk_pe_is_the_diagonal_of_powers(monkeypatch, make_graph):
    monkeypatch.setattr("jgraph.nn.positional._BLOCK", 4)
    for graph in (undirected(4, 11, 9), make_graph(0)):
        a = graph.to_scipy().toarray()
        walk = a / np.maximum(a.sum(0), 1)
        want = [np.diag(np.linalg.matrix_power(walk, t)) for t in range(1, 6)]
        np.testing.assert_allclose(nn.random_walk_pe(graph, 5), np.stack(want, 1), atol=1e-6)
    whole = nn.random_walk_pe(pad(graph, 15, 40, 2), 5)
    np.testing.assert_array_equal(whole[graph.num_nodes :], 0)
