"""GatedGCN: the gated mean by brute force, its gradient, and the mean as its special case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph.graph import pad
from jgraph.nn.gated_gcn import EPSILON, GatedGCNConv, GatedGCNLayer, gated_mean


def plain(graph, gates, values):
    sigma = jax.nn.sigmoid(gates)
    segment = lambda rows: jax.ops.segment_sum(rows, graph.receivers, graph.num_nodes)  # noqa: E731
    return segment(sigma * values[graph.senders]) / (segment(sigma) + EPSILON)


@pytest.fixture
def inputs(graph):
    rng = np.random.default_rng(1)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return graph, normal(graph.num_edges, 6), normal(graph.num_nodes, 6)


@pytest.mark.parametrize("convert", [lambda g: g, lambda g: g.to_jraph()], ids=["graph", "tuple"])
def test_values_and_gradients_of_the_gated_mean(inputs, convert):
    graph, gates, values = inputs
    given = convert(graph)
    target = jnp.cos(jnp.arange(values.size).reshape(values.shape))
    np.testing.assert_allclose(
        gated_mean(given, gates, values), plain(graph, gates, values), rtol=1e-5, atol=1e-6
    )
    got = jax.grad(lambda *a: jnp.sum(target * gated_mean(given, *a)), (0, 1))
    want = jax.grad(lambda *a: jnp.sum(target * plain(graph, *a)), (0, 1))
    for a, b in zip(got(gates, values), want(gates, values), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_half_precision_accumulates_in_float32(inputs):
    graph, gates, values = inputs
    half = gated_mean(graph, gates.astype(jnp.bfloat16), values.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.astype(jnp.float32), plain(graph, gates, values), rtol=0.05, atol=0.03
    )


def test_without_gates_it_is_the_mean_of_the_neighbours(graph, noisy, counts):
    """With C = D = E = 0 every gate is 1/2: y = A x + mean of B x_j."""
    x, edges = jnp.asarray(graph.nodes), jnp.ones((1, 3))
    layer = GatedGCNConv(4)
    params = noisy(layer, graph, x, edges)["params"]
    params |= {name: jax.tree.map(np.zeros_like, params[name]) for name in "CDE"}
    y, ehat = layer.apply({"params": params}, graph, x, edges)
    dense = counts(graph)
    mean = dense / np.maximum(dense.sum(1, keepdims=True), 1)
    maps = {name: np.asarray(x) @ params[name]["kernel"] + params[name]["bias"] for name in "AB"}
    np.testing.assert_allclose(y, maps["A"] + mean @ maps["B"], rtol=1e-4, atol=1e-4)
    assert ehat.shape == (graph.num_edges, 4) and not np.any(ehat)


def test_one_edge_state_for_all_equals_its_copies(graph, noisy):
    layer = GatedGCNLayer(5)
    x, one = jnp.asarray(graph.nodes), jnp.ones((1, 5))
    many = jnp.ones((graph.num_edges, 5))
    variables = noisy(layer, graph, x, one)
    train = {"train": True, "mutable": ["batch_stats"]}
    for a, b in zip(
        jax.tree.leaves(layer.apply(variables, graph, x, one, **train)),
        jax.tree.leaves(layer.apply(variables, graph, x, many, **train)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_layer_by_hand_and_under_padding(graph, noisy):
    rng = np.random.default_rng(2)
    edges = rng.standard_normal((graph.num_edges, 5)).astype(np.float32)
    graph = graph.replace(edges=edges)
    layer = GatedGCNLayer(5)
    variables = noisy(layer, graph, graph.nodes, edges)
    (h, e), _ = layer.apply(
        variables, graph, graph.nodes, edges, train=True, mutable=["batch_stats"]
    )
    p = variables["params"]
    conv = GatedGCNConv(5, self_bias=False)
    y, ehat = conv.apply({"params": p["conv"]}, graph, graph.nodes, edges)
    for got, old, new, name in ((h, graph.nodes, y, "node_norm"), (e, edges, ehat, "edge_norm")):
        centred = (new - new.mean(0)) / np.sqrt(np.var(new, axis=0) + 1e-5)
        want = old + np.maximum(centred * p[name]["scale"] + p[name]["bias"], 0)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    padded = pad(graph, graph.num_nodes + 5, graph.num_edges + 7, 3)
    (h2, e2), _ = layer.apply(
        variables, padded, padded.nodes, padded.edges, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(h2[: graph.num_nodes], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(e2[: graph.num_edges], e, rtol=1e-4, atol=1e-5)


def test_the_last_layer_has_no_edge_norm(graph, noisy):
    layer = GatedGCNLayer(5, update_edges=False)
    variables = noisy(layer, graph, graph.nodes, jnp.ones((1, 2)))
    assert set(variables["params"]) == {"conv", "node_norm"}
    assert layer.apply(variables, graph, graph.nodes, jnp.ones((1, 2)))[1] is None


def test_shapes_that_do_not_fit_are_named(inputs):
    graph, gates, values = inputs
    with pytest.raises(ValueError, match="gates has shape"):
        gated_mean(graph, gates[:-1], values)
    with pytest.raises(ValueError, match="same F columns"):
        gated_mean(graph, gates[:, :2], values)
