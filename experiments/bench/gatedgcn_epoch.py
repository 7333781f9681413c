"""A training epoch of GatedGCN (100k parameters) on planted patterns, beside the same net in PyG.

command    python -m experiments.bench.gatedgcn_epoch
hardware   2 CPU cores
time       about 10 minutes
reach      an epoch on 1,000 generated PATTERN graphs at least 3 times faster than in PyG, after a
           check that both compute the same outputs and the same loss from the same parameters
source     none: the rival runs in the same process, written with `MessagePassing` and torch
           operations as PyG users write GatedGCN (`ResGatedGraphConv` has another formula)

Both sides assemble batches, step Adam and read the loss; neither updates the edge states that the
last layer leaves behind. Compilation and the first epoch are left out.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tyro

from experiments.protocol import report
from jgraph.data.generators import LabelledGraphs, make_pattern
from jgraph.gnn import benchmarking_gnns as paper
from jgraph.graph import batch
from jgraph.results import Value
from jgraph.train.plateau import Examples, Plateau, fit_on_plateau


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    graphs: int = 1000
    batch_size: int = 128
    epochs: int = 3
    threads: int = 2
    layers: int = 4
    hidden: int = 70


def rival(layers: int, hidden: int) -> Any:
    """The net in PyG: `net(x, edge_index)` -> logits (N, 2)."""
    import torch
    from torch import nn
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import scatter

    class Layer(MessagePassing):
        def __init__(self, last: bool):
            super().__init__(aggr="add")
            self.A = nn.Linear(hidden, hidden, bias=False)
            self.B, self.C, self.D, self.E = (nn.Linear(hidden, hidden) for _ in range(4))
            self.node_norm = nn.BatchNorm1d(hidden)
            self.edge_norm = None if last else nn.BatchNorm1d(hidden)

        def forward(self, h, e, edge_index):
            maps = {"Bx": self.B(h), "Dx": self.D(h), "Ex": self.E(h), "Ce": self.C(e)}
            y = self.A(h) + self.propagate(edge_index, **maps)
            ehat, self.ehat = self.ehat, None
            h = h + torch.relu(self.node_norm(y))
            return h, None if self.edge_norm is None else e + torch.relu(self.edge_norm(ehat))

        def message(self, Dx_j, Ex_i, Ce):
            self.ehat = Dx_j + Ex_i + Ce
            return torch.sigmoid(self.ehat)

        def aggregate(self, sigma, index, Bx_j, Bx):
            size = Bx.shape[0]
            total = scatter(sigma, index, 0, size, "sum")
            return scatter(sigma * Bx_j, index, 0, size, "sum") / (total + 1e-6)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_nodes = nn.Linear(3, hidden, bias=False)
            self.embed_edges = nn.Linear(1, hidden)
            self.layers = nn.ModuleList([Layer(i == layers - 1) for i in range(layers)])
            self.readout_1 = nn.Linear(hidden, hidden // 2)
            self.readout_2 = nn.Linear(hidden // 2, hidden // 4)
            self.head = nn.Linear(hidden // 4, 2)

        def forward(self, x, edge_index):
            h = self.embed_nodes(x)
            e = self.embed_edges(torch.ones(edge_index.shape[1], 1))
            for layer in self.layers:
                h, e = layer(h, e, edge_index)
            return self.head(torch.relu(self.readout_2(torch.relu(self.readout_1(h)))))

    return Net()


def copy_parameters(params: Any, net: Any) -> None:
    """Our parameters into the rival's modules of the same names."""
    import torch

    def put(module: Any, leaves: Any) -> None:
        kernel = leaves["kernel"].T if "kernel" in leaves else leaves["scale"]
        with torch.no_grad():
            module.weight.copy_(torch.tensor(np.array(kernel)))
            if "bias" in leaves:
                module.bias.copy_(torch.tensor(np.array(leaves["bias"])))

    for name in ("embed_nodes", "embed_edges", "readout_1", "readout_2", "head"):
        put(getattr(net, name), params[name])
    for i, layer in enumerate(net.layers):
        ours = params[f"layer_{i}"]
        for name in "ABCDE":
            put(getattr(layer, name), ours["conv"][name])
        put(layer.node_norm, ours["node_norm"])
        if layer.edge_norm is not None:
            put(layer.edge_norm, ours["edge_norm"])


def weighted_loss(logits: Any, labels: Any) -> Any:
    """The benchmark's class-weighted cross entropy, in torch."""
    import torch

    sizes = torch.bincount(labels, minlength=2).float()
    weight = (labels.shape[0] - sizes) / labels.shape[0]
    return torch.nn.functional.cross_entropy(logits, labels, weight)


def check(data: LabelledGraphs, config: Config, net: Any) -> float:
    """Largest difference of logits and loss on a batch, relative to the largest logit.

    Raises:
      RuntimeError: it is above 1e-3.
    """
    import torch

    graph = batch(data.graphs[:8])
    labels = np.concatenate(data.labels[:8])
    model = paper.build(2, hidden=config.hidden, layers=config.layers)
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    copy_parameters(variables["params"], net)
    apply = jax.jit(lambda v, g: model.apply(v, g, train=True, mutable=["batch_stats"])[0])
    ours = np.asarray(apply(variables, graph))
    loss = float(paper.weighted_sbm_ce(ours, labels, np.ones(labels.size, bool)))
    edges = torch.tensor(np.stack([graph.senders, graph.receivers])).long()
    net.train()
    with torch.no_grad():
        theirs = net(torch.tensor(graph.nodes), edges)
        other = float(weighted_loss(theirs, torch.tensor(labels).long()))
    error = float(np.abs(ours - theirs.numpy()).max() / np.abs(ours).max())
    error = max(error, abs(loss - other))
    if not error < 1e-3:
        raise RuntimeError(f"the two networks differ by {error:.1e} of the largest logit")
    return error


def torch_seconds(data: LabelledGraphs, config: Config, net: Any) -> list[float]:
    """Seconds of each epoch after the first."""
    import torch
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    graphs = [
        Data(
            x=torch.tensor(np.asarray(g.nodes)),
            edge_index=torch.tensor(np.stack([g.senders, g.receivers])).long(),
            y=torch.tensor(y).long(),
        )
        for g, y in zip(data.graphs, data.labels, strict=True)
    ]
    loader = DataLoader(graphs, batch_size=config.batch_size, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    took = []
    for _ in range(config.epochs + 1):
        began = time.perf_counter()
        for part in loader:
            optimizer.zero_grad()
            loss = weighted_loss(net(part.x, part.edge_index), part.y)
            loss.backward()
            optimizer.step()
            loss.item()
        took.append(time.perf_counter() - began)
        print(f"PyG epoch {took[-1]:.1f} s", flush=True)
    return took[1:]


def our_seconds(data: LabelledGraphs, config: Config) -> list[float]:
    """Seconds of each epoch after the first; validation on one graph is part of them."""
    ends: list[float] = []

    def tick(epoch: int, row: dict[str, float]) -> None:
        ends.append(time.perf_counter())
        print(f"jgraph epoch {epoch}, loss {row['train_loss']:.4f}", flush=True)

    one = Examples(data.graphs[:1], data.labels[:1])
    fit_on_plateau(
        paper.build(2, hidden=config.hidden, layers=config.layers),
        {"train": Examples(data.graphs, data.labels), "val": one, "test": one},
        paper.MEASURES["sbm"],
        Plateau(),
        batch_size=config.batch_size,
        epochs=config.epochs + 1,
        callback=tick,
    )
    return list(np.diff(ends))


def main(config: Config) -> None:
    """Runs the benchmark and records it."""
    import torch

    began = time.time()
    torch.set_num_threads(config.threads)
    data = make_pattern(0, config.graphs, 1, 1)[0]
    net = rival(config.layers, config.hidden)
    error = check(data, config, net)
    ours = float(np.median(our_seconds(data, config)))
    theirs = float(np.median(torch_seconds(data, config, net)))
    what = f"GatedGCN 100k, {config.graphs} PATTERN graphs"
    values = [
        Value(f"{what}: seconds per epoch", ours, higher=False),
        Value(f"{what}: seconds per epoch in PyG", theirs, higher=False),
        Value(
            f"{what}: times faster than PyG",
            theirs / ours,
            target=3.0,
            note=f"outputs agree to {error:.0e}",
        ),
    ]
    report(
        "bench",
        values,
        began,
        "python -m experiments.bench.gatedgcn_epoch",
        dataclasses.asdict(config),
        name="bench-gatedgcn-epoch",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
