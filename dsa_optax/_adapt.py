"""A self-adapting rate for any optimizer, at one gradient a step.

Eq. 7 holds for any direction d: after θ' = θ + 2^η d, the slope of the loss along η has
the sign of ⟨∇L(θ'), d⟩. And ∇L(θ') is what the next update is given anyway, so that no
probe is needed: every step is the probe of the next one.

    adapt   η' = adapt(η, ⟨g, d₋⟩ / |⟨g₋, d₋⟩|)     g₋, d₋: of the step before
    step    θ' = θ + 2^η' · d(g)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks, _rules
from dsa_optax._skeleton import map_below, step, working_precision
from dsa_optax._state import LEAST_LOG2_LR, AdaptState, filled_like, rates_dtype, widest

Granularity: TypeAlias = Literal["parameter", "tensor", "global"]

_LEAST_RMS = 0.05
"""The root mean square that a tensor moves as if it had at least: biases begin at 0."""


class _Rates(NamedTuple):
    """How many rates there are, and what one of them stands for.

    Attributes:
      like: from the params and a scalar to a tree of rates, all of them that scalar.
      total: from a tree like the params to its sums over what each rate is for.
      length: of a direction's leaf, what a rate multiplies.
      least: from a tree with what `length` returns to the least for each rate.
    """

    like: Callable[[optax.Params, jax.Array], optax.Params]
    total: Callable[[Any], Any]
    length: Callable[[jax.Array], jax.Array]
    least: Callable[[Any], Any]


def _rms(x: jax.Array) -> jax.Array:
    square = jnp.sum(jnp.square(x)) / max(x.size, 1)
    # The root of zero has no derivative, for those who differentiate an update.
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(x.dtype).tiny))


def _as_it_is(tree: Any) -> Any:
    return tree


def _least_of_all(tree: Any) -> jax.Array:
    return jax.tree.reduce(lambda x, y: jnp.minimum(x, y), tree, jnp.asarray(jnp.inf))


_RATES: dict[str, _Rates] = {
    "parameter": _Rates(filled_like, _as_it_is, jnp.abs, _as_it_is),
    "tensor": _Rates(
        lambda params, value: jax.tree.map(lambda _: jnp.array(value), params),
        partial(jax.tree.map, jnp.sum),
        _rms,
        _as_it_is,
    ),
    "global": _Rates(
        lambda params, value: jnp.array(value),
        lambda tree: jnp.asarray(optax.tree.sum(tree) + 0.0),  # of no leaf, too
        _rms,
        _least_of_all,
    ),
}


def adapt(
    inner: optax.GradientTransformation,
    granularity: Granularity = "tensor",
    *,
    init_log2_lr: ArrayLike = -10.0,
    decrease: ArrayLike = 1.0,
    increase: ArrayLike = 0.3,
    first_increase: ArrayLike = 1.0,
    min_log2_lr: ArrayLike = LEAST_LOG2_LR,
    max_log2_lr: ArrayLike = 126.0,
    max_relative_step: ArrayLike = 0.2,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gives any optimizer learning rates that adapt themselves.

    The updates of `inner` are directions, and η their log2 rates: one for every
    parameter, one for every tensor, or one for all. The gradient that an update is
    given is the one at the point that the last step reached, so it tells whether that
    step was too short or too long: its slope along the last direction, beside the slope
    that the direction began with. No second gradient is evaluated.

    .. math::
      r &= \langle g_t, d_{t-1} \rangle \, / \, -|\langle g_{t-1}, d_{t-1} \rangle| \\
      \eta_t &= \eta_{t-1}
        + \operatorname{clip}(-\log_2(1 - r), -\beta_1, \beta_2) \\
      \theta_t &= \theta_{t-1} + 2^{\eta_t} d_t

    with the scalar products over what a rate is for, :math:`\beta_1` = `decrease` and
    :math:`\beta_2` = `increase`. Eq. 6 looks at the sign of r alone. Its size tells how
    far the minimum is: were the loss a parabola along :math:`d_{t-1}`, a step
    :math:`1 / (1 - r)` times as long would have ended there.

    For full-batch training; with one rate a tensor, or for all, also for mini-batches.
    There noise moves the rates, mostly down: start near the inner optimizer's usual
    rate, halve `decrease`, and set `min_log2_lr` to a rate that training may end with,
    such as −5, 0.5 and −12 for Muon.

    Args:
      inner: any optimizer, at a learning rate of 1: `optax.contrib.muon(1.0)`,
        `optax.adam(1.0)`, or `optax.sgd(1.0)`. It is given every extra argument.
      granularity: what has a rate of its own: "parameter", "tensor" (a leaf of the
        params) or "global". A parameter whose gradient changed its sign stands still
        for one step.
      init_log2_lr: η₀, the log2 learning rate to start with.
      decrease: β₁ ≥ 0, how much η falls at most in a step.
      increase: β₂ ≥ 0, how much η rises at most in a step.
      first_increase: β₂ of a rate that was never too high yet; so η₀ counts for little.
      min_log2_lr: the least η, but where `max_relative_step` allows less.
      max_log2_lr: the greatest η.
      max_relative_step: what no step of a tensor exceeds, as a share of its own root
        mean square (or of 0.05, where that is more): of the root mean square of the
        step, and with one rate a parameter each single entry of it.
      state_dtype: dtype of η. None is float32, whatever the params' dtype.

    Returns:
      A transformation whose `update` needs the params. Updates have their shapes and
      dtypes. The state is an `AdaptState`, beside the inner state two trees like the
      params for a rate a parameter, and one for the coarser ones.

      Where the gradient isn't finite the last step went too far: its rate falls by
      `decrease`, and the entry counts as zero. Nothing moves while no entry of the
      gradient is above the rounding of the greatest one so far.

    Raises:
      ValueError: here for a hyper-parameter out of its range; in `update` for missing
        `params`, or a gradient that isn't shaped like the params.
      TypeError: for a hyper-parameter that isn't a number, or params that aren't real
        floating arrays.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum(jnp.array([1.0, 100.0]) * (w - 1) ** 2)
      >>> tx = dsa_optax.adapt(optax.sgd(1.0), "global")  # gradient descent, untuned
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      >>> bool(loss(w) < 1e-3)
      True
      >>> bool(dsa_optax.learning_rates(state) > 2.0**-10)  # where it began
      True

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 7 (Appendix A), for any direction;
      Eq. 6 (Sec. 2.2.4).
    """
    for name, value, example in (
        ("init_log2_lr", init_log2_lr, -10.0),
        ("min_log2_lr", min_log2_lr, LEAST_LOG2_LR),
        ("max_log2_lr", max_log2_lr, 126.0),
    ):
        _checks.scalar(name, value, example)
    for name, value, example in (
        ("decrease", decrease, 1.0),
        ("increase", increase, 0.3),
        ("first_increase", first_increase, 1.0),
        ("max_relative_step", max_relative_step, 0.2),
    ):
        _checks.scalar(name, value, example, low=0)
    _checks.one_of("granularity", granularity, tuple(_RATES))
    _checks.ordered("min_log2_lr", min_log2_lr, "init_log2_lr", init_log2_lr)
    _checks.ordered("init_log2_lr", init_log2_lr, "max_log2_lr", max_log2_lr)
    inner = optax.with_extra_args_support(inner)
    rates, dtype = _RATES[granularity], rates_dtype(state_dtype)
    # Rates in half precision must not make the rounding of gradients as coarse.
    precise = widest(dtype, jnp.float32)

    def init(params: optax.Params) -> AdaptState:
        _checks.real_floating("params", params)
        log2_lr = rates.like(params, jnp.asarray(init_log2_lr, dtype))
        return AdaptState(
            count=jnp.zeros([], jnp.int32),
            log2_lr=log2_lr,
            searching=jax.tree.map(lambda rate: rate == rate, log2_lr),
            compass=working_precision(jax.tree.map(jnp.zeros_like, params), log2_lr),
            steepest=jnp.zeros([], precise),
            inner=inner.init(params),
            start=jnp.array(init_log2_lr, dtype),
            floor=jnp.array(min_log2_lr, dtype),
            ceiling=jnp.array(max_log2_lr, dtype),
        )

    def turned(rate: jax.Array, searching: jax.Array, ratio: jax.Array) -> jax.Array:
        up = jnp.where(searching, first_increase, increase)
        return _rules.secant_adaptation(rate, ratio, decrease=decrease, increase=up)

    def longest(direction: jax.Array, param: jax.Array) -> jax.Array:
        share = jnp.asarray(max_relative_step, param.dtype)
        room = share * jnp.maximum(_rms(param), _LEAST_RMS)
        length = jnp.maximum(rates.length(direction), jnp.finfo(room.dtype).tiny)
        return jnp.log2(room) - jnp.log2(length)

    def bounded(rate: jax.Array, most: jax.Array) -> jax.Array:
        # A length that is no number bounds nothing, and none takes a rate to −∞.
        highest = jnp.asarray(max_log2_lr, rate.dtype)
        ceiling = jnp.fmin(jnp.asarray(most, rate.dtype), highest)
        raised = jnp.maximum(rate, jnp.asarray(min_log2_lr, rate.dtype))
        return jnp.maximum(jnp.minimum(raised, ceiling), LEAST_LOG2_LR)

    def update(
        updates: optax.Updates,
        state: AdaptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AdaptState]:
        if params is None:
            raise ValueError(_checks.MISSING_PARAMS_TO_ADAPT)
        _checks.gradient("updates (the gradient)", updates, params)
        finite = jax.tree.map(jnp.isfinite, updates)
        clean = jax.tree.map(_finite_or_zero, updates)
        grads = working_precision(clean, state.log2_lr)
        norm = _greatest(updates, precise)
        steepest = jnp.maximum(state.steepest, norm)
        audible = norm > jnp.finfo(precise).eps * steepest

        # What the rates follow has no derivative of use, nor always a finite one.
        along = jax.tree.map(_along, grads, state.compass, finite)
        ratios = jax.lax.stop_gradient(rates.total(along))
        too_far = jax.tree.map(lambda ratio: ~(ratio >= 0), ratios)
        log2_lr = jax.tree.map(turned, state.log2_lr, state.searching, ratios)

        directions, inner_state = inner.update(clean, state.inner, params, **extra_args)
        directions = working_precision(directions, log2_lr)
        directions = jax.tree.map(_finite_or_zero, directions)
        if granularity == "parameter":
            directions = map_below(_still_where, too_far, directions)
        reached = working_precision(params, log2_lr)
        lengths = jax.tree.map(longest, directions, reached)
        most = jax.lax.stop_gradient(rates.least(lengths))
        log2_lr = jax.tree.map(bounded, log2_lr, most)
        heard = jax.tree.map(lambda ratio: audible | jnp.isneginf(ratio), ratios)
        log2_lr = jax.tree.map(jnp.where, heard, log2_lr, state.log2_lr)
        directions = jax.tree.map(lambda d: jnp.where(audible, d, 0), directions)

        slopes = rates.total(jax.tree.map(jnp.multiply, grads, directions))
        return step(_backwards, log2_lr, directions, params), state._replace(
            count=optax.safe_increment(state.count),
            log2_lr=log2_lr,
            searching=jax.tree.map(lambda s, far: s & ~far, state.searching, too_far),
            compass=jax.lax.stop_gradient(map_below(_over_slope, slopes, directions)),
            steepest=steepest,
            inner=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _greatest(tree: Any, dtype: jnp.dtype) -> jax.Array:
    """The greatest absolute finite entry of a tree, 0 of one without entries."""

    def greatest(x: jax.Array) -> jax.Array:
        # In this order XLA does it in one pass on the CPU, and keeps no cleaned copy.
        finite = jnp.where(jnp.isfinite(x), jnp.abs(x), 0)
        return jnp.max(finite, initial=0).astype(dtype)

    none = jnp.zeros([], dtype)
    return jax.tree.reduce(jnp.maximum, jax.tree.map(greatest, tree), none)


def _finite_or_zero(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _along(grad: jax.Array, compass: jax.Array, finite: jax.Array) -> jax.Array:
    """A parameter's part of the ratio of slopes; where it went too far, −∞."""
    return jnp.where(finite | (compass == 0), grad * compass, -jnp.inf)


def _still_where(too_far: jax.Array, direction: jax.Array) -> jax.Array:
    return jnp.where(too_far, 0, direction)


def _over_slope(slope: jax.Array, direction: jax.Array) -> jax.Array:
    """d / −|slope|: its product with the next gradient is the ratio of the slopes."""
    known = slope != 0
    compass = -direction / jnp.abs(jnp.where(known, slope, 1))
    return jnp.where(known & jnp.isfinite(compass), compass, 0)


def _backwards(rate: jax.Array) -> jax.Array:
    """The step size of an inner optimizer's update, which points down already."""
    return -_rules.exponential_step_size(rate, 1.0)
