"""Batching, padding and buckets."""

import jax
import jraph
import numpy as np
import pytest

from jgraph.graph import Buckets, Graph, GraphError, SparseMatrix, batch, pad, unbatch


def graphs_of(random_graph, count=4):
    return [
        random_graph(i, num_nodes=6 + i, num_edges=10 + 3 * i, edge_features=2)
        for i in range(count)
    ]


def test_batch_equals_jraph_batch(random_graph):
    graphs = graphs_of(random_graph)
    ours = batch(graphs)
    theirs = Graph.from_jraph(jraph.batch_np([g.to_jraph() for g in graphs]))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    ours.validate()


def test_unbatch_inverts_batch_and_pad(random_graph):
    graphs = graphs_of(random_graph)
    for whole in (batch(graphs), pad(batch(graphs), 60, 99, 7)):
        for a, b in zip(unbatch(whole), graphs, strict=True):
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
                np.testing.assert_array_equal(x, y)


def test_pad_masks_and_separation(random_graph):
    graphs = graphs_of(random_graph)
    whole = batch(graphs)
    padded = pad(whole, whole.num_nodes + 5, whole.num_edges + 9, whole.num_graphs + 3)
    padded.validate()
    assert padded.node_mask().tolist() == [True] * whole.num_nodes + [False] * 5
    assert padded.edge_mask().tolist() == [True] * whole.num_edges + [False] * 9
    assert padded.graph_mask().tolist() == [True] * 4 + [False] * 3
    assert (padded.senders[-9:] >= whole.num_nodes).all()
    assert (padded.receivers[-9:] >= whole.num_nodes).all()
    ids = np.asarray(padded.node_graph_ids())
    assert (np.bincount(ids, minlength=7) == padded.n_node).all()
    assert whole.graph_mask().all() and whole.node_mask().all() and whole.edge_mask().all()


def test_sparse_nodes_batch():
    sparse = [SparseMatrix.from_dense(np.eye(3, 4, dtype=np.float32) * k) for k in (1, 2)]
    whole = batch([Graph.from_edges([0], [1], nodes=s) for s in sparse])
    want = np.concatenate([s.to_scipy().toarray() for s in sparse])
    np.testing.assert_array_equal(whole.nodes.to_scipy().toarray(), want)
    np.testing.assert_array_equal(
        unbatch(whole)[1].nodes.to_scipy().toarray(), sparse[1].to_scipy().toarray()
    )


def test_errors_name_the_argument(random_graph):
    g = random_graph(0)
    with pytest.raises(GraphError, match="graphs is empty"):
        batch([])
    with pytest.raises(GraphError, match="nodes"):
        batch([g, g.replace(nodes=None)])
    with pytest.raises(GraphError, match=r"num_nodes is 12.*at least 13"):
        pad(g, 12, 40, 2)
    with pytest.raises(GraphError, match="padded already"):
        pad(pad(g, 13, 40, 2), 20, 50, 4)


def test_buckets_are_few_cover_all_and_report_waste():
    rng = np.random.default_rng(0)
    sizes = [(int(n), int(3 * n), 32) for n in rng.integers(100, 5000, 300)]
    buckets = Buckets.fit(sizes)
    assert 1 <= len(buckets.shapes) <= 8
    assert 0 < buckets.waste(sizes) < 0.4
    one = Buckets.fit(sizes, max_buckets=1)
    assert len(one.shapes) == 1 and one.waste(sizes) > buckets.waste(sizes)


def test_padding_to_a_bucket_does_not_retrace(random_graph):
    graphs = [random_graph(i, num_nodes=8 + i, num_edges=20 + 2 * i) for i in range(6)]
    sizes = [(g.num_nodes, g.num_edges, 1) for g in graphs]
    buckets = Buckets.fit(sizes, max_buckets=2)
    traces = []

    @jax.jit
    def count(graph):
        traces.append(1)
        return graph.node_mask().sum()

    assert [int(count(buckets.pad(g))) for g in graphs] == [g.num_nodes for g in graphs]
    assert len(traces) == len(buckets.shapes) <= 2
    with pytest.raises(GraphError, match="no bucket"):
        buckets.choose(random_graph(0, num_nodes=500, num_edges=10))
