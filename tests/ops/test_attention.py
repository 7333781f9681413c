"""Additive attention against the softmax written out, with every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import ops
from jgraph.graph import Graph

N, E, H, F = 11, 40, 3, 4


def case(seed=0):
    rng = np.random.default_rng(seed)
    graph = Graph.from_edges(rng.integers(0, N, E), rng.integers(0, N - 2, E), num_nodes=N)
    arrays = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((N, H, F), (N, H), (N, H))]
    return graph, arrays


def dense(graph, values, a, b, loops, slope=0.2):
    """The same on an N x N mask with multiplicities."""
    count = graph.to_scipy().toarray() + loops * np.eye(N)
    logits = jax.nn.leaky_relu(a[None] + b[:, None], slope)
    top = jnp.max(jnp.where(count[..., None] > 0, logits, -jnp.inf), axis=1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    power = count[..., None] * jnp.exp(jnp.where(count[..., None] > 0, logits - top, -jnp.inf))
    total = power.sum(1)
    alpha = power / jnp.where(total > 0, total, 1)[:, None]
    return jnp.einsum("ijh,jhf->ihf", alpha, values)


def probe(out):
    return (out * jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)).sum()


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("form", ["auto", "xla", "csr"])
def test_values_and_gradients(form, loops):
    graph, arrays = case()
    mine = lambda *z: ops.additive_attention(  # noqa: E731
        graph, *z, self_loops=loops, implementation=form
    )
    spec = lambda *z: dense(graph, *z, loops)  # noqa: E731
    np.testing.assert_allclose(mine(*arrays), spec(*arrays), rtol=1e-5, atol=1e-5)
    slopes = [jax.grad(lambda *z, f=f: probe(f(*z)), (0, 1, 2))(*arrays) for f in (mine, spec)]
    for got, want in zip(*slopes):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_vmap_and_plain_tuples():
    graph, arrays = case()
    many = [jnp.stack([z, z + 1, 2 * z]) for z in arrays]
    f = lambda *z: ops.additive_attention(graph, *z, self_loops=True)  # noqa: E731
    for i, out in enumerate(jax.jit(jax.vmap(f))(*many)):
        np.testing.assert_allclose(out, f(*(z[i] for z in many)), rtol=1e-5, atol=1e-5)
    plain = ops.additive_attention(graph.to_jraph(), *arrays, self_loops=True)
    np.testing.assert_allclose(plain, f(*arrays), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_extreme_scores_stay_finite(scale):
    graph, (values, a, b) = case()
    f = lambda v, a, b: probe(ops.additive_attention(graph, v, a, b))  # noqa: E731
    out, grads = jax.value_and_grad(f, (0, 1, 2))(values, a * scale, b * scale)
    assert np.isfinite(out) and all(np.isfinite(g).all() for g in grads)


def test_no_edges_and_half_precision():
    empty = Graph.from_edges([], [], num_nodes=N)
    _, arrays = case()
    assert (np.asarray(ops.additive_attention(empty, *arrays)) == 0).all()
    loops = ops.additive_attention(empty, *arrays, self_loops=True)
    np.testing.assert_allclose(loops, arrays[0], rtol=1e-6)
    graph, _ = case()
    half = ops.additive_attention(graph, *(z.astype(jnp.bfloat16) for z in arrays))
    assert half.dtype == jnp.bfloat16
    want = ops.additive_attention(graph, *arrays)
    np.testing.assert_allclose(half.astype(jnp.float32), want, rtol=0.05, atol=0.05)


def test_bad_input():
    graph, (values, a, b) = case()
    for call, words in (
        (lambda: ops.additive_attention(graph, values[:, 0], a, b), "sender_scores"),
        (lambda: ops.additive_attention(graph, values, a[:, :2], b), "sender_scores"),
        (lambda: ops.additive_attention(graph, values, a, b, negative_slope=0.0), "negative_slope"),
        (lambda: ops.additive_attention(graph, values[:5], a, b), "values"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
