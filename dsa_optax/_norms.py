"""Norms of packed trees, by the tensor: what a step is long or short beside."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dsa_optax._packed import Packed
from dsa_optax._trees import norm, widest

LEAST_SIZE = 0.05
"""A tensor moves as if it had at least this share of the size that it began with."""


def root_mean_squares(packed: Packed) -> jax.Array:
    """That of each tensor, a vector, in float32 at least; 0 of an empty one."""
    at_least_single = jax.tree.map(_single, packed)
    squares = packed.layout.sums(jax.tree.map(jnp.square, at_least_single))
    return norm(squares / np.maximum(packed.layout.sizes(), 1).astype(squares.dtype))


def sizes(params: Packed) -> jax.Array:
    """The root mean square of each tensor, as training begins with it, a vector.

    A tensor of zeros (a bias, often) counts as large as all the params together, and
    params of nothing but zeros as of size 1.
    """
    own = root_mean_squares(params)
    return jnp.where(own > 0, own, size_of_all(params))


def size_of_all(params: Packed) -> jax.Array:
    """The root mean square of all entries; 1 where there is none but zeros."""
    own, counts = root_mean_squares(params), params.layout.sizes()
    shares = (counts / max(counts.sum(), 1)).astype(own.dtype)
    square = jnp.sum(shares * jnp.square(own))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 1)


def longest_step(params: Packed, sizes: jax.Array, share: ArrayLike) -> jax.Array:
    """How long a step of each tensor may be, as its root mean square: a vector.

    Args:
      params: where the step begins.
      sizes: what `sizes` said of the params at the start.
      share: of the tensor's own root mean square.
    """
    now = root_mean_squares(params)
    least = jnp.asarray(LEAST_SIZE * sizes, now.dtype)
    return jnp.asarray(share, now.dtype) * jnp.maximum(now, least)


def _single(x: jax.Array) -> jax.Array:
    return x.astype(widest(x.dtype, jnp.float32))
