"""Optimistix's quasi-Newton solvers, a step at a time: each evaluates the loss once.

As their own loops would, but that those end at tolerances. A step is told the loss and
the gradient, and so is compiled once for all problems of as many parameters.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cutest.watch import Compiled, Trace, Watch
from benchmarks.shared.optimizers.host import Spent


def traces(name: str, compiled: Compiled, budget: int) -> Iterator[Trace]:
    """Of a solver of that name at its defaults, as far as the budget goes."""
    init, step = _compiled_steps(name)
    watch = Watch(compiled.evaluate, budget)
    place = jnp.asarray(compiled.problem.start)
    state = init(place)
    with suppress(Spent):
        while True:
            value, grad = watch(state.y_eval)
            place, state = step(place, state, value, grad)
    # What is accepted is lower.
    yield watch.trace(0.0, end_loss=watch.lowest()[0])


@cache
def _compiled_steps(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    # To import them takes the better part of a second, of every command.
    import equinox
    import optimistix

    solver = getattr(optimistix, name)(rtol=0.0, atol=0.0)

    def init(place: Any) -> Any:
        struct = jax.ShapeDtypeStruct((), place.dtype)
        return solver.init(_told, place, None, {}, struct, None, frozenset())

    def step(place: Any, state: Any, value: Any, grad: Any) -> Any:
        place, state, _ = solver.step(
            _told, place, (value, grad), {}, state, frozenset()
        )
        return place, state

    return equinox.filter_jit(init), equinox.filter_jit(step)


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
