"""Trains all seeds of one optimizer on one problem at once."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsa_optax import make_train_step


class Problem(NamedTuple):
    """What is minimised, and what is looked at on the way.

    Attributes:
      init: from a random key to the params.
      loss: from the params to the training loss, over the full batch.
      observe: from the params to an array: predicted labels, or the params themselves.
    """

    init: Callable[[jax.Array], optax.Params]
    loss: Callable[[optax.Params], jax.Array]
    observe: Callable[[optax.Params], jax.Array]


class History(NamedTuple):
    """What happened in a training run; epoch e is the state after e updates.

    Attributes:
      losses: shape (seeds, epochs + 1), from the untrained model on. One that is no
        number was infinite before, and is inf here, so that no mean leaves it out.
      observed: `Problem.observe` at the epochs asked for: (seeds, len(epochs), ...).
      compile_seconds: wall time of the one compilation.
      seconds: wall time of training all seeds, to the end of the computation.
    """

    losses: np.ndarray
    observed: np.ndarray
    compile_seconds: float
    seconds: float


def train(
    problem: Problem,
    tx: optax.GradientTransformation,
    seeds: Sequence[int],
    observe_at: Sequence[int],
) -> History:
    """Trains every seed up to the last epoch of `observe_at`, in one compiled call.

    The seeds are `vmap`ped and the epochs scanned. An epoch is one full-batch update.
    """
    epochs = max(observe_at)
    wanted = jnp.isin(jnp.arange(epochs + 1), jnp.asarray(observe_at))
    step = make_train_step(problem.loss, tx, donate=False)

    def epoch(carry: tuple[Any, Any], look: jax.Array) -> tuple[tuple[Any, Any], Any]:
        params, state = carry
        seen = jax.eval_shape(problem.observe, params)
        observed = jax.lax.cond(
            look,
            problem.observe,
            lambda _: jnp.zeros(seen.shape, seen.dtype),
            params,
        )
        params, state, loss = step(params, state)
        return (params, state), (loss, observed)

    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = problem.init(key)
        # The last loss is that of epoch `epochs`; the update after it is thrown away.
        _, history = jax.lax.scan(epoch, (params, tx.init(params)), wanted)
        return history

    keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
    started = time.perf_counter()
    compiled = jax.jit(jax.vmap(run)).lower(keys).compile()
    ready = time.perf_counter()
    losses, observed = jax.block_until_ready(compiled(keys))
    seconds = time.perf_counter() - ready
    losses = np.asarray(losses)
    return History(
        np.where(np.isnan(losses), np.inf, losses),
        np.asarray(observed)[:, np.asarray(wanted)],
        compile_seconds=ready - started,
        seconds=seconds,
    )
