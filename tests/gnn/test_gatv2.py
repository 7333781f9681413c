"""GATv2: receivers can rank the same senders differently, which GAT cannot."""

import jax.numpy as jnp
import numpy as np

from jgraph.graph import Graph
from jgraph.nn import gatv2_logits


def test_each_receiver_prefers_another_sender():
    graph = Graph.from_edges([0, 1, 0, 1], [0, 0, 1, 1], num_nodes=2)
    sent = jnp.array([[[2.0, 0.0]], [[0.0, 2.0]]])
    received = jnp.array([[[0.0, -4.0]], [[-4.0, 0.0]]])
    logits, _ = gatv2_logits(graph, sent, received, jnp.ones((1, 2)))
    np.testing.assert_allclose(logits[:, 0], [1.2, -0.4, -0.4, 1.2], rtol=1e-5)


def test_logits_by_hand():
    graph = Graph.from_edges([0], [1], num_nodes=2)
    sent = jnp.array([[[1.0, -2.0]], [[0.0, 0.0]]])
    received = jnp.array([[[0.0, 0.0]], [[1.0, 1.0]]])
    logits, loops = gatv2_logits(graph, sent, received, jnp.array([[3.0, 5.0]]), 0.2)
    assert np.isclose(logits[0, 0], 3 * 2.0 + 5 * 0.2 * -1.0)
    np.testing.assert_allclose(loops[:, 0], [3 * 1.0 + 5 * 0.2 * -2.0, 3 + 5], rtol=1e-6)
