import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import nn


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.fixture
def x():
    return (10 + 3 * np.random.default_rng(0).standard_normal((12, 4))).astype(np.float32)


@pytest.fixture
def ready(x):
    module = nn.BatchNorm()
    return module, jax.jit(module.init)(jax.random.key(0), x)


@functools.partial(jax.jit, static_argnums=0)
def train(module, variables, x, mask=None):
    return module.apply(variables, x, mask=mask, train=True, mutable=["batch_stats"])


def test_batch_norm_equals_its_formula(ready, x):
    y, new = train(*ready, x)
    close(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 1e-4)
    close(new["batch_stats"]["mean"], 0.1 * x.mean(0))
    close(new["batch_stats"]["var"], 0.9 + 0.1 * x.var(0, ddof=1))
    quiet = ready[0].apply({**ready[1], **new}, x)
    stats = new["batch_stats"]
    close(quiet, (x - stats["mean"]) / np.sqrt(np.asarray(stats["var"]) + 1e-5))


@pytest.mark.parametrize("filling", [0.0, 1e6, np.nan])
def test_masked_rows_change_nothing(ready, x, filling):
    padded = np.concatenate([x, np.full((5, 4), filling, np.float32)])
    mask = np.arange(17) < 12
    y, new = train(*ready, x)
    masked_y, masked_new = train(*ready, padded, mask)
    close(masked_y[:12], y)
    jax.tree.map(close, masked_new, new)

    def loss(x):
        y = train(*ready, x, mask)[0]
        return jnp.sum(jnp.where(mask[:, None], y, 0) ** 3)

    grad = jax.jit(jax.grad(loss))(jnp.asarray(padded))
    assert np.isfinite(grad[:12]).all()


def test_no_real_row_gives_no_nan_and_keeps_the_moments(ready, x):
    module, variables = ready
    y, new = train(module, variables, x, np.zeros(12, bool))
    assert np.isfinite(y).all()
    jax.tree.map(close, new["batch_stats"], variables["batch_stats"])


def test_bfloat16_keeps_float32_statistics(ready, x):
    y, new = train(*ready, jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))
    close(new["batch_stats"]["mean"], 0.1 * x.mean(0), 5e-3)


def test_axis_name_shares_the_moments(x):
    module = nn.BatchNorm(axis_name="devices")
    variables = jax.jit(module.init)(jax.random.key(0), x)
    whole, new = train(nn.BatchNorm(), variables, x)

    def part(x):
        return train(module, variables, x)

    y, shared = jax.vmap(part, axis_name="devices")(x.reshape(3, 4, 4))
    close(y.reshape(12, 4), whole, 1e-4)
    jax.tree.map(lambda a, b: close(a[0], b), shared, dict(new))


def test_layer_norm_equals_its_formula(x):
    module = nn.LayerNorm()
    variables = jax.jit(module.init)(jax.random.key(0), x)
    y = module.apply(variables, x)
    close(y, (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5), 1e-4)
    half = module.apply(variables, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    close(half.astype(jnp.float32), y, 0.05)


def test_unknown_norm_is_rejected():
    assert nn.make_norm("none") is None
    with pytest.raises(ValueError, match="norm is 'batchnorm'; choose one of none, batch, layer"):
        nn.make_norm("batchnorm")


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_mlp_every_parameter_has_a_gradient(norm, x, noisy):
    module = nn.MLP((6, 2), norm=norm, dropout=0.2)
    variables = noisy(module, x)

    def loss(params):
        y, _ = module.apply(
            {**variables, "params": params},
            x,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.sin(y))

    grads = jax.jit(jax.grad(loss))(variables["params"])
    assert all(np.abs(g).max() > 1e-6 for g in jax.tree.leaves(grads))
