"""`two_stage`: the trajectory of two loops, and no probe before the switch."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SWITCH, STEPS = 7, 20
SECONDS = {
    "dsa": dsa_optax.dsa,
    "chain": lambda: optax.chain(optax.clip(1.0), dsa_optax.dsa(-5.0)),
    "lbfgs": optax.lbfgs,
    "adam": lambda: optax.adam(0.1),
}


def make_params():
    return {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(0.3)}


def loss(params):
    stretched = jnp.array([1.0, 10.0, 100.0]) * (params["w"] - params["b"])
    return jnp.sum(stretched**2) + (params["b"] - 1) ** 4


def train(tx, params, steps, jitted=True):
    """The params and the state after these many steps, from a new state."""
    tx = optax.with_extra_args_support(tx)

    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        return optax.apply_updates(params, updates), state

    step, state = jax.jit(step) if jitted else step, tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def separate_loops(first, second, switch, steps, jitted=True):
    params, _ = train(first, make_params(), switch, jitted)
    return train(second, params, steps - switch, jitted)


@pytest.mark.parametrize(
    "name", ["dsa", "chain", "adam", pytest.param("lbfgs", marks=pytest.mark.slow)]
)
def test_it_is_two_loops_bit_for_bit(name):
    """Outside jit, where XLA can't round differently in a different program."""
    first, second = optax.adamax(0.05), SECONDS[name]()
    tx = dsa_optax.two_stage(first, second, SWITCH)
    params, state = train(tx, make_params(), STEPS, jitted=False)
    expected, second_state = separate_loops(first, second, SWITCH, STEPS, jitted=False)
    chex.assert_trees_all_equal(params, expected)
    chex.assert_trees_all_equal(state.second, second_state)
    assert state.count == STEPS


@pytest.mark.parametrize("name", SECONDS)
def test_under_jit_it_is_two_loops_within_rounding(name):
    first, second = optax.adamax(0.05), SECONDS[name]()
    with jax.enable_x64(True):
        tx = dsa_optax.two_stage(first, second, SWITCH)
        params, _ = train(tx, make_params(), STEPS)
        expected, _ = separate_loops(first, second, SWITCH, STEPS)
        chex.assert_trees_all_close(params, expected, rtol=1e-9)


@pytest.mark.parametrize("switch", [0, STEPS])
def test_a_switch_at_either_end_leaves_one_optimizer(switch):
    first, second = optax.adamax(0.05), dsa_optax.dsa()
    tx = dsa_optax.two_stage(first, second, switch)
    params, _ = train(tx, make_params(), STEPS, jitted=False)
    expected, _ = separate_loops(first, second, switch, STEPS, jitted=False)
    chex.assert_trees_all_equal(params, expected)


@pytest.mark.parametrize("jitted", [False, True])
def test_the_probe_is_not_evaluated_before_the_switch(jitted):
    calls = []
    tx = dsa_optax.two_stage(optax.adamax(0.05), dsa_optax.dsa(), SWITCH)

    def grad_fn(params):
        jax.debug.callback(lambda: calls.append(None))
        return jax.grad(loss)(params)

    def step(params, state):
        updates, state = tx.update(
            jax.grad(loss)(params), state, params, grad_fn=grad_fn
        )
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jitted else step
    params = make_params()
    state = tx.init(params)
    counts = []
    for _ in range(STEPS):
        params, state = step(params, state)
        jax.effects_barrier()
        counts.append(len(calls))
    assert counts == [0] * SWITCH + list(range(1, STEPS - SWITCH + 1))


def test_outside_jit_the_grad_fn_may_read_from_the_host():
    tx = dsa_optax.two_stage(optax.adamax(0.05), dsa_optax.dsa(), 1)
    params = make_params()
    state = tx.init(params)

    def grad_fn(params):
        return jax.tree.map(lambda p: np.sign(np.asarray(p)), params)

    for _ in range(3):
        _, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
    assert state.second.count == 2


def test_it_compiles_once_scans_and_vmaps():
    tx = dsa_optax.two_stage(optax.adamax(0.05), dsa_optax.dsa(), SWITCH)

    @jax.jit
    @chex.assert_max_traces(1)
    def run(params):
        step = dsa_optax.make_train_step(loss, tx, donate=False)
        body = lambda carry, _: (step(*carry)[:2], None)
        return jax.lax.scan(body, (params, tx.init(params)), length=STEPS)[0][0]

    expected, _ = separate_loops(optax.adamax(0.05), dsa_optax.dsa(), SWITCH, STEPS)
    chex.assert_trees_all_close(run(make_params()), expected, rtol=1e-6)
    two = jax.tree.map(lambda p: jnp.stack([p, p]), make_params())
    found = jax.vmap(run)(two)
    chex.assert_trees_all_close(
        jax.tree.map(lambda p: p[1], found), expected, rtol=1e-6
    )


def test_the_rates_can_be_read():
    tx = dsa_optax.two_stage(optax.adamax(0.05), dsa_optax.dsa(), SWITCH)
    state = tx.init(make_params())
    rates = dsa_optax.learning_rates(state)
    chex.assert_trees_all_equal_shapes(rates, make_params())
    assert dsa_optax.summary(state)["w"].grew == 0


def test_a_traced_switch_step_does():
    def final(switch):
        tx = dsa_optax.two_stage(optax.adamax(0.05), dsa_optax.dsa(), switch)
        step = dsa_optax.make_train_step(loss, tx, donate=False)
        params = make_params()
        state = tx.init(params)
        for _ in range(4):
            params, state, _ = step(params, state)
        return params

    found = jax.jit(final)(2)
    expected, _ = separate_loops(optax.adamax(0.05), dsa_optax.dsa(), 2, 4)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


@pytest.mark.parametrize("switch", [1.5, "10", None])
def test_a_switch_step_that_is_no_integer(switch):
    with pytest.raises(TypeError, match=r"`switch_step` must be an integer.*=100"):
        dsa_optax.two_stage(optax.adam(0.1), dsa_optax.dsa(), switch)


def test_bad_input():
    with pytest.raises(ValueError, match="`switch_step` must be finite and at least 0"):
        dsa_optax.two_stage(optax.adam(0.1), dsa_optax.dsa(), -1)
    tx = dsa_optax.two_stage(optax.adam(0.1), dsa_optax.dsa(), 1)
    state = tx.init(make_params())
    with pytest.raises(ValueError, match=re.escape("`params` are missing")):
        tx.update(make_params(), state)
    _, state = tx.update(make_params(), state, make_params())
    with pytest.raises(ValueError, match="`grad_fn` is missing"):
        tx.update(make_params(), state, make_params())
