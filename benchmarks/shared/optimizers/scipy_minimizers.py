"""SciPy's minimizers, told to go on until they can't.

Their tolerances are zero: what stops them is a line search that finds nothing lower.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg.blas import dsymv, dsyr2
from scipy.optimize import Bounds, minimize
from scipy.optimize._optimize import MemoizeJac, _line_search_wolfe12, _LineSearchError

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""From a flat vector to the loss and its gradient, both in float64."""


def lbfgs(
    objective: Objective,
    start: np.ndarray,
    memory: float,
    bounds: Bounds | None = None,
) -> None:
    """L-BFGS-B with as many pairs in memory."""
    options = {"maxcor": int(memory), "ftol": 0, "gtol": 0}
    _minimize(objective, start, "L-BFGS-B", options, bounds)


def cg(objective: Objective, start: np.ndarray, tolerance: float) -> None:
    """Polak and Ribière's conjugate gradients, with that curvature tolerance."""
    _minimize(objective, start, "CG", {"gtol": 0, "c2": tolerance})


def bfgs(objective: Objective, start: np.ndarray, tolerance: float) -> None:
    """BFGS with that curvature tolerance: `minimize`'s own steps, up to roundings.

    `minimize` multiplies square matrices to update its own, ten seconds a step with
    4,739 parameters. The same update by its rank of two takes hundredths of one.
    """
    value = MemoizeJac(objective)
    point, loss, slope = start, value(start), value.derivative(start)
    before = loss + np.linalg.norm(slope) / 2
    inverse = np.eye(start.size, order="F")  # its upper triangle
    # A gradient that is no number ends it, too.
    while np.abs(slope).max() > 0 and np.isfinite(loss):
        direction = -dsymv(1, inverse, slope)
        known = point, direction, slope, loss, before
        bounds = {"amin": 1e-100, "amax": 1e100, "c2": tolerance}
        try:
            length, *_, loss, before, ahead = _line_search_wolfe12(
                value, value.derivative, *known, **bounds
            )
        except _LineSearchError:
            return
        step = length * direction
        if not step.any():
            return
        point = point + step
        ahead = value.derivative(point) if ahead is None else ahead
        change, slope = ahead - slope, ahead
        inverse = _updated(inverse, step, change)


def _updated(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The inverse Hessian after a step and a change of the gradient, in place."""
    curvature = change @ step
    rho = 1 / curvature if curvature else 1000.0
    turned = dsymv(1, inverse, change)
    other = rho * ((1 + rho * (change @ turned)) / 2 * step - turned)
    return dsyr2(1, step, other, a=inverse, overwrite_a=True)


def _minimize(
    objective: Objective,
    start: np.ndarray,
    method: str,
    options: dict[str, Any],
    bounds: Bounds | None = None,
) -> None:
    minimize(objective, start, jac=True, method=method, options=options, bounds=bounds)
