"""Two optimizers, one after the other (Sec. 2.3)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks


class TwoStageState(NamedTuple):
    """State of `two_stage`.

    Attributes:
      count: number of updates so far, an int32 scalar.
      first: the first optimizer's state; from the switch on as it was at the switch.
      second: the second optimizer's state; it begins at the switch.
    """

    count: jax.Array  # type: ignore[assignment]
    first: optax.OptState
    second: optax.OptState


def two_stage(
    first: optax.GradientTransformation,
    second: optax.GradientTransformation,
    switch_step: ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """One optimizer up to a step, another from it on.

    The paper's method for large data: mini-batches first, with Adamax, and then DSA on
    the full batch. The trajectory is that of two loops, one after the other: the second
    optimizer's state begins with the params at the switch.

    Of the two updates only the one in force is computed, so before the switch DSA's
    probe costs nothing (but under `vmap`, which turns every branch into both).

    Args:
      first: the optimizer of the updates 0, 1, …, `switch_step` - 1.
      second: the optimizer of all updates after them. Extra arguments, such as
        `grad_fn`, reach either of the two that takes any.
      switch_step: how many updates are the first optimizer's, an integer, at least 0.

    Returns:
      A transformation whose state, a `TwoStageState`, holds both states. Its `update`
      needs the params.

    Raises:
      TypeError: if `switch_step` is not an integer.
      ValueError: if it is negative; from `update`, if `params` are missing.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum((w - 1) ** 2)
      >>> tx = dsa_optax.two_stage(optax.adamax(2e-3), dsa_optax.dsa(), switch_step=20)
      >>> step = dsa_optax.make_train_step(loss, tx)
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> for _ in range(60):
      ...     w, state, value = step(w, state)
      >>> bool(loss(w) < 1e-3)
      True
      >>> dsa_optax.learning_rates(state).shape
      (2,)

    References:
      Differentiable Self-Adaptive Learning Rate, Sec. 2.3.
    """
    _checks.count("switch_step", switch_step, 100)
    first, second = map(optax.with_extra_args_support, (first, second))

    def init(params: optax.Params) -> TwoStageState:
        count = jnp.zeros([], jnp.int32)
        return TwoStageState(count, first.init(params), second.init(params))

    def update(
        updates: optax.Updates,
        state: TwoStageState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TwoStageState]:
        if params is None:
            raise ValueError(_checks.MISSING_PARAMS)

        def by_first() -> tuple[optax.Updates, TwoStageState]:
            result, inner = first.update(updates, state.first, params, **extra_args)
            return result, state._replace(first=inner)

        def by_second() -> tuple[optax.Updates, TwoStageState]:
            inner = _if(
                state.count == switch_step,
                lambda: second.init(params),
                lambda: state.second,
            )
            result, inner = second.update(updates, inner, params, **extra_args)
            return result, state._replace(second=inner)

        result, state = _if(state.count < switch_step, by_first, by_second)
        return result, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def _if(condition: Any, then: Any, otherwise: Any) -> Any:
    """`jax.lax.cond`, or a plain branch where the condition is known.

    Outside jit a `grad_fn` may do what can't be traced, as read data from the host.
    """
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, then, otherwise)
    return then() if condition else otherwise()
