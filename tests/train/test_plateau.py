"""The plateau schedule against PyTorch's rules, and training by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jgraph.graph import Graph
from jgraph.nn import BatchNorm, Linear, sum_pool
from jgraph.nn.inputs import node_mask
from jgraph.train.plateau import Examples, Measure, Plateau, fit_on_plateau


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiling is nearly all of the time of these tests."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def rates_by_the_rules(losses, lr, factor, patience, min_lr):
    """ReduceLROnPlateau(mode="min", threshold=1e-4, threshold_mode="rel"), then the stop."""
    best, waited, rates = float("inf"), 0, []
    for loss in losses:
        if loss < best * (1 - 1e-4):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            lr, waited = lr * factor, 0
        rates.append(lr)
        if lr < min_lr:
            break
    return rates


@pytest.mark.parametrize("seed", range(3))
def test_rates_follow_the_rules(seed):
    rng = np.random.default_rng(seed)
    losses = np.exp(-0.02 * np.arange(200)) + 0.2 * rng.random(200)
    losses[20] = np.nan
    schedule = Plateau(lr=1e-2, factor=0.5, patience=3, min_lr=1e-3)
    state, rates = schedule.start(), []
    step = jax.jit(schedule.step)
    for loss in losses:
        state = step(state, np.float32(loss))
        rates.append(float(state.lr))
        if state.stopped:
            break
    want = rates_by_the_rules(losses, 1e-2, 0.5, 3, 1e-3)
    np.testing.assert_allclose(rates, want, rtol=1e-5)
    assert bool(state.stopped) and len(rates) < 200


def test_values_out_of_range_are_named():
    for name, value in {"lr": 0.0, "factor": 1.0, "patience": -1, "min_lr": -1.0}.items():
        with pytest.raises(ValueError, match=f"{name} is"):
            Plateau(**{name: value})


class Net(nn.Module):
    per_node: bool

    @nn.compact
    def __call__(self, graph, *, train=False):
        h = BatchNorm()(Linear(8)(graph.nodes), mask=node_mask(graph), train=train)
        h = nn.relu(h)
        return Linear(1)(h if self.per_node else sum_pool(graph, h))


def square(outputs, targets, mask):
    error = jnp.where(mask, jnp.square(jnp.where(mask, outputs[:, 0], 0) - targets), 0)
    return jnp.sum(error) / jnp.maximum(jnp.sum(mask), 1)


def sums(outputs, targets, mask):
    error = jnp.where(mask, jnp.abs(outputs[:, 0] - targets), 0)
    return jnp.stack([jnp.sum(error), jnp.sum(mask).astype(jnp.float32)])


def examples(per_node, count, seed):
    rng = np.random.default_rng(seed)
    graphs, targets = [], []
    for _ in range(count):
        n = int(rng.integers(3, 7))
        nodes = rng.standard_normal((n, 2)).astype(np.float32)
        ring = np.arange(n)
        graphs.append(Graph.from_edges(ring, (ring + 1) % n, nodes=nodes))
        value = np.abs(nodes[:, 0]).astype(np.float32)
        targets.append(value if per_node else value.sum())
    return Examples(graphs, targets)


@pytest.mark.parametrize("per_node", [True, False])
def test_training_on_targets_of_nodes_and_of_graphs(per_node):
    parts = {
        name: examples(per_node, n, i)
        for i, (name, n) in enumerate((("train", 22), ("val", 6), ("test", 7)))
    }
    measure = Measure(per_node, square, sums, lambda c: float(c[0] / c[1]))
    schedule = Plateau(lr=0.03, patience=2, min_lr=0.01)
    rows = []
    options = {"batch_size": 4, "epochs": 40, "seed": 1}
    options["callback"] = lambda epoch, row: rows.append((epoch, row))
    result = fit_on_plateau(Net(per_node), parts, measure, schedule, **options)
    again = fit_on_plateau(Net(per_node), parts, measure, schedule, **options, max_edges=30)
    losses = result.history["train_loss"]
    assert losses[-1] < 0.6 * losses[0]
    np.testing.assert_allclose(again.history["train_loss"], losses, rtol=1e-3)
    assert rows[result.epochs - 1][0] == result.epochs == len(losses)
    assert result.stopped in ("rate", "epochs")
    net, variables = Net(per_node), result.variables
    errors, count = 0.0, 0
    for graph, target in zip(parts["test"].graphs, parts["test"].targets, strict=True):
        out = np.asarray(net.apply(variables, graph))[:, 0]
        errors, count = errors + np.abs(out - target).sum(), count + out.size
    np.testing.assert_allclose(result.test, errors / count, rtol=1e-4)


def test_it_stops_by_time_and_by_rate():
    parts = {name: examples(False, 4, 0) for name in ("train", "val", "test")}
    measure = Measure(False, square, sums, lambda c: float(c[0] / c[1]))
    run = lambda schedule, **o: fit_on_plateau(  # noqa: E731
        Net(False), parts, measure, schedule, batch_size=2, epochs=5, **o
    )
    assert run(Plateau(), max_seconds=0.0).stopped == "time"
    falling = run(Plateau(lr=1e-3, patience=0, min_lr=9e-4, threshold=0.99))
    assert falling.stopped == "rate" and falling.epochs == 2
    with pytest.raises(ValueError, match="lacks test"):
        fit_on_plateau(
            Net(False),
            {k: parts[k] for k in ("train", "val")},
            measure,
            Plateau(),
            batch_size=2,
        )


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match="targets has 1 entries"):
        Examples(examples(False, 2, 0).graphs, [1.0])
