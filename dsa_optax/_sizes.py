"""How large the params are: what a step is long or short beside."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from dsa_optax._packed import Packed
from dsa_optax._state import widest, widest_of

LEAST_SIZE = 0.05
"""A tensor moves as if it had at least this share of the size that it began with."""


SHORT = 2**12
"""Vectors of up to so many entries are copied, so that a product serves them all."""


def inner_products(*trees: Any) -> list[list[jax.Array]]:
    """The scalar products of each of some trees with each, float32 at least."""
    dtype = widest_of([leaf for tree in trees for leaf in jax.tree.leaves(tree)])
    totals = [[jnp.zeros([], dtype)] * len(trees) for _ in trees]
    for leaves in zip(*map(jax.tree.leaves, trees), strict=True):
        products = _inner_products([leaf.astype(dtype) for leaf in leaves])
        for total, row in zip(totals, products, strict=True):
            total[:] = map(jnp.add, total, row)
    return totals


def _inner_products(xs: Sequence[jax.Array]) -> list[list[jax.Array]]:
    if xs[0].ndim == 1 and 32 < xs[0].size <= SHORT:
        # XLA makes three programs of a sum over a vector, and one of this.
        rows = jnp.stack(xs)
        gram = jnp.matmul(rows, rows.T, precision="highest")
        return [[gram[i, j] for j in range(len(xs))] for i in range(len(xs))]
    return [[jnp.sum(x * y) for y in xs] for x in xs]


def inner_product(x: Any, y: Any) -> jax.Array:
    """The scalar product of two trees, float32 at least."""
    return inner_products(x, y)[0][1]


def norm(square: jax.Array) -> jax.Array:
    """The Euclidean norm, from the scalar product of something with itself."""
    return _root(square)


def root_mean_squares(packed: Packed) -> jax.Array:
    """That of each tensor, a vector, in float32 at least; 0 of an empty one."""
    at_least_single = jax.tree.map(_single, packed)
    squares = packed.layout.sums(jax.tree.map(jnp.square, at_least_single))
    return _root(squares / np.maximum(packed.layout.sizes(), 1).astype(squares.dtype))


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


def room(params: Packed, sizes: jax.Array, share: ArrayLike) -> jax.Array:
    """How long a step of each tensor may be, as its root mean square: a vector."""
    now = root_mean_squares(params)
    least = jnp.asarray(LEAST_SIZE * sizes, now.dtype)
    return jnp.asarray(share, now.dtype) * jnp.maximum(now, least)


def _single(x: jax.Array) -> jax.Array:
    return x.astype(widest(x.dtype, jnp.float32))


def _root(squares: jax.Array) -> jax.Array:
    # The root of zero has no derivative, for those who differentiate an update.
    least = jnp.finfo(squares.dtype).tiny
    return jnp.where(squares < least, 0, jnp.sqrt(jnp.maximum(squares, least)))


class WithinReachState(NamedTuple):
    """State of `within_reach`.

    Attributes:
      sizes: of each tensor at the start, a vector.
    """

    sizes: jax.Array


def within_reach(share: ArrayLike) -> optax.GradientTransformation:
    """Shortens a packed direction as a whole, so that it takes no tensor too far.

    Args:
      share: what the root mean square of a tensor's part may be at the most, as a share
        of the tensor's own.
    """

    def init(params: Packed) -> WithinReachState:
        return WithinReachState(sizes(params))

    def update(
        updates: Packed, state: WithinReachState, params: Any = None
    ) -> tuple[Packed, WithinReachState]:
        lengths = root_mean_squares(updates)
        allowed = room(params, state.sizes, share).astype(lengths.dtype)
        shares = allowed / jnp.maximum(lengths, jnp.finfo(lengths.dtype).tiny)
        factor = jnp.min(shares, initial=1.0)
        return jax.tree.map(lambda d: factor.astype(d.dtype) * d, updates), state

    return optax.GradientTransformation(init, update)
