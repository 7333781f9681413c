"""Heterophilous graphs of Platonov et al. (ICLR 2023), each with ten splits.

Undirected: every edge of the file in both directions. Minesweeper and Tolokers are scored by
ROC AUC, as in the paper; the filtered Wikipedia graphs, whose duplicate nodes are removed, by
accuracy.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import files, parse
from jgraph.data.dataset import Dataset, Split

DATASETS = {
    "minesweeper": "10,000 cells of a 100 x 100 board, find the mines; ten splits, ROC AUC",
    "tolokers": "11,758 crowd workers, who was banned; ten splits, ROC AUC",
    "chameleon_filtered": "890 Wikipedia pages, 5 traffic classes, no duplicates; ten splits",
    "squirrel_filtered": "2,223 Wikipedia pages, 5 traffic classes, no duplicates; ten splits",
}
FILES = {
    "minesweeper": "heterophilous-minesweeper",
    "tolokers": "heterophilous-tolokers",
    "chameleon_filtered": "heterophilous-chameleon_filtered",
    "squirrel_filtered": "heterophilous-squirrel_filtered",
}
_MASKS = ("train_masks", "val_masks", "test_masks")


def load(name: str, root: files.Root = None) -> Dataset:
    """Loads one of `DATASETS`.

    Raises:
      DatasetError: missing, damaged or malformed files.
    """
    file = f"heterophilous/{name}.npz"
    arrays = parse.archive(
        file, ("node_features", "node_labels", "edges", *_MASKS), dataset=name, root=root
    )
    labels, edges = arrays["node_labels"], arrays["edges"]
    right = (
        arrays["node_features"].shape[:1] == labels.shape
        and edges.ndim == 2
        and edges.shape[1] == 2
        and all(arrays[key].shape == (10, labels.size) for key in _MASKS)
    )
    shapes = {key: array.shape for key, array in arrays.items()}
    parse.expect(right, f"shapes {shapes} do not fit together", dataset=name, file=file)
    graph = parse.simple_graph(
        edges[:, 0],
        edges[:, 1],
        parse.features(arrays["node_features"]),
        dataset=name,
        file=file,
        undirected=True,
    )
    num_classes = int(np.max(labels)) + 1
    return Dataset(
        name=name,
        graphs=(graph,),
        labels=labels,
        splits=tuple(Split.from_masks(*(arrays[key][i] for key in _MASKS)) for i in range(10)),
        task="node",
        num_classes=num_classes,
        metric="roc_auc" if num_classes == 2 else "accuracy",
        description=DATASETS[name],
        **files.attribution(FILES[name]),
    )
