"""Attention over the edges of a graph: softmax over each node's incoming edges, times values.

Per head, for the edges e: j -> i (and i -> i with self loops):

    additive_attention   s_e = leaky_relu(a_j + b_i)              GAT, equation 3
    gatv2_attention      s_e = att . leaky_relu(l_j + r_i)        GATv2, equation 7
    dot_attention        s_e = scale q_i . k_j                    graph transformers

    out_i = sum_{e into i} exp(s_e) v_j / sum_{e into i} exp(s_e)

The result and one number per node and head are kept for the gradient, which makes the logits anew.
On a GPU the kernel of `pallas_kernels.graph_attention` does each walk over the edges in one pass;
elsewhere, and where it does not serve, the forms of `graph_attention` do. On a CPU additive logits
of one head are quickest in the form without a product per edge, those of several narrow heads in
the general one (see experiments/results/bench-cpu-facts.json).

GAT: Velickovic et al., ICLR 2018, arXiv 1710.10903. GATv2: Brody, Alon & Yahav, ICLR 2022, arXiv
2105.14491. Dot product: Vaswani et al., NeurIPS 2017, arXiv 1706.03762.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jgraph.graph.adjacency import Adjacency
from jgraph.ops import graph_attention as forms
from jgraph.ops.csr import supports
from jgraph.ops.dispatch import by_platform, check_implementation
from jgraph.ops.edges import as_adjacency, check_rows, num_receivers_of
from pallas_kernels import graph_attention as package
from pallas_kernels.call import differentiable


class _Choice(NamedTuple):
    options: package.Options
    implementation: str


def _for_kernel(adjacency: Adjacency, *features: Any) -> tuple[Any, ...]:
    index = adjacency.sorted_index
    return (
        adjacency.senders,
        adjacency.receivers,
        index.row_offsets,
        index.col_order,
        index.col_offsets,
        index.col_receivers,
        *features,
    )


def _unsupported(options: package.Options, adjacency: Adjacency, *features: Any) -> str | None:
    if adjacency.index is None:
        return "the edges are not sorted; build the graph with Graph.from_jraph or from_edges"
    return package.unsupported(options, *_for_kernel(adjacency, *features))


def _wide(x: Any) -> Any:
    return None if x is None else x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _keeps_powers(choice: _Choice, values: Any) -> bool:
    """Whether the form for one head of additive logits serves, which no kernel shares."""
    one = choice.options.kind == "additive" and values.shape[1] == 1
    plain = choice.implementation not in ("pallas", "interpret")
    return one and plain and jax.default_backend() == "cpu"


def _pair(choice: _Choice, adjacency: Adjacency, values: Any, run: Any) -> tuple[Any, Any]:
    """`run` as the portable form and, where it fits, as the CPU form."""
    portable = functools.partial(run, choice.options, "xla")
    fits = adjacency.index is not None and adjacency.num_edges > 0 and supports(values.dtype)
    return portable, functools.partial(run, choice.options, "csr") if fits else None


def _forward(choice: _Choice, adjacency: Adjacency, *features: Any) -> tuple[Any, Any]:
    options = choice.options
    values = features[0] if features[3] is None else features[3]
    kept = _keeps_powers(choice, values)

    def wide(options, inner, adjacency, *features):
        run = forms.forward_one_head if kept else forms.forward
        out, *rest = run(options, inner, adjacency, *map(_wide, features))
        return out.astype(values.dtype), *rest

    def kernel(adjacency, *features, backend):
        return package.forward(options, *_for_kernel(adjacency, *features), backend=backend)[1]

    portable, csr = _pair(choice, adjacency, values, wide)
    residuals = by_platform(
        "graph_attention",
        choice.implementation,
        adjacency,
        *features,
        xla=portable,
        csr=csr,
        kernel=None if kept else kernel,
        backends=package.BACKENDS,
        unsupported=_unsupported(options, adjacency, *features),
    )
    return residuals[0], residuals


def _backward(choice: _Choice, operands: Any, residuals: Any, grad: Any) -> tuple[Any, ...]:
    options, (adjacency, *features), grad = choice.options, operands, jnp.asarray(grad)
    values = features[0] if features[3] is None else features[3]
    kept = _keeps_powers(choice, values)

    def wide(options, inner, adjacency, features, residuals, grad):
        run = forms.backward_one_head if kept else forms.backward
        arrays = jax.tree.map(_wide, (*features, *residuals, grad))
        gradients = run(options, inner, adjacency, *arrays)
        return tuple(None if x is None else g.astype(x.dtype) for x, g in zip(features, gradients))

    def kernel(adjacency, features, residuals, grad, backend):
        operands = _for_kernel(adjacency, *features)
        return package.backward(options, operands, residuals, grad, backend=backend)[6:]

    portable, csr = _pair(choice, adjacency, values, wide)
    gradients = by_platform(
        "graph_attention",
        choice.implementation,
        adjacency,
        tuple(features),
        residuals,
        grad,
        xla=portable,
        csr=csr,
        kernel=None if kept else kernel,
        backends=package.BACKENDS,
        unsupported=_unsupported(options, adjacency, *features),
    )
    return None, *gradients


_run = differentiable(_forward, _backward)


def _check_slope(negative_slope: float) -> None:
    if not 0 < negative_slope <= 1:
        raise ValueError(f"negative_slope is {negative_slope}; it must lie in (0, 1]")


def _check_shape(name: str, array: jax.Array, shape: tuple[Any, ...], other: str) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape)
    )
    if not fits:
        words = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} has shape {array.shape}; {other} it must be ({words})")


def _check_floating(**arrays: jax.Array | None) -> None:
    for name, array in arrays.items():
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} is {array.dtype}; it must be floating: use astype(float32)")


def _attend(
    graph: Any, implementation: str, options: package.Options, left: Any, right: Any, att: Any,
    values: Any,
) -> jax.Array:  # fmt: skip
    if options.self_loops and left.shape[0] != right.shape[0]:
        raise ValueError(
            f"self_loops needs as many senders as receivers, got {left.shape[0]} and "
            f"{right.shape[0]}"
        )
    return _run(_Choice(options, implementation), as_adjacency(graph), left, right, att, values)


def _arrays(*arrays: Any) -> list[Any]:
    return [None if x is None else jnp.asarray(x) for x in arrays]


def additive_attention(
    graph: Any,
    values: jax.Array,
    sender_scores: jax.Array,
    receiver_scores: jax.Array,
    *,
    negative_slope: float = 0.2,
    self_loops: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Softmax over incoming edges of leaky_relu(a_j + b_i), applied to the senders' values.

    Args:
      graph: `Graph`, `Adjacency` or `jraph.GraphsTuple`.
      values: (N_senders, H, F) floating.
      sender_scores, receiver_scores: a (N_senders, H) and b (N_receivers, H).
      negative_slope: of the leaky_relu, in (0, 1].
      self_loops: attend to the node itself beside its edges.
      implementation: see `jgraph.ops.dispatch`.

    Returns:
      (N_receivers, H, F) in the dtype of `values`, computed in float32 at least; 0 for a node
      that attends to nothing.

    Raises:
      ValueError: shapes that do not fit, or a slope outside (0, 1].
      TypeError: arrays that are not floating.
    """
    check_implementation("graph_attention", implementation)
    _check_slope(negative_slope)
    values, sender_scores, receiver_scores = _arrays(values, sender_scores, receiver_scores)
    _check_floating(values=values, sender_scores=sender_scores, receiver_scores=receiver_scores)
    adjacency = as_adjacency(graph)
    check_rows("values", values, adjacency.num_senders, "senders")
    count = num_receivers_of(graph, adjacency, receiver_scores.shape[0])
    heads = values.shape[1] if values.ndim == 3 else "heads"
    other = f"for values {values.shape}"
    _check_shape("sender_scores", sender_scores, (values.shape[0], heads), other)
    _check_shape("receiver_scores", receiver_scores, (count, heads), other)
    options = package.Options("additive", negative_slope=negative_slope, self_loops=self_loops)
    return _attend(adjacency, implementation, options, sender_scores, receiver_scores, None, values)


def gatv2_attention(
    graph: Any,
    senders_features: jax.Array,
    receivers_features: jax.Array,
    att: jax.Array,
    values: jax.Array | None = None,
    *,
    negative_slope: float = 0.2,
    self_loops: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Softmax over incoming edges of att . leaky_relu(l_j + r_i), applied to the senders' values.

    Args:
      graph: `Graph`, `Adjacency` or `jraph.GraphsTuple`.
      senders_features, receivers_features: l (N_senders, H, D) and r (N_receivers, H, D).
      att: (H, D).
      values: (N_senders, H, F); None for `senders_features`, as in GATv2.
      negative_slope, self_loops, implementation: as in `additive_attention`.

    Returns:
      (N_receivers, H, F) in the dtype of the values, computed in float32 at least; 0 for a node
      that attends to nothing.

    Raises:
      ValueError: shapes that do not fit, or a slope outside (0, 1].
      TypeError: arrays that are not floating.
    """
    check_implementation("graph_attention", implementation)
    _check_slope(negative_slope)
    left, right, att, values = _arrays(senders_features, receivers_features, att, values)
    _check_floating(senders_features=left, receivers_features=right, att=att, values=values)
    adjacency = _check_pairs(graph, "senders_features", left, "receivers_features", right, values)
    _check_shape("att", att, left.shape[1:], f"for senders_features {left.shape}")
    options = package.Options("gatv2", negative_slope=negative_slope, self_loops=self_loops)
    return _attend(adjacency, implementation, options, left, right, att, values)


def dot_attention(
    graph: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float | None = None,
    self_loops: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Softmax over incoming edges of scale q_i . k_j, applied to the senders' values.

    Args:
      graph: `Graph`, `Adjacency` or `jraph.GraphsTuple`.
      q: (N_receivers, H, D); k: (N_senders, H, D); v: (N_senders, H, F).
      scale: by default 1 / sqrt(D).
      self_loops, implementation: as in `additive_attention`.

    Returns:
      (N_receivers, H, F) in the dtype of `v`, computed in float32 at least; 0 for a node that
      attends to nothing.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: arrays that are not floating.
    """
    check_implementation("graph_attention", implementation)
    q, k, v = _arrays(q, k, v)
    _check_floating(q=q, k=k, v=v)
    adjacency = _check_pairs(graph, "k", k, "q", q, v, "v")
    scale = float(max(k.shape[2], 1)) ** -0.5 if scale is None else float(scale)
    options = package.Options("dot", scale=scale, self_loops=self_loops)
    return _attend(adjacency, implementation, options, k, q, None, v)


def _check_pairs(
    graph: Any, left_name: str, left: Any, right_name: str, right: Any, values: Any,
    values_name: str = "values",
) -> Adjacency:  # fmt: skip
    adjacency = as_adjacency(graph)
    check_rows(left_name, left, adjacency.num_senders, "senders")
    check_rows(right_name, right, adjacency.num_receivers, "receivers")
    if left.ndim != 3:
        raise ValueError(f"{left_name} has shape {left.shape}; it must be (senders, heads, width)")
    other = f"for {left_name} {left.shape}"
    _check_shape(right_name, right, (None, *left.shape[1:]), other)
    if values is not None:
        _check_shape(values_name, values, (left.shape[0], left.shape[1], None), other)
    return adjacency
