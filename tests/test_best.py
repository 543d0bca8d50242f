"""The best parameters, with the loss that is theirs, wherever they are kept."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dsa_optax
import dsa_optax.linen
from dsa_optax import best, keep_best


@pytest.fixture(autouse=True, scope="module")
def strict_and_64_bit():
    """Flax and Optax's own optimizers promote dtypes silently."""


def loss(params):
    """Whose descent at a rate of 0.45 jumps to and fro."""
    return jnp.sum(jnp.abs(params["w"] - 1)) + (params["b"] - 2) ** 2


def start():
    return {"w": jnp.array([0.0, 3.0]), "b": jnp.array(0.0)}


NOISY = optax.sgd(0.45)
AUTO = dsa_optax.auto_dsa()


def chained(kept):
    return optax.chain(optax.clip(1.0), kept, optax.scale(0.9))


WRAPPED = {
    "bare": keep_best(NOISY),
    "in a chain": chained(keep_best(NOISY)),
    "around a chain": keep_best(chained(NOISY)),
    "below finite": optax.apply_if_finite(keep_best(NOISY), 5),
    "around auto_dsa": keep_best(AUTO),
    "around dsa": keep_best(dsa_optax.dsa(init_log2_lr=-2.0)),
    "around lbfgs": keep_best(optax.lbfgs()),
    "in two stages": keep_best(dsa_optax.two_stage(NOISY, dsa_optax.dsa(), 10)),
}


@functools.cache
def step_of(tx):
    """One for all tests, so that none compiles it anew."""
    return dsa_optax.make_train_step(loss, tx)


@pytest.mark.parametrize("tx", WRAPPED.values(), ids=WRAPPED)
def test_the_best_of_a_run_of_donating_steps(tx):
    params, state = start(), jax.tree.map(jnp.array, tx.init(start()))
    step = step_of(tx)
    lowest, where = np.inf, None
    for _ in range(25):
        here = jax.tree.map(np.array, params)
        params, state, value = step(params, state)
        if value < lowest:
            lowest, where = float(value), here
    assert best(state).value == lowest
    np.testing.assert_allclose(loss(best(state).params), lowest, rtol=1e-6)
    chex.assert_trees_all_equal(best(state).params, where)


@pytest.mark.parametrize(("tx", "kept"), [(NOISY, "bare"), (AUTO, "around auto_dsa")])
def test_it_changes_no_step(tx, kept):
    ends = []
    for one in (tx, WRAPPED[kept]):
        params, state = start(), one.init(start())
        for _ in range(5):
            params, state, _ = step_of(one)(params, state)
        ends.append(params)
    chex.assert_trees_all_equal(*ends)


def test_in_a_scan():
    tx = WRAPPED["bare"]

    def body(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    (_, state), values = jax.lax.scan(body, (start(), tx.init(start())), length=25)
    assert best(state).value == jnp.min(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_the_best(bad):
    tx = keep_best(optax.sgd(0.1))
    params, state = start(), tx.init(start())
    assert best(state).value == np.inf
    for value in (bad, 3.0, bad):
        _, state = tx.update(params, state, params, value=value)
    assert best(state).value == 3


def test_of_a_train_state():
    model = nn.Dense(1)
    x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    params = {"kernel": jnp.array([[-0.5]]), "bias": jnp.zeros(1)}
    state = dsa_optax.linen.TrainState.create(
        apply_fn=model.apply, params=params, tx=keep_best(optax.sgd(1.2))
    )

    def loss(params):
        return jnp.mean((model.apply({"params": params}, x) - 3 * x - 1) ** 2)

    @jax.jit
    def step(state):
        value, grads = jax.value_and_grad(loss)(state.params)
        extra_args = {"value": value}
        return state.apply_gradients(grads=grads, extra_args=extra_args), value

    values = []
    for _ in range(10):
        state, value = step(state)
        values.append(value)
    found = best(state)
    assert found.value == min(values)
    np.testing.assert_allclose(found.value, loss(found.params), rtol=1e-6)


def test_of_an_nnx_optimizer():
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, keep_best(optax.sgd(0.9)), wrt=nnx.Param)
    x = jnp.linspace(-1, 1, 8)[:, None]

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(
            lambda model: jnp.mean((model(x) - 3 * x - 1) ** 2)
        )(model)
        optimizer.update(model, grads, value=value)
        return value

    values = [step(model, optimizer) for _ in range(10)]
    found = best(nnx.as_pure(optimizer.opt_state))
    assert found.value == min(values)
    nnx.update(model, found.params)
    np.testing.assert_allclose(step(model, optimizer), found.value, rtol=1e-6)


@pytest.mark.parametrize("missing", ["params", "value"])
def test_what_it_needs(missing):
    tx = keep_best(optax.sgd(0.1))
    given = {"params": start(), "value": 1.0}
    del given[missing]
    with pytest.raises(ValueError, match="value=value"):
        tx.update(start(), tx.init(start()), **given)


def test_there_must_be_one():
    with pytest.raises(ValueError, match="holds 0: write tx"):
        best(optax.adam(0.1).init(start()))
    two = optax.chain(keep_best(optax.sgd(0.1)), keep_best(optax.sgd(0.1)))
    with pytest.raises(ValueError, match="holds 2"):
        best(two.init(start()))
