"""Evaluates a problem's loss and gradient, and counts that."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.cutest.problems import Problem
from benchmarks.shared.optimizers.host import Spent

Evaluate = Callable[[Any], tuple[jax.Array, jax.Array]]
"""From a vector to the loss and its gradient, compiled."""


class Compiled(NamedTuple):
    """A problem with what all its solvers share."""

    problem: Problem
    evaluate: Evaluate


class Trace(NamedTuple):
    """What one run saw.

    Attributes:
      setting: the solver's.
      evaluations: gradients evaluated, when a point was seen; increasing from 1.
      losses: the loss there; infinite where it is no finite number.
      spent: all evaluations, at most the budget.
      end_loss: at the last accepted point for a line search, else at the last one.
    """

    setting: float
    evaluations: np.ndarray
    losses: np.ndarray
    spent: int
    end_loss: float


Traces = Callable[[Compiled, int], Iterator[Trace]]
"""From a problem and the budget to a trace a setting; to be called in 64 bits."""


def compiled(problem: Problem) -> Compiled:
    """One program for the loss and the gradient, whoever asks for them."""
    return Compiled(problem, jax.jit(jax.value_and_grad(problem.objective)))


class Watch:
    """Counts a run's evaluations, and ends it by raising `Spent`.

    Attributes:
      losses: of every evaluation so far; infinite where it is no finite number.
    """

    def __init__(self, evaluate: Evaluate, budget: int) -> None:
        """Evaluates `budget` times, and raises `Spent` instead of once more."""
        self.losses: list[float] = []
        self._evaluate, self._budget = evaluate, budget
        self._lowest, self._place = np.inf, np.empty(0)

    def __call__(self, point: Any) -> tuple[jax.Array, jax.Array]:
        if len(self.losses) == self._budget:
            raise Spent
        value, grad = self._evaluate(point)
        loss = finite(float(value))
        self.losses.append(loss)
        if loss < self._lowest:
            self._lowest, self._place = loss, np.array(point)
        return value, grad

    def lowest(self) -> tuple[float, np.ndarray]:
        """The lowest loss yet, and where it is."""
        return self._lowest, self._place

    def trace(self, setting: float, end_loss: float | None = None) -> Trace:
        """What it saw; by default the run ends with the last evaluation."""
        losses = np.array(self.losses)
        evaluations = np.arange(1, len(losses) + 1)
        end_loss = losses[-1] if end_loss is None else end_loss
        return Trace(setting, evaluations, losses, len(losses), end_loss)


def finite(loss: float) -> float:
    """The loss, or infinity for what is no finite number: nothing is below that."""
    return loss if np.isfinite(loss) else np.inf
