"""Trains by a loop on the host, as SciPy's: every evaluation of the loss is a call."""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.shared.optimizers.contenders import HostContender
from benchmarks.shared.runner import Problem


class Flat(NamedTuple):
    """A problem whose params are one vector.

    Attributes:
      evaluate: from a vector to the loss and its gradient, compiled.
      observe: from vectors to what is observed at each, compiled.
      starts: a row a seed, in float64.
    """

    evaluate: Callable[[np.ndarray], tuple[jax.Array, jax.Array]]
    observe: Callable[[np.ndarray], jax.Array]
    starts: np.ndarray


class Spent(Exception):
    """There are no evaluations left, or none is needed."""


class Objective:
    """The loss and gradient for SciPy, in float64, which remembers what it was asked.

    Attributes:
      losses: of every evaluation so far.
      points: where they were, in float32.
    """

    def __init__(
        self,
        evaluate: Callable[[np.ndarray], tuple[jax.Array, jax.Array]],
        budget: int,
    ) -> None:
        """Evaluates `budget` times, and raises `Spent` instead of once more."""
        self.losses: list[float] = []
        self.points: list[np.ndarray] = []
        self._evaluate, self._budget = evaluate, budget

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        if len(self.losses) == self._budget:
            raise Spent
        self.points.append(point.astype(np.float32))
        loss, grad = self._evaluate(self.points[-1])
        self.losses.append(float(loss))
        return self.losses[-1], np.asarray(grad, np.float64)


def flatten(problem: Problem, keys: jax.Array) -> Flat:
    """The problem in terms of one vector, with a start for every key."""
    params = jax.jit(jax.vmap(problem.init))(keys)
    starts = jax.vmap(lambda tree: ravel_pytree(tree)[0])(params)
    unravel = ravel_pytree(jax.tree.map(lambda x: x[0], params))[1]
    return Flat(
        jax.jit(jax.value_and_grad(lambda point: problem.loss(unravel(point)))),
        jax.jit(
            lambda points: jax.lax.map(lambda p: problem.observe(unravel(p)), points)
        ),
        np.asarray(starts, np.float64),
    )


def train(
    objective: Objective, contender: HostContender, setting: float, start: np.ndarray
) -> None:
    """Minimises until all is spent, or until to start again is of no use."""

    def lowest_so_far() -> tuple[float, np.ndarray]:
        place = lowest(objective.losses)[-1]
        return objective.losses[place], objective.points[place].astype(np.float64)

    # Steps may overflow, which the losses show.
    with np.errstate(all="ignore"):
        restarting(
            lambda point: contender.minimize(objective, point, setting),
            start,
            lowest_so_far,
        )


def restarting(
    minimize: Callable[[np.ndarray], object],
    start: np.ndarray,
    lowest_so_far: Callable[[], tuple[float, np.ndarray]],
) -> None:
    """Minimises from the lowest point again, as long as that gets lower.

    A line search that fails, and so stops SciPy, may succeed along the slope.

    Args:
      minimize: from a start until it stops by itself, or raises `Spent`.
      start: the first.
      lowest_so_far: the lowest value yet, and where it is.
    """
    least = np.inf
    with suppress(Spent):
        while True:
            minimize(start)
            value, start = lowest_so_far()
            if not value < least:
                return
            least = value


def descend(
    flat: Flat, contender: HostContender, setting: float, start: np.ndarray, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and points of all evaluations; one that stops early stays where it is."""
    objective = Objective(flat.evaluate, budget)
    train(objective, contender, setting, start)
    rest = budget - len(objective.losses)
    losses = np.pad(np.asarray(objective.losses, np.float32), (0, rest), mode="edge")
    points = np.pad(np.stack(objective.points), ((0, rest), (0, 0)), mode="edge")
    return losses, points


def lowest(losses: np.ndarray | list[float]) -> np.ndarray:
    """Where the lowest loss so far is; one that is no number never is."""
    numbers = np.where(np.isnan(losses), np.inf, losses)
    is_lowest = numbers <= np.minimum.accumulate(numbers)
    return np.maximum.accumulate(np.where(is_lowest, np.arange(len(numbers)), 0))
