"""DGMLP: its smoothing levels, its weights in both limits, and its residual MLP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import gnn
from jgraph.gnn import dgmlp as m
from jgraph.graph import Graph
from jgraph.nn.hops import hop_features, stationary_features


def connected(seed=0, nodes=9, isolated=0):
    rng = np.random.default_rng(seed)
    ring = np.arange(nodes)
    return Graph.from_edges(
        np.concatenate([ring, rng.integers(0, nodes, 5)]),
        np.concatenate([(ring + 1) % nodes, rng.integers(0, nodes, 5)]),
        nodes=rng.normal(size=(nodes + isolated, 4)).astype(np.float32),
        num_nodes=nodes + isolated,
    ).remove_self_loops().to_undirected()  # fmt: skip


def levels_of(graph, x, hops):
    stack = hop_features(graph, x, hops)
    return np.asarray(m.node_smoothing_level(stack, stationary_features(graph, x))), stack


def test_level_of_hop_zero_bounds_and_limit():
    graph = connected()
    levels, stack = levels_of(graph, graph.nodes, 300)
    limit = stationary_features(graph, graph.nodes)
    np.testing.assert_allclose(levels[:, 0], 1 - m.cosine(stack[0], limit), atol=1e-6)
    np.testing.assert_allclose(levels[:, -1], 0, atol=1e-4)
    assert levels.min() >= -2 and levels.max() <= 2
    positive, _ = levels_of(graph, np.abs(graph.nodes), 20)
    assert positive.min() >= -1e-6 and positive.max() <= 1 + 1e-6
    np.testing.assert_allclose(
        m.graph_smoothing_level(levels, jnp.arange(9) < 4), levels[:4].mean(0), atol=1e-6
    )


def test_rows_of_zeros_have_cosine_zero_and_finite_gradients():
    a = jnp.array([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(m.cosine(a, jnp.ones((2, 2))), [0, 0.5**0.5], atol=1e-6)
    grad = jax.grad(lambda a: m.cosine(a, jnp.ones((2, 2))).sum())(a)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_streaming_equals_the_weighted_stack(temperature):
    graph = connected(1, isolated=2)
    levels, stack = levels_of(graph, graph.nodes, 6)
    weights = m.smoothing_weights(levels, temperature)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    want = np.einsum("nk,knf->nf", weights, stack)
    got = m.smooth(graph, graph.nodes, 6, temperature)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_both_limits_of_the_temperature():
    graph = connected(2)
    levels, stack = levels_of(graph, graph.nodes, 5)
    hot = m.smooth(graph, graph.nodes, 5, 1e6)
    np.testing.assert_allclose(hot, stack.mean(0), atol=1e-5)
    uniform = m.smooth(graph, graph.nodes, 5, mixing="uniform")
    np.testing.assert_allclose(uniform, stack.mean(0), atol=1e-6)
    cold = m.smooth(graph, graph.nodes, 5, 1e-5)
    chosen = np.asarray(stack)[levels.argmax(1), np.arange(9)]
    np.testing.assert_allclose(cold, chosen, atol=1e-5)
    last = m.smooth(graph, graph.nodes, 5, mixing="last")
    np.testing.assert_allclose(last, stack[-1], atol=1e-6)
    np.testing.assert_array_equal(m.smooth(graph, graph.nodes, 0), graph.nodes)


def test_isolated_nodes_keep_their_features_and_weigh_hops_equally():
    graph = connected(3, isolated=1)
    levels, stack = levels_of(graph, graph.nodes, 4)
    np.testing.assert_allclose(stack[:, -1], np.tile(graph.nodes[-1], (5, 1)), atol=1e-6)
    np.testing.assert_allclose(m.smoothing_weights(levels, 0.2)[-1], 0.2, atol=1e-5)


def test_zero_residual_blocks_leave_the_features_unchanged():
    graph = connected(4)
    model = gnn.get("dgmlp").build(3, hidden=4, layers=5, hops=3)
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    zero = jax.tree.map(jnp.zeros_like, variables)
    want = m.smooth(graph, graph.nodes, 3, 0.5)
    np.testing.assert_allclose(model.apply(zero, graph, method="embed"), want, atol=1e-6)
    plain = model.clone(residual=False)
    assert not np.asarray(plain.apply(zero, graph, method="embed")).any()


def test_network_equals_its_equations():
    graph = connected(5)
    model = gnn.get("dgmlp").build(3, hidden=6, layers=3, hops=2, temperature=0.3)
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    p = [variables["params"][f"conv_{i}"]["linear"] for i in range(3)]
    h = m.smooth(graph, graph.nodes, 2, 0.3)
    h = np.maximum(h @ p[0]["kernel"] + p[0]["bias"], 0)
    h = np.maximum(h @ p[1]["kernel"] + p[1]["bias"], 0) + h
    want = h @ p[2]["kernel"] + p[2]["bias"]
    np.testing.assert_allclose(model.apply(variables, graph), want, atol=1e-5)


def test_one_step_per_layer_is_gcn():
    graph = connected(6)
    gcn = gnn.get("gcn").build(3, hidden=5)
    variables = jax.jit(gcn.init)(jax.random.key(0), graph)
    want = gcn.apply(variables, graph)
    params = {
        name: {"map": {"linear": {"kernel": p["kernel"]}}, "bias": p["bias"]}
        for name, p in variables["params"].items()
    }
    steps = m.StepsGCN(3, hidden=5, steps=1)
    np.testing.assert_allclose(steps.apply({"params": params}, graph), want, atol=1e-5)
    rule = jnp.linalg.matrix_power(hop_features(graph, np.eye(9, dtype=np.float32), 1)[1], 3)
    one = m.StepsGCN(5, layers=1, steps=3).apply({"params": {"conv_0": params["conv_0"]}}, graph)
    want = rule @ graph.nodes @ params["conv_0"]["map"]["linear"]["kernel"]
    np.testing.assert_allclose(one, want + params["conv_0"]["bias"], atol=1e-5)


def test_attention_of_air_includes_the_last_hop():
    stack = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    vector = np.random.default_rng(1).normal(size=8).astype(np.float32)
    want = np.zeros((5, 4))
    for v in range(5):
        gates = [1 / (1 + np.exp(-vector @ np.concatenate([stack[0, v], h[v]]))) for h in stack]
        weights = np.exp(gates) / np.exp(gates).sum()
        want[v] = sum(w * h[v] for w, h in zip(weights, stack))
    np.testing.assert_allclose(m.hop_attention_air(stack, vector), want, atol=1e-5)


def test_wrong_arguments_are_named():
    graph = connected()
    for change in ({"hops": -1}, {"temperature": 0.0}, {"mixing": "best"}):
        ((name, value),) = change.items()
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            m.smooth(graph, graph.nodes, **change)
    with pytest.raises(ValueError, match=r"temperature is 0\.0"):
        m.smoothing_weights(jnp.ones((2, 3)), 0.0)


def test_the_large_setting_of_the_experiment_starts(data_root, tmp_path, monkeypatch):
    from experiments.gnn.dgmlp import Config, main

    monkeypatch.chdir(tmp_path)
    small = Config("large", ("cora",), 1, 1, 1, hidden=4, swept_hops=(1,), swept_maps=())
    main(small)
    assert (tmp_path / "experiments/results/dgmlp-large.json").exists()
