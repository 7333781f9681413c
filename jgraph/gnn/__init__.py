"""Graph neural networks, one file per model; files are found, not registered.

models()                         names of all models
get("gcn").build(7)              a model's module, its `build`, `RECIPES`, `PAPER`
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
from pathlib import Path
from types import ModuleType


@functools.cache
def models() -> tuple[str, ...]:
    """Sorted names of the models: the files of this folder that define `build`. Imports none."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in body):
            found.append(path.stem)
    return tuple(found)


def get(name: str) -> ModuleType:
    """The module of a model.

    Raises:
      ValueError: no such model; the message suggests the nearest name.
    """
    if name not in models():
        near = difflib.get_close_matches(str(name).lower(), models(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no model {name!r}; {hint}choose one of {', '.join(models())}")
    return importlib.import_module(f"jgraph.gnn.{name}")
