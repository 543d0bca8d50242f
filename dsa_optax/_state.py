"""What the optimizers remember between two updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._rate_storage import log2_lr_of

LEAST_LOG2_LR = -126.0
"""The least η of `adapt`: 2^η is the least normal float32."""


class DSAState(NamedTuple):
    """State of the optimizers whose rate is a power of two (Eqs. 5 and 6).

    The scalars are kept so that a state can be read (`learning_rates`, `summary`)
    without the transformation that made it.

    Attributes:
      count: number of updates so far, an int32 scalar.
      log2_lr: η, the log2 learning rate of every parameter; the structure and shapes
        of the params, float32 unless `state_dtype` says otherwise. Of an integer dtype
        it counts: η is `start` and so many times `unit`.
      lr_scale: the `learning_rate` multiplier in force at the last update, a scalar.
      start: the η that every parameter began with, a scalar.
      unit: the η that one of an integer `log2_lr` is worth, a scalar; else 1.
      bounds: the least and the greatest `log2_lr` allowed, shape (2,).
    """

    count: jax.Array  # type: ignore[assignment]
    log2_lr: optax.Params
    lr_scale: jax.Array
    start: jax.Array
    unit: jax.Array
    bounds: jax.Array


class LinearDSAState(NamedTuple):
    """State of the optimizers whose rate is η itself (Eqs. 3 and 4).

    Attributes:
      count: number of updates so far, an int32 scalar.
      lr: η; one scalar for `basic_dsa`, the structure and shapes of the params for
        `parameterwise_dsa`. It may become negative: Eqs. 3 and 4 do not prevent it.
      start: the η that training began with, a scalar.
    """

    count: jax.Array  # type: ignore[assignment]
    lr: optax.Params
    start: jax.Array


class StepBackState(NamedTuple):
    """State of `adapt`, `blend` and `auto_dsa`: what it takes to take a step back.

    Attributes:
      count: number of updates so far but for the steps back, an int32 scalar.
      before: the params that the last step was taken from, packed: a dict with one
        vector for the small leaves of each dtype, and one array for the large ones of
        each shape.
      slope: of the loss along it there, a scalar.
      square: of its Euclidean norm, a scalar. After a step back this and the slope are
        those of what is left of it.
      spoilt: how many entries of the gradient (and the `value`, where `update` was
        given it) weren't finite there, an int32 scalar.
      share: what is left of the step as it was first taken, a scalar.
      backs: number of steps back so far, an int32 scalar.
      sizes: the root mean square of each tensor at the start, a vector.
      values: the last ten losses that were accepted, as `update` was given them
        (`value`), the one of update n at n modulo ten; the least finite number where
        it was given none.
      inner: an `AdaptState` or a `BlendState`.
    """

    count: jax.Array  # type: ignore[assignment]
    before: optax.Params
    slope: jax.Array
    square: jax.Array
    spoilt: jax.Array
    share: jax.Array
    backs: jax.Array
    sizes: jax.Array
    values: jax.Array
    inner: optax.OptState


class AdaptState(NamedTuple):
    """State of the rates of `adapt`, within a `StepBackState`.

    Attributes:
      log2_lr: η, the log2 learning rates: a tree like the params with one for every
        parameter, or with a scalar for every tensor, or one scalar for all.
      searching: whether a rate has never been too high yet, booleans: packed as
        `StepBackState.before`, a vector of one for every tensor, or a scalar.
      compass: the last direction, divided by its slope: its scalar product with the
        next gradient is the ratio of the two slopes. Packed, in the dtype of the rates
        or the gradients, whichever is wider.
      inner: the state of the optimizer that gives the directions.
      start: the η that rates began with: a vector of one for every tensor, or a scalar.
      bounds: the least and the greatest η allowed, shape (2,).
    """

    log2_lr: optax.Params
    searching: Any
    compass: Any
    inner: optax.OptState
    start: jax.Array
    bounds: jax.Array


class ReachState(NamedTuple):
    """State of the third direction of `auto_dsa`, within a `BlendState`.

    Attributes:
      log2_lr: η, the log2 of the share of the direction that is taken, a scalar.
      log2_reach: how long the direction may be, the log2 of a share of the size of any
        tensor, a scalar.
      cut: whether it was longer at the last step, a boolean scalar.
      compass: as in `AdaptState`.
      inner: the state of what gives the direction.
      start: the η that it began with, a scalar.
      bounds: the least and the greatest η allowed, shape (2,).
    """

    log2_lr: jax.Array
    log2_reach: jax.Array
    cut: jax.Array
    compass: Any
    inner: optax.OptState
    start: jax.Array
    bounds: jax.Array


def log2_rates(state: DSAState) -> optax.Params:
    """η of every parameter, in a floating dtype."""
    return jax.tree.map(
        lambda held: log2_lr_of(held, state.start, state.unit), state.log2_lr
    )


def rates_dtype(state_dtype: Any | None) -> jnp.dtype:
    """The dtype of the rates; None is float32."""
    _checks.floating_dtype("state_dtype", state_dtype)
    return jnp.dtype(jnp.float32 if state_dtype is None else state_dtype)
