"""linear_scan: its forms against the reference, packed and split sequences, and bad input."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jgraph.ops import dispatch
from jgraph.ops.linear_scan import linear_scan, linear_scan_step
from pallas_kernels.call import differentiable
from pallas_kernels.linear_scan import Options, reference, tpu

KINDS = [(False, False), (False, True), (True, False), (True, True)]


def inputs(b=2, t=11, d=3, complex_=False, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.5, 1.0, (b, t, d))
    x, state = rng.standard_normal((b, t, d)), rng.standard_normal((b, d))
    if complex_:
        a = a * np.exp(1j * rng.uniform(-3, 3, a.shape))
        x = x + 1j * rng.standard_normal(x.shape)
        state = state + 1j * rng.standard_normal(state.shape)
        dtype = jnp.complex64
    reset = np.zeros((b, t), bool)
    reset[-1, 0] = True
    reset[:, t // 2] = reset[0, t // 2 + 1] = True
    return jnp.asarray(a, dtype), jnp.asarray(x, dtype), jnp.asarray(state), jnp.asarray(reset)


def weighted(outputs):
    """A real number that depends on every entry of the outputs, the same way every time."""
    rng = np.random.default_rng(3)
    total = 0.0
    for leaf in jax.tree.leaves(outputs):
        total += (leaf.real * rng.standard_normal(leaf.shape)).sum()
        total += (leaf.imag * rng.standard_normal(leaf.shape)).sum()
    return total


def value_and_grads(run, *operands):
    """Outputs, and the gradients of `weighted` by all operands."""

    def loss(*operands):
        outputs = run(*operands)
        return weighted(outputs), outputs

    places = tuple(range(len(operands)))
    gradients, outputs = jax.jit(jax.grad(loss, places, has_aux=True))(*operands)
    return outputs, gradients


def close(got, want, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


FORMS = [
    *[(form, complex_, reverse) for form in ("auto", "tree") for complex_, reverse in KINDS],
    ("xla", False, False),
    ("interpret", True, True),
]


@pytest.mark.parametrize(("form", "complex_", "reverse"), FORMS)
def test_forms_equal_the_reference(form, complex_, reverse, monkeypatch):
    if form == "tree":
        module = sys.modules["jgraph.ops.linear_scan"]
        monkeypatch.setattr(module, "_loop", module._tree)
        monkeypatch.setattr(module, "_loop_gradient", module._tree_gradient)
    a, x, state, reset = inputs(complex_=complex_)
    name = "xla" if form == "tree" else form

    def run(a, x, state):
        return linear_scan(
            a, x, initial_state=state, reset=reset, reverse=reverse, implementation=name
        )

    def want(a, x, state):
        return reference(Options(reverse=reverse), a, x, state, reset)

    close(value_and_grads(run, a, x, state), value_and_grads(want, a, x, state))
    plain = functools.partial(linear_scan, reverse=reverse, implementation=name)
    if form != "interpret":
        close(
            value_and_grads(plain, a, x),
            value_and_grads(functools.partial(reference, Options(reverse)), a, x),
        )


def test_a_kernel_that_cannot_serve_is_logged_and_replaced(caplog):
    a, x, _, _ = inputs()
    dispatch._say_once.cache_clear()
    got = linear_scan(a, x, implementation="pallas")
    assert "XLA form serves" in caplog.text
    close(got, linear_scan(a, x))


def test_reference_is_the_recurrence():
    a, x, state, reset = map(np.asarray, inputs())
    h = np.zeros_like(x)
    s = state
    for t in range(x.shape[1]):
        s = a[:, t] * np.where(reset[:, t, None], 0, s) + x[:, t]
        h[:, t] = s
    got, final = reference(Options(), a, jnp.asarray(x), state, jnp.asarray(reset))
    np.testing.assert_allclose(got, h, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(final, s, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("complex_", [False, True])
def test_gradients_match_finite_differences(complex_):
    with jax.enable_x64(True):
        a, x, state, reset = inputs(1, 4, 2, complex_)
        wide = jnp.complex128 if complex_ else jnp.float64
        a, x, state = (z.astype(wide) for z in (a, x, state))
        for run in (functools.partial(reference, Options()), _positional):
            loss = lambda a, x, s, run=run: weighted(run(a, x, s, reset))  # noqa: E731
            check_grads(loss, (a, x, state), order=1, modes=["rev"])


def _positional(a, x, state, reset):
    return linear_scan(a, x, initial_state=state, reset=reset)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_equal_separate_ones(reverse):
    a, x, _, _ = inputs(b=1, t=9)
    lengths = (4, 1, 4)
    starts = np.cumsum([0, *lengths[:-1]])
    reset = jnp.zeros((1, 9), bool).at[0, starts].set(True)

    def packed(a, x):
        return linear_scan(a, x, reset=reset, reverse=reverse)

    def separate(a, x):
        runs = [
            linear_scan(a[:, s : s + n], x[:, s : s + n], reverse=reverse)
            for s, n in zip(starts, lengths)
        ]
        return jnp.concatenate([h for h, _ in runs], axis=1), runs[0 if reverse else -1][1]

    close(value_and_grads(packed, a, x), value_and_grads(separate, a, x))


@pytest.mark.parametrize("cut", [1, 5, 10])
def test_splitting_with_the_state_passed_on_changes_nothing(cut):
    a, x, state, reset = inputs()

    def split(a, x, state):
        first, middle = linear_scan(
            a[:, :cut], x[:, :cut], initial_state=state, reset=reset[:, :cut]
        )
        second, final = linear_scan(
            a[:, cut:], x[:, cut:], initial_state=middle, reset=reset[:, cut:]
        )
        return jnp.concatenate([first, second], axis=1), final

    whole = lambda a, x, state: _positional(a, x, state, reset)  # noqa: E731
    close(value_and_grads(split, a, x, state), value_and_grads(whole, a, x, state))


@pytest.mark.parametrize("complex_", [False, True])
def test_steps_equal_the_scan(complex_):
    a, x, state, _ = inputs(complex_=complex_)
    h, final = linear_scan(a, x, initial_state=state)
    for t in range(x.shape[1]):
        out, state = linear_scan_step(a[:, t], x[:, t], state)
        np.testing.assert_allclose(out, h[:, t], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state, final, rtol=1e-5, atol=1e-6)
    first, state = linear_scan_step(a[0, 0], x[:, 0])
    np.testing.assert_array_equal(first, x[:, 0])


def test_constant_factors_per_channel():
    a, x, _, _ = inputs()
    factors = a[0, 0]

    def full(factors, x):
        return linear_scan(jnp.broadcast_to(factors, x.shape), x)

    close(value_and_grads(linear_scan, factors, x), value_and_grads(full, factors, x))


def test_half_precision_keeps_the_state_in_full():
    a, x, state, reset = inputs(t=40, dtype=jnp.bfloat16)
    run = functools.partial(linear_scan, reset=reset)
    h, final = run(a, x, initial_state=state)
    assert h.dtype == jnp.bfloat16 and final.dtype == jnp.float32
    wide, end = run(a.astype(jnp.float32), x.astype(jnp.float32), initial_state=state)
    np.testing.assert_array_equal(h, wide.astype(jnp.bfloat16))
    np.testing.assert_allclose(final, end, rtol=1e-6)
    da, dx = jax.grad(lambda a, x: weighted(run(a, x)[1]), (0, 1))(a, x)
    assert da.dtype == dx.dtype == jnp.bfloat16


def test_real_factors_and_complex_inputs():
    a, x, _, _ = inputs()
    z = jax.lax.complex(x, -2 * x)
    h, final = linear_scan(a, z)
    real, _ = linear_scan(a, x)
    np.testing.assert_allclose(h, jax.lax.complex(real, -2 * real), rtol=1e-5, atol=1e-6)
    assert final.dtype == jnp.complex64
    da = jax.grad(lambda a: linear_scan(a, z)[0].real.sum())(a)
    np.testing.assert_allclose(da, jax.grad(lambda a: linear_scan(a, x)[0].sum())(a), rtol=1e-5)


@pytest.mark.parametrize("name", ["xla", "interpret"])
def test_vmap_equals_a_loop(name):
    a, x, _, _ = inputs(b=4, t=5)
    a, x = (z.reshape(2, 2, *z.shape[1:]) for z in (a, x))
    run = functools.partial(linear_scan, implementation=name)
    outputs, gradients = value_and_grads(jax.vmap(run), a, x)

    def loop(a, x):
        parts = [linear_scan(a[i], x[i]) for i in range(2)]
        return jax.tree.map(lambda *z: jnp.stack(z), *parts)

    close((outputs, gradients), value_and_grads(loop, a, x))


TPU_CASES = {
    "edges": ((2, 37, 130), False, False),
    "one_step": ((1, 1, 5), False, False),
    "chunks_reverse": ((1, 300, 3), False, True),
    "complex": ((1, 20, 3), True, False),
}


@pytest.mark.parametrize("case", list(TPU_CASES))
def test_tpu_form_equals_the_reference(case):
    shape, complex_, reverse = TPU_CASES[case]
    operands = inputs(shape[0], max(shape[1], 3), shape[2], complex_)
    a, x, reset = (operands[i][:, : shape[1]] for i in (0, 1, 3))
    options = Options(reverse=reverse)
    run = differentiable(
        functools.partial(tpu.forward, interpret=True),
        functools.partial(tpu.backward, interpret=True),
    )
    got = value_and_grads(lambda *o: run(options, *o, reset), a, x, operands[2])
    want = value_and_grads(lambda *o: reference(options, *o, reset), a, x, operands[2])
    close(got, want, 2e-5)


def test_one_trace_serves_all_calls_of_a_shape():
    traces = []

    @jax.jit
    def run(a, x):
        traces.append(1)
        return linear_scan(a, x)

    for seed in range(3):
        run(*inputs(seed=seed)[:2])
    assert len(traces) == 1


def test_extreme_factors_stay_finite():
    _, x, state, _ = inputs(t=200)
    for factor in (0.0, 1e-38, 1.0, -1.0):
        a = jnp.full_like(x, factor)
        h, final = linear_scan(a, x, initial_state=state)
        assert np.isfinite(h).all() and np.isfinite(final).all()
    reset = jnp.ones(x.shape[:2], bool)
    h, _ = linear_scan(jnp.full_like(x, jnp.inf), x, initial_state=state, reset=reset)
    np.testing.assert_array_equal(h, x)


BAD = {
    "a has shape": (ValueError, lambda a, x, s, r: linear_scan(a[:, 1:], x)),
    "x has shape": (ValueError, lambda a, x, s, r: linear_scan(a[0], x[0])),
    "no time steps": (ValueError, lambda a, x, s, r: linear_scan(a[:, :0], x[:, :0])),
    "initial_state has": (ValueError, lambda a, x, s, r: linear_scan(a, x, initial_state=s[0])),
    "reset has shape": (ValueError, lambda a, x, s, r: linear_scan(a, x, reset=r[:, 1:])),
    "reset is int32": (TypeError, lambda a, x, s, r: linear_scan(a, x, reset=r.astype(int))),
    "x is int32": (TypeError, lambda a, x, s, r: linear_scan(a, x.astype(int))),
    "but a and x are real": (
        TypeError,
        lambda a, x, s, r: linear_scan(a, x, initial_state=s.astype(complex)),
    ),
    "implementation is 'fast'": (
        ValueError,
        lambda a, x, s, r: linear_scan(a, x, implementation="fast"),
    ),
    "no sparse product": (ValueError, lambda a, x, s, r: linear_scan(a, x, implementation="csr")),
    "one step takes": (ValueError, lambda a, x, s, r: linear_scan_step(a, x)),
}


@pytest.mark.parametrize("message", list(BAD))
def test_bad_input_is_named(message):
    error, call = BAD[message]
    with pytest.raises(error, match=message):
        call(*inputs())
