"""The weights between the steps of one chunk in WKV-7, and their gradients, inside a kernel.

E_ij is the product of the decays strictly between steps j and i, F_ij includes step i:

    AB_ij = sum_d a_id E_ijd b_jd,  AK likewise with k   (j < i)
    RB_ij = sum_d r_id F_ijd b_jd,  RK likewise with k   (j <= i)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.decay_tiles import Chunk, column, with_column, with_row


class Rows(NamedTuple):
    """References to the operands that are read row by row."""

    k: Any
    b: Any
    log_decay: Any
    reset: Any

    def at(self, chunk: Chunk, step: Any) -> tuple[Any, Any, Any]:
        """k, b and the decay of one step, (K,) each."""
        decay = chunk.decay_row(self.log_decay, self.reset, step)
        return chunk.key_row(self.k, step), chunk.key_row(self.b, step), decay


class Weights(NamedTuple):
    """The weights (L, L), and products of decays (L, K) before a step, up to and after it.

    `passed` (K,) is the product over the whole chunk.
    """

    ab: Any
    ak: Any
    rb: Any
    rk: Any
    before: Any
    upto: Any
    after: Any
    passed: Any


def weights(chunk: Chunk, rows: Rows, r: Any, a: Any) -> Weights:
    """Of one chunk, column by column from its end."""
    length, width = r.shape
    steps = jnp.arange(length)

    def body(turn, done):
        j = length - 1 - turn
        k, b, w = rows.at(chunk, j)
        later, since = (steps > j)[:, None], (steps >= j)[:, None]
        past, present = jnp.where(later, a * done.before, 0.0), jnp.where(since, r * done.upto, 0.0)
        return Weights(
            ab=with_column(done.ab, j, jnp.sum(past * b[None, :], axis=1)),
            ak=with_column(done.ak, j, jnp.sum(past * k[None, :], axis=1)),
            rb=with_column(done.rb, j, jnp.sum(present * b[None, :], axis=1)),
            rk=with_column(done.rk, j, jnp.sum(present * k[None, :], axis=1)),
            before=jnp.where(later, done.before * w[None, :], done.before),
            upto=jnp.where(since, done.upto * w[None, :], done.upto),
            after=with_row(done.after, j, done.passed),
            passed=done.passed * w,
        )

    ones, square = jnp.ones((length, width), jnp.float32), jnp.zeros((length, length), jnp.float32)
    start = Weights(
        square, square, square, square, ones, ones, ones, jnp.ones((width,), jnp.float32)
    )
    return jax.lax.fori_loop(0, length, body, start)


def weight_gradients(
    chunk: Chunk, rows: Rows, r: Any, a: Any, d_ab: Any, d_ak: Any, d_rb: Any, d_rk: Any
) -> tuple[Any, Any, Any, Any]:
    """What the weights' cotangents give to r, k, a and b, (L, K) each.

    Entries of the cotangents where a weight is zero by definition are ignored.
    """
    length, width = r.shape
    steps = jnp.arange(length)

    def body(turn, carry):
        dr, dk, da, db, before, upto = carry
        j = length - 1 - turn
        k, b, w = rows.at(chunk, j)
        later, since = (steps > j)[:, None], (steps >= j)[:, None]
        past, present = jnp.where(later, before, 0.0), jnp.where(since, upto, 0.0)
        ab, ak, rb, rk = (column(x, j)[:, None] for x in (d_ab, d_ak, d_rb, d_rk))
        return (
            dr + present * (rb * b[None, :] + rk * k[None, :]),
            with_row(dk, j, jnp.sum(ak * a * past + rk * r * present, axis=0)),
            da + past * (ab * b[None, :] + ak * k[None, :]),
            with_row(db, j, jnp.sum(ab * a * past + rb * r * present, axis=0)),
            jnp.where(later, before * w[None, :], before),
            jnp.where(since, upto * w[None, :], upto),
        )

    zeros, ones = (make((length, width), jnp.float32) for make in (jnp.zeros, jnp.ones))
    start = zeros, zeros, zeros, zeros, ones, ones
    return jax.lax.fori_loop(0, length, body, start)[:4]


def solve(matrix: Any, right: Any, *, transposed: bool) -> Any:
    """x = right + matrix x by substitution, or with the transpose of `matrix`.

    `matrix` (L, L) is zero on and above its diagonal.
    """
    length = matrix.shape[0]
    steps = jnp.arange(length)

    def body(turn, x):
        if transposed:
            i = length - 1 - turn
            row = column(matrix, i)
        else:
            i = turn
            row = jnp.sum(jnp.where((steps == i)[:, None], matrix, 0.0), axis=0)
        add = jnp.sum(row[:, None] * x, axis=0)
        return x + jnp.where((steps == i)[:, None], add[None, :], 0.0)

    return jax.lax.fori_loop(0, length, body, right)
