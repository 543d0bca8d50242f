"""Tables of records: means over seeds, on the screen and in Markdown."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

MISSED = "–"


def spread(values: pd.Series, digits: int = 1) -> str:
    """Mean ± sample standard deviation, of which one value has none."""
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std():.{digits}f}" if len(values) > 1 else mean


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of numbers as text, three digits each, its index the first column."""
    return frame.map(lambda number: f"{number:.3g}").reset_index()


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with its floating-point numbers as text, three digits each."""
    return frame.map(lambda cell: f"{cell:.3g}" if isinstance(cell, float) else cell)


def on_screen(frame: pd.DataFrame, title: str, emphasize: str = "DSA") -> Table:
    """A table for a terminal of 80 columns, with one row in bold."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for i, column in enumerate(frame.columns):
        table.add_column(column, justify="right" if i else "left")
    for row in frame.itertuples(index=False):
        style = "bold" if row[0] == emphasize else None
        table.add_row(*(str(cell) for cell in row), style=style)
    return table


def in_markdown(frame: pd.DataFrame, numbers: str = "right") -> str:
    """A table for the results page; `numbers` aligns all but the first column."""
    alignment = ("left", *[numbers] * (len(frame.columns) - 1))
    return frame.to_markdown(index=False, colalign=alignment, disable_numparse=True)


def evaluations(count: float) -> str:
    """A count or a median; a miss, and what wasn't run, as what they are."""
    if np.isnan(count):
        return ""
    return f"{count:g}" if np.isfinite(count) else MISSED


def in_bold(frame: pd.DataFrame, ours: Collection[str]) -> str:
    """A table in Markdown, whose first column has names; those of ours in bold."""
    name = frame.columns[0]
    bold = frame[name].map(lambda text: f"**{text}**" if text in ours else text)
    return in_markdown(frame.assign(**{name: bold}))
