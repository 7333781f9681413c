"""Padded batches of a graph task, built on the host by index arithmetic.

All graphs stand in one concatenated store. An epoch is a table of graph numbers (steps, devices,
width), -1 for empty places; `GraphStore.build` turns any such table into one stack of equally
padded graphs with a handful of gathers: since every graph's edges are sorted already, the index
of a batch is the graphs' own indices with offsets added, and nothing is sorted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jgraph.graph import Graph, Index, SparseMatrix, batch

_NODE_MULTIPLE, _EDGE_MULTIPLE = 32, 64
_PILOTS, _ACCEPTED, _MOST_ATTEMPTS = 64, 0.1, 200


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batches:
    """Stacked padded graphs with labels (..., G) and mask (..., G), False for padding."""

    graph: Graph
    labels: Any
    mask: Any


def _ranges(counts: np.ndarray, *starts: np.ndarray) -> list[np.ndarray]:
    """For each array of starts: the concatenation of start[i] .. start[i] + counts[i] - 1."""
    counts = counts.ravel()
    total = int(counts.sum())
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return [np.repeat(start.ravel(), counts) + within for start in starts]


def arrange(order: np.ndarray, batch_size: int, devices: int, steps: int) -> np.ndarray:
    """Graph numbers (steps, devices, width) in the order given, -1 for empty places.

    The graphs of each batch are dealt to the devices in turn, so that these get equal numbers; the
    last batch may be partial, and batches after it are empty.
    """
    width = -(-batch_size // devices)
    table = np.full((steps, devices * width), -1, np.int64)
    full = np.full(steps * batch_size, -1, np.int64)
    full[: order.size] = order
    table[:, :batch_size] = full.reshape(steps, batch_size)
    return table.reshape(steps, width, devices).swapaxes(1, 2)


def epoch_order(indices: np.ndarray, seed: int, epoch: int, attempt: int = 0) -> np.ndarray:
    """`indices` shuffled by a generator that depends on (seed, epoch, attempt) alone."""
    return np.random.default_rng([seed, epoch, attempt]).permutation(indices)


class GraphStore:
    """The graphs of a data set, concatenated, and labels.

    Raises:
      ValueError: node features that are a `SparseMatrix`.
    """

    def __init__(self, graphs: Sequence[Graph], labels: np.ndarray):
        if any(isinstance(graph.nodes, SparseMatrix) for graph in graphs):
            raise ValueError(
                "graphs hold SparseMatrix features, which batches of graphs cannot pad; "
                "replace nodes by nodes.to_scipy().toarray()"
            )
        whole = batch(graphs)
        # The extra 0 at the end is the size of graph number -1, an empty place.
        self.n_node = np.append(whole.n_node, 0).astype(np.int64)
        self.n_edge = np.append(whole.n_edge, 0).astype(np.int64)
        self.node_at = np.cumsum(self.n_node) - self.n_node
        self.edge_at = np.cumsum(self.n_edge) - self.n_edge
        node_shift = np.repeat(self.node_at, self.n_edge).astype(np.int32)
        self.senders = whole.senders - node_shift
        self.receivers = whole.receivers - node_shift
        self.col_receivers = whole.index.col_receivers - node_shift
        self.col_order = whole.index.col_order - np.repeat(self.edge_at, self.n_edge)
        self.in_degrees, self.out_degrees = whole.in_degrees(), whole.out_degrees()
        self.nodes, self.edges, self.globals = whole.nodes, whole.edges, whole.globals
        self.labels = np.asarray(labels)

    def sizes(self, table: np.ndarray) -> tuple[int, int]:
        """Most real nodes and edges in one row of `table` (..., width)."""
        return int(self.n_node[table].sum(-1).max()), int(self.n_edge[table].sum(-1).max())

    def build(self, table: np.ndarray, num_nodes: int, num_edges: int) -> Batches:
        """One padded graph of `num_nodes`, `num_edges` and width + 1 graphs per row of `table`.

        Args:
          table: (..., width) graph numbers, -1 (at the end of a row) for empty places.

        Returns:
          `Batches` with leading axes table.shape[:-1], as `jgraph.graph.pad(batch(...))` makes
          them one by one.

        Raises:
          ValueError: a row that does not fit.
        """
        lead, width = table.shape[:-1], table.shape[-1]
        flat = table.reshape(-1, width)
        count = flat.shape[0]
        n_node, n_edge = self.n_node[flat], self.n_edge[flat]
        nodes_used, edges_used = n_node.sum(1), n_edge.sum(1)
        spare_nodes, spare_edges = num_nodes - nodes_used, num_edges - edges_used
        if spare_nodes.min() < 1 or spare_edges.min() < 0:
            raise ValueError(
                f"num_nodes={num_nodes}, num_edges={num_edges} do not fit batches of up to "
                f"{nodes_used.max()} nodes (and one for padding) and {edges_used.max()} edges"
            )
        row = np.arange(count)
        node_shift = (np.cumsum(n_node, 1) - n_node).astype(np.int32)
        edge_shift = (np.cumsum(n_edge, 1) - n_edge).astype(np.int32)
        node_from, node_to = _ranges(
            n_node, self.node_at[flat], node_shift + num_nodes * row[:, None]
        )
        edge_from, edge_to = _ranges(
            n_edge, self.edge_at[flat], edge_shift + num_edges * row[:, None]
        )
        spare_row = np.repeat(row, spare_nodes)
        pad_node, pad_node_to = _ranges(spare_nodes, nodes_used, nodes_used + num_nodes * row)
        pad_edge, pad_edge_to = _ranges(spare_edges, edges_used, edges_used + num_edges * row)
        # Loops spread over the padding nodes as evenly as `pad` spreads them.
        share, rest = np.divmod(spare_edges, spare_nodes)
        loops = share[spare_row] + (pad_node - nodes_used[spare_row] < rest[spare_row])

        def by_edge(local: np.ndarray, shift: np.ndarray, padding: np.ndarray) -> np.ndarray:
            out = np.empty(count * num_edges, np.int32)
            out[edge_to] = local[edge_from] + np.repeat(shift.ravel(), n_edge.ravel())
            out[pad_edge_to] = padding
            return out.reshape(*lead, num_edges)

        def offsets(degrees: np.ndarray) -> np.ndarray:
            out = np.zeros(count * num_nodes, np.int32)
            out[node_to] = degrees[node_from]
            out[pad_node_to] = loops
            ends = np.cumsum(out.reshape(count, num_nodes), axis=1, dtype=np.int32)
            return np.concatenate([np.zeros((count, 1), np.int32), ends], 1).reshape(*lead, -1)

        def by_graph(sizes: np.ndarray, spare: np.ndarray) -> np.ndarray:
            out = np.zeros((count, width + 1), np.int32)
            out[:, :width] = sizes
            out[row, (flat >= 0).sum(1)] = spare
            return out.reshape(*lead, width + 1)

        def rows(tree: Any, size: int, source: np.ndarray, target: np.ndarray) -> Any:
            def fill(leaf: Any) -> np.ndarray:
                leaf = np.asarray(leaf)
                out = np.zeros((count * size, *leaf.shape[1:]), leaf.dtype)
                out[target] = leaf[source]
                return out.reshape(*lead, size, *leaf.shape[1:])

            return jax.tree.map(fill, tree)

        loop_nodes = np.repeat(pad_node, loops)
        mask = np.concatenate([flat >= 0, np.zeros((count, 1), bool)], 1)
        place = np.flatnonzero(mask)
        graph = Graph(
            nodes=rows(self.nodes, num_nodes, node_from, node_to),
            edges=rows(self.edges, num_edges, edge_from, edge_to),
            senders=by_edge(self.senders, node_shift, loop_nodes),
            receivers=by_edge(self.receivers, node_shift, loop_nodes),
            globals=rows(self.globals, width + 1, flat[flat >= 0], place),
            n_node=by_graph(n_node, spare_nodes),
            n_edge=by_graph(n_edge, spare_edges),
            index=Index(
                row_offsets=offsets(self.in_degrees),
                col_order=by_edge(self.col_order, edge_shift, pad_edge),
                col_offsets=offsets(self.out_degrees),
                col_receivers=by_edge(self.col_receivers, node_shift, loop_nodes),
            ),
            padded=True,
        )
        labels = rows(self.labels, width + 1, flat[flat >= 0], place)
        return Batches(graph, labels, mask.reshape(*lead, width + 1))


def _round(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class Loader:
    """Batches (runs, steps, devices, ...) of R index sets, one shape for all epochs.

    Shuffles depend on the run's own seed and indices only, so the largest batch of the whole
    training is known before it starts: all epochs share one padded shape, and nothing is dropped.
    Since that shape pays for the worst batch ever drawn, a shuffle whose largest batch is not
    among the smallest tenth is drawn again: orders are uniform among those without freak
    batches (PROTEINS, 32 graphs per batch: 40 % fewer nodes and edges per step).

    Args:
      indices: one array of graph numbers per run.
      seeds: one per run.
      epochs: how many epochs will be drawn; 0 means evaluation: one pass in the order given.
    """

    def __init__(
        self,
        store: GraphStore,
        indices: Sequence[np.ndarray],
        seeds: Sequence[int],
        *,
        batch_size: int,
        devices: int = 1,
        epochs: int = 0,
    ):
        self.store, self.indices, self.seeds = store, list(indices), list(seeds)
        self.batch_size, self.devices, self.epochs = batch_size, devices, epochs
        self.steps = max(1, max(-(-len(rows) // batch_size) for rows in self.indices))
        self._attempts = [self._accept(*run) for run in zip(self.indices, self.seeds)]
        sizes = [store.sizes(self.table(epoch)) for epoch in range(max(epochs, 1))]
        nodes, edges = np.max(sizes, axis=0)
        self.num_nodes = _round(int(nodes) + 1, _NODE_MULTIPLE)
        self.num_edges = _round(max(int(edges), 1), _EDGE_MULTIPLE)

    def _accept(self, indices: np.ndarray, seed: int) -> list[int]:
        """The attempt whose shuffle is taken, for each epoch of one run."""
        cost = self.store.n_node + self.store.n_edge

        def largest(epoch: int, attempt: int) -> int:
            # Over whole batches, so that the order is the same on any number of devices.
            order = epoch_order(indices, seed, epoch, attempt)
            return int(np.add.reduceat(cost[order], range(0, order.size, self.batch_size)).max())

        if not self.epochs or len(indices) <= self.batch_size:
            return [0] * self.epochs
        first = [largest(0, attempt) for attempt in range(_PILOTS)]
        limit = np.quantile(first, _ACCEPTED)
        accepted = []
        for epoch in range(self.epochs):
            tried: list[int] = []
            while len(tried) < _MOST_ATTEMPTS and (not tried or tried[-1] > limit):
                tried.append(largest(epoch, len(tried)))
            accepted.append(int(np.argmin(tried)))
        return accepted

    def table(self, epoch: int) -> np.ndarray:
        """Graph numbers (runs, steps, devices, width) of an epoch."""
        orders = self.indices
        if self.epochs:
            orders = [
                epoch_order(indices, seed, epoch, attempts[epoch])
                for indices, seed, attempts in zip(self.indices, self.seeds, self._attempts)
            ]
        return np.stack(
            [arrange(order, self.batch_size, self.devices, self.steps) for order in orders]
        )

    def epoch(self, epoch: int = 0) -> Batches:
        """The batches of an epoch, on the host."""
        return self.store.build(self.table(epoch), self.num_nodes, self.num_edges)
