"""Time to the solution from a cold start: what a user waits for, compilation included.

Problems of the race, and its targets: each run is a process of its own, whose clock
starts when Python, JAX and the data are loaded.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pandas as pd

import dsa_optax
from benchmarks.shared.optimizers import host, scipy_minimizers
from benchmarks.shared.optimizers.contenders import RIVALS, HostContender
from benchmarks.shared.problems.halves import DEVELOPMENT, TEST
from benchmarks.shared.records import read
from benchmarks.shared.timing import in_a_process, print_rows

PROBLEMS = (
    "growth-raw",
    "diabetes-net",
    "neural-ode-pendulum",
    "pinn-wave",
    "convolutions",
)
"""A curve, a table, a differential equation, a physics-informed net, images."""

NAMES = ("adam", "lbfgs", "scipy-bfgs", "auto-light", "auto", "auto-cached")
"""The last is `auto_dsa()` once more, with what was compiled before on the disk."""

MOST_STEPS = 3000
REPEATS = 3
RACE = Path(__file__).parents[1] / "results" / "race.csv.gz"


class Goal(NamedTuple):
    """The race's target of a problem, untuned, and Adam's best rate for it."""

    target: float
    adam: float


def goal(race: pd.DataFrame, problem: str) -> Goal:
    """What the race's table says of a problem."""
    rows = race[race["problem"] == problem]
    adam = rows[rows["optimizer"] == "adam"]
    by_rate = adam.groupby("setting")["end_loss_300"].median().sort_values()
    return Goal(float(rows["target_untuned"].iloc[0]), float(by_rate.index[0]))


def cold(
    problems: tuple[str, ...] = PROBLEMS,
    names: tuple[str, ...] = NAMES,
    repeats: int = REPEATS,
) -> pd.DataFrame:
    """Seconds from a cold start to the target.

    Returns:
      A row a problem and optimizer, medians of the repeats: "problem", "optimizer",
      "seconds" (infinite where 3,000 steps don't get there), "to_first" (of them, to
      the end of the first step) and "steps" (of SciPy's, evaluations).
    """
    race, frames = read(RACE), []
    for problem in problems:
        target, adam = goal(race, problem)
        for name in names:
            told = map(str, (problem, name, target, adam))
            variables = dict(zip(_GIVEN, told, strict=True))
            with TemporaryDirectory() as folder:
                if name == "auto-cached":
                    variables["JAX_COMPILATION_CACHE_DIR"] = folder
                    variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
                    in_a_process(__name__, variables)
                for _ in range(repeats):
                    frames.append(in_a_process(__name__, variables))
    runs = pd.concat(frames, ignore_index=True)
    runs["seconds"] = runs["seconds"].fillna(np.inf)
    by = ["problem", "optimizer"]
    return runs.groupby(by, sort=False).median().reset_index()


_GIVEN = ("COLD_PROBLEM", "COLD_OPTIMIZER", "COLD_TARGET", "COLD_ADAM")


def _run() -> dict[str, Any]:
    """The row of this process, told by its environment."""
    problem, name, target, adam = (os.environ[variable] for variable in _GIVEN)
    made = {**DEVELOPMENT, **TEST}[problem]()
    optimizers: Mapping[str, Callable[[], Any]] = {
        "adam": lambda: optax.adam(float(adam)),
        "lbfgs": optax.lbfgs,
        "auto-light": lambda: dsa_optax.auto_dsa(0),
        "auto": dsa_optax.auto_dsa,
        "auto-cached": dsa_optax.auto_dsa,
    }
    params = jax.block_until_ready(jax.jit(made.init)(jax.random.key(0)))
    if name in optimizers:
        found = _in_steps(made.loss, params, optimizers[name], float(target))
    else:
        found = _on_the_host(made, float(target))
    return {"problem": problem, "optimizer": name} | found


def _in_steps(
    loss: Callable[..., Any], params: Any, make: Callable[[], Any], target: float
) -> dict[str, float]:
    """As the README has it: a compiled train step, and a look at every loss."""
    begun = time.perf_counter()
    tx = make()
    state = tx.init(params)
    # Not donated, since Optax's L-BFGS keeps the params that it was given.
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    times: list[float] = []
    there = False
    while not there and len(times) < MOST_STEPS:
        params, state, value = step(params, state)
        there = float(value) <= target
        times.append(time.perf_counter() - begun)
    return _row(times, there)


def _on_the_host(problem: Any, target: float) -> dict[str, float]:
    """SciPy's BFGS, as it takes part in the race."""
    begun = time.perf_counter()
    flat = host.flatten(problem, jax.random.key(0)[None])
    times: list[float] = []

    def evaluate(point: np.ndarray) -> Any:
        loss, grad = flat.evaluate(point)
        there = float(loss) <= target
        times.append(time.perf_counter() - begun)
        if there:
            raise host.Spent
        return loss, grad

    bfgs = RIVALS["scipy-bfgs"]
    assert isinstance(bfgs, HostContender)
    assert bfgs.minimize is scipy_minimizers.bfgs
    objective = host.Objective(evaluate, MOST_STEPS)
    host.train(objective, bfgs, bfgs.settings[0], flat.starts[0])
    there = len(objective.points) > len(objective.losses)
    return _row(times, there)


def _row(times: list[float], there: bool) -> dict[str, float]:
    """What is reported, from when each step was done."""
    return {
        "seconds": times[-1] if there else np.inf,
        "to_first": times[0],
        "steps": len(times) - 1,
    }


if __name__ == "__main__":
    print_rows([_run()])
