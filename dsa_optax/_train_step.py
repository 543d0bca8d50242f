"""A train step for DSA and for any other Optax optimizer alike."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from dsa_optax._gradients import make_value_fn, unmask


def make_train_step(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation | optax.MultiSteps,
    *,
    has_aux: bool = False,
    donate: bool = True,
    pass_value: bool = True,
) -> Callable[..., tuple[Any, ...]]:
    """Assembles a jitted train step from a loss and an optimizer.

    The optimizer is handed the loss on the very batch of the step (`value`, `grad` and
    `value_fn`, as Optax's line searches want them), and takes what it needs: DSA its
    second gradient, `optax.lbfgs` its line search, `optax.adam` nothing. So one line
    swaps one optimizer for another, also below `optax.masked` and `optax.partition`.

    Args:
      loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, or `(scalar, aux)`.
      tx: any Optax optimizer.
      has_aux: whether the loss returns `(scalar, aux)`.
      donate: whether the step may reuse the memory of the params and the state that it
        is given. They can't be used again afterwards: keep `donate=False` if you need
        the old ones, or if the optimizer's first state shares memory with the params
        (as that of `optax.lbfgs` does).
      pass_value: whether the optimizer is handed the loss. `auto_dsa`, `adapt` and
        `blend` take a step back where it rises; False is for a loss that rises on
        purpose, by new data or a penalty that grows. (`optax.lbfgs` needs it.)

    Returns:
      `step(params, state, *args, **kwargs)`, which returns `(params, state, value)`, or
      `(params, state, value, aux)` with `has_aux`. The value, a scalar, and the aux are
      those at the params that the step was given.

    Examples:
      >>> import jax.numpy as jnp, dsa_optax
      >>> def loss(w, x, y):
      ...     return jnp.mean((x @ w - y) ** 2)
      >>> x, y = jnp.eye(2), jnp.array([1.0, 2.0])
      >>> tx = dsa_optax.dsa()
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> step = dsa_optax.make_train_step(loss, tx)
      >>> for _ in range(50):
      ...     w, state, value = step(w, state, x, y)
      >>> bool(value < 1e-3)
      True

    References:
      Algorithm 1 (Appendix B).
    """
    # MultiSteps is no GradientTransformation, and what it makes of itself would drop
    # the extra arguments.
    if not isinstance(tx, optax.MultiSteps):
        tx = optax.with_extra_args_support(tx)

    def step(
        params: optax.Params, state: optax.OptState, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=has_aux)
        value, grads = value_and_grad(params, *args, **kwargs)
        value, *aux = value if has_aux else (value,)
        known = known_to_a_step(
            loss_fn, params, value, grads, *args, has_aux=has_aux, **kwargs
        )
        if not pass_value:
            del known["value"]
        updates, state = tx.update(grads, state, params, **known)
        return optax.apply_updates(params, updates), state, value, *aux

    return jax.jit(step, donate_argnums=(0, 1) if donate else ())


def known_to_a_step(
    loss_fn: Callable[..., Any],
    params: optax.Params,
    value: jax.Array,
    grads: optax.Updates,
    *args: Any,
    has_aux: bool,
    **kwargs: Any,
) -> dict[str, Any]:
    """What optimizers ask for beside the gradient, as Optax names it."""
    value_fn = make_value_fn(loss_fn, *args, has_aux=has_aux, **kwargs)
    return {
        "value": value,
        "grad": grads,
        "value_fn": lambda masked: value_fn(unmask(masked, params)),
    }
