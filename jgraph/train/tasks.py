"""Masked losses and metrics, in float32 and jittable.

All take outputs (M, C) (or (M,) for regression), labels (M,) and a mask (M,) bool, and look at
masked-in rows only: whatever stands in the others, NaN included, changes neither value nor
gradient. An empty mask gives NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

HIGHER_IS_BETTER = {"accuracy": True, "roc_auc": True, "mae": False}


def _scalars(outputs: jax.Array) -> jax.Array:
    """(M, 1) or (M,) predictions of a regression as (M,)."""
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        return outputs[:, 0]
    if outputs.ndim != 1:
        raise ValueError(
            f"outputs has shape {outputs.shape}; a regression needs (M,) or (M, 1): build the "
            "model with num_classes=1"
        )
    return outputs


def _clean(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    rows = mask if outputs.ndim == 1 else mask[:, None]
    return jnp.where(rows, outputs, 0).astype(jnp.float32)


def example_losses(loss: str, outputs: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """(M,) float32 losses, 0 where masked out; `loss` is "cross_entropy", "l1" or "mse"."""
    labels = jnp.where(mask, labels, 0)
    if loss == "cross_entropy":
        logits = _clean(outputs, mask)
        chosen = labels[:, None] == jnp.arange(logits.shape[1])
        picked = jnp.sum(jnp.where(chosen, logits, 0), axis=1)
        losses = jax.nn.logsumexp(logits, axis=1) - picked
    else:
        error = _clean(_scalars(outputs), mask) - labels.astype(jnp.float32)
        losses = jnp.abs(error) if loss == "l1" else error * error
    return jnp.where(mask, losses, 0)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.sum(mask)


def cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean negative log-likelihood (nats) of integer labels."""
    return _mean(example_losses("cross_entropy", logits, labels, mask), mask)


def l1(outputs: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute error as a loss."""
    return _mean(example_losses("l1", outputs, labels, mask), mask)


def mse(outputs: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error."""
    return _mean(example_losses("mse", outputs, labels, mask), mask)


mae = l1


def accuracy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of rows whose largest logit is the label, in [0, 1]; NaN when a logit is NaN."""
    logits = _clean(logits, mask)
    share = _mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32), mask)
    # argmax would call class 0 the answer of a diverged model.
    return jnp.where(jnp.any(jnp.isnan(logits)), jnp.nan, share)


def roc_auc(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Area under the ROC curve of a binary task, exact: ties count one half.

    The mean, over positives, of the share of negatives with a lower score (the Mann-Whitney
    statistic). NaN when one class is absent or a score is NaN.

    Args:
      logits: (M, 2), scored by their difference, or (M, 1) or (M,).
      labels: (M,) in {0, 1}.
    """
    if logits.ndim == 2 and logits.shape[1] == 2:
        logits = logits[:, 1] - logits[:, 0]
    scores = _clean(_scalars(logits), mask)
    positive, negative = mask & (labels == 1), mask & (labels == 0)
    order = jnp.argsort(scores)
    ranked = scores[order]
    below = jnp.concatenate(
        [jnp.zeros(1, jnp.int32), jnp.cumsum(negative[order].astype(jnp.int32))]
    )
    lower = below[jnp.searchsorted(ranked, scores, side="left")]
    upto = below[jnp.searchsorted(ranked, scores, side="right")]
    wins = 0.5 * (lower + upto).astype(jnp.float32) / jnp.sum(negative)
    area = _mean(wins, positive)
    broken = jnp.any(jnp.isnan(scores)) | (jnp.sum(negative) == 0)
    return jnp.where(broken, jnp.nan, area)


_METRICS = {"accuracy": accuracy, "roc_auc": roc_auc, "mae": mae}


@dataclass(frozen=True)
class Objective:
    """The loss that is minimised and the metric that is reported.

    Raises:
      ValueError: a classification loss for a regression metric, or the reverse.
    """

    loss: str
    metric: str

    def __post_init__(self):
        if self.metric not in _METRICS:
            raise ValueError(f"metric is {self.metric!r}; choose one of {', '.join(_METRICS)}")
        if (self.loss == "cross_entropy") != (self.metric != "mae"):
            fix = "'l1' or 'mse'" if self.metric == "mae" else "'cross_entropy'"
            raise ValueError(
                f"loss is {self.loss!r}, but the data set is scored by {self.metric}: use {fix}"
            )

    def losses(self, outputs: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        """(M,) losses, 0 where masked out."""
        return example_losses(self.loss, outputs, labels, mask)

    def score(
        self, outputs: jax.Array, labels: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(mean loss, metric), both scalars."""
        loss = _mean(self.losses(outputs, labels, mask), mask)
        return loss, _METRICS[self.metric](outputs, labels, mask)

    def lower_is_better(self, metric: jax.Array) -> jax.Array:
        """The metric with its sign such that smaller means better."""
        return -metric if HIGHER_IS_BETTER[self.metric] else metric
