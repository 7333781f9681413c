"""Amazon co-purchase graphs (Shchur et al., "Pitfalls of GNN Evaluation", 2018).

Nodes are products, edges "bought together" (made symmetric, no loops), features bags of words of
the reviews. There is no standard split: split i is a random 60/20/20 division of all nodes by
`numpy.random.default_rng(i)`, i = 0..9.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import files, parse
from jgraph.data.dataset import Dataset
from jgraph.data.transforms import random_split

DATASETS = {
    "amazon_photo": "7,650 cameras and accessories, 8 categories; ten random 60/20/20 splits",
    "amazon_computers": "13,752 computer goods, 10 categories; ten random 60/20/20 splits",
}
FILES = {
    "amazon_photo": "gnn-benchmark-amazon_electronics_photo",
    "amazon_computers": "gnn-benchmark-amazon_electronics_computers",
}
# Nodes, directed edges after symmetrising, features, classes: a download has no usable sha256.
_EXPECTED = {
    "amazon_photo": (7650, 238162, 745, 8),
    "amazon_computers": (13752, 491722, 767, 10),
}
_PARTS = ("data", "indices", "indptr", "shape")


def load(name: str, root: files.Root = None) -> Dataset:
    """Loads one of `DATASETS`.

    Raises:
      DatasetError: missing, damaged or malformed files.
    """
    file = f"gnn-benchmark/{FILES[name].removeprefix('gnn-benchmark-')}.npz"
    keys = [f"{matrix}_{part}" for matrix in ("adj", "attr") for part in _PARTS]
    arrays = parse.archive(file, [*keys, "labels"], dataset=name, root=root)
    adjacency, features = (_matrix(name, file, arrays, key) for key in ("adj", "attr"))
    labels = arrays["labels"]
    links = adjacency.tocoo()
    graph = parse.simple_graph(
        links.row,
        links.col,
        parse.features(features),
        dataset=name,
        file=file,
        undirected=True,
        loops=False,
    )
    found = (labels.size, graph.num_edges, features.shape[1], int(labels.max()) + 1)
    parse.expect(
        found == _EXPECTED[name],
        f"nodes, edges, features, classes are {found}, expected {_EXPECTED[name]}",
        dataset=name,
        file=file,
    )
    return Dataset(
        name=name,
        graphs=(graph,),
        labels=labels,
        splits=tuple(random_split(labels.size, seed=seed) for seed in range(10)),
        task="node",
        num_classes=int(np.max(labels)) + 1,
        description=DATASETS[name],
        **files.attribution(FILES[name]),
    )


def _matrix(name, file, arrays, key):
    import scipy.sparse as sp

    data, indices, offsets, shape = (arrays[f"{key}_{part}"] for part in _PARTS)
    try:
        matrix = sp.csr_matrix((data, indices, offsets), shape=tuple(shape))
        matrix.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise parse.malformed(f"{key}: {error}", dataset=name, file=file) from error
    return matrix
