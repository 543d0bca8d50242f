"""Watches a run: its lowest points by evaluations and by seconds."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.shared.optimizers.host import Spent

Evaluate = Callable[[Any], tuple[jax.Array, jax.Array]]
"""From a vector to the loss and its gradient, compiled."""


def looks(budget: int) -> np.ndarray:
    """The counts of evaluations at which a run is looked at, each a tenth farther."""
    counts = np.round(10 * 1.1 ** np.arange(200))
    counts = counts[counts < budget]
    return np.unique([1, *counts, budget]).astype(int)


class Look(NamedTuple):
    """The lowest point up to an evaluation.

    Attributes:
      evaluations: so many.
      seconds: since the start.
      loss: there.
      place: the point.
    """

    evaluations: int
    seconds: float
    loss: float
    place: Any


class Watch:
    """Counts a run's evaluations, and ends it by raising `Spent`."""

    def __init__(self, evaluate: Evaluate, budget: int) -> None:
        """Evaluates `budget` times, and raises `Spent` instead of once more."""
        self.looks: list[Look] = []
        self._evaluate, self._budget = evaluate, budget
        self._counts = list(looks(budget))
        self._spent, self._lowest = 0, np.inf
        self._place = np.empty(0)
        self._began = time.perf_counter()

    def __call__(self, point: Any) -> tuple[jax.Array, jax.Array]:
        """The loss and its gradient."""
        if self._spent >= self._budget:
            raise Spent
        value, grad = self._evaluate(point)
        self.saw(1, value, point)
        return value, grad

    def saw(self, evaluations: int, value: jax.Array, point: Any) -> None:
        """Takes note of a point that it took so many more evaluations to see."""
        loss = float(value)
        spent = self._spent + evaluations
        while self._counts and spent > self._counts[0]:
            self._look(self._counts.pop(0))
        if spent > self._budget:
            raise Spent
        self._spent = spent
        if loss < self._lowest:
            self._lowest, self._place = loss, np.array(point)
        if self._counts and spent == self._counts[0]:
            self._look(self._counts.pop(0))

    def end(self) -> None:
        """It stays where it is for the evaluations that are left."""
        while self._counts:
            self._look(self._counts.pop(0))

    def lowest(self) -> tuple[float, np.ndarray]:
        """The lowest loss yet, and where it is."""
        return self._lowest, np.asarray(self._place)

    def _look(self, count: int) -> None:
        seconds = time.perf_counter() - self._began
        self.looks.append(Look(count, seconds, self._lowest, self._place))
