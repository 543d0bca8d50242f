"""A change of the inside changes no trajectory: what was recorded before comes again.

`python -m tests.test_recorded` records anew, where a change is meant. Steps are
compiled, in float64, and enough for walls, poles and a memory that wraps round.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax
from dsa_optax import adapt, auto_dsa, blend

RECORD = Path(__file__).with_name("recorded.npz")
STEPS = 40


def sign():
    return optax.stateless(lambda g, _: jax.tree.map(lambda x: -jnp.sign(x), g))


OPTIMIZERS = {
    "auto_dsa": auto_dsa,
    "memory of 10": lambda: auto_dsa(10, matrix_size=0),
    "light": lambda: auto_dsa(0),
    "parameter": lambda: adapt(sign(), "parameter"),
    "tensor": lambda: adapt(optax.sgd(1.0, momentum=0.9), "tensor"),
    "global": lambda: adapt(optax.sgd(1.0), "global"),
    "adam": lambda: adapt(optax.adam(1.0)),
    "muon": lambda: adapt(optax.contrib.muon(1.0)),
    "blend": lambda: blend(
        adapt(optax.sgd(1.0), "global"), adapt(optax.adam(1.0)), optax.sgd(1e-3)
    ),
    "nested": lambda: blend(optax.chain(optax.clip(1e9), auto_dsa(3)), optax.sgd(1e-4)),
    "dsa": dsa_optax.dsa,
}


def net(*widths):
    """A tanh net on 50 rows."""
    random = np.random.default_rng(0)
    params = [
        (jnp.asarray(random.normal(size=(a, b)) / a**0.5), jnp.zeros(b))
        for a, b in itertools.pairwise(widths)
    ]
    x = jnp.asarray(random.normal(size=(50, widths[0])))

    def loss(params):
        h = x
        for w, b in params[:-1]:
            h = jnp.tanh(h @ w + b)
        w, b = params[-1]
        return jnp.mean((h @ w + b - jnp.sin(2 * x[:, :1])) ** 2)

    return params, loss


def squares():
    """Three large leaves of one shape, and small ones."""
    random = np.random.default_rng(0)
    params = {str(i): jnp.asarray(random.normal(size=(160, 160)) / 13) for i in "012"}
    params |= {"b": jnp.zeros(160), "c": jnp.ones(())}
    x = jnp.asarray(random.normal(size=(20, 160)))

    def loss(params):
        h = x
        for i in "012":
            h = h + jnp.tanh(h @ params[i] + params["b"]) * params["c"]
        return jnp.mean((h - jnp.sin(x)) ** 2)

    return params, loss


def wall():
    """A decay whose rate must not become negative: there lies a wall of 10³⁵."""
    times = jnp.linspace(0, 400, 60)
    model = lambda p: p[0] * jnp.exp(-p[1] * times) + p[2]
    truth = jnp.array([1.0, 0.01, 0.1])
    return jnp.array([1.7, 0.0062, 0.17]), lambda p: jnp.mean(
        (model(p) - model(truth)) ** 2
    )


def pole():
    """Infinite at 0, and no number beyond."""
    return jnp.array([100.0, 1e-3]), lambda w: jnp.sum(w - jnp.log(w))


SMALL, MEDIUM = (lambda: net(3, 6, 4, 1)), (lambda: net(4, 40, 40, 1))
CASES = {
    **{f"{name}, small": (name, SMALL) for name in OPTIMIZERS},
    **{f"{name}, wall": (name, wall) for name in ("auto_dsa", "global", "blend")},
    **{f"{name}, pole": (name, pole) for name in ("auto_dsa", "light", "parameter")},
    **{f"{name}, medium": (name, MEDIUM) for name in ("memory of 10", "light")},
    **{f"{name}, large": (name, squares) for name in ("memory of 10", "tensor")},
}


def trajectory(case):
    """The loss before every step, a norm of the rates after it, and the steps back."""
    optimizer, problem = CASES[case]
    tx, (params, loss) = OPTIMIZERS[optimizer](), problem()

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad_fn=jax.grad(loss)
        )
        rates = optax.tree.norm(dsa_optax.learning_rates(state))
        return (optax.apply_updates(params, updates), state), (value, rates)

    run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=STEPS))
    with jax.numpy_dtype_promotion("standard"):  # Optax counts in mixed integers
        (_, state), rows = run(params)
    backs = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state)
        if "backs" in jax.tree_util.keystr(path)
    ]
    return np.stack([*rows, np.full(STEPS, sum(map(int, backs)))])


@pytest.mark.parametrize("case", CASES)
def test_what_was_recorded_comes_again(case):
    found, expected = trajectory(case), np.load(RECORD)[case]
    # Rates are in float32, and a pole magnifies their roundings.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    np.savez_compressed(RECORD, **{case: trajectory(case) for case in CASES})
