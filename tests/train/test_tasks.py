"""Losses and metrics against scikit-learn and NumPy, under masks."""

import jax
import numpy as np
import pytest

from jgraph.train import tasks


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    mask = rng.random(60) < 0.5
    logits = rng.normal(size=(60, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 60).astype(np.int32)
    # What stands in masked rows must not matter, not even NaN or an impossible class.
    logits[~mask] = np.nan
    labels[~mask] = -7
    return logits, labels, mask


def test_cross_entropy_and_accuracy_see_masked_in_rows_only(rows):
    from sklearn.metrics import accuracy_score, log_loss

    logits, labels, mask = rows
    kept = logits[mask].astype(np.float64)
    chances = np.exp(kept) / np.exp(kept).sum(1, keepdims=True)
    want = log_loss(labels[mask], chances, labels=[0, 1, 2, 3])
    assert np.isclose(jax.jit(tasks.cross_entropy)(*rows), want, atol=1e-6)
    want = accuracy_score(labels[mask], kept.argmax(1))
    assert np.isclose(jax.jit(tasks.accuracy)(*rows), want)


def test_masked_rows_give_no_gradient(rows):
    logits, labels, mask = rows
    gradient = np.asarray(jax.grad(tasks.cross_entropy)(logits, labels, mask))
    assert np.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any()


@pytest.mark.parametrize("loss", ["l1", "mse"])
def test_regression_losses(loss):
    rng = np.random.default_rng(1)
    outputs = rng.normal(size=(30, 1)).astype(np.float32)
    labels = rng.normal(size=30).astype(np.float32)
    mask = rng.random(30) < 0.5
    error = (outputs[:, 0] - labels)[mask].astype(np.float64)
    want = np.abs(error).mean() if loss == "l1" else (error**2).mean()
    assert np.isclose(getattr(tasks, loss)(outputs, labels, mask), want, rtol=1e-6)
    assert np.isclose(getattr(tasks, loss)(outputs[:, 0], labels, mask), want, rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 7, 1000])
@pytest.mark.parametrize("columns", [0, 1, 2])
def test_roc_auc_with_ties_equals_sklearn(levels, columns):
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, 200).astype(np.float32) - levels / 2
    labels = (rng.random(200) < 0.3).astype(np.int32)
    mask = rng.random(200) < 0.6
    want = roc_auc_score(labels[mask], scores[mask])
    outputs = scores
    if columns:
        outputs = np.stack([-scores, scores][2 - columns :], axis=1)
    outputs = np.where(mask if outputs.ndim == 1 else mask[:, None], outputs, np.nan)
    got = jax.jit(tasks.roc_auc)(outputs, labels, mask)
    assert np.isclose(got, want, atol=1e-6)


def test_what_has_no_answer_is_nan():
    logits = np.zeros((5, 2), np.float32)
    ones, all_rows = np.ones(5, np.int32), np.ones(5, bool)
    assert np.isnan(tasks.roc_auc(logits, ones, all_rows))
    assert np.isnan(tasks.roc_auc(logits, 0 * ones, all_rows))
    assert np.isnan(tasks.accuracy(logits, ones, ~all_rows))
    logits[2] = np.nan
    assert np.isnan(tasks.accuracy(logits, ones, all_rows))


def test_loss_must_fit_metric():
    with pytest.raises(ValueError, match="'l1' or 'mse'"):
        tasks.Objective("cross_entropy", "mae")
    with pytest.raises(ValueError, match="cross_entropy"):
        tasks.Objective("mse", "accuracy")
    with pytest.raises(ValueError, match="f1"):
        tasks.Objective("cross_entropy", "f1")
