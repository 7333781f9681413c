"""`jgraph list`, `papers`, `data`: what there is, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from jgraph import data, gnn, papers
from jgraph.data.catalogue import scan
from jgraph.results import number


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def show_list(capabilities: bool = False) -> None:
    """List models and data sets, or what each layer can take.

    Args:
      capabilities: a table of the layers instead, found by calling each on a small graph.
    """
    console = Console()
    if capabilities:
        console.print(_capabilities())
        return
    rows = [(name, _first_line(gnn.get(name).__doc__)) for name in gnn.models()]
    console.print(_table("models", ("name", "what"), rows))
    console.print()
    console.print(_datasets())


def _capabilities() -> Table:
    from jgraph.capabilities import table

    names = ("edge_weights", "edge_features", "bipartite", "sparse", "padded", "jraph", "bfloat16")
    rows = [
        (
            row.layer,
            *("yes" if getattr(row, name) else "–" for name in names),
            ", ".join(row.kernels) or "–",
        )
        for row in table()
    ]
    columns = ("layer", *(name.replace("_", " ") for name in names), "kernels")
    return _table("layers of jgraph.nn", columns, rows)


def _datasets() -> Table:
    rows = sorted(row for source in scan() for row in source.datasets.items())
    return _table("data sets", ("name", "what"), rows)


def show_papers() -> None:
    """The catalogue of papers, with measured beside reported numbers."""
    measured = papers.measured()
    rows = []
    for paper in papers.catalogue().values():
        found = {value["name"]: value for value in measured.get(paper.slug, [])}
        names = list(dict.fromkeys([*paper.reported, *found]))
        reference = f"{paper.title} ({paper.year}" + (
            f", arXiv {paper.arxiv})" if paper.arxiv else ")"
        )
        for i, name in enumerate(names or [""]):
            got = found.get(name)
            spread = f" ± {number(got['std'])}" if got and got["std"] is not None else ""
            reported = paper.reported.get(name, got.get("reported") if got else None)
            rows.append(
                (
                    paper.slug if i == 0 else "",
                    reference if i == 0 else "",
                    name,
                    number(got["mean"]) + spread if got else "not yet measured",
                    number(reported),
                )
            )
    columns = ("slug", "paper", "quantity", "measured", "reported")
    Console().print(_table("papers", columns, rows))


def show_data(
    action: Annotated[Literal["list", "info", "verify"], tyro.conf.Positional] = "list",
    name: Annotated[str | None, tyro.conf.Positional] = None,
) -> int:
    """List data sets, describe one, or check the files of all or one.

    Args:
      action: list, info NAME or verify [NAME].
      name: a data set.
    """
    console = Console()
    if action == "list":
        console.print(_datasets())
        return 0
    if action == "info":
        if name is None:
            raise ValueError("data info needs the name of a data set: jgraph data info cora")
        dataset = data.load(name)
        console.print(str(dataset), highlight=False)
        console.print(
            f"  source    {dataset.source}\n  citation  {dataset.citation}", highlight=False
        )
        return 0
    checks = data.verify(None if name is None else [name])
    bad = [check for check in checks if not check.ok]
    if bad:
        rows = [(check.name, check.file, check.cause) for check in bad]
        console.print(_table("not as it should be", ("data set", "file", "cause"), rows))
    console.print(f"{len(checks) - len(bad)} of {len(checks)} files are intact")
    return 1 if bad else 0
