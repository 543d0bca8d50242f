"""What the problems of the race are made of: nets, tables, the solution of an ODE."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax
from sklearn import datasets
from sklearn.preprocessing import StandardScaler

from benchmarks.shared.runner import Problem

STEPS_BETWEEN = 8
"""Steps by Runge and Kutta between two points of an ODE's solution."""

Activation = Callable[[jax.Array], jax.Array]
Weights = list[dict[str, jax.Array]]


def make_problem(
    init: Callable[[jax.Array], optax.Params],
    loss: Callable[[optax.Params], jax.Array],
    accuracy: Callable[[optax.Params], jax.Array] = lambda params: jnp.array(jnp.nan),
) -> Problem:
    """A problem of the race, which observes the test accuracy where there is one."""
    return Problem(init, loss, accuracy)


def init_mlp(sizes: Sequence[int], key: jax.Array) -> Weights:
    """Glorot's normal kernels, biases of zero."""
    kernel = jax.nn.initializers.glorot_normal()
    pairs = list(pairwise(sizes))
    return [
        {"w": kernel(k, pair), "b": jnp.zeros(pair[1])}
        for k, pair in zip(jax.random.split(key, len(pairs)), pairs, strict=True)
    ]


def mlp(layers: Weights, x: jax.Array, activation: Activation) -> jax.Array:
    """The net's outputs, no activation on the last layer."""
    for layer in layers[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over the rows."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def load_table(name: str, standardised: bool) -> tuple[jax.Array, jax.Array]:
    """Features and labels of a table of scikit-learn's."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = StandardScaler().fit_transform(x) if standardised else x
    return jnp.asarray(x, jnp.float32), jnp.asarray(y)


def runge_kutta(
    field: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    times: jax.Array,
    between: int = STEPS_BETWEEN,
) -> jax.Array:
    """The states at evenly spaced times, by the classical method.

    An adaptive step would stand still where a bad optimizer has taken the params.

    Args:
      field: from a state and a time to the state's slope.
      start: the first state.
      times: the first is the start's.
      between: steps from one time to the next.
    """
    h = (times[1] - times[0]) / between

    def step(i: jax.Array, state: jax.Array, begin: jax.Array) -> jax.Array:
        t = begin + i * h
        one = field(state, t)
        two = field(state + h / 2 * one, t + h / 2)
        three = field(state + h / 2 * two, t + h / 2)
        four = field(state + h * three, t + h)
        return state + h / 6 * (one + 2 * two + 2 * three + four)

    def interval(state: jax.Array, begin: jax.Array) -> tuple[jax.Array, jax.Array]:
        end = jax.lax.fori_loop(0, between, lambda i, x: step(i, x, begin), state)
        return end, end

    states = jax.lax.scan(interval, start, times[:-1])[1]
    return jnp.concatenate([start[None], states])
