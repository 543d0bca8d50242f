"""What the four optimizers promise as Optax transformations."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax
from dsa_optax.paper import basic_dsa, exponential_dsa, parameterwise_dsa

FACTORIES = {
    "dsa": dsa_optax.dsa,
    "exponential_dsa": exponential_dsa,
    "parameterwise_dsa": lambda **kw: parameterwise_dsa(0.01, 0.01, **kw),
    "basic_dsa": lambda **kw: basic_dsa(0.01, 0.01, **kw),
}


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]


def make_params(dtype=jnp.float32):
    return {
        "w": jnp.asarray(np.linspace(-1, 1, 6).reshape(2, 3), dtype),
        "b": jnp.asarray(0.5, dtype),
        "none": None,
        "empty": jnp.asarray(np.zeros((0, 3)), dtype),
    }


def loss(params):
    leaves = jax.tree.leaves(params)
    return sum(jnp.sum((leaf - 1) ** 2) for leaf in leaves).astype(jnp.float32)


@partial(jax.jit, static_argnums=(0, 2))
def run(tx, params, steps=3):
    """Params and state after some updates, compiled as one: eager ones take longer."""

    def step(_, carry):
        params, state = carry
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params, grad_fn=jax.grad(loss))
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))


def distance(params):
    """The loss, by NumPy."""
    return sum(np.sum((np.float64(leaf) - 1) ** 2) for leaf in jax.tree.leaves(params))


def dtypes_of_rates(state):
    rates = jax.eval_shape(dsa_optax.learning_rates, state)
    return {rate.dtype for rate in jax.tree.leaves(rates)}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_updates_keep_the_params_dtype_and_rates_are_float32(factory, dtype):
    params, state = run(factory(), make_params(dtype), 30)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, make_params(dtype))
    assert dtypes_of_rates(state) == {jnp.dtype(jnp.float32)}
    assert distance(params) < distance(make_params(dtype))


def test_state_dtype_is_the_dtype_of_the_rates(factory):
    _, state = run(factory(state_dtype=jnp.bfloat16), make_params())
    assert dtypes_of_rates(state) == {jnp.dtype(jnp.bfloat16)}


def test_state_keeps_structure_and_dtypes_over_updates(factory):
    tx, params = factory(), make_params()
    _, state = run(tx, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        state, jax.eval_shape(tx.init, params)
    )
    assert int(state.count) == 3


def test_one_trace_of_grad_fn_and_one_compilation(factory):
    traces, compilations = 0, 0
    tx = factory()

    def grad_fn(params):
        nonlocal traces
        traces += 1
        return jax.grad(loss)(params)

    @jax.jit
    def step(params, state):
        nonlocal compilations
        compilations += 1
        updates, state = tx.update(
            jax.grad(loss)(params), state, params, grad_fn=grad_fn
        )
        return optax.apply_updates(params, updates), state

    params = make_params()
    state = tx.init(params)
    for _ in range(4):
        params, state = step(params, state)
    assert (traces, compilations) == (1, 1)


def updates_with(tx, *extras):
    """The first update with each of these extra arguments."""

    @jax.jit
    def first(params):
        state, grads = tx.init(params), jax.grad(loss)(params)
        return [tx.update(grads, state, params, **extra) for extra in extras]

    return first(make_params())


def test_value_fn_is_as_good_as_grad_fn_and_grad_fn_wins(factory):
    grad_fn = jax.grad(loss)
    by_grad, by_value, both = updates_with(
        factory(),
        {"grad_fn": grad_fn},
        {"value_fn": loss},
        {"grad_fn": grad_fn, "value_fn": lambda p: -loss(p)},
    )
    chex.assert_trees_all_equal(by_grad, by_value, both)


def test_unknown_extra_arguments_are_ignored(factory):
    plain, extra = updates_with(
        factory(),
        {"value_fn": loss},
        {"value_fn": loss, "value": 1.0, "anything": "else"},
    )
    chex.assert_trees_all_equal(plain, extra)


def test_exponential_dsa_is_dsa_with_equal_strides():
    ours = run(exponential_dsa(-5.0, 0.4), make_params(), 20)
    same = run(dsa_optax.dsa(-5.0, 0.4, 0.4), make_params(), 20)
    chex.assert_trees_all_equal(ours, same)


def test_injected_hyperparams_give_the_trajectory_of_constants():
    injected = optax.inject_hyperparams(dsa_optax.dsa)(-6.0, weight_decay=0.1)
    params, state = run(injected, make_params(), 20)
    expected, _ = run(dsa_optax.dsa(-6.0, weight_decay=0.1), make_params(), 20)
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    assert float(optax.tree.get(state, "decrease")) == pytest.approx(0.6)


def test_vmap_over_hyperparams_equals_one_by_one():
    @jax.jit
    def final(init_log2_lr, decrease):
        return run(dsa_optax.dsa(init_log2_lr, decrease), make_params(), 10)[0]

    inits, decreases = jnp.array([-8.0, -4.0]), jnp.array([0.3, 0.9])
    together = jax.vmap(final)(inits, decreases)
    for i in range(2):
        alone = final(inits[i], decreases[i])
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-6
        )


def test_weight_decay_mask_may_be_a_tree_or_a_function():
    params = make_params()
    mask = {"w": True, "b": False, "none": None, "empty": True}
    by_tree = dsa_optax.dsa(weight_decay=0.5, weight_decay_mask=mask)
    by_function = dsa_optax.dsa(weight_decay=0.5, weight_decay_mask=lambda _: mask)
    chex.assert_trees_all_equal(run(by_tree, params), run(by_function, params))
    with_decay, without = run(by_tree, params)[0], run(dsa_optax.dsa(), params)[0]
    assert jnp.any(with_decay["w"] != without["w"])
    assert with_decay["b"] == without["b"]


@pytest.mark.parametrize("make", [dsa_optax.dsa, FACTORIES["parameterwise_dsa"]])
def test_a_fresh_state_can_be_donated_and_takes_nothing_with_it(make):
    # Scalar leaves are where buffers get shared.
    params = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    start = jnp.asarray(-8.0, jnp.float32)
    tx = make() if make is not dsa_optax.dsa else make(start)
    step = dsa_optax.make_train_step(lambda p: p["a"] ** 2 + p["b"] ** 2, tx)
    step(params, tx.init(params))
    assert float(start) == -8.0
    tx.init({"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)})


def test_no_nan_on_the_way_with_debug_nans():
    with jax.debug_nans(True):
        params = {"dead": jnp.zeros(3), "w": jnp.ones(3)}
        for tx in (dsa_optax.dsa(), dsa_optax.dsa(eps=1e-8)):
            state = tx.init(params)
            grads = {"dead": jnp.zeros(3), "w": jnp.ones(3)}
            tx.update(grads, state, params, grad_fn=lambda _, grads=grads: grads)


def test_scheduled_weight_decay_is_that_of_each_update():
    schedule = optax.linear_schedule(0.5, 0.0, 2)
    tx, params = dsa_optax.dsa(-4.0, weight_decay=schedule), make_params()
    state = tx.init(params)

    @jax.jit
    def step(params, state, decay):
        """By the schedule, by a constant, and without any."""
        by_constant = dsa_optax.dsa(-4.0, weight_decay=decay)
        grads = jax.grad(loss)(params)
        found = [
            each.update(grads, state, params, value_fn=loss)
            for each in (tx, by_constant, dsa_optax.dsa(-4.0))
        ]
        return optax.apply_updates(params, found[0][0]), found

    for decay in (0.5, 0.25, 0.0, 0.0):
        params, (found, expected, without) = step(params, state, decay)
        chex.assert_trees_all_close(found, expected, rtol=1e-6)
        if not decay:
            chex.assert_trees_all_close(found, without, rtol=1e-6)
        state = found[1]


def test_a_step_too_long_for_the_dtype_is_not_taken():
    params = {"w": jnp.asarray([1.0, 2.0], jnp.float16)}
    tx = dsa_optax.dsa(15.9)
    grads = {"w": jnp.ones(2, jnp.float16)}
    update = jax.jit(partial(tx.update, grad_fn=lambda _: grads))
    updates, state = update(grads, tx.init(params), params)
    assert float(state.log2_lr["w"][0]) > 16  # 2^16 is more than float16 holds
    np.testing.assert_array_equal(updates["w"], 0)


# Errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"decrease": -0.1}, "decrease"),
        ({"increase": float("nan")}, "increase"),
        ({"increase": float("inf")}, "increase"),
        ({"eps": -1e-8}, "eps"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"init_log2_lr": float("nan")}, "init_log2_lr"),
        ({"init_log2_lr": jnp.zeros(3)}, "init_log2_lr"),
        ({"min_log2_lr": 1.0, "max_log2_lr": -1.0, "init_log2_lr": 0.0}, "min_log2_lr"),
        ({"init_log2_lr": -20.0, "min_log2_lr": -10.0}, "min_log2_lr"),
        ({"zero_product": "keep"}, "zero_product"),
    ],
)
def test_invalid_hyperparams_raise_a_value_error(arguments, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        dsa_optax.dsa(**arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"decrease": "0.6"}, "decrease"),
        ({"state_dtype": jnp.uint8}, "state_dtype"),
        ({"eps": lambda count: 1e-8}, "eps"),
        ({"init_log2_lr": lambda count: -12.0}, "init_log2_lr"),
        ({"max_log2_lr": lambda count: 0.0}, "max_log2_lr"),
    ],
)
def test_hyperparams_of_a_wrong_type_raise_a_type_error(arguments, named):
    with pytest.raises(TypeError, match=f"`{named}`"):
        dsa_optax.dsa(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        basic_dsa,
        parameterwise_dsa,
        exponential_dsa,
    ],
)
def test_every_factory_checks_its_step_size(make):
    with pytest.raises(ValueError, match="`step_size` must be finite and at least 0"):
        make(0.01, -1.0)


def test_missing_params(factory):
    tx, params = factory(), make_params()
    with pytest.raises(ValueError, match="`params` are missing"):
        tx.update(params, tx.init(params), grad_fn=jax.grad(loss))


def test_missing_grad_fn_shows_the_line_to_write(factory):
    tx, params = factory(), make_params()
    with pytest.raises(ValueError, match="`grad_fn` is missing") as error:
        tx.update(params, tx.init(params), params)
    for mend in ("grad_fn=jax.grad(loss)", "linen", "nnx", "make_train_step"):
        assert mend in str(error.value)


def test_a_gradient_in_place_of_its_function(factory):
    tx, params = factory(), make_params()
    with pytest.raises(TypeError, match="`grad_fn` must be a function"):
        tx.update(params, tx.init(params), params, grad_fn=params)


def test_grad_fn_of_another_structure(factory):
    with pytest.raises(ValueError, match="`grad_fn's result` must have the structure"):
        updates_with(factory(), {"grad_fn": jax.value_and_grad(loss)})


def test_gradients_of_another_structure_or_shape(factory):
    tx, params = factory(), make_params()
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"`updates .the gradient.` must have the str"):
        tx.update({"w": params["w"]}, state, params, grad_fn=jax.grad(loss))
    transposed = params | {"w": params["w"].T}
    with pytest.raises(ValueError, match=r"\['w'\].*\(3, 2\).*\(2, 3\)"):
        tx.update(transposed, state, params, grad_fn=jax.grad(loss))
    with pytest.raises(ValueError, match="`grad_fn's result` must have the shapes"):
        tx.update(params, state, params, grad_fn=lambda _: transposed)


@pytest.mark.parametrize("leaf", [jnp.arange(3), jnp.ones(3, jnp.complex64)])
def test_params_that_are_not_real_floating(factory, leaf):
    with pytest.raises(TypeError, match=r"real floating arrays.*\['x'\]"):
        factory().init({"x": leaf})
