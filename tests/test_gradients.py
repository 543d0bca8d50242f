"""Helpers that give the gradient at the probe, and the assembled train step."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import dsa_optax

X = jnp.asarray([[1.0, 0.5], [-0.5, 2.0], [0.3, 0.1]], jnp.float32)
Y = jnp.asarray([1.0, -1.0, 0.5], jnp.float32)
W = jnp.asarray([0.2, -0.1], jnp.float32)


def loss(w, x, y, *, scale=1.0):
    return scale * jnp.mean((x @ w - y) ** 2)


def loss_with_aux(w, x, y):
    return loss(w, x, y), {"error": x @ w - y}


def noisy_loss(w, key):
    return jnp.sum(w**2 * jax.random.bernoulli(key, 0.5, w.shape).astype(w.dtype))


def test_make_grad_fn_binds_arguments_and_drops_aux():
    expected = jax.grad(loss)(W, X, Y, scale=2.0)
    chex.assert_trees_all_close(
        dsa_optax.make_grad_fn(loss, X, Y, scale=2.0)(W), expected
    )
    chex.assert_trees_all_close(
        dsa_optax.make_grad_fn(loss_with_aux, X, Y, has_aux=True)(W), expected / 2
    )


def test_make_grad_fn_crosses_jit_and_compiles_once_for_many_batches():
    traces = 0

    @jax.jit
    def gradient(grad_fn, w):
        nonlocal traces
        traces += 1
        return grad_fn(w)

    for scale in (1.0, 2.0, 3.0):
        grads = gradient(dsa_optax.make_grad_fn(loss, scale * X, Y), W)
        chex.assert_trees_all_close(grads, jax.grad(loss)(W, scale * X, Y), rtol=1e-6)
    assert traces == 1


OPTIMIZERS = {
    "dsa": lambda: dsa_optax.dsa(-4.0),
    "chained": lambda: optax.chain(optax.clip_by_global_norm(1.0), dsa_optax.dsa(-4.0)),
    "basic_dsa": lambda: dsa_optax.paper.basic_dsa(0.01, 0.01),
    "adam": lambda: optax.adam(0.1),
    "sgd": lambda: optax.sgd(0.1),
    "lbfgs": optax.lbfgs,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("has_aux", [False, True])
def test_train_step_lowers_the_loss_with_any_optimizer(name, has_aux):
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):  # Optax's need
        tx = OPTIMIZERS[name]()
        step = dsa_optax.make_train_step(
            loss_with_aux if has_aux else loss,
            tx,
            has_aux=has_aux,
            donate=name != "lbfgs",  # its first state shares memory with the params
        )
        w = jnp.array(W)
        state = tx.init(w)
        for _ in range(20):
            before = jnp.array(w)
            w, state, value, *aux = step(w, state, X, Y)
            assert float(value) == pytest.approx(float(loss(before, X, Y)), rel=1e-5)
        assert loss(w, X, Y) < 0.8 * loss(W, X, Y)
        assert len(aux) == has_aux


def test_train_step_is_algorithm_1_written_out():
    tx = dsa_optax.dsa(-4.0)
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    w, state = W, tx.init(W)
    expected, expected_state = W, tx.init(W)
    for _ in range(30):
        w, state, _ = step(w, state, X, Y)
        updates, expected_state = tx.update(
            jax.grad(loss)(expected, X, Y),
            expected_state,
            expected,
            grad_fn=lambda p: jax.grad(loss)(p, X, Y),
        )
        expected = optax.apply_updates(expected, updates)
    chex.assert_trees_all_close((w, state), (expected, expected_state), rtol=1e-6)


def test_both_gradients_of_a_train_step_see_the_same_random_key():
    tx = dsa_optax.dsa(-4.0, zero_product="hold")
    step = dsa_optax.make_train_step(noisy_loss, tx, donate=False)
    w = jnp.ones(64, jnp.float32)
    state = tx.init(w)
    for seed in range(5):
        key = jax.random.key(seed)
        kept = jax.random.bernoulli(key, 0.5, w.shape)
        new_w, new_state, _ = step(w, state, key)
        moved = new_w != w
        assert jnp.array_equal(moved, kept)
        # Far from the minimum both gradients agree, wherever the mask lets them be.
        assert jnp.array_equal(new_state.log2_lr > state.log2_lr, kept)
        w, state = new_w, new_state


def test_train_step_donates_only_when_it_may():
    tx = dsa_optax.dsa()
    for donate in (True, False):
        w = jnp.array(W)
        state = tx.init(w)
        dsa_optax.make_train_step(loss, tx, donate=donate)(w, state, X, Y)
        assert w.is_deleted() == donate
        assert state.log2_lr.is_deleted() == donate


def test_train_step_compiles_once():
    step = dsa_optax.make_train_step(loss, dsa_optax.dsa())
    w = jnp.array(W)
    state = dsa_optax.dsa().init(w)
    for i in range(3):
        w, state, _ = step(w, state, i * X, Y)
    assert step._cache_size() == 1
