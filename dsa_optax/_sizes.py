"""How large the params are: what a step is long or short beside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax._state import widest, widest_of

LEAST_SIZE = 0.05
"""A tensor moves as if it had at least this share of the size that it began with."""


def root_mean_square(x: jax.Array) -> jax.Array:
    """The root mean square of an array, in float32 at least; 0 of an empty one."""
    x = x.astype(widest(x.dtype, jnp.float32))
    square = jnp.sum(jnp.square(x)) / max(x.size, 1)
    # The root of zero has no derivative, for those who differentiate an update.
    least = jnp.finfo(x.dtype).tiny
    return jnp.where(square < least, 0, jnp.sqrt(jnp.maximum(square, least)))


def sizes(params: optax.Params) -> Any:
    """The root mean square of each tensor, as training begins with it.

    A tensor of zeros (a bias, often) counts as large as all the params together, and
    params of nothing but zeros as of size 1.

    Returns:
      A tree like the params, of scalars.
    """
    own = jax.tree.map(root_mean_square, params)
    together = size_of_all(params)
    return jax.tree.map(
        lambda size: jnp.where(size > 0, size, together.astype(size.dtype)), own
    )


def size_of_all(params: optax.Params) -> jax.Array:
    """The root mean square of all entries; 1 where there is none but zeros."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    dtype = widest_of(leaves)
    squares = [
        leaf.size * jnp.square(root_mean_square(leaf).astype(dtype)) for leaf in leaves
    ]
    count = sum(leaf.size for leaf in leaves)
    square = sum(squares, jnp.zeros([], dtype)) / max(count, 1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 1)


def room(param: jax.Array, size: jax.Array, share: ArrayLike) -> jax.Array:
    """How long a step of a tensor may be, as its root mean square."""
    now = root_mean_square(param)
    least = jnp.asarray(LEAST_SIZE * size, now.dtype)
    return jnp.asarray(share, now.dtype) * jnp.maximum(now, least)


class WithinReachState(NamedTuple):
    """State of `within_reach`.

    Attributes:
      sizes: of each tensor at the start, a tree of scalars like the params.
    """

    sizes: Any


def within_reach(share: ArrayLike) -> optax.GradientTransformation:
    """Shortens a direction as a whole, so that it takes no tensor too far.

    Args:
      share: what the root mean square of a tensor's part may be at the most, as a share
        of the tensor's own.
    """

    def init(params: optax.Params) -> WithinReachState:
        return WithinReachState(sizes(params))

    def update(
        updates: optax.Updates,
        state: WithinReachState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, WithinReachState]:
        def least(direction: jax.Array, param: jax.Array, size: jax.Array) -> jax.Array:
            allowed, length = room(param, size, share), root_mean_square(direction)
            tiny = jnp.finfo(length.dtype).tiny
            return allowed.astype(length.dtype) / jnp.maximum(length, tiny)

        factors = jax.tree.map(least, updates, params, state.sizes)
        factor = jax.tree.reduce(
            lambda x, y: jnp.minimum(x, y.astype(x.dtype)), factors, jnp.ones([])
        )
        return jax.tree.map(lambda d: factor.astype(d.dtype) * d, updates), state

    return optax.GradientTransformation(init, update)
