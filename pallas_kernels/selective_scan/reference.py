"""The selective scan of Mamba, step by step: the specification.

    Delta_t = softplus(delta_t + delta_bias)              (or delta_t + delta_bias)
    h_t     = exp(Delta_t A) h_{t-1} + (Delta_t u_t) B_t   one (N,) state per channel
    y_t     = (<h_t, C_t> + D u_t) silu(z_t)

Gu & Dao, 2023, arXiv 2312.00752, algorithm 2 with the discretisation of the authors' code (Euler
for B).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """Static arguments.

    Attributes:
      delta_softplus: whether delta goes through softplus.
      checkpoint: steps between two states kept for the gradient; the others are computed again.
    """

    delta_softplus: bool = False
    checkpoint: int = 16


def state_dtype(u: jax.Array) -> jnp.dtype:
    """The dtype in which the state is kept: float32, or float64 for such operands."""
    return jnp.promote_types(u.dtype, jnp.float32)


def reference(
    options: Options,
    u: jax.Array,
    delta: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    D: jax.Array | None = None,
    z: jax.Array | None = None,
    delta_bias: jax.Array | None = None,
    initial_state: jax.Array | None = None,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Outputs of all steps and the last state.

    Args:
      u, delta: (B, T, E) inputs and step sizes.
      A: (E, N) decay rates, below zero.
      B, C: (B, T, N) what enters and what is read.
      D: (E,) weight of the skip connection.
      z: (B, T, E) gate, before its SiLU.
      delta_bias: (E,) added to delta.
      initial_state: (B, E, N), zero if absent.
      reset: (B, T) bool, True at the first step of each packed sequence.

    Returns:
      y (B, T, E) in the dtype of `u`; the state after the last step, (B, E, N), in float32 (or
      float64).
    """
    wide = state_dtype(u)
    step_size = delta.astype(wide)
    if delta_bias is not None:
        step_size = step_size + delta_bias.astype(wide)
    if options.delta_softplus:
        step_size = jax.nn.softplus(step_size)
    x, rates = u.astype(wide), A.astype(wide)
    if initial_state is None:
        state = jnp.zeros((u.shape[0], *A.shape), wide)
    else:
        state = initial_state.astype(wide)
    first = jnp.zeros(u.shape[:2], bool) if reset is None else reset

    def step(h, at_t):
        x_t, delta_t, b_t, c_t, first_t = at_t
        h = jnp.where(first_t[:, None, None], 0, h)
        h = jnp.exp(delta_t[:, :, None] * rates) * h
        h = h + (delta_t * x_t)[:, :, None] * b_t[:, None, :]
        return h, (h * c_t[:, None, :]).sum(-1)

    sequences = (x, step_size, B.astype(wide), C.astype(wide), first)
    final, y = jax.lax.scan(step, state, tuple(s.swapaxes(0, 1) for s in sequences))
    y = y.swapaxes(0, 1)
    if D is not None:
        y = y + D.astype(wide) * x
    if z is not None:
        y = y * jax.nn.silu(z.astype(wide))
    return y.astype(u.dtype), final
