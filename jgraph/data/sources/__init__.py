"""One file per source of datasets; see `jgraph.data.catalogue` for what such a file holds."""
