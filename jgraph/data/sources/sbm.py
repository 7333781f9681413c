"""Small generated benchmarks (`jgraph.data.generators`); always the same, no download.

`pattern-small` and `cluster-small` are one batch of 60 disconnected graphs (40 for training, 10 for
validation, 10 for testing): the splits are the nodes of those graphs. For batches of graphs, or
larger sets, call `make_pattern` and `make_cluster`. About one node in six of PATTERN is positive,
hence ROC AUC.
`csl-generated` has the recipe of CSL and five folds like it: 9, 3 and 3 graphs of each class.
"""

from __future__ import annotations

import numpy as np

from jgraph.data.dataset import Dataset, Split
from jgraph.data.files import Root
from jgraph.data.generators import make_cluster, make_csl, make_pattern
from jgraph.graph import batch

DATASETS = {
    "pattern-small": "60 block-model graphs, find the planted pattern; generated",
    "cluster-small": "60 block-model graphs, tell 6 blocks from one seed node each; generated",
    "csl-generated": "150 circular skip link graphs, 10 classes; generated, five folds",
}
_ORIGIN = {
    "licence": "generated, no restrictions",
    "citation": "Dwivedi et al. Benchmarking Graph Neural Networks. JMLR 24, 2023.",
    "source": "https://arxiv.org/abs/2003.00982",
}


def load(name: str, root: Root = None, seed: int = 0) -> Dataset:
    """Generates one of `DATASETS`.

    Args:
      seed: another seed gives other graphs.
    """
    if name == "csl-generated":
        graphs, labels = make_csl(seed)
        # Graph 15 c + i is copy i of class c: fold i // 3 takes three copies of each class.
        fold = np.arange(labels.size) % 15 // 3
        splits = tuple(
            Split.from_masks((fold != k) & (fold != (k + 1) % 5), fold == (k + 1) % 5, fold == k)
            for k in range(5)
        )
        return Dataset(
            name, graphs, labels, splits, "graph", 10, description=DATASETS[name], **_ORIGIN
        )
    pattern = name == "pattern-small"
    if pattern:
        sets = make_pattern(seed, 40, 10, 10, num_patterns=10)
    else:
        sets = make_cluster(seed, 40, 10, 10)
    part = np.concatenate(
        [np.full(y.size, number) for number, one in enumerate(sets) for y in one.labels]
    )
    return Dataset(
        name=name,
        graphs=(batch([graph for one in sets for graph in one.graphs]),),
        labels=np.concatenate([y for one in sets for y in one.labels]),
        splits=(Split.from_masks(part == 0, part == 1, part == 2),),
        task="node",
        num_classes=2 if pattern else 6,
        metric="roc_auc" if pattern else "accuracy",
        description=DATASETS[name],
        **_ORIGIN,
    )
