"""The command of CUTEst's problems."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cutest import page, problems, runs
from benchmarks.shared.command import (
    OUTPUT,
    Command,
    console,
    names,
    progress_over,
)
from benchmarks.shared.records import read
from benchmarks.shared.tables import on_screen


def run_cutest(
    output: Path,
    chosen: Sequence[str],
    solvers: Sequence[str],
    halves: Sequence[str],
) -> None:
    """CUTEst's problems, beside other libraries' solvers."""
    chosen = [name for name in chosen if problems.half(name) in halves]
    path = output / page.RECORDS
    done = runs.run(path, chosen, {name: runs.SOLVERS[name] for name in solvers})
    progress_over("CUTEst's problems", done, len(chosen) * len(solvers))
    records = read(path)
    if records.empty:
        return
    for title, table in page.tables(records):
        console.print(on_screen(table, title, "auto_dsa"))
    page.write(output)


COMMANDS = (
    Command(
        "cutest",
        "CUTEst's problems without constraints or with bounds, of at most 10,000 "
        "parameters, beside the solvers of SciPy, Optax and Optimistix. About an hour "
        "on one core; a killed run goes on where it was.",
        lambda options: run_cutest(
            options.output, options.problems, options.solvers, options.half
        ),
        (
            OUTPUT,
            names("--problems", problems.names()),
            names("--solvers", runs.SOLVERS),
            names("--half", problems.HALVES),
        ),
    ),
)
