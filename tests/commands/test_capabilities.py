"""The table of capabilities says what the layers really do."""

import pytest
from flax import linen

from jgraph import capabilities, nn
from jgraph.cli import main


@pytest.fixture(scope="module")
def rows():
    return {row.layer: row for row in capabilities.table()}


def test_every_layer_takes_padding_and_jraph_graphs(rows):
    assert "GCNConv" in rows and "MLP" not in rows
    assert [row.layer for row in rows.values() if not (row.padded and row.jraph)] == []


def test_only_gcn_among_the_first_layers_takes_edge_weights(rows):
    assert rows["GCNConv"].edge_weights
    assert not rows["GATConv"].edge_weights and not rows["GINConv"].edge_features
    assert "spmm" in rows["SAGEConv"].kernels


def test_a_layer_that_ignores_padding_is_found_out(monkeypatch):
    class Leaky(linen.Module):
        @linen.compact
        def __call__(self, graph, x, *, train=False):
            return x - x.mean(axis=0)

    monkeypatch.setattr(nn, "Leaky", Leaky, raising=False)
    monkeypatch.setattr(nn, "__all__", [*nn.__all__, "Leaky"])
    row = capabilities.capabilities("Leaky")
    assert not row.padded and not row.bipartite and row.kernels == ()


def test_command_prints_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "--capabilities"]) == 0
    assert "GATv2Conv" in capsys.readouterr().out
