"""Configuration, schedules, weight decay, patience and plateau."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jgraph.train import TrainConfig
from jgraph.train.state import (
    build_optimizer,
    first_layer_mask,
    init_state,
    learning_rate,
    record_evaluation,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("schedule", "linear"),
        ("optimizer", "lamb"),
        ("weight_decay", -1.0),
        ("weight_decay_on", "last"),
        ("batch_size", 0),
        ("seeds", 0),
        ("patience", -1),
        ("step_factor", 0.0),
        ("momentum", 1.0),
        ("warmup", 1000),
        ("select", "test_metric"),
        ("loss", "hinge"),
    ],
)
def test_bad_configuration_names_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})


def test_counts_must_be_integers():
    with pytest.raises(TypeError, match="epochs"):
        TrainConfig(epochs=10.0)


def test_identity_leaves_out_what_changes_no_result():
    base = TrainConfig()
    assert base.identity() == base.replace(chunk=3, checkpoint_every=7).identity()
    assert base.identity() != base.replace(lr=0.1).identity()


def rates(**fields):
    config = TrainConfig(lr=0.5, epochs=10, **fields)
    return np.array([learning_rate(config, e, jnp.float32(1)) for e in range(10)])


def test_schedules():
    np.testing.assert_allclose(rates(), 0.5)
    want = 0.25 * (1 + np.cos(np.pi * np.arange(10) / 10))
    np.testing.assert_allclose(rates(schedule="cosine"), want, rtol=1e-6)
    want = 0.5 * 0.1 ** (np.arange(10) // 3)
    np.testing.assert_allclose(
        rates(schedule="step", step_size=3, step_factor=0.1), want, rtol=1e-6
    )
    np.testing.assert_allclose(rates(warmup=4)[:5], [0.125, 0.25, 0.375, 0.5, 0.5])


def test_adam_adds_l2_to_the_gradient_and_adamw_decouples():
    params = {"w": jnp.array([2.0, -3.0])}
    zero = {"w": jnp.zeros(2)}
    adam = build_optimizer(TrainConfig(weight_decay=0.1))
    updates, _ = adam.update(zero, adam.init(params), params)
    # Adam's first step has length one wherever the gradient (here only L2) is not zero.
    np.testing.assert_allclose(updates["w"], [1.0, -1.0], rtol=1e-4)
    adamw = build_optimizer(TrainConfig(optimizer="adamw", weight_decay=0.1))
    updates, _ = adamw.update(zero, adamw.init(params), params)
    np.testing.assert_allclose(updates["w"], [0.2, -0.3], rtol=1e-6)


def test_gradient_is_clipped_before_weight_decay():
    params = {"w": jnp.array([10.0, 0.0])}
    sgd = build_optimizer(TrainConfig(optimizer="sgd", weight_decay=1.0, grad_clip=1.0))
    updates, _ = sgd.update({"w": jnp.array([3.0, 4.0])}, sgd.init(params), params)
    np.testing.assert_allclose(updates["w"], [10.6, 0.8], rtol=1e-6)


def test_first_layer_is_the_first_created():
    flat = {"zeta": {"kernel": 0, "bias": 0}, "alpha": {"kernel": 0}}
    assert first_layer_mask(flat) == {
        "zeta": {"kernel": True, "bias": True},
        "alpha": {"kernel": False},
    }
    wrapped = first_layer_mask({"net": flat})["net"]
    assert wrapped == first_layer_mask(flat)
    assert first_layer_mask({"dense": {"kernel": 0}}) == {"dense": {"kernel": True}}
    own = first_layer_mask({"scale": 0, "b": {"kernel": 0}, "a": {"kernel": 0}})
    assert own == {"scale": False, "b": {"kernel": True}, "a": {"kernel": False}}


def states(values, **fields):
    """The states after evaluations with these validation losses, one per epoch."""
    config = TrainConfig(epochs=100, **fields)
    params = {"w": jnp.zeros(())}
    state = init_state(params, {}, jax.random.key(0), optax.identity())
    out = []
    for epoch, value in enumerate(values):
        state = state.replace(params={"w": jnp.float32(epoch)})
        state = record_evaluation(config, state, epoch, jnp.float32(value), jnp.float32(value))
        out.append(state)
    return out


def test_best_is_kept_and_nan_never_wins():
    last = states([np.nan, 3, 2, 2, np.nan, 5])[-1]
    assert int(last.best_epoch) == 2
    assert float(last.best_params["w"]) == 2
    assert int(last.epochs_since_best) == 3
    assert bool(last.active)


def test_patience_stops_and_freezes():
    seen = states([3, 2, 4, 4, 1, 0], patience=2)
    assert [bool(s.active) for s in seen] == [True, True, True, False, False, False]
    assert int(seen[-1].best_epoch) == 1
    assert float(seen[-1].best_params["w"]) == 1


def test_plateau_as_in_torch():
    losses = [5, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3]
    got = [float(s.lr_scale) for s in states(losses, schedule="plateau", step_size=2)]
    # torch.optim.lr_scheduler.ReduceLROnPlateau(SGD(lr=1), factor=0.5, patience=2), torch 2.
    assert got == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]
