"""Shared fixtures: strict dtype promotion off by default, tiny random graphs."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TQDM_DISABLE", "1")

import jax
import numpy as np
import pytest

from jgraph.graph import Graph


def make_graph(seed=0, num_nodes=12, num_edges=40, features=5, isolated=2, edge_features=0):
    """A random directed multigraph whose last `isolated` nodes have no edge."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, num_nodes - isolated, (2, num_edges))
    return Graph.from_edges(
        ends[0],
        ends[1],
        nodes=rng.normal(size=(num_nodes, features)).astype(np.float32),
        edges=rng.normal(size=(num_edges, edge_features)).astype(np.float32)
        if edge_features
        else None,
        num_nodes=num_nodes,
    )


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Modules share few programs; kept, they would fill gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def random_graph():
    return make_graph


@pytest.fixture
def data_root():
    root = os.environ.get("JGRAPH_DATA")
    if not root:
        pytest.skip("JGRAPH_DATA is not set: the datasets are not here")
    return root
