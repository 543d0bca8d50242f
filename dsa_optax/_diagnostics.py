"""What the learning rates are doing."""

from typing import Any, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsa_optax._blend import BlendState
from dsa_optax._rules import exponential_step_size
from dsa_optax._state import (
    AdaptState,
    DSAState,
    LinearDSAState,
    ReachState,
    log2_rates,
)
from dsa_optax._trees import nodes_of

_State: TypeAlias = AdaptState | ReachState | DSAState | LinearDSAState

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Sorting a large leaf would cost more than an update of it.
_MAX_SORTED = 1024


class RateSummary(NamedTuple):
    """The learning rates of one leaf, in five numbers and three shares.

    Attributes:
      quantiles: minimum, quartiles (three) and maximum of the learning rates, shape
        (5,). In a leaf of more than 1,024 entries the quartiles are those of a fixed
        sample of as many; minimum and maximum are of all.
      grew: share of the rates above where they were, in [0, 1].
      shrank: share of the rates below where they were, in [0, 1].
      at_bound: share of the rates at `min_log2_lr` or `max_log2_lr`, or at an end of
        an integer `state_dtype`, in [0, 1].
    """

    quantiles: jax.Array
    grew: jax.Array
    shrank: jax.Array
    at_bound: jax.Array


def learning_rates(state: optax.OptState) -> optax.Params:
    """The learning rate of every parameter, as of the last update.

    Args:
      state: the state of an optimizer with one of this package's optimizers somewhere
        in it: in a chain, below wrappers, in a Flax `TrainState`. Of a state under
        `vmap`, take `jax.vmap(learning_rates)`.

    Returns:
      A tree like the params: `learning_rate`·2^η for `dsa` and `exponential_dsa`, η for
      `parameterwise_dsa`, and one scalar for `basic_dsa`. For `adapt` 2^η, by its
      granularity: of every parameter, a scalar for every leaf, or one scalar. For
      `blend` and `auto_dsa` a tuple of these, one for each adapted part. In the dtype
      of the state.

    Raises:
      ValueError: if there is none of the package's states in `state`, or several.

    Examples:
      >>> import jax.numpy as jnp, optax, dsa_optax
      >>> tx = optax.chain(optax.clip(1.0), dsa_optax.dsa(init_log2_lr=-2.0))
      >>> state = tx.init({"w": jnp.zeros(3)})
      >>> dsa_optax.learning_rates(state)
      {'w': Array([0.25, 0.25, 0.25], dtype=float32)}

    References:
      Eq. 5 (Sec. 2.2.3): the step of a parameter is 2^η long.
    """
    parts = _blended(state)
    if parts is not None:
        return tuple(map(learning_rates, parts))
    found = _find(state, "state")
    if isinstance(found, LinearDSAState):
        return found.lr
    scale = found.lr_scale if isinstance(found, DSAState) else 1
    return jax.tree.map(
        lambda log2_lr: exponential_step_size(log2_lr, scale), _rates(found)
    )


def summary(
    state: optax.OptState, previous: optax.OptState | None = None
) -> optax.Params:
    """Sums up the learning rates of each leaf, at a cost to be paid at every step.

    Pure and jittable. With `previous`, a state of the step before (or of the last time
    that you looked), the shares tell what the rates did since; without it, since the
    start of training. A rate that grew in one step is one whose two gradients agreed.

    Args:
      state: as in `learning_rates`.
      previous: an earlier state of the same optimizer.

    Returns:
      A tree like what `learning_rates` returns, with a `RateSummary` in place of each
      of its arrays.

    Raises:
      ValueError: as `learning_rates`.

    Examples:
      >>> import jax, jax.numpy as jnp, dsa_optax
      >>> loss = lambda w: jnp.sum(w**2)
      >>> w, tx = jnp.array([1.0, -1.0, 1e-5]), dsa_optax.dsa()
      >>> state = tx.init(w)
      >>> updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
      >>> rates = dsa_optax.summary(state)
      >>> print(f"{rates.grew:.2f} grew, {rates.shrank:.2f} shrank")
      0.67 grew, 0.33 shrank

    References:
      Fig. 2 (Sec. 2.2.2): when a rate should grow, and when it should shrink.
    """
    parts = _blended(state)
    if parts is not None:
        earlier = [None] * len(parts) if previous is None else _blended(previous)
        return tuple(map(summary, parts, earlier or ()))
    found = _find(state, "state")
    rates = _rates(found)
    if previous is None:
        before = jax.tree.map(lambda rate, start: start, rates, _starts(found))
    else:
        before = _rates(_find(previous, "previous"))

    def at_bound(held: jax.Array) -> jax.Array:
        if isinstance(found, LinearDSAState):
            return jnp.zeros_like(held, bool)  # a linear rate has no bound
        low, high = found.bounds
        held = held.astype(found.bounds.dtype)
        return (held == low) | (held == high)

    def leaf(
        rate: jax.Array, before: jax.Array, lr: jax.Array, held: jax.Array
    ) -> RateSummary:
        return RateSummary(
            quantiles=_quantiles(lr),
            grew=_share(rate > before),
            shrank=_share(rate < before),
            at_bound=_share(at_bound(held)),
        )

    held = found.lr if isinstance(found, LinearDSAState) else found.log2_lr
    return jax.tree.map(leaf, rates, before, learning_rates(found), held)


def _rates(state: _State) -> optax.Params:
    """η as a number of its own, whatever the state holds for it."""
    if isinstance(state, DSAState):
        return log2_rates(state)
    return state.lr if isinstance(state, LinearDSAState) else state.log2_lr


def _starts(state: _State) -> optax.Params:
    """The η that each leaf of the rates began with."""
    rates = _rates(state)
    if isinstance(state, AdaptState) and jnp.ndim(state.start):
        return jax.tree.unflatten(jax.tree.structure(rates), list(state.start))
    return jax.tree.map(lambda _: state.start, rates)


def _blended(state: Any) -> tuple[Any, ...] | None:
    """The parts of a blend that have rates, where there is just a blend in a state."""
    kinds = get_args(_State)
    found = nodes_of(state, BlendState, *kinds)
    if len(found) != 1 or not isinstance(found[0], BlendState):
        return None
    return tuple(part for part in found[0].parts if nodes_of(part, *kinds))


def _find(state: Any, name: str) -> _State:
    found = nodes_of(state, *get_args(_State))
    if len(found) != 1:
        raise ValueError(
            f"`{name}` must hold the state of one optimizer of dsa_optax, but holds "
            f"{len(found)}: pass what tx.init or tx.update returned, or, of several, "
            "the part that you want to see."
        )
    return found[0]


def _share(mask: jax.Array) -> jax.Array:
    return jnp.mean(mask, dtype=jnp.float32)


def _quantiles(lr: jax.Array) -> jax.Array:
    flat = jnp.ravel(lr)
    if flat.size == 0:
        return jnp.full(len(QUANTILES), jnp.nan, flat.dtype)
    if flat.size <= _MAX_SORTED:
        sample = flat
    else:
        # Multiples of the golden ratio: even, as a stride is, but not in step with the
        # leaf's shape.
        golden = np.arange(1, _MAX_SORTED + 1) * (5**0.5 - 1) / 2
        sample = flat[(golden % 1 * flat.size).astype(int)]
    inner = jnp.quantile(sample, jnp.asarray(QUANTILES[1:-1], flat.dtype))
    return jnp.stack([jnp.min(flat), *inner, jnp.max(flat)])
