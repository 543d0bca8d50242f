"""Likelihoods: survival, counts, a Kalman filter, a Gaussian process."""

from collections.abc import Sequence
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


def gaussian_process(rows: int, dimensions: int) -> Problem:
    """Log hyper-parameters of an ARD kernel on diabetes: the negative log likelihood.

    The params are the logarithms of a length scale a feature, amplitude and noise.
    """
    x, y = load_table("diabetes", standardised=True)
    x, y = x[:rows, :dimensions], y[:rows]
    y = (y - y.mean()) / y.std()

    def init(key: jax.Array) -> dict[str, jax.Array]:
        scales = 0.3 * jax.random.normal(key, (dimensions,))
        return {"scales": scales, "amplitude": jnp.zeros(()), "noise": jnp.zeros(())}

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        scaled = x / jnp.exp(p["scales"])
        squares = jnp.sum((scaled[:, None] - scaled) ** 2, axis=-1)
        kernel = jnp.exp(2 * p["amplitude"] - squares / 2)
        noise = jnp.exp(2 * p["noise"]) + 1e-5
        factor = jnp.linalg.cholesky(kernel + noise * jnp.eye(rows))
        white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        return jnp.mean(white**2) / 2 + jnp.mean(jnp.log(jnp.diag(factor)))

    return make_problem(init, loss)
