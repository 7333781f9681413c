"""WKV-4, WKV-6 and WKV-7 against their step-by-step definitions."""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jgraph.ops.wkv4 import wkv4, wkv4_step
from jgraph.ops.wkv6 import wkv6, wkv6_step
from jgraph.ops.wkv7 import wkv7, wkv7_step
from pallas_kernels.specs import Spec

wkv6_module = importlib.import_module("jgraph.ops.wkv6")  # the package's name is the op

OPS = {"wkv4": (wkv4, wkv4_step), "wkv6": (wkv6, wkv6_step), "wkv7": (wkv7, wkv7_step)}
# how many leading operands are sequences, then constants; the state and the reset are last
SEQUENCES = {"wkv4": (0, 1), "wkv6": (0, 1, 2, 3), "wkv7": (0, 1, 2, 3, 4, 5)}


def _kernel(name):
    return importlib.import_module(f"pallas_kernels.{name}")


def _operands(name, time=37, dtype="float32", state=True, reset=True, batch=2, seed=0):
    sizes = {"B": batch, "T": time, "C": 5, "H": 2, "K": 4, "V": 3}
    spec = Spec("here", sizes, {"state": state})
    specs = importlib.import_module(f"pallas_kernels.{name}.specs")
    *operands, initial, _ = specs.make(spec, jnp.dtype(dtype), seed)[1]
    flags = np.random.default_rng(seed).uniform(size=(batch, time)) < 0.1
    flags[0, 0] = flags[0, 5:7] = True
    return (*operands, initial, jnp.asarray(flags) if reset else None)


def _reference(name, *operands):
    return _kernel(name).reference(_kernel(name).Options(), *operands)


def _with_gradients(run, operands):
    *arrays, reset = operands
    shapes = jax.eval_shape(run, *arrays, reset)
    rng = np.random.default_rng(3)
    cotangents = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), shapes)

    @jax.jit
    def both(arrays, cotangents):
        outputs, pull = jax.vjp(lambda *x: run(*x, reset), *arrays)
        return outputs, pull(cotangents)

    return both(tuple(arrays), cotangents)


def _assert_close(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape and np.all(np.isfinite(a))
        assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1.0)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("time", "dtype", "tolerance"),
    [(37, "float32", 1e-5), (1, "float32", 1e-5), (32, "bfloat16", 2e-2)],
)
def test_xla_equals_the_definition(name, time, dtype, tolerance):
    operands = _operands(name, time, dtype, reset=time > 7) if time > 7 else None
    operands = operands or tuple(
        x if x is None or i not in SEQUENCES[name] else x[:, :1]
        for i, x in enumerate(_operands(name, 8, dtype, reset=False))
    )
    wide = [x.astype(jnp.float32) if i in SEQUENCES[name] else x for i, x in enumerate(operands)]
    want = _with_gradients(functools.partial(_reference, name), wide)
    got = _with_gradients(functools.partial(OPS[name][0], chunk=16), operands)
    _assert_close(got, want, tolerance)
    assert got[0][0].dtype == operands[0].dtype and got[0][1].dtype == jnp.float32
    for gradient, operand in zip(got[1], operands):
        assert gradient.dtype == operand.dtype


@pytest.mark.parametrize("name", OPS)
def test_a_request_for_the_kernel_on_a_cpu_is_served_by_xla(name):
    operands = _operands(name, 9, "bfloat16")
    got = _with_gradients(functools.partial(OPS[name][0], implementation="pallas"), operands)
    want = _with_gradients(functools.partial(OPS[name][0], implementation="xla"), operands)
    _assert_close(got, want, 0.0)


@pytest.mark.parametrize("name", OPS)
def test_interpreted_kernel_under_vmap(name):
    chunk = 3 if name == "wkv4" else 16
    pairs = [_operands(name, 7, seed=seed, batch=1) for seed in (0, 1)]
    stacked = [jnp.stack(x) for x in zip(*pairs)]

    def run(implementation, *operands):
        return jax.vmap(
            functools.partial(OPS[name][0], chunk=chunk, implementation=implementation)
        )(*operands)

    got = _with_gradients(functools.partial(run, "interpret"), stacked)
    want = _with_gradients(functools.partial(run, "xla"), stacked)
    _assert_close(got, want, 1e-5)
    reference = jax.jit(functools.partial(_reference, name))
    apart = [reference(*operands) for operands in pairs]
    _assert_close(got[0], jax.tree.map(lambda *x: jnp.stack(x), *apart), 1e-5)


def _meaning(name, outputs):
    """Outputs, with the state of WKV-4 as the sums it stands for."""
    y, state = outputs
    if name == "wkv4":
        state = jnp.exp(state[2]) * state[:2]
    return y, state


@pytest.mark.parametrize("name", OPS)
def test_gradients_equal_finite_differences_in_float64(name):
    with jax.enable_x64(True):
        operands = [
            x if x is None or x.dtype == bool else jnp.asarray(x, jnp.float64)
            for x in _operands(name, 9, batch=1)
        ]
        check_grads(
            jax.jit(lambda *x: _meaning(name, _reference(name, *x, operands[-1]))),
            operands[:-1],
            order=1,
            modes=["rev"],
            rtol=1e-6,
            atol=1e-6,
        )
        got = _with_gradients(functools.partial(OPS[name][0], chunk=4), operands)
        want = _with_gradients(functools.partial(_reference, name), operands)
        assert got[0][0].dtype == jnp.float64
        _assert_close(got, want, 1e-12)


@pytest.mark.parametrize("name", OPS)
def test_packed_sequences_equal_separate_ones(name):
    *operands, _, _ = _operands(name, 15, state=False, reset=False, batch=1)
    lengths = (5, 10)
    starts = np.cumsum((0, *lengths[:-1]))
    reset = jnp.zeros((1, 15), bool).at[0, starts].set(True)
    weight = jnp.cos(jnp.arange(15.0))

    def packed(*operands):
        y, final = OPS[name][0](*operands, None, reset, chunk=8)
        return jnp.sum(jnp.einsum("bt...->t", y) * weight), (y, final)

    def separate(*operands):
        ys, total = [], 0.0
        for start, length in zip(starts, lengths):
            part = slice(start, start + length)
            pieces = [x[:, part] if i in SEQUENCES[name] else x for i, x in enumerate(operands)]
            y, final = OPS[name][0](*pieces, chunk=8)
            total = total + jnp.sum(jnp.einsum("bt...->t", y) * weight[part])
            ys.append(y)
        return total, (jnp.concatenate(ys, 1), final)

    places = tuple(range(len(operands)))
    got, want = (jax.jit(jax.grad(f, places, has_aux=True))(*operands) for f in (packed, separate))
    _assert_close(got, want, 1e-5)


@pytest.mark.parametrize("name", OPS)
def test_a_split_sequence_with_its_state_passed_on_equals_the_whole(name):
    *operands, initial, reset = _operands(name, 15)
    run = functools.partial(OPS[name][0], chunk=4)

    def whole(*arrays):
        return _meaning(name, run(*arrays, reset))

    def halves(*arrays):
        *operands, state = arrays
        parts = []
        for part in (slice(5), slice(5, None)):
            pieces = [x[:, part] if i in SEQUENCES[name] else x for i, x in enumerate(operands)]
            y, state = run(*pieces, state, reset[:, part])
            parts.append(y)
        return _meaning(name, (jnp.concatenate(parts, 1), state))

    arrays = (*operands, initial)

    def loss(f, *arrays):
        y, state = f(*arrays)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(state)), (y, state)

    def with_gradients(f):
        places = tuple(range(len(arrays)))
        return jax.jit(jax.grad(functools.partial(loss, f), places, has_aux=True))(*arrays)

    _assert_close(with_gradients(halves), with_gradients(whole), 1e-5)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_equal_the_whole(name, dtype):
    *operands, initial, _ = _operands(name, 6, dtype, state=dtype == "float32", reset=False)
    y, final = jax.jit(OPS[name][0])(*operands, initial)
    state, step = initial, jax.jit(OPS[name][1])
    for t in range(6):
        now = [x[:, t] if i in SEQUENCES[name] else x for i, x in enumerate(operands)]
        y_t, state = step(*now, state)
        assert y_t.dtype == y.dtype
        _assert_close(y_t, y[:, t], 1e-2 if dtype == "bfloat16" else 1e-6)
    _assert_close(state, final, 1e-6)


@pytest.mark.parametrize("name", OPS)
def test_second_call_does_not_trace_again(name):
    traces = []

    @jax.jit
    def loss(*operands):
        traces.append(1)
        return jnp.sum(OPS[name][0](*operands)[0])

    grad = jax.jit(jax.grad(loss))
    for seed in (0, 1):
        grad(*_operands(name, 9, seed=seed))
    assert len(traces) == 1


def test_wkv4_stays_finite_and_exact_with_extreme_keys():
    rng = np.random.default_rng(0)
    time, channels = 4096, 3
    k = rng.uniform(-80, 80, (1, time, channels)).astype(np.float32)
    k[0, 1000:1010] = 80.0
    k[0, 1010:2000] = -80.0
    v = rng.standard_normal(k.shape).astype(np.float32)
    w, u = np.array([-1e-3, -0.3, -20.0], np.float32), np.array([2.0, 0.0, -3.0], np.float32)
    want = np.empty_like(k, dtype=np.float64)
    for t in range(time):
        steps = np.arange(t + 1)[:, None]
        exponent = np.where(steps < t, (t - 1 - steps) * w.astype(np.float64), u) + k[0, : t + 1]
        weight = np.exp(exponent - exponent.max(0))
        want[0, t] = (weight * v[0, : t + 1]).sum(0) / weight.sum(0)
    y, final = wkv4(k, v, w, u)
    np.testing.assert_allclose(y, want, rtol=2e-4, atol=2e-4)
    assert np.all(np.isfinite(final))

    def gradients_of(run, *x):
        def loss(*x):
            return jnp.sum(jnp.sin(run(*x)[0]))

        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*x)

    gradients = gradients_of(wkv4, k, v, w, u)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in (k, v, w, u)]
        exact = gradients_of(functools.partial(_reference, "wkv4"), *wide)
    # beside an exponent of 80, float32 keeps a w of -0.001 to half a percent
    _assert_close(gradients, exact, 5e-3)


@pytest.mark.parametrize("form", ["loop", "matrix"])
def test_wkv6_with_strong_decay_equals_the_float64_recurrence(form):
    r, k, v, log_decay, u, initial, reset = _operands("wkv6", 256)
    log_decay = jnp.where(jnp.arange(4) < 2, -8.0, jnp.where(jnp.arange(4) < 3, -200.0, log_decay))
    operands = r, k, v, log_decay, u, initial, reset
    factor = jnp.exp(-jnp.cumsum(log_decay[:, :32], 1))
    assert not np.all(np.isfinite(factor)), "the factorised form would have served"
    options = wkv6_module.Options(32)
    forms = {"loop": ("_loop", "_loop_back"), "matrix": ("_matrix", "_matrix_back")}[form]
    forward, back = (getattr(wkv6_module, x) for x in forms)

    @jax.jit
    def both(operands):
        outputs, residuals = wkv6_module._forward_by(forward, options, *operands)
        cotangents = jax.tree.map(jnp.cos, outputs)
        gradients = wkv6_module._backward_by(back, options, operands, residuals, cotangents)
        return outputs, gradients, cotangents

    outputs, gradients, cotangents = both(operands)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in operands[:-1]]
        cotangents = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), cotangents)

        @jax.jit
        def definition(wide, cotangents):
            outputs, pull = jax.vjp(lambda *x: _reference("wkv6", *x, reset), *wide)
            return outputs, pull(cotangents)

        want, exact = definition(wide, cotangents)
    _assert_close(outputs, want, 1e-5)
    _assert_close(gradients, exact, 1e-5)


def test_wkv7_equals_the_equations_of_the_paper():
    """S (V, K) here is the transpose of ours: S diag(w) + (S a) b^T + v k^T, y = S r."""
    r, log_decay, k, v, a, b, initial, _ = (
        None if x is None else np.asarray(x, np.float64) for x in _operands("wkv7", 12)
    )
    y, final = wkv7(*_operands("wkv7", 12)[:-1])
    for i, h in np.ndindex(2, 2):
        state = initial[i, h].T
        for t in range(12):
            at = (i, t, h)
            read = np.outer(state @ a[at], b[at])
            state = state * np.exp(log_decay[at]) + read + np.outer(v[at], k[at])
            np.testing.assert_allclose(y[at], state @ r[at], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(final[i, h], state.T, rtol=1e-5, atol=1e-5)


def test_wkv7_replaces_what_a_key_held():
    rng = np.random.default_rng(0)
    key = rng.standard_normal((1, 5, 1, 4)).astype(np.float32)
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    v = rng.standard_normal((1, 5, 1, 3)).astype(np.float32)
    y, _ = wkv7(key, np.zeros_like(key), key, v, -key, key)
    np.testing.assert_allclose(y, v, atol=1e-6)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("place", "change", "error", "message"),
    [
        (0, lambda x: x[:, :0], ValueError, "at least 1|agree"),
        (1, lambda x: x[:, :-1], ValueError, "agree in all but the last axis"),
        (1, lambda x: x[0], ValueError, "must be"),
        (0, lambda x: x.astype(jnp.int32), TypeError, "floating point"),
        (1, lambda x: x.astype(jnp.float16), TypeError, "one dtype"),
        (-2, lambda x: x[..., :1], ValueError, "state has shape"),
        (-1, lambda x: x[:, :-1], ValueError, r"reset has shape .* must be \(B, T\)"),
        (-1, lambda x: x.astype(jnp.int32), TypeError, "give it as bool"),
    ],
)
def test_bad_operands_are_named(name, place, change, error, message):
    operands = list(_operands(name, 9))
    operands[place] = change(operands[place])
    with pytest.raises(error, match=message):
        OPS[name][0](*operands)


@pytest.mark.parametrize("name", OPS)
def test_bad_options_are_named(name):
    operands = _operands(name, 9)
    with pytest.raises(ValueError, match="at least 1"):
        none = [x[:, :0] if i in SEQUENCES[name] else x for i, x in enumerate(operands)]
        OPS[name][0](*none[:-1])
    with pytest.raises(ValueError, match="chunk is 0"):
        OPS[name][0](*operands, chunk=0)
    with pytest.raises(ValueError, match="no sparse product"):
        OPS[name][0](*operands, implementation="csr")
    with pytest.raises(ValueError, match="for these operands it must be"):
        OPS[name][0](*(x[..., :1] if i == 4 else x for i, x in enumerate(operands)))
