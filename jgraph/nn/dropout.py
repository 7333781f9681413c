"""Dropout for dense and sparse features (Srivastava et al., JMLR 15, 2014)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jgraph.graph import SparseMatrix

Array = jax.Array


def check_rate(rate: float, name: str = "rate") -> None:
    """Checks that `rate` is in [0, 1).

    Raises:
      ValueError: it is not.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{name} is {rate}; a dropout rate lies in [0, 1)")


def dropout_mask(key: Array, shape: tuple[int, ...], rate: float) -> Array:
    """Which entries stay, each with probability 1 - rate; `shape` bool, at least one axis.

    Drawing random words is what dropout costs, so four entries share the bytes of one 32-bit word
    (a quarter of the last axis apart, which needs no interleaving). A byte stays if it is below
    256 (1 - rate), rounded up or down at random for the whole array, so that the probability of
    each entry is exact.

    Raises:
      ValueError: rate outside [0, 1).
    """
    check_rate(rate)
    words_key, round_key = jax.random.split(key)
    *rows, width = shape
    words = jax.random.bits(words_key, (*rows, -(-width // 4)), jnp.uint32)
    parts = [(words >> shift) & 0xFF for shift in (0, 8, 16, 24)]
    level = jnp.floor(256 * (1.0 - rate) + jax.random.uniform(round_key)).astype(jnp.uint32)
    return jnp.concatenate(parts, axis=-1)[..., :width] < level


def dropout(key: Array, x: Any, rate: float) -> Any:
    """Sets entries to 0 with probability `rate`, divides the others by 1 - rate.

    Args:
      key: random key.
      x: dense array of one or more axes, or a SparseMatrix, whose stored values are dropped.
      rate: static, in [0, 1).

    Raises:
      ValueError: rate outside [0, 1).
    """
    check_rate(rate)
    if rate == 0.0:
        return x
    values = x.values if isinstance(x, SparseMatrix) else x
    mask = dropout_mask(key, jnp.shape(values), rate)
    dropped = jnp.where(mask, values / jnp.asarray(1.0 - rate, values.dtype), 0)
    return x.replace(values=dropped) if isinstance(x, SparseMatrix) else dropped


class Dropout(nn.Module):
    """`dropout` with the key of the rng collection "dropout"; the identity unless `train`."""

    rate: float

    def __call__(self, x: Any, *, train: bool = False) -> Any:
        """`x` of any shape or a SparseMatrix."""
        if not train or self.rate == 0.0:
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)
