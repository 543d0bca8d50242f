"""What the optimizers remember between two updates."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._range import log2_lr_of

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
      floor: the least `log2_lr` allowed, a scalar.
      ceiling: the greatest `log2_lr` allowed, a scalar.
    """

    count: jax.Array  # type: ignore[assignment]
    log2_lr: optax.Params
    lr_scale: jax.Array
    start: jax.Array
    unit: jax.Array
    floor: jax.Array
    ceiling: jax.Array


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


class LastStep(NamedTuple):
    """What `adapt` and `blend` need, to take a step back.

    Attributes:
      before: the params that the last step was taken from, packed: a dict with one
        vector for the small leaves of each dtype, and every other leaf by its number.
      slope: of the loss along it there, a scalar.
      square: of its Euclidean norm, a scalar. After a step back this and the slope are
        those of what is left of it.
      spoilt: how many entries of the gradient (and the `value`, where `update` was
        given it) weren't finite there, an int32 scalar.
      share: what is left of the step as it was first taken, a scalar.
      backs: number of steps back so far, an int32 scalar.
    """

    before: optax.Params
    slope: jax.Array
    square: jax.Array
    spoilt: jax.Array
    share: jax.Array
    backs: jax.Array


class AdaptState(NamedTuple):
    """State of `adapt`.

    Attributes:
      count: number of updates so far but for the steps back, an int32 scalar.
      log2_lr: η, the log2 learning rates: a tree like the params with one for every
        parameter, or with a scalar for every tensor, or one scalar for all.
      searching: whether a rate has never been too high yet, booleans: packed as
        `LastStep.before`, a vector of one for every tensor, or a scalar.
      compass: the last direction, divided by its slope: its scalar product with the
        next gradient is the ratio of the two slopes. Packed, in the dtype of the rates
        or the gradients, whichever is wider.
      sizes: the root mean square of each tensor at the start, a vector.
      inner: the state of the optimizer that gives the directions.
      start: the η that rates began with: a vector of one for every tensor, or a scalar.
      floor: the least η allowed, a scalar.
      ceiling: the greatest η allowed, a scalar.
      last: a `LastStep`; None in a `blend`, which has one for all its parts.
    """

    count: jax.Array  # type: ignore[assignment]
    log2_lr: optax.Params
    searching: Any
    compass: Any
    sizes: jax.Array
    inner: optax.OptState
    start: jax.Array
    floor: jax.Array
    ceiling: jax.Array
    last: LastStep | None = None


def log2_rates(state: DSAState) -> optax.Params:
    """η of every parameter, in a floating dtype."""
    return jax.tree.map(
        lambda held: log2_lr_of(held, state.start, state.unit), state.log2_lr
    )


def filled_like(params: optax.Params, value: jax.Array) -> optax.Params:
    """A tree like the params, in the value's dtype."""
    # It looks at the params, since a jitted init gives its result their sharding only
    # where it depends on them; and each leaf is a buffer of its own, to be donated.
    return jax.tree.map(lambda p: jnp.where(jnp.equal(p, p), value, value), params)


def widest(*dtypes: Any) -> jnp.dtype:
    """The floating dtype with the most bits; of two as wide, the first."""
    return max(map(jnp.dtype, dtypes), key=lambda dtype: jnp.finfo(dtype).bits)


def widest_of(leaves: Iterable[jax.Array]) -> jnp.dtype:
    """The widest dtype among arrays, float32 at least."""
    return widest(jnp.float32, *(leaf.dtype for leaf in leaves))


def rates_dtype(state_dtype: Any | None) -> jnp.dtype:
    """The dtype of the rates; None is float32."""
    _checks.floating_dtype("state_dtype", state_dtype)
    return jnp.dtype(jnp.float32 if state_dtype is None else state_dtype)
