"""What holds for every kernel: it equals its reference, lowers for its devices, and shards."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowering import calls_kernel, lower

from pallas_kernels import check


def _cases(which, *dtypes):
    return [
        pytest.param(name, spec, dtype, id=f"{name}-{spec.name}-{dtype}")
        for name in check.kernels()
        for spec in check.load(name)[1].SPECS[which]
        for dtype in dtypes
    ]


@pytest.mark.parametrize(("name", "spec", "dtype"), _cases("test", "float32", "bfloat16"))
def test_kernel_equals_reference(name, spec, dtype):
    errors = check.errors(name, spec, dtype, "interpret")
    assert max(errors.values()) <= check.TOLERANCE[dtype], errors


@pytest.mark.parametrize("name", check.kernels())
def test_kernel_gives_the_same_bits_twice(name):
    package, specs = check.load(name)
    options, operands = specs.make(specs.SPECS["test"][0], jnp.dtype("float32"))
    run = jax.jit(functools.partial(getattr(package, name), options, backend="interpret"))
    for a, b in zip(jax.tree.leaves(run(*operands)), jax.tree.leaves(run(*operands)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "spec", "dtype"), _cases("gpu", "float32", "bfloat16"))
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_kernel_lowers_at_the_shapes_of_the_benchmark(name, spec, dtype, platform):
    package, specs = check.load(name)
    backend = "gpu" if platform == "cuda" else platform
    if backend not in package.BACKENDS:
        pytest.skip(f"XLA serves {name} on {platform}")
    options, shapes = specs.shapes(spec, jnp.dtype(dtype))
    run = functools.partial(getattr(package, name), options, backend=backend)
    assert calls_kernel(lower(platform, run, *shapes))

    def backward(*operands):
        outputs, pull, _ = check.pullback(run, operands)
        return pull(jax.tree.map(jnp.ones_like, outputs))

    assert calls_kernel(lower(platform, backward, *shapes))


@pytest.mark.parametrize("name", check.kernels())
def test_shapes_are_those_of_the_inputs(name):
    specs = check.load(name)[1]
    for spec in specs.SPECS["test"]:
        options, operands = specs.make(spec, jnp.dtype("float32"))
        same, shapes = specs.shapes(spec, jnp.dtype("float32"))
        assert same == options
        assert [None if x is None else (x.shape, x.dtype) for x in operands] == [
            None if x is None else (x.shape, x.dtype) for x in shapes
        ]


def test_kernels_under_shard_map_equal_the_whole():
    """In a process of its own: the number of simulated devices is fixed when JAX starts."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("sharded.py")
    command = [sys.executable, str(script), *check.kernels()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_difference_and_a_number_that_is_not_finite_are_seen():
    assert check.difference(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert check.difference(np.array([np.nan]), np.array([1.0])) == float("inf")
    with pytest.raises(ValueError, match="shape"):
        check.difference(np.zeros(2), np.zeros(3))
