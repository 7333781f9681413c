"""Pictures are written whole, and a missing matplotlib names the remedy."""

import sys

import numpy as np
import pytest

from jgraph.train import embedding_plot, learning_curves


def test_learning_curves_with_gaps(tmp_path):
    values = np.linspace(2, 1, 12).reshape(6, 2)
    values[::2] = np.nan
    values[4:, 1] = np.nan
    history = {f"{part}_{kind}": values for part in ("train", "val") for kind in ("loss", "metric")}
    path = learning_curves(history, tmp_path / "curves.png", metric="accuracy")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_embedding_plot(tmp_path):
    points = np.random.default_rng(0).normal(size=(30, 2))
    path = embedding_plot(points, np.arange(30) % 3, tmp_path / "points.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="two dimensions"):
        embedding_plot(points[:, :1], np.arange(30), tmp_path / "points.png")


def test_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        embedding_plot(np.zeros((2, 2)), np.zeros(2), tmp_path / "points.png")
