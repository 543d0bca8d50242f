"""Which values η may have, and how the state holds them."""

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

COUNTS = (jnp.dtype(jnp.int8), jnp.dtype(jnp.int16))
"""Dtypes whose every number of units float32 tells apart."""

LEAST_REACH = 12.0
"""Octaves that a rate must be able to go each way: from the default η₀ up to 1."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Any η between two bounds, held as it is.

    Attributes:
      start: η₀.
      low: the least η.
      high: the greatest η.
      dtype: of η.
    """

    start: ArrayLike
    low: ArrayLike
    high: ArrayLike
    dtype: jnp.dtype

    unit: ClassVar[float] = 1.0

    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """The least and the greatest value that the state may hold."""
        return jnp.asarray(self.low, self.dtype), jnp.asarray(self.high, self.dtype)

    def first(self) -> jax.Array:
        """What the state holds for η₀."""
        return jnp.asarray(self.start, self.dtype)

    def nearest(self, log2_lr: jax.Array) -> jax.Array:
        """The allowed η that is next to this one."""
        return jnp.clip(log2_lr, *self.bounds())

    def held(self, log2_lr: jax.Array) -> jax.Array:
        """What the state holds for an allowed η."""
        return log2_lr


@dataclasses.dataclass(frozen=True)
class Lattice:
    """η₀ and a whole number of units, of which the number is held.

    Where the strides are fixed, that is all there is to hold, and nothing is rounded:
    an η is as good after a million updates as after one.

    Attributes:
      start: η₀, in float32 as every η.
      low: the least η allowed.
      high: the greatest η allowed.
      unit: the distance of two neighbours.
      counts: the dtype of the number, a signed integer. Its ends bound η as well.
    """

    start: ArrayLike
    low: ArrayLike
    high: ArrayLike
    unit: float
    counts: jnp.dtype

    dtype: ClassVar[jnp.dtype] = jnp.dtype(jnp.float32)

    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """The least and the greatest number that the state may hold, in float32."""
        info = jnp.iinfo(self.counts)
        # A bound on the lattice is not to be missed by the rounding of the quotient.
        low = jnp.ceil(self._units(jnp.asarray(self.low, self.dtype)) - 1e-3)
        high = jnp.floor(self._units(jnp.asarray(self.high, self.dtype)) + 1e-3)
        return jnp.maximum(low, info.min), jnp.minimum(high, info.max)

    def first(self) -> jax.Array:
        """What the state holds for η₀."""
        return jnp.zeros([], self.counts)

    def nearest(self, log2_lr: jax.Array) -> jax.Array:
        """The allowed η that is next to this one."""
        start, unit = (jnp.asarray(x, self.dtype) for x in (self.start, self.unit))
        return log2_lr_of(self.held(log2_lr), start, unit)

    def held(self, log2_lr: jax.Array) -> jax.Array:
        """What the state holds for an η: how many units it is away from η₀."""
        count = jnp.round(self._units(log2_lr))
        return jnp.clip(count, *self.bounds()).astype(self.counts)

    def _units(self, log2_lr: jax.Array) -> jax.Array:
        start, unit = (jnp.asarray(x, self.dtype) for x in (self.start, self.unit))
        return (log2_lr - start) / unit


def log2_lr_of(held: jax.Array, start: jax.Array, unit: jax.Array) -> jax.Array:
    """The η for which a state holds this."""
    if jnp.issubdtype(held.dtype, jnp.floating):
        return held
    return start + unit * held.astype(start.dtype)


def lattice(
    start: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    decrease: Any,
    increase: Any,
    *,
    drifts: bool,
    counts: jnp.dtype,
) -> Lattice:
    """The lattice that all strides stay on.

    Args:
      start: η₀.
      low: the least η allowed.
      high: the greatest η allowed.
      decrease: β₁.
      increase: β₂.
      drifts: whether half their difference is a stride too.
      counts: one of `COUNTS`.

    Raises:
      ValueError: if the strides aren't fixed, or their common unit is so small that the
        dtype holds too few octaves.
    """
    strides = (decrease, increase)
    if any(callable(s) or isinstance(s, jax.core.Tracer) for s in strides):
        raise ValueError(
            f"`state_dtype` {counts.name} counts steps of one length, so `decrease` "
            "and `increase` (of exponential_dsa, `step_size`) must be numbers that are "
            "known beforehand: give floats, and in optax.inject_hyperparams name them "
            'in static_args=("decrease", "increase", "eps", "state_dtype"); or leave '
            "`state_dtype` out."
        )
    unit = float(common_unit(strides, drifts))
    most = jnp.iinfo(counts).max
    if most * unit < LEAST_REACH:
        wider = "state_dtype=jnp.int16, " if counts == jnp.int8 else ""
        raise ValueError(
            f"`state_dtype` {counts.name} holds up to {most} units, and that of "
            f"decrease={float(decrease):g}, increase={float(increase):g} is {unit:g}: "
            f"a rate could go {most * unit:.3g} octaves each way, where "
            f"{LEAST_REACH:g} are needed. Choose strides that are small multiples of "
            f"one number, as decrease=0.6, increase=0.3, or {wider}or leave it out."
        )
    return Lattice(start, low, high, unit, counts)


def common_unit(strides: Iterable[ArrayLike], drifts: bool) -> Fraction:
    """The greatest number of which all strides are whole multiples; 1 if all are 0.

    By their decimal digits: 0.6 and 0.3 are two and one of 0.3. With drifts, half their
    difference is a multiple as well.
    """
    fractions = [Fraction(str(np.asarray(stride))) for stride in strides]
    if drifts:
        fractions.append((fractions[0] - fractions[1]) / 2)
    whole = math.lcm(*(fraction.denominator for fraction in fractions))
    divisor = math.gcd(*(int(fraction * whole) for fraction in fractions))
    return Fraction(divisor, whole) if divisor else Fraction(1)
