"""Every layer against a dense computation, and the properties that all layers share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import nn
from jgraph.graph import SparseMatrix, pad

LAYERS = {
    "gcn_first": nn.GCNConv(3),
    "gcn_last": nn.GCNConv(7),
    "gcn_no_loops": nn.GCNConv(3, self_loops=False, use_bias=False),
    "sage_narrow": nn.SAGEConv(3),
    "sage_wide": nn.SAGEConv(7, normalize=True),
    "sage_max": nn.SAGEConv(4, aggregator="max", pool_features=6),
    "sage_max_plain": nn.SAGEConv(4, aggregator="max", pool_transform=False),
    "gin_narrow": nn.GINConv((3, 4), norm="none"),
    "gin_wide": nn.GINConv((8, 4), norm="layer"),
    "gin_one": nn.GINConv((4,), learn_eps=False),
    "gat": nn.GATConv(4, heads=3),
    "gat_mean": nn.GATConv(5, heads=2, concat=False, residual=True),
    "gat_no_loops": nn.GATConv(4, heads=2, self_loops=False, residual=True),
    "gatv2": nn.GATv2Conv(4, heads=3),
    "gatv2_shared": nn.GATv2Conv(4, heads=2, share_weights=True, concat=False),
}
# One of each kind, for what does not depend on the options.
KINDS = ["gcn_first", "sage_narrow", "sage_max", "gin_wide", "gat", "gatv2"]
SPARSE = [*KINDS, "gcn_last", "sage_wide", "gat_mean", "gat_no_loops"]


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]


@pytest.fixture(params=KINDS)
def kind(request):
    return LAYERS[request.param]


@pytest.fixture
def ready(graph, noisy):
    def of(layer):
        return noisy(layer, graph, graph.nodes)

    return of


@functools.partial(jax.jit, static_argnums=0)
def run(layer, variables, graph, x):
    return layer.apply(variables, graph, x)


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


# -- dense references ------------------------------------------------------------------------------


def dense_gcn(a, x, p, self_loops=True):
    a = a + np.eye(len(a)) if self_loops else a
    degree = a.sum(1)
    s = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return s[:, None] * a * s[None] @ x @ p["kernel"] + p.get("bias", 0)


def dense_attention(a, logits, values, self_loops):
    """a (N, N) counts, logits (N, N, H) at [receiver, sender], values (N, H, F)."""
    a = a + jnp.eye(len(a)) if self_loops else a
    a = a[:, :, None]
    top = jnp.max(jnp.where(a > 0, logits, -1e9), axis=1, keepdims=True)
    p = a * jnp.exp(jnp.where(a > 0, logits - top, 0.0))
    total = p.sum(1, keepdims=True)
    p = p / jnp.where(total > 0, total, 1)
    return jnp.einsum("ijh,jhf->ihf", p, values)


@functools.partial(jax.jit, static_argnums=0)
def dense_gat(layer, a, x, p):
    h = (x @ p["linear"]["kernel"]).reshape(len(x), layer.heads, -1)
    s = jnp.einsum("nhf,hf->nh", h, p["attention_sender"])
    r = jnp.einsum("nhf,hf->nh", h, p["attention_receiver"])
    logits = jax.nn.leaky_relu(r[:, None] + s[None], layer.negative_slope)
    return finish(layer, dense_attention(a, logits, h, layer.self_loops), x, p)


@functools.partial(jax.jit, static_argnums=0)
def dense_gatv2(layer, a, x, p):
    sent = (x @ p["linear_sender"]["kernel"]).reshape(len(x), layer.heads, -1)
    name = "linear_sender" if layer.share_weights else "linear_receiver"
    received = (x @ p[name]["kernel"]).reshape(len(x), layer.heads, -1)
    pairs = jax.nn.leaky_relu(received[:, None] + sent[None], layer.negative_slope)
    logits = jnp.einsum("ijhf,hf->ijh", pairs, p["attention"])
    return finish(layer, dense_attention(a, logits, sent, layer.self_loops), x, p)


def finish(layer, out, x, p):
    out = out.reshape(len(x), -1) if layer.concat else out.mean(1)
    if layer.residual:
        out = out + (x @ p["skip"]["kernel"] if "skip" in p else x)
    return out + p["bias"]


def dense(layer, a, x, p):
    if isinstance(layer, nn.GCNConv):
        return dense_gcn(a, x, p, layer.self_loops)
    if isinstance(layer, nn.GATConv):
        return dense_gat(layer, a, x, p)
    if isinstance(layer, nn.GATv2Conv):
        return dense_gatv2(layer, a, x, p)
    if isinstance(layer, nn.GINConv):
        y = ((1 + p.get("eps", 0.0)) * x + a @ x) @ p["kernel"] + p.get("bias", 0)
        if layer.norm == "layer":
            y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
            y = y * p["norm"]["scale"] + p["norm"]["bias"]
        if len(layer.features) == 1:
            return y
        last = p["mlp"]["linear_0"]
        return np.maximum(y, 0) @ last["kernel"] + last["bias"]
    if layer.aggregator == "mean":
        m = a @ x / np.maximum(a.sum(1, keepdims=True), 1)
    else:
        z = np.maximum(x @ p["pool"]["kernel"] + p["pool"]["bias"], 0) if "pool" in p else x
        rows = [z[np.flatnonzero(row)].max(0) if row.any() else 0 * z[0] for row in a]
        m = np.stack(rows)
    y = m @ p["neighbour_kernel"] + x @ p["self_kernel"] + p["bias"]
    return y / np.linalg.norm(y, axis=1, keepdims=True) if layer.normalize else y


def test_equals_dense(layer, graph, counts, ready):
    variables = ready(layer)
    params = jax.tree.map(np.asarray, variables["params"])
    close(
        run(layer, variables, graph, graph.nodes), dense(layer, counts(graph), graph.nodes, params)
    )


@pytest.mark.parametrize("name", ["gat", "gat_mean", "gat_no_loops", "gatv2", "gatv2_shared"])
def test_attention_gradients_equal_dense(name, graph, counts, ready):
    layer, a = LAYERS[name], counts(graph)
    variables = ready(layer)

    def fast(params, x):
        return jnp.sum(jnp.sin(layer.apply({"params": params}, graph, x)))

    def slow(params, x):
        return jnp.sum(jnp.sin(dense(layer, a, x, params)))

    got = jax.jit(jax.grad(fast, (0, 1)))(variables["params"], jnp.asarray(graph.nodes))
    want = jax.jit(jax.grad(slow, (0, 1)))(variables["params"], jnp.asarray(graph.nodes))
    jax.tree.map(lambda g, w: close(g, w, 1e-4), got, want)


def test_gatv2_by_head_equals_whole(graph, ready, monkeypatch):
    layer = LAYERS["gatv2"]
    variables = ready(layer)

    def score(variables):
        return layer.apply(variables, graph, graph.nodes).var()

    whole = jax.jit(jax.value_and_grad(score))(variables)
    monkeypatch.setattr("jgraph.nn.gat._WHOLE", 0)
    jax.tree.map(close, jax.jit(jax.value_and_grad(score))(variables), whole)


# -- shared properties -----------------------------------------------------------------------------


def test_order_of_nodes_padding_and_graph_type(kind, graph, relabelled, ready):
    layer = kind
    variables = ready(layer)
    out = run(layer, variables, graph, graph.nodes)
    moved, order = relabelled(graph)
    close(run(layer, variables, moved, moved.nodes), out[order])
    padded = pad(graph, graph.num_nodes + 4, graph.num_edges + 7, 3)
    close(run(layer, variables, padded, padded.nodes)[: graph.num_nodes], out)
    close(run(layer, variables, graph.to_jraph(), graph.nodes), out)


@pytest.mark.parametrize("name", ["gcn_first", "gat"])
def test_jit_equals_no_jit(name, graph, ready):
    variables = ready(LAYERS[name])
    want = LAYERS[name].apply(variables, graph, graph.nodes)
    close(run(LAYERS[name], variables, graph, graph.nodes), want)


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_features_equal_dense(name, graph, ready):
    layer = LAYERS[name]
    variables = ready(layer)
    x = np.where(np.abs(graph.nodes) > 0.7, graph.nodes, 0)
    got = run(layer, variables, graph, SparseMatrix.from_dense(x))
    close(got, run(layer, variables, graph, x))


def test_bfloat16_is_close_and_keeps_float32_parameters(kind, graph, ready):
    layer = kind
    variables = ready(layer)
    half = layer.clone(dtype=jnp.bfloat16)
    out = run(half, variables, graph, graph.nodes)
    assert out.dtype == jnp.bfloat16
    out = np.asarray(out, np.float32)
    want = np.asarray(run(layer, variables, graph, graph.nodes))
    scale = np.abs(want).max()
    np.testing.assert_allclose(out / scale, want / scale, atol=0.04)
    shapes = jax.eval_shape(half.init, jax.random.key(0), graph, graph.nodes)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))


def test_nodes_without_edges_give_no_nan(kind, graph, ready):
    layer = kind
    variables = ready(layer)
    lonely = graph.subgraph([graph.num_nodes - 1])
    assert lonely.num_edges == 0

    def total(variables, x):
        return jnp.sum(run(layer, variables, lonely, x) ** 2)

    value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(variables, jnp.asarray(lonely.nodes))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_bad_features_are_rejected(kind, graph):
    with pytest.raises(TypeError, match=r"graph\.nodes"):
        kind.init(jax.random.key(0), graph, None)
    with pytest.raises(ValueError, match="shape"):
        kind.init(jax.random.key(0), graph, np.zeros(graph.num_nodes, np.float32))


# -- what one layer promises -----------------------------------------------------------------------


@pytest.mark.parametrize("self_loops", [True, False])
def test_gcn_edge_weights(graph, counts, self_loops):
    weight = np.random.default_rng(5).uniform(0.1, 2.0, graph.num_edges).astype(np.float32)
    eye = {"kernel": np.eye(graph.nodes.shape[1])}
    want = dense_gcn(counts(graph, weight), graph.nodes, eye, self_loops)
    close(nn.gcn_propagate(graph, graph.nodes, weight, self_loops), want)
    ones = np.ones(graph.num_edges, np.float32)
    got = nn.gcn_propagate(graph, graph.nodes, ones, self_loops)
    close(got, nn.gcn_propagate(graph, graph.nodes, None, self_loops))
    grad = jax.grad(lambda w: nn.gcn_propagate(graph, graph.nodes, w, self_loops).sum())
    assert np.isfinite(grad(jnp.asarray(weight))).all()


@pytest.mark.parametrize("late", [nn.SAGEConv(4), nn.GINConv((4, 3))])
def test_aggregate_first_changes_no_value_and_no_parameter(late, graph):
    early, late = late.clone(aggregate_first=True), late.clone(aggregate_first=False)
    variables = jax.jit(early.init)(jax.random.key(0), graph, graph.nodes)
    close(run(early, variables, graph, graph.nodes), run(late, variables, graph, graph.nodes))
    with pytest.raises(ValueError, match="SparseMatrix"):
        run(early, variables, graph, SparseMatrix.from_dense(graph.nodes))


def test_sage_rejects_what_it_cannot_do(graph):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="aggregator is 'lstm'"):
        nn.SAGEConv(4, aggregator="lstm").init(key, graph, graph.nodes)
    with pytest.raises(ValueError, match="aggregate_first"):
        nn.SAGEConv(4, aggregator="max", aggregate_first=True).init(key, graph, graph.nodes)


def test_l2_normalize_of_zero_has_finite_gradient():
    x = jnp.zeros((2, 3)).at[1].set(2.0)
    close(jnp.linalg.norm(nn.l2_normalize(x), axis=1), [0.0, 1.0])
    assert np.isfinite(jax.grad(lambda x: nn.l2_normalize(x).sum())(x)).all()


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_attention_is_stable_for_extreme_logits(graph, shift):
    values = jnp.asarray(graph.nodes).reshape(graph.num_nodes, 1, -1)
    logits = jnp.full((graph.num_edges, 1), shift).at[0].add(3.0)
    loops = jnp.full((graph.num_nodes, 1), -shift)
    out = nn.attend(graph, values, logits, loops)
    assert np.isfinite(out).all()
    close(out[-1], values[-1])
    plain = nn.attend(graph, values, logits - shift)
    close(nn.attend(graph, values, logits), plain)
    close(plain[-1], 0 * values[-1])


def test_attention_dropout_keeps_the_mean(graph):
    values = jnp.asarray(graph.nodes).reshape(graph.num_nodes, 1, -1)
    logits = jnp.linspace(-1, 1, graph.num_edges)[:, None]
    loops = jnp.zeros((graph.num_nodes, 1))

    def dropped(key):
        return nn.attend(graph, values, logits, loops, dropout_rate=0.4, key=key)

    keys = jax.random.split(jax.random.key(0), 4000)
    mean = jax.jit(lambda keys: jax.vmap(dropped)(keys).mean(0))(keys)
    close(mean, nn.attend(graph, values, logits, loops), 0.08)


def test_gat_dropout_needs_train(graph, noisy):
    layer = nn.GATConv(4, heads=2, attn_dropout=0.5)
    variables = noisy(layer, graph, graph.nodes)
    quiet = run(layer, variables, graph, graph.nodes)
    rngs = {"dropout": jax.random.key(1)}
    loud = jax.jit(lambda x: layer.apply(variables, graph, x, train=True, rngs=rngs))(graph.nodes)
    assert np.abs(quiet - loud).max() > 1e-3
    with pytest.raises(ValueError, match="attn_dropout is 1"):
        nn.GATConv(4, attn_dropout=1.0).init(jax.random.key(0), graph, graph.nodes)
