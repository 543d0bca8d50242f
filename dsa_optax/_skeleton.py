"""The look-ahead that the four algorithms of the paper share (Fig. 1).

    probe   θ̃ = θ − step(η)·d(g)      g̃ = ∇L(θ̃)
    adapt   η' = adapt(η, g̃, g)
    step    θ' = θ − step(η')·d(g)

Nothing here knows which equation runs: that is in the `Rule`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dsa_optax import _checks
from dsa_optax._gradients import GradFn, ValueFn, has_masked, probe_grad_fn
from dsa_optax._rules import Rule
from dsa_optax._state import widest


def look_ahead(
    init: Callable[[optax.Params], Any],
    rates_of: Callable[[Any], optax.Params],
    rule_at: Callable[[jax.Array], Rule],
    next_state: Callable[[Any, optax.Params], Any],
) -> optax.GradientTransformationExtraArgs:
    """Assembles an optimizer that adapts its rates by looking ahead.

    Args:
      init: makes the state from the params.
      rates_of: reads η from a state: a tree like the params, or a prefix of it (one
        scalar for all of them).
      rule_at: the rule in force at an update count.
      next_state: the state after an update, from the old state and η'.

    Returns:
      The transformation. Its `update` takes `grad_fn` or `value_fn`, and ignores other
      extra arguments.
    """

    def init_fn(params: optax.Params) -> Any:
        _checks.real_floating("params", params)
        return init(params)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        grad_fn: GradFn | None = None,
        value_fn: ValueFn | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        if params is None:
            raise ValueError(_checks.MISSING_PARAMS)
        grad_at = probe_grad_fn(grad_fn, value_fn)
        _checks.gradient("updates (the gradient)", updates, params)

        rule, rates = rule_at(state.count), rates_of(state)
        _checks.rates("state (its rates)", rates, params)
        grads = working_precision(updates, rates)
        directions = rule.direction(grads, params)
        directions = jax.tree.map(_still_unless_finite, directions, grads)

        probe = optax.apply_updates(
            params, step(rule.step_size, rates, directions, params)
        )
        probe_grads = _at_probe(grad_at, probe)
        _checks.gradient("grad_fn's result", probe_grads, params)
        probe_grads = working_precision(probe_grads, rates)

        rates = rule.adapt(rates, probe_grads, grads)
        return step(rule.step_size, rates, directions, params), next_state(state, rates)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _at_probe(grad_at: GradFn, probe: optax.Params) -> optax.Updates:
    try:
        return grad_at(probe)
    except Exception as error:
        if has_masked(probe):
            error.add_note(_checks.MASKED)
        raise


def step(
    step_size: Callable[[jax.Array], jax.Array],
    rates: optax.Params,
    directions: optax.Updates,
    params: optax.Params,
) -> optax.Updates:
    """-step(η)·d, in the dtype of the params."""

    def leaf(rate: jax.Array, direction: jax.Array, param: jax.Array) -> jax.Array:
        # In the dtype of the rates, so that `learning_rates` gives the very length.
        length = step_size(rate).astype(direction.dtype)
        moved = (-length * direction).astype(jnp.asarray(param).dtype)
        # A step too long for the dtype isn't taken: it could never be taken back.
        return jnp.where(jnp.isfinite(moved), moved, jnp.zeros_like(moved))

    return map_below(leaf, rates, directions, params)


def working_precision(grads: optax.Updates, rates: optax.Params) -> optax.Updates:
    """The gradients in their own dtype or the rates', whichever is wider."""

    def leaf(rate: jax.Array, grad: jax.Array) -> jax.Array:
        grad = jnp.asarray(grad)
        return grad.astype(widest(rate.dtype, grad.dtype))

    return map_below(leaf, rates, grads)


def _still_unless_finite(direction: jax.Array, grad: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(grad), direction, 0).astype(direction.dtype)


def map_below(fn: Callable[..., Any], rates: optax.Params, *trees: Any) -> Any:
    """Maps `fn(rate, *leaves)` over trees of which `rates` is a prefix."""
    return jax.tree.map(
        lambda rate, *below: jax.tree.map(lambda *xs: fn(rate, *xs), *below),
        rates,
        *trees,
    )
