"""Forward and backward pass, made of the kernels of `gpu_rows` and `gpu_weights`.

Y  = times_groups(X)                      gathers, scales and puts in place
dX = times_groups(dY) with W transposed, put back; where rows of X were gathered, one gradient
     per gathered row, which a second pass sums in a fixed order
dW = weight_gradient(X, dY)
dscale_i = <dY_i W^T, X_i>, taken while dX is computed
"""

from __future__ import annotations

from typing import Any

import jax

from pallas_kernels import row_tiles
from pallas_kernels.grouped_matmul.gpu_rows import times_groups
from pallas_kernels.grouped_matmul.gpu_weights import weight_gradient
from pallas_kernels.grouped_matmul.reference import Options


def forward(
    options: Options, *operands: Any, interpret: bool = False
) -> tuple[jax.Array, tuple[()]]:
    """(Y (M, N), no residuals); operands as in `reference`."""
    x, weights, offsets, gather, _, _, scatter, scale = operands
    count = x.shape[0] if gather is None else gather.shape[0]
    y, _ = times_groups(
        x, weights, offsets, count,
        source=gather, target=scatter, scale=scale, interpret=interpret,
    )  # fmt: skip
    return y, ()


def _first(weight: Any, gathered: list[Any], own: list[Any]) -> Any:
    return gathered[0]


def backward(
    options: Options, operands: Any, residuals: Any, cotangents: Any, interpret: bool = False
) -> tuple[Any, ...]:
    """One gradient per operand of `reference`; None for integer and absent ones."""
    x, weights, offsets, gather, order, gather_offsets, scatter, scale = operands
    dy, count = cotangents.astype(x.dtype), cotangents.shape[0]
    dx, dscale = times_groups(
        dy, weights, offsets, count,
        source=scatter, scale=scale, transposed=True,
        other=None if scale is None else x, other_row=gather, interpret=interpret,
    )  # fmt: skip
    if gather is not None:
        dx = row_tiles.reduce_rows(
            gather_offsets,
            row_tiles.Walk(columns=order),
            (dx,),
            message=_first,
            reduce="sum",
            dtype=x.dtype,
            blocks=row_tiles.DEFAULTS,
            name="grouped_matmul_sum",
            interpret=interpret,
        )
    dweights = weight_gradient(
        x, dy, offsets, count, weights.dtype,
        source=gather, target=scatter, scale=scale, interpret=interpret,
    )  # fmt: skip
    return dx, dweights, None, None, None, None, None, dscale
