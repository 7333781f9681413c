"""What every graph model of the catalogue must do, one test per contract and model."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jgraph import gnn, papers
from jgraph.graph import Graph, pad
from jgraph.train import checkpoint

PAPERS = [slug for slug, p in papers.catalogue().items() if p.task in ("node", "graph")]
CASES = [(slug, task) for slug in (*PAPERS, "mlp") for task in ("node", "graph")]
CLASSES = 3


def module_of(slug):
    return papers.module(slug) if slug in PAPERS else gnn.get(slug)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request):
    slug, task = request.param
    module = module_of(slug)
    graph = module.example(jax.random.key(0))
    model = module.build(CLASSES, task=task)
    variables = jax.jit(model.init)(jax.random.key(1), graph)
    return slug, task, module, model, variables, graph


def real(out, graph, task):
    mask = graph.node_mask() if task == "node" else graph.graph_mask()
    return np.asarray(out)[np.asarray(mask)]


def close(a, b, **kwargs):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **kwargs), a, b)


def loss_of(model, graph, task):
    rows = graph.num_nodes if task == "node" else graph.num_graphs
    labels = jnp.arange(rows) % CLASSES
    mask = graph.node_mask() if task == "node" else graph.graph_mask()

    def loss(variables, key):
        logits, state = model.apply(
            variables, graph, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(each * mask) / jnp.sum(mask), state

    return loss


def test_shape_dtype_and_jit(case):
    _, task, _, model, variables, graph = case
    out = model.apply(variables, graph)
    rows = graph.num_nodes if task == "node" else graph.num_graphs
    assert out.shape == (rows, CLASSES) and out.dtype == jnp.float32
    assert np.isfinite(out).all()
    close(jax.jit(model.apply)(variables, graph), out, rtol=1e-5, atol=1e-5)
    embedded = model.apply(variables, graph, method="embed")
    assert embedded.shape[0] == rows and embedded.dtype == jnp.float32


def test_half_precision_is_close(case):
    _, task, module, model, variables, graph = case
    half = module.build(CLASSES, task=task, dtype="bfloat16")
    out, want = half.apply(variables, graph), model.apply(variables, graph)
    assert out.dtype == jnp.float32
    scale = float(np.abs(want).max())
    close(out, want, rtol=0.1, atol=0.06 * max(scale, 1.0))


def test_padding_changes_nothing_and_does_not_retrace(case):
    _, task, _, model, variables, graph = case
    want = model.apply(variables, graph)
    traces = []

    @jax.jit
    def apply(variables, graph):
        traces.append(1)
        return model.apply(variables, graph)

    size = (graph.num_nodes + 6, graph.num_edges + 9, graph.num_graphs + 2)
    padded = pad(graph, *size)
    out = apply(variables, padded)
    close(real(out, padded, task), want, rtol=1e-4, atol=1e-5)
    smaller = pad(graph.replace(nodes=graph.nodes * 2), *size)
    apply(variables, smaller)
    assert len(traces) == 1


def test_training_step_ignores_padding(case):
    """Without dropout, gradients and batch statistics do not see padding."""
    _, task, module, _, variables, graph = case
    model = module.build(CLASSES, task=task, dropout=0.0)
    padded = pad(graph, graph.num_nodes + 6, graph.num_edges + 9, graph.num_graphs + 2)
    key = jax.random.key(2)
    got = jax.grad(loss_of(model, padded, task), has_aux=True)(variables, key)
    want = jax.grad(loss_of(model, graph, task), has_aux=True)(variables, key)
    close(got, want, rtol=2e-3, atol=2e-5)


def test_permutation_of_nodes(case):
    _, task, _, model, variables, graph = case
    rng = np.random.default_rng(0)
    order = np.concatenate(
        [
            start + rng.permutation(count)
            for start, count in zip(np.cumsum([0, *graph.n_node]), graph.n_node)
        ]
    )
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    moved = Graph.from_jraph(
        graph.to_jraph()._replace(
            nodes=graph.nodes[order],
            senders=place[graph.senders],
            receivers=place[graph.receivers],
        )
    )
    want = np.asarray(model.apply(variables, graph))
    want = want[order] if task == "node" else want
    close(model.apply(variables, moved), want, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_and_reach_every_parameter(case):
    _, task, module, _, variables, graph = case
    model = module.build(CLASSES, task=task, dropout=0.0)
    grads = jax.grad(loss_of(model, graph, task), has_aux=True)(variables, jax.random.key(0))[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads["params"]):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        assert np.abs(leaf).max() > 0, f"{name} gets no gradient"


def test_seeds_under_vmap_equal_a_loop(case):
    _, _, _, model, _, graph = case
    keys = jax.random.split(jax.random.key(3), 3)
    run = lambda key: model.apply(model.init(key, graph), graph)  # noqa: E731
    together = jax.jit(jax.vmap(run))(keys)
    for key, out in zip(keys, together):
        close(out, run(key), rtol=1e-3, atol=1e-4)


def test_checkpoint_round_trip(case, tmp_path):
    _, _, _, model, variables, graph = case
    identity = {"model": "contract"}
    checkpoint.save(tmp_path / "c", 1, variables, {"identity": identity, "seconds": 0.0})
    again, _ = checkpoint.restore(tmp_path / "c", variables, identity)
    for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(again), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    np.testing.assert_array_equal(model.apply(again, graph), model.apply(variables, graph))


def test_unknown_hyperparameter_is_named(case):
    _, task, module, *_ = case
    with pytest.raises(ValueError, match="widht"):
        module.build(CLASSES, task=task, widht=3)


DEVICES = """
import dataclasses, sys
import jax, numpy as np
from jgraph import data, gnn
from jgraph.train import TrainConfig, fit
jax.config.update("jax_disable_most_optimizations", True)  # compiling is nearly all of the time
assert jax.device_count() == 8, jax.devices()
dataset = data.load("csl-generated")
rng = np.random.default_rng(0)
graphs = [
    g.replace(nodes=rng.normal(size=(g.num_nodes, 3)).astype(np.float32))
    for g in dataset.graphs[::2]
]
split = data.Split(np.arange(40), np.arange(40, 60), np.arange(60, 75))
dataset = dataclasses.replace(
    dataset, graphs=tuple(graphs), labels=dataset.labels[::2], splits=(split,))
config = TrainConfig(epochs=2, batch_size=16, lr=0.01)
for name in sys.argv[1:]:
    module = gnn.get(name)
    hyper = {} if name == "mlp" else {"norm": "batch"}
    hyper |= {"dropout": 0.0, "layers": 2, "hidden": 8}
    model = module.build(dataset.num_classes, task="graph", **hyper)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    one = fit(model, dataset, config, progress=False)
    many = fit(model, dataset, config, mesh=mesh, progress=False)
    for key in ("train_loss", "val_loss"):
        np.testing.assert_allclose(one.history[key], many.history[key], rtol=2e-4, atol=2e-5)
    print(name, "agrees")
"""


def test_eight_devices_give_the_result_of_one():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    names = [slug for slug in (*PAPERS, "mlp") if slug in gnn.models()]
    done = subprocess.run(
        [sys.executable, "-c", DEVICES, *names], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees") == len(names)
