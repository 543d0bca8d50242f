"""`adapt`: its rates are the referee's (reference_adapt.py), and its laws hold.

The trajectories are ones whose reference is insensitive: perturbing the start by 1e-13
moves no step by more than 3e-11, and no η by more than 1e-9. Where a secant step is
not, the gradients are drawn beforehand, and don't depend on where the steps lead.
"""

import functools
import inspect
import pickle
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsa_optax
from tests import reference_adapt as reference
from tests.problems import (
    PROBLEMS,
    QUADRATIC,
    REGRESSION,
    ROSENBROCK,
    flatten,
    flatten_rows,
)

STEPS = 160
LAWS = settings(max_examples=25, deadline=None, derandomize=True)
GRANULARITIES = ("parameter", "tensor", "global")
F32 = np.float32

sign_descent = optax.stateless(
    lambda updates, _: jax.tree.map(lambda g: -jnp.sign(g), updates)
)
DIRECTIONS = {
    "sgd": ((0.0, False), reference.downhill),
    "sign": ((0.0, True), reference.signs),
    "momentum": ((0.9, False), reference.heavy_ball),
}
"""The arguments of `either`, and the same in NumPy."""

OPTIONS = {
    "init_log2_lr": -10.0,
    "decrease": 1.0,
    "increase": 0.3,
    "first_increase": 1.0,
    "max_log2_lr": 126.0,
    "max_relative_step": 0.3,
}


def either(decay, signs):
    """`optax.sgd(1.0, momentum=decay)` or `sign_descent`: one program for all."""
    momentum = optax.trace(decay)

    def update(updates, state, params=None):
        summed, state = momentum.update(updates, state, params)
        step = lambda g, m: jnp.where(signs, -jnp.sign(g), -m)
        return jax.tree.map(step, updates, summed), state

    return optax.GradientTransformation(momentum.init, update)


def adapt(inner, granularity, **options):
    return dsa_optax.adapt(inner, granularity, **OPTIONS | options)


def leaves_of(tree):
    return tuple(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def referee(start, direction, granularity, **options):
    return reference.Adapt(
        leaves_of(start), granularity, direction, **OPTIONS | options
    )


def eta_rows(log2_lr, steps):
    if isinstance(log2_lr, dict):
        return flatten_rows(log2_lr)
    return np.asarray(log2_lr).reshape(steps, -1)


# The referee. -------------------------------------------------------------------------


@functools.cache
def compiled_run(name, granularity):
    problem = BY_NAME[name]

    @jax.jit
    def run(direction, options):
        inner = either(*direction)
        tx = adapt(inner, granularity, **options, state_dtype=jnp.float64)

        def step(carry, _):
            params, state = carry
            grads = jax.grad(problem.loss)(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, state.inner.log2_lr)

        start = problem.params()
        (_, state), rows = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)
        return *rows, state.backs

    return run


BY_NAME = {problem.name: problem for problem in PROBLEMS}
SLOW = {"decrease": 0.3, "increase": 0.1, "first_increase": 0.3}
SLOWER = {"decrease": 0.1, "increase": 0.05, "first_increase": 0.2}
BY_SIZE = {"init_log2_lr": None}


@pytest.mark.parametrize(
    ("problem", "granularity", "direction", "options"),
    [
        (QUADRATIC, "parameter", "sgd", {"max_log2_lr": -7.0}),
        (QUADRATIC, "parameter", "sign", SLOWER),
        (QUADRATIC, "parameter", "momentum", {}),
        (QUADRATIC, "tensor", "momentum", {}),
        (QUADRATIC, "tensor", "momentum", BY_SIZE),
        (QUADRATIC, "tensor", "sign", SLOWER),
        (QUADRATIC, "tensor", "sign", SLOWER | {"min_log2_lr": -10.0}),
        (QUADRATIC, "global", "momentum", SLOW | BY_SIZE),
        (ROSENBROCK, "parameter", "momentum", SLOWER),
        (ROSENBROCK, "tensor", "momentum", SLOWER | BY_SIZE),
        (ROSENBROCK, "global", "sign", SLOWER),
        (ROSENBROCK, "global", "momentum", SLOWER | BY_SIZE),
        (REGRESSION, "parameter", "sgd", {"max_log2_lr": -4.0}),
        (REGRESSION, "parameter", "momentum", SLOWER | BY_SIZE),
        (REGRESSION, "global", "momentum", SLOWER),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", ""),
)
def test_trajectory_is_the_referees(problem, granularity, direction, options):
    chosen, in_numpy = DIRECTIONS[direction]
    run = compiled_run(problem.name, granularity)
    params, log2_lr, backs = run(chosen, OPTIONS | options)
    judge = referee(problem.start, in_numpy, granularity, **options)
    theta, eta = reference.trajectory(
        judge, flatten(problem.start), problem.gradient, STEPS
    )
    np.testing.assert_allclose(flatten_rows(params), theta, rtol=1e-11, atol=3e-11)
    assert int(backs) == judge.backs
    np.testing.assert_allclose(eta_rows(log2_lr, STEPS), eta, rtol=1e-9)
    assert np.ptp(eta) > 1


def drawn_gradients(size, seed):
    """Gradients that keep their signs for a while, with all that can go wrong."""
    random = np.random.default_rng(seed)
    rows = np.zeros((STEPS, size))
    g = random.normal(size=size)
    for t in range(STEPS):
        g = 0.9 * g + 0.45 * random.normal(size=size)
        rows[t] = g * 10 ** random.uniform(-1, 1)
    rows[random.random(rows.shape) < 0.03] = 0.0
    bad = random.random(rows.shape) < 0.01
    rows[bad] = random.choice([np.nan, np.inf, -np.inf], bad.sum())
    rows[60] = np.nan
    rows[61:63] = 0.0
    rows[120:123] *= 1e-20  # rounding, beside the largest
    return rows


@functools.cache
def compiled_feed(granularity):
    @jax.jit
    def run(direction, params, rows):
        tx = adapt(either(*direction), granularity, state_dtype=jnp.float64)

        def step(carry, grads):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, state.inner.log2_lr, state.inner.searching)

        return jax.lax.scan(step, (params, tx.init(params)), rows)[1]

    return run


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_drawn_gradients_move_the_rates_as_the_referee_says(granularity, direction):
    start = REGRESSION.start
    shapes = jax.tree.map(np.shape, start, is_leaf=lambda x: isinstance(x, np.ndarray))
    rows = drawn_gradients(len(flatten(start)), seed=3)
    ends = np.cumsum(leaves_of(start))[:-1]
    split = np.split(rows, ends, axis=1)
    tree = {
        key: part.reshape(STEPS, *shapes[key])
        for key, part in zip(sorted(start), split, strict=True)
    }
    chosen, in_numpy = DIRECTIONS[direction]
    run = compiled_feed(granularity)
    params, log2_lr, searching = run(chosen, REGRESSION.params(), tree)
    judge = referee(start, in_numpy, granularity)
    given = iter(rows)
    theta, eta = reference.trajectory(
        judge, flatten(start), lambda _: next(given), STEPS
    )
    np.testing.assert_allclose(flatten_rows(params), theta, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(eta_rows(log2_lr, STEPS), eta, rtol=1e-10)
    seen = eta_rows(searching, STEPS)[-1]
    np.testing.assert_array_equal(seen, ~judge.ever_too_high)


# Rules, one at a time. ----------------------------------------------------------------


def feed(tx, rows, params=None):
    """The updates and the states, given a gradient a step; the params stay."""
    params = jnp.ones_like(rows[0]) if params is None else params
    state, updates, states = tx.init(params), [], []
    for row in rows:
        update, state = tx.update(row, state, params)
        updates.append(update)
        states.append(state)
    return updates, states


@LAWS
@given(st.floats(0.01, 100), st.floats(0.01, 3), st.sampled_from(GRANULARITIES))
def test_the_secant_hits_the_minimum_of_a_parabola(stiffness, share, granularity):
    """Eq. 7 with the size of the slopes: were the loss a parabola, one step finds it.

    A parameter that went too far stands still for a step, and hits it in the next.
    """
    w = after_few_steps(granularity, stiffness, share)
    np.testing.assert_allclose(w, MINIMUM, rtol=1e-9)


MINIMUM = 2.0


@partial(jax.jit, static_argnums=0)
def after_few_steps(granularity, stiffness, share):
    """On a parabola, from a rate of so many times the best."""
    tx = adapt(
        optax.sgd(1.0),
        granularity,
        init_log2_lr=jnp.log2(share / stiffness),
        decrease=9.0,
        increase=9.0,
        first_increase=9.0,
        max_relative_step=1e6,
        state_dtype=jnp.float64,
    )

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(stiffness * (w - MINIMUM), state, w)
        return (w + updates, state), None

    w, steps = jnp.asarray([5.0]), 3 if granularity == "parameter" else 2
    return jax.lax.scan(step, (w, tx.init(w)), length=steps)[0][0]


def test_first_increase_is_for_rates_that_were_never_too_high():
    tx = adapt(sign_descent, "parameter", increase=0.25, max_relative_step=1e6)
    rows = [jnp.asarray(x, F32) for x in ([1, 1], [2, 2], [2, -9], [2, -1], [2, -1])]
    updates, states = feed(tx, rows)
    eta = [state.inner.log2_lr.tolist() for state in states]
    assert eta == [[-10, -10], [-9, -9], [-8, -10], [-7, -10], [-6, -9.75]]
    assert states[-1].inner.searching["float32"].tolist() == [True, False]
    assert updates[2][1] == 0  # it flipped
    assert updates[3][1] == 2.0**-10


def spoil(grads, _):
    """Downhill, but where the second is 3 or 4 the first is not finite."""
    bad = jnp.where(grads[1] > 3, jnp.inf, jnp.nan).astype(grads.dtype)
    return -grads.at[0].set(jnp.where(grads[1] > 2, bad, grads[0]))


SPOILT = {form: adapt(optax.stateless(spoil), form) for form in GRANULARITIES}
SIGNS = {form: adapt(sign_descent, form) for form in GRANULARITIES}


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("second", [3, 4], ids=["nan", "inf"])
def test_a_direction_that_is_not_finite_counts_as_zero(granularity, second):
    rows = [jnp.asarray(row, F32) for row in ([1, 1], [1, second], [1, 1])]
    updates, states = feed(SPOILT[granularity], rows)
    assert updates[1][0] == 0
    assert updates[1][1] < 0
    chex.assert_tree_all_finite((updates, states))


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float16"])
def test_rates_in_half_precision_hear_small_gradients(state_dtype):
    tx = adapt(optax.sgd(1.0), "tensor", state_dtype=state_dtype)
    rows = [jnp.full(2, size, jnp.float32) for size in (1e5, 1e-1)]
    updates, states = feed(tx, rows)
    assert jnp.all(updates[1] != 0)
    assert states[1].inner.log2_lr.dtype == state_dtype


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradients_whose_squares_leave_the_range_stop_nothing(granularity, size):
    rows = [jnp.asarray([1.0, -1.0], F32) * F32(size * x) for x in (1, 1, 0.5, 2)]
    updates, states = feed(SIGNS[granularity], rows)
    chex.assert_tree_all_finite((updates, states))
    assert all(jnp.all(update != 0) for update in updates)


@settings(LAWS, max_examples=10)
@given(
    st.sampled_from(GRANULARITIES),
    st.floats(0, 2, width=32),
    st.floats(-20, 20, width=32),
    st.integers(0, 999),
)
def test_no_step_is_longer_and_no_rate_higher_than_allowed(
    granularity, share, highest, seed
):
    random = np.random.default_rng(seed)
    params = {
        "a": jnp.asarray(random.normal(size=4) * 10 ** random.uniform(-3, 3), F32),
        "b": jnp.asarray(random.normal(), F32),
    }
    bounds = jnp.asarray([min(highest, 0.0), highest, share], F32)
    state = first_of_bounded(granularity, bounds, params)
    for _ in range(4):
        grads = jax.tree.map(
            lambda p: jnp.asarray(random.normal(size=p.shape) * 100, F32), params
        )
        updates, state = update_of_bounded(granularity, bounds, grads, state, params)
        rms = lambda x: np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))
        for key, update in updates.items():
            allowed = share * rms(params[key]) * (1 + 1e-5) + 1e-30
            assert rms(update) <= allowed
            if granularity == "parameter":
                assert np.max(np.abs(update)) <= allowed
        for rates in jax.tree.leaves(state.inner.log2_lr):
            assert np.all((rates >= -126) & (rates <= F32(highest)))


def bounded(granularity, bounds):
    first, highest, share = bounds
    return adapt(
        optax.sgd(1.0, momentum=0.5),
        granularity,
        init_log2_lr=first,
        max_log2_lr=highest,
        max_relative_step=share,
    )


@partial(jax.jit, static_argnums=0)
def first_of_bounded(granularity, bounds, params):
    return bounded(granularity, bounds).init(params)


@partial(jax.jit, static_argnums=0)
def update_of_bounded(granularity, bounds, *args):
    return bounded(granularity, bounds).update(*args)


@pytest.mark.parametrize(("share", "least"), [(1.0, -6.5), (2.0**-8, -8.0)])
def test_no_rate_is_lower_than_allowed_but_for_the_longest_step(share, least):
    w = jnp.ones(4, F32)
    state = limited(share).init(w)
    for sign in (1, -1, 1, -1):  # every step was twice too long
        state = state_of_limited(share, F32(sign) * w, state, w)
    assert float(state.inner.log2_lr) == least


def limited(share):
    limits = {"init_log2_lr": -5.0, "min_log2_lr": -6.5, "max_relative_step": share}
    return adapt(optax.sgd(1.0), "global", **limits)


@jax.jit
def state_of_limited(share, *args):
    return limited(share).update(*args)[1]


# Symmetries. --------------------------------------------------------------------------


@jax.jit
def scaled_run(factor):
    loss = lambda params: factor * REGRESSION.loss(params)
    tx = adapt(sign_descent, "parameter")

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state.inner.log2_lr)

    params = REGRESSION.params(F32)
    return jax.lax.scan(step, (params, tx.init(params)), length=60)[1]


@settings(LAWS, max_examples=10)
@given(st.integers(-60, 60))
def test_scaling_the_loss_by_a_power_of_two_changes_nothing(exponent):
    """Ratios of slopes have no unit, and a sign none either."""
    found = scaled_run(F32(2.0**exponent))
    chex.assert_trees_all_equal(found, scaled_run(F32(1)))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_order_of_parameters_and_leaves_does_not_matter(granularity):
    random = np.random.default_rng(0)
    rows = random.normal(size=(12, 5)) + 0.5
    order = np.array([2, 0, 1])
    a, b = jnp.asarray(rows[:, :3]), jnp.asarray(rows[:, 3:])
    tx = adapt(optax.sgd(1.0), granularity, state_dtype=jnp.float64)

    @jax.jit
    def run(rows):
        params = jax.tree.map(lambda r: jnp.ones_like(r[0]), rows)
        step = lambda state, g: tx.update(g, state, params)[::-1]
        return jax.lax.scan(step, tx.init(params), rows)[1]

    plain, other = run({"a": a, "b": b}), run({"a": b, "b": a[:, order]})
    np.testing.assert_allclose(other["a"], plain["b"], rtol=1e-12)
    np.testing.assert_allclose(other["b"], plain["a"][:, order], rtol=1e-12)


# JAX's transformations, wrappers, dtypes. ---------------------------------------------


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_dtypes_and_shapes_are_the_same_after_every_update(
    granularity, dtype, momentum
):
    """Else a jitted step would be compiled again."""
    tx = adapt(optax.sgd(1.0, momentum=momentum), granularity)
    params = {"w": jnp.ones((2, 3), dtype), "b": jnp.ones((), dtype)}

    def two(params, state):
        updates, after = tx.update(params, state, params)
        return updates, after, tx.update(params, after, params)[1]

    state = jax.eval_shape(tx.init, params)
    updates, after, last = jax.eval_shape(two, params, state)
    assert types(updates) == types(params)
    assert types(state) == types(after) == types(last)
    assert {x.dtype for x in jax.tree.leaves(state.inner.log2_lr)} == {
        jnp.dtype("float32")
    }


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_half_precision_params_are_measured_in_float32(granularity):
    """The squares of 300 are too large for float16."""
    tx = adapt(optax.sgd(1.0), granularity, init_log2_lr=20.0)
    w = jnp.full(4, 300.0, jnp.float16)
    updates, _ = tx.update(jnp.ones_like(w), tx.init(w), w)
    np.testing.assert_allclose(updates, -90, rtol=2e-3)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_trees_without_leaves_and_empty_leaves(granularity):
    tx = adapt(optax.sgd(1.0, momentum=0.5), granularity)
    for params in ({}, {"none": jnp.zeros((0, 2), F32), "w": jnp.ones(2, F32)}):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_tree_all_finite((updates, state))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_vmap_over_members_and_hyper_parameters(granularity):
    """A member a row, each with an η₀ and strides of its own: traced by JAX."""

    def member(start, rate, stride):
        tx = adapt(
            optax.sgd(1.0, momentum=0.5),
            granularity,
            init_log2_lr=rate,
            decrease=stride,
            first_increase=stride,
            max_relative_step=stride,
        )

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = {"w": start, "b": jnp.ones((), F32)}
        return jax.lax.scan(step, (params, tx.init(params)), length=3)[0]

    members = (
        jnp.arange(1, 7, dtype=F32).reshape(2, 3),
        jnp.asarray([-3, -8], F32),
        jnp.asarray([0.5, 1], F32),
    )
    together = jax.jit(jax.vmap(member))(*members)
    one = jax.jit(member)
    for i in range(2):
        alone = one(*(each[i] for each in members))
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        chex.assert_trees_all_close(mine, alone, rtol=1e-5)


def test_inject_hyperparams_traces_them():
    inner = optax.inject_hyperparams(
        lambda init_log2_lr, increase: dsa_optax.adapt(
            optax.sgd(1.0), "tensor", init_log2_lr=init_log2_lr, increase=increase
        )
    )
    tx, plain = inner(-5.0, 0.2), adapt(optax.sgd(1.0), "tensor", init_log2_lr=-5.0)
    w = jnp.ones(3, F32)
    updates, state = jax.jit(tx.update)(w, tx.init(w), w)
    expected, _ = plain.update(w, plain.init(w), w)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    assert dsa_optax.learning_rates(state) == 2.0**-5


COMPOSED = {
    "chain": optax.chain,
    "clip": lambda tx: optax.chain(optax.clip(100.0), tx),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": True}),
    "partition": lambda tx: optax.partition({"all": tx}, {"w": "all", "b": "all"}),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, every_k_schedule=1),
}


def descend(tx, steps=4):
    params = {"w": jnp.asarray([3.0, -1.0], F32), "b": jnp.asarray(0.5, F32)}
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.tree.map(lambda x: 2 * x, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.fixture(scope="module")
def plain():
    return adapt(optax.sgd(1.0), "tensor")


@pytest.fixture(scope="module")
def descended(as_users_run_it, plain):
    return descend(plain)[0]


@pytest.mark.usefixtures("as_users_run_it")
class TestAsUsersRunIt:
    @pytest.mark.parametrize("name", COMPOSED)
    def test_wrappers_that_change_no_gradient_change_no_step(
        self, name, plain, descended
    ):
        params, state = descend(COMPOSED[name](plain))
        chex.assert_trees_all_close(params, descended, rtol=1e-6)
        assert set(dsa_optax.learning_rates(state)) == {"w", "b"}

    def test_flatten_makes_one_tensor_of_all(self):
        flat = descend(optax.flatten(adapt(optax.sgd(1.0), "tensor", decrease=0.5)))
        assert dsa_optax.learning_rates(flat[1]).shape == ()
        chex.assert_tree_all_finite(flat)

    def test_masked_leaves_are_no_business_of_its(self):
        tx = optax.partition(
            {"own": adapt(optax.sgd(1.0), "global"), "still": optax.set_to_zero()},
            {"w": "own", "b": "still"},
        )
        params, _ = descend(tx)
        assert params["b"] == 0.5
        alone = adapt(optax.sgd(1.0), "global")
        w = jnp.asarray([3.0, -1.0], F32)
        state = alone.init(w)
        for _ in range(4):
            updates, state = alone.update(2 * w, state, w)
            w = optax.apply_updates(w, updates)
        chex.assert_trees_all_close(params["w"], w, rtol=1e-6)

    def test_lookahead_takes_it(self):
        tx = optax.lookahead(adapt(optax.sgd(1.0), "tensor"), 3, 0.5)
        params = optax.LookaheadParams.init_synced(jnp.ones(2, F32))
        state, update = tx.init(params), jax.jit(tx.update)
        for _ in range(4):
            updates, state = update(2 * params.fast, state, params)
            params = optax.apply_updates(params, updates)
        assert jnp.all(params.slow < 1)

    def test_make_train_step_donates_and_compiles_once(self):
        tx = adapt(optax.sgd(1.0, momentum=0.9), "parameter")
        params = {"w": jnp.ones(3, F32), "b": jnp.ones((), F32)}
        state = tx.init(params)
        traces = []

        def loss(p):
            traces.append(None)
            return jnp.sum(p["w"] ** 2) + p["b"] ** 2

        step = dsa_optax.make_train_step(loss, tx)
        for _ in range(3):
            given = (params, state.inner.log2_lr, state.inner.compass)
            params, state, value = step(params, state)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        assert value < 4
        assert len(traces) <= 2

    def test_a_state_that_is_saved_goes_on_as_it_would_have(self, tmp_path):
        """With a rate for every parameter, and with one for all."""
        serialization = pytest.importorskip("flax.serialization")
        from tests import test_faults as faults

        momentum = optax.sgd(1.0, momentum=0.9)
        tx = dsa_optax.blend(adapt(momentum, "parameter"), adapt(momentum, "global"))
        step = dsa_optax.make_train_step(faults.loss, tx, donate=False)
        start = faults.make_params()

        def go_on(params, state):
            for _ in range(3):
                params, state, _ = step(params, state)
            return params, state

        params, state = go_on(start, tx.init(start))
        faults.save(tmp_path / "0", params, state)
        saved = {
            "flax": serialization.from_bytes(
                tx.init(start), serialization.to_bytes(state)
            ),
            "pickle": pickle.loads(pickle.dumps(state)),
            "orbax": faults.restore(tmp_path / "0", tx, start)[1],
        }
        expected = go_on(params, state)
        for restored in saved.values():
            faults.assert_bit_for_bit(restored, state)
            faults.assert_bit_for_bit(go_on(params, restored), expected)


# Errors. ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, parameter in inspect.signature(dsa_optax.adapt).parameters.items()
        if isinstance(parameter.default, float)
    ],
)
def test_a_bad_hyper_parameter_is_named(name):
    make = functools.partial(dsa_optax.adapt, optax.sgd(1.0))
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        make(**{name: float("nan")})
    with pytest.raises(TypeError, match=f"`{name}` must be a number"):
        make(**{name: "fast"})
    with pytest.raises(TypeError, match=f"`{name}` can't be a schedule"):
        make(**{name: optax.constant_schedule(1.0)})
    with pytest.raises(ValueError, match=f"`{name}` must be one number"):
        make(**{name: jnp.ones(2)})
    if "log2" not in name:
        with pytest.raises(ValueError, match=f"`{name}` must be .*at least 0"):
            make(**{name: -1.0})


def test_other_bad_input_is_named():
    sgd = optax.sgd(1.0)
    with pytest.raises(ValueError, match="`granularity` must be one of"):
        dsa_optax.adapt(sgd, "row")
    with pytest.raises(ValueError, match=r"`init_log2_lr` .* above `max_log2_lr`"):
        dsa_optax.adapt(sgd, init_log2_lr=1.0, max_log2_lr=0.0)
    with pytest.raises(ValueError, match=r"`min_log2_lr` .* above `init_log2_lr`"):
        dsa_optax.adapt(sgd, init_log2_lr=-10.0, min_log2_lr=-9.0)
    with pytest.raises(TypeError, match="`state_dtype` must be a floating"):
        dsa_optax.adapt(sgd, state_dtype=jnp.int32)
    tx, w = adapt(sgd, "tensor"), jnp.ones(2, F32)
    with pytest.raises(TypeError, match="`params` must be real floating"):
        tx.init({"n": jnp.ones(2, jnp.int32)})
    with pytest.raises(ValueError, match="`params` are missing"):
        tx.update(w, tx.init(w))
    with pytest.raises(ValueError, match=r"`updates \(the gradient\)`"):
        tx.update(jnp.ones(3, F32), tx.init(w), w)
