"""GAT on Cora, public split, by the paper's recipe.

command    python -m experiments.gnn.gat
hardware   2 CPU cores
time       about 2 minutes
reach      82.0 % on Cora
source     Velickovic et al. 2018, table 2: 83.0 (100 runs)
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import tyro

from experiments.protocol import percent, report, run
from jgraph.gnn.gat import PAPER

BARS = {"cora": 82.0}


@dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    seeds: int = 10
    epochs: int = 1000
    datasets: tuple[str, ...] = ("cora",)


def main(config: Config) -> None:
    """Runs the experiment and records it."""
    began, values = time.time(), []
    for name in config.datasets:
        _, result = run("gat", name, seeds=config.seeds, epochs=config.epochs)
        key = f"{name} test accuracy %"
        values.append(
            percent(
                key,
                result,
                target=BARS.get(name),
                reported=PAPER.reported.get(key),
                source="Velickovic et al. 2018",
            )
        )
    report("gat", values, began, "python -m experiments.gnn.gat", dataclasses.asdict(config))


if __name__ == "__main__":
    main(tyro.cli(Config))
