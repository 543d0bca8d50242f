"""Polishing: mini-batches first, then the full batch (Sec. 2.3), at equal cost.

The first stage is a whole training of its own, with its schedule. After it the same
cost in gradient evaluations goes to full-batch updates, or to a longer first stage.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import optax
import pandas as pd

import dsa_optax
from benchmarks.minibatches.contenders import Contender
from benchmarks.minibatches.runs import Trainer, scores
from benchmarks.minibatches.tasks import Examples, Task
from benchmarks.shared.optimizers.torch_optim import irprop_minus
from benchmarks.shared.records import Records

EXPERIMENT = "polishing"
FIRST_EPOCHS = 15
"""T₁, as the paper has it."""

EVALUATIONS = 30
"""Gradients of the full batch after the switch: the paper's 15 updates by DSA."""

TASKS = ("dnn-mnist", "dnn-fashion", "dnn-cifar10", "shakespeare-20")
"""What is polished by default, names of `tasks.TASKS`."""

LOOK_EVERY = 10
LONGER = "longer"
"""In the records, in place of a second optimizer."""

Look = dict[str, float]
"""Losses and accuracies on the training and the test examples."""

FIRST: Mapping[str, Contender] = {
    "adamax": Contender("Adamax", optax.adamax, (2e-3,), "constant"),
    "adamw": Contender(
        "AdamW, cosine", partial(optax.adamw, weight_decay=0.01), (1e-3,), "cosine"
    ),
    "muon": Contender("Muon, cosine", optax.contrib.muon, (0.02,), "cosine"),
}
"""The paper's, and what people use, at their defaults."""


class Polisher(NamedTuple):
    """An optimizer for the full batch, and the gradients of one update."""

    label: str
    make: Callable[[], optax.GradientTransformation]
    gradients: int = 1


SECOND: Mapping[str, Polisher] = {
    "dsa": Polisher("DSA", dsa_optax.dsa, 2),
    "irprop-minus": Polisher("iRprop⁻", irprop_minus),
    "auto-dsa": Polisher("auto_dsa", dsa_optax.auto_dsa),
    "auto-dsa-light": Polisher("auto_dsa, light", partial(dsa_optax.auto_dsa, 0)),
}


def run(
    records: Records,
    tasks: Sequence[Task],
    *,
    seeds: int,
    first: Mapping[str, Contender] = FIRST,
    second: Mapping[str, Polisher] = SECOND,
) -> Iterator[str]:
    """Trains and records what the records lack; yields each first stage's name, done.

    Args:
      records: where results go, and what is there already.
      tasks: what is trained; their own number of epochs doesn't count.
      seeds: how many, of 0, 1, 2, ….
      first: optimizers of the first stage, by name.
      second: those of the second.
    """
    for task in tasks:
        polish = {name: _polishing(task, after) for name, after in second.items()}
        for name, contender in first.items():
            train = _first_stages(task, contender)
            for seed in range(seeds):
                _run_one(records, task, name, seed, train, polish)
            yield f"{name}, {task.model} on {task.dataset}"
        jax.clear_caches()


def _run_one(
    records: Records,
    task: Task,
    name: str,
    seed: int,
    train: Callable[[int, int], Any],
    polish: Mapping[str, Callable[[Any], Iterator[Look]]],
) -> None:
    """One first stage, and all that may come after it."""

    def unit(after: str) -> dict[str, str]:
        about = {"dataset": task.dataset, "model": task.model}
        return {"experiment": EXPERIMENT, **about, "optimizer": f"{name}, {after}"}

    def put(after: str, looks: Iterable[Look]) -> None:
        about = {
            "seed": seed,
            "first": name,
            "second": after,
            "train_examples": len(task.train[0]),
            "test_examples": len(task.test[0]),
            "device": jax.devices()[0].device_kind,
        }
        records.put(unit(after), pd.DataFrame(looks).assign(**about))

    missing = [after for after in polish if not records.has_seed(unit(after), seed)]
    if missing:
        params = train(FIRST_EPOCHS, seed)
        for after in missing:
            put(after, polish[after](params))
    if not records.has_seed(unit(LONGER), seed):
        params = train(FIRST_EPOCHS + EVALUATIONS, seed)
        put(LONGER, [_look(task, params, EVALUATIONS)])


def _first_stages(task: Task, contender: Contender) -> Callable[[int, int], Any]:
    """From epochs and a seed to the params at their end."""

    @cache
    def trainer(epochs: int) -> Trainer:
        return Trainer(task._replace(epochs=epochs), contender)

    def train(epochs: int, seed: int) -> Any:
        rate = contender.rates[0]
        *_, (params, _, _) = trainer(epochs).epochs(contender.customary, rate, seed)
        return params

    return train


def _polishing(task: Task, polisher: Polisher) -> Callable[[Any], Iterator[Look]]:
    """From params to looks at the switch and after it, by gradient evaluations."""
    tx = optax.with_extra_args_support(polisher.make())
    # In parts that a core's caches hold: a third faster than the whole at once.
    whole = dsa_optax.full_batch.microbatched_value_and_grad(task.loss, task.batch_size)

    @jax.jit
    def step(params: Any, state: Any, train: Examples) -> tuple[Any, Any]:
        value, grads = whole(params, *train)
        probe = {"grad_fn": lambda params: whole(params, *train)[1], "value": value}
        updates, state = tx.update(grads, state, params, **probe)
        return optax.apply_updates(params, updates), state

    def polish(params: Any) -> Iterator[Look]:
        state = tx.init(params)
        yield _look(task, params, 0)
        for spent in range(polisher.gradients, EVALUATIONS + 1, polisher.gradients):
            params, state = step(params, state, task.train)
            if spent % LOOK_EVERY == 0:
                yield _look(task, params, spent)

    return polish


def _look(task: Task, params: Any, spent: int) -> Look:
    train_loss, train_accuracy = scores(task.net.logits, params, task.train)
    test_loss, test_accuracy = scores(task.net.logits, params, task.test)
    return {
        "epoch": spent,
        "train_loss": float(train_loss),
        "train_accuracy": float(train_accuracy),
        "test_loss": float(test_loss),
        "test_accuracy": float(test_accuracy),
    }
