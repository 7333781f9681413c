"""Heterophilous graphs with the ten splits of Geom-GCN (Pei et al., ICLR 2020).

Edges are directed as in the files, each kept once, loops included; message passing usually wants
`transforms.to_undirected`. Features are bags of words. In Chameleon and Squirrel many test nodes
are copies of training nodes: `chameleon_filtered` and `squirrel_filtered` are without them.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import files, parse
from jgraph.data.dataset import Dataset, Split

DATASETS = {
    "texas": "183 university web pages, 5 kinds, directed links; ten Geom-GCN splits",
    "wisconsin": "251 university web pages, 5 kinds, directed links; ten Geom-GCN splits",
    "cornell": "183 university web pages, 5 kinds, directed links; ten Geom-GCN splits",
    "chameleon": "2,277 Wikipedia pages, 5 traffic classes, directed; holds duplicate nodes",
    "squirrel": "5,201 Wikipedia pages, 5 traffic classes, directed; holds duplicate nodes",
    "actor": "7,600 actors (film), 5 classes, directed co-occurrence; ten Geom-GCN splits",
}
FILES = {
    "texas": "geom-gcn-texas",
    "wisconsin": "geom-gcn-wisconsin",
    "cornell": "geom-gcn-cornell",
    "chameleon": "geom-gcn-chameleon",
    "squirrel": "geom-gcn-squirrel",
    "actor": "geom-gcn-film",
}
_ACTOR_WORDS = 932


def load(name: str, root: files.Root = None) -> Dataset:
    """Loads one of `DATASETS`.

    Raises:
      DatasetError: missing, damaged or malformed files.
    """
    folder = FILES[name].removeprefix("geom-gcn-")
    file = f"geom-gcn/new_data/{folder}/out1_node_feature_label.txt"
    features, labels = _nodes(name, file, files.read(file, dataset=name, root=root))
    file = f"geom-gcn/new_data/{folder}/out1_graph_edges.txt"
    edges = parse.table(file, np.int64, dataset=name, root=root, columns=2, header=1)
    graph = parse.simple_graph(
        edges[:, 0], edges[:, 1], parse.features(features), dataset=name, file=file
    )
    splits = []
    for number in range(10):
        file = f"geom-gcn/splits/{folder}_split_0.6_0.2_{number}.npz"
        masks = parse.archive(
            file, ("train_mask", "val_mask", "test_mask"), dataset=name, root=root
        )
        right = all(mask.shape == labels.shape for mask in masks.values())
        parse.expect(right, f"masks are not of length {labels.size}", dataset=name, file=file)
        splits.append(Split.from_masks(*masks.values()))
    return Dataset(
        name=name,
        graphs=(graph,),
        labels=labels,
        splits=tuple(splits),
        task="node",
        num_classes=int(labels.max()) + 1,
        description=DATASETS[name],
        **files.attribution(FILES[name]),
    )


def _nodes(name: str, file: str, content: bytes):
    """Features (sparse, by node number) and labels from lines "node, comma-separated, label"."""
    import scipy.sparse as sp

    lines = content.decode("utf-8").splitlines()[1:]
    labels = np.full(len(lines), -1, np.int64)
    columns: list[np.ndarray] = [np.zeros(0, np.int64)] * len(lines)
    width = _ACTOR_WORDS if name == "actor" else None
    try:
        for line in lines:
            node, listed, label = line.split("\t")
            row = np.array(listed.split(","), np.int64)
            if name == "actor":
                # Actor lists the words of a node, the others a 0 or 1 for every word.
                columns[int(node)] = row
            else:
                width = width or row.size
                if row.size != width:
                    raise ValueError(f"node {node} has {row.size} features, others {width}")
                columns[int(node)] = np.flatnonzero(row)
            labels[int(node)] = int(label)
        bounds = np.cumsum([0, *(c.size for c in columns)])
        words = np.concatenate(columns)
        features = sp.csr_matrix(
            (np.ones(words.size, np.float32), words, bounds), (len(lines), width)
        )
        features.check_format(full_check=True)
        features.sum_duplicates()
        features.data[:] = 1
    except (ValueError, IndexError) as error:
        raise parse.malformed(error, dataset=name, file=file) from error
    parse.expect(labels.min(initial=0) >= 0, "a node number is missing", dataset=name, file=file)
    return features, labels
