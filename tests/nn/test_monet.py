"""MoNet by hand."""

import numpy as np

from jgraph.nn.monet import MoNetConv, gaussian_weights


def test_layer_by_hand(graph, noisy):
    layer = MoNetConv(4, kernels=2)
    variables = noisy(layer, graph, graph.nodes)
    p = variables["params"]
    degree = np.bincount(graph.receivers, minlength=graph.num_nodes)
    s = 1 / np.sqrt(degree + 1)
    ends = np.stack([s[graph.senders], s[graph.receivers]], 1)
    u = np.tanh(ends @ p["pseudo"]["kernel"] + p["pseudo"]["bias"])
    want = np.zeros((graph.num_nodes, 4))
    for k in range(2):
        scaled = np.square(u - p["mu"][k]) * np.square(p["inverse_sigma"][k])
        weight = np.exp(-0.5 * scaled.sum(1))
        mapped = graph.nodes @ p["kernel"][:, 4 * k : 4 * k + 4]
        np.add.at(want, np.asarray(graph.receivers), weight[:, None] * mapped[graph.senders])
    np.testing.assert_allclose(
        layer.apply(variables, graph, graph.nodes), want, rtol=1e-4, atol=1e-5
    )


def test_weights_are_largest_at_the_centre():
    mu = np.array([[0.0, 1.0]])
    near, far = gaussian_weights(np.array([[0.0, 1.0], [2.0, 1.0]]), mu, np.ones((1, 2)))
    np.testing.assert_allclose([near[0], far[0]], [1.0, np.exp(-2.0)], rtol=1e-6)
