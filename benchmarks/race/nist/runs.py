"""Runs the solvers on NIST's regressions, and keeps a row a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from benchmarks.race.nist import data, descents, scipy_solvers
from benchmarks.race.nist.problems import Regression, Trace
from benchmarks.shared.optimizers.contenders import CONTENDERS, Contender
from benchmarks.shared.records import Records

BUDGET = 2000
"""Gradient evaluations of a run."""

Traces = Callable[[Regression, str, int], Iterator[Trace]]
"""From a regression, the dtype and the budget to a trace a start and setting."""


class Solver(NamedTuple):
    """Who takes part.

    Attributes:
      label: for tables and figures.
      traces: runs it.
      settings: the numbers that it is run at; the best counts, in hindsight.
      ours: whether it is this package's own.
      apart: whether it knows more than a loss and its gradient.
    """

    label: str
    traces: Traces
    settings: Sequence[float] = (0.0,)
    ours: bool = False
    apart: bool = False


def _descent(name: str, *, tuned: bool = False) -> Solver:
    """A contender of the race: at its default, or at all its settings."""
    contender = CONTENDERS[name]
    if not isinstance(contender, Contender):
        raise TypeError(f"{name} is no optimizer of Optax's kind")
    if not tuned:
        contender = contender._replace(settings=contender.settings[:1])
    label = f"{contender.label}, best" if tuned else contender.label
    run = partial(descents.traces, contender)
    return Solver(label, run, contender.settings, contender.ours)


def _scipy(label: str, solve: scipy_solvers.Solve, *, apart: bool = False) -> Solver:
    return Solver(label, partial(scipy_solvers.traces, solve), apart=apart)


SOLVERS: Mapping[str, Solver] = {
    "auto-dsa": _descent("auto-dsa"),
    "auto-dsa-light": _descent("auto-dsa-light"),
    "dsa": _descent("dsa"),
    "lbfgs": _descent("lbfgs"),
    "irprop-minus": _descent("irprop-minus"),
    "adam": _descent("adam", tuned=True),
    "scipy-bfgs": _scipy("BFGS, SciPy", scipy_solvers.bfgs),
    "scipy-lbfgsb": _scipy("L-BFGS-B, SciPy", scipy_solvers.lbfgsb),
    "scipy-lm": _scipy(
        "least_squares, SciPy", scipy_solvers.levenberg_marquardt, apart=True
    ),
}
"""The package's own first, the main one before all."""

UNIT = ["dataset", "dtype", "solver"]


def run(
    path: Path,
    regressions: Mapping[str, Regression],
    solvers: Mapping[str, Solver],
    dtypes: Sequence[str],
    budget: int = BUDGET,
) -> Iterator[str]:
    """Runs what the CSV file lacks; yields each unit's name, done.

    A unit is all starts and settings of a solver on a regression. That a solver's code
    changed isn't seen: then delete its rows.

    Args:
      path: the file, of one row a run.
      regressions: by name.
      solvers: by name.
      dtypes: of `problems.DTYPES`.
      budget: gradient evaluations of a run.
    """
    records = Records(path, UNIT, digits=10)
    for regression in regressions.values():
        for dtype in dtypes:
            for name, solver in solvers.items():
                unit = {"dataset": regression.name, "dtype": dtype, "solver": name}
                if not _is_whole(records.run(unit), regression, solver):
                    records.put(unit, _rows(regression, dtype, solver, budget))
                yield f"{name}, {regression.name}, {dtype}"
        jax.clear_caches()  # XLA's programs hold the regression's data


def _rows(
    regression: Regression, dtype: str, solver: Solver, budget: int
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "start": trace.start + 1,
            "setting": trace.setting,
            "level": regression.level,
            "evaluations": trace.evaluations_to(regression.goal(dtype)),
            "best_rss": np.min(trace.rss),
            "end_rss": trace.rss[-1],
            "certified_rss": regression.certified_rss,
        }
        for trace in solver.traces(regression, dtype, budget)
    )


def _is_whole(rows: pd.DataFrame, regression: Regression, solver: Solver) -> bool:
    """Whether every start and setting of the unit was kept."""
    wanted = len(regression.starts) * len(solver.settings)
    return len(rows) == wanted and set(rows["setting"]) == set(solver.settings)


# What comes of it ---------------------------------------------------------------------


def evaluations(records: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """To the solution, at the best setting: a row a data set and start.

    A column is a solver, in the order of `SOLVERS`; a miss is infinite, and what wasn't
    run is NaN.
    """
    rows = records[records["dtype"] == dtype]
    run = [rows[name] for name in ("dataset", "start", "solver")]
    best = rows["evaluations"].groupby(run).min().unstack("solver")
    datasets = [name for name in data.FILES if name in set(rows["dataset"])]
    every = pd.MultiIndex.from_product([datasets, sorted(rows["start"].unique())])
    names = [name for name in SOLVERS if name in best]
    return best.reindex(index=every, columns=names)


def summary(times: pd.DataFrame) -> pd.DataFrame:
    """One row a solver: runs solved, of how many, and median evaluations.

    Args:
      times: of `evaluations`.
    """
    solved = times[np.isfinite(times)]
    return pd.DataFrame(
        {
            "solved": solved.count(),
            "runs": times.count(),
            "median_solved": solved.median(),
            "median": times.median(),
        }
    )
