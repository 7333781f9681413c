import jax
import numpy as np
import pytest

from jgraph.graph import Graph


def random_graph(seed, nodes=9, edges=24, features=5):
    """A directed graph with loops and parallel edges; the last node has no edges."""
    rng = np.random.default_rng(seed)
    return Graph.from_edges(
        rng.integers(0, nodes - 1, edges),
        rng.integers(0, nodes - 1, edges),
        nodes=rng.standard_normal((nodes, features)).astype(np.float32),
    )


@pytest.fixture
def make_graph():
    return random_graph


@pytest.fixture
def graph():
    return random_graph(0)


@pytest.fixture
def counts():
    """Dense (receivers, senders) matrix of edge counts."""

    def of(graph, weight=None):
        dense = np.zeros((graph.num_nodes, graph.num_nodes), np.float32)
        values = 1.0 if weight is None else weight
        np.add.at(dense, (np.asarray(graph.receivers), np.asarray(graph.senders)), values)
        return dense

    return of


@pytest.fixture
def relabelled():
    """(graph, order): the same graph with node order[i] of the old at i of the new."""

    def of(graph, seed=1):
        order = np.random.default_rng(seed).permutation(graph.num_nodes)
        place = np.argsort(order)
        moved = Graph.from_edges(
            place[np.asarray(graph.senders)],
            place[np.asarray(graph.receivers)],
            nodes=np.asarray(graph.nodes)[order],
        )
        return moved, order

    return of


@pytest.fixture
def noisy():
    """Parameters of a layer at random values, so that no bias is 0; nothing is compiled."""

    def of(layer, *inputs, seed=3):
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)
        return jax.tree.map(lambda x: (0.5 * rng.standard_normal(x.shape)).astype(x.dtype), shapes)

    return of
