"""Runs the race, and keeps what was run: its curves, and what a step costs."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from benchmarks.race import curves
from benchmarks.shared.files import replacing
from benchmarks.shared.optimizers.contenders import AnyContender
from benchmarks.shared.records import Records, code
from benchmarks.shared.runner import Problem
from benchmarks.shared.wall_time import milliseconds

Problems = Mapping[str, Callable[[], Problem]]
Contenders = Mapping[str, AnyContender]

SEEDS = 3
BUDGET = 300
"""Gradient evaluations that are scored."""

LONG = 1000
"""Gradient evaluations of our own: more than are scored, so that late blow-ups show."""


class Kept(NamedTuple):
    """What the cache has of one optimizer on one problem, as in `curves.Curves`.

    And the code that it was run by, an array of one string.
    """

    losses: np.ndarray
    accuracy: np.ndarray
    settings: np.ndarray
    code: np.ndarray


def run(
    folder: Path, problems: Problems, contenders: Contenders, *, seeds: int, budget: int
) -> Iterator[str]:
    """Trains and keeps what the folder lacks; yields each unit's name, done.

    A unit is all settings and seeds of one optimizer on one problem. One that was kept
    with other settings, seeds or another budget is run again; that an optimizer's code
    changed isn't seen: then delete its files.

    Args:
      folder: the cache, a file for every unit.
      problems: what is trained, by name.
      contenders: who trains, by name.
      seeds: how many.
      budget: gradient evaluations of our own; the rivals stop after those that are
        scored.
    """
    for problem, make in problems.items():
        made = cache(make)
        for name, contender in contenders.items():
            path = _path(folder, problem, name)
            length = budget if contender.ours else min(budget, BUDGET)
            if not _is_kept(path, contender, seeds, length):
                _keep(path, contender, curves.curves(made(), contender, seeds, length))
            yield f"{name}, {problem}"
        jax.clear_caches()  # XLA's programs hold the problem's data


def load(folder: Path, problem: str, contender: str) -> Kept:
    """What was kept of one unit."""
    with np.load(_path(folder, problem, contender)) as arrays:
        return Kept(**arrays)


def is_there(folder: Path, problem: str, contender: str) -> bool:
    """Whether any run of the unit was kept."""
    return _path(folder, problem, contender).exists()


def _path(folder: Path, problem: str, contender: str) -> Path:
    return folder / f"{problem}__{contender}.npz"


def _is_kept(path: Path, contender: AnyContender, seeds: int, budget: int) -> bool:
    if not path.exists():
        return False
    with np.load(path) as arrays:
        kept = Kept(**arrays)
    wanted = (len(contender.settings), seeds, budget + 1)
    return kept.losses.shape == wanted and np.array_equal(
        kept.settings, contender.settings
    )


def _keep(path: Path, contender: AnyContender, curves: curves.Curves) -> None:
    settings = np.asarray(contender.settings, float)
    kept = Kept(curves.losses, curves.accuracy, settings, np.array(code()))
    with replacing(path) as file, file.open("wb") as stream:
        np.savez_compressed(stream, **kept._asdict())


def time_steps(path: Path, problems: Problems, contenders: Contenders) -> Iterator[str]:
    """Times what the CSV file lacks; yields each unit's name, done.

    Args:
      path: the file, of one row an optimizer and problem.
      problems: what is trained, by name.
      contenders: who trains, by name, at their defaults.
    """
    records = Records(path, ("problem", "optimizer"), digits=4)
    for problem, make in problems.items():
        made = cache(make)
        for name, contender in contenders.items():
            unit = {"problem": problem, "optimizer": name}
            if records.run(unit).empty:
                spent = milliseconds(made(), contender)
                records.put(unit, pd.DataFrame([spent._asdict()]))
            yield f"{name}, {problem}"
        jax.clear_caches()
