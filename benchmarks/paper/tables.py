"""Tables of the paper's experiments: scores, losses and spikes, an optimizer a row."""

from collections.abc import Mapping

import pandas as pd

from benchmarks.paper.published import Scores
from benchmarks.shared.optimizers.defaults import OPTIMIZERS, WITH_SCHEDULED
from benchmarks.shared.records import RUN
from benchmarks.shared.tables import spread

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
                "optimizer": label(name),
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
        row = {"optimizer": label(name)}
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
        row = {"optimizer": label(name)}
        for dataset, seeds in runs.groupby("dataset", sort=False):
            spiked, converged = late_spikes(seeds)
            row[str(dataset).upper()] = f"{spiked} of {converged}"
        rows.append(row)
    return pd.DataFrame(rows)


def label(name: object) -> str:
    """The name for people; a variant of DSA is one already."""
    text = str(name)
    return WITH_SCHEDULED[text].label if text in WITH_SCHEDULED else text


def _by_optimizer(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The records of each optimizer, in the registry's order, variants last."""
    runs = {str(name): runs for name, runs in records.groupby("optimizer", sort=False)}
    known = [name for name in OPTIMIZERS if name in runs]
    return [(name, runs[name]) for name in dict.fromkeys([*known, *runs])]
