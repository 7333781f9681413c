"""Dataset, Split and transforms on tiny graphs."""

import numpy as np
import pytest

from jgraph.data import Dataset, DatasetError, Split, transforms
from jgraph.graph import Graph, SparseMatrix, batch


def _graph(nodes=None):
    if nodes is None:
        nodes = np.array([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0], [5.0, 0.0]], np.float32)
    return Graph.from_edges(
        np.array([0, 1, 1, 2]), np.array([1, 0, 1, 0]), nodes=nodes, edges=np.arange(4.0)[:, None]
    )


SPLIT = Split(np.array([0, 2]), np.array([1]), np.array([3]))
LABELS = np.array([0, 0, 1, 1])


def _dataset(**changes):
    fields = {
        "name": "toy", "graphs": (_graph(),), "labels": LABELS, "splits": (SPLIT,),
        "task": "node", "num_classes": 2, "description": "four nodes",
    }  # fmt: skip
    return Dataset(**{**fields, **changes})


def _graph_dataset():
    graphs = [_graph(np.full((4, 1), value, np.float32)) for value in (0.0, 2.0, 7.0)]
    split = Split([0, 1], [], [2])
    return _dataset(graphs=graphs, labels=np.array([0, 1, 0]), splits=(split,), task="graph")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0, 1], [1], [2]), "index 1 occurs more than once"),
        (([0, 0], [1], [2]), "index 0 occurs"),
        (([-1], [1], [2]), "-1"),
        (([], [1], [2]), "train is empty"),
        ((np.array([True, False]), [1], [2]), "from_masks"),
        ((np.array([0.5]), [1], [2]), "integers"),
        ((np.array([[0]]), [1], [2]), "one-dimensional"),
    ],
)
def test_bad_splits(parts, message):
    with pytest.raises(ValueError, match=message):
        Split(*parts)


def test_split_from_masks():
    split = Split.from_masks([1, 0, 0, 1], np.array([False, True, False, False]), [0, 0, 1, 0])
    np.testing.assert_array_equal(split.train, [0, 3])
    assert split.sizes == (2, 1, 1)
    assert split.val.dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:3]}, "labels has shape"),
        ({"labels": LABELS.astype(float)}, "labels has dtype"),
        ({"labels": LABELS - 1}, "span -1 to 0"),
        ({"num_classes": 1}, "span 0 to 1"),
        ({"splits": ()}, "splits is empty"),
        ({"splits": (SPLIT, Split([0], [1], [4]))}, r"splits\[1\].test has index 4"),
        ({"graphs": (_graph(), _graph())}, "exactly one graph"),
        ({"graphs": ()}, "graphs has 0"),
        ({"task": "edge"}, "task is 'edge'"),
        ({"metric": "f1"}, "metric is 'f1'"),
        ({"metric": "mae", "labels": np.array([0, 1, np.nan, 2])}, "NaN"),
    ],
)
def test_bad_datasets(changes, message):
    with pytest.raises(DatasetError, match=message) as caught:
        _dataset(**changes)
    assert caught.value.dataset == "toy"
    assert caught.value.fix


def test_statistics_and_summary():
    data = _dataset()
    assert data.statistics == {
        "graphs": 1, "nodes": 4, "edges": 4, "features": 2, "edge_features": 1, "classes": 2,
        "isolated_nodes": 1, "self_loops": 1, "average_degree": 1.0, "undirected": False,
        "split_sizes": ((2, 1, 1),), "edge_homophily": 0.5,
    }  # fmt: skip
    text = repr(data)
    for word in ("toy", "four nodes", "4 nodes", "2/1/1", "0.5000", "accuracy"):
        assert word in text
    assert data.labels.dtype == np.int32
    assert data.graph is data.graphs[0]


def test_graph_task_and_regression():
    data = _graph_dataset()
    assert data.statistics["nodes"] == 12
    assert "edge_homophily" not in data.statistics
    with pytest.raises(DatasetError, match=r"use \.graphs"):
        _ = data.graph
    target = data.replace(labels=np.array([0.5, 1, 2]), metric="mae", num_classes=1)
    assert target.labels.dtype == np.float32


def test_normalize_features_dense_and_sparse_agree():
    nodes = _graph().nodes
    dense = transforms.normalize_features(_dataset()).graph.nodes
    expected = [[0.25, 0.75], [0, 0], [0.5, 0.5], [1, 0]]
    np.testing.assert_allclose(dense, expected)
    sparse = _dataset(graphs=(_graph(SparseMatrix.from_dense(nodes)),))
    sparse = transforms.normalize_features(sparse).graph.nodes
    assert isinstance(sparse, SparseMatrix)
    assert sparse.dtype == np.float32
    np.testing.assert_allclose(sparse.to_scipy().toarray(), expected)
    assert transforms.normalize_features(nodes).dtype == np.float32
    with pytest.raises(ValueError, match="standardise"):
        transforms.normalize_features(-nodes)


def test_edges_change_and_edge_features_follow():
    data = transforms.remove_self_loops(_dataset())
    assert data.statistics["self_loops"] == 0
    np.testing.assert_array_equal(np.sort(data.graph.edges[:, 0]), [0, 1, 3])
    data = transforms.to_undirected(data)
    assert data.statistics["undirected"]
    assert data.statistics["edges"] == 4


def test_edges_change_inside_a_batch():
    data = _dataset(graphs=(batch([_graph(), _graph()]),), labels=np.tile(LABELS, 2))
    data = transforms.to_undirected(data)
    assert data.graph.num_graphs == 2
    assert data.statistics["undirected"]
    assert data.graph.num_edges == 10


def test_degree_features():
    data = transforms.degree_features(_dataset())
    np.testing.assert_array_equal(data.graph.nodes[:, 2], [2, 2, 0, 0])
    alone = _dataset(graphs=(_graph().replace(nodes=None),))
    column = transforms.degree_features(alone, log=True).graph.nodes
    np.testing.assert_allclose(column, np.log1p([[2], [2], [0], [0]]), rtol=1e-6)
    with pytest.raises(TypeError, match="dense"):
        transforms.degree_features(_dataset(graphs=(_graph(SparseMatrix.from_dense(np.eye(4))),)))


def test_standardise_fits_training_rows_only():
    nodes = transforms.standardise(_dataset()).graph.nodes
    np.testing.assert_allclose(nodes[[0, 2]].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(nodes[[0, 2]].std(axis=0), 1, atol=1e-6)
    changed = _graph().nodes.copy()
    changed[3] = 1000
    other = transforms.standardise(_dataset(graphs=(_graph(changed),))).graph.nodes
    np.testing.assert_array_equal(nodes[:3], other[:3])
    by_graph = transforms.standardise(_graph_dataset())
    assert [float(graph.nodes[0, 0]) for graph in by_graph.graphs] == [-1, 1, 6]
    assert by_graph.graphs[0].nodes.dtype == np.float32
    with pytest.raises(ValueError, match="split is 1"):
        transforms.standardise(_dataset(), split=1)


def test_random_split_covers_and_stratifies():
    split = transforms.random_split(103, seed=3)
    everything = np.sort(np.concatenate([split.train, split.val, split.test]))
    np.testing.assert_array_equal(everything, np.arange(103))
    assert split.sizes == (62, 21, 20)
    again = transforms.random_split(103, seed=3)
    np.testing.assert_array_equal(split.train, again.train)
    assert not np.array_equal(split.train, transforms.random_split(103, seed=4).train)
    labels = np.repeat([0, 1], [20, 80])
    even = transforms.random_split(100, train=0.5, val=0.25, labels=labels)
    np.testing.assert_array_equal(np.bincount(labels[even.train]), [10, 40])
    np.testing.assert_array_equal(np.bincount(labels[even.test]), [5, 20])
    for bad in ({"train": 0.9, "val": 0.2}, {"train": 0}, {"labels": labels[:5]}):
        with pytest.raises(ValueError, match=r"train=|labels has shape"):
            transforms.random_split(100, **bad)
