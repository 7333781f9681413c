"""GIN: sums tell multisets apart that means cannot, and no more than Weisfeiler-Leman does."""

import jax
import jax.numpy as jnp
import numpy as np

from jgraph import gnn
from jgraph.data.generators import make_csl
from jgraph.graph import Graph, batch
from jgraph.nn import GINConv, gin_sum


def stars(*leaves):
    """Stars whose leaves all have feature 1: equal means, different sums."""
    graphs = [
        Graph.from_edges(
            np.arange(1, k + 1), np.zeros(k, int), nodes=np.ones((k + 1, 2), np.float32)
        )
        for k in leaves
    ]
    return batch(graphs)


def test_sum_is_injective_where_the_mean_is_not():
    graph = stars(2, 3)
    centres = np.cumsum([0, 3])
    hidden = {}
    for name in ("gin", "graphsage"):
        options = {"norm": "none"} if name == "gin" else {}
        model = gnn.get(name).build(4, hidden=8, layers=2, dropout=0.0, **options)
        variables = model.init(jax.random.key(1), graph)
        out = np.asarray(model.apply(variables, graph))[centres]
        hidden[name] = np.abs(out[0] - out[1]).max()
    assert hidden["gin"] > 1e-3 and hidden["graphsage"] < 1e-6


def test_regular_graphs_look_alike():
    """All circular skip link graphs are 4-regular: without positions their scores are equal."""
    graphs, _ = make_csl(seed=0)
    chosen = [g.replace(nodes=np.ones((g.num_nodes, 2), np.float32)) for g in graphs[::40]]
    model = gnn.get("gin").build(10, task="graph", hidden=8, layers=2)
    whole = batch(chosen)
    variables = model.init(jax.random.key(0), whole)
    out = np.asarray(model.apply(variables, whole))
    np.testing.assert_allclose(out, np.broadcast_to(out[0], out.shape), rtol=1e-4, atol=1e-4)


def test_layer_by_hand():
    graph = stars(3)
    x = jnp.arange(8.0).reshape(4, 2)
    want = 1.5 * x + jnp.zeros_like(x).at[0].set(x[1:].sum(0))
    np.testing.assert_allclose(gin_sum(graph, x, 0.5), want)
    layer = GINConv((5, 3), norm="none")
    variables = layer.init(jax.random.key(0), graph, x)
    p = variables["params"]
    total = gin_sum(graph, x, 0.0)
    last = next(iter(p["mlp"].values()))
    hidden = jax.nn.relu(total @ p["kernel"] + p["bias"])
    np.testing.assert_allclose(
        layer.apply(variables, graph, x), hidden @ last["kernel"] + last["bias"], rtol=1e-4
    )
