"""Properties of the generated graphs."""

import networkx as nx
import numpy as np
import pytest

from jgraph.data import generators


def _dense(graph):
    matrix = np.zeros((graph.num_nodes, graph.num_nodes), int)
    np.add.at(matrix, (np.asarray(graph.senders), np.asarray(graph.receivers)), 1)
    return matrix


def test_block_model_has_the_asked_densities():
    table = np.array([[0.6, 0.1], [0.1, 0.3]])
    senders, receivers, blocks = generators.stochastic_block_model([150, 100], table, 0)
    matrix = np.zeros((250, 250), int)
    np.add.at(matrix, (senders, receivers), 1)
    assert matrix.max() == 1
    assert (matrix == matrix.T).all()
    assert np.trace(matrix) == 0
    for a in range(2):
        for b in range(2):
            cell = matrix[np.ix_(blocks == a, blocks == b)]
            pairs = cell.size - (len(cell) if a == b else 0)
            assert abs(cell.sum() / pairs - table[a, b]) < 0.02
    with pytest.raises(ValueError, match="symmetric"):
        generators.stochastic_block_model([2, 2], np.array([[1, 0.5], [0, 1]]), 0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        generators.stochastic_block_model([2], np.array([[1.5]]), 0)


def test_pattern():
    sets = generators.make_pattern(0, 20, 4, 3, num_patterns=2)
    assert [len(one.graphs) for one in sets] == [20, 4, 3]
    inside, across = [], []
    for graph, labels in zip(sets[0].graphs, sets[0].labels, strict=True):
        matrix = _dense(graph)
        assert (matrix == matrix.T).all()
        assert matrix.max() == 1
        assert np.trace(matrix) == 0
        assert graph.nodes.shape == (labels.size, 3)
        assert (graph.nodes.sum(axis=1) == 1).all()
        assert 5 <= labels.sum() <= 34
        assert 25 <= (1 - labels).sum() <= 170
        across.append(matrix[np.ix_(labels == 1, labels == 0)].mean())
        inside.append(matrix[np.ix_(labels == 1, labels == 1)])
    assert abs(np.mean(across) - 0.5) < 0.03
    # Graphs i and i + 2 hold the same pattern: same edges and features, in another order.
    for kind in range(2):
        same = inside[kind::2]
        assert len({(m.shape, m.sum()) for m in same}) == 1
        first, second = (nx.from_numpy_array(m) for m in same[:2])
        assert sorted(dict(first.degree).values()) == sorted(dict(second.degree).values())
        features = [
            sets[0].graphs[i].nodes[sets[0].labels[i] == 1].sum(axis=0) for i in range(kind, 20, 2)
        ]
        assert (np.array(features) == features[0]).all()


def test_cluster():
    train, _, _ = generators.make_cluster(1, 15, 2, 2)
    within, across = [], []
    for graph, labels in zip(train.graphs, train.labels, strict=True):
        matrix = _dense(graph)
        assert (matrix == matrix.T).all()
        kinds = graph.nodes.argmax(axis=1)
        for block in range(6):
            assert 5 <= (labels == block).sum() <= 34
            known = np.flatnonzero(kinds == block + 1)
            assert known.size == 1
            assert labels[known[0]] == block
        same = labels[:, None] == labels[None]
        off = ~np.eye(labels.size, dtype=bool)
        within.append(matrix[same & off].mean())
        across.append(matrix[~same].mean())
    assert abs(np.mean(within) - 0.55) < 0.03
    assert abs(np.mean(across) - 0.25) < 0.02


@pytest.mark.parametrize("make", [generators.make_pattern, generators.make_cluster])
def test_seed_decides(make):
    one, two, other = make(5, 2, 1, 1), make(5, 2, 1, 1), make(6, 2, 1, 1)
    np.testing.assert_array_equal(one[2].graphs[0].senders, two[2].graphs[0].senders)
    np.testing.assert_array_equal(one[2].labels[0], two[2].labels[0])
    assert not np.array_equal(one[0].labels[0], other[0].labels[0])
    with pytest.raises(ValueError, match="at least 1"):
        make(0, 1, 0, 1)


def test_csl():
    graphs, labels = generators.make_csl(copies=2)
    assert len(graphs) == 20
    np.testing.assert_array_equal(np.bincount(labels), [2] * 10)
    shapes = []
    for graph in graphs:
        matrix = _dense(graph)
        assert graph.num_nodes == 41
        assert matrix.max() == 1
        assert (matrix == matrix.T).all()
        assert np.trace(matrix) == 0
        np.testing.assert_array_equal(matrix.sum(axis=0), 4)
        np.testing.assert_array_equal(graph.nodes, 1)
        shapes.append(np.round(np.linalg.eigvalsh(matrix), 6))
    assert not np.array_equal(graphs[0].senders, graphs[1].senders)
    for i in range(20):
        for j in range(i):
            assert np.array_equal(shapes[i], shapes[j]) == (labels[i] == labels[j])


def test_power_law_graph():
    senders, receivers = generators.power_law_graph(2000, 10_000, 2.2, seed=1)
    assert senders.shape == receivers.shape == (10_000,)
    assert senders.dtype == np.int32
    assert (senders != receivers).all()
    assert np.unique(senders.astype(np.int64) * 2000 + receivers).size == 10_000
    degree = np.sort(np.bincount(receivers, minlength=2000))[::-1]
    even = np.sort(np.bincount(generators.power_law_graph(2000, 10_000, 50.0)[1]))[::-1]
    assert degree[0] > 5 * even[0]
    np.testing.assert_array_equal(senders, generators.power_law_graph(2000, 10_000, 2.2, 1)[0])
    with pytest.raises(ValueError, match="exponent"):
        generators.power_law_graph(10, 5, 1.0)
    with pytest.raises(ValueError, match="num_edges"):
        generators.power_law_graph(10, 46)
    with pytest.raises(ValueError, match="too dense"):
        generators.power_law_graph(60, 1770, 1.2)
    assert generators.power_law_graph(10, 0)[0].size == 0
