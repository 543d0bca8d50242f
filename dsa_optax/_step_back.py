"""Taking a step back, so that no single step can spoil a training.

With s what the last step moved, and r = −⟨g, s⟩ / |⟨g₋, s⟩|, the ratio of the slopes
along it at its end and at its start:

    back     θ' = θ − (1 − t) s,  η' = η + log2 t      where r is out of range, or where
                                                       L > max(L₋, …) + γ ⟨g₋, s⟩
    on       θ' = θ + step(g)                          elsewhere

The loss L is asked where `update` is given it as `value`. Slopes alone deceive: on a
plateau, where a step far too long may end, there is none.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._norms import sizes
from dsa_optax._packed import Packed, for_state, on_one_device, packed
from dsa_optax._state import StepBackState
from dsa_optax._trees import (
    inner_products,
    nodes_of,
    widest,
    widest_of,
    zeros_like,
)

STEEPEST_RISE = 100.0
"""A step ends too far where it is this much steeper uphill than it was downhill."""

STEEPEST_FALL = 1000.0
"""Downhill, where only a wall or a pole can lie between."""

SHARE_OF_A_LONG_STEP = 1 / 32
"""What is left of a step that ends too far uphill."""

SHARE_OF_A_LOST_STEP = 0.1
"""What is left of one that ends where its slope tells nothing."""

WINDOW = 10
"""A loss is compared with the greatest of the last so many that were accepted."""

DESCENT = 0.1
"""γ: it must be lower than that by this share of what the slope promised."""

ROUNDINGS = 8
"""But for so many of its roundings."""

SHARES_BY_THE_LOSS = 0.1, 0.5
"""The least and the most that is left of a step whose end the loss refuses."""


class Verdict(NamedTuple):
    """On the last step; what every transformation below `stepping_back` is told.

    Attributes:
      back: whether it is taken back. Then nothing of the gradient may stay in a state,
        and of the update nothing is used.
      octaves: by how much rates fall with it, a log2; 0 where it stays.
      moved: what it moved, in float32 at least; zeros before the first.
      sizes: the root mean square of each tensor at the start, a vector.
    """

    back: jax.Array
    octaves: jax.Array
    moved: Packed
    sizes: jax.Array


def stepping_back(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Takes a step back where it led too far, in place of the next one.

    Args:
      inner: of packed trees. It is given the `Verdict` on the last step, and no entry
        that isn't finite.
    """

    def init(params: Packed) -> StepBackState:
        dtype = widest_of(jax.tree.leaves(params))
        return StepBackState(
            count=jnp.zeros([], jnp.int32),
            before=for_state(zeros_like(params)),
            slope=jnp.zeros([], dtype),
            square=jnp.zeros([], dtype),
            spoilt=jnp.zeros([], jnp.int32),
            share=jnp.ones([], dtype),
            backs=jnp.zeros([], jnp.int32),
            sizes=sizes(params),
            values=jnp.full(WINDOW, _unknown(dtype), dtype),
            inner=inner.init(params),
        )

    def update(
        updates: Packed, state: StepBackState, params: Packed, **extra_args: Any
    ) -> tuple[Packed, StepBackState]:
        before = params.layout.of_state(state.before)
        _checks.same_shapes("state (its last step)", before.arrays, params.arrays)
        value = extra_args.get("value")
        spoilt = _count_not_finite((updates, value))
        moved = jax.tree.map(lambda p, b: _moved(p, b, state.count), params, before)
        share = jax.lax.stop_gradient(
            _share_to_keep(updates, moved, spoilt, value, state)
        )
        back = share < 1
        seen = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g) & ~back, g, 0), updates)

        verdict = Verdict(back, jnp.log2(share), moved, state.sizes)
        step, inner_state = inner.update(
            seen, state.inner, params, verdict=verdict, **extra_args
        )
        step = optax.tree.cast_like(step, params)
        products = inner_products(*jax.lax.stop_gradient((seen, step)))
        slope, square = (products[i][1].astype(share.dtype) for i in range(2))

        def either(shortened: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(back, shortened.astype(new.dtype), new)

        off = jax.tree.map(lambda m: (share - 1).astype(m.dtype) * m, moved)
        return jax.tree.map(either, off, step), StepBackState(
            count=jnp.where(back, state.count, optax.safe_increment(state.count)),
            before=for_state(jax.tree.map(either, before, params)),
            slope=either(share * state.slope, slope),
            square=either(share**2 * state.square, square),
            spoilt=either(state.spoilt, spoilt),
            share=either(share * state.share, jnp.ones_like(share)),
            backs=state.backs + back.astype(jnp.int32),
            sizes=state.sizes,
            values=either(state.values, _with_value(value, state)),
            inner=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def unless_back(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """The same, whose state stays as it is where the last step is taken back."""

    def update(
        updates: Packed, state: Any, params: Packed, *, verdict: Verdict, **extra: Any
    ) -> tuple[Packed, Any]:
        step, after = tx.update(updates, state, params, verdict=verdict, **extra)

        def kept(old: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(verdict.back, old, new)

        return step, jax.tree.map(kept, state, after)

    return optax.GradientTransformationExtraArgs(tx.init, update)


class Guarded(optax.GradientTransformationExtraArgs):
    """A transformation of trees that steps back; `core` is what it does between."""

    core: optax.GradientTransformationExtraArgs


def guarded(
    core: optax.GradientTransformationExtraArgs, *, passes_on: bool = True
) -> optax.GradientTransformationExtraArgs:
    """A transformation of trees that steps back, made of one of packed trees."""
    tx = Guarded(*packed(stepping_back(core), passes_on=passes_on))
    tx.core = core
    return tx


def core_of(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """What a transformation does, for a place that steps back as a whole."""
    core = getattr(tx, "core", None)  # `_replace` makes a tuple without it
    if isinstance(tx, Guarded) and core is not None:
        return core
    return of_trees(tx)


def of_trees(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """An optimizer of somebody else's, which knows nothing of packing, nor of this."""
    tx = optax.with_extra_args_support(tx)

    def update(
        updates: Packed, state: Any, params: Packed, *, verdict: Verdict, **extra: Any
    ) -> tuple[Packed, Any]:
        del verdict
        layout = params.layout
        steps, state = tx.update(
            layout.unpack(updates), state, layout.unpack(params), **extra
        )
        return layout.pack(steps), state

    def init(params: Packed) -> Any:
        tree = params.layout.unpack(params)
        state = tx.init(tree)
        return state if on_one_device() else _where_params_lie(tx, state, tree)

    return unless_back(optax.GradientTransformationExtraArgs(init, update))


def _where_params_lie(
    tx: optax.GradientTransformation, state: Any, params: optax.Params
) -> Any:
    """A state whose every leaf like a parameter depends on it; see `filled_like`."""

    def leaf(kept: jax.Array, param: jax.Array) -> jax.Array:
        if jnp.shape(kept) != jnp.shape(param):
            return kept
        return jnp.where(jnp.equal(param, param), kept, kept)

    try:
        return optax.tree.map_params(tx, leaf, state, params)
    except Exception:  # what can't say which leaves these are lies where it may
        return state


def _moved(param: jax.Array, before: jax.Array, count: jax.Array) -> jax.Array:
    dtype = widest(jnp.float32, param.dtype)
    return jnp.where(count > 0, param.astype(dtype) - before.astype(dtype), 0)


def _share_to_keep(
    grads: Packed,
    moved: Packed,
    spoilt: jax.Array,
    value: jax.Array | None,
    state: StepBackState,
) -> jax.Array:
    """t: 1 where the last step may stay as it is."""
    dtype = state.slope.dtype
    slope = jnp.abs(state.slope)
    known = slope > 0
    finite = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grads)
    products = inner_products(finite, moved)
    reached, square = (products[i][1].astype(dtype) for i in range(2))
    ratio = -reached / jnp.where(known, slope, 1)
    lost = (spoilt > state.spoilt) | (ratio > STEEPEST_FALL)
    too_far = lost | (ratio < -STEEPEST_RISE)
    share = jnp.where(lost, SHARE_OF_A_LOST_STEP, SHARE_OF_A_LONG_STEP).astype(dtype)
    if value is not None:
        refused, by_loss = _asked(value, reached, state)
        share = jnp.where(too_far, share, by_loss)
        too_far = too_far | refused
    # A wrapper that moves the params on its own (a mean of them, say) must not have
    # that undone; and what is wrong where a step has shrunk to nothing is not the step.
    as_meant = (square > state.square / 4) & (square < 4 * state.square)
    left = state.share > jnp.finfo(dtype).eps
    back = known & too_far & as_meant & left
    return jnp.where(back, share, jnp.ones_like(share))


def backs_of(state: optax.OptState) -> jax.Array:
    """How many steps were taken back, by all that do so in a state; else 0."""
    backs = [node.backs for node in nodes_of(state, StepBackState)]
    return sum(backs, jnp.zeros([], jnp.int32))


# The loss -----------------------------------------------------------------------------


def _unknown(dtype: Any) -> float:
    """In place of a loss that wasn't given, or is no number. A state is finite."""
    return float(jnp.finfo(dtype).min)


def _asked(
    value: jax.Array, reached: jax.Array, state: StepBackState
) -> tuple[jax.Array, jax.Array]:
    """Whether the loss refuses the end of the last step, and what then is kept of it.

    That is the minimum of the cubic through the losses and the slopes at both ends.

    Args:
      value: the loss at its end.
      reached: the slope along it there.
      state: with the slope at its start.
    """
    dtype = state.slope.dtype
    last, highest = state.values[(state.count - 1) % WINDOW], jnp.max(state.values)
    # Where the step pointed uphill, as momentum may, a rise is no surprise.
    known = (last > _unknown(dtype)) & (state.slope < 0)
    last, highest = (jnp.where(known, x, 0) for x in (last, highest))
    slack = ROUNDINGS * _rounding(value) * jnp.abs(highest)
    value = jnp.asarray(value, dtype)
    refused = known & (value > highest + slack + DESCENT * state.slope)

    # In units of the slope at the start, so that no square overflows that needn't.
    unit = jnp.maximum(jnp.abs(state.slope), jnp.finfo(dtype).tiny)
    begin, end = state.slope / unit, reached / unit
    bend = begin + end - 3 * (value - last) / unit
    root = jnp.sqrt(jnp.maximum(bend**2 - begin * end, 0))
    minimum = 1 - (end + root - bend) / (end - begin + 2 * root)
    least, most = SHARES_BY_THE_LOSS
    share = jnp.clip(jnp.where(jnp.isfinite(minimum), minimum, least), least, most)
    return refused, share.astype(dtype)


def _with_value(value: jax.Array | None, state: StepBackState) -> jax.Array:
    """The last losses with this one."""
    dtype = state.values.dtype
    unknown = _unknown(dtype)
    new = jnp.asarray(unknown if value is None else value, dtype)
    new = jnp.where(jnp.isfinite(new), new, unknown)
    return state.values.at[state.count % WINDOW].set(jax.lax.stop_gradient(new))


def _rounding(value: jax.Array) -> float:
    """The relative spacing of the numbers that a loss is one of."""
    dtype = jnp.result_type(value)
    exact = not jnp.issubdtype(dtype, jnp.floating)
    return float(jnp.finfo(jnp.float32 if exact else dtype).eps)


def _count_not_finite(tree: Any) -> jax.Array:
    counts = [
        jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32) for leaf in jax.tree.leaves(tree)
    ]
    return sum(counts, jnp.zeros([], jnp.int32))
