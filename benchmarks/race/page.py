"""The page of the race and its figures, from race.csv.gz alone.

Only the curves are drawn from the cache; where that is gone, their figure stays.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.race import runs, scores
from benchmarks.race.figures import draw_curves, draw_profiles
from benchmarks.race.runs import BUDGET, LONG
from benchmarks.race.scores import (
    AXES,
    DIVISIONS,
    SLOWEST,
    halves,
    label,
    times_by_division,
)
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.optimizers.contenders import CONTENDERS, HostContender
from benchmarks.shared.problems.halves import DEVELOPMENT, TEST
from benchmarks.shared.records import by_the_code, read
from benchmarks.shared.tables import in_bold, in_markdown
from benchmarks.shared.wall_time import REPEATS, TIMED_UPDATES

PAGE = "race.md"
RECORDS = "race.csv.gz"
COSTS = "race_times.csv.gz"
PROFILES = "race_profiles.png"
CURVES = "race_curves.png"

PROBLEMS = {**DEVELOPMENT, **TEST}

IN_SHORT = ("auto-dsa", "scipy-bfgs", "lbfgs", "irprop-minus", "adam")
"""Whom README names, `auto_dsa` first."""


def write(output: Path) -> None:
    """Writes race.md and the figures beside the records, each in one move.

    Raises:
      FileNotFoundError: if there are no records; it names their command.
    """
    records = _records(output)
    draw_profiles(records, output / PROFILES)
    draw_curves(records, cache(output), output / CURVES)
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the records in `output`; with the curves where they are drawn."""
    return as_page(_sections(_records(output), output))


def _records(output: Path) -> pd.DataFrame:
    if not (output / RECORDS).exists():
        raise FileNotFoundError(
            f"{output} lacks {RECORDS}: run `python -m benchmarks race --output "
            f"{output}` first."
        )
    return read(output / RECORDS)


def cache(output: Path) -> Path:
    """The folder with the curves."""
    return output / "race_cache"


def budget_of(records: pd.DataFrame) -> int:
    """Evaluations that the runs were long."""
    return LONG if records[f"end_loss_{LONG}"].notna().any() else BUDGET


# Tables -------------------------------------------------------------------------------


def standings_table(
    records: pd.DataFrame, axis: str, show: Callable[[pd.DataFrame], pd.Series]
) -> pd.DataFrame:
    """One row an optimizer, the largest areas first; a column a division and half.

    Args:
      records: the race's table.
      axis: one of `AXES`.
      show: from `scores.standings` to text, as `areas` and `misses`.
    """
    ours = scores.our_names(records)
    standings = {
        title: scores.standings(times, ours)
        for title, times in times_by_division(records, axis)
    }
    table = pd.DataFrame({title: show(rows) for title, rows in standings.items()})
    sizes = sum(rows["area"] for rows in standings.values())
    best_first = pd.Series(sizes).sort_values(ascending=False, kind="stable").index
    return _named(table.loc[best_first])


def areas(standings: pd.DataFrame) -> pd.Series:
    """Areas, and in parentheses the shares of first places."""
    first = standings["first"].map(" ({:.0%})".format)
    return standings["area"].map("{:.2f}".format) + first


def misses(standings: pd.DataFrame) -> pd.Series:
    """Missed targets."""
    return standings["misses"].map(str)


def speed_ups_table(records: pd.DataFrame, axis: str, entrant: str) -> pd.DataFrame:
    """One row a rival: how many times faster the entrant is, and on how many."""
    ours = scores.our_names(records)
    columns = {}
    for title, times in times_by_division(records, axis):
        field = scores.field(times, ours, entrant)
        rows = scores.speed_ups(field, entrant)
        columns[title] = [
            f"{mean:.2f} ({count})" if count else "–"
            for mean, count in zip(rows["speed_up"], rows["problems"], strict=True)
        ]
    return _named(pd.DataFrame(columns, index=rows.index))


def times_table(records: pd.DataFrame, division: str) -> pd.DataFrame:
    """One row a problem: gradient evaluations of ours, and of the fastest rival."""
    ours = scores.our_names(records)
    times = scores.times(records, division, "evaluations")
    rivals = times.drop(columns=ours)
    return pd.DataFrame(
        {
            "problem": times.index,
            **{label(name): times[name].map(_evaluations).array for name in ours},
            "fastest rival": [_fastest(row) for _, row in rivals.iterrows()],
        }
    )


def every_time(records: pd.DataFrame, division: str) -> pd.DataFrame:
    """Gradient evaluations to the target of everyone, along the longer side."""
    times = scores.times(records, division, "evaluations").map(_evaluations)
    times = times.set_axis([label(str(name)) for name in times], axis=1)
    times = times if len(times) >= len(times.columns) else times.T
    return times.rename_axis(index="to the target", columns=None).reset_index()


def screen_tables(
    records: pd.DataFrame, few: int
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables: the areas, and everyone's times where they fit."""
    for axis, name in AXES.items():
        title = f"Area under the profile (first places), {name}"
        yield title, standings_table(records, axis, areas)
    for division in DIVISIONS:
        if len((table := every_time(records, division)).columns) <= few + 1:
            yield f"Gradient evaluations to the target, {division}", table


def in_short(records: pd.DataFrame) -> str:
    """README's table: on the test half, who reaches how many targets, and how fast.

    Ratios are geometric means over the problems on which both reach the target.
    """
    rows, first = records[records["half"] == "test"], IN_SHORT[0]
    lines: dict[str, pd.Series] = {}
    for division in DIVISIONS:
        times = scores.times(rows, division, "evaluations")[list(IN_SHORT)]
        title = f"targets reached of {len(times.index)}, the rivals {division}"
        lines[title] = (times < np.inf).sum().map(str)
    for axis, name in AXES.items():
        times = scores.times(rows, "tuned", axis)[list(IN_SHORT)]
        ratios = scores.speed_ups(times, first)["speed_up"].map("{:.2f}".format)
        title = f"{name} beside `auto_dsa`'s, the rivals tuned"
        lines[title] = pd.concat([pd.Series({first: "1"}), ratios])
    table = pd.DataFrame(lines).T[list(IN_SHORT)].rename(columns=label)
    return in_markdown(table.reset_index(names=""))


def glance(records: pd.DataFrame) -> str:
    """The table of docs/results.md: areas of the test half (and of the other).

    Rivals that are below 0.1 everywhere are left out.
    """
    columns = {
        f"{division}, {'time' if axis == 'milliseconds' else axis}": _areas_by_half(
            records, division, axis
        )
        for axis in AXES
        for division in DIVISIONS
    }
    table = pd.DataFrame(
        {
            title: areas["test"].map("{:.2f}".format)
            + areas["development"].map(" ({:.2f})".format)
            for title, areas in columns.items()
        }
    )
    sizes = pd.concat(columns, axis=1)
    order = sizes.sum(axis=1).sort_values(ascending=False, kind="stable").index
    shown = [name for name in order if sizes.loc[name].max() >= 0.1]
    return _bold(_named(table.loc[shown]), records)


def _areas_by_half(records: pd.DataFrame, division: str, axis: str) -> pd.DataFrame:
    """A row an optimizer, a column a half."""
    ours = scores.our_names(records)
    areas = {}
    for half, rows in records.groupby("half"):
        times = scores.times(rows, division, axis)
        areas[half] = scores.standings(times, ours)["area"]
    return pd.DataFrame(areas)


def blow_ups_table(records: pd.DataFrame) -> pd.DataFrame:
    """One row an optimizer: its runs that end far above their best, of all runs."""
    rows = records[records["default"]]
    columns = {}
    for horizon, half in product(_horizons(records), halves(records)):
        as_long = rows[f"end_loss_{horizon}"].notna() & (rows["half"] == half)
        of_half = rows[as_long]
        blown = scores.blow_ups(of_half, horizon)
        runs = blown.groupby(of_half["optimizer"], sort=False).agg(["sum", "size"])
        columns[f"{horizon:,}, {half}"] = runs.agg(
            "{0[sum]} of {0[size]}".format, axis=1
        )
    table = pd.DataFrame(columns).reindex(records["optimizer"].unique())
    return _named(table.fillna("not run"))


def accuracies_table(records: pd.DataFrame) -> pd.DataFrame:
    """One row an optimizer: test accuracy untuned, and (tuned)."""
    untuned, tuned = (
        scores.accuracies(records, division, BUDGET).map("{:.1f}".format)
        for division in DIVISIONS
    )
    return _named(untuned + " (" + tuned + ")")


def _horizons(records: pd.DataFrame) -> tuple[int, ...]:
    return tuple(dict.fromkeys((BUDGET, budget_of(records))))


def _fastest(times: pd.Series) -> str:
    least = times.min()
    by = f", {label(str(times.idxmin()))}" if np.isfinite(least) else ""
    return f"{_evaluations(least)}{by}"


def _evaluations(number: float) -> str:
    return f"{number:g}" if np.isfinite(number) else "missed"


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With labels as the first column."""
    names = [label(str(name)) for name in table.index]
    return table.set_axis(pd.Index(names, name="optimizer")).reset_index()


# The page -----------------------------------------------------------------------------


def _sections(records: pd.DataFrame, output: Path) -> Iterator[str]:
    yield "# The race: full-batch training, at equal gradient evaluations"
    yield _preface(records, output)
    yield _rules(records)
    yield from _areas(records)
    yield from _speed_ups(records)
    yield from _problems(records, output)
    yield from _blow_ups(records)
    yield from _accuracies(records)


def _preface(records: pd.DataFrame, output: Path) -> str:
    sizes = records.groupby("half")["problem"].nunique()
    counts = ", ".join(f"{sizes[half]} in the {half} half" for half in halves(records))
    return f"""\
Written by `{command(records, output)}`.
The records: [{RECORDS}]({RECORDS}), wall times from [{COSTS}]({COSTS}). Problems:
{counts}; seeds of the initialisation: {records["seed"].nunique()}; optimizers:
{records["optimizer"].nunique()}. Mini-batches have [a page of their
own](minibatch_race.md), and so has [what was tried](../tried.md) on the development
half. {by_the_code(records)}"""


def command(records: pd.DataFrame, output: Path) -> str:
    """The command line that makes these records."""
    parts = ["python -m benchmarks race"]
    for column, all_of_them in {"problem": PROBLEMS, "optimizer": CONTENDERS}.items():
        names = list(records[column].unique())
        if set(names) != set(all_of_them):
            parts.append(f"--{column}s {' '.join(names)}")
    if (seeds := records["seed"].nunique()) != runs.SEEDS:
        parts.append(f"--seeds {seeds}")
    if budget_of(records) == BUDGET:
        parts.append("--quick")
    return " ".join([*parts, f"--output {output}"])


def _rules(records: pd.DataFrame) -> str:
    return f"""\
- **Target.** On each problem the lowest loss that any rival has reached after
  {scores.DEADLINE:.0%} of {BUDGET} gradient evaluations (median over the seeds),
  with a slack of 1e-4 of itself and 1e-6 of the way from the start. The package's own
  entrants (in bold) have no say in it; the paper's DSA counts as a rival.
- **Time** to it is the median over the seeds. A miss is infinite, and never left out.
- **Divisions.** *Untuned*: everyone at the default. *Tuned*: each rival at the best of
  its settings on each problem, in hindsight; the package's own still at their default.
- **Gradient evaluations** are counted as they are spent: two an update by DSA, every
  trial of L-BFGS's line search. **Wall time** is that count times the time of one
  evaluation with its share of the update, on two CPU cores: the fastest of
  {REPEATS} trainings
  at the default setting, {TIMED_UPDATES} updates in one call, compilation
  apart. L-BFGS takes over the gradient that its line search ended with.
{_host_rule(records)}\
- **Area**: on what share of the problems is an optimizer at most τ times slower than
  the fastest, on the mean over τ from 1 to {SLOWEST:g}? 1 is first everywhere. Each of
  the package's own is scored in a field of all rivals and itself.
- **Halves.** Settings of the package's own may have been chosen on the development
  half; none was on the test half, but it was seen while one number was weighed ([what
  was tried](../tried.md), on trust)."""


def _host_rule(records: pd.DataFrame) -> str:
    """How SciPy's optimizers run, where they took part."""
    kinds = (CONTENDERS.get(name) for name in records["optimizer"].unique())
    if not any(isinstance(contender, HostContender) for contender in kinds):
        return ""
    return f"""\
- **SciPy's** BFGS, L-BFGS-B and CG are loops on the host, as their users have them: in
  float64 around a compiled loss and gradient in float32, tolerances zero. All that they
  evaluate counts, and so does at once the lowest loss among it, be it in the midst of a
  line search. Where one fails, they start again from that point, until that is of no
  use. Their time is that of {TIMED_UPDATES} evaluations, each a call. BFGS
  updates its matrix by its rank of two; `minimize`, whose steps are the same, takes up
  to hundreds of times as long for it.
"""


def _areas(records: pd.DataFrame) -> Iterator[str]:
    for axis, name in AXES.items():
        yield f"## Area under the performance profile, {name}"
        yield "In parentheses: on what share of the problems it is first."
        yield _bold(standings_table(records, axis, areas), records)
    yield f"![Performance profiles]({PROFILES})"
    yield "## Targets missed"
    yield _bold(standings_table(records, "evaluations", misses), records)


def _speed_ups(records: pd.DataFrame) -> Iterator[str]:
    for entrant in scores.our_names(records)[:1]:
        for axis, name in AXES.items():
            yield f"## How many times faster {label(entrant)} is, {name}"
            yield """\
Geometric mean over the problems on which both reach the target (how many these are)."""
            yield in_markdown(speed_ups_table(records, axis, entrant))


def _problems(records: pd.DataFrame, output: Path) -> Iterator[str]:
    yield "## Gradient evaluations to the target, by problem"
    for half, division in product(halves(records), DIVISIONS):
        yield f"### {half.capitalize()} half, {division}"
        rows = records[records["half"] == half]
        yield in_markdown(times_table(rows, division))
    if (output / CURVES).exists():
        yield f"![Loss by gradient evaluations]({CURVES})"


def _blow_ups(records: pd.DataFrame) -> Iterator[str]:
    yield "## Runs that end far above their best"
    yield """\
At the default, those whose last loss is above the lowest by more than a thousandth of
the way from the start and a tenth of the lowest; by the number of evaluations."""
    yield _bold(blow_ups_table(records), records)
    ours = records[records["default"] & records["ours"]]
    rows = [
        {
            "optimizer": label(row["optimizer"]),
            "problem": row["problem"],
            "seed": row["seed"],
            "evaluations": f"{horizon:,}",
            "lowest": f"{row[f'best_loss_{horizon}']:.2g}",
            "last": f"{row[f'end_loss_{horizon}']:.2g}",
        }
        for horizon in _horizons(records)
        for _, row in ours[scores.blow_ups(ours, horizon)].iterrows()
    ]
    if rows:
        yield "Those of the package's own:"
        yield in_markdown(pd.DataFrame(rows))


def _accuracies(records: pd.DataFrame) -> Iterator[str]:
    if records[f"accuracy_{BUDGET}"].notna().any():
        yield "## Test accuracy of the nets on tables"
        yield """\
Per cent on a fifth of the rows after the whole budget, the mean over the seeds:
untuned, and in parentheses at the setting that reached the target first (or else ended
with the lowest loss)."""
        yield _bold(accuracies_table(records), records)


def _bold(table: pd.DataFrame, records: pd.DataFrame) -> str:
    """A table of optimizers in Markdown, the names of ours in bold."""
    return in_bold(table, [label(name) for name in scores.our_names(records)])
