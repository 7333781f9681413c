"""Graph: construction, order, validation, structure changes."""

import jax
import numpy as np
import pytest

from jgraph.graph import Graph, GraphError, HeteroGraph, SparseMatrix, sorted_adjacency


def edge_set(graph):
    return sorted(zip(np.asarray(graph.senders).tolist(), np.asarray(graph.receivers).tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_index_describes_the_edges(random_graph, seed):
    g = random_graph(seed, edge_features=2)
    g.validate()
    assert (np.diff(g.receivers) >= 0).all()
    for i in range(g.num_nodes):
        rows = slice(g.index.row_offsets[i], g.index.row_offsets[i + 1])
        assert (g.receivers[rows] == i).all()
        columns = g.index.col_order[g.index.col_offsets[i] : g.index.col_offsets[i + 1]]
        assert (g.senders[columns] == i).all()
        assert columns.size == (g.senders == i).sum()
    assert (g.index.col_receivers == g.receivers[g.index.col_order]).all()
    assert all(leaf.dtype == np.int32 for leaf in jax.tree.leaves(g.index))


def test_edge_features_follow_their_edges():
    senders, receivers = np.array([2, 0, 1, 0]), np.array([1, 2, 0, 1])
    g = Graph.from_edges(senders, receivers, edges=10 * senders + receivers, num_nodes=3)
    np.testing.assert_array_equal(g.edges, 10 * g.senders + g.receivers)


def test_order_does_not_depend_on_the_order_given(random_graph):
    g = random_graph(1)
    p = np.random.default_rng(0).permutation(g.num_edges)
    h = Graph.from_edges(g.senders[p], g.receivers[p], nodes=g.nodes)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(h)))


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"senders": [0, -1], "receivers": [1, 1]}, GraphError, ["senders", "-1", "from 0"]),
        (
            {"senders": [0, 1], "receivers": [1, 3], "num_nodes": 3},
            GraphError,
            ["receivers", "3", "num_nodes"],
        ),
        ({"senders": [0.0, 1.0], "receivers": [1, 0]}, TypeError, ["senders", "float64", "int32"]),
        ({"senders": [0, 1], "receivers": [1]}, GraphError, ["equal length", "2", "1"]),
        ({"senders": [[0, 1]], "receivers": [[1, 0]]}, GraphError, ["senders", "(1, 2)"]),
        (
            {"senders": [0], "receivers": [1], "nodes": np.zeros((3, 2)), "num_nodes": 2},
            GraphError,
            ["nodes", "(3, 2)", "2"],
        ),
        (
            {"senders": [0], "receivers": [1], "nodes": np.array([[1.0], [np.nan]])},
            GraphError,
            ["nodes", "NaN", "row 1"],
        ),
        (
            {"senders": [0], "receivers": [1], "edges": np.zeros((2, 1))},
            GraphError,
            ["edges", "(2, 1)", "1"],
        ),
        ({"senders": [], "receivers": []}, GraphError, ["num_nodes", "0", "at least one"]),
        (
            {"senders": [], "receivers": [], "nodes": np.zeros((0, 4))},
            GraphError,
            ["num_nodes", "0"],
        ),
    ],
)
def test_bad_input_names_argument_value_and_fix(kwargs, error, words):
    with pytest.raises(error) as caught:
        Graph.from_edges(**kwargs)
    for word in words:
        assert word in str(caught.value)


def test_no_edges_and_isolated_nodes_are_fine():
    g = Graph.from_edges([], [], num_nodes=3)
    assert (g.num_nodes, g.num_edges) == (3, 0)
    g.validate()
    assert g.in_degrees().tolist() == [0, 0, 0]


def test_validate_finds_a_foreign_index(random_graph):
    g, other = random_graph(0), random_graph(1)
    with pytest.raises(GraphError, match="index does not match"):
        g.replace(index=other.index).validate()


def test_self_loops(random_graph):
    g = random_graph(0, edge_features=1)
    looped = g.add_self_loops(fill=7.0)
    ends = edge_set(looped)
    assert all((i, i) in ends for i in range(g.num_nodes))
    assert len(ends) == g.num_edges + g.num_nodes - len({s for s, r in edge_set(g) if s == r})
    assert edge_set(looped.add_self_loops()) == ends
    assert edge_set(looped.remove_self_loops()) == [e for e in edge_set(g) if e[0] != e[1]]


def test_to_undirected_is_symmetric_simple_and_complete(random_graph):
    g = random_graph(2)
    ends = edge_set(g.to_undirected())
    assert len(ends) == len(set(ends))
    assert set(ends) == {e for s, r in edge_set(g) for e in ((s, r), (r, s))}


@pytest.mark.parametrize(("reduce", "want"), [("first", 1), ("sum", 6), ("mean", 2), ("max", 3)])
def test_coalesce_merges_features(reduce, want):
    g = Graph.from_edges([0, 0, 0, 1], [1, 1, 1, 0], edges=np.array([1.0, 2.0, 3.0, 9.0]))
    merged = g.coalesce(reduce)
    assert edge_set(merged) == [(0, 1), (1, 0)]
    assert dict(zip(edge_set(merged), merged.edges[np.argsort(merged.senders)])) == {
        (0, 1): want,
        (1, 0): 9.0,
    }


def test_coalesce_rejects_an_unknown_reduction():
    with pytest.raises(GraphError, match="median"):
        Graph.from_edges([0], [1], edges=np.ones(1)).coalesce("median")


def test_subgraph_is_induced_and_keeps_features(random_graph):
    g = random_graph(3, edge_features=1)
    ids = np.array([7, 2, 5, 0])
    sub = g.subgraph(ids)
    np.testing.assert_array_equal(sub.nodes, np.asarray(g.nodes)[ids])
    back = {(int(ids[s]), int(ids[r])) for s, r in edge_set(sub)}
    assert back == {(s, r) for s, r in edge_set(g) if s in ids and r in ids}
    with pytest.raises(GraphError, match="once"):
        g.subgraph([1, 1])


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_k_hop_equals_powers_of_the_adjacency(random_graph, k):
    g = random_graph(4, num_nodes=15, num_edges=20)
    reach = np.eye(15, dtype=bool)
    dense = g.to_scipy().toarray() > 0
    for _ in range(k):
        reach = reach | (reach @ dense)
    sub, ids = g.k_hop([3, 8], k)
    assert ids[:2].tolist() == [3, 8]
    assert set(ids.tolist()) == set(np.flatnonzero(reach[3] | reach[8]).tolist())
    assert sub.num_nodes == ids.size


def test_printed_form_tells_sizes():
    g = Graph.from_edges([0, 1], [1, 0], nodes={"x": np.zeros((2, 3), np.float32)})
    assert "2 nodes, 2 edges" in repr(g) and "float32[2, 3]" in repr(g)
    assert "Graph" in str(jax.eval_shape(lambda g: g, g))


def test_pytree_round_trip_and_device_put(random_graph):
    g = random_graph(5)
    leaves, tree = jax.tree.flatten(g)
    again = jax.tree.unflatten(tree, leaves)
    assert again.padded == g.padded
    assert repr(jax.device_put(g)) == repr(g)


def test_sparse_matrix_round_trip():
    dense = np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 0], [0, 3, 4]], np.float32)
    m = SparseMatrix.from_dense(dense)
    assert m.shape == (4, 3)
    np.testing.assert_array_equal(m.to_scipy().toarray(), dense)
    g = Graph.from_edges([0, 1], [1, 2], nodes=m)
    assert g.num_nodes == 4
    np.testing.assert_array_equal(g.subgraph([3, 0]).nodes.to_scipy().toarray(), dense[[3, 0]])


def test_bipartite_adjacency_transposes():
    adjacency, _ = sorted_adjacency([0, 4, 2, 4], [1, 0, 1, 1], num_receivers=2, num_senders=5)
    assert adjacency.shape == (2, 5)
    flipped = adjacency.transpose()
    assert flipped.shape == (5, 2)
    assert edge_set(flipped) == sorted((r, s) for s, r in edge_set(adjacency))
    twice = flipped.transpose()
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(adjacency)):
        np.testing.assert_array_equal(a, b)


def test_hetero_graph():
    edges = {
        ("author", "writes", "paper"): ([0, 1, 1], [2, 0, 1]),
        ("paper", "cites", "paper"): ([0], [2]),
    }
    g = HeteroGraph.from_edges(edges, nodes={"paper": np.ones((3, 4))}, num_nodes={"author": 2})
    assert repr(g) == (
        "HeteroGraph(nodes: author 2, paper 3; edges: author -writes-> paper 3, "
        "paper -cites-> paper 1)"
    )
    whole, node_type, edge_type = g.to_homogeneous()
    assert whole.num_nodes == 5 and whole.num_edges == 4
    assert node_type.tolist() == [0, 0, 1, 1, 1]
    kinds = {(int(s), int(r)): int(k) for s, r, k in zip(whole.senders, whole.receivers, edge_type)}
    assert kinds == {(0, 4): 0, (1, 2): 0, (1, 3): 0, (2, 4): 1}
    again = jax.tree.map(lambda x: x, g)
    assert again.sizes == g.sizes
    with pytest.raises(GraphError, match="author"):
        HeteroGraph.from_edges(edges, nodes={"paper": np.ones((3, 4))})
    with pytest.raises(GraphError, match="holds 3"):
        HeteroGraph.from_edges(
            {("paper", "cites", "paper"): ([3], [0])}, nodes={"paper": np.ones((3, 4))}
        )
