"""Properties of the training loop on tiny data."""

import jax
import numpy as np
import pytest
from tiny import TinyModel, make_graph_data, make_node_data

from jgraph.train import TrainConfig, fit
from jgraph.train.batches import GraphStore

CONFIG = TrainConfig(epochs=12, batch_size=6)


@pytest.fixture(autouse=True)
def compile_quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def model_for(data, **fields):
    return TinyModel(data.num_classes, task=data.task, **fields)


def quiet(data, config, **options):
    return fit(model_for(data), data, config, progress=False, **options)


def random(data, config, **options):
    return fit(model_for(data, dropout=0.3, norm=True), data, config, progress=False, **options)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("data", [make_node_data(), make_graph_data()], ids=["node", "graph"])
def test_runs_side_by_side_equal_runs_alone(data):
    config = CONFIG.replace(seeds=2, seed=4, test_at="end")
    alone = random(data, config.replace(seeds=1, seed=5), split=0)
    for how in ("vmap", "map"):
        together = random(data, config.replace(runs_by=how), split="all")
        assert together.runs == ((0, 4), (1, 4), (0, 5), (1, 5))
        for name in ("train_loss", "val_loss"):
            np.testing.assert_allclose(
                together.history[name][:, 2], alone.history[name][:, 0], atol=2e-5
            )
        np.testing.assert_allclose(together.test_metric[2], alone.test_metric[0], atol=1e-6)


def test_training_lowers_the_loss(node_data):
    for data in (node_data, make_graph_data(metric="roc_auc")):
        result = quiet(data, CONFIG.replace(epochs=60))
        losses = result.history["train_loss"]
        assert losses[-1, 0] < 0.6 * losses[0, 0]
        assert 0 <= result.mean <= 1


def test_regression():
    data = make_graph_data(metric="mae")
    result = fit(model_for(data), data, CONFIG.replace(loss="l1", epochs=60), progress=False)
    assert result.history["val_loss"][-1] < result.history["val_loss"][0]
    np.testing.assert_allclose(result.history["val_loss"], result.history["val_metric"])
    assert "mae" in result.summary() and "%" not in result.summary()


@pytest.mark.parametrize("make", [make_node_data, make_graph_data])
def test_the_test_part_is_not_looked_at_while_training(make):
    data = make()
    labels = data.labels.copy()
    test = data.splits[0].test
    labels[test] = (labels[test] + 1) % data.num_classes
    scrambled = data.replace(labels=labels)
    a, b = quiet(data, CONFIG), quiet(scrambled, CONFIG)
    assert_same_bits((a.params, a.history, a.best_epoch), (b.params, b.history, b.best_epoch))
    assert a.test_loss != b.test_loss


def test_early_stopping_freezes_each_run(node_data):
    config = CONFIG.replace(epochs=40, lr=0.3, seeds=3, patience=4, test_at="end")
    result = quiet(node_data, config)
    assert (result.epochs_run == result.best_epoch + 4).any()
    for run, ended in enumerate(result.epochs_run):
        assert np.isnan(result.history["val_loss"][ended:, run]).all()
        assert np.isfinite(result.history["val_loss"][:ended, run]).all()
    run = int(np.argmin(result.epochs_run))
    ended = int(result.epochs_run[run])
    assert ended < result.epochs_run.max()
    cut = quiet(node_data, config.replace(epochs=ended, patience=0))
    for a, b in zip(jax.tree.leaves(result.params), jax.tree.leaves(cut.params)):
        np.testing.assert_allclose(a[run], b[run], atol=1e-5)


def test_tested_parameters_are_those_of_the_best_epoch(node_data):
    config = CONFIG.replace(epochs=30, lr=0.3)
    best = quiet(node_data, config)
    epoch = int(best.best_epoch[0])
    assert epoch == 1 + np.argmin(best.history["val_loss"])
    end = quiet(node_data, config.replace(epochs=epoch, test_at="end"))
    np.testing.assert_allclose(best.test_loss, end.test_loss, rtol=1e-5)
    assert best.val_loss[0] == best.history["val_loss"].min()
    by_metric = quiet(node_data, config.replace(select="val_metric"))
    assert by_metric.val_metric[0] == best.history["val_metric"].max()


def test_weight_decay_on_the_first_layer_only(node_data):
    # With a vanishing gradient (all logits scaled to nothing) only decay moves parameters.
    config = TrainConfig(
        epochs=1, optimizer="sgd", lr=0.1, weight_decay=0.5, test_at="end", weight_decay_on="first"
    )
    first = fit(model_for(node_data), node_data, config, progress=False).params
    plain = fit(model_for(node_data), node_data, config.replace(weight_decay=0.0), progress=False)
    both = fit(
        model_for(node_data), node_data, config.replace(weight_decay_on="all"), progress=False
    )
    assert_same_bits(first["upper"], plain.params["upper"])
    np.testing.assert_allclose(first["lower"]["kernel"], both.params["lower"]["kernel"], atol=1e-6)
    assert not np.allclose(first["lower"]["kernel"], plain.params["lower"]["kernel"])


def test_padding_does_not_change_the_loss(graph_data, monkeypatch):
    config = CONFIG.replace(epochs=4)
    model = model_for(graph_data)
    before = fit(model, graph_data, config, progress=False)
    build = GraphStore.build
    monkeypatch.setattr(GraphStore, "build", lambda self, t, n, e: build(self, t, n + 50, e + 70))
    after = fit(model, graph_data, config, progress=False)
    for name in before.history:
        np.testing.assert_allclose(before.history[name], after.history[name], atol=1e-5)


def test_batched_loss_equals_the_loss_of_all_graphs(graph_data):
    model = model_for(graph_data)
    small = fit(model, graph_data, CONFIG.replace(epochs=3, lr=1e-9), progress=False)
    large = fit(model, graph_data, CONFIG.replace(epochs=3, lr=1e-9, batch_size=64), progress=False)
    for name in ("train_loss", "train_metric", "val_loss", "val_metric"):
        np.testing.assert_allclose(small.history[name], large.history[name], atol=1e-5)


def test_folds_of_different_size_take_no_empty_steps(graph_data):
    from jgraph.data.dataset import Split

    long = graph_data.splits[0]
    short = Split(long.train[:4], long.val[:3], long.test)
    data = graph_data.replace(splits=(long, short))
    config = CONFIG.replace(test_at="end")
    together = quiet(data, config, split="all")
    alone = quiet(data, config, split=1)
    for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params)):
        np.testing.assert_allclose(a[1], b[0], atol=1e-5)


@pytest.mark.parametrize("make", [make_node_data, make_graph_data])
def test_the_model_is_traced_before_the_first_epoch_only(make):
    data, traces, at = make(), [], []

    class Counting(TinyModel):
        def __call__(self, graph, *, train=False):
            traces.append(train)
            return super().__call__(graph, train=train)

    def callback(epoch, row):
        at.append(len(traces))

    model = Counting(data.num_classes, task=data.task)
    fit(model, data, CONFIG.replace(chunk=5, epochs=12), progress=False, callbacks=[callback])
    assert len(at) == 12
    assert len(set(at)) == 1


def test_callbacks_see_every_epoch_in_order(node_data):
    seen = []
    result = quiet(node_data, CONFIG, callbacks=[lambda epoch, row: seen.append((epoch, row))])
    assert [epoch for epoch, _ in seen] == list(range(1, 13))
    np.testing.assert_array_equal([row["val_loss"] for _, row in seen], result.history["val_loss"])


def test_divergence_is_reported_not_scored(node_data):
    config = CONFIG.replace(lr=1e30, optimizer="sgd", epochs=6, eval_every=6)
    with pytest.warns(UserWarning, match="never had a finite"):
        result = quiet(node_data, config)
    assert np.isnan(result.test_metric).all()


def test_settings_that_do_not_fit_are_named(node_data, graph_data):
    from jgraph.data.dataset import Split

    with pytest.raises(ValueError, match="split is 9"):
        quiet(node_data, CONFIG, split=9)
    with pytest.raises(ValueError, match="split is 'first'"):
        quiet(node_data, CONFIG, split="first")
    with pytest.raises(ValueError, match="loss"):
        quiet(node_data, CONFIG.replace(loss="mse"))
    with pytest.raises(ValueError, match="task='graph'"):
        fit(TinyModel(2, task="node"), graph_data, CONFIG, progress=False)
    with pytest.raises(ValueError, match="num_classes=3"):
        fit(TinyModel(2), node_data, CONFIG, progress=False)
    with pytest.raises(ValueError, match="resume needs out"):
        quiet(node_data, CONFIG, resume=True)
    unvalidated = node_data.replace(splits=(Split([0, 1], [], [2, 3]),))
    with pytest.raises(ValueError, match="no validation rows"):
        quiet(unvalidated, CONFIG)
    end = quiet(unvalidated, CONFIG.replace(test_at="end"))
    assert np.isfinite(end.test_metric).all()


def test_variables_of_a_run_score_what_the_result_says(node_data):
    result = random(node_data, CONFIG.replace(seeds=3))
    model = model_for(node_data, norm=True)
    for run in range(3):
        logits = model.apply(result.variables(run), node_data.graph)
        test = node_data.splits[0].test
        share = np.mean(np.argmax(logits[test], 1) == node_data.labels[test])
        np.testing.assert_allclose(result.test_metric[run], share, atol=1e-6)
    with pytest.raises(IndexError, match="runs 0 to 2"):
        result.variables(3)
