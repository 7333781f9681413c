"""Training: one loop for node and graph tasks, several seeds and splits at once, resumable."""

from jgraph.train.checkpoint import CheckpointError
from jgraph.train.config import TrainConfig
from jgraph.train.loop import fit
from jgraph.train.plots import embedding_plot, learning_curves
from jgraph.train.result import Result
from jgraph.train.run import LoadedRun, RunError, load_run
from jgraph.train.state import TrainState

__all__ = [
    "CheckpointError",
    "LoadedRun",
    "Result",
    "RunError",
    "TrainConfig",
    "TrainState",
    "embedding_plot",
    "fit",
    "learning_curves",
    "load_run",
]
