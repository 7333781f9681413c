import ast
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgraph import gnn
from jgraph.gnn.common import GNN
from jgraph.graph import SparseMatrix, batch, pad, unbatch
from jgraph.paper import Paper, Recipe

STACKS = tuple(name for name in gnn.models() if isinstance(gnn.get(name).build(3), GNN))
CASES = [(name, task) for name in STACKS for task in ("node", "graph")]


def build(module, **hyper):
    """A narrow model, with two heads where there are heads."""
    heads = {"heads": 2} if hasattr(module.build(2), "heads") else {}
    return module.build(3, hidden=6, **heads, **hyper)


def filled(model, graph):
    """Variables at random values; nothing is compiled."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), graph)
    draw = {"params": rng.standard_normal, "batch_stats": lambda shape: rng.uniform(0.5, 2, shape)}
    return {
        kind: jax.tree.map(lambda x, kind=kind: (0.5 * draw[kind](x.shape)).astype(x.dtype), tree)
        for kind, tree in shapes.items()
    }


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request):
    """(model, graph, variables) of a small model, built and initialised once."""
    name, task = request.param
    module = gnn.get(name)
    model = build(module, task=task, layers=2, dropout=0.3)
    graph = module.example(jax.random.key(0))
    return model, graph, filled(model, graph)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def evaluate(model, variables, graph, method="__call__"):
    return model.apply(variables, graph, method=method)


@functools.partial(jax.jit, static_argnums=0)
def train(model, variables, graph):
    rngs = {"dropout": jax.random.key(2)}
    return model.apply(variables, graph, train=True, rngs=rngs, mutable=["batch_stats"])


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def test_shapes_and_deterministic_evaluation(case):
    model, graph, variables = case
    rows = graph.num_nodes if model.task == "node" else graph.num_graphs
    logits = evaluate(model, variables, graph)
    assert logits.shape == (rows, 3) and logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, evaluate(model, variables, graph))
    embedding = evaluate(model, variables, graph, method="embed")
    assert embedding.shape[0] == rows and embedding.dtype == jnp.float32
    assert set(variables) <= {"params", "batch_stats"}


@pytest.mark.parametrize(("name", "task"), [("gcn", "node"), ("gat", "graph"), ("gin", "graph")])
def test_sparse_features_graphs_tuple_and_bfloat16(name, task):
    module = gnn.get(name)
    model, graph = build(module, task=task), module.example(jax.random.key(0))
    variables = filled(model, graph)
    x = np.where(np.abs(graph.nodes) > 0.5, graph.nodes, 0)
    graph = graph.replace(nodes=x)
    want = evaluate(model, variables, graph)
    close(evaluate(model, variables, graph.replace(nodes=SparseMatrix.from_dense(x))), want, 1e-4)
    close(evaluate(model, variables, graph.to_jraph()), want, 1e-4)
    half = evaluate(model.clone(dtype=jnp.dtype("bfloat16")), variables, graph)
    assert half.dtype == jnp.float32
    scale = np.abs(want).max()
    np.testing.assert_allclose(half / scale, want / scale, atol=0.06)


def test_head_is_linear_in_the_embedding_of_graphs(case):
    model, graph, variables = case
    if model.ends_in_conv:
        pytest.skip("the last map is a convolution")
    embedding, logits = (
        evaluate(model, variables, graph, method="embed"),
        evaluate(model, variables, graph),
    )
    params = variables["params"]
    if model.jumping == "scores":
        heads = [params[f"score_{i}"] for i in range(model.layers + 1)]
        kernel = jnp.concatenate([head["kernel"] for head in heads])
        bias = sum(head["bias"] for head in heads)
    else:
        kernel, bias = params["head"]["kernel"], params["head"]["bias"]
    close(embedding @ kernel + bias, logits, 1e-4)


@pytest.mark.parametrize("name", STACKS)
def test_variants(name):
    module = gnn.get(name)
    graph = module.example(jax.random.key(0))
    for task, jumping, rows in (("node", "concat", 15), ("graph", "max", 3)):
        model = build(module, task=task, layers=3, norm="layer", residual=True, jumping=jumping)
        variables = jax.eval_shape(model.init, jax.random.key(0), graph)
        assert jax.eval_shape(model.apply, variables, graph).shape == (rows, 3)
    no_hops = {"hops": 0} if hasattr(module.build(2), "hops") else {}
    one = build(module, layers=1, **no_hops)
    close(one.apply(filled(one, graph), graph, method="embed"), graph.nodes)


def test_residual_and_jumping_values():
    module = gnn.get("mlp")
    graph = module.example(jax.random.key(0))
    model = module.build(3, hidden=5, layers=2, residual=True, jumping="concat")
    variables = filled(model, graph)
    params = variables["params"]
    states = [graph.nodes]
    for name in ("conv_0", "conv_1"):
        linear = params[name]["linear"]
        y = states[-1] @ linear["kernel"] + linear["bias"]
        states.append(states[-1] + np.maximum(y, 0))
    want = np.concatenate(states[1:], axis=1) @ params["head"]["kernel"] + params["head"]["bias"]
    close(evaluate(model, variables, graph), want, 1e-4)


def test_batch_norm_is_shared_over_devices():
    module = gnn.get("gin")
    model = module.build(3, task="graph", hidden=4, layers=1, dropout=0.0)
    parts = unbatch(module.example(jax.random.key(0)))[:2]
    variables = filled(model, parts[0])
    want, stats = train(model, variables, batch(parts))
    padded = [pad(part, 8, 24, 2) for part in parts]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
    shared = model.clone(axis_name="devices")
    mapped = jax.vmap(functools.partial(train, shared), in_axes=(None, 0), axis_name="devices")
    got, new = mapped(variables, stacked)
    close(got[:, 0], want, 1e-4)
    jax.tree.map(lambda a, b: close(a[1], b, 1e-4), new, stats)


def test_recipes_are_those_of_the_papers():
    gcn = gnn.get("gcn").build(7)
    assert (gcn.hidden, gcn.layers, gcn.dropout, gcn.norm) == (16, 2, 0.5, "none")
    assert gnn.get("gcn").RECIPE.weight_decay_on == "first"
    gat = gnn.get("gat").build(7)
    assert (gat.hidden, gat.heads, gat.out_heads, gat.dropout) == (8, 8, 1, 0.6)
    gin = gnn.get("gin").build(2, task="graph")
    assert (gin.hidden, gin.layers, gin.jumping, gin.pooling) == (32, 4, "scores", "sum")


def test_first_layer_comes_first_in_the_parameters():
    for name in STACKS:
        module = gnn.get(name)
        graph = module.example(jax.random.key(0))
        model, created = module.build(3, hidden=4), []

        def init(key, model=model, created=created, graph=graph):
            params = model.init(key, graph)["params"]
            created.extend(params)
            return params

        jax.eval_shape(init, jax.random.key(0))
        assert created[0] == "conv_0"


@pytest.mark.parametrize("name", STACKS)
def test_build_names_what_is_wrong(name):
    build = gnn.get(name).build
    with pytest.raises(ValueError, match=r"no hyperparameter 'hiden'; it takes .*hidden"):
        build(3, hiden=8)
    with pytest.raises(ValueError, match="task is 'edge'"):
        build(3, task="edge")
    for key, value in {
        "hidden": 0,
        "layers": 1.5,
        "dropout": 1.0,
        "norm": "batchnorm",
        "jumping": "scores",
        "pooling": "median",
    }.items():
        with pytest.raises(ValueError, match=f"{key} is"):
            build(3, **{key: value})
    with pytest.raises(ValueError, match="num_classes is 0"):
        build(0)
    if name in ("gat", "gatv2"):
        assert build(3, heads=2).heads == 2
    else:
        build(3, heads=1)
        with pytest.raises(ValueError, match="no hyperparameter 'heads'"):
            build(3, heads=2)
    assert build(3, dtype="bfloat16").dtype == jnp.bfloat16


def test_missing_features_are_reported():
    module = gnn.get("gcn")
    graph = module.example(jax.random.key(0)).replace(nodes=None)
    with pytest.raises(TypeError, match=r"GCN needs node features.*graph\.nodes"):
        module.build(3).init(jax.random.key(0), graph)


def test_models_are_found_and_unknown_names_suggest():
    assert {"gat", "gatv2", "gcn", "gin", "graphsage", "mlp"} <= set(STACKS) <= set(gnn.models())
    with pytest.raises(ValueError, match="did you mean 'graphsage'"):
        gnn.get("graph_sage")
    with pytest.raises(ValueError, match=r"choose one of .*gat, gatv2"):
        gnn.get("transformer")


@pytest.mark.parametrize("name", gnn.models())
def test_files_carry_their_records(name):
    module = gnn.get(name)
    assert set(module.RECIPES) == {"node", "graph"}
    assert all(isinstance(recipe, Recipe) for recipe in module.RECIPES.values())
    assert module.RECIPE in module.RECIPES.values()
    if name == "mlp":
        assert not hasattr(module, "PAPER")
        return
    paper = module.PAPER
    assert isinstance(paper, Paper)
    assert (paper.slug, paper.family) == (name, "gnn")
    assert paper.experiment == f"experiments/gnn/{name}.py"
    assert module.RECIPE is module.RECIPES[paper.task]
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "PAPER":
            assert all(ast.literal_eval(k.value) is not None for k in node.value.keywords)
