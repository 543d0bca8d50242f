"""Nets on tables and images: regression, classification, an autoencoder, attention."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from sklearn.model_selection import train_test_split

from benchmarks.shared.problems.parts import (
    Activation,
    Weights,
    cross_entropy,
    init_mlp,
    load_table,
    make_problem,
    mlp,
)
from benchmarks.shared.runner import Problem


def tabular_net(
    name: str, hidden: Sequence[int], activation: Activation, standardised: bool
) -> Problem:
    """A net that tells the classes of a table apart; tested on a fifth of the rows."""
    table = load_table(name, standardised)
    x, x_test, y, y_test = train_test_split(*table, test_size=0.2, random_state=0)
    sizes = (x.shape[1], *hidden, int(y.max()) + 1)
    logits = partial(mlp, activation=activation)
    return make_problem(
        partial(init_mlp, sizes),
        lambda p: cross_entropy(logits(p, x), y),
        lambda p: jnp.mean(jnp.argmax(logits(p, x_test), axis=-1) == y_test),
    )


def tabular_regression(hidden: Sequence[int], activation: Activation) -> Problem:
    """A net on scikit-learn's diabetes table, standardised on both sides."""
    x, y = load_table("diabetes", standardised=True)
    y = (y - y.mean()) / y.std()
    sizes = (x.shape[1], *hidden, 1)
    return make_problem(
        partial(init_mlp, sizes),
        lambda p: jnp.mean((mlp(p, x, activation)[:, 0] - y) ** 2),
    )


def logistic_regression(name: str, ridge: float, standardised: bool = True) -> Problem:
    """Softmax regression with a ridge penalty: convex, its optimum above zero."""
    x, y = load_table(name, standardised)
    sizes = (x.shape[1], int(y.max()) + 1)

    def loss(params: Weights) -> jax.Array:
        penalty = jnp.sum(params[0]["w"] ** 2)
        return cross_entropy(mlp(params, x, jnp.tanh), y) + ridge / 2 * penalty

    return make_problem(partial(init_mlp, sizes), loss)


def autoencoder(code: int, activation: Activation) -> Problem:
    """Digits of 8×8 pixels through a bottleneck and back; mean squared error."""
    x, _ = load_table("digits", standardised=False)
    x = x[:600] / 16
    return make_problem(
        partial(init_mlp, (64, 32, code, 32, 64)),
        lambda p: jnp.mean((mlp(p, x, activation) - x) ** 2),
    )


def convolution_net(channels: int, rows: int) -> Problem:
    """Two 3×3 convolutions and a linear layer on digits."""
    x, y = load_table("digits", standardised=False)
    x, y = x[:rows].reshape(-1, 8, 8, 1) / 16, y[:rows]
    kernel = jax.nn.initializers.he_normal()

    def init(key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        return {
            "first": {"kernel": kernel(keys[0], (3, 3, 1, channels))},
            "second": {"kernel": kernel(keys[1], (3, 3, channels, channels))},
            "linear": kernel(keys[2], (4 * channels, 10)),
            "bias": jnp.zeros(10),
        }

    def convolve(x: jax.Array, layer: Mapping[str, jax.Array]) -> jax.Array:
        # As patches times kernel: in a scan, XLA's own convolution is slow on the CPU.
        size = x.shape[1] - 2
        parts = [
            x[:, i : i + size, j : j + size] @ layer["kernel"][i, j]
            for i in range(3)
            for j in range(3)
        ]
        return jax.nn.relu(sum(parts, jnp.zeros(())))

    def loss(params: dict[str, Any]) -> jax.Array:
        hidden = convolve(convolve(x, params["first"]), params["second"])
        pooled = hidden.reshape(-1, 2, 2, 2, 2, channels).mean(axis=(2, 4))
        logits = pooled.reshape(len(x), -1) @ params["linear"] + params["bias"]
        return cross_entropy(logits, y)

    return make_problem(init, loss)


def attention_net(width: int, rows: int) -> Problem:
    """One block of self-attention over the eight pixel rows of a digit."""
    x, y = load_table("digits", standardised=False)
    x, y = x[:rows].reshape(-1, 8, 8) / 16, y[:rows]
    kernel = jax.nn.initializers.glorot_normal()
    shapes = {
        "embed": (8, width),
        "place": (8, width),
        "query": (width, width),
        "key": (width, width),
        "values": (width, width),
        "up": (width, 2 * width),
        "down": (2 * width, width),
        "head": (width, 10),
    }

    def init(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(shapes))
        return {
            name: kernel(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def norm(h: jax.Array) -> jax.Array:
        return jax.nn.standardize(h, axis=-1, epsilon=1e-5)

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        h = x @ p["embed"] + p["place"]
        seen = norm(h)
        scores = (seen @ p["query"]) @ (seen @ p["key"]).mT / width**0.5
        h = h + jax.nn.softmax(scores) @ (seen @ p["values"])
        h = h + jax.nn.gelu(norm(h) @ p["up"]) @ p["down"]
        return cross_entropy(norm(h).mean(axis=1) @ p["head"], y)

    return make_problem(init, loss)
