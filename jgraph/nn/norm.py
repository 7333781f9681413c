"""Normalisation that ignores padding; statistics are float32 (float64 for float64 inputs).

Batch norm: Ioffe & Szegedy, 2015, arXiv 1502.03167. Layer norm: Ba et al., 2016, arXiv 1607.06450.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Array = jax.Array
NORMS = ("none", "batch", "layer")


def masked_moments(
    x: Array, mask: Array | None = None, axis_name: str | None = None
) -> tuple[Array, Array, Array]:
    """Mean and (biased) variance of the rows where `mask` holds.

    Args:
      x: (N, F).
      mask: (N,) bool, or None for all rows.
      axis_name: mapped device axis to sum over.

    Returns:
      (mean (F,), variance (F,), count ()) in at least float32; zeros when no row counts.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    shown = jnp.ones((x.shape[0], 1), x.dtype) if mask is None else mask[:, None].astype(x.dtype)

    def total(values: Array) -> Array:
        summed = jnp.sum(values, axis=0)
        return summed if axis_name is None else lax.psum(summed, axis_name)

    count = total(shown)[0]
    divisor = jnp.maximum(count, 1)
    x = x if mask is None else jnp.where(mask[:, None], x, 0)
    mean = total(x) / divisor
    variance = total(shown * jnp.square(x - mean)) / divisor
    return mean, variance, count


def masked_batch_norm(
    x: Array,
    scale: Array,
    bias: Array,
    *,
    mask: Array | None = None,
    epsilon: float = 1e-5,
    axis_name: str | None = None,
) -> tuple[Array, tuple[Array, Array, Array]]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias with the moments of the masked rows.

    Args:
      x: (N, F); scale, bias: (F,); mask: (N,) bool or None; axis_name: as in `masked_moments`.

    Returns:
      (y, (mean, variance, count)): y (N, F) in the dtype of x, also for the masked rows.
    """
    # Padding rows may hold anything, and NaN would reach the gradient of the moments.
    x = x if mask is None else jnp.where(mask[:, None], x, 0)
    moments = masked_moments(x, mask, axis_name)
    return apply_norm(x, moments[0], moments[1], scale, bias, epsilon), moments


def apply_norm(
    x: Array, mean: Array, variance: Array, scale: Array, bias: Array, epsilon: float
) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, computed in the dtype of `mean`."""
    factor = lax.rsqrt(variance + epsilon) * scale
    return ((x.astype(mean.dtype) - mean) * factor + bias).astype(x.dtype)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    """Normalises each row of x (..., F) over its features; rows never mix, so no mask is needed."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    return apply_norm(x, mean, variance, scale, bias, epsilon)


class BatchNorm(nn.Module):
    """Batch norm over the rows where `mask` holds, with running moments in "batch_stats".

    The running variance is the unbiased one, as in PyTorch; a batch without any real row leaves
    the running moments alone.

    Attributes:
      momentum: share of the old running moments that stays.
      axis_name: mapped device axis over which the moments are shared (inside shard_map or pmap).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None, train: bool = False) -> Array:
        """x (N, F), mask (N,) bool or None -> (N, F); `train` needs mutable=["batch_stats"]."""
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, width, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, width, jnp.float32)
        if not train:
            return apply_norm(x, mean.value, variance.value, scale, bias, self.epsilon)
        axis_name = None if self.is_initializing() else self.axis_name
        y, (now_mean, now_variance, count) = masked_batch_norm(
            x, scale, bias, mask=mask, epsilon=self.epsilon, axis_name=axis_name
        )
        if not self.is_initializing():
            step = jnp.where(count > 0, 1 - self.momentum, 0).astype(jnp.float32)
            unbiased = now_variance * count / jnp.maximum(count - 1, 1)
            mean.value = mean.value + step * (now_mean - mean.value).astype(jnp.float32)
            variance.value = variance.value + step * (unbiased - variance.value).astype(jnp.float32)
        return y


class LayerNorm(nn.Module):
    """`layer_norm` with learned scale and bias."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None, train: bool = False) -> Array:
        """x (..., F) -> (..., F); `mask` and `train` change nothing."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return layer_norm(x, scale, bias, self.epsilon)


def check_norm(norm: str) -> None:
    """Checks that `norm` names a normalisation.

    Raises:
      ValueError: it does not.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; choose one of {', '.join(NORMS)}")


def make_norm(
    norm: str, *, axis_name: str | None = None, name: str | None = None
) -> nn.Module | None:
    """The module that `norm` names: BatchNorm, LayerNorm, or None for "none".

    Args:
      axis_name: of batch norm.
      name: of the module.

    Raises:
      ValueError: an unknown name.
    """
    check_norm(norm)
    if norm == "batch":
        return BatchNorm(axis_name=axis_name, name=name)
    return LayerNorm(name=name) if norm == "layer" else None
