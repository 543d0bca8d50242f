"""A self-adapting rate for any optimizer, at one gradient a step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks
from dsa_optax._rates import FIRST_LOG2_LR, RATES, Granularity, Options, adapted
from dsa_optax._state import LEAST_LOG2_LR
from dsa_optax._step_back import guarded, of_trees

DEFAULTS = Options()


def adapt(
    inner: optax.GradientTransformation,
    granularity: Granularity = "tensor",
    *,
    init_log2_lr: ArrayLike | None = DEFAULTS.init_log2_lr,
    decrease: ArrayLike = DEFAULTS.decrease,
    increase: ArrayLike = DEFAULTS.increase,
    first_increase: ArrayLike = DEFAULTS.first_increase,
    min_log2_lr: ArrayLike = DEFAULTS.min_log2_lr,
    max_log2_lr: ArrayLike = DEFAULTS.max_log2_lr,
    max_relative_step: ArrayLike = DEFAULTS.max_relative_step,
    state_dtype: Any | None = DEFAULTS.state_dtype,
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
    rates fall by as much. The inner optimizer never sees that gradient. So it is where
    `update` is given the `value` and that is above the greatest of the last ten, less a
    tenth of what the slope promised; then the step is shortened to the minimum of the
    cubic by its losses and slopes, or to between a tenth and a half. Leave the value
    out where the loss rises on purpose.

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
      dtypes. The state is a `StepBackState` around an `AdaptState`, which beside the
      inner state have three numbers a parameter for a rate each, and two for the
      coarser ones. But for the rates these are packed: the leaves of up to 16,384
      entries lie in one vector, larger ones of one shape in one array, so that an
      update compiles in about the same time for many leaves as for one. Where the
      params lie changes nothing of that: of those that are spread over devices, the
      small ones are gathered for a step, and of large ones nothing.

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
      Eq. 6 (Sec. 2.2.4); Grippo, Lampariello and Lucidi, `A nonmonotone line search
      technique for Newton's method <https://doi.org/10.1137/0723046>`_, 1986.
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
    return guarded(adapted(of_trees(_downhill(inner)), granularity, options))


def _check(granularity: str, options: Options) -> None:
    _checks.one_of("granularity", granularity, tuple(RATES))
    examples = DEFAULTS._asdict()
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


def _downhill(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same, refused in `init` where it points uphill, as `optax.scale_by_adam`.

    It would stand still, without a word. What can't be tried on one parameter, or here
    and now, is let through.
    """
    inner = optax.with_extra_args_support(inner)

    def first_updates() -> Any:
        """What it makes of a gradient of 1, and of −1."""
        one = jnp.ones([], jnp.float32)
        state = inner.init(one)
        return jnp.stack([inner.update(g, state, one)[0] for g in (one, -one)])

    def init(params: optax.Params) -> Any:
        try:
            with jax.ensure_compile_time_eval():  # inside of a jit, too
                up, down = (float(update) for update in jax.jit(first_updates)())
        except Exception:  # whatever somebody else's may raise, or a trace
            return inner.init(params)
        if up > 0 > down:
            raise ValueError(
                "`inner` points uphill: its update has the sign of the gradient. Give "
                "an optimizer at a rate of 1, as optax.adam(1.0) is, or turn the "
                "direction round: optax.chain(inner, optax.scale(-1.0))."
            )
        return inner.init(params)

    return optax.GradientTransformationExtraArgs(init, inner.update)
