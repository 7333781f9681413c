"""GATv2 and dot-product attention, and what all kinds share, against the specification."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jgraph.graph import Graph
from jgraph.ops import chunks, dispatch
from jgraph.ops import graph_attention as forms
from jgraph.ops.attention import additive_attention, dot_attention, gatv2_attention
from pallas_kernels.graph_attention import Options, reference

N, E, H, D, F = 9, 30, 2, 3, 4
KINDS = ("additive", "gatv2", "gatv2-shared", "dot")


def graph_of(seed=0):
    rng = np.random.default_rng(seed)
    return Graph.from_edges(rng.integers(0, N, E), rng.integers(0, N - 2, E), num_nodes=N)


def features_of(kind, seed=1, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = {
        "additive": [(N, H), (N, H), (N, H, F)],
        "gatv2": [(N, H, D), (N, H, D), (H, D), (N, H, F)],
        "gatv2-shared": [(N, H, D), (N, H, D), (H, D)],
        "dot": [(N, H, D), (N, H, D), (N, H, F)],
    }[kind]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def op(kind, graph, features, **options):
    if kind == "additive":
        left, right, values = features
        return additive_attention(graph, values, left, right, **options)
    if kind == "dot":
        k, q, v = features
        return dot_attention(graph, q, k, v, scale=0.7, **options)
    return gatv2_attention(graph, *features, **options)


def spec(kind, graph, features, loops=False):
    index, features = graph.index, list(features)
    left, right = features[:2]
    att = features[2] if kind.startswith("gatv2") else None
    values = None if kind == "gatv2-shared" else features[-1]
    arrays = (
        graph.senders,
        graph.receivers,
        index.row_offsets,
        index.col_order,
        index.col_offsets,
        index.col_receivers,
    )
    options = Options(kind.split("-")[0], scale=0.7, self_loops=loops)
    return reference(options, *map(jnp.asarray, arrays), left, right, att, values)


def pulled(run, features):
    out, pull = jax.vjp(run, *features)
    return out, pull(jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


def assert_equal(kind, loops, **options):
    graph, features = graph_of(), features_of(kind)

    def mine(*z):
        return op(kind, graph, z, self_loops=loops, **options)

    got, gradients = jax.jit(lambda *z: pulled(mine, z))(*features)
    want, wanted = pulled(lambda *z: spec(kind, graph, z, loops), features)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("form", "loops"), [("xla", True), ("csr", True), ("auto", False)])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind, form, loops):
    assert_equal(kind, loops, implementation=form)


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_in_the_op(kind):
    assert_equal(kind, True, implementation="interpret")


@pytest.mark.parametrize("form", ["xla", "csr"])
def test_large_gatv2_goes_by_head_and_by_chunk(monkeypatch, form):
    monkeypatch.setattr(forms, "WHOLE", 1)
    monkeypatch.setattr(chunks, "CHUNK", 8)
    for kind in ("gatv2", "gatv2-shared"):
        assert_equal(kind, False, implementation=form)


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_in_double_precision(kind):
    with jax.enable_x64(True):
        graph, features = graph_of(), features_of(kind, dtype=jnp.float64)
        for run in (spec, op):
            check_grads(lambda *z, r=run: r(kind, graph, z), features, order=1, modes=["rev"])


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_and_plain_tuples(kind):
    graph, features = graph_of(), features_of(kind)
    many = [jnp.stack([z, 2 * z]) for z in features]
    for i, out in enumerate(jax.vmap(lambda *z: op(kind, graph, z))(*many)):
        want = op(kind, graph, [z[i] for z in many])
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    plain = op(kind, graph.to_jraph(), features)
    np.testing.assert_allclose(plain, op(kind, graph, features), rtol=1e-5, atol=1e-6)


def test_vmap_of_the_kernel():
    graph, features = graph_of(), features_of("dot")
    many = [jnp.stack([z, 2 * z]) for z in features]

    def slope(*z):
        return jax.grad(lambda *z: op("dot", graph, z, implementation=form).sum(), (0, 1, 2))(*z)

    found = {}
    for form in ("interpret", "xla"):
        found[form] = jax.vmap(slope)(*many)
    for a, b in zip(*found.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_no_edges(kind):
    graph, features = graph_of(), features_of(kind)
    half = op(kind, graph, [z.astype(jnp.bfloat16) for z in features])
    assert half.dtype == jnp.bfloat16
    want = op(kind, graph, features)
    np.testing.assert_allclose(half.astype(jnp.float32), want, rtol=0.05, atol=0.05)
    out, gradients = pulled(lambda *z: op(kind, Graph.from_edges([], [], num_nodes=N), z), features)
    assert not np.asarray(out).any()
    assert not any(np.asarray(g).any() for g in gradients)


@pytest.mark.parametrize("form", ["csr", "interpret"])
def test_extreme_logits_stay_finite(form):
    graph, features = graph_of(), [100 * z for z in features_of("gatv2")]
    out, gradients = pulled(lambda *z: op("gatv2", graph, z, implementation=form), features)
    assert all(np.isfinite(x).all() for x in (out, *gradients))


def test_no_retrace():
    traces = 0

    @jax.jit
    def run(graph, *features):
        nonlocal traces
        traces += 1
        return op("dot", graph, features)

    features = features_of("dot")
    run(graph_of(0), *features)
    run(graph_of(1), *features)
    assert traces == 1


def test_the_kernel_says_when_it_does_not_serve(caplog):
    graph, features = graph_of(), features_of("dot")
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "jgraph.ops"):
        got = op("dot", graph, features, implementation="pallas")
    assert "graph_attention" in caplog.text
    np.testing.assert_allclose(got, op("dot", graph, features), rtol=1e-5, atol=1e-6)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "jgraph.ops"):
        op("dot", graph.to_jraph(), features, implementation="pallas")
    assert "not sorted" in caplog.text


def test_bad_input():
    graph = graph_of()
    l, r, att, values = features_of("gatv2")
    for call, error, words in (
        (lambda: gatv2_attention(graph, l, r, att[:1]), ValueError, "att has shape"),
        (lambda: gatv2_attention(graph, l, r[:, :1], att), ValueError, "receivers_features"),
        (lambda: gatv2_attention(graph, l[:, 0], r, att), ValueError, "senders_features"),
        (lambda: gatv2_attention(graph, l[:3], r, att), ValueError, "9 senders"),
        (lambda: gatv2_attention(graph, l, r, att, values[:3]), ValueError, "values has shape"),
        (lambda: gatv2_attention(graph, l, r, att, negative_slope=0), ValueError, "slope is 0"),
        (lambda: dot_attention(graph, l, r, values[:, :1]), ValueError, "v has shape"),
        (lambda: dot_attention(graph, l, r[..., :1], values), ValueError, "q has shape"),
        (lambda: dot_attention(graph, l.astype(int), r, values), TypeError, "q is int32"),
        (lambda: dot_attention(graph, l, r, values, implementation="fast"), ValueError, "fast"),
        (lambda: Options("cosine"), ValueError, "kind is 'cosine'"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_loops_need_as_many_senders_as_receivers():
    from jgraph.graph.adjacency import sorted_adjacency

    adjacency, _ = sorted_adjacency([0, 3], [1, 1], num_receivers=2, num_senders=4)
    k, q = jnp.ones((4, 1, 2)), jnp.ones((2, 1, 2))
    assert dot_attention(adjacency, q, k, k).shape == (2, 1, 2)
    with pytest.raises(ValueError, match="self_loops"):
        dot_attention(adjacency, q, k, k, self_loops=True)
