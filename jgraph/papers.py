"""The catalogue of papers, read from the paper files themselves.

A paper file is `jgraph/<family>/<slug>.py` with a literal `PAPER = Paper(...)`. It is found by
parsing, so listing the catalogue imports none of the methods and adding one edits no other file.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from jgraph.paper import Paper

PACKAGE = Path(__file__).parent


def _declared(path: Path) -> dict[str, Any] | None:
    """The keywords of `PAPER = Paper(...)` in a file, or None."""
    text = path.read_text(encoding="utf-8")
    if "PAPER = Paper(" not in text:
        return None
    for node in ast.parse(text).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "PAPER"
            and isinstance(node.value, ast.Call)
        ):
            return {k.arg: ast.literal_eval(k.value) for k in node.value.keywords if k.arg}
    return None


@functools.cache
def catalogue() -> dict[str, Paper]:
    """All papers by slug, sorted by family and slug.

    Raises:
      ValueError: a file's slug or family is not its own name or folder.
    """
    found = []
    for path in sorted(PACKAGE.glob("*/*.py")):
        keywords = _declared(path)
        if keywords is None:
            continue
        paper = Paper(**keywords)
        if (paper.slug, paper.family) != (path.stem, path.parent.name):
            raise ValueError(
                f"{path} declares slug {paper.slug!r} in family {paper.family!r}; "
                f"they must be {path.stem!r} and {path.parent.name!r}"
            )
        found.append(paper)
    return {paper.slug: paper for paper in sorted(found, key=lambda p: (p.family, p.slug))}


def get(slug: str) -> Paper:
    """The paper of this slug.

    Raises:
      ValueError: unknown; the message suggests the nearest.
    """
    papers = catalogue()
    if slug not in papers:
        near = difflib.get_close_matches(slug, papers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(papers)}"
        raise ValueError(f"there is no paper {slug!r}{hint}")
    return papers[slug]


def module(slug: str) -> ModuleType:
    """The imported module of a paper; raises ValueError for an unknown slug."""
    paper = get(slug)
    return importlib.import_module(f"jgraph.{paper.family}.{paper.slug}")


def measured() -> dict[str, list[dict[str, Any]]]:
    """Measured values by slug, as generated from `experiments/results/*.json`."""
    path = PACKAGE / "measured.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
