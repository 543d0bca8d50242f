"""Tidy records on disk: one CSV file per experiment, complete at every moment."""

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

import pandas as pd

from benchmarks.shared.files import replacing

RUN = ("experiment", "dataset", "model", "optimizer")


class Records:
    """The records of one experiment, kept in a CSV file.

    A run is all seeds of one optimizer on one problem. It is stored once it has ended,
    by replacing the file in one move, so that a killed benchmark loses only the run it
    was in, and a second start skips what is there.
    """

    def __init__(self, path: Path) -> None:
        """Opens the records at `path`; the file need not exist yet."""
        self.path = path
        self.frame = pd.read_csv(path) if path.exists() else pd.DataFrame()

    def run(self, run: Mapping[str, str]) -> pd.DataFrame:
        """The records of one run (a value for each name in `RUN`); maybe none."""
        if self.frame.empty:
            return self.frame
        same = pd.Series(True, self.frame.index)
        for name in RUN:
            same &= self.frame[name] == run[name]
        return self.frame[same]

    def has(self, run: Mapping[str, str], seeds: int, epochs: Iterable[int]) -> bool:
        """Whether the run is there, with these many seeds and these epochs, or more."""
        records = self.run(run)
        if records.empty:
            return False
        there = set(zip(records["seed"], records["epoch"], strict=True))
        return there.issuperset(product(range(seeds), epochs))

    def has_seed(self, run: Mapping[str, str], seed: int) -> bool:
        """Whether anything of this seed of the run is there."""
        records = self.run(run)
        return not records.empty and bool((records["seed"] == seed).any())

    def put(self, run: Mapping[str, str], records: pd.DataFrame) -> None:
        """Stores a run, beside what is there of it at other epochs or seeds."""
        frame = pd.concat([self.frame, records.assign(**run)])
        self.frame = frame.drop_duplicates(
            [*RUN, "seed", "epoch"], keep="last", ignore_index=True
        )
        others_last = [name for name in self.frame if name not in RUN]
        self.frame = self.frame[[*RUN, *others_last]]
        with replacing(self.path) as file:
            self.frame.to_csv(file, index=False, float_format="%.6g")
