"""A self-adapting rate for any optimizer, at one gradient a step.

Eq. 7 holds for any direction d: after θ' = θ + 2^η d, the slope of the loss along η has
the sign of ⟨∇L(θ'), d⟩. And ∇L(θ') is what the next update is given anyway, so that no
probe is needed: every step is the probe of the next one.

    adapt   η' = adapt(η, −⟨g, d₋⟩ / |⟨g₋, d₋⟩|)    g₋, d₋: of the step before
    bound   η' = min(η', log2 of the longest step / |d|)
    step    θ' = θ + 2^η' · d(g)
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks, _rules
from dsa_optax._granularity import RATES, Granularity, Rates
from dsa_optax._packed import Core, Layout, Packed, on_trees
from dsa_optax._sizes import room, sizes
from dsa_optax._skeleton import step, working_precision
from dsa_optax._state import LEAST_LOG2_LR, AdaptState, rates_dtype
from dsa_optax._step_back import step_back

FIRST_LOG2_LR = -10.0
"""What a rate begins with for a tensor of size 1."""


class Options(NamedTuple):
    """What `adapt` takes; a `max_relative_step` of None bounds no step."""

    init_log2_lr: ArrayLike | None = None
    decrease: ArrayLike = 1.0
    increase: ArrayLike = 0.3
    first_increase: ArrayLike = 1.0
    min_log2_lr: ArrayLike = LEAST_LOG2_LR
    max_log2_lr: ArrayLike = 126.0
    max_relative_step: ArrayLike | None = 0.2
    state_dtype: Any | None = None


def adapt(
    inner: optax.GradientTransformation,
    granularity: Granularity = "tensor",
    *,
    init_log2_lr: ArrayLike | None = None,
    decrease: ArrayLike = 1.0,
    increase: ArrayLike = 0.3,
    first_increase: ArrayLike = 1.0,
    min_log2_lr: ArrayLike = LEAST_LOG2_LR,
    max_log2_lr: ArrayLike = 126.0,
    max_relative_step: ArrayLike = 0.2,
    state_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gives any optimizer learning rates that adapt themselves.

    The updates of `inner` are directions, and η their log2 rates: one for every
    parameter, one for every tensor, or one for all. The gradient that an update is
    given is the one at the point that the last step reached, so it tells whether that
    step was too short or too long: its slope along the last direction, beside the slope
    that the direction began with. No second gradient is evaluated.

    .. math::
      r &= \langle g_t, d_{t-1} \rangle \, / \, -|\langle g_{t-1}, d_{t-1} \rangle| \\
      \eta_t &= \eta_{t-1}
        + \operatorname{clip}(-\log_2(1 - r), -\beta_1, \beta_2) \\
      \theta_t &= \theta_{t-1} + 2^{\eta_t} d_t

    with the scalar products over what a rate is for, :math:`\beta_1` = `decrease` and
    :math:`\beta_2` = `increase`. Eq. 6 looks at the sign of r alone. Its size tells how
    far the minimum is: were the loss a parabola along :math:`d_{t-1}`, a step
    :math:`1 / (1 - r)` times as long would have ended there. A direction that points
    uphill, as momentum may, is taken, and leaves its rate alone.

    Where the whole step ends at a slope a hundred times as steep, or a thousand times
    downhill, or where the gradient (or the `value`, if `update` is given it) isn't
    finite and was before, it led across a wall or a pole: in place of the next step the
    last one is shortened, to a 32nd where it ended uphill and else to a tenth, and the
    rates fall by as much. The inner optimizer never sees that gradient.

    For full-batch training. The noise of mini-batches moves the rates, mostly down,
    until training stands still: there is `adaptive_warmup` for them.

    Args:
      inner: any optimizer, at a learning rate of 1: `optax.contrib.muon(1.0)`,
        `optax.adam(1.0)`, or `optax.sgd(1.0)`. It is given every extra argument.
      granularity: what has a rate of its own: "parameter", "tensor" (a leaf of the
        params) or "global". A parameter whose gradient changed its sign stands still
        for one step.
      init_log2_lr: η₀, the log2 learning rate to start with. None is −10 for a tensor
        of size 1, and for others relative to their size: 2^η₀ is 2⁻¹⁰ times the root
        mean square that a tensor (with one rate for all, all of the params) begins
        with, or that of all the params for a tensor of zeros.
      decrease: β₁ ≥ 0, how much η falls at most in a step.
      increase: β₂ ≥ 0, how much η rises at most in a step.
      first_increase: β₂ of a rate that was never too high yet; so η₀ counts for little.
      min_log2_lr: the least η, but where `max_relative_step` allows less.
      max_log2_lr: the greatest η.
      max_relative_step: what no step of a tensor exceeds, as a share of its own root
        mean square (or of a twentieth of what that was at the start, where that is
        more): of the root mean square of the step, and with one rate a parameter each
        single entry of it.
      state_dtype: dtype of η. None is float32, whatever the params' dtype.

    Returns:
      A transformation whose `update` needs the params. Updates have their shapes and
      dtypes. The state is an `AdaptState`, which beside the inner state has three
      numbers a parameter for a rate each, and two for the coarser ones. But for the
      rates these are packed: the leaves of up to 16,384 entries that aren't spread over
      devices lie in one vector, so that an update compiles and runs in about the same
      time for many leaves as for one.

      An entry of the gradient that isn't finite counts as zero, where it leads to no
      step back: there were as many before the last step.

    Raises:
      ValueError: here for a hyper-parameter out of its range; in `init` for an inner
        optimizer whose updates point uphill; in `update` for missing `params`, or a
        gradient or a state that isn't shaped like the params.
      TypeError: for a hyper-parameter that isn't a number, or params that aren't real
        floating arrays.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> loss = lambda w: jnp.sum(jnp.array([1.0, 100.0]) * (w - 1) ** 2)
      >>> tx = dsa_optax.adapt(optax.sgd(1.0), "global")  # gradient descent, untuned
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      >>> bool(loss(w) < 1e-3)
      True
      >>> bool(dsa_optax.learning_rates(state) > 2.0**-10)  # where it began
      True

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 7 (Appendix A), for any direction;
      Eq. 6 (Sec. 2.2.4).
    """
    options = Options(
        init_log2_lr,
        decrease,
        increase,
        first_increase,
        min_log2_lr,
        max_log2_lr,
        max_relative_step,
        state_dtype,
    )
    _check(granularity, options)
    core = on_trees(inner)._replace(refuse=partial(_refuse_uphill, inner))
    return step_back(adapted(core, granularity, options))


def adapted(inner: Core, granularity: Granularity, options: Options) -> Core:
    """What `adapt` is of packed params."""
    rates, dtype = RATES[granularity], rates_dtype(options.state_dtype)

    def init(params: Packed) -> AdaptState:
        start = _first(options, rates.sizes(params), dtype)
        log2_lr = rates.like(params, start)
        return AdaptState(
            count=jnp.zeros([], jnp.int32),
            log2_lr=log2_lr,
            searching=jax.tree.map(lambda rate: rate == rate, log2_lr),
            compass=working_precision(jax.tree.map(jnp.zeros_like, params), log2_lr),
            sizes=sizes(params),
            inner=inner.init(params),
            start=start,
            floor=jnp.array(options.min_log2_lr, dtype),
            ceiling=jnp.array(options.max_log2_lr, dtype),
        )

    def update(
        updates: Packed, state: AdaptState, params: Packed, **extra_args: Any
    ) -> tuple[Packed, AdaptState]:
        layout, grads = params.layout, working_precision(updates, state.log2_lr)

        # −⟨g, d₋⟩ / |⟨g₋, d₋⟩|: it has no derivative of use, nor always a finite one.
        ratios = jax.lax.stop_gradient(rates.product(grads, state.compass))
        too_far = jax.tree.map(lambda ratio: ~(ratio >= 0), ratios)
        turned = partial(_turned, options)
        log2_lr = jax.tree.map(turned, state.log2_lr, state.searching, ratios)

        raw, inner_state = inner.update(updates, state.inner, params, **extra_args)
        directions = jax.tree.map(_finite_or_zero, working_precision(raw, log2_lr))
        if granularity == "parameter":
            directions = jax.tree.map(_still_where, too_far, directions)
        most = _most(options, rates, directions, log2_lr, state.sizes, params)
        log2_lr = jax.tree.map(partial(_bounded, options), log2_lr, most)

        slopes = rates.product(grads, directions)
        compass = jax.tree.map(_over_slope, rates.spread(slopes, layout), directions)
        step_sizes = rates.spread(jax.tree.map(_step_size, log2_lr), layout)
        # An inner optimizer's update points down already.
        return step(jnp.negative, step_sizes, directions, params), state._replace(
            count=optax.safe_increment(state.count),
            log2_lr=log2_lr,
            searching=jax.tree.map(lambda s, far: s & ~far, state.searching, too_far),
            compass=jax.lax.stop_gradient(compass),
            inner=inner_state,
        )

    def opened(state: AdaptState, params: Packed) -> AdaptState:
        log2_lr, searching = rates.of_tree(state.log2_lr, params), state.searching
        if isinstance(log2_lr, Packed):
            searching = params.layout.held(searching)
        return state._replace(
            log2_lr=log2_lr,
            searching=searching,
            compass=params.layout.held(state.compass),
            inner=inner.opened(state.inner, params),
        )

    def closed(state: AdaptState, layout: Layout) -> AdaptState:
        searching = state.searching
        if isinstance(searching, Packed):
            searching = searching.held()
        return state._replace(
            log2_lr=rates.tree(state.log2_lr, layout),
            searching=searching,
            compass=state.compass.held(),
            inner=inner.closed(state.inner, layout),
        )

    return Core(init, update, opened, closed, inner.refuse)


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


def _most(
    options: Options,
    rates: Rates,
    directions: Packed,
    log2_lr: Any,
    sizes: jax.Array,
    params: Packed,
) -> Any:
    """The log2 of how often a step may be as long as its direction, for every rate."""
    if options.max_relative_step is None:
        return jax.tree.map(lambda rate: jnp.full_like(rate, jnp.inf), log2_lr)

    def longest(allowed: jax.Array, length: jax.Array) -> jax.Array:
        length = jnp.maximum(length, jnp.finfo(length.dtype).tiny)
        return jnp.log2(allowed).astype(length.dtype) - jnp.log2(length)

    reached = working_precision(params, log2_lr)
    allowed = room(reached, sizes, options.max_relative_step)
    lengths = rates.length(directions)
    most = jax.tree.map(longest, rates.each(allowed, params.layout), lengths)
    return jax.lax.stop_gradient(rates.least(most))


def _bounded(options: Options, rate: jax.Array, most: jax.Array) -> jax.Array:
    # A length that is no number bounds nothing, and none takes a rate to −∞.
    highest = jnp.asarray(options.max_log2_lr, rate.dtype)
    ceiling = jnp.fmin(jnp.asarray(most, rate.dtype), highest)
    raised = jnp.maximum(rate, jnp.asarray(options.min_log2_lr, rate.dtype))
    return jnp.maximum(jnp.minimum(raised, ceiling), LEAST_LOG2_LR)


def _check(granularity: str, options: Options) -> None:
    _checks.one_of("granularity", granularity, tuple(RATES))
    examples = Options()._asdict()
    given = options._asdict()
    for name in ("decrease", "increase", "first_increase", "max_relative_step"):
        _checks.scalar(name, given[name], examples[name], low=0.0)
    lowest, highest = (given[name] for name in ("min_log2_lr", "max_log2_lr"))
    _checks.scalar("min_log2_lr", lowest, LEAST_LOG2_LR)
    _checks.scalar("max_log2_lr", highest, 126.0)
    _checks.ordered("min_log2_lr", lowest, "max_log2_lr", highest)
    if (first := options.init_log2_lr) is not None:
        _checks.scalar("init_log2_lr", first, FIRST_LOG2_LR)
        _checks.ordered("min_log2_lr", lowest, "init_log2_lr", first)
        _checks.ordered("init_log2_lr", first, "max_log2_lr", highest)


def _refuse_uphill(inner: optax.GradientTransformation) -> None:
    """Raises ValueError for directions such as `optax.scale_by_adam` gives.

    Below `adapt` they would stand still, without a word. What can't be tried on one
    parameter, or here and now, is let through.
    """

    def first_updates() -> Any:
        """What it makes of a gradient of 1, and of −1."""
        one = jnp.ones([], jnp.float32)
        state = inner.init(one)
        return jnp.stack([inner.update(g, state, one)[0] for g in (one, -one)])

    try:
        up, down = (float(update) for update in jax.jit(first_updates)())
    except Exception:  # whatever an optimizer of somebody else's may raise, or a trace
        return
    if up > 0 > down:
        raise ValueError(
            "`inner` points uphill: its update has the sign of the gradient. Give an "
            "optimizer at a rate of 1, as optax.adam(1.0) is, or turn the direction "
            "round: optax.chain(inner, optax.scale(-1.0))."
        )


def _finite_or_zero(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _still_where(too_far: jax.Array, direction: jax.Array) -> jax.Array:
    return jnp.where(too_far, 0, direction)


def _over_slope(slope: jax.Array, direction: jax.Array) -> jax.Array:
    """d / −|slope|: its product with the next gradient is the ratio of the slopes.

    Zero for a direction that does not descend: it tells nothing.
    """
    down = slope < 0
    compass = direction / jnp.where(down, slope, -1).astype(direction.dtype)
    return jnp.where(down & jnp.isfinite(compass), compass, 0)


def _step_size(rate: jax.Array) -> jax.Array:
    return _rules.exponential_step_size(rate, 1.0)
