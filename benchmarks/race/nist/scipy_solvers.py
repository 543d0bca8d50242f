"""SciPy's solvers on NIST's regressions, with every evaluation counted."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares, minimize

from benchmarks.race.nist.problems import Regression, Trace, as_params
from benchmarks.shared.optimizers.host import Spent, restarting

MANY = 10**9
"""Iterations: the budget of evaluations is the only limit."""


class Watched(NamedTuple):
    """A regression as SciPy wants it, with each call counted."""

    value_and_grad: Callable[[np.ndarray], tuple[float, np.ndarray]]
    residuals: Callable[[np.ndarray], np.ndarray]
    jacobian: Callable[[np.ndarray], np.ndarray]


Solve = Callable[[Watched, np.ndarray], object]
"""Minimises from a start until it stops by itself."""


Function = Callable[[Any], tuple[jax.Array, Any]]
"""From float64 parameters to the residual sum of squares, and what SciPy asked for."""


class Watch:
    """Counts a run's evaluations, and ends it by raising `Spent`."""

    def __init__(self, goal: float, budget: int) -> None:
        """Begins a run.

        Args:
          goal: the residual sum of squares of a solution.
          budget: how many evaluations it has.
        """
        self.goal, self.budget = goal, budget
        self.rss: list[float] = []
        self.best_rss, self.best = np.inf, np.empty(0)

    def see(self, values: np.ndarray, rss: float) -> None:
        """One evaluation, at these parameters."""
        rss = np.inf if np.isnan(rss) else rss
        self.rss.append(rss)
        if rss < self.best_rss:
            self.best_rss, self.best = rss, np.array(values)
        if rss <= self.goal or len(self.rss) == self.budget:
            raise Spent

    def lowest(self) -> tuple[float, np.ndarray]:
        """The lowest residual sum of squares yet, and where it is."""
        return self.best_rss, self.best


def bfgs(watched: Watched, start: np.ndarray) -> object:
    """SciPy's BFGS, that only its line search ends."""
    options = {"gtol": 0, "maxiter": MANY}
    return minimize(
        watched.value_and_grad, start, jac=True, method="BFGS", options=options
    )


def lbfgsb(watched: Watched, start: np.ndarray) -> object:
    """SciPy's L-BFGS-B, that only its line search ends."""
    options = {"gtol": 0, "ftol": 0, "maxiter": MANY, "maxfun": MANY}
    return minimize(
        watched.value_and_grad, start, jac=True, method="L-BFGS-B", options=options
    )


def levenberg_marquardt(watched: Watched, start: np.ndarray) -> object:
    """MINPACK's, at the smallest tolerances that SciPy takes."""
    least = np.finfo(float).eps
    return least_squares(
        watched.residuals,
        start,
        watched.jacobian,
        method="lm",
        ftol=least,
        xtol=least,
        gtol=least,
        max_nfev=MANY,
    )


def traces(
    solve: Solve, regression: Regression, dtype: str, budget: int
) -> Iterator[Trace]:
    """From every start."""
    # What overflows on the way is no news.
    with jax.enable_x64(True), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        functions = _functions(regression, dtype)
        for start, values in enumerate(regression.starts):
            watch = Watch(regression.goal(dtype), budget)
            watched = _watched(functions, watch)
            restarting(partial(solve, watched), values, watch.lowest)
            rss = np.array(watch.rss)
            yield Trace(start, 0.0, np.arange(1, len(rss) + 1), rss)


def _functions(regression: Regression, dtype: str) -> dict[str, Function]:
    """What SciPy may ask for, by the names of `Watched`, computed in the dtype."""

    def loss(values: Any) -> Any:
        return regression.loss(as_params(values, dtype))

    def value_and_grad(values: Any) -> Any:
        value, grad = jax.value_and_grad(loss)(values)
        # A line search steps back from what is infinite, not from what is no number.
        return jnp.where(jnp.isnan(value), jnp.inf, value), grad

    def residuals(values: Any) -> Any:
        return regression.residuals(as_params(values, dtype))

    def with_rss(function: Callable[[Any], Any]) -> Function:
        def both(values: Any) -> Any:
            rounded = values.astype(dtype)
            exact = as_params(rounded, jnp.float64)
            out = jax.tree.map(lambda x: x.astype(jnp.float64), function(rounded))
            return regression.loss(exact), out

        return jax.jit(both)

    return {
        "value_and_grad": with_rss(value_and_grad),
        "residuals": with_rss(residuals),
        "jacobian": with_rss(jax.jacfwd(residuals)),
    }


def _watched(functions: Mapping[str, Function], watch: Watch) -> Watched:
    def watched(function: Function) -> Callable[[np.ndarray], Any]:
        def call(values: np.ndarray) -> Any:
            rss, out = function(values)
            watch.see(values, float(rss))
            return jax.tree.map(np.asarray, out)

        return call

    return Watched(**{name: watched(f) for name, f in functions.items()})
