"""The direction of BFGS, for a step size that somebody else finds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax._packed import Packed
from dsa_optax._step_back import Verdict
from dsa_optax._trees import widest_of


class BFGSState(NamedTuple):
    """State of `bfgs_direction`, for n parameters in one vector, in their own units.

    Attributes:
      grads: the gradient of the last update, shape (n,).
      inverse: H, the estimate of the inverse Hessian, shape (n, n).
      product: H times the gradient, shape (n,).
      sound: whether that led downhill. If not, H begins again; so at the start.
      taught: whether H has learnt from a step since it began, a boolean scalar.
    """

    grads: jax.Array
    inverse: jax.Array
    product: jax.Array
    sound: jax.Array
    taught: jax.Array


MANY = 10
"""Of more parameters the first pair may scale H down, and not only up."""

LEAST_SCALE = 0.25
"""To no less than so much, where there are several tensors."""


def bfgs_direction() -> optax.GradientTransformationExtraArgs:
    r"""Turns a gradient g into −Hg, with BFGS's estimate H of the inverse Hessian.

    With a step s, y the change of the gradient over it, and :math:`\rho = 1/s^\top y`,

    .. math::
      H' = H - \rho (s\, (Hy)^\top + Hy\, s^\top)
        + \rho (1 + \rho\, y^\top H y)\, s s^\top,

    all of it in units of the size that each tensor began with. H begins as the
    identity, or as more of it where the gradient is so small (a loss in other units)
    that Hg would be shorter than 1. Before it learns from a pair it is scaled up to
    :math:`s^\top y / y^\top H y` times itself, but never down: what it overestimates
    one step tells, and what it underestimates takes many. Only the first pair, where
    there are more than 10 parameters, scales it down as well: to be taught their many
    directions one by one takes longer. Of several tensors it does so to a quarter at
    most, for the steepest of them speaks in the pair, and their sizes are units
    already. One product with H serves both Hy and Hg.

    Without a clearly positive curvature H stays; where rounding spoils the direction,
    that is zero, and H begins again. So the direction wants a bound on its length.

    Returns:
      A transformation of packed trees, below `stepping_back`. For few parameters: its
      state has their number squared.

    References:
      Nocedal and Wright, *Numerical Optimization*, 2006, Eq. 6.17
    """

    def init(params: Packed) -> BFGSState:
        zeros = jnp.zeros_like(_flat(params))
        return BFGSState(
            grads=zeros,
            inverse=jnp.zeros((zeros.size, zeros.size), zeros.dtype),
            product=jnp.zeros_like(zeros),
            sound=jnp.array(False),
            taught=jnp.array(False),
        )

    def update(
        updates: Packed,
        state: BFGSState,
        params: Packed,
        *,
        verdict: Verdict,
        **extra: Any,
    ) -> tuple[Packed, BFGSState]:
        del params, extra
        sizes = updates.layout.of_leaves(verdict.sizes)
        sizes = jax.tree.map(lambda s, u: jnp.broadcast_to(s, u.shape), sizes, updates)
        units = _flat(sizes).astype(state.grads.dtype)
        tensors = len(updates.layout.sizes())
        state = _learnt(
            _flat(verdict.moved) / units, _flat(updates) * units, state, tensors
        )
        direction = jnp.where(state.sound, -state.product * units, 0)
        return _like(direction, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _learnt(
    step: jax.Array, grads: jax.Array, state: BFGSState, tensors: int
) -> BFGSState:
    """The state with H for the last step, if that is of use, and Hg."""
    turn = grads - state.grads
    curvature = jnp.vdot(step, turn)
    norms = jnp.linalg.norm(step) * jnp.linalg.norm(turn)
    useful = curvature > jnp.finfo(norms.dtype).eps * norms
    rho = jnp.where(useful, 1 / jnp.where(useful, curvature, 1), 0)

    norm = jnp.linalg.norm(grads)
    begun = jnp.maximum(1, 1 / jnp.where(norm > 0, norm, 1))
    kept = jnp.matmul(state.inverse, grads, precision="highest")
    product = jnp.where(state.sound, kept, begun * grads)
    before = jnp.where(state.sound, state.product, begun * state.grads)
    turned = product - before  # Hy
    step, turn, turned = (jnp.where(useful, x, 0) for x in (step, turn, turned))
    growth = _growth(curvature, jnp.vdot(turn, turned))
    first = ~state.taught & (len(grads) > MANY)
    least = jnp.where(first, LEAST_SCALE if tensors > 1 else 0.0, 1.0)
    grown = jnp.maximum(growth, least.astype(growth.dtype))
    product, turned = grown * product, grown * turned
    along = rho * (1 + rho * jnp.vdot(turn, turned)) * step - rho * turned
    # H' = H + s aᵀ − ρ Hy sᵀ, and so is its product with the gradient.
    identity = begun * jnp.eye(len(grads), dtype=grads.dtype)
    inverse = jnp.where(state.sound, state.inverse, identity)
    inverse = grown * inverse + jnp.outer(step, along) - jnp.outer(rho * turned, step)
    product = product + step * jnp.vdot(along, grads)
    product = product - rho * turned * jnp.vdot(step, grads)
    slope = jnp.vdot(product, grads)
    sound = ((slope > 0) | (norm == 0)) & jnp.isfinite(jnp.linalg.norm(product))
    return BFGSState(
        grads=grads,
        inverse=inverse,
        product=product,
        sound=sound,
        taught=sound & (state.taught | useful),
    )


def _growth(curvature: jax.Array, expected: jax.Array) -> jax.Array:
    """s'y / y'Hy: what H must be scaled by to be as long as the last pair says."""
    known = expected > 0
    growth = curvature / jnp.where(known, expected, 1)
    return jnp.where(known & jnp.isfinite(growth) & (growth > 0), growth, 1)


def _flat(tree: Any) -> jax.Array:
    """All leaves in one vector, in their widest dtype, float32 at least."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = widest_of(leaves)
    return jnp.concatenate(
        [jnp.zeros(0, dtype), *(leaf.ravel().astype(dtype) for leaf in leaves)]
    )


def _like(flat: jax.Array, tree: Any) -> Any:
    """The vector as leaves of these shapes and dtypes, of which none overflows."""
    leaves, structure = jax.tree.flatten(tree)
    ends = [0]
    for leaf in leaves:
        ends.append(ends[-1] + jnp.size(leaf))

    def part(leaf: jax.Array, begin: int, end: int) -> jax.Array:
        most = float(min(jnp.finfo(leaf.dtype).max, jnp.finfo(flat.dtype).max))
        cut = jnp.clip(flat[begin:end], -most, most)
        return cut.reshape(jnp.shape(leaf)).astype(leaf.dtype)

    parts = map(part, leaves, ends[:-1], ends[1:])
    return jax.tree.unflatten(structure, parts)
