"""Comparison of a kernel with its reference: outputs and every gradient.

Tests, `jgraph doctor` and the benchmark's gate all ask this module.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.specs import Spec

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


@functools.cache
def kernels() -> tuple[str, ...]:
    """Sorted names of the kernels: the packages of this one."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return tuple(sorted(module.name for module in found if module.ispkg))


def load(name: str) -> tuple[ModuleType, ModuleType]:
    """A kernel's package and its `specs`.

    Raises:
      ValueError: no such kernel.
    """
    if name not in kernels():
        raise ValueError(f"there is no kernel {name!r}; there are {', '.join(kernels())}")
    package = importlib.import_module(f"pallas_kernels.{name}")
    return package, importlib.import_module(f"pallas_kernels.{name}.specs")


def floating(x: Any) -> bool:
    """Whether an operand is there and can be differentiated by."""
    return x is not None and jnp.issubdtype(x.dtype, jnp.inexact)


def pullback(run: Callable[..., Any], operands: Sequence[Any]) -> tuple[Any, Callable, list[int]]:
    """`jax.vjp` of `run(*operands)` by its floating operands, and their places."""
    places = [i for i, x in enumerate(operands) if floating(x)]

    def of_floating(*arrays):
        full = list(operands)
        for place, array in zip(places, arrays):
            full[place] = array
        return run(*full)

    outputs, pull = jax.vjp(of_floating, *(operands[i] for i in places))
    return outputs, pull, places


def cotangents_for(outputs: Any, seed: int = 7) -> Any:
    """Normal cotangents, the same for outputs of the same shapes."""
    rng = np.random.default_rng(seed)
    leaves, tree = jax.tree.flatten(outputs)
    made = []
    for x in leaves:
        values = rng.standard_normal(x.shape)
        if jnp.iscomplexobj(x):
            values = values + 1j * rng.standard_normal(x.shape)
        made.append(jnp.asarray(values, x.dtype))
    return jax.tree.unflatten(tree, made)


def widened(x: Any) -> Any:
    """Half precision as float32; everything else as it is."""
    if not floating(x) or jnp.finfo(x.dtype).bits >= 32:
        return x
    return x.astype(jnp.float32)


def difference(got: Any, want: Any) -> float:
    """Largest difference, relative to the largest entry or 1; inf if `got` is not finite.

    Raises:
      ValueError: shapes that differ.
    """
    got, want = np.asarray(widened(got)), np.asarray(widened(want))
    if got.shape != want.shape:
        raise ValueError(f"the shape is {got.shape}, the reference has {want.shape}")
    if not np.all(np.isfinite(got)):
        return float("inf")
    scale = max(float(np.abs(want).max(initial=0.0)), 1.0)
    return float(np.abs(got - want).max(initial=0.0)) / scale


def errors(name: str, spec: Spec, dtype: str, backend: str) -> dict[str, float]:
    """Relative difference between kernel and reference of each output and each gradient.

    The reference computes in float32 from the very operands, also those of half precision.

    Raises:
      ValueError: the kernel does not take these operands.
      TypeError: a gradient that has not the dtype of its operand.
    """
    package, specs = load(name)
    options, operands = specs.make(spec, jnp.dtype(dtype))
    reason = package.unsupported(options, *operands)
    if reason:
        raise ValueError(f"{name} does not take {spec.name} in {dtype}: {reason}")
    kernel = functools.partial(getattr(package, name), options, backend=backend)
    wide = [widened(x) for x in operands]
    want, want_pull, places = pullback(functools.partial(package.reference, options), wide)
    got, pull, _ = pullback(kernel, operands)
    found = {
        f"output {i}": difference(a, b)
        for i, (a, b) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    }
    gradients, want_gradients = pull(cotangents_for(got)), want_pull(cotangents_for(want))
    for place, a, b in zip(places, gradients, want_gradients, strict=True):
        if a.dtype != operands[place].dtype:
            raise TypeError(
                f"gradient of operand {place} is {a.dtype}, not {operands[place].dtype}"
            )
        found[f"gradient of operand {place}"] = difference(a, b)
    return found
