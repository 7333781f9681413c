"""The command line as a user meets it: exit codes, messages, files."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from jgraph.cli import COMMANDS, main
from pallas_kernels import check

TRAIN = ("train", "--model", "gcn", "--dataset", "karate", "--no-progress")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "karate"
    assert (
        main(
            [
                *[
                    "train",
                    "--model",
                    "gcn",
                    "--dataset",
                    "karate",
                    "--epochs",
                    "20",
                    "--no-progress",
                ],
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_help_and_version(capsys):
    assert main([]) == 0
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jgraph 0.")
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"usage: jgraph {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian", ["'trian'", "'train'"]),
        ("train --model gnc --dataset karate", ["gnc", "gin"]),
        ("train --model gcn --dataset karat", ["karat", "'karate'"]),
        ("train --model gcn --dataset karate --epochs 0", ["epochs", "0", "at least 1"]),
        ("train --model gcn --dataset karate --norm wild", ["norm", "'wild'", "batch"]),
        ("train --model gcn --dataset karate --split 7", ["split", "7"]),
        ("train --model gcn --dataset karate --prepare upside", ["upside", "undirected"]),
        ("predict --run nowhere", ["nowhere", "config.json"]),
        ("data info", ["data info", "name"]),
    ],
)
def test_mistakes_exit_with_2_and_one_line(line, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    for word in words:
        assert word in text
    assert not list(tmp_path.rglob("checkpoints/*"))


def test_debug_shows_the_traceback(capsys):
    assert main(["predict", "--run", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_bad_option_exits_with_2(capsys):
    assert main(["train", "--modle", "gcn"]) == 2
    capsys.readouterr()


def test_train_leaves_a_complete_run(run_dir):
    for name in ("config.json", "metrics.jsonl", "result.json", "curves.png"):
        assert (run_dir / name).stat().st_size > 0
    assert json.loads((run_dir / "result.json").read_text())["metric"] == "accuracy"


def test_a_second_run_in_the_same_place_is_refused(run_dir, capsys):
    assert main([*TRAIN, "--epochs", "20", "--out", str(run_dir)]) == 2
    assert "resume" in capsys.readouterr().err
    other = [
        "train",
        "--model",
        "mlp",
        "--dataset",
        "karate",
        "--epochs",
        "20",
        "--no-progress",
        "--resume",
    ]
    assert main([*other, "--out", str(run_dir)]) == 2
    assert "model" in capsys.readouterr().err


def test_resume_without_a_checkpoint(tmp_path, capsys):
    line = [
        "train",
        "--model",
        "gcn",
        "--dataset",
        "karate",
        "--epochs",
        "5",
        "--no-progress",
        "--resume",
    ]
    assert main([*line, "--out", str(tmp_path / "new")]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_predict_on_its_own_data_and_on_a_file(run_dir, tmp_path):
    assert main(["predict", "--run", str(run_dir)]) == 0
    rows = rows_of(run_dir / "predictions.csv")
    assert rows[0] == ["node", "prediction", "p0", "p1"] and len(rows) == 35
    table = np.array(rows[1:], float)
    np.testing.assert_allclose(table[:, 2:].sum(1), 1, atol=1e-4)
    np.testing.assert_array_equal(table[:, 1], table[:, 2:].argmax(1))
    from jgraph import data

    graph = data.load("karate").graph
    nodes = graph.nodes if isinstance(graph.nodes, np.ndarray) else graph.nodes.to_scipy().toarray()
    np.savez(tmp_path / "g.npz", edge_index=np.stack([graph.senders, graph.receivers]), x=nodes)
    out = tmp_path / "p.csv"
    line = ["predict", "--run", str(run_dir), "--graph", str(tmp_path / "g.npz"), "--out", str(out)]
    assert main(line) == 0
    np.testing.assert_allclose(np.array(rows_of(out)[1:], float), table, atol=1e-4)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"senders": [0], "receivers": [1], "x": np.ones((2, 3))}, ["3 features"]),
        ({"senders": [0], "receivers": [9], "x": np.ones((34, 34))}, []),
        ({"senders": [0.5], "receivers": [1.0], "x": np.ones((34, 34))}, ["senders", "float64"]),
        ({"senders": [0], "receivers": [99], "x": np.ones((34, 34))}, ["receivers", "99", "34"]),
        ({"x": np.ones((34, 34))}, ["senders and receivers"]),
    ],
)
def test_predict_refuses_bad_graphs(run_dir, tmp_path, capsys, arrays, words):
    np.savez(tmp_path / "g.npz", **arrays)
    line = ["predict", "--run", str(run_dir), "--graph", str(tmp_path / "g.npz")]
    code = main([*line, "--out", str(tmp_path / "p.csv")])
    assert code == (2 if words else 0)
    text = capsys.readouterr().err
    for word in words:
        assert word in text
    assert (tmp_path / "p.csv").exists() == (not words)


def test_predict_refuses_a_pickled_graph(run_dir, tmp_path, capsys):
    np.savez(tmp_path / "g.npz", senders=np.array([{"a": 1}], object))
    assert main(["predict", "--run", str(run_dir), "--graph", str(tmp_path / "g.npz")]) == 2
    assert "g.npz" in capsys.readouterr().err


def test_lists(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert "graphsage" in text and "karate" in text
    assert main(["papers"]) == 0
    assert "1609.02907" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "info", "karate"]) == 0
    assert "34 nodes" in capsys.readouterr().out


def test_data_verify(data_root, capsys):
    assert main(["data", "verify", "cora"]) == 0
    assert "8 of 8" in capsys.readouterr().out


def test_doctor_finds_agreement(capsys, monkeypatch):
    monkeypatch.setattr(check, "kernels", lambda: ("sddmm",))  # all of them take minutes
    assert main(["doctor", "--nodes", "60", "--edges", "400"]) == 0
    text = capsys.readouterr().out
    assert "all implementations agree" in text and "spmm max" in text
    assert "interpreted" in text and "linear_scan" not in text


def test_doctor_finds_a_kernel_that_differs(capsys, monkeypatch):
    monkeypatch.setattr(check, "kernels", lambda: ("sddmm",))
    monkeypatch.setattr(check, "errors", lambda *_: {"output 0": 0.5})
    assert main(["doctor", "--nodes", "20", "--edges", "40"]) == 1
    assert "2 failures" in capsys.readouterr().out


def test_python_dash_m(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jgraph", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("jgraph")
