"""The page of the race's mini-batch division, and its figure."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.minibatches.contenders import CONTENDERS, RIVALS
from benchmarks.shared.figures import DSA_COLOR, OTHER_COLORS, save
from benchmarks.shared.files import replacing
from benchmarks.shared.optimizers.contenders import Contender
from benchmarks.shared.tables import in_markdown, spread

RECORDS = "minibatch_race.csv"
FIGURE = "minibatch_race.png"

_DASHES = ("-", "--", "-.")

_BEST = ", best"

Setting = tuple[str, float]
"""A contender's name and its setting."""


def write(output: Path) -> None:
    """Writes minibatch_race.md and its figure from the records in `output`."""
    records = pd.read_csv(output / RECORDS)
    figure(records, output / FIGURE)
    with replacing(output / "minibatch_race.md") as file:
        file.write_text("\n\n".join(sections(records)) + "\n", encoding="utf-8")


def sections(records: pd.DataFrame) -> Iterator[str]:
    """The division in Markdown, from its records."""
    yield "# The race on mini-batches"
    yield _introduction(records)
    for title, frame in tables(records):
        yield f"## {title}"
        yield in_markdown(frame)
    yield f"![Test accuracy by epoch]({FIGURE})"


def _introduction(records: pd.DataFrame) -> str:
    grids = "; ".join(
        f"{contender.label} {', '.join(f'{s:g}' for s in contender.settings)}"
        for contender in RIVALS.values()
    )
    sizes = "; ".join(
        f"{_title(task)} {runs['train_examples'].iloc[0]:,} and "
        f"{runs['test_examples'].iloc[0]:,} ({runs['seed'].nunique()} seeds)"
        for task, runs in _by_task(records)
    )
    epochs = records["epoch"].max()
    return f"""\
By `python -m benchmarks minibatch-race --output benchmarks/results`
({", ".join(records["device"].unique())}), {epochs} epochs, constant rates. It is a
reduced run: training and test examples are {sizes}. Accuracy is per cent on the test
examples after the last epoch, mean ± standard deviation over the seeds; of the
attention net it is that of the next character.

"Best" is the setting with the best mean test accuracy at the end, chosen for each cell
on the very test examples: the rivals are flattered. The grids, with the default first:
{grids}. In parentheses stands the first epoch after which the mean accuracy is at the
target, or – if it never is. The target is what the best rival, at its best setting, has
after three quarters of the epochs (rounded up).

adapt(Muon) is `adapt(optax.contrib.muon(1.0), init_log2_lr=-5.0, min_log2_lr=-12.0,
decrease=0.5)` in all cells: numbers chosen on the two nets on MNIST, on which CIFAR-10
and the names had no say. These are short runs, of 20 to 400 steps; see [what was
tried](../tried.md) for a long one."""


def tables(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """A table a batch size, with its title."""
    for batch_size, runs in _by_batch_size(records):
        yield f"Batches of {batch_size:,}", table(runs)


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a contender, at its default and at its best; a column a task.

    Args:
      runs: the records of one batch size.
    """
    rows: dict[str, dict[str, str]] = {}
    for task, of_task in _by_task(runs):
        curves = _curves(of_task)
        target = _target(curves)
        for name, contender in _present(of_task).items():
            for label, setting in _shown(name, contender, curves):
                cell = _cell(of_task, curves, (name, setting), target)
                if label.endswith(_BEST):
                    cell += f" at {setting:g}"
                rows.setdefault(label, {})[_title(task)] = cell
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    return frame.rename_axis("optimizer").reset_index()


def figure(records: pd.DataFrame, path: Path) -> None:
    """Test accuracy by epoch: a row a batch size, a column a task."""
    tasks, sizes = list(_by_task(records)), list(_by_batch_size(records))
    size = (max(3.4 * len(tasks), 6.5), 3 * len(sizes) + 0.8)
    sheet = Figure(figsize=size, layout="constrained")
    panels = sheet.subplots(len(sizes), len(tasks), squeeze=False, sharex=True)
    for (batch_size, of_size), row in zip(sizes, panels, strict=True):
        of_tasks = dict(_by_task(of_size))
        for (task, _), axes in zip(tasks, row, strict=True):
            if task in of_tasks:
                _draw(axes, of_tasks[task])
            axes.set_title(f"{_title(task)}, batch {batch_size:,}", fontsize=10)
            axes.grid(alpha=0.25)
        row[0].set_ylabel("test accuracy, per cent")
    for axes in panels[-1]:
        axes.set_xlabel("epochs")
    sheet.suptitle(
        "Mini-batches, mean over the seeds; each at its best setting, dotted at its "
        "default"
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    save(sheet, path)


def _draw(axes: Axes, runs: pd.DataFrame) -> None:
    """Means over the seeds; the worst defaults fall out at the bottom."""
    curves, floor = _curves(runs), math.inf
    for name, contender in _present(runs).items():
        style = _style(name)
        best = curves[_best(name, curves)]
        axes.plot(best, label=contender.label, **style)
        floor = min(floor, float(best.min()))
        default = curves.get((name, contender.settings[0]))
        if default is not None and len(contender.settings) > 1:
            axes.plot(default, **{**style, "linestyle": ":"})
    top = float(curves.to_numpy().max())
    axes.set_ylim(bottom=floor - 0.05 * (top - floor))


def _style(name: str) -> dict[str, Any]:
    """A look for each contender; ours are in DSA's colour."""
    if name in RIVALS:
        color = OTHER_COLORS[list(RIVALS).index(name) % len(OTHER_COLORS)]
        return {"color": color, "linewidth": 1.2}
    ours = [other for other in CONTENDERS if other not in RIVALS]
    dashes = _DASHES[ours.index(name) % len(_DASHES)]
    return {"color": DSA_COLOR, "linewidth": 2.4, "linestyle": dashes, "zorder": 3}


def _curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean test accuracy by epoch, a column (contender, setting), of one task."""
    return runs.pivot_table(
        index="epoch", columns=["contender", "setting"], values="test_accuracy"
    )


def _best(name: str, curves: pd.DataFrame) -> Setting:
    """The setting of a contender's with the best end."""
    return name, float(curves[name].iloc[-1].idxmax())


def _target(curves: pd.DataFrame) -> float:
    """What the best rival, at its best setting, has after 3/4 of the epochs."""
    names = set(curves.columns.get_level_values("contender"))
    best = [_best(name, curves) for name in RIVALS if name in names]
    if not best:
        return math.inf
    leader = max(best, key=lambda setting: curves[setting].iloc[-1])
    return float(curves[leader].loc[math.ceil(0.75 * curves.index[-1])])


def _cell(
    runs: pd.DataFrame, curves: pd.DataFrame, setting: Setting, target: float
) -> str:
    """Accuracy at the end, and the first epoch at the target."""
    there = curves.index[curves[setting] >= target]
    at_end = runs[runs["epoch"] == runs["epoch"].max()].set_index(
        ["contender", "setting"]
    )
    accuracy = spread(at_end.loc[[setting], "test_accuracy"])
    return f"{accuracy} ({there[0] if len(there) else '–'})"


def _shown(
    name: str, contender: Contender, curves: pd.DataFrame
) -> Iterator[tuple[str, float]]:
    """Rows of a contender: the label, and the setting shown there."""
    if len(contender.settings) == 1:
        yield contender.label, contender.settings[0]
        return
    if contender.settings[0] in curves[name]:
        yield f"{contender.label}, default", contender.settings[0]
    yield f"{contender.label}{_BEST}", _best(name, curves)[1]


def _present(runs: pd.DataFrame) -> Mapping[str, Contender]:
    names = set(runs["contender"])
    return {name: c for name, c in CONTENDERS.items() if name in names}


def _title(task: tuple[str, str]) -> str:
    net, dataset = task
    return f"{net if net == 'attention' else net.upper()}, {_DATASETS[dataset]}"


_DATASETS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "unicode-names": "Unicode names",
}


def _by_task(records: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(net, data set), and the records of it."""
    net = records["model"].str.split(" batch ").str[0]
    for (name, dataset), runs in records.groupby([net, "dataset"], sort=False):
        yield (str(name), str(dataset)), runs


def _by_batch_size(records: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    size = records["model"].str.split(" batch ").str[1].astype(int)
    for batch_size, runs in records.groupby(size):
        yield int(str(batch_size)), runs
