"""What a command of `python -m benchmarks` is made of."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks.shared.data.files import DATA_DIR_VARIABLE

console = Console()

Option = Callable[[argparse.ArgumentParser], object]
"""Adds an option to a parser."""


class UsageError(Exception):
    """Options that are right one by one, and together make no sense."""


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
      name: as it is typed.
      text: what it does, for the help.
      run: carries out the parsed options.
      options: in the order of the help.
    """

    name: str
    text: str
    run: Callable[[argparse.Namespace], None]
    options: Sequence[Option]


def option(*flags: str, **settings: Any) -> Option:
    """An option, by the arguments of `argparse`'s `add_argument`."""
    return lambda parser: parser.add_argument(*flags, **settings)


def names(
    flag: str,
    known: Iterable[str],
    default: Iterable[str] | None = None,
    *,
    text: str = "which of",
    described: str | None = None,
) -> Option:
    """An option that takes some of the known names.

    Args:
      flag: such as "--datasets".
      known: the names.
      default: None is all.
      text: what the help has before the names.
      described: the default in words; None names it.
    """
    known = list(known)
    chosen = known if default is None else list(default)
    if described is None:
        described = "all" if default is None else " ".join(chosen)
    return option(
        flag,
        nargs="+",
        choices=known,
        default=chosen,
        metavar="NAME",
        help=f"{text}: {' '.join(known)} (default: {described})",
    )


def positive(text: str) -> int:
    """An argument that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def count(flag: str, default: int, text: str, note: str = "") -> Option:
    """An option that counts something, with a note on its default."""
    text = f"{text} (default: %(default)s{note})"
    return option(flag, type=positive, default=default, metavar="N", help=text)


def output_option(default: object) -> Option:
    """The folder of the results."""
    return option(
        "--output",
        type=Path,
        default=default,
        metavar="FOLDER",
        help="where records (CSV) and figures (PNG) go; runs that are there already "
        "are not run again (default: results)",
    )


# A default of a command would override what stands before the command.
OUTPUT = output_option(argparse.SUPPRESS)
DATA_DIR = option(
    "--data-dir",
    metavar="FOLDER",
    help="folder with the data files (car.data, mnist/…); what it lacks is downloaded "
    f"into it (default: ${DATA_DIR_VARIABLE}, or a cache folder)",
)
SOME_SEEDS = count("--seeds", 3, "how many initialisations, one after the other")


def progress_over(title: str, done: Iterable[str], total: int) -> None:
    """Runs a generator of finished units under a progress bar."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(title, total=total, last="")
        for name in done:
            bars.update(bar, advance=1, last=name)
