"""Runs the race, and keeps what was run: its curves, and what a step costs."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from benchmarks import race, race_host
from benchmarks.files import replacing
from benchmarks.race_contenders import AnyContender, Contender, HostContender
from benchmarks.runner import Problem
from benchmarks.timing import seconds

Problems = Mapping[str, Callable[[], Problem]]
Contenders = Mapping[str, AnyContender]

SEEDS = 3
BUDGET = 300
"""Gradient evaluations that are scored."""

LONG = 1000
"""Gradient evaluations of our own: more than are scored, so that late blow-ups show."""

TIMED_UPDATES = 50
REPEATS = 10


class Kept(NamedTuple):
    """What the cache has of one optimizer on one problem, as in `race.Curves`."""

    losses: np.ndarray
    accuracy: np.ndarray
    settings: np.ndarray


class Milliseconds(NamedTuple):
    """Wall time of one training, compilation apart.

    A loop on the host says nothing of its updates: both are an evaluation's then.
    """

    evaluation: float
    update: float


# Curves -------------------------------------------------------------------------------


def run(
    folder: Path, problems: Problems, contenders: Contenders, *, seeds: int, budget: int
) -> Iterator[str]:
    """Trains and keeps what the folder lacks; yields each unit's name, done.

    A unit is all settings and seeds of one optimizer on one problem. One that was kept
    with other settings, seeds or another budget is run again; that an optimizer's code
    changed isn't seen: then delete its files.

    Args:
      folder: the cache, a file for every unit.
      problems: what is trained, by name.
      contenders: who trains, by name.
      seeds: how many.
      budget: gradient evaluations of our own; the rivals stop after those that are
        scored.
    """
    for problem, make in problems.items():
        made = cache(make)
        for name, contender in contenders.items():
            path = _path(folder, problem, name)
            length = budget if contender.ours else min(budget, BUDGET)
            if not _is_kept(path, contender, seeds, length):
                _keep(path, contender, race.curves(made(), contender, seeds, length))
            yield f"{name}, {problem}"
        jax.clear_caches()  # XLA's programs hold the problem's data


def load(folder: Path, problem: str, contender: str) -> Kept:
    """What was kept of one unit."""
    with np.load(_path(folder, problem, contender)) as arrays:
        return Kept(**arrays)


def is_there(folder: Path, problem: str, contender: str) -> bool:
    """Whether any run of the unit was kept."""
    return _path(folder, problem, contender).exists()


def _path(folder: Path, problem: str, contender: str) -> Path:
    return folder / f"{problem}__{contender}.npz"


def _is_kept(path: Path, contender: AnyContender, seeds: int, budget: int) -> bool:
    if not path.exists():
        return False
    with np.load(path) as arrays:
        kept = Kept(**arrays)
    wanted = (len(contender.settings), seeds, budget + 1)
    return kept.losses.shape == wanted and np.array_equal(
        kept.settings, contender.settings
    )


def _keep(path: Path, contender: AnyContender, curves: race.Curves) -> None:
    kept = Kept(curves.losses, curves.accuracy, np.asarray(contender.settings, float))
    with replacing(path) as file, file.open("wb") as stream:
        np.savez_compressed(stream, **kept._asdict())


# Wall time ----------------------------------------------------------------------------


def time_steps(path: Path, problems: Problems, contenders: Contenders) -> Iterator[str]:
    """Times what the CSV file lacks; yields each unit's name, done.

    Args:
      path: the file, of one row an optimizer and problem.
      problems: what is trained, by name.
      contenders: who trains, by name, at their defaults.
    """
    rows = times(path).to_dict("records")
    there = {(row["problem"], row["optimizer"]) for row in rows}
    for problem, make in problems.items():
        made = cache(make)
        for name, contender in contenders.items():
            if (problem, name) not in there:
                unit: dict[Hashable, Any] = {"problem": problem, "optimizer": name}
                rows.append(unit | milliseconds(made(), contender)._asdict())
                with replacing(path) as file:
                    pd.DataFrame(rows).to_csv(file, index=False, float_format="%.4g")
            yield f"{name}, {problem}"
        jax.clear_caches()


def times(path: Path) -> pd.DataFrame:
    """What was timed, in milliseconds: nothing where there is no file."""
    columns = ["problem", "optimizer", *Milliseconds._fields]
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


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
    flat = race_host.flatten(problem, jax.random.key(0)[None])
    flat.evaluate(flat.starts[0])  # compiles

    def train() -> int:
        objective = race_host.Objective(flat.evaluate, evaluations)
        race_host.train(objective, contender, contender.settings[0], flat.starts[0])
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
