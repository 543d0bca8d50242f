"""The command of the race on mini-batches."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.minibatches import page, runs
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
    """The race's mini-batch division: test accuracy at equal epochs."""
    records = Records(output / page.RECORDS)
    chosen = {name: CONTENDERS[name] for name in optimizers}
    loaded = [TASKS[name](data_dir) for name in tasks]
    done = runs.run(records, loaded, chosen, seeds=seeds)
    total = len(tasks) * len(runs.BATCH_SIZES) * len(chosen)
    progress_over("Mini-batch race", done, total)
    for title, table in page.tables(records.frame):
        console.print(on_screen(table, title))
    page.write(output)


COMMANDS = (
    Command(
        "minibatch-race",
        "The race's mini-batch division: small nets at batch 128 and 1,024, each "
        "optimizer at its default and over a grid. About 35 minutes on one core; a "
        "killed run goes on where it was.",
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
)
