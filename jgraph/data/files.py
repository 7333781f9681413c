"""Where the files of a dataset are, and whether they are intact.

A file has a public name such as `planetoid/ind.cora.x`. It is looked for, in this order, in

1. `root`, or else the folder that `$JGRAPH_DATA` names, as `x`, `x.xz` or `x.gz`;
2. the cache, `$JGRAPH_CACHE` or `~/.cache/jgraph`;
3. its public address, from which it is downloaded into the cache.

An explicit `root` is the only place that is looked into. The sha256 of every file is checked each
time it is read, before anything parses it. The public copy of a few files differs in bytes (not
in content) from the one that was hashed; those downloads cannot be checked by hash: a warning says
so, and the loaders check their structure. `index.json` holds sizes, hashes and addresses.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.client
import io
import json
import lzma
import os
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jgraph.data.download import fetch, store
from jgraph.data.errors import DatasetError

Root = str | os.PathLike | None

_UNWRAP = {"": lambda b: b, ".xz": lzma.decompress, ".gz": gzip.decompress}
_DAMAGE = (lzma.LZMAError, EOFError, OSError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@functools.cache
def index() -> Mapping[str, Any]:
    """The packaged index: {collection: {licence, citation, source, files: {name: entry}}}."""
    return json.loads(Path(__file__).with_name("index.json").read_text(encoding="utf-8"))


def attribution(collection: str) -> dict[str, str]:
    """`licence`, `citation` and `source` of a collection of files, as keywords for a Dataset."""
    record = index()[collection]
    return {key: record[key] for key in ("licence", "citation", "source")}


def cache_folder() -> Path:
    """`$JGRAPH_CACHE`, or `~/.cache/jgraph`."""
    chosen = os.environ.get("JGRAPH_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "jgraph"


def data_folder(root: Root = None) -> Path | None:
    """The folder to read from: `root`, else `$JGRAPH_DATA`, else None.

    Raises:
      DatasetError: the chosen folder does not exist.
    """
    chosen = os.fspath(root) if root is not None else os.environ.get("JGRAPH_DATA")
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        which = "root" if root is not None else "the environment variable JGRAPH_DATA"
        raise DatasetError(
            "", f"{which} names {str(folder)!r}, which is not a folder", fix="correct or unset it"
        )
    return folder


def entry(name: str) -> tuple[str, Mapping[str, Any]]:
    """(collection, index entry) of a public file name; KeyError if it is not in the index."""
    for collection, record in index().items():
        if name in record["files"]:
            return collection, record["files"][name]
    raise KeyError(
        f"{name!r} is not in jgraph/data/index.json; run python -m jgraph.data.make_index"
    )


def read(name: str, *, dataset: str, root: Root = None) -> bytes:
    """The checked, unwrapped content of a file.

    Args:
      name: public name, e.g. "planetoid/ind.cora.x".
      dataset: name to report in errors.
      root: a folder to read from, and only from; see the module docstring.

    Raises:
      DatasetError: the file is missing, truncated, does not have the expected sha256, cannot be
        unwrapped, or cannot be downloaded.
    """
    _, record = entry(name)
    found = locate(name, root)
    if found is not None:
        return read_stored(*found, record, dataset)
    if root is not None:
        raise DatasetError(
            dataset,
            f"missing from {str(root)!r} (also as .xz and .gz)",
            file=name,
            fix="copy it there, or leave root out so that it is downloaded",
        )
    return _download(name, record, dataset)


def locate(name: str, root: Root = None) -> tuple[Path, str] | None:
    """(path, suffix of its wrapping) in `root`, or in `$JGRAPH_DATA` and the cache; else None."""
    folder = data_folder(root)
    if folder is not None:
        for suffix in _UNWRAP:
            candidate = folder / (name + suffix)
            if candidate.is_file():
                return candidate, suffix
    if root is None:
        candidate = cache_folder() / name
        if candidate.is_file():
            return candidate, ""
    return None


def read_stored(path: Path, suffix: str, record: Mapping[str, Any], dataset: str) -> bytes:
    """Reads one stored file, checks it against its index entry and unwraps it; see `read`."""
    fix = "delete it so that it is downloaded again, or copy it again from a good source"
    mark = _mark_of(path)
    try:
        stored = path.read_bytes()
        expected = mark.read_text(encoding="ascii").strip() if mark.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            dataset, f"cannot be read: {error}", file=str(path), fix="check its permissions"
        ) from error
    as_hashed = suffix == (f".{record['wrap']}" if record.get("wrap") else "")
    if expected is None and as_hashed:
        cause = _difference(stored, record["sha256"], record["bytes"])
        if cause:
            raise DatasetError(dataset, cause, file=str(path), fix=fix)
    try:
        content = _UNWRAP[suffix](stored)
    except _DAMAGE as error:
        cause = f"cannot be decompressed: {error}"
        raise DatasetError(dataset, cause, file=str(path), fix=fix) from error
    if expected is not None:
        cause = _difference(content, expected, None)
    else:
        cause = None if as_hashed else _difference(content, *_content_hash(record))
    if cause:
        raise DatasetError(dataset, cause, file=str(path), fix=fix)
    return content


def _mark_of(path: Path) -> Path:
    # Only downloads whose public bytes differ from the hashed ones have such a mark.
    return path.with_name(path.name + ".sha256")


def _content_hash(record) -> tuple[str, int]:
    if record.get("wrap"):
        return record["raw_sha256"], record["raw_bytes"]
    return record["sha256"], record["bytes"]


def _difference(content: bytes, sha256: str, size: int | None) -> str | None:
    if size is not None and len(content) < size:
        return f"truncated: {len(content)} of {size} bytes"
    actual = hashlib.sha256(content).hexdigest()
    return None if actual == sha256 else f"sha256 is {actual}, expected {sha256}"


def _download(name: str, record: Mapping[str, Any], dataset: str) -> bytes:
    url = record["public_url"]
    try:
        archive = fetch(url)
    except (OSError, http.client.HTTPException) as error:
        raise DatasetError(
            dataset,
            f"not in $JGRAPH_DATA nor in {cache_folder()}, and downloading {url} failed: {error}",
            file=name,
            fix="check the network, or set JGRAPH_DATA to a folder that has the file",
        ) from error
    content = b""
    # One archive can hold several files of a dataset: keep them all, so that it travels once.
    for collection in index().values():
        for other, sibling in collection["files"].items():
            if sibling["public_url"] == url:
                member = _checked_member(archive, other, sibling, dataset)
                content = member if other == name else content
    return content


def _checked_member(archive: bytes, name: str, record, dataset: str) -> bytes:
    url, path = record["public_url"], cache_folder() / name
    try:
        content = _member(archive, record.get("public_url_wrap"))
    except (KeyError, *_DAMAGE) as error:
        raise DatasetError(
            dataset, f"the download {url} cannot be unwrapped: {error}", file=name, fix="try again"
        ) from error
    files = {path: content}
    if record["exact"]:
        cause = _difference(content, *_content_hash(record))
        if cause:
            raise DatasetError(
                dataset, f"the download {url} is damaged: {cause}", file=name, fix="try again"
            )
    else:
        warnings.warn(
            f"dataset {dataset!r}: the public copy of {name!r} differs in bytes from the one whose "
            "sha256 is known, so the download is checked by its structure only",
            stacklevel=2,
        )
        files = {_mark_of(path): hashlib.sha256(content).hexdigest().encode("ascii"), **files}
    try:
        for target, data in files.items():
            store(target, data)
    except OSError as error:
        raise DatasetError(
            dataset,
            f"cannot be stored in the cache: {error}",
            file=str(path),
            fix="set JGRAPH_CACHE to a folder that can be written",
        ) from error
    return content


def _member(archive: bytes, wrap: str | None) -> bytes:
    if not wrap:
        return archive
    kind, _, member = wrap.partition(":")
    if kind == "gz":
        return gzip.decompress(archive)
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return opened.read(member)
    if kind == "tar.gz":
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            found = opened.extractfile(member)
            if found is None:
                raise KeyError(f"{member!r} is not a plain file of the archive")
            return found.read()
    raise KeyError(f"unknown wrapping {wrap!r}")
