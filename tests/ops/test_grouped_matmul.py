"""Grouped products against a loop over the groups, with every gradient."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jgraph.ops.grouped_matmul import grouped_matmul, sort_gather
from pallas_kernels import grouped_matmul as package

# The package exports the function under the module's name.
module = importlib.import_module("jgraph.ops.grouped_matmul")

# An empty group, a group of one row, and rows outside of all groups at both ends.
OFFSETS = np.array([2, 2, 3, 20, 26])
M, P, K, N = 30, 11, 3, 5


def case(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    arrays = (rng.normal(size=(P, K)), rng.normal(size=(4, K, N)), rng.random(M) + 0.5)
    gather, scatter = rng.integers(0, P, M), rng.permutation(M)
    return [jnp.asarray(a, dtype) for a in arrays], gather, scatter


def by_group(x, weights, scale, gather, scatter):
    """One product per group, put together."""
    rows = x[gather]
    out = jnp.zeros((M, N), x.dtype)
    for g in range(4):
        part = slice(int(OFFSETS[g]), int(OFFSETS[g + 1]))
        out = out.at[scatter[part]].set(scale[part, None] * (rows[part] @ weights[g]))
    return out


def pulled(run, *arrays):
    out, pull = jax.vjp(run, *arrays)
    return out, pull(jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("form", ["auto", "xla", "csr", "interpret"])
def test_values_and_gradients(monkeypatch, form, indexed):
    monkeypatch.setattr(module, "TILE", 8)
    arrays, gather, scatter = case()
    index = sort_gather(gather, P) if indexed else None

    def mine(x, weights, scale):
        return grouped_matmul(
            x,
            weights,
            group_offsets=OFFSETS,
            gather=gather,
            gather_index=index,
            scatter=scatter,
            scale=scale,
            implementation=form,
        )

    out, gradients = jax.jit(lambda *z: pulled(mine, *z))(*arrays)
    want, wanted = pulled(lambda *z: by_group(*z, gather, scatter), *arrays)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["xla", "csr"])
@pytest.mark.parametrize("width", [1, 200])
def test_plain_rows_and_the_gradient_of_the_matrices(form, width):
    rng = np.random.default_rng(1)
    ids = np.sort(rng.integers(0, 6, 300))
    x = jnp.asarray(rng.normal(size=(300, width)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(7, width, 2)), jnp.float32)

    def run(x, weights):
        return grouped_matmul(x, weights, group_ids=ids, implementation=form)

    out, (dx, dweights) = pulled(run, x, weights)
    np.testing.assert_allclose(out, jnp.einsum("mk,mkn->mn", x, weights[ids]), rtol=1e-4, atol=1e-4)
    dy = jnp.sin(jnp.arange(600.0)).reshape(300, 2)
    for g in range(7):
        want = x[ids == g].T @ dy[ids == g]
        np.testing.assert_allclose(dweights[g], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dx, jnp.einsum("mn,mkn->mk", dy, weights[ids]), rtol=1e-4, atol=1e-4)


def test_values_that_are_not_finite_stay_in_their_rows():
    arrays, _, _ = case()
    rows = jnp.tile(arrays[0], (3, 1))[:M].at[jnp.array([0, M - 1])].set(jnp.nan)
    for form in ("xla", "csr"):
        out, (dx, dweights) = pulled(
            lambda x, w, f=form: grouped_matmul(x, w, group_offsets=OFFSETS, implementation=f),
            rows,
            arrays[1],
        )
        # Rows 0 and M - 1 are of no group.
        assert np.isfinite(out).all() and np.isfinite(dweights).all() and np.isfinite(dx).all()
        assert not np.asarray(out[:2]).any() and not np.asarray(dx[26:]).any()


def test_finite_differences_in_double_precision():
    with jax.enable_x64(True):
        arrays, gather, scatter = case(dtype=jnp.float64)
        order = [jnp.asarray(a, jnp.int32) for a in (gather, *sort_gather(gather, P), scatter)]
        offsets = jnp.asarray(OFFSETS, jnp.int32)

        def spec(x, weights, scale):
            return package.reference(package.Options(), x, weights, offsets, *order, scale)

        def mine(x, weights, scale):
            return grouped_matmul(
                x, weights, group_offsets=OFFSETS, gather=gather, scatter=scatter, scale=scale
            )

        for run in (spec, mine):
            check_grads(run, arrays, order=1, modes=["rev"])


def test_half_precision_vmap_and_nothing():
    (x, weights, _), gather, _ = case()

    def run(x, weights, **options):
        return grouped_matmul(x, weights, group_offsets=OFFSETS, gather=gather, **options)

    want = run(x, weights)
    half = run(x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), want, rtol=0.05, atol=0.05)
    for form in ("xla", "csr", "interpret"):
        many = jax.vmap(lambda x, f=form: run(x, weights, implementation=f))(jnp.stack([x, 2 * x]))
        np.testing.assert_allclose(many[1], 2 * want, rtol=1e-5, atol=1e-5)
    empty = grouped_matmul(x[:0], weights, group_offsets=np.zeros(5, int))
    assert empty.shape == (0, N)


def test_no_retrace_for_other_groups():
    (x, weights, _), gather, _ = case()
    traces = 0

    @jax.jit
    def run(offsets):
        nonlocal traces
        traces += 1
        return grouped_matmul(x, weights, group_offsets=offsets, gather=gather)

    run(jnp.asarray(OFFSETS))
    run(jnp.asarray([0, 7, 8, 9, 30]))
    assert traces == 1


def test_sorting_on_host_and_device_agree():
    _, gather, _ = case()
    order, offsets = sort_gather(gather, P)
    assert (gather[order][offsets[3] : offsets[4]] == 3).all()
    for a, b in zip(sort_gather(jnp.asarray(gather), P), (order, offsets), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_input():
    (x, weights, scale), gather, scatter = case()
    good = {"group_offsets": OFFSETS, "gather": gather}
    sideways = np.zeros(M, int)
    for change, error, words in (
        ({"group_ids": sideways}, ValueError, "and not both"),
        ({"group_offsets": None}, ValueError, "group_offsets or group_ids"),
        ({"group_offsets": [0, 5, 4, 6, 30]}, ValueError, "decrease from 5 to 4 at position 1"),
        ({"group_offsets": OFFSETS[:-1]}, ValueError, "group_offsets has shape"),
        ({"group_offsets": OFFSETS + 10}, ValueError, "group_offsets spans"),
        ({"group_offsets": OFFSETS * 1.0}, TypeError, "group_offsets holds float64"),
        ({"gather": gather + 5}, ValueError, "gather spans"),
        ({"scatter": sideways}, ValueError, "twice"),
        ({"scatter": scatter[:4]}, ValueError, "scatter has shape"),
        ({"scale": scale[:3]}, ValueError, "scale must be"),
        ({"gather_index": (gather[:1], gather)}, ValueError, "gather_index"),
        ({"implementation": "fast"}, ValueError, "fast"),
    ):
        with pytest.raises(error, match=words):
            grouped_matmul(x, weights, **{**good, **change})
    unsorted = np.array([0, 2, 1, 3] + [3] * (P - 4))
    with pytest.raises(ValueError, match=r"not sorted: 2 at position 1.*argsort"):
        grouped_matmul(x, weights, group_ids=unsorted)
    with pytest.raises(ValueError, match="x must be"):
        grouped_matmul(x[:, :2], weights, **good)
    with pytest.raises(TypeError, match="one floating dtype"):
        grouped_matmul(x, weights.astype(jnp.bfloat16), **good)
    with pytest.raises(ValueError, match="without gather"):
        grouped_matmul(x, weights, group_offsets=[0, 1, 1, 1, 1], gather_index=(gather, gather))


def test_arrays_on_a_device_are_checked_in_debug_mode():
    (x, weights, _), _, _ = case()
    unsorted = jnp.array([0, 2, 1, 3] + [3] * (P - 4))
    grouped_matmul(x, weights, group_ids=unsorted)
    jax.config.update("jax_enable_checks", True)
    try:
        with pytest.raises(ValueError, match="not sorted"):
            grouped_matmul(x, weights, group_ids=unsorted)
    finally:
        jax.config.update("jax_enable_checks", False)
