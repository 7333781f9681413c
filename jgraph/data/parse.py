"""Reading the formats that the sources share, with errors that name dataset, file and cause."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from jgraph.data import files
from jgraph.data.errors import DatasetError
from jgraph.graph import Graph, SparseMatrix

_AGAIN = "get the file again from its public address"
# A wide matrix with a smaller share of non-zeros than this is kept sparse.
SPARSE_BELOW = 0.2
SPARSE_FROM_COLUMNS = 100


def table(
    name: str,
    dtype: Any,
    *,
    dataset: str,
    root: files.Root,
    delimiter: str | None = None,
    columns: int | None = None,
    header: int = 0,
) -> np.ndarray:
    """A (rows, columns) array from a text file of numbers.

    Args:
      name: public name of the file.
      delimiter: white space by default.
      columns: expected number of columns.
      header: lines to skip.

    Raises:
      DatasetError: missing or damaged file, text that is no number, or other columns.
    """
    text = files.read(name, dataset=dataset, root=root)
    try:
        rows = np.loadtxt(
            io.StringIO(text.decode("utf-8")), dtype, delimiter=delimiter, skiprows=header, ndmin=2
        )
    except ValueError as error:
        raise malformed(error, dataset=dataset, file=name) from error
    if rows.size == 0 or (columns is not None and rows.shape[1] != columns):
        raise malformed(f"{rows.shape} rows and columns", dataset=dataset, file=name)
    return rows


def archive(
    name: str, keys: Sequence[str], *, dataset: str, root: files.Root
) -> dict[str, np.ndarray]:
    """The named arrays of an npz file; nothing in it is unpickled.

    Raises:
      DatasetError: missing or damaged file, or an array that is absent or holds objects.
    """
    content = files.read(name, dataset=dataset, root=root)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in keys}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise malformed(error, dataset=dataset, file=name) from error


def malformed(cause: object, *, dataset: str, file: str) -> DatasetError:
    """The error about a file whose content is not what it should be."""
    return DatasetError(dataset, f"malformed: {cause}", file=file, fix=_AGAIN)


def expect(holds: bool, cause: str, *, dataset: str, file: str) -> None:
    """Raises a DatasetError about a malformed file unless `holds`."""
    if not holds:
        raise malformed(cause, dataset=dataset, file=file)


def distinct_edges(
    senders: np.ndarray,
    receivers: np.ndarray,
    num_nodes: int,
    *,
    undirected: bool = False,
    loops: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Each edge once, sorted by (receiver, sender).

    Args:
      senders, receivers: (E,) node numbers below `num_nodes`.
      undirected: add the reverse of every edge.
      loops: keep self-loops.

    Returns:
      Two (E',) int32 arrays.
    """
    senders, receivers = np.asarray(senders, np.int64), np.asarray(receivers, np.int64)
    if undirected:
        forth = senders
        senders = np.concatenate([senders, receivers])
        receivers = np.concatenate([receivers, forth])
    if not loops:
        keep = senders != receivers
        senders, receivers = senders[keep], receivers[keep]
    codes = np.unique(receivers * num_nodes + senders)
    return (codes % num_nodes).astype(np.int32), (codes // num_nodes).astype(np.int32)


def simple_graph(
    senders: np.ndarray,
    receivers: np.ndarray,
    nodes: Any,
    *,
    dataset: str,
    file: str,
    undirected: bool = False,
    loops: bool = True,
) -> Graph:
    """A graph without parallel edges; `undirected` and `loops` as in `distinct_edges`.

    Raises:
      DatasetError: an edge that names a node which is not there.
    """
    num_nodes = nodes.shape[0]
    for side in (senders, receivers):
        inside = side.size == 0 or (side.min() >= 0 and side.max() < num_nodes)
        expect(inside, f"an edge names a node outside 0..{num_nodes - 1}",
               dataset=dataset, file=file)  # fmt: skip
    ends = distinct_edges(senders, receivers, num_nodes, undirected=undirected, loops=loops)
    return Graph.from_edges(*ends, nodes=nodes, num_nodes=num_nodes)


def features(matrix: Any) -> Any:
    """(N, F) float32 features: a `SparseMatrix` if wide and less than a fifth filled, else dense.

    Args:
      matrix: numpy array or scipy.sparse matrix.
    """
    import scipy.sparse as sp

    given = sp.csr_matrix(matrix, dtype=np.float32)
    given.eliminate_zeros()
    rows, columns = given.shape
    if columns >= SPARSE_FROM_COLUMNS and given.nnz < SPARSE_BELOW * rows * columns:
        return SparseMatrix.from_scipy(given)
    return given.toarray()


def one_hot(values: np.ndarray) -> np.ndarray:
    """(n, K) float32 one-hot rows over the K distinct values, in ascending order."""
    _, codes = np.unique(values, return_inverse=True)
    return np.eye(codes.max() + 1, dtype=np.float32)[codes]
