"""Names, discovery of sources, and the datasets that need no file."""

import numpy as np
import pytest

from jgraph import data
from jgraph.data import DatasetError, catalogue, files

SOURCE = '''"""A source."""
raise_on_listing = 1 / {divisor}
DATASETS = {{"tiny": "two nodes"}}


def load(name, root=None, weight=1.0):
    import numpy as np
    from jgraph.data import Dataset, Split
    from jgraph.graph import Graph

    graph = Graph.from_edges([0], [1], nodes=np.full((2, 1), weight, np.float32))
    return Dataset(name, (graph,), np.array([0, 1]), (Split([0], [], [1]),), "node", 2)
'''


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No data folder, an empty cache, and no network."""

    def fetch(url):
        raise OSError("no network in tests")

    monkeypatch.delenv("JGRAPH_DATA", raising=False)
    monkeypatch.setenv("JGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "fetch", fetch)


def test_all_expected_names_are_there():
    expected = {
        "cora", "citeseer", "pubmed", "texas", "wisconsin", "cornell", "chameleon", "squirrel",
        "actor", "minesweeper", "tolokers", "chameleon_filtered", "squirrel_filtered",
        "amazon_photo", "amazon_computers", "mutag", "proteins", "nci1", "imdb-binary", "csl",
        "airports_usa", "airports_europe", "airports_brazil", "karate", "digits",
        "pattern-small", "cluster-small", "csl-generated",
    }  # fmt: skip
    assert expected <= set(data.names())
    assert list(data.names()) == sorted(data.names())


def test_info_without_loading():
    facts = data.info("cora")
    assert facts["module"] == "planetoid"
    assert facts["licence"].startswith("MIT")
    assert "planetoid/ind.cora.allx" in facts["files"]
    assert data.info("karate")["files"] == ()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("coraa", "cora"), ("CiteSeer", "citeseer"), ("imdb_binary", "imdb-binary"),
     ("amazon-photo", "amazon_photo"), ("pattern_smal", "pattern-small")],
)  # fmt: skip
def test_unknown_name_suggests_the_nearest(wrong, right):
    for function in (data.load, data.info):
        with pytest.raises(DatasetError, match=f"did you mean '{right}'"):
            function(wrong)
    with pytest.raises(DatasetError, match="karate"):
        data.load("zzzzzzzz")


def test_a_dropped_in_source_is_found_and_not_run_when_listed(tmp_path):
    (tmp_path / "broken.py").write_text(SOURCE.format(divisor=0))
    assert data.names(sources=tmp_path) == ("tiny",)
    (tmp_path / "broken.py").unlink()
    (tmp_path / "good.py").write_text(SOURCE.format(divisor=1))
    loaded = data.load("tiny", sources=tmp_path)
    assert loaded.graph.num_nodes == 2
    assert data.load("tiny", sources=tmp_path, weight=3.0).graph.nodes[0, 0] == 3
    assert data.info("tiny", sources=tmp_path)["module"] == "good"
    with pytest.raises(TypeError, match=r"'mass'.*weight"):
        data.load("tiny", sources=tmp_path, mass=3.0)
    (tmp_path / "twin.py").write_text(SOURCE.format(divisor=1))
    with pytest.raises(DatasetError, match="also defined"):
        data.names(sources=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "no DATASETS"),
        ("DATASETS = dict(a='b')\n", "cannot be read"),
        ("DATASETS = {\n", "cannot be read"),
    ],
)
def test_malformed_source(tmp_path, text, message):
    (tmp_path / "odd.py").write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        data.names(sources=tmp_path)
    assert "odd.py" in str(caught.value)


def test_every_named_collection_is_in_the_index():
    for source in catalogue.scan():
        assert set(source.files) <= set(source.datasets)
        for collection in source.files.values():
            assert files.index()[collection]["files"]


def test_without_files_or_network_the_error_says_so(offline):
    with pytest.raises(DatasetError, match="no network in tests") as caught:
        data.load("cora")
    assert caught.value.dataset == "cora"
    rows = data.verify(["cora"])
    assert len(rows) == 8
    assert {row.cause for row in rows} == {"not stored"}


def test_karate_needs_nothing(offline):
    karate = data.load("karate")
    facts = karate.statistics
    assert (facts["nodes"], facts["edges"], facts["undirected"]) == (34, 156, True)
    np.testing.assert_array_equal(np.bincount(karate.labels), [17, 17])
    assert sorted(karate.labels[karate.splits[0].train]) == [0, 1]
    assert sum(karate.splits[0].sizes) == 34


def test_digits_need_nothing(offline):
    digits = data.load("digits")
    split = digits.splits[0]
    assert split.sizes == (100, 300, 1397)
    np.testing.assert_array_equal(np.bincount(digits.labels[split.train]), [10] * 10)
    assert digits.statistics["undirected"]
    assert digits.statistics["self_loops"] == 0
    assert np.asarray(digits.graph.in_degrees()).min() >= 10
    assert digits.graph.nodes.max() == 1
    assert digits.statistics["edge_homophily"] > 0.9
    images = digits.graph.nodes
    distance = ((images[5] - images) ** 2).sum(axis=1)
    nearest = set(np.argsort(distance)[1:11].tolist())
    senders = np.asarray(digits.graph.senders)[np.asarray(digits.graph.receivers) == 5]
    assert nearest <= set(senders.tolist())
    fewer = data.load("digits", neighbours=3)
    assert fewer.graph.num_edges < digits.graph.num_edges


@pytest.mark.parametrize(
    ("name", "metric"), [("pattern-small", "roc_auc"), ("cluster-small", "accuracy")]
)
def test_small_block_model_sets(offline, name, metric):
    one = data.load(name)
    assert one.metric == metric
    assert one.graph.num_graphs == 60
    owner = np.repeat(np.arange(60), np.asarray(one.graph.n_node))
    split = one.splits[0]
    np.testing.assert_array_equal(np.unique(owner[split.train]), np.arange(40))
    np.testing.assert_array_equal(np.unique(owner[split.val]), np.arange(40, 50))
    np.testing.assert_array_equal(np.unique(owner[split.test]), np.arange(50, 60))
    assert sum(split.sizes) == one.labels.size
    assert (owner[one.graph.senders] == owner[one.graph.receivers]).all()
    again = data.load(name)
    np.testing.assert_array_equal(one.graph.senders, again.graph.senders)


def test_generated_csl_folds(offline):
    csl = data.load("csl-generated")
    for split in csl.splits:
        assert split.sizes == (90, 30, 30)
        np.testing.assert_array_equal(np.bincount(csl.labels[split.test]), [3] * 10)
    tested = np.sort(np.concatenate([split.test for split in csl.splits]))
    np.testing.assert_array_equal(tested, np.arange(150))
