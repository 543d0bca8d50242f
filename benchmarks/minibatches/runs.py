"""The race's mini-batch division: test accuracy at equal epochs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd

import dsa_optax
from benchmarks.minibatches.contenders import setting_name
from benchmarks.minibatches.tasks import Examples, Task
from benchmarks.shared.optimizers.contenders import Contender
from benchmarks.shared.records import Records

EXPERIMENT = "minibatch-race"
BATCH_SIZES = (128, 1024)
EPOCHS = 5

Carry = tuple[optax.Params, optax.OptState]


def _at_test(params: Any, state: Any) -> Any:
    """The params that the optimizer wants to be judged by."""
    if isinstance(state, optax.contrib.ScheduleFreeState):
        return optax.contrib.schedule_free_eval_params(state, params)
    return params


@partial(jax.jit, static_argnums=0)
def _accuracy(
    logits: Callable[..., jax.Array], params: Any, state: Any, examples: Examples
) -> jax.Array:
    inputs, labels = examples
    predicted = jnp.argmax(logits(_at_test(params, state), inputs), axis=-1)
    return 100 * jnp.mean(predicted == labels)


class Trainer:
    """An optimizer on a task, at one batch size, compiled once for all its settings."""

    def __init__(self, task: Task, contender: Contender, batch_size: int) -> None:
        """Compiles, so that the clock sees nothing of it."""
        self.task, self.contender, self.batch_size = task, contender, batch_size
        self._start = jax.jit(self._first)
        setting, key = jnp.float32(0), jax.random.key(0)
        carry = jax.eval_shape(self._first, setting, key)
        epoch = jax.jit(self._one_epoch).lower(setting, carry, key, task.train)
        self._epoch = epoch.compile()

    def _first(self, setting: jax.Array, key: jax.Array) -> Carry:
        params = self.task.net.init(key)
        return params, self.contender.make(setting).init(params)

    def _one_epoch(
        self, setting: jax.Array, carry: Carry, key: jax.Array, examples: Examples
    ) -> tuple[Carry, jax.Array]:
        """Once through the examples; also the mean of the losses met on the way."""
        step = dsa_optax.make_train_step(
            self.task.loss, self.contender.make(setting), donate=False
        )

        def update(carry: Carry, rows: jax.Array) -> tuple[Carry, jax.Array]:
            inputs, labels = examples
            params, state, loss = step(*carry, inputs[rows], labels[rows])
            return (params, state), loss

        order = batches(key, len(examples[0]), self.batch_size)
        carry, losses = jax.lax.scan(update, carry, order)
        return carry, losses.mean()

    def train(self, setting: float, seed: int, epochs: int) -> pd.DataFrame:
        """Trains one seed at one setting, and tests it after every epoch.

        Returns:
          A row an epoch; its seconds are those of training alone, from the start.
        """
        rate = jnp.float32(setting)
        init_key, key = jax.random.split(jax.random.key(seed))
        carry = jax.block_until_ready(self._start(rate, init_key))
        rows, seconds = [], 0.0
        for epoch in range(1, epochs + 1):
            epoch_key, train = jax.random.fold_in(key, epoch), self.task.train
            started = time.perf_counter()
            carry, loss = jax.block_until_ready(
                self._epoch(rate, carry, epoch_key, train)
            )
            seconds += time.perf_counter() - started
            accuracy = _accuracy(self.task.net.logits, *carry, self.task.test)
            rows.append((epoch, float(accuracy), float(loss), seconds))
        columns = ["epoch", "test_accuracy", "train_loss", "seconds"]
        return pd.DataFrame(rows, columns=columns).assign(seed=seed, setting=setting)


def batches(key: jax.Array, examples: int, batch_size: int) -> jax.Array:
    """The places of the examples in an epoch's batches, a row a batch."""
    return jax.random.permutation(key, examples).reshape(-1, batch_size)


def run(
    records: Records,
    tasks: Sequence[Task],
    contenders: Mapping[str, Contender],
    *,
    seeds: int,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    epochs: int = EPOCHS,
) -> Iterator[str]:
    """Trains and records what the records lack; yields each optimizer's name, done.

    Args:
      records: where results go, and what is there already.
      tasks: what is trained.
      contenders: who trains, by name; each at all its settings.
      seeds: how many, of 0, 1, 2, ….
      batch_sizes: examples in a batch.
      epochs: how often each example is seen.
    """
    for task in tasks:
        for batch_size in batch_sizes:
            for name, contender in contenders.items():
                _run_all(records, task, batch_size, name, contender, seeds, epochs)
                yield f"{name}, {task.model} on {task.dataset}, batch {batch_size}"


def _run_all(
    records: Records,
    task: Task,
    batch_size: int,
    name: str,
    contender: Contender,
    seeds: int,
    epochs: int,
) -> None:
    """All settings and seeds of one optimizer, each recorded as it ends."""
    trainer = None
    for setting in contender.settings:
        unit = {
            "experiment": EXPERIMENT,
            "dataset": task.dataset,
            "model": f"{task.model} batch {batch_size}",
            "optimizer": setting_name(name, contender, setting),
        }
        there = records.run(unit)
        for seed in range(seeds):
            if not there.empty and (there["seed"] == seed).any():
                continue
            trainer = trainer or Trainer(task, contender, batch_size)
            rows = trainer.train(setting, seed, epochs)
            about = {
                "contender": name,
                "train_examples": len(task.train[0]),
                "test_examples": len(task.test[0]),
                "device": jax.devices()[0].device_kind,
            }
            records.put(unit, rows.assign(**about))
