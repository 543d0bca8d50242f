"""What comes of the runs: means over seeds, and the loss at any time."""

import numpy as np
import pandas as pd

from benchmarks.physics.problems import EQUATIONS
from benchmarks.physics.solvers import SOLVERS


def mean(values: pd.Series) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(values).mean()))


def table(records: pd.DataFrame, column: str) -> pd.DataFrame:
    """The geometric mean over seeds: a row a solver, a column an equation."""
    each = records.groupby(["solver", "equation"])[column].apply(mean).unstack()
    rows = [name for name in SOLVERS if name in each.index]
    columns = [name for name in EQUATIONS if name in each.columns]
    return each.reindex(index=rows, columns=columns)


def at_evaluations(records: pd.DataFrame, count: int, column: str) -> pd.Series:
    """A column's value at the last look up to so many evaluations, run by run."""
    return _looked_up(records, "at", pd.Series(count, records.index), column)


def at_the_time_of(records: pd.DataFrame, solver: str, column: str) -> pd.Series:
    """The value when another solver's runs were over, or at a run's own end."""
    run = ["equation", "seed"]
    ends = records[records["solver"] == solver].set_index(run)["seconds"]
    limit = records[run].apply(tuple, axis=1).map(ends)
    return _looked_up(records, "seconds_at", limit, column)


def _looked_up(
    records: pd.DataFrame, axis: str, limits: pd.Series, column: str
) -> pd.Series:
    found = []
    rows = zip(records[axis], records[f"{column}_at"], limits, strict=True)
    for places, values, limit in rows:
        reached = np.array(places.split(), float) <= limit
        last = int(reached.sum()) - 1
        found.append(float(values.split()[last]) if last >= 0 else np.nan)
    return pd.Series(found, records.index)
