"""Small deterministic problems, each with a JAX loss and a NumPy gradient.

The loss takes a dict of arrays, the gradient the same parameters as one flat vector
in the order of `jax.tree.leaves`. The last leaf of each, "unused", never enters the
loss, so that its gradient is always zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsa_optax._norms import sizes
from dsa_optax._packed import layout_of
from dsa_optax._step_back import Verdict
from dsa_optax._trees import widest


@dataclass(frozen=True)
class Problem:
    """A loss on a dict of arrays, and its gradient on the flat vector."""

    name: str
    start: dict[str, np.ndarray]
    loss: Callable
    gradient: Callable

    def params(self, dtype=np.float64):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.start)


def flatten(tree):
    """A tree of arrays as one flat float64 vector."""
    leaves = jax.tree.leaves(tree)
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves])


def flatten_rows(tree):
    """As `flatten`, for leaves with a leading axis of steps: a row per step."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


UNUSED = np.array([0.5, -2.0])

# An anisotropic quadratic, ½ wᵀAw: stiffness from 1 to 100, neighbours coupled.
STIFFNESS = np.array([[1.0, 0.8, 0.0], [0.8, 12.0, 5.0], [0.0, 5.0, 100.0]])


def quadratic_loss(params):
    w = params["coupled"]
    return 0.5 * w @ (jnp.asarray(STIFFNESS, w.dtype) @ w)


def quadratic_gradient(theta):
    return np.concatenate([STIFFNESS @ theta[:3], np.zeros(2)])


# Rosenbrock's valley, with scalar leaves.
def rosenbrock_loss(params):
    x, y = params["across"], params["along"]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_gradient(theta):
    x, y, *_ = theta
    bend = y - x**2
    return np.array([-2 * (1 - x) - 400 * x * bend, 200 * bend, 0.0, 0.0])


# A regression with one hidden layer of three tanh units, full batch.
INPUTS = np.stack([np.linspace(-1, 1, 12), np.cos(3 * np.arange(12.0))], axis=1)
TARGETS = np.sin(2 * INPUTS[:, 0]) + 0.5 * INPUTS[:, 1]


def regression_loss(params):
    inputs = jnp.asarray(INPUTS, params["kernel"].dtype)
    targets = jnp.asarray(TARGETS, params["kernel"].dtype)
    hidden = jnp.tanh(inputs @ params["kernel"] + params["bias"])
    return 0.5 * jnp.mean((hidden @ params["readout"] - targets) ** 2)


def regression_gradient(theta):
    bias, kernel, readout = theta[:3], theta[3:9].reshape(2, 3), theta[9:12]
    hidden = np.tanh(INPUTS @ kernel + bias)
    error = (hidden @ readout - TARGETS) / len(TARGETS)
    slope = np.outer(error, readout) * (1 - hidden**2)
    return np.concatenate(
        [slope.sum(0), (INPUTS.T @ slope).ravel(), hidden.T @ error, np.zeros(2)]
    )


QUADRATIC = Problem(
    "quadratic",
    {"coupled": np.array([3.0, -1.0, 0.4]), "unused": UNUSED},
    quadratic_loss,
    quadratic_gradient,
)
ROSENBROCK = Problem(
    "rosenbrock",
    {"across": np.array(-1.2), "along": np.array(1.0), "unused": UNUSED},
    rosenbrock_loss,
    rosenbrock_gradient,
)
REGRESSION = Problem(
    "regression",
    {
        "bias": np.array([0.1, -0.2, 0.3]),
        "kernel": np.array([[0.9, -0.5, 0.2], [-0.3, 0.7, 0.4]]),
        "readout": np.array([0.6, -0.8, 0.35]),
        "unused": UNUSED,
    },
    regression_loss,
    regression_gradient,
)
PROBLEMS = (QUADRATIC, ROSENBROCK, REGRESSION)


class Unjudged(NamedTuple):
    """What `of_trees` keeps: the params before, the first sizes, the inner state."""

    before: dict | None
    sizes: jax.Array
    inner: NamedTuple


def of_trees(tx):
    """What stands below `stepping_back`, of trees, with no step back."""

    def init(params):
        packed = layout_of(params).pack(params)
        nowhere = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), packed.arrays)
        return Unjudged(nowhere, sizes(packed), tx.init(packed))

    def update(updates, state, params):
        layout = layout_of(params)
        here = layout.pack(params)
        moved = jax.tree.map(_moved, here, layout.of_state(state.before))
        verdict = Verdict(jnp.array(False), jnp.zeros([]), moved, state.sizes)
        steps, inner = tx.update(
            layout.pack(updates), state.inner, here, verdict=verdict
        )
        return layout.unpack(steps), Unjudged(here.arrays, state.sizes, inner)

    return optax.GradientTransformation(init, update)


def _moved(param, before):
    moved = jnp.where(jnp.isnan(before), 0, param - before)
    return moved.astype(widest(param.dtype, jnp.float32))
