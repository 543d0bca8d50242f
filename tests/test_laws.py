"""Laws of DSA that hold for any loss, checked on drawn examples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsa_optax
from tests.problems import QUADRATIC, REGRESSION, STIFFNESS

LAWS = settings(max_examples=40, deadline=None, derandomize=True)

F32 = np.float32


def singles(low, high):
    """Float32 values, subnormals left out."""
    return st.floats(float(F32(low)), float(F32(high)), width=32, allow_subnormal=False)


def trajectory(tx, loss, params, steps):
    """Parameters and rates after each of the steps."""

    def step(carry, _):
        params, state = carry
        grad_fn = jax.grad(loss)
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, dsa_optax.learning_rates(state))

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]


def given_gradients(tx, log2_lr, g, g_probe, params=None):
    """One update from log2 rates `log2_lr`, given both gradients."""
    g = jnp.asarray(g)
    params = jnp.ones_like(g) if params is None else params
    state = tx.init(params)
    if log2_lr is not None:
        state = state._replace(log2_lr=jnp.asarray(log2_lr, state.log2_lr.dtype))
    return tx.update(g, state, params, grad_fn=lambda _: jnp.asarray(g_probe, g.dtype))


# Symmetries of the trajectory. --------------------------------------------------------


@jax.jit
def scaled_trajectory(factor):
    params = REGRESSION.params(np.float32)
    return trajectory(
        dsa_optax.dsa(), lambda params: factor * REGRESSION.loss(params), params, 60
    )


@LAWS
@given(singles(1e-25, 1e25))
def test_scaling_the_loss_changes_nothing(factor):
    """Eqs. 5 and 6 with ε = 0 see the gradients' signs alone."""
    plain, scaled = scaled_trajectory(F32(1)), scaled_trajectory(F32(factor))
    jax.tree.map(np.testing.assert_array_equal, scaled, plain)


def permuted_run(tx):
    @jax.jit
    def run(start, order):
        def loss(params):
            w = jnp.concatenate([params["a"], params["b"]])
            shuffled = jnp.asarray(STIFFNESS)[order][:, order]
            return 0.5 * w @ (shuffled @ w)

        w = start[order]
        found = trajectory(tx, loss, {"a": w[:1], "b": w[1:]}, 60)
        return [
            jnp.concatenate([tree["a"], tree["b"]], axis=1)
            if isinstance(tree, dict)
            else tree
            for tree in found
        ]

    return run


@pytest.mark.parametrize(
    ("factory", "arguments", "options"),
    [
        (dsa_optax.paper.basic_dsa, (1e-3, 1e-5), {}),
        (dsa_optax.paper.parameterwise_dsa, (1e-3, 1e-5), {}),
        (dsa_optax.paper.exponential_dsa, (), {"eps": 1e-2}),
        (dsa_optax.dsa, (), {}),
    ],
    ids=["eq3", "eq4", "eq5", "eq6"],
)
def test_permuting_the_parameters_permutes_the_trajectory(factory, arguments, options):
    """No equation knows the order of the parameters, nor which leaf holds them."""
    run = permuted_run(factory(*arguments, **options, state_dtype=jnp.float64))
    start = jnp.asarray(QUADRATIC.start["coupled"])
    plain, plain_rates = run(start, jnp.arange(3))
    for order in ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        params, rates = run(start, jnp.asarray(order))
        np.testing.assert_allclose(params, plain[:, order], rtol=1e-12, atol=1e-13)
        rates_expected = plain_rates[:, order] if plain_rates.ndim > 1 else plain_rates
        np.testing.assert_allclose(rates, rates_expected, rtol=1e-12)


@LAWS
@given(singles(0.01, 2), st.sampled_from([0.0, 1e-8, 1e-2]), st.data())
def test_equal_strides_make_equation_5_of_equation_6(step_size, eps, data):
    """Eq. 6 with β₁ = β₂ is Eq. 5."""
    draw = st.lists(singles(-10, 10), min_size=4, max_size=4)
    g, g_probe = (np.array(data.draw(draw), F32) for _ in range(2))
    five = dsa_optax.paper.exponential_dsa(-5.0, step_size, eps=eps)
    six = dsa_optax.dsa(-5.0, step_size, step_size, eps=eps)
    update_5, state_5 = given_gradients(five, None, g, g_probe)
    update_6, state_6 = given_gradients(six, None, g, g_probe)
    np.testing.assert_array_equal(update_5, update_6)
    np.testing.assert_array_equal(state_5.log2_lr, state_6.log2_lr)


def test_equation_3_descends_along_the_rate():
    """Eq. 7 (Appendix A): Eq. 3 is gradient descent of L(θ - η g) in η."""
    tx = dsa_optax.paper.basic_dsa(0.5, 0.125, state_dtype=jnp.float64)
    grad_fn = jax.grad(REGRESSION.loss)

    @jax.jit
    def both(params):
        """The rate after an update, and the slope of the loss along it."""
        grads = grad_fn(params)
        at = lambda eta: jax.tree.map(lambda p, g: p - eta * g, params, grads)
        _, state = tx.update(grads, tx.init(params), params, grad_fn=grad_fn)
        return state.lr, jax.grad(lambda eta: REGRESSION.loss(at(eta)))(0.5)

    rate, slope = both(REGRESSION.params())
    np.testing.assert_allclose(rate, 0.5 - 0.125 * slope, rtol=1e-12)


# The length of a step. ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("learning_rate", [1.0, 0.37, optax.linear_schedule(2, 1, 9)])
def test_a_step_is_as_long_as_its_rate(dtype, learning_rate):
    """|update| = learning_rate · 2^η, bit for bit in the params' dtype (ε = 0)."""
    tx = dsa_optax.dsa(learning_rate=learning_rate, min_log2_lr=-20, max_log2_lr=8)
    log2_lr = np.random.default_rng(0).uniform(-12, 4, 500).astype(F32)
    g = jnp.asarray(np.resize([1.0, -2.0, 0.5], 500), dtype)
    g_probe = jnp.asarray(np.resize([3.0, 1.0, -0.1, -4.0], 500), dtype)
    for compiled in (lambda f: f, jax.jit):
        # As arguments: what is constant XLA works out itself, with another exp.
        update = compiled(partial(given_gradients, tx))
        updates, state = update(jnp.asarray(log2_lr), g, g_probe)
        rates = dsa_optax.learning_rates(state)
        assert updates.dtype == g.dtype
        assert rates.dtype == state.log2_lr.dtype == jnp.float32
        np.testing.assert_array_equal(-jnp.sign(g) * rates.astype(dtype), updates)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_to_the_eta(dtype):
    """2^η is within 2 ulp of the true power, and exact where η is an integer."""
    drawn = np.random.default_rng(1).uniform(-126, 127.99, 5000)
    log2_lr = np.concatenate([drawn, np.arange(-126, 128)]).astype(dtype)
    tx = dsa_optax.dsa(state_dtype=dtype)
    state = tx.init(jnp.zeros(len(log2_lr)))._replace(log2_lr=jnp.asarray(log2_lr))
    for rates in (dsa_optax.learning_rates, jax.jit(dsa_optax.learning_rates)):
        found = np.asarray(rates(state))
        assert found.dtype == dtype
        true = np.exp2(log2_lr.astype(np.longdouble)).astype(dtype)
        np.testing.assert_array_max_ulp(found, true, maxulp=2)
        np.testing.assert_array_equal(found[5000:], true[5000:])


# The movement of η. -------------------------------------------------------------------

SIGNS = [(g, g_probe) for g in (-1, 0, 1) for g_probe in (-1, 0, 1)]


def eta_by_hand(eta, decrease, increase, zero_product, low, high):
    """η after a step for each pair of SIGNS, in float32."""
    drift = (F32(increase) - F32(decrease)) / F32(2)
    moves = {1: F32(increase), -1: -F32(decrease), 0: drift}
    if zero_product == "hold":
        moves[0] = F32(0)
    moved = np.array([F32(eta) + moves[g * g_probe] for g, g_probe in SIGNS])
    return np.clip(moved, F32(low), F32(high))


@LAWS
@given(
    singles(-100, 100),
    singles(0.001, 5),
    singles(0.001, 5),
    st.sampled_from(["drift", "hold"]),
    st.tuples(singles(0, 10), singles(0, 10)),
    singles(1e-30, 1e30),
)
def test_eta_moves_by_its_stride(eta, decrease, increase, zero, room, size):
    """Eq. 6: η moves by β₂, -β₁, their drift or nothing, and stays in its bounds."""
    low, high = float(F32(eta - room[0])), float(F32(eta + room[1]))
    tx = dsa_optax.dsa(
        eta,
        decrease,
        increase,
        min_log2_lr=low,
        max_log2_lr=high,
        zero_product=zero,
    )
    g, g_probe = F32(size) * np.array(SIGNS, F32).T
    _, state = given_gradients(tx, None, g, g_probe)
    expected = eta_by_hand(eta, decrease, increase, zero, low, high)
    np.testing.assert_array_equal(state.log2_lr, expected)
    assert state.count == 1


@LAWS
@given(singles(-100, 100), singles(0.001, 5), singles(1e-30, 1e30))
def test_equation_5_moves_eta_by_its_stride(eta, step_size, size):
    """Eq. 5: η moves by β, -β or nothing."""
    tx = dsa_optax.paper.exponential_dsa(eta, step_size)
    g, g_probe = F32(size) * np.array(SIGNS, F32).T
    _, state = given_gradients(tx, None, g, g_probe)
    expected = eta_by_hand(eta, step_size, step_size, "hold", -126, 126)
    np.testing.assert_array_equal(state.log2_lr, expected)


@pytest.mark.parametrize("size", [1e-25, 1e-30, 1e-37])
@pytest.mark.parametrize("other", [1e-37, 1.0, 1e37])
def test_tiny_gradients_agree(size, other):
    """The sign rule sees the agreement of float32 gradients whose product is zero."""
    g, g_probe = np.array([[size] * 2, [other, -other]], F32)
    for compiled in (lambda f: f, jax.jit):
        tx = dsa_optax.dsa(-4.0, 0.5, 0.25)
        updates, state = compiled(lambda tx=tx: given_gradients(tx, None, g, g_probe))()
        np.testing.assert_array_equal(state.log2_lr, F32([-3.75, -4.5]))
        np.testing.assert_array_equal(updates, -dsa_optax.learning_rates(state))


updated = jax.jit(partial(given_gradients, dsa_optax.dsa(-3.0), None))


@LAWS
@given(st.integers(0, 2**31 - 1))
def test_one_parameter_never_moves_another(seed):
    """Eqs. 5 and 6 are elementwise: a coordinate's gradients stay its own."""
    rng = np.random.default_rng(seed)
    g, g_probe = rng.normal(size=(2, 6)).astype(F32)
    updates, state = updated(g, g_probe)
    g, g_probe = g.copy(), g_probe.copy()
    g[2], g_probe[2] = -g[2] * 1e3, np.nan
    others, others_state = updated(g, g_probe)
    rest = np.array([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(others[rest], updates[rest])
    np.testing.assert_array_equal(others_state.log2_lr[rest], state.log2_lr[rest])
