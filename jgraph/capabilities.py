"""What each message-passing layer can take, found by calling it on a small graph.

Nothing here is declared by hand: a layer that learns a new trick shows it in `jgraph list
--capabilities` at the next call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jgraph import nn
from jgraph.graph import Graph, SparseMatrix, pad, sorted_adjacency
from jgraph.ops.dispatch import kernels_used

WIDTH = 4


@dataclass(frozen=True)
class Capabilities:
    """What one layer takes.

    Attributes:
      layer: its name in `jgraph.nn`.
      edge_weights, edge_features: whether its call has such an argument.
      bipartite: senders and receivers of different sets, as in one relation of a `HeteroGraph`.
      sparse: node features as a `SparseMatrix`.
      padded: padding nodes and edges change nothing for the others.
      jraph: a plain `jraph.GraphsTuple` gives the same result.
      bfloat16: computes in it, and returns it.
      kernels: the Pallas kernels that can serve it.
    """

    layer: str
    edge_weights: bool
    edge_features: bool
    bipartite: bool
    sparse: bool
    padded: bool
    jraph: bool
    bfloat16: bool
    kernels: tuple[str, ...]


def layers() -> dict[str, type]:
    """The layers of `jgraph.nn` that are called with a graph, by name."""
    found = {}
    for name in nn.__all__:
        item = getattr(nn, name)
        if inspect.isclass(item) and issubclass(item, linen.Module):
            arguments = list(inspect.signature(item.__call__).parameters)
            if arguments[1:3] == ["graph", "x"]:
                found[name] = item
    return found


def _build(layer: type, **options: Any) -> Any:
    """The layer with a small width for every field that must be given."""
    fields = inspect.signature(layer).parameters.values()
    needed = [f for f in fields if f.default is inspect.Parameter.empty]
    widths = {f.name: (WIDTH,) if "Sequence" in str(f.annotation) else WIDTH for f in needed}
    return layer(**widths, **options)


def _graph() -> Graph:
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(6, WIDTH)).astype(np.float32)
    edges = rng.normal(size=(10, WIDTH)).astype(np.float32)
    return Graph.from_edges(*rng.integers(0, 6, (2, 10)), nodes=nodes, edges=edges, num_nodes=6)


def _takes(layer: type, name: str) -> bool:
    return name in inspect.signature(layer.__call__).parameters


def _apply(layer: type, graph: Any, x: Any, edges: Any, **options: Any) -> Any:
    """Node outputs of the layer with the parameters that key 0 gives."""
    module = _build(layer, **options)
    given = (edges,) if _takes(layer, "edges") else ()
    variables = module.init(jax.random.key(0), graph, x, *given)
    out = module.apply(variables, graph, x, *given)
    return out[0] if isinstance(out, tuple) else out


def _works(call: Callable[[], bool]) -> bool:
    try:
        return call()
    except (ValueError, TypeError, AttributeError, LookupError):
        return False


def capabilities(name: str) -> Capabilities:
    """What the layer of this name can take.

    Raises:
      KeyError: `jgraph.nn` has no such layer.
    """
    layer, graph = layers()[name], _graph()
    x, edges = jnp.asarray(graph.nodes), jnp.asarray(graph.edges)
    with kernels_used() as used:
        plain = _apply(layer, graph, x, edges)

        def slope(x: Any) -> Any:
            return jnp.sum(jnp.sin(_apply(layer, graph, x, edges)))

        jax.make_jaxpr(jax.grad(slope))(x)

    def bipartite() -> bool:
        ends = np.arange(5), np.arange(5) % 3
        adjacency, _ = sorted_adjacency(*ends, num_receivers=3, num_senders=6)
        options = {"self_loops": False} if hasattr(layer, "self_loops") else {}
        return _apply(layer, adjacency, x, edges[:5], **options).shape[0] == 3

    def sparse() -> bool:
        import scipy.sparse

        matrix = SparseMatrix.from_scipy(scipy.sparse.csr_matrix(np.asarray(x)))
        return bool(jnp.allclose(_apply(layer, graph, matrix, edges), plain, atol=1e-4))

    def padded() -> bool:
        wide = pad(graph, 16, 32, 2)
        out = _apply(layer, wide, jnp.asarray(wide.nodes), jnp.asarray(wide.edges))
        return bool(jnp.allclose(out[:6], plain, atol=1e-5))

    def from_jraph() -> bool:
        return bool(jnp.allclose(_apply(layer, graph.to_jraph(), x, edges), plain, atol=1e-5))

    def half() -> bool:
        out = _apply(layer, graph, x, edges, dtype=jnp.bfloat16)
        return out.dtype == jnp.bfloat16 and bool(jnp.all(jnp.isfinite(out)))

    return Capabilities(
        layer=name,
        edge_weights=_takes(layer, "edge_weight"),
        edge_features=_takes(layer, "edges"),
        bipartite=_works(bipartite),
        sparse=_works(sparse),
        padded=_works(padded),
        jraph=_works(from_jraph),
        bfloat16=_works(half),
        kernels=tuple(sorted(used)),
    )


def table() -> list[Capabilities]:
    """One row per layer, by name."""
    return [capabilities(name) for name in sorted(layers())]
