"""Conversions keep edges and features, both ways."""

from types import SimpleNamespace

import jax
import jraph
import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp

from jgraph.graph import Graph, GraphError, batch


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def test_jraph_round_trip(random_graph):
    g = batch([random_graph(0, edge_features=2), random_graph(1, edge_features=2)])
    tuple_ = g.to_jraph()
    assert isinstance(tuple_, jraph.GraphsTuple)
    assert same(Graph.from_jraph(tuple_), g)


def test_jraph_padding_masks_agree(random_graph):
    tuple_ = jraph.pad_with_graphs(random_graph(0).to_jraph(), 20, 60, 4)
    g = Graph.from_jraph(tuple_, padded=True)
    np.testing.assert_array_equal(g.node_mask(), jraph.get_node_padding_mask(tuple_))
    np.testing.assert_array_equal(g.edge_mask(), jraph.get_edge_padding_mask(tuple_))
    np.testing.assert_array_equal(g.graph_mask(), jraph.get_graph_padding_mask(tuple_))


def test_networkx_round_trip():
    source = nx.karate_club_graph()
    g = Graph.from_networkx(source, edge_features="weight")
    assert (g.num_nodes, g.num_edges) == (34, 156)
    back = nx.DiGraph(g.to_networkx()).to_undirected()
    assert set(map(frozenset, back.edges)) == set(map(frozenset, source.edges))
    weights = {(int(s), int(r)): w for s, r, w in zip(g.senders, g.receivers, g.edges)}
    assert all(weights[a, b] == weights[b, a] == d["weight"] for a, b, d in source.edges(data=True))
    with pytest.raises(GraphError, match="colour"):
        Graph.from_networkx(source, node_features="colour")


def test_scipy_round_trip(random_graph):
    matrix = random_graph(2).coalesce().to_scipy()
    g = Graph.from_scipy(matrix)
    assert (g.to_scipy() != matrix).nnz == 0
    weighted = sp.csr_matrix(np.array([[0, 2.0], [0, 0]]))
    g = Graph.from_scipy(weighted)
    assert (g.senders.tolist(), g.receivers.tolist(), g.edges.tolist()) == ([1], [0], [2.0])
    with pytest.raises(GraphError, match="square"):
        Graph.from_scipy(sp.csr_matrix(np.ones((2, 3))))


class FakeTensor:
    def __init__(self, array):
        self.array = np.asarray(array)

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


def test_pyg_data_by_duck_typing():
    data = SimpleNamespace(
        edge_index=FakeTensor([[0, 2], [1, 0]]),
        x=FakeTensor(np.eye(3, dtype=np.float32)),
        edge_attr=FakeTensor([[5.0], [6.0]]),
        num_nodes=3,
    )
    g = Graph.from_pyg(data)
    assert g.senders.tolist() == [2, 0] and g.receivers.tolist() == [0, 1]
    assert g.edges.tolist() == [[6.0], [5.0]]
    with pytest.raises(GraphError, match="edge_index"):
        Graph.from_pyg(SimpleNamespace(edge_index=None))
