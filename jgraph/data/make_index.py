"""Writes `index.json` from a manifest: `python -m jgraph.data.make_index MANIFEST.json`.

The manifest is a list of collections, each with `name`, `licence`, `citation`, `public_url` and
`files`. Only the collections that a source names in its literal `FILES` are taken, and of them only
what finding and checking a file needs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jgraph.data.catalogue import scan
from jgraph.data.download import store

_FACTS = (
    "path", "bytes", "sha256", "wrap", "raw_bytes", "raw_sha256", "public_url", "public_url_wrap",
    "exact",
)  # fmt: skip


def make_index(manifest: list[dict[str, Any]], collections: set[str]) -> dict[str, Any]:
    """The index of the named collections of a manifest.

    Raises:
      KeyError: a collection is not in the manifest.
    """
    by_name = {record["name"]: record for record in manifest}
    missing = collections - by_name.keys()
    if missing:
        raise KeyError(f"collections {sorted(missing)} are not in the manifest")
    return {name: _collection(by_name[name]) for name in sorted(collections)}


def _collection(record: dict[str, Any]) -> dict[str, Any]:
    # A derived copy of a public file that is stored as it is serves no loader.
    exact = {file["public_url"] for file in record["files"] if file["exact"]}
    return {
        "licence": record["licence"],
        "citation": record["citation"],
        "source": record["public_url"],
        "files": {
            _public_name(file): {key: file[key] for key in _FACTS if key in file}
            for file in sorted(record["files"], key=lambda file: file["path"])
            if file["exact"] or file["public_url"] not in exact
        },
    }


def _public_name(file: dict[str, Any]) -> str:
    return file["path"].removesuffix(f".{file['wrap']}") if file.get("wrap") else file["path"]


def main(arguments: list[str]) -> None:
    """Command line: one argument, the path of the manifest."""
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    manifest = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    wanted = {collection for source in scan() for collection in source.files.values()}
    target = Path(__file__).with_name("index.json")
    text = json.dumps(make_index(manifest, wanted), indent=1, ensure_ascii=False) + "\n"
    store(target, text.encode("utf-8"))
    print(f"{target}: {len(wanted)} collections")


if __name__ == "__main__":
    main(sys.argv[1:])
