"""Fits in closed form: a Gaussian process, factors of a matrix, peaks, decays."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.problems.parts import load_table, make_problem
from benchmarks.shared.runner import Problem


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


def matrix_factorisation(rows: int, columns: int, rank: int, seen: float) -> Problem:
    """Two thin factors of a matrix of that rank, of which a share is seen."""
    random = np.random.default_rng(0)
    left, right = random.normal(size=(rows, rank)), random.normal(size=(rank, columns))
    matrix = jnp.asarray(left @ right / rank**0.5, jnp.float32)
    mask = jnp.asarray(random.uniform(size=(rows, columns)) < seen)

    def init(key: jax.Array) -> dict[str, jax.Array]:
        one, two = jax.random.split(key)
        return {
            "left": 0.1 * jax.random.normal(one, (rows, rank)),
            "right": 0.1 * jax.random.normal(two, (rank, columns)),
        }

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        return jnp.mean((p["left"] @ p["right"] - matrix) ** 2, where=mask)

    return make_problem(init, loss)


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
