"""spmm, sddmm, edge softmax and gathers against their plain-jnp specification."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import ops
from jgraph.graph import Graph, SparseMatrix, sorted_adjacency
from jgraph.ops import chunks, csr, reference
from jgraph.ops.dispatch import IMPLEMENTATIONS

N, E, H, F = 18, 60, 3, 5
FORMS = ("auto", "xla", "csr")
REDUCTIONS = ("sum", "mean", "max", "min")


def case(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    graph = Graph.from_edges(rng.integers(0, N, E), rng.integers(0, N - 3, E), num_nodes=N)
    x = jnp.asarray(rng.normal(size=(N, H, F)), dtype)
    weight = jnp.asarray(rng.normal(size=(E, H)), dtype)
    return graph, x, weight


def weight_of(kind, weight):
    return {"none": None, "edge": weight[:, 0], "head": weight}[kind]


def close(got, want, **kwargs):
    kwargs = {"rtol": 2e-5, "atol": 2e-5} | kwargs
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **kwargs), got, want)


def probe(out):
    return (out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)).sum()


@pytest.mark.parametrize("kind", ["none", "edge", "head"])
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_spmm_values_and_gradients(form, reduce, kind):
    graph, x, weight = case()
    weight = weight_of(kind, weight)
    mine = functools.partial(ops.spmm, graph, reduce=reduce, implementation=form)
    spec = lambda x, w: reference.spmm(graph.senders, graph.receivers, N, x, w, reduce)  # noqa: E731
    close(mine(x, weight), spec(x, weight))
    close(jax.jit(mine)(x, weight), spec(x, weight))
    wrt = (0,) if weight is None else (0, 1)
    grads = jax.grad(lambda *a: probe(mine(*a)), wrt)(x, weight)
    close(grads, jax.grad(lambda *a: probe(spec(*a)), wrt)(x, weight))
    assert (np.asarray(mine(x, weight))[N - 3 :] == 0).all()


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_vmap_equals_a_loop(form, reduce):
    graph, x, weight = case()
    xs, ws = jnp.stack([x, 2 * x, x - 1]), jnp.stack([weight, weight + 1, 2 * weight])
    mine = functools.partial(ops.spmm, graph, reduce=reduce, implementation=form)
    slope = jax.grad(lambda x, w: probe(mine(x, w)), (0, 1))
    for f in (mine, slope):
        close(jax.vmap(f)(xs, ws), stack([f(a, b) for a, b in zip(xs, ws)]))
        close(jax.vmap(f, (0, None))(xs, weight), stack([f(a, weight) for a in xs]))
        close(jax.jit(jax.vmap(f, (None, 0)))(x, ws), stack([f(x, b) for b in ws]))
    twice = jax.vmap(jax.vmap(mine))(jnp.stack([xs, xs + 1]), jnp.stack([ws, ws]))
    close(twice[1, 2], mine(xs[2] + 1, ws[2]))


def stack(results):
    return jax.tree.map(lambda *a: jnp.stack(a), *results)


def test_vmap_over_graphs_equals_a_loop():
    cases = [case(seed) for seed in range(3)]
    graphs, xs, ws = stack(cases)
    f = jax.grad(lambda g, x, w: probe(ops.spmm(g, x, w)), (1, 2))
    close(jax.vmap(f)(graphs, xs, ws), stack([f(*c) for c in cases]))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_many_chunks_equal_one(monkeypatch, reduce):
    graph, x, weight = case()
    whole = jax.grad(lambda x, w: probe(ops.spmm(graph, x, w, reduce=reduce)), (0, 1))(x, weight)
    monkeypatch.setattr(chunks, "CHUNK", 7)
    mine = lambda x, w: ops.spmm(graph, x, w, reduce=reduce, implementation="csr")  # noqa: E731
    close(mine(x, weight), ops.spmm(graph, x, weight, reduce=reduce, implementation="xla"))
    close(jax.grad(lambda *a: probe(mine(*a)), (0, 1))(x, weight), whole)


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_sddmm_values_and_gradients(form, heads):
    graph, a, _ = case()
    b = case(1)[1]
    a, b = (a, b) if heads else (a[:, 0], b[:, 0])
    mine = lambda a, b: ops.sddmm(graph, a, b, implementation=form)  # noqa: E731
    spec = lambda a, b: reference.sddmm(graph.senders, graph.receivers, a, b)  # noqa: E731
    close(mine(a, b), spec(a, b))
    slope = lambda f: jax.grad(lambda a, b: probe(f(a, b)), (0, 1))(a, b)  # noqa: E731
    close(slope(mine), slope(spec))


def test_second_derivatives():
    graph, x, weight = case()
    twice = lambda f: jax.grad(  # noqa: E731
        lambda w: (jax.grad(lambda w: (f(x, w) ** 3).sum())(w) ** 2).sum()
    )(weight)
    spec = twice(lambda x, w: reference.spmm(graph.senders, graph.receivers, N, x, w))
    mine = twice(lambda x, w: ops.spmm(graph, x, w))
    np.testing.assert_allclose(mine, spec, rtol=1e-3, atol=1e-3 * np.abs(spec).max())


def test_edge_softmax_and_gathers_match_the_specification():
    graph, x, weight = case()
    spec = lambda w: reference.edge_softmax(graph.receivers, N, w)  # noqa: E731
    mine = functools.partial(ops.edge_softmax, graph)
    close(mine(weight), spec(weight))
    close(jax.grad(lambda w: probe(mine(w)))(weight), jax.grad(lambda w: probe(spec(w)))(weight))
    ends = ((ops.gather_senders, graph.senders), (ops.gather_receivers, graph.receivers))
    for gather, ids in ends:
        close(gather(graph, x), x[ids])
        close(
            jax.grad(lambda x, g=gather: probe(g(graph, x)))(x),
            jax.grad(lambda x, i=ids: probe(x[i]))(x),
        )


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_plain_jraph_tuples_give_the_same(reduce):
    graph, x, weight = case()
    p = np.random.default_rng(2).permutation(E)
    plain = graph.to_jraph()._replace(senders=graph.senders[p], receivers=graph.receivers[p])
    close(ops.spmm(plain, x, weight[p], reduce=reduce), ops.spmm(graph, x, weight, reduce=reduce))
    slope = lambda g, w: jax.grad(lambda x: probe(ops.spmm(g, x, w, reduce=reduce)))(x)  # noqa: E731
    close(slope(plain, weight[p]), slope(graph, weight))
    close(ops.sddmm(plain, x, x), ops.sddmm(graph, x, x)[p])
    soft = ops.edge_softmax(plain, weight[p], num_nodes=N)
    close(soft, ops.edge_softmax(graph, weight)[p])


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_accumulates_in_float32(form):
    graph, x, weight = case()
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, weight))
    out = ops.spmm(graph, *half, implementation=form)
    want = ops.spmm(graph, *(a.astype(jnp.float32) for a in half))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), want, rtol=2e-2, atol=2e-2)
    star = Graph.from_edges(np.arange(1, 4001), np.zeros(4000, int), num_nodes=4001)
    ones = jnp.ones((4001, 1), jnp.bfloat16)
    assert float(ops.spmm(star, ones, implementation=form)[0, 0]) == 4000


@pytest.mark.parametrize("form", FORMS)
def test_bipartite_and_float64(form):
    adjacency, order = sorted_adjacency([0, 4, 2], [1, 0, 1], num_receivers=2, num_senders=5)
    with jax.enable_x64(True):
        x = jnp.arange(5.0, dtype=jnp.float64)[:, None] + 0.1
        w = jnp.asarray(np.array([1.0, 10.0, 100.0])[order])
        out = ops.spmm(adjacency, x, w, implementation=form)
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out[:, 0], [41.0, 210.1], rtol=1e-12)
        grad = jax.grad(lambda x: ops.spmm(adjacency, x, w, implementation=form)[1, 0])(x)
        np.testing.assert_allclose(grad[:, 0], [1, 0, 100, 0, 0])


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("width", [1, 3, 8, 9])
def test_no_edges_and_odd_widths(width, reduce):
    empty = Graph.from_edges([], [], num_nodes=4)
    x = jnp.ones((4, width))
    out = ops.spmm(empty, x, reduce=reduce)
    assert out.shape == (4, width) and (np.asarray(out) == 0).all()
    assert (np.asarray(jax.grad(lambda x: ops.spmm(empty, x, reduce=reduce).sum())(x)) == 0).all()
    graph, x, _ = case()
    x = jnp.tile(x[:, 0], (1, 2))[:, :width]
    close(
        ops.spmm(graph, x, reduce=reduce),
        reference.spmm(graph.senders, graph.receivers, N, x, None, reduce),
    )


def test_same_bits_twice():
    graph, x, weight = case()
    f = jax.jit(jax.grad(lambda x, w: probe(ops.spmm(graph, x, w)), (0, 1)))
    for a, b in zip(f(x, weight), f(x, weight)):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_no_edge_sized_residual_is_kept():
    """What the backward pass of spmm keeps is of size N x F and E, never E x F."""
    rng = np.random.default_rng(0)
    nodes, edges, width = 10, 500, 64
    graph = Graph.from_edges(*rng.integers(0, nodes, (2, edges)), num_nodes=nodes)
    x, w = jnp.ones((nodes, width)), jnp.ones(edges)
    for reduce in REDUCTIONS:
        _, back = jax.vjp(lambda x, w, r=reduce: ops.spmm(graph, x, w, reduce=r), x, w)
        assert max(leaf.size for leaf in jax.tree.leaves(back)) < edges * width / 4


def test_sparse_matmul_equals_dense():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(6, 9)).astype(np.float32) * (rng.random((6, 9)) < 0.3)
    sparse, w = SparseMatrix.from_dense(dense), jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)
    close(ops.matmul(sparse, w), dense @ w)
    slope = lambda x: jax.grad(lambda w: probe(ops.matmul(x, w)))(w)  # noqa: E731
    close(slope(sparse), slope(jnp.asarray(dense)))
    with pytest.raises(ValueError, match="9 columns"):
        ops.matmul(sparse, w[:5])


def test_ops_inside_shard_map():
    graph, x, weight = case()
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    f = jax.jit(
        jax.shard_map(
            lambda g, x, w: ops.spmm(g, x, w),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=False,
        )
    )
    close(f(graph, x, weight), ops.spmm(graph, x, weight))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_auto_lowers_for_every_platform(platform):
    graph, x, weight = case()
    f = jax.jit(
        jax.grad(
            lambda x, w: ops.spmm(graph, x, w, reduce="max").sum() + ops.spmm(graph, x, w).sum(),
            (0, 1),
        )
    )
    exported = jax.export.export(
        f,
        platforms=[platform],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("cpu_csr_sparse_dense_ffi")],
    )(x, weight)
    assert ("cpu_csr_sparse_dense_ffi" in exported.mlir_module()) == (platform == "cpu")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g, x, w: ops.spmm(g, x[:-1]), r"x has shape \(17"),
        (lambda g, x, w: ops.spmm(g, x, w[:-1]), r"weight has shape \(59"),
        (lambda g, x, w: ops.spmm(g, x[:, 0], w), "3 heads"),
        (lambda g, x, w: ops.spmm(g, x, reduce="median"), "'median'"),
        (lambda g, x, w: ops.spmm(g, x, implementation="cuda"), "'cuda'"),
        (lambda g, x, w: ops.edge_softmax(g, w, implementation="pallas"), "no Pallas kernel"),
        (lambda g, x, w: ops.sddmm(g, x, x[..., :2]), "alike"),
        (lambda g, x, w: ops.edge_softmax(g, w[:5]), r"logits has shape \(5"),
        (lambda g, x, w: ops.gather_senders(g, x[:3]), r"x has shape \(3"),
    ],
)
def test_bad_input_names_the_argument(call, words):
    graph, x, weight = case()
    with pytest.raises(ValueError, match=words):
        call(graph, x, weight)
    with pytest.raises(TypeError, match="GraphsTuple"):
        ops.spmm("graph", x)


def test_batched_csr_refuses_int32_overflow():
    values = jax.ShapeDtypeStruct((2**15, 2**20), jnp.float32)
    columns = jax.ShapeDtypeStruct((2**20,), jnp.int32)
    offsets = jax.ShapeDtypeStruct((9,), jnp.int32)
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    with pytest.raises(ValueError, match="int32"):
        jax.eval_shape(jax.vmap(csr.csr_matmul, (0, None, None, None)), values, columns, offsets, x)


def test_every_implementation_is_documented():
    from jgraph.ops import dispatch

    assert all(f'"{name}"' in dispatch.__doc__ for name in IMPLEMENTATIONS)
