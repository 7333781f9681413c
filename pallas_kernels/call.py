"""What every kernel of this package shares: how it is launched, and how it is differentiated.

A GPU kernel goes through Pallas' Triton lowering. It uses loads, stores, dot products and loops
alone, on arrays whose sizes are powers of two, so that it can be carried to another lowering line
by line. `interpret=True` runs the same kernel as plain JAX on any device; memory that a kernel
did not write is NaN there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

BACKENDS = ("gpu", "tpu", "interpret")


def out_struct(shape: tuple[int, ...], dtype: Any, *operands: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a kernel's result, varying over the mesh axes its operands vary over.

    Inside `jax.shard_map` a kernel works on the shard at hand, and this says so to its caller.
    """
    kinds = [jax.typeof(leaf).manual_axis_type for leaf in jax.tree.leaves(operands)]
    varying = frozenset().union(*(kind.varying for kind in kinds))
    if not varying:
        return jax.ShapeDtypeStruct(shape, dtype)
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=type(kinds[0])(varying=varying))


def gpu_call(
    kernel: Callable[..., None],
    *,
    grid: tuple[int, ...],
    out_shape: Any,
    name: str,
    interpret: bool = False,
    num_warps: int = 4,
    num_stages: int = 2,
    aliases: Mapping[int, int] | None = None,
) -> Callable[..., Any]:
    """A kernel over whole arrays, as a function of them.

    Args:
      kernel: takes one reference per operand and per result, none of them blocked; it finds its
        part by `pl.program_id`.
      grid: at most three numbers of programs.
      out_shape: from `out_struct`, one or a list.
      aliases: operand number -> result number that shares its memory.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=out_shape,
        name=name,
        interpret=interpret,
        input_output_aliases=dict(aliases or {}),
        compiler_params=triton.CompilerParams(num_warps=num_warps, num_stages=num_stages),
    )


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least `n` (and 1)."""
    return 1 << max(n - 1, 0).bit_length()


def differentiable(
    forward: Callable[..., tuple[Any, Any]], backward: Callable[..., tuple[Any, ...]]
) -> Callable[..., Any]:
    """`run(options, *operands) -> outputs` with the gradient that `backward` computes.

    Args:
      forward: (options, *operands) -> (outputs, residuals).
      backward: (options, operands, residuals, cotangents) -> one gradient per operand, None for
        an integer or absent one.

    `options` is hashable and static; an absent operand is None.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def run(options, *operands):
        return forward(options, *operands)[0]

    def run_fwd(options, *operands):
        outputs, residuals = forward(options, *operands)
        return outputs, (operands, residuals)

    def run_bwd(options, saved, cotangents):
        operands, residuals = saved
        gradients = backward(options, operands, residuals, cotangents)
        return tuple(
            gradient if operand is None or gradient is None else gradient.astype(operand.dtype)
            for operand, gradient in zip(operands, gradients, strict=True)
        )

    run.defvjp(run_fwd, run_bwd)
    return lambda options, *operands: run(options, *_varying_alike(operands))


def forms(
    package: str, backends: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """`forward`, `backward` and the differentiable op of a kernel's package.

    They are those of its modules `gpu` and `tpu`, imported at the first call, and take
    `backend`: one of `backends`, or "interpret" for the GPU kernel as plain JAX.

        forward(options, *operands, backend="gpu") -> (outputs, residuals)
        backward(options, operands, residuals, cotangents, backend="gpu") -> gradients
        op(options, *operands, backend="gpu") -> outputs
    """

    def part(function: str) -> Callable[..., Any]:
        def call(options: Any, *arguments: Any, backend: str = "gpu") -> Any:
            if backend not in (*backends, "interpret"):
                raise ValueError(
                    f"backend is {backend!r}; {package} has {', '.join(backends)} and 'interpret'"
                )
            module = importlib.import_module(f"{package}.{'tpu' if backend == 'tpu' else 'gpu'}")
            interpret = {"interpret": True} if backend == "interpret" else {}
            return getattr(module, function)(options, *arguments, **interpret)

        return call

    forward, backward = part("forward"), part("backward")

    @functools.cache
    def at(backend: str) -> Callable[..., Any]:
        return differentiable(
            functools.partial(forward, backend=backend),
            functools.partial(backward, backend=backend),
        )

    def run(options: Any, *operands: Any, backend: str = "gpu") -> Any:
        return at(backend)(options, *operands)

    return forward, backward, run


def _varying_alike(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inside `jax.shard_map`, operands that vary over the same mesh axes.

    The gradient of an operand that all devices share is then the sum of theirs.
    """

    def axes(x: Any) -> frozenset[str]:
        return jax.typeof(x).manual_axis_type.varying

    every = frozenset().union(*map(axes, jax.tree.leaves(operands)))

    def vary(x: Any) -> Any:
        missing = tuple(sorted(every - axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, operands) if every else operands
