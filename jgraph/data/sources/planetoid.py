"""Citation networks in the Planetoid format (Yang, Cohen, Salakhutdinov, ICML 2016).

Nodes are papers, edges citations (symmetric, no loops), features bags of words (0/1 for Cora and
CiteSeer, tf-idf for PubMed) as they are in the file, not normalised: use
`transforms.normalize_features`. The public split: 20 labelled nodes of each class, 500 validation
and 1,000 test nodes. CiteSeer has 15 nodes whose features and labels are absent from the files
(they do have edges); as in other loaders they stay, with zero features and label 0, and belong to
no part of the split.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import files, parse, safe_pickle
from jgraph.data.dataset import Dataset, Split

DATASETS = {
    "cora": "2,708 machine learning papers, 7 topics, bag of words; Planetoid split",
    "citeseer": "3,327 computer science papers, 6 topics, bag of words; Planetoid split",
    "pubmed": "19,717 diabetes papers, 3 classes, tf-idf; Planetoid split",
}
FILES = {
    "cora": "planetoid-cora",
    "citeseer": "planetoid-citeseer",
    "pubmed": "planetoid-pubmed",
}


def load(name: str, root: files.Root = None) -> Dataset:
    """Loads one of `DATASETS`; features are a `SparseMatrix`.

    Raises:
      DatasetError: missing, damaged or malformed files.
    """
    import scipy.sparse as sp

    def content(part: str):
        file = f"planetoid/ind.{name}.{part}"
        return safe_pickle.loads(files.read(file, dataset=name, root=root), dataset=name, file=file)

    matrices = {part: content(part) for part in ("allx", "tx", "ally", "ty", "y")}
    for part, matrix in matrices.items():
        kind = np.ndarray if part.endswith("y") else sp.csr_matrix
        _expect(isinstance(matrix, kind), f"is no {kind.__name__}", name, part)
        _expect(matrix.ndim == 2, "is not a matrix", name, part)
    known, num_train = matrices["allx"].shape[0], matrices["y"].shape[0]
    index_file = f"planetoid/ind.{name}.test.index"
    test = parse.table(index_file, np.int64, dataset=name, root=root, columns=1)[:, 0]
    _expect(matrices["ally"].shape[0] == known, f"{known} rows expected", name, "ally")
    for part in ("tx", "ty"):
        _expect(matrices[part].shape[0] == test.size, f"{test.size} rows expected", name, part)
    _expect(test.min() >= known and np.unique(test).size == test.size,
            "not distinct nodes after those of allx", name, "test.index")  # fmt: skip

    # Test rows come in the order of test.index; the nodes it skips have no row at all.
    num_nodes = int(test.max()) + 1
    place = sp.csr_matrix(
        (np.ones(test.size), (test - known, np.arange(test.size))), (num_nodes - known, test.size)
    )
    features = sp.vstack([sp.csr_matrix(matrices["allx"]), place @ sp.csr_matrix(matrices["tx"])])
    one_hot = np.concatenate([matrices["ally"], place @ matrices["ty"]])

    links = content("graph")
    _expect(isinstance(links, dict), "is no dictionary of neighbours", name, "graph")
    try:
        senders = np.repeat(np.array(list(links), np.int64), [len(ends) for ends in links.values()])
        receivers = np.array([end for ends in links.values() for end in ends], np.int64)
    except (TypeError, ValueError) as error:
        file = f"planetoid/ind.{name}.graph"
        raise parse.malformed(error, dataset=name, file=file) from error
    graph = parse.simple_graph(
        senders,
        receivers,
        parse.features(features),
        dataset=name,
        file=f"planetoid/ind.{name}.graph",
        undirected=True,
        loops=False,
    )
    split = Split(np.arange(num_train), np.arange(num_train, num_train + 500), np.sort(test))
    return Dataset(
        name=name,
        graphs=(graph,),
        labels=one_hot.argmax(axis=1),
        splits=(split,),
        task="node",
        num_classes=one_hot.shape[1],
        description=DATASETS[name],
        **files.attribution(FILES[name]),
    )


def _expect(holds: bool, cause: str, name: str, part: str) -> None:
    parse.expect(holds, cause, dataset=name, file=f"planetoid/ind.{name}.{part}")
