"""SciPy's minimizers, told to go on until they can't.

Their tolerances are zero: what stops them is a line search that finds nothing lower.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg.blas import dsymv, dsyr, dsyr2
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

    def update(inverse: np.ndarray, pair: Pair) -> np.ndarray:
        curvature = pair.change @ pair.step
        rho = 1 / curvature if curvature else 1000.0
        turned = dsymv(1, inverse, pair.change)
        other = rho * ((1 + rho * (pair.change @ turned)) / 2 * pair.step - turned)
        return dsyr2(1, pair.step, other, a=inverse, overwrite_a=True)

    _quasi_newton(objective, start, tolerance, update)


def ssbroyden(objective: Objective, start: np.ndarray, tolerance: float) -> None:
    """Self-scaled Broyden, as the papers on physics-informed nets have it.

    SciPy's BFGS but for the update: Al-Baali's, as Urbán, Stefanou and Pons (2025,
    arXiv 2405.04230) and Kiyani et al. (arXiv 2501.16371) write it.
    """
    _quasi_newton(objective, start, tolerance, partial(_self_scaled, broyden=True))


def ssbfgs(objective: Objective, start: np.ndarray, tolerance: float) -> None:
    """Self-scaled BFGS: the same with θ = 0."""
    _quasi_newton(objective, start, tolerance, partial(_self_scaled, broyden=False))


class Pair(NamedTuple):
    """What a line search along −Hg has found.

    Attributes:
      step: s, `length` times −Hg.
      change: y, of the gradient.
      slope: ⟨g, s⟩, at the start of s.
      length: α.
      first: whether H is still the identity.
    """

    step: np.ndarray
    change: np.ndarray
    slope: float
    length: float
    first: bool


def _quasi_newton(
    objective: Objective,
    start: np.ndarray,
    tolerance: float,
    update: Callable[[np.ndarray, Pair], np.ndarray],
) -> None:
    """The loop of SciPy's BFGS; `update` changes H in place, its upper triangle."""
    value = MemoizeJac(objective)
    point, loss, slope = start, value(start), value.derivative(start)
    before = loss + np.linalg.norm(slope) / 2
    inverse = np.eye(start.size, order="F")
    first = True
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
        pair = Pair(step, ahead - slope, slope @ step, length, first)
        inverse, slope, first = update(inverse, pair), ahead, False


def _self_scaled(inverse: np.ndarray, pair: Pair, *, broyden: bool) -> np.ndarray:
    curvature = pair.change @ pair.step
    if curvature <= 0:
        return inverse
    turned = dsymv(1, inverse, pair.change)
    expected = pair.change @ turned
    h = expected / curvature
    b = -pair.length * pair.slope / curvature
    a = max(h * b - 1, np.finfo(float).eps)
    rho_minus = min(1.0, h * (1 - np.sqrt(a / (1 + a))))
    theta = max((rho_minus - 1) / a, min(1 / rho_minus, (1 - b) / b)) if broyden else 0
    sigma, rho = 1 + theta * a, min(1.0, 1 / b)
    power = sigma ** (1 / (1 - max(len(turned), 2)))
    if pair.first:
        tau = h / sigma
    elif theta <= 0:
        tau = min(rho * power, sigma)
    else:
        tau = rho * min(power, 1 / theta)
    phi = (1 - theta) / sigma
    across = pair.step / curvature - turned / expected
    inverse = dsyr(-1 / expected, turned, a=inverse, overwrite_a=True)
    inverse = dsyr(phi * expected, across, a=inverse, overwrite_a=True)
    inverse *= 1 / tau
    return dsyr(1 / curvature, pair.step, a=inverse, overwrite_a=True)


def _minimize(
    objective: Objective,
    start: np.ndarray,
    method: str,
    options: dict[str, Any],
    bounds: Bounds | None = None,
) -> None:
    minimize(objective, start, jac=True, method=method, options=options, bounds=bounds)
