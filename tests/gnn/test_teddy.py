"""TEDDY: its score, its pruning and its projection by brute force; its training by a plain loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jgraph.data import Split
from jgraph.gnn import teddy as m
from jgraph.gnn.ugs import ugs_train
from jgraph.graph import Graph
from jgraph.train.tasks import accuracy, cross_entropy


def undirected(seed=0, nodes=10, edges=18, loops=False):
    rng = np.random.default_rng(seed)
    graph = Graph.from_edges(
        *rng.integers(0, nodes - 1, (2, edges)),
        nodes=rng.normal(size=(nodes, 4)).astype(np.float32),
    ).remove_self_loops()
    graph = graph.to_undirected()
    return graph.add_self_loops() if loops else graph


def scores_of(graph):
    return np.asarray(m.teddy_edge_scores(graph.senders, graph.receivers, graph.num_nodes))


def star(centre, leaves):
    return [(centre, leaf) for leaf in leaves]


def of_pairs(pairs):
    return Graph.from_edges(*np.array(pairs).T).to_undirected()


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_dense_formula_and_are_symmetric(seed):
    graph = undirected(seed)
    a = graph.to_scipy().toarray()
    with np.errstate(divide="ignore"):
        inverse, root = 1 / a.sum(1), a.sum(1) ** -0.5
    inverse[np.isinf(inverse)] = root[np.isinf(root)] = 0
    g = inverse * (a @ root) * inverse
    dense = np.outer(g, g) * a
    np.testing.assert_allclose(scores_of(graph), dense[graph.receivers, graph.senders], rtol=1e-5)
    np.testing.assert_allclose(dense, dense.T, rtol=1e-6)
    order = np.random.default_rng(seed).permutation(graph.num_nodes)
    moved = m.teddy_edge_scores(order[graph.senders], order[graph.receivers], graph.num_nodes)
    np.testing.assert_allclose(moved, scores_of(graph), rtol=1e-6)


def test_star_and_two_hubs():
    np.testing.assert_allclose(np.ptp(scores_of(of_pairs(star(0, range(1, 8))))), 0, atol=1e-9)
    hubs = of_pairs([(0, 1), *star(0, range(2, 12)), *star(1, range(12, 22))])
    scores = scores_of(hubs)
    between = (hubs.senders < 2) & (hubs.receivers < 2)
    assert scores[between].max() < scores[~between].min()
    keep = m.prune_edges(scores, 1.01 / 21, hubs.senders, hubs.receivers)
    np.testing.assert_array_equal(keep, ~between)


def test_pruned_sets_are_nested_symmetric_and_spare_loops():
    graph = undirected(1, loops=True)
    scores, ends = scores_of(graph), (graph.senders, graph.receivers)
    loop = graph.senders == graph.receivers
    assert (scores[loop] == scores.max()).all()
    pairs = int((~loop).sum()) // 2
    before = np.ones(graph.num_edges, bool)
    for fraction in (0.0, 0.25, 0.5, 1.0):
        keep = m.prune_edges(scores, fraction, *ends)
        assert (~keep).sum() == 2 * int(fraction * pairs) and keep[loop].all()
        assert not (keep & ~before).any()
        pruned = m.prune_graph(graph, keep)
        a = pruned.to_scipy().toarray()
        np.testing.assert_array_equal(a, a.T)
        assert pruned.num_nodes == graph.num_nodes
        before = keep
    rest = scores[before & ~loop]
    assert rest.size == 0
    half = m.prune_edges(scores, 0.5, *ends)
    assert scores[~half].max() <= scores[half & ~loop].min() * (1 + 1e-6)


def test_projection_is_the_nearest_point_of_the_ball():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=8).astype(np.float32)
    tree = {"a": jnp.asarray(flat[:6].reshape(2, 3)), "b": jnp.asarray(flat[6:])}
    for fraction in (0.0, 0.2, 0.5, 0.95, 1.0):
        out = m.l0_project(tree, fraction)
        got = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(out)])
        kept = 8 - int(np.ceil(8 * fraction))
        assert (got != 0).sum() == kept
        best = min(
            (np.where(np.isin(np.arange(8), chosen), flat, 0) for chosen in
             itertools.combinations(range(8), kept)),
            key=lambda x: np.sum((x - flat) ** 2),
        )  # fmt: skip
        np.testing.assert_array_equal(got, best)
        again = m.l0_project(out, fraction)
        jax.tree.map(np.testing.assert_array_equal, again, out)


def test_projection_with_ties_zeros_and_in_the_optimizer():
    tied = jnp.array([1.0, -1.0, 1.0, 0.0, 1.0, 2.0])
    np.testing.assert_array_equal(m.l0_project(tied, 0.5), [0, 0, 1, 0, 1, 2])
    optimizer = optax.chain(optax.sgd(0.1), m.optax_l0_projection(0.5))
    params = {"w": jnp.array([1.0, -0.2, 0.3, 3.0])}
    grads = {"w": jnp.array([1.0, 1.0, -9.0, 1.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)["w"]
    np.testing.assert_allclose(new, [0, 0, 1.2, 2.9], rtol=1e-6)
    assert (np.asarray(new)[:2] == 0).all()


def test_distillation_is_zero_with_zero_gradient_at_the_teacher():
    rng = np.random.default_rng(0)
    z, teacher = rng.normal(size=(2, 5, 3)).astype(np.float32)
    value, grad = jax.value_and_grad(m.distill_kl)(teacher, teacher)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-6)
    p, q = jax.nn.softmax(teacher), jax.nn.softmax(z)
    want = np.mean([sum(p[i] * np.log(p[i] / q[i])) for i in range(5)])
    np.testing.assert_allclose(m.distill_kl(z, teacher), want, rtol=1e-5)


OPTIONS = m.TrainOptions(epochs=6, lr=0.05, distillation=0.5)
LABELS = np.arange(10) % 3
SPLIT = Split(np.arange(4), np.arange(4, 7), np.arange(7, 10))
MODEL = m.SparseGCN(3, hidden=5)


def test_nothing_to_prune_reproduces_plain_training_bit_for_bit():
    graph = undirected()
    plain = m.train(MODEL, graph, LABELS, SPLIT, OPTIONS, seeds=2)
    off = m.TrainOptions(epochs=6, lr=0.05, distillation=0.0)
    _, same = m.run_teddy(MODEL, graph, LABELS, SPLIT, off, edge_fraction=0.0, seeds=2, dense=plain)
    jax.tree.map(np.testing.assert_array_equal, same.params, plain.params)
    np.testing.assert_array_equal(same.logits, plain.logits)
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.adam(0.05))
    init_key, key = jax.random.split(jax.random.key(1))
    params, best = MODEL.init(init_key, graph)["params"], (-1.0, None)
    state, masks = (
        optimizer.init(params),
        [np.isin(np.arange(10), p) for p in (range(4), (4, 5, 6))],
    )

    @jax.jit
    def step(params, state, key):
        def loss(params):
            logits = MODEL.apply({"params": params}, graph, train=True, rngs={"dropout": key})
            return cross_entropy(logits, LABELS, masks[0])

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        logits = MODEL.apply({"params": params}, graph)
        return params, state, logits, accuracy(logits, LABELS, masks[1])

    for each in jax.random.split(key, 6):
        params, state, logits, score = step(params, state, each)
        best = (score, logits) if score >= best[0] else best
    np.testing.assert_allclose(plain.logits[1], best[1], rtol=1e-5, atol=1e-6)
    assert plain.val[1] == best[0]


def test_the_ticket_is_as_sparse_as_asked_for():
    graph = undirected()
    dense, sparse = m.run_teddy(
        MODEL, graph, LABELS, SPLIT, OPTIONS, edge_fraction=0.4, weight_fraction=0.6, seeds=2
    )
    size = sum(leaf[0].size for leaf in jax.tree.leaves(sparse.params))
    for seed in range(2):
        kept = sum(int((leaf[seed] != 0).sum()) for leaf in jax.tree.leaves(sparse.params))
        assert kept == size - int(np.ceil(0.6 * size))
    assert dense.test.shape == sparse.test.shape == (2,)
    assert np.isfinite(sparse.logits).all()


def test_one_graph_per_seed_equals_runs_of_their_own():
    graph = undirected()
    order = np.random.default_rng(0).permutation(10)
    other = Graph.from_edges(order[graph.senders], order[graph.receivers], nodes=graph.nodes)
    both = m.train(MODEL, [graph, other], LABELS, SPLIT, OPTIONS, seeds=2)
    own = [m.train(MODEL, one, LABELS, SPLIT, OPTIONS, seeds=2).logits for one in (graph, other)]
    np.testing.assert_allclose(both.logits[0], own[0][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both.logits[1], own[1][1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="graph has 1 entries, but there are 2 seeds"):
        m.train(MODEL, [graph], LABELS, SPLIT, OPTIONS, seeds=2)


def test_ugs_prunes_what_is_asked_for_and_starts_from_the_same_weights():
    graph = undirected(4)
    rounds = ugs_train(MODEL, graph, LABELS, SPLIT, OPTIONS, rounds=2, edges=0.2, weights=0.3)
    edges, weights = graph.num_edges, 4 * 5 + 5 * 3
    for number, ticket in enumerate(rounds, 1):
        edges, weights = edges - int(0.2 * edges), weights - int(0.3 * weights)
        assert int(ticket.edges.sum()) == edges, number
        assert sum(int(leaf.sum()) for leaf in jax.tree.leaves(ticket.weights)) == weights
        assert 0 <= ticket.test <= 1
    assert not (rounds[1].edges & ~rounds[0].edges).any()


def test_levels_and_wrong_arguments():
    np.testing.assert_allclose(m.sparsity_level(2), (1 - 0.95**2, 1 - 0.9**2))
    graph = undirected()
    with pytest.raises(ValueError, match=r"fraction is 1\.5"):
        m.l0_project({"a": jnp.ones(3)}, 1.5)
    with pytest.raises(ValueError, match="lacks its reverse"):
        m.prune_edges(np.ones(1), 0.5, [0], [1])
    with pytest.raises(ValueError, match="teacher has 1 entries, but there are 2"):
        m.train(MODEL, graph, LABELS, SPLIT, OPTIONS, seeds=2, teacher=np.zeros((1, 10, 3)))


def test_the_large_setting_of_the_experiment_starts(data_root, tmp_path, monkeypatch):
    from experiments.gnn.teddy import Config, main

    monkeypatch.chdir(tmp_path)
    main(Config("curves", ("cora",), 1, 1, hidden=4, levels=1, distillations=(1.0,)))
    assert (tmp_path / "experiments/results/teddy-curves.json").exists()
