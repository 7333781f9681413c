"""GAT: attention averages, and its ranking of neighbours is the same for every receiver."""

import jax
import jax.numpy as jnp
import numpy as np

from jgraph import gnn
from jgraph.graph import Graph
from jgraph.nn import GATConv, gat_logits


def complete(nodes=6, features=4, seed=0):
    rng = np.random.default_rng(seed)
    senders, receivers = np.divmod(np.arange(nodes * nodes), nodes)
    x = rng.normal(size=(nodes, features)).astype(np.float32)
    return Graph.from_edges(senders, receivers, nodes=x)


def test_attention_is_an_average():
    """Equal values at all neighbours come out unchanged, whatever the logits."""
    graph = complete()
    layer = GATConv(3, heads=2, use_bias=False)
    variables = layer.init(jax.random.key(0), graph, graph.nodes)
    same = jnp.broadcast_to(jnp.asarray(graph.nodes[:1]), graph.nodes.shape)
    out = layer.apply(variables, graph, same)
    np.testing.assert_allclose(out, same @ variables["params"]["linear"]["kernel"], rtol=1e-5)


def test_every_receiver_ranks_the_senders_alike():
    graph = complete(seed=3)
    rng = np.random.default_rng(1)
    h = jnp.asarray(rng.normal(size=(6, 1, 4)), jnp.float32)
    vectors = jnp.asarray(rng.normal(size=(2, 1, 4)), jnp.float32)
    logits, _ = gat_logits(graph, h, vectors[0], vectors[1])
    by_receiver = np.asarray(logits[:, 0]).reshape(6, 6)
    orders = np.argsort(by_receiver, axis=1)
    assert (orders == orders[0]).all()


def test_fused_attention_equals_the_general_form():
    """One head without dropout takes a fused path; with attention dropout it cannot."""
    graph = complete(seed=4)
    model = gnn.get("gat").build(3, hidden=4, heads=1, dropout=0.0)
    variables = model.init(jax.random.key(0), graph)
    plain = model.apply(variables, graph)
    tiny = gnn.get("gat").build(3, hidden=4, heads=1, dropout=0.0, attn_dropout=1e-7)
    out = tiny.apply(variables, graph, train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_allclose(out, plain, rtol=1e-4, atol=1e-5)
