"""Air traffic graphs of struc2vec (Ribeiro, Saverese, Figueiredo, KDD 2017).

Nodes are airports, edges commercial flights between two (undirected), labels the quartile of
activity; structure alone predicts it. Features are two columns: 1 and the degree (scale it with
`transforms.standardise`). Split i is a random 60/20/20 division by `numpy.random.default_rng(i)`,
i = 0..9. Nodes are numbered by ascending airport number of the file.
"""

from __future__ import annotations

import numpy as np

from jgraph.data import files, parse
from jgraph.data.dataset import Dataset
from jgraph.data.transforms import random_split

DATASETS = {
    "airports_usa": "1,190 US airports, 4 activity classes, structure only; ten random splits",
    "airports_europe": "399 European airports, 4 activity classes, structure only",
    "airports_brazil": "131 Brazilian airports, 4 activity classes, structure only",
}
FILES = {
    "airports_usa": "airports-usa",
    "airports_europe": "airports-europe",
    "airports_brazil": "airports-brazil",
}


def load(name: str, root: files.Root = None) -> Dataset:
    """Loads one of `DATASETS`.

    Raises:
      DatasetError: missing, damaged or malformed files.
    """
    place = name.removeprefix("airports_")
    file = f"airports/labels-{place}-airports.txt"
    rows = parse.table(file, np.int64, dataset=name, root=root, columns=2, header=1)
    numbers, order = np.unique(rows[:, 0], return_index=True)
    parse.expect(numbers.size == rows.shape[0], "a node has two labels", dataset=name, file=file)
    labels = rows[order, 1]
    file = f"airports/{place}-airports.edgelist"
    ends = parse.table(file, np.int64, dataset=name, root=root, columns=2)
    places = np.searchsorted(numbers, ends).clip(max=numbers.size - 1)
    known = np.array_equal(numbers[places], ends)
    parse.expect(known, "an edge names an airport without label", dataset=name, file=file)
    constant = np.ones((numbers.size, 1), np.float32)
    graph = parse.simple_graph(
        places[:, 0], places[:, 1], constant, dataset=name, file=file, undirected=True
    )
    degree = np.asarray(graph.in_degrees()).astype(np.float32)[:, None]
    return Dataset(
        name=name,
        graphs=(graph.replace(nodes=np.concatenate([constant, degree], axis=1)),),
        labels=labels,
        splits=tuple(random_split(labels.size, seed=seed) for seed in range(10)),
        task="node",
        num_classes=int(labels.max()) + 1,
        description=DATASETS[name],
        **files.attribution(FILES[name]),
    )
