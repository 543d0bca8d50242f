"""Baselines whose Optax versions do not compute what PyTorch (or the paper) states."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class AdagradState(NamedTuple):
    """Sum of the squared gradients seen so far."""

    sum_of_squares: optax.Updates


class RpropState(NamedTuple):
    """Step sizes, and the gradient signs to compare the next ones with."""

    step_sizes: optax.Params
    signs: optax.Updates


def adagrad(
    learning_rate: optax.ScalarOrSchedule = 0.01, eps: float = 1e-10
) -> optax.GradientTransformation:
    r"""Adagrad as in ``torch.optim.Adagrad``, with eps outside the root.

    .. math::
        s_t = s_{t-1} + g_t^2, \quad s_0 = 0, \qquad
        \theta_t = \theta_{t-1} - \gamma \frac{g_t}{\sqrt{s_t} + \epsilon}

    (``optax.adagrad`` divides by :math:`\sqrt{s_t + \epsilon}`.)

    Args:
      learning_rate: The rate :math:`\gamma`, a float or a schedule.
      eps: The :math:`\epsilon` that keeps the division finite.

    Returns:
      The gradient transformation.

    References:
      Duchi et al., `Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011
    """

    def init(params: optax.Params) -> AdagradState:
        return AdagradState(optax.tree.zeros_like(params))

    def update(
        grads: optax.Updates, state: AdagradState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdagradState]:
        del params
        sums = jax.tree.map(lambda s, g: s + g * g, state.sum_of_squares, grads)
        updates = jax.tree.map(lambda s, g: g / (jnp.sqrt(s) + eps), sums, grads)
        return updates, AdagradState(sums)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(learning_rate),
    )


def rprop(
    learning_rate: float = 0.01,
    eta_minus: float = 0.5,
    eta_plus: float = 1.2,
    min_step_size: float = 1e-6,
    max_step_size: float = 50.0,
    *,
    backtracking: bool = True,
) -> optax.GradientTransformation:
    r"""Rprop, with weight-backtracking (Rprop+) or without (iRprop⁻).

    Per parameter, with :math:`p_t = g_t \bar g_{t-1}` and
    :math:`\Delta_0` the learning rate:

    .. math::
        (\Delta_t, \delta_t, \bar g_t) = \begin{cases}
          (\min(\eta^+ \Delta_{t-1}, \Delta_{\max}),
            -\operatorname{sign}(g_t) \Delta_t, g_t) & p_t > 0 \\
          (\max(\eta^- \Delta_{t-1}, \Delta_{\min}),
            -\delta_{t-1}, 0) & p_t < 0 \\
          (\Delta_{t-1}, -\operatorname{sign}(g_t) \Delta_t, g_t) & p_t = 0
        \end{cases} \qquad \theta_t = \theta_{t-1} + \delta_t

    Without backtracking, as in ``torch.optim.Rprop``, :math:`\delta_t = 0` where
    :math:`p_t < 0`.

    Args:
      learning_rate: The first step size.
      eta_minus: Factor on a step size whose gradient changed sign.
      eta_plus: Factor on a step size whose gradient kept its sign.
      min_step_size: Smallest step size.
      max_step_size: Largest step size.
      backtracking: Whether a step after which the gradient changed sign is taken back.

    Returns:
      The gradient transformation.

    References:
      Riedmiller and Braun, `A Direct Adaptive Method for Faster Backpropagation
      Learning <https://doi.org/10.1109/ICNN.1993.298623>`_, 1993

      Igel and Hüsken, `Empirical Evaluation of the Improved Rprop Learning
      Algorithms <https://doi.org/10.1016/S0925-2312(01)00700-7>`_, 2003
    """

    def adapt(step_size: jax.Array, agreement: jax.Array) -> jax.Array:
        shrunk_or_same = jnp.where(agreement < 0, eta_minus, 1.0)
        factor = jnp.where(agreement > 0, eta_plus, shrunk_or_same)
        return jnp.clip(step_size * factor, min_step_size, max_step_size)

    def forget_change(sign: jax.Array, agreement: jax.Array) -> jax.Array:
        return jnp.where(agreement < 0, 0.0, sign)

    def take_back(
        update: jax.Array, agreement: jax.Array, sign: jax.Array, step_size: jax.Array
    ) -> jax.Array:
        return jnp.where(agreement < 0, sign * step_size, update)

    def init(params: optax.Params) -> RpropState:
        return RpropState(
            step_sizes=optax.tree.full_like(params, learning_rate),
            signs=optax.tree.zeros_like(params),
        )

    def update(
        grads: optax.Updates, state: RpropState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, RpropState]:
        del params
        signs = jax.tree.map(jnp.sign, grads)
        # The product of the signs, as the sign of the product underflows to zero.
        agreements = optax.tree.mul(signs, state.signs)
        step_sizes = jax.tree.map(adapt, state.step_sizes, agreements)
        signs = jax.tree.map(forget_change, signs, agreements)
        updates = jax.tree.map(lambda s, d: -s * d, signs, step_sizes)
        if backtracking:
            updates = jax.tree.map(
                take_back, updates, agreements, state.signs, state.step_sizes
            )
        return updates, RpropState(step_sizes, signs)

    return optax.GradientTransformation(init, update)


irprop_minus = partial(rprop, backtracking=False)
"""Igel and Hüsken's iRprop⁻."""
