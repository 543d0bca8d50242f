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
from dsa_optax._packed import packing
from dsa_optax._rules import Rule
from dsa_optax._trees import steps_of, working_precision


def look_ahead(
    init: Callable[[optax.Params], Any],
    field: str | None,
    rates_of: Callable[[Any], optax.Params],
    rule_at: Callable[[jax.Array], Rule],
    next_state: Callable[[Any, optax.Params], Any],
) -> optax.GradientTransformationExtraArgs:
    """Assembles an optimizer that adapts its rates by looking ahead.

    Args:
      init: makes the state from the params.
      field: of the state, where it keeps its rates, a tree like the params. None where
        there is one for all of them, a scalar.
      rates_of: reads η from a state.
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
        if field is not None:
            _checks.rates("state (its rates)", getattr(state, field), params)

        pack, unpack = packing(params)
        state = _with(state, field, pack)
        here, rule, rates = pack(params), rule_at(state.count), rates_of(state)
        grads = working_precision(pack(updates), rates)
        directions = rule.direction(grads)
        if (decay := rule.decay(params)) is not None:
            directions = jax.tree.map(jnp.add, directions, pack(decay))
        directions = jax.tree.map(_still_unless_finite, directions, grads)

        def step(rates: optax.Params) -> optax.Updates:
            lengths = jax.tree.map(lambda rate: -rule.step_size(rate), rates)
            return unpack(steps_of(lengths, directions, here))

        probe = optax.apply_updates(params, step(rates))
        probe_grads = _at_probe(grad_at, probe)
        _checks.gradient("grad_fn's result", probe_grads, params)
        probe_grads = working_precision(pack(probe_grads), rates)

        rates = rule.adapt(rates, probe_grads, grads)
        state = next_state(state, rates)
        return step(rates), _with(state, field, unpack)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _with(state: Any, field: str | None, fn: Callable[[Any], Any]) -> Any:
    if field is None:
        return state
    return state._replace(**{field: fn(getattr(state, field))})


def _at_probe(grad_at: GradFn, probe: optax.Params) -> optax.Updates:
    try:
        return grad_at(probe)
    except Exception as error:
        if has_masked(probe):
            error.add_note(_checks.MASKED)
        raise


def _still_unless_finite(direction: jax.Array, grad: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(grad), direction, 0).astype(direction.dtype)
