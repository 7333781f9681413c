"""Finding datasets by name: the files in `sources/` are the catalogue.

A source is one file with a literal, module-level `DATASETS = {name: one-line description}` and
`def load(name, root, **options) -> Dataset`. A source whose files are in the packaged index also
has a literal `FILES = {name: collection}`. Both are read from the syntax tree, so listing datasets
imports no source, and adding a dataset means adding one file.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jgraph.data import files
from jgraph.data.dataset import Dataset
from jgraph.data.errors import DatasetError
from jgraph.graph import GraphError

SOURCES = Path(__file__).with_name("sources")


@dataclass(frozen=True)
class Source:
    """One file that loads datasets: its path, {name: description} and {name: collection}."""

    path: Path
    datasets: Mapping[str, str]
    files: Mapping[str, str]


class Check(NamedTuple):
    """One row of `verify`: dataset, file, whether it is intact, and what is wrong if not."""

    name: str
    file: str
    ok: bool
    cause: str


def scan(folder: str | os.PathLike = SOURCES) -> tuple[Source, ...]:
    """The sources in a folder, in the order of their file names.

    Raises:
      DatasetError: a file has no literal `DATASETS`, does not parse, or repeats a name.
    """
    folder = Path(folder)
    return _scan(tuple(sorted((p, p.stat().st_mtime_ns) for p in folder.glob("[!_]*.py"))))


@functools.lru_cache(maxsize=8)
def _scan(stamped: tuple[tuple[Path, int], ...]) -> tuple[Source, ...]:
    found: list[Source] = []
    owner: dict[str, Path] = {}
    for path, _ in stamped:
        literals = _literals(path)
        if "DATASETS" not in literals:
            raise DatasetError(
                "", "no DATASETS", file=str(path), fix="add DATASETS = {name: description}"
            )
        source = Source(path, literals["DATASETS"], literals.get("FILES", {}))
        for name in source.datasets:
            if name in owner:
                raise DatasetError(
                    name, f"also defined in {owner[name]}", file=str(path), fix="rename one"
                )
            owner[name] = path
        found.append(source)
    return tuple(found)


def _literals(path: Path) -> dict[str, dict[str, str]]:
    literals = {}
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for node in tree.body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id in ("DATASETS", "FILES"):
                    literals[target.id] = ast.literal_eval(node.value)
    except (SyntaxError, ValueError) as error:
        raise DatasetError(
            "",
            f"DATASETS and FILES cannot be read without running the file: {error}",
            file=str(path),
            fix="write them as literal dictionaries",
        ) from error
    return literals


def names(sources: str | os.PathLike = SOURCES) -> tuple[str, ...]:
    """The names of all datasets, sorted."""
    return tuple(sorted(name for source in scan(sources) for name in source.datasets))


_all_names = names


def _find(name: str, sources: str | os.PathLike) -> Source:
    for source in scan(sources):
        if name in source.datasets:
            return source
    known = names(sources)
    wanted = str(name).lower().replace("_", "-")
    plain = {one.replace("_", "-"): one for one in known}
    close = [plain[match] for match in difflib.get_close_matches(wanted, plain, n=1)]
    fix = f"did you mean {close[0]!r}?" if close else "choose one"
    raise DatasetError(str(name), "unknown dataset", fix=f"{fix} All: {', '.join(known)}")


def _import(source: Source) -> ModuleType:
    if source.path.parent == SOURCES:
        return importlib.import_module(f"jgraph.data.sources.{source.path.stem}")
    name = f"jgraph_source_{source.path.stem}"
    spec = importlib.util.spec_from_file_location(name, source.path)
    if spec is None or spec.loader is None:
        raise DatasetError("", "cannot be imported", file=str(source.path), fix="name it *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load(
    name: str,
    root: files.Root = None,
    *,
    sources: str | os.PathLike = SOURCES,
    **options: Any,
) -> Dataset:
    """Loads a dataset.

    Args:
      name: one of `names()`.
      root: a folder to read files from, and only from. Without it: `$JGRAPH_DATA`, then the cache,
        then the public address.
      sources: the folder of the source files; one's own folder works too.
      **options: what the source of this dataset offers, e.g. `attributes=True` for proteins.

    Returns:
      A Dataset; its arrays are numpy.

    Raises:
      DatasetError: unknown name; a missing, truncated, altered or malformed file; no network.
      TypeError: an option that this dataset does not have.
    """
    source = _find(name, sources)
    loader = _import(source).load
    offered = list(inspect.signature(loader).parameters)[2:]
    for option in options:
        if option not in offered:
            raise TypeError(
                f"load({name!r}): unknown option {option!r}; this dataset has "
                + (", ".join(offered) or "none")
            )
    try:
        return loader(name, root, **options)
    except GraphError as error:
        raise DatasetError(name, str(error), fix="get its files again") from error


def info(name: str, *, sources: str | os.PathLike = SOURCES) -> dict[str, Any]:
    """What is known without loading: name, description, source file, licence, citation, files.

    Raises:
      DatasetError: unknown name.
    """
    source = _find(name, sources)
    facts: dict[str, Any] = {
        "name": name,
        "description": source.datasets[name],
        "module": source.path.stem,
        "files": (),
    }
    if name in source.files:
        collection = source.files[name]
        facts |= files.attribution(collection)
        facts["files"] = tuple(files.index()[collection]["files"])
    return facts


def verify(names: Iterable[str] | None = None, *, root: files.Root = None) -> list[Check]:
    """Checks the sha256 of every stored file; downloads nothing.

    Args:
      names: the datasets to check; all by default.
      root: as in `load`.

    Returns:
      One row for each file; `ok` is False, with a cause, for files that are damaged or not stored.
    """
    wanted = _all_names() if names is None else tuple(names)
    rows = []
    for name in wanted:
        for file in info(name)["files"]:
            found = files.locate(file, root)
            if found is None:
                rows.append(Check(name, file, False, "not stored"))
                continue
            try:
                files.read_stored(*found, files.entry(file)[1], name)
            except DatasetError as error:
                rows.append(Check(name, str(found[0]), False, error.cause))
            else:
                rows.append(Check(name, str(found[0]), True, ""))
    return rows
