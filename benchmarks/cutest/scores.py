"""What comes of the runs: evaluations to a target, and what they add up to."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.cutest import curves
from benchmarks.cutest.problems import HALVES
from benchmarks.cutest.runs import BUDGET, SMALL, SOLVERS

TAUS = (1e-3, 1e-5, 1e-8)
"""What may be left of the way from the start to the lowest loss of all solvers."""

MAIN_TAU = 1e-5

LARGE = 10_000
"""The most parameters of a problem."""


class Group(NamedTuple):
    """Some of the problems.

    Attributes:
      halves: of `HALVES`.
      least: parameters.
      most: parameters.
      kind: of `problems.KINDS`.
    """

    halves: tuple[str, ...] = HALVES
    least: int = 1
    most: int = LARGE
    kind: str = "unconstrained"

    def of(self, records: pd.DataFrame) -> pd.DataFrame:
        """Its part of the records."""
        sizes = records["n"].between(self.least, self.most)
        kinds = records["kind"] == self.kind
        return records[sizes & kinds & records["half"].isin(self.halves)]


SIZES = ((1, SMALL), (SMALL + 1, LARGE))
RANGES = ((1, 10), (11, SMALL), (SMALL + 1, LARGE))


def times(records: pd.DataFrame, tau: float) -> pd.DataFrame:
    """Evaluations to a share of the way, at the best setting: a row a problem.

    The whole way is from the start to the lowest loss that any solver has in the
    records. A column is a solver, in the order of `SOLVERS`; a miss is infinite, and
    what wasn't run is NaN.
    """
    lowest = records["best_loss"].groupby(records["problem"]).transform("min")
    rows = zip(
        records["curve"],
        records["start_loss"],
        records["best_loss"],
        lowest,
        strict=True,
    )
    spent = [evaluations_to(*row, tau) for row in rows]
    run = [records[name] for name in ("problem", "solver")]
    best = pd.Series(spent, records.index).groupby(run).min().unstack("solver")
    in_order = records.sort_values(["n", "problem"])["problem"].unique()
    names = [name for name in SOLVERS if name in best]
    return best.reindex(index=in_order, columns=names)


def evaluations_to(
    curve: str, start: float, best: float, lowest: float, tau: float
) -> float:
    """When a run had at most a share of the whole way left; infinite if it never had.

    Args:
      curve: of `curves.pack`.
      start: the loss there.
      best: the run's own lowest loss.
      lowest: that of all runs.
      tau: the share.
    """
    evaluations, shares = curves.unpack(curve)
    # Of the losses themselves the last digits would be lost.
    left = (best - lowest) + shares * (start - best)
    there = left <= tau * (start - lowest)
    return float(evaluations[there.argmax()]) if there.any() else np.inf


def area(times: pd.Series) -> float:
    """The area below a data profile, over the logarithm of the evaluations.

    1 is all problems solved by the first evaluation, 0 none within the budget.

    Args:
      times: evaluations, a row a problem.
    """
    within = times.dropna().clip(1, BUDGET)
    return float((1 - np.log(within) / np.log(BUDGET)).mean())


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """One row a solver that ran.

    The columns: how many problems it ran on; solved at each of `TAUS`, its name as
    text; the area and the median of the evaluations over all problems, at `MAIN_TAU`.
    """
    main = times(records, MAIN_TAU)
    solved = {
        f"{tau:g}": np.isfinite(times(records, tau).fillna(np.inf)).sum()
        for tau in TAUS
    }
    return pd.DataFrame(
        {
            "problems": main.count(),
            **solved,
            "area": main.apply(area),
            "median": main.median(),
        }
    )
