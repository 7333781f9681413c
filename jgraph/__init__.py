"""jgraph: graph learning, in-context tabular learning and sequence models as pure JAX functions.

Submodules load on first use, so that `import jgraph` is quick and starts no backend.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_SUBMODULES = ("data", "gnn", "graph", "nn", "ops", "papers", "train")
_NAMES = {
    "Graph": "jgraph.graph",
    "HeteroGraph": "jgraph.graph",
    "SparseMatrix": "jgraph.graph",
    "GraphError": "jgraph.graph",
}

if TYPE_CHECKING:
    from jgraph import data, gnn, graph, nn, ops, papers, train
    from jgraph.graph import Graph, GraphError, HeteroGraph, SparseMatrix

__all__ = [
    "Graph",
    "GraphError",
    "HeteroGraph",
    "SparseMatrix",
    "__version__",
    "data",
    "gnn",
    "graph",
    "nn",
    "ops",
    "papers",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"jgraph.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'jgraph' has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return __all__
