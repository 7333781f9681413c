"""The command of `experiments.gnn.benchmarking_gnns`, which says what it runs and reaches.

command    python -m experiments.gnn.benchmark {table,csl,pattern-small,aqsol} --help
"""

from experiments.gnn.benchmarking_gnns import command

if __name__ == "__main__":
    command()
