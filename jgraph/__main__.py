"""`python -m jgraph` is the `jgraph` command."""

from jgraph.cli import main

raise SystemExit(main())
