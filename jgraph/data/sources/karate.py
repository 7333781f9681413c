"""Zachary's karate club (1977), as it ships with networkx; no download.

34 members, edges between friends, labels the side each took. One labelled node on each side (the
instructor, 0, and the administrator, 33), eight nodes for validation, the rest for testing.
Features are the identity.
"""

from __future__ import annotations

import numpy as np

from jgraph.data.dataset import Dataset, Split
from jgraph.data.files import Root
from jgraph.graph import Graph

DATASETS = {"karate": "34 members of a karate club, two factions, two labels; no download"}
_VAL = (1, 3, 8, 13, 23, 26, 30, 32)


def load(name: str, root: Root = None) -> Dataset:
    """Loads the karate club from networkx."""
    import networkx as nx

    club = nx.karate_club_graph()
    ends = np.array(club.edges, np.int32)
    both = np.concatenate([ends, ends[:, ::-1]])
    labels = np.array([club.nodes[i]["club"] != "Mr. Hi" for i in range(34)], np.int32)
    train, val = np.array([0, 33]), np.array(_VAL)
    return Dataset(
        name=name,
        graphs=(Graph.from_edges(both[:, 0], both[:, 1], nodes=np.eye(34, dtype=np.float32)),),
        labels=labels,
        splits=(Split(train, val, np.setdiff1d(np.arange(34), [*train, *val])),),
        task="node",
        num_classes=2,
        licence="public domain facts; networkx is BSD-3-Clause",
        citation="Zachary. An Information Flow Model for Conflict and Fission in Small Groups. "
        "Journal of Anthropological Research 33, 1977.",
        source="https://networkx.org/documentation/stable/reference/generators.html",
        description=DATASETS[name],
    )
