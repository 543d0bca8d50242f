"""Keeping the best parameters of a training, with the loss that is theirs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._trees import nodes_of


class Best(NamedTuple):
    """The best parameters of a training so far.

    Attributes:
      params: as they were given to the `update` that was given their loss.
      value: their loss, a scalar; infinite until one was given.
    """

    params: optax.Params
    value: jax.Array


class KeepBestState(NamedTuple):
    """State of `keep_best`.

    Attributes:
      best: the best so far.
      inner: the state of the optimizer that it stands around.
    """

    best: Best
    inner: optax.OptState


def keep_best(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose state holds the best parameters, with their own loss.

    A training may end above its best. The loss that a step evaluates is that of the
    params *before* the step, and these are what is kept with it; `best` reads them.

    The state holds copies, so the training step may donate its buffers. It costs the
    memory of the params once more.

    Args:
      tx: any Optax optimizer. It may stand in a chain, and this anywhere around it.

    Returns:
      A transformation whose `update` needs the params, and the loss at them, `value`
      (a scalar). A value that is no number is never the best. Its state is a
      `KeepBestState`.

    Raises:
      ValueError: from `update`, if `params` or `value` are missing.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum(jnp.abs(w))
      >>> tx = dsa_optax.keep_best(optax.adam(0.3))
      >>> w = jnp.ones(2)
      >>> state = tx.init(w)
      >>> step = dsa_optax.make_train_step(loss, tx)
      >>> for _ in range(10):
      ...     w, state, value = step(w, state)
      >>> best = dsa_optax.best(state)
      >>> bool(best.value == loss(best.params)), bool(best.value < loss(w))
      (True, True)
    """
    tx = optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> KeepBestState:
        return KeepBestState(no_best(params), tx.init(params))

    def update(
        updates: optax.Updates,
        state: KeepBestState,
        params: optax.Params | None = None,
        *,
        value: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, KeepBestState]:
        if params is None or value is None:
            raise ValueError(_checks.MISSING_VALUE)
        new = Best(params, jnp.asarray(value, state.best.value.dtype))
        best = better(state.best, new)
        updates, inner = tx.update(
            updates, state.inner, params, value=value, **extra_args
        )
        return updates, KeepBestState(best, inner)

    return optax.GradientTransformationExtraArgs(init, update)


@jax.jit  # so that the value lies on all the devices that the params lie on
def no_best(params: optax.Params) -> Best:
    """Before any loss is known."""
    copies = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
    return Best(copies, jnp.asarray(jnp.inf, float))  # the widest, whatever the loss is


def better(old: Best, new: Best) -> Best:
    """The one of two with the lower loss; the old beside what isn't finite."""
    is_better = (new.value < old.value) & jnp.isfinite(new.value)

    def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(is_better, jnp.asarray(new, old.dtype), old)

    return jax.tree.map(leaf, old, new)


def best(state: optax.OptState) -> Best:
    """The best parameters so far, with the loss that is theirs.

    Args:
      state: of an optimizer with `keep_best` somewhere in it: in a chain, below
        wrappers, in a Flax `TrainState`; of an `nnx.Optimizer`,
        `nnx.as_pure(optimizer.opt_state)`.

    Returns:
      A `Best`, of params and value.

    Raises:
      ValueError: if there is no `keep_best` in the state, or several.

    Examples:
      >>> import jax.numpy as jnp, optax, dsa_optax
      >>> tx = optax.chain(optax.clip(1.0), dsa_optax.keep_best(optax.sgd(0.1)))
      >>> params = {"w": jnp.ones(2)}
      >>> grads = {"w": jnp.ones(2)}
      >>> updates, state = tx.update(grads, tx.init(params), params, value=3.0)
      >>> dsa_optax.best(state)
      Best(params={'w': Array([1., 1.], dtype=float32)}, value=Array(3., dtype=float32))
    """
    found = nodes_of(state, KeepBestState)
    if len(found) != 1:
        raise ValueError(
            f"`state` must hold the state of one `keep_best`, but holds {len(found)}: "
            "write tx = dsa_optax.keep_best(tx), and pass what tx.init or tx.update "
            "returned."
        )
    return found[0].best
