"""From which batch size on DSA makes sense: MNIST at four batch sizes.

Every optimizer gets the same number of gradient evaluations, counted in passes over the
training set, at every batch size: so the small batches get the more updates. Both of
DSA's gradients are of the same mini-batch.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.paper.figures import line_style
from benchmarks.paper.images.training import Stages, Trainer, train_once
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.figures import save
from benchmarks.shared.models.images import dnn
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.shared.records import Records

EXPERIMENT = "batch-sizes"
NAMES = ("adamax", "dsa", "rprop")
SIZES = (64, 1024, 8192, None)
"""None is the full batch."""

PASSES = 60
"""Gradient evaluations, in passes over the training set."""


def run(
    records: Records, dataset: Dataset, *, seeds: int, passes: int = PASSES
) -> Iterator[str]:
    """Trains and records what the records lack; yields each run's name, done.

    Args:
      records: where results go, and what is there already.
      dataset: the images.
      seeds: how many, of 0, 1, 2, ….
      passes: how many gradient evaluations, in passes over the training set; even.
    """
    net = dnn(dataset.x_train.shape[1:], dataset.n_classes)
    trainer = Trainer(net, dataset)
    for seed in range(seeds):
        for size in SIZES:
            for name in NAMES:
                unit = {
                    "experiment": EXPERIMENT,
                    "dataset": dataset.name,
                    "model": model_name(size),
                    "optimizer": name,
                }
                train_once(records, unit, trainer, stages(name, size, passes), seed)
                yield f"{name}, {_label(size)}, seed {seed}"


def stages(name: str, size: int | None, passes: int) -> Stages:
    """One optimizer all the way, at one batch size."""
    epochs = passes // OPTIMIZERS[name].gradients_per_step
    if size is None:
        return Stages(name, 0, full_batch=name, full_batch_updates=epochs)
    return Stages(name, epochs, size)


def model_name(size: int | None) -> str:
    """The model in the records: "dnn batch 64", "dnn full batch"."""
    return f"dnn {_label(size)}"


def table(records: pd.DataFrame) -> pd.DataFrame:
    """A row an optimizer: loss and test accuracy at the end, by batch size."""
    at = records[
        records["gradient_evaluations"] == records["gradient_evaluations"].max()
    ]
    rows = []
    for name in NAMES:
        row = {"optimizer": OPTIMIZERS[name].label}
        for size in SIZES:
            runs = at[(at["optimizer"] == name) & (at["model"] == model_name(size))]
            loss, accuracy = runs["train_loss"].mean(), runs["accuracy"].mean()
            row[_label(size)] = f"{loss:.1e} ({accuracy:.1f})"
        rows.append(row)
    return pd.DataFrame(rows)


def figure(records: pd.DataFrame, path: Path) -> None:
    """Training loss against gradient evaluations, a panel a batch size."""
    sheet = Figure(figsize=(13, 4.2), layout="constrained")
    panels = sheet.subplots(1, len(SIZES), sharey=True)
    for size, axes in zip(SIZES, panels, strict=True):
        shown = records[records["model"] == model_name(size)]
        for name in NAMES:
            runs = shown[shown["optimizer"] == name]
            trend = runs.groupby("gradient_evaluations")["train_loss"].mean()
            axes.plot(trend, label=OPTIMIZERS[name].label, **line_style(name))
        axes.set(title=_label(size), xlabel="gradient evaluations, in passes")
        axes.set_yscale("log")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("training loss")
    seeds, dataset = records["seed"].nunique(), records["dataset"].iloc[0].upper()
    sheet.suptitle(f"The light net on {dataset} by batch size (seeds: {seeds})")
    handles, labels = panels[0].get_legend_handles_labels()
    sheet.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save(sheet, path)


def _label(size: int | None) -> str:
    return "full batch" if size is None else f"batch {size}"
