"""Reductions over segments: rows of `data` (E, ...) that share a segment id, into (S, ...).

    sum_s  = sum_{e: id_e = s} data_e        mean_s = sum_s / count_s
    max_s, min_s                             std_s  = sqrt(mean_s((data - mean_s)^2))
    softmax_e = exp(data_e - max_{id_e}) / sum_{e'} exp(...)
    logsumexp_s = max_s + log sum exp(data - max_s)

An empty segment gives 0, and -inf for logsumexp, whose neutral element that is. Half precision
is accumulated in float32 and returned in the dtype of `data`. Sums follow the order of rows, so
the result is deterministic on CPU and TPU; on GPU XLA's scatter is so only under
`--xla_gpu_deterministic_ops`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


def check_segments(data: jax.Array, segment_ids: jax.Array, num_segments: int) -> None:
    """Checks shapes and dtypes, and the range of ids that lie on the host.

    Raises:
      ValueError: lengths differ, `num_segments` negative, or an id out of range.
      TypeError: ids that are not integers.
    """
    if segment_ids.ndim != 1 or data.ndim < 1 or data.shape[0] != segment_ids.shape[0]:
        raise ValueError(
            f"segment_ids must be (E,) with one id per row of data: got {segment_ids.shape} for "
            f"data {data.shape}"
        )
    if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
        raise TypeError(f"segment_ids must hold integers, got {segment_ids.dtype}")
    if num_segments < 0:
        raise ValueError(f"num_segments is {num_segments}; it must be at least 0")
    if isinstance(segment_ids, np.ndarray) and segment_ids.size:
        low, high = segment_ids.min(), segment_ids.max()
        if low < 0 or high >= num_segments:
            raise ValueError(
                f"segment_ids span {low} to {high}, outside the {num_segments} segments"
            )


def _widened(data: jax.Array) -> jax.Array:
    if jnp.issubdtype(data.dtype, jnp.floating):
        return data.astype(jnp.promote_types(data.dtype, jnp.float32))
    return data


def _rows(counts: jax.Array, like: jax.Array) -> jax.Array:
    return counts.reshape(counts.shape + (1,) * (like.ndim - 1))


def segment_count(
    segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """(S,) int32 number of rows in each segment."""
    ones = jnp.ones(segment_ids.shape, jnp.int32)
    return jax.ops.segment_sum(
        ones, segment_ids, num_segments, indices_are_sorted=indices_are_sorted
    )


def segment_sum(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """Sum over each segment: data (E, ...), segment_ids (E,) int -> (S, ...).

    Raises:
      ValueError, TypeError: see `check_segments`.
    """
    check_segments(data, segment_ids, num_segments)
    out = jax.ops.segment_sum(
        _widened(data), segment_ids, num_segments, indices_are_sorted=indices_are_sorted
    )
    return out.astype(data.dtype)


def segment_mean(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """Mean over each segment; arguments as in `segment_sum`."""
    check_segments(data, segment_ids, num_segments)
    wide, kwargs = _widened(data), {"indices_are_sorted": indices_are_sorted}
    total = segment_sum(wide, segment_ids, num_segments, **kwargs)
    count = segment_count(segment_ids, num_segments, **kwargs)
    return (total / _rows(jnp.maximum(count, 1), total)).astype(data.dtype)


def _extremum(largest: bool, data, segment_ids, num_segments, indices_are_sorted):
    check_segments(data, segment_ids, num_segments)
    kwargs = {"indices_are_sorted": indices_are_sorted}
    reduce = jax.ops.segment_max if largest else jax.ops.segment_min
    out = reduce(data, segment_ids, num_segments, **kwargs)
    filled = segment_count(segment_ids, num_segments, **kwargs) > 0
    return jnp.where(_rows(filled, out), out, jnp.zeros((), out.dtype))


def segment_max(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """Largest entry of each segment; ties share the gradient evenly."""
    return _extremum(True, data, segment_ids, num_segments, indices_are_sorted)


def segment_min(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """Smallest entry of each segment; ties share the gradient evenly."""
    return _extremum(False, data, segment_ids, num_segments, indices_are_sorted)


def segment_std(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """Population standard deviation of each segment, in two passes; its gradient at 0 is 0."""
    check_segments(data, segment_ids, num_segments)
    kwargs = {"indices_are_sorted": indices_are_sorted}
    wide = _widened(data)
    mean = segment_mean(wide, segment_ids, num_segments, **kwargs)
    centred = wide - jnp.take(mean, segment_ids, axis=0)
    variance = segment_mean(centred * centred, segment_ids, num_segments, **kwargs)
    positive = variance > 0
    std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
    return std.astype(data.dtype)


def segment_logsumexp(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """log sum exp over each segment, shifted by its maximum; -inf for an empty segment."""
    kwargs = {"indices_are_sorted": indices_are_sorted}
    wide = _widened(data)
    shift = _finite_shift(wide, segment_ids, num_segments, **kwargs)
    total = segment_sum(
        jnp.exp(wide - jnp.take(shift, segment_ids, axis=0)), segment_ids, num_segments, **kwargs
    )
    positive = total > 0
    log_total = jnp.where(positive, jnp.log(jnp.where(positive, total, 1)), -jnp.inf)
    return (log_total + shift).astype(data.dtype)


def _finite_shift(data, segment_ids, num_segments, **kwargs):
    # A shift that is finite even where all entries are -inf keeps exp and its gradient free of NaN.
    shift = segment_max(jax.lax.stop_gradient(data), segment_ids, num_segments, **kwargs)
    return jnp.where(jnp.isfinite(shift), shift, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _softmax(data, segment_ids, num_segments, indices_are_sorted):
    kwargs = {"indices_are_sorted": indices_are_sorted}
    wide = _widened(data)
    shift = _finite_shift(wide, segment_ids, num_segments, **kwargs)
    powers = jnp.exp(wide - jnp.take(shift, segment_ids, axis=0))
    total = segment_sum(powers, segment_ids, num_segments, **kwargs)
    inverse = 1 / jnp.where(total > 0, total, 1)
    return (powers * jnp.take(inverse, segment_ids, axis=0)).astype(data.dtype)


def _softmax_fwd(data, segment_ids, num_segments, indices_are_sorted):
    out = _softmax(data, segment_ids, num_segments, indices_are_sorted)
    return out, (out, segment_ids)


def _softmax_bwd(num_segments, indices_are_sorted, residuals, grad):
    out, segment_ids = residuals
    weighted = _widened(out) * _widened(grad)
    total = segment_sum(weighted, segment_ids, num_segments, indices_are_sorted=indices_are_sorted)
    back = weighted - _widened(out) * jnp.take(total, segment_ids, axis=0)
    return back.astype(grad.dtype), None


_softmax.defvjp(_softmax_fwd, _softmax_bwd)


def segment_softmax(
    data: jax.Array,
    segment_ids: jax.Array,
    num_segments: int,
    *,
    where: jax.Array | None = None,
    indices_are_sorted: bool = False,
) -> jax.Array:
    """Softmax within each segment: data (E, ...) -> (E, ...); keeps only its result for backward.

    Args:
      where: optional (E,) bool; False entries get probability 0, and so does a segment that has
        no True entry.
    """
    check_segments(data, segment_ids, num_segments)
    if where is not None:
        data = jnp.where(_rows(where, data), data, -jnp.inf)
    return _softmax(data, segment_ids, num_segments, indices_are_sorted)
