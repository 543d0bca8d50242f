"""`adapt`, `blend` and `auto_dsa` can be left alone, on problems that nobody chose.

One great gradient, one bad batch, a wall, a pole, a NaN, other units: none of them
stops an optimizer for good, or leaves it worse than it began.
"""

import functools
import subprocess
import sys

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

LAWS = settings(max_examples=30, deadline=None, derandomize=True)
F32 = np.float32

FORMS = {
    "auto_dsa": dsa_optax.auto_dsa(),
    "light": dsa_optax.auto_dsa(0),
    "descent": dsa_optax.adapt(optax.sgd(1.0), "global"),
    "signs": dsa_optax.adapt(
        optax.stateless(lambda g, _: jax.tree.map(lambda x: -jnp.sign(x), g)),
        "parameter",
    ),
    "adam": dsa_optax.adapt(optax.adam(1.0)),
    "muon": dsa_optax.adapt(optax.contrib.muon(1.0)),
}
MAIN = ("auto_dsa", "light")
DESCENTS = {
    granularity: dsa_optax.adapt(optax.sgd(1.0), granularity, init_log2_lr=-10.0)
    for granularity in ("parameter", "tensor", "global")
}
MIXED = dsa_optax.adapt(optax.sgd(1.0), init_log2_lr=-4.0)
FLOORED = dsa_optax.adapt(optax.sgd(1.0), "global", init_log2_lr=-5.0, min_log2_lr=-6.0)


def trained(tx, loss, params, steps, with_value=True):
    """Params and state at the end, and the loss before every step."""
    value_and_grad = jax.value_and_grad(loss)

    def step(carry, _):
        params, state = carry
        value, grads = value_and_grad(params)
        extra = {"value": value} if with_value else {}
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), value

    start = (params, tx.init(params))
    (params, state), losses = jax.lax.scan(step, start, length=steps)
    return params, state, losses


def train(tx, loss, params, steps, with_value=True):
    """The same, compiled."""
    run = jax.jit(lambda params: trained(tx, loss, params, steps, with_value))
    return jax.tree.map(np.asarray, run(params))


@functools.cache
def moving(form):
    """A step of three parameters, compiled once for all losses."""

    @jax.jit
    def move(w, state, grads, value):
        updates, state = FORMS[form].update(grads, state, w, value=value)
        return optax.apply_updates(w, updates), state

    return move


def walk(form, loss, start, steps, with_value=True):
    """As `train`, step by step; the loss is of the params and the step's number."""
    w, value_and_grad = jnp.asarray(start, F32), jax.jit(jax.value_and_grad(loss))
    state, losses = FORMS[form].init(w), []
    for t in range(steps):
        value, grads = value_and_grad(w, t)
        w, state = moving(form)(w, state, grads, value if with_value else None)
        losses.append(value)
    return np.asarray(w), state, np.stack(losses)


def feed(tx, rows, params=None):
    """The updates and the states, given a gradient a step."""
    params = jnp.ones_like(rows[0]) if params is None else params
    state, updates, states = tx.init(params), [], []
    step = jax.jit(tx.update)  # eagerly each of its operations would be compiled
    for row in rows:
        update, state = step(row, state, params)
        params = optax.apply_updates(params, update)
        updates.append(update)
        states.append(state)
    return updates, states


def rates_of(state):
    return [np.asarray(x) for x in jax.tree.leaves(dsa_optax.learning_rates(state))]


def limits_of(state):
    """The rates; of a third part times its reach, for one of the two falls."""
    rates = rates_of(state)
    reached = getattr(state.inner, "parts", ())[2:]
    if reached:
        rates[-1] = rates[-1] * 2.0 ** np.asarray(reached[0].log2_reach)
    return rates


# The rule. ----------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["parameter", "tensor", "global"])
@pytest.mark.parametrize(
    ("second", "share"),
    [
        ([-99.0, -99.0], 1.0),  # an overshoot that the rates can mend
        ([-124.0, -124.0], 1 / 32),
        ([1001.0, 1001.0], 0.1),
        ([np.nan, 1.0], 0.1),
        ([1.0, -np.inf], 0.1),
    ],
)
def test_a_step_too_far_is_shortened_and_the_rates_fall_as_much(
    granularity, second, share
):
    rows = [jnp.asarray(row, F32) for row in ([1.0, 1.0], second, [0.5, 0.5])]
    updates, states = feed(DESCENTS[granularity], rows)
    if share == 1.0:
        assert int(states[1].backs) == 0
        return
    step = np.full(2, -(2.0**-10))
    np.testing.assert_allclose(updates[1], (share - 1) * step, rtol=1e-6)
    square = np.sum((share * step) ** 2)
    np.testing.assert_allclose(states[1].square, square, rtol=1e-6)
    eta = np.log2(rates_of(states[1])[0])
    np.testing.assert_allclose(eta, -10 + np.log2(share), rtol=1e-6)
    assert not np.any(jax.tree.leaves(states[1].inner.searching))
    assert int(states[1].backs) == 1
    # Half the slope is left at the end of the shorter step: the secant doubles it.
    assert np.all(np.log2(rates_of(states[2])[0]) > eta)
    assert np.all(updates[2] < 0)


def test_the_next_gradient_is_judged_against_the_shorter_step():
    rows = [jnp.asarray([x], F32) for x in (1.0, 2000.0, -50.0, -3100.0)]
    _, states = feed(DESCENTS["global"], rows)
    assert [int(state.backs) for state in states] == [0, 1, 1, 1]
    _, states = feed(DESCENTS["global"], [rows[0], rows[1], rows[3]])
    assert [int(state.backs) for state in states] == [0, 1, 2]


def test_the_inner_optimizer_never_sees_the_gradient_that_led_back():
    tx = dsa_optax.auto_dsa(2)
    for params in (jnp.ones(3, F32), jnp.ones((40, 40), F32)):  # BFGS and L-BFGS
        rows = [jnp.full_like(params, x) for x in (1.0, 0.7, np.nan, 0.6)]
        _, states = feed(tx, rows, params)
        seen, unseen = states[1], states[2]
        for before, after in zip(seen.inner.parts, unseen.inner.parts, strict=True):
            chex.assert_trees_all_equal(before.inner, after.inner)
            chex.assert_trees_all_equal(before.compass, after.compass)
        assert [int(state.count) for state in states] == [1, 2, 2, 3]


def test_a_blend_steps_back_as_one():
    tx = dsa_optax.blend(
        dsa_optax.adapt(optax.sgd(1.0), "global", init_log2_lr=-5.0),
        dsa_optax.adapt(optax.sgd(1.0), "tensor", init_log2_lr=-6.0),
        optax.sgd(2.0**-7),
    )
    rows = [jnp.asarray([x], F32) for x in (1.0, np.inf, 0.9)]
    updates, states = feed(tx, rows)
    step = -(2.0**-5 + 2.0**-6 + 2.0**-7)
    np.testing.assert_allclose(updates[0], step)
    np.testing.assert_allclose(updates[1], -0.9 * step, rtol=1e-6)
    eta = [float(part.log2_lr) for part in states[1].inner.parts[:2]]
    np.testing.assert_allclose(eta, np.array([-5, -6]) + np.log2(0.1), rtol=1e-6)


@pytest.mark.parametrize("moved", [0.3, 0.0, 2.5])
def test_a_step_that_is_not_what_moved_the_params_is_not_undone(moved):
    """As below `optax.lookahead` and `schedule_free`, which mix params of their own."""
    w, update = jnp.ones(3, F32), jax.jit(MIXED.update)
    state = MIXED.init(w)
    updates, state = update(w, state, w)
    _, state = update(-1e6 * w, state, w + moved * updates)
    assert int(state.backs) == 0


def test_a_floor_holds_the_rates_that_fall():
    _, states = feed(FLOORED, [jnp.asarray([x], F32) for x in (1.0, np.nan)])
    assert float(states[1].inner.log2_lr) == -6


def test_a_step_back_raises_no_rate_that_the_longest_step_holds_below_the_floor():
    _, states = feed(FLOORED, [jnp.asarray([x], F32) for x in (1e4, np.nan)])
    first, second = (float(state.inner.log2_lr) for state in states)
    assert second <= first < -15


def test_a_memory_below_two_that_step_back_is_held_by_both():
    tx = dsa_optax.blend(
        optax.chain(optax.clip(1e9), dsa_optax.auto_dsa(3, matrix_size=0)),
        optax.sgd(1e-4),
    )
    params = jnp.ones((40, 30), F32)
    rows = [jnp.full_like(params, x) for x in (1.0, 0.7, np.nan, 0.6)]
    _, states = feed(tx, rows, params)
    pairs = [int(optax.tree.get(state, "pairs")) for state in states]
    assert pairs == [0, 1, 1, 2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_leads_back_too(form, value):
    """Beyond the pole of −log(w) the gradient is finite, and points further on."""
    w, move = jnp.ones(3, F32), moving(form)
    there, state = move(w, FORMS[form].init(w), w, F32(1))
    back, state = move(there, state, there, F32(value))
    step, undone = np.subtract(there, w), np.subtract(back, there)
    np.testing.assert_allclose(undone, -0.9 * step, rtol=1e-3)
    assert int(state.backs) == 1


@pytest.mark.parametrize("form", FORMS)
def test_what_was_never_finite_stops_nothing(form):
    """One entry without a gradient, from the start on: the others go on."""

    def loss(w, _):
        return jnp.sum((w[1:] - 2) ** 2) + jnp.sqrt(jnp.minimum(w[0] - 9, 0.0))

    w, _, losses = walk(form, loss, np.ones(3), 200)
    assert np.isnan(losses[0])
    assert w[0] == 1
    np.testing.assert_allclose(w[1:], 2, atol=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_never_finite_again_does_not_stop_it(form):
    """The data is broken from now on: it steps back until nothing is left to take."""
    w, move, moved = jnp.ones(3, F32), moving(form), []
    state = FORMS[form].init(w)
    for t in range(80):
        before = np.asarray(w)
        grads = F32([np.nan, *before[1:]]) if t >= 5 else before
        w, state = move(w, state, grads, None)
        moved.append(np.asarray(w)[1] != before[1])
    assert int(state.backs) <= 8
    assert np.sum(moved[30:]) > 25
    chex.assert_tree_all_finite((w, state))


# Great gradients. ---------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_two_atoms_that_overlap_find_their_distance(form):
    """Their first gradient is 10⁷ times the greatest that they meet afterwards."""
    energy = lambda r, _: jnp.sum((1 / r) ** 12 - (1 / r) ** 6)
    r, _, _ = walk(form, energy, np.full(3, 0.3), 500)
    np.testing.assert_allclose(r, 2 ** (1 / 6), rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "with_value"), [("float64", True), ("float32", False)]
)
def test_a_valley_from_afar(dtype, with_value):
    """In float32 the slopes on its floor are rounding, and the loss refuses them."""
    loss = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    with jax.enable_x64(dtype == "float64"):
        start = jnp.asarray([-300.0, 200.0], dtype)
        _, _, losses = train(FORMS["auto_dsa"], loss, start, 1000, with_value)
    assert losses[0] > 1e11
    assert losses[-1] < 1e-8


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_that_was_weighted_heavily_for_a_while(form):
    """Nothing remembers the greatest gradient ever."""
    weight = lambda t: jnp.where(t < 100, 1e9, 1e-3)
    loss = lambda w, t: weight(t) * jnp.sum((w - jnp.where(t < 100, 2.0, 1.0)) ** 2)
    _, _, losses = walk(form, loss, [5.0, -3.0, 0.5], 500, with_value=False)
    losses = losses / weight(np.arange(500))
    assert losses[101] > 1
    assert losses[-1] < 1e-2


def test_one_outlier_in_one_batch_does_not_end_training():
    """Of mini-batches, in which one row is 10⁶ times too large."""
    tx = dsa_optax.adapt(
        optax.contrib.muon(1.0), init_log2_lr=-5.0, min_log2_lr=-12.0, decrease=0.5
    )
    random = np.random.default_rng(0)
    w = {"w": jnp.zeros((4, 2), F32), "b": jnp.zeros(2, F32)}
    truth = random.normal(size=(4, 2))
    loss = lambda p, x, y: jnp.mean((x @ p["w"] + p["b"] - y) ** 2)
    step = dsa_optax.make_train_step(loss, tx, pass_value=False)
    state, moved = tx.init(w), []
    for t in range(500):
        x = random.normal(size=(32, 4))
        y = x @ truth + 0.1 * random.normal(size=(32, 2))
        if t == 50:
            x[0] *= 1e6
        before = np.asarray(w["w"])
        w, state, value = step(w, state, jnp.asarray(x, F32), jnp.asarray(y, F32))
        moved.append(np.any(np.asarray(w["w"]) != before))
    assert np.mean(moved[51:]) > 0.9
    assert value < 0.1


@pytest.mark.parametrize("form", MAIN)
def test_in_double_precision_it_goes_on_to_its_rounding(form):
    """Whatever the dtype of the rates is."""
    with jax.enable_x64(True):
        curvatures = jnp.asarray([1.0, 30.0, 1000.0])
        loss = lambda w: jnp.sum(curvatures * (w - 1 / 3) ** 2)
        w, state, losses = train(FORMS[form], loss, jnp.ones(3), 2000)
    assert w.dtype == jnp.float64
    assert {rate.dtype for rate in rates_of(state)} == {np.dtype(F32)}
    assert losses.min() < 1e-28


# Walls, and units. --------------------------------------------------------------------

TIMES = jnp.linspace(0, 400, 60, dtype=jnp.float32)
TRUTH = np.array([1.0, 0.01, 0.1])


def decay_loss(params, units):
    """The fit of p₀ exp(−p₁ t) + p₂: above a p₁ of −0.2 lies a wall of 10³⁵."""
    p = params / units
    model = lambda p: p[0] * jnp.exp(-p[1] * TIMES) + p[2]
    return jnp.mean((model(p) - model(jnp.asarray(TRUTH, F32))) ** 2)


@functools.cache
def fits(form):
    """The losses from many starts, in units that are traced by JAX."""

    def run(start, units, weight):
        loss = lambda p: weight * decay_loss(p, units)
        return trained(FORMS[form], loss, start, 800)[2]

    return jax.jit(jax.vmap(run, in_axes=(0, None, None)))


@pytest.mark.parametrize("form", MAIN)
@pytest.mark.parametrize(
    ("units", "weight"), [(1.0, 1.0), (1e-6, 1.0), (1e6, 1.0), (1.0, 1e-6), (1.0, 1e6)]
)
def test_a_fit_from_24_starts_in_any_units(form, units, weight):
    """Its parameters differ a hundredfold, and lie in one vector."""
    random = np.random.default_rng(0)
    starts = TRUTH * 2 ** random.uniform(-1, 1, (24, 3)) * units
    losses = np.asarray(fits(form)(jnp.asarray(starts, F32), F32(units), F32(weight)))
    assert np.all(losses[:, -1] <= losses[:, 0])
    assert np.sum(losses[:, -1] < 1e-6 * weight) >= 23


@pytest.mark.parametrize("form", FORMS)
def test_no_pole_is_crossed(form):
    """w − log w: infinite at 0, and no number beyond, where its gradient is finite."""
    loss = lambda w, _: jnp.sum(w - jnp.log(w))
    w, state, losses = walk(form, loss, [100.0, 0.1, 1e-3], 600)
    assert np.isfinite(losses[-1])
    assert losses[-1] < losses[0]
    assert np.all(w > 0)
    chex.assert_tree_all_finite((w, state))


@LAWS
@given(
    st.sampled_from(sorted(FORMS)),
    st.floats(-3, 3),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]),
    st.sampled_from([np.nan, np.inf, 1e30, 0.0]),
    st.integers(0, 99),
)
def test_whatever_lies_beyond_a_wall_all_stays_finite(
    form, place, beyond, value_beyond, seed
):
    """A plane cuts a bowl off; beyond it value and gradient are what they are."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=3)
    start = random.normal(size=3)
    offset = normal @ start + 10.0**place * np.linalg.norm(normal)
    w, backs = jnp.asarray(start, F32), 0
    state = FORMS[form].init(w)
    for _ in range(25):
        value, grads = before_a_wall(w, normal, offset, beyond, value_beyond)
        rates = limits_of(state)
        w, state = moving(form)(w, state, grads, value)
        if int(state.backs) > backs:
            now = limits_of(state)
            assert all(
                np.all((b < a) | (a <= 2.0**-126))
                for a, b in zip(rates, now, strict=True)
            )
        backs = int(state.backs)
        chex.assert_tree_all_finite((w, state))


@jax.jit
def before_a_wall(w, normal, offset, beyond, value_beyond):
    inside = jnp.dot(normal, w) < offset
    value = jnp.sum((w - 3 * normal) ** 2)
    return (
        jnp.where(inside, value, value_beyond).astype(F32),
        jnp.where(inside, 2 * (w - 3 * normal), beyond).astype(F32),
    )


# Momentum. ----------------------------------------------------------------------------


def test_momentum_is_no_poorer_than_plain_adam():
    """Past the minimum it points uphill, and says nothing about its rate."""
    loss = lambda w, _=0: 0.5 * (w[0] ** 2 + 3 * w[1] ** 2 + 10 * w[2] ** 2)
    start = jnp.ones(3, F32)
    plain = train(optax.adam(0.1), loss, start, 80, with_value=False)[2][-1]
    for form in ("adam", "muon"):
        assert walk(form, loss, start, 80)[2][-1] < plain


@pytest.mark.parametrize(
    "inner", [optax.scale_by_adam(), optax.identity(), optax.sgd(-1.0)]
)
def test_an_optimizer_that_points_uphill_is_refused_at_once(inner):
    w = jnp.ones(2)
    with pytest.raises(ValueError, match=r"`inner` points uphill.*scale\(-1.0\)"):
        dsa_optax.adapt(inner).init(w)
    with pytest.raises(ValueError, match=r"`inner` points uphill"):
        jax.jit(dsa_optax.blend(dsa_optax.adapt(inner)).init)(w)
    dsa_optax.adapt(optax.chain(inner, optax.scale(-1.0))).init(w)


def test_updates_outside_jit_are_compiled_once():
    traces = []

    def direction(updates, _):
        traces.append(None)
        return jax.tree.map(jnp.negative, updates)

    tx, w = dsa_optax.adapt(optax.stateless(direction)), jnp.ones(3)
    state = tx.init(w)
    traces.clear()
    for value in (3.0, 2.0, 1.0):
        updates, state = tx.update(w, state, w, value=value)
        w = optax.apply_updates(w, updates)
    assert len(traces) == 1
    # Which is nothing that could be traced. Eagerly every operation would be compiled.
    jax.eval_shape(lambda: tx.update(w, state, w, value_fn=jnp.sum))
    assert len(traces) == 2


def test_an_optimizer_is_made_without_a_device():
    """`jax.distributed.initialize` must come before the first computation."""
    script = (
        "import optax, dsa_optax; dsa_optax.adapt(optax.adam(1.0)); "
        "dsa_optax.auto_dsa(); from jax._src import xla_bridge; "
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
