"""The page of polishing: does the full batch help after mini-batches?"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.minibatches.page import Measure, by_task, measure_of, title
from benchmarks.minibatches.polishing import (
    EVALUATIONS,
    FIRST,
    FIRST_EPOCHS,
    LONGER,
    SECOND,
)
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save
from benchmarks.shared.files import as_page, write_page
from benchmarks.shared.records import by_the_code, read
from benchmarks.shared.tables import in_markdown

PAGE = "polishing.md"
RECORDS = "polishing.csv.gz"
FIGURE = "polishing.png"

FLOOR = 1e-8
"""Where a lower training loss is drawn; it is rounding."""


def write(output: Path) -> None:
    """Writes polishing.md and its figure from the records in `output`."""
    figure(read(output / RECORDS), output / FIGURE)
    write_page(output / PAGE, text(output))


def text(output: Path) -> str:
    """The page, from the records in `output`."""
    return as_page(sections(read(output / RECORDS)))


def sections(records: pd.DataFrame) -> Iterator[str]:
    """The page in Markdown, from its records."""
    yield "# Polishing after mini-batches"
    yield verdict(records)
    yield _introduction(records)
    for heading, frame in tables(records):
        yield f"## {heading}"
        yield in_markdown(frame)
    yield f"![Training loss after the switch]({FIGURE})"


def verdict(records: pd.DataFrame) -> str:
    """Whether it helps, and with which optimizer, in a sentence."""
    pairs = list(_pairs(records))
    counts = {name: [0, 0] for name in SECOND}
    for task, _, ends in pairs:
        measure = measure_of(task[0])
        better = measure.better * ends[measure.column]
        for name in [name for name in SECOND if name in ends.index]:
            counts[name][0] += better[name] > better[LONGER]
            counts[name][1] += ends["train_loss"][name] < ends["train_loss"][LONGER]
    said = "; ".join(
        f"{SECOND[name].label} on {tests} and {trains}"
        for name, (tests, trains) in counts.items()
    )
    return (
        f"**Of {len(pairs)} pairs of a task and a first stage the full batch ends with "
        "a better test score, and with a lower training loss, than a first stage that "
        f"is longer by the same cost**: {said}."
    )


def _introduction(records: pd.DataFrame) -> str:
    stages = ", ".join(
        f"{contender.label} at {contender.rates[0]:g}" for contender in FIRST.values()
    )
    sizes = "; ".join(
        f"{_title(task)} {runs['train_examples'].iloc[0]:,} and "
        f"{runs['test_examples'].iloc[0]:,} ({runs['seed'].nunique()} seeds)"
        for task, runs in by_task(records)
    )
    return f"""\
By `python -m benchmarks polishing --output benchmarks/results`
({", ".join(records["device"].unique())}). First {FIRST_EPOCHS} epochs of batches of
128 by {stages}; then {EVALUATIONS} gradients of the full batch
({EVALUATIONS // 2} updates of DSA), at the defaults. *Longer* is the first stage of
{FIRST_EPOCHS + EVALUATIONS} epochs, its schedule stretched. Training and test examples:
{sizes}. Cells are the test score (images: accuracy in per cent, text: loss in nats) and
in parentheses the training loss, means over the seeds. {by_the_code(records)}"""


def tables(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """A title and a table a task: a row a first stage, a column what comes after."""
    names = {LONGER: "longer", **{name: p.label for name, p in SECOND.items()}}
    columns = ["first stage", "at the switch", *names.values()]
    for task, runs in by_task(records):
        measure, rows = measure_of(task[0]), []
        for _, first, ends in _pairs(runs):
            switch = runs[(runs["first"] == first) & (runs["epoch"] == 0)]
            row = dict.fromkeys(columns, "") | {"first stage": FIRST[first].label}
            row["at the switch"] = _cell(switch.mean(numeric_only=True), measure)
            for name, score in ends.iterrows():
                row[names[str(name)]] = _cell(score, measure)
            rows.append(row)
        yield _title(task), pd.DataFrame(rows)


def _title(task: tuple[str, str]) -> str:
    """A task for people; how long it is in the race doesn't count here."""
    dataset, model = task
    return title((dataset, model.partition(",")[0]))


def _cell(scores: pd.Series, measure: Measure) -> str:
    score = f"{scores[measure.column]:.{measure.digits}f}"
    return f"{score} ({scores['train_loss']:.2g})"


def _pairs(
    records: pd.DataFrame,
) -> Iterator[tuple[tuple[str, str], str, pd.DataFrame]]:
    """A task, a first stage, and the means at the end, where all has ended."""
    for task, runs in by_task(records):
        for first in [name for name in FIRST if name in set(runs["first"])]:
            ends = runs[(runs["first"] == first) & (runs["epoch"] == EVALUATIONS)]
            if LONGER in set(ends["second"]):
                yield task, first, ends.groupby("second").mean(numeric_only=True)


def figure(records: pd.DataFrame, path: Path) -> None:
    """Training loss after the switch: a row a first stage, a column a task."""
    tasks = list(by_task(records))
    size = (max(3.2 * len(tasks), 6.5), 2.4 * len(FIRST) + 0.9)
    sheet = Figure(figsize=size, layout="constrained")
    panels = sheet.subplots(len(FIRST), len(tasks), squeeze=False, sharex=True)
    for (task, runs), column in zip(tasks, panels.T, strict=True):
        for (first, contender), axes in zip(FIRST.items(), column, strict=True):
            mine = runs[runs["first"] == first]
            losses = mine.groupby(["second", "epoch"])["train_loss"].mean()
            means = losses.clip(lower=FLOOR)
            for i, (name, polisher) in enumerate(SECOND.items()):
                if name in means:
                    color = DSA_COLOR if name == "dsa" else OTHER_COLORS[i]
                    axes.plot(means[name], color=color, label=polisher.label)
            if LONGER in means:
                axes.plot(means[LONGER], "k*", label="a longer first stage")
            axes.set(yscale="log")
            axes.set_title(f"{_title(task)}\nafter {contender.label}", fontsize=9)
            axes.grid(alpha=0.25)
    for axes in panels[-1]:
        axes.set_xlabel("gradients of the full batch")
    for axes in panels[:, 0]:
        axes.set_ylabel("training loss")
    sheet.suptitle(
        "After mini-batches the full batch: mean training loss\n"
        f"(one below {FLOOR:g} is drawn there)"
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save(sheet, path)
