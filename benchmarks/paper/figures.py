"""Loss trends, each with a twin whose axis is gradient evaluations."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save
from benchmarks.shared.optimizers.defaults import OPTIMIZERS

_DASHES = ("-", "--")

# Below this a mean of float32 losses is rounding; a loss of 0 is drawn here.
LOSS_FLOOR = 1e-8

AXES = {"epoch": "epochs", "gradient_evaluations": "gradient evaluations"}


def line_style(optimizer: str) -> dict[str, Any]:
    """The same look for an optimizer in every figure."""
    if optimizer == "dsa":
        return {"color": DSA_COLOR, "linewidth": 2.4, "zorder": 3}
    others = [name for name in OPTIMIZERS if name != "dsa"]
    place = others.index(optimizer)
    return {
        "color": OTHER_COLORS[place % len(OTHER_COLORS)],
        "linestyle": _DASHES[place // len(OTHER_COLORS)],
        "linewidth": 1.2,
    }


def loss_trends(
    records: pd.DataFrame,
    budgets: Mapping[str, int],
    net: str,
    path: Path,
    floor: float = LOSS_FLOOR,
) -> None:
    """Training loss, median and quartiles over the seeds, by data set (Figs. 3, 4, 8).

    Args:
      records: of one net.
      budgets: the length of each of the `AXES`.
      net: what is trained, for the title.
      path: the PNG file.
      floor: a lower loss is drawn here.
    """
    datasets = list(records["dataset"].unique())
    width = max(4.2 * len(datasets), 6.5)
    figure = Figure(figsize=(width, 7.6), layout="constrained")
    rows = figure.subplots(2, len(datasets), squeeze=False)
    for (axis, label), row in zip(AXES.items(), rows, strict=True):
        for dataset, axes in zip(datasets, row, strict=True):
            budget = budgets[axis]
            shown = records[(records["dataset"] == dataset) & (records[axis] <= budget)]
            _draw_trends(axes, shown, axis, floor)
            axes.set(title=dataset.upper(), xlabel=label, xlim=(0, budget))
        row[0].set_ylabel("training loss")
    seeds = records["seed"].nunique()
    figure.suptitle(
        f"Training loss of {net}: median and quartiles, seeds: {seeds} "
        f"(a loss below {floor:g} is drawn there)"
    )
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    save(figure, path)


def _draw_trends(axes: Axes, records: pd.DataFrame, axis: str, floor: float) -> None:
    records = records.assign(train_loss=records["train_loss"].clip(lower=floor))
    for name in _in_order(records["optimizer"].unique()):
        runs = records[records["optimizer"] == name].groupby(axis)["train_loss"]
        middle, low, high = runs.median(), runs.quantile(0.25), runs.quantile(0.75)
        style = line_style(name)
        axes.plot(middle.index, middle, label=OPTIMIZERS[name].label, **style)
        axes.fill_between(
            middle.index, low, high, color=style["color"], alpha=0.12, linewidth=0
        )
    axes.set_yscale("log")
    axes.set_ylim(floor / 2, 5)
    axes.grid(alpha=0.25)


def _in_order(names: Iterable[str]) -> list[str]:
    present = set(names)
    return [name for name in OPTIMIZERS if name in present]
