"""The page of the physics-informed nets, from physics.csv.gz alone."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.physics import scores
from benchmarks.physics.figures import draw
from benchmarks.physics.problems import CHOOSING, EQUATIONS, FIVE, POINTS, WIDE
from benchmarks.physics.runs import BUDGET
from benchmarks.physics.solvers import SOLVERS
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.records import by_the_code, read
from benchmarks.shared.tables import in_bold

PAGE = "physics.md"
RECORDS = "physics.csv.gz"
FIGURE = "physics.png"

LIMITED = "lbfgs"
"""What wide nets are trained by where no matrix is kept."""


def write(output: Path) -> None:
    """Writes physics.md and its figure from the records in `output`."""
    draw(read(output / RECORDS), output / FIGURE)
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the records in `output`."""
    return as_page(_sections(read(output / RECORDS)))


# Tables -------------------------------------------------------------------------------


def small(records: pd.DataFrame) -> pd.DataFrame:
    """Those of the five nets of the papers' size."""
    return records[records["equation"].isin(FIVE)]


def tables(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables."""
    five = small(records)
    if len(five):
        yield f"Loss after {BUDGET:,} evaluations", means(five, "loss", ".1e")
        yield "Relative L2 error there", means(five, "error", ".1e")
        yield "Seconds", means(five, "seconds", ".0f")
    if len(wide := wide_table(records)):
        yield "Wide nets", wide


def means(records: pd.DataFrame, column: str, form: str) -> pd.DataFrame:
    """One row a solver, one column an equation."""
    found = scores.table(records, column)
    counts = records.groupby("equation")["parameters"].first()
    return pd.DataFrame(
        {
            "solver": [label(str(name)) for name in found.index],
            **{
                f"{equation.label}, {counts[name]:,}": found[name]
                .map(lambda x: "" if pd.isna(x) else f"{x:{form}}")
                .array
                for name, equation in EQUATIONS.items()
                if name in found
            },
        }
    )


def wide_table(records: pd.DataFrame) -> pd.DataFrame:
    """One row a net and solver: losses by evaluations, time, and at equal time."""
    wide = records[records["equation"].isin(WIDE)]
    if wide.empty:
        return wide
    wide = wide.assign(
        early=scores.at_evaluations(wide, 200, "loss"),
        equal=scores.at_the_time_of(wide, LIMITED, "loss"),
    )
    order = [*WIDE], [*SOLVERS]
    wide = wide.sort_values(
        ["equation", "solver"],
        key=lambda names: names.map((order[0] + order[1]).index),
    )
    return pd.DataFrame(
        {
            "solver": wide["solver"].map(label).array,
            "parameters": wide["parameters"].map("{:,}".format).array,
            "after 200": wide["early"].map("{:.1e}".format).array,
            f"after {BUDGET:,}": wide["loss"].map("{:.1e}".format).array,
            "error": wide["error"].map("{:.1e}".format).array,
            "seconds": wide["seconds"].map("{:.0f}".format).array,
            "when L-BFGS is done": wide["equal"]
            .map(lambda x: "" if pd.isna(x) else f"{x:.1e}")
            .array,
        }
    )


def label(solver: str) -> str:
    """The name for people."""
    return SOLVERS[solver].label if solver in SOLVERS else solver


# The page -----------------------------------------------------------------------------


def _sections(records: pd.DataFrame) -> Iterator[str]:
    yield "# Physics-informed nets"
    yield _preface(records)
    yield _rules(records)
    yield f"![Lowest loss by evaluations and by seconds]({FIGURE})"
    for title, table in tables(records):
        yield f"## {title}"
        yield in_bold(table, {s.label for s in SOLVERS.values() if s.ours})


def verdict(records: pd.DataFrame) -> str:
    """Who has the lowest loss, and by how much."""
    losses = scores.table(small(records), "loss")
    rivals = losses.drop(index="auto-dsa")
    ours = pd.Series(losses.T["auto-dsa"])
    ratio = ours / rivals.min()
    first = sum(ratio < 1)
    behind = [
        f"{equation.label} ({ratio[name]:.2f} times that of "
        f"{label(str(rivals[name].idxmin()))})"
        for name, equation in EQUATIONS.items()
        if name in ratio and ratio[name] >= 1
    ]
    package = losses.T["ssbroyden-optimistix"] / ours
    said = (
        f"`auto_dsa()` has the lowest loss on {first} of {len(ratio)} nets, and in the "
        f"geometric mean {scores.mean(1 / ratio):.1f} times less than the best of the "
        f"others on each, {scores.mean(package):,.0f} times less than "
        f"{label('ssbroyden-optimistix')}"
    )
    return (
        f"{said}; it is behind on {' and on '.join(behind)}." if behind else f"{said}."
    )


def _preface(records: pd.DataFrame) -> str:
    seeds = small(records)["seed"].nunique()
    first = textwrap.fill(f"**{verdict(records)}**", 86)
    return f"""\
{first}

Five nets as the papers on self-scaled Broyden matrices have
them ([Urbán, Stefanou and Pons](https://arxiv.org/abs/2405.04230), [Kiyani et
al.](https://arxiv.org/abs/2501.16371)), in float64; geometric means over {seeds} seeds
of the first weights. Written by `python -m benchmarks physics --output
benchmarks/results`. The records: [{RECORDS}]({RECORDS}). {by_the_code(records)}"""


def _rules(records: pd.DataFrame) -> str:
    chosen = " and ".join(EQUATIONS[name].label for name in CHOOSING)
    points = f"{POINTS:,}"
    return f"""\
- **A run** has {BUDGET:,} evaluations of the loss with its gradient; trials of a line
  search count. The lowest loss that was seen counts.
- **The loss** is the mean square of the residual on one fixed set of {points} points,
  drawn evenly; initial values and borders are built into the net, but for the borders
  of Korteweg-de Vries, which are a second term.
- **The error** of the solution is on {4 * POINTS:,} other points. It is not what is
  minimised: on Burgers' equation, whose front is a hundredth wide, {points} fixed
  points don't see it, and *every* solver that gets the loss low has fitted the points
  alone.
- **Settings** of `auto_dsa` were chosen on {chosen}; the others were run once.
- **SSBroyden and SSBFGS** are the papers' updates in SciPy's BFGS, with its line search
  (Wolfe's conditions), begun again from the lowest point where that fails. SciPy's
  BFGS is the same with its own update. ssbroyden-optimistix is its authors' package
  (PyPI, 0.1.1) at its defaults, whose step is an evaluation. Adam's rate is halved
  every 1,000.
- **Seconds** are of a whole run on one core of two, without compiling, while the other
  core was busy: read them to a factor of 1.5."""
