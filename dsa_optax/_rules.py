"""What tells the paper's four equations apart: direction, step size, adaptation.

g is the gradient at the params, g̃ (`probe_grad`) the one at the probe point, η (`rate`)
the adapted quantity. `per_parameter` and `shared` lift an adaptation to trees.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax._trees import widest

Adaptation: TypeAlias = Callable[
    [optax.Params, optax.Updates, optax.Updates], optax.Params
]


class Rule(NamedTuple):
    """One equation of the paper, as `look_ahead` wants it.

    Attributes:
      direction: d(g), from the tree g.
      step_size: the length of the step, from the rates of one leaf.
      adapt: η', from the trees (η, g̃, g).
      decay: what is added to the direction, from the tree θ; None for nothing.
    """

    direction: Callable[[optax.Updates], optax.Updates]
    step_size: Callable[[jax.Array], jax.Array]
    adapt: Adaptation
    decay: Callable[[optax.Params], optax.Updates | None] = lambda params: None


# Directions ---------------------------------------------------------------------


def gradient_direction(grads: optax.Updates) -> optax.Updates:
    """g, of Eqs. 3 and 4."""
    return grads


def sign_direction(grad: jax.Array, eps: ArrayLike) -> jax.Array:
    """g / (|g| + ε), of Eqs. 5 and 6; its limit, the exact sign, for ε = 0."""
    if is_zero(eps):
        return jnp.sign(grad)
    eps = jnp.asarray(eps, grad.dtype)
    return jnp.where(eps == 0, jnp.sign(grad), _softened_sign(grad, eps))


def is_zero(value: Any) -> bool:
    """Whether it is known to be 0 while JAX traces: what it saves is operations."""
    return isinstance(value, int | float) and value == 0


def _softened_sign(x: jax.Array, eps: jax.Array) -> jax.Array:
    """x / (|x| + ε), for ε > 0."""
    # For ε = 0, where it isn't used, it must not divide 0 by 0 (jax_debug_nans).
    return x / (jnp.abs(x) + jnp.where(eps == 0, 1, eps).astype(x.dtype))


# Step sizes ---------------------------------------------------------------------


def linear_step_size(rate: jax.Array) -> jax.Array:
    """η, of Eqs. 3 and 4."""
    return rate


def exponential_step_size(rate: jax.Array, scale: ArrayLike) -> jax.Array:
    """2^η, of Eqs. 5 and 6, times the `learning_rate` multiplier."""
    return jnp.asarray(scale, rate.dtype) * power_of_two(rate)


def power_of_two(exponent: jax.Array) -> jax.Array:
    """2^x of a finite x, to within two units in the last place; exact at whole x.

    Where it would be below the least normal number it is 0. Half precision is worked
    out in float32.
    """
    # XLA lowers exp2 to exp(x ln 2), which on the CPU is wrong in the sixth digit for
    # large x, and its pow is right but costs eight times as much. So exp2 is left the
    # fraction alone, and the whole part is the exponent of a floating-point number.
    dtype = widest(exponent.dtype, jnp.float32)
    info = jnp.finfo(dtype)
    x = exponent.astype(dtype)
    whole = jnp.floor(x)
    # The biased exponent: 0 stands for the number 0, the greatest one for infinity.
    biased = jnp.clip(whole, info.minexp - 1, info.maxexp) - (info.minexp - 1)
    integers = jnp.dtype(f"int{info.bits}")
    bits = biased.astype(integers) << info.nmant
    power = jax.lax.bitcast_convert_type(bits, dtype)
    return (jnp.exp2(x - whole) * power).astype(exponent.dtype)


# Adaptations --------------------------------------------------------------------


def linear_adaptation(
    rate: jax.Array, product: jax.Array, step_size: ArrayLike
) -> jax.Array:
    """η + β·product, of Eqs. 3 and 4.

    Where that is not finite the probe went too far, and η is halved.
    """
    moved = rate + jnp.asarray(step_size, rate.dtype) * product.astype(rate.dtype)
    return jnp.where(jnp.isfinite(moved), moved, rate / 2)


def agreement(probe_grad: jax.Array, grad: jax.Array, eps: ArrayLike) -> jax.Array:
    """g̃·g / (|g̃·g| + ε), of Eqs. 5 and 6: in [-1, 1], above 0 where both agree.

    For ε = 0 it is sign(g̃)·sign(g), since the product itself underflows. A probe
    gradient that isn't finite is an overshoot, and so the strongest disagreement.
    """
    agree = jnp.sign(probe_grad) * jnp.sign(grad)
    if not is_zero(eps):
        eps = jnp.asarray(eps, grad.dtype)
        product = probe_grad * grad
        # Where the product overflows, ε no longer counts.
        softened = (eps != 0) & jnp.isfinite(product)
        agree = jnp.where(softened, _softened_sign(product, eps), agree)
    return jnp.where(jnp.isfinite(probe_grad), agree, -1).astype(grad.dtype)


def exponential_adaptation(
    rate: jax.Array,
    agree: jax.Array,
    *,
    decrease: ArrayLike,
    increase: ArrayLike,
    hold_at_zero: bool,
) -> jax.Array:
    """η + (β₁+β₂)/2·agree + (β₂−β₁)/2, of Eq. 6; with β₁ = β₂, of Eq. 5.

    The terms are grouped by stride, which is the same number, and exact: agree = 1
    adds β₂ to the last bit, and agree = -1 takes β₁ away.
    """
    agree = agree.astype(rate.dtype)
    up = jnp.asarray(increase, rate.dtype) * ((1 + agree) / 2)
    down = jnp.asarray(decrease, rate.dtype) * ((1 - agree) / 2)
    moved = rate + (up - down)
    return jnp.where(agree == 0, rate, moved) if hold_at_zero else moved


def secant_adaptation(
    rate: jax.Array, ratio: jax.Array, *, decrease: ArrayLike, increase: ArrayLike
) -> jax.Array:
    """η + log2(1 / (1 − ratio)), between −decrease and +increase.

    The ratio is that of the slopes along the step, at its end and at its start. Were
    the loss a parabola, a step 1 / (1 − ratio) times as long would have ended where the
    slope is zero. Without a last step the ratio is 0, and η stays.
    """
    # Where the ratio is 1 or more, no zero is ahead: any step is too short.
    ahead = jnp.maximum(1 - ratio, jnp.finfo(ratio.dtype).tiny)
    wanted = -jnp.log2(ahead).astype(rate.dtype)
    low, high = -jnp.asarray(decrease, rate.dtype), jnp.asarray(increase, rate.dtype)
    return rate + jnp.where(jnp.isnan(ratio), low, jnp.clip(wanted, low, high))


def per_parameter(
    adapt: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Adaptation:
    """Every parameter adapts its own rate; a non-finite g leaves it as it was."""

    def leaf(rate: jax.Array, probe_grad: jax.Array, grad: jax.Array) -> jax.Array:
        adapted = adapt(rate, probe_grad, grad)
        return jnp.where(jnp.isfinite(grad), adapted, rate)

    return lambda rates, probe_grads, grads: jax.tree.map(
        leaf, rates, probe_grads, grads
    )


def shared(adapt: Callable[[jax.Array, jax.Array], jax.Array]) -> Adaptation:
    """One rate adapts to Σ g̃·g over all parameters whose g is finite."""

    def product(probe_grad: jax.Array, grad: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(jnp.isfinite(grad), probe_grad * grad, 0))

    def tree(
        rate: jax.Array, probe_grads: optax.Updates, grads: optax.Updates
    ) -> jax.Array:
        products = jax.tree.leaves(jax.tree.map(product, probe_grads, grads))
        total = sum((p.astype(rate.dtype) for p in products), jnp.zeros_like(rate))
        return adapt(rate, total)

    return tree


def at_update(value: optax.ScalarOrSchedule, count: jax.Array) -> ArrayLike:
    """A hyper-parameter's value at an update, whether or not it is a schedule."""
    return value(count) if callable(value) else value
