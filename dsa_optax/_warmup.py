"""A warm-up that finds how high to go, for mini-batches.

The gradient of a fresh mini-batch tells, without bias, whether the loss still falls at
the end of the step before: its own batch did not choose that step. One such slope is
mostly noise, so it is the mean of many beside their size that moves the rate:

    slope   c = −cos(g, u₋)                      u₋: the update before
    signal  z = mean(c) / √mean(c²)              exponential means
    adapt   η' = max(η + β (z − z*), 0)          in the warm-up, of T updates;
                                                 β: β₂/T up, β₁ down
    step    θ' = θ + 2^η' · u(g)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks
from dsa_optax._packed import packing
from dsa_optax._trees import inner_products, norm

DECAY = 0.9
"""Of the exponential means: over some ten steps."""


class AdaptiveWarmupState(NamedTuple):
    """State of `adaptive_warmup`.

    Attributes:
      count: number of updates so far, an int32 scalar.
      log2_scale: η, the log2 of what the inner updates are multiplied by, a scalar.
      last: the last update; like the params.
      mean: exponential mean of the slopes along the last updates, a scalar.
      square: exponential mean of their squares, a scalar.
      inner: the inner optimizer's state.
    """

    count: jax.Array  # type: ignore[assignment]
    log2_scale: jax.Array
    last: optax.Updates
    mean: jax.Array
    square: jax.Array
    inner: optax.OptState


def adaptive_warmup(
    inner: optax.GradientTransformation,
    warmup_steps: ArrayLike,
    *,
    decrease: ArrayLike = 3.0,
    increase: ArrayLike = 5.0,
    threshold: ArrayLike = 0.3,
) -> optax.GradientTransformationExtraArgs:
    r"""Raises an optimizer's rate during warm-up, for as long as steps are too short.

    For mini-batches. The updates of `inner`, with its own learning rate and schedule,
    are multiplied by :math:`2^\eta`. η begins at 0, moves while the warm-up lasts, is
    never below 0, and stays where it is afterwards, so that a schedule is not undone.

    .. math::
      c_t &= -\cos(g_t, u_{t-1}), \qquad
      z_t = \operatorname{mean}(c) \, / \sqrt{\operatorname{mean}(c^2)} \\
      \eta_t &= \max\left(\eta_{t-1} + \beta (z_t - z^*), 0\right), \qquad
        \beta = \beta_2 / T \text{ where } z_t > z^*, \text{ else } \beta_1 \\
      u_t &= 2^{\eta_t} \operatorname{inner}(g_t)

    with exponential means of a decay of 0.9, T = `warmup_steps`, :math:`\beta_1` =
    `decrease`, :math:`\beta_2` = `increase` and :math:`z^*` = `threshold`.
    :math:`c_t` is positive where the loss still falls at the end of the last step;
    :math:`z_t` is 1 where it does on every mini-batch, and about 0 where it is all
    noise. So a usual rate is raised where it is clearly too low for so short a
    training: slowly, the longer the warm-up the slower, and back at once where the
    signal is gone. A rate that is too high stays so.

    Args:
      inner: any optimizer, at its usual learning rate and with its schedule:
        `optax.contrib.muon(optax.cosine_decay_schedule(0.02, steps), weight_decay=0.1,
        muon_weight_dimension_numbers=dsa_optax.matrices)`. It is given every extra
        argument.
      warmup_steps: how many updates move η, an integer: a tenth of all.
      decrease: β₁ ≥ 0, how fast η falls, a step.
      increase: β₂ ≥ 0, how fast it rises: in all of the warm-up by β₂ (1 − z*) at most.
      threshold: z*, the signal that keeps η where it is, from 0 to 1.

    Returns:
      A transformation whose state, an `AdaptiveWarmupState`, keeps one number a
      parameter beside the inner state; `optax.tree.get(state, "log2_scale")` is η. A
      gradient (or an update) that isn't finite tells nothing: η waits. An update costs
      the inner one and a scalar product of two trees like the params.

    Raises:
      TypeError: if `warmup_steps` is not an integer, or another argument no number; in
        `init` for params that aren't real floating arrays.
      ValueError: if one of the arguments is negative.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, dsa_optax
      >>> def loss(w, x):  # the mean of noisy points
      ...     return jnp.mean(jnp.sum((w - 1 - x) ** 2, axis=-1))
      >>> steps = 200
      >>> schedule = optax.cosine_decay_schedule(1e-3, steps)  # far too low
      >>> tx = dsa_optax.adaptive_warmup(optax.adam(schedule), steps // 10)
      >>> step = dsa_optax.make_train_step(loss, tx)
      >>> w = jnp.zeros(2)
      >>> state = tx.init(w)
      >>> for x in jax.random.normal(jax.random.key(0), (steps, 8, 2)):
      ...     w, state, value = step(w, state, x)
      >>> bool(2**state.log2_scale > 4)  # times the rate
      True

    References:
      Differentiable Self-Adaptive Learning Rate, Eq. 7 (Appendix A): the slope at the
      end of a step, for any direction; here of another mini-batch.
    """
    _checks.count("warmup_steps", warmup_steps, 100)
    _checks.scalar("decrease", decrease, 3.0, low=0.0)
    _checks.scalar("increase", increase, 5.0, low=0.0)
    _checks.scalar("threshold", threshold, 0.3, low=0.0)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> AdaptiveWarmupState:
        _checks.real_floating("params", params)
        return AdaptiveWarmupState(
            count=jnp.zeros([], jnp.int32),
            log2_scale=jnp.zeros([], jnp.float32),
            last=jax.tree.map(jnp.zeros_like, params),
            mean=jnp.zeros([], jnp.float32),
            square=jnp.zeros([], jnp.float32),
            inner=inner.init(params),
        )

    def update(
        updates: optax.Updates,
        state: AdaptiveWarmupState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AdaptiveWarmupState]:
        steps = jnp.maximum(jnp.asarray(warmup_steps, jnp.float32), 1)
        rise = jnp.asarray(increase, jnp.float32) / steps
        moved, mean, square = _moved(state, updates, decrease, rise, threshold)
        # Not a branch: the host of a GPU would wait for its condition at every step.
        warming = state.count < warmup_steps
        log2_scale = jnp.where(warming, moved, state.log2_scale)
        raw, inner_state = inner.update(updates, state.inner, params, **extra_args)
        scale = jnp.exp2(log2_scale)
        scaled = jax.tree.map(lambda u: scale.astype(u.dtype) * u, raw)
        count = optax.safe_increment(state.count)
        return scaled, AdaptiveWarmupState(
            count, log2_scale, scaled, mean, square, inner_state
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _moved(
    state: AdaptiveWarmupState,
    grads: optax.Updates,
    decrease: ArrayLike,
    increase: ArrayLike,
    threshold: ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """η, and the two means: as they are, where the slope tells nothing."""
    pack, _ = packing(grads)
    both = pack(grads), pack(state.last)
    products = inner_products(*jax.lax.stop_gradient(both))
    lengths = norm(products[0][0]) * norm(products[1][1])
    told = (lengths > 0) & jnp.isfinite(lengths) & jnp.isfinite(products[0][1])
    fall = -products[0][1] / jnp.where(told, lengths, 1)
    fall = jnp.where(told, fall, 0).astype(jnp.float32)

    mean = DECAY * state.mean + (1 - DECAY) * fall
    square = DECAY * state.square + (1 - DECAY) * fall**2
    signal = mean / jnp.sqrt(jnp.where(square > 0, square, 1))
    above = signal - jnp.asarray(threshold, jnp.float32)
    stride = jnp.where(above > 0, increase, decrease).astype(jnp.float32)
    log2_scale = jnp.maximum(state.log2_scale + stride * above, 0)
    moved = (log2_scale, mean, square)
    before = (state.log2_scale, state.mean, state.square)
    return jax.tree.map(lambda new, old: jnp.where(told, new, old), moved, before)
