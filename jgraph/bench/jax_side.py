"""What is timed of jgraph and of plain JAX; runs in a process of its own."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jgraph import gnn, ops
from jgraph.bench.cases import MODELS, OPTIONS, timed
from jgraph.graph import Graph


def graph_of(arrays: dict[str, np.ndarray]) -> Graph:
    """The benchmark's graph with features, on the device."""
    graph = Graph.from_edges(arrays["senders"], arrays["receivers"], nodes=arrays["x"])
    return jax.device_put(graph)


def _spmm_forms(graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    senders, receivers = jnp.asarray(arrays["senders"]), jnp.asarray(arrays["receivers"])
    count = graph.num_nodes

    def segment_sum(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(x[senders], receivers, count)

    def ordered(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(
            x[graph.senders], graph.receivers, count, indices_are_sorted=True
        )

    return {
        "ops.spmm": lambda x: ops.spmm(graph, x),
        "segment_sum": segment_sum,
        "segment_sum (sorted)": ordered,
    }


def _call(function: Any, *args: Any) -> Any:
    return lambda: jax.block_until_ready(function(*args))


def spmm(arrays: dict[str, np.ndarray], repeats: int) -> dict[str, Any]:
    """Seconds of the sum over neighbours, forward and forward with backward."""
    graph, x = graph_of(arrays), jnp.asarray(arrays["x"])
    weight = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), x.dtype)
    out: dict[str, Any] = {"seconds": {}, "results": {}}
    for name, form in _spmm_forms(graph, arrays).items():
        forward = jax.jit(form)
        both = jax.jit(jax.value_and_grad(lambda x, f=form: jnp.vdot(f(x), weight)))
        out["results"][name] = np.asarray(forward(x))
        out["results"][f"{name} gradient"] = np.asarray(both(x)[1])
        out["seconds"][name] = timed(_call(forward, x), repeats)
        out["seconds"][f"{name} + backward"] = timed(_call(both, x), repeats)
    return out


def _training(name: str, graph: Graph, labels: jax.Array) -> tuple[Any, Any, Any]:
    model = gnn.get(name).build(MODELS["classes"], **OPTIONS[name])
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    optimizer = optax.adam(0.01)

    def step(carry: Any, graph: Graph, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry

        def loss(params: Any) -> jax.Array:
            logits = model.apply(params, graph, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    return model, (variables, optimizer.init(variables)), step


def logits(name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Initial parameters and their logits, for the comparison with the rival."""
    graph = graph_of(arrays)
    model, (variables, _), _ = _training(name, graph, jnp.zeros(graph.num_nodes, jnp.int32))
    params = jax.tree.map(np.asarray, variables["params"])
    return {"params": params, "logits": np.asarray(model.apply(variables, graph))}


def train(name: str, arrays: dict[str, np.ndarray], repeats: int) -> dict[str, Any]:
    """Seconds of one full training step: called step by step, and in a scanned loop of ten."""
    graph, labels = graph_of(arrays), jnp.asarray(arrays["labels"])
    _, carry, step = _training(name, graph, labels)
    single = jax.jit(step)
    single_seconds = timed(_call(single, carry, graph, labels), repeats)

    @jax.jit
    def loop(carry: Any, graph: Graph, labels: jax.Array) -> Any:
        return jax.lax.scan(lambda c, _: step(c, graph, labels), carry, None, length=10)

    began = time.perf_counter()
    compiled = loop.lower(carry, graph, labels).compile()
    compile_seconds = time.perf_counter() - began
    looped = timed(
        lambda: jax.block_until_ready(compiled(carry, graph, labels)), max(repeats // 3, 2)
    )
    return {
        "seconds": {"step": single_seconds, "loop": [s / 10 for s in looped]},
        "compile_seconds": compile_seconds,
    }


def cora(epochs: int, seeds: int) -> dict[str, Any]:
    """Wall seconds of `seeds` GCN runs on Cora, compilation included; mean test accuracy."""
    from jgraph import data
    from jgraph.commands.setting import config_of, make_setting
    from jgraph.train import fit

    setting = make_setting("gcn", data.load("cora"))
    config = config_of(setting.recipe, setting.dataset, epochs=epochs, seeds=seeds)
    began = time.perf_counter()
    result = fit(setting.model, setting.dataset, config, progress=False)
    seconds = time.perf_counter() - began
    return {"seconds": {"run": [seconds]}, "accuracy": 100 * result.mean}
