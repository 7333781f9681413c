"""Segment reductions against NumPy, with empty segments, gradients and half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jgraph import ops

IDS = np.array([0, 0, 1, 3, 3, 3, 5])
SEGMENTS = 7
EMPTY = [2, 4, 6]

NUMPY = {
    "sum": lambda rows: rows.sum(0),
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0),
    "min": lambda rows: rows.min(0),
    "std": lambda rows: rows.std(0),
    "logsumexp": lambda rows: scipy.special.logsumexp(rows, axis=0),
}


def data(shape=(7, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 3)])
@pytest.mark.parametrize("name", list(NUMPY))
def test_against_numpy(name, shape, ordered):
    order = np.arange(7) if ordered else np.random.default_rng(1).permutation(7)
    rows, ids = data(shape)[order], IDS[order]
    out = getattr(ops, f"segment_{name}")(rows, ids, SEGMENTS, indices_are_sorted=ordered)
    for s in range(SEGMENTS):
        fill = -np.inf if name == "logsumexp" else 0
        want = np.full(shape[1:], fill) if s in EMPTY else NUMPY[name](rows[ids == s])
        np.testing.assert_allclose(out[s], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*NUMPY, "softmax"])
def test_gradients_match_finite_differences(name):
    weights = data((7, 3), 2)

    def loss(rows):
        out = getattr(ops, f"segment_{name}")(rows, jnp.asarray(IDS), SEGMENTS)
        out = jnp.where(jnp.isfinite(out), out, 0)
        return (out * weights[: out.shape[0]]).sum()

    with jax.enable_x64(True):
        rows = jnp.asarray(data(), jnp.float64)
        grad = np.asarray(jax.grad(loss)(rows))
        assert np.isfinite(grad).all()
        for index in np.ndindex(rows.shape):
            step = jnp.zeros_like(rows).at[index].set(1e-6)
            slope = (loss(rows + step) - loss(rows - step)) / 2e-6
            np.testing.assert_allclose(grad[index], slope, rtol=1e-4, atol=1e-6)


def test_softmax_sums_to_one_and_ignores_shifts():
    rows = data()
    out = ops.segment_softmax(rows, IDS, SEGMENTS)
    total = np.asarray(ops.segment_sum(out, IDS, SEGMENTS))
    np.testing.assert_allclose(np.delete(total, EMPTY, 0), 1, rtol=1e-6)
    shifted = ops.segment_softmax(rows + 300.0 * IDS[:, None], IDS, SEGMENTS)
    np.testing.assert_allclose(shifted, out, atol=2e-5)


def test_softmax_mask_and_infinities_give_no_nan():
    rows = data((7,))
    keep = np.array([True, False, False, True, False, True, True])
    out = np.asarray(ops.segment_softmax(rows, IDS, SEGMENTS, where=keep))
    assert (out[~keep] == 0).all() and out[0] == 1 and np.isfinite(out).all()
    loss = lambda x: (ops.segment_softmax(x, IDS, SEGMENTS, where=keep) ** 2).sum()  # noqa: E731
    assert np.isfinite(jax.grad(loss)(jnp.asarray(rows))).all()
    minus = jnp.full((7,), -jnp.inf)
    assert not np.isnan(ops.segment_logsumexp(minus, IDS, SEGMENTS)).any()


def test_std_of_equal_rows_has_zero_gradient():
    rows = jnp.ones((7, 2))
    loss = lambda x: ops.segment_std(x, jnp.asarray(IDS), SEGMENTS).sum()  # noqa: E731
    assert (np.asarray(jax.grad(loss)(rows)) == 0).all()


def test_half_precision_accumulates_in_float32():
    rows = jnp.full((4096,), 1.001, jnp.bfloat16)
    out = ops.segment_sum(rows, jnp.zeros(4096, jnp.int32), 1)
    assert out.dtype == jnp.bfloat16
    assert abs(float(out[0]) / (4096 * float(rows[0])) - 1) < 1e-2


def test_integers_stay_integers():
    out = ops.segment_sum(np.arange(7), IDS, SEGMENTS)
    assert jnp.issubdtype(out.dtype, jnp.integer)
    assert out.tolist() == [1, 2, 0, 12, 0, 6, 0]
    assert ops.segment_count(IDS, SEGMENTS).tolist() == [2, 1, 0, 3, 0, 1, 0]


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ((np.ones((3, 2)), np.zeros(2, int), 1), ValueError, "one id per row"),
        ((np.ones(3), np.zeros(3), 1), TypeError, "integers"),
        ((np.ones(3), np.array([0, 1, 5]), 3), ValueError, "0 to 5"),
        ((np.ones(3), np.zeros(3, int), -1), ValueError, "-1"),
    ],
)
def test_bad_input(args, error, words):
    with pytest.raises(error, match=words):
        ops.segment_sum(*args)


UNSORTED = np.array([0, 2, 1])


@pytest.mark.parametrize("name", [*NUMPY, "softmax"])
def test_debug_mode_refuses_unsorted_ids_that_are_promised_sorted(monkeypatch, name):
    f = getattr(ops, f"segment_{name}")
    monkeypatch.setenv("JGRAPH_DEBUG", "1")
    for ids in (UNSORTED, jnp.asarray(UNSORTED)):
        with pytest.raises(ValueError, match="segment_ids fall at position 2"):
            f(data((3, 2)), ids, 3, indices_are_sorted=True)
    f(data((3, 2)), UNSORTED, 3)
    f(data((3, 2)), np.sort(UNSORTED), 3, indices_are_sorted=True)


def test_debug_mode_checks_ids_inside_a_compiled_program(monkeypatch):
    monkeypatch.setenv("JGRAPH_DEBUG", "1")

    @jax.jit
    def f(rows, ids):
        return ops.segment_sum(rows, ids, 3, indices_are_sorted=True)

    f(data((3, 2)), jnp.sort(UNSORTED)).block_until_ready()
    jax.effects_barrier()
    with pytest.raises(jax.errors.JaxRuntimeError, match="segment_ids fall at position 2"):
        f(data((3, 2)), jnp.asarray(UNSORTED)).block_until_ready()
        jax.effects_barrier()


def test_without_debug_mode_a_program_has_no_callback(monkeypatch):
    monkeypatch.delenv("JGRAPH_DEBUG", raising=False)
    f = lambda ids: ops.segment_sum(jnp.ones(3), ids, 3, indices_are_sorted=True)  # noqa: E731
    assert "callback" not in str(jax.make_jaxpr(f)(jnp.asarray(UNSORTED)))
