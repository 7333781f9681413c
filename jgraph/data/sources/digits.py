"""Nearest-neighbour graph of the handwritten digits that ship with scikit-learn; no download.

1,797 images of 8 x 8 pixels, features grey values / 16. An edge joins an image with each of its 10
nearest neighbours (Euclidean; either direction suffices). Ten labels of each digit for training, so
that the graph matters, 300 validation and 1,397 test nodes, by `numpy.random.default_rng(0)`.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import parse
from jgraph.data.dataset import Dataset, Split
from jgraph.data.files import Root
from jgraph.graph import Graph

DATASETS = {"digits": "1,797 handwritten digits joined to their nearest neighbours; no download"}


def load(name: str, root: Root = None, neighbours: int = 10) -> Dataset:
    """Loads the digits from scikit-learn.

    Args:
      neighbours: k of the graph, 1 to 1,796.

    Raises:
      ValueError: `neighbours` out of range.
    """
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    images, labels = load_digits(return_X_y=True)
    if not 1 <= neighbours < labels.size:
        raise ValueError(f"neighbours is {neighbours}; it must be in [1, {labels.size - 1}]")
    nodes = (images / 16).astype(np.float32)
    links = kneighbors_graph(nodes.astype(np.float64), neighbours).tocoo()
    ends = parse.distinct_edges(links.row, links.col, labels.size, undirected=True)
    rng = np.random.default_rng(0)
    train = np.concatenate(
        [rng.choice(np.flatnonzero(labels == digit), 10, replace=False) for digit in range(10)]
    )
    rest = rng.permutation(np.setdiff1d(np.arange(labels.size), train))
    return Dataset(
        name=name,
        graphs=(Graph.from_edges(*ends, nodes=nodes),),
        labels=labels,
        splits=(Split(np.sort(train), np.sort(rest[:300]), np.sort(rest[300:])),),
        task="node",
        num_classes=10,
        licence="CC BY 4.0 (UCI)",
        citation="Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine "
        "Learning Repository, 1998.",
        source="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        description=DATASETS[name],
    )
