"""The 15 equivariant maps, and layers on dense tensors."""

import jax
import jax.numpy as jnp
import numpy as np

from jgraph.graph import batch, pad
from jgraph.nn.dense import dense_layout, dense_tensor, node_rows
from jgraph.nn.ppgn import PPGNBlock, diagonal_and_rest
from jgraph.nn.ring import MAPS, RingLayer, equivariant_basis, equivariant_linear

ALL = jnp.ones(5, bool)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def permuted(x, order):
    return x[..., order, :][..., order]


def test_maps_are_linearly_independent():
    units = jnp.eye(25).reshape(25, 5, 5)
    matrix = np.asarray(equivariant_basis(units, ALL)).reshape(MAPS, -1)
    assert np.linalg.matrix_rank(matrix, tol=1e-5) == MAPS == 15


def test_maps_are_equivariant():
    x, order = random(2, 5, 5), np.random.default_rng(1).permutation(5)
    np.testing.assert_allclose(
        equivariant_basis(permuted(x, order), ALL),
        permuted(equivariant_basis(x, ALL), order),
        atol=1e-5,
    )


def test_the_fast_form_is_the_sum_over_maps():
    x, theta, bias = random(3, 7, 7), random(3, 4, MAPS, seed=1), random(4, seed=2)
    mask = jnp.arange(7) < 5
    x = jnp.where(mask[:, None] & mask, x, 0)
    maps = equivariant_basis(x, mask)
    want = jnp.einsum("cdb,bcij->dij", theta, maps)
    want = want + bias[:, None, None] * jnp.diag(mask.astype(jnp.float32))
    got = equivariant_linear(x, theta, mask, bias)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    small = equivariant_linear(x[:, :5, :5], theta, ALL, bias)
    np.testing.assert_allclose(got[:, :5, :5], small, rtol=1e-4, atol=1e-5)
    assert not np.any(got[:, 5:]) and not np.any(got[:, :, 5:])


def ring_by_hand(p, x):
    n = x.shape[-1]
    maps = [
        jnp.einsum("cdb,bcij->dij", p[f"theta_{i}"], equivariant_basis(x, jnp.ones(n, bool)))
        for i in range(3)
    ]
    eye = jnp.eye(n)
    zero, first = (m + p[f"diagonal_bias_{i}"][:, None, None] * eye for i, m in enumerate(maps[:2]))
    y = p["switch"][0] * zero + p["switch"][1] * (maps[2] @ first)
    return jax.nn.relu(y + p["bias"][:, None, None])


def ppgn_by_hand(p, x):
    def conv(name, x):
        return jnp.einsum("cij,cd->dij", x, p[name]["kernel"]) + p[name]["bias"][:, None, None]

    def mlp(name):
        return jax.nn.relu(conv(f"{name}_1", jax.nn.relu(conv(f"{name}_0", x))))

    return conv("skip", jnp.concatenate([x, mlp("left") @ mlp("right")]))


def test_layers_by_hand_with_graphs_of_several_sizes(noisy):
    """Graph by graph without padding gives what one padded batch gives."""
    x = random(2, 3, 6, 6)
    mask = jnp.arange(6) < jnp.array([[4], [6]])
    x = jnp.where(mask[:, None, :, None] & mask[:, None, None, :], x, 0)
    for layer, by_hand in ((RingLayer(4), ring_by_hand), (PPGNBlock(4), ppgn_by_hand)):
        variables = noisy(layer, x, mask)
        got = layer.apply(variables, x, mask)
        for g, n in ((0, 4), (1, 6)):
            want = by_hand(variables["params"], x[g, :, :n, :n])
            np.testing.assert_allclose(got[g, :, :n, :n], want, rtol=1e-3, atol=1e-4)
            assert not np.any(got[g, :, n:]) and not np.any(got[g, :, :, n:])
        wide = type(layer)(4, residual=True)
        assert wide.apply(noisy(wide, x, mask), x, mask).shape == got.shape


def test_pooling_of_diagonal_and_rest():
    x = jnp.asarray([[[[5.0, 1.0], [2.0, -3.0]]], [[[-4.0, 0.0], [0.0, 0.0]]]])
    mask = jnp.asarray([[True, True], [True, False]])
    np.testing.assert_array_equal(diagonal_and_rest(x, mask), [[5.0, 2.0], [-4.0, 0.0]])


def test_dense_tensor_of_a_padded_batch(make_graph):
    graphs = []
    for seed, nodes in ((0, 4), (1, 6)):
        graph = make_graph(seed, nodes, 10, 2).to_undirected().remove_self_loops()
        edges = np.arange(graph.num_edges, dtype=np.float32)[:, None] + 1
        graphs.append(graph.replace(edges=edges))
    padded = pad(batch(graphs), 15, 60, 4)
    layout = dense_layout(padded, 15, 6)
    assert bool(layout.fits) and not bool(dense_layout(padded, 15, 5).fits)
    dense = np.asarray(dense_tensor(padded, layout, jnp.asarray(padded.nodes), padded.edges))
    assert dense.shape == (4, 4, 6, 6)
    for g, graph in enumerate(graphs):
        n = graph.num_nodes
        links = np.zeros((n, n))
        links[graph.receivers, graph.senders] = 1
        degree = links.sum(1)
        scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0)
        np.testing.assert_allclose(dense[g, 0, :n, :n], scale[:, None] * links * scale, atol=1e-6)
        for c in range(2):
            np.testing.assert_allclose(dense[g, 1 + c, :n, :n], np.diag(graph.nodes[:, c]))
        np.testing.assert_array_equal(
            dense[g, 3][graph.receivers, graph.senders], graph.edges[:, 0]
        )
        assert not dense[g, :, n:].any() and not dense[g, :, :, n:].any()
    assert not dense[2:].any()
    rows = np.asarray(node_rows(layout, jnp.asarray(np.einsum("gcii->gci", dense))))
    np.testing.assert_allclose(rows[:10, 1:3], padded.nodes[:10])
    assert not rows[10:].any()
