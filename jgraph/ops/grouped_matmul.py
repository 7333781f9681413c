"""Rows in groups, each group times its own matrix: relations of a graph, experts of a mixture.

    Y[scatter_i] = scale_i X[gather_i] W[g]      for the rows i of group g

    dX[gather_i] += scale_i dY[scatter_i] W[g]^T      dW[g] = sum_{i in g} scale_i X_i^T dY_i

On a GPU the kernel of `pallas_kernels.grouped_matmul` gathers, scales and puts rows in place while
it loads and stores them. Elsewhere XLA's `ragged_dot` serves, but not on a CPU, where that costs as
much as a product of all rows with every matrix: there, tiles of rows of one group are multiplied in
turn, so that no matrix is copied per tile, as padding all groups for one batched product would
(times beside `ragged_dot` are in experiments/results/bench-kernels-cpu.json).

The template of relational layers in Wu et al., "PIGEON", arXiv 2301.06284 (Hector, ASPLOS 2024).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

from jgraph.ops.dispatch import by_platform, check_implementation
from pallas_kernels import grouped_matmul as package
from pallas_kernels.call import differentiable

TILE = 256  # rows of a tile on a CPU


def _inside(offsets: jax.Array, count: int) -> jax.Array:
    numbers = jnp.arange(count)
    return (numbers >= offsets[0]) & (numbers < offsets[-1])


def _rows(x: Any, places: Any) -> Any:
    return x if places is None else jnp.take(x, places, axis=0)


def _ragged_sizes(offsets: jax.Array) -> jax.Array:
    # ragged_dot has no rows before its first group: they join that group and are masked.
    return jnp.diff(offsets).at[0].add(offsets[0])


def _exact(dtype: Any) -> dict[str, Any]:
    return {
        "precision": jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        "preferred_element_type": jnp.promote_types(dtype, jnp.float32),
    }


# ragged_dot has no vmap over rows alone; one product after the other is right for any operands.
@sequential_vmap
def _ragged_dot(rows: jax.Array, weights: jax.Array, sizes: jax.Array) -> jax.Array:
    return jax.lax.ragged_dot(rows, weights, sizes, **_exact(rows.dtype))


_OVER_ROWS = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())),
    lhs_ragged_dimensions=(0,),
    rhs_group_dimensions=(),
)


@sequential_vmap
def _ragged_outer(rows: jax.Array, dy: jax.Array, sizes: jax.Array) -> jax.Array:
    return jax.lax.ragged_dot_general(rows, dy, sizes, _OVER_ROWS, **_exact(rows.dtype))


def _ragged_forward(x, weights, offsets, gather, order, gather_offsets, scatter, scale):
    rows = _rows(x, gather)
    live = _inside(offsets, rows.shape[0])[:, None]
    y = _ragged_dot(jnp.where(live, rows, 0), weights, _ragged_sizes(offsets))
    y = jnp.where(live, y, 0)
    if scale is not None:
        y = y * scale.astype(y.dtype)[:, None]
    y = y.astype(x.dtype)
    return y if scatter is None else jnp.zeros_like(y).at[scatter].set(y, unique_indices=True)


def _ragged_backward(operands, grad):
    x, weights, offsets, gather, order, _, scatter, scale = operands
    sizes, dy = _ragged_sizes(offsets), _rows(grad.astype(x.dtype), scatter)
    live = _inside(offsets, dy.shape[0])[:, None]
    dy, rows = jnp.where(live, dy, 0), jnp.where(live, _rows(x, gather), 0)
    pulled = jnp.where(live, _ragged_dot(dy, weights.swapaxes(1, 2), sizes), 0)
    dscale = None
    if scale is not None:
        dscale = jnp.sum(pulled * rows.astype(pulled.dtype), axis=1)
        factor = scale.astype(pulled.dtype)[:, None]
        pulled, dy = pulled * factor, (dy * factor).astype(dy.dtype)
    if gather is not None:
        # Sorted, so that rows are added up in a fixed order.
        pulled = jax.ops.segment_sum(
            _rows(pulled, order), _rows(gather, order), x.shape[0], indices_are_sorted=True
        )
    return pulled, _ragged_outer(rows, dy, sizes), dscale


def _tiles(offsets: jax.Array, count: int, gather: Any, scatter: Any, scale: Any) -> Any:
    """(group (T,); live, source, target, scale, number of each row (T, TILE)) of all tiles."""
    from pallas_kernels.grouped_matmul.blocks import tile_rows

    height = min(TILE, count)
    cut = tile_rows(offsets, count, height)
    numbers = cut.start[:, None] + jnp.arange(height, dtype=jnp.int32)
    groups = offsets.shape[0] - 1
    live = (numbers < cut.end[:, None]) & ((cut.group >= 0) & (cut.group < groups))[:, None]
    safe = jnp.where(live, numbers, 0)
    return (
        jnp.clip(cut.group, 0, groups - 1),
        live,
        safe if gather is None else jnp.take(gather, safe),
        # Rows past the last are dropped where they are stored.
        jnp.where(live, safe if scatter is None else jnp.take(scatter, safe), count),
        jnp.where(live, 1 if scale is None else jnp.take(scale, safe), 0),
        safe,
    )


def _tile_forward(x, weights, offsets, gather, order, gather_offsets, scatter, scale):
    count = x.shape[0] if gather is None else gather.shape[0]
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def one(out, tile):
        group, _, source, target, factor, _ = tile
        rows, matrix = x[source].astype(wide), weights[group].astype(wide)
        y = jnp.dot(rows, matrix, precision=jax.lax.Precision.HIGHEST)
        if scale is not None:
            y = y * factor[:, None].astype(wide)
        return out.at[target].set(y.astype(out.dtype), mode="drop"), None

    out = jnp.zeros((count, weights.shape[2]), x.dtype)
    return jax.lax.scan(one, out, _tiles(offsets, count, gather, scatter, scale))[0]


def _tile_backward(operands, grad):
    x, weights, offsets, gather, _, _, scatter, scale = operands
    count = grad.shape[0]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    precision = jax.lax.Precision.HIGHEST

    def one(sums, tile):
        dx, dweights, dscale = sums
        group, live, source, target, factor, number = tile
        rows, matrix = x[source].astype(wide), weights[group].astype(wide)
        rows = jnp.where(live[:, None], rows, 0)
        dy = jnp.where(live[:, None], grad[jnp.minimum(target, count - 1)].astype(wide), 0)
        pulled = jnp.dot(dy, matrix.T, precision=precision)
        if scale is not None:
            place = jnp.where(live, number, count)
            dscale = dscale.at[place].set(jnp.sum(pulled * rows, axis=1), mode="drop")
            factor = factor[:, None].astype(wide)
            pulled, dy = pulled * factor, dy * factor
        # One after the other, so rows that were gathered several times add up in a fixed order.
        dx = dx.at[source].add(pulled, mode="promise_in_bounds")
        return (dx, dweights.at[group].add(jnp.dot(rows.T, dy, precision=precision)), dscale), None

    sums = (jnp.zeros(x.shape, wide), jnp.zeros(weights.shape, wide), jnp.zeros(count, wide))
    tiles = _tiles(offsets, count, gather, scatter, scale)
    dx, dweights, dscale = jax.lax.scan(one, sums, tiles)[0]
    return dx, dweights, None if scale is None else dscale


def _forward(implementation: str, *operands: Any) -> tuple[Any, tuple[()]]:
    options = package.Options()

    def kernel(*operands, backend):
        return package.forward(options, *operands, backend=backend)[0]

    out = by_platform(
        "grouped_matmul",
        implementation,
        *operands,
        xla=_ragged_forward,
        csr=_tile_forward,
        kernel=kernel,
        backends=package.BACKENDS,
        unsupported=package.unsupported(options, *operands),
    )
    return out, ()


def _backward(implementation: str, operands: Any, residuals: Any, grad: Any) -> tuple[Any, ...]:
    options, grad = package.Options(), jnp.asarray(grad)
    if operands[3] is not None and operands[4] is None:
        order, offsets = sort_gather(operands[3], operands[0].shape[0])
        operands = (*operands[:4], order, offsets, *operands[6:])

    def cast(run):
        def wide(operands, grad):
            dx, dweights, dscale = run(operands, grad)
            x, weights, scale = operands[0], operands[1], operands[7]
            return (
                dx.astype(x.dtype),
                dweights.astype(weights.dtype),
                None if scale is None else dscale.astype(scale.dtype),
            )

        return wide

    def kernel(operands, grad, backend):
        found = package.backward(options, operands, (), grad, backend=backend)
        scale = operands[7]
        return found[0], found[1], None if scale is None else found[7].astype(scale.dtype)

    dx, dweights, dscale = by_platform(
        "grouped_matmul",
        implementation,
        operands,
        grad,
        xla=cast(_ragged_backward),
        csr=cast(_tile_backward),
        kernel=kernel,
        backends=package.BACKENDS,
        unsupported=package.unsupported(options, *operands),
    )
    return dx, dweights, None, None, None, None, None, dscale


_run = differentiable(_forward, _backward)


def sort_gather(gather: Any, num_rows: int) -> tuple[Any, Any]:
    """(order (M,), offsets (num_rows + 1,)): the way from gathered rows to those that used them.

    The gradient of gathered rows is summed in this order. Made once on the host (from an array of
    NumPy) it saves a sort in every backward pass.

    Args:
      gather: (M,) integers in [0, num_rows).
    """
    numpy = np if isinstance(gather, np.ndarray) else jnp
    order = numpy.argsort(gather, stable=True)
    offsets = numpy.searchsorted(gather[order], numpy.arange(num_rows + 1))
    return order.astype(np.int32), offsets.astype(np.int32)


def _known(array: Any) -> np.ndarray | None:
    """The entries of an array if they can be looked at: on the host, or anywhere in debug mode."""
    if isinstance(array, (np.ndarray, list, tuple)):
        return np.asarray(array)
    debug = jax.config.jax_enable_checks  # type: ignore[attr-defined]
    if debug and not isinstance(array, jax.core.Tracer):
        return np.asarray(array)
    return None


def _check_integers(name: str, array: Any, length: int | None, bound: int, what: str) -> Any:
    """int32 `array`, of entries in [0, bound)."""
    known = _known(array)
    array = np.asarray(array) if isinstance(array, (list, tuple)) else array
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} holds {array.dtype}; it must hold integers: use astype('int32')")
    if array.ndim != 1 or (length is not None and array.shape[0] != length):
        raise ValueError(f"{name} has shape {array.shape}; it must be ({length or 'M'},)")
    if known is not None and known.size and (known.min() < 0 or known.max() >= bound):
        raise ValueError(f"{name} spans {known.min()} to {known.max()}, outside the {bound} {what}")
    return array.astype(np.int32)


def _offsets(group_offsets: Any, group_ids: Any, groups: int, count: int) -> Any:
    if (group_offsets is None) == (group_ids is None):
        raise ValueError("give group_offsets or group_ids, and not both")
    if group_offsets is not None:
        offsets = _check_integers(
            "group_offsets", group_offsets, groups + 1, count + 1, "places between rows"
        )
        known = _known(group_offsets)
        if known is not None and np.any(np.diff(known) < 0):
            place = int(np.argmax(np.diff(known) < 0))
            raise ValueError(
                f"group_offsets decrease from {known[place]} to {known[place + 1]} at position "
                f"{place}; sort the rows by group and pass where each group begins"
            )
        return offsets
    ids = _check_integers("group_ids", group_ids, count, groups, "matrices in weights")
    known = _known(group_ids)
    if known is not None and np.any(np.diff(known) < 0):
        place = int(np.argmax(np.diff(known) < 0))
        raise ValueError(
            f"group_ids are not sorted: {known[place]} at position {place} stands before "
            f"{known[place + 1]}; sort the rows by group (order = np.argsort(ids, kind='stable'), "
            "gather=order, scatter=order)"
        )
    numpy = np if isinstance(ids, np.ndarray) else jnp
    return numpy.searchsorted(ids, numpy.arange(groups + 1)).astype(np.int32)


def _check_scatter(scatter: Any, count: int) -> Any:
    checked = _check_integers("scatter", scatter, count, count, "rows of the result")
    known = _known(scatter)
    if known is not None and np.unique(known).size != known.size:
        raise ValueError(
            "scatter names a row twice; it must be a permutation. To add up results, leave it out "
            "and apply ops.spmm or ops.segment_sum to them"
        )
    return checked


def grouped_matmul(
    x: jax.Array,
    weights: jax.Array,
    *,
    group_offsets: Any = None,
    group_ids: Any = None,
    gather: Any = None,
    gather_index: tuple[Any, Any] | None = None,
    scatter: Any = None,
    scale: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """`Y[scatter_i] = scale_i X[gather_i] W[group of row i]` for M rows sorted by group.

    Results are not added up: to sum them at receivers, take `ops.spmm` or `ops.segment_sum` of
    them, which have a fixed order.

    Args:
      x: (P, K) floating; P = M unless rows are gathered.
      weights: (G, K, N) of the same dtype.
      group_offsets: (G + 1,) integers, not decreasing: group g has the rows
        group_offsets[g] : group_offsets[g + 1]. Rows before the first and after the last give 0.
      group_ids: (M,) sorted integers in [0, G), instead of `group_offsets`.
      gather: (M,) rows of x, with repetitions; None for row i.
      gather_index: `sort_gather(gather, P)`; without it the backward pass sorts.
      scatter: (M,) a permutation: where results go; None for row i.
      scale: (M,) floating factor of each row; None for 1.
      implementation: see `jgraph.ops.dispatch`.

    Order, range and uniqueness are checked where arrays lie on the host (NumPy), and in debug mode
    (`jax.config.update("jax_enable_checks", True)`) also for arrays on a device outside of jit.

    Returns:
      (M, N) in the dtype of x, accumulated in float32 at least.

    Raises:
      ValueError: shapes that do not fit, groups that are not sorted, indices out of range.
      TypeError: indices that are not integers, x and weights that are not floating and alike.
    """
    check_implementation("grouped_matmul", implementation)
    x, weights = jnp.asarray(x), jnp.asarray(weights)
    if x.ndim != 2 or weights.ndim != 3 or x.shape[1] != weights.shape[1]:
        raise ValueError(
            f"x must be (rows, K) and weights (groups, K, N), got {x.shape} and {weights.shape}"
        )
    if x.dtype != weights.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"x is {x.dtype} and weights are {weights.dtype}; both must be of one floating dtype"
        )
    groups, _, columns = weights.shape
    order = starts = None
    if gather is not None:
        gather = _check_integers("gather", gather, None, x.shape[0], "rows of x")
    count = x.shape[0] if gather is None else gather.shape[0]
    if gather_index is not None:
        if gather is None:
            raise ValueError("gather_index is given without gather")
        order = _check_integers("gather_index[0]", gather_index[0], count, count, "rows")
        starts = _check_integers(
            "gather_index[1]", gather_index[1], x.shape[0] + 1, count + 1, "places between rows"
        )
    offsets = _offsets(group_offsets, group_ids, groups, count)
    if scatter is not None:
        scatter = _check_scatter(scatter, count)
    if scale is not None:
        scale = jnp.asarray(scale)
        if scale.shape != (count,) or not jnp.issubdtype(scale.dtype, jnp.floating):
            raise ValueError(
                f"scale must be floating of shape ({count},), got {scale.dtype} {scale.shape}"
            )
    if count == 0 or groups == 0 or x.size == 0 or columns == 0:
        return jnp.zeros((count, columns), x.dtype)
    indices = [None if a is None else jnp.asarray(a) for a in (gather, order, starts, scatter)]
    return _run(implementation, x, weights, jnp.asarray(offsets), *indices, scale)
