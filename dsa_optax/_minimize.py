"""One call that ends: a loss, where to start, and the best that was found."""

import enum
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dsa_optax import _checks
from dsa_optax._auto import auto_dsa
from dsa_optax._best import KeepBestState, keep_best
from dsa_optax._bounds import Bounds, bounds_of, clipped, held
from dsa_optax._step_back import backs_of
from dsa_optax._train_step import known_to_a_step
from dsa_optax._trees import nodes_of

PATIENCE = 100
"""So many steps without progress end a run."""

CHUNKS = 100
"""How often a run shows its progress, or asks its callback."""

Loss = Callable[..., Any]


class Reason(enum.IntEnum):
    """Why a run of `minimize` ended; as a string it is a sentence."""

    STEPS_SPENT = 0
    CONVERGED = 1
    NO_PROGRESS = 2
    NOT_FINITE = 3
    STOPPED = 4

    def __str__(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Reason.STEPS_SPENT: "All steps were spent.",
    Reason.CONVERGED: "Converged: the gradient is as small as `gtol` asks.",
    Reason.NO_PROGRESS: (
        f"No further progress: {PATIENCE} steps lowered the loss by less than `ftol`."
    ),
    Reason.NOT_FINITE: "The loss or its gradient isn't finite where the run begins.",
    Reason.STOPPED: "The callback asked to stop.",
}


class MinimizeState(NamedTuple):
    """Where a run of `minimize` stands, for another that goes on from there.

    Attributes:
      params: those of the next step: not the best, and their loss not known yet.
      opt_state: the optimizer's, a `KeepBestState`.
      grad_norm: that of the gradient at the best params, a scalar.
      steepest: the greatest norm of each tensor's gradient so far, a vector.
      caught: how many entries of each tensor a bound holds, an int32 vector.
      anchor: the loss that progress is measured from, a scalar.
      idle: how many steps have passed since it was reached, an int32 scalar.
    """

    params: optax.Params
    opt_state: KeepBestState
    grad_norm: jax.Array
    steepest: jax.Array
    caught: jax.Array
    anchor: jax.Array
    idle: jax.Array


class Minimized(NamedTuple):
    """What `minimize` returns.

    Attributes:
      params: the best of all that were evaluated: the lowest loss.
      value: their loss, a scalar.
      grad_norm: the Euclidean norm of their gradient, a scalar; entries that a bound
        holds count as zero.
      steps: how many were taken, each with one evaluation of the loss and its gradient
        (and with those that the optimizer makes by itself: `dsa` one more, a line
        search some), an integer.
      reason: why the run ended, a `Reason`.
      history: the loss at each step, of shape (steps,).
      state: to go on from where the run ended.

    Inside `jax.jit` and `jax.vmap` steps and reason are int32 arrays
    (`Reason(int(reason))` reads one), and the history is as long as the run might have
    been, with NaN after its end.
    """

    params: optax.Params
    value: jax.Array
    grad_norm: jax.Array
    steps: int | jax.Array
    reason: Reason | jax.Array
    history: jax.Array
    state: MinimizeState


def minimize(
    loss_fn: Loss,
    params: optax.Params,
    *args: Any,
    steps: int = 1000,
    tx: optax.GradientTransformation | None = None,
    gtol: float | None = 1e-8,
    ftol: float | None = 1e-12,
    bounds: tuple[Any, Any] | None = None,
    has_aux: bool = False,
    state: MinimizeState | None = None,
    callback: Callable[[Minimized], Any] | None = None,
    progress: bool = False,
) -> Minimized:
    r"""Minimizes a loss, and returns the best parameters that it saw.

    With :math:`L` the loss, :math:`g_k` and :math:`\theta_k` gradient and parameters of
    tensor k, and :math:`\varepsilon` the spacing of their dtype at 1, it ends where

    .. math::
      \max_k \lVert g_k \rVert \, \lVert \theta_k \rVert
      \le \max(\mathtt{gtol}, \varepsilon^{2/3}) \, \lvert L \rvert,

    so that scaling any tensor could change no more of the loss than that share (each
    gradient having fallen to half of its greatest, the loss being within that share of
    the best, and the step not being taken back); or where a hundred steps have not
    lowered the best loss by :math:`\max(\mathtt{ftol}, \varepsilon) \, \lvert L
    \rvert`; or where its steps are spent. A minimum of zero has no size: such a run
    goes on to its last rounding. Where there is no progress at a point that is flatter
    than the best, as in another, higher minimum, it begins again from the best.

    The loop is compiled, once for each loss, optimizer and shapes: pass data as
    arguments, and define the loss once, not anew for each call. It may stand inside
    `jax.jit`, and under `jax.vmap` over starts or seeds; sharded params stay sharded.

    Args:
      loss_fn: `loss_fn(params, *args)`, a scalar, or `(scalar, aux)`; deterministic.
      params: where to start, a pytree of real floating arrays.
      *args: what else the loss takes, pytrees of arrays.
      steps: how many at most, an integer, at least 1. It is part of what is compiled.
      tx: any optimizer of Optax; None is `auto_dsa()`.
      gtol: how small the gradient is to be, by the formula above. None asks for none.
      ftol: how much a hundred steps are to gain. None asks for no progress.
      bounds: `(low, high)`, the least and the greatest that parameters may be: numbers,
        trees like the params (or the beginnings of such trees), or None. A start
        outside is moved to the bound; each step ends within. What a bound holds, the
        optimizer is told nothing of.
      has_aux: whether the loss returns `(scalar, aux)`; the aux is dropped.
      state: that of an earlier result, to go on from where it ended (its params, not
        those given, which only tell the shapes), with the same optimizer. On other data
        begin anew from `result.params`: the best value is that of the old ones, and old
        rates cost more steps than they save.
      callback: is called a hundred times in a run with what there is so far, a
        `Minimized`; the run ends if it returns True.
      progress: whether to show a progress bar, by tqdm
        (`pip install "dsa-optax[training]"`).

    Returns:
      A `Minimized`: the best params, their value, why the run ended, and its history.

    Raises:
      TypeError: if the params aren't real floating arrays, `steps` no integer, `tx` no
        optimizer, or the loss no scalar.
      ValueError: if there are no params, a tolerance is negative, a lower bound is
        above an upper one, or a callback or progress are asked for inside `jax.jit`.

    Examples:
      >>> import jax.numpy as jnp, dsa_optax
      >>> def loss(params, x, y):
      ...     return jnp.mean((params["a"] * jnp.exp(-params["b"] * x) - y) ** 2)
      >>> x = jnp.linspace(0, 4, 50)
      >>> y = 3 * jnp.exp(-0.7 * x)
      >>> start = {"a": jnp.array(1.0), "b": jnp.array(0.1)}
      >>> fit = dsa_optax.minimize(loss, start, x, y)
      >>> print(f"{fit.params['a']:.3f} {fit.params['b']:.3f}", fit.steps < 200)
      3.000 0.700 True
      >>> fit = dsa_optax.minimize(loss, start, x, y, bounds=(None, {"a": 2, "b": 1}))
      >>> print(f"{fit.params['a']:.3f}", fit.reason)
      2.000 Converged: the gradient is as small as `gtol` asks.

    References:
      Dennis and Schnabel, *Numerical Methods for Unconstrained Optimization and
      Nonlinear Equations*, 1983, Sec. 7.2, for the scaled gradient.
    """
    tx = _auto() if tx is None else tx
    _check(params, steps, tx)
    problem = _Problem(_hashable(loss_fn), tx, bool(has_aux))
    given = _Given(
        args,
        bounds_of(bounds, params),
        gtol=_tolerance("gtol", gtol),
        ftol=_tolerance("ftol", ftol),
    )
    run = _begin(problem, int(steps), params, given, state)
    if not (callback or progress):
        # Where it is traced there is nothing to donate.
        go_on = _loop if _is_traced(run, given) else _go_on
        return _result(go_on(problem, run, given, int(steps)))
    if _is_traced(run, given):
        raise ValueError(
            "`callback` and `progress` can't be had inside jax.jit or jax.vmap: leave "
            "them out, or call minimize outside."
        )
    return _watched(problem, run, given, int(steps), callback, progress)


# The loop -----------------------------------------------------------------------------


class _Problem(NamedTuple):
    """What is compiled: hashable, as that of `jax.jit`'s static arguments is."""

    loss_fn: Loss
    tx: optax.GradientTransformation
    has_aux: bool


class _Given(NamedTuple):
    """What may change without compiling anew."""

    args: tuple[Any, ...]
    bounds: Bounds | None
    gtol: ArrayLike
    ftol: ArrayLike


class _Run(NamedTuple):
    """The carry of the loop."""

    count: jax.Array  # type: ignore[assignment]
    reason: jax.Array
    history: jax.Array
    grad_norm: jax.Array  # at the params of the last step, best or not
    begun_at: jax.Array  # the best loss where it began again
    state: MinimizeState


@partial(jax.jit, static_argnums=(0, 1))
def _begin(
    problem: _Problem,
    steps: int,
    params: optax.Params,
    given: _Given,
    state: MinimizeState | None,
) -> _Run:
    """A run before its first step, in memory of its own: it is donated."""
    _checks.real_floating("params", params)
    params = jax.tree.map(lambda p: jnp.array(p, jnp.result_type(p), copy=True), params)
    value = _scalar(problem, params, given.args)
    first = _first_state(problem, clipped(params, given.bounds), value.dtype)
    if state is not None:
        _check_state(state, first)
        first = jax.tree.map(jnp.copy, state)._replace(idle=first.idle)
    zero = jnp.zeros([], jnp.int32)
    return _Run(
        count=zero,
        reason=zero,
        history=jnp.full(steps, jnp.nan, value.dtype),
        grad_norm=jnp.full_like(first.grad_norm, jnp.inf),
        begun_at=jnp.full_like(first.anchor, jnp.inf),
        state=first,
    )


def _first_state(problem: _Problem, params: optax.Params, dtype: Any) -> MinimizeState:
    opt_state = keep_best(problem.tx).init(params)
    unknown = opt_state.best.value
    return MinimizeState(
        params=params,
        opt_state=opt_state,
        grad_norm=unknown,
        steepest=jnp.zeros(len(jax.tree.leaves(params)), dtype),
        caught=_counts(None, params),
        anchor=unknown,
        idle=jnp.zeros([], jnp.int32),
    )


def _loop(problem: _Problem, run: _Run, given: _Given, until: int) -> _Run:
    """Steps until something ends the run, or so many were taken."""

    def goes_on(run: _Run) -> jax.Array:
        return (run.count < until) & (run.reason == Reason.STEPS_SPENT)

    def to_an_end(run: _Run) -> _Run:
        run = jax.lax.while_loop(goes_on, lambda run: _step(problem, run, given), run)
        return _begun_again(problem, run, given)

    return jax.lax.while_loop(goes_on, to_an_end, run)


def _begun_again(problem: _Problem, run: _Run, given: _Given) -> _Run:
    """From the best, where a run stands still at another point that is flatter.

    Then the best is no minimum, but a point on the way to another, higher one. It is
    once more only from a lower best, so that there is an end.
    """
    state = run.state
    best = state.opt_state.best
    margin = _share(given.ftol, 1, best.value.dtype) * jnp.abs(best.value)
    ended = run.reason == Reason.NO_PROGRESS
    steeper = state.grad_norm > run.grad_norm
    is_beside = ended & steeper & (best.value < run.begun_at - margin)
    anew = run._replace(
        reason=jnp.zeros_like(run.reason),
        begun_at=best.value,
        state=state._replace(
            params=best.params,
            opt_state=KeepBestState(best, problem.tx.init(best.params)),
            idle=jnp.zeros_like(state.idle),
        ),
    )
    return jax.tree.map(partial(jnp.where, is_beside), anew, run)


_go_on = jax.jit(_loop, static_argnums=0, donate_argnums=1)


class _Seen(NamedTuple):
    """What was evaluated at some params.

    Attributes:
      value: the loss.
      grads: its gradient; zeros where a bound holds a parameter.
      stays: where one does, booleans; None without bounds.
      slopes: the norm of each tensor's gradient, a vector.
    """

    value: jax.Array
    grads: optax.Updates
    stays: Any
    slopes: jax.Array


def _step(problem: _Problem, run: _Run, given: _Given) -> _Run:
    old = run.state
    seen = _evaluated(problem, run, given)
    new = _noted(old, *_advanced(problem, old, seen, given), seen, given.ftol)
    return _Run(
        count=run.count + 1,
        reason=_reason(old, new, seen, given),
        history=run.history.at[run.count].set(seen.value),
        grad_norm=jnp.linalg.norm(seen.slopes).astype(run.grad_norm.dtype),
        begun_at=run.begun_at,
        state=new,
    )


def _evaluated(problem: _Problem, run: _Run, given: _Given) -> _Seen:
    params = run.state.params
    value, grads = _value_and_grad(problem, run, given)
    stays = held(params, grads, given.bounds) if given.bounds else None
    grads = _unless(stays, grads, jax.tree.map(jnp.zeros_like, grads))
    return _Seen(value, grads, stays, _norms(grads, value.dtype))


def _value_and_grad(
    problem: _Problem, run: _Run, given: _Given
) -> tuple[jax.Array, optax.Updates]:
    """The loss and its gradient; where a line search ended they are known."""
    params = run.state.params

    def loss_fn(params: optax.Params, *args: Any) -> Any:
        value = problem.loss_fn(params, *args)
        return value[0] if problem.has_aux else value

    searches = nodes_of(run.state.opt_state, optax.ScaleByZoomLinesearchState)
    if given.bounds or len(searches) != 1:
        return jax.value_and_grad(loss_fn)(params, *given.args)
    # What an earlier run knew may have been of other data.
    value = jnp.where(run.count == 0, jnp.inf, searches[0].value)
    return optax.value_and_grad_from_state(loss_fn)(
        params, *given.args, state=searches[0]._replace(value=value)
    )


def _advanced(
    problem: _Problem, state: MinimizeState, seen: _Seen, given: _Given
) -> tuple[optax.Params, KeepBestState]:
    """The next params, within the bounds, and the optimizer's state."""
    params, bounds = state.params, given.bounds

    def loss_within(params: optax.Params, *args: Any) -> Any:
        return problem.loss_fn(clipped(params, bounds), *args)

    known = known_to_a_step(
        loss_within,
        params,
        seen.value,
        seen.grads,
        *given.args,
        has_aux=problem.has_aux,
    )
    tx = keep_best(problem.tx)
    updates, opt_state = tx.update(seen.grads, state.opt_state, params, **known)
    stepped = clipped(optax.apply_updates(params, updates), bounds)
    return _unless(seen.stays, stepped, params), opt_state


def _noted(
    old: MinimizeState,
    params: optax.Params,
    opt_state: KeepBestState,
    seen: _Seen,
    ftol: ArrayLike,
) -> MinimizeState:
    """The state after a step, with what tells when to end."""
    best, before = opt_state.best.value, old.opt_state.best.value
    # Of a tensor that was just caught by a bound, or freed, the slope is another.
    caught = _counts(seen.stays, params)
    steepest = jnp.where(
        caught == old.caught, jnp.fmax(old.steepest, seen.slopes), seen.slopes
    )
    grad_norm = jnp.linalg.norm(seen.slopes).astype(best.dtype)
    is_best = (best < before) | ~jnp.isfinite(before)
    least_progress = _share(ftol, 1, seen.value.dtype) * jnp.abs(best)
    progressed = best < old.anchor - least_progress.astype(best.dtype)
    return MinimizeState(
        params=params,
        opt_state=opt_state,
        grad_norm=jnp.where(is_best, grad_norm, old.grad_norm),
        steepest=steepest,
        caught=caught,
        anchor=jnp.where(progressed, best, old.anchor),
        idle=jnp.where(progressed, 0, old.idle + 1),
    )


def _reason(
    old: MinimizeState, new: MinimizeState, seen: _Seen, given: _Given
) -> jax.Array:
    """Why the run ends with a step; that its steps are spent, if it doesn't yet."""
    is_first = ~jnp.isfinite(old.opt_state.best.value)
    is_finite = jnp.isfinite(seen.value) & jnp.all(jnp.isfinite(seen.slopes))
    # Where the optimizer doesn't stay, as on a plateau below the start, is no end.
    stays_here = backs_of(new.opt_state) == backs_of(old.opt_state)
    ends = {
        Reason.CONVERGED: stays_here & _is_flat(old.params, new, seen, given.gtol),
        Reason.NO_PROGRESS: (new.idle >= PATIENCE) & jnp.greater_equal(given.ftol, 0),
        Reason.NOT_FINITE: is_first & ~is_finite,
    }
    reason = jnp.int32(Reason.STEPS_SPENT)
    for why, holds in ends.items():
        reason = jnp.where(holds, jnp.int32(why), reason)
    return reason


def _unless(mask: Any, new: Any, old: Any) -> Any:
    """A tree, but for what is masked that of another; without a mask all of it."""
    if mask is None:
        return new
    return jax.tree.map(lambda stays, n, o: jnp.where(stays, o, n), mask, new, old)


def _is_flat(
    params: optax.Params, noted: MinimizeState, seen: _Seen, gtol: ArrayLike
) -> jax.Array:
    """Whether scaling any tensor could change next to nothing of the loss.

    Where a tensor begins near zero that is so from the start, so that its slope must
    have fallen, too. And the loss is as low as any: a plateau above isn't the end.
    """
    value, slopes, dtype = seen.value, seen.slopes, seen.value.dtype
    most = _share(gtol, 2 / 3, dtype) * jnp.abs(value)
    is_small = jnp.max(slopes * _norms(params, dtype)) <= most
    has_fallen = jnp.all(slopes <= noted.steepest / 2)
    is_low = value <= noted.opt_state.best.value.astype(dtype) + most
    is_asked = jnp.greater_equal(gtol, 0)
    return jnp.isfinite(value) & is_asked & is_low & is_small & has_fallen


def _norms(tree: Any, dtype: Any) -> jax.Array:
    """The Euclidean norm of each leaf, a vector."""
    leaves = jax.tree.leaves(tree)
    return jnp.stack([optax.tree.norm(leaf).astype(dtype) for leaf in leaves])


def _counts(mask: Any, params: optax.Params) -> jax.Array:
    """How many entries of each leaf are masked, a vector."""
    if mask is None:
        return jnp.zeros(len(jax.tree.leaves(params)), jnp.int32)
    leaves = jax.tree.leaves(mask)
    return jnp.stack([jnp.sum(leaf, dtype=jnp.int32) for leaf in leaves])


def _share(tolerance: ArrayLike, power: float, dtype: Any) -> jax.Array:
    """A tolerance, but none that roundings don't admit."""
    least = float(jnp.finfo(dtype).eps) ** power
    return jnp.maximum(tolerance, least).astype(dtype)


def _scalar(
    problem: _Problem, params: optax.Params, args: tuple[Any, ...]
) -> jax.ShapeDtypeStruct:
    """What the loss returns, which must be one number."""
    value = jax.eval_shape(problem.loss_fn, params, *args)
    if problem.has_aux:
        is_pair = isinstance(value, tuple) and len(value) == 2
        value = value[0] if is_pair else None
    if getattr(value, "shape", None) == () and jnp.issubdtype(
        value.dtype, jnp.floating
    ):
        return value
    wanted = "(scalar, aux)" if problem.has_aux else "a scalar"
    raise TypeError(
        f"`loss_fn` must return {wanted}, a floating number, but returns {value}: "
        "for example jnp.mean(residuals**2); with has_aux=True it returns "
        "(scalar, aux)."
    )


# What is given, and what is returned --------------------------------------------------


@cache
def _auto() -> optax.GradientTransformation:
    """One for all calls, so that none is compiled anew."""
    return auto_dsa()


def _hashable(loss_fn: Loss) -> Loss:
    """A loss that `jax.jit` can know again; of one with arrays inside only its call."""
    try:
        hash(loss_fn)
    except TypeError:
        return lambda *args: loss_fn(*args)
    return loss_fn


def _check(params: Any, steps: Any, tx: Any) -> None:
    if not jax.tree.leaves(params):
        raise ValueError(
            f"`params` must have at least one array, got {params!r}; for example "
            '{"w": jnp.zeros(3)}.'
        )
    _checks.count("steps", steps, 1000)
    if steps < 1:
        raise ValueError(f"`steps` must be positive, got {steps}; for example 1000.")
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(
            f"`tx` must be an optimizer of Optax, got {tx!r}; for example "
            "tx=optax.lbfgs()."
        )


def _check_state(state: Any, first: MinimizeState) -> None:
    """Checks that a run can go on from a state: that of the same params and `tx`."""
    if not isinstance(state, MinimizeState):
        raise TypeError(
            "`state` must be the `state` of what minimize returned, got a "
            f"{type(state).__name__}."
        )
    got, wanted = (
        jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)
        for tree in (state, first)
    )
    if got != wanted:
        raise ValueError(
            "`state` must be of the same params and the same `tx`: begin anew, without "
            "it, from minimize(loss, result.params, ...)."
        )


def _tolerance(name: str, value: float | None) -> float:
    """The tolerance; of None one that nothing meets."""
    if value is None:
        return -1.0
    _checks.scalar(name, value, 1e-8, low=0)
    return value


def _watched(
    problem: _Problem,
    run: _Run,
    given: _Given,
    steps: int,
    callback: Callable[[Minimized], Any] | None,
    progress: bool,
) -> Minimized:
    """The loop with the host looking on, some steps at a time."""
    chunk = -(-steps // CHUNKS)
    bar = _bar(steps) if progress else None
    with bar or nullcontext():
        for until in range(chunk, steps + chunk, chunk):
            run = _go_on(problem, run, given, min(until, steps))
            if bar:
                value = float(run.state.opt_state.best.value)
                bar.set_postfix(loss=f"{value:.4g}", refresh=False)
                bar.update(int(run.count) - bar.n)
            # A copy, as the next steps reuse the memory of the run.
            if callback and callback(_result(jax.tree.map(jnp.copy, run))):
                ended = run.reason != Reason.STEPS_SPENT
                stopped = jnp.int32(Reason.STOPPED)
                run = run._replace(reason=jnp.where(ended, run.reason, stopped))
            if int(run.reason) != Reason.STEPS_SPENT:
                break
    return _result(run)


def _bar(steps: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "`progress` needs tqdm: pip install tqdm, or leave it out."
        ) from error
    return tqdm(total=steps, unit="step")


def _result(run: _Run) -> Minimized:
    best, dtype = run.state.opt_state.best, run.history.dtype
    result = Minimized(
        params=best.params,
        value=best.value.astype(dtype),
        grad_norm=run.state.grad_norm.astype(dtype),
        steps=run.count,
        reason=run.reason,
        history=run.history,
        state=run.state,
    )
    if _is_traced(run):
        return result
    count = int(run.count)
    return result._replace(
        steps=count, reason=Reason(int(run.reason)), history=run.history[:count]
    )


def _is_traced(*trees: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))
