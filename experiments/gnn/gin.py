"""GIN on MUTAG and PROTEINS, ten-fold, by the protocol of Xu et al. and by an honest one.

command    python -m experiments.gnn.gin
hardware   2 CPU cores
time       about 25 minutes
reach      at most 2 points below 89.4 % on MUTAG and 76.2 % on PROTEINS by the paper's protocol
source     Xu et al. 2019, table 1 (GIN-0: 89.4 ± 5.6, 76.2 ± 2.8)

The paper's protocol trains on nine folds and reports, for the one epoch that is best on average
over the ten held-out folds, the mean accuracy on these same folds: it chooses by what it reports.
The honest numbers beside it train on eight folds, choose the epoch on the ninth and test once on
the tenth.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import tyro

from experiments.protocol import percent, report, run
from jgraph import data
from jgraph.data import Split
from jgraph.data.sources.tu import folds_without_validation
from jgraph.gnn.gin import PAPER
from jgraph.results import Value


@dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    datasets: tuple[str, ...] = ("mutag", "proteins")
    epochs: int = 350
    hidden: int = 32
    seed: int = 0


def held_out(dataset: data.Dataset) -> data.Dataset:
    """The data set with nine folds to train on and the tenth in the place of validation."""
    nothing = np.zeros(0, np.int32)
    splits = tuple(
        Split(train, test, nothing) for train, test in folds_without_validation(dataset.labels)
    )
    return dataclasses.replace(dataset, splits=splits)


def papers_protocol(name: str, config: Config) -> Value:
    """Mean held-out accuracy at the epoch where that mean is largest."""
    dataset = held_out(data.load(name))
    _, result = run(
        "gin",
        dataset,
        split="all",
        epochs=config.epochs,
        hidden=config.hidden,
        seed=config.seed,
        test_at="end",
    )
    curve = 100 * result.history["val_metric"]
    epoch = int(curve.mean(axis=1).argmax())
    key = f"{name} test accuracy %"
    reported = PAPER.reported[key]
    return Value(
        key,
        float(curve[epoch].mean()),
        float(curve[epoch].std(ddof=1)),
        curve.shape[1],
        target=reported - 2,
        reported=reported,
        source="Xu et al. 2019, GIN-0",
        note="the paper's protocol, which chooses the epoch on the test folds",
    )


def main(config: Config) -> None:
    """Runs the experiment and records it."""
    began, values = time.time(), []
    for name in config.datasets:
        values.append(papers_protocol(name, config))
        _, result = run(
            "gin",
            name,
            split="all",
            epochs=config.epochs,
            hidden=config.hidden,
            seed=config.seed,
            select="val_loss",
        )
        values.append(percent(f"{name} test accuracy %, epoch chosen on a separate fold", result))
    report("gin", values, began, "python -m experiments.gnn.gin", dataclasses.asdict(config))


if __name__ == "__main__":
    main(tyro.cli(Config))
