"""Taking a step back, so that no single step can spoil a training.

With s what the last step moved, and r = −⟨g, s⟩ / |⟨g₋, s⟩|, the ratio of the slopes
along it at its end and at its start:

    back     θ' = θ − (1 − t) s,  η' = η + log2 t      where r is out of range
    on       θ' = θ + step(g)                          elsewhere
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks
from dsa_optax._lbfgs import LBFGSState
from dsa_optax._packed import Core, Packed, layout_of, on_trees
from dsa_optax._sizes import inner_products
from dsa_optax._state import (
    LEAST_LOG2_LR,
    AdaptState,
    LastStep,
    filled_like,
    widest_of,
)

STEEPEST_RISE = 100.0
"""A step ends too far where it is this much steeper uphill than it was downhill."""

STEEPEST_FALL = 1000.0
"""Downhill, where only a wall or a pole can lie between."""

SHARE_OF_A_LONG_STEP = 1 / 32
"""What is left of a step that ends too far uphill."""

SHARE_OF_A_LOST_STEP = 0.1
"""What is left of one that ends where its slope tells nothing."""


class SteppingBack(optax.GradientTransformationExtraArgs):
    """A transformation of trees that steps back; `core` is what it does between."""

    core: Core


def step_back(core: Core) -> optax.GradientTransformationExtraArgs:
    """Takes a step back where it led too far, in place of the next one.

    Here the trees are packed, and unpacked again.

    Args:
      core: whose state has a place for the `last` step. Nothing of a gradient that
        leads to a step back stays in it, and it is given no entry that isn't finite.

    Returns:
      A `SteppingBack` one. Rates below it fall by as much as the step is shortened.
    """

    def begun(params: Packed) -> Any:
        state = core.closed(core.init(params), params.layout)
        return state._replace(last=_no_step(params))

    at_once = jax.jit(begun)

    def init(params: optax.Params) -> Any:
        params = jax.tree.map(jnp.asarray, params)
        _checks.real_floating("params", params)
        core.refuse()
        packed = layout_of(params).pack(params)
        # Operations one by one are as many to compile; but what stays as it is may be
        # spread over devices, and one program would forget that.
        return begun(packed) if packed.layout.kept else at_once(packed)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError(_checks.MISSING_PARAMS_TO_ADAPT)
        _checks.gradient("updates (the gradient)", updates, params)
        layout = layout_of(params, kept=state.last.before)
        grads, here = layout.pack(updates), layout.pack(params)
        before = core.opened(state._replace(last=None), here)
        last = state.last._replace(before=layout.held(state.last.before))
        _checks.same_shapes("state (its last step)", last.before.arrays, here.arrays)

        spoilt = _count_not_finite((grads, extra_args.get("value")))
        step = jax.tree.map(jnp.subtract, here, last.before)
        share = jax.lax.stop_gradient(_share_to_keep(grads, step, spoilt, last))
        back = share < 1
        seen = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g) & ~back, g, 0), grads)
        next_step, after = core.update(seen, _held(before, back), here, **extra_args)
        next_step = optax.tree.cast_like(next_step, here)
        after = _unless(back, _lowered(before, jnp.log2(share)), after)

        def either(shortened: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(back, shortened.astype(new.dtype), new)

        off = jax.tree.map(lambda s: (share - 1).astype(s.dtype) * s, step)
        products = inner_products(*jax.lax.stop_gradient((seen, next_step)))
        slope, square = (products[i][1].astype(share.dtype) for i in range(2))
        taken = LastStep(
            before=jax.tree.map(either, last.before, here).held(),
            slope=either(share * last.slope, slope),
            square=either(share**2 * last.square, square),
            spoilt=either(last.spoilt, spoilt),
            share=either(share * last.share, jnp.ones_like(share)),
            backs=last.backs + back.astype(jnp.int32),
        )
        return (
            layout.unpack(jax.tree.map(either, off, next_step)),
            core.closed(after, layout)._replace(last=taken),
        )

    guarded = SteppingBack(init, update)
    guarded.core = core
    return guarded


def core_of(tx: optax.GradientTransformation) -> Core:
    """What a transformation does, for a place that steps back as a whole."""
    core = getattr(tx, "core", None)  # `_replace` makes a tuple without it
    if isinstance(tx, SteppingBack) and core is not None:
        return core
    return on_trees(tx)


def _no_step(params: Packed) -> LastStep:
    dtype = widest_of(jax.tree.leaves(params))
    zeros = jax.tree.map(lambda p: filled_like(p, jnp.zeros([], p.dtype)), params)
    return LastStep(
        before=zeros.held(),
        slope=jnp.zeros([], dtype),
        square=jnp.zeros([], dtype),
        spoilt=jnp.zeros([], jnp.int32),
        share=jnp.ones([], dtype),
        backs=jnp.zeros([], jnp.int32),
    )


def _share_to_keep(
    grads: Packed, step: Packed, spoilt: jax.Array, last: LastStep
) -> jax.Array:
    """t: 1 where the last step may stay as it is."""
    dtype = last.slope.dtype
    slope = jnp.abs(last.slope)
    known = slope > 0
    finite = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grads)
    products = inner_products(finite, step)
    reached, moved = (products[i][1].astype(dtype) for i in range(2))
    ratio = -reached / jnp.where(known, slope, 1)
    lost = (spoilt > last.spoilt) | (ratio > STEEPEST_FALL)
    too_far = lost | (ratio < -STEEPEST_RISE)
    share = jnp.where(lost, SHARE_OF_A_LOST_STEP, SHARE_OF_A_LONG_STEP).astype(dtype)
    # A wrapper that moves the params on its own (a mean of them, say) must not have
    # that undone; and what is wrong where a step has shrunk to nothing is not the step.
    as_meant = (moved > last.square / 4) & (moved < 4 * last.square)
    left = last.share > jnp.finfo(dtype).eps
    back = known & too_far & as_meant & left
    return jnp.where(back, share, jnp.ones_like(share))


def _count_not_finite(tree: Any) -> jax.Array:
    counts = [
        jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32) for leaf in jax.tree.leaves(tree)
    ]
    return sum(counts, jnp.zeros([], jnp.int32))


def _lowered(state: Any, octaves: ArrayLike) -> Any:
    """A state whose rates, wherever in it they are, have fallen by some octaves."""

    def lowered(node: Any) -> Any:
        if not isinstance(node, AdaptState):
            return node

        def fallen(rate: jax.Array) -> jax.Array:
            # The longest step allowed may have held it below the floor.
            least = jnp.minimum(rate, jnp.maximum(node.floor, LEAST_LOG2_LR))
            return jnp.maximum(rate + jnp.asarray(octaves, rate.dtype), least)

        return node._replace(
            log2_lr=jax.tree.map(fallen, node.log2_lr),
            searching=jax.tree.map(jnp.zeros_like, node.searching),
        )

    return jax.tree.map(lowered, state, is_leaf=lambda n: isinstance(n, AdaptState))


def _held(state: Any, hold: jax.Array) -> Any:
    """A state in which every memory of L-BFGS is told whether to stay as it is."""

    def held(node: Any) -> Any:
        # It may stand below another that steps back as well.
        return node._replace(hold=node.hold | hold) if _is_memory(node) else node

    return jax.tree.map(held, state, is_leaf=_is_memory)


def _unless(back: jax.Array, before: Any, after: Any) -> Any:
    """The state before where the step goes back, else the one after."""

    def leaf(old: Any, new: Any) -> Any:
        # Its many rows change in place, which to choose between two copies would end.
        if _is_memory(new):
            return new._replace(hold=jnp.zeros_like(new.hold))
        return jnp.where(back, old, new)

    return jax.tree.map(leaf, before, after, is_leaf=_is_memory)


def _is_memory(node: Any) -> bool:
    return isinstance(node, LBFGSState)
