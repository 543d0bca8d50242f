"""The paper's other three algorithms, by which it comes to `dsa`: here for study.

Eq. 3   η' = η + β Σ g̃·g        θ' = θ − η'·g, one η for all
Eq. 4   η' = η + β g̃·g          θ' = θ − η'·g
Eq. 5   η' = η + β sign(g̃·g)    θ' = θ − 2^η'·sign(g)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks, _rules
from dsa_optax._dsa import dsa
from dsa_optax._look_ahead import look_ahead
from dsa_optax._state import LinearDSAState, rates_dtype
from dsa_optax._trees import filled_like

__all__ = ["basic_dsa", "exponential_dsa", "parameterwise_dsa"]


def exponential_dsa(
    init_log2_lr: ArrayLike = -12.0,
    step_size: optax.ScalarOrSchedule = 0.3,
    *,
    eps: ArrayLike = 0.0,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""DSA with exponential learning rates and one stride for both ways, Eq. 5.

    .. math::
      \tilde\theta &= \theta_{t-1} - 2^{\eta_{t-1}} \operatorname{sign}(g) \\
      \eta_t &= \eta_{t-1} + \beta
        \operatorname{sign}(\tilde g) \operatorname{sign}(g) \\
      \theta_t &= \theta_{t-1} - 2^{\eta_t} \operatorname{sign}(g)

    It is `dsa` with `decrease` = `increase`, so that a zero product moves no rate.

    Args:
      init_log2_lr: η₀, the log2 learning rate that every parameter starts with.
      step_size: β ≥ 0, how much η rises or falls; a float or a schedule. The paper
        gives no value; the default is its β₂.
      eps: ε ≥ 0, as in `dsa`.
      state_dtype: dtype of η, as in `dsa`.

    Returns:
      A transformation, used as `dsa` is.

    Raises:
      ValueError: as `dsa`.
      TypeError: as `dsa`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum((w - 1) ** 2)
      >>> tx = dsa_optax.paper.exponential_dsa(init_log2_lr=-3.0, step_size=1.0)
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
      >>> updates  # 2^-3 became 2^-2: both gradients agreed
      Array([0.25, 0.25], dtype=float32)

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 5 (Sec. 2.2.3).
    """
    _checks.schedule("step_size", step_size, 0.3)
    return dsa(init_log2_lr, step_size, step_size, eps=eps, state_dtype=state_dtype)


def parameterwise_dsa(
    init_lr: ArrayLike,
    step_size: optax.ScalarOrSchedule,
    *,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""DSA with a linear learning rate for every parameter, Eq. 4.

    .. math::
      \tilde\theta &= \theta_{t-1} - \eta_{t-1} g \\
      \eta_t &= \eta_{t-1} + \beta \, \tilde g g \\
      \theta_t &= \theta_{t-1} - \eta_t g

    Here for study. Its steps vanish with the gradient ("grad loss", Sec. 2.2.2), a rate
    may become negative, and β has to suit the square of the gradient's scale.

    Args:
      init_lr: η₀, the learning rate that every parameter starts with.
      step_size: β ≥ 0, a float or a schedule.
      state_dtype: dtype of η. None is float32, whatever the params' dtype.

    Returns:
      A transformation, used as `dsa` is. Where a new rate would not be finite, the old
      one is halved: the probe went too far.

    Raises:
      ValueError: as `dsa`.
      TypeError: as `dsa`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum(w**2) / 2
      >>> tx = dsa_optax.paper.parameterwise_dsa(init_lr=0.5, step_size=0.1)
      >>> w = jnp.array([1.0, 2.0])
      >>> state = tx.init(w)
      >>> updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
      >>> print(dsa_optax.learning_rates(state))  # 0.5 + 0.1·w·(w − 0.5w)
      [0.55 0.7 ]

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 4 (Sec. 2.2.2).
    """

    def adaptation(step_size: ArrayLike) -> _rules.Adaptation:
        return _rules.per_parameter(
            lambda rate, probe_grad, grad: _rules.linear_adaptation(
                rate, probe_grad * grad, step_size
            )
        )

    return _linear_dsa(init_lr, step_size, state_dtype, "lr", adaptation)


def basic_dsa(
    init_lr: ArrayLike,
    step_size: optax.ScalarOrSchedule,
    *,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""DSA with one linear learning rate for all parameters, Eq. 3.

    .. math::
      \tilde\theta &= \theta - \eta g \\
      \eta &\leftarrow \eta + \beta \sum \tilde g g \\
      \theta &\leftarrow \theta - \eta g

    Here for study: gradient descent with a learning rate that gradient descent finds.

    Args:
      init_lr: η₀, the learning rate to start with.
      step_size: as in `parameterwise_dsa`.
      state_dtype: as in `parameterwise_dsa`.

    Returns:
      A transformation, as `parameterwise_dsa` does.

    Raises:
      ValueError: as `dsa`.
      TypeError: as `dsa`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum(w**2) / 2
      >>> tx = dsa_optax.paper.basic_dsa(init_lr=0.5, step_size=0.1)
      >>> w = jnp.array([1.0, 2.0])
      >>> state = tx.init(w)
      >>> updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
      >>> print(dsa_optax.learning_rates(state))  # 0.5 + 0.1·(0.5 + 2)
      0.75

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 3 (Sec. 2.2.1); the gradient of
      the rate is Eq. 7 (Appendix A).
    """

    def adaptation(step_size: ArrayLike) -> _rules.Adaptation:
        return _rules.shared(partial(_rules.linear_adaptation, step_size=step_size))

    return _linear_dsa(init_lr, step_size, state_dtype, None, adaptation)


def _linear_dsa(
    init_lr: ArrayLike,
    step_size: optax.ScalarOrSchedule,
    state_dtype: Any | None,
    field: str | None,
    adaptation: Callable[[ArrayLike], _rules.Adaptation],
) -> optax.GradientTransformationExtraArgs:
    """Eqs. 3 and 4, which differ in how many rates there are: one, or in a `field`."""
    _checks.scalar("init_lr", init_lr, 0.01)
    _checks.schedule("step_size", step_size, 0.01)
    dtype = rates_dtype(state_dtype)

    def init(params: optax.Params) -> LinearDSAState:
        start = jnp.array(init_lr, dtype)
        lr = jnp.array(start) if field is None else filled_like(params, start)
        return LinearDSAState(count=jnp.zeros([], jnp.int32), lr=lr, start=start)

    def rule_at(count: jax.Array) -> _rules.Rule:
        return _rules.Rule(
            direction=_rules.gradient_direction,
            step_size=_rules.linear_step_size,
            adapt=adaptation(_rules.at_update(step_size, count)),
        )

    return look_ahead(
        init=init,
        field=field,
        rates_of=lambda state: state.lr,
        rule_at=rule_at,
        next_state=lambda old, lr: old._replace(
            count=optax.safe_increment(old.count), lr=lr
        ),
    )
