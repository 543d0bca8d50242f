"""Optimistix's minimisers a step at a time, told the loss and the gradient.

As their own loops would go, but that those end at tolerances. So a step evaluates
nothing, and is compiled once for all losses of as many parameters.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

Step = Callable[..., Any]


def compiled_steps(solver: Any) -> tuple[Step, Step]:
    """Its `init(place)` and `step(place, state, value, grad)`."""
    import equinox  # which takes the better part of a second, of every command

    def init(place: Any) -> Any:
        struct = jax.ShapeDtypeStruct((), place.dtype)
        return solver.init(_told, place, None, {}, struct, None, frozenset())

    def step(place: Any, state: Any, value: Any, grad: Any) -> Any:
        place, state, _ = solver.step(
            _told, place, (value, grad), {}, state, frozenset()
        )
        return place, state

    return equinox.filter_jit(init), equinox.filter_jit(step)


def descend(
    steps: tuple[Step, Step],
    evaluate: Callable[[Any], tuple[jax.Array, jax.Array]],
    start: Any,
) -> NoReturn:
    """One evaluation after the other, until `evaluate` raises."""
    init, step = steps
    place = jnp.asarray(start)
    state = init(place)
    while True:
        place, state = step(place, state, *evaluate(state.y_eval))


def _told(place: jax.Array, known: tuple[jax.Array, jax.Array]) -> Any:
    """The loss at a place where it and its gradient are known; no auxiliary output."""
    return _value(place, *known), None


@jax.custom_jvp
def _value(place: jax.Array, value: jax.Array, grad: jax.Array) -> jax.Array:
    del place, grad
    return value


@_value.defjvp
def _value_jvp(known: Any, changes: Any) -> Any:
    _, value, grad = known
    return value, jnp.dot(grad, changes[0])
