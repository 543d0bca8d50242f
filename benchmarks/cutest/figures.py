"""The picture of CUTEst's problems: data profiles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cutest.problems import HALVES
from benchmarks.cutest.runs import BUDGET, SMALL, SOLVERS
from benchmarks.cutest.scores import SIZES, TAUS, Group, times
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save

_BLUE, _GREEN, _PINK, _SKY, _ORANGE, _ = OTHER_COLORS

LOOKS: Mapping[str, Mapping[str, Any]] = {
    "auto-dsa": {"color": DSA_COLOR, "linewidth": 2.4, "zorder": 3},
    "auto-dsa-light": {"color": DSA_COLOR, "linestyle": "--"},
    "minimize": {"color": DSA_COLOR, "linestyle": ":"},
    "scipy-bfgs": {"color": _BLUE},
    "scipy-lbfgsb": {"color": _GREEN},
    "scipy-cg": {"color": _PINK},
    "optax-lbfgs": {"color": _GREEN, "linestyle": "--"},
    "optimistix-bfgs": {"color": _BLUE, "linestyle": ":"},
    "optimistix-lbfgs": {"color": _GREEN, "linestyle": ":"},
    "irprop-minus": {"color": _SKY},
    "adam": {"color": _ORANGE},
}
"""A colour a method, and a kind of line a library; ours in DSA's."""

ROWS: Mapping[str, Group] = {
    **{f"{half}, n ≤ {SMALL:,}": Group((half,), *SIZES[0]) for half in HALVES},
    f"all, n > {SMALL:,}": Group(HALVES, *SIZES[1]),
    "with bounds": Group(kind="bounded"),
}
"""The problems of a row of panels."""


def draw(records: pd.DataFrame, path: Path) -> None:
    """The share of the problems solved by evaluations: a column a target."""
    rows = {title: group.of(records) for title, group in ROWS.items()}
    rows = {title: part for title, part in rows.items() if len(part)}
    figure = Figure(figsize=(12, 3.1 * len(rows) + 1.1), layout="constrained")
    shape = len(rows), len(TAUS)
    grid = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    for panels, (title, part) in zip(grid, rows.items(), strict=True):
        panels[0].set_ylabel(f"share solved\n{title}")
        for tau, axes in zip(TAUS, panels, strict=True):
            _draw_profiles(axes, times(part, tau))
    for tau, axes in zip(TAUS, grid[0], strict=True):
        axes.set_title(f"all but {tau:.0e} of the way")
    for axes in grid[-1]:
        axes.set(xlabel="evaluations", xscale="log", xlim=(1, BUDGET), ylim=(0, 1))
    handles = {
        label: handle
        for axes in grid[:, 0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=5, frameon=False
    )
    save(figure, path)


def _draw_profiles(axes: Axes, spent: pd.DataFrame) -> None:
    ticks = np.arange(1, BUDGET + 1)
    for name, look in LOOKS.items():
        if name in spent:
            ran = spent[name].dropna().to_numpy()
            shares = (ran[:, None] <= ticks).mean(axis=0)
            style = {"linewidth": 1.4, "label": SOLVERS[name].label, **look}
            axes.plot(ticks, shares, drawstyle="steps-post", **style)
    axes.grid(alpha=0.25)
