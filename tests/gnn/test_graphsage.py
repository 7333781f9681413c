"""GraphSAGE: what the mean and the maximum over neighbours can and cannot see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph.graph import Graph
from jgraph.nn import SAGEConv


def star(leaves, seed=0):
    rng = np.random.default_rng(seed)
    senders = np.arange(1, leaves + 1)
    x = rng.normal(size=(leaves + 1, 4)).astype(np.float32)
    return Graph.from_edges(senders, np.zeros(leaves, int), nodes=x)


def parts(aggregator, **options):
    graph = star(5)
    layer = SAGEConv(3, aggregator=aggregator, **options)
    variables = layer.init(jax.random.key(0), graph, graph.nodes)
    return graph, layer, variables


@pytest.mark.parametrize("aggregator", ["mean", "max"])
def test_repeated_neighbours_change_nothing(aggregator):
    graph, layer, variables = parts(aggregator)
    twice = Graph.from_edges(
        np.tile(graph.senders, 2), np.tile(graph.receivers, 2), nodes=graph.nodes
    )
    np.testing.assert_allclose(
        layer.apply(variables, twice, twice.nodes),
        layer.apply(variables, graph, graph.nodes),
        rtol=1e-5,
        atol=1e-6,
    )


def test_mean_layer_by_hand():
    graph, layer, variables = parts("mean")
    p = variables["params"]
    mean = graph.nodes[1:].mean(0)
    want = mean @ p["neighbour_kernel"] + graph.nodes[0] @ p["self_kernel"] + p["bias"]
    np.testing.assert_allclose(layer.apply(variables, graph, graph.nodes)[0], want, rtol=1e-5)


def test_max_sees_only_the_largest_entries():
    graph, layer, variables = parts("max", pool_transform=False)
    x = jnp.asarray(graph.nodes)
    slope = jax.grad(lambda x: layer.apply(variables, graph, x)[0].sum())(x)[1:]
    largest = np.asarray(x[1:]).argmax(0)
    mask = np.zeros((5, 4), bool)
    mask[largest, np.arange(4)] = True
    assert (np.asarray(slope)[~mask] == 0).all() and (np.asarray(slope)[mask] != 0).all()


def test_normalised_rows_have_length_one():
    graph, layer, variables = parts("mean", normalize=True)
    out = layer.apply(variables, graph, graph.nodes)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, rtol=1e-5)
