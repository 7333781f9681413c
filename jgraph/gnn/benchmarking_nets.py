"""The networks of "Benchmarking Graph Neural Networks": nine kinds behind one module.

`jgraph.gnn.benchmarking_gnns` says what they compute and holds their configurations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph import ops
from jgraph.nn.dense import dense_layout, dense_tensor, node_rows
from jgraph.nn.dropout import Dropout
from jgraph.nn.gat import GATConv
from jgraph.nn.gated_gcn import GatedGCNLayer
from jgraph.nn.gcn import GCNConv
from jgraph.nn.gin import GINConv
from jgraph.nn.inputs import cast, check_features, compute_dtype, densify, graph_mask, node_mask
from jgraph.nn.mlp import Linear
from jgraph.nn.monet import MoNetConv
from jgraph.nn.norm import make_norm
from jgraph.nn.pool import pool
from jgraph.nn.positional import random_sign
from jgraph.nn.ppgn import PPGNBlock, diagonal_and_rest
from jgraph.nn.ring import RingLayer
from jgraph.nn.sage import SAGEConv

Array = jax.Array
SPARSE_KINDS = ("mlp", "gcn", "gcn-symmetric", "graphsage", "gat", "monet", "gatedgcn", "gin")
DENSE_KINDS = ("ringgnn", "3wlgnn")
KINDS = SPARSE_KINDS + DENSE_KINDS


class BenchmarkNet(nn.Module):
    """One of the benchmark's networks.

    `graph.nodes` is (N, F), one-hot node types or features; or a dict with "features" (N, F), "pe"
    (N, k) positional encodings, or both. `graph.edges` (E, F_e) is read if `edge_features`.

    Attributes:
      num_classes: columns of the result.
      kind: one of `KINDS`.
      task: "graph" (G rows), "node" (N rows) or "edge" (E rows, not for dense kinds).
      hidden: width of the states (per head for "gat").
      layers: number of layers.
      heads: of "gat"; its last layer has one head of full width.
      dropout: after every layer.
      norm: "batch", "layer" or "none".
      pooling: over the nodes of a graph; "gin" as published sums.
      edge_features: "gatedgcn", "ringgnn" and "3wlgnn" read `graph.edges`.
      flip_signs: in training each column of the encodings changes sign at random, per batch.
      gated: "mlp" multiplies its states by a sigmoid gate.
      residual: of sparse kinds; the dense kinds have one in their versions of eight layers.
      max_nodes: for dense kinds, the most nodes in one graph; None takes the whole batch's, which
        is right but large. The result is NaN when a graph has more.
      average_nodes: of a graph of the data set, for "ringgnn".
      dtype: of the computation; parameters, statistics and the result are float32.
      axis_name: mapped device axis over which batch norm shares its moments.
    """

    num_classes: int
    kind: str = "gatedgcn"
    task: str = "graph"
    hidden: int = 70
    layers: int = 4
    heads: int = 8
    dropout: float = 0.0
    norm: str = "batch"
    pooling: str = "mean"
    edge_features: bool = False
    flip_signs: bool = True
    gated: bool = False
    residual: bool | None = None
    max_nodes: int | None = None
    average_nodes: float = 20.0
    dtype: Any = None
    axis_name: str | None = None

    def __call__(self, graph: Any, *, train: bool = False) -> Array:
        """Scores, (N, C), (G, C) or (E, C) by `task`, float32.

        Raises:
          TypeError, ValueError: no matrix of features where the net needs one.
        """
        return self._run(graph, train)[0]

    def embed(self, graph: Any) -> Array:
        """What the last linear map sees, (rows, D) float32; side by side where there are several.

        For the graph task padding graphs have rows of 0.
        """
        out = self._run(graph, False)[1].astype(jnp.float32)
        mask = graph_mask(graph) if self.task == "graph" else None
        return out if mask is None else jnp.where(mask[:, None], out, 0)

    @nn.compact
    def _run(self, graph: Any, train: bool) -> tuple[Array, Array]:
        features, pe = self._inputs(graph, train)
        if self.kind in DENSE_KINDS:
            return self._dense(graph, features, pe)
        dtype = self._dtype(features, pe)
        width = self.hidden * (self.heads if self.kind == "gat" else 1)
        h: Any = 0
        if features is not None:
            h = Linear(width, use_bias=False, dtype=dtype, name="embed_nodes")(features)
        if pe is not None:
            h = h + Linear(width, dtype=dtype, name="embed_positions")(pe)
        edges = self._edge_states(graph, dtype) if self.kind == "gatedgcn" else None
        mask, states = node_mask(graph), [h]
        for i in range(self.layers):
            h, edges = self._layer(i, graph, h, edges, mask, train)
            h = Dropout(self.dropout)(h, train=train)
            states.append(h)
        if self.kind == "mlp" and self.gated:
            h = nn.sigmoid(Linear(width, dtype=dtype, name="gate")(h)) * h
        if self.kind == "gin":
            return self._scores([self._rows(graph, state, "sum") for state in states])
        return self._readout(self._rows(graph, h, self.pooling))

    def _inputs(self, graph: Any, train: bool) -> tuple[Any, Any]:
        nodes = graph.nodes
        named = nodes if isinstance(nodes, Mapping) else {"features": nodes}
        features, pe = named.get("features"), named.get("pe")
        if pe is None:
            check_features(features, f"BenchmarkNet ({self.kind})")
            return features, None
        check_features(pe, f"BenchmarkNet ({self.kind}), positional encodings")
        if train and self.flip_signs and not self.is_initializing():
            pe = random_sign(pe, self.make_rng("dropout"))
        return features, pe

    def _dtype(self, features: Any, pe: Any) -> Any:
        return compute_dtype(pe if features is None else features, self.dtype)

    def _edges_of(self, graph: Any) -> Array:
        if graph.edges is None:
            raise ValueError(
                "graph.edges is None, but edge_features=True; give edge features of shape (E, F_e)"
            )
        check_features(graph.edges, f"BenchmarkNet ({self.kind}), edges")
        return graph.edges

    def _edge_states(self, graph: Any, dtype: Any) -> Array:
        """(E, hidden), or (1, hidden) when all edges begin alike."""
        if self.edge_features:
            layer = Linear(self.hidden, use_bias=False, dtype=dtype, name="embed_edges")
            return layer(self._edges_of(graph))
        return Linear(self.hidden, dtype=dtype, name="embed_edges")(jnp.ones((1, 1), dtype))

    def _normed(self, h: Array, mask: Array | None, train: bool, name: str) -> Array:
        norm = make_norm(self.norm, axis_name=self.axis_name, name=name)
        return h if norm is None else norm(h, mask=mask, train=train)

    def _layer(
        self, i: int, graph: Any, h: Array, edges: Any, mask: Array | None, train: bool
    ) -> tuple[Array, Any]:
        """h' and e' of layer i."""
        width, dtype, name = h.shape[-1], h.dtype, f"layer_{i}"
        # A bias in front of a batch norm would be cancelled.
        bias = self.norm != "batch"
        if self.kind == "mlp":
            return nn.relu(Linear(width, dtype=dtype, name=name)(h)), None
        if self.kind == "gatedgcn":
            layer = GatedGCNLayer(
                width,
                norm=self.norm,
                residual=self.residual is not False,
                update_edges=i < self.layers - 1,
                dtype=dtype,
                axis_name=self.axis_name,
                name=name,
            )
            return layer(graph, h, edges, train=train)
        if self.kind == "gcn":
            mean = ops.spmm(graph, h, reduce="mean")
            new = Linear(width, use_bias=bias, dtype=dtype, name=name)(mean)
            return self._close(h, nn.relu(self._normed(new, mask, train, f"norm_{i}"))), None
        conv: Any
        options: dict[str, Any]
        if self.kind == "gcn-symmetric":
            conv = GCNConv(width, use_bias=bias, self_loops=False, dtype=dtype, name=name)
        elif self.kind == "graphsage":
            conv = SAGEConv(width, aggregator="max", normalize=True, dtype=dtype, name=name)
        elif self.kind == "gat":
            heads = self.heads if i < self.layers - 1 else 1
            options = {"self_loops": False, "use_bias": False, "dtype": dtype, "name": name}
            conv = GATConv(width // heads, heads, **options)
        elif self.kind == "monet":
            conv = MoNetConv(width, dtype=dtype, name=name)
        else:
            options = {"norm": self.norm, "use_bias": bias, "axis_name": self.axis_name}
            conv = GINConv((width, width), **options, dtype=dtype, name=name)
        new = conv(graph, h, train=train)
        if self.kind == "graphsage":
            new = self._normed(nn.relu(new), mask, train, f"norm_{i}")
        else:
            activation = nn.elu if self.kind == "gat" else nn.relu
            new = activation(self._normed(new, mask, train, f"norm_{i}"))
        new = self._close(h, new)
        if self.kind == "monet":
            added = self.param(f"bias_{i}", nn.initializers.zeros, (width,), jnp.float32)
            new = new + added.astype(dtype)
        return new, None

    def _close(self, h: Array, new: Array) -> Array:
        return h + new if self.residual is not False else new

    def _rows(self, graph: Any, h: Array, pooling: str) -> Array:
        """The vectors that are scored: one per graph, node or edge."""
        if self.task == "graph":
            return pool(graph, h, pooling)
        if self.task == "node":
            return h
        return jnp.concatenate(
            [ops.gather_receivers(graph, h), ops.gather_senders(graph, h)], axis=-1
        )

    def _readout(self, x: Array) -> tuple[Array, Array]:
        """MLP d -> d // 2 -> d // 4 -> C; (scores, what the last map sees)."""
        width = x.shape[-1]
        for i in (1, 2):
            x = nn.relu(Linear(width // 2**i, dtype=x.dtype, name=f"readout_{i}")(x))
        return self._score(x, "head"), x

    def _scores(self, states: list[Array]) -> tuple[Array, Array]:
        """Sum of one linear map per state."""
        each = [self._score(x, f"score_{i}") for i, x in enumerate(states)]
        return functools.reduce(jnp.add, each), jnp.concatenate(states, axis=-1)

    def _score(self, x: Array, name: str) -> Array:
        return Linear(self.num_classes, dtype=x.dtype, name=name)(x).astype(jnp.float32)

    def _dense(self, graph: Any, features: Any, pe: Any) -> tuple[Array, Array]:
        if self.task == "edge":
            raise ValueError(f"task is 'edge'; {self.kind} is built for 'graph' or 'node'")
        dtype = self._dtype(features, pe)
        given = [densify(x) for x in (features, pe) if x is not None]
        nodes = cast(jnp.concatenate(given, axis=-1), dtype)
        edges = self._edges_of(graph) if self.edge_features else None
        size = self.max_nodes or nodes.shape[0]
        layout = dense_layout(graph, nodes.shape[0], size)
        x, residual = dense_tensor(graph, layout, nodes, edges), bool(self.residual)
        states = [x]
        for i in range(self.layers):
            options = {"residual": residual, "dtype": dtype, "name": f"layer_{i}"}
            layer: Any
            if self.kind == "ringgnn":
                layer = RingLayer(self.hidden, average_nodes=self.average_nodes, **options)
            else:
                layer = PPGNBlock(self.hidden, **options)
            states.append(layer(states[-1], layout.mask))
        if self.kind == "3wlgnn":
            if self.task == "graph":
                rows = [diagonal_and_rest(x, layout.mask) for x in states[1:]]
            else:
                rows = [node_rows(layout, x.sum(2)) for x in states[1:]]
            scores, seen = self._scores(rows)
        else:
            if self.task == "graph":
                rows = [x.sum((2, 3)) for x in states]
            else:
                rows = [node_rows(layout, x.sum(2)) for x in states]
            scores, seen = self._readout(jnp.concatenate(rows, axis=-1))
        return jnp.where(layout.fits, scores, jnp.nan), seen
