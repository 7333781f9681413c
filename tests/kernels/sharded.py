"""Runs each named kernel on two simulated devices and compares the parts with the whole."""

import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh


def main(names: list[str]) -> None:
    """Fails with the kernel's name where parts put together are not the whole."""
    mesh = Mesh(np.array(jax.devices()), ("part",))
    for name in names:
        module = importlib.import_module(f"pallas_kernels.{name}")
        specs = importlib.import_module(f"pallas_kernels.{name}.specs")
        spec = next(s for s in specs.SPECS["test"] if s.name == specs.SHARDED)
        options, operands = specs.make(spec, jnp.dtype("float32"))
        in_specs, out_specs = specs.partition("part", operands)
        run = functools.partial(getattr(module, name), options, backend="interpret")
        parts = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=out_specs))
        got, want = jax.tree.leaves(parts(*operands)), jax.tree.leaves(run(*operands))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)


if __name__ == "__main__":
    main(sys.argv[1:])
