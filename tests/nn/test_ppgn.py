"""PPGN blocks commute with renumbering, and tell apart what message passing cannot."""

import jax
import jax.numpy as jnp
import numpy as np

from jgraph.data.generators import make_csl
from jgraph.graph import batch
from jgraph.nn.dense import dense_layout, dense_tensor
from jgraph.nn.ppgn import PPGNBlock, diagonal_and_rest


def test_block_is_equivariant(noisy):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 6, 6)), jnp.float32)
    mask, order = jnp.ones((1, 6), bool), np.random.default_rng(1).permutation(6)
    block = PPGNBlock(3)
    variables = noisy(block, x, mask)
    moved = block.apply(variables, x[:, :, order][..., order], mask)
    want = block.apply(variables, x, mask)[:, :, order][..., order]
    np.testing.assert_allclose(moved, want, rtol=1e-4, atol=1e-4)


def test_two_blocks_tell_skip_links_apart():
    """Adjacency squared counts common neighbours, which differ between skip lengths 2 and 3."""
    graphs, labels = make_csl(copies=1)
    pair = [graphs[int(np.flatnonzero(labels == c)[0])] for c in (0, 1)]
    whole = batch(pair)
    layout = dense_layout(whole, whole.num_nodes, 41)
    x = dense_tensor(whole, layout, jnp.asarray(whole.nodes), None)
    block = PPGNBlock(8)
    for seed in range(2):
        variables = block.init(jax.random.key(seed), x, layout.mask)
        x = block.apply(variables, x, layout.mask)
    a, b = diagonal_and_rest(x, layout.mask)
    assert np.abs(a - b).max() > 1e-3
