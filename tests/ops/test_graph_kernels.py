"""The graph ops on their kernels, run as plain JAX ("interpret"), against the specification."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import ops
from jgraph.graph import Graph
from jgraph.ops import dispatch, edges, reference

N, E, H, F = 10, 40, 2, 3


def case(seed=0):
    rng = np.random.default_rng(seed)
    graph = Graph.from_edges(rng.integers(0, N, E), rng.integers(0, N - 2, E), num_nodes=N)
    x = jnp.asarray(rng.normal(size=(N, H, F)), jnp.float32)
    return graph, x, jnp.asarray(rng.normal(size=(E, H)), jnp.float32)


def close(got, want, tolerance=2e-5):
    check = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(check, got, want)


def probe(out):
    return (out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)).sum()


def stack(results):
    return jax.tree.map(lambda *a: jnp.stack(a), *results)


def slope(f, *args, wrt=(0, 1)):
    return jax.jit(jax.grad(lambda *a: probe(f(*a)), wrt))(*args)


def kernel(f, graph, **options):
    return functools.partial(f, graph, implementation="interpret", **options)


def specified(graph, reduce):
    return lambda x, w: reference.spmm(graph.senders, graph.receivers, N, x, w, reduce)


@pytest.mark.parametrize("reduce", ["mean", "min"])
def test_spmm(reduce):
    graph, x, weight = case()
    mine, spec = kernel(ops.spmm, graph, reduce=reduce), specified(graph, reduce)
    out = jax.jit(mine)(x, weight)
    close(out, spec(x, weight))
    assert (np.asarray(out)[N - 2 :] == 0).all()
    close(slope(mine, x, weight), slope(spec, x, weight))
    thin, one = x[:, 0, 0], weight[:, 0]
    close(slope(mine, thin, one), slope(spec, thin, one))


@pytest.mark.parametrize("heads", [True, False])
def test_sddmm(heads):
    graph, a, _ = case()
    a, b = (a, a + 1) if heads else (a[:, 0], a[:, 1])
    mine = kernel(ops.sddmm, graph)
    spec = lambda a, b: reference.sddmm(graph.senders, graph.receivers, a, b)  # noqa: E731
    close(mine(a, b), spec(a, b))
    close(slope(mine, a, b), slope(spec, a, b))


@pytest.mark.parametrize("gather", [ops.gather_senders, ops.gather_receivers])
def test_gathers(gather):
    graph, x, _ = case()
    ids = graph.senders if gather is ops.gather_senders else graph.receivers
    twice = lambda f: jax.jit(  # noqa: E731
        jax.grad(lambda x: (jax.grad(lambda x: (f(x) ** 3).sum())(x) ** 2).sum())
    )(x)
    close(slope(kernel(gather, graph), x, wrt=0), slope(lambda x: x[ids], x, wrt=0))
    close(twice(kernel(gather, graph)), twice(lambda x: x[ids]), 1e-3)


@pytest.mark.parametrize("transposed", [True, False])
def test_sums_of_edges_have_all_derivatives(transposed):
    graph, _, weight = case()
    ids = graph.senders if transposed else graph.receivers
    mine = lambda w: edges.sum_edges(  # noqa: E731
        graph.adjacency, w, N, transposed, "interpret"
    )
    spec = lambda w: jax.ops.segment_sum(w, ids, N)  # noqa: E731
    cubed = lambda f: jax.jit(jax.grad(lambda w: (f(w) ** 3).sum()))(weight)  # noqa: E731
    close(mine(weight), spec(weight))
    close(cubed(mine), cubed(spec), 1e-4)


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_second_derivatives(reduce):
    graph, x, weight = case()

    def twice(f):
        inner = jax.grad(lambda x, w: (f(x, w) ** 3).sum(), (0, 1))
        outer = lambda x, w: sum((d**2).sum() for d in inner(x, w))  # noqa: E731
        return jax.jit(jax.grad(outer, (0, 1)))(x, weight)

    for mine, spec in zip(
        twice(kernel(ops.spmm, graph, reduce=reduce)), twice(specified(graph, reduce))
    ):
        np.testing.assert_allclose(mine, spec, rtol=1e-3, atol=1e-4 * np.abs(spec).max())


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_vmap_over_arrays_and_graphs(reduce):
    def both(implementation, graph, x, weight):
        f = lambda x, w: ops.spmm(  # noqa: E731
            graph, x, w, reduce=reduce, implementation=implementation
        )
        return f(x, weight), jax.grad(lambda *a: probe(f(*a)), (0, 1))(x, weight)

    mine = functools.partial(both, "interpret")
    spec = jax.jit(functools.partial(both, "xla"))
    (graph, x, weight), other = case(0), case(1)
    graphs, xs, ws = stack([(graph, x, weight), other])
    close(jax.jit(jax.vmap(mine))(graphs, xs, ws), stack([spec(graph, x, weight), spec(*other)]))
    some = jax.jit(jax.vmap(mine, (None, 0, None)))(graph, xs, weight)
    close(some, stack([spec(graph, x, weight), spec(graph, other[1], weight)]))


def test_a_hub_is_cut_in_pieces_and_added_up_the_same_way_twice():
    rng = np.random.default_rng(0)
    receivers = np.where(rng.random(300) < 0.7, 3, rng.integers(0, 6, 300))
    graph = Graph.from_edges(rng.integers(0, 6, 300), receivers, num_nodes=6)
    x, weight = jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.normal(size=300))
    for reduce in ("sum", "max"):
        mine = kernel(ops.spmm, graph, reduce=reduce)
        spec = lambda x, w, r=reduce: reference.spmm(  # noqa: E731
            graph.senders, graph.receivers, 6, x, w, r
        )
        run = jax.jit(jax.value_and_grad(lambda *a, f=mine: probe(f(*a)), (0, 1)))
        first, second = (jax.tree.leaves(run(x, weight)) for _ in range(2))
        close(first[1:], list(slope(spec, x, weight)))
        close(first[0], probe(spec(x, weight)))
        for a, b in zip(first, second):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", ["xla", "csr", "interpret"])
def test_rounding_to_half_precision_makes_no_ties(form):
    """In bfloat16, 1.0 * 1.0078 and 1.0078 * 1.0 differ from 1.0078 * 1.0078 only beyond it."""
    graph = Graph.from_edges([1, 2], [0, 0], num_nodes=3)
    x = jnp.asarray([[0.0], [1.0078125], [1.015625]], jnp.bfloat16)
    weight = jnp.asarray([1.0078125, 1.0], jnp.bfloat16)
    f = lambda x: ops.spmm(graph, x, weight, reduce="max", implementation=form).sum()  # noqa: E731
    assert x[1] * weight[0] == x[2] * weight[1]
    assert jax.grad(f)(x).ravel().tolist() == [0, 1.0078125, 0]


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_segment_reductions(reduce):
    ids = jnp.asarray([0, 0, 1, 1, 1, 3, 3, 5, 7, 9])
    rng = np.random.default_rng(0)
    data = jnp.asarray(np.round(rng.normal(size=(10, 2, 3))), jnp.float32)
    op = functools.partial(getattr(ops, f"segment_{reduce}"), indices_are_sorted=True)
    mine = lambda d: op(d, ids, 6, implementation="interpret")  # noqa: E731
    spec = lambda d: op(d, ids, 6, implementation="xla")  # noqa: E731
    close(mine(data), spec(data))
    close(slope(mine, data, wrt=0), slope(spec, data, wrt=0))
    close(mine(data[:, 0, 0]), spec(data[:, 0, 0]))
    twice = lambda f: jax.jit(  # noqa: E731
        jax.grad(lambda d: (jax.grad(lambda d: (f(d) ** 3).sum())(d) ** 2).sum())
    )(data)
    close(twice(mine), twice(spec), 1e-3)
    close(jax.vmap(mine)(jnp.stack([data, -data])), stack([spec(data), spec(-data)]))


def test_half_precision_is_summed_in_float32():
    star = Graph.from_edges(np.arange(1, 601), np.zeros(600, int), num_nodes=601)
    ones = jnp.ones((601, 1), jnp.bfloat16)
    assert float(ops.spmm(star, ones, implementation="interpret")[0, 0]) == 600
    ids = jnp.zeros(600, jnp.int32)
    total = ops.segment_sum(ones[1:], ids, 1, indices_are_sorted=True, implementation="interpret")
    assert total.dtype == jnp.bfloat16 and float(total[0, 0]) == 600


@pytest.fixture
def lines(caplog):
    dispatch._say_once.cache_clear()
    caplog.set_level(logging.WARNING, "jgraph.ops")
    yield lambda: [record.getMessage() for record in caplog.records]
    dispatch._say_once.cache_clear()


def test_what_the_kernels_cannot_take_is_said_once_and_served_by_xla(lines):
    graph, x, weight = case()
    plain = graph.to_jraph()
    for reduce in ("sum", "max"):
        for _ in range(2):
            out = ops.spmm(plain, x, weight, reduce=reduce, implementation="interpret")
            close(out, ops.spmm(graph, x, weight, reduce=reduce))
    close(ops.sddmm(plain, x, x, implementation="interpret"), ops.sddmm(graph, x, x))
    assert [("spmm" in line, "sddmm" in line) for line in lines()] == [(True, False), (False, True)]
    assert all("unsorted" in line for line in lines())
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(x), jnp.float64)
        assert ops.spmm(graph, wide, implementation="interpret").dtype == jnp.float64
    assert "x is float64" in lines()[-1]
    ids = np.array([1, 0, 1])
    total = ops.segment_sum(jnp.arange(3.0), ids, 2, implementation="interpret")
    assert total.tolist() == [1, 2]
    assert "not promised to be sorted" in lines()[-1]


def test_pallas_falls_back_without_a_gpu_and_is_lowered_for_one(lines):
    graph, x, weight = case()
    f = jax.jit(
        lambda x, w: jax.grad(
            lambda x, w: sum(
                ops.spmm(graph, x, w, reduce=reduce, implementation="pallas").sum()
                for reduce in ("sum", "max")
            ),
            (0, 1),
        )(x, w)
    )
    want = jax.grad(
        lambda x, w: sum(specified(graph, reduce)(x, w).sum() for reduce in ("sum", "max")), (0, 1)
    )
    close(f(x, weight), want(x, weight))
    assert any("it runs on gpu" in line for line in lines())
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
    check = jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        exported = jax.export.export(f, platforms=["cuda"], disabled_checks=[check])(x, weight)
    text = exported.mlir_module()
    names = ("spmm", "spmm_extremum", "spmm_ties", "spmm_extremum_pull", "spmm_weight")
    assert text.count("__gpu$xla.gpu.triton") >= len(names)
    assert all(f'"{name}"' in text for name in names)


def test_auto_keeps_to_xla_and_csr_where_nothing_was_measured():
    graph, x, weight = case()
    f = jax.jit(jax.grad(lambda x, w: ops.spmm(graph, x, w).sum(), (0, 1)))
    exported = jax.export.export(f, platforms=["cuda"])(x, weight)
    assert "triton" not in exported.mlir_module()
    data, ids = jnp.arange(3.0), jnp.asarray([0, 0, 1])
    total = functools.partial(ops.segment_sum, segment_ids=ids, num_segments=2)
    _, pushed = jax.jvp(lambda d: total(d, indices_are_sorted=True), (data,), (data,))
    assert pushed.tolist() == [1, 2]


def test_segment_reductions_name_what_they_do_not_have():
    with pytest.raises(ValueError, match="no sparse product"):
        ops.segment_sum(np.ones(2), np.zeros(2, int), 1, implementation="csr")
    with pytest.raises(ValueError, match="'cuda'"):
        ops.segment_max(np.ones(2), np.zeros(2, int), 1, implementation="cuda")
