"""Heterogeneous graphs: typed nodes, and one sorted adjacency per (source, relation, target)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jgraph.graph.adjacency import Adjacency, sorted_adjacency
from jgraph.graph.errors import GraphError
from jgraph.graph.graph import Graph, check_features

EdgeType = tuple[str, str, str]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Relation:
    """The edges of one type: a (bipartite) adjacency and optional (E, ...) features."""

    adjacency: Adjacency
    edges: Any = None


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, repr=False)
class HeteroGraph:
    """Node features by node type and relations by (source type, relation, target type).

    Every op takes `graph.relations[edge_type].adjacency`. `nodes[type]` is a pytree of (N_type,
    ...) arrays, or None where only the count is known.
    """

    nodes: Mapping[str, Any]
    relations: Mapping[EdgeType, Relation]
    sizes: Mapping[str, int]

    @classmethod
    def from_edges(
        cls,
        edges: Mapping[EdgeType, tuple[Any, Any]],
        *,
        nodes: Mapping[str, Any] | None = None,
        num_nodes: Mapping[str, int] | None = None,
        edge_features: Mapping[EdgeType, Any] | None = None,
    ) -> HeteroGraph:
        """From `{(source, relation, target): (senders, receivers)}`.

        Args:
          nodes: features by node type; their rows give the counts.
          num_nodes: counts of the types without features.
          edge_features: (E, ...) features by edge type, in the order of the edges given.

        Raises:
          GraphError: an unknown node type, indices out of range, rows that do not match.
        """
        nodes, features = dict(nodes or {}), dict(edge_features or {})
        sizes = dict(num_nodes or {})
        for name, tree in nodes.items():
            leaves = jax.tree.leaves(tree)
            if leaves:
                sizes[name] = int(np.shape(leaves[0])[0])
        for name, tree in nodes.items():
            check_features(f"nodes[{name!r}]", tree, sizes.get(name, 0), f"{name} nodes")
        unknown = set(features) - set(edges)
        if unknown:
            raise GraphError(f"edge_features names {sorted(unknown)}, which edges lacks")
        relations = {}
        for key, (senders, receivers) in edges.items():
            source, _, target = key
            for name in (source, target):
                if name not in sizes:
                    raise GraphError(
                        f"edge type {key} needs node type {name!r}; "
                        f"give nodes[{name!r}] or num_nodes[{name!r}] (known: {sorted(sizes)})"
                    )
            adjacency, order = sorted_adjacency(
                senders, receivers, num_receivers=sizes[target], num_senders=sizes[source]
            )
            rows = features.get(key)
            check_features(f"edge_features[{key}]", rows, adjacency.num_edges, "edges")
            rows = jax.tree.map(lambda x, order=order: np.asarray(x)[order], rows)
            relations[key] = Relation(adjacency, rows)
        return cls({name: nodes.get(name) for name in sizes}, relations, sizes)

    def to_homogeneous(self) -> tuple[Graph, np.ndarray, np.ndarray]:
        """One graph of all nodes (types in sorted order), without features.

        Returns:
          (graph, node_type (N,) int32, edge_type (E,) int32); edge types are numbered in sorted
          order and stand in `graph.edges` too.
        """
        names = sorted(self.sizes)
        starts = dict(zip(names, np.cumsum([0] + [self.sizes[n] for n in names])))
        senders, receivers, kinds = [], [], []
        for i, key in enumerate(sorted(self.relations)):
            adjacency = self.relations[key].adjacency
            senders.append(np.asarray(adjacency.senders) + starts[key[0]])
            receivers.append(np.asarray(adjacency.receivers) + starts[key[2]])
            kinds.append(np.full(adjacency.num_edges, i, np.int32))
        graph = Graph.from_edges(
            np.concatenate(senders),
            np.concatenate(receivers),
            edges=np.concatenate(kinds),
            num_nodes=sum(self.sizes.values()),
        )
        node_type = np.repeat(np.arange(len(names)), [self.sizes[n] for n in names])
        return graph, node_type.astype(np.int32), np.asarray(graph.edges)

    def tree_flatten_with_keys(self):
        node_names, edge_names = tuple(sorted(self.nodes)), tuple(sorted(self.relations))
        children = [(jax.tree_util.DictKey(name), self.nodes[name]) for name in node_names] + [
            (jax.tree_util.DictKey(name), self.relations[name]) for name in edge_names
        ]
        return children, (node_names, edge_names, tuple(sorted(self.sizes.items())))

    @classmethod
    def tree_unflatten(cls, aux, children):
        node_names, edge_names, sizes = aux
        nodes = dict(zip(node_names, children[: len(node_names)]))
        relations = dict(zip(edge_names, children[len(node_names) :]))
        return cls(nodes, relations, dict(sizes))

    def __repr__(self) -> str:
        nodes = ", ".join(f"{name} {count}" for name, count in sorted(self.sizes.items()))
        edges = ", ".join(
            f"{a} -{r}-> {b} {self.relations[a, r, b].adjacency.num_edges}"
            for a, r, b in sorted(self.relations)
        )
        return f"HeteroGraph(nodes: {nodes}; edges: {edges})"
