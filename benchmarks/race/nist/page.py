"""The page of NIST's regressions and its figure, from nist.csv.gz alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.race.nist import data, runs
from benchmarks.race.nist.problems import DTYPES, FLOORS, TOLERANCES
from benchmarks.race.nist.runs import BUDGET, SOLVERS
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.records import by_the_code, of, read
from benchmarks.shared.tables import MISSED, evaluations, in_bold, in_markdown

PAGE = "nist.md"
RECORDS = "nist.csv.gz"
FIGURE = "nist.png"


def write(output: Path) -> None:
    """Writes nist.md and its figure from the records in `output`."""
    draw(read(output / RECORDS), output / FIGURE)
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the records in `output`."""
    return as_page(_sections(read(output / RECORDS)))


# Tables -------------------------------------------------------------------------------


def tables(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables: how many runs each solver solved, and how fast."""
    for dtype in _dtypes(records):
        yield f"NIST's regressions, {dtype}", summary_table(records, dtype)


def summary_table(records: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """One row a solver: runs solved, and median evaluations over these and over all."""
    rows = runs.summary(runs.evaluations(records, dtype))
    solved = zip(rows["solved"], rows["runs"], strict=True)
    return pd.DataFrame(
        {
            "solver": [label(str(name)) for name in rows.index],
            "solved": [f"{solved} of {of}" for solved, of in solved],
            "evaluations, solved": rows["median_solved"].map(evaluations).array,
            "evaluations, all": rows["median"].map(evaluations).array,
        }
    )


def every_run(records: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """One row a data set and start: the evaluations of every solver."""
    times = runs.evaluations(records, dtype)
    names = [f"{dataset}, {start}" for dataset, start in times.index]
    columns = {label(str(name)): times[name].map(evaluations).array for name in times}
    return pd.DataFrame({"data set, start": names, **columns})


def misses_table(records: pd.DataFrame, solver: str) -> pd.DataFrame:
    """One row a run that the solver misses: how near it came, and who is there."""
    rows = []
    apart = [name for name, solver in SOLVERS.items() if solver.apart]
    for dtype in _dtypes(records):
        times = runs.evaluations(records, dtype).drop(columns=apart, errors="ignore")
        for (dataset, start), run in times[np.isinf(times[solver])].iterrows():
            least = run.min()
            by = f"{label(str(run.idxmin()))}, {least:g}" if least < np.inf else MISSED
            rows.append(
                {
                    "data set, start": f"{dataset}, {start}",
                    "dtype": dtype,
                    **_lowest(records, (dataset, start, dtype, solver)),
                    "fastest": by,
                }
            )
    return pd.DataFrame(rows)


def label(solver: str) -> str:
    """The name for people."""
    return SOLVERS[solver].label if solver in SOLVERS else solver


def main_solver(records: pd.DataFrame) -> str | None:
    """The first of the package's own that ran."""
    ran = set(records["solver"])
    ours = [name for name, solver in SOLVERS.items() if solver.ours and name in ran]
    return ours[0] if ours else None


def _lowest(records: pd.DataFrame, run: tuple[Any, ...]) -> dict[str, str]:
    """NIST's level, and the lowest sum of squares as a multiple of the certified."""
    unit = dict(zip(("dataset", "start", "dtype", "solver"), run, strict=True))
    first = records[of(records, unit)].sort_values("best_rss").iloc[0]
    times = first["best_rss"] / first["certified_rss"]
    return {"level": first["level"], "lowest / certified": f"{times:.4g}"}


def _dtypes(records: pd.DataFrame) -> list[str]:
    present = set(records["dtype"])
    return [dtype for dtype in DTYPES if dtype in present]


# The page -----------------------------------------------------------------------------


def _sections(records: pd.DataFrame) -> Iterator[str]:
    yield "# NIST's nonlinear regressions"
    yield _preface(records)
    yield _rules()
    yield f"![Share of the runs solved, by gradient evaluations]({FIGURE})"
    for dtype in _dtypes(records):
        yield f"## Solved, {dtype}"
        yield _bold(summary_table(records, dtype))
    if main := main_solver(records):
        yield f"## What {label(main)} misses"
        yield from _misses(records, main)
    for dtype in _dtypes(records):
        yield f"## Gradient evaluations to the solution, {dtype}"
        yield in_markdown(every_run(records, dtype))


def _preface(records: pd.DataFrame) -> str:
    solvers = records["solver"].nunique()
    datasets = records["dataset"].nunique()
    return f"""\
Written by `python -m benchmarks nist --output benchmarks/results`. The records:
[{RECORDS}]({RECORDS}). NIST publishes {len(data.FILES)} [regressions with certified
fits](https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml), each with two starts,
the first farther off. Here: {datasets} of them; solvers: {solvers}. The loss is the
residual sum of squares as published, of scalar parameters in NIST's units, unscaled:
those of one fit differ by up to nine orders of magnitude. {by_the_code(records)}"""


def _rules() -> str:
    tolerances, floors = (
        " and ".join(f"{values[dtype]:.0e} in {dtype}" for dtype in DTYPES)
        for values in (TOLERANCES, FLOORS)
    )
    rates = ", ".join(f"{rate:g}" for rate in SOLVERS["adam"].settings)
    return f"""\
- **Solved** is a run at parameters whose residual sum of squares, in float64, is at
  most c + t·c + f·Σy², where c is the certified one.
  t is {tolerances}, where rounding alone changes the loss
  at the certified fit by a thousandth or so (Lanczos3, MGH10).
  f is {floors}: ten digits of the observations, or six.
  It matters for Lanczos1, whose c is the rounding of its data, and in float32 for
  Lanczos2 and 3.
- **Budget.** {BUDGET:,} gradient evaluations, each with the loss. A run is solved at
  the evaluation that sees it; a miss ({MISSED}) is infinite, and never left out of the
  median over all.
- **Counted** is what is spent: two an update by DSA, every trial of a line search,
  every call by SciPy. Of its `least_squares` (`lm`, MINPACK) each call for the
  residuals and each for their Jacobian counts one. That is a mark apart, since it knows
  the residuals; the others know the loss and its gradient.
- **SciPy's** tolerances are zero (for `lm` the smallest that it takes). Where a solver
  stops early it is restarted from its best point, until a restart gains nothing.
- **Settings.** All are at their default, but for Adam the best of these rates counts,
  on each run, in hindsight, which flatters it: {rates}."""


def _misses(records: pd.DataFrame, main: str) -> Iterator[str]:
    table = misses_table(records, main)
    if table.empty:
        yield "Nothing."
    else:
        yield """\
The lowest sum of squares that it saw, as a multiple of the certified one, and who of
those that know a gradient alone is there first, with the evaluations."""
        yield in_markdown(table)


def _bold(table: pd.DataFrame) -> str:
    ours = {solver.label for solver in SOLVERS.values() if solver.ours}
    return in_bold(table, ours)


# The figure ---------------------------------------------------------------------------


def draw(records: pd.DataFrame, path: Path) -> None:
    """The share of the runs solved by gradient evaluations, a panel a dtype."""
    dtypes = _dtypes(records)
    figure = Figure(figsize=(5 * len(dtypes) + 0.6, 5), layout="constrained")
    [panels] = figure.subplots(1, len(dtypes), squeeze=False, sharey=True)
    for dtype, axes in zip(dtypes, panels, strict=True):
        _draw_shares(axes, runs.evaluations(records, dtype))
        axes.set(title=dtype, xlabel="gradient evaluations", xscale="log")
        axes.set(xlim=(1, BUDGET), ylim=(0, 1.02))
    panels[0].set_ylabel("share of the runs solved")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def _draw_shares(axes: Axes, times: pd.DataFrame) -> None:
    ticks = np.arange(1, BUDGET + 1)
    for name, style in _styles().items():
        if name in times:
            spent = times[name].dropna().to_numpy()
            shares = (spent[:, None] <= ticks).mean(axis=0)
            axes.plot(ticks, shares, drawstyle="steps-post", **style)
    axes.grid(alpha=0.25)


def _styles() -> dict[str, dict[str, Any]]:
    """Ours in DSA's colour, the lighter dashed; dotted what is a mark apart."""
    rivals = [name for name, s in SOLVERS.items() if not (s.ours or s.apart)]
    looks: dict[str, dict[str, Any]] = {
        **{n: {"color": DSA_COLOR, "linestyle": "--"} for n, s in SOLVERS.items()},
        **{n: {"color": c} for n, c in zip(rivals, OTHER_COLORS, strict=True)},
        **{
            n: {"color": "0.5", "linestyle": ":"} for n, s in SOLVERS.items() if s.apart
        },
    }
    main = next(name for name, solver in SOLVERS.items() if solver.ours)
    looks[main] = {"color": DSA_COLOR, "linewidth": 2.4, "zorder": 3}
    return {
        n: {"linewidth": 1.4, "label": label(n)} | look for n, look in looks.items()
    }
