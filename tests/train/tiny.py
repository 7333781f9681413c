"""A tiny model and tiny data sets for the training tests."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jgraph.data.dataset import Dataset, Split
from jgraph.graph import Graph


def centred(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -0.5, 0.5)


class MaskedNorm(nn.Module):
    """Batch norm over the rows masked in, on all devices when `axis_name` is set."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x, mask, train):
        weight = mask[:, None].astype(x.dtype)
        sums = [jnp.sum(weight), jnp.sum(weight * x, 0), jnp.sum(weight * x * x, 0)]
        if self.axis_name is not None:
            sums = jax.lax.psum(sums, self.axis_name)
        count = jnp.maximum(sums[0], 1)
        mean, var = sums[1] / count, sums[2] / count - (sums[1] / count) ** 2
        stored = self.variable("batch_stats", "mean", jnp.zeros, x.shape[1:])
        spread = self.variable("batch_stats", "var", jnp.ones, x.shape[1:])
        if not train:
            mean, var = stored.value, spread.value
        elif not self.is_initializing():
            stored.value = 0.9 * stored.value + 0.1 * mean
            spread.value = 0.9 * spread.value + 0.1 * var
        scale = self.param("scale", nn.initializers.ones, x.shape[1:])
        return (x - mean) / jnp.sqrt(jnp.abs(var) + 1e-3) * scale


class TinyModel(nn.Module):
    """Two dense layers around one sum over neighbours; batch norm and dropout if asked."""

    num_classes: int
    task: str = "node"
    hidden: int = 8
    dropout: float = 0.0
    norm: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, graph, *, train=False):
        # Uniform initial values compile faster than normal ones.
        dense = partial(nn.Dense, kernel_init=centred)
        x = dense(self.hidden, name="lower")(graph.nodes)
        x = x + jax.ops.segment_sum(x[graph.senders], graph.receivers, x.shape[0])
        if self.norm:
            x = MaskedNorm(self.axis_name, name="norm")(x, graph.node_mask(), train)
        x = nn.relu(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.task == "graph":
            ids, count = graph.node_graph_ids(), graph.num_graphs
            x = jax.ops.segment_sum(x, ids, count) / jnp.maximum(graph.n_node, 1)[:, None]
        return dense(self.num_classes, name="upper")(x)


def random_graph(rng, nodes, features=5):
    edges = 3 * nodes
    return Graph.from_edges(
        rng.integers(0, nodes, edges),
        rng.integers(0, nodes, edges),
        nodes=rng.normal(size=(nodes, features)).astype(np.float32),
        edges=rng.normal(size=(edges, 2)).astype(np.float32),
        num_nodes=nodes,
    )


def random_splits(rng, count, splits):
    out = []
    for _ in range(splits):
        order = rng.permutation(count)
        a, b = count // 2, 3 * count // 4
        out.append(Split(order[:a], order[a:b], order[b:]))
    return tuple(out)


def make_node_data(seed=0, nodes=40, splits=2, classes=3):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, nodes)
    labels = (np.argmax(graph.nodes[:, :classes], 1)).astype(np.int32)
    return Dataset(
        name="tiny-nodes",
        graphs=(graph,),
        labels=labels,
        splits=random_splits(rng, nodes, splits),
        task="node",
        num_classes=classes,
    )


def make_graph_data(seed=0, count=37, splits=2, metric="accuracy"):
    rng = np.random.default_rng(seed)
    graphs = tuple(random_graph(rng, int(n)) for n in rng.integers(1, 9, count))
    means = np.array([g.nodes[:, 0].mean() for g in graphs])
    regression = metric == "mae"
    return Dataset(
        name="tiny-graphs",
        graphs=graphs,
        labels=means.astype(np.float32) if regression else (means > 0).astype(np.int32),
        splits=random_splits(rng, count, splits),
        task="graph",
        num_classes=1 if regression else 2,
        metric=metric,
    )
