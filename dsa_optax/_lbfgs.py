"""The direction of L-BFGS, for a step size that somebody else finds."""

from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from dsa_optax._packed import Packed
from dsa_optax._step_back import Verdict
from dsa_optax._trees import inner_products, norm, widest_of, zeros_like

Arrays: TypeAlias = dict[str, jax.Array]
"""Of a `Packed`."""

_matmul = partial(jnp.matmul, precision="highest")


class LBFGSState(NamedTuple):
    """State of `lbfgs_direction`; m is the memory, and a slot is one of its pairs.

    Attributes:
      pairs: number of pairs that were stored so far, an int32 scalar.
      grads: the gradient of the last update, packed.
      steps: s = θ − θ₋ of the last m pairs, packed: a matrix with a slot to a row, of
        stacked leaves one for each.
      turns: y = g − g₋ of the last m pairs, likewise.
      curvatures: the scalar products ⟨sᵢ, yᵢ⟩, shape (m,); zero for an empty slot.
      inverse: of the matrix with ⟨sᵢ, yⱼ⟩ / ⟨sᵢ, yᵢ⟩ where pair i is not newer than
        pair j, else 0; shape (m, m). Zero in the rows and columns of empty slots.
      turns_by_turns: the scalar products ⟨yᵢ, yⱼ⟩, shape (m, m).
    """

    pairs: jax.Array
    grads: optax.Updates
    steps: Any
    turns: Any
    curvatures: jax.Array
    inverse: jax.Array
    turns_by_turns: jax.Array


def lbfgs_direction(memory_size: int) -> optax.GradientTransformationExtraArgs:
    r"""Turns a gradient g into −Hg, with L-BFGS's estimate H of the inverse Hessian.

    In the compact form: with γ from the last pair, R the upper triangle of SᵀY, and D
    its diagonal,

    .. math::
      p = R^{-1} S^\top g, \quad
      H g = \gamma (g - Y p)
        + S R^{-\top} \left(D p + \gamma (Y^\top Y p - Y^\top g)\right),

    whose few products with the whole memory take the place of the 2m that the two-loop
    recursion takes one after the other. The inverse of :math:`D^{-1} R` is kept instead
    of R: without the oldest pair the inverse of the rest is a block of it, and a new
    pair adds one column to it, so no system is ever solved, and the pairs can lie in
    any order. A pair without a clearly positive curvature is left out, so that H stays
    positive definite; where rounding spoils the direction all the same, it is zero.

    Args:
      memory_size: m ≥ 1, how many pairs are remembered.

    Returns:
      A transformation of packed trees, below `stepping_back`: where the last step is
      taken back its state stays as it is. (Its many rows change in place, which to
      choose between two copies would end.) The first direction is −g, but no longer
      than 1.

    References:
      Byrd, Nocedal and Schnabel, `Representations of quasi-Newton matrices and their
      use in limited memory methods <https://doi.org/10.1007/BF01582063>`_, 1994,
      Eq. 3.1
    """

    def init(params: Packed) -> LBFGSState:
        # One dtype for all, and no scalar product in half precision.
        dtype = widest_of(jax.tree.leaves(params))
        zeros = zeros_like(params.arrays, dtype)

        def slots() -> Any:
            return jax.tree.map(lambda z: jnp.stack([_row(z)] * memory_size, -2), zeros)

        return LBFGSState(
            pairs=jnp.zeros([], jnp.int32),
            grads=zeros,
            steps=slots(),
            turns=slots(),
            curvatures=jnp.zeros(memory_size, dtype),
            inverse=jnp.zeros((memory_size, memory_size), dtype),
            turns_by_turns=jnp.zeros((memory_size, memory_size), dtype),
        )

    def update(
        updates: Packed,
        state: LBFGSState,
        params: Packed,
        *,
        verdict: Verdict,
        **extra_args: Any,
    ) -> tuple[Packed, LBFGSState]:
        del params, extra_args
        grads, moved = optax.tree.cast(
            (updates.arrays, verdict.moved.arrays), state.inverse.dtype
        )
        state, seen = _remembered(grads, moved, verdict.back, state)
        direction = Packed(_direction(grads, state, seen), updates.layout)
        return optax.tree.cast_like(direction, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


class _Seen(NamedTuple):
    """What the memory says of the gradient g and its last change y.

    Attributes:
      steps: the products of the slots' steps with y and with g, shape (m, 2).
      turns: those of their turns, likewise.
      steepness: the norm of g.
    """

    steps: jax.Array
    turns: jax.Array
    steepness: jax.Array


def _remembered(
    grads: Arrays, step: Arrays, hold: jax.Array, state: LBFGSState
) -> tuple[LBFGSState, _Seen]:
    """The state with the pair of the last step, if it is of use."""
    turn = jax.tree.map(jnp.subtract, grads, state.grads)
    products = inner_products(step, turn, grads)
    step_norm, turn_norm, steepness = (norm(products[i][i]) for i in range(3))
    curvature = products[0][1].astype(state.inverse.dtype)
    clear = jnp.finfo(curvature.dtype).eps * step_norm * turn_norm
    useful = (curvature > clear) & ~hold
    slot = state.pairs % len(state.curvatures)

    def put(rows: jax.Array, row: jax.Array) -> jax.Array:
        new = jnp.where(useful, _row(row), rows[..., slot, :])
        return rows.at[..., slot, :].set(new)

    steps = jax.tree.map(put, state.steps, step)
    turns = jax.tree.map(put, state.turns, turn)
    both = jax.tree.map(lambda y, g: jnp.stack([_row(y), _row(g)], -1), turn, grads)
    none = jnp.zeros((len(state.curvatures), 2), curvature.dtype)
    seen = _Seen(_products(steps, both, none), _products(turns, both, none), steepness)

    new = useful & (jnp.arange(len(state.curvatures), dtype=slot.dtype) == slot)
    by_turn = seen.turns[:, 0]
    of_turns = jnp.where(new[:, None], by_turn, state.turns_by_turns)
    curvatures = jnp.where(new, curvature, state.curvatures)
    # The new column of D⁻¹R, and what it makes of the inverse without the oldest pair.
    bent = _divided(seen.steps[:, 0], curvatures)
    others = jnp.where(new[:, None] | new[None], 0, state.inverse)
    column = jnp.where(new, 1, -_matmul(others, bent))

    return LBFGSState(
        pairs=state.pairs + useful.astype(jnp.int32),
        grads=jax.tree.map(partial(jnp.where, hold), state.grads, grads),
        steps=steps,
        turns=turns,
        curvatures=curvatures,
        inverse=jnp.where(new[None], column[:, None], others),
        turns_by_turns=jnp.where(new[None], by_turn[:, None], of_turns),
    ), seen


def _direction(grads: Arrays, state: LBFGSState, seen: _Seen) -> Arrays:
    """−Hg, or zero where rounding spoils it."""
    first = jnp.minimum(1, 1 / jnp.where(seen.steepness == 0, 1, seen.steepness))
    last = (state.pairs - 1) % len(state.curvatures)
    length = state.turns_by_turns[last, last]
    gamma = jnp.where(state.pairs > 0, _divided(state.curvatures[last], length), first)

    p = _matmul(state.inverse, _divided(seen.steps[:, 1], state.curvatures))
    rest = _matmul(state.turns_by_turns, p) - seen.turns[:, 1]
    rest = state.curvatures * p + gamma * rest
    along_steps = _divided(_matmul(rest, state.inverse), state.curvatures)

    def along(grad: jax.Array, steps: jax.Array, turns: jax.Array) -> jax.Array:
        from_turns, from_steps = _sum(p, turns), _sum(along_steps, steps)
        row = gamma * (_row(grad) - from_turns) + from_steps
        return -row.reshape(grad.shape)

    direction = jax.tree.map(along, grads, state.steps, state.turns)
    (_, slope), (_, square) = inner_products(grads, direction)
    sound = (slope < 0) & jnp.isfinite(norm(square))
    return jax.tree.map(lambda d: jnp.where(sound, d, 0), direction)


def _divided(products: jax.Array, curvatures: jax.Array) -> jax.Array:
    """Zero where a slot is empty."""
    empty = curvatures == 0
    return jnp.where(empty, 0, products / jnp.where(empty, 1, curvatures))


def _row(x: jax.Array) -> jax.Array:
    """A vector as it is; of stacked leaves each along one axis."""
    return x if x.ndim == 1 else x.reshape(len(x), -1)


def _products(rows: Arrays, columns: Arrays, none: jax.Array) -> jax.Array:
    """The scalar products of every slot of a memory with columns, added to `none`."""

    def array(rows: jax.Array, columns: jax.Array) -> jax.Array:
        products = _matmul(rows, columns)
        return products if products.ndim == 2 else jnp.sum(products, axis=0)

    return jax.tree.reduce(jnp.add, jax.tree.map(array, rows, columns), none)


def _sum(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """The sum of the slots of a memory, weighted."""
    # One product for each of stacked leaves: all at once would copy the memory.
    weights = jnp.broadcast_to(weights, (*rows.shape[:-2], 1, len(weights)))
    return _matmul(weights, rows)[..., 0, :]
