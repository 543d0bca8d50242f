"""The figures of the race: profiles, and curves of the losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.race import runs, scores
from benchmarks.race.runs import BUDGET
from benchmarks.race.scores import AXES, SLOWEST, label, times_by_division
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save

CURVES_OF = ("lbfgs", "irprop-minus", "dsa", "adam")
"""Rivals whose curves are drawn; Adam's also at its best setting."""

FLOOR = 1e-7
"""Where a lower curve is drawn; about the rounding of a float32 loss."""


def draw_profiles(records: pd.DataFrame, path: Path) -> None:
    """Performance profiles by axis, division and half, of the main entrant's field."""
    ours = scores.our_names(records)
    panels = {
        (name, title): scores.ratios(scores.field(times, ours, main))
        for main in ours[:1] or [""]
        for axis, name in AXES.items()
        for title, times in times_by_division(records, axis)
    }
    styles = _profile_styles(panels, ours)
    columns = len(panels) // len(AXES)
    figure = Figure(figsize=(3.6 * columns, 7.2), layout="constrained")
    grid = figure.subplots(len(AXES), columns, squeeze=False, sharex=True, sharey=True)
    for (panel, ratios), axes in zip(panels.items(), grid.flat, strict=True):
        _draw_profile(axes, ratios, styles)
        axes.set(title="\n".join(panel), xlim=(1, SLOWEST), ylim=(0, 1.02))
    for axes in grid[-1]:
        axes.set_xlabel("τ, times the fastest")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of problems")
    _legend(figure, grid[0][0])
    save(figure, path)


def _profile_styles(
    panels: dict[tuple[str, str], pd.DataFrame], ours: list[str]
) -> dict[str, dict[str, Any]]:
    """A colour for our main entrant and the best rivals; the others are grey."""
    areas = pd.DataFrame({i: scores.area(r) for i, r in panels.items()})
    ranked = areas.mean(axis=1).drop(ours[:1]).sort_values(ascending=False)
    best = ranked.index[: len(OTHER_COLORS)]
    grey = {"color": "0.75", "linewidth": 1, "zorder": 1}
    return {
        **{n: grey | {"label": "the other optimizers"} for n in ranked.index},
        **{
            name: {"color": color, "linewidth": 1.4, "label": label(name)}
            for name, color in zip(best, OTHER_COLORS, strict=False)
        },
        **{n: _ours_style() | {"label": label(n)} for n in ours[:1]},
    }


def _ours_style() -> dict[str, Any]:
    return {"color": DSA_COLOR, "linewidth": 2.4, "zorder": 3}


def _draw_profile(
    axes: Axes, ratios: pd.DataFrame, styles: dict[str, dict[str, Any]]
) -> None:
    taus = np.linspace(1, SLOWEST, 601)
    for name, style in styles.items():
        shares = (ratios[[name]].to_numpy() <= taus).mean(axis=0)
        axes.plot(taus, shares, drawstyle="steps-post", **style)
    axes.grid(alpha=0.25)


def draw_curves(records: pd.DataFrame, folder: Path, path: Path) -> None:
    """The median loss of some by evaluations, a panel a problem.

    Nothing is drawn where the cache lacks all of them.

    Args:
      records: the race's table.
      folder: the cache.
      path: the PNG file.
    """
    panels = {
        str(problem): curves
        for problem, rows in records.groupby("problem", sort=False)
        if (curves := _curves_of(rows, str(problem), folder))
    }
    if not panels:
        return
    columns = min(6, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(max(2.4 * columns, 7), 2 * rows + 1.2), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for (problem, curves), axes in zip(panels.items(), grid.flat, strict=False):
        for style, curve in curves:
            axes.plot(curve, **style)
        axes.set_title(problem, fontsize="small")
        axes.set(yscale="log", xlim=(0, BUDGET), ylim=(FLOOR / 2, 5))
        axes.grid(alpha=0.25)
    for axes in grid.flat[len(panels) - columns : len(panels)]:
        axes.set_xlabel("gradient evaluations")
        axes.tick_params(labelbottom=True)
    figure.supylabel("share of the way left to the lowest loss", fontsize="medium")
    _legend(figure, grid[0][0])
    save(figure, path)


def _curves_of(
    records: pd.DataFrame, problem: str, folder: Path
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Styles and curves of one problem: from 1 at the start to 0 at the lowest loss."""
    tuned = scores.chosen(records, "tuned").groupby("optimizer")["setting"].first()
    low = records[f"best_loss_{BUDGET}"].min()
    way = records["start_loss"].median() - low
    curves = []
    for name, best, style in _curve_styles(scores.our_names(records)):
        if name in tuned and runs.is_there(folder, problem, name):
            kept = runs.load(folder, problem, name)
            place = np.abs(kept.settings - tuned[name]).argmin() if best else 0
            median = np.median(kept.losses[place, :, : BUDGET + 1], axis=0)
            curves.append((style, np.maximum((median - low) / way, FLOOR)))
    return curves


def _curve_styles(ours: list[str]) -> list[tuple[str, bool, dict[str, Any]]]:
    """Who is drawn, whether at the best setting, and how."""
    plain = {"linewidth": 1.2}
    rivals = [
        (name, False, plain | {"color": color, "label": label(name)})
        for name, color in zip(CURVES_OF, OTHER_COLORS, strict=False)
    ]
    name, _, style = rivals[-1]
    best = style | {"linestyle": "--", "label": f"{label(name)}, tuned"}
    main = [(n, False, _ours_style() | {"label": label(n)}) for n in ours[:1]]
    return [*main, *rivals, (name, True, best)]


def _legend(figure: Figure, axes: Axes) -> None:
    """One for all panels, each label once."""
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
