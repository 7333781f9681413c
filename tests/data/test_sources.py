"""The public datasets, against the statistics of the manifest in $JGRAPH_DATA."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from jgraph import data
from jgraph.data import DatasetError, catalogue, files, transforms
from jgraph.data.generators import make_csl
from jgraph.data.sources import tu
from jgraph.graph import SparseMatrix

pytestmark = pytest.mark.skipif(
    not os.environ.get("JGRAPH_DATA"), reason="JGRAPH_DATA names no folder of datasets"
)


def _expected(name):
    manifest = json.loads((files.data_folder() / "MANIFEST.json").read_text())
    for source in catalogue.scan():
        if name in source.files:
            return next(m for m in manifest if m["name"] == source.files[name])["statistics"]
    raise KeyError(name)


def _undirected_pairs(graph):
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    low, high = np.minimum(senders, receivers), np.maximum(senders, receivers)
    return np.unique(np.stack([low, high])[:, low < high], axis=1).shape[1]


def _check_disjoint_cover(dataset, total):
    for split in dataset.splits:
        everything = np.concatenate([split.train, split.val, split.test])
        assert np.unique(everything).size == everything.size == total


@pytest.mark.parametrize("name", ["cora", "citeseer", "pubmed"])
def test_planetoid(name):
    one, want = data.load(name), _expected(name)
    got = one.statistics
    assert got["nodes"] == want["nodes"]
    assert got["edges"] == 2 * want["undirected_edges"]
    assert got["undirected"]
    assert got["self_loops"] == 0
    assert got["features"] == want["features"]
    assert got["classes"] == want["classes"]
    assert one.splits[0].sizes == (want["train"], want["val"], want["test"])
    np.testing.assert_array_equal(
        np.bincount(one.labels[one.splits[0].train]), [20] * want["classes"]
    )
    assert isinstance(one.graph.nodes, SparseMatrix)
    covered = np.concatenate([one.splits[0].test, np.arange(want["allx_rows"])])
    absent = np.setdiff1d(np.arange(want["nodes"]), covered)
    assert absent.size == want["isolated_test_rows"]
    assert (one.labels[absent] == 0).all()
    assert one.graph.nodes.to_scipy()[absent].nnz == 0
    sums = np.asarray(transforms.normalize_features(one).graph.nodes.to_scipy().sum(axis=1))
    assert np.isclose(sums, 1, atol=1e-5).sum() >= want["nodes"] - want["isolated_test_rows"] - 1


@pytest.mark.parametrize(
    "name", ["texas", "wisconsin", "cornell", "chameleon", "squirrel", "actor"]
)
def test_geom_gcn(name):
    one, want = data.load(name), _expected(name)
    got = one.statistics
    assert got["nodes"] == want["nodes"]
    assert got["edges"] == want["distinct_directed"]
    assert _undirected_pairs(one.graph) == want["undirected_no_loops"]
    assert got["features"] == want["features"]
    assert got["classes"] == want["classes"]
    assert got["edge_homophily"] == pytest.approx(want["edge_homophily"], abs=1e-4)
    assert len(one.splits) == want["splits"]
    assert list(one.splits[0].sizes) == want["split0_sizes"]


@pytest.mark.parametrize(
    "name", ["minesweeper", "tolokers", "chameleon_filtered", "squirrel_filtered"]
)
def test_heterophilous(name):
    one, want = data.load(name), _expected(name)
    got = one.statistics
    assert got["nodes"] == want["nodes"]
    assert got["edges"] == 2 * want["undirected_edges"]
    assert got["undirected"]
    assert got["features"] == want["features"]
    assert got["classes"] == want["classes"]
    assert got["edge_homophily"] == pytest.approx(want["edge_homophily"], abs=1e-4)
    assert len(one.splits) == want["splits"]
    assert list(one.splits[0].sizes) == want["split0_sizes"]
    assert one.metric == ("roc_auc" if want["classes"] == 2 else "accuracy")


@pytest.mark.parametrize("name", ["amazon_photo", "amazon_computers"])
def test_amazon(name):
    one, want = data.load(name), _expected(name)
    got = one.statistics
    assert got["nodes"] == want["nodes"]
    assert got["edges"] == want["symmetrised_nnz"] == 2 * want["undirected_edges"]
    assert got["undirected"]
    assert got["features"] == want["features"]
    assert np.bincount(one.labels).tolist() == want["class_counts"]
    assert len(one.splits) == 10
    _check_disjoint_cover(one, want["nodes"])


@pytest.mark.parametrize("name", ["airports_usa", "airports_europe", "airports_brazil"])
def test_airports(name):
    one, want = data.load(name), _expected(name)
    assert one.statistics["nodes"] == want["nodes"]
    assert _undirected_pairs(one.graph) == want["undirected_edges"]
    assert np.bincount(one.labels).tolist() == want["class_counts"]
    np.testing.assert_array_equal(one.graph.nodes[:, 0], 1)
    np.testing.assert_array_equal(one.graph.nodes[:, 1], one.graph.in_degrees())
    _check_disjoint_cover(one, want["nodes"])


@pytest.mark.parametrize("name", ["mutag", "proteins", "nci1", "imdb-binary"])
def test_tu(name):
    one, want = data.load(name), _expected(name)
    got = one.statistics
    assert got["graphs"] == len(one.graphs) == want["graphs"]
    assert got["nodes"] == want["nodes"]
    assert got["edges"] == want["directed_edges"]
    assert got["undirected"]
    assert np.bincount(one.labels).tolist() == [
        want["class_counts"][key] for key in sorted(want["class_counts"], key=int)
    ]
    if "node_labels" in want:
        assert got["features"] == want["node_labels"]
    assert got["edge_features"] == want.get("edge_labels", 0)
    for graph in one.graphs[:5]:
        np.testing.assert_array_equal(graph.nodes.sum(axis=1), 1)
    assert len(one.splits) == 10
    _check_disjoint_cover(one, want["graphs"])
    tested = np.sort(np.concatenate([split.test for split in one.splits]))
    np.testing.assert_array_equal(tested, np.arange(want["graphs"]))
    for k, (train, test) in enumerate(tu.folds_without_validation(one.labels)):
        np.testing.assert_array_equal(test, one.splits[k].test)
        np.testing.assert_array_equal(test, one.splits[k - 1].val)
        assert train.size + test.size == want["graphs"]


def test_tu_edge_labels_follow_their_edges():
    # In MUTAG a bond has one label, whichever way it is written.
    for graph in data.load("mutag").graphs[:30]:
        kinds = dict(zip(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True),
                         graph.edges.argmax(axis=1).tolist(), strict=True))  # fmt: skip
        assert all(kinds[b, a] == kind for (a, b), kind in kinds.items())


def test_tu_attributes():
    with_attributes = data.load("proteins", attributes=True)
    assert with_attributes.num_features == 4
    assert with_attributes.graphs[0].nodes[0, 3] == 23
    with pytest.raises(ValueError, match="no node attributes"):
        data.load("mutag", attributes=True)


def test_csl():
    one, want = data.load("csl"), _expected("csl")
    assert len(one.graphs) == want["graphs"]
    for graph in one.graphs:
        assert graph.num_nodes == want["nodes_each"][0]
        assert graph.num_edges == want["off_diagonal_nnz"][0]
        np.testing.assert_array_equal(graph.in_degrees(), 4)
    assert np.bincount(one.labels).tolist() == want["per_class"] * want["classes"]
    text = (files.data_folder() / "csl" / "y_Kary_Deterministic_Graphs.txt").read_text()
    assert one.labels.tolist() == [int(line) for line in text.split()]
    _check_disjoint_cover(one, 150)
    assert [split.sizes for split in one.splits] == [(90, 30, 30)] * 5
    # The same ten isomorphism classes as the generator's, in the same order.
    made, _ = make_csl(copies=1)
    for number, graph in enumerate(made):
        spectra = [
            np.linalg.eigvalsh(g.to_scipy().toarray()) for g in (graph, one.graphs[15 * number])
        ]
        np.testing.assert_allclose(spectra[0], spectra[1], atol=1e-5)


def test_every_stored_file_is_intact():
    rows = data.verify()
    assert len(rows) > 100
    assert [row for row in rows if not row.ok] == []


def test_verify_and_load_notice_a_damaged_copy(tmp_path):
    folder = files.data_folder()
    for name in data.info("airports_brazil")["files"]:
        stored, _ = files.locate(name, folder)
        target = tmp_path / stored.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stored, target)
    assert data.load("airports_brazil", tmp_path).statistics["nodes"] == 131
    labels = tmp_path / "airports" / "labels-brazil-airports.txt"
    labels.write_bytes(labels.read_bytes().replace(b"1 0", b"1 3", 1))
    rows = data.verify(["airports_brazil"], root=tmp_path)
    assert [Path(row.file).name for row in rows if not row.ok] == [labels.name]
    with pytest.raises(DatasetError, match=r"airports_brazil.*labels-brazil-airports.txt.*sha256"):
        data.load("airports_brazil", tmp_path)
    labels.unlink()
    with pytest.raises(DatasetError, match="missing from"):
        data.load("airports_brazil", str(tmp_path))
