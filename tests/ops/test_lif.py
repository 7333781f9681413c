"""lif: its forms against the reference, surrogates, packed and split sequences, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph.ops.lif import lif, lif_step, spike
from pallas_kernels.lif import SURROGATES, Options, reference

# Smooth steps from 0 to 1 of which the surrogates are the slopes.
SMOOTH = {
    "sigmoid": lambda z, w: 0.5 + 0.5 * np.tanh(z / (2 * w)),
    "atan": lambda z, w: np.arctan(np.pi * z / (2 * w)) / np.pi + 0.5,
    "triangle": lambda z, w: (
        0.5 + np.clip(z / w, -1, 1) - np.sign(z) * np.clip(z / w, -1, 1) ** 2 / 2
    ),
    "rectangle": lambda z, w: np.clip(z / (2 * w) + 0.5, 0, 1),
    "fast_sigmoid": lambda z, w: z / (2 * (w + np.abs(z))) + 0.5,
}
KINDS = {
    "spikegpt": {"gain": 0.5},
    "iir_snn": {
        "after_spike": "soft",
        "surrogate": "triangle",
        "width": 1.0,
        "scale": 0.3,
        "relative": True,
    },
    "detached": {"after_spike": "soft", "surrogate": "sigmoid", "detach_reset": True},
    "hard_detached": {"surrogate": "fast_sigmoid", "width": 0.2, "detach_reset": True},
    "no_reset": {"after_spike": "none", "surrogate": "rectangle", "relative": True},
}


def inputs(b=2, t=11, d=3, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    current = jnp.asarray(rng.standard_normal((b, t, d)) + 0.5, dtype)
    decay = jnp.asarray(rng.uniform(0.4, 0.95, d))
    threshold = jnp.asarray(rng.uniform(0.5, 1.0, d))
    state = jnp.asarray(rng.standard_normal((b, d)))
    reset = np.zeros((b, t), bool)
    reset[-1, 0] = True
    reset[:, t // 2] = reset[0, t // 2 + 1] = True
    return current, decay, threshold, state, jnp.asarray(reset)


def value_and_grads(run, *operands):
    """Outputs, and the gradients of a sum with fixed random weights by all operands."""

    def loss(*operands):
        outputs = run(*operands)
        rng = np.random.default_rng(3)
        total = sum((z * rng.standard_normal(z.shape)).sum() for z in jax.tree.leaves(outputs))
        return total, outputs

    places = tuple(range(len(operands)))
    gradients, outputs = jax.jit(jax.grad(loss, places, has_aux=True))(*operands)
    return outputs, gradients


def close(got, want, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


CASES = [("auto", kind) for kind in KINDS] + [("xla", "iir_snn"), ("interpret", "spikegpt")]


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_forms_equal_the_reference(form, kind):
    current, decay, threshold, state, reset = inputs()

    def run(current, decay, threshold, state):
        return lif(
            current,
            decay,
            threshold,
            initial_state=state,
            reset=reset,
            chunk=4,
            implementation=form,
            **KINDS[kind],
        )

    def want(*operands):
        return reference(Options(**KINDS[kind]), *operands, reset)

    operands = (current, decay, threshold, state)
    got, expected = value_and_grads(run, *operands), value_and_grads(want, *operands)
    assert 0 < np.mean(expected[0][0]) < 1
    np.testing.assert_array_equal(got[0][0], expected[0][0])
    close(got, expected)
    assert all(np.abs(g).max() > 1e-3 for g in expected[1])


@pytest.mark.parametrize("after_spike", ["hard", "soft", "none"])
def test_reference_is_the_recurrence(after_spike):
    current, decay, threshold, state, reset = map(np.asarray, inputs(t=30))
    w, spikes = state, np.zeros_like(current)
    for t in range(30):
        v = decay * np.where(reset[:, t, None], 0, w) + current[:, t]
        spikes[:, t] = fired = v > threshold
        w = {"hard": np.where(fired, 0, v), "soft": v - threshold * fired, "none": v}[after_spike]
    got, final = lif(
        current,
        decay,
        threshold,
        initial_state=state,
        reset=jnp.asarray(reset),
        after_spike=after_spike,
    )
    np.testing.assert_array_equal(got, spikes)
    np.testing.assert_allclose(final, w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(SURROGATES))
def test_surrogate_is_the_slope_of_its_smooth_step(name):
    z = np.linspace(-2.03, 1.98, 41)
    for width in (0.5, 1.3):
        slope = (SMOOTH[name](z + 1e-6, width) - SMOOTH[name](z - 1e-6, width)) / 2e-6
        with jax.enable_x64(True):
            run = functools.partial(spike, surrogate=name, width=width, scale=0.7)
            got = jax.vmap(jax.grad(run))(z)
        np.testing.assert_allclose(got, 0.7 * slope, atol=1e-8)
    assert SMOOTH[name](-1e9, 0.5) < 1e-8 and SMOOTH[name](1e9, 0.5) > 1 - 1e-8
    assert spike(jnp.array([-1.0, 0.0, 1e-6]), name).tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", [k for k in KINDS if "detach_reset" not in KINDS[k]])
def test_gradients_match_finite_differences_of_the_smooth_neuron(kind):
    """The step is replaced by a smooth one that has the spike's value at the operands given."""
    options = Options(**KINDS[kind])
    operands = [np.asarray(z, np.float64) for z in inputs(1, 5, 2)[:4]]
    weights = np.random.default_rng(1).standard_normal((5, 2))

    def smooth(current, decay, threshold, state, shift=None):
        w, loss, shifts = state, 0.0, []
        for t in range(5):
            v = decay * w + options.gain * current[:, t]
            z = v / threshold - 1 if options.relative else v - threshold
            height = options.scale * SMOOTH[options.surrogate](z, options.width)
            shifts.append((z > 0) - height if shift is None else shift[t])
            s = height + shifts[-1]
            w = {"hard": v * (1 - s), "soft": v - threshold * s, "none": v}[options.after_spike]
            loss = loss + (s * weights[t]).sum()
        return loss + (w * weights[0]).sum(), shifts

    _, shift = smooth(*operands)
    with jax.enable_x64(True):

        def loss(*operands):
            spikes, final = lif(*operands[:3], initial_state=operands[3], chunk=2, **KINDS[kind])
            return (spikes[0] * weights).sum() + (final * weights[0]).sum()

        wide = [jnp.asarray(z) for z in operands]
        gradients = jax.grad(loss, range(4))(*wide)
    for place, gradient in enumerate(gradients):
        for index in np.ndindex(operands[place].shape):
            ends = []
            for h in (1e-6, -1e-6):
                moved = [z.copy() for z in operands]
                moved[place][index] += h
                ends.append(smooth(*moved, shift)[0])
            np.testing.assert_allclose(gradient[index], (ends[0] - ends[1]) / 2e-6, atol=1e-6)


def test_detached_reset_carries_no_gradient():
    current = jnp.full((1, 2, 1), 2.0)
    run = lambda detach: jax.grad(  # noqa: E731
        lambda c: lif(c, 0.5, detach_reset=detach)[1].sum()
    )(current)
    # Both steps spike, so the last potential is zero and only the step's slope can move it.
    assert not np.any(run(True)) and np.all(run(False)[:, 1] < 0)


def test_constant_current_fires_when_the_closed_form_says():
    tau = 2.0
    run = functools.partial(lif, decay=1 - 1 / tau, gain=1 / tau)
    for value, period in ((1.0, 0), (0.9, 0), (1.5, 2), (1.1, 4)):
        spikes, _ = run(jnp.full((1, 100, 1), value))
        times = np.flatnonzero(spikes[0, :, 0]) + 1
        want = np.arange(period, 101, period) if period else []
        np.testing.assert_array_equal(times, want)


def test_soft_reset_without_leak_fires_at_the_rate_of_the_current():
    rates = jnp.linspace(-0.3, 1.3, 9)
    spikes, _ = lif(jnp.broadcast_to(rates, (1, 200, 9)), 1.0, after_spike="soft")
    np.testing.assert_allclose(spikes.mean((0, 1)), np.clip(rates, 0, 1), atol=1 / 200 + 1e-6)


def test_packed_sequences_equal_separate_ones():
    current, decay, threshold, _, _ = inputs(b=1, t=9)
    lengths = (4, 1, 4)
    starts = np.cumsum([0, *lengths[:-1]])
    reset = jnp.zeros((1, 9), bool).at[0, starts].set(True)

    def packed(*operands):
        return lif(*operands, reset=reset, chunk=3)

    def separate(current, decay, threshold):
        runs = [lif(current[:, s : s + n], decay, threshold) for s, n in zip(starts, lengths)]
        return jnp.concatenate([s for s, _ in runs], axis=1), runs[-1][1]

    operands = (current, decay, threshold)
    close(value_and_grads(packed, *operands), value_and_grads(separate, *operands))


@pytest.mark.parametrize("cut", [1, 5, 10])
def test_splitting_with_the_state_passed_on_changes_nothing(cut):
    current, decay, threshold, state, reset = inputs()

    def split(current, decay, threshold, state):
        first, middle = lif(
            current[:, :cut],
            decay,
            threshold,
            initial_state=state,
            reset=reset[:, :cut],
            chunk=4,
        )
        second, final = lif(
            current[:, cut:], decay, threshold, initial_state=middle, reset=reset[:, cut:], chunk=4
        )
        return jnp.concatenate([first, second], axis=1), final

    def whole(current, decay, threshold, state):
        return lif(current, decay, threshold, initial_state=state, reset=reset)

    operands = (current, decay, threshold, state)
    close(value_and_grads(split, *operands), value_and_grads(whole, *operands))


@pytest.mark.parametrize("kind", ["spikegpt", "iir_snn", "detached"])
def test_steps_equal_the_sequence(kind):
    current, decay, threshold, state, _ = inputs(t=6)

    def by_step(current, decay, threshold, state):
        def at(state, now):
            return lif_step(now, state, decay, threshold, **KINDS[kind])[::-1]

        final, spikes = jax.lax.scan(at, state, current.swapaxes(0, 1))
        return spikes.swapaxes(0, 1), final

    def whole(current, decay, threshold, state):
        return lif(current, decay, threshold, initial_state=state, **KINDS[kind])

    operands = (current, decay, threshold, state)
    close(value_and_grads(by_step, *operands), value_and_grads(whole, *operands))
    np.testing.assert_array_equal(lif_step(current[:, 0], None, decay, 1.0)[0], current[:, 0] > 1)


def test_numbers_stand_for_equal_vectors():
    current, *_ = inputs()
    outputs, (d_current, d_decay, d_threshold) = value_and_grads(lif, current, 0.7, 0.9)
    vectors = (current, jnp.full(3, 0.7), jnp.full(3, 0.9))
    want, gradients = value_and_grads(lif, *vectors)
    close((outputs, d_current), (want, gradients[0]))
    np.testing.assert_allclose(d_decay, gradients[1].sum(), rtol=1e-4)
    np.testing.assert_allclose(d_threshold, gradients[2].sum(), rtol=1e-4)


def test_half_precision_keeps_the_potential_in_full():
    current, decay, threshold, state, _ = inputs(t=40, dtype=jnp.bfloat16)
    spikes, final = lif(current, decay, threshold, initial_state=state)
    assert spikes.dtype == jnp.bfloat16 and final.dtype == jnp.float32
    wide, end = lif(current.astype(jnp.float32), decay, threshold, initial_state=state)
    np.testing.assert_array_equal(spikes.astype(jnp.float32), wide)
    np.testing.assert_array_equal(final, end)
    gradients = jax.grad(lambda c, d: lif(c, d)[0].astype(jnp.float32).sum(), (0, 1))(
        current, decay
    )
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("name", ["xla", "interpret"])
def test_vmap_equals_a_loop(name):
    current, decay, threshold, _, _ = inputs(b=4, t=5)
    current = current.reshape(2, 2, 5, 3)
    run = functools.partial(lif, chunk=2, implementation=name)

    def mapped(current, decay, threshold):
        return jax.vmap(run, (0, None, None))(current, decay, threshold)

    def loop(current, decay, threshold):
        parts = [lif(current[i], decay, threshold) for i in range(2)]
        return jax.tree.map(lambda *z: jnp.stack(z), *parts)

    operands = (current, decay, threshold)
    close(value_and_grads(mapped, *operands), value_and_grads(loop, *operands))


def test_one_trace_serves_all_calls_of_a_shape():
    traces = []

    @jax.jit
    def run(current, decay):
        traces.append(1)
        return lif(current, decay)

    for seed in range(3):
        run(*inputs(seed=seed)[:2])
    assert len(traces) == 1


@pytest.mark.parametrize("name", list(SURROGATES))
def test_extreme_values_stay_finite(name):
    current = jnp.asarray([0.0, 1e30, -1e30, 1e-38, 80.0]).reshape(1, 5, 1)
    for decay in (0.0, 1.0):
        outputs, gradients = value_and_grads(
            lambda c, d: lif(c, d, surrogate=name), current, jnp.asarray(decay)
        )
        assert all(np.isfinite(z).all() for z in jax.tree.leaves((outputs, gradients[0])))


BAD = {
    "current has shape": (ValueError, lambda c, d, v, s, r: lif(c[0], d)),
    "no time steps": (ValueError, lambda c, d, v, s, r: lif(c[:, :0], d)),
    "decay has shape": (ValueError, lambda c, d, v, s, r: lif(c, d[1:])),
    "threshold has shape": (ValueError, lambda c, d, v, s, r: lif(c, d, v[None])),
    "initial_state has shape": (ValueError, lambda c, d, v, s, r: lif(c, d, initial_state=s[0])),
    "reset has shape": (ValueError, lambda c, d, v, s, r: lif(c, d, reset=r[0])),
    "reset is int32": (TypeError, lambda c, d, v, s, r: lif(c, d, reset=r.astype(int))),
    "current is int32": (TypeError, lambda c, d, v, s, r: lif(c.astype(int), d)),
    "decay is int32": (TypeError, lambda c, d, v, s, r: lif(c, d.astype(int))),
    "surrogate is 'relu'": (ValueError, lambda c, d, v, s, r: lif(c, d, surrogate="relu")),
    "width is 0": (ValueError, lambda c, d, v, s, r: lif(c, d, width=0)),
    "after_spike is 'zero'": (ValueError, lambda c, d, v, s, r: lif(c, d, after_spike="zero")),
    "chunk is 0": (ValueError, lambda c, d, v, s, r: lif(c, d, chunk=0)),
    "no sparse product": (ValueError, lambda c, d, v, s, r: lif(c, d, implementation="csr")),
    "one step takes": (ValueError, lambda c, d, v, s, r: lif_step(c, s, d)),
    "z is int32": (TypeError, lambda c, d, v, s, r: spike(c.astype(int))),
}


@pytest.mark.parametrize("message", list(BAD))
def test_bad_input_is_named(message):
    error, call = BAD[message]
    with pytest.raises(error, match=message):
        call(*inputs())
