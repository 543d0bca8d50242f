"""Runs the solvers on the nets, and keeps a row a run."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree

from benchmarks.physics.problems import Equation, Net, net_of
from benchmarks.physics.solvers import Solver, Task, until_spent
from benchmarks.physics.watch import Look, Watch
from benchmarks.shared.records import Records

BUDGET = 2000
"""Evaluations of the loss with its gradient; trials of a line search count."""

SEEDS = 3


def run(
    path: Path,
    equations: Mapping[str, Equation],
    solvers: Mapping[str, Solver],
    seeds: Sequence[int],
    budget: int = BUDGET,
) -> Iterator[str]:
    """Runs what the gzipped CSV file lacks; yields each unit's name, done.

    A unit is one seed of a solver on an equation. That a solver's code changed isn't
    seen: then delete its rows. One process at a time may write to the file.

    Args:
      path: the file, of one row a run.
      equations: by name.
      solvers: by name.
      seeds: of the nets' first weights.
      budget: evaluations of a run.
    """
    records = Records(path, ("equation", "solver", "seed"), digits=4)
    for equation, described in equations.items():
        net = cache(partial(_net, described))
        for seed in seeds:
            for name, solver in solvers.items():
                unit = {"equation": equation, "solver": name, "seed": seed}
                kept = records.run(unit)
                if kept.empty or kept["evaluations"].iloc[0] != budget:
                    records.put(unit, _rows(net(), solver, seed, budget))
                yield f"{name}, {equation}, {seed}"
            jax.clear_caches()  # compiled programs hold their tasks


def _net(equation: Equation) -> Net:
    with jax.enable_x64(True):
        return net_of(equation)


def _rows(net: Net, solver: Solver, seed: int, budget: int) -> pd.DataFrame:
    with jax.enable_x64(True), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        start, unravel = ravel_pytree(jax.jit(net.init)(jax.random.key(seed)))
        task = Task(lambda vector: net.loss(unravel(vector)), unravel, start)
        evaluate = jax.jit(jax.value_and_grad(task.loss))
        jax.block_until_ready(evaluate(start))
        run = solver.prepare(task)
        watch = Watch(lambda point: jax.block_until_ready(evaluate(point)), budget)
        with until_spent(watch):
            run(watch)
        error = jax.jit(lambda vector: net.error(unravel(vector)))
        return pd.DataFrame([_row(watch.looks, error, start.size)])


def _row(looks: Sequence[Look], error: object, parameters: int) -> dict[str, object]:
    errors = [float(error(look.place)) for look in looks]  # type: ignore[operator]
    return {
        "parameters": parameters,
        "evaluations": looks[-1].evaluations,
        "seconds": looks[-1].seconds,
        "loss": looks[-1].loss,
        "error": errors[-1],
        "at": _joined((look.evaluations for look in looks), "d"),
        "seconds_at": _joined((look.seconds for look in looks), ".3g"),
        "loss_at": _joined((look.loss for look in looks), ".3g"),
        "error_at": _joined(errors, ".3g"),
    }


def _joined(values: object, form: str) -> str:
    return " ".join(f"{value:{form}}" for value in values)  # type: ignore[attr-defined]
