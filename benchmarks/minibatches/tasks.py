"""What the mini-batch race trains: small nets on images and on text.

The sizes are such that one core trains all rivals in some 35 minutes: the first images
of each data set. All training sets are whole numbers of batches.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.shared.data import images
from benchmarks.shared.data.files import DataDir
from benchmarks.shared.data.images import to_inputs
from benchmarks.shared.models.images import dnn

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
    data = images.load(dataset, data_dir)
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
