"""Circular skip links: 150 4-regular graphs of 41 nodes in ten isomorphism classes.

Murphy et al. (ICML 2019); the five folds are those of Dwivedi et al. (JMLR 24, 2023), 90/30/30. The
loops that the file stores on every node are removed, as there; the one node feature is 1. Message
passing without positional encodings scores exactly 10%.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import files, parse, safe_pickle
from jgraph.data.dataset import Dataset, Split
from jgraph.data.generators import CSL_NODES

DATASETS = {"csl": "150 circular skip link graphs, 10 classes, no features; five folds"}
FILES = {"csl": "csl"}
_GRAPHS = "csl/graphs_Kary_Deterministic_Graphs.pkl"
_LABELS = "csl/y_Kary_Deterministic_Graphs.pt"


def load(name: str, root: files.Root = None) -> Dataset:
    """Loads CSL.

    Raises:
      DatasetError: missing, damaged or malformed files.
    """
    import scipy.sparse as sp

    content = files.read(_GRAPHS, dataset=name, root=root)
    matrices = safe_pickle.loads(content, dataset=name, file=_GRAPHS)
    right = (
        isinstance(matrices, list)
        and len(matrices) == 150
        and all(sp.issparse(m) and m.shape == (CSL_NODES, CSL_NODES) for m in matrices)
    )
    parse.expect(right, "not 150 sparse 41 x 41 matrices", dataset=name, file=_GRAPHS)
    graphs = []
    for matrix in matrices:
        links = matrix.tocoo()
        ones = np.ones((CSL_NODES, 1), np.float32)
        graphs.append(
            parse.simple_graph(links.row, links.col, ones, dataset=name, file=_GRAPHS, loops=False)
        )
    # The tensor file ends with its 150 numbers as they are; nothing in it needs unpickling.
    tail = files.read(_LABELS, dataset=name, root=root)[-8 * len(matrices) :]
    labels = np.frombuffer(tail, "<i8")
    even = np.array_equal(np.bincount(labels.clip(0, 10), minlength=10), [15] * 10)
    parse.expect(even, "not 15 labels of each class", dataset=name, file=_LABELS)
    parts = []
    for part, size in (("train", 90), ("val", 30), ("test", 30)):
        file = f"csl/CSL_{part}.index"
        rows = parse.table(file, np.int64, dataset=name, root=root, delimiter=",", columns=size)
        parse.expect(len(rows) == 5, f"{len(rows)} folds, not 5", dataset=name, file=file)
        parts.append(rows)
    return Dataset(
        name=name,
        graphs=tuple(graphs),
        labels=labels,
        splits=tuple(Split(*fold) for fold in zip(*parts, strict=True)),
        task="graph",
        num_classes=10,
        description=DATASETS[name],
        **files.attribution(FILES[name]),
    )
