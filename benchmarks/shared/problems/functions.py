"""Test functions of optimization."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.problems.parts import make_problem
from benchmarks.shared.runner import Problem


def quadratic(condition: float, rotated: bool, size: int = 50) -> Problem:
    """½ wᵀHw, its eigenvalues spread evenly in the logarithm from 1/condition to 1."""
    values = np.logspace(-np.log10(condition), 0, size)
    random = np.random.default_rng(int(np.log10(condition)))
    basis = np.linalg.qr(random.normal(size=(size, size)))[0] if rotated else None
    hessian = np.diag(values) if basis is None else basis * values @ basis.T
    h = jnp.asarray(hessian, jnp.float32)
    return make_problem(
        lambda key: jax.random.normal(key, (size,)),
        lambda w: w @ h @ w / 2,
    )


def rosenbrock(size: int) -> Problem:
    """The chained banana valley, from (−1.2, 1, −1.2, 1, …) and a little noise."""
    start = jnp.tile(jnp.array([-1.2, 1.0]), size // 2)
    return make_problem(
        lambda key: start + 0.1 * jax.random.normal(key, (size,)),
        lambda w: jnp.mean(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2),
    )


def powell(size: int) -> Problem:
    """Powell's singular function: its Hessian at the optimum has no full rank."""
    start = jnp.tile(jnp.array([3.0, -1.0, 0.0, 1.0]), size // 4)

    def loss(w: jax.Array) -> jax.Array:
        a, b, c, d = w.reshape(-1, 4).T
        parts = (a + 10 * b) ** 2 + 5 * (c - d) ** 2
        return jnp.mean(parts + (b - 2 * c) ** 4 + 10 * (a - d) ** 4)

    return make_problem(lambda key: start + 0.1 * jax.random.normal(key, (size,)), loss)
