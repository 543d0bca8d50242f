"""Figures of the case studies (Figs. 5, 6, 9) and of the sensitivity analysis (10)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.case_studies import (
    GENTLE_VALLEY,
    PLAIN,
    STABLE,
    STEEP_VALLEY,
    Valley,
    base_name,
    label,
)
from benchmarks.paper.figures import AXES, line_style
from benchmarks.paper.sensitivity import DEFAULTS
from benchmarks.shared.figures import save
from benchmarks.shared.optimizers.defaults import OPTIMIZERS

# The tracks end here: later steps are too short to see.
TRACK_EPOCHS = 100
# Near the target their steps don't get shorter: the loss alternates at each.
RATTLING = ("rprop", "irprop-minus")
SYMBOLS = {"init_log2_lr": "η₀", "decrease": "β₁", "increase": "β₂"}
HYPER_PARAMETERS = {
    "init_log2_lr": "first log2 rate",
    "decrease": "decrease",
    "increase": "increase",
}
KEY = "○ start, ★ target, a dot a step"


class View(NamedTuple):
    """A valley, how its tracks are framed, and which losses its trends show.

    Attributes:
      linear: |w₂| up to which the vertical axis is linear, logarithmic beyond; None
        where it is linear throughout.
      losses: the ends of the loss axis.
    """

    valley: Valley
    w1: tuple[float, float]
    w2: tuple[float, float]
    linear: float | None
    losses: tuple[float, float]


VIEWS: Mapping[str, View] = {
    "valley": View(STEEP_VALLEY, (-0.075, 0.055), (-0.15, 0.15), 1e-3, (1e-12, 1e2)),
    "valley-b95": View(GENTLE_VALLEY, (-1.15, 0.5), (-1.15, 1.15), None, (1e-12, 1e3)),
}


def case_studies(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws everything of the experiment "case-studies"; returns the files.

    Args:
      records: what `case_studies.run` recorded, for any choice of optimizers.
      folder: where the PNG files go.
    """
    cases = {
        str(name): _finite(case)
        for name, case in records.groupby("dataset", sort=False)
    }
    files = []
    if "sum-of-four" in cases:
        files.append(folder / "fig5_sum_of_four.png")
        sum_of_four(cases["sum-of-four"], files[-1])
    for file, dataset, names in _tracks_of(cases):
        files.append(folder / file)
        tracks(cases[dataset], VIEWS[dataset], names, files[-1])
    valleys = {name: cases[name] for name in VIEWS if name in cases}
    if valleys:
        files.append(folder / "fig6_valley_loss.png")
        valley_losses(valleys, files[-1])
    strides_of = {
        name: case[case["optimizer"] == "dsa"]
        for name, case in valleys.items()
        if "dsa" in set(case["optimizer"])
    }
    if strides_of:
        files.append(folder / "fig6_strides.png")
        strides(strides_of, files[-1])
    return files


def _tracks_of(cases: Mapping[str, pd.DataFrame]) -> list[tuple[str, str, list[str]]]:
    """File, case and optimizers of each figure of tracks that there are records for."""
    figures = [
        ("fig6_tracks_b95.png", "valley-b95", _is_plain),
        ("fig6_tracks.png", "valley", _is_plain),
        ("fig9_tracks.png", "valley", _is_adaptive),
    ]
    present = {name: _names(case) for name, case in cases.items()}
    chosen = [
        (file, dataset, [name for name in present.get(dataset, []) if belongs(name)])
        for file, dataset, belongs in figures
    ]
    return [figure for figure in chosen if figure[2]]


def _is_plain(name: str) -> bool:
    return base_name(name) in PLAIN


def _is_adaptive(name: str) -> bool:
    return name == "dsa" or not _is_plain(name)


def _names(case: pd.DataFrame) -> list[str]:
    """Optimizers in the registry's order; DSA last, but before other learning rates."""
    order = [*(name for name in OPTIMIZERS if name != "dsa"), "dsa", *STABLE]
    present = set(case["optimizer"])
    return [name for name in order if name in present]


def _finite(case: pd.DataFrame) -> pd.DataFrame:
    """The records, whatever isn't finite as NaN, which Matplotlib leaves out."""
    return case.replace([np.inf, -np.inf], np.nan)


def _style(name: str) -> dict[str, Any]:
    """The look of an optimizer; one at another learning rate is dotted."""
    style = line_style(base_name(name))
    return {**style, "linestyle": ":", "linewidth": 2.0} if name in STABLE else style


def _diverged(run: pd.DataFrame) -> bool:
    return bool(run["train_loss"].isna().any())


def legend_label(name: str, run: pd.DataFrame) -> str:
    return label(name) + (" (diverged)" if _diverged(run) else "")


# Fig. 5 --------------------------------------------------------------------------


def sum_of_four(case: pd.DataFrame, path: Path) -> None:
    """Loss by epochs, by gradient evaluations, and w₁: median, quartiles (Fig. 5)."""
    figure = Figure(figsize=(13.5, 5.4), layout="constrained")
    by_epoch, by_gradient, track = figure.subplots(1, 3)
    last = int(case["epoch"].max())
    for axes, axis in zip((by_epoch, by_gradient), AXES, strict=True):
        _band(axes, case, axis, "train_loss")
        axes.set(title=f"Loss by {AXES[axis]}", ylabel="training loss")
        axes.set(yscale="log", ylim=(1e-15, 10))
    _band(track, case, "epoch", "w1")
    track.axhline(1, color="0.4", linewidth=0.8)
    track.set(title="Track of w₁ (the best is 1)", ylabel="w₁")
    for axes, axis in zip(
        (by_epoch, by_gradient, track), [*AXES, "epoch"], strict=True
    ):
        axes.set(xlabel=AXES[axis], xlim=(0, last))
        axes.grid(alpha=0.25)
    handles, labels = by_epoch.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    seeds = case["seed"].nunique()
    figure.suptitle(
        f"Sum of four numbers: median and quartiles of {seeds} initialisations"
    )
    save(figure, path)


def _band(axes: Axes, case: pd.DataFrame, axis: str, column: str) -> None:
    """Median and quartiles over the seeds, as far as the axis of the epochs goes."""
    case = case[case[axis] <= case["epoch"].max()]
    for name in _names(case):
        runs = case[case["optimizer"] == name].groupby(axis)[column]
        low, middle, high = (runs.quantile(q) for q in (0.25, 0.5, 0.75))
        style = _style(name)
        axes.plot(middle.index, middle, label=label(name), **style)
        axes.fill_between(
            middle.index, low, high, color=style["color"], alpha=0.12, linewidth=0
        )


# Figs. 6 and 9 -------------------------------------------------------------------


def tracks(case: pd.DataFrame, view: View, names: Sequence[str], path: Path) -> None:
    """A panel an optimizer: its way over the contours, a dot a step (Figs. 6, 9)."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(
        figsize=(0.6 + 3.6 * columns, 0.9 + 3.1 * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for i, (name, axes) in enumerate(zip(names, panels, strict=False)):
        run = case[(case["optimizer"] == name) & (case["epoch"] <= TRACK_EPOCHS)]
        _contours(axes, view)
        _track(axes, run, _style(name))
        axes.set_title(f"{label(name)}\n{_outcome(run)}", fontsize=10)
        if i + columns >= len(names):
            axes.set_xlabel("w₁")
            axes.tick_params(labelbottom=True)
    linear = view.linear
    scale = f" (linear to ±{linear:g}, then logarithmic)" if linear else ""
    figure.supylabel(f"w₂{scale}", fontsize=10)
    figure.suptitle(f"{_valley_title(view.valley)}\n{KEY}", fontsize=11)
    save(figure, path)


def _valley_title(valley: Valley) -> str:
    w1, w2 = valley.start
    return f"w₁² + {valley.b:g}·w₂² from ({w1:g}, {w2:g})".replace("-", "−")


def _contours(axes: Axes, view: View) -> None:
    """Lines of equal loss, four times apart, round the target."""
    low, high = view.w2
    w1 = np.linspace(*view.w1, 300)
    w2 = np.linspace(low, high, 401)
    if view.linear:
        axes.set_yscale("symlog", linthresh=view.linear)
        beyond = np.geomspace(view.linear, high, 150)
        w2 = np.concatenate(
            [-beyond[::-1], np.linspace(-1, 1, 201) * view.linear, beyond]
        )
        w2 = np.unique(w2)
        decades = [10.0**k for k in range(-3, 0)]
        axes.set_yticks([-t for t in decades[::-1]] + [0.0, *decades])
    valley = view.valley
    loss = valley.a * w1[None, :] ** 2 + valley.b * w2[:, None] ** 2
    start = valley.a * valley.start[0] ** 2 + valley.b * valley.start[1] ** 2
    levels = start * 4.0 ** np.arange(-5, 8)
    axes.contour(w1, w2, loss, levels, colors="0.8", linewidths=0.7, zorder=0)
    axes.set(xlim=view.w1, ylim=view.w2)


def _track(axes: Axes, run: pd.DataFrame, style: Mapping[str, Any]) -> None:
    color = style["color"]
    width = 0.75 * style["linewidth"]
    axes.plot(run["w1"], run["w2"], ".-", color=color, linewidth=width, markersize=5)
    start = run.iloc[0]
    axes.plot(start["w1"], start["w2"], "o", color="black", markersize=7, mfc="white")
    axes.plot(0, 0, "*", color="black", markersize=11, zorder=4)


def _outcome(run: pd.DataFrame) -> str:
    if _diverged(run):
        return "diverged"
    last = run.iloc[-1]
    return f"loss after {last['epoch']:.0f} epochs: {last['train_loss']:.0e}"


def valley_losses(cases: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Losses in the valleys by epochs, and the twin by gradient evaluations."""
    groups = [
        (dataset, title, [name for name in _names(cases[dataset]) if belongs(name)])
        for dataset, title, belongs in (
            ("valley-b95", "SGD, Momentum, DSA", _is_plain),
            ("valley", "SGD, Momentum, DSA", _is_plain),
            ("valley", "adaptive optimizers", _is_adaptive),
        )
        if dataset in cases
    ]
    groups = [group for group in groups if group[2]]
    figure = Figure(figsize=(4.7 * len(groups), 8.4), layout="constrained")
    grid = figure.subplots(2, len(groups), squeeze=False)
    for column, (dataset, title, names) in zip(grid.T, groups, strict=True):
        for axes, axis in zip(column, AXES, strict=True):
            _loss_lines(axes, cases[dataset], names, axis)
            axes.set(ylim=VIEWS[dataset].losses)
        heading = f"{_valley_title(VIEWS[dataset].valley)}\n{title}"
        column[0].set_title(heading, fontsize=10)
        column[1].legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=3,
            fontsize=8,
            frameon=False,
        )
    for row in grid:
        row[0].set_ylabel("training loss")
    save(figure, path)


def _loss_lines(
    axes: Axes, case: pd.DataFrame, names: Sequence[str], axis: str
) -> None:
    last = int(case["epoch"].max())
    for name in names:
        run = case[case["optimizer"] == name]
        # A loss of 0 has no logarithm: the line ends where the axis does.
        loss = run["train_loss"].clip(lower=1e-40)
        style = _style(name)
        if name in RATTLING:
            style["linewidth"] = 0.7
        axes.plot(run[axis], loss, label=legend_label(name, run), **style)
    axes.set(xlabel=AXES[axis], xlim=(0, last), yscale="log")
    axes.grid(alpha=0.25)


def strides(cases: Mapping[str, pd.DataFrame], path: Path) -> None:
    """The length of each of DSA's steps (the text on Fig. 6)."""
    figure = Figure(figsize=(5.2 * len(cases), 4.2), layout="constrained")
    grid = figure.subplots(1, len(cases), squeeze=False)
    for axes, (dataset, run) in zip(grid.flat, cases.items(), strict=True):
        run = run[run["epoch"] <= TRACK_EPOCHS]
        step = run[["w1", "w2"]].diff().iloc[1:]
        lengths = {"|Δw₁|": step["w1"].abs(), "|Δw₂|": step["w2"].abs()}
        for (name, length), dash in zip(lengths.items(), ("-", "--"), strict=True):
            color = line_style("dsa")["color"] if dash == "-" else "0.25"
            axes.plot(run["epoch"].iloc[1:], length, dash, color=color, label=name)
        axes.set(title=_valley_title(VIEWS[dataset].valley), xlabel="epochs")
        axes.set(yscale="log", ylim=(1e-16, 1), xlim=(0, TRACK_EPOCHS))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    grid[0, 0].set_ylabel("length of DSA's step")
    save(figure, path)


# Fig. 10 -------------------------------------------------------------------------


def sensitivity(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Tracks and losses of each hyper-parameter's values (Fig. 10); the file, listed.

    Args:
      records: what `sensitivity.run` recorded.
      folder: where the PNG file goes.
    """
    varied = list(records["varied"].unique())
    figure = Figure(figsize=(14.5, 3.9 * len(varied)), layout="constrained")
    grid = figure.subplots(len(varied), 3, squeeze=False)
    for row, name in zip(grid, varied, strict=True):
        runs = records[records["varied"] == name]
        _side_by_side(row[0], runs, name)
        for axes, axis in zip(row[1:], AXES, strict=True):
            _sweep_losses(axes, runs, name, axis)
        symbol = SYMBOLS[name]
        row[0].set_title(f"{symbol}, {HYPER_PARAMETERS[name]}: tracks side by side")
        row[2].legend(
            title=symbol, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False
        )
    valley = _valley_title(GENTLE_VALLEY)
    figure.suptitle(f"DSA on {valley}, one hyper-parameter at a time\n{KEY}")
    path = folder / "fig10_sensitivity.png"
    save(figure, path)
    return [path]


def _values(runs: pd.DataFrame, varied: str) -> list[tuple[float, Any, dict[str, Any]]]:
    """Each value with its records and its look: dark to light as it grows."""
    colors = matplotlib.colormaps["viridis"]
    values = sorted(runs[varied].unique())
    places = np.linspace(0, 0.9, len(values))
    looks = []
    for value, place in zip(values, places, strict=True):
        usual = value == DEFAULTS[varied]
        name = f"{value:g}" + (" (the paper's)" if usual else "")
        look = {
            "color": colors(place),
            "linewidth": 2.8 if usual else 1.3,
            "label": name,
        }
        looks.append((value, runs[runs[varied] == value], look))
    return looks


def _side_by_side(axes: Axes, runs: pd.DataFrame, varied: str) -> None:
    """The tracks, shifted apart: from here they all stay on the one diagonal.

    DSA sees only signs, and both weights start as far from the target, at one rate.
    """
    looks = _values(runs, varied)
    for place, (_, run, look) in enumerate(looks):
        shift = 0.13 * (place - (len(looks) - 1) / 2)
        run = run[run["epoch"] <= TRACK_EPOCHS]
        color, width = look["color"], look["linewidth"]
        w1, w2 = run["w1"] + shift, run["w2"] + shift
        axes.plot(w1, w2, ".-", color=color, linewidth=width * 0.6, markersize=5)
        axes.plot(w1.iloc[0], w2.iloc[0], "o", color=color, mfc="white", markersize=6)
        axes.plot(shift, shift, "*", color="black", markersize=7, zorder=4)
    axes.set(xlabel="w₁ (shifted)", ylabel="w₂ (shifted)", aspect="equal")
    axes.set(xlim=(-1.5, 0.75), ylim=(-0.65, 1.6))
    axes.grid(alpha=0.25)


def _sweep_losses(axes: Axes, runs: pd.DataFrame, varied: str, axis: str) -> None:
    epochs = 100
    for _, run, look in _values(runs, varied):
        axes.plot(run[axis], run["train_loss"].clip(lower=1e-40), **look)
    axes.set(yscale="log", ylim=(1e-12, 1e3), xlim=(0, epochs))
    axes.set(xlabel=AXES[axis], ylabel="loss")
    axes.grid(alpha=0.25)
