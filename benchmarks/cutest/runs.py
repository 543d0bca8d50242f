"""Runs the solvers on CUTEst's problems, and keeps a row a run."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from benchmarks.cutest import (
    curves,
    descents,
    optimistix_solvers,
    problems,
    scipy_solvers,
    watch,
)
from benchmarks.shared.optimizers.contenders import (
    CONTENDERS,
    Contender,
    HostContender,
)
from benchmarks.shared.records import Records

BUDGET = 1000
"""Evaluations of a run: of the loss, its gradient, or both at once."""

SMALL = 1000
"""The most parameters for solvers with a square matrix of them."""


class Solver(NamedTuple):
    """Who takes part.

    Attributes:
      label: for tables and figures.
      traces: runs it.
      settings: the numbers that it is run at; the best counts, in hindsight.
      most: parameters that it is run with.
      ours: whether it is this package's own.
      bounded: whether it takes bounds.
    """

    label: str
    traces: watch.Traces
    settings: Sequence[float] = (0.0,)
    most: int | None = None
    ours: bool = False
    bounded: bool = False


def _descent(name: str, *settings: float) -> Solver:
    """A contender of the race: at its default, or at all these settings."""
    contender = CONTENDERS[name]
    if not isinstance(contender, Contender):
        raise TypeError(f"{name} is no optimizer of Optax's kind")
    label = f"{contender.label}, best" if settings else contender.label
    contender = contender._replace(settings=settings or contender.settings[:1])
    traces = partial(descents.traces, contender)
    return Solver(label, traces, contender.settings, ours=contender.ours)


def _optax_lbfgs() -> Solver:
    contender = CONTENDERS["lbfgs"]
    if not isinstance(contender, Contender):
        raise TypeError("Optax's L-BFGS is no optimizer of Optax's kind")
    contender = contender._replace(settings=contender.settings[:1])
    traces = partial(descents.line_search_traces, contender)
    return Solver("L-BFGS, Optax", traces, contender.settings)


def _scipy(name: str, most: int | None = None, bounded: bool = False) -> Solver:
    """A contender of the race at its default."""
    contender = CONTENDERS[name]
    if not isinstance(contender, HostContender):
        raise TypeError(f"{name} is no loop on the host")
    contender = contender._replace(settings=contender.settings[:1])
    traces = partial(scipy_solvers.traces, contender)
    return Solver(contender.label, traces, contender.settings, most, bounded=bounded)


def _optimistix(label: str, name: str, most: int | None = None) -> Solver:
    return Solver(label, partial(optimistix_solvers.traces, name), most=most)


SOLVERS: Mapping[str, Solver] = {
    "auto-dsa": _descent("auto-dsa"),
    "auto-dsa-light": _descent("auto-dsa-light"),
    "minimize": Solver("minimize()", descents.minimize_traces, ours=True, bounded=True),
    "scipy-bfgs": _scipy("scipy-bfgs", SMALL),
    "scipy-lbfgsb": _scipy("scipy-lbfgs", bounded=True),
    "scipy-cg": _scipy("scipy-cg"),
    "optax-lbfgs": _optax_lbfgs(),
    "optimistix-bfgs": _optimistix("BFGS, Optimistix", "BFGS", SMALL),
    "optimistix-lbfgs": _optimistix("L-BFGS, Optimistix", "LBFGS"),
    "irprop-minus": _descent("irprop-minus", 1e-4, 1e-3, 0.01, 0.1, 1.0),
    "adam": _descent("adam", 1e-3, 0.01, 0.1, 1.0),
}
"""The package's own first, the main one before all."""


def run(
    path: Path,
    names: Sequence[str],
    solvers: Mapping[str, Solver],
    budget: int = BUDGET,
) -> Iterator[str]:
    """Runs what the gzipped CSV file lacks; yields each unit's name, done.

    A unit is all settings of a solver on a problem. That a solver's code changed isn't
    seen: then delete its rows. One process at a time may write to the file.

    Args:
      path: the file, of one row a run.
      names: of the problems.
      solvers: by name.
      budget: evaluations of a run.
    """
    records = Records(path, ("problem", "solver"), digits=15)
    for problem in names:
        compiled = cache(partial(_compiled, problem))
        for name, solver in solvers.items():
            unit = {"problem": problem, "solver": name}
            kept = records.run(unit)
            is_whole = len(kept) and set(kept["setting"]) == set(solver.settings)
            if not is_whole and _fits(solver, compiled()):
                records.put(unit, _rows(compiled(), solver, budget))
            yield f"{name}, {problem}"


def _compiled(name: str) -> watch.Compiled:
    return watch.compiled(problems.load(name))


def _fits(solver: Solver, compiled: watch.Compiled) -> bool:
    problem = compiled.problem
    if problem.bounds and not solver.bounded:
        return False
    return solver.most is None or problem.n <= solver.most


def _rows(compiled: watch.Compiled, solver: Solver, budget: int) -> pd.DataFrame:
    problem = compiled.problem
    # What overflows on the way is no news.
    with jax.enable_x64(True), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return pd.DataFrame(
            {
                "kind": problem.kind,
                "n": problem.n,
                "half": problem.half,
                "setting": trace.setting,
                "start_loss": trace.losses[0],
                "best_loss": np.min(trace.losses),
                "end_loss": trace.end_loss,
                "evaluations": trace.spent,
                "curve": curves.pack(trace.evaluations, trace.losses, budget),
            }
            for trace in solver.traces(compiled, budget)
        )
