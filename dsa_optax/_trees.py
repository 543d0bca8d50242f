"""Trees: their dtypes and nodes, steps along them, scalar products."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

SHORT = 2**12
"""Vectors of up to so many entries are copied, so that a product serves them all."""


# Dtypes -------------------------------------------------------------------------------


def widest(*dtypes: Any) -> jnp.dtype:
    """The floating dtype with the most bits; of two as wide, the first."""
    return max(map(jnp.dtype, dtypes), key=lambda dtype: jnp.finfo(dtype).bits)


def widest_of(leaves: Iterable[jax.Array]) -> jnp.dtype:
    """The widest dtype among arrays, float32 at least."""
    return widest(jnp.float32, *(leaf.dtype for leaf in leaves))


def filled_like(params: optax.Params, value: jax.Array) -> optax.Params:
    """A tree like the params, in the value's dtype."""
    # It looks at the params, since a jitted init gives its result their sharding only
    # where it depends on them; and each leaf is a buffer of its own, to be donated.
    return jax.tree.map(lambda p: jnp.where(jnp.equal(p, p), value, value), params)


def zeros_like(params: optax.Params, dtype: Any | None = None) -> optax.Params:
    """Zeros of the params' dtypes, or of another; see `filled_like`."""

    def leaf(param: jax.Array) -> jax.Array:
        return filled_like(param, jnp.zeros([], dtype or param.dtype))

    return jax.tree.map(leaf, params)


def working_precision(grads: optax.Updates, rates: optax.Params) -> optax.Updates:
    """The gradients in their own dtype or the rates', whichever is wider."""

    def leaf(rate: jax.Array, grad: jax.Array) -> jax.Array:
        grad = jnp.asarray(grad)
        return grad.astype(widest(rate.dtype, grad.dtype))

    return map_below(leaf, rates, grads)


def map_below(fn: Callable[..., Any], prefix: optax.Params, *trees: Any) -> Any:
    """Maps `fn(value, *leaves)` over trees of which `prefix` is a prefix."""
    return jax.tree.map(
        lambda value, *below: jax.tree.map(lambda *xs: fn(value, *xs), *below),
        prefix,
        *trees,
    )


def nodes_of(tree: Any, *kinds: type) -> list[Any]:
    """The nodes of some types in a tree, but none below another."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kinds)]


# Steps and products -------------------------------------------------------------------


def steps_of(
    lengths: optax.Params, directions: optax.Updates, params: optax.Params
) -> optax.Updates:
    """length · d, in the dtype of the params; `lengths` may be a prefix of the rest."""

    def leaf(length: jax.Array, direction: jax.Array, param: jax.Array) -> jax.Array:
        # The length in the dtype of the rates, so that `learning_rates` gives it.
        moved = length.astype(direction.dtype) * direction
        moved = moved.astype(jnp.asarray(param).dtype)
        # A step too long for the dtype isn't taken: it could never be taken back.
        return jnp.where(jnp.isfinite(moved), moved, jnp.zeros_like(moved))

    return map_below(leaf, lengths, directions, params)


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


def norm(squares: jax.Array) -> jax.Array:
    """Euclidean norms, from the scalar products of things with themselves."""
    # The root of zero has no derivative, for those who differentiate an update.
    least = jnp.finfo(squares.dtype).tiny
    return jnp.where(squares < least, 0, jnp.sqrt(jnp.maximum(squares, least)))
