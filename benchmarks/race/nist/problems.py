"""The models of NIST's regressions, as losses to minimise, and when that is done."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from benchmarks.race.nist import data
from benchmarks.shared.data.files import DataDir

Params = dict[str, jax.Array]
"""A scalar leaf a parameter: b1, b2 and so on, in NIST's units."""

Model = Callable[..., Any]
"""From the predictors and then the parameters, in their order, to the response."""

DTYPES = ("float64", "float32")

TOLERANCES = {"float64": 1e-6, "float32": 1e-3}
"""By how much of the certified sum of squares a solution may be above it."""

FLOORS = {"float64": 1e-20, "float32": 1e-12}
"""And by how much of the squared observations: their last digits can't be fitted."""


class Trace(NamedTuple):
    """What one run saw.

    Attributes:
      start: which of the starts, from 0.
      setting: the solver's.
      evaluations: gradients evaluated, when a point was seen; increasing.
      rss: the residual sum of squares there, in float64; infinite for one that is no
        number.
    """

    start: int
    setting: float
    evaluations: np.ndarray
    rss: np.ndarray

    def evaluations_to(self, goal: float) -> float:
        """The first evaluation that saw the goal met; infinite where none did."""
        met = self.rss <= goal
        return float(self.evaluations[met.argmax()]) if met.any() else np.inf


class Regression(NamedTuple):
    """A model with its data; what it computes has the dtype of the params.

    Attributes:
      name: NIST's.
      residuals: from the params to observations less the model.
      starts: float64, a row a start and a column a parameter.
      certified: the parameters of the best fit, in float64.
      certified_rss: its residual sum of squares.
      level: NIST's level of difficulty, one of `data.LEVELS`.
      squares: the sum of the squared observations.
    """

    name: str
    residuals: Callable[[Params], jax.Array]
    starts: np.ndarray
    certified: np.ndarray
    certified_rss: float
    level: str
    squares: float

    def loss(self, params: Params) -> jax.Array:
        """The residual sum of squares."""
        return jnp.sum(self.residuals(params) ** 2)

    def goal(self, dtype: str) -> float:
        """The residual sum of squares of a solution, in one of `DTYPES`."""
        floor = FLOORS[dtype] * self.squares
        return self.certified_rss * (1 + TOLERANCES[dtype]) + floor


def load(data_dir: DataDir = None) -> Mapping[str, Regression]:
    """All regressions by name, from the files that `data.load` reads."""
    return {name: regression(data.load(name, data_dir)) for name in data.FILES}


def regression(reference: data.Reference) -> Regression:
    """A data set with its model."""
    model = MODELS[reference.name]
    y = np.log(reference.y) if reference.name == "Nelson" else reference.y
    names = [f"b{i + 1}" for i in range(len(reference.certified))]

    def residuals(params: Params) -> jax.Array:
        dtype = params["b1"].dtype
        x = [jnp.asarray(row, dtype) for row in reference.x]
        fitted = model(*x, *(params[name] for name in names))
        return jnp.asarray(y, dtype) - fitted

    return Regression(
        name=reference.name,
        residuals=residuals,
        starts=reference.starts,
        certified=reference.certified,
        certified_rss=reference.certified_rss,
        level=reference.level,
        squares=float(np.sum(y**2)),
    )


def as_params(values: np.ndarray | jax.Array, dtype: DTypeLike) -> Params:
    """From parameters along the last axis to a leaf each."""
    return {
        f"b{i + 1}": jnp.asarray(values[..., i], dtype) for i in range(values.shape[-1])
    }


# The models ---------------------------------------------------------------------------


def _lanczos(x: Any, *b: Any) -> Any:
    return sum(b[i] * jnp.exp(-b[i + 1] * x) for i in (0, 2, 4))


def _gauss(x: Any, *b: Any) -> Any:
    peaks = (b[i] * jnp.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5))
    return b[0] * jnp.exp(-b[1] * x) + sum(peaks)


def _enso(x: Any, *b: Any) -> Any:
    def cycle(months: Any, cosine: Any, sine: Any) -> Any:
        angle = 2 * jnp.pi * x / months
        return cosine * jnp.cos(angle) + sine * jnp.sin(angle)

    year = cycle(12, b[1], b[2])
    return b[0] + year + cycle(b[3], b[4], b[5]) + cycle(b[6], b[7], b[8])


def _cubics(x: Any, *b: Any) -> Any:
    above = b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3
    return above / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def _chwirut(x: Any, b1: Any, b2: Any, b3: Any) -> Any:
    return jnp.exp(-b1 * x) / (b2 + b3 * x)


def _saturation(x: Any, b1: Any, b2: Any) -> Any:
    return b1 * (1 - jnp.exp(-b2 * x))


MODELS: Mapping[str, Model] = {
    "Misra1a": _saturation,
    "Chwirut2": _chwirut,
    "Chwirut1": _chwirut,
    "Lanczos3": _lanczos,
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "DanWood": lambda x, b1, b2: b1 * x**b2,
    "Misra1b": lambda x, b1, b2: b1 * (1 - (1 + b2 * x / 2) ** -2),
    "Kirby2": lambda x, b1, b2, b3, b4, b5: (
        (b1 + b2 * x + b3 * x**2) / (1 + b4 * x + b5 * x**2)
    ),
    "Hahn1": _cubics,
    # The file gives the model of log(y).
    "Nelson": lambda x1, x2, b1, b2, b3: b1 - b2 * x1 * jnp.exp(-b3 * x2),
    "MGH17": lambda x, b1, b2, b3, b4, b5: (
        b1 + b2 * jnp.exp(-x * b4) + b3 * jnp.exp(-x * b5)
    ),
    "Lanczos1": _lanczos,
    "Lanczos2": _lanczos,
    "Gauss3": _gauss,
    "Misra1c": lambda x, b1, b2: b1 * (1 - (1 + 2 * b2 * x) ** -0.5),
    "Misra1d": lambda x, b1, b2: b1 * b2 * x / (1 + b2 * x),
    "Roszman1": lambda x, b1, b2, b3, b4: (
        b1 - b2 * x - jnp.arctan(b3 / (x - b4)) / jnp.pi
    ),
    "ENSO": _enso,
    "MGH09": lambda x, b1, b2, b3, b4: b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4),
    "Thurber": _cubics,
    "BoxBOD": _saturation,
    "Rat42": lambda x, b1, b2, b3: b1 / (1 + jnp.exp(b2 - b3 * x)),
    "MGH10": lambda x, b1, b2, b3: b1 * jnp.exp(b2 / (x + b3)),
    "Eckerle4": lambda x, b1, b2, b3: (b1 / b2) * jnp.exp(-0.5 * ((x - b3) / b2) ** 2),
    "Rat43": lambda x, b1, b2, b3, b4: b1 / (1 + jnp.exp(b2 - b3 * x)) ** (1 / b4),
    "Bennett5": lambda x, b1, b2, b3: b1 * (b2 + x) ** (-1 / b3),
}
"""As the files write them."""
