"""A sparse matrix as a pytree: node features that are mostly zero (bags of words)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jgraph.graph.adjacency import Adjacency, Array, sorted_adjacency
from jgraph.graph.errors import GraphError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseMatrix:
    """An (N, K) matrix with `values` (nnz,) at the edges of a bipartite adjacency.

    Row i is receiver i and column k is sender k, so `matrix @ w` is `ops.spmm(adjacency, w,
    values)` and its gradient uses the index's CSC view. Multiply with `jgraph.ops.matmul`.
    """

    values: Array
    adjacency: Adjacency

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.adjacency.shape

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def dtype(self) -> Any:
        """dtype of the values."""
        return self.values.dtype

    def replace(self, **changes: Any) -> SparseMatrix:
        """A copy with other `values` (or adjacency)."""
        return replace(self, **changes)

    @classmethod
    def from_scipy(cls, matrix: Any, dtype: Any = np.float32) -> SparseMatrix:
        """From any scipy.sparse matrix; explicit zeros are dropped, duplicates summed.

        Raises:
          GraphError: a value is NaN or infinite.
        """
        csr = matrix.tocsr().astype(dtype)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        coo = csr.tocoo()
        if not np.isfinite(coo.data).all():
            raise GraphError("the sparse matrix holds NaN or infinity; clean it first")
        adjacency, order = sorted_adjacency(
            coo.col, coo.row, num_receivers=csr.shape[0], num_senders=csr.shape[1]
        )
        return cls(np.asarray(coo.data)[order], adjacency)

    @classmethod
    def from_dense(cls, array: Any) -> SparseMatrix:
        """From a dense (N, K) array."""
        import scipy.sparse

        array = np.asarray(array)
        return cls.from_scipy(scipy.sparse.csr_matrix(array), array.dtype)

    def to_scipy(self) -> Any:
        """As a scipy.sparse CSR matrix (host)."""
        import scipy.sparse

        index = self.adjacency.sorted_index
        return scipy.sparse.csr_matrix(
            (
                np.asarray(self.values),
                np.asarray(self.adjacency.senders),
                np.asarray(index.row_offsets),
            ),
            shape=self.shape,
        )

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"SparseMatrix({rows} x {cols}, {self.values.shape[-1]} values, {self.dtype})"
