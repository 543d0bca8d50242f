"""Rates by the parameter, by the tensor, or one for all, which adapt themselves.

Eq. 7 holds for any direction d: after θ' = θ + 2^η d, the slope of the loss along η has
the sign of ⟨∇L(θ'), d⟩. And ∇L(θ') is what the next update is given anyway, so that no
probe is needed: every step is the probe of the next one.

    adapt   η' = adapt(η, −⟨g, d₋⟩ / |⟨g₋, d₋⟩|)    g₋, d₋: of the step before
    bound   η' = min(η', log2 of the longest step / |d|)
    step    θ' = θ + 2^η' · d(g)
"""

from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks, _rules
from dsa_optax._norms import longest_step, root_mean_squares, size_of_all, sizes
from dsa_optax._packed import Layout, Packed, Stored, for_state, joined
from dsa_optax._state import LEAST_LOG2_LR, AdaptState, rates_dtype
from dsa_optax._step_back import Verdict
from dsa_optax._trees import (
    filled_like,
    inner_product,
    steps_of,
    working_precision,
    zeros_like,
)

Granularity: TypeAlias = Literal["parameter", "tensor", "global"]


class ByParameter:
    """How many rates there are, and what one of them stands for.

    Rates in flight, and what there is one of for each, are `Packed` (with one a
    parameter), a vector (one a tensor), or a scalar.
    """

    def sizes(self, params: Packed) -> jax.Array:
        """The sizes of what has a start of its own."""
        return sizes(params)

    def filled(self, params: Packed, starts: jax.Array) -> Packed:
        """Rates with these starts."""
        return jax.tree.map(filled_like, params, params.layout.of_leaves(starts))

    def product(self, x: Packed, y: Packed) -> Packed:
        """The scalar products over what each rate is for."""
        return jax.tree.map(jnp.multiply, x, y)

    def most(self, directions: Packed, longest: jax.Array) -> Packed:
        """How often as long as its direction each rate's step may be, as a log2.

        Args:
          directions: what the rates multiply.
          longest: the longest step of every tensor, as its root mean square.
        """
        lengths = jax.tree.map(jnp.abs, directions)
        most = directions.layout.of_leaves(jnp.log2(longest))
        return jax.tree.map(_less_log2, most, lengths)

    def of_entries(self, rates: Any, layout: Layout) -> Packed:
        """Rates for every parameter, or to be broadcast so."""
        return rates

    def closed(
        self, rates: Any, searching: Any, layout: Layout
    ) -> tuple[optax.Params, Stored]:
        """What a state keeps: the tree of rates that users see, and the others."""
        return layout.unpack(rates), for_state(searching)

    def opened(self, state: AdaptState, params: Packed) -> tuple[Packed, Packed]:
        """The rates that a state kept, and which of them are searching."""
        layout = params.layout
        _checks.rates("state (its rates)", state.log2_lr, layout.like(params))
        return layout.pack(state.log2_lr), layout.of_state(state.searching)


class ByTensor:
    """One for every leaf of the params; see `ByParameter`."""

    def sizes(self, params: Packed) -> jax.Array:
        return sizes(params)

    def filled(self, params: Packed, starts: jax.Array) -> jax.Array:
        return starts

    def product(self, x: Packed, y: Packed) -> jax.Array:
        return x.layout.sums(jax.tree.map(jnp.multiply, x, y))

    def most(self, directions: Packed, longest: jax.Array) -> jax.Array:
        return _less_log2(jnp.log2(longest), root_mean_squares(directions))

    def of_entries(self, rates: Any, layout: Layout) -> Packed:
        return layout.of_leaves(rates)

    def closed(
        self, rates: Any, searching: Any, layout: Layout
    ) -> tuple[optax.Params, Stored]:
        return layout.tree(rates), searching

    def opened(self, state: AdaptState, params: Packed) -> tuple[jax.Array, jax.Array]:
        layout = params.layout
        scalars = jax.tree.unflatten(layout.structure, [0.0] * len(layout.shapes))
        _checks.rates("state (its rates)", state.log2_lr, scalars)
        rates = [rate[None] for rate in jax.tree.leaves(state.log2_lr)]
        return joined(rates), state.searching


class ForAll:
    """One rate; see `ByParameter`."""

    def sizes(self, params: Packed) -> jax.Array:
        return size_of_all(params)

    def filled(self, params: Packed, starts: jax.Array) -> jax.Array:
        return starts

    def product(self, x: Packed, y: Packed) -> jax.Array:
        return inner_product(x, y)

    def most(self, directions: Packed, longest: jax.Array) -> jax.Array:
        each = _less_log2(jnp.log2(longest), root_mean_squares(directions))
        return jnp.min(each, initial=jnp.inf)

    def of_entries(self, rates: Any, layout: Layout) -> Packed:
        return layout.of_one(rates)

    def closed(
        self, rates: Any, searching: Any, layout: Layout
    ) -> tuple[optax.Params, Stored]:
        return rates, searching

    def opened(self, state: AdaptState, params: Packed) -> tuple[jax.Array, jax.Array]:
        return state.log2_lr, state.searching


Rates: TypeAlias = ByParameter | ByTensor | ForAll

RATES: dict[Granularity, Rates] = {
    "parameter": ByParameter(),
    "tensor": ByTensor(),
    "global": ForAll(),
}


def _less_log2(log2: jax.Array, length: jax.Array) -> jax.Array:
    length = jnp.maximum(length, jnp.finfo(length.dtype).tiny)
    return log2.astype(length.dtype) - jnp.log2(length)


# How they adapt -----------------------------------------------------------------------

FIRST_LOG2_LR = -10.0
"""What a rate begins with for a tensor of size 1."""


class Options(NamedTuple):
    """What `adapt` takes."""

    init_log2_lr: ArrayLike | None = None
    decrease: ArrayLike = 1.0
    increase: ArrayLike = 0.3
    first_increase: ArrayLike = 1.0
    min_log2_lr: ArrayLike = LEAST_LOG2_LR
    max_log2_lr: ArrayLike = 126.0
    max_relative_step: ArrayLike = 0.2
    state_dtype: Any | None = None


def adapted(
    inner: optax.GradientTransformationExtraArgs,
    granularity: Granularity,
    options: Options,
) -> optax.GradientTransformationExtraArgs:
    """What `adapt` is of packed trees, below `stepping_back`."""
    kind, dtype = RATES[granularity], rates_dtype(options.state_dtype)

    def init(params: Packed) -> AdaptState:
        start = _first(options, kind.sizes(params), dtype)
        rates = kind.filled(params, start)
        searching = jax.tree.map(lambda rate: rate == rate, rates)
        log2_lr, searching = kind.closed(rates, searching, params.layout)
        return AdaptState(
            log2_lr=log2_lr,
            searching=searching,
            compass=for_state(working_precision(zeros_like(params), rates)),
            inner=inner.init(params),
            start=start,
            bounds=jnp.array([options.min_log2_lr, options.max_log2_lr], dtype),
        )

    def update(
        updates: Packed,
        state: AdaptState,
        params: Packed,
        *,
        verdict: Verdict,
        **extra_args: Any,
    ) -> tuple[Packed, AdaptState]:
        layout, back = params.layout, verdict.back
        old, searching = kind.opened(state, params)
        old_compass = layout.of_state(state.compass)
        grads = working_precision(updates, old)

        # −⟨g, d₋⟩ / |⟨g₋, d₋⟩|: it has no derivative of use, nor always a finite one.
        ratios = jax.lax.stop_gradient(kind.product(grads, old_compass))
        too_far = jax.tree.map(lambda ratio: ~(ratio >= 0), ratios)
        turned = jax.tree.map(partial(_turned, options), old, searching, ratios)

        raw, inner_state = inner.update(
            updates, state.inner, params, verdict=verdict, **extra_args
        )
        directions = jax.tree.map(finite_or_zero, working_precision(raw, old))
        if granularity == "parameter":
            directions = jax.tree.map(_still_where, too_far, directions)
        rates = _within_bounds(options, kind, turned, directions, params, verdict.sizes)
        lengths = kind.of_entries(jax.tree.map(_step_size, rates), layout)
        slopes = kind.of_entries(kind.product(grads, directions), layout)
        compass = jax.tree.map(over_slope, slopes, directions)

        fallen = jax.tree.map(partial(_fallen, options, verdict.octaves), old)
        rates = jax.tree.map(partial(jnp.where, back), fallen, rates)
        compass = jax.tree.map(partial(jnp.where, back), old_compass, compass)
        searching = jax.tree.map(lambda s, far: s & ~far & ~back, searching, too_far)
        log2_lr, searching = kind.closed(rates, searching, layout)
        return steps_of(lengths, directions, params), state._replace(
            log2_lr=log2_lr,
            searching=searching,
            compass=for_state(jax.lax.stop_gradient(compass)),
            inner=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _first(options: Options, sizes: jax.Array, dtype: Any) -> jax.Array:
    """η₀ for tensors of such sizes."""
    if options.init_log2_lr is not None:
        return jnp.full(sizes.shape, options.init_log2_lr, dtype)
    natural = FIRST_LOG2_LR + jnp.log2(sizes).astype(dtype)
    bounds = options.min_log2_lr, options.max_log2_lr
    return jnp.clip(natural, *bounds).astype(dtype)


def _turned(
    options: Options, rate: jax.Array, searching: jax.Array, ratio: jax.Array
) -> jax.Array:
    """adapt(η, ratio of the slopes)."""
    up = jnp.where(searching, options.first_increase, options.increase)
    return _rules.secant_adaptation(rate, ratio, decrease=options.decrease, increase=up)


def _within_bounds(
    options: Options,
    kind: Rates,
    rates: Any,
    directions: Packed,
    params: Packed,
    sizes: jax.Array,
) -> Any:
    """The rates, of which none is out of its bounds or steps too far."""
    reached = working_precision(params, rates)
    longest = longest_step(reached, sizes, options.max_relative_step)
    most = jax.lax.stop_gradient(kind.most(directions, longest))
    return jax.tree.map(partial(_bounded, options), most, rates)


def _bounded(options: Options, most: ArrayLike, rate: jax.Array) -> jax.Array:
    # A length that is no number bounds nothing, and none takes a rate to −∞.
    highest = jnp.asarray(options.max_log2_lr, rate.dtype)
    ceiling = jnp.fmin(jnp.asarray(most, rate.dtype), highest)
    raised = jnp.maximum(rate, jnp.asarray(options.min_log2_lr, rate.dtype))
    return jnp.maximum(jnp.minimum(raised, ceiling), LEAST_LOG2_LR)


def _fallen(options: Options, octaves: jax.Array, rate: jax.Array) -> jax.Array:
    """A rate after a step back."""
    # The longest step allowed may have held it below the floor.
    floor = jnp.maximum(jnp.asarray(options.min_log2_lr, rate.dtype), LEAST_LOG2_LR)
    return jnp.maximum(rate + octaves.astype(rate.dtype), jnp.minimum(rate, floor))


def finite_or_zero(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _still_where(too_far: jax.Array, direction: jax.Array) -> jax.Array:
    return jnp.where(too_far, 0, direction)


def over_slope(slope: jax.Array, direction: jax.Array) -> jax.Array:
    """d / −|slope|: its product with the next gradient is the ratio of the slopes.

    Zero for a direction that does not descend: it tells nothing.
    """
    down = slope < 0
    compass = direction / jnp.where(down, slope, -1).astype(direction.dtype)
    return jnp.where(down & jnp.isfinite(compass), compass, 0)


def _step_size(rate: jax.Array) -> jax.Array:
    return _rules.exponential_step_size(rate, 1.0)
