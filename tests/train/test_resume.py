"""Run directories: resuming to the same bits, kill -9, errors, files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import TinyModel, make_graph_data, make_node_data

from jgraph.train import CheckpointError, RunError, TrainConfig, checkpoint, fit, load_run
from jgraph.train.logging import MetricsFile, Progress, TensorBoard, finite
from jgraph.train.run import write_json

CONFIG = TrainConfig(
    epochs=12, batch_size=6, seeds=2, checkpoint_every=4, schedule="plateau", step_size=2
)


def train(data, config=CONFIG, **options):
    model = TinyModel(data.num_classes, task=data.task, dropout=0.3, norm=True)
    return fit(model, data, config, progress=False, **options)


class Stop(Exception):
    pass


def stop_at(epoch):
    def callback(now, row):
        if now == epoch:
            raise Stop

    return [callback]


def record_of(path):
    record = json.loads((path / "result.json").read_text())
    del record["timing"]
    return record


def assert_same_bits(a, b):
    for name in ("params", "model_state", "history", "test_metric", "test_loss"):
        leaves = (jax.tree.leaves(getattr(result, name)) for result in (a, b))
        for x, y in zip(*leaves, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("data", [make_node_data(), make_graph_data()], ids=["node", "graph"])
def test_chunks_do_not_change_the_bits(data):
    config = CONFIG.replace(eval_every=2, checkpoint_every=0)
    whole, cut = (train(data, config.replace(chunk=chunk)) for chunk in (12, 5))
    assert_same_bits(whole, cut)
    evaluated = np.isfinite(whole.history["val_loss"]).all(axis=1)
    assert evaluated.tolist() == [False, True] * 6


@pytest.mark.parametrize("data", [make_node_data(), make_graph_data()], ids=["node", "graph"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(data, tmp_path):
    whole = train(data, out=tmp_path / "whole", split="all")
    with pytest.raises(Stop):
        train(data, out=tmp_path / "cut", split="all", callbacks=stop_at(7))
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "cut/checkpoints")] == ["4"]
    resumed = train(data, out=tmp_path / "cut", split="all", resume=True)
    assert_same_bits(whole, resumed)
    assert record_of(tmp_path / "whole") == record_of(tmp_path / "cut")
    lines = [(tmp_path / d / "metrics.jsonl").read_text() for d in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["epoch"] for line in lines[0].splitlines()] == list(range(1, 13))
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "cut/checkpoints")] == ["8", "12"]


def test_resuming_a_finished_run_only_tests_again(node_data, tmp_path):
    first = train(node_data, out=tmp_path)
    seen = []
    again = train(node_data, out=tmp_path, resume=True, callbacks=[lambda *a: seen.append(a)])
    assert not seen
    np.testing.assert_array_equal(first.test_metric, again.test_metric)
    assert "nan" not in again.summary()


_SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from tiny import TinyModel, make_graph_data
from test_resume import CONFIG
from jgraph.train import fit

data = make_graph_data()
model = TinyModel(data.num_classes, task="graph", dropout=0.3, norm=True)
slow = [lambda epoch, row: time.sleep({pause})]
fit(model, data, CONFIG.replace(chunk=1), out=sys.argv[1], resume="auto", callbacks=slow)
"""


def test_a_killed_run_resumes_to_the_same_result(tmp_path):
    def start(pause, out):
        script = _SCRIPT.format(tests=str(Path(__file__).parent), pause=pause)
        command = [sys.executable, "-c", script, str(out)]
        return subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"})

    process = start(0.3, tmp_path / "cut")
    deadline = time.monotonic() + 120
    while not checkpoint.checkpoints(tmp_path / "cut/checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut/result.json").exists()
    with pytest.raises(RunError, match="incomplete"):
        load_run(tmp_path / "cut")
    assert start(0.0, tmp_path / "cut").wait(timeout=120) == 0
    train(make_graph_data(), CONFIG.replace(chunk=1), out=tmp_path / "whole")
    assert record_of(tmp_path / "whole") == record_of(tmp_path / "cut")


def test_load_run_gives_back_model_and_parameters(node_data, tmp_path):
    described = {"name": "tiny", "hidden": 8}
    result = train(node_data, out=tmp_path, describe=described)
    loaded = load_run(tmp_path)
    assert loaded.model == described
    assert loaded.dataset["name"] == "tiny-nodes"
    assert loaded.config == CONFIG
    assert loaded.run == result.best_run
    for run, chosen in ((None, loaded), (1, load_run(tmp_path, run=1))):
        want = result.variables(run)
        assert jax.tree.structure(want) == jax.tree.structure(chosen.variables)
        for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(chosen.variables)):
            np.testing.assert_array_equal(a, b)
    model = TinyModel(node_data.num_classes, norm=True)
    assert np.isfinite(model.apply(loaded.variables, node_data.graph)).all()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(RunError, match="runs 0 to 1"):
        load_run(tmp_path, run=2)


def test_load_run_refuses_what_is_not_a_run(tmp_path):
    with pytest.raises(RunError, match=r"no config\.json"):
        load_run(tmp_path)
    write_json(tmp_path / "config.json", {})
    with pytest.raises(RunError, match="no checkpoint"):
        load_run(tmp_path)


def test_a_run_is_not_overwritten(node_data, tmp_path):
    train(node_data, out=tmp_path)
    with pytest.raises(RunError, match="holds a run already"):
        train(node_data, out=tmp_path)


def test_nothing_to_resume(node_data, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(node_data, out=tmp_path / "new", resume=True)
    train(node_data, CONFIG.replace(epochs=2), out=tmp_path / "new", resume="auto")
    with pytest.raises(ValueError, match="resume"):
        train(node_data, out=tmp_path / "new", resume="always")


def test_another_run_is_not_resumed(node_data, tmp_path):
    with pytest.raises(Stop):
        train(node_data, out=tmp_path, callbacks=stop_at(5))
    with pytest.raises(CheckpointError, match=r"config\.lr: 0\.01 -> 0\.5"):
        train(node_data, CONFIG.replace(lr=0.5), out=tmp_path, resume=True)
    other = TinyModel(node_data.num_classes, hidden=9, dropout=0.3, norm=True)
    with pytest.raises(CheckpointError, match="another run"):
        fit(other, node_data, CONFIG, out=tmp_path, resume=True, progress=False)
    relabelled = node_data.replace(labels=(node_data.labels + 1) % 3)
    with pytest.raises(CheckpointError, match="checksum"):
        train(relabelled, out=tmp_path, resume=True)


def test_arrays_of_another_shape_are_named(tmp_path):
    checkpoint.save(tmp_path, 3, {"w": np.zeros(4)}, {"identity": {}})
    for like in ({"w": np.zeros(5)}, {"w": np.zeros(4, np.float32)}, {"v": np.zeros(4)}):
        with pytest.raises(CheckpointError, match=next(iter(like))):
            checkpoint.restore(tmp_path, like, {})
    with pytest.raises(CheckpointError, match="does not have"):
        checkpoint.restore(tmp_path, {}, {})


def test_checkpoints_keep_every_bit_and_the_last_two(tmp_path):
    tree = {
        "half": np.arange(3).astype(jax.numpy.bfloat16),
        "flag": np.array([True, False]),
        "scalar": np.int32(7),
        "odd": np.array([np.nan, np.inf, -0.0], np.float32),
        "none": np.zeros((0, 3), np.float32),
        "keys": np.array([1, 2**32 - 1], np.uint32),
    }
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    for epoch in (5, 10, 15):
        checkpoint.save(tmp_path, epoch, tree, {"identity": {"a": 1}, "seconds": 2.5})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "15"]
    got, record = checkpoint.restore(tmp_path, tree, {"a": 1})
    assert (record["epoch"], record["seconds"]) == (15, 2.5)
    for name, array in tree.items():
        assert got[name].dtype == array.dtype
        assert got[name].tobytes() == array.tobytes()


def test_a_refused_write_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"w": np.ones(2)}, {"identity": {}})

    class Full:
        def save(self, *args):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_checkpointer", Full)
        with pytest.raises(CheckpointError, match=f"{tmp_path / '1'} is intact"):
            checkpoint.save(tmp_path, 2, {"w": np.ones(2)}, {"identity": {}})
    tree, _ = checkpoint.restore(tmp_path, {"w": np.zeros(2)}, {})
    np.testing.assert_array_equal(tree["w"], 1)


def test_an_impossible_directory_is_named_before_training(node_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot create the run directory"):
        train(node_data, out=tmp_path / "file" / "run")
    with pytest.raises(CheckpointError, match="no earlier checkpoint"):
        checkpoint.save(tmp_path / "file" / "run", 1, {"w": np.ones(2)}, {"identity": {}})


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    for epoch in (1, 2):
        checkpoint.save(tmp_path, epoch, {"w": np.ones(2)}, {"identity": {}})
    for path in (tmp_path / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"delete it to go back to {tmp_path / '1'}"):
        checkpoint.restore(tmp_path, {"w": np.ones(2)}, {})


def test_metrics_file_drops_what_a_killed_run_wrote_too_much(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    file = MetricsFile(path, 2)
    file.write([{"epoch": 3, "loss": np.array([np.nan, 1.0])}])
    file.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "loss": [None, 1.0]}]


def test_finite_has_no_nan():
    assert finite({"a": (np.float32(1), float("inf"))}) == {"a": [1.0, None]}


def test_progress_says_a_line_or_nothing(capsys):
    row = {"train_loss": [1.0], "val_loss": [np.nan], "val_metric": [0.5]}
    for enabled in (True, False):
        bar = Progress(4, "accuracy", enabled=enabled)
        for epoch in range(1, 5):
            bar.update(epoch, row)
        bar.close()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (2 if enabled else 0)
    assert not lines


def test_tensorboard_gets_the_means_where_it_is_installed(monkeypatch, tmp_path):
    said = []

    class Writer:
        def __init__(self, folder):
            said.append(folder)

        def add_scalar(self, name, value, epoch):
            said.append((name, value, epoch))

        def flush(self):
            pass

        def close(self):
            said.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    board = TensorBoard(tmp_path)
    board.write([{"epoch": 3, "lr": np.array([0.1, 0.3]), "val_loss": np.array([np.nan, np.nan])}])
    board.close()
    assert said == [str(tmp_path), ("lr", pytest.approx(0.2), 3), "closed"]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    silent = TensorBoard(tmp_path)
    silent.write([{"epoch": 1, "lr": np.ones(1)}])
    silent.close()
    assert said[-1] == "closed"
