"""Tables of records: means over seeds, on the screen and in Markdown."""

from collections.abc import Mapping

import pandas as pd
from rich import box
from rich.table import Table

from benchmarks.optimizers import OPTIMIZERS
from benchmarks.paper import Scores
from benchmarks.records import RUN

METRICS = ("accuracy", "f1", "recall", "precision")

CONVERGED = 1e-3
SPIKE = 0.1
"""Training losses: below the first a run has converged; above the second it hasn't."""


def at(records: pd.DataFrame, axis: str, budget: int) -> pd.DataFrame:
    """Each run's last record within a budget.

    Args:
      records: of one experiment.
      axis: "epoch" or "gradient_evaluations", what the budget counts.
      budget: how many of them.
    """
    within = records[records[axis] <= budget].sort_values(axis, kind="stable")
    return within.groupby([*RUN, "seed"], sort=False, as_index=False).last()


def scores_table(
    records: pd.DataFrame, paper: Mapping[str, Scores], digits: int = 1
) -> pd.DataFrame:
    """One row an optimizer: each metric's mean ± standard deviation over the seeds.

    Args:
      records: one record a seed and optimizer, of one data set.
      paper: the paper's scores, by optimizer.
      digits: how many after the point.

    Returns:
      The table, with the paper's accuracy and F1 where it has them.
    """
    rows = []
    for name, seeds in _by_optimizer(records):
        published = paper.get(name)
        rows.append(
            {
                "optimizer": _label(name),
                **{metric: spread(seeds[metric], digits) for metric in METRICS},
                "loss": f"{seeds['train_loss'].mean():.1e}",
                "paper: accuracy": f"{published.accuracy:.2f}" if published else "",
                "paper: f1": f"{published.f1:.2f}" if published else "",
            }
        )
    return pd.DataFrame(rows)


def overview(records: pd.DataFrame) -> pd.DataFrame:
    """One row an optimizer; accuracy and mean training loss for each data set.

    Args:
      records: one record a seed, optimizer and data set.
    """
    rows = []
    for name, runs in _by_optimizer(records):
        row = {"optimizer": _label(name)}
        for dataset, seeds in runs.groupby("dataset", sort=False):
            title = str(dataset).upper()
            row[title] = spread(seeds["accuracy"])
            row[f"{title} loss"] = f"{seeds['train_loss'].mean():.1e}"
        rows.append(row)
    return pd.DataFrame(rows)


def late_spikes(runs: pd.DataFrame) -> tuple[int, int]:
    """How many seeds converged and then spiked, and how many converged.

    Args:
      runs: one optimizer on one data set, at all recorded epochs.
    """
    losses = runs.pivot(index="epoch", columns="seed", values="train_loss").sort_index()
    converged = (losses < CONVERGED).cummax()
    spiked = (converged & (losses > SPIKE)).any()
    return int(spiked.sum()), int(converged.iloc[-1].sum())


def spikes_table(records: pd.DataFrame) -> pd.DataFrame:
    """One row an optimizer, one column a data set: "spiked of converged" seeds."""
    rows = []
    for name, runs in _by_optimizer(records):
        row = {"optimizer": _label(name)}
        for dataset, seeds in runs.groupby("dataset", sort=False):
            spiked, converged = late_spikes(seeds)
            row[str(dataset).upper()] = f"{spiked} of {converged}"
        rows.append(row)
    return pd.DataFrame(rows)


def _label(name: str) -> str:
    return OPTIMIZERS[name].label if name in OPTIMIZERS else name


def _by_optimizer(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The records of each optimizer, in the registry's order, variants last."""
    runs = {str(name): runs for name, runs in records.groupby("optimizer", sort=False)}
    known = [name for name in OPTIMIZERS if name in runs]
    return [(name, runs[name]) for name in dict.fromkeys([*known, *runs])]


def spread(values: pd.Series, digits: int = 1) -> str:
    """Mean ± sample standard deviation, of which one value has none."""
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std():.{digits}f}" if len(values) > 1 else mean


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of numbers as text, three digits each, its index the first column."""
    return frame.map(lambda number: f"{number:.3g}").reset_index()


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with its floating-point numbers as text, three digits each."""
    return frame.map(lambda cell: f"{cell:.3g}" if isinstance(cell, float) else cell)


def on_screen(frame: pd.DataFrame, title: str, emphasize: str = "DSA") -> Table:
    """A table for a terminal of 80 columns, with one row in bold."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for i, column in enumerate(frame.columns):
        table.add_column(column, justify="right" if i else "left")
    for row in frame.itertuples(index=False):
        style = "bold" if row[0] == emphasize else None
        table.add_row(*(str(cell) for cell in row), style=style)
    return table


def in_markdown(frame: pd.DataFrame, numbers: str = "right") -> str:
    """A table for the results page; `numbers` aligns all but the first column."""
    alignment = ("left", *[numbers] * (len(frame.columns) - 1))
    return frame.to_markdown(index=False, colalign=alignment, disable_numparse=True)
