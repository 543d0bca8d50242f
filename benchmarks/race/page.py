"""The page of the race and its figures, from race.csv alone.

Only the curves are drawn from the cache; where that is gone, their figure stays.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.race import runs, scores
from benchmarks.race.runs import BUDGET, LONG
from benchmarks.race.scores import AXES, DIVISIONS, HALVES, SLOWEST
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save
from benchmarks.shared.files import replacing
from benchmarks.shared.optimizers.contenders import CONTENDERS, HostContender
from benchmarks.shared.problems.halves import DEVELOPMENT, TEST
from benchmarks.shared.tables import in_markdown
from benchmarks.shared.wall_time import REPEATS, TIMED_UPDATES

RECORDS = "race.csv"
COSTS = "race_times.csv"
PROFILES = "race_profiles.png"
CURVES = "race_curves.png"

PROBLEMS = {**DEVELOPMENT, **TEST}

CURVES_OF = ("lbfgs", "irprop-minus", "dsa", "adam")
"""Rivals whose curves are drawn; Adam's also at its best setting."""

FLOOR = 1e-7
"""Where a lower curve is drawn; about the rounding of a float32 loss."""


def write(output: Path) -> None:
    """Writes race.md and the figures beside the records, each in one move.

    Raises:
      FileNotFoundError: if there are no records; it names their command.
    """
    if not (output / RECORDS).exists():
        raise FileNotFoundError(
            f"{output} lacks {RECORDS}: run `python -m benchmarks race --output "
            f"{output}` first."
        )
    records = pd.read_csv(output / RECORDS)
    draw_profiles(records, output / PROFILES)
    draw_curves(records, cache(output), output / CURVES)
    text = "\n\n".join(_sections(records, output)) + "\n"
    with replacing(output / "race.md") as file:
        file.write_text(text, encoding="utf-8")


def cache(output: Path) -> Path:
    """The folder with the curves."""
    return output / "race_cache"


def budget_of(records: pd.DataFrame) -> int:
    """Evaluations that the runs were long."""
    return LONG if records[f"end_loss_{LONG}"].notna().any() else BUDGET


def label(optimizer: str) -> str:
    """The name for people."""
    return CONTENDERS[optimizer].label if optimizer in CONTENDERS else optimizer


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
        title: scores.standings(times, ours) for title, times in _times(records, axis)
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
    for title, times in _times(records, axis):
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


def glance(records: pd.DataFrame) -> str:
    """The README's table: areas on the test half, and in parentheses on the other.

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
    for horizon, half in product(_horizons(records), _halves(records)):
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


def _times(records: pd.DataFrame, axis: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for division, half in product(DIVISIONS, _halves(records)):
        rows = records[records["half"] == half]
        yield f"{division}, {half}", scores.times(rows, division, axis)


def _halves(records: pd.DataFrame) -> list[str]:
    present = set(records["half"])
    return [half for half in HALVES if half in present]


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
    counts = ", ".join(f"{sizes[half]} in the {half} half" for half in _halves(records))
    return f"""\
Written by `{command(records, output)}`.
The records: [{RECORDS}]({RECORDS}), wall times from [{COSTS}]({COSTS}). Problems:
{counts}; seeds of the initialisation: {records["seed"].nunique()}; optimizers:
{records["optimizer"].nunique()}. Mini-batches have [a page of their
own](minibatch_race.md), and so has [what was tried](../tried.md) on the development
half."""


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
    for half, division in product(_halves(records), DIVISIONS):
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
    ours = [label(name) for name in scores.our_names(records)]
    name = table.columns[0]
    bold = table[name].map(lambda text: f"**{text}**" if text in ours else text)
    return in_markdown(table.assign(**{name: bold}))


# Figures ------------------------------------------------------------------------------


def draw_profiles(records: pd.DataFrame, path: Path) -> None:
    """Performance profiles by axis, division and half, of the main entrant's field."""
    ours = scores.our_names(records)
    panels = {
        (name, title): scores.ratios(scores.field(times, ours, main))
        for main in ours[:1] or [""]
        for axis, name in AXES.items()
        for title, times in _times(records, axis)
    }
    styles = _profile_styles(panels, ours)
    columns = len(panels) // len(AXES)
    figure = Figure(figsize=(3.6 * columns, 7.2), layout="constrained")
    grid = figure.subplots(len(AXES), columns, squeeze=False, sharex=True, sharey=True)
    for (panel, ratios), axes in zip(panels.items(), grid.flat, strict=True):
        _draw_profile(axes, ratios, styles)
        axes.set(title="\n".join(panel), xlim=(1, SLOWEST), ylim=(0, 1.02))
    for axes in grid[-1]:
        axes.set_xlabel("τ, times the fastest")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of problems")
    _legend(figure, grid[0][0])
    save(figure, path)


def _profile_styles(
    panels: dict[tuple[str, str], pd.DataFrame], ours: list[str]
) -> dict[str, dict[str, Any]]:
    """A colour for our main entrant and the best rivals; the others are grey."""
    areas = pd.DataFrame({i: scores.area(r) for i, r in panels.items()})
    ranked = areas.mean(axis=1).drop(ours[:1]).sort_values(ascending=False)
    best = ranked.index[: len(OTHER_COLORS)]
    grey = {"color": "0.75", "linewidth": 1, "zorder": 1}
    return {
        **{n: grey | {"label": "the other optimizers"} for n in ranked.index},
        **{
            name: {"color": color, "linewidth": 1.4, "label": label(name)}
            for name, color in zip(best, OTHER_COLORS, strict=False)
        },
        **{n: _ours_style() | {"label": label(n)} for n in ours[:1]},
    }


def _ours_style() -> dict[str, Any]:
    return {"color": DSA_COLOR, "linewidth": 2.4, "zorder": 3}


def _draw_profile(
    axes: Axes, ratios: pd.DataFrame, styles: dict[str, dict[str, Any]]
) -> None:
    taus = np.linspace(1, SLOWEST, 601)
    for name, style in styles.items():
        shares = (ratios[[name]].to_numpy() <= taus).mean(axis=0)
        axes.plot(taus, shares, drawstyle="steps-post", **style)
    axes.grid(alpha=0.25)


def draw_curves(records: pd.DataFrame, folder: Path, path: Path) -> None:
    """The median loss of some by evaluations, a panel a problem.

    Nothing is drawn where the cache lacks all of them.

    Args:
      records: the race's table.
      folder: the cache.
      path: the PNG file.
    """
    panels = {
        str(problem): curves
        for problem, rows in records.groupby("problem", sort=False)
        if (curves := _curves_of(rows, str(problem), folder))
    }
    if not panels:
        return
    columns = min(6, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(max(2.4 * columns, 7), 2 * rows + 1.2), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for (problem, curves), axes in zip(panels.items(), grid.flat, strict=False):
        for style, curve in curves:
            axes.plot(curve, **style)
        axes.set_title(problem, fontsize="small")
        axes.set(yscale="log", xlim=(0, BUDGET), ylim=(FLOOR / 2, 5))
        axes.grid(alpha=0.25)
    for axes in grid.flat[len(panels) - columns : len(panels)]:
        axes.set_xlabel("gradient evaluations")
        axes.tick_params(labelbottom=True)
    figure.supylabel("share of the way left to the lowest loss", fontsize="medium")
    _legend(figure, grid[0][0])
    save(figure, path)


def _curves_of(
    records: pd.DataFrame, problem: str, folder: Path
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Styles and curves of one problem: from 1 at the start to 0 at the lowest loss."""
    tuned = scores.chosen(records, "tuned").groupby("optimizer")["setting"].first()
    low = records[f"best_loss_{BUDGET}"].min()
    way = records["start_loss"].median() - low
    curves = []
    for name, best, style in _curve_styles(scores.our_names(records)):
        if name in tuned and runs.is_there(folder, problem, name):
            kept = runs.load(folder, problem, name)
            place = np.abs(kept.settings - tuned[name]).argmin() if best else 0
            median = np.median(kept.losses[place, :, : BUDGET + 1], axis=0)
            curves.append((style, np.maximum((median - low) / way, FLOOR)))
    return curves


def _curve_styles(ours: list[str]) -> list[tuple[str, bool, dict[str, Any]]]:
    """Who is drawn, whether at the best setting, and how."""
    plain = {"linewidth": 1.2}
    rivals = [
        (name, False, plain | {"color": color, "label": label(name)})
        for name, color in zip(CURVES_OF, OTHER_COLORS, strict=False)
    ]
    name, _, style = rivals[-1]
    best = style | {"linestyle": "--", "label": f"{label(name)}, tuned"}
    main = [(n, False, _ours_style() | {"label": label(n)}) for n in ours[:1]]
    return [*main, *rivals, (name, True, best)]


def _legend(figure: Figure, axes: Axes) -> None:
    """One for all panels, each label once."""
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
