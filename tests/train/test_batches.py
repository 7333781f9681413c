"""Vectorised batches equal `pad(batch(...))`; epochs cover the data set."""

import jax
import numpy as np
import pytest
from tiny import make_graph_data

from jgraph.data.dataset import Dataset
from jgraph.graph import Graph, SparseMatrix, batch, pad
from jgraph.train.batches import GraphStore, Loader, arrange, epoch_order


@pytest.fixture
def store(graph_data: Dataset):
    return GraphStore(graph_data.graphs, graph_data.labels)


@pytest.mark.parametrize("ids", [[3], [0, 1, 2], [36, 5, 11, 5 + 1], [7, 30]])
def test_a_batch_is_what_pad_makes_of_it(graph_data, store, ids):
    table = np.array([ids + [-1] * (4 - len(ids))])
    built = store.build(table, 64, 160)
    want = pad(batch([graph_data.graphs[i] for i in ids]), 64, 160, 5)
    got = jax.tree.map(lambda x: x[0], built.graph)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    got.validate()
    np.testing.assert_array_equal(np.asarray(got.graph_mask()), built.mask[0])
    np.testing.assert_array_equal(built.labels[0][: len(ids)], graph_data.labels[ids])


def test_an_empty_batch_is_all_padding(store):
    built = store.build(np.full((2, 3), -1), 32, 64)
    assert not built.mask.any()
    graph = jax.tree.map(lambda x: x[1], built.graph)
    graph.validate()
    assert not np.asarray(graph.node_mask()).any()


def test_globals_travel_along():
    graphs = [
        Graph.from_edges([0], [0], nodes=np.ones((2, 1)), globals=np.full((1, 2), i))
        for i in range(4)
    ]
    built = GraphStore(graphs, np.arange(4)).build(np.array([[2, 0, -1], [3, -1, -1]]), 8, 8)
    np.testing.assert_array_equal(built.graph.globals[..., 0], [[2, 0, 0, 0], [3, 0, 0, 0]])


def test_a_batch_that_does_not_fit_is_refused(store):
    with pytest.raises(ValueError, match="num_nodes=4"):
        store.build(np.arange(6)[None], 4, 1000)


def test_sparse_features_are_refused():
    graph = Graph.from_edges([0], [1], nodes=SparseMatrix.from_dense(np.eye(2)))
    with pytest.raises(ValueError, match="SparseMatrix"):
        GraphStore([graph], np.zeros(1))


@pytest.mark.parametrize(("batch_size", "devices"), [(5, 1), (8, 4), (5, 2), (64, 8)])
def test_an_epoch_holds_every_graph_once(store, batch_size, devices):
    indices = np.arange(3, 33)
    loader = Loader(
        store, [indices, indices[:7]], [0, 1], batch_size=batch_size, devices=devices, epochs=4
    )
    for epoch in range(4):
        table = loader.table(epoch)
        for row, want in zip(table, (indices, indices[:7])):
            assert sorted(row[row >= 0]) == sorted(want)
        built = loader.epoch(epoch)
        assert built.mask.shape[:3] == (2, loader.steps, devices)
        assert built.mask.sum() == 37
        np.testing.assert_array_equal(built.labels[built.mask], store.labels[table[table >= 0]])


def test_every_batch_but_the_last_is_full(store):
    table = arrange(np.arange(13), 5, 2, 4)
    assert table.shape == (4, 2, 3)
    assert [(step >= 0).sum() for step in table] == [5, 5, 3, 0]


def test_shuffles_depend_on_seed_and_epoch_only():
    indices = np.arange(20)
    first = epoch_order(indices, 3, 7)
    np.testing.assert_array_equal(first, epoch_order(indices, 3, 7))
    assert not np.array_equal(first, epoch_order(indices, 3, 8))
    assert not np.array_equal(first, epoch_order(indices, 4, 7))
    assert not np.array_equal(first, epoch_order(indices, 3, 7, attempt=1))


def test_one_shape_for_all_epochs():
    data = make_graph_data(count=50)
    store = GraphStore(data.graphs, data.labels)
    loader = Loader(store, [np.arange(50)], [0], batch_size=8, epochs=30)
    shapes = {loader.epoch(epoch).graph.senders.shape for epoch in range(30)}
    assert len(shapes) == 1


def test_freak_batches_are_drawn_again_whatever_stands_beside():
    rng = np.random.default_rng(0)
    sizes = np.where(rng.random(60) < 0.1, 200, 4)
    graphs = [Graph.from_edges([0], [0], nodes=np.zeros((n, 1))) for n in sizes]
    store = GraphStore(graphs, np.zeros(60))
    rows = np.arange(60)
    loader = Loader(store, [rows, rows], [0, 1], batch_size=10, epochs=20)
    free = max(
        store.sizes(arrange(epoch_order(rows, seed, epoch), 10, 1, 6))[0]
        for seed in (0, 1)
        for epoch in range(20)
    )
    assert loader.num_nodes < 0.8 * free
    alone = Loader(store, [rows], [1], batch_size=10, devices=4, epochs=20)
    for epoch in range(20):
        shared = loader.table(epoch)[1].ravel()
        dealt = alone.table(epoch)[0].swapaxes(1, 2).ravel()
        np.testing.assert_array_equal(shared[shared >= 0], dealt[dealt >= 0])
