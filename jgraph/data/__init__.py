"""Datasets: `load(name)` finds, checks and reads; one file per source in `jgraph/data/sources`."""

from jgraph.data.catalogue import Check, info, load, names, verify
from jgraph.data.dataset import Dataset, Split, statistics
from jgraph.data.errors import DatasetError

__all__ = [
    "Check",
    "Dataset",
    "DatasetError",
    "Split",
    "info",
    "load",
    "names",
    "statistics",
    "verify",
]
