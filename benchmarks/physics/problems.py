"""Physics-informed nets: the equations, their nets, and what their solutions are.

As in the papers on self-scaled Broyden matrices (arXiv 2405.04230, 2501.16371): small
tanh nets in float64, initial values and borders by construction where that can be had,
and one fixed set of points. Inputs of a net are scaled to [−1, 1]; a coordinate in
which the solution is periodic goes in as a cosine and a sine.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.problems.parts import Weights, init_mlp, mlp

Field = Callable[[jax.Array], jax.Array]
"""From points, shape (n, coordinates), to a number at each, shape (n,)."""

POINTS = 1000
"""Where the residual is asked."""

EDGE_POINTS = 100
"""On an edge whose values aren't built in."""


class Equation(NamedTuple):
    """A differential equation, and the net that is to solve it.

    Attributes:
      label: for tables.
      low: the least of each coordinate; of time it is the first.
      high: the greatest.
      sizes: of the net's layers.
      solution: from the net's output (a field of the points) and the points to u.
      features: from scaled points to the net's inputs.
      residual: from u and points to what is to be zero at each.
      exact: u, by a formula or by another method.
      edges: from u to what else is to be zero; None where all of that is built in.
    """

    label: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    sizes: tuple[int, ...]
    solution: Callable[[jax.Array, jax.Array], jax.Array]
    features: Field
    residual: Callable[[Field, jax.Array], jax.Array]
    exact: Callable[[Any], Any]
    edges: Callable[[Field], jax.Array] | None = None


class Net(NamedTuple):
    """An equation's net as something to minimise; to be called in 64 bits.

    Attributes:
      init: from a random key to the weights.
      loss: from the weights to the mean square of the residual.
      error: from the weights to the relative L2 error of u, on points of its own.
    """

    init: Callable[[jax.Array], Weights]
    loss: Callable[[Weights], jax.Array]
    error: Callable[[Weights], jax.Array]


def net_of(equation: Equation) -> Net:
    """The net, with its points drawn."""
    low, high = np.asarray(equation.low), np.asarray(equation.high)
    points, test = (
        jnp.asarray(low + (high - low) * np.random.default_rng(seed).random(shape))
        for seed, shape in ((0, (POINTS, len(low))), (1, (4 * POINTS, len(low))))
    )
    truth = jnp.asarray(equation.exact(np.asarray(test)))

    def u(params: Weights) -> Field:
        def field(points: jax.Array) -> jax.Array:
            scaled = 2 * (points - low) / (high - low) - 1
            output = mlp(params, equation.features(scaled), jnp.tanh)[:, 0]
            return equation.solution(output, points)

        return field

    def loss(params: Weights) -> jax.Array:
        inner = jnp.mean(equation.residual(u(params), points) ** 2)
        if equation.edges is None:
            return inner
        return inner + jnp.mean(equation.edges(u(params)) ** 2)

    def error(params: Weights) -> jax.Array:
        off = u(params)(test) - truth
        return jnp.linalg.norm(off) / jnp.linalg.norm(truth)

    return Net(partial(init_mlp, equation.sizes), loss, error)


# Derivatives and inputs ---------------------------------------------------------------


def along(u: Field, axis: int, times: int = 1) -> Field:
    """∂ᵏu/∂xᵏ of a coordinate, at all points at once."""

    def slope(points: jax.Array) -> jax.Array:
        tangent = jnp.zeros_like(points).at[:, axis].set(1)
        return jax.jvp(u, (points,), (tangent,))[1]

    return slope if times == 1 else along(slope, axis, times - 1)


def as_they_are(scaled: jax.Array) -> jax.Array:
    """The coordinates."""
    return scaled


def periodic_in_space(scaled: jax.Array) -> jax.Array:
    """Time, and the cosine and sine of space."""
    angle = jnp.pi * scaled[:, 1]
    return jnp.stack([scaled[:, 0], jnp.cos(angle), jnp.sin(angle)], axis=1)


# The equations ------------------------------------------------------------------------

VISCOSITY = 0.01 / np.pi


def _burgers_residual(u: Field, x: jax.Array) -> jax.Array:
    bend = along(u, 1, 2)(x)
    return along(u, 0)(x) + u(x) * along(u, 1)(x) - VISCOSITY * bend


def burgers_exact(points: np.ndarray) -> np.ndarray:
    """By Cole and Hopf's transformation, with Gauss and Hermite's quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    t, x = points[:, :1], points[:, 1:]
    shift = x - np.sqrt(4 * VISCOSITY * t) * nodes
    # Its logarithm less the greatest, as the exponents go to hundreds.
    heights = -np.cos(np.pi * shift) / (2 * np.pi * VISCOSITY)
    kernel = weights * np.exp(heights - heights.max(axis=1, keepdims=True))
    slope = np.sin(np.pi * shift)
    return -np.sum(slope * kernel, axis=1) / np.sum(kernel, axis=1)


BURGERS = Equation(
    label="Burgers",
    low=(0.0, -1.0),
    high=(1.0, 1.0),
    sizes=(3, 20, 20, 20, 1),
    solution=lambda net, x: -jnp.sin(jnp.pi * x[:, 1]) + x[:, 0] * net,
    features=periodic_in_space,
    residual=_burgers_residual,
    exact=burgers_exact,
)

WAVES_3D = (1.0, 2.0, 1.0)


def _poisson_exact(points: jax.Array) -> jax.Array:
    return jnp.prod(jnp.sin(np.pi * np.asarray(WAVES_3D) * points), axis=1)


def _poisson_residual(u: Field, x: jax.Array) -> jax.Array:
    source = np.pi**2 * np.sum(np.square(WAVES_3D)) * _poisson_exact(x)
    return sum(along(u, i, 2)(x) for i in range(3)) + source


POISSON = Equation(
    label="Poisson, 3D",
    low=(0.0,) * 3,
    high=(1.0,) * 3,
    sizes=(3, 32, 32, 1),
    solution=lambda net, x: 16 * jnp.prod(x * (1 - x), axis=1) * net,
    features=as_they_are,
    residual=_poisson_residual,
    exact=_poisson_exact,
)


def _allen_cahn_start(x: jax.Array) -> jax.Array:
    return x[:, 1] ** 2 * jnp.cos(jnp.pi * x[:, 1])


def _allen_cahn_residual(u: Field, x: jax.Array) -> jax.Array:
    now = u(x)
    return along(u, 0)(x) - 1e-4 * along(u, 1, 2)(x) + 5 * (now**3 - now)


def allen_cahn_exact(points: np.ndarray) -> np.ndarray:
    """By a Fourier series in space, and exponential steps in time (ETDRK4)."""
    modes, steps = 512, 2000
    table = _allen_cahn_table(modes, steps)
    place = points[:, 0] * steps
    first = np.clip(np.rint(place).astype(int) - 2, 0, steps - 4)
    wave = np.pi * np.fft.fftfreq(modes, 1 / modes)
    phases = np.exp(1j * wave * (points[:, 1:] + 1)) / modes
    # Between times by the polynomial through five of them.
    values = np.stack(
        [np.sum(table[first + k] * phases, axis=1).real for k in range(5)]
    )
    at = place - first
    basis = [
        np.prod([(at - j) / (k - j) for j in range(5) if j != k], axis=0)
        for k in range(5)
    ]
    return np.sum(values * np.stack(basis), axis=0)


@cache
def _allen_cahn_table(modes: int, steps: int) -> np.ndarray:
    """The Fourier coefficients at every time step: (steps + 1, modes)."""
    x = -1 + 2 * np.arange(modes) / modes
    linear = -1e-4 * (np.pi * np.fft.fftfreq(modes, 1 / modes)) ** 2 + 5
    h = 1 / steps
    # Kassam and Trefethen's contour integrals, which don't cancel.
    circle = h * linear[:, None] + np.exp(1j * np.pi * (np.arange(32) + 0.5) / 32)
    whole, half = np.exp(h * linear), np.exp(h * linear / 2)

    def mean(values: np.ndarray) -> np.ndarray:
        return h * np.real(np.mean(values, axis=1))

    e = np.exp(circle)
    q = mean((np.exp(circle / 2) - 1) / circle)
    one = mean((-4 - circle + e * (4 - 3 * circle + circle**2)) / circle**3)
    two = mean((2 + circle + e * (circle - 2)) / circle**3)
    three = mean((-4 - 3 * circle - circle**2 + e * (4 - circle)) / circle**3)

    def bend(v: np.ndarray) -> np.ndarray:
        return -5 * np.fft.fft(np.fft.ifft(v).real ** 3)

    v = np.fft.fft(x**2 * np.cos(np.pi * x))
    table = [v]
    for _ in range(steps):
        n = bend(v)
        a = half * v + q * n
        na = bend(a)
        nb = bend(half * v + q * na)
        nc = bend(half * a + q * (2 * nb - n))
        v = whole * v + n * one + 2 * (na + nb) * two + nc * three
        table.append(v)
    return np.stack(table)


ALLEN_CAHN = Equation(
    label="Allen-Cahn",
    low=(0.0, -1.0),
    high=(1.0, 1.0),
    sizes=(3, 30, 30, 30, 1),
    solution=lambda net, x: _allen_cahn_start(x) + x[:, 0] * net,
    features=periodic_in_space,
    residual=_allen_cahn_residual,
    exact=allen_cahn_exact,
)


def _helmholtz_exact(x: jax.Array) -> jax.Array:
    return jnp.sin(jnp.pi * x[:, 0]) * jnp.sin(4 * jnp.pi * x[:, 1])


def _helmholtz_residual(u: Field, x: jax.Array) -> jax.Array:
    source = (1 - 17 * jnp.pi**2) * _helmholtz_exact(x)
    return along(u, 0, 2)(x) + along(u, 1, 2)(x) + u(x) - source


HELMHOLTZ = Equation(
    label="Helmholtz",
    low=(-1.0, -1.0),
    high=(1.0, 1.0),
    sizes=(2, 30, 30, 30, 1),
    solution=lambda net, x: jnp.prod(1 - x**2, axis=1) * net,
    features=as_they_are,
    residual=_helmholtz_residual,
    exact=_helmholtz_exact,
)

SOLITONS = ((1.2, 3.0), (0.8, -2.0))
"""Wave number and phase of each."""


def _solitons(x: jax.Array) -> jax.Array:
    """Hirota's two solitons, u = 2 ∂²(log f)/∂x², with time and space as x."""
    (k, a), (m, b) = SOLITONS

    def log_f(x: jax.Array) -> jax.Array:
        one = k * x[:, 1] - k**3 * x[:, 0] + a
        two = m * x[:, 1] - m**3 * x[:, 0] + b
        both = one + two + 2 * np.log((k - m) / (k + m))
        return jax.nn.logsumexp(jnp.stack([0 * one, one, two, both]), axis=0)

    return 2 * along(log_f, 1, 2)(x)


def _kdv_residual(u: Field, x: jax.Array) -> jax.Array:
    return along(u, 0)(x) + 6 * u(x) * along(u, 1)(x) + along(u, 1, 3)(x)


KDV_LOW, KDV_HIGH = (0.0, -10.0), (5.0, 10.0)


def _kdv_edges(u: Field) -> jax.Array:
    """u at both ends, and its slope at the right one: three are needed."""
    times = np.linspace(KDV_LOW[0], KDV_HIGH[0], EDGE_POINTS)
    left, right = (
        jnp.asarray(np.stack([times, np.full_like(times, end)], axis=1))
        for end in (KDV_LOW[1], KDV_HIGH[1])
    )
    off = lambda points: u(points) - _solitons(points)
    return jnp.concatenate([off(left), off(right), along(off, 1)(right)])


KDV = Equation(
    label="Korteweg-de Vries",
    low=KDV_LOW,
    high=KDV_HIGH,
    sizes=(2, 30, 30, 30, 1),
    solution=lambda net, x: _solitons(x.at[:, 0].set(0)) + x[:, 0] * net,
    features=as_they_are,
    residual=_kdv_residual,
    exact=_solitons,
    edges=_kdv_edges,
)

CHOOSING: Mapping[str, Equation] = {"burgers": BURGERS, "poisson": POISSON}
"""On which settings may be chosen."""

FIVE: Mapping[str, Equation] = {
    **CHOOSING,
    "allen-cahn": ALLEN_CAHN,
    "helmholtz": HELMHOLTZ,
    "kdv": KDV,
}

WIDTHS = (50, 100, 180)

WIDE: Mapping[str, Equation] = {
    f"poisson-{width}": POISSON._replace(
        label=f"Poisson, 3D, 4 × {width}", sizes=(3, *[width] * 4, 1)
    )
    for width in WIDTHS
}
"""Of 7,901, 30,801 and 98,641 parameters: more than one matrix can hold."""

EQUATIONS: Mapping[str, Equation] = {**FIVE, **WIDE}
