import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import nn
from jgraph.graph import Graph, SparseMatrix, batch, pad
from jgraph.nn.dropout import dropout
from jgraph.nn.pool import pool


@pytest.fixture
def graphs(make_graph):
    return [make_graph(i, nodes=n, edges=6) for i, n in enumerate((4, 1 + 1, 6))]


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_pooling_equals_brute_force_with_padding(graphs, reduce):
    want = np.stack([getattr(np, reduce)(g.nodes - 2.0, axis=0) for g in graphs])
    whole = batch(graphs)
    pooled = jax.jit(lambda g: pool(g, g.nodes - 2.0, reduce))
    np.testing.assert_allclose(pooled(whole), want, rtol=1e-5)
    np.testing.assert_allclose(pooled(whole.to_jraph()), want, rtol=1e-5)
    padded = pad(whole, 20, 30, 6)
    got = pooled(padded)
    np.testing.assert_allclose(got[:3], want, rtol=1e-5)
    np.testing.assert_array_equal(got[3:], 0)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_empty_graphs_give_zero(graph, reduce):
    n = graph.num_nodes
    split = graph.replace(n_node=np.array([0, n, 0], np.int32), n_edge=np.array([0, 24, 0]))
    got = pool(split, jnp.asarray(graph.nodes), reduce)
    np.testing.assert_array_equal(got[jnp.array([0, 2])], 0)
    np.testing.assert_allclose(got[1], getattr(np, reduce)(graph.nodes, axis=0), rtol=1e-5)


def test_unknown_reduction_is_rejected(graph):
    with pytest.raises(ValueError, match="reduce is 'median'"):
        pool(graph, jnp.asarray(graph.nodes), "median")


@pytest.mark.parametrize(("rate", "shape"), [(0.1, (4001,)), (0.5, (300, 7)), (0.6, (50, 8, 9))])
def test_dropout_drops_at_its_rate_and_scales_the_rest(rate, shape):
    x = jnp.full(shape, 3.0)
    keys = jax.random.split(jax.random.key(0), 64)
    y = jax.jit(jax.vmap(lambda key: dropout(key, x, rate)))(keys)
    kept = np.asarray(y) != 0
    np.testing.assert_allclose(np.asarray(y)[kept], 3.0 / (1 - rate), rtol=1e-5)
    assert abs(kept.mean() - (1 - rate)) < 0.004
    columns = kept.reshape(-1, shape[-1]).mean(0) if len(shape) > 1 else kept.mean()
    assert np.abs(columns - (1 - rate)).max() < 0.05


def test_dropout_entries_are_uncorrelated():
    keys = jax.random.split(jax.random.key(1), 4000)
    kept = np.asarray(jax.vmap(lambda key: nn.dropout_mask(key, (12,), 0.4))(keys), float)
    correlation = np.corrcoef(kept.T) - np.eye(12)
    assert np.abs(correlation).max() < 0.08


def test_dropout_of_a_sparse_matrix_keeps_its_pattern():
    dense = np.random.default_rng(0).standard_normal((30, 20)).astype(np.float32)
    x = SparseMatrix.from_dense(np.where(np.abs(dense) > 1, dense, 0))
    y = dropout(jax.random.key(0), x, 0.5)
    assert isinstance(y, SparseMatrix) and y.shape == x.shape
    ratio = np.asarray(y.values) / np.asarray(x.values)
    assert set(np.unique(ratio.round(5))) == {0.0, 2.0}


def test_dropout_is_the_identity_without_train_or_rate():
    x = jnp.ones((3, 2))
    assert nn.Dropout(0.5).apply({}, x) is x
    assert nn.Dropout(0.0).apply({}, x, train=True) is x
    for rate in (-0.1, 1.0, 50):
        with pytest.raises(ValueError, match=r"rate is .*\[0, 1\)"):
            dropout(jax.random.key(0), x, rate)


def test_gradient_passes_where_entries_stay():
    x = jnp.ones((40, 8))
    key = jax.random.key(3)
    grad = jax.grad(lambda x: dropout(key, x, 0.25).sum())(x)
    np.testing.assert_allclose(grad, dropout(key, x, 0.25))


def test_single_node_graph_pools_to_itself():
    one = Graph.from_edges([], [], nodes=np.full((1, 2), 5.0, np.float32))
    np.testing.assert_array_equal(nn.mean_pool(one, one.nodes), [[5.0, 5.0]])
    np.testing.assert_array_equal(nn.sum_pool(one, one.nodes), nn.max_pool(one, one.nodes))
