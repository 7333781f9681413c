"""State-space duality against its recurrence, its limits and its step."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jgraph.ops.gated_linear_attention import gated_linear_attention
from jgraph.ops.ssd import ssd, ssd_step
from pallas_kernels.ssd import Options, reference, specs

B, H, P, N, G = 2, 4, 3, 5, 2
spec_form = functools.partial(reference, Options())


def case(time, seed=0, state=True, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x, b, c = (rng.normal(size=(B, time, *s)) for s in ((H, P), (G, N), (G, N)))
    b, c = b / N**0.5, c / N**0.5
    arrays = [x, -np.exp(rng.uniform(-5, 0, (B, time, H))), b, c]
    arrays += [rng.normal(size=(B, H, N, P))] if state else []
    return [z.astype(dtype) for z in arrays]


def resets(time):
    flags = np.zeros((B, time), bool)
    flags[1, 0] = flags[:, time // 3 : time // 3 + 2] = flags[0, -1] = True
    return flags


def probe(run, arrays, reset=None):
    """Both outputs, and the gradients of a mixed sum of them by all arrays."""

    def total(*z):
        y, final = run(*z, *(None,) * (5 - len(z)), reset)
        y = y.astype(final.dtype)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(final) * final), (y, final)

    slopes, out = jax.jit(jax.grad(total, tuple(range(len(arrays))), has_aux=True))(*arrays)
    return (*out, *slopes)


def close(got, want, tolerance=1e-5):
    for a, b in zip(got, want, strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("time", [1, 15, 16, 63, 64, 65, 200])
def test_equals_the_recurrence_in_float64(time):
    with jax.enable_x64(True):
        arrays, flags = case(time, dtype=np.float64), resets(time)
        # Gradients at one odd length: programs that take them are slow to compile.
        evaluate = probe if time == 65 else lambda run, z, flags: jax.jit(run)(*z, flags)
        close(evaluate(ssd, arrays, flags), evaluate(spec_form, arrays, flags), 1e-12)


@pytest.mark.parametrize("form", ["xla", "interpret"])
def test_forms_and_gradients(form):
    arrays, flags = case(40), resets(40)
    run = functools.partial(ssd, chunk=32, implementation=form)
    close(probe(run, arrays, flags), probe(spec_form, arrays, flags))


def test_gradient_of_the_reference_by_finite_differences():
    with jax.enable_x64(True):
        arrays, flags = case(4, dtype=np.float64), jnp.asarray(resets(4))
        check_grads(lambda *z: spec_form(*z, flags), arrays, order=1, modes=("rev",))


def test_strong_and_total_decay():
    x, g, b, c = case(512, state=False)
    strong = np.full_like(g, -8.0)
    strong[:, 300] = -np.inf
    with jax.enable_x64(True):
        want = probe(spec_form, [np.float64(z) for z in (x, strong, b, c)])
    close(probe(ssd, [x, strong, b, c]), want)
    close(ssd(x, strong, b, c, implementation="interpret"), want[:2])


def test_without_decay_it_is_linear_attention():
    x, g, b, c = case(30, state=False)
    scores = np.einsum("bign,bjgn->bgij", c, b) * np.tril(np.ones((30, 30)))
    scores = np.repeat(scores, H // G, axis=1)
    close(ssd(x, 0 * g, b, c)[:1], [np.einsum("bhij,bjhp->bihp", scores, x)])


def test_one_state_and_a_constant_is_a_moving_average():
    x = case(30)[0]
    rate, ones = 0.9, np.ones((B, 30, 1, 1), np.float32)
    y, _ = ssd((1 - rate) * x, np.full(x.shape[:3], np.log(rate), np.float32), ones, ones)
    average = np.zeros((B, H, P))
    for t in range(30):
        average = rate * average + (1 - rate) * x[:, t]
        np.testing.assert_allclose(y[:, t], average, atol=1e-5)


def test_equals_gated_linear_attention_with_one_decay_for_all_keys():
    x, g, b, c, state = case(70)
    flags = resets(70)
    q, k = (np.repeat(z, H // G, axis=2) for z in (c, b))
    wide = np.broadcast_to(g[..., None], k.shape)
    want = gated_linear_attention(q, k, x, wide, state, flags, scale=1.0)
    close(ssd(x, g, b, c, state, flags), want)


def test_packed_sequences_equal_separate_ones():
    *arrays, _ = case(50)
    starts = [0, 1, 20, 50]
    flags = np.zeros((B, 50), bool)
    flags[:, starts[:-1]] = True
    whole = probe(ssd, arrays, flags)
    cuts = [[z[:, a:b] for z in arrays] for a, b in pairwise(starts)]
    parts = [*(ssd(*cut) for cut in cuts[:-1]), probe(ssd, cuts[-1])]
    close(whole[:1], [np.concatenate([part[0] for part in parts], axis=1)])
    close(whole[1:2], [parts[-1][1]])
    close([z[:, 20:] for z in whole[2:]], parts[-1][2:])
    # Of a sequence in the middle the final state has no part in the sum.
    alone = jax.grad(lambda *z: jnp.sum(jnp.sin(ssd(*z)[0])), (0, 1, 2, 3))
    close([z[:, 1:20] for z in whole[2:]], alone(*cuts[1]))


@pytest.mark.parametrize("at", [1, 39])
def test_split_with_the_state_carried_over(at):
    *arrays, state = case(40)
    whole = ssd(*arrays, state)
    first, middle = ssd(*(z[:, :at] for z in arrays), state)
    second, final = ssd(*(z[:, at:] for z in arrays), middle)
    close((np.concatenate([first, second], axis=1), final), whole)


def test_step_equals_the_whole():
    *arrays, state = case(6)
    y, final = ssd(*arrays, state)
    for t in range(6):
        at_t, state = ssd_step(*(z[:, t] for z in arrays), state)
        close([at_t], [y[:, t]])
    close([state], [final])


def test_half_precision_vmap_and_one_trace():
    arrays = case(20)
    half = ssd(*(jnp.asarray(z, jnp.bfloat16) for z in arrays))
    assert half[0].dtype == jnp.bfloat16 and half[1].dtype == jnp.float32
    close(half, ssd(*arrays), 3e-2)
    many = [np.stack([z, 0.5 * z]) for z in arrays]
    for form in ("auto", "interpret"):
        run = functools.partial(ssd, chunk=16, implementation=form)
        y, final = jax.jit(jax.vmap(run))(*many)
        close((y[1], final[1]), ssd(*(z[1] for z in many)))
    traces = []
    once = jax.jit(lambda *z: traces.append(0) or ssd(*z))
    once(*arrays), once(*case(20, seed=1))
    assert len(traces) == 1


def test_bad_input():
    x, g, b, c, state = case(4)
    cases = [
        ((x[:, :0], g, b, c), {}, ValueError, "x has shape"),
        ((x, g[:, :3], b, c), {}, ValueError, "log_decay has shape"),
        ((x, g, b[:, :, :1].repeat(3, 2), c), {}, ValueError, "divisor of 4 heads"),
        ((x, g, b, c[..., :2]), {}, ValueError, "c has shape"),
        ((x, g, b, c, state[:1]), {}, ValueError, "initial_state has shape"),
        ((x, g, b, c, None, resets(4)[:1]), {}, ValueError, "reset has shape"),
        ((x, g, b, c, None, resets(4).astype(int)), {}, TypeError, "reset has dtype"),
        ((x, g, b.astype(int), c), {}, TypeError, "b has dtype"),
        ((x, g, b, c), {"chunk": 0}, ValueError, "chunk is 0"),
        ((x, g, b, c), {"implementation": "csr"}, ValueError, "csr"),
    ]
    for operands, options, error, words in cases:
        with pytest.raises(error, match=words):
            ssd(*operands, **options)


def test_cost_counts_operands_once():
    spec = specs.SPECS["cpu"][0]
    operands = specs.shapes(spec, jnp.float32)[1][:4]
    read, out = sum(z.size * 4 for z in operands), operands[0].size * 4
    assert specs.cost(spec, jnp.float32).bytes == read + out
    assert specs.cost(spec, jnp.float32, backward=True).bytes == 2 * read + out
