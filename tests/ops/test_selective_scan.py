"""The selective scan: its forms equal the specification, whole, cut, packed and step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jgraph.ops.selective_scan import selective_scan, selective_scan_step
from pallas_kernels.selective_scan import Options, reference
from pallas_kernels.selective_scan.steps import DEFAULTS

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
SEQUENCES = ("u", "delta", "B", "C", "z")
OPTIONAL = ("D", "z", "delta_bias", "initial_state", "reset")


def case(seed=0, batch=2, time=37, channels=5, states=3, dtype=np.float32, without=()):
    """Operands by name; a reset at 0, two in a row, and one in the middle of a stretch."""
    rng = np.random.default_rng(seed)
    made = {
        "u": rng.normal(size=(batch, time, channels)),
        "delta": rng.normal(size=(batch, time, channels)) - 1,
        "A": -rng.uniform(0.5, 4.0, (channels, states)),
        "B": rng.normal(size=(batch, time, states)),
        "C": rng.normal(size=(batch, time, states)),
        "D": rng.normal(size=channels),
        "z": rng.normal(size=(batch, time, channels)),
        "delta_bias": rng.normal(size=channels),
        "initial_state": rng.normal(size=(batch, channels, states)),
    }
    made = {name: jnp.asarray(x, dtype) for name, x in made.items()}
    marks = np.zeros((batch, time), bool)
    marks[0, 0] = True
    marks[0, time // 2 : time // 2 + 2] = True
    marks[-1, time // 3] = True
    made["reset"] = jnp.asarray(marks)
    return {name: None if name in without else x for name, x in made.items()}


def run(operands, implementation="xla", **options):
    return selective_scan(**operands, delta_softplus=True, implementation=implementation, **options)


def spec(operands):
    return reference(Options(delta_softplus=True), **operands)


def with_gradients(f):
    """operands -> (outputs, gradients of a sum in which every output has its own weight)."""

    def of(operands):
        floating = {name: operands[name] for name in NAMES if operands[name] is not None}

        def loss(arrays):
            rng = np.random.default_rng(9)
            outputs = f({**operands, **arrays})
            parts = [(x.astype(jnp.float32) * rng.normal(size=x.shape)).sum() for x in outputs]
            return sum(parts), outputs

        gradients, outputs = jax.grad(loss, has_aux=True)(floating)
        return outputs, gradients

    return jax.jit(of)


SPEC, XLA = with_gradients(spec), with_gradients(run)


def close(got, want, tolerance=2e-5):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want)
    for a, b in zip(got, want):
        a, b = (np.asarray(x.astype(jnp.float32)) for x in (a, b))
        scale = max(np.abs(b).max(), 1.0)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@pytest.fixture
def small_rounds(monkeypatch):
    """The kernel compiles faster with two steps per round instead of eight."""
    for name in ("steps", "backward_steps"):
        monkeypatch.setitem(DEFAULTS, name, 2)


@pytest.mark.parametrize("without", [(), OPTIONAL, ("z",), ("D", "reset")])
def test_xla_equals_the_specification(without):
    operands = case(without=without)
    close(XLA(operands), SPEC(operands))


@pytest.mark.parametrize(("time", "states"), [(1, 3), (16, 64), (19, 1)])
def test_odd_sizes_equal_the_specification(time, states):
    operands = case(time=time, states=states)
    close(XLA(operands), SPEC(operands))


def test_auto_equals_the_specification():
    operands = case()
    close(run(operands, "auto"), SPEC(operands)[0])


def test_kernel_behind_the_op_equals_the_specification(small_rounds):
    operands = case(time=5, channels=3, states=2, without=("reset",))
    f = with_gradients(functools.partial(run, implementation="interpret"))
    close(f(operands), SPEC(operands))


def test_pallas_on_a_cpu_falls_back_and_says_so(caplog):
    operands = case(time=4)
    with caplog.at_level("WARNING", logger="jgraph.ops"):
        close(run(operands, "pallas"), spec(operands))


@pytest.mark.parametrize("softplus", [False, True])
def test_gradients_equal_finite_differences(softplus):
    with jax.enable_x64(True):
        operands = case(time=5, batch=1, channels=2, states=2, dtype=np.float64)
        if not softplus:
            operands["delta"] = jnp.abs(operands["delta"])
            operands["delta_bias"] = jnp.abs(operands["delta_bias"])
        reset = operands.pop("reset")
        values = tuple(operands.values())
        for f in (
            lambda *x: reference(Options(softplus), *x, reset),
            lambda *x: selective_scan(
                **dict(zip(NAMES, x)), reset=reset, delta_softplus=softplus, implementation="xla"
            ),
        ):
            check_grads(jax.jit(f), values, order=1, modes=("rev",), atol=1e-6, rtol=1e-6)
            assert f(*values)[1].dtype == jnp.float64


def test_packed_sequences_equal_separate_ones():
    """Values, final state and every gradient."""
    lengths = (1, 20, 16)
    ends = np.cumsum(lengths)
    operands = case(batch=1, time=int(ends[-1]), without=("initial_state",))
    marks = np.zeros((1, ends[-1]), bool)
    marks[0, ends - lengths] = True
    operands["reset"] = jnp.asarray(marks)

    def apart(operands):
        pieces, final = [], None
        for end, length in zip(ends, lengths):
            part = {
                name: x[:, end - length : end] if name in SEQUENCES else x
                for name, x in operands.items()
            }
            y, final = run({**part, "reset": None})
            pieces.append(y)
        return jnp.concatenate(pieces, axis=1), final

    close(XLA(operands), with_gradients(apart)({**operands, "initial_state": None}))


@pytest.mark.parametrize("at", [5, 16])
def test_a_split_sequence_equals_the_whole(at):
    operands = case()

    def halves(operands):
        whole = (*SEQUENCES, "reset")
        first = {name: x[:, :at] if name in whole else x for name, x in operands.items()}
        second = {name: x[:, at:] if name in whole else x for name, x in operands.items()}
        y, state = run(first)
        rest, final = run({**second, "initial_state": state})
        return jnp.concatenate([y, rest], axis=1), final

    close(with_gradients(halves)(operands), XLA(operands))


def test_steps_equal_the_scan():
    operands = case(time=7, without=("reset",))
    want, final = run(operands)
    state = operands["initial_state"]
    parameters = {name: operands[name] for name in ("A", "D", "delta_bias")}
    for t in range(7):
        at_t = {name: operands[name][:, t] for name in SEQUENCES}
        y, state = selective_scan_step(**at_t, **parameters, state=state, delta_softplus=True)
        close(y, want[:, t])
    close(state, final)


def test_half_precision_keeps_the_state_in_float32():
    operands = case(time=40, without=("z",))
    half = {
        name: x.astype(jnp.bfloat16) if name in ("u", "delta", "B", "C") else x
        for name, x in operands.items()
    }
    y, final = run(half)
    assert y.dtype == jnp.bfloat16 and final.dtype == jnp.float32
    wide = {name: half[name].astype(jnp.float32) for name in NAMES if name != "z"}
    wide |= {"z": None, "reset": half["reset"]}
    (want, want_final), want_slopes = SPEC(wide)
    close(y, want, 1e-2)
    close(final, want_final)
    slopes = XLA(half)[1]
    assert slopes["u"].dtype == slopes["B"].dtype == jnp.bfloat16
    close(slopes, want_slopes, 1e-2)


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_vmap_equals_a_loop(implementation, small_rounds):
    cases = [case(s, time=4, channels=2, states=2, without=OPTIONAL) for s in (0, 1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *cases)
    f = with_gradients(functools.partial(run, implementation=implementation))
    close(jax.vmap(f)(stacked), jax.tree.map(lambda *x: jnp.stack(x), *[SPEC(c) for c in cases]))


def test_same_shapes_do_not_retrace():
    traces = []

    @jax.jit
    def f(operands):
        traces.append(1)
        return run(operands)

    f(case(0)), f(case(1))
    assert len(traces) == 1


@pytest.mark.parametrize("rate", [-1e-6, -1e4])
def test_extreme_decays_stay_finite(rate):
    """Almost no forgetting, and a factor that underflows to zero, over a long sequence."""
    operands = case(batch=1, time=300, without=("reset",))
    operands["A"] = jnp.full_like(operands["A"], rate)
    operands["delta"] = operands["delta"].at[:, ::7].set(30.0).at[:, 3::7].set(-80.0)
    got = XLA(operands)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))
    close(got, SPEC(operands), 1e-3)


def test_nothing_of_all_states_is_kept():
    """Beside the operands only the states before every 16th step wait for the backward pass."""
    operands = case(batch=1, time=64, channels=8, states=16)
    _, pull = jax.vjp(lambda u: run({**operands, "u": u}), operands["u"])
    largest = max(x.size for x in jax.tree.leaves(pull))
    assert largest <= 64 * 8 * 16 // 16 + 64 * 16


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_auto_lowers_for_every_platform(platform):
    operands = case(time=4)
    f = with_gradients(functools.partial(run, implementation="auto"))
    assert jax.export.export(f, platforms=[platform])(operands).mlir_module()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"u": jnp.ones((2, 37))}, ValueError, r"u has shape \(2, 37\)"),
        ({"delta": jnp.ones((2, 36, 5))}, ValueError, r"delta has shape \(2, 36, 5\)"),
        ({"A": jnp.ones(5)}, ValueError, r"A has shape \(5,\)"),
        ({"A": jnp.ones((4, 3))}, ValueError, r"A has shape \(4, 3\)"),
        ({"B": jnp.ones((2, 37, 4))}, ValueError, r"B has shape \(2, 37, 4\)"),
        ({"C": jnp.ones((2, 3, 37))}, ValueError, r"C has shape \(2, 3, 37\)"),
        ({"D": jnp.ones((5, 1))}, ValueError, r"D has shape \(5, 1\)"),
        ({"z": jnp.ones((2, 37, 10))}, ValueError, r"z has shape \(2, 37, 10\)"),
        ({"delta_bias": jnp.ones(3)}, ValueError, r"delta_bias has shape \(3,\)"),
        ({"initial_state": jnp.ones((2, 3, 5))}, ValueError, r"initial_state has shape"),
        ({"reset": jnp.ones((2, 38), bool)}, ValueError, r"reset has shape \(2, 38\)"),
        ({"reset": jnp.ones((2, 37), int)}, TypeError, "reset is int32"),
        ({"u": jnp.ones((2, 37, 5), int)}, TypeError, "u is int32"),
        ({"A": jnp.ones((5, 3), complex)}, TypeError, "A is complex64"),
        ({"implementation": "csr"}, ValueError, "csr"),
        ({"implementation": "fast"}, ValueError, "'fast'"),
    ],
)
def test_bad_input_names_the_argument(change, error, words):
    with pytest.raises(error, match=words):
        selective_scan(**{**case(), **change})


def test_no_time_is_an_error():
    with pytest.raises(ValueError, match="T is 0"):
        run({name: x[:, :0] if name in (*SEQUENCES, "reset") else x for name, x in case().items()})


def test_bad_step_input_names_the_argument():
    operands = case(time=1, without=OPTIONAL)
    at = {name: operands[name][:, 0] for name in SEQUENCES[:4]}
    with pytest.raises(ValueError, match=r"initial_state|state has shape"):
        selective_scan_step(**at, A=operands["A"], state=jnp.ones((2, 3, 5)))
    with pytest.raises(ValueError, match="u has shape"):
        selective_scan_step(
            **{**at, "u": operands["u"]}, A=operands["A"], state=jnp.ones((2, 5, 3))
        )
