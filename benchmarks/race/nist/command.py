"""The command of NIST's regressions."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.race.nist import page, problems, runs
from benchmarks.shared.command import (
    DATA_DIR,
    OUTPUT,
    Command,
    console,
    names,
    progress_over,
)
from benchmarks.shared.records import read
from benchmarks.shared.tables import on_screen


def run_nist(
    output: Path,
    datasets: Sequence[str],
    solvers: Sequence[str],
    dtypes: Sequence[str],
    data_dir: str | None,
) -> None:
    """NIST's nonlinear regressions, against their certified fits."""
    loaded = problems.load(data_dir)
    regressions = {name: loaded[name] for name in datasets}
    chosen = {name: runs.SOLVERS[name] for name in solvers}
    path = output / page.RECORDS
    done = runs.run(path, regressions, chosen, dtypes)
    progress_over("NIST's regressions", done, len(datasets) * len(dtypes) * len(chosen))
    for title, table in page.tables(read(path)):
        console.print(on_screen(table, title, "auto_dsa"))
    page.write(output)


COMMANDS = (
    Command(
        "nist",
        "NIST's 27 nonlinear regressions from two starts each, beside SciPy's solvers, "
        "in float64 and float32. About a quarter of an hour on two cores; a killed run "
        "goes on where it was.",
        lambda options: run_nist(
            options.output,
            options.datasets,
            options.solvers,
            options.dtypes,
            options.data_dir,
        ),
        (
            DATA_DIR,
            OUTPUT,
            names("--datasets", problems.MODELS),
            names("--solvers", runs.SOLVERS),
            names("--dtypes", problems.DTYPES),
        ),
    ),
)
