"""Records on disk: a table an experiment, complete at every moment."""

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

import dsa_optax
from benchmarks.shared.files import replacing

RUN = ("experiment", "dataset", "model", "optimizer")

# The same records are the same bytes.
_GZIP = {"method": "gzip", "compresslevel": 6, "mtime": 0}


def read(path: Path) -> pd.DataFrame:
    """The table of a CSV file, gzipped or not; empty where there is no file."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def write(path: Path, frame: pd.DataFrame, digits: int = 6) -> None:
    """Writes a table in one move, gzipped where the name ends so.

    Args:
      path: the file.
      frame: the table.
      digits: of the floats, at most 15: more would change when read and written again.
    """
    how = _GZIP if path.suffix == ".gz" else None
    with replacing(path) as file:
        frame.to_csv(file, index=False, float_format=f"%.{digits}g", compression=how)


class Records:
    """The records of one experiment, a row a run or a look at one.

    A unit, such as all seeds of one optimizer on one problem, is stored once it has
    ended, with the `code` that it was run by; so a killed benchmark loses only the unit
    it was in, and a second start skips what is there.
    """

    def __init__(self, path: Path, unit: Sequence[str] = RUN, digits: int = 6) -> None:
        """Opens the records at `path`; the file need not exist yet.

        Args:
          path: of a CSV file, whose name may end in ".gz".
          unit: the columns that tell units apart.
          digits: of the floats.
        """
        self.path, self.unit, self._digits = path, list(unit), digits
        self.frame = read(path)

    def run(self, unit: Mapping[str, Any]) -> pd.DataFrame:
        """The records of one unit (a value for each of its columns); maybe none."""
        return self.frame[of(self.frame, unit)] if len(self.frame) else self.frame

    def has(self, unit: Mapping[str, Any], seeds: int, epochs: Iterable[int]) -> bool:
        """Whether the unit is there, with so many seeds and these epochs, or more."""
        records = self.run(unit)
        if records.empty:
            return False
        there = set(zip(records["seed"], records["epoch"], strict=True))
        return there.issuperset(product(range(seeds), epochs))

    def has_seed(self, unit: Mapping[str, Any], seed: int) -> bool:
        """Whether anything of this seed of the unit is there."""
        records = self.run(unit)
        return not records.empty and bool((records["seed"] == seed).any())

    def put(self, unit: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Stores rows of a unit, beside what there is of it at other epochs or seeds.

        Where rows have neither, they take the place of all that there is of it.
        """
        rows = rows.assign(**unit, code=code())
        looks = [name for name in ("seed", "epoch") if name in rows]
        if looks:
            frame = pd.concat([self.frame, rows])
            frame = frame.drop_duplicates([*self.unit, *looks], keep="last")
        elif len(self.frame):
            frame = pd.concat([self.frame[~of(self.frame, unit)], rows])
        else:
            frame = rows
        others_last = [name for name in frame if name not in (*self.unit, "code")]
        self.frame = frame[[*self.unit, *others_last, "code"]].reset_index(drop=True)
        write(self.path, self.frame, self._digits)


def of(frame: pd.DataFrame, unit: Mapping[str, Any]) -> pd.Series:
    """Which rows have these values in the columns of these names."""
    return (frame[list(unit)] == pd.Series(dict(unit))).all(axis=1)


@cache
def code() -> str:
    """The version of dsa_optax, and a hash of all its code but comments and docs.

    Examples:
      >>> code() == code()
      True
      >>> code().count("+")
      1
    """
    return f"{dsa_optax.__version__}+{code_hash(Path(dsa_optax.__file__).parent)}"


def code_hash(folder: Path) -> str:
    """Eight hexadecimal digits of what the modules of a folder do.

    Comments, docstrings and the places of lines count for nothing.
    """
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for name in ("body", "orelse", "finalbody"):
                if isinstance(lines := getattr(node, name, None), list):
                    setattr(node, name, [line for line in lines if not _is_text(line)])
        found.update(ast.dump(tree).encode())
    return found.hexdigest()[:8]


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def without_origin(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without the columns that tell on what and by what code."""
    return frame.drop(columns=["machine", "device", "code"], errors="ignore")


def by_the_code(records: pd.DataFrame) -> str:
    """What the records were run by, in a sentence."""
    rows = records["code"].value_counts() if "code" in records else pd.Series()
    if len(rows) < 2:
        return f"Run by dsa_optax {rows.index[0]}." if len(rows) else ""
    names = ", ".join(f"{name} ({count:,} rows)" for name, count in rows.items())
    return f"Run by dsa_optax {names}."
