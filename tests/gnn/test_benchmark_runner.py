"""The runner of the benchmark's table: resumable, and its parts start."""

import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest

from experiments.gnn import benchmarking_gnns as runner
from experiments.gnn.benchmarking_data import Cell, load, mean_error
from jgraph.data.errors import DatasetError
from jgraph.train.plateau import PlateauResult


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiling is nearly all of the time of these tests."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def result(score):
    return PlateauResult(score, score, score, 3, 1.0, 0.3, {}, "rate", {})


def test_a_table_goes_on_where_it_stopped(tmp_path):
    asked = []

    def run(cell, source, fold, seed, limits):
        asked.append((cell.key, seed, fold))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return result(0.5 + 0.1 * seed), 7

    config = runner.Table(
        datasets=("pattern",),
        models=("mlp", "gcn"),
        seeds=(0, 1),
        sizes=(1, 1, 1),
        out=tmp_path / "cells.jsonl",
    )
    with pytest.raises(KeyboardInterrupt):
        runner.table(config, run)
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"cell": "pattern/gc')  # a line that a crash cut off
    values = runner.table(config, run)
    assert asked[3:] == [("pattern/gcn/100k", 0, 0), ("pattern/gcn/100k", 1, 0)]
    assert [v.mean for v in values] == pytest.approx([55.0, 55.0])
    assert values[1].reported == 63.88 and "memory" in values[1].source
    assert len(runner.finished(config.out)) == 4
    runner.table(config, run)
    assert len(asked) == 5
    other = dataclasses.replace(config, limits=runner.Limits(epochs=2), models=("mlp",))
    runner.table(other, run)
    assert len(asked) == 7


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "cells.jsonl"
    path.write_text("{}\n{}\n")
    with pytest.raises(ValueError, match="line 1 is not a run"):
        runner.finished(path)


def test_cells_have_names():
    for key in ("pattern/gatedgcn/500k/pe", "csl/gin/100k"):
        assert Cell.parse(key).key == key
    assert Cell.parse("pattern/gatedgcn/500k/pe").reported()[0] == 86.508
    assert Cell.parse("csl/3wlgnn/100k").reported()[0] == 95.70
    with pytest.raises(ValueError, match="write dataset/kind"):
        Cell.parse("pattern/gcn")


def test_planted_patterns_start():
    config = runner.PatternSmall(epochs=1, sizes=(2, 1, 1), batch_size=2, models=("gcn",))
    values = runner.pattern_small(config)
    assert [v.target for v in values] == [None]
    assert all(np.isfinite(v.mean) for v in values)


def test_skip_links_start():
    config = runner.Csl(epochs=1, dataset="csl-generated", models=("gin",), dense=())
    with_positions, without = runner.csl(config)
    assert with_positions.target == 95.0 and "positions" in with_positions.name
    assert without.mean == pytest.approx(10.0)


def molecule(rng, atoms):
    low = np.arange(atoms - 1)
    ends = np.stack([np.concatenate([low, low + 1]), np.concatenate([low + 1, low])])
    bonds = rng.integers(1, 5, ends.shape[1])
    return rng.integers(1, 60, atoms), bonds, ends, np.float64(rng.normal())


def test_molecules_start(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("val", 208), ("test", 4)):
        rows = [molecule(rng, int(rng.integers(2, 5))) for _ in range(count)]
        rows.append((np.array([1]), np.zeros(0, int), np.zeros((2, 0), int), np.float64(1)))
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(rows))
    source = load("aqsol", aqsol=tmp_path)
    sizes = [len(source.parts[0][part].graphs) for part in ("train", "val", "test")]
    assert sizes == [8, 200, 4] and mean_error(source.parts[0]) > 0
    config = runner.Aqsol(tmp_path, epochs=1, seeds=(0,), batch_size=64, models=("gatedgcn",))
    bar, value = runner.aqsol(config)
    assert value.target == bar.mean and value.higher is False
    json.dumps(dataclasses.asdict(value))


def test_missing_molecules_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no folder is given"):
        load("aqsol")
    with pytest.raises(DatasetError, match=r"val\.pickle"):
        load("aqsol", aqsol=tmp_path)
    with pytest.raises(ValueError, match="choose one of"):
        load("zinc")
