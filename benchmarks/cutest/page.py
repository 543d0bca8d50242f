"""The page of CUTEst's problems, from cutest.csv.gz alone."""

import textwrap
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import pandas as pd

from benchmarks.cutest import curves, scores
from benchmarks.cutest.figures import draw
from benchmarks.cutest.problems import HALVES, LEFT_OUT
from benchmarks.cutest.runs import BUDGET, SMALL, SOLVERS
from benchmarks.cutest.scores import MAIN_TAU, RANGES, SIZES, TAUS, Group
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.records import by_the_code, read
from benchmarks.shared.tables import MISSED, evaluations, in_bold, in_markdown

PAGE = "cutest.md"
RECORDS = "cutest.csv.gz"
FIGURE = "cutest.png"


def write(output: Path) -> None:
    """Writes cutest.md and its figure from the records in `output`."""
    draw(read(output / RECORDS), output / FIGURE)
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the records in `output`."""
    return as_page(_sections(read(output / RECORDS)))


# Tables -------------------------------------------------------------------------------

GROUPS: Mapping[str, Group] = {
    **{
        f"The {half} half, {a:,} to {b:,} parameters": Group((half,), a, b)
        for half, (a, b) in product(HALVES, SIZES)
    },
    **{
        f"Both halves, {a:,} to {b:,} parameters": Group(HALVES, a, b)
        for a, b in (SIZES[0], *RANGES)
    },
    **{
        f"With bounds, the {half} half": Group((half,), kind="bounded")
        for half in HALVES
    },
}
"""The problems of a table."""


def tables(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables: how many problems each solver solved, and how fast."""
    for title, group in GROUPS.items():
        part = group.of(records)
        if len(part):
            yield f"{title}: {_counted(part)}", summary_table(part)


def summary_table(records: pd.DataFrame) -> pd.DataFrame:
    """One row a solver: problems solved at each target, the area, the median."""
    rows = scores.summary(records)
    every = records["problem"].nunique()
    ran = rows["problems"]

    def solved(tau: float) -> list[str]:
        counts = zip(rows[f"{tau:g}"], ran, strict=True)
        return [f"{k}" if of == every else f"{k} of {of}" for k, of in counts]

    return pd.DataFrame(
        {
            "solver": [label(str(name)) for name in rows.index],
            **{f"to {tau:.0e}": solved(tau) for tau in TAUS},
            f"area, {MAIN_TAU:.0e}": rows["area"].map("{:.3f}".format).array,
            f"median evaluations, {MAIN_TAU:.0e}": rows["median"]
            .map(evaluations)
            .array,
        }
    )


def every_problem(records: pd.DataFrame) -> pd.DataFrame:
    """One row a problem: the evaluations of every solver."""
    times = scores.times(records, MAIN_TAU)
    first = records.groupby("problem")[["n", "half", "start_loss"]].first()
    first["lowest"] = records.groupby("problem")["best_loss"].min()
    first = first.loc[times.index]
    return pd.DataFrame(
        {
            "problem": times.index,
            "n": first["n"].map("{:,}".format).array,
            "half": first["half"].array,
            "start": first["start_loss"].map("{:.4g}".format).array,
            "lowest": first["lowest"].map("{:.4g}".format).array,
            **{label(str(name)): times[name].map(evaluations).array for name in times},
        }
    )


def label(solver: str) -> str:
    """The name for people."""
    return SOLVERS[solver].label if solver in SOLVERS else solver


def _counted(records: pd.DataFrame) -> str:
    count = records["problem"].nunique()
    return f"{count} problem{'' if count == 1 else 's'}"


# The page -----------------------------------------------------------------------------


def _sections(records: pd.DataFrame) -> Iterator[str]:
    yield "# CUTEst's problems, without constraints and with bounds"
    yield _preface(records)
    yield _rules()
    yield f"![Share of the problems solved, by evaluations]({FIGURE})"
    for title, table in tables(records):
        yield f"## {title}"
        yield _bold(table)
    yield f"## Evaluations to {MAIN_TAU:.0e}, problem by problem"
    yield f"""\
The losses are those at the start, and the lowest of all solvers. A miss is {MISSED}."""
    yield in_markdown(every_problem(Group().of(records)))
    bounded = Group(kind="bounded").of(records)
    if len(bounded):
        yield "With bounds:"
        yield in_markdown(every_problem(bounded))


def _preface(records: pd.DataFrame) -> str:
    halves = records.drop_duplicates("problem")["half"].value_counts()
    counts = " and ".join(f"{halves.get(half, 0)} ({half})" for half in HALVES)
    return f"""\
Written by `python -m benchmarks cutest --output benchmarks/results`. The records:
[{RECORDS}]({RECORDS}). The problems are those of
[CUTEst](https://github.com/ralna/CUTEst) without constraints or with bounds, as
[sif2jax](https://github.com/johannahaffner/sif2jax) has them in JAX, of at most
{scores.LARGE:,} parameters and from CUTEst's starts. Here: {_counted(records)},
{counts}; solvers: {records["solver"].nunique()}. {by_the_code(records)}"""


def _rules() -> str:
    rates, steps = (
        ", ".join(f"{setting:g}" for setting in SOLVERS[name].settings)
        for name in ("adam", "irprop-minus")
    )
    taus = ", ".join(f"{tau:.0e}" for tau in TAUS)
    left_out = ", ".join(f"{name} ({why})" for name, why in LEFT_OUT.items())
    left_out = textwrap.fill(f"{left_out}.", 86, subsequent_indent="  ")
    return f"""\
- **A run** has {BUDGET:,} evaluations, in float64; its parameters are one vector. An
  evaluation is of the loss, of its gradient, or of both at once, and the one at the
  start is the first. Trials of a line search count. A loss that is no finite number
  doesn't.
- **Solved** to τ ({taus}) is a run that sees a loss f ≤ f_L + τ·(f₀ − f_L):
  f₀ is the loss at the start, f_L the lowest that any solver here sees, ours among
  them. So with another solver all figures may change. A miss ({MISSED}) is infinite,
  and never left out of a median.
- **Area** is that below the data profile (the share of the problems solved by
  evaluations, the picture) over the logarithm of the evaluations: the mean of
  1 − log(evaluations)/log({BUDGET:,}), where a miss is 0.
- **Halves.** The checksum CRC-32 of a problem's name is even in the choosing half, on
  which `auto_dsa` may be looked at while it is made, and odd in the held-out half.
- **Nothing is set** but one number each of two rivals, of which the best counts, on
  each problem, in hindsight, which flatters them: Adam's rate ({rates}),
  and the first step of iRprop⁻ ({steps}).
- **`minimize()`** is `auto_dsa` in the call that ends: its tolerances are at their
  defaults, so a problem that `auto_dsa` solves and `minimize` doesn't was ended too
  early. That it returns the lowest loss that it saw is checked in every run.
- **Bounds** are a matter of `minimize` and of L-BFGS-B. A start that is out of them is
  moved to the nearest point within, for both.
- **SciPy's** tolerances are zero. Where a solver stops early it is restarted from its
  best point, until a restart gains nothing. Optimistix's are zero as well; a step of
  its solvers, which tries one point, is an evaluation. Of Optax's L-BFGS the points at
  which a line search ends are seen, and all that it tries are counted.
- **Square matrices.** Both BFGS ran on at most {SMALL:,} parameters.
- **Counts** above {curves.EXACT} are rounded up to a grid whose points are 7 % apart.
- **Left out** is what the package defines and doesn't list, since its authors found it
  to differ from CUTEst's, and of what it lists:
  {left_out}"""


def _bold(table: pd.DataFrame) -> str:
    ours = {solver.label for solver in SOLVERS.values() if solver.ours}
    return in_bold(table, ours)
