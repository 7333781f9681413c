"""The `jgraph` command: train, predict, list, papers, data, bench, demo, doctor.

Exit codes: 0 done, 1 a check failed or an unexpected error, 2 a mistake in what was asked (one
line says what to mend), 130 interrupted. `--debug` shows the traceback.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Each command is imported only when it is called, so that help and errors are quick.
COMMANDS = {
    "train": "jgraph.commands.train:train",
    "predict": "jgraph.commands.predict:predict",
    "list": "jgraph.commands.show:show_list",
    "papers": "jgraph.commands.show:show_papers",
    "data": "jgraph.commands.show:show_data",
    "bench": "jgraph.bench.aggregation:bench",
    "demo": "jgraph.commands.demo:demo",
    "doctor": "jgraph.commands.doctor:doctor",
}
USER_ERRORS = (ValueError, TypeError, OSError, ModuleNotFoundError)


def _summary(target: str) -> str:
    """First line of a command's docstring, read without importing it."""
    module, name = target.split(":")
    path = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n")[0]
    raise LookupError(f"{path} does not define {name}")


def help_text() -> str:
    """What `jgraph --help` prints."""
    rows = "\n".join(f"  {name:9} {_summary(target)}" for name, target in COMMANDS.items())
    return (
        "usage: jgraph COMMAND [OPTIONS]    (jgraph COMMAND --help tells its options)\n\n"
        f"commands:\n{rows}\n\noptions:\n"
        "  --debug    show the traceback of an error\n"
        "  --version  print the version\n"
        "  --help     print this"
    )


def _call(target: str, name: str, args: list[str]) -> Any:
    import tyro

    module, attribute = target.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return tyro.cli(function, prog=f"jgraph {name}", args=args)


def _fail(error: Exception, debug: bool) -> int:
    mistake = isinstance(error, USER_ERRORS) or type(error).__module__.startswith("jgraph.")
    if debug:
        traceback.print_exception(error)
    else:
        text = str(error).strip() or type(error).__name__
        hint = "" if mistake else f" ({type(error).__name__}; --debug shows where)"
        print(f"error: {text}{hint}", file=sys.stderr)
    return 2 if mistake else 1


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if args[0] in ("--version", "-V"):
        import jgraph

        print(f"jgraph {jgraph.__version__}")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"error: no command {name!r}; {hint}see jgraph --help", file=sys.stderr)
        return 2
    try:
        result = _call(COMMANDS[name], name, rest)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _fail(error, debug)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    raise SystemExit(main())
