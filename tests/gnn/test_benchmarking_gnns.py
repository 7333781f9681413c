"""The benchmark's networks: counts, equivariance, padding, encodings, loss, skip links."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph.data.generators import make_csl, make_pattern
from jgraph.gnn import benchmarking_gnns as paper
from jgraph.graph import Graph, batch, pad
from jgraph.nn.positional import laplacian_pe

# The published numbers of parameters; "zinc" with bond types where the net reads edges.
PUBLISHED = {
    ("zinc", "100k"): {
        "gcn": 103077, "graphsage": 94977, "monet": 106002, "gat": 102385, "gatedgcn": 105875,
        "gin": 103079, "ringgnn": 104403, "3wlgnn": 103098,
    },
    ("zinc", "500k"): {
        "gcn": 505079, "graphsage": 505341, "monet": 504013, "gat": 531345, "gatedgcn": 504309,
        "gin": 509549, "ringgnn": 527283, "3wlgnn": 507603,
    },
    ("pattern", "500k"): {
        "gcn": 500823, "graphsage": 502842, "monet": 511487, "gat": 526990, "gatedgcn": 502223,
        "gin": 508574, "ringgnn": 504766, "3wlgnn": 502872,
    },
    ("cluster", "500k"): {
        "gcn": 501687, "graphsage": 503350, "monet": 511999, "gat": 527874, "gatedgcn": 502615,
        "gin": 517570, "ringgnn": 524202, "3wlgnn": 507252,
    },
}  # fmt: skip
SHAPES = {"zinc": (1, 28, "graph"), "pattern": (2, 3, "node"), "cluster": (6, 7, "node")}
EDGES = ("gatedgcn", "ringgnn", "3wlgnn")
CELLS = [(*cell, kind) for cell, counts in PUBLISHED.items() for kind in counts]


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiling is nearly all of the time of these tests."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(("dataset", "budget", "kind"), CELLS)
def test_parameters_are_the_published_ones(dataset, budget, kind):
    classes, features, task = SHAPES[dataset]
    bonds = dataset == "zinc" and kind in EDGES
    hyper = paper.configuration(kind, dataset, budget, edge_features=bonds)
    model = paper.build(classes, task=task, **hyper)
    count = paper.parameter_count(model, features=features, edge_features=4 if bonds else 0)
    published = PUBLISHED[dataset, budget][kind]
    assert abs(count / published - 1) < 0.01
    assert count + paper.omitted(model) == published


def test_parameters_with_positions():
    hyper = paper.configuration("gatedgcn", "zinc", "500k", edge_features=True)
    model = paper.build(1, task="graph", **hyper)
    count = paper.parameter_count(model, features=28, edge_features=4, pe=8)
    assert count + paper.omitted(model) == 505011


def small(kind, task="node", **hyper):
    hyper = {"hidden": 8, "layers": 2, "heads": 2, "max_nodes": 6} | hyper
    return paper.build(3, task=task, kind=kind, **hyper)


def graphs_with_edges(seed=0):
    """Three small undirected graphs with node types, encodings and symmetric bond types."""
    rng = np.random.default_rng(seed)
    out = []
    for n in (6, 5, 4):
        links = np.triu(rng.random((n, n)) < 0.7, 1)
        kinds = rng.integers(2, size=(n, n))
        low, high = np.nonzero(links)
        kind = kinds[low, high]
        nodes = {
            "features": np.eye(3, dtype=np.float32)[rng.integers(3, size=n)],
            "pe": rng.standard_normal((n, 2)).astype(np.float32),
        }
        edges = np.eye(2, dtype=np.float32)[np.concatenate([kind, kind])]
        ends = np.concatenate([low, high]), np.concatenate([high, low])
        out.append(Graph.from_edges(*ends, nodes=nodes, edges=edges))
    return out


def filled(model, graph, seed=1):
    """Variables at random values; nothing is compiled."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), graph)
    draw = {"params": rng.standard_normal, "batch_stats": lambda shape: rng.uniform(0.5, 2, shape)}
    return {
        kind: jax.tree.map(lambda x, kind=kind: (0.3 * draw[kind](x.shape)).astype(x.dtype), tree)
        for kind, tree in shapes.items()
    }


def renumbered(graph, order):
    place = np.argsort(order)
    return Graph.from_edges(
        place[graph.senders],
        place[graph.receivers],
        nodes=jax.tree.map(lambda x: x[order], graph.nodes),
        edges=graph.edges,
    )


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, variables, graph):
    return model.apply(variables, graph)


@functools.partial(jax.jit, static_argnums=0)
def train(model, variables, graph):
    return model.apply(variables, graph, train=True, mutable=["batch_stats"])


READOUTS = [(kind, "node") for kind in paper.KINDS]
READOUTS += [(kind, "graph") for kind in ("gin", "ringgnn", "3wlgnn")]


@pytest.mark.parametrize(("kind", "task"), READOUTS)
def test_equivariance_and_padding(kind, task):
    """Nodes renumbered: the same values in another order. Padded: the same values and moments."""
    edges = {"edge_features": True} if kind in EDGES else {}
    model = small(kind, task, flip_signs=False, **edges)
    graphs = graphs_with_edges()
    whole = batch(graphs)
    variables = filled(model, whole)
    want, stats = train(model, variables, whole)
    want = np.asarray(want)
    assert np.isfinite(want).all() and want.std() > 1e-3
    scale = np.abs(want).max()
    padded = pad(whole, whole.num_nodes + 4, whole.num_edges + 9, 5)
    out, new = train(model, variables, padded)
    np.testing.assert_allclose(out[: len(want)] / scale, want / scale, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), new, stats)
    orders = [np.random.default_rng(i).permutation(g.num_nodes) for i, g in enumerate(graphs)]
    moved = batch([renumbered(g, order) for g, order in zip(graphs, orders)])
    if task == "node":
        starts = np.cumsum([0, 6, 5])
        want = want[np.concatenate([start + order for start, order in zip(starts, orders)])]
    np.testing.assert_allclose(train(model, variables, moved)[0] / scale, want / scale, atol=2e-5)


@pytest.mark.parametrize("kind", ["gatedgcn", "gin"])
def test_edge_task(kind):
    graph = batch(graphs_with_edges())
    model = small(kind, "edge", flip_signs=False)
    shapes = jax.eval_shape(model.apply, filled(model, graph), graph)
    assert shapes.shape == (graph.num_edges, 3)


@functools.cache
def skip_links():
    graphs, labels = make_csl(copies=2)
    return batch(graphs), labels


@pytest.mark.parametrize("kind", [k for k in paper.KINDS if k not in paper.DENSE_KINDS])
def test_without_positions_all_skip_link_graphs_look_alike(kind):
    """One class for all of them: accuracy is exactly one in ten, whatever the parameters."""
    whole, labels = skip_links()
    model = paper.build(10, task="graph", kind=kind, hidden=8, heads=2, layers=2)
    out = np.asarray(evaluate(model, filled(model, whole), whole))
    assert np.abs(out - out[:1]).max() < 1e-4 * np.abs(out).max()
    assert np.mean(out.argmax(1) == labels) == 0.1


def test_the_two_forms_of_gcn_differ_by_degrees_only():
    """On regular graphs D^-1/2 A D^-1/2 is the mean over neighbours, elsewhere it is not."""
    for graph, alike in ((skip_links()[0], True), (batch(graphs_with_edges()), False)):
        mean, symmetric = (
            small(kind, layers=1, flip_signs=False) for kind in ("gcn", "gcn-symmetric")
        )
        variables = filled(mean, graph)
        outs = [np.asarray(evaluate(model, variables, graph)) for model in (mean, symmetric)]
        assert np.allclose(*outs, atol=1e-5) == alike


def test_with_positions_skip_link_graphs_differ():
    whole, _ = skip_links()
    pe = laplacian_pe(whole, 6)
    whole = whole.replace(nodes={"pe": pe})
    model = small("gin", "graph")
    out = np.asarray(evaluate(model, filled(model, whole), whole))
    assert np.abs(out - out[:1]).max() > 1e-2


def test_encodings_are_eigenvectors():
    graph = make_pattern(0, 1, 1, 1)[0].graphs[0]
    pe = laplacian_pe(graph, 5).astype(np.float64)
    links = np.zeros((graph.num_nodes,) * 2)
    links[graph.receivers, graph.senders] = 1
    scale = links.sum(1) ** -0.5
    laplacian = np.eye(graph.num_nodes) - scale[:, None] * links * scale
    values = np.einsum("nk,nk->k", pe, laplacian @ pe)
    np.testing.assert_allclose(laplacian @ pe, values * pe, atol=1e-5)
    np.testing.assert_allclose(pe.T @ pe, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(laplacian)[1:6], atol=1e-5)


def test_signs_flip_in_training_only():
    graph = batch(graphs_with_edges())
    model = small("mlp", norm="none")
    variables = filled(model, graph)

    def run(seed, train=True):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(model.apply(variables, graph, train=train, rngs=rngs))

    assert len({run(seed).tobytes() for seed in range(16)}) == 4  # two columns, two signs each
    assert len({run(seed, False).tobytes() for seed in range(4)}) == 1


def test_too_many_nodes_for_a_dense_net_give_nan():
    graph = batch(graphs_with_edges())
    model = small("3wlgnn", "graph", max_nodes=5)
    assert np.isnan(evaluate(model, filled(model, graph), graph)).all()


def test_weighted_loss_by_hand():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((7, 3)).astype(np.float32)
    labels = np.array([0, 0, 0, 2, 2, 0, 1])
    mask = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    logits[6] = np.nan
    weight = np.array([1 - 4 / 6, 0, 1 - 2 / 6])
    each = np.asarray(-jax.nn.log_softmax(logits[:6]))[np.arange(6), labels[:6]]
    want = np.sum(weight[labels[:6]] * each) / np.sum(weight[labels[:6]])
    value, grad = jax.value_and_grad(paper.weighted_sbm_ce)(
        jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(mask)
    )
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert np.isfinite(grad).all() and not np.any(grad[6])
    one = jnp.zeros(7, jnp.int32)
    assert float(paper.weighted_sbm_ce(jnp.ones((7, 3)), one, jnp.asarray(mask))) == 0.0


def test_accuracy_is_the_mean_of_recalls_over_the_set():
    logits = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    labels = np.array([0, 0, 1, 1, 1, 1])
    assert paper.sbm_accuracy(logits, labels) == pytest.approx((1 + 0.5) / 2)
    halves = [
        np.asarray(paper.class_hits(*map(jnp.asarray, (logits[s], labels[s], np.ones(3, bool)))))
        for s in (slice(0, 3), slice(3, 6))
    ]
    assert paper.class_accuracy(sum(halves)) == pytest.approx(0.75)
    diverged = paper.class_hits(jnp.full((2, 2), jnp.nan), jnp.zeros(2, int), jnp.ones(2, bool))
    assert np.isnan(paper.class_accuracy(np.asarray(diverged)))


def test_schedules_are_the_published_ones():
    schedule, size = paper.protocol("gcn", "csl")
    assert (schedule.lr, schedule.patience, schedule.min_lr, size) == (5e-4, 5, 1e-6, 5)
    schedule, size = paper.protocol("gatedgcn", "pattern", "500k")
    assert (schedule.lr, schedule.patience, schedule.min_lr, size) == (1e-3, 5, 1e-5, 32)
    assert paper.protocol("3wlgnn", "zinc")[0].patience == 5
    assert paper.protocol("gin", "zinc") == (paper.Plateau(patience=10), 128)


def test_unknown_names_are_named():
    for call in (
        lambda: paper.configuration("gnn"),
        lambda: paper.configuration("gcn", "mnist"),
        lambda: paper.configuration("gcn", "csl", "1M"),
    ):
        with pytest.raises(ValueError, match="choose one of"):
            call()
    graph = batch(graphs_with_edges()).replace(edges=None)
    with pytest.raises(ValueError, match=r"graph\.edges is None"):
        filled(small("gatedgcn", edge_features=True), graph)
    with pytest.raises(ValueError, match="task is 'edge'"):
        filled(small("ringgnn", "edge"), graph)
