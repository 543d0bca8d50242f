"""Runs the race: all settings and seeds of one optimizer on one problem at once."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.optimizers import host
from benchmarks.shared.optimizers.contenders import (
    AnyContender,
    Contender,
    HostContender,
)
from benchmarks.shared.runner import Problem
from dsa_optax import make_train_step

Array = jax.Array | np.ndarray


class Curves(NamedTuple):
    """Losses of one optimizer on one problem.

    Attributes:
      losses: after n gradient evaluations, shape (settings, seeds, budget + 1); one
        that is no number counts as infinite.
      accuracy: on the test rows, likewise; NaN where the problem has none.
    """

    losses: np.ndarray
    accuracy: np.ndarray


class Seen(NamedTuple):
    """At one update, or at all: the loss before it, the accuracy, evaluations spent."""

    loss: Array
    accuracy: Array
    spent: Array


def curves(
    problem: Problem, contender: AnyContender, seeds: int, budget: int
) -> Curves:
    """Trains every setting and seed."""
    keys = jax.random.split(jax.random.key(0), seeds)
    seen = (
        _on_the_host(problem, contender, keys, budget)
        if isinstance(contender, HostContender)
        else _compiled(problem, contender, keys, budget)
    )
    losses, accuracy, spent = (np.asarray(part) for part in seen)
    losses = np.where(np.isnan(losses), np.inf, losses)
    by_evaluation = partial(_by_evaluation, spent=spent, budget=budget)
    return Curves(by_evaluation(losses), by_evaluation(accuracy))


def _compiled(
    problem: Problem, contender: Contender, keys: jax.Array, budget: int
) -> Seen:
    """What every setting and seed saw, in one compiled call."""

    def run(setting: Any, key: jax.Array) -> Seen:
        tx = contender.make(setting)
        step = make_train_step(problem.loss, tx, donate=False)

        def update(carry: Any) -> tuple[Any, Seen]:
            params, state, spent = carry
            accuracy = problem.observe(params)
            params, state, loss = step(params, state)
            after = spent + contender.evaluations(state)
            return (params, state, after), Seen(loss, accuracy, spent)

        params = problem.init(key)
        start = (params, tx.init(params), jnp.asarray(contender.at_first))
        return follow(update, start, budget // contender.least + 1, budget)

    # A line search takes as many evaluations as it wants: side by side, all runs would
    # take as long as the longest.
    follow, over = (
        (_until_spent, _one_after_the_other)
        if contender.at_first
        else (_to_the_end, _side_by_side)
    )
    settings = jnp.asarray(contender.settings, jnp.float32)
    return jax.jit(over(run))(settings, keys)


def _on_the_host(
    problem: Problem, contender: HostContender, keys: jax.Array, budget: int
) -> Seen:
    """What every setting and seed saw, one evaluation at a time.

    That is the lowest point which it has evaluated so far, be it in a line search.
    """
    flat = host.flatten(problem, keys)

    def run(setting: float, start: np.ndarray) -> Seen:
        losses, points = host.descend(flat, contender, setting, start, budget)
        lowest = host.lowest(losses)
        accuracy = np.asarray(flat.observe(points))
        return Seen(losses[lowest], accuracy[lowest], 1 + np.arange(budget))

    runs = [run(*each) for each in product(contender.settings, flat.starts)]
    shape = (len(contender.settings), len(keys), budget)
    return Seen(*(np.reshape(part, shape) for part in zip(*runs, strict=True)))


def _to_the_end(
    update: Callable[[Any], tuple[Any, Seen]], start: Any, updates: int, budget: int
) -> Seen:
    """What was seen at every update."""
    return jax.lax.scan(lambda carry, _: update(carry), start, length=updates)[1]


def _until_spent(
    update: Callable[[Any], tuple[Any, Seen]], start: Any, updates: int, budget: int
) -> Seen:
    """What was seen until the evaluations were spent."""
    one = jax.eval_shape(update, start)[1]
    never = Seen(*(jnp.zeros((updates, *x.shape), x.dtype) for x in one))
    never = never._replace(spent=never.spent + budget + 1)

    def on(loop: Any) -> Any:
        carry, seen, count = loop
        carry, now = update(carry)
        seen = jax.tree.map(lambda all_, x: all_.at[count].set(x), seen, now)
        return carry, seen, count + 1

    def goes_on(loop: Any) -> jax.Array:
        (_, _, spent), _, count = loop
        return (spent <= budget) & (count < updates)

    return jax.lax.while_loop(goes_on, on, (start, never, jnp.asarray(0)))[1]


def _one_after_the_other(
    run: Callable[[Any, Any], Seen],
) -> Callable[[Any, Any], Seen]:
    """`run` over the settings, and for each of them over the keys."""

    def over_keys(setting: Any, keys: Any) -> Seen:
        return jax.lax.map(lambda key: run(setting, key), keys)

    return lambda settings, keys: jax.lax.map(lambda s: over_keys(s, keys), settings)


def _side_by_side(run: Callable[[Any, Any], Seen]) -> Callable[[Any, Any], Seen]:
    return jax.vmap(jax.vmap(run, (None, 0)), (0, None))


def _by_evaluation(values: np.ndarray, spent: np.ndarray, budget: int) -> np.ndarray:
    """What was seen by gradient evaluations, from what was seen by updates."""
    out = np.empty((*values.shape[:2], budget + 1), np.float32)
    ticks = np.arange(budget + 1)
    for run in np.ndindex(values.shape[:2]):
        # Before the first update is through, the params are the first ones.
        place = np.searchsorted(spent[run], ticks, side="right") - 1
        out[run] = values[run][np.maximum(place, 0)]
    return out
