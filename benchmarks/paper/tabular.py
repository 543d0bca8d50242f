"""The paper's MLP on four tables, by every optimizer (Table 7, Figs. 3 and 4)."""

from collections.abc import Iterable, Sequence

import pandas as pd

from benchmarks.paper.scores import scores
from benchmarks.shared.data.dataset import Dataset
from benchmarks.shared.optimizers.defaults import Optimizer
from benchmarks.shared.problems.classification import classification
from benchmarks.shared.records import Records
from benchmarks.shared.runner import Problem, train

EXPERIMENT = "tabular"


def recorded_epochs(epochs: int) -> list[int]:
    """Every epoch to 10, every 2nd to 100, every 25th beyond; and the last."""
    wanted = (*range(11), *range(10, 101, 2), *range(100, epochs + 1, 25), epochs)
    return sorted({epoch for epoch in wanted if epoch <= epochs})


def run(
    records: Records,
    dataset: Dataset,
    optimizers: Iterable[tuple[str, Optimizer]],
    *,
    seeds: int,
    epochs: Sequence[int],
    experiment: str = EXPERIMENT,
) -> Iterable[str]:
    """Trains and records what the records lack; yields each optimizer's name, done.

    Args:
      records: where results go, and what is there already.
      dataset: the data.
      optimizers: names and optimizers.
      seeds: how many initialisations, of the seeds 0, 1, 2, ….
      epochs: which ones to record; training (by full-batch updates) ends at the last.
      experiment: the name of the experiment in the records.
    """
    problem = classification(dataset)
    for name, optimizer in optimizers:
        run = {
            "experiment": experiment,
            "dataset": dataset.name,
            "model": "mlp",
            "optimizer": name,
        }
        if not records.has(run, seeds, epochs):
            records.put(run, _train(problem, dataset, optimizer, seeds, epochs))
        yield name


def _train(
    problem: Problem,
    dataset: Dataset,
    optimizer: Optimizer,
    seeds: int,
    epochs: Sequence[int],
) -> pd.DataFrame:
    history = train(problem, optimizer.make(), range(seeds), epochs)
    return pd.DataFrame(
        {
            "seed": seed,
            "epoch": epoch,
            "gradient_evaluations": epoch * optimizer.gradients_per_step,
            "train_loss": float(history.losses[seed, epoch]),
            **scores(dataset.y_test, history.observed[seed, i]),
            "seconds": history.seconds * epoch / max(epochs),
            "compile_seconds": history.compile_seconds,
        }
        for seed in range(seeds)
        for i, epoch in enumerate(epochs)
    )
