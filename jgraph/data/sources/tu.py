"""Graph classification sets of TUDataset (Morris et al., 2020).

Node features are one-hot node labels; where there are none (IMDB-BINARY) one-hot degrees, over the
degrees that occur, as in GIN (Xu et al., ICLR 2019). Edge labels (MUTAG) become one-hot
`graph.edges`. Parallel edges are removed (IMDB-BINARY lists each twice).

Ten stratified folds (`StratifiedKFold(10, shuffle=True, random_state=0)`): split k tests on fold k,
validates on fold k + 1 (mod 10) and trains on the other eight. Many papers train on nine folds and
report the tenth at its own best epoch; `folds_without_validation` gives those folds.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import files, parse
from jgraph.data.dataset import Dataset, Split
from jgraph.graph import Graph

DATASETS = {
    "mutag": "188 molecules, mutagenic or not; 10 stratified folds",
    "proteins": "1,113 proteins, enzyme or not; 10 stratified folds",
    "nci1": "4,110 molecules, active against lung cancer or not; 10 stratified folds",
    "imdb-binary": "1,000 actor ego networks, action or romance; 10 stratified folds",
}
FILES = {
    "mutag": "tu-MUTAG",
    "proteins": "tu-PROTEINS",
    "nci1": "tu-NCI1",
    "imdb-binary": "tu-IMDB-BINARY",
}


def load(name: str, root: files.Root = None, attributes: bool = False) -> Dataset:
    """Loads one of `DATASETS`.

    Args:
      attributes: append the real-valued node attributes (proteins only) to the features.

    Raises:
      DatasetError: missing, damaged or malformed files.
      ValueError: `attributes` for a dataset that has none.
    """
    collection = FILES[name].removeprefix("tu-")
    present = files.index()[FILES[name]]["files"]

    def file(part: str) -> str:
        return f"tu/{collection}/{collection}_{part}.txt"

    def column(part: str) -> np.ndarray:
        return parse.table(file(part), np.int64, dataset=name, root=root, columns=1)[:, 0]

    if attributes and file("node_attributes") not in present:
        raise ValueError(f"attributes=True, but {name!r} has no node attributes; leave it out")
    owner = column("graph_indicator") - 1
    graph_labels = column("graph_labels")
    ends = parse.table(file("A"), np.int64, dataset=name, root=root, delimiter=",", columns=2) - 1
    ordered = owner[0] == 0 and (np.diff(owner) >= 0).all() and (np.diff(owner) <= 1).all()
    parse.expect(
        bool(ordered) and owner[-1] + 1 == graph_labels.size,
        f"nodes are not listed graph by graph for {graph_labels.size} graphs",
        dataset=name,
        file=file("graph_indicator"),
    )
    inside = ends.min() >= 0 and ends.max() < owner.size
    parse.expect(inside and np.array_equal(*owner[ends.T]),
                 "an edge leaves its graph", dataset=name, file=file("A"))  # fmt: skip
    codes, first = np.unique(ends[:, 0] * owner.size + ends[:, 1], return_index=True)
    senders, receivers = codes // owner.size, codes % owner.size

    if file("node_labels") in present:
        values = column("node_labels")
        part = "node_labels"
    else:
        values = np.bincount(receivers, minlength=owner.size)
        part = "A"
    parse.expect(values.size == owner.size, f"{owner.size} rows expected",
                 dataset=name, file=file(part))  # fmt: skip
    nodes = parse.one_hot(values)
    if attributes:
        extra = parse.table(
            file("node_attributes"), np.float32, dataset=name, root=root, delimiter=","
        )
        parse.expect(len(extra) == owner.size, f"{owner.size} rows expected",
                     dataset=name, file=file("node_attributes"))  # fmt: skip
        nodes = np.concatenate([nodes, extra], axis=1)
    edges = None
    if file("edge_labels") in present:
        values = column("edge_labels")
        parse.expect(values.size == len(ends), f"{len(ends)} rows expected",
                     dataset=name, file=file("edge_labels"))  # fmt: skip
        edges = parse.one_hot(values)[first]

    _, labels = np.unique(graph_labels, return_inverse=True)
    node_at = np.searchsorted(owner, np.arange(labels.size + 1))
    edge_at = np.searchsorted(owner[senders], np.arange(labels.size + 1))
    graphs = []
    for low, high, begin, end in zip(
        node_at[:-1], node_at[1:], edge_at[:-1], edge_at[1:], strict=True
    ):
        graphs.append(
            Graph.from_edges(
                senders[begin:end] - low,
                receivers[begin:end] - low,
                nodes=nodes[low:high],
                edges=None if edges is None else edges[begin:end],
            )
        )
    return Dataset(
        name=name,
        graphs=tuple(graphs),
        labels=labels,
        splits=folds(labels),
        task="graph",
        num_classes=int(labels.max()) + 1,
        description=DATASETS[name],
        **files.attribution(FILES[name]),
    )


def folds(labels: np.ndarray) -> tuple[Split, ...]:
    """Ten splits: test on fold k, validate on fold k + 1 (mod 10), train on the other eight."""
    parts = [test for _, test in folds_without_validation(labels)]
    return tuple(
        Split(
            np.sort(np.concatenate([parts[j] for j in range(10) if j not in (k, (k + 1) % 10)])),
            parts[(k + 1) % 10],
            parts[k],
        )
        for k in range(10)
    )


def folds_without_validation(labels: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Ten pairs (train = nine folds, test = fold k): the protocol of Xu et al. (2019).

    With it the epoch is chosen on the test fold, so its numbers are optimistic; use it only to
    compare with papers that report them.
    """
    from sklearn.model_selection import StratifiedKFold

    labels = np.asarray(labels)
    folding = StratifiedKFold(10, shuffle=True, random_state=0)
    return tuple(
        (train.astype(np.int32), test.astype(np.int32))
        for train, test in folding.split(np.zeros(labels.size), labels)
    )
