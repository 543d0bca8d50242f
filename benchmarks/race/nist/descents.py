"""Optimizers of Optax's kind on NIST's regressions: all runs of one at once."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.race.nist.problems import Params, Regression, Trace, as_params
from benchmarks.shared.optimizers.contenders import Contender
from dsa_optax import make_train_step

UPDATES = 250
"""In one compiled call; what they spent is looked at in between."""


def traces(
    contender: Contender, regression: Regression, dtype: str, budget: int
) -> Iterator[Trace]:
    """From every start at every setting."""
    runs = list(product(range(len(regression.starts)), contender.settings))
    # Float32 as users run it: without 64 bits.
    with jax.enable_x64(dtype == "float64"):
        params, spent = _descend(contender, regression, dtype, budget, runs)
    rss = _rss(regression, params)
    # A step begins with the gradient at its params; a line search has ended with it.
    seen = spent + 1 - contender.at_first
    for i, (start, setting) in enumerate(runs):
        within = seen[i] <= budget
        yield Trace(start, setting, seen[i][within], rss[i][within])


def _descend(
    contender: Contender,
    regression: Regression,
    dtype: str,
    budget: int,
    runs: list[tuple[int, float]],
) -> tuple[Params, np.ndarray]:
    """Params and evaluations spent before every update: a row a run."""

    def begin(setting: jax.Array, start: jax.Array) -> Any:
        params = as_params(start, dtype)
        state = contender.make(setting).init(params)
        return params, state, jnp.asarray(contender.at_first)

    def go_on(setting: jax.Array, carry: Any) -> Any:
        step = make_train_step(regression.loss, contender.make(setting), donate=False)

        def update(carry: Any, _: None) -> Any:
            params, state, spent = carry
            after, state, _ = step(params, state)
            spent_after = spent + contender.evaluations(state)
            return (after, state, spent_after), (params, spent)

        return jax.lax.scan(update, carry, length=UPDATES)

    starts = jnp.asarray([regression.starts[start] for start, _ in runs], dtype)
    settings = jnp.asarray([setting for _, setting in runs], dtype)
    carry = jax.jit(jax.vmap(begin))(settings, starts)
    go_on = jax.jit(jax.vmap(go_on))
    calls: list[tuple[Params, np.ndarray]] = []
    # A line search that finds nothing spends nothing.
    while _goes_on(carry, budget) and len(calls) * UPDATES * contender.least < budget:
        carry, seen = go_on(settings, carry)
        calls.append(jax.device_get(seen))
    params, spent = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *calls)
    return params, spent


def _goes_on(carry: Any, budget: int) -> bool:
    """Whether any run has evaluations left."""
    *_, spent = carry
    return bool(np.min(spent) < budget)


def _rss(regression: Regression, params: Params) -> np.ndarray:
    """In float64, of params of any dtype."""
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(leaf, jnp.float64) for name, leaf in params.items()}
        rss = np.asarray(jax.jit(jax.vmap(jax.vmap(regression.loss)))(exact))
    return np.where(np.isnan(rss), np.inf, rss)
