"""Sorted adjacency: edges in receiver order (CSR) with the way to sender order (CSC).

Edge k goes from `senders[k]` to `receivers[k]`; edges are sorted by (receiver, sender). The index
holds where each receiver's edges begin, and the permutation that visits the edges in sender order:

    receiver i has edges   row_offsets[i] : row_offsets[i + 1]
    sender j has edges     col_order[col_offsets[j] : col_offsets[j + 1]]
    col_receivers[k]     = receivers[col_order[k]]

so a sum over neighbours is a CSR product and its gradient a CSR product with the CSC arrays.
Everything is int32 and built once on the host with NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jgraph.graph.errors import GraphError

Array = Any  # numpy.ndarray or jax.Array
INT32_MAX = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Index:
    """CSR offsets and the CSC view of receiver-sorted edges; all int32.

    Attributes:
      row_offsets: (N_receivers + 1,).
      col_order: (E,) edge numbers in sender order.
      col_offsets: (N_senders + 1,).
      col_receivers: (E,) receivers in sender order.
    """

    row_offsets: Array
    col_order: Array
    col_offsets: Array
    col_receivers: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adjacency:
    """Senders, receivers (E,) int32 and, when the edges are sorted, their `Index`.

    It may be bipartite: senders and receivers can count different sets. `index=None` means
    unsorted edges, which every op accepts and serves by its slower path.
    """

    senders: Array
    receivers: Array
    index: Index | None = None

    @property
    def num_edges(self) -> int:
        """Number of edges E, padding included."""
        return self.senders.shape[-1]

    @property
    def num_receivers(self) -> int | None:
        """Number of rows, or None when the edges are unsorted."""
        return None if self.index is None else self.index.row_offsets.shape[-1] - 1

    @property
    def num_senders(self) -> int | None:
        """Number of columns, or None when the edges are unsorted."""
        return None if self.index is None else self.index.col_offsets.shape[-1] - 1

    @property
    def sorted_index(self) -> Index:
        """The index; raises GraphError when the edges are unsorted."""
        if self.index is None:
            raise GraphError("this adjacency is unsorted; build it with sorted_adjacency")
        return self.index

    @property
    def shape(self) -> tuple[int, int]:
        """(num_receivers, num_senders); raises GraphError when the edges are unsorted."""
        index = self.sorted_index
        return index.row_offsets.shape[-1] - 1, index.col_offsets.shape[-1] - 1

    def transpose(self) -> Adjacency:
        """The same edges reversed, sorted by the new receivers (old senders)."""
        if self.index is None:
            return Adjacency(self.receivers, self.senders)
        index = jax.tree.map(np.asarray, self.index)
        order = index.col_order
        inverse = np.empty_like(order)
        inverse[order] = np.arange(order.size, dtype=np.int32)
        return Adjacency(
            index.col_receivers,
            np.asarray(self.senders)[order],
            Index(index.col_offsets, inverse, index.row_offsets, np.asarray(self.senders)),
        )


def check_indices(name: str, values: Any, bound: int | None, what: str = "nodes") -> np.ndarray:
    """`values` as a 1-D int32 array, checked to lie in [0, bound).

    Raises:
      GraphError: not one-dimensional, negative, or not below `bound`.
      TypeError: not integers (a float index is always a mistake).
    """
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int32)
    if array.ndim != 1:
        raise GraphError(
            f"{name} must be one-dimensional (E,), got shape {array.shape}; "
            "pass the two rows of an edge index as senders and receivers"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"{name} must hold integers, got dtype {array.dtype}; convert with .astype('int32')"
        )
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0:
            raise GraphError(
                f"{name} holds {low} at position {int(array.argmin())}; {what} are numbered from 0"
            )
        if bound is not None and high >= bound:
            raise GraphError(
                f"{name} holds {high} at position {int(array.argmax())}, but there are {bound} "
                f"{what} (0 to {bound - 1}); raise num_nodes or mend the edge list"
            )
        if high > INT32_MAX:
            raise GraphError(f"{name} holds {high}, beyond int32; renumber the {what}")
    return array.astype(np.int32)


def offsets_of(ids: np.ndarray, count: int) -> np.ndarray:
    """Where each of `count` groups begins in the sorted `ids`; (count + 1,) int32."""
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.bincount(ids, minlength=count), out=offsets[1:])
    return offsets


def sort_edges(
    senders: np.ndarray, receivers: np.ndarray, num_receivers: int, num_senders: int
) -> tuple[Adjacency, np.ndarray]:
    """Sorts edges by (receiver, sender) and indexes them.

    Returns:
      The sorted adjacency, and `order` (E,): row k of the sorted edges was row `order[k]`.
    """
    if senders.shape[0] > INT32_MAX:
        raise GraphError(f"{senders.shape[0]} edges exceed int32; split the graph")
    width = max(num_senders, 1)
    key = receivers.astype(np.int64) * width + senders
    ordered = bool(np.all(key[1:] >= key[:-1]))
    order = np.arange(key.size) if ordered else np.argsort(key, kind="stable")
    senders, receivers = senders[order], receivers[order]
    col_order = np.argsort(senders, kind="stable").astype(np.int32)
    index = Index(
        row_offsets=offsets_of(receivers, num_receivers),
        col_order=col_order,
        col_offsets=offsets_of(senders, num_senders),
        col_receivers=receivers[col_order],
    )
    return Adjacency(senders, receivers, index), order


def sorted_adjacency(
    senders: Any, receivers: Any, *, num_receivers: int, num_senders: int | None = None
) -> tuple[Adjacency, np.ndarray]:
    """Validates an edge list and sorts it; bipartite when `num_senders` differs.

    Args:
      senders, receivers: (E,) integers.
      num_receivers, num_senders: sizes of the two sides; senders default to receivers.

    Returns:
      (adjacency, order): the sorted edges and the permutation that sorted them.

    Raises:
      GraphError, TypeError: as in `check_indices`, or lengths that differ.
    """
    num_senders = num_receivers if num_senders is None else num_senders
    senders = check_indices("senders", senders, num_senders)
    receivers = check_indices("receivers", receivers, num_receivers)
    if senders.shape != receivers.shape:
        raise GraphError(
            f"senders and receivers must have equal length, got {senders.shape[0]} and "
            f"{receivers.shape[0]}"
        )
    return sort_edges(senders, receivers, num_receivers, num_senders)
