"""Models of the race beyond plain nets: with raw units, a memory, or a density."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from benchmarks.shared.problems.parts import (
    Activation,
    Weights,
    cross_entropy,
    init_mlp,
    load_table,
    make_problem,
    mlp,
    runge_kutta,
)
from benchmarks.shared.runner import Problem

Params = dict[str, Any]

# Raw features and targets -------------------------------------------------------------


def diabetes_raw() -> Problem:
    """A net on diabetes in its own units: ages, pressures, a progress of 25 to 346."""
    x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    return _regression(x, y, (16, 16), jax.nn.gelu)


def proline_raw() -> Problem:
    """A net that tells a wine's proline, 278 to 1,680 mg/l, from all else about it."""
    x, _ = datasets.load_wine(return_X_y=True)
    return _regression(x[:, :-1], x[:, -1], (24,), jax.nn.relu)


def _regression(
    x: np.ndarray, y: np.ndarray, hidden: Sequence[int], activation: Activation
) -> Problem:
    inputs, wanted = (jnp.asarray(part, jnp.float32) for part in (x, y))
    return make_problem(
        partial(init_mlp, (x.shape[1], *hidden, 1)),
        lambda p: jnp.mean((mlp(p, inputs, activation)[:, 0] - wanted) ** 2),
    )


# Neural ODEs --------------------------------------------------------------------------


def neural_ode(
    truth: Callable[[jax.Array, jax.Array], jax.Array],
    start: Sequence[float],
    end: float,
    hidden: Sequence[int],
) -> Problem:
    """A net as the field of an ODE, which goes through 30 points of a true path.

    Args:
      truth: the field of the true path.
      start: where both begin.
      end: the time of the last point.
      hidden: sizes of the net's layers.
    """
    first, times = jnp.asarray(start), jnp.linspace(0, end, 30)
    seen = runge_kutta(truth, first, times)

    def loss(params: Weights) -> jax.Array:
        field = lambda state, t: mlp(params, state, jnp.tanh)
        # A step a point, as the net's field is a smooth one.
        return jnp.mean((runge_kutta(field, first, times, between=1) - seen) ** 2)

    return make_problem(partial(init_mlp, (len(start), *hidden, len(start))), loss)


def spiral(state: jax.Array, t: jax.Array) -> jax.Array:
    """Inwards, and slower the nearer to the centre."""
    del t
    return state**3 @ jnp.array([[-0.1, 2.0], [-2.0, -0.1]])


def pendulum(state: jax.Array, t: jax.Array) -> jax.Array:
    """A pendulum with friction."""
    del t
    angle, speed = state
    return jnp.stack([speed, -2 * jnp.sin(angle) - 0.2 * speed])


# Recurrent nets -----------------------------------------------------------------------


def elman_net(hidden: int) -> Problem:
    """Elman's net, which tells the next value of Mackey and Glass's chaotic series."""
    series = _mackey_glass(12 * 25 + 1)
    # Twelve windows side by side, time on the first axis.
    before, after = series[:-1].reshape(12, 25).T, series[1:].reshape(12, 25).T
    kernel = jax.nn.initializers.glorot_normal()
    shapes = {"in": (1, hidden), "on": (hidden, hidden), "out": (hidden, 1)}

    def init(key: jax.Array) -> Params:
        return _init_kernels(shapes, kernel, key) | {"bias": jnp.zeros(hidden)}

    def loss(p: Params) -> jax.Array:
        def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = jnp.tanh(x[:, None] @ p["in"] + state @ p["on"] + p["bias"])
            return state, (state @ p["out"])[:, 0]

        told = jax.lax.scan(step, jnp.zeros((12, hidden)), before)[1]
        return jnp.mean((told - after) ** 2)

    return make_problem(init, loss)


def gated_net(hidden: int, rows: int) -> Problem:
    """A GRU that reads a digit's eight pixel rows from the top and names the digit."""
    x, y = load_table("digits", standardised=False)
    series, y = x[:rows].reshape(-1, 8, 8).swapaxes(0, 1) / 16, y[:rows]
    kernel = jax.nn.initializers.glorot_normal()
    shapes = {
        "gates": (8 + hidden, 2 * hidden),
        "new": (8 + hidden, hidden),
        "head": (hidden, 10),
    }

    def init(key: jax.Array) -> Params:
        biases = {"gates_bias": jnp.zeros(2 * hidden), "new_bias": jnp.zeros(hidden)}
        return _init_kernels(shapes, kernel, key) | biases

    def loss(p: Params) -> jax.Array:
        def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            both = jnp.concatenate([x, state], axis=1) @ p["gates"] + p["gates_bias"]
            reset, keep = jnp.split(jax.nn.sigmoid(both), 2, axis=1)
            seen = jnp.concatenate([x, reset * state], axis=1)
            new = jnp.tanh(seen @ p["new"] + p["new_bias"])
            return keep * state + (1 - keep) * new, None

        last, _ = jax.lax.scan(step, jnp.zeros((rows, hidden)), series)
        return cross_entropy(last @ p["head"], y)

    return make_problem(init, loss)


def _init_kernels(
    shapes: dict[str, tuple[int, int]], kernel: Callable[..., Any], key: jax.Array
) -> Params:
    keys = jax.random.split(key, len(shapes))
    return {
        name: kernel(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _mackey_glass(length: int, lag: int = 17, between: int = 6) -> jax.Array:
    """Every sixth value of the series, standardised."""
    values = [1.2] * (lag + 1)
    for _ in range(length * between):
        late = values[-lag - 1]
        values.append(0.9 * values[-1] + 0.2 * late / (1 + late**10))
    series = np.array(values[-length * between :: between])
    return jnp.asarray((series - series.mean()) / series.std(), jnp.float32)


# Densities ----------------------------------------------------------------------------


def moons_flow() -> Problem:
    """A flow on scikit-learn's two moons."""
    return _flow(datasets.make_moons(300, noise=0.1, random_state=0)[0], 4, 24)


def wine_flow() -> Problem:
    """A flow on the 13 features of wine."""
    return _flow(datasets.load_wine(return_X_y=True)[0], 4, 12)


def _flow(x: np.ndarray, layers: int, hidden: int) -> Problem:
    """RealNVP's affine couplings on standardised rows: the negative log likelihood."""
    rows = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0), jnp.float32)
    size = x.shape[1]
    half = size // 2
    sizes = (half, hidden, 2 * (size - half))

    def init(key: jax.Array) -> list[Weights]:
        return [init_mlp(sizes, k) for k in jax.random.split(key, layers)]

    def loss(params: list[Weights]) -> jax.Array:
        z, stretched = rows, jnp.zeros(len(rows))
        for layer in params:
            kept, moved = z[:, :half], z[:, half:]
            scale, shift = jnp.split(mlp(layer, kept, jnp.tanh), 2, axis=1)
            # Bounded, as in the paper, lest the likelihood be.
            scale = jnp.tanh(scale)
            # What was moved comes first, and so is kept by the next layer.
            z = jnp.concatenate([moved * jnp.exp(scale) + shift, kept], axis=1)
            stretched += jnp.sum(scale, axis=1)
        squares = jnp.sum(z**2, axis=1)
        return jnp.mean(squares / 2 - stretched) + size / 2 * np.log(2 * np.pi)

    return make_problem(init, loss)


def digits_vae(code: int) -> Problem:
    """A variational autoencoder on the pixels of 200 digits, each a share of ink."""
    x, _ = load_table("digits", standardised=False)
    off = lambda logits, x: optax.sigmoid_binary_cross_entropy(logits, x)
    return _variational(x[:200] / 16, code, 16, off)


def cancer_vae(code: int) -> Problem:
    """A variational autoencoder on 200 rows of breast cancer, with Gaussian noise."""
    x, _ = load_table("breast_cancer", standardised=True)
    return _variational(x[:200], code, 12, lambda mean, x: (mean - x) ** 2 / 2)


def _variational(
    x: jax.Array,
    code: int,
    hidden: int,
    off: Callable[[jax.Array, jax.Array], jax.Array],
) -> Problem:
    """The negative evidence bound a row, the codes' noise drawn once and for all.

    Args:
      x: the rows.
      code: its length.
      hidden: the size of the one layer on each side.
      off: from the decoder's outputs and x to the negative log likelihood of each.
    """
    noise = jax.random.normal(jax.random.key(1), (len(x), code))
    size = x.shape[1]

    def init(key: jax.Array) -> Params:
        one, two = jax.random.split(key)
        return {
            "encoder": init_mlp((size, hidden, 2 * code), one),
            "decoder": init_mlp((code, hidden, size), two),
        }

    def loss(p: Params) -> jax.Array:
        mean, log_std = jnp.split(mlp(p["encoder"], x, jnp.tanh), 2, axis=1)
        decoded = mlp(p["decoder"], mean + jnp.exp(log_std) * noise, jnp.tanh)
        divergence = (mean**2 + jnp.exp(2 * log_std) - 1) / 2 - log_std
        return jnp.mean(off(decoded, x).sum(axis=1) + divergence.sum(axis=1))

    return make_problem(init, loss)
