"""Hostile and honest pickles."""

import collections
import os
import pickle
import subprocess

import numpy as np
import pytest
import scipy.sparse as sp

from jgraph.data import safe_pickle
from jgraph.data.errors import DatasetError


def _loads(content):
    return safe_pickle.loads(content, dataset="toy", file="toy.pkl")


class _Call:
    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, subprocess.getoutput, eval])
def test_hostile_pickle_runs_nothing(tmp_path, protocol, function):
    sentinel = tmp_path / "sentinel"
    command = f"touch {sentinel}" if function is not eval else f"open({str(sentinel)!r}, 'w')"
    hostile = pickle.dumps([np.ones(2), _Call(function, command)], protocol=protocol)
    with pytest.raises(DatasetError, match=f"{function.__name__}.*allow-list") as caught:
        _loads(hostile)
    assert not sentinel.exists()
    assert caught.value.file == "toy.pkl"
    pickle.loads(hostile)
    assert sentinel.exists()


@pytest.mark.parametrize(
    "name",
    ["builtins getattr", "builtins exec", "numpy load", "numpy.lib.npyio load", "os open",
     "scipy.sparse load_npz", "pickle loads", "functools partial", "numpy ndarray.tofile"],
)  # fmt: skip
def test_other_names_are_refused(name):
    module, _, attribute = name.partition(" ")
    with pytest.raises(DatasetError, match="allow-list"):
        _loads(f"c{module}\n{attribute}\n.".encode())
    dotted = b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)
    )
    with pytest.raises(DatasetError, match="allow-list"):
        _loads(dotted + b"\x93.")


def test_admitted_callables_are_tame(tmp_path):
    sneaky = b"ccollections\ndefaultdict\n(c_codecs\nencode\ntR."
    with pytest.raises(DatasetError, match="plain containers"):
        _loads(sneaky)
    with pytest.raises(DatasetError, match="not admitted"):
        _loads(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"not a pickle", pickle.dumps([1, 2])[:-3]])
def test_malformed_pickle(content):
    with pytest.raises(DatasetError, match="not a readable pickle"):
        _loads(content)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_matrices_and_containers_survive(protocol):
    dense = np.arange(6.0).reshape(2, 3)
    links = collections.defaultdict(list, {0: [1, 2], 1: [0]})
    given = [dense, dense.T, np.float32(2.5), links, {"a": (1, b"\xff")}, sp.csr_matrix(dense),
             sp.coo_matrix(dense), sp.lil_matrix(dense), sp.csc_array(dense)]  # fmt: skip
    got = _loads(pickle.dumps(given, protocol=protocol))
    np.testing.assert_array_equal(got[0], dense)
    np.testing.assert_array_equal(got[1], dense.T)
    assert got[2] == np.float32(2.5)
    assert got[3] == links
    assert got[3][7] == []
    assert got[4] == given[4]
    for matrix in got[5:]:
        np.testing.assert_array_equal(matrix.toarray(), dense)


def test_python_2_names():
    assert _loads(b"ccollections\ndefaultdict\n(c__builtin__\nlist\ntR.") == {}
    old = pickle.dumps(sp.csr_matrix(np.eye(2)), protocol=2)
    old = old.replace(b"scipy.sparse._csr", b"scipy.sparse.csr")
    old = old.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(_loads(old).toarray(), np.eye(2))
    assert _loads(b"U\x02\xe9a.") == "\xe9a"
