"""Eight simulated devices give the result of one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny import TinyModel

from jgraph.train import TrainConfig, fit

_SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import jax, numpy as np
from tiny import TinyModel, make_graph_data, make_node_data
from jgraph.train import TrainConfig, fit

mesh = jax.make_mesh((8,), ("data",))
assert jax.device_count() == 8

def compare(data, config, model, **options):
    one = fit(model, data, config, progress=False, **options)
    many = fit(model, data, config, progress=False, mesh=mesh, **options)
    a = (one.params, one.model_state, one.history, one.test_loss, one.test_metric)
    b = (many.params, many.model_state, many.history, many.test_loss, many.test_metric)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)

data = make_graph_data()
# SGD: Adam divides rounding differences of vanishing gradients by their own size.
config = TrainConfig(epochs=4, batch_size=10, seeds=2, optimizer="sgd", lr=0.05, test_at="end")
compare(data, config, TinyModel(2, task="graph"), split="all")
compare(data, config.replace(runs_by="map"), TinyModel(2, task="graph", norm=True))

nodes = make_node_data()
config = config.replace(seeds=4, patience=2, epochs=6, test_at="best")
mesh = jax.sharding.Mesh(jax.devices(), ("data",))  # axes of the other type, Auto
compare(nodes, config, TinyModel(3, dropout=0.5, norm=True), split="all")
print("equal")
"""


def test_eight_devices_equal_one():
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    script = _SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def test_mesh_must_have_the_axis(node_data):
    mesh = jax.make_mesh((1,), ("model",))
    with pytest.raises(ValueError, match="one named 'data'"):
        fit(TinyModel(3), node_data, TrainConfig(epochs=1), mesh=mesh, progress=False)
