"""What is timed of PyG and torch; runs in a process of its own, and needs the extra `bench`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from jgraph.bench.cases import MODELS, timed


def _torch() -> tuple[Any, Any]:
    try:
        import torch
        import torch_geometric.nn as pyg
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'jgraph[bench]'"
        ) from error
    return torch, pyg


def adjacency(arrays: dict[str, np.ndarray], form: str) -> Any:
    """The transposed adjacency: torch sparse "csr" (PyG's fastest form) or a "coo" edge index."""
    torch, _ = _torch()
    senders, receivers = (
        torch.from_numpy(arrays[k].astype(np.int64)) for k in ("senders", "receivers")
    )
    if form == "coo":
        return torch.stack([senders, receivers])
    count = arrays["x"].shape[0]
    coo = torch.sparse_coo_tensor(
        torch.stack([receivers, senders]), torch.ones(senders.numel()), (count, count)
    )
    return coo.coalesce().to_sparse_csr()


def network(name: str) -> Any:
    """The same two-layer network as `jgraph.bench.cases.OPTIONS` describes."""
    torch, pyg = _torch()
    hidden, classes, features = MODELS["hidden"], MODELS["classes"], MODELS["features"]

    def mlp(width: int, out: int) -> Any:
        return torch.nn.Sequential(
            torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, out)
        )

    class Network(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            if name == "gcn":
                self.first = pyg.GCNConv(features, hidden, cached=True)
                self.second = pyg.GCNConv(hidden, classes, cached=True)
            elif name == "graphsage":
                self.first = pyg.SAGEConv(features, hidden)
                self.second = pyg.SAGEConv(hidden, classes)
            elif name == "gin":
                self.first = pyg.GINConv(mlp(features, hidden))
                self.second = pyg.GINConv(mlp(hidden, classes))
            else:
                self.first = pyg.GATConv(features, hidden // 8, heads=8)
                self.second = pyg.GATConv(hidden, classes, heads=1)
            self.activate = torch.nn.functional.elu if name == "gat" else torch.relu

        def forward(self, x: Any, edges: Any) -> Any:
            return self.second(self.activate(self.first(x, edges)), edges)

    torch.manual_seed(0)
    return Network()


def _assign(name: str, layer: Any, params: dict[str, Any]) -> None:
    torch, _ = _torch()

    def put(target: Any, array: np.ndarray) -> None:
        with torch.no_grad():
            target.copy_(torch.from_numpy(np.array(array)).reshape(target.shape))

    if name == "gcn":
        put(layer.lin.weight, params["kernel"].T)
        put(layer.bias, params["bias"])
    elif name == "graphsage":
        put(layer.lin_l.weight, params["neighbour_kernel"].T)
        put(layer.lin_r.weight, params["self_kernel"].T)
        put(layer.lin_l.bias, params["bias"])
    elif name == "gat":
        put(layer.lin.weight, params["linear"]["kernel"].T)
        put(layer.att_src, params["attention_sender"])
        put(layer.att_dst, params["attention_receiver"])
        put(layer.bias, params["bias"])
    else:
        put(layer.nn[0].weight, params["kernel"].T)
        put(layer.nn[0].bias, params["bias"])
        last = next(iter(params["mlp"].values()))
        put(layer.nn[2].weight, last["kernel"].T)
        put(layer.nn[2].bias, last["bias"])


def logits(
    name: str, arrays: dict[str, np.ndarray], params: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The network's result with the given parameters, for each adjacency form."""
    torch, _ = _torch()
    out = {}
    for form in ("csr", "coo"):
        net = network(name)
        _assign(name, net.first, params["conv_0"])
        _assign(name, net.second, params["conv_1"])
        with torch.no_grad():
            out[form] = net(torch.from_numpy(arrays["x"]), adjacency(arrays, form)).numpy()
    return out


def spmm(arrays: dict[str, np.ndarray], repeats: int) -> dict[str, Any]:
    """Seconds of torch's CSR product and of SciPy's."""
    import scipy.sparse

    torch, _ = _torch()
    x, matrix = torch.from_numpy(arrays["x"]), adjacency(arrays, "csr")
    crow, col = matrix.crow_indices().numpy(), matrix.col_indices().numpy()
    csr = scipy.sparse.csr_matrix((matrix.values().numpy(), col, crow), shape=matrix.shape)
    dense = arrays["x"]
    return {
        "seconds": {
            "torch CSR": timed(lambda: matrix @ x, repeats),
            "SciPy CSR": timed(lambda: csr @ dense, repeats),
        },
        "results": {"SciPy CSR": csr @ dense, "SciPy CSR transposed": csr.T},
    }


def train(name: str, arrays: dict[str, np.ndarray], repeats: int, form: str) -> dict[str, Any]:
    """Seconds of one full training step with Adam."""
    torch, _ = _torch()
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"].astype(np.int64))
    edges, net = adjacency(arrays, form), network(name)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x, edges), labels).backward()
        optimizer.step()

    return {"seconds": {"step": timed(step, repeats)}}


def cora(epochs: int, seeds: int) -> dict[str, Any]:
    """Wall seconds of `seeds` GCN runs on Cora one after another, as PyG's example trains them."""
    from jgraph import data
    from jgraph.commands.setting import default_preparations, prepare

    torch, pyg = _torch()
    dataset = data.load("cora")
    dataset = prepare(dataset, default_preparations(dataset))
    graph, split = dataset.graph, dataset.splits[0]
    x = torch.from_numpy(graph.nodes.to_scipy().toarray())
    labels = torch.from_numpy(dataset.labels.astype(np.int64))
    arrays = {"senders": graph.senders, "receivers": graph.receivers, "x": x.numpy()}
    edges = adjacency(arrays, "csr")
    train_rows, val_rows, test_rows = (
        torch.from_numpy(part.astype(np.int64)) for part in (split.train, split.val, split.test)
    )
    functional = torch.nn.functional

    class Network(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first = pyg.GCNConv(x.shape[1], 16, cached=True)
            self.second = pyg.GCNConv(16, dataset.num_classes, cached=True)

        def forward(self) -> Any:
            h = functional.dropout(x, 0.5, self.training)
            h = self.first(h, edges).relu()
            return self.second(functional.dropout(h, 0.5, self.training), edges)

    began, scores = time.perf_counter(), []
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = Network()
        groups = [
            {"params": net.first.parameters(), "weight_decay": 5e-4},
            {"params": net.second.parameters(), "weight_decay": 0.0},
        ]
        optimizer, best, score = torch.optim.Adam(groups, lr=0.01), float("inf"), 0.0
        for _ in range(epochs):
            net.train()
            optimizer.zero_grad()
            functional.cross_entropy(net()[train_rows], labels[train_rows]).backward()
            optimizer.step()
            net.eval()
            with torch.no_grad():
                out = net()
                value = float(functional.cross_entropy(out[val_rows], labels[val_rows]))
                if value < best:
                    best = value
                    hits = out[test_rows].argmax(-1) == labels[test_rows]
                    score = float(hits.float().mean())
        scores.append(score)
    seconds = time.perf_counter() - began
    return {"seconds": {"run": [seconds]}, "accuracy": 100 * float(np.mean(scores))}
