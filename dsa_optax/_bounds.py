"""Bounds on parameters: steps are projected, and what a bound holds stands still."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsa_optax import _checks

MEND = 'for example bounds=(0, None), or bounds=({"a": 0, "b": None}, 1).'


class Bounds(NamedTuple):
    """The least and the greatest that params may be: trees like them."""

    low: optax.Params
    high: optax.Params


def bounds_of(pair: Any, params: optax.Params) -> Bounds | None:
    """Bounds of every leaf; numbers serve for all leaves below, None is infinite.

    Raises:
      TypeError: if it is no pair.
      ValueError: if an end has not the structure and the shapes of the params, or a
        lower one is above an upper one.
    """
    if pair is None:
        return None
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"`bounds` must be a pair, (low, high), got {pair!r}; {MEND}")
    try:
        bounds = Bounds(*map(_filled, pair, (-np.inf, np.inf), (params, params)))
    except (ValueError, TypeError) as error:
        raise ValueError(
            "`bounds` must be numbers, or trees like the params, of arrays where those "
            f"are arrays: {MEND}"
        ) from error
    jax.tree.map_with_path(_check, params, *bounds)
    return bounds


def clipped(params: optax.Params, bounds: Bounds | None) -> optax.Params:
    """The nearest params within."""
    if bounds is None:
        return params

    def leaf(param: jax.Array, low: Any, high: Any) -> jax.Array:
        low, high = (jnp.asarray(end, param.dtype) for end in (low, high))
        return jnp.clip(param, low, high)

    return jax.tree.map(leaf, params, *bounds)


def held(params: optax.Params, grads: optax.Updates, bounds: Bounds) -> Any:
    """Which parameters sit at a bound, and would descend across it: booleans."""

    def leaf(param: jax.Array, grad: jax.Array, low: Any, high: Any) -> jax.Array:
        low, high = (jnp.asarray(end, param.dtype) for end in (low, high))
        return ((param <= low) & (grad > 0)) | ((param >= high) & (grad < 0))

    return jax.tree.map(leaf, params, grads, *bounds)


def _filled(end: Any, infinite: float, params: optax.Params) -> optax.Params:
    def is_none(node: Any) -> bool:
        return node is None

    known = jax.tree.map(lambda x: infinite if x is None else x, end, is_leaf=is_none)
    return jax.tree.broadcast(known, params)


def _check(path: tuple[Any, ...], param: Any, low: Any, high: Any) -> None:
    shape = jnp.shape(param)
    for end in (low, high):
        if jnp.shape(end) not in ((), shape):
            raise ValueError(
                f"`bounds` of {_checks.at(path)} must be numbers, or of its shape "
                f"{shape}, got one of shape {jnp.shape(end)}; {MEND}"
            )
    if any(isinstance(end, jax.core.Tracer) for end in (low, high)):
        return
    if not np.all(np.asarray(low) <= np.asarray(high)):
        raise ValueError(
            f"`bounds` must have low <= high, but of {_checks.at(path)} low is {low} "
            f"and high is {high}; {MEND}"
        )
