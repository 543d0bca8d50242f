"""The race's mini-batch division: test accuracy at equal epochs.

The sizes are such that one core trains all rivals in some 35 minutes: the first images
of each data set, and few epochs. All training sets are whole numbers of batches.
"""

import hashlib
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import dsa_optax
from benchmarks import image_data
from benchmarks.data import DataDir
from benchmarks.image_data import to_inputs
from benchmarks.image_models import dnn
from benchmarks.race_contenders import OURS as FULL_BATCH
from benchmarks.race_contenders import Contender, rate
from benchmarks.records import Records

EXPERIMENT = "minibatch-race"
BATCH_SIZES = (128, 1024)
EPOCHS = 5

TRAIN_EXAMPLES = {
    "mlp-mnist": 10 * 1024,
    "dnn-mnist": 5 * 1024,
    "dnn-cifar10": 4 * 1024,
    "attention": 4 * 1024,
}
TEST_EXAMPLES = 2000
"""At most, as the file of CIFAR-10's test images may have fewer."""

CONTEXT = 32
"""Characters that the attention net sees."""

Examples = tuple[jax.Array, jax.Array]
"""Inputs and labels, the examples on axis 0."""
Carry = tuple[optax.Params, optax.OptState]


class Net(NamedTuple):
    """A net as a pair of functions.

    Attributes:
      init: from a random key to the params.
      logits: from the params and inputs to logits, a row of them for every label.
    """

    init: Callable[[jax.Array], Any]
    logits: Callable[[Any, jax.Array], jax.Array]


class Task(NamedTuple):
    """A net, and what it is trained and tested on.

    Attributes:
      dataset: its name in the records.
      model: the net's name in the records.
      net: the net.
      train: a whole number of the largest batches.
      test: examples that are in no batch.
    """

    dataset: str
    model: str
    net: Net
    train: Examples
    test: Examples

    def loss(self, params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        """Cross-entropy, a mean over the labels."""
        logits = self.net.logits(params, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()


# Who takes part -----------------------------------------------------------------------


RIVALS: Mapping[str, Contender] = {
    "adam": rate("Adam", optax.adam, 1e-3, 3e-3, 0.01, 0.03),
    "adamw": rate(
        "AdamW", partial(optax.adamw, weight_decay=0.01), 1e-3, 3e-3, 0.01, 0.03
    ),
    "muon": rate("Muon", optax.contrib.muon, 0.02, 5e-3, 0.01, 0.05),
    "prodigy": rate("Prodigy", optax.contrib.prodigy, 1.0, 0.3, 0.5, 2.0),
    "schedule-free": rate(
        "Schedule-free AdamW",
        optax.contrib.schedule_free_adamw,
        *(2.5e-3, 1e-3, 5e-3, 1e-2),
    ),
}
"""The defaults are Optax's; of Adam, AdamW and Muon, which have none, the authors'."""

OURS: Mapping[str, Contender] = {
    "adapted-muon": Contender(
        "adapt(Muon)",
        lambda _: dsa_optax.adapt(
            optax.contrib.muon(1.0), init_log2_lr=-5.0, min_log2_lr=-12.0, decrease=0.5
        ),
        ours=True,
    ),
    "auto-dsa": FULL_BATCH["auto-dsa"],
}
"""The form for mini-batches, chosen on MNIST, and the one for full batches."""

CONTENDERS: Mapping[str, Contender] = {**RIVALS, **OURS}


def setting_name(name: str, contender: Contender, setting: float) -> str:
    """The optimizer in the records: "adam 0.003", or the name where nothing is set."""
    return f"{name} {setting:g}" if len(contender.settings) > 1 else name


def _at_test(params: Any, state: Any) -> Any:
    """The params that the optimizer wants to be judged by."""
    if isinstance(state, optax.contrib.ScheduleFreeState):
        return optax.contrib.schedule_free_eval_params(state, params)
    return params


# Nets and data ------------------------------------------------------------------------


def mlp(sizes: Sequence[int]) -> Net:
    """A net of fully connected layers with ReLU, on images as bytes."""

    def init(key: jax.Array) -> list[dict[str, jax.Array]]:
        keys, pairs = jax.random.split(key, len(sizes) - 1), pairwise(sizes)
        kernel = jax.nn.initializers.he_normal()
        return [
            {"kernel": kernel(k, pair), "bias": jnp.zeros(pair[1])}
            for k, pair in zip(keys, pairs, strict=True)
        ]

    def logits(params: list[dict[str, jax.Array]], images: jax.Array) -> jax.Array:
        x = to_inputs(images).reshape(len(images), -1)
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return x @ params[-1]["kernel"] + params[-1]["bias"]

    return Net(init, logits)


def attention(
    characters: int, context: int = CONTEXT, width: int = 64, heads: int = 2
) -> Net:
    """One block of causal self-attention, which foretells each next character.

    Args:
      characters: how many there are.
      context: the most that are seen at once.
      width: of the residual stream.
      heads: of the attention.
    """
    shapes = {
        "embed": (characters, width),
        "place": (context, width),
        "query": (width, width),
        "key": (width, width),
        "value": (width, width),
        "mix": (width, width),
        "up": (width, 2 * width),
        "down": (2 * width, width),
        "head": (width, characters),
    }

    def init(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        kernel = jax.nn.initializers.glorot_normal()
        return {
            name: kernel(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def norm(h: jax.Array) -> jax.Array:
        return jax.nn.standardize(h, axis=-1, epsilon=1e-5)

    def logits(p: dict[str, jax.Array], text: jax.Array) -> jax.Array:
        h = p["embed"][text] + p["place"][: text.shape[1]]
        seen = norm(h)
        query, key, value = (
            (seen @ p[name]).reshape(*text.shape, heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        h = h + mixed.reshape(h.shape) @ p["mix"]
        h = h + jax.nn.relu(norm(h) @ p["up"]) @ p["down"]
        return norm(h) @ p["head"]

    return Net(init, logits)


def unicode_names() -> str:
    """The names of Unicode 3.2's characters, a line each, in an order without sense.

    Every Python has them, the same for good: IDNA is defined by that version. Those
    made by rule, of ideographs and syllables by number, are left out.
    """
    every = (unicodedata.ucd_3_2_0.name(chr(code), "") for code in range(0x110000))
    by_rule = ("CJK ", "HANGUL SYLLABLE ", "YI SYLLABLE ")
    names = (name for name in every if name and not name.startswith(by_rule))
    scattered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return "".join(f"{name}\n" for name in scattered)


def _images(dataset: str, count: int, data_dir: DataDir) -> tuple[Examples, Examples]:
    data = image_data.load(dataset, data_dir)
    train, test = slice(count), slice(TEST_EXAMPLES)
    return (
        (jnp.asarray(data.x_train[train]), jnp.asarray(data.y_train[train])),
        (jnp.asarray(data.x_test[test]), jnp.asarray(data.y_test[test])),
    )


def mlp_task(data_dir: DataDir = None) -> Task:
    """784-256-256-10 on MNIST."""
    train, test = _images("mnist", TRAIN_EXAMPLES["mlp-mnist"], data_dir)
    return Task("mnist", "mlp", mlp((784, 256, 256, 10)), train, test)


def dnn_task(dataset: str, data_dir: DataDir = None) -> Task:
    """The light convolution net."""
    train, test = _images(dataset, TRAIN_EXAMPLES[f"dnn-{dataset}"], data_dir)
    height, width, channels = train[0].shape[1:]
    net = dnn((height, width, channels), n_classes=10)

    def logits(params: Any, images: jax.Array) -> jax.Array:
        return net.apply(params, to_inputs(images), jax.random.key(0))  # unused

    return Task(dataset, "dnn", Net(net.init, logits), train, test)


def attention_task(data_dir: DataDir = None) -> Task:
    """The attention net on `unicode_names`, whose tail is for tests."""
    del data_dir
    characters, codes = np.unique(list(unicode_names()), return_inverse=True)
    starts = np.arange(0, len(codes) - CONTEXT, CONTEXT)
    windows = jnp.asarray(codes[starts[:, None] + np.arange(CONTEXT + 1)], jnp.uint8)
    inputs, labels = windows[:, :-1], windows[:, 1:].astype(jnp.int32)
    train, test = slice(TRAIN_EXAMPLES["attention"]), slice(-TEST_EXAMPLES, None)
    return Task(
        "unicode-names",
        "attention",
        attention(len(characters)),
        (inputs[train], labels[train]),
        (inputs[test], labels[test]),
    )


TASKS: Mapping[str, Callable[[DataDir], Task]] = {
    "mlp-mnist": mlp_task,
    "dnn-mnist": partial(dnn_task, "mnist"),
    "dnn-cifar10": partial(dnn_task, "cifar10"),
    "attention": attention_task,
}


# Training -----------------------------------------------------------------------------


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
