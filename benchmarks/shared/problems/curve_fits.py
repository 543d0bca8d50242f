"""Fits of curves: some with parameters in their own units."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.problems.parts import make_problem
from benchmarks.shared.runner import Problem


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


def peaks_fit(count: int) -> Problem:
    """Height, place and log width of Gaussian peaks, from a noisy spectrum."""
    random = np.random.default_rng(count)
    axis = jnp.linspace(0, 1, 200)
    places = (jnp.arange(count) + 0.5) / count

    def spectrum(p: dict[str, jax.Array]) -> jax.Array:
        distance = (axis[:, None] - p["place"]) / jnp.exp(p["log_width"])
        return jnp.exp(-(distance**2) / 2) @ p["height"]

    truth = {
        "height": jnp.asarray(random.uniform(0.5, 2, count), jnp.float32),
        "place": places,
        "log_width": jnp.asarray(
            np.log(random.uniform(0.02, 0.06, count)), jnp.float32
        ),
    }
    noise = jnp.asarray(random.normal(size=200), jnp.float32)
    seen = spectrum(truth) + 0.01 * noise

    def init(key: jax.Array) -> dict[str, jax.Array]:
        off = 0.02 * jax.random.normal(key, (count,))
        wide = jnp.full(count, np.log(0.05), jnp.float32)
        return {"height": jnp.ones(count), "place": places + off, "log_width": wide}

    return make_problem(init, lambda p: jnp.mean((spectrum(p) - seen) ** 2))


def decays_fit() -> Problem:
    """Two exponential decays and a constant: amplitudes and log rates, nearly alike."""
    axis = jnp.linspace(0, 5, 120)

    def curve(p: jax.Array) -> jax.Array:
        fast, slow = jnp.exp(-jnp.exp(p[3]) * axis), jnp.exp(-jnp.exp(p[4]) * axis)
        return p[0] * fast + p[1] * slow + p[2]

    noise = np.random.default_rng(1).normal(size=120).astype(np.float32)
    seen = curve(jnp.array([3.0, 1.0, 0.2, 1.0, -0.7])) + 0.01 * noise
    start = jnp.array([1.0, 1.0, 0.0, 0.5, -0.5])
    return make_problem(
        lambda key: start + 0.1 * jax.random.normal(key, (5,)),
        lambda p: jnp.mean((curve(p) - seen) ** 2),
    )
