"""What ops over sequences share: choosing between XLA and a kernel, and checking operands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from jgraph.ops.dispatch import by_platform
from pallas_kernels.call import differentiable


@functools.cache
def sequence_op(
    op: str,
    implementation: str,
    kernel: ModuleType,
    xla_forward: Callable[..., Any],
    xla_backward: Callable[..., Any],
) -> Callable[..., Any]:
    """`run(options, *operands) -> outputs`, differentiable, by the kernel or by XLA.

    The platform is chosen in the forward and in the backward pass, each when it is lowered.

    Args:
      kernel: the package in `pallas_kernels`.
      xla_forward, xla_backward: as the kernel's `forward` and `backward`, without a backend, with
        residuals of the same shapes.
    """

    def forward(options, *operands):
        return by_platform(
            op,
            implementation,
            *operands,
            xla=functools.partial(xla_forward, options),
            kernel=functools.partial(kernel.forward, options),
            backends=kernel.BACKENDS,
            unsupported=kernel.unsupported(options, *operands),
        )

    def backward(options, operands, residuals, cotangents):
        present = [x is not None and jnp.issubdtype(x.dtype, jnp.inexact) for x in operands]

        def form(run, operands, residuals, cotangents, **backend):
            gradients = run(options, operands, residuals, cotangents, **backend)
            return [
                gradient.astype(operand.dtype)
                for operand, gradient, there in zip(operands, gradients, present, strict=True)
                if there
            ]

        gradients = iter(
            by_platform(
                op,
                implementation,
                operands,
                residuals,
                cotangents,
                xla=functools.partial(form, xla_backward),
                kernel=functools.partial(form, kernel.backward),
                backends=kernel.BACKENDS,
                unsupported=kernel.unsupported(options, *operands),
            )
        )
        return tuple(next(gradients) if there else None for there in present)

    return differentiable(forward, backward)


def check_sequences(op: str, rank: int, letters: str, **sequences: jax.Array) -> None:
    """Checks that sequences (B, T, ...) agree in all but their last axis.

    `log_decay` may be float32 beside half-precision sequences.

    Raises:
      TypeError: not floating point, or different dtypes.
      ValueError: another rank, axes that differ, or an axis of length zero.
    """
    (first, leader), *_ = sequences.items()
    for name, x in sequences.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{op}: {name} is {x.dtype}; give it in floating point")
        if x.dtype != leader.dtype and not (name == "log_decay" and x.dtype == jnp.float32):
            raise TypeError(
                f"{op}: {name} is {x.dtype} and {first} {leader.dtype}; give them one dtype"
            )
        if x.ndim != rank:
            raise ValueError(f"{op}: {name} has shape {x.shape}; it must be {letters}")
        if x.shape[:-1] != leader.shape[:-1]:
            raise ValueError(
                f"{op}: {name} has shape {x.shape} and {first} {leader.shape}; both must be "
                f"{letters} and agree in all but the last axis"
            )
        if 0 in x.shape:
            raise ValueError(
                f"{op}: {name} has shape {x.shape}, without entries; every axis of {letters} "
                "needs a length of at least 1"
            )


def check_shape(op: str, name: str, x: jax.Array | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError or TypeError unless `x` is None, or floating with this shape."""
    if x is None:
        return
    if x.shape != shape:
        raise ValueError(f"{op}: {name} has shape {x.shape}; for these operands it must be {shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{op}: {name} is {x.dtype}; give it in floating point")


def check_reset(op: str, reset: jax.Array | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError or TypeError unless `reset` is None, or bool with this shape (B, T)."""
    if reset is None:
        return
    if reset.shape != shape:
        raise ValueError(f"{op}: reset has shape {reset.shape}; it must be (B, T) = {shape}")
    if reset.dtype != jnp.bool_:
        raise TypeError(f"{op}: reset is {reset.dtype}; give it as bool, True at the first steps")
