"""Records that a paper file declares about itself; the catalogue is read from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def _frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


@dataclass(frozen=True)
class Paper:
    """One paper: what it is, where its experiment lives, and what it reports.

    Attributes:
      slug: the name of the file and of the method on the command line.
      title, authors, year, arxiv: the reference; `arxiv` is the bare number or "".
      family: the folder below `jgraph/`.
      task: "node", "graph", "sequence", "tabular", ...
      experiment: path of the script that reproduces its numbers, from the repository root.
      reported: the paper's own numbers, `{"cora test accuracy %": 81.5}`.
      contracts: extra contract tests that apply ("equivariant", "invariant", "recurrent").
    """

    slug: str
    title: str
    authors: str
    year: int
    arxiv: str
    family: str
    task: str
    experiment: str
    reported: Mapping[str, float] = field(default_factory=dict)
    contracts: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "reported", _frozen(self.reported))


@dataclass(frozen=True)
class Recipe:
    """Default hyperparameters with which a model is trained when the user names none.

    `weight_decay` is the L2 coefficient added to the gradient (not decoupled); it reaches all
    parameters or only those of the first layer (`weight_decay_on="first"`, as in the GCN paper).
    """

    hidden: int = 64
    layers: int = 2
    dropout: float = 0.5
    lr: float = 0.01
    weight_decay: float = 5e-4
    weight_decay_on: str = "all"
    epochs: int = 200
    heads: int = 1
    patience: int = 0
    batch_size: int = 32
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "extra", _frozen(self.extra))
