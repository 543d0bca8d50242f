"""Scores the race by the rules of AlgoPerf (https://arxiv.org/abs/2306.07179).

The rivals alone set the target of a problem, a miss is infinite and never left out, and
an optimizer is scored by its profile: on what share of the problems is it at most τ
times slower than the fastest? Each of our own entrants runs in a field of its own, of
all rivals and itself, so that ours don't take first places from each other.

All follows from one table, of one row an optimizer, setting and seed on a problem.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.race import runs
from benchmarks.race.runs import BUDGET, LONG, Kept
from benchmarks.shared.optimizers.contenders import CONTENDERS, AnyContender
from benchmarks.shared.problems.halves import TEST

DEADLINE = 0.75
"""The share of the budget after which the best rival sets the target."""

SLOWEST = 4.0
"""The end of the profile: slower than the fastest by more than this counts nothing."""

HORIZONS = (BUDGET, LONG)
DIVISIONS = ("untuned", "tuned")
HALVES = ("development", "test")
AXES = {"evaluations": "gradient evaluations", "milliseconds": "wall time"}


# The table ----------------------------------------------------------------------------


def collect(
    cache: Path,
    costs: pd.DataFrame,
    problems: Iterable[str],
    contenders: Mapping[str, AnyContender],
) -> pd.DataFrame:
    """The whole table, from what was run and timed.

    Args:
      cache: the folder with the curves of every problem and contender.
      costs: what `runs.time_steps` wrote about them.
      problems: their names.
      contenders: by name.
    """
    each = costs.set_index(["problem", "optimizer"])["evaluation"]
    tables = []
    for problem in problems:
        curves = {name: runs.load(cache, problem, name) for name in contenders}
        half = "test" if problem in TEST else "development"
        tables.append(records(problem, half, curves, contenders, each[problem]))
    return pd.concat(tables, ignore_index=True)


def records(
    problem: str,
    half: str,
    curves: Mapping[str, Kept],
    contenders: Mapping[str, AnyContender],
    milliseconds: Mapping[str, float],
) -> pd.DataFrame:
    """One row an optimizer, setting and seed.

    Args:
      problem: its name.
      half: one of `HALVES`.
      curves: by optimizer.
      contenders: the same optimizers.
      milliseconds: the wall time of a gradient evaluation of each.
    """
    rivals = [kept.losses for name, kept in curves.items() if not contenders[name].ours]
    goals = {
        "untuned": target(losses[:1] for losses in rivals),
        "tuned": target(rivals),
    }
    frames = [
        _rows(kept, goals).assign(
            optimizer=name,
            ours=contenders[name].ours,
            milliseconds=milliseconds[name],
            code=str(kept.code),
        )
        for name, kept in curves.items()
    ]
    targets = {f"target_{division}": goal for division, goal in goals.items()}
    table = pd.concat(frames, ignore_index=True).assign(half=half, problem=problem)
    table = table.assign(**targets)
    first = ["half", "problem", "optimizer", "ours"]
    return table[[*first, *table.columns.drop(first)]]


def target(rivals: Iterable[np.ndarray]) -> float:
    """The loss to reach: the best rival's at the deadline, and a little slack.

    Args:
      rivals: losses of each, shape (settings, seeds, evaluations + 1).
    """
    losses = np.concatenate(list(rivals))[..., : BUDGET + 1].astype(float)
    deadline = int(DEADLINE * (losses.shape[-1] - 1))
    best = np.median(losses[..., : deadline + 1].min(axis=-1), axis=1).min()
    start = np.median(losses[..., 0])
    return float(best + 1e-4 * abs(best) + 1e-6 * (start - best))


def evaluations_to(target: float, losses: np.ndarray) -> np.ndarray:
    """After how many evaluations each run is there; infinite where it never is."""
    there = losses[..., : BUDGET + 1] <= target
    return np.where(there.any(axis=-1), there.argmax(axis=-1), np.inf)


def _rows(kept: Kept, goals: Mapping[str, float]) -> pd.DataFrame:
    settings, seeds, _ = kept.losses.shape
    columns = {
        "setting": np.repeat(kept.settings, seeds),
        "default": np.repeat(np.arange(settings) == 0, seeds),
        "seed": np.tile(np.arange(seeds), settings),
        "start_loss": kept.losses[..., 0],
    }
    for horizon in HORIZONS:
        columns |= _seen(kept, horizon)
    for division, goal in goals.items():
        columns[f"evaluations_{division}"] = evaluations_to(goal, kept.losses)
    return pd.DataFrame({name: np.ravel(values) for name, values in columns.items()})


def _seen(kept: Kept, horizon: int) -> dict[str, np.ndarray]:
    """Best and last of the runs up to the horizon; NaN where they end long before.

    The shortest horizon stands for the whole of a shorter run.
    """
    losses = kept.losses[..., : horizon + 1].astype(float)
    accuracy = kept.accuracy[..., : horizon + 1][..., -1].astype(float)
    cut = horizon > max(BUDGET, kept.losses.shape[-1] - 1)
    values = {
        f"best_loss_{horizon}": losses.min(axis=-1),
        f"end_loss_{horizon}": losses[..., -1],
        f"accuracy_{horizon}": accuracy,
    }
    return {n: np.full_like(v, np.nan) if cut else v for n, v in values.items()}


# Times and profiles -------------------------------------------------------------------


def entered(records: pd.DataFrame, division: str) -> pd.DataFrame:
    """The rows of a division: ours are at their default even where rivals are tuned."""
    tuned = (division == "tuned") & ~records["ours"]
    return records[records["default"] | tuned]


def times(records: pd.DataFrame, division: str, axis: str) -> pd.DataFrame:
    """Time to the target, a row a problem and a column an optimizer.

    The median over the seeds, of the fastest setting of the division; infinite where
    the median never is there.

    Args:
      records: the table.
      division: one of `DIVISIONS`.
      axis: one of `AXES`.
    """
    rows = entered(records, division)
    each = rows["milliseconds"] if axis == "milliseconds" else 1.0
    # A target that the start meets would make ratios to zero.
    spent = each * rows[f"evaluations_{division}"].clip(lower=1)
    run = [rows[name] for name in ("problem", "optimizer", "setting")]
    medians = spent.groupby(run).median()
    fastest = medians.groupby(level=["problem", "optimizer"]).min().unstack()
    order = records["problem"].unique(), records["optimizer"].unique()
    return fastest.reindex(index=order[0], columns=order[1]).fillna(np.inf)


def ratios(times: pd.DataFrame) -> pd.DataFrame:
    """How many times slower than the fastest, by problem; a miss is infinite."""
    return times.div(times.min(axis=1), axis=0).fillna(np.inf)


def profile(ratios: pd.DataFrame, tau: float) -> pd.Series:
    """On what share of the problems an optimizer is within τ times the fastest."""
    return (ratios <= tau).mean()


def area(ratios: pd.DataFrame) -> pd.Series:
    """The mean of the profile on τ from 1 to `SLOWEST`."""
    return ((SLOWEST - ratios) / (SLOWEST - 1)).clip(lower=0).mean()


def our_names(records: pd.DataFrame) -> list[str]:
    """Our own entrants, the main one first."""
    return list(records.loc[records["ours"], "optimizer"].unique())


def field(times: pd.DataFrame, ours: Sequence[str], entrant: str) -> pd.DataFrame:
    """All rivals and one of ours."""
    return times.drop(columns=[name for name in ours if name != entrant])


def standings(times: pd.DataFrame, ours: Sequence[str]) -> pd.DataFrame:
    """One row an optimizer: area, share of first places, misses.

    Each of ours is scored in a field of its own, and the rivals in the first one's.
    """
    standing = {name: _standing(field(times, ours, name)) for name in ours}
    if not standing:
        return _standing(times)
    own = [table.loc[[name]] for name, table in standing.items()]
    main, table = next(iter(standing.items()))
    return pd.concat([*own, table.drop(index=main)])


def _standing(times: pd.DataFrame) -> pd.DataFrame:
    slower = ratios(times)
    first, missed = profile(slower, 1), np.isinf(times).sum()
    return pd.DataFrame({"area": area(slower), "first": first, "misses": missed})


def speed_ups(times: pd.DataFrame, entrant: str) -> pd.DataFrame:
    """One row a rival: how many times faster the entrant is, where both are there.

    Args:
      times: of its field.
      entrant: its name.

    Returns:
      The geometric mean, and over how many problems.
    """
    times = times[times[entrant] < np.inf]
    rivals = times.drop(columns=entrant)
    both = rivals < np.inf
    logs = np.log(rivals.where(both).div(times[entrant], axis=0))
    return pd.DataFrame({"speed_up": np.exp(logs.mean()), "problems": both.sum()})


# What a fast descent may cost ---------------------------------------------------------


def blow_ups(records: pd.DataFrame, horizon: int) -> pd.Series:
    """Which runs end far above their own best."""
    start, best, end = (
        records[name]
        for name in ("start_loss", f"best_loss_{horizon}", f"end_loss_{horizon}")
    )
    return end - best > 1e-3 * (start - best) + 0.1 * best.abs()


def chosen(records: pd.DataFrame, division: str) -> pd.DataFrame:
    """The rows of each optimizer's setting in a division, the best by problem.

    That is the one which is fastest at the target; where none gets there, the one which
    ends lowest.
    """
    rows = entered(records, division)
    speed, loss = f"evaluations_{division}", f"end_loss_{BUDGET}"
    run = ["problem", "optimizer", "setting"]
    medians = rows.groupby(run, as_index=False)[[speed, loss]].median()
    ranked = medians.sort_values([speed, loss], kind="stable")
    best = ranked.drop_duplicates(["problem", "optimizer"])[run]
    return rows.merge(best, on=run)


def accuracies(records: pd.DataFrame, division: str, horizon: int) -> pd.DataFrame:
    """Mean test accuracy in per cent, a row an optimizer and a column a problem."""
    rows = chosen(records, division).dropna(subset=[f"accuracy_{horizon}"])
    rows = rows.assign(accuracy=100 * rows[f"accuracy_{horizon}"])
    table = rows.pivot_table(index="optimizer", columns="problem", values="accuracy")
    return table.reindex(
        index=records["optimizer"].unique(),
        columns=[name for name in records["problem"].unique() if name in table],
    )


def label(optimizer: str) -> str:
    """The name for people."""
    return CONTENDERS[optimizer].label if optimizer in CONTENDERS else optimizer


def times_by_division(
    records: pd.DataFrame, axis: str
) -> Iterator[tuple[str, pd.DataFrame]]:
    """A title and the times for every division and half."""
    for division, half in product(DIVISIONS, halves(records)):
        rows = records[records["half"] == half]
        yield f"{division}, {half}", times(rows, division, axis)


def halves(records: pd.DataFrame) -> list[str]:
    present = set(records["half"])
    return [half for half in HALVES if half in present]
