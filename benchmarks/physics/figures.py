"""The picture of the physics-informed nets: losses by evaluations and by seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.physics.problems import EQUATIONS
from benchmarks.physics.solvers import SOLVERS
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save

_BLUE, _GREEN, _PINK, _SKY, _ORANGE, _BLACK = OTHER_COLORS

LOOKS: Mapping[str, Mapping[str, Any]] = {
    "auto-dsa": {"color": DSA_COLOR, "linewidth": 2.4, "zorder": 3},
    "ssbroyden": {"color": _BLUE},
    "ssbfgs": {"color": _SKY},
    "ssbroyden-optimistix": {"color": _BLUE, "linestyle": "--"},
    "scipy-bfgs": {"color": _PINK},
    "lbfgs": {"color": _GREEN},
    "adam": {"color": _ORANGE},
}


def draw(records: pd.DataFrame, path: Path) -> None:
    """A column an equation, a row an axis; each seed a line."""
    names = [name for name in EQUATIONS if name in set(records["equation"])]
    figure = Figure(figsize=(3.2 * len(names), 6), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False, sharey="col")
    for column, name in zip(grid.T, names, strict=True):
        part = records[records["equation"] == name]
        column[0].set_title(EQUATIONS[name].label)
        _draw(column[0], part, "at", "evaluations")
        _draw(column[1], part, "seconds_at", "seconds")
    grid[0, 0].set_ylabel("lowest loss")
    grid[1, 0].set_ylabel("lowest loss")
    handles: dict[str, Any] = {}
    for axes in grid[0]:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=4, frameon=False
    )
    save(figure, path)


def _draw(axes: Axes, records: pd.DataFrame, axis: str, label: str) -> None:
    for name, look in LOOKS.items():
        rows = records[records["solver"] == name]
        for i, (_, row) in enumerate(rows.iterrows()):
            places, losses = (
                np.array(row[column].split(), float) for column in (axis, "loss_at")
            )
            style = {"linewidth": 1.2, **look}
            if i == 0:
                style["label"] = SOLVERS[name].label
            axes.plot(np.maximum(places, 0.05), losses, **style)
    axes.set(xscale="log", yscale="log", xlabel=label)
    axes.grid(alpha=0.25)
