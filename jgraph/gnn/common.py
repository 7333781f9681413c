"""What the models of this family share: one module, its options, and the example graph.

Node task                                   Graph task
    h_0 = x                                     h_0 = x
    h_l = act(norm(conv_l(drop(h_{l-1}))))      h_l = act(norm(conv_l(h_{l-1})))
    y   = conv_L(drop(h_{L-1}))                 y   = W drop(relu(V pool(h_L) + c)) + b

`residual` adds h_{l-1} to h_l where the widths agree. `jumping` (Xu et al., ICML 2018, arXiv
1806.03536) gives the last map all of h_1, ..., h_L, concatenated ("concat") or their maximum
("max"). For graph tasks "scores" is the readout of GIN: sum_l drop(W_l pool(h_l) + b_l), l from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jgraph.graph import Graph, batch
from jgraph.nn.dropout import Dropout, check_rate
from jgraph.nn.inputs import check_features, densify, graph_mask, node_mask
from jgraph.nn.mlp import Linear
from jgraph.nn.norm import NORMS, make_norm
from jgraph.nn.pool import POOLS, pool
from jgraph.paper import Recipe

Array = jax.Array
TASKS = ("node", "graph")
JUMPING = {"node": ("none", "concat", "max"), "graph": ("none", "concat", "max", "scores")}


Model = TypeVar("Model", bound="GNN")


class GNN(nn.Module):
    """Convolutions with norm, activation, dropout between them and a head for the task.

    A subclass says how a convolution is made (`make_conv`) and may change `activate`, `width`.

    Attributes:
      num_classes: C, columns of the result.
      task: "node" (one row per node) or "graph" (one row per graph).
      hidden: width of the hidden states (per head where there are heads).
      layers: number of convolutions L.
      dropout: rate, for node tasks on the input of every convolution, for graph tasks in the head.
      norm: "none", "batch" or "layer", after every convolution but one that gives the result.
      residual, jumping: see the module's docstring.
      pooling: "sum", "mean" or "max" over the nodes of a graph.
      dtype: of the computation; parameters, statistics and the result are float32.
      axis_name: mapped device axis over which batch norm shares its moments.
    """

    num_classes: int
    task: str = "node"
    hidden: int = 64
    layers: int = 2
    dropout: float = 0.5
    norm: str = "none"
    residual: bool = False
    jumping: str = "none"
    pooling: str = "mean"
    dtype: Any = None
    axis_name: str | None = None

    def make_conv(self, features: int, is_output: bool, is_first: bool) -> nn.Module:
        """A layer to `features` columns (heads included), called `layer(graph, x, train=...)`."""
        raise TypeError(f"{type(self).__name__} does not define make_conv")

    def activate(self, x: Array) -> Array:
        """The activation after hidden convolutions."""
        return nn.relu(x)

    @property
    def width(self) -> int:
        """Columns of a hidden state."""
        return self.hidden

    @property
    def ends_in_conv(self) -> bool:
        """Whether the last convolution gives the result, without a head."""
        return self.task == "node" and self.jumping == "none"

    @property
    def conv_bias(self) -> bool:
        """Whether hidden convolutions have a bias, which a batch norm behind them would cancel."""
        return self.norm != "batch"

    def setup(self) -> None:
        hidden = self.layers - self.ends_in_conv
        self.conv = [self.make_conv(self.width, False, i == 0) for i in range(hidden)] + (
            [self.make_conv(self.num_classes, True, hidden == 0)] if self.ends_in_conv else []
        )
        if self.norm != "none":
            self.norms: list[Any] = [
                make_norm(self.norm, axis_name=self.axis_name) for _ in range(hidden)
            ]
        self.drop = Dropout(self.dropout)
        if self.jumping == "scores":
            self.score = [Linear(self.num_classes, dtype=self.dtype) for _ in range(hidden + 1)]
        elif not self.ends_in_conv:
            if self.task == "graph":
                self.hidden_head = Linear(self.width, dtype=self.dtype)
            self.head = Linear(self.num_classes, dtype=self.dtype)

    def _drop_node(self, h: Any, train: bool) -> Any:
        return self.drop(h, train=train) if self.task == "node" else h

    def _states(self, graph: Any, train: bool) -> list[Any]:
        """h_0, ..., h_L, without the last one when that is the result."""
        check_features(graph.nodes, type(self).__name__)
        states, mask = [graph.nodes], node_mask(graph)
        for i in range(self.layers - self.ends_in_conv):
            before = states[-1]
            h = self.conv[i](graph, self._drop_node(before, train), train=train)
            h = h if self.norm == "none" else self.norms[i](h, mask=mask, train=train)
            h = self.activate(h)
            if self.residual and before.shape[-1] == h.shape[-1]:
                h = h + densify(before).astype(h.dtype)
            states.append(h)
        return states

    def _joined(self, states: list[Any]) -> Any:
        if self.jumping == "concat":
            return jnp.concatenate(states[1:], axis=-1)
        return jnp.stack(states[1:]).max(axis=0) if self.jumping == "max" else states[-1]

    def _pooled(self, graph: Any, states: list[Any]) -> list[Array]:
        return [pool(graph, densify(h), self.pooling) for h in states]

    def _graph_vector(self, graph: Any, states: list[Any]) -> Array:
        pooled = pool(graph, densify(self._joined(states)), self.pooling)
        return nn.relu(self.hidden_head(pooled))

    def __call__(self, graph: Any, *, train: bool = False) -> Array:
        """Logits, (N, C) for the node task and (G, C) for the graph task, float32.

        Args:
          graph: Graph or jraph.GraphsTuple whose `nodes` are (N, F), dense or SparseMatrix.
          train: dropout (rng "dropout") and batch moments (mutable "batch_stats").

        Raises:
          TypeError, ValueError: `graph.nodes` is not a matrix.
        """
        states = self._states(graph, train)
        if self.ends_in_conv:
            logits = self.conv[-1](graph, self._drop_node(states[-1], train), train=train)
        elif self.jumping == "scores":
            pooled = self._pooled(graph, states)
            logits = sum(
                self.drop(score(h), train=train)
                for score, h in zip(self.score, pooled, strict=True)
            )
        elif self.task == "graph":
            logits = self.head(self.drop(self._graph_vector(graph, states), train=train))
        else:
            logits = self.head(self._drop_node(self._joined(states), train))
        return logits.astype(jnp.float32)

    def embed(self, graph: Any) -> Array:
        """What the last map sees: (N, D) for the node task, (G, D) for the graph task, float32.

        With `jumping="scores"` it is the pooled vectors of all layers, side by side.
        """
        states = self._states(graph, False)
        if self.jumping == "scores":
            out = jnp.concatenate(self._pooled(graph, states), axis=-1)
        elif self.task == "graph":
            out = self._graph_vector(graph, states)
        else:
            out = densify(self._joined(states))
        mask = graph_mask(graph) if self.task == "graph" else None
        out = out.astype(jnp.float32)
        return out if mask is None else jnp.where(mask[:, None], out, 0)


def assemble(
    model: type[Model],
    recipes: Mapping[str, Recipe],
    num_classes: int,
    task: str,
    hyper: Mapping[str, Any],
) -> Model:
    """The model of a recipe with the hyperparameters in `hyper` changed, checked.

    Raises:
      ValueError: an unknown task or hyperparameter (the message lists the allowed ones), or a
        value out of range.
    """
    name = model.__name__
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; {name} is built for {' or '.join(map(repr, TASKS))}")
    internal = {"parent", "name", "num_classes", "task", "axis_name"}
    fields = set(model.__dataclass_fields__) - internal
    hyper = dict(hyper)
    if "heads" not in fields and hyper.get("heads") == 1:
        hyper.pop("heads")
    unknown = sorted(set(hyper) - fields)
    if unknown:
        raise ValueError(
            f"{name} has no hyperparameter {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(sorted(fields))}"
        )
    recipe = recipes[task]
    chosen = {key: getattr(recipe, key) for key in ("hidden", "layers", "dropout", "heads")}
    chosen |= dict(recipe.extra)
    chosen = {key: value for key, value in chosen.items() if key in fields} | hyper
    _check(num_classes, task, chosen)
    if chosen.get("dtype") is not None:
        chosen["dtype"] = jnp.dtype(chosen["dtype"])
    return model(num_classes=num_classes, task=task, **chosen)


def _check(num_classes: int, task: str, chosen: Mapping[str, Any]) -> None:
    counts = {"num_classes": num_classes} | dict(chosen)
    for key in ("num_classes", "hidden", "layers", "heads", "out_heads"):
        value = counts.get(key, 1)
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{key} is {value!r}; it must be a whole number of at least 1")
    for key in ("dropout", "attn_dropout"):
        if chosen.get(key) is not None:
            check_rate(chosen[key], key)
    choices = {"norm": NORMS, "jumping": JUMPING[task], "pooling": POOLS}
    for key, allowed in choices.items():
        if key in chosen and chosen[key] not in allowed:
            raise ValueError(
                f"{key} is {chosen[key]!r}; for task {task!r} choose one of {', '.join(allowed)}"
            )


def example_graph(key: Array) -> Graph:
    """A batch of three random undirected graphs of 4 to 6 nodes with features (N, 5) float32.

    The last node of the second graph has no edges. One input serves both tasks.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).reshape(-1).tolist())
    graphs = []
    for number, nodes in enumerate((6, 5, 4)):
        joined = nodes - (number == 1)
        ring = np.arange(joined)
        graph = Graph.from_edges(
            np.concatenate([ring, rng.integers(0, joined, 2)]),
            np.concatenate([(ring + 1) % joined, rng.integers(0, joined, 2)]),
            nodes=rng.standard_normal((nodes, 5)).astype(np.float32),
        )
        graphs.append(graph.to_undirected().remove_self_loops())
    return batch(graphs)
