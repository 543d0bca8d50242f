"""`blend` and `auto_dsa`: sums of updates, each part with its own state and rates."""

import pickle
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def make_params():
    random = np.random.default_rng(0)
    return {
        "w": jnp.asarray(random.normal(size=(4, 3)), jnp.float32),
        "b": jnp.zeros(3, jnp.float32),
    }


def loss(params):
    x = jnp.linspace(-1, 1, 24).reshape(6, 4)
    return jnp.mean((jnp.tanh(x @ params["w"]) + params["b"] - 0.3) ** 2)


def run(tx, steps=4):
    params = make_params()
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    state = tx.init(params)
    for _ in range(steps):
        params, state, _ = step(params, state)
    return params, state


DENSE = dsa_optax.auto_dsa(2)
PARTS = (
    dsa_optax.adapt(optax.sgd(1.0), "global"),
    dsa_optax.adapt(optax.sgd(1.0, momentum=0.9), "tensor"),
    optax.sgd(0.01),
)


def test_a_blend_of_one_is_that_one():
    alone, state = run(PARTS[1])
    params, blended = run(dsa_optax.blend(PARTS[1]))
    chex.assert_trees_all_close(params, alone, rtol=1e-6)
    part = blended._replace(inner=blended.inner.parts[0])
    chex.assert_trees_all_close(part, state, rtol=1e-5, atol=1e-7)


def test_the_order_of_the_parts_does_not_matter():
    params, state = run(dsa_optax.blend(*PARTS))
    other, reversed_state = run(dsa_optax.blend(*PARTS[::-1]))
    chex.assert_trees_all_close(params, other, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(
        state.inner.lengths, reversed_state.inner.lengths[::-1], rtol=1e-3, atol=1e-6
    )


def test_an_update_is_the_sum_and_the_lengths_are_those_of_its_parts():
    params = make_params()
    grads = jax.grad(loss)(params)

    @partial(jax.jit, static_argnums=0)
    def first(tx):
        return tx.update(grads, tx.init(params), params)

    updates, state = first(dsa_optax.blend(*PARTS))
    each = [first(part)[0] for part in PARTS]
    chex.assert_trees_all_close(
        updates, jax.tree.map(lambda *u: sum(u), *each), rtol=1e-6
    )
    norms = [optax.tree.norm(u) for u in each]
    np.testing.assert_allclose(state.inner.lengths, norms, rtol=1e-6)
    assert state.inner.lengths.dtype == jnp.float32


def test_parts_are_given_the_extra_arguments():
    params, tx = make_params(), dsa_optax.blend(dsa_optax.dsa(-6.0), optax.sgd(0.1))
    grads, state = jax.grad(loss)(params), tx.init(params)
    jax.eval_shape(lambda: tx.update(grads, state, params, value_fn=loss))
    with pytest.raises(ValueError, match="`grad_fn` is missing"):
        tx.update(grads, state, params)


def test_no_parts_and_bad_memory_are_named():
    with pytest.raises(ValueError, match="`transforms` are missing"):
        dsa_optax.blend()
    with pytest.raises(TypeError, match="`memory_size` must be an integer"):
        dsa_optax.auto_dsa(2.5)
    with pytest.raises(ValueError, match=r"`memory_size` must be .*at least 0"):
        dsa_optax.auto_dsa(-1)
    with pytest.raises(TypeError, match="`state_dtype`"):
        dsa_optax.auto_dsa(state_dtype=jnp.int32)
    params = make_params()
    tx = dsa_optax.auto_dsa(2)
    with pytest.raises(ValueError, match="`params` are missing"):
        tx.update(params, tx.init(params))


# auto_dsa. ----------------------------------------------------------------------------


def test_the_light_form_leaves_the_memory_out():
    params = {"w": jnp.ones((40, 30)), "b": jnp.ones(30)}
    sizes = [
        sum(
            leaf.size
            for leaf in jax.tree.leaves(
                dsa_optax.auto_dsa(m, matrix_size=0).init(params)
            )
        )
        for m in (0, 2, 3)
    ]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sizes[2] - sizes[1] == 2 * count + 2 * (9 - 4) + 1
    assert len(dsa_optax.auto_dsa(0).init(params).inner.parts) == 2


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (1, (1, 1, 1)),
        (100, (1, 100, 100)),
        (101, (3, 34, 34)),
        (4000, (80, 50, 50)),
        (4001, (2, 2)),
    ],
)
def test_few_parameters_have_a_matrix_more_have_blocks_and_many_a_memory(count, shape):
    tx = dsa_optax.auto_dsa(2, matrix_size=100)
    state = jax.eval_shape(tx.init, {"a": jnp.ones(count - 1), "b": jnp.ones(())})
    assert state.inner.parts[2].inner.inverse.shape == shape


def test_without_a_matrix_there_is_a_memory():
    state = jax.eval_shape(dsa_optax.auto_dsa(2, matrix_size=0).init, jnp.ones(1))
    assert state.inner.parts[2].inner.inverse.shape == (2, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes_and_shapes_are_the_same_after_every_update(dtype):
    tx = DENSE
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), make_params())
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, state, params)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    assert types(updates) == types(params)
    assert types(after) == types(state)


def test_one_compilation_donation_checkpoint_and_vmap():
    tx, start, traces = DENSE, make_params(), []

    def counted(params):
        traces.append(None)
        return loss(params)

    step = dsa_optax.make_train_step(counted, tx)
    params, state = jax.tree.map(jnp.copy, start), tx.init(start)
    for _ in range(5):
        parts = state.inner.parts
        given = (params, parts[0].log2_lr, parts[2].inner.inverse)
        params, state, _ = step(params, state)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert len(traces) <= 2
    assert loss(params) < loss(start)

    serialization = pytest.importorskip("flax.serialization")
    by_flax = serialization.from_bytes(tx.init(start), serialization.to_bytes(state))
    for restored in (by_flax, pickle.loads(pickle.dumps(state))):
        chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
        chex.assert_trees_all_equal(restored, state)

    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), start)

    def twice(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=2)[0][0]

    together = jax.jit(jax.vmap(twice))(members)
    alone = start
    state = tx.init(start)
    for _ in range(2):
        updates, state = tx.update(jax.grad(loss)(alone), state, alone)
        alone = optax.apply_updates(alone, updates)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[0], together), alone, rtol=1e-3, atol=1e-5
    )


def test_inject_hyperparams_takes_the_memory_as_static():
    static = ("memory_size", "matrix_size")
    make = optax.inject_hyperparams(dsa_optax.auto_dsa, static_args=static)
    tx, params = make(2), make_params()
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    chex.assert_tree_all_finite(updates)
    tx = optax.inject_hyperparams(dsa_optax.auto_dsa)()
    state = tx.init(params)
    with pytest.raises(TypeError, match="both, as static_args"):
        jax.jit(tx.update)(params, state, params)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_does_no_lasting_harm(bad):
    tx, params = DENSE, make_params()
    state, step, grad = tx.init(params), jax.jit(tx.update), jax.jit(jax.grad(loss))
    for i in range(8):
        grads = grad(params)
        if i == 3:
            grads = jax.tree.map(lambda g: np.full_like(g, bad), grads)
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        if i == 3:
            assert int(state.backs) == 1
    chex.assert_tree_all_finite((params, state))
    assert loss(params) < loss(make_params())


def test_rates_and_summaries_come_as_a_tuple():
    tx, params = optax.chain(optax.clip(1e6), DENSE), make_params()
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    rates = dsa_optax.learning_rates(state)
    shapes = [jax.tree.map(jnp.shape, part) for part in rates]
    assert shapes == [jax.tree.map(jnp.shape, params), {"w": (), "b": ()}, ()]
    three = dsa_optax.summary(state, tx.init(params))
    assert len(three) == 3
    assert set(three[0]) == {"w", "b"}
    assert isinstance(three[2], dsa_optax.RateSummary)
    assert len(dsa_optax.summary(state)) == 3
