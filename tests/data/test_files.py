"""Finding, checking, unwrapping and downloading files, without any network."""

import gzip
import hashlib
import io
import lzma
import urllib.error
import zipfile
from types import MappingProxyType

import pytest

from jgraph.data import download, files, make_index
from jgraph.data.errors import DatasetError

RAW = b"0 1\n1 2\n" * 50
STORED = lzma.compress(RAW)


def _sha(content):
    return hashlib.sha256(content).hexdigest()


def _archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("in/a.txt", b"aaaa")
        opened.writestr("in/b.txt", b"bb")
    return buffer.getvalue()


URLS = {
    "https://x/edges.txt": RAW,
    "https://x/pair.zip": _archive(),
    "https://x/loose.txt": b"public bytes",
    "https://x/packed.gz": gzip.compress(b"inside"),
}


def _plain(path, content, url, **more):
    entry = {"path": path, "bytes": len(content), "sha256": _sha(content), "public_url": url}
    return {**entry, "exact": True, **more}


INDEX = {
    "toy": {
        "licence": "MIT",
        "citation": "Someone 2020",
        "source": "https://x",
        "files": {
            "toy/edges.txt": _plain(
                "toy/edges.txt.xz", STORED, "https://x/edges.txt",
                wrap="xz", raw_bytes=len(RAW), raw_sha256=_sha(RAW),
            ),
            "toy/a.txt": _plain(
                "toy/a.txt", b"aaaa", "https://x/pair.zip", public_url_wrap="zip:in/a.txt"
            ),
            "toy/b.txt": _plain(
                "toy/b.txt", b"bb", "https://x/pair.zip", public_url_wrap="zip:in/b.txt"
            ),
            "toy/packed": _plain(
                "toy/packed", b"inside", "https://x/packed.gz", public_url_wrap="gz"
            ),
            "toy/loose.txt": _plain(
                "toy/loose.txt", b"local bytes", "https://x/loose.txt", exact=False
            ),
        },
    }
}  # fmt: skip


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Replaces index, network and folders; returns the list of addresses that were fetched."""
    seen = []

    def fetch(url):
        seen.append(url)
        return URLS[url]

    monkeypatch.setattr(files, "index", lambda: INDEX)
    monkeypatch.setattr(files, "fetch", fetch)
    monkeypatch.setenv("JGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JGRAPH_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "toy").mkdir(parents=True)
    return seen


def _put(tmp_path, name, content):
    (tmp_path / "data" / "toy" / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("edges.txt.xz", STORED),
        ("edges.txt", RAW),
        ("edges.txt.gz", gzip.compress(RAW)),
        ("edges.txt.xz", lzma.compress(RAW)),
    ],
)
def test_reads_every_wrapping_from_the_data_folder(fetched, tmp_path, name, content):
    _put(tmp_path, name, content)
    assert files.read("toy/edges.txt", dataset="toy") == RAW
    assert fetched == []


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("edges.txt.xz", STORED[:-9], "truncated"),
        ("edges.txt.xz", STORED[:40] + b"\0" + STORED[41:], "sha256"),
        ("edges.txt", RAW[:-3], "truncated"),
        ("edges.txt", RAW[:-1] + b"x", "sha256"),
        ("edges.txt.gz", b"no gzip at all", "decompressed"),
        ("edges.txt.gz", gzip.compress(RAW)[:-4], "decompressed"),
    ],
)
def test_damaged_files_are_refused(fetched, tmp_path, name, content, cause):
    _put(tmp_path, name, content)
    with pytest.raises(DatasetError, match=cause) as caught:
        files.read("toy/edges.txt", dataset="toy")
    message = str(caught.value)
    assert "'toy'" in message
    assert name in message
    assert "Fix:" in message
    assert fetched == []


def test_download_goes_to_the_cache_and_is_not_repeated(fetched, tmp_path):
    assert files.read("toy/edges.txt", dataset="toy") == RAW
    assert (tmp_path / "cache" / "toy" / "edges.txt").read_bytes() == RAW
    assert files.read("toy/edges.txt", dataset="toy") == RAW
    assert fetched == ["https://x/edges.txt"]
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_damaged_cache_is_refused(fetched, tmp_path):
    files.read("toy/edges.txt", dataset="toy")
    (tmp_path / "cache" / "toy" / "edges.txt").write_bytes(RAW[:-1])
    with pytest.raises(DatasetError, match="truncated"):
        files.read("toy/edges.txt", dataset="toy")


def test_one_archive_serves_all_its_members(fetched):
    assert files.read("toy/a.txt", dataset="toy") == b"aaaa"
    assert files.read("toy/b.txt", dataset="toy") == b"bb"
    assert fetched == ["https://x/pair.zip"]


def test_wrapped_download(fetched):
    assert files.read("toy/packed", dataset="toy") == b"inside"


@pytest.mark.parametrize("damaged", [b"", b"garbage", RAW[:-1], RAW + b"!"])
def test_damaged_download_is_refused_and_not_cached(fetched, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(files, "fetch", lambda url: damaged)
    with pytest.raises(DatasetError, match="damaged"):
        files.read("toy/edges.txt", dataset="toy")
    with pytest.raises(DatasetError, match="unwrapped"):
        files.read("toy/a.txt", dataset="toy")
    assert not (tmp_path / "cache").exists()


def test_uncheckable_download_warns_and_later_damage_is_noticed(fetched, tmp_path):
    with pytest.warns(UserWarning, match="structure only"):
        assert files.read("toy/loose.txt", dataset="toy") == b"public bytes"
    assert files.read("toy/loose.txt", dataset="toy") == b"public bytes"
    (tmp_path / "cache" / "toy" / "loose.txt").write_bytes(b"other bytes!")
    with pytest.raises(DatasetError, match="sha256"):
        files.read("toy/loose.txt", dataset="toy")


def test_no_network_names_every_place(fetched, monkeypatch, tmp_path):
    def offline(url):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(files, "fetch", offline)
    with pytest.raises(DatasetError, match="no route to host") as caught:
        files.read("toy/edges.txt", dataset="toy")
    assert str(tmp_path / "cache") in str(caught.value)
    assert "JGRAPH_DATA" in str(caught.value)


def test_explicit_root_is_the_only_place(fetched, tmp_path):
    with pytest.raises(DatasetError, match="missing from") as caught:
        files.read("toy/edges.txt", dataset="toy", root=tmp_path)
    assert caught.value.file == "toy/edges.txt"
    assert fetched == []


def test_folder_that_is_not_there(fetched, monkeypatch, tmp_path):
    monkeypatch.setenv("JGRAPH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="JGRAPH_DATA names"):
        files.read("toy/edges.txt", dataset="toy")


def test_cache_that_cannot_be_written(fetched, monkeypatch, tmp_path):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("JGRAPH_CACHE", str(tmp_path / "plain"))
    with pytest.raises(DatasetError, match="cannot be stored"):
        files.read("toy/edges.txt", dataset="toy")


def test_fetch_reads_and_refuses_a_short_body(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    assert download.fetch(path.as_uri()) == b"x" * 100_000

    class Short(io.BytesIO):
        headers = MappingProxyType({"Content-Length": "10"})

    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **k: Short(b"only6!"))
    with pytest.raises(OSError, match="6 of 10"):
        download.fetch("https://x/short")


def test_store_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(download.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        download.store(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_make_index_keeps_what_loaders_need():
    manifest = [
        {
            "name": "toy",
            "licence": "MIT",
            "citation": "c",
            "public_url": "https://x",
            "statistics": {"nodes": 3},
            "files": [
                {**INDEX["toy"]["files"]["toy/edges.txt"], "note": "n", "source": "s"},
                {**INDEX["toy"]["files"]["toy/a.txt"], "path": "toy/z", "exact": False},
                INDEX["toy"]["files"]["toy/a.txt"],
            ],
        }
    ]
    made = make_index.make_index(manifest, {"toy"})
    # The derived copy of a.txt, whose public address gives a.txt itself, is left out.
    assert set(made["toy"]["files"]) == {"toy/edges.txt", "toy/a.txt"}
    assert made["toy"]["files"]["toy/edges.txt"] == INDEX["toy"]["files"]["toy/edges.txt"]
    with pytest.raises(KeyError, match="absent"):
        make_index.make_index(manifest, {"absent"})
