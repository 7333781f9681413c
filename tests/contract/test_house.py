"""The catalogue, the house rules that can be checked, and the results tables."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jgraph import papers, results
from jgraph.paper import Paper

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for part in ("jgraph", "pallas_kernels", "experiments")
    for path in (ROOT / part).rglob("*.py")
)


@pytest.mark.parametrize("slug", list(papers.catalogue()))
def test_a_paper_has_file_test_experiment_and_result(slug):
    paper = papers.get(slug)
    assert isinstance(paper, Paper) and paper.year > 1950 and paper.title and paper.authors
    module = papers.module(slug)
    assert paper == module.PAPER
    assert paper.title.split(":")[0].split(",")[0][:20].lower() in " ".join(
        module.__doc__.lower().split()
    )
    assert (ROOT / paper.experiment).exists()
    assert list((ROOT / "tests").rglob(f"test_{slug}.py")), f"{slug} has no test of its own"
    header = ast.get_docstring(ast.parse((ROOT / paper.experiment).read_text()))
    for word in ("command", "hardware", "time", "reach", "source"):
        assert f"\n{word} " in header, f"{paper.experiment} does not state its {word}"


def test_unknown_paper_suggests_the_nearest():
    with pytest.raises(ValueError, match="graphsage"):
        papers.get("graphsag")


def test_a_paper_must_stand_under_its_own_name(tmp_path, monkeypatch):
    folder = tmp_path / "gnn"
    folder.mkdir()
    text = (
        'PAPER = Paper(slug="b", title="t", authors="a", year=2020, arxiv="", family="gnn", '
        'task="node", experiment="e")\n'
    )
    (folder / "a.py").write_text(text)
    monkeypatch.setattr(papers, "PACKAGE", tmp_path)
    papers.catalogue.cache_clear()
    try:
        with pytest.raises(ValueError, match="'a'"):
            papers.catalogue()
    finally:
        monkeypatch.undo()
        papers.catalogue.cache_clear()


def test_no_module_is_longer_than_400_lines():
    assert not [str(p) for p in SOURCES if len(p.read_text().splitlines()) > 400]


def test_public_names_have_docstrings():
    lacking = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            lacking.append(str(path))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            if public and path.parts[-2] != "gnn" and not ast.get_docstring(node):
                lacking.append(f"{path}:{node.name}")
    assert not lacking


def test_import_starts_no_backend_and_needs_no_extra():
    code = (
        "import sys, jgraph\n"
        "from jax._src import xla_bridge\n"
        "import jgraph.graph, jgraph.ops, jgraph.papers\n"
        "assert not xla_bridge._backends, xla_bridge._backends\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_results_render_and_record(tmp_path):
    value = results.Value("accuracy %", 81.25, 0.5, 10, target=81.0, reported=81.5, source="A")
    slow = results.Value("seconds", 2.0, target=1.0, higher=False, note="much")
    path = results.record("x", [value, slow], slug="gcn", command="run", seconds=1.0, root=tmp_path)
    stored = json.loads(path.read_text())
    assert stored["hardware"]["cores"] >= 1 and "jax" in stored["versions"]
    table = results.table(results.read_all(tmp_path))
    assert "| gcn | accuracy % | 81.2 ± 0.5 | ≥ 81.0 | 81.5 (A) | reached |" in table
    assert "| gcn | seconds (much) | 2.0 | ≤ 1.0 | – | **not reached** |" in table
    stored["provenance"] = "by hand"
    path.write_text(json.dumps(stored))
    assert results.table(results.read_all(tmp_path)).endswith("\n\n- `x.json`: by hand")
    page = f"head\n{results.BEGIN}\nold\n{results.END}\ntail"
    new = results.render(page, results.read_all(tmp_path))
    assert "old" not in new and new.startswith("head") and new.endswith("tail")
    with pytest.raises(ValueError, match="markers"):
        results.render("no markers", [])
    with pytest.raises(ValueError, match="finite"):
        results.record(
            "y", [results.Value("a", float("nan"))], slug="s", command="c", seconds=0, root=tmp_path
        )
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json"):
        results.read_all(tmp_path)


def test_tables_check_reports_staleness(tmp_path, capsys):
    (tmp_path / "experiments" / "results").mkdir(parents=True)
    (tmp_path / "jgraph").mkdir()
    (tmp_path / "README.md").write_text(f"{results.BEGIN}\n{results.END}\n")
    results.record(
        "x",
        [results.Value("a", 1.0)],
        slug="gcn",
        command="c",
        seconds=0,
        root=tmp_path / "experiments" / "results",
    )
    assert results.main(["--check", "--root", str(tmp_path)]) == 1
    assert results.main(["--root", str(tmp_path)]) == 0
    assert results.main(["--check", "--root", str(tmp_path)]) == 0
    assert "out of date" in capsys.readouterr().err
