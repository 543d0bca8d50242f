"""A quasi-Newton direction in place of whose line search there are a rate and a reach.

The direction is meant to be taken whole (η = 0), and is cut where it would take any
tensor farther than the reach ρ, a share of the tensor's size. One ratio of slopes moves
one of the two, whichever it was that held the last step:

    cut, and η ≥ −3   ρ' = adapt(ρ, r)    η' = η    d' = d · min(1, 2^ρ size / |d|)
    else              η' = adapt(η, r)    ρ' = ρ

(A rate that fell far rises again before the reach does, or it would stay where it is
for as long as the direction is cut.)

A loss that isn't asked can't tell where a long step has led. And by a long step a net's
loss may fall, while its units are saturated for good. So without the loss, and for many
parameters, a step is cautious: no longer than an eighth of the reach, and never than a
fifth of a tensor.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _rules
from dsa_optax._norms import longest_step, root_mean_squares
from dsa_optax._packed import Packed, for_state
from dsa_optax._rates import finite_or_zero, over_slope
from dsa_optax._state import LEAST_LOG2_LR, ReachState, rates_dtype
from dsa_optax._step_back import Verdict
from dsa_optax._trees import (
    inner_product,
    steps_of,
    widest,
    working_precision,
    zeros_like,
)

FIRST_REACH = 0.4
"""The longest step of a tensor at first, as a share of its root mean square."""

FALLEN = -3.0
"""A log2 rate below this rises before the reach does."""

CAUTIOUS = 1 / 8, 0.2
"""What a cautious step uses of the reach, and the longest that it is."""

GREATEST_REACH = 10.0

INCREASE = 0.5
"""How much the log2 reach rises at most in a step. It falls by up to 1, as the rate."""

HIGHEST_LOG2_LR = 1.0
"""The whole direction may be too short, but not much."""


def reaching(
    inner: optax.GradientTransformationExtraArgs,
    few: int,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Steps along a quasi-Newton direction, of packed trees, below `stepping_back`.

    Args:
      inner: gives the direction.
      few: of more parameters than these a step is always cautious.
      state_dtype: dtype of the rate and the reach; None is float32.
    """
    dtype = rates_dtype(state_dtype)

    def init(params: Packed) -> ReachState:
        rate = jnp.zeros([], dtype)
        return ReachState(
            log2_lr=rate,
            log2_reach=jnp.full([], math.log2(FIRST_REACH), dtype),
            cut=jnp.array(False),
            compass=for_state(working_precision(zeros_like(params), rate)),
            inner=inner.init(params),
            start=rate,
            bounds=jnp.array([LEAST_LOG2_LR, HIGHEST_LOG2_LR], dtype),
        )

    def update(
        updates: Packed,
        state: ReachState,
        params: Packed,
        *,
        verdict: Verdict,
        value: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[Packed, ReachState]:
        del extra_args
        back = verdict.back
        grads = working_precision(updates, state.log2_lr)
        old_compass = params.layout.of_state(state.compass)
        # −⟨g, d₋⟩ / |⟨g₋, d₋⟩|
        ratio = jax.lax.stop_gradient(inner_product(grads, old_compass))
        rate, reach = _adapted(ratio, state)
        fallen_rate, fallen_reach = _fallen(verdict.octaves, state)
        rate = jnp.where(back, fallen_rate, rate)
        reach = jnp.where(back, fallen_reach, reach)

        raw, inner_state = inner.update(updates, state.inner, params, verdict=verdict)
        raw = jax.tree.map(finite_or_zero, working_precision(raw, rate))
        bold = value is not None and sum(params.layout.sizes()) <= few
        share = _share_within(
            reach if bold else _cautious(reach), raw, params, verdict.sizes
        )
        direction = jax.tree.map(lambda d: share.astype(d.dtype) * d, raw)
        slope = inner_product(grads, direction)
        compass = jax.tree.map(partial(over_slope, slope), direction)
        length = _rules.power_of_two(rate)

        steps = steps_of(length, direction, params)
        kept = jax.tree.map(partial(jnp.where, back), old_compass, compass)
        return steps, state._replace(
            log2_lr=rate,
            log2_reach=reach,
            cut=jnp.where(back, state.cut, share < 1),
            compass=for_state(jax.lax.stop_gradient(kept)),
            inner=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _held_by_reach(state: ReachState) -> jax.Array:
    """Whether it was the reach that kept the last step from being longer."""
    return state.cut & (state.log2_lr >= FALLEN)


def _adapted(ratio: jax.Array, state: ReachState) -> tuple[jax.Array, jax.Array]:
    """The rate and the reach after a step that stays."""
    rate, reach = state.log2_lr, state.log2_reach
    turned = _rules.secant_adaptation(rate, ratio, decrease=1.0, increase=1.0)
    turned = jnp.clip(turned, LEAST_LOG2_LR, HIGHEST_LOG2_LR)
    reached = _rules.secant_adaptation(reach, ratio, decrease=1.0, increase=INCREASE)
    reached = jnp.clip(reached, LEAST_LOG2_LR, math.log2(GREATEST_REACH))
    held = _held_by_reach(state)
    return jnp.where(held, rate, turned), jnp.where(held, reached, reach)


def _fallen(octaves: jax.Array, state: ReachState) -> tuple[jax.Array, jax.Array]:
    """Both after a step back: the one falls that held the step."""
    rate, reach = state.log2_lr, state.log2_reach
    lower, nearer = (
        jnp.maximum(x + octaves.astype(x.dtype), LEAST_LOG2_LR) for x in (rate, reach)
    )
    held = _held_by_reach(state)
    return jnp.where(held, rate, lower), jnp.where(held, nearer, reach)


def _cautious(log2_reach: jax.Array) -> jax.Array:
    share, most = map(math.log2, CAUTIOUS)
    return jnp.minimum(log2_reach + share, most)


def _share_within(
    log2_reach: jax.Array, direction: Packed, params: Packed, sizes: jax.Array
) -> jax.Array:
    """How much of a direction takes no tensor farther than the reach, 1 at the most."""
    lengths = root_mean_squares(direction)
    dtype = widest(lengths.dtype, log2_reach.dtype)
    longest = longest_step(params, sizes, _rules.power_of_two(log2_reach))
    tiny = jnp.finfo(lengths.dtype).tiny
    shares = longest.astype(dtype) / jnp.maximum(lengths, tiny).astype(dtype)
    return jax.lax.stop_gradient(jnp.min(shares, initial=1.0))
