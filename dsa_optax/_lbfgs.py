"""The direction of L-BFGS, for a step size that somebody else finds."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax._sizes import inner_products, norm
from dsa_optax._state import widest

_matmul = partial(jnp.matmul, precision="highest")


class LBFGSState(NamedTuple):
    """State of `lbfgs_direction`; m is the memory, and a slot is one of its pairs.

    Attributes:
      count: number of updates so far, an int32 scalar.
      pairs: number of pairs that were stored so far, an int32 scalar.
      params: the params of the last update.
      grads: the gradient there.
      steps: s = θ − θ₋ of the last m pairs: each leaf a matrix, a slot to a row.
      turns: y = g − g₋ of the last m pairs, likewise.
      curvatures: the scalar products ⟨sᵢ, yᵢ⟩, shape (m,); zero for an empty slot.
      inverse: of the matrix with ⟨sᵢ, yⱼ⟩ / ⟨sᵢ, yᵢ⟩ where pair i is not newer than
        pair j, else 0; shape (m, m). Zero in the rows and columns of empty slots.
      turns_by_turns: the scalar products ⟨yᵢ, yⱼ⟩, shape (m, m).
      hold: whether the next update leaves all this as it is, a boolean scalar.
    """

    count: jax.Array  # type: ignore[assignment]
    pairs: jax.Array
    params: optax.Params
    grads: optax.Updates
    steps: Any
    turns: Any
    curvatures: jax.Array
    inverse: jax.Array
    turns_by_turns: jax.Array
    hold: jax.Array


def lbfgs_direction(memory_size: int) -> optax.GradientTransformation:
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
      A transformation whose `update` needs the params. The first direction is −g, but
      no longer than 1.

    References:
      Byrd, Nocedal and Schnabel, `Representations of quasi-Newton matrices and their
      use in limited memory methods <https://doi.org/10.1007/BF01582063>`_, 1994,
      Eq. 3.1
    """

    def init(params: optax.Params) -> LBFGSState:
        # One dtype for all, and no scalar product in half precision.
        dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
        dtype = widest(jnp.float32, *dtypes)
        zeros = optax.tree.zeros_like(params, dtype)

        # Rows, not leaves with one more axis: a product with the memory is then one of
        # matrix and vector, and XLA changes a row in place.
        def rows() -> Any:
            return jax.tree.map(lambda z: jnp.stack([z.ravel()] * memory_size), zeros)

        return LBFGSState(
            count=jnp.zeros([], jnp.int32),
            pairs=jnp.zeros([], jnp.int32),
            params=zeros,
            grads=optax.tree.zeros_like(zeros),
            steps=rows(),
            turns=rows(),
            curvatures=jnp.zeros(memory_size, dtype),
            inverse=jnp.zeros((memory_size, memory_size), dtype),
            turns_by_turns=jnp.zeros((memory_size, memory_size), dtype),
            hold=jnp.array(False),
        )

    def update(
        updates: optax.Updates, state: LBFGSState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LBFGSState]:
        dtype = state.inverse.dtype
        grads = optax.tree.cast(updates, dtype)
        state, seen = _remembered(grads, state, optax.tree.cast(params, dtype))
        direction = _direction(grads, state, seen)
        return optax.tree.cast_like(direction, updates), state

    return optax.GradientTransformation(init, update)


class _Seen(NamedTuple):
    """What the memory says of the gradient g and its last change y.

    Attributes:
      steps: the products of the slots' steps with y and with g, shape (m, 2).
      turns: those of their turns, likewise.
    """

    steps: jax.Array
    turns: jax.Array


def _remembered(
    grads: optax.Updates, state: LBFGSState, params: optax.Params
) -> tuple[LBFGSState, _Seen]:
    """The state with the pair of the last step, if it is of use."""
    step = jax.tree.map(_row_between, params, state.params)
    turn = jax.tree.map(_row_between, grads, state.grads)
    (step_step, step_turn), (_, turn_turn) = inner_products(step, turn)
    curvature = step_turn.astype(state.inverse.dtype)
    clear = jnp.finfo(curvature.dtype).eps * norm(step_step) * norm(turn_turn)
    useful = (state.count > 0) & (curvature > clear) & ~state.hold
    slot = state.pairs % len(state.curvatures)

    def put(rows: jax.Array, row: jax.Array) -> jax.Array:
        return rows.at[slot].set(jnp.where(useful, row, rows[slot]))

    steps = jax.tree.map(put, state.steps, step)
    turns = jax.tree.map(put, state.turns, turn)
    both = jax.tree.map(lambda y, g: jnp.stack([y, g.ravel()], axis=1), turn, grads)
    none = jnp.zeros((len(state.curvatures), 2), curvature.dtype)
    seen = _Seen(_products(steps, both, none), _products(turns, both, none))

    new = useful & (jnp.arange(len(state.curvatures), dtype=slot.dtype) == slot)
    by_turn = seen.turns[:, 0]
    of_turns = jnp.where(new[:, None], by_turn, state.turns_by_turns)
    curvatures = jnp.where(new, curvature, state.curvatures)
    # The new column of D⁻¹R, and what it makes of the inverse without the oldest pair.
    bent = _divided(seen.steps[:, 0], curvatures)
    others = jnp.where(new[:, None] | new[None], 0, state.inverse)
    column = jnp.where(new, 1, -_matmul(others, bent))

    def latest(now: jax.Array, before: jax.Array) -> jax.Array:
        return jnp.where(state.hold, before, now)

    return LBFGSState(
        count=jnp.where(state.hold, state.count, optax.safe_increment(state.count)),
        pairs=state.pairs + useful.astype(jnp.int32),
        params=jax.tree.map(latest, params, state.params),
        grads=jax.tree.map(latest, grads, state.grads),
        steps=steps,
        turns=turns,
        curvatures=curvatures,
        inverse=jnp.where(new[None], column[:, None], others),
        turns_by_turns=jnp.where(new[None], by_turn[:, None], of_turns),
        hold=state.hold,
    ), seen


def _direction(grads: optax.Updates, state: LBFGSState, seen: _Seen) -> optax.Updates:
    """−Hg, or zero where rounding spoils it."""
    steepness = norm(inner_products(grads)[0][0])
    first = jnp.minimum(1, 1 / jnp.where(steepness == 0, 1, steepness))
    last = (state.pairs - 1) % len(state.curvatures)
    length = state.turns_by_turns[last, last]
    gamma = jnp.where(state.pairs > 0, _divided(state.curvatures[last], length), first)

    p = _matmul(state.inverse, _divided(seen.steps[:, 1], state.curvatures))
    rest = _matmul(state.turns_by_turns, p) - seen.turns[:, 1]
    rest = state.curvatures * p + gamma * rest
    along_steps = _divided(_matmul(rest, state.inverse), state.curvatures)

    def leaf(grad: jax.Array, steps: jax.Array, turns: jax.Array) -> jax.Array:
        from_turns = _matmul(p, turns)
        from_steps = _matmul(along_steps, steps)
        row = gamma * (grad.ravel() - from_turns) + from_steps
        return -row.reshape(grad.shape)

    direction = jax.tree.map(leaf, grads, state.steps, state.turns)
    (_, slope), (_, square) = inner_products(grads, direction)
    sound = (slope < 0) & jnp.isfinite(norm(square))
    return jax.tree.map(lambda d: jnp.where(sound, d, 0), direction)


def _divided(products: jax.Array, curvatures: jax.Array) -> jax.Array:
    """Zero where a slot is empty."""
    empty = curvatures == 0
    return jnp.where(empty, 0, products / jnp.where(empty, 1, curvatures))


def _row_between(x: jax.Array, before: jax.Array) -> jax.Array:
    return jnp.ravel(x - before)


def _products(rows: Any, columns: Any, none: jax.Array) -> jax.Array:
    """The scalar products of every slot of a memory with columns, added to `none`."""
    each = jax.tree.map(_matmul, rows, columns)
    return jax.tree.reduce(jnp.add, each, none)
