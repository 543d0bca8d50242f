"""What the optimizers remember between two updates."""

from typing import NamedTuple

import jax
import optax


class DSAState(NamedTuple):
    """State of the optimizers whose rate is a power of two (Eqs. 5 and 6).

    The scalars are kept so that a state can be read (`learning_rates`, `summary`)
    without the transformation that made it.

    Attributes:
      count: number of updates so far, an int32 scalar.
      log2_lr: η, the log2 learning rate of every parameter; the structure and shapes
        of the params, float32 unless `state_dtype` says otherwise.
      lr_scale: the `learning_rate` multiplier in force at the last update, a scalar.
      start: the η that every parameter began with, a scalar.
      floor: the least η allowed, a scalar.
      ceiling: the greatest η allowed, a scalar.
    """

    count: jax.Array  # type: ignore[assignment]
    log2_lr: optax.Params
    lr_scale: jax.Array
    start: jax.Array
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
