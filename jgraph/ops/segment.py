"""Reductions over segments: rows of `data` (E, ...) that share a segment id, into (S, ...).

    sum_s  = sum_{e: id_e = s} data_e        mean_s = sum_s / count_s
    max_s, min_s                             std_s  = sqrt(mean_s((data - mean_s)^2))
    softmax_e = exp(data_e - max_{id_e}) / sum_{e'} exp(...)
    logsumexp_s = max_s + log sum exp(data - max_s)

An empty segment gives 0, and -inf for logsumexp, whose neutral element that is. Half precision
is accumulated in float32 and returned in the dtype of `data`. Sums follow the order of rows, so
the result is deterministic on CPU and TPU and in the kernel; on GPU XLA's scatter is so only under
`--xla_gpu_deterministic_ops`.

Sum, mean, max and min take `implementation` (see `jgraph.ops.dispatch`). The kernel of
`pallas_kernels.segment_reduce` needs rows in the order of segments: it can serve where the caller
promises that with `indices_are_sorted=True`; otherwise XLA does. A false promise gives wrong
results. With the environment variable JGRAPH_DEBUG=1 it raises an error instead: a ValueError at
once for ids with known values, and inside a compiled program an error of the JAX runtime.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgraph.ops.dispatch import by_platform, check_implementation
from jgraph.ops.graph_kernels import flat_rows, may_serve, with_gradient_of
from pallas_kernels import segment_reduce as kernel


def _raise_unsorted(falls: Any, place: Any) -> None:
    if falls:
        raise ValueError(
            f"segment_ids fall at position {int(place) + 1}, but indices_are_sorted=True promises "
            "that they do not; sort the rows by id, or pass indices_are_sorted=False"
        )


def check_sorted(segment_ids: Any) -> None:
    """In debug mode (JGRAPH_DEBUG=1) raises for ids (E,) that fall anywhere."""
    if os.environ.get("JGRAPH_DEBUG", "0") in ("", "0") or segment_ids.shape[0] < 2:
        return
    if isinstance(segment_ids, jax.core.Tracer):
        falls = segment_ids[1:] < segment_ids[:-1]
        jax.debug.callback(_raise_unsorted, falls.any(), falls.argmax())
    else:
        known = np.asarray(segment_ids)
        drops = known[1:] < known[:-1]
        _raise_unsorted(drops.any(), drops.argmax())


def check_segments(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, indices_are_sorted: bool = False
) -> None:
    """Checks shapes and dtypes, the range of ids that lie on the host, and in debug mode order.

    Raises:
      ValueError: lengths differ, `num_segments` negative, an id out of range, or, in debug mode,
        ids that are not sorted though `indices_are_sorted`.
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
    if indices_are_sorted:
        check_sorted(segment_ids)


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


def _plain(data, segment_ids, num_segments, reduce, ordered):
    """The reduction in XLA."""
    kwargs = {"indices_are_sorted": ordered}
    if reduce in ("sum", "mean"):
        total = jax.ops.segment_sum(_widened(data), segment_ids, num_segments, **kwargs)
        if reduce == "mean":
            count = segment_count(segment_ids, num_segments, **kwargs)
            total = total / _rows(jnp.maximum(count, 1), total)
        return total.astype(data.dtype)
    put = jax.ops.segment_max if reduce == "max" else jax.ops.segment_min
    out = put(data, segment_ids, num_segments, **kwargs)
    filled = segment_count(segment_ids, num_segments, **kwargs) > 0
    return jnp.where(_rows(filled, out), out, jnp.zeros((), out.dtype))


def _spread(rows, segment_ids):
    """The row of each entry's segment; 0 where its id is none."""
    known = rows.at[segment_ids]
    return known.get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _plain_gradient(data, segment_ids, out, grad, reduce):
    grad = _widened(grad)
    if reduce in ("sum", "mean"):
        if reduce == "mean":
            count = segment_count(segment_ids, grad.shape[0], indices_are_sorted=True)
            grad = grad / _rows(jnp.maximum(count, 1), grad)
        return _spread(grad, segment_ids).astype(data.dtype)
    tied = (data == _spread(out, segment_ids)).astype(grad.dtype)
    ties = jax.ops.segment_sum(tied, segment_ids, grad.shape[0], indices_are_sorted=True)
    return (tied * _spread(grad / jnp.maximum(ties, 1), segment_ids)).astype(data.dtype)


def _kernel_operands(data, segment_ids, num_segments):
    ids = segment_ids.astype(jnp.int32)
    starts = jnp.arange(num_segments + 1, dtype=jnp.int32)
    offsets = jnp.searchsorted(ids, starts, method="scan_unrolled").astype(jnp.int32)
    return flat_rows(data), offsets, ids


def _kernel_forward(data, segment_ids, num_segments, reduce, *, backend):
    operands = _kernel_operands(data, segment_ids, num_segments)
    out, _ = kernel.forward(kernel.Options(reduce), *operands, backend=backend)
    return out.reshape(num_segments, *data.shape[1:])


def _kernel_gradient(data, segment_ids, out, grad, reduce, *, backend):
    operands = _kernel_operands(data, segment_ids, grad.shape[0])
    rows = (flat_rows(out), flat_rows(grad))
    gradient, *_ = kernel.backward(kernel.Options(reduce), operands, *rows, backend=backend)
    return gradient.reshape(data.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _sorted_reduce(data, segment_ids, num_segments, reduce, implementation):
    return by_platform(
        "segment_reduce",
        implementation,
        data,
        segment_ids,
        xla=functools.partial(_plain, num_segments=num_segments, reduce=reduce, ordered=True),
        kernel=functools.partial(_kernel_forward, num_segments=num_segments, reduce=reduce),
        backends=kernel.BACKENDS,
    )


def _sorted_reduce_fwd(data, segment_ids, num_segments, reduce, implementation):
    out = _sorted_reduce(data, segment_ids, num_segments, reduce, implementation)
    return out, (data, segment_ids, out)


def _sorted_reduce_bwd(num_segments, reduce, implementation, residuals, grad):
    plain = functools.partial(_plain_gradient, reduce=reduce)
    gradient = functools.partial(
        by_platform,
        "segment_reduce",
        implementation,
        xla=plain,
        kernel=functools.partial(_kernel_gradient, reduce=reduce),
        backends=kernel.BACKENDS,
    )
    return with_gradient_of(plain, gradient)(*residuals, grad), None


_sorted_reduce.defvjp(_sorted_reduce_fwd, _sorted_reduce_bwd)


def _segment(reduce, data, segment_ids, num_segments, ordered, implementation):
    check_implementation("segment_reduce", implementation, csr=False)
    check_segments(data, segment_ids, num_segments, ordered)
    data, segment_ids = jnp.asarray(data), jnp.asarray(segment_ids)
    reason: str | None
    if not ordered:
        reason = "the segment ids are not promised to be sorted (indices_are_sorted)"
    else:
        reason = kernel.unsupported(kernel.Options(reduce), data)
    if reason is None and may_serve(implementation):
        return _sorted_reduce(data, segment_ids, num_segments, reduce, implementation)
    plain = functools.partial(_plain, num_segments=num_segments, reduce=reduce, ordered=ordered)
    return by_platform(
        "segment_reduce", implementation, data, segment_ids, xla=plain, unsupported=reason
    )


def segment_sum(
    data: jax.Array,
    segment_ids: jax.Array,
    num_segments: int,
    *,
    indices_are_sorted: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Sum over each segment: data (E, ...), segment_ids (E,) int -> (S, ...).

    Args:
      indices_are_sorted: a promise that the ids do not fall; needed for the kernel.
      implementation: see `jgraph.ops.dispatch`.

    Raises:
      ValueError, TypeError: see `check_segments`; unknown `implementation`.
    """
    return _segment("sum", data, segment_ids, num_segments, indices_are_sorted, implementation)


def segment_mean(
    data: jax.Array,
    segment_ids: jax.Array,
    num_segments: int,
    *,
    indices_are_sorted: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Mean over each segment; arguments as in `segment_sum`."""
    return _segment("mean", data, segment_ids, num_segments, indices_are_sorted, implementation)


def segment_max(
    data: jax.Array,
    segment_ids: jax.Array,
    num_segments: int,
    *,
    indices_are_sorted: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Largest entry of each segment, arguments as in `segment_sum`; ties share the gradient."""
    return _segment("max", data, segment_ids, num_segments, indices_are_sorted, implementation)


def segment_min(
    data: jax.Array,
    segment_ids: jax.Array,
    num_segments: int,
    *,
    indices_are_sorted: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Smallest entry of each segment, arguments as in `segment_sum`; ties share the gradient."""
    return _segment("min", data, segment_ids, num_segments, indices_are_sorted, implementation)


def _on_xla(indices_are_sorted: bool) -> dict[str, Any]:
    return {"indices_are_sorted": indices_are_sorted, "implementation": "xla"}


def segment_std(
    data: jax.Array, segment_ids: jax.Array, num_segments: int, *, indices_are_sorted: bool = False
) -> jax.Array:
    """Population standard deviation of each segment, in two passes; its gradient at 0 is 0."""
    check_segments(data, segment_ids, num_segments, indices_are_sorted)
    kwargs = _on_xla(indices_are_sorted)
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
    kwargs = _on_xla(indices_are_sorted)
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
    kwargs = _on_xla(indices_are_sorted)
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
    total = segment_sum(weighted, segment_ids, num_segments, **_on_xla(indices_are_sorted))
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
    check_segments(data, segment_ids, num_segments, indices_are_sorted)
    if where is not None:
        data = jnp.where(_rows(where, data), data, -jnp.inf)
    return _softmax(data, segment_ids, num_segments, indices_are_sorted)
