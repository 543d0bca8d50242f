"""Factors of matrices and tensors."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shared.problems.parts import make_problem
from benchmarks.shared.runner import Problem


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
