"""The mini-batch race: test loss and accuracy at equal epochs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import dsa_optax
from benchmarks.minibatches.contenders import SCHEDULES, Contender, setting_name
from benchmarks.minibatches.tasks import BATCH_SIZE, Examples, Task
from benchmarks.shared.records import Records

EXPERIMENT = "minibatch-race"

Carry = tuple[optax.Params, optax.OptState]


def _at_test(params: Any, state: Any) -> Any:
    """The params that the optimizer wants to be judged by."""
    if isinstance(state, optax.contrib.ScheduleFreeState):
        return optax.contrib.schedule_free_eval_params(state, params)
    return params


@partial(jax.jit, static_argnums=0)
def scores(
    logits: Callable[..., jax.Array], params: Any, examples: Examples
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy in per cent.

    All examples at once take two cores twice as long: what a layer finds falls out of
    their caches before the next reads it.
    """

    def one(example: Examples) -> tuple[jax.Array, jax.Array]:
        inputs, labels = example
        found = logits(params, inputs[None])[0]
        loss = optax.softmax_cross_entropy_with_integer_labels(found, labels)
        return loss, jnp.argmax(found, axis=-1) == labels

    losses, hits = jax.lax.map(one, examples, batch_size=BATCH_SIZE)
    return losses.mean(), 100 * hits.mean()


class Trainer:
    """An optimizer on a task, compiled once for all its rates and schedules."""

    def __init__(self, task: Task, contender: Contender) -> None:
        """Compiles, so that the clock sees nothing of it."""
        self.task, self.contender = task, contender
        self._start = jax.jit(self._first)
        rates, key = jnp.zeros(task.steps), jax.random.key(0)
        carry = jax.eval_shape(self._first, rates, key)
        epoch = jax.jit(self._one_epoch).lower(rates, carry, key, task.train)
        self._epoch = epoch.compile()

    def _make(self, rates: jax.Array) -> optax.GradientTransformation:
        tx = self.contender.make(lambda count: rates[count])
        if self.contender.warmed:
            return dsa_optax.adaptive_warmup(tx, self.task.steps // 10)
        return tx

    def _first(self, rates: jax.Array, key: jax.Array) -> Carry:
        params = self.task.net.init(key)
        return params, self._make(rates).init(params)

    def _one_epoch(
        self, rates: jax.Array, carry: Carry, key: jax.Array, examples: Examples
    ) -> tuple[Carry, jax.Array]:
        """Once through the examples; also the mean of the losses met on the way."""
        step = dsa_optax.make_train_step(
            self.task.loss, self._make(rates), donate=False
        )

        def update(carry: Carry, rows: jax.Array) -> tuple[Carry, jax.Array]:
            inputs, labels = examples
            params, state, loss = step(*carry, inputs[rows], labels[rows])
            return (params, state), loss

        order = batches(key, len(examples[0]), self.task.batch_size)
        carry, losses = jax.lax.scan(update, carry, order)
        return carry, losses.mean()

    def epochs(
        self, schedule: str, rate: float, seed: int
    ) -> Iterator[tuple[Any, float, float]]:
        """Trains one seed; yields params to judge, mean loss, and seconds so far."""
        table = rate * SCHEDULES[schedule](self.task.steps)
        rates = jnp.asarray(table, jnp.float32)
        init_key, key = jax.random.split(jax.random.key(seed))
        carry = jax.block_until_ready(self._start(rates, init_key))
        seconds = 0.0
        for epoch in range(1, self.task.epochs + 1):
            epoch_key = jax.random.fold_in(key, epoch)
            started = time.perf_counter()
            carry, loss = jax.block_until_ready(
                self._epoch(rates, carry, epoch_key, self.task.train)
            )
            seconds += time.perf_counter() - started
            yield _at_test(*carry), float(loss), seconds

    def train(self, schedule: str, rate: float, seed: int) -> pd.DataFrame:
        """Trains one seed, and tests it on the way.

        Returns:
          A row a look; its seconds are those of training alone, from the start.
        """
        task = self.task
        looks = np.linspace(0, task.epochs, task.looks + 1).round().astype(int)[1:]
        trained = self.epochs(schedule, rate, seed)
        rows = [
            (epoch, *map(float, scores(task.net.logits, params, task.test)), *met)
            for epoch, (params, *met) in enumerate(trained, 1)
            if epoch in looks
        ]
        columns = ["epoch", "test_loss", "test_accuracy", "train_loss", "seconds"]
        return pd.DataFrame(rows, columns=columns).assign(seed=seed)


def batches(key: jax.Array, examples: int, batch_size: int) -> jax.Array:
    """The places of the examples in an epoch's batches, a row a batch."""
    return jax.random.permutation(key, examples).reshape(-1, batch_size)


def run(
    records: Records,
    tasks: Sequence[Task],
    contenders: Mapping[str, Contender],
    *,
    seeds: int,
    schedules: Sequence[str] = tuple(SCHEDULES),
) -> Iterator[str]:
    """Trains and records what the records lack; yields each optimizer's name, done.

    Args:
      records: where results go, and what is there already.
      tasks: what is trained.
      contenders: who trains, by name; each at all its rates, with every schedule (on a
        task that is `screened` with one seed, and those that matter with the others).
      seeds: how many, of 0, 1, 2, ….
      schedules: names of `SCHEDULES`.
    """
    for task in tasks:
        for name, contender in contenders.items():
            race = _Race(records, task, name, contender)
            settings = list(product(schedules, contender.rates))
            race.run(settings, range(1 if task.screened else seeds))
            if task.screened:
                race.run(race.finalists(settings), range(seeds))
            yield f"{name}, {task.model} on {task.dataset}"
        jax.clear_caches()  # XLA's programs hold the task's data


class _Race:
    """One optimizer on one task, over schedules, rates and seeds."""

    def __init__(
        self, records: Records, task: Task, name: str, contender: Contender
    ) -> None:
        self._records, self._task = records, task
        self._name, self._contender = name, contender

    @cached_property
    def _trainer(self) -> Trainer:
        return Trainer(self._task, self._contender)

    def _unit(self, schedule: str, rate: float) -> dict[str, str]:
        return {
            "experiment": EXPERIMENT,
            "dataset": self._task.dataset,
            "model": self._task.model,
            "optimizer": setting_name(self._name, schedule, rate),
        }

    def run(self, settings: Iterable[tuple[str, float]], seeds: Iterable[int]) -> None:
        """Trains what the records lack, and records each run as it ends."""
        for (schedule, rate), seed in product(settings, seeds):
            unit = self._unit(schedule, rate)
            if self._records.has_seed(unit, seed):
                continue
            rows = self._trainer.train(schedule, rate, seed)
            about = {
                "contender": self._name,
                "schedule": schedule,
                "rate": rate,
                "steps": self._task.steps,
                "train_examples": len(self._task.train[0]),
                "test_examples": len(self._task.test[0]),
                "device": jax.devices()[0].device_kind,
            }
            self._records.put(unit, rows.assign(**about))

    def finalists(
        self, settings: Iterable[tuple[str, float]]
    ) -> list[tuple[str, float]]:
        """The default rate, and the best on the first seed, with each schedule."""
        losses: dict[str, dict[float, float]] = {}
        for schedule, rate in settings:
            run = self._records.run(self._unit(schedule, rate))
            ends = run[run["seed"] == 0].sort_values("epoch")["test_loss"]
            losses.setdefault(schedule, {})[rate] = float(ends.iloc[-1])
        default = self._contender.rates[0]
        return [
            (schedule, rate)
            for schedule, found in losses.items()
            for rate in dict.fromkeys([default, _least(found)])
        ]


def _least(losses: Mapping[float, float]) -> float:
    """The rate of the least loss; one that is not a number is the greatest."""
    return min(losses, key=lambda rate: np.nan_to_num(losses[rate], nan=np.inf))
