"""Gated linear attention against its recurrence, its limits and its step."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jgraph.ops.gated_linear_attention import (
    _chunk,
    gated_linear_attention,
    gated_linear_attention_step,
)
from jgraph.ops.matrix_state import walk, walk_back
from pallas_kernels.gated_linear_attention import Options, reference, specs

B, H, K, V = 2, 2, 5, 3


def case(time, seed=0, state=True, dtype=np.float32, decay=1.0):
    rng = np.random.default_rng(seed)
    q, k = (rng.normal(size=(B, time, H, K)) for _ in range(2))
    v, g = rng.normal(size=(B, time, H, V)), -decay * np.exp(rng.uniform(-5, 0, (B, time, H, K)))
    arrays = [q, k, v, g] + ([rng.normal(size=(B, H, K, V))] if state else [])
    return [x.astype(dtype) for x in arrays]


def resets(time):
    flags = np.zeros((B, time), bool)
    flags[1, 0] = flags[:, time // 3 : time // 3 + 2] = flags[0, -1] = True
    return flags


def probe(run, arrays, reset=None):
    """Values of a mixed sum of both outputs, and its gradients by all arrays."""

    def total(*z):
        z = z if len(z) == 5 else (*z, None)
        o, final = run(*z, reset)
        o = o.astype(final.dtype)
        return jnp.sum(jnp.sin(o)) + jnp.sum(jnp.cos(final) * final), (o, final)

    slopes, out = jax.jit(jax.grad(total, tuple(range(len(arrays))), has_aux=True))(*arrays)
    return (*out, *slopes)


def close(got, want, tolerance=1e-5):
    for a, b in zip(got, want, strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


def in_chunks(*operands, chunk=64, sub=16):
    """The matrix form, which a CPU is not given, with its own gradient."""
    q, k, v, g, state, reset = operands
    body = functools.partial(_chunk, sub, None)
    if state is None:
        state = jnp.zeros((B, H, K, V), v.dtype)
    flags = np.zeros(v.shape[:2], bool) if reset is None else reset

    @jax.custom_vjp
    def run(arrays, state):
        return forward(arrays, state)[0]

    def forward(arrays, state):
        o, states = walk(body, arrays, flags, state, chunk=chunk)
        return (o, states[:, -1]), (arrays, states)

    def backward(saved, cotangents):
        return walk_back(body, saved[0], flags, saved[1], cotangents, chunk=chunk)

    run.defvjp(forward, backward)
    return run((q * K**-0.5, k, v, g), state)


@pytest.mark.parametrize("time", [1, 15, 16, 63, 64, 65, 200])
def test_both_xla_forms_equal_the_recurrence_in_float64(time):
    with jax.enable_x64(True):
        arrays = case(time, dtype=np.float64)
        # Gradients at one odd length: programs that take them are slow to compile.
        evaluate = probe if time == 65 else lambda run, z, flags: jax.jit(run)(*z, flags)
        flags = resets(time)
        want = evaluate(functools.partial(reference, Options()), arrays, flags)
        close(evaluate(gated_linear_attention, arrays, flags), want, 1e-12)
        close(evaluate(in_chunks, arrays, flags), want, 1e-12)


@pytest.mark.parametrize("form", ["xla", "interpret"])
def test_forms_and_gradients(form):
    arrays, flags = case(40), resets(40)
    run = functools.partial(gated_linear_attention, chunk=32, implementation=form)
    close(probe(run, arrays, flags), probe(functools.partial(reference, Options()), arrays, flags))


def test_gradient_of_the_reference_by_finite_differences():
    with jax.enable_x64(True):
        arrays, flags = case(4, dtype=np.float64), jnp.asarray(resets(4))
        run = lambda *z: reference(Options(), *z, flags)  # noqa: E731
        check_grads(run, arrays, order=1, modes=("rev",))


def test_strong_decay_is_finite_and_right():
    q, k, v, _ = case(512, state=False)
    g = np.full((B, 512, H, K), -8.0, np.float32)
    g[:, 300] = -np.inf
    sums = np.cumsum(g[:, :64], axis=1)
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(-sums)).any(), "the factorised form would do"
    with jax.enable_x64(True):
        wide = [np.float64(x) for x in (q, k, v, g)]
        want = probe(functools.partial(reference, Options()), wide)
    kernel = functools.partial(gated_linear_attention, implementation="interpret")
    for run in (gated_linear_attention, in_chunks):
        close(probe(run, [q, k, v, g]), want)
    close(kernel(q, k, v, g), want[:2])


def test_no_decay_at_all_and_total_decay():
    q, k, v, g = case(20, state=False)
    mask = np.tril(np.ones((20, 20)))
    scores = np.einsum("bihk,bjhk->bhij", q, k) * mask * K**-0.5
    close(gated_linear_attention(q, k, v, 0 * g)[:1], [np.einsum("bhij,bjhv->bihv", scores, v)])
    gone = g.copy()
    gone[:, 7] = -np.inf
    flags = np.zeros((B, 20), bool)
    flags[:, 7] = True
    want = gated_linear_attention(q, k, v, g, None, flags)
    for run in (gated_linear_attention, in_chunks):
        close(run(q, k, v, gone, None, None), want, 1e-4)


def test_constant_decay_is_retention():
    q, k, v, _ = case(30, state=False)
    rates = np.log(1 - 2.0 ** -np.arange(5, 5 + H)).astype(np.float32)
    g = np.broadcast_to(rates[:, None], q.shape)
    gap = np.arange(30)[:, None] - np.arange(30)
    weights = np.where(gap >= 0, np.exp(gap * rates[:, None, None]), 0)
    scores = np.einsum("bihk,bjhk->bhij", q, k) * weights
    want = np.einsum("bhij,bjhv->bihv", scores, v)
    close(gated_linear_attention(q, k, v, g, scale=1.0)[:1], [want])


def test_packed_sequences_equal_separate_ones():
    *arrays, _ = case(50)
    starts = [0, 1, 20, 50]
    flags = np.zeros((B, 50), bool)
    flags[:, starts[:-1]] = True
    whole = probe(gated_linear_attention, arrays, flags)
    cuts = [[x[:, a:b] for x in arrays] for a, b in pairwise(starts)]
    parts = [
        *(gated_linear_attention(*cut) for cut in cuts[:-1]),
        probe(gated_linear_attention, cuts[-1]),
    ]
    close(whole[:1], [np.concatenate([part[0] for part in parts], axis=1)])
    close(whole[1:2], [parts[-1][1]])
    close([x[:, 20:] for x in whole[2:]], parts[-1][2:])
    # Of a sequence in the middle the final state has no part in the sum.
    alone = jax.grad(lambda *z: jnp.sum(jnp.sin(gated_linear_attention(*z)[0])), (0, 1, 2, 3))
    close([x[:, 1:20] for x in whole[2:]], alone(*cuts[1]))


@pytest.mark.parametrize("at", [1, 39])
def test_split_with_the_state_carried_over(at):
    *arrays, state = case(40)
    whole = gated_linear_attention(*arrays, state)
    first, middle = gated_linear_attention(*(x[:, :at] for x in arrays), state)
    second, final = gated_linear_attention(*(x[:, at:] for x in arrays), middle)
    close((np.concatenate([first, second], axis=1), final), whole)


def test_step_equals_the_whole():
    *arrays, state = case(6)
    o, final = gated_linear_attention(*arrays, state, scale=0.3)
    for t in range(6):
        at_t, state = gated_linear_attention_step(*(x[:, t] for x in arrays), state, scale=0.3)
        close([at_t], [o[:, t]])
    close([state], [final])


def test_half_precision_vmap_and_one_trace():
    arrays = case(20)
    half = gated_linear_attention(*(jnp.asarray(x, jnp.bfloat16) for x in arrays))
    assert half[0].dtype == jnp.bfloat16 and half[1].dtype == jnp.float32
    close(half, gated_linear_attention(*arrays), 3e-2)
    many = [np.stack([x, 0.5 * x]) for x in arrays]
    for form in ("auto", "interpret"):
        run = functools.partial(gated_linear_attention, chunk=16, implementation=form)
        o, final = jax.jit(jax.vmap(run))(*many)
        close((o[1], final[1]), gated_linear_attention(*(x[1] for x in many)))
    traces = []
    once = jax.jit(lambda *z: traces.append(0) or gated_linear_attention(*z))
    once(*arrays), once(*case(20, seed=1))
    assert len(traces) == 1


def test_bad_input():
    q, k, v, g, state = case(4)
    cases = [
        ((q, k[:, :3], v, g), {}, ValueError, "k has shape"),
        ((q, k, v[:, :3], g), {}, ValueError, "v has shape"),
        ((q, k, v, g[..., :1]), {}, ValueError, "log_decay has shape"),
        ((q[:, :0], k, v, g), {}, ValueError, "q has shape"),
        ((q, k, v, g, state[:1]), {}, ValueError, "initial_state has shape"),
        ((q, k, v, g, None, resets(4)[:1]), {}, ValueError, "reset has shape"),
        ((q, k, v, g, None, resets(4).astype(int)), {}, TypeError, "reset has dtype"),
        ((q, k.astype(int), v, g), {}, TypeError, "k has dtype"),
        ((q, k, v, g), {"chunk": 40}, ValueError, "chunk is 40"),
        ((q, k, v, g), {"implementation": "csr"}, ValueError, "csr"),
    ]
    for operands, options, error, words in cases:
        with pytest.raises(error, match=words):
            gated_linear_attention(*operands, **options)


def test_cost_counts_operands_once():
    spec = specs.SPECS["cpu"][0]
    operands = specs.shapes(spec, jnp.float32)[1][:4]
    read = sum(x.size * 4 for x in operands)
    assert specs.cost(spec, jnp.float32).bytes == read + operands[2].size * 4
    both = 2 * read + operands[2].size * 4
    assert specs.cost(spec, jnp.float32, backward=True).bytes == both
