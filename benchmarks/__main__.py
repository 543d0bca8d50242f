"""The command line: `python -m benchmarks`, which collects the packages' commands."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cutest import command as cutest
from benchmarks.cutest import page as cutest_page
from benchmarks.minibatches import command as minibatches
from benchmarks.minibatches import page as minibatch_page
from benchmarks.minibatches import polishing_page
from benchmarks.paper import command as paper
from benchmarks.paper import page as paper_page
from benchmarks.paper.images import command as images
from benchmarks.physics import command as physics
from benchmarks.physics import page as physics_page
from benchmarks.race import command as race
from benchmarks.race import page as race_page
from benchmarks.race.nist import command as nist
from benchmarks.race.nist import page as nist_page
from benchmarks.shared.command import (
    OUTPUT,
    Command,
    UsageError,
    console,
    output_option,
)
from benchmarks.shared.data.files import DataError
from benchmarks.speed import command as speed


def write_pages(output: Path) -> None:
    """The page of claims, and those of the races that have records."""
    paper_page.write(output)
    pages = race_page, minibatch_page, polishing_page, nist_page, cutest_page
    for page in (*pages, physics_page):
        if (output / page.RECORDS).exists():
            page.write(output)


COMMANDS = (
    paper.TABULAR,
    paper.CASE_STUDIES,
    *images.COMMANDS,
    *race.COMMANDS,
    *minibatches.COMMANDS,
    *nist.COMMANDS,
    *cutest.COMMANDS,
    *physics.COMMANDS,
    *speed.COMMANDS,
    paper.SENSITIVITY,
    paper.ABLATIONS,
    paper.FULL,
    Command(
        "page",
        "Writes the page of claims again from the records of a full run, and those of "
        "the races, of NIST's regressions and of CUTEst's problems where there are "
        "their records.",
        lambda options: write_pages(options.output),
        (OUTPUT,),
    ),
)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar, with its help texts."""
    main = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="DSA against other optimizers: the experiments of the paper. "
        "Without a command: the tables that need no download (IRIS and WINE, 100 "
        "epochs), the case studies and the sensitivity analysis.",
    )
    output_option(Path("results"))(main)
    main.set_defaults(run=lambda options: paper.run_offline(options.output))
    commands = main.add_subparsers(metavar="COMMAND")
    for command in COMMANDS:
        text = command.text
        added = commands.add_parser(command.name, help=text, description=text)
        added.set_defaults(run=command.run)
        for add in command.options:
            add(added)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except UsageError as error:
        parser().error(str(error))
    except (DataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return 130
    console.print(f"Records and figures: {options.output}/", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
