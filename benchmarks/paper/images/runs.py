"""The paper's convolution nets on images, and its training method (Sec. 2.3).

First mini-batches, with Adamax, then DSA on the full batch. The rivals take
mini-batches all the way: for as many epochs, and on to as many gradient evaluations.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks.paper.figures import AXES, loss_trends
from benchmarks.paper.images.training import Stages, Trainer, train_once
from benchmarks.paper.published import DNN, FMP, Scores
from benchmarks.paper.tables import at, scores_table
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.data.images import size
from benchmarks.shared.models.images import ImageModel, dnn, fmp
from benchmarks.shared.optimizers.defaults import OPTIMIZERS
from benchmarks.shared.records import Records

EXPERIMENT = "images"
FIRST_STAGE = "adamax"


class Schedule(NamedTuple):
    """How long to train.

    Attributes:
      batch_size: of the mini-batches.
      first: epochs of mini-batches, T₁ in the paper.
      second: full-batch updates by DSA, T₂. The rivals take these epochs by
        mini-batches too, and as many again, since DSA spends two gradients on one.
    """

    batch_size: int
    first: int
    second: int

    @property
    def equal_gradients(self) -> int:
        """The epoch at which a rival has seen as many gradients as DSA at its end."""
        return self.first + OPTIMIZERS["dsa"].gradients_per_step * self.second

    def stages(self, optimizer: str) -> Stages:
        """The whole training; "dsa" is the paper's method of two stages."""
        if optimizer == "dsa":
            return Stages(FIRST_STAGE, self.first, self.batch_size, "dsa", self.second)
        return Stages(optimizer, self.equal_gradients, self.batch_size)


SCHEDULES: dict[str, dict[str, Schedule]] = {
    "dnn": {
        "mnist": Schedule(64, 15, 15),
        "fashion-mnist": Schedule(64, 15, 15),
        "svhn": Schedule(64, 15, 15),
        "cifar10": Schedule(64, 15, 15),
        "cifar100": Schedule(32, 15, 15),
    },
    "fmp": {
        "mnist": Schedule(64, 50, 15),
        "fashion-mnist": Schedule(64, 50, 15),
        "svhn": Schedule(64, 75, 15),
        "cifar10": Schedule(128, 75, 15),
        "cifar100": Schedule(256, 50, 15),
    },
}
"""The paper's, by model and data set (Sec. 3.1); Fashion-MNIST, not its, as MNIST."""

MODELS: dict[str, Callable[..., ImageModel]] = {"dnn": dnn, "fmp": fmp}


def run(
    records: Records,
    dataset: Dataset,
    model: str,
    optimizers: Sequence[str],
    *,
    seeds: int,
    schedule: Schedule | None = None,
    width: int | None = None,
) -> Iterator[str]:
    """Trains and records what the records lack; yields each run's name, done.

    Args:
      records: where results go, and what is there already; a run is one seed of one
        optimizer.
      dataset: the images.
      model: a name of `MODELS`.
      optimizers: names of `WITH_SCHEDULED`.
      seeds: how many, of 0, 1, 2, ….
      schedule: None is the paper's.
      width: of the FMP's first block; None is Graham's 32. It is part of the model's
        name in the records, as "fmp-8".
    """
    name = run_name(model, dataset.name, schedule, width)
    schedule = schedule or SCHEDULES[model][dataset.name]
    options = {} if width is None else {"width": width}
    net = MODELS[model](dataset.x_train.shape[1:], dataset.n_classes, **options)
    trainer = Trainer(net, dataset)
    for seed in range(seeds):
        for optimizer in optimizers:
            unit = {
                "experiment": EXPERIMENT,
                "dataset": dataset.name,
                "model": name,
                "optimizer": optimizer,
            }
            train_once(records, unit, trainer, schedule.stages(optimizer), seed)
            yield f"{optimizer}, seed {seed}"


def run_name(
    model: str, dataset: str, schedule: Schedule | None, width: int | None
) -> str:
    """The model in the records: "dnn", or "fmp-8 64/5/5" where it isn't the paper's."""
    name = model if width is None else f"{model}-{width}"
    if schedule is None or schedule == SCHEDULES[model][dataset]:
        return name
    return f"{name} {schedule.batch_size}/{schedule.first}/{schedule.second}"


def tables(
    records: pd.DataFrame, dataset: str, model: str
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables: at DSA's last epoch, and at its gradient evaluations."""
    records = records[(records["dataset"] == dataset) & (records["model"] == model)]
    for axis, equal in AXES.items():
        budget = last_of_dsa(records, axis)
        final = at(records, axis, budget)
        counts = (int(final[f"{part}_images"].iloc[0]) for part in ("train", "test"))
        title = (
            f"{model} on {dataset.upper()}, {budget} {equal}, "
            f"{size(dataset, *counts)}, seeds: {final['seed'].nunique()}"
        )
        yield title, scores_table(final, published(model, dataset), digits=2)


def published(model: str, dataset: str) -> Mapping[str, Scores]:
    """The paper's scores of a net on a data set, by optimizer; maybe none."""
    return (DNN if model == "dnn" else FMP).get(dataset, {})


def loss_figure(records: pd.DataFrame, path: Path) -> None:
    """Fig. 8, where the records have the paper's runs of the light net."""
    dnn = records[records["model"] == "dnn"]
    if len(dnn):
        budgets = {axis: last_of_dsa(dnn, axis) for axis in AXES}
        loss_trends(dnn, budgets, "the light net", path, floor=1e-6)


def last_of_dsa(records: pd.DataFrame, axis: str) -> int:
    """Where DSA ends; without DSA, where all do."""
    dsa = records[records["optimizer"] == "dsa"]
    return int((dsa if len(dsa) else records)[axis].max())
