"""Graphs as pytrees: structure, sorted index, batching, conversions."""

from jgraph.graph.adjacency import Adjacency, Index, sorted_adjacency
from jgraph.graph.batching import Buckets, batch, pad, unbatch
from jgraph.graph.errors import GraphError
from jgraph.graph.graph import Graph
from jgraph.graph.hetero import HeteroGraph, Relation
from jgraph.graph.sparse import SparseMatrix

__all__ = [
    "Adjacency",
    "Buckets",
    "Graph",
    "GraphError",
    "HeteroGraph",
    "Index",
    "Relation",
    "SparseMatrix",
    "batch",
    "pad",
    "sorted_adjacency",
    "unbatch",
]
