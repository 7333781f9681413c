"""Unpickling with an allow-list: old public datasets are pickles, and a pickle is a program.

Only the names that numpy arrays, SciPy sparse matrices and plain containers need are admitted;
any other name stops the load before it is imported, let alone called. Python-2 pickles (latin1
strings, `__builtin__`, `scipy.sparse.csr`) are understood.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
from typing import Any

from jgraph.data.errors import DatasetError

_BUILTINS = {"list": list, "int": int, "float": float, "dict": dict, "set": set, "tuple": tuple}
_SPARSE = tuple(f"{kind}_{form}" for kind in ("csr", "csc", "coo", "lil") for form in
                ("matrix", "array"))  # fmt: skip


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # Protocol 2 writes bytes as a call of _codecs.encode; other codecs have no business here.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not admitted")
    return text.encode("latin1")


def _defaultdict(factory: Any = None, *items: Any) -> collections.defaultdict:
    if factory is not None and factory not in _BUILTINS.values():
        raise pickle.UnpicklingError("a defaultdict may only make plain containers and numbers")
    return collections.defaultdict(factory, *items)


@functools.cache
def _allowed() -> dict[tuple[str, str], Any]:
    import numpy as np
    import scipy.sparse as sp
    from numpy._core import multiarray, numeric

    table: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
        ("collections", "defaultdict"): _defaultdict,
        ("collections", "OrderedDict"): collections.OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = multiarray._reconstruct
        table[f"{core}.multiarray", "scalar"] = multiarray.scalar
        table[f"{core}.numeric", "_frombuffer"] = vars(numeric)["_frombuffer"]
    for name in _SPARSE:
        kind = name[:3]
        for module in ("scipy.sparse", f"scipy.sparse.{kind}", f"scipy.sparse._{kind}"):
            table[module, name] = getattr(sp, name)
    for module in ("builtins", "__builtin__"):
        for name, value in _BUILTINS.items():
            table[module, name] = value
    return table


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _allowed()[module, name]
        except KeyError:
            raise _Forbidden(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent references are not admitted")


class _Forbidden(Exception):
    pass


def loads(content: bytes, *, dataset: str, file: str) -> Any:
    """Unpickles `content`, admitting only arrays, sparse matrices and plain containers.

    Args:
      content: the pickle; Python-2 strings in it become latin1 text.
      dataset, file: names to report in errors.

    Raises:
      DatasetError: the pickle refers to a name that is not on the allow-list (nothing of it was
        imported or called), or it is malformed.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except _Forbidden as error:
        raise DatasetError(
            dataset,
            f"the pickle refers to {error}, which is not on the allow-list; nothing was executed",
            file=file,
            fix="do not trust this file: get it again from its public address",
        ) from error
    except Exception as error:
        raise DatasetError(
            dataset,
            f"not a readable pickle: {type(error).__name__}: {error}",
            file=file,
            fix="get it again from its public address",
        ) from error
