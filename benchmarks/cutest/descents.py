"""Optimizers of Optax's kind on CUTEst's problems, an update at a time.

An update is compiled once for all problems of as many parameters, and a problem once
for all optimizers. A line search evaluates the problem itself: it is compiled for each.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cutest.watch import Compiled, Trace, Watch, finite
from benchmarks.shared.optimizers.contenders import Contender
from benchmarks.shared.optimizers.host import Spent
from dsa_optax import Minimized, make_train_step, minimize


def traces(contender: Contender, compiled: Compiled, budget: int) -> Iterator[Trace]:
    """At every setting, of an optimizer that evaluates one gradient an update."""
    init, update = _compiled_updates(contender.make)
    for setting in contender.settings:
        watch = Watch(compiled.evaluate, budget)
        params = jnp.asarray(compiled.problem.start)
        state = init(setting, params)
        with suppress(Spent):
            while True:
                value, grad = watch(params)
                params, state = update(setting, params, state, value, grad)
        yield watch.trace(setting)


@cache
def _compiled_updates(
    make: Callable[[Any], optax.GradientTransformation],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Its `init` and `update`, which JAX compiles anew for another number of params."""

    def init(setting: Any, params: Any) -> Any:
        return make(setting).init(params)

    def update(setting: Any, params: Any, state: Any, value: Any, grad: Any) -> Any:
        tx = optax.with_extra_args_support(make(setting))
        updates, state = tx.update(grad, state, params, value=value)
        return optax.apply_updates(params, updates), state

    return jax.jit(init), jax.jit(update)


def minimize_traces(compiled: Compiled, budget: int) -> Iterator[Trace]:
    """Of `minimize` as it is: it ends by itself."""
    problem = compiled.problem

    # A function of its own, whose program goes with it: hundreds would fill the memory.
    @jax.jit
    def found_from(start: jax.Array) -> Minimized:
        return minimize(problem.objective, start, steps=budget, bounds=problem.bounds)

    found = jax.device_get(found_from(problem.start))
    losses = np.array([finite(float(loss)) for loss in found.history[: found.steps]])
    if found.value != np.min(losses):
        raise AssertionError(f"minimize didn't return the best of {problem.name}")
    yield Trace(0.0, np.arange(1, len(losses) + 1), losses, len(losses), losses[-1])


def line_search_traces(
    contender: Contender, compiled: Compiled, budget: int
) -> Iterator[Trace]:
    """At every setting, of an optimizer whose updates end with the gradient."""
    for setting in contender.settings:
        tx = contender.make(setting)
        step = make_train_step(compiled.problem.objective, tx, donate=False)
        params = jnp.asarray(compiled.problem.start)
        state = tx.init(params)
        spent = contender.at_first
        seen: list[int] = []
        losses: list[float] = []
        # A line search that finds nothing may spend nothing.
        while spent <= budget and len(seen) < budget:
            params, state, value = step(params, state)
            seen.append(spent)
            losses.append(finite(float(value)))
            spent += int(contender.evaluations(state))
        spent = min(spent, budget)
        yield Trace(setting, np.array(seen), np.array(losses), spent, losses[-1])
