"""The paper's algorithm, Eq. 6, a look-ahead with its rule.

η' = η + (β₁+β₂)/2 sign(g̃·g) + (β₂−β₁)/2    θ' = θ − 2^η'·sign(g)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks, _rules
from dsa_optax._look_ahead import look_ahead
from dsa_optax._rate_storage import COUNTS, Interval, Lattice, lattice
from dsa_optax._state import (
    DSAState,
    log2_rates,
    rates_dtype,
)
from dsa_optax._trees import filled_like, widest


def dsa(
    init_log2_lr: ArrayLike = -12.0,
    decrease: optax.ScalarOrSchedule = 0.6,
    increase: optax.ScalarOrSchedule = 0.3,
    *,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    eps: ArrayLike = 0.0,
    min_log2_lr: ArrayLike = -126.0,
    max_log2_lr: ArrayLike = 126.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    zero_product: Literal["drift", "hold"] = "drift",
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Differentiable self-adaptive learning rate, Algorithm 1 of the paper.

    Every parameter has its own log2 learning rate η. An update looks ahead: it goes to
    the probe point with the present rates, takes a second gradient there, lets the
    rates grow where the two gradients agree in sign and shrink where they don't, and
    takes the step with the new rates.

    .. math::
      \tilde\theta &= \theta_{t-1} - 2^{\eta_{t-1}} \operatorname{sign}(g) \\
      \eta_t &= \eta_{t-1} + \frac{\beta_1 + \beta_2}{2}
        \operatorname{sign}(\tilde g) \operatorname{sign}(g)
        + \frac{\beta_2 - \beta_1}{2} \\
      \theta_t &= \theta_{t-1} - 2^{\eta_t} \operatorname{sign}(g)

    with :math:`g = \nabla L(\theta_{t-1})`, :math:`\tilde g = \nabla L(\tilde\theta)`,
    :math:`\beta_1` = `decrease` and :math:`\beta_2` = `increase`.

    Only for full-batch (deterministic) training: the agreement of two gradients of a
    mini-batch says little about the rate. An update costs two gradients.

    Args:
      init_log2_lr: η₀, the log2 learning rate that every parameter starts with.
      decrease: β₁ ≥ 0, how much η falls where the gradients disagree; a float or a
        schedule. One unit halves the learning rate.
      increase: β₂ ≥ 0, how much η rises where they agree; a float or a schedule.
      learning_rate: multiplies every 2^η, at the probe and in the step; a float or a
        schedule.
      eps: ε ≥ 0 of Eqs. 5 and 6: the direction is g/(\|g\|+ε), the agreement
        g̃·g/(\|g̃·g\|+ε). The default is the limit that the paper means ("an
        infinitesimal"), the exact sign. Any other value stalls training once the
        products of the gradients fall below it, as those of real networks do.
      min_log2_lr: the least η, at most `max_log2_lr`.
      max_log2_lr: the greatest η.
      weight_decay: decoupled weight decay λ ≥ 0, as in `optax.adamw`; a float or a
        schedule. The step becomes `learning_rate`·2^η·(direction + λθ), at the probe as
        well. So each parameter decays at its own adapted rate: by a share
        λ·`learning_rate`·2^η a step. The gradients that adapt η are those of the loss
        alone.
      weight_decay_mask: a tree of booleans like the params (or a prefix of it), or a
        function from params to one: where to decay. None is everywhere.
      zero_product: what η does where the product of the two gradients is zero (dead
        units, unused rows of an embedding). "drift", Eq. 6 as written: η changes by
        (`increase` − `decrease`)/2, and so decays; "hold": η stays.
      state_dtype: dtype of η. None is float32, whatever the params' dtype. `jnp.int8`
        makes the state one byte a parameter, and exact: it holds how many units η is
        away from `init_log2_lr`. `decrease`, `increase` and (with "drift") half their
        difference must be whole multiples of the unit, so they can't be schedules, and
        `eps` must be 0. By default the unit is 0.15 and η goes from η₀ − 19.2 to
        η₀ + 19.05; with zero_product="hold" it is 0.3, and twice as far. At these ends
        η stays, as at any bound. `jnp.int16` goes 256 times as far.

    Returns:
      A transformation whose `update` needs the params and `grad_fn` (or `value_fn`),
      the function that gives the gradient (the loss) at any params: on the same batch,
      with the same random keys, as `updates`. It is called once, at the probe. Updates
      have the params' shapes and dtypes.

      In a chain, put `dsa` last: the probe must be the very point that the step would
      reach, so nothing may change its update. What stands before it changes the first
      gradient alone: clipping each entry keeps the signs, but momentum or a
      preconditioner would compare two different things.

      A non-finite gradient moves nothing and leaves its η. A non-finite gradient at the
      probe is an overshoot: η falls by `decrease`. A step too long for the params'
      dtype is not taken.

    Raises:
      ValueError: here for a hyper-parameter out of its range; in `update` for missing
        `params`, a missing `grad_fn`, a gradient that isn't shaped like the params.
      TypeError: for a hyper-parameter that isn't a number, a `grad_fn` that can't be
        called, params that aren't real floating arrays.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> def loss(w):  # a valley, a thousand times steeper one way than the other
      ...     return w[0] ** 2 + 1000 * w[1] ** 2
      >>> tx = dsa_optax.dsa()
      >>> w = jnp.array([-0.06, 0.001])
      >>> state = tx.init(w)
      >>> for _ in range(60):
      ...     grads = jax.grad(loss)(w)
      ...     updates, state = tx.update(grads, state, w, grad_fn=jax.grad(loss))
      ...     w = optax.apply_updates(w, updates)
      >>> bool(loss(w) < 1e-9)
      True

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 6 (Sec. 2.2.4) and Algorithm 1
      (Appendix B); its defaults are from Sec. 3.1.
    """
    bounds = _bounds(init_log2_lr, min_log2_lr, max_log2_lr)
    _checks.schedule("decrease", decrease, 0.6)
    _checks.schedule("increase", increase, 0.3)
    _checks.schedule("learning_rate", learning_rate, 1.0)
    _checks.scalar("eps", eps, 1e-8, low=0)
    _checks.schedule("weight_decay", weight_decay, 1e-4)
    _checks.one_of("zero_product", zero_product, ("drift", "hold"))
    holds, strides = zero_product == "hold", (decrease, increase)
    allowed = _allowed(bounds, strides, eps, holds, state_dtype)

    def init(params: optax.Params) -> DSAState:
        count = jnp.zeros([], jnp.int32)
        held = filled_like(params, allowed.first())
        scale = _rules.at_update(learning_rate, count)
        return _dsa_state(count, held, scale, allowed)

    def next_state(old: DSAState, log2_lr: optax.Params) -> DSAState:
        count = optax.safe_increment(old.count)
        held = jax.tree.map(allowed.held, log2_lr)
        return _dsa_state(
            count, held, _rules.at_update(learning_rate, old.count), allowed
        )

    def rule_at(count: jax.Array) -> _rules.Rule:
        at = partial(_rules.at_update, count=count)

        def direction(grads: optax.Updates) -> optax.Updates:
            return jax.tree.map(lambda g: _rules.sign_direction(g, eps), grads)

        def decay(params: optax.Params) -> optax.Updates | None:
            if _rules.is_zero(weight_decay):
                return None
            wide = jax.tree.map(
                lambda p: jnp.asarray(p, widest(allowed.dtype, jnp.result_type(p))),
                params,
            )
            return _decay(wide, at(weight_decay), weight_decay_mask)

        def adapt(rate: jax.Array, probe_grad: jax.Array, grad: jax.Array) -> jax.Array:
            agreement = _rules.agreement(probe_grad, grad, eps)
            down, up = at(decrease), at(increase)
            return allowed.nearest(
                _rules.exponential_adaptation(
                    rate, agreement, decrease=down, increase=up, hold_at_zero=holds
                )
            )

        scaled = partial(_rules.exponential_step_size, scale=at(learning_rate))
        return _rules.Rule(direction, scaled, _rules.per_parameter(adapt), decay)

    return look_ahead(init, "log2_lr", log2_rates, rule_at, next_state)


def _bounds(
    init_log2_lr: ArrayLike, min_log2_lr: ArrayLike, max_log2_lr: ArrayLike
) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    """η₀, the least and the greatest η, checked."""
    _checks.scalar("init_log2_lr", init_log2_lr, -12.0)
    _checks.scalar("min_log2_lr", min_log2_lr, -126.0)
    _checks.scalar("max_log2_lr", max_log2_lr, 126.0)
    _checks.ordered("min_log2_lr", min_log2_lr, "max_log2_lr", max_log2_lr)
    _checks.ordered("min_log2_lr", min_log2_lr, "init_log2_lr", init_log2_lr)
    _checks.ordered("init_log2_lr", init_log2_lr, "max_log2_lr", max_log2_lr)
    return init_log2_lr, min_log2_lr, max_log2_lr


def _allowed(
    bounds: tuple[ArrayLike, ArrayLike, ArrayLike],
    strides: tuple[optax.ScalarOrSchedule, optax.ScalarOrSchedule],
    eps: ArrayLike,
    holds: bool,
    state_dtype: Any | None,
) -> Interval | Lattice:
    """Which η there may be, and how the state holds them."""
    if state_dtype is None or jnp.dtype(state_dtype) not in COUNTS:
        return Interval(*bounds, rates_dtype(state_dtype))
    counts = jnp.dtype(state_dtype)
    allowed = lattice(*bounds, *strides, drifts=not holds, counts=counts)
    if isinstance(eps, jax.core.Tracer) or np.asarray(eps) != 0:
        raise ValueError(
            f"`eps` must be 0, and known beforehand, for `state_dtype` {counts.name}, "
            f"got {eps}: write eps=0 (in optax.inject_hyperparams among the "
            "static_args), or leave `state_dtype` out."
        )
    return allowed


def _dsa_state(
    count: jax.Array,
    held: optax.Params,
    lr_scale: ArrayLike,
    allowed: Interval | Lattice,
) -> DSAState:
    # jnp.array copies: a train step that donates its state must not take the caller's
    # hyper-parameters with it.
    return DSAState(
        count=count,
        log2_lr=held,
        lr_scale=jnp.array(lr_scale, allowed.dtype),
        start=jnp.array(allowed.start, allowed.dtype),
        unit=jnp.array(allowed.unit, allowed.dtype),
        bounds=jnp.stack(allowed.bounds()),
    )


def _decay(
    params: optax.Params, weight_decay: optax.ScalarOrSchedule, mask: Any
) -> optax.Updates:
    """λθ, by Optax's own transformation (a constant λ keeps no state)."""
    decay = optax.add_decayed_weights(weight_decay, mask)
    return decay.update(
        jax.tree.map(jnp.zeros_like, params), decay.init(params), params
    )[0]
