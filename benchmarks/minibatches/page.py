"""The page of the mini-batch race: who wins, tables, a figure."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.minibatches.contenders import (
    CONTENDERS,
    RIVALS,
    SCHEDULES,
    WARMED,
    Contender,
    setting_name,
)
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.records import by_the_code, read
from benchmarks.shared.tables import in_markdown, spread

PAGE = "minibatch_race.md"
RECORDS = "minibatch_race.csv.gz"
FIGURE = "minibatch_race.png"

LINES = {
    CONTENDERS[name].line: setting_name(
        name, CONTENDERS[name].customary, CONTENDERS[name].rates[0]
    )
    for pair in WARMED.items()
    for name in pair
}
"""What nobody has to tune, by its name in the records."""

RUN = ["contender", "schedule", "rate"]

_DATASETS = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "unicode-names": "Unicode names",
    "shakespeare": "Tiny Shakespeare",
}


class Measure(NamedTuple):
    """What a task is judged by.

    Attributes:
      column: of the records.
      better: 1 where more is better, −1 where less is.
      digits: how many after the point.
      tolerance: what counts as level.
    """

    column: str
    better: int
    digits: int
    tolerance: float


ACCURACY = Measure("test_accuracy", 1, 2, 0.3)
LOSS = Measure("test_loss", -1, 3, 0.05)


FEW = 5
"""Epochs within which nothing overfits."""


def measure_of(dataset: str) -> Measure:
    """Images are judged by accuracy, text by its loss."""
    return LOSS if dataset in ("unicode-names", "shakespeare") else ACCURACY


def write(output: Path) -> None:
    """Writes minibatch_race.md and its figure from the records in `output`."""
    figure(read(output / RECORDS), output / FIGURE)
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the records in `output`."""
    return as_page(sections(read(output / RECORDS)))


def sections(records: pd.DataFrame) -> Iterator[str]:
    """The race in Markdown, from its records."""
    yield "# The race on mini-batches"
    yield verdict(records)
    yield _introduction(records)
    for title, frame in tables(records):
        yield f"## {title}"
        yield in_markdown(frame)
    yield f"![Test accuracy or loss by epoch]({FIGURE})"


def verdict(records: pd.DataFrame) -> str:
    """Who wins, tuned and not, in a sentence each."""
    nearest = dict.fromkeys(LINES, 0)
    tuned: Counter[str] = Counter()
    tasks = list(by_task(records))
    for task, runs in tasks:
        measure = measure_of(task[0])
        rival, _, _ = _best(_ends(_of_rivals(runs), measure), measure)
        tuned[RIVALS[rival].label] += 1
        behind = gaps(runs, measure)
        least = min(behind.values())
        for line, gap in behind.items():
            nearest[line] += gap == least
    return (
        f"**Who wins: tuned to the task, rate and schedule, "
        f"{_first_of(tuned, len(tasks))}; of the lines that tune nothing the nearest "
        f"to that is {_first_of(nearest, len(tasks))}.** Level with the best tuned "
        f"rival or ahead of it, within {ACCURACY.tolerance} points, for text "
        f"{LOSS.tolerance} nats (the aim: one line on six): "
        f"{_counted(level(records)) or 'none of the lines, on any task'}."
    )


def level(records: pd.DataFrame) -> dict[str, int]:
    """On how many tasks each of the `LINES` is level with the best rival or ahead."""
    counts = dict.fromkeys(LINES, 0)
    for task, runs in by_task(records):
        measure = measure_of(task[0])
        for line, gap in gaps(runs, measure).items():
            counts[line] += gap <= measure.tolerance
    return counts


def _first_of(counts: Mapping[str, int], of: int) -> str:
    """Who has most, on how many tasks, and the others."""
    most = max(counts.values())
    first = " and ".join(name for name in counts if counts[name] == most)
    others = _counted({name: n for name, n in counts.items() if n < most})
    return f"{first} on {most} of {of} tasks{f' ({others})' if others else ''}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{line} on {n}" for line, n in counts.items() if n)


def gaps(runs: pd.DataFrame, measure: Measure) -> dict[str, float]:
    """How far each of the `LINES` is behind the best rival at its best, on a task."""
    ends = _ends(runs, measure)
    means = measure.better * ends.groupby("optimizer")["value"].mean()
    rival = means[setting_name(*_best(_of_rivals(ends), measure))]
    return {
        line: float(rival - means.get(name, -math.inf)) for line, name in LINES.items()
    }


def gaps_table(records: pd.DataFrame) -> pd.DataFrame:
    """A row a line that tunes nothing, a column a task; below 0 it is ahead."""

    def cells(runs: pd.DataFrame, measure: Measure) -> Iterator[tuple[str, str]]:
        for line, gap in gaps(runs, measure).items():
            yield line, f"{gap:.{measure.digits}f}" if math.isfinite(gap) else "–"

    return _a_column_a_task(records, cells)


def _introduction(records: pd.DataFrame) -> str:
    grids = "; ".join(
        f"{contender.label} {', '.join(f'{rate:g}' for rate in contender.rates)}"
        for contender in RIVALS.values()
    )
    sizes = "; ".join(
        f"{title(task)} {runs['train_examples'].iloc[0]:,} and "
        f"{runs['test_examples'].iloc[0]:,}, {runs['steps'].iloc[0]:,} steps "
        f"({runs['seed'].nunique()} seeds)"
        for task, runs in by_task(records)
    )
    return f"""\
By `python -m benchmarks minibatch-race --output benchmarks/results`
({", ".join(records["device"].unique())}), batches of 128. Training and test examples:
{sizes}. Images are judged by accuracy in per cent, text by the loss of the next
character in nats, on the test examples after the last epoch, mean ± standard deviation
over the seeds.

Every optimizer runs at each of its rates at a constant rate, under a cosine to zero,
and with warm-up in a twentieth of the steps and a decay in the last fifth (wsd). *Best*
is the rate and schedule with the best mean at the end, chosen for each task on the very
test examples: the rivals are flattered.{_screened(records)}
*Default* is the first rate, with the schedule that its users give it (a cosine;
schedule-free none). The grids, with the default first: {grids}.
Muon has the kernels of convolutions as matrices (`matrices`). Its weight decay is 0.1,
AdamW's 0.01, and the others have none.

What is *in `adaptive_warmup`* is so for a tenth of the steps, at its default rate.
{by_the_code(records)}{missing(records)}"""


def _screened(records: pd.DataFrame) -> str:
    """Where only the rates that matter have more than one seed, in a sentence."""
    names = [
        title(task)
        for task, runs in by_task(records)
        if runs.groupby("optimizer")["seed"].nunique().nunique() > 1
    ]
    if not names:
        return ""
    return (
        f" For {', '.join(names)} the first seed ran every rate, and the others the "
        "default and the first seed's best with each schedule, which *best* is among."
    )


def missing(records: pd.DataFrame) -> str:
    """What was not run, in a sentence."""
    gone = []
    for task, runs in by_task(records):
        there = runs.groupby("contender")["schedule"].unique()
        lacks = {
            contender.label: [s for s in SCHEDULES if s not in there.get(name, [])]
            for name, contender in CONTENDERS.items()
        }
        names = [
            label if len(left) == len(SCHEDULES) else f"{label} ({', '.join(left)})"
            for label, left in lacks.items()
            if left
        ]
        if names:
            gone.append(f"of {title(task)} {', '.join(names)}")
    return f"\n\n**Not run yet**: {'; '.join(gone)}." if gone else ""


def tables(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables: everyone at default and best, and what schedules do."""
    yield "How far behind the best tuned rival", gaps_table(records)
    yield "What `adaptive_warmup` does: without it → in it", warmup_table(records)
    yield "At the end", table(records)
    yield "What a schedule does: the best rate with each", schedules_table(records)
    lowest = lowest_table(records)
    if len(lowest):
        yield "Overfitting: the lowest test loss on the way, beside the last", lowest


def table(records: pd.DataFrame) -> pd.DataFrame:
    """A row a contender, at its default and at its best; a column a task."""

    def cells(runs: pd.DataFrame, measure: Measure) -> Iterator[tuple[str, str]]:
        for name, contender, mine in _by_contender(runs):
            ends = _ends(mine, measure)
            values = ends.set_index(RUN)["value"].sort_index()
            default = (name, contender.customary, contender.rates[0])
            if default in values.index:
                cell = spread(values.loc[[default]], measure.digits)
                yield f"{contender.label}, default", cell
            best = _best(ends, measure)
            cell = spread(values.loc[[best]], measure.digits)
            yield f"{contender.label}, best", f"{cell} ({best[1]}, {best[2]:g})"

    return _a_column_a_task(records, cells)


def warmup_table(records: pd.DataFrame) -> pd.DataFrame:
    """A row an optimizer at its default and a schedule, a column a task."""

    def cells(runs: pd.DataFrame, measure: Measure) -> Iterator[tuple[str, str]]:
        means = _ends(runs, measure).groupby(RUN)["value"].mean()
        for (name, warmed), schedule in product(WARMED.items(), SCHEDULES):
            label, rate = RIVALS[name].label, RIVALS[name].rates[0]
            plain, inside = (
                means.get((each, schedule, rate), math.nan) for each in (name, warmed)
            )
            if math.isfinite(plain) and math.isfinite(inside):
                cell = f"{plain:.{measure.digits}f} → {inside:.{measure.digits}f}"
                yield f"{label} at {rate:g}, {schedule}", cell

    return _a_column_a_task(records, cells)


def schedules_table(records: pd.DataFrame) -> pd.DataFrame:
    """A row a contender, a column a task: constant / cosine / wsd."""

    def cells(runs: pd.DataFrame, measure: Measure) -> Iterator[tuple[str, str]]:
        for _, contender, mine in _by_contender(runs):
            ends = _ends(mine, measure)
            means = ends.groupby(["schedule", "rate"])["value"].mean()
            yield (
                contender.label,
                " / ".join(
                    f"{_extreme(means[schedule], measure):.{measure.digits}f}"
                    for schedule in SCHEDULES
                    if schedule in means.index.get_level_values("schedule")
                ),
            )

    return _a_column_a_task(records, cells)


def lowest_table(records: pd.DataFrame) -> pd.DataFrame:
    """A row a contender, a column a text that is read often: who overfits ends higher.

    Means over the seeds, at the default, and at the setting whose lowest is the lowest.
    """

    def cells(runs: pd.DataFrame, measure: Measure) -> Iterator[tuple[str, str]]:
        for name, contender, mine in _by_contender(runs):
            whole = mine[mine["optimizer"].isin(_ends(mine, measure)["optimizer"])]
            curves = {
                run: looks.groupby("epoch")[measure.column].mean()
                for run, looks in whole.groupby(RUN)
            }
            default = (name, contender.customary, contender.rates[0])
            if default in curves:
                yield f"{contender.label}, default", _lowest(curves[default])
            best = min(curves.values(), key=pd.Series.min)
            yield f"{contender.label}, lowest", _lowest(best)

    is_text = records["dataset"].map(lambda dataset: measure_of(dataset) is LOSS)
    epochs = records.groupby(["dataset", "model"])["epoch"].transform("max")
    return _a_column_a_task(records[is_text & (epochs > FEW)], cells)


def _lowest(curve: pd.Series) -> str:
    """The lowest of a curve, when that was, and the last."""
    low, last = curve.min(), curve.iloc[-1]
    return f"{low:.3f} after {curve.idxmin()}, {last:.3f} at the end"


def _by_contender(
    runs: pd.DataFrame,
) -> Iterator[tuple[str, Contender, pd.DataFrame]]:
    """Everyone who took part, and the records of it."""
    for name, contender in CONTENDERS.items():
        mine = runs[runs["contender"] == name]
        if not mine.empty:
            yield name, contender, mine


def _a_column_a_task(
    records: pd.DataFrame,
    cells: Callable[[pd.DataFrame, Measure], Iterator[tuple[str, str]]],
) -> pd.DataFrame:
    """A table of the rows and cells that are found in each task's records."""
    rows: dict[str, dict[str, str]] = {}
    for task, runs in by_task(records):
        for row, cell in cells(runs, measure_of(task[0])):
            rows.setdefault(row, {})[title(task)] = cell
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    return frame.rename_axis("optimizer").reset_index()


def _of_rivals(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["contender"].isin(list(RIVALS))]


def _ends(runs: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The last look of each run that has all seeds, its measure as "value"."""
    last = runs[runs["epoch"] == runs["epoch"].max()]
    seeds = last.groupby("optimizer")["seed"].transform("nunique")
    last = last[seeds == seeds.groupby(last["contender"]).transform("max")]
    return last.assign(value=last[measure.column])


def _extreme(values: pd.Series, measure: Measure) -> float:
    return float(values.max() if measure.better > 0 else values.min())


def _best(ends: pd.DataFrame, measure: Measure) -> tuple[str, str, float]:
    """Contender, schedule and rate with the best mean."""
    means = measure.better * ends.groupby(RUN)["value"].mean()
    ranked = means.sort_values(ascending=False, kind="stable").reset_index()
    best = ranked.iloc[0]
    return str(best["contender"]), str(best["schedule"]), float(best["rate"])


def figure(records: pd.DataFrame, path: Path) -> None:
    """The measure by epoch, each contender at its best: a panel a task."""
    tasks = list(by_task(records))
    columns = min(len(tasks), 4)
    rows = -(-len(tasks) // columns)
    size = (max(3.4 * columns, 6.5), 3 * rows + 0.9)
    sheet = Figure(figsize=size, layout="constrained")
    panels = sheet.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    for (task, runs), axes in zip(tasks, panels, strict=False):
        _draw(axes, runs, measure_of(task[0]))
        axes.set_title(title(task), fontsize=9)
        axes.set_xlabel("epochs")
        axes.grid(alpha=0.25)
    sheet.suptitle(
        "Mini-batches, each optimizer at its best rate and schedule: mean over seeds"
    )
    named = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    sheet.legend(
        named.values(), named, loc="outside lower center", ncols=5, frameon=False
    )
    save(sheet, path)


def _draw(axes: Axes, runs: pd.DataFrame, measure: Measure) -> None:
    """Means over the seeds."""
    for name, contender, mine in _by_contender(runs):
        _, schedule, rate = _best(_ends(mine, measure), measure)
        chosen = mine[(mine["schedule"] == schedule) & (mine["rate"] == rate)]
        curve = chosen.groupby("epoch")[measure.column].mean()
        axes.plot(curve, label=contender.label, **_style(name))
    axes.set_ylabel("test accuracy, %" if measure is ACCURACY else "test loss, nats")


def _style(name: str) -> dict[str, Any]:
    """A look for each contender; what is in `adaptive_warmup` has DSA's colour."""
    if name in RIVALS:
        row, place = divmod(list(RIVALS).index(name), len(OTHER_COLORS))
        line = {"color": OTHER_COLORS[place], "linestyle": ("-", ":")[row]}
        return line | {"linewidth": 1.2, "marker": ".", "markersize": 4}
    dashes = ("-", "--", ":", "-.")[list(WARMED.values()).index(name)]
    return {"color": DSA_COLOR, "linewidth": 2, "linestyle": dashes, "zorder": 3}


def title(task: tuple[str, str]) -> str:
    """A task for people."""
    dataset, model = task
    net, _, epochs = model.partition(", ")
    net = net if net == "attention" else net.upper()
    return ", ".join(filter(None, [f"{net} on {_DATASETS[dataset]}", epochs]))


def by_task(
    records: pd.DataFrame,
) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(data set, model), and the records of it."""
    for (dataset, model), runs in records.groupby(["dataset", "model"], sort=False):
        yield (str(dataset), str(model)), runs
