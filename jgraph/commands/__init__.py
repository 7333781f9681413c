"""What the `jgraph` command does, one module per command; imported only when it is called."""
