"""The command of the race on mini-batches."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.minibatches import page, polishing, polishing_page, runs
from benchmarks.minibatches.contenders import CONTENDERS
from benchmarks.minibatches.tasks import TASKS
from benchmarks.shared.command import (
    DATA_DIR,
    OUTPUT,
    SOME_SEEDS,
    Command,
    console,
    names,
    progress_over,
)
from benchmarks.shared.records import Records
from benchmarks.shared.tables import on_screen


def run_minibatch_race(
    output: Path,
    tasks: Sequence[str],
    optimizers: Sequence[str],
    seeds: int,
    data_dir: str | None,
) -> None:
    """The race on mini-batches: test loss and accuracy at equal epochs."""
    records = Records(output / page.RECORDS)
    chosen = {name: CONTENDERS[name] for name in optimizers}
    for name in tasks:
        done = runs.run(records, [TASKS[name](data_dir)], chosen, seeds=seeds)
        progress_over(name, done, len(chosen))
    for title, table in page.tables(records.frame):
        console.print(on_screen(table, title))
    page.write(output)


def run_polishing(
    output: Path, tasks: Sequence[str], seeds: int, data_dir: str | None
) -> None:
    """Mini-batches first, then the full batch, against a longer first stage."""
    records = Records(output / polishing_page.RECORDS)
    for name in tasks:
        done = polishing.run(records, [TASKS[name](data_dir)], seeds=seeds)
        progress_over(name, done, len(polishing.FIRST))
    for title, table in polishing_page.tables(records.frame):
        console.print(on_screen(table, title))
    polishing_page.write(output)


COMMANDS = (
    Command(
        "minibatch-race",
        "The race on mini-batches: small nets on images and text, each optimizer over "
        "five rates at a constant rate and with two schedules. Hours on two cores; a "
        "killed run goes on where it was, and --tasks runs a part.",
        lambda options: run_minibatch_race(
            options.output,
            options.tasks,
            options.optimizers,
            options.seeds,
            options.data_dir,
        ),
        (
            SOME_SEEDS,
            DATA_DIR,
            OUTPUT,
            names("--tasks", TASKS),
            names("--optimizers", CONTENDERS),
        ),
    ),
    Command(
        "polishing",
        "The paper's method (Sec. 2.3) beside a longer first stage at equal cost: "
        "mini-batches by Adamax, AdamW or Muon, then the full batch by DSA, iRprop⁻ "
        "and auto_dsa. About twenty minutes a task on two cores; a killed run goes on "
        "where it was.",
        lambda options: run_polishing(
            options.output, options.tasks, options.seeds, options.data_dir
        ),
        (
            SOME_SEEDS,
            DATA_DIR,
            OUTPUT,
            names("--tasks", TASKS, polishing.TASKS),
        ),
    ),
)
