"""The paper's MLP on four tables, by every optimizer (Table 7, Figs. 3 and 4)."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from benchmarks.data import Dataset
from benchmarks.models import MLP
from benchmarks.optimizers import Optimizer
from benchmarks.records import Records
from benchmarks.runner import Problem, train

EXPERIMENT = "tabular"


def classification(dataset: Dataset) -> Problem:
    """The MLP on a data set: cross-entropy over the training part, test predictions."""
    model = MLP(dataset.n_classes)
    x_train, x_test = jnp.asarray(dataset.x_train), jnp.asarray(dataset.x_test)
    y_train = jnp.asarray(dataset.y_train)

    def loss(params: optax.Params) -> jax.Array:
        logits = model.apply(params, x_train)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y_train)
        return jnp.mean(losses)

    def predict(params: optax.Params) -> jax.Array:
        logits = jnp.asarray(model.apply(params, x_test))
        return jnp.argmax(logits, axis=-1).astype(jnp.int8)

    return Problem(lambda key: model.init(key, x_train[:1]), loss, predict)


def recorded_epochs(epochs: int) -> list[int]:
    """Every epoch to 10, every 2nd to 100, every 25th beyond; and the last."""
    wanted = (*range(11), *range(10, 101, 2), *range(100, epochs + 1, 25), epochs)
    return sorted({epoch for epoch in wanted if epoch <= epochs})


def scores(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-averaged F1, recall and precision, in per cent."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    accuracy = accuracy_score(labels, predictions)
    named = {"accuracy": accuracy, "f1": f1, "recall": recall, "precision": precision}
    return {name: 100 * float(score) for name, score in named.items()}


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
