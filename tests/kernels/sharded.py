"""Runs each named kernel on two simulated devices and compares the parts with the whole."""

import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jgraph import ops


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
        # The interpreter mixes in arrays that vary over no axis; kernels proper do not.
        parts = jax.jit(
            jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        )
        got, want = jax.tree.leaves(parts(*operands)), jax.tree.leaves(run(*operands))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)


def shared_parameters() -> None:
    """Fails unless the gradient of parameters that devices share is that of the whole batch."""
    mesh, rng = Mesh(np.array(jax.devices()), ("part",)), np.random.default_rng(0)
    k, v = (jnp.asarray(rng.normal(size=(4, 5, 3)), jnp.float32) for _ in range(2))
    w, u = -jnp.exp(jnp.asarray(rng.normal(size=3), jnp.float32)), jnp.ones(3)

    def loss(k, v, w, u):
        return jnp.sum(jnp.sin(ops.wkv4(k, v, w, u, implementation="xla")[0]))

    def of_part(k, v, w, u):
        return jax.lax.psum(loss(k, v, w, u), "part")

    specs = (P("part"), P("part"), P(), P())
    whole = jax.shard_map(of_part, mesh=mesh, in_specs=specs, out_specs=P())
    got = jax.jit(jax.grad(whole, (0, 2, 3)))(k, v, w, u)
    for a, b in zip(got, jax.grad(loss, (0, 2, 3))(k, v, w, u), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    shared_parameters()
    main(sys.argv[1:])
