"""A state of one byte a parameter: the same trajectory, exact, and bounded."""

import pickle
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsa_optax
from dsa_optax._rate_storage import common_unit
from dsa_optax._state import log2_rates
from tests.problems import PROBLEMS, REGRESSION

F32 = np.float32


def trajectory(tx, problem, steps=300):
    """Params and η after every step, in float32."""
    grad_fn = jax.grad(problem.loss)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, log2_rates(state))

    params = problem.params(jnp.float32)
    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[1])(
        params
    )


def same_inside(make, problem):
    """The shared part of two trajectories: as long as int8 can hold the rates."""
    small, wide = jax.device_get(
        [trajectory(make(d), problem) for d in (jnp.int8, jnp.float32)]
    )
    state = jax.device_get(make(jnp.int8).init(problem.params(jnp.float32)))
    low, high = state.start + state.unit * state.bounds
    inside = np.all(
        [
            np.all((leaf >= low) & (leaf <= high), axis=tuple(range(1, leaf.ndim)))
            for leaf in jax.tree.leaves(wide[1])
        ],
        axis=0,
    )
    steps = len(inside) if inside.all() else int(np.argmin(inside))
    chex.assert_trees_all_equal(*jax.tree.map(lambda x: x[:steps], (small, wide)))
    return steps


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, 80),  # the rate of a parameter that is not used drifts to the end
        ({"zero_product": "hold"}, 110),
        ({"min_log2_lr": -14.125, "max_log2_lr": -8.0}, 300),
    ],
    ids=["drift", "hold", "bounds"],
)
def test_the_trajectory_is_that_of_float32_bit_for_bit(problem, options, least):
    """With strides that float32 holds exactly, so that it doesn't round either."""
    make = lambda dtype: dsa_optax.dsa(
        decrease=0.5, increase=0.25, state_dtype=dtype, **options
    )
    assert same_inside(make, problem) >= least


def test_so_it_is_with_schedules_and_weight_decay():
    make = lambda dtype: dsa_optax.dsa(
        decrease=0.5,
        increase=0.25,
        learning_rate=optax.linear_schedule(2.0, 1.0, 200),
        weight_decay=1e-3,
        state_dtype=dtype,
    )
    assert same_inside(make, REGRESSION) >= 80


def test_so_is_that_of_equation_5():
    make = lambda dtype: dsa_optax.paper.exponential_dsa(-10.0, 0.5, state_dtype=dtype)
    assert same_inside(make, REGRESSION) == 300


@pytest.mark.parametrize("zero_product", ["drift", "hold"])
def test_the_papers_strides_are_counted_without_rounding(zero_product):
    """Against integers in NumPy; float32 is off by a tenth of a percent meanwhile."""
    rng, size = np.random.default_rng(0), 400
    small, wide = (
        dsa_optax.dsa(zero_product=zero_product, state_dtype=dtype)
        for dtype in (jnp.int8, jnp.float32)
    )
    unit, strides = (0.15, {1: 2, -1: -4, 0: -1})
    if zero_product == "hold":
        unit, strides = 0.3, {1: 1, -1: -2, 0: 0}
    lean = rng.choice([-1.0, 0.17, 1.0], size)  # some fall, some rise, to the ends
    params, counts = jnp.zeros(size, jnp.float32), np.zeros(size, int)
    states = [tx.init(params) for tx in (small, wide)]
    update = jax.jit(
        lambda tx, state, g, probe: tx.update(
            g, state, params, grad_fn=lambda _: probe
        ),
        static_argnums=0,
    )
    for _ in range(300):
        g = rng.choice([-1.0, 1.0], size).astype(F32)
        agree = np.sign(np.round(lean + rng.uniform(-1, 1, size))).astype(int)
        counts = np.clip(counts + np.vectorize(strides.get)(agree), -128, 127)
        results = [
            update(tx, state, g, (agree * g).astype(F32))
            for tx, state in zip((small, wide), states, strict=True)
        ]
        updates, states = zip(*results, strict=True)
        np.testing.assert_array_equal(states[0].log2_lr, counts)
        lengths = np.exp2(-12 + unit * counts.astype(np.float64))
        np.testing.assert_allclose(updates[0], -g * lengths, rtol=4e-6)
    assert {-128, 127} <= set(counts)
    inside = np.abs(counts) < 100
    drifted = np.asarray(dsa_optax.learning_rates(states[1]))[inside] / lengths[inside]
    assert 1e-6 < np.abs(drifted - 1).max() < 1e-2


def test_a_parameter_costs_one_byte_and_every_reader_knows_it():
    params = {"w": jnp.ones((30, 20), F32), "b": jnp.ones(20, jnp.bfloat16)}
    tx = optax.chain(optax.clip(1.0), dsa_optax.dsa(-2.0, state_dtype=jnp.int8))
    state = tx.init(params)
    held = optax.tree.get(state, "log2_lr")
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(held)) == 620
    chex.assert_trees_all_equal_shapes(held, params)
    rates = dsa_optax.learning_rates(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(rates)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(rates["b"], 0.25)

    # One more, one less, and one that is at the end.
    loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"].astype(jnp.float32) ** 2)
    top = jax.tree.map(lambda leaf: leaf.at[0].set(127), held)
    before = optax.tree.set(state, log2_lr=top)
    update = jax.jit(lambda *args: tx.update(*args, value_fn=loss))
    updates, after = update(jax.jit(jax.grad(loss))(params), before, params)
    assert jax.tree.map(lambda u: u.dtype, updates) == {
        "w": jnp.float32,
        "b": jnp.bfloat16,
    }
    summarize = jax.jit(dsa_optax.summary)
    summary = summarize(after, before)["b"]
    shares = (summary.grew, summary.shrank, summary.at_bound)
    np.testing.assert_allclose(shares, (0.95, 0.05, 0.0), rtol=1e-6)
    assert float(summarize(before)["b"].at_bound) == pytest.approx(0.05)


def test_donated_vmapped_pickled_and_sharded_as_any_state():
    tx, params = dsa_optax.dsa(state_dtype=jnp.int8), REGRESSION.params(jnp.float32)
    state = tx.init(params)
    step = dsa_optax.make_train_step(REGRESSION.loss, tx)
    given = state.log2_lr
    params, state, _ = step(params, state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    for _ in range(3):  # the types of the state stay: no second compilation
        params, state, _ = step(params, state)
    assert step._cache_size() == 1
    chex.assert_trees_all_equal(pickle.loads(pickle.dumps(state)), state)

    def after_one(init_log2_lr, params):
        tx = dsa_optax.dsa(init_log2_lr, state_dtype=jnp.int8)
        grad_fn = jax.grad(REGRESSION.loss)
        state = tx.init(params)
        return tx.update(grad_fn(params), state, params, grad_fn=grad_fn)[1]

    starts = jnp.asarray([-12.0, -3.0], jnp.float32)
    many = jax.jit(jax.vmap(after_one, in_axes=(0, None)))(starts, params)
    one = jax.jit(after_one)(starts[1], params)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1], many), one)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-12.9, -11.4, (-6, 4)), (-13.0, -11.3, (-6, 4)), (-126, 126, (-128, 127))],
)
def test_bounds_are_the_last_values_inside(low, high, expected):
    tx = dsa_optax.dsa(min_log2_lr=low, max_log2_lr=high, state_dtype=jnp.int8)
    g = jnp.ones(2, jnp.float32)
    state = tx.init(g)
    assert tuple(state.bounds.tolist()) == expected
    probe = np.asarray([-1.0, 1.0], F32)
    update = jax.jit(lambda s: tx.update(g, s, g, grad_fn=lambda _: probe)[1])
    for _ in range(200):
        state = update(state)
    np.testing.assert_array_equal(state.log2_lr, expected)


def test_int16_holds_finer_strides():
    tx, w = dsa_optax.dsa(-12, 0.61, 0.3, state_dtype=jnp.int16), jnp.ones(3, F32)
    state, counts = tx.init(w), np.zeros(3, int)
    assert float(state.unit) == F32(0.005)
    agree = np.random.default_rng(0).choice([-1, 0, 1, 1], (300, 3))
    update = jax.jit(lambda s, probe: tx.update(w, s, w, grad_fn=lambda _: probe)[1])
    for signs in agree:
        state = update(state, signs.astype(F32))
        counts += np.where(signs > 0, 60, np.where(signs < 0, -122, -31))
        np.testing.assert_array_equal(state.log2_lr, counts)
    assert state.log2_lr.dtype == jnp.int16


SMALL = {"state_dtype": jnp.int8}


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ({"decrease": optax.constant_schedule(0.6)}, "known beforehand: give floats"),
        ({"eps": 1e-8}, "eps=0"),
        ({"decrease": 0.61}, r"0\.635 octaves.*int16"),
        ({"decrease": 0.61237, "state_dtype": jnp.int16}, "or leave it out"),
    ],
)
def test_what_is_no_lattice_is_refused(options, mend):
    with pytest.raises(ValueError, match=mend):
        dsa_optax.dsa(**SMALL | options)


def test_injected_strides_are_refused_and_static_ones_work():
    w = jnp.ones(2, F32)
    everything = ("decrease", "increase", "eps", "state_dtype")
    for missing in ("eps", "increase"):
        static = tuple(name for name in everything if name != missing)
        tx = optax.inject_hyperparams(dsa_optax.dsa, static_args=static)(**SMALL)
        state = tx.init(w)
        update = jax.jit(lambda s, tx=tx: tx.update(w, s, w, grad_fn=lambda _: w))
        with pytest.raises(ValueError, match="static_args"):
            update(state)
    tx = optax.inject_hyperparams(dsa_optax.dsa, static_args=everything)(**SMALL)
    _, state = jax.jit(lambda s: tx.update(w, s, w, grad_fn=lambda _: w))(tx.init(w))
    np.testing.assert_array_equal(optax.tree.get(state, "log2_lr"), [2, 2])
    assert optax.tree.get(state, "log2_lr").dtype == jnp.int8


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, bool, jnp.complex64])
def test_other_dtypes_are_no_rates(dtype):
    with pytest.raises(TypeError, match="int8"):
        dsa_optax.dsa(state_dtype=dtype)


@pytest.mark.parametrize("make", [dsa_optax.adapt, dsa_optax.paper.parameterwise_dsa])
def test_rates_without_strides_need_a_floating_dtype(make):
    args = (optax.sgd(1.0),) if make is dsa_optax.adapt else (0.1, 0.1)
    with pytest.raises(TypeError, match="floating"):
        make(*args, **SMALL)


@settings(deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.3, 0.015625])
)
def test_strides_are_multiples_of_their_unit(m, n, unit):
    strides = [m * Fraction(str(unit)), n * Fraction(str(unit))]
    found = common_unit(map(float, strides), drifts=True)
    assert all((s / found).denominator == 1 for s in strides)
    assert ((strides[0] - strides[1]) / 2 / found).denominator == 1
    assert found >= Fraction(str(unit)) / 2
