"""Wall time of a contender's first updates on a problem."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.shared.optimizers import host
from benchmarks.shared.optimizers.contenders import (
    AnyContender,
    Contender,
    HostContender,
)
from benchmarks.shared.runner import Problem
from benchmarks.shared.timing import seconds

TIMED_UPDATES = 50

REPEATS = 10


class Milliseconds(NamedTuple):
    """Wall time of one training, compilation apart.

    A loop on the host says nothing of its updates: both are an evaluation's then.
    """

    evaluation: float
    update: float


def milliseconds(
    problem: Problem, contender: AnyContender, updates: int = TIMED_UPDATES
) -> Milliseconds:
    """Times the first updates of one seed at the default setting: the fastest of some.

    As a user has them: in one compiled call, whose own cost is shared out among them,
    or, for a loop on the host, as many evaluations instead, each a call.
    """
    if isinstance(contender, HostContender):
        return _of_a_host_loop(problem, contender, updates)
    return _of_updates(problem, contender, updates)


def _of_a_host_loop(
    problem: Problem, contender: HostContender, evaluations: int
) -> Milliseconds:
    flat = host.flatten(problem, jax.random.key(0)[None])
    flat.evaluate(flat.starts[0])  # compiles

    def train() -> int:
        objective = host.Objective(flat.evaluate, evaluations)
        host.train(objective, contender, contender.settings[0], flat.starts[0])
        return len(objective.losses)

    taken = [seconds(train) for _ in range(REPEATS)]
    each = 1e3 * min(taken) / train()
    return Milliseconds(each, each)


def _of_updates(problem: Problem, contender: Contender, updates: int) -> Milliseconds:
    tx = optax.with_extra_args_support(contender.make(contender.settings[0]))
    value_and_grad = _value_and_grad(problem, contender)

    def update(carry: Any, _: None) -> tuple[Any, None]:
        params, state, spent = carry
        value, grad = value_and_grad(params, state=state)
        steps, state = tx.update(
            grad, state, params, value=value, grad=grad, value_fn=problem.loss
        )
        params = optax.apply_updates(params, steps)
        return (params, state, spent + contender.evaluations(state)), None

    def train(params: Any) -> Any:
        start = (params, tx.init(params), jnp.asarray(contender.at_first))
        # All of it is returned, lest XLA leave out what nobody asks for.
        return jax.lax.scan(update, start, length=updates)[0]

    params = jax.jit(problem.init)(jax.random.key(0))
    compiled = jax.jit(train).lower(params).compile()
    evaluations = int(compiled(params)[-1])
    spent = 1e3 * min(seconds(lambda: compiled(params)) for _ in range(REPEATS))
    return Milliseconds(spent / evaluations, spent / updates)


def _value_and_grad(problem: Problem, contender: Contender) -> Callable[..., Any]:
    """The gradient, or the one that the last update ended with, if it hands it on."""
    if contender.at_first:
        return optax.value_and_grad_from_state(problem.loss)
    plain = jax.value_and_grad(problem.loss)
    return lambda params, state: plain(params)
