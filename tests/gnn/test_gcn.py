"""GCN: the paper's propagation rule and what follows from it."""

import jax
import jax.numpy as jnp
import numpy as np

from jgraph import gnn
from jgraph.graph import Graph
from jgraph.nn import gcn_propagate


def undirected(seed=0, nodes=9, edges=14):
    rng = np.random.default_rng(seed)
    graph = Graph.from_edges(*rng.integers(0, nodes, (2, edges)), num_nodes=nodes)
    return graph.to_undirected().remove_self_loops()


def dense_rule(graph):
    a = graph.to_scipy().toarray() + np.eye(graph.num_nodes)
    s = 1 / np.sqrt(a.sum(1))
    return s[:, None] * a * s


def test_two_layers_equal_equation_9_of_the_paper():
    graph = undirected()
    x = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    model = gnn.get("gcn").build(3, hidden=5)
    variables = model.init(jax.random.key(0), graph.replace(nodes=x))
    first, second = (variables["params"][name] for name in ("conv_0", "conv_1"))
    rule = dense_rule(graph)
    hidden = np.maximum(rule @ x @ first["kernel"] + first["bias"], 0)
    want = rule @ hidden @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(
        model.apply(variables, graph.replace(nodes=x)), want, rtol=1e-5, atol=1e-5
    )


def test_square_root_of_degrees_is_a_fixed_point():
    """D^-1/2 (A + I) D^-1/2 has eigenvalue 1 at D^1/2 1, its largest: repetition smooths to it."""
    graph = undirected(2)
    root = np.sqrt(graph.in_degrees() + 1.0)[:, None].astype(np.float32)
    np.testing.assert_allclose(gcn_propagate(graph, jnp.asarray(root)), root, rtol=1e-5)


def test_the_rule_is_symmetric_on_undirected_graphs():
    graph = undirected(3)
    matrix = np.asarray(gcn_propagate(graph, jnp.eye(9)))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    np.testing.assert_allclose(matrix, dense_rule(graph), atol=1e-6)
