"""What the mini-batch race trains: small nets on images and on text.

Training sets are cut to the first images, or to some windows of a text, so that two
cores can train a whole grid; each is a whole number of batches. Test sets are whole.
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
from benchmarks.shared.data import text as shakespeare
from benchmarks.shared.data.files import DataDir
from benchmarks.shared.data.images import to_inputs
from benchmarks.shared.models.images import dnn

BATCH_SIZE = 128

CONTEXT = 32
"""Characters that the attention nets see."""

TEST_WINDOWS = 2000

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
    """A net, what it is trained and tested on, and for how long.

    Attributes:
      dataset: its name in the records.
      model: the net's name in the records.
      net: the net.
      train: a whole number of batches.
      test: examples that are in no batch.
      epochs: how often each example is seen.
      looks: tests on the way, of which the last is at the end.
      batch_size: examples in a batch.
      screened: whether only rates that matter have more than one seed: the default,
        and the best with each schedule on the first seed.
    """

    dataset: str
    model: str
    net: Net
    train: Examples
    test: Examples
    epochs: int = 5
    looks: int = 5
    batch_size: int = BATCH_SIZE
    screened: bool = False

    @property
    def steps(self) -> int:
        """Updates in all."""
        return len(self.train[0]) // self.batch_size * self.epochs

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
    characters: int,
    context: int = CONTEXT,
    width: int = 64,
    heads: int = 2,
    blocks: int = 1,
) -> Net:
    """Blocks of causal self-attention, which foretell each next character.

    Args:
      characters: how many there are.
      context: the most that are seen at once.
      width: of the residual stream.
      heads: of the attention.
      blocks: how many.
    """
    block = {
        "query": (width, width),
        "key": (width, width),
        "value": (width, width),
        "mix": (width, width),
        "up": (width, 2 * width),
        "down": (2 * width, width),
    }
    shapes = {
        "embed": (characters, width),
        "place": (context, width),
        **{f"{n}_{i}": shape for i in range(blocks) for n, shape in block.items()},
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

    def attend(p: dict[str, jax.Array], i: int, h: jax.Array) -> jax.Array:
        seen = norm(h)
        query, key, value = (
            (seen @ p[f"{name}_{i}"]).reshape(*h.shape[:2], heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return h + mixed.reshape(h.shape) @ p[f"mix_{i}"]

    def logits(p: dict[str, jax.Array], text: jax.Array) -> jax.Array:
        h = p["embed"][text] + p["place"][: text.shape[1]]
        for i in range(blocks):
            h = attend(p, i, h)
            h = h + jax.nn.relu(norm(h) @ p[f"up_{i}"]) @ p[f"down_{i}"]
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
    train = slice(count)
    return (
        (jnp.asarray(data.x_train[train]), jnp.asarray(data.y_train[train])),
        (jnp.asarray(data.x_test), jnp.asarray(data.y_test)),
    )


def mlp_task(data_dir: DataDir = None) -> Task:
    """784-256-256-10 on MNIST."""
    train, test = _images("mnist", 80 * BATCH_SIZE, data_dir)
    return Task("mnist", "mlp", mlp((784, 256, 256, 10)), train, test)


def long_mlp_task(data_dir: DataDir = None) -> Task:
    """196-64-64-10 on all of MNIST, every second row and column, for 10,296 steps."""
    every = _images("mnist", 468 * BATCH_SIZE, data_dir)
    train, test = ((images[:, ::2, ::2], labels) for images, labels in every)
    net = mlp((196, 64, 64, 10))
    return Task("mnist", "mlp, 22 epochs", net, train, test, epochs=22)


def dnn_task(dataset: str, data_dir: DataDir = None) -> Task:
    """The light convolution net."""
    train, test = _images(dataset, 40 * BATCH_SIZE, data_dir)
    height, width, channels = train[0].shape[1:]
    net = dnn((height, width, channels), n_classes=10)

    def logits(params: Any, images: jax.Array) -> jax.Array:
        return net.apply(params, to_inputs(images), jax.random.key(0))  # unused

    return Task(dataset, "dnn", Net(net.init, logits), train, test, looks=2)


def _windows(text: str) -> tuple[int, Examples]:
    """How many characters there are, and windows whose labels are the next ones."""
    characters, codes = np.unique(list(text), return_inverse=True)
    starts = np.arange(0, len(codes) - CONTEXT, CONTEXT)
    windows = jnp.asarray(codes[starts[:, None] + np.arange(CONTEXT + 1)], jnp.uint8)
    return len(characters), (windows[:, :-1], windows[:, 1:].astype(jnp.int32))


def _text_task(dataset: str, text: str, windows: int, epochs: int, blocks: int) -> Task:
    """An attention net on the head of a text, whose tail is for tests."""
    characters, examples = _windows(text)
    train, test = slice(windows), slice(-TEST_WINDOWS, None)
    name = f"attention, {epochs} epochs"
    return Task(
        dataset,
        name,
        attention(characters, blocks=blocks),
        (examples[0][train], examples[1][train]),
        (examples[0][test], examples[1][test]),
        epochs,
        min(epochs, 5),
    )


def names_task(data_dir: DataDir = None) -> Task:
    """One block on `unicode_names`."""
    del data_dir
    return _text_task("unicode-names", unicode_names(), 32 * BATCH_SIZE, 5, blocks=1)


def shakespeare_task(data_dir: DataDir = None, *, epochs: int) -> Task:
    """Two blocks on Tiny Shakespeare."""
    text = shakespeare.load(data_dir)
    task = _text_task("shakespeare", text, 64 * BATCH_SIZE, epochs, blocks=2)
    return task._replace(screened=epochs > 2)  # a run of 20 takes a minute


TASKS: Mapping[str, Callable[[DataDir], Task]] = {
    "mlp-mnist": mlp_task,
    "mlp-mnist-long": long_mlp_task,
    "dnn-mnist": partial(dnn_task, "mnist"),
    "dnn-fashion": partial(dnn_task, "fashion-mnist"),
    "dnn-cifar10": partial(dnn_task, "cifar10"),
    "names": names_task,
    "shakespeare-2": partial(shakespeare_task, epochs=2),
    "shakespeare-20": partial(shakespeare_task, epochs=20),
}
