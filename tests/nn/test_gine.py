"""GINE by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph.nn.gine import GINEConv, gine_sum


def by_hand(graph, x, edges, eps):
    total = (1 + eps) * np.asarray(x)
    rows = np.maximum(np.asarray(x)[graph.senders] + edges, 0)
    np.add.at(total, np.asarray(graph.receivers), rows)
    return total


def test_sum_and_layer(graph, noisy):
    rng = np.random.default_rng(0)
    edges = rng.standard_normal((graph.num_edges, 5)).astype(np.float32)
    x = graph.nodes
    np.testing.assert_allclose(
        gine_sum(graph, jnp.asarray(x), jnp.asarray(edges), 0.25),
        by_hand(graph, x, edges, 0.25),
        rtol=1e-5,
    )
    layer = GINEConv((4, 3), norm="none")
    variables = noisy(layer, graph, x, edges)
    p = variables["params"]
    mapped = edges @ p["edge"]["kernel"] + p["edge"]["bias"]
    h = by_hand(graph, x, mapped, p["eps"])
    first, last = p["mlp"]["linear_0"], p["mlp"]["linear_1"]
    h = np.maximum(h @ first["kernel"] + first["bias"], 0) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(layer.apply(variables, graph, x, edges), h, rtol=1e-4, atol=1e-4)


def test_gradients_reach_nodes_and_edges(graph):
    def loss(x, edges):
        return jnp.sum(jnp.square(gine_sum(graph, x, edges)))

    edges = jnp.ones((graph.num_edges, 5))
    dx, de = jax.grad(loss, (0, 1))(jnp.asarray(graph.nodes), edges)
    assert np.abs(dx).max() > 0 and np.abs(de).max() > 0
    one = gine_sum(graph, jnp.asarray(graph.nodes), jnp.ones((1, 5)))
    np.testing.assert_allclose(one, gine_sum(graph, jnp.asarray(graph.nodes), edges), rtol=1e-6)


def test_widths_that_differ_are_named(graph):
    layer = GINEConv((4,), edge_map=False)
    with pytest.raises(ValueError, match="3 columns"):
        layer.init(jax.random.key(0), graph, graph.nodes, jnp.ones((graph.num_edges, 3)))
