"""Reading the learning rates out of a state."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsa_optax
from dsa_optax import _diagnostics


def loss(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def make_params():
    return {
        "w": jnp.asarray([1.0, -1.0, 1e-5, 0.0], jnp.float32),
        "b": jnp.asarray(0.5, jnp.float32),
    }


def after(tx, steps, params=None):
    params = make_params() if params is None else params
    states = [tx.init(params)]
    step = jax.jit(partial(one_step, tx))
    for _ in range(steps):
        _, params, state = step(params, states[-1])
        states.append(state)
    return states


def one_step(tx, params, state):
    grad_fn = jax.grad(loss)
    updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
    return updates, optax.apply_updates(params, updates), state


def test_learning_rates_are_the_lengths_of_the_steps():
    tx = dsa_optax.dsa(-4.0, learning_rate=optax.linear_schedule(1.0, 0.1, 3))
    params = make_params()
    state = tx.init(params)
    for _ in range(3):  # outside jit, where both round alike
        updates, params, state = one_step(tx, params, state)
        updates, rates = jax.device_get((updates, dsa_optax.learning_rates(state)))
        moving = jax.tree.map(lambda u, lr: np.where(u == 0, u, lr), updates, rates)
        chex.assert_trees_all_equal(jax.tree.map(np.abs, updates), moving)


WRAPPERS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "nested": lambda tx: optax.chain(optax.chain(optax.zero_nans(), tx)),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_learning_rates_and_summary_through_wrappers(name):
    tx = WRAPPERS[name](dsa_optax.dsa(-3.0))
    state = tx.init(make_params())
    expected = {"w": jnp.full(4, 0.125), "b": jnp.asarray(0.125)}
    expected = jax.tree.map(lambda x: x.astype(jnp.float32), expected)
    chex.assert_trees_all_equal(dsa_optax.learning_rates(state), expected)
    chex.assert_trees_all_equal(
        optax.tree.get(state, "log2_lr"), jax.tree.map(jnp.log2, expected)
    )
    assert float(dsa_optax.summary(state)["b"].quantiles[2]) == 0.125


def test_learning_rates_of_linear_optimizers():
    params = make_params()
    one = dsa_optax.paper.basic_dsa(0.25, 0.1).init(params)
    many = dsa_optax.paper.parameterwise_dsa(0.25, 0.1).init(params)
    assert float(dsa_optax.learning_rates(one)) == 0.25
    assert dsa_optax.learning_rates(many)["w"].shape == (4,)
    assert float(dsa_optax.summary(one).at_bound) == 0


def test_learning_rates_need_exactly_one_state():
    params = make_params()
    with pytest.raises(ValueError, match="holds 0"):
        dsa_optax.learning_rates(optax.sgd(0.1).init(params))
    two = (dsa_optax.dsa().init(params), dsa_optax.dsa().init(params))
    with pytest.raises(ValueError, match=r"`state` .* holds 2"):
        dsa_optax.learning_rates(two)
    with pytest.raises(ValueError, match=r"`previous` .* holds 0"):
        dsa_optax.summary(two[0], ())


def test_summary_counts_what_grew_and_shrank():
    # 1 and -1 are far from the minimum, 1e-5 is nearer than the first step, and the
    # gradient at 0 is 0: its rate drifts down.
    start, first, *_, last = after(dsa_optax.dsa(), 20)
    summary = dsa_optax.summary(first)["w"]
    assert (float(summary.grew), float(summary.shrank)) == (0.5, 0.5)
    held = dsa_optax.summary(after(dsa_optax.dsa(zero_product="hold"), 1)[1])["w"]
    assert (float(held.grew), float(held.shrank)) == (0.5, 0.25)
    none = dsa_optax.summary(start)["w"]
    assert (float(none.grew), float(none.shrank)) == (0, 0)
    since = dsa_optax.summary(last, previous=last)["w"]
    assert (float(since.grew), float(since.shrank)) == (0, 0)


def test_summary_counts_what_sits_at_a_bound():
    state = after(dsa_optax.dsa(min_log2_lr=-12.5, max_log2_lr=-10), 30)[-1]
    w = dsa_optax.summary(state)["w"]
    log2_lr = np.asarray(state.log2_lr["w"])
    assert float(w.at_bound) == np.mean((log2_lr == -12.5) | (log2_lr == -10)) > 0


def test_quantiles_are_exact_for_small_leaves_and_close_for_large_ones():
    rng = np.random.default_rng(0)
    for size, rank_error in ((1024, 0), (100_001, 0.05)):
        rates = np.exp2(rng.normal(-12, 3, size)).astype(np.float32)
        got = np.asarray(_diagnostics._quantiles(jnp.asarray(rates)))
        assert (got[0], got[-1]) == (rates.min(), rates.max())
        for value, rank in zip(got, _diagnostics.QUANTILES, strict=True):
            assert np.mean(rates < value) <= rank + rank_error
            assert np.mean(rates <= value) >= rank - rank_error


def test_quantiles_of_a_leaf_whose_rates_follow_its_shape():
    for axis in (0, 1):
        column = np.exp2(-np.linspace(0, 20, 256)).astype(np.float32)
        rates = np.broadcast_to(np.expand_dims(column, axis), (256, 256))
        got = np.asarray(_diagnostics._quantiles(jnp.asarray(rates)))
        expected = np.quantile(column, _diagnostics.QUANTILES)
        np.testing.assert_allclose(np.log2(got), np.log2(expected), atol=0.5)


def test_summary_works_in_scan_and_on_empty_leaves():
    tx = dsa_optax.dsa()
    params = {"w": jnp.ones(3, jnp.float32), "empty": jnp.zeros((0,), jnp.float32)}

    def step(carry, _):
        params, state = carry
        grads = jax.grad(loss)(params)
        updates, new = tx.update(grads, state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
        return (params, new), dsa_optax.summary(new, state)

    _, history = jax.lax.scan(step, (params, tx.init(params)), length=5)
    assert history["w"].quantiles.shape == (5, 5)
    np.testing.assert_array_equal(history["w"].grew, 1)
    assert np.isnan(history["empty"].quantiles).all()


@pytest.mark.parametrize("granularity", ["parameter", "tensor", "global"])
def test_rates_of_adapt_have_its_granularity(granularity):
    tx = dsa_optax.adapt(optax.sgd(1.0), granularity, init_log2_lr=-9.0)
    start, *_, last = after(tx, 3)
    params = make_params()
    shapes = {
        "parameter": jax.tree.map(jnp.shape, params),
        "tensor": {"w": (), "b": ()},
        "global": (),
    }[granularity]
    rates = dsa_optax.learning_rates(last)
    assert jax.tree.map(jnp.shape, rates) == shapes
    chex.assert_trees_all_close(
        rates, jax.tree.map(jnp.exp2, last.inner.log2_lr), rtol=1e-5
    )
    for states, grew in (((start,), 0), ((last,), 1), ((last, last), 0)):
        found = jax.tree.leaves(
            dsa_optax.summary(*states),
            is_leaf=lambda node: isinstance(node, dsa_optax.RateSummary),
        )
        assert max(float(leaf.grew) for leaf in found) == grew


def test_summary_of_adapt_counts_what_sits_at_its_ceiling():
    options = {"init_log2_lr": -9.0, "max_log2_lr": -8.5}
    tx = dsa_optax.adapt(optax.sgd(1.0), "global", **options)
    start, *_, last = after(tx, 4)
    assert float(dsa_optax.summary(start).at_bound) == 0
    assert float(dsa_optax.summary(last).at_bound) == 1


def test_summary_of_adapt_counts_what_sits_at_its_floor():
    options = {"init_log2_lr": -9.0, "min_log2_lr": -9.0, "increase": 0.0}
    tx = dsa_optax.adapt(optax.sgd(1.0), "global", **options, first_increase=0.0)
    assert float(dsa_optax.summary(after(tx, 2)[-1]).at_bound) == 1


def test_rates_of_a_blend_are_those_of_its_adapted_parts():
    adapted = dsa_optax.adapt(optax.sgd(1.0), "global")
    tx = dsa_optax.blend(adapted, optax.sgd(0.1), dsa_optax.dsa(-4.0))
    state = after(tx, 1)[-1]
    one, many = dsa_optax.learning_rates(state)
    assert one.shape == ()
    assert set(many) == {"w", "b"}
    assert len(dsa_optax.summary(state, state)) == 2
    with pytest.raises(ValueError, match=r"`state` .* holds 3"):
        dsa_optax.learning_rates((state, adapted.init(make_params())))
