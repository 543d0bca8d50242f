"""The command of the race on full batches."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.race import page, runs, scores
from benchmarks.shared.command import (
    OUTPUT,
    Command,
    UsageError,
    console,
    count,
    names,
    option,
    progress_over,
)
from benchmarks.shared.optimizers.contenders import CONTENDERS, RIVALS
from benchmarks.shared.records import read, write
from benchmarks.shared.tables import on_screen

FEW = 6
"""Columns of times that a screen holds."""


def run_race(
    output: Path,
    problems: Sequence[str],
    optimizers: Sequence[str],
    seeds: int,
    budget: int,
) -> None:
    """The race on full batches: curves, wall times, scores and their page."""
    made = {name: page.PROBLEMS[name] for name in problems}
    chosen = {name: CONTENDERS[name] for name in optimizers}
    cache, costs = page.cache(output), output / page.COSTS
    raced = runs.run(cache, made, chosen, seeds=seeds, budget=budget)
    timed = runs.time_steps(costs, made, chosen)
    for title, done in {"Race": raced, "Time of an evaluation": timed}.items():
        progress_over(title, done, len(made) * len(chosen))
    records = scores.collect(cache, read(costs), made, chosen)
    write(output / page.RECORDS, records)
    page.write(output)
    main = "".join(map(scores.label, scores.our_names(records)[:1]))
    for title, table in page.screen_tables(records, FEW):
        console.print(on_screen(table, title, main))


def _race(options: argparse.Namespace) -> None:
    if not RIVALS.keys() & options.optimizers:
        raise UsageError("--optimizers needs a rival, which sets the targets")
    run_race(
        options.output,
        options.problems,
        options.optimizers,
        options.seeds,
        options.budget,
    )


COMMANDS = (
    Command(
        "race",
        "The race on full batches: who is the first at a loss that the rivals set, by "
        "gradient evaluations and by wall time? Some two hours on two cores; a killed "
        "run goes on where it was. A part of it takes a minute: race --quick "
        "--problems rosenbrock-2 axes-1e4 --optimizers adam irprop-minus lbfgs. The "
        "records, page and figures are those of the part then; the next whole run "
        "makes them again from what was kept.",
        _race,
        (
            OUTPUT,
            names("--problems", page.PROBLEMS),
            names("--optimizers", CONTENDERS),
            count(
                "--seeds",
                runs.SEEDS,
                "how many initialisations; scores are medians over them",
            ),
            option(
                "--quick",
                action="store_const",
                dest="budget",
                const=runs.BUDGET,
                default=runs.LONG,
                help=f"stop ours too after the {runs.BUDGET} gradient evaluations that "
                f"are scored, and don't see what blows up before {runs.LONG:,}",
            ),
        ),
    ),
)
