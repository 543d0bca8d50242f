"""Fits of the race beyond least squares: raw units, likelihoods, tensors, a PDE."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.problems.parts import (
    Weights,
    init_mlp,
    load_table,
    make_problem,
    mlp,
)
from benchmarks.shared.runner import Problem

# Curves in their own units ------------------------------------------------------------


def growth() -> Problem:
    """A population of millions by calendar years: capacity, rate a year, middle."""

    def curve(p: jax.Array, years: jax.Array) -> jax.Array:
        return p[0] * jax.nn.sigmoid(p[1] * (years - p[2]))

    years = jnp.linspace(1790, 2010, 23)
    truth, start = (380.0, 0.025, 1945.0), (250.0, 0.02, 1920.0)
    return _raw_fit(curve, years, truth, start, (20.0, 0.002, 5.0), 2.0)


def cooling() -> Problem:
    """Degrees of a cup by seconds: the room's, the drop and the seconds of a fall by e.

    The cup is watched for an hour.
    """

    def curve(p: jax.Array, seconds: jax.Array) -> jax.Array:
        return p[0] + p[1] * jnp.exp(-seconds / p[2])

    seconds = jnp.linspace(0, 3600, 61)
    truth, start = (21.0, 68.0, 900.0), (15.0, 60.0, 1300.0)
    return _raw_fit(curve, seconds, truth, start, (2.0, 5.0, 100.0), 0.2)


def _raw_fit(
    curve: Callable[[jax.Array, jax.Array], jax.Array],
    axis: jax.Array,
    truth: Sequence[float],
    start: Sequence[float],
    spread: Sequence[float],
    noise: float,
) -> Problem:
    """Least squares whose params are of unlike sizes.

    Args:
      curve: from the params and the axis to values.
      axis: where values are seen.
      truth: the params of what is seen.
      start: where the fit begins, on the mean over the seeds.
      spread: the deviation of that.
      noise: the deviation of what is seen, in the values' unit.
    """
    drawn = np.random.default_rng(0).normal(size=len(axis)).astype(np.float32)
    seen = curve(jnp.asarray(truth), axis) + noise * drawn

    def init(key: jax.Array) -> jax.Array:
        off = jax.random.normal(key, (len(start),))
        return jnp.asarray(start) + jnp.asarray(spread) * off

    return make_problem(init, lambda p: jnp.mean((curve(p, axis) - seen) ** 2))


# Likelihoods --------------------------------------------------------------------------


def survival(name: str, rows: int, hidden: Sequence[int]) -> Problem:
    """Cox's partial likelihood on a table: a net, or a line, as the log hazard.

    Survival times follow from the features, and a third or so is censored.
    """
    x = load_table(name, standardised=True)[0][:rows]
    random = np.random.default_rng(0)
    times = random.exponential(size=rows) / np.exp(_signal(x, random))
    censored = random.exponential(2.0, size=rows)
    seen, died = np.minimum(times, censored), jnp.asarray(times <= censored)
    at_risk = jnp.asarray(seen >= seen[:, None])

    def loss(params: Weights) -> jax.Array:
        hazard = mlp(params, x, jnp.tanh)[:, 0]
        total = jax.nn.logsumexp(hazard[None], axis=1, where=at_risk)
        return jnp.mean(total - hazard, where=died)

    return make_problem(partial(init_mlp, (x.shape[1], *hidden, 1)), loss)


def poisson_counts(name: str) -> Problem:
    """Poisson regression of counts that follow from a table's features."""
    x, counts = _counts(name, 0.0)

    def loss(params: Weights) -> jax.Array:
        log_rate = mlp(params, x, jnp.tanh)[:, 0]
        return jnp.mean(jnp.exp(log_rate) - counts * log_rate)

    return make_problem(partial(init_mlp, (x.shape[1], 1)), loss)


def spread_counts(name: str) -> Problem:
    """Negative binomial regression: counts that spread more than Poisson's do."""
    x, counts = _counts(name, 0.7)
    lgamma = jax.scipy.special.gammaln

    def init(key: jax.Array) -> dict[str, Any]:
        return {"rate": init_mlp((x.shape[1], 1), key), "log_shape": jnp.zeros(())}

    def loss(p: dict[str, Any]) -> jax.Array:
        log_rate, log_shape = mlp(p["rate"], x, jnp.tanh)[:, 0], p["log_shape"]
        shape = jnp.exp(log_shape)
        ways = lgamma(counts + shape) - lgamma(shape) - lgamma(counts + 1)
        both = jnp.logaddexp(log_shape, log_rate)
        odds = counts * (log_rate - both) + shape * (log_shape - both)
        return -jnp.mean(ways + odds)

    return make_problem(init, loss)


def _counts(name: str, spread: float) -> tuple[jax.Array, jax.Array]:
    """A table's features, and counts of about five with a mean that they tell.

    Args:
      name: of the table.
      spread: the deviation of what else moves the log of the mean.
    """
    x, _ = load_table(name, standardised=True)
    random = np.random.default_rng(1)
    means = np.exp(1.5 + _signal(x, random) + spread * random.normal(size=len(x)))
    return x, jnp.asarray(random.poisson(means), jnp.float32)


def _signal(x: jax.Array, random: np.random.Generator) -> np.ndarray:
    """A line through the features with random slopes, of deviation 0.7."""
    line = np.asarray(x, float) @ random.normal(size=x.shape[1])
    return 0.7 * line / line.std()


def kalman(
    transition: Sequence[Sequence[float]], deviations: Sequence[float]
) -> Problem:
    """The variances of a structural time series, by the Kalman filter's likelihood.

    The params are their logarithms, the observation's last.

    Args:
      transition: from a state to the next; the first of the state is observed.
      deviations: the true ones, of the state's noise and of the observation's.
    """
    to_next = jnp.asarray(transition)
    size = len(transition)
    series = _structural(np.asarray(transition), np.asarray(deviations), 100)

    def init(key: jax.Array) -> jax.Array:
        return 0.5 * jax.random.normal(key, (size + 1,))

    def loss(log_variances: jax.Array) -> jax.Array:
        moves, noise = jnp.exp(log_variances[:-1]), jnp.exp(log_variances[-1])

        def step(
            belief: tuple[jax.Array, jax.Array], y: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            mean, covariance = belief
            total, off = covariance[0, 0] + noise, y - mean[0]
            gain = covariance[:, 0] / total
            mean = to_next @ (mean + gain * off)
            left = covariance - jnp.outer(gain, covariance[0])
            covariance = to_next @ left @ to_next.T + jnp.diag(moves)
            return (mean, covariance), (jnp.log(total) + off**2 / total) / 2

        # All but ignorant of where it begins.
        start = (jnp.zeros(size), 100 * jnp.eye(size))
        return jnp.mean(jax.lax.scan(step, start, series)[1])

    return make_problem(init, loss)


def _structural(
    transition: np.ndarray, deviations: np.ndarray, length: int
) -> jax.Array:
    random = np.random.default_rng(len(transition))
    state, seen = np.zeros(len(transition)), []
    for _ in range(length):
        seen.append(state[0] + deviations[-1] * random.normal())
        state = transition @ state + deviations[:-1] * random.normal(size=len(state))
    return jnp.asarray(seen, jnp.float32)


# Tensors and fields -------------------------------------------------------------------


def tensor_factors(shape: Sequence[int], rank: int, alike: float) -> Problem:
    """The factors of a tensor of three ways and that rank, with a little noise.

    Args:
      shape: of the tensor.
      rank: columns of each factor.
      alike: the share that all columns of a factor have in common; near 1 the fit
        stands still for long.
    """
    random = np.random.default_rng(rank)

    def factor(size: int) -> np.ndarray:
        own, common = random.normal(size=(size, rank)), random.normal(size=(size, 1))
        return np.sqrt(1 - alike) * own + np.sqrt(alike) * common

    whole = np.einsum("ir,jr,kr->ijk", *(factor(size) for size in shape))
    seen = whole + 0.01 * whole.std() * random.normal(size=whole.shape)
    tensor = jnp.asarray(seen, jnp.float32)

    def init(key: jax.Array) -> list[jax.Array]:
        keys = jax.random.split(key, 3)
        return [
            jax.random.normal(k, (size, rank)) / 2
            for k, size in zip(keys, shape, strict=True)
        ]

    def loss(factors: list[jax.Array]) -> jax.Array:
        return jnp.mean((jnp.einsum("ir,jr,kr->ijk", *factors) - tensor) ** 2)

    return make_problem(init, loss)


def heat_inversion(cells: int, heated: bool) -> Problem:
    """The log conductivity of a rod, from its temperatures; both ends are at zero.

    The params are one logarithm a face between cells, smooth by a small penalty; every
    second cell is seen, at 20 times.

    Args:
      cells: of the rod.
      heated: all along, about a third of the way; else it cools from a bump there.
    """
    place = (np.arange(cells) + 0.5) / cells
    bump = jnp.asarray(np.exp(-(((place - 0.3) / 0.15) ** 2)), jnp.float32)
    start, source = (jnp.zeros(cells), 5 * bump) if heated else (bump, jnp.zeros(cells))
    faces = np.linspace(0, 1, cells + 1)
    differences = jnp.asarray(
        cells * np.diff(np.eye(cells), axis=0, prepend=0, append=0)
    )
    duration = 0.02

    def temperatures(log_conductivity: jax.Array) -> jax.Array:
        flows = jnp.exp(log_conductivity)[:, None] * differences
        # Backward in time, which stays finite at any conductivity.
        stiffness = jnp.eye(cells) + duration * differences.T @ flows
        backward = jnp.linalg.inv(stiffness)

        def step(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            state = backward @ (state + duration * source)
            return state, state[::2]

        return jax.lax.scan(step, start, length=20)[1]

    truth = jnp.asarray(np.sin(2 * np.pi * faces) - 0.5 * (faces > 0.6), jnp.float32)
    seen = temperatures(truth)
    scale = seen.std()
    noise = np.random.default_rng(cells).normal(size=seen.shape).astype(np.float32)
    seen = seen + 0.01 * scale * noise

    def loss(log_conductivity: jax.Array) -> jax.Array:
        off = (temperatures(log_conductivity) - seen) / scale
        rough = jnp.diff(log_conductivity)
        return jnp.mean(off**2) + 1e-4 * jnp.mean(rough**2)

    return make_problem(lambda key: 0.1 * jax.random.normal(key, (cells + 1,)), loss)
