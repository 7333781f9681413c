"""FastRP: equal to the dense formula, and its projection keeps inner products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph.gnn import fastrp as m
from jgraph.graph import Graph, pad


def undirected(seed=0, nodes=12, edges=26, joined=None):
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, joined or nodes, (2, edges))
    graph = Graph.from_edges(*ends, num_nodes=nodes)
    return graph.remove_self_loops().to_undirected()


def dense_powers(matrix, projection, q, beta, trans=True):
    """A^k L R by dense products in float64."""
    degree = matrix.sum(1)
    with np.errstate(divide="ignore"):
        scale = np.where(degree > 0, (degree / degree.sum()) ** beta, 0)
        inverse = np.where(degree > 0, 1 / degree, 0)
    a = inverse[:, None] * matrix if trans else matrix
    x = scale[:, None] * np.asarray(projection, np.float64)
    return np.stack([np.linalg.matrix_power(a, k) @ x for k in range(1, q + 1)])


def unit(x):
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def standard(x):
    spread = x.std(0)
    return np.divide(x - x.mean(0), spread, out=np.zeros_like(x), where=spread > 0)


@pytest.mark.parametrize("input", ["trans", "adj"])
@pytest.mark.parametrize("weighted", [False, True])
def test_powers_and_embedding_equal_the_dense_formula(input, weighted):
    graph = undirected(joined=11)
    matrix = graph.to_scipy().toarray().astype(np.float64)
    if weighted:
        half = np.random.default_rng(1).uniform(0.5, 2, matrix.shape)
        matrix = matrix * (half + half.T)
    weight = matrix[graph.receivers, graph.senders] if weighted else None
    r = m.very_sparse_projection(jax.random.key(0), graph.num_nodes, 16, 2.0)
    want = dense_powers(matrix, r, 4, -0.64, input == "trans")
    got = m.fastrp_powers(graph, r, 4, -0.64, input=input, edge_weight=weight)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert not got[:, 11].any()
    alphas = (0.5, 0.0, 1.0, 6.67)
    out = m.fastrp(
        graph, jax.random.key(0), 16, alphas, input=input, projection=r, edge_weight=weight
    )
    merged = standard(sum(a * unit(x) for a, x in zip(alphas, want)))
    np.testing.assert_allclose(out, merged, atol=2e-5)
    side = m.fastrp(
        graph, jax.random.key(0), 16, None, normalize=False, projection=r, num_powers=2,
        input=input, edge_weight=weight,
    )  # fmt: skip
    np.testing.assert_allclose(side, standard(np.concatenate(want[:2], 1)), atol=2e-5)


@pytest.mark.parametrize("s", [None, 3.0, 1.0])
def test_entries_of_the_projection(s):
    n, d = 400, 2000
    r = np.asarray(m.very_sparse_projection(jax.random.key(1), n, d, s))
    s = s or np.sqrt(n)
    assert set(np.unique(np.round(r * np.sqrt(d / s), 5))) <= {-1.0, 0.0, 1.0}
    for sign in (-1, 1):
        p = 1 / (2 * s)
        deviation = abs((np.sign(r) == sign).mean() - p)
        assert deviation < 3 * np.sqrt(p * (1 - p) / r.size)
    # No row, first or last, is favoured by drawing distances.
    thirds = (r.reshape(4, 100, d) != 0).mean((1, 2))
    assert np.abs(thirds - 1 / s).max() < 4 * np.sqrt(1 / s / (100 * d))
    gram = r @ r.T
    np.testing.assert_allclose(np.diag(gram).mean(), 1, atol=0.02)
    off = gram[~np.eye(n, dtype=bool)]
    assert abs(off.mean()) < 1e-3 and off.std() < 1.1 / np.sqrt(d)


def test_dense_and_gaussian_projections():
    r = m.very_sparse_projection(jax.random.key(0), 9, 5, 1.0)
    np.testing.assert_allclose(np.abs(r), 1 / np.sqrt(5), rtol=1e-6)
    g = m.gaussian_projection(jax.random.key(0), 300, 400)
    np.testing.assert_allclose(np.mean(np.sum(g * g, axis=1)), 1, atol=0.02)
    with pytest.raises(ValueError, match=r"s is 0\.5"):
        m.very_sparse_projection(jax.random.key(0), 9, 5, 0.5)


def test_renumbering_nodes_renumbers_the_embedding():
    graph = undirected(3)
    order = np.random.default_rng(0).permutation(graph.num_nodes)
    place = np.argsort(order)
    moved = Graph.from_edges(
        place[graph.senders], place[graph.receivers], num_nodes=graph.num_nodes
    )
    r = m.very_sparse_projection(jax.random.key(2), graph.num_nodes, 8, 2.0)
    key = jax.random.key(0)
    want = m.fastrp(graph, key, 8, projection=r)[order]
    np.testing.assert_allclose(m.fastrp(moved, key, 8, projection=r[order]), want, atol=1e-5)


def test_without_weights_it_is_plain_projection():
    graph = undirected(4)
    matrix = graph.to_scipy().toarray()
    r = m.very_sparse_projection(jax.random.key(0), graph.num_nodes, 6, 1.0)
    a = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(m.fastrp_powers(graph, r, 1, 0.0)[0], a @ r, atol=1e-6)


def test_inner_products_converge_like_one_over_root_d():
    graph = undirected(5, 200, 900)
    matrix = graph.to_scipy().toarray().astype(np.float64)
    truth = unit(dense_powers(matrix, np.eye(200), 1, -0.5)[0])
    errors = []
    for d in (256, 4096):
        r = m.very_sparse_projection(jax.random.key(7), 200, d)
        x = np.asarray(m.fastrp_powers(graph, r, 1, -0.5)[0])
        length = np.linalg.norm(dense_powers(matrix, np.eye(200), 1, -0.5)[0], axis=1)
        x = x / np.maximum(length, 1e-12)[:, None]
        errors.append(np.abs(x @ x.T - truth @ truth.T))
    assert errors[1].max() < 0.25
    assert 3 < np.mean(errors[0]) / np.mean(errors[1]) < 5.5


def test_vertex_transitive_graphs_do_not_see_beta():
    ring = np.arange(9)
    graph = Graph.from_edges(ring, (ring + 1) % 9).to_undirected()
    r = m.very_sparse_projection(jax.random.key(0), 9, 4, 1.0)
    one, other = (m.fastrp_powers(graph, r, 3, beta) for beta in (0.0, -0.8))
    ratio = np.asarray(other / one)[np.asarray(jnp.abs(one) > 1e-6)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_padding_jit_and_graphs_tuples_change_nothing():
    graph = m.example(jax.random.key(0)).replace(nodes=None)
    padded = pad(graph, graph.num_nodes + 5, graph.num_edges + 7, graph.num_graphs + 1)
    n, key = graph.num_nodes, jax.random.key(0)
    r = m.very_sparse_projection(key, padded.num_nodes, 8, 2.0)
    want = m.fastrp(graph, key, 8, projection=r[:n])
    got = jax.jit(lambda g: m.fastrp(g, key, 8, projection=r))(padded)
    np.testing.assert_allclose(got[:n], want, atol=2e-5)
    assert not got[n:].any()
    np.testing.assert_allclose(
        m.fastrp(graph.to_jraph(), key, 8, projection=r[:n]), want, atol=2e-5
    )
    np.testing.assert_array_equal(m.fastrp(graph, key, 8), m.fastrp(graph, key, 8))


def test_each_node_gets_as_many_labels_as_it_has():
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [1.0, 1.0, 1.0]])
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    want = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(m.top_k_predictions(scores, labels), want)


def test_multilabel_f1_of_separable_and_of_random_embeddings():
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=int)[rng.integers(0, 3, 150)]
    labels[:, 0] |= labels[:, 1]
    micro, macro = m.multilabel_f1(3.0 * labels, labels, 0.5, jax.random.key(0), C=10.0)
    assert micro == macro == 1.0
    noise = rng.normal(size=(150, 4))
    assert m.multilabel_f1(noise, labels, 0.5, jax.random.key(0))[0] < 0.8
    with pytest.raises(ValueError, match="fraction is 1"):
        m.multilabel_f1(noise, labels, 1, jax.random.key(0))


def test_wrong_arguments_are_named():
    graph, key = undirected(), jax.random.key(0)
    with pytest.raises(ValueError, match="input is 'sym'"):
        m.fastrp(graph, key, 4, input="sym")
    with pytest.raises(ValueError, match="weights is empty"):
        m.fastrp(graph, key, 4, weights=())
    with pytest.raises(ValueError, match="q is 0"):
        m.fastrp_powers(graph, jnp.ones((graph.num_nodes, 2)), 0)


def test_the_large_setting_of_the_experiment_starts(tmp_path, monkeypatch):
    from experiments.gnn.fastrp import Config, main

    monkeypatch.chdir(tmp_path)
    main(Config(setting="youtube", nodes=300, edges=900, dim=8))
    assert (tmp_path / "experiments/results/fastrp-youtube.json").exists()
