"""`adaptive_warmup`: a float64 reference, and the laws of a warm-up."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsa_optax

pytestmark = pytest.mark.usefixtures("as_users_run_it")

WARMUP, STEPS = 25, 60
TARGET = np.array([1.0, -2.0, 0.5])
SCALES = np.array([1.0, 3.0, 0.3])


def batches(seed=0, noise=1.0):
    """A row of noise for every step."""
    return noise * np.random.default_rng(seed).normal(size=(STEPS, 3))


def loss(params, noise):
    """Quadratic, its minimum moved by the batch."""
    w = jnp.concatenate([params["head"], params["tail"][None]])
    target, scales = (jnp.asarray(x, w.dtype) for x in (TARGET, SCALES))
    return 0.5 * jnp.sum(scales * (w - target - noise) ** 2)


def make_params(dtype=jnp.float32):
    return {"head": jnp.zeros(2, dtype), "tail": jnp.zeros((), dtype)}


def train(tx, noise, params=None, unit=1.0):
    """Params and η after each step."""
    params = make_params() if params is None else params

    def step(carry, noise):
        params, state = carry
        grads = jax.tree.map(lambda g: unit * g, jax.grad(loss)(params, noise))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        w = jnp.concatenate([params["head"], params["tail"][None]])
        return (params, state), (w, optax.tree.get(state, "log2_scale"))

    noise = jnp.asarray(noise, params["head"].dtype)
    return jax.lax.scan(step, (params, tx.init(params)), noise)


def reference(noise, schedule, momentum, decrease, increase, threshold):
    """In NumPy, as the module's docstring has it."""
    w, velocity, last = np.zeros(3), np.zeros(3), np.zeros(3)
    eta = mean = square = 0.0
    path = []
    for t, moved in enumerate(noise):
        gradient = SCALES * (w - TARGET - moved)
        if 0 < t < WARMUP:
            lengths = np.linalg.norm(gradient) * np.linalg.norm(last)
            fall = -(gradient @ last) / lengths
            mean = 0.9 * mean + 0.1 * fall
            square = 0.9 * square + 0.1 * fall**2
            signal = mean / square**0.5
            stride = increase / WARMUP if signal > threshold else decrease
            eta = max(eta + stride * (signal - threshold), 0)
        velocity = momentum * velocity + gradient
        last = -(2**eta) * schedule(t) * velocity
        w = w + last
        path.append((w, eta))
    return tuple(map(np.array, zip(*path, strict=True)))


def test_it_is_the_reference():
    schedule = lambda t: 1e-3 * (1 - t / STEPS)
    inner = optax.sgd(schedule, momentum=0.8)
    tx = dsa_optax.adaptive_warmup(
        inner, WARMUP, decrease=0.5, increase=40.0, threshold=0.5
    )
    with jax.enable_x64(True):
        _, (path, eta) = train(tx, batches(), make_params(jnp.float64))
    expected, expected_eta = reference(batches(), schedule, 0.8, 0.5, 40.0, 0.5)
    assert (np.diff(expected_eta) < 0).any()
    assert expected_eta.max() > 2  # a rate that was far too low
    np.testing.assert_allclose(eta, expected_eta, atol=1e-5)
    np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-7)


def test_a_low_rate_is_raised_and_a_good_one_kept():
    rates = jnp.array([1e-3, 0.03, 0.3])

    def last_eta(rate, seed_noise):
        tx = dsa_optax.adaptive_warmup(optax.sgd(rate), WARMUP)
        return train(tx, seed_noise)[1][1][-1]

    noise = jnp.stack([jnp.asarray(batches(seed), jnp.float32) for seed in range(10)])
    each = jax.vmap(jax.vmap(last_eta, (None, 0)), (0, None))(rates, noise)
    low, middle, high = each.mean(axis=1)
    assert low > 2
    assert high < 0.5
    assert low > middle > high


@jax.jit
def train_by_sign(rate, increase, threshold, noise):
    inner = optax.chain(optax.scale_by_sign(), optax.scale(-rate))
    options = {"increase": increase, "threshold": threshold}
    return train(dsa_optax.adaptive_warmup(inner, WARMUP, **options), noise)[1][1]


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([1e-5, 1e-2, 1.0, 100.0]),
    increase=st.floats(0, 50),
    threshold=st.floats(0, 1),
)
def test_it_is_never_below_the_inner_rate_nor_faster_than_it_may_be(
    seed, rate, increase, threshold
):
    eta = train_by_sign(rate, increase, threshold, jnp.asarray(batches(seed)))
    assert (eta >= 0).all()
    assert (jnp.diff(eta) <= increase / WARMUP * (1 - threshold) + 1e-4).all()
    assert (eta[WARMUP - 1 :] == eta[WARMUP - 1]).all()


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_the_loss_do_not_matter(unit):
    tx = dsa_optax.adaptive_warmup(optax.adam(1e-3, eps=0.0), WARMUP)
    _, (path, eta) = train(tx, batches())
    _, (in_units, eta_in_units) = train(tx, batches(), unit=unit)
    np.testing.assert_allclose(eta_in_units, eta, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(in_units, path, rtol=1e-3, atol=1e-5)


def test_after_the_warm_up_the_schedule_is_not_undone():
    schedule = optax.cosine_decay_schedule(1e-3, STEPS)
    tx = dsa_optax.adaptive_warmup(optax.sgd(schedule), WARMUP)
    (params, state), _ = train(tx, batches())
    state = state._replace(inner=optax.sgd(schedule).init(params))
    for step in range(3):
        grads = jax.tree.map(jnp.ones_like, params)
        updates, state = tx.update(grads, state, params)
        rate = 2**state.log2_scale * schedule(step)
        np.testing.assert_allclose(updates["head"], -rate, rtol=1e-6)


def test_one_bad_batch_moves_the_rate_by_no_more_than_any_other():
    noise = batches()
    noise[10] = 1e8
    tx = dsa_optax.adaptive_warmup(optax.sgd(1e-12), WARMUP)
    _, (_, eta) = train(tx, noise)
    assert (jnp.diff(eta) <= 5 / WARMUP).all()
    assert jnp.isfinite(eta).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_tells_nothing(bad):
    noise = batches()
    noise[10] = bad
    tx = dsa_optax.adaptive_warmup(
        optax.chain(optax.zero_nans(), optax.clip(1.0), optax.sgd(1e-3)), WARMUP
    )
    _, (_, eta) = train(tx, noise)
    assert jnp.isfinite(eta).all()
    assert eta[10] == eta[9] > 0
    assert eta[-1] > eta[9]


def test_without_a_gradient_nothing_moves():
    tx = dsa_optax.adaptive_warmup(optax.sgd(0.1), WARMUP)
    params = make_params()
    state = tx.init(params)
    with jax.debug_nans(True):
        for _ in range(3):
            zero = jax.tree.map(jnp.zeros_like, params)
            updates, state = tx.update(zero, state, params)
    assert state.log2_scale == 0
    assert all((u == 0).all() for u in jax.tree.leaves(updates))


def test_low_precision_params_have_updates_of_their_dtype_and_a_float32_rate():
    params = make_params(jnp.bfloat16)
    tx = dsa_optax.adaptive_warmup(optax.sgd(1e-3), WARMUP)
    (_, state), (_, eta) = train(tx, batches(noise=0.0), params)
    chex.assert_trees_all_equal_dtypes(state.last, params)
    assert eta.dtype == jnp.float32
    assert eta[-1] > 1


def test_extra_arguments_reach_the_inner_optimizer_and_its_params_are_optional():
    tx = dsa_optax.adaptive_warmup(dsa_optax.dsa(), WARMUP)
    params = make_params()
    grad_fn = dsa_optax.make_grad_fn(loss, jnp.zeros(3))
    updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
    assert any((u != 0).any() for u in jax.tree.leaves(updates))
    plain = dsa_optax.adaptive_warmup(optax.sgd(0.1), WARMUP)
    plain.update(params, plain.init(params))


def test_wrappers_and_hyper_parameters_that_are_injected():
    inject = optax.inject_hyperparams(dsa_optax.adaptive_warmup)
    chained = optax.chain(
        optax.clip_by_global_norm(10.0),
        inject(optax.sgd(1e-3), warmup_steps=WARMUP, increase=5.0, threshold=0.3),
    )
    masked = optax.masked(
        dsa_optax.adaptive_warmup(optax.sgd(1e-3), WARMUP),
        {"head": True, "tail": False},
    )
    for tx in (chained, masked):
        _, (_, eta) = train(tx, batches())
        assert eta[-1] > 1


def test_state_is_donated_and_compiled_once():
    tx = dsa_optax.adaptive_warmup(optax.adam(1e-3), WARMUP)
    traced = []

    def counted(params, noise):
        traced.append(None)
        return loss(params, noise)

    step = dsa_optax.make_train_step(counted, tx)
    params, noise = make_params(), jnp.zeros(3)
    state = tx.init(params)
    for _ in range(4):
        old = state
        params, state, _ = step(params, state, noise)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"warmup_steps": 1.5}, TypeError, "warmup_steps"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps"),
        ({"increase": -0.1}, ValueError, "increase"),
        ({"threshold": "high"}, TypeError, "threshold"),
    ],
)
def test_bad_arguments_are_named(arguments, error, name):
    with pytest.raises(error, match=f"`{name}` must be"):
        dsa_optax.adaptive_warmup(optax.sgd(0.1), **{"warmup_steps": 5} | arguments)


def test_without_a_warm_up_or_an_increase_nothing_is_raised():
    tx = dsa_optax.adaptive_warmup(optax.adam(0.1), 0)
    (params, state), _ = train(tx, batches())
    tx = dsa_optax.adaptive_warmup(optax.adam(0.1), WARMUP, increase=0.0)
    (expected, _), _ = train(tx, batches())
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    assert state.log2_scale == 0
