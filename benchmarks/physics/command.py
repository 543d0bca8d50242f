"""The command of the physics-informed nets."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.physics import page, problems, runs, solvers
from benchmarks.shared.command import (
    OUTPUT,
    SOME_SEEDS,
    Command,
    console,
    count,
    names,
    progress_over,
)
from benchmarks.shared.records import read
from benchmarks.shared.tables import on_screen


def run_physics(
    output: Path,
    equations: Sequence[str],
    chosen: Sequence[str],
    seeds: int,
    budget: int,
) -> None:
    """Physics-informed nets, beside the solvers that their field uses."""
    path = output / page.RECORDS
    total = 0
    for part, of in (
        (problems.FIVE, solvers.SOLVERS),
        (problems.WIDE, {n: s for n, s in solvers.SOLVERS.items() if s.wide}),
    ):
        nets = {name: part[name] for name in equations if name in part}
        field = {name: of[name] for name in chosen if name in of}
        # One seed of the wide ones takes as long as all of the others.
        wanted = range(seeds) if part is problems.FIVE else range(1)
        total = len(nets) * len(field) * len(wanted)
        done = runs.run(path, nets, field, wanted, budget)
        progress_over("Physics-informed nets", done, total)
    records = read(path)
    if records.empty:
        return
    for title, table in page.tables(records):
        console.print(on_screen(table, title, "auto_dsa"))
    if "auto-dsa" in set(page.small(records)["solver"]):
        page.write(output)


COMMANDS = (
    Command(
        "physics",
        "Physics-informed nets in float64, beside self-scaled Broyden matrices, BFGS, "
        "L-BFGS and Adam; and wide ones by blocks. About three hours on one core; a "
        "killed run goes on where it was. A part of it takes a minute: physics "
        "--equations burgers --solvers auto-dsa lbfgs --seeds 1 --budget 300.",
        lambda options: run_physics(
            options.output,
            options.equations,
            options.solvers,
            options.seeds,
            options.budget,
        ),
        (
            OUTPUT,
            names("--equations", problems.EQUATIONS),
            names("--solvers", solvers.SOLVERS),
            SOME_SEEDS,
            count("--budget", runs.BUDGET, "evaluations of a run"),
        ),
    ),
)
